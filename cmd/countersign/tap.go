package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const headEvery = 40 // lines, on a terminal

// tapRequest is POST /v1/tap.
type tapRequest struct {
	From      string `json:"from,omitempty"`
	To        string `json:"to,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Refused   bool   `json:"refused,omitempty"`
	Method    string `json:"method,omitempty"`
	Path      string `json:"path,omitempty"`
	Layer     string `json:"layer,omitempty"`
}

func tapCommand() *command {
	var req tapRequest
	var lasts time.Duration
	return &command{
		name: "tap", view: true,
		summary:  "Show decisions as they are made.",
		examples: []string{"countersign tap", "countersign tap --refused", "countersign tap --from web --to api --for 10s --json"},
		usage:    "[flags]",
		about: `One line a call: who called whom for what, the answer, and the rule that allowed
it or the reason and the decision. Ends with Ctrl-C. Lines that a slow reader
missed are counted.`,
		flags: func(f *flags) {
			f.text(&req.From, "from", "NAME", "only calls of this workload")
			f.text(&req.To, "to", "NAME", "only calls to this workload")
			f.yes(&req.Refused, "refused", "only what was refused")
			f.text(&req.Method, "method", "M", "only this method")
			f.text(&req.Path, "path", "PATH", "only paths that begin so")
			f.text(&req.Layer, "layer", "LAYER", "only decisions of tls, http, token, authz, route")
			f.duration(&lasts, "for", "D", "end after D")
			f.doc("n,namespace", "NS", "of bare names  [default]")
		},
		see: "countersign why, countersign status",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			req.Namespace = e.namespace
			if e.set["for"] && lasts == 0 {
				return usage("--for 0s: it would end before it began", "countersign tap --for 10s")
			}
			return e.tap(ctx, req, lasts)
		},
	}
}

func (e *env) tap(ctx context.Context, req tapRequest, lasts time.Duration) error {
	switch req.Layer {
	case "", audit.LayerTLS, audit.LayerHTTP, audit.LayerToken, audit.LayerAuthz, audit.LayerRoute:
	default:
		return usage(fmt.Sprintf("--layer %q is not tls, http, token, authz or route", req.Layer), "countersign tap --layer authz")
	}
	client, err := e.ask(ctx, "node.sock")
	if err != nil {
		return err
	}
	if lasts > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, lasts)
		defer cancel()
	}
	body, err := client.Open(ctx, "POST /v1/tap", req)
	if err == nil {
		defer body.Close()
		err = e.watch(body)
	}
	if ctx.Err() != nil {
		return nil // a view ends well
	}
	return err
}

// watch prints the stream until it ends.
func (e *env) watch(body io.Reader) error {
	in := bufio.NewReaderSize(body, 64<<10)
	out := bufio.NewWriterSize(e.out, 64<<10)
	v := &tapView{e: e, out: out, width: columns(e.out)}
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			out.Flush()
			return &admin.Problem{Code: "not_running", Message: "countersign ended here", Hints: []string{"countersign up"}}
		}
		if err != nil {
			out.Flush()
			return err
		}
		if e.json {
			out.Write(line)
		} else if err := v.show(line); err != nil {
			return err
		}
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}

// tapView prints records as lines whose columns grow with what came and never shrink.
type tapView struct {
	e     *env
	out   *bufio.Writer
	width int // of the terminal
	call  int // width of the column CALL
	req   int // of REQUEST
	lines int
}

func (v *tapView) show(line []byte) error {
	var lost struct {
		Dropped uint64 `json:"dropped"`
	}
	if bytes.HasPrefix(line, []byte(`{"dropped"`)) && json.Unmarshal(line, &lost) == nil {
		fmt.Fprintf(v.out, "%s %s more\n", mark("…"), thousands(lost.Dropped))
		return nil
	}
	var rec audit.Record
	if err := json.Unmarshal(line, &rec); err != nil {
		return fmt.Errorf("reading the stream of decisions: %w", err)
	}
	from, to := parties(&rec, v.e.inForce())
	call := from + " " + mark("→") + " " + to
	request := requested(&rec)
	v.grow(call, request)
	if v.lines == 0 || v.lines%headEvery == 0 && isTerminal(v.e.out) {
		v.row("TIME", "CALL", "REQUEST", "ANSWER", "TOOK", "BY", "")
	}
	v.lines++
	answer, colour := "-", ""
	if rec.Status != 0 {
		answer = fmt.Sprint(rec.Status)
	}
	if rec.Refused() {
		colour = red
	}
	v.row(rec.Time.UTC().Format("15:04:05.000Z"), call, request, answer, latency(rec.Dur), by(&rec, v.e.inForce()), colour)
	return nil
}

// grow widens the columns for a line; on a terminal they leave room for the rest of it.
func (v *tapView) grow(call, request string) {
	const rest = 13 + 6 + 6 + 5*2 + 17 // TIME, ANSWER, TOOK, the gaps, BY
	mostCall, mostReq := 60, 40
	if v.width > 0 {
		mostReq = max(12, v.width-rest-max(9, v.call))
		mostCall = max(9, v.width-rest-12)
	}
	v.call = max(v.call, min(utf8.RuneCountInString(call), mostCall))
	v.req = max(v.req, min(utf8.RuneCountInString(request), mostReq), 12)
}

func (v *tapView) row(when, call, request, answer, took, by, colour string) {
	if v.width > 0 && utf8.RuneCountInString(call) > v.call {
		call = cutAt(call, v.call)
	}
	if v.width > 0 && utf8.RuneCountInString(request) > v.req {
		request = cutAt(request, v.req)
	}
	line := fmt.Sprintf("%-13s  %-*s  %-*s  %6s  %6s  ", when, v.call, call, v.req, request, answer, took)
	if left := v.width - utf8.RuneCountInString(line); v.width > 0 && utf8.RuneCountInString(by) > left {
		by = cutAt(by, max(left, 1))
	}
	if colour != "" {
		by = v.e.tint(v.e.out, colour, by)
	}
	fmt.Fprintln(v.out, line+by)
}

// parties are caller and callee as people know them; a caller that proved nothing is "?".
func parties(rec *audit.Record, inForce string) (from, to string) {
	from, to = short(rec.PeerID, rec.Node, inForce), short(rec.DstID, rec.Node, inForce)
	if from == "" && rec.Subject != nil && strings.HasPrefix(rec.Sub, "key:") {
		from = stranger(rec.Sub)
	}
	if from == "" {
		from = "?"
	}
	for _, s := range []string{strings.TrimPrefix(rec.Service, inForce+"/"), rec.Host, "?"} {
		if to == "" {
			to = stranger(s)
		}
	}
	if rec.Plaintext() { // no second hop tells of it
		to += " " + mark("→") + " " + stranger(strings.TrimPrefix(rec.Service, inForce+"/")) + " (plaintext)"
	}
	return from, to
}

// short is NAME, or NS/NAME out of the namespace in force, of an identity of the mesh of node;
// any other identity is whole.
func short(id, node, inForce string) string {
	p, err := spiffeid.FromString(id)
	if err != nil {
		return stranger(id)
	}
	ns, name, ok := identity.Split(p)
	if own, err := spiffeid.FromString(node); !ok || err == nil && own.TrustDomain() != p.TrustDomain() {
		return id
	}
	return admin.Bare(ns, name, inForce)
}

// requested is METHOD PATH, or what there was instead of a request.
func requested(rec *audit.Record) string {
	path := rec.Path
	if path == "" {
		path = rec.Route
	}
	if s := strings.TrimSpace(rec.Method + " " + path); s != "" {
		return stranger(s)
	}
	if rec.Reason == "plaintext" {
		return "(plaintext)"
	}
	return "(connection)"
}

// by is the rule that allowed, or the reason and the id of a refusal.
func by(rec *audit.Record, inForce string) string {
	rule := ""
	if rec.Policy != "" {
		rule = strings.TrimPrefix(rec.Policy, inForce+"/")
		if rec.Rule > 0 {
			rule += fmt.Sprintf("#%d", rec.Rule-1)
		}
	}
	if !rec.Refused() {
		switch {
		case rule != "":
			return rule
		case rec.Reason == policy.ReasonNoPolicy:
			return "no policy"
		}
		return strings.ReplaceAll(rec.Reason, "_", " ")
	}
	word := strings.ReplaceAll(rec.Reason, "_", " ")
	if rec.Layer == audit.LayerLimit {
		word += " of " + rule
	}
	switch rec.Reason {
	case policy.ReasonNoRule:
		word = "no rule"
	case policy.ReasonDenyRule:
		word = "DENY " + rule
	case "plaintext":
		word = "mTLS only"
	}
	return strings.TrimSpace(word + "  " + rec.ID[:min(8, len(rec.ID))])
}
