package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"countersign.dev/internal/control"
	"countersign.dev/internal/route"
)

// doorReport is what the server hears of the ports, and of which Gateways they are.
type doorReport struct {
	newest int64
	doors  []doorState
}

type doorState struct {
	doorKey
	bound bool
	text  string // why it cannot be bound, going on from "port 80"
}

func (r doorReport) equal(o doorReport) bool {
	return r.newest == o.newest && slices.Equal(r.doors, o.doors)
}

// reached has a server that was newly reached hear all of it.
func (g *gateways) reached() {
	g.unsaid.Store(true)
	g.changed()
}

// report tells the server what became of the ports wanted, if that is news. What it does not hear now it hears at
// the next round.
func (g *gateways) report(ctx context.Context, h *held, wanted map[doorKey]bool) {
	now := doorReport{newest: newest(h.Edge)}
	state := &control.GatewayState{Revision: h.Revision}
	for _, key := range slices.SortedFunc(maps.Keys(wanted), olderFirst(h.Edge.Ours())) {
		_, open := g.open[key]
		d := doorState{doorKey: key, bound: open}
		if cause, ok := errors.AsType[*unbound](g.away[key]); ok && !open {
			d.text = cause.text
		}
		now.doors = append(now.doors, d)
		state.Ports = append(state.Ports, &control.GatewayPort{
			Namespace: key.gateway.Namespace, Name: key.gateway.Name, Port: uint32(key.port), Bound: d.bound, Text: d.text,
		})
	}
	if !g.unsaid.Swap(false) && now.equal(g.said) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := g.n.client.Report(ctx, &control.ReportRequest{What: &control.ReportRequest_Gateways{Gateways: state}}); err != nil {
		g.unsaid.Store(true)
		g.n.o.Log.Debug("the server did not hear of the ports of Gateways", "error", err)
		return
	}
	g.said = now
}

// newest is the revision of the objects that ports depend on.
func newest(o route.Objects) (out int64) {
	for _, c := range o.Classes {
		out = max(out, c.Revision)
	}
	for _, g := range o.Gateways {
		out = max(out, g.Revision)
	}
	return out
}

// unbound is a port that cannot be bound. The text goes on from "port 80".
type unbound struct {
	port uint16
	text string
	err  error
}

func (u *unbound) Error() string { return fmt.Sprintf("port %d %s", u.port, u.text) }
func (u *unbound) Unwrap() error { return u.err }

func whyUnbound(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "is in use by another program; end that, or write another port"
	case errors.Is(err, os.ErrPermission):
		return "may not be opened: a port below 1024 needs the capability CAP_NET_BIND_SERVICE; give it, or write another port"
	}
	if cause, ok := errors.AsType[syscall.Errno](err); ok {
		return "cannot be opened: " + cause.Error()
	}
	return "cannot be opened"
}
