package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"countersign.dev/internal/attest"
	"countersign.dev/internal/control"
	"countersign.dev/internal/route"
)

// doorReport is what the server hears of the ports, and of which Gateways they are.
type doorReport struct {
	newest int64
	doors  []doorState
	files  []fileState
}

type doorState struct {
	doorKey
	bound  bool
	text   string // why it cannot be bound, going on from "port 80", or with a reason the whole of it
	reason string // of the Gateway's condition
	addrs  string // those bound, with spaces between
}

func (r doorReport) equal(o doorReport) bool {
	return r.newest == o.newest && slices.Equal(r.doors, o.doors) && slices.Equal(r.files, o.files)
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
	now.files, state.Files = g.fileStates()
	for _, key := range slices.SortedFunc(maps.Keys(wanted), olderFirst(h.Edge.Ours())) {
		at, open := g.open[key]
		d := doorState{doorKey: key, bound: open, addrs: strings.Join(at.bound, " ")}
		if refusal := g.here[key.gateway].refusal; refusal != (route.Refusal{}) {
			d.reason, d.text = refusal.Reason, refusal.Text
		} else if cause, ok := errors.AsType[*unbound](g.away[key]); ok && !open {
			d.text = cause.text
		}
		now.doors = append(now.doors, d)
		state.Ports = append(state.Ports, &control.GatewayPort{
			Namespace: key.gateway.Namespace, Name: key.gateway.Name, Port: uint32(key.port), Bound: d.bound, Text: d.text,
			Addresses: at.bound, Reason: d.reason,
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

func whyUnbound(at netip.AddrPort, err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "is in use by " + holderOf(at) + "; end that, or write another port"
	case errors.Is(err, os.ErrPermission):
		exe, err := os.Executable()
		if err != nil {
			exe = "countersign"
		}
		return "may not be opened: ports below 1024 need a capability; sudo setcap cap_net_bind_service=+ep " + exe
	}
	if cause, ok := errors.AsType[syscall.Errno](err); ok {
		return "cannot be opened: " + cause.Error()
	}
	return "cannot be opened"
}

// absent: this machine has no such address.
func absent(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// holderOf names who has a port, where the kernel tells.
func holderOf(at netip.AddrPort) string {
	const unknown = "another program"
	s, err := attest.ListenSocket(at)
	if err != nil || !s.Found {
		return unknown
	}
	pid, comm, ok := attest.HolderOf(s.Inode)
	switch {
	case !ok:
		return unknown
	case pid == os.Getpid():
		return "countersign itself"
	}
	comm = strings.Map(func(r rune) rune { // a program calls itself what it likes
		if r < 0x21 || r > 0x7e {
			return '?'
		}
		return r
	}, comm)
	return fmt.Sprintf("%s, pid %d", comm, pid)
}
