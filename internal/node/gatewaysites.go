package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"countersign.dev/internal/route"
)

// drainFor is how long what is under way at a port that closes may take (gateway.md 22).
const drainFor = 30 * time.Second

// sites gives every Gateway its addresses, and keeps who has which of the pool.
func (g *gateways) sites(h *held, wanted map[doorKey]bool) map[route.Name]*site {
	ports := map[route.Name][]uint16{}
	for _, key := range slices.SortedFunc(maps.Keys(wanted), olderFirst(h.Edge.Ours())) {
		ports[key.gateway] = append(ports[key.gateway], key.port)
	}
	ours := h.Edge.Ours()
	slices.SortFunc(ours, func(a, b *route.Gateway) int {
		if a.Older(b.Meta) {
			return -1
		}
		return 1
	})
	ours = slices.DeleteFunc(ours, func(gw *route.Gateway) bool { return len(ports[gw.Name]) == 0 })
	before := maps.Clone(g.kept)
	sites := g.n.o.Addresses.addresses(ours, ports, g.kept, onHost())
	if !maps.Equal(before, g.kept) {
		if err := saveKept(g.n.o.Dir, g.kept); err != nil {
			g.n.o.Log.Warn("which addresses Gateways have will be forgotten at the next start", "error", err)
		}
	}
	return sites
}

// shut is why a port is not to be opened whatever the system says.
func (g *gateways) shut(key doorKey) error {
	s := g.here[key.gateway]
	if s.refusal != (route.Refusal{}) {
		return fmt.Errorf("%s: %s", s.refusal.Reason, s.refusal.Text)
	}
	if other, taken := s.taken[key.port]; taken {
		return &unbound{key.port, fmt.Sprintf("is that of Gateway %s; write another port", other), nil}
	}
	return nil
}

// retire closes a port, and lets what is under way there end with the identity that it began with.
func (g *gateways) retire(ctx context.Context, name route.Name, at served) {
	wait := g.n.proxy.Retire(at.instance)
	g.mu.Lock()
	g.leaving[name]++
	g.mu.Unlock()
	g.draining.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, drainFor)
		defer cancel()
		wait(ctx)
		at.stop()
		g.mu.Lock()
		g.leaving[name]--
		g.mu.Unlock()
		g.changed()
	})
}

// leaves reports whether something of a Gateway is still under way at a port that was closed.
func (g *gateways) leaves(name route.Name) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.leaving[name] > 0
}
