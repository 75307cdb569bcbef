package server

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/control"
)

const (
	grace      = 30 * time.Second // how long the instances of a node out of touch stay registered (registry.md 11.2)
	graceCheck = time.Second      // how often that is looked at
)

// nodes is what the server knows of the streams: it lives in memory, as they do.
type nodes struct {
	edge edgeMemory // what follows for the Gateways

	mu    sync.Mutex // guards the rest; held for a map look-up
	by    map[string]*attached
	moved chan struct{} // closed and replaced at each change
}

type attached struct {
	streams  int
	enforced int64
	refused  string
	revoked  int64 // revision up to which it enforces the log of revoked tokens
	seen     time.Time
	gateways *control.GatewayState // nil: it did not say since it attached; replaced, never changed
}

// watch takes one event of a stream.
func (n *nodes) watch(node string, e control.Event, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.by == nil {
		n.by = map[string]*attached{}
	}
	a := n.by[node]
	if a == nil {
		a = &attached{}
		n.by[node] = a
	}
	a.seen = now
	switch {
	case !e.Attached:
		a.streams--
	case e.Enforced == 0 && e.Refused == "":
		a.streams++
		a.enforced, a.refused, a.gateways = 0, "", nil
	default:
		a.enforced, a.refused = max(a.enforced, e.Enforced), e.Refused
	}
	n.moveLocked()
}

// heard notes up to where a node enforces the log of revoked tokens.
func (n *nodes) heard(node string, epoch int64, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.by[node]
	if a == nil {
		return
	}
	a.seen = now
	if epoch == a.revoked {
		return
	}
	a.revoked = epoch
	n.moveLocked()
}

// said keeps what an attached node says of the ports of Gateways.
func (n *nodes) said(node string, g *control.GatewayState, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.by[node]
	if a == nil || a.streams <= 0 {
		return false
	}
	a.seen, a.gateways = now, g
	n.moveLocked()
	return true
}

func (n *nodes) moveLocked() {
	if n.moved != nil {
		close(n.moved)
		n.moved = nil
	}
}

func (n *nodes) changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.moved == nil {
		n.moved = make(chan struct{})
	}
	return n.moved
}

func (n *nodes) state(node string) attached {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a := n.by[node]; a != nil {
		return *a
	}
	return attached{}
}

// laggards lists the nodes known that do not enforce rev.
func (s *Server) laggards(rev int64) (late []admin.Laggard, of int) {
	return s.behind(func(a attached) bool { return a.enforced >= rev })
}

// behind lists the nodes known that are not in touch, or not as far as there says.
func (s *Server) behind(there func(attached) bool) (late []admin.Laggard, of int) {
	late = []admin.Laggard{}
	v := s.world.load()
	for _, name := range slices.Sorted(maps.Keys(v.nodes)) {
		a := s.nodes.state(name)
		if a.streams > 0 && there(a) {
			continue
		}
		late = append(late, admin.Laggard{Node: name, Revision: a.enforced, LastSeen: a.seen, Refused: a.refused})
	}
	return late, len(v.nodes)
}

// expire takes out the instances of nodes that stay away for the grace period, until ctx ends.
// A server that starts counts afresh for every node (registry.md 11.2).
func (s *Server) expire(ctx context.Context) error {
	began := time.Now()
	tick := time.NewTicker(graceCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, node := range s.lost(began, time.Now()) {
			s.o.Log.Warn("a node is out of touch: its instances are taken out", "node", node, "after", grace)
			if _, err := s.registry.Gone(ctx, node, ""); err != nil && ctx.Err() == nil {
				s.o.Log.Warn("instances of a node out of touch were not taken out", "node", node, "error", err)
			}
		}
	}
}

// lost lists the nodes with instances that were out of touch for the grace period.
func (s *Server) lost(began, now time.Time) []string {
	var out []string
	for _, i := range s.world.load().Instances {
		if slices.Contains(out, i.Node) || strings.HasPrefix(i.ID, tokensInstance) { // that one is a server's
			continue
		}
		a := s.nodes.state(i.Node)
		seen := a.seen
		if seen.Before(began) {
			seen = began
		}
		if a.streams == 0 && now.Sub(seen) >= grace {
			out = append(out, i.Node)
		}
	}
	return out
}

// wait returns when every node enforces rev, or after d with those that do not.
func (s *Server) wait(ctx context.Context, rev int64, d time.Duration) admin.Enforcement {
	return s.waitUntil(ctx, d, func(a attached) bool { return a.enforced >= rev })
}

func (s *Server) waitUntil(ctx context.Context, d time.Duration, there func(attached) bool) admin.Enforcement {
	began := time.Now()
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	for {
		moved := s.nodes.changed()
		late, of := s.behind(there)
		e := admin.Enforcement{Nodes: of - len(late), Of: of, MS: time.Since(began).Milliseconds(), Laggards: late}
		if len(late) == 0 {
			return e
		}
		select {
		case <-ctx.Done():
			return e
		case <-timeout.C:
			return e
		case <-moved:
		}
	}
}
