package node

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/attest"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/workloadapi"
)

var _ workloadapi.Source = (*Node)(nil)

// maxIdentities bounds what one process is granted (identity.md 12.4).
const maxIdentities = 64

// State is what the Workload API tells a process: every identity that its facts earn now.
func (n *Node) State(ctx context.Context, f attest.Facts, p *attest.Process) (workloadapi.State, error) {
	s := n.snap.Load()
	if s.Revision == 0 {
		return workloadapi.State{Starting: true}, nil
	}
	found := append(n.runSelectors(f.PID), f.Selectors...)
	found = append(found, hashSelector(s.Entries, found, p)...)
	grants := s.index.Match(found, s.Selectors, time.Now())
	out := workloadapi.State{TrustDomain: n.td.Name(), Bundle: derOf(s.roots(n))}
	if len(grants) == 0 {
		out.Refusal = n.refusalOf(found, s)
		return out, nil
	}
	if len(grants) > maxIdentities {
		n.o.Log.Warn("a process earns too many identities; the first are granted", "pid", f.PID, "earned", len(grants), "granted", maxIdentities)
		grants = grants[:maxIdentities]
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	hints := map[string]bool{}
	ids := map[string]bool{}
	for _, g := range grants {
		v, err := n.svids.demand(ctx, *g.Entry)
		if err != nil {
			return out, fmt.Errorf("making the SVID of %s/%s: %w", g.Entry.Namespace, g.Entry.Name, err)
		}
		if ids[v.ID] {
			continue
		}
		ids[v.ID] = true
		hint := g.Entry.Hint
		if hints[hint] {
			hint = "" // of two with one hint the later loses it
		}
		hints[hint] = hint != ""
		out.SVIDs = append(out.SVIDs, workloadapi.SVID{ID: v.ID, Chain: v.Chain, Key: v.PKCS8, Hint: hint})
	}
	return out, nil
}

// hashSelector is the hash of a process's executable, which is computed only where an entry
// asks for it and every other selector of that set was found (identity.md 11.2).
func hashSelector(entries []entry.Entry, found []string, p *attest.Process) []string {
	isHash := func(sel string) bool { return strings.HasPrefix(sel, "unix:sha256:") }
	for _, e := range entries {
		for _, set := range e.Sets {
			asked := slices.ContainsFunc(set, isHash)
			if !asked || slices.ContainsFunc(set, func(sel string) bool { return !isHash(sel) && !slices.Contains(found, sel) }) {
				continue
			}
			if hash, err := p.SHA256(); err == nil {
				return []string{"unix:sha256:" + hash}
			}
			return nil
		}
	}
	return nil
}

// runSelectors are the run: facts of a process: the runs it descends from.
func (n *Node) runSelectors(pid int) []string {
	var out []string
	for _, x := range n.allRuns() {
		if pid == x.proc.PID() {
			continue // run itself is not of its run
		}
		if ok, err := attest.Below(pid, x.proc.PID()); err == nil && ok && x.proc.Alive() {
			out = append(out, "run:"+x.name())
		}
	}
	return out
}

// refusalOf says why a process has no identity (identity.md 13). The names of others are told
// only where nothing is missing but their time or their node.
func (n *Node) refusalOf(found []string, s *held) *workloadapi.Refusal {
	r := &workloadapi.Refusal{Reason: entry.NoEntry, Text: "no Workload matches this process", Selectors: found}
	near := entry.Explain(s.Entries, found, s.Selectors, time.Now())
	if len(near) > 0 && near[0].Reason != entry.NoEntry {
		r.Reason, r.Text = near[0].Reason, whyNot(*near[0].Entry, found, s.Selectors, n.o.Name)
	}
	return r
}

func (h *held) roots(n *Node) []*x509.Certificate {
	b, _ := h.trust.Bundle(n.td)
	return b.Roots
}

func derOf(roots []*x509.Certificate) [][]byte {
	var out [][]byte
	for _, r := range roots {
		out = append(out, r.Raw)
	}
	return out
}
