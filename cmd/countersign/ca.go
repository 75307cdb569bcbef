package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/control"
)

func caStatusCommand() *command {
	return &command{
		name:     "ca status",
		summary:  "Show the authorities, when they end and what comes next.",
		examples: []string{"countersign ca status", "countersign ca status --json"},
		usage:    "[flags]",
		about: `The root signs issuing authorities, which sign the certificates of workloads and
nodes. An issuing authority is renewed by itself, long before it ends.`,
		see: "countersign ca root, countersign status",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.caStatus(ctx)
		},
	}
}

// authorities answers POST /v1/ca.
type authorities struct {
	Authorities []admin.Authority `json:"authorities"`
}

func (e *env) caStatus(ctx context.Context) error {
	list, err := askServer[authorities](ctx, e, "/v1/ca", nil)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(list)
	}
	t := newTable("AUTHORITY", "KEY", "STATE", "ENDS", "NEXT")
	for _, a := range list.Authorities {
		t.add(a.Kind, a.KeyID, a.State, a.NotAfter.UTC().Format(time.DateOnly), nextOf(a))
	}
	return e.printTable(t)
}

// nextOf is what comes next for an authority: "renewed in 3d (this server)".
func nextOf(a admin.Authority) string {
	switch {
	case a.Next != nil:
		next := a.Next.State + " in " + age(time.Until(a.Next.At))
		if a.Server != "" {
			next += " (this server)"
		}
		return next
	case a.State == "publish":
		return fmt.Sprintf("seen by %d of %d nodes", a.Acknowledged, a.Of)
	}
	return ""
}

type caRootOptions struct {
	format string
	pin    bool
}

func caRootCommand() *command {
	var o caRootOptions
	return &command{
		name:    "ca root",
		summary: "Print the roots that others need to believe our certificates.",
		examples: []string{
			"countersign ca root > ca.pem",
			"countersign ca root --format spiffe > bundle.json",
			"countersign ca root --pin",
		},
		usage: "[flags]",
		about: `They hold no secret. The pin is the SHA-256 of the root's public key: it names
the mesh to a machine that has nothing of it yet.`,
		flags: func(f *flags) {
			f.text(&o.format, "format", "F", "pem, or spiffe: the trust bundle of the SPIFFE standards  [pem]")
			f.yes(&o.pin, "pin", "print the pin alone")
		},
		see: "countersign ca status",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.caRoot(ctx, o)
		},
	}
}

// root is one root of ca root --json.
type root struct {
	Pin      string    `json:"pin"`
	NotAfter time.Time `json:"not_after"`
	PEM      string    `json:"pem"`
}

func (e *env) caRoot(ctx context.Context, o caRootOptions) error {
	switch {
	case o.format != "" && o.format != "pem" && o.format != "spiffe":
		return usage(fmt.Sprintf("--format %q is not pem or spiffe", o.format), "countersign ca root --format spiffe")
	case o.pin && o.format == "spiffe":
		return usage("--pin and --format exclude each other", "countersign ca root --pin")
	case e.json && o.format == "pem":
		return usage("--json and --format pem exclude each other", "countersign ca root --json")
	}
	reply, err := askServer[struct {
		Text string `json:"text"`
	}](ctx, e, "/v1/roots", map[string]string{"format": o.format})
	if err != nil {
		return err
	}
	if o.format == "spiffe" || !o.pin && !e.json {
		_, err := fmt.Fprint(e.out, reply.Text)
		return err
	}
	roots, err := parseRoots(reply.Text)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(map[string]any{"roots": roots})
	}
	for _, r := range roots {
		if _, err := fmt.Fprintln(e.out, r.Pin); err != nil {
			return err
		}
	}
	return nil
}

func parseRoots(text string) ([]root, error) {
	roots := []root{}
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading a root: %w", err)
		}
		roots = append(roots, root{Pin: control.Pin(cert), NotAfter: cert.NotAfter.UTC(), PEM: string(pem.EncodeToMemory(block))})
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("no root in the answer %q", strings.TrimSpace(text))
	}
	return roots, nil
}
