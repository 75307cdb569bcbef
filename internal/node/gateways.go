package node

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"countersign.dev/internal/control"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/proxy"
	"countersign.dev/internal/route"
	"countersign.dev/internal/snapshot"
	"golang.org/x/sys/unix"
)

// gateways serves the Gateways of this node: one instance for each port, so that a change of one
// port leaves the connections of the others alone (gateway.md 22).
type gateways struct {
	n    *Node
	wake chan struct{}

	mu      sync.Mutex // guards open, which the loop of run alone changes, and leaving
	open    map[doorKey]served
	leaving map[route.Name]int // ports that drain

	// Of run alone.
	idle idleSockets
	held map[route.Name]bool
	away map[doorKey]error     // why a port is not open
	said doorReport            // what the server heard last
	kept map[string]netip.Addr // of the pool
	here map[route.Name]*site  // where each listens

	draining sync.WaitGroup // ports that were closed, and what is under way there

	read  map[listenerKey]*filePair                // of run alone, too
	dirs  []string                                 // of certificate files
	files atomic.Pointer[map[listenerKey]*keyPair] // of g.read, what is shown

	unsaid atomic.Bool // the server must hear all of it again
}

type doorKey struct {
	gateway route.Name
	port    uint16
	tls     bool
}

// olderFirst orders ports so that of two Gateways that want one the older gets it.
func olderFirst(gateways []*route.Gateway) func(a, b doorKey) int {
	by := map[route.Name]route.Meta{}
	for _, g := range gateways {
		by[g.Name] = g.Meta
	}
	return func(a, b doorKey) int {
		switch m, o := by[a.gateway], by[b.gateway]; {
		case m.Older(o):
			return -1
		case o.Older(m):
			return 1
		}
		return cmp.Compare(a.port, b.port)
	}
}

// served is a port that is open.
type served struct {
	instance string
	labels   map[string]string
	addrs    []netip.Addr // as wanted
	bound    []string     // as bound
	stop     func()
}

func newGateways(n *Node) *gateways {
	g := &gateways{n: n, wake: make(chan struct{}, 1), open: map[doorKey]served{}, leaving: map[route.Name]int{}, held: map[route.Name]bool{}, away: map[doorKey]error{}, kept: loadKept(n.o.Dir)}
	g.dirs = n.o.CertificateDirs
	if g.dirs == nil {
		g.dirs = []string{route.CertificateDir}
	}
	g.files.Store(&map[listenerKey]*keyPair{})
	return g
}

// changed says that a snapshot came into force.
func (g *gateways) changed() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// again is how long a port that could not be opened waits.
const again = 5 * time.Second

// run opens and closes what the snapshot in force says, until ctx ends.
func (g *gateways) run(ctx context.Context) error {
	defer g.closeAll()
	g.n.o.Metrics.GatewayCertificates(g.certificateEnds)
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		g.settle(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-g.wake:
		case <-tick.C:
		}
	}
}

func (g *gateways) settle(ctx context.Context) {
	h := g.n.snap.Load()
	g.readFiles(&h.Edge)
	wanted := g.wantedDoors(h)
	g.here = g.sites(h, wanted)
	for key, at := range g.open {
		e, known := g.n.entry(key.gateway.String())
		if wanted[key] && known && maps.Equal(e.Labels, at.labels) && g.shut(key) == nil && slices.Equal(g.here[key.gateway].addrs, at.addrs) {
			continue
		}
		g.drop(key)
		if known && maps.Equal(e.Labels, at.labels) {
			g.retire(ctx, key.gateway, at)
		} else {
			at.stop() // its Workload went, or policies select it by other labels now: it opens anew
		}
		if !wanted[key] {
			g.n.happened("ended", fmt.Sprintf("gateway %s port %d", key.gateway, key.port), "")
		}
	}
	g.idle.settle(ctx, g.n.o.Addresses.Inherited, func(port uint16) bool {
		for key := range wanted {
			if key.port == port {
				return true
			}
		}
		return h.Revision == 0 // nobody knows yet
	})
	left := map[route.Name]bool{}
	for key := range wanted {
		left[key.gateway] = true
	}
	for name := range g.held {
		if !left[name] && !g.leaves(name) {
			g.n.svids.release(name.String())
			if id, err := identity.ForWorkload(g.n.td, name.Namespace, name.Name); err == nil {
				g.n.edge.leave(id.String())
			}
			delete(g.held, name)
		}
	}
	for key := range g.away {
		if !wanted[key] {
			delete(g.away, key)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(wanted), olderFirst(h.Edge.Ours())) {
		if _, open := g.open[key]; open || ctx.Err() != nil {
			continue
		}
		if err := g.start(ctx, key); err != nil {
			g.fail(key, err)
		}
	}
	reserved := snapshot.Reserved(h.Mesh.TrustDomain, h.Tokens, maps.Values(h.Services))
	for _, gw := range h.Edge.Ours() {
		g.rename(gw, reserved)
	}
	g.report(ctx, h, wanted)
}

// fail notes once why a port is not open.
func (g *gateways) fail(key doorKey, err error) {
	was := g.away[key]
	g.away[key] = err
	if was == nil || was.Error() != err.Error() {
		g.n.o.Log.Warn("a port of a Gateway is not open", "gateway", key.gateway.String(), "port", key.port, "error", err)
	}
}

// start opens one port, where its Gateway listens.
func (g *gateways) start(ctx context.Context, key doorKey) error {
	e, err := g.entry(ctx, key.gateway)
	if err != nil {
		return err
	}
	if err := g.shut(key); err != nil {
		return err
	}
	name := key.gateway.String()
	if _, err := g.n.svids.demand(ctx, e); err != nil {
		return err
	}
	id, err := identity.ForWorkload(g.n.td, e.Namespace, e.ServiceAccount)
	if err != nil {
		return err
	}
	if key.tls {
		if err := g.shows(key); err != nil {
			return err
		}
	}
	listeners, err := g.n.o.Addresses.listen(g.here[key.gateway], key.port)
	if err != nil {
		return err
	}
	cfg := proxy.Run{
		Namespace: key.gateway.Namespace, Name: key.gateway.Name, Instance: "gateway-" + newInstanceID(), ID: id, Labels: e.Labels,
		Certificate: func() *proxy.SVID {
			if s := g.n.svids.current(name); s != nil {
				return &s.SVID
			}
			return nil
		},
	}
	for _, l := range listeners {
		d := proxy.Door{Listener: l, Port: key.port}
		if key.tls {
			d.Certificate = func(listener, server string) proxy.Shown { return g.shown(listenerKey{key.gateway, listener}, server) }
			d.Callers = func() *proxy.Callers { return g.callers(key.gateway, key.port) }
		}
		cfg.Doors = append(cfg.Doors, d)
	}
	stop, err := g.n.proxy.Start(context.WithoutCancel(ctx), cfg)
	if err != nil {
		for _, l := range listeners {
			_ = l.Close()
		}
		return err
	}
	if !g.held[key.gateway] {
		g.n.svids.hold(name)
		g.held[key.gateway] = true
	}
	g.mu.Lock()
	at := served{cfg.Instance, e.Labels, g.here[key.gateway].addrs, addressesOf(listeners), stop}
	g.open[key] = at
	g.mu.Unlock()
	delete(g.away, key)
	scheme := "http"
	if key.tls {
		scheme = "https"
	}
	g.n.happened("started", fmt.Sprintf("gateway %s %s://%s", key.gateway, scheme, hostOf(at.bound, key.port)), "")
	return nil
}

// entry is the Workload that gives a Gateway its identity, made if it is missing.
func (g *gateways) entry(ctx context.Context, name route.Name) (entry.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	rev, err := g.n.client.Report(ctx, &control.ReportRequest{What: &control.ReportRequest_Ensure{Ensure: &control.Ensure{
		Namespace: name.Namespace, Name: name.Name, Gateway: true,
	}}})
	if err != nil {
		return entry.Entry{}, err
	}
	e, err := g.n.waitEntry(ctx, name.Namespace, name.Name, rev)
	if err != nil {
		return entry.Entry{}, err
	}
	if len(entry.Match([]entry.Entry{e}, []string{"gateway:" + name.String()}, g.n.snap.Load().Selectors, time.Now())) == 0 {
		return entry.Entry{}, errors.New("its Workload is not earned here")
	}
	return e, nil
}

// rename has the SVID of a Gateway made anew where its certificate lacks a name of now or has one of then.
func (g *gateways) rename(gw *route.Gateway, reserved func(string) bool) {
	s := g.n.svids.current(gw.Name.String())
	if s == nil || !g.held[gw.Name] {
		return
	}
	leaf, err := x509.ParseCertificate(s.Chain[0])
	if err != nil || slices.Equal(leaf.DNSNames, gw.CertificateNames(reserved)) {
		return
	}
	g.n.svids.due(gw.Name.String())
}

func (g *gateways) drop(key doorKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, key)
}

func (g *gateways) closeAll() {
	for key, at := range g.open {
		at.stop()
		g.drop(key)
	}
	g.idle.close()
	g.draining.Wait()
}

// swapped tells the proxy that the SVID of a Gateway was renewed.
func (g *gateways) swapped(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, at := range g.open {
		if key.gateway.String() == name {
			g.n.proxy.Renewed(key.gateway.Namespace, key.gateway.Name, at.instance)
		}
	}
}

// wantedDoors are the ports of the listeners that could serve, if only they were open.
func (g *gateways) wantedDoors(h *held) map[doorKey]bool {
	open := route.Facts{Secret: h.secret, TrustDomain: h.knows, Gateways: map[route.Name]route.GatewayFacts{}}
	for _, gw := range h.Edge.Ours() {
		ports := map[uint16]string{}
		for i := range gw.Listeners {
			ports[gw.Listeners[i].Port] = ""
		}
		open.Gateways[gw.Name] = route.GatewayFacts{Live: true, Ports: ports, Files: g.filesOf(gw)}
	}
	doors := h.Edge
	doors.Routes = nil // no port depends on them
	status := route.Status(doors, open)
	out := map[doorKey]bool{}
	for _, g := range h.Edge.Ours() {
		for i, l := range status.Gateways[g.Name].Listeners {
			if slices.ContainsFunc(l.Conditions, func(c route.Condition) bool { return c.Type == "Programmed" && c.Status == "True" }) {
				out[doorKey{g.Name, g.Listeners[i].Port, g.Listeners[i].Protocol == route.HTTPS}] = true
			}
		}
	}
	return out
}

// strangers is the most connections at the doors of Gateways: a quarter of the descriptors of this process, so that a
// flood there takes nothing from the mesh.
func strangers() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 256
	}
	return int(min(10_000, max(l.Cur/4, 64)))
}
