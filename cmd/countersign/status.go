package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/admin"
)

func statusCommand() *command {
	return &command{
		name:     "status",
		summary:  "Show what runs here, how long certificates live, and what lags.",
		examples: []string{"countersign status", "countersign status --json"},
		usage:    "[flags]",
		about: `Workloads are every program that has, or had, an identity; INSTANCES are those
that run now. Exit 0 if something runs here, 1 if nothing does.`,
		flags: func(f *flags) {
			f.doc("n,namespace", "NS", "only workloads of this namespace")
			f.doc("json", "", "data for programs")
		},
		see: "countersign why, countersign ca status, countersign tap",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.status(ctx)
		},
	}
}

func (e *env) status(ctx context.Context) error {
	s, local, err := e.gather(ctx)
	if err != nil {
		return err
	}
	if s.Version != version {
		e.say("warning: this countersign is %s, the server is %s", version, s.Version)
	}
	if e.json {
		return e.printJSON(s)
	}
	var b strings.Builder
	enforced := 0
	for _, n := range s.Nodes {
		if n.InTouch && n.EnforcedRevision >= s.Revision {
			enforced++
		}
	}
	fmt.Fprintf(&b, "%s   up %s, revision %d enforced on %d of %d nodes\n", s.TrustDomain, ago(s.Started), s.Revision, enforced, len(s.Nodes))
	fmt.Fprintf(&b, "  authority  %s\n", authorityLine(s.Authorities))
	backup := s.Store.LastBackup
	if backup == "" {
		backup = "-"
	}
	fmt.Fprintf(&b, "  store      %s, %s, %s, last backup %s\n", s.Store.Kind, counted(s.Store.Members, "member"), size(s.Store.SizeBytes), backup)
	for _, n := range s.Nodes {
		state := ""
		switch {
		case n.Refused != "":
			state = fmt.Sprintf(", refused revision %d: %s", s.Revision, escape(n.Refused))
		case !n.InTouch && n.LastSeen.IsZero():
			state = ", never in touch"
		case !n.InTouch:
			state = ", away since " + ago(n.LastSeen)
		case n.EnforcedRevision < s.Revision:
			state = fmt.Sprintf(", at revision %d", n.EnforcedRevision)
		}
		fmt.Fprintf(&b, "  node       %s, inbound %s, engine %s%s\n", n.Name, n.Inbound, n.Engine, state)
	}
	b.WriteString(watchLines(s.Watch))
	b.WriteString(e.plaintextLine(s.Plaintext))
	if _, err := fmt.Fprint(e.out, b.String()); err != nil {
		return err
	}
	if err := e.printWorkloads(s.Workloads); err != nil {
		return err
	}
	if err := e.printGateways(s.Gateways); err != nil {
		return err
	}
	return e.printLastMinute(local.LastMinute)
}

// gather asks server and node, and puts what only the node knows into the server's answer:
// when SVIDs end, and the calls of the last minute.
func (e *env) gather(ctx context.Context) (admin.ServerStatus, admin.LocalStatus, error) {
	s, err := askServer[admin.ServerStatus](ctx, e, "/v1/status", nil)
	if err != nil {
		return s, admin.LocalStatus{}, err
	}
	local, err := askNode[admin.LocalStatus](ctx, e, "/v1/status", nil)
	if err != nil {
		return s, local, err
	}
	ends := map[string]time.Time{}
	for _, w := range local.Workloads {
		ends[w.Namespace+"/"+w.Name] = w.SVIDNotAfter
	}
	workloads := []admin.Workload{}
	for _, w := range s.Workloads {
		if e.named && w.Namespace != e.namespace {
			continue
		}
		w.SVIDNotAfter = ends[w.Namespace+"/"+w.Name]
		workloads = append(workloads, w)
	}
	slices.SortFunc(workloads, func(a, b admin.Workload) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	s.Gateways = e.joinCertificates(s.Gateways, local.Certificates)
	s.Workloads, s.LastMinute = workloads, &local.LastMinute
	return s, local, nil
}

// faultsShown are those of a watched directory that status tells; --json and the log have all.
const faultsShown = 5

// watchLines say how a watched directory fares.
func watchLines(w *admin.WatchStatus) string {
	if w == nil {
		return ""
	}
	line := fmt.Sprintf("  directory  %s, ", escape(tilde(w.Directory)))
	if w.Error == "" {
		return line + fmt.Sprintf("%s, applied at revision %d\n", counted(w.Objects, "object"), w.Revision)
	}
	line += "not applied: " + escape(w.Error)
	if w.Revision > 0 {
		line += fmt.Sprintf("; in force is what it held at revision %d", w.Revision)
	}
	for i, f := range w.Faults {
		if i == faultsShown {
			line += fmt.Sprintf("\n    and %d more", len(w.Faults)-i)
			break
		}
		first, _, _ := strings.Cut(f.String(), "\n")
		line += "\n    " + escape(first)
	}
	return line + "\n"
}

// authorityLine is "root 3f9a12c4 ends in 364d, issuing 8b07d1e2 in 6d".
func authorityLine(list []admin.Authority) string {
	var parts []string
	for i, a := range list {
		verb := " in "
		if i == 0 {
			verb = " ends in "
		}
		parts = append(parts, a.Kind+" "+a.KeyID+verb+age(time.Until(a.NotAfter)))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

func (e *env) printWorkloads(list []admin.Workload) error {
	if len(list) == 0 {
		return nil
	}
	t := newTable("WORKLOAD", "STATE", ">INSTANCES", ">SVID ENDS", "IDENTITY")
	for _, w := range list {
		ends := "-"
		if !w.SVIDNotAfter.IsZero() {
			ends = age(time.Until(w.SVIDNotAfter))
		}
		t.add(admin.Bare(w.Namespace, w.Name, e.inForce()), w.State, fmt.Sprint(w.Instances), ends, w.SPIFFEID)
	}
	if _, err := fmt.Fprintln(e.out); err != nil {
		return err
	}
	return e.printTable(t)
}

func (e *env) printLastMinute(m admin.LastMinute) error {
	line := fmt.Sprintf("last minute: %s allowed, %s refused", counted(m.Allowed, "call"), thousands(m.Refused))
	if m.Limited > 0 {
		line += fmt.Sprintf(", %s limited", thousands(m.Limited))
	}
	if m.Refused > 0 {
		line += "   countersign why"
	}
	_, err := fmt.Fprintf(e.out, "\n%s\n", line)
	return err
}
