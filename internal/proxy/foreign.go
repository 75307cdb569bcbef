package proxy

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/route"
)

// Backends of Gateways outside the mesh: Services with endpoints that have no identity. They are called in clear text,
// and only where their own namespace says so (gateway.md 8.2).

// Egress is what the file of this process lets it dial though an object named it; no object can (dataplane.md 25.3).
type Egress struct {
	Network netip.Prefix
	Port    uint16 // 0: every one
}

// foreign puts the Services without mesh identity into a view, for Gateways alone: no name of the mesh leads to them.
func (p *Proxy) foreign(v *view) {
	v.foreign = make(map[ServiceKey][]*place, len(v.Foreign))
	for name, f := range v.Foreign {
		key := ServiceKey(name)
		if v.Services[key] != nil {
			continue
		}
		for _, port := range f.Ports {
			if f.Backing(port.Number) != route.Usable {
				continue
			}
			at := &place{key: key, text: key.String(), port: ServicePort{Number: port.Number, Protocol: port.Protocol}, foreign: true}
			var left []string
			for _, to := range port.Endpoints {
				if neverDialled(to.Addr()) && !p.listed(to) {
					left = append(left, to.String())
					continue
				}
				at.ready = append(at.ready, &target{
					service: at.text, name: key.Name, addr: to.String(), port: to.Port(), protocol: port.Protocol, foreign: true,
				})
			}
			if at.state = "it has no address that is ready"; len(left) > 0 {
				at.state = neverCalled + ": " + strings.Join(left[:min(len(left), maxShown)], ", ")
			}
			v.foreign[key] = append(v.foreign[key], at)
		}
	}
}

// backend is a port of a service that a route names. A name that the mesh has is the mesh's.
func (v *view) backend(key ServiceKey, number uint16) *place {
	if at := v.place(key, number); at != nil {
		return at
	}
	for _, at := range v.foreign[key] {
		if at.port.Number == number {
			return at
		}
	}
	return nil
}

// listed reports whether the file of this process lets it dial what it otherwise never does. Its own ports it never
// dials: what comes from this process is not to be taken for somebody else.
func (p *Proxy) listed(to netip.AddrPort) bool {
	return !slices.Contains(p.ownPorts, to.Port()) && slices.ContainsFunc(p.egress, func(e Egress) bool {
		return e.Network.Contains(to.Addr()) && (e.Port == 0 || e.Port == to.Port())
	})
}

// mayDial reports whether an address that an object named may be dialled.
func (p *Proxy) mayDial(to netip.AddrPort) bool {
	return !forbiddenAddr(to.Addr()) || p.listed(to) && !p.holds(to)
}

// holds reports where a Gateway or a run listens here: a stranger's request would come to it from this machine.
func (p *Proxy) holds(to netip.AddrPort) bool {
	at := func(ln net.Listener) bool {
		if ln == nil {
			return false
		}
		tcp, ok := ln.Addr().(*net.TCPAddr)
		if !ok || tcp.AddrPort().Port() != to.Port() {
			return false
		}
		ip := tcp.AddrPort().Addr().Unmap()
		return ip.IsUnspecified() || ip == to.Addr().Unmap()
	}
	return slices.ContainsFunc(p.all(), func(r *run) bool {
		return at(r.Outbound) || slices.ContainsFunc(r.Listen, at) || slices.ContainsFunc(r.doors, func(d *door) bool { return at(d.Listener) })
	})
}

func (u *upstream) dialForeign(ctx context.Context) (*socket, error) {
	to, err := netip.ParseAddrPort(u.key.addr)
	if err != nil || !u.run.p.mayDial(to) {
		return nil, errForbidden
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", u.key.addr)
	if err != nil {
		return nil, err
	}
	return &socket{Conn: c}, nil
}

// dialPlain connects in clear text: to the program, or to an endpoint outside the mesh.
func (u *upstream) dialPlain(ctx context.Context) (*socket, error) {
	if u.key.foreign != "" {
		return u.dialForeign(ctx)
	}
	return u.dialProgram(ctx)
}

// outsider is the way to an endpoint outside the mesh.
func (p *pool) outsider(t *target) *upstream { return p.find(t.outside(), t.protocol) }

func (t *target) outside() upstreamKey { return upstreamKey{addr: t.addr, foreign: t.protocol} }

// busy counts the requests under way to an endpoint outside the mesh.
func (p *pool) busy(t *target) int {
	p.mu.Lock()
	u := p.all[t.outside()]
	p.mu.Unlock()
	if u == nil {
		return 0
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.users
}

// choose draws two that were not tried and takes the one with fewer requests under way.
func (p *pool) choose(ready, tried []*target) *target {
	draw := func(but []*target) *target {
		at := rand.N(len(ready))
		for slices.Contains(but, ready[at]) {
			at = (at + 1) % len(ready)
		}
		return ready[at]
	}
	one := draw(tried)
	if len(ready) == len(tried)+1 {
		return one
	}
	other := draw(append(tried, one))
	if p.busy(other) < p.busy(one) {
		return other
	}
	return one
}

const (
	neverCalled = "never called: an address of this machine, unless the file of --config lists it below egress.allow and the port is not countersign's own"
	maxShown    = 3 // addresses, in a record
)

var refuseNotDialled = &refused{
	status: 503, layer: audit.LayerRoute, reason: "no_endpoint", text: "no instance is ready", decision: audit.Failed, keep: true,
	detail: neverCalled,
}

// withhold takes out what speaks for us or proves a caller to the mesh: it is for the mesh (gateway.md 14).
func (x *exchange) withhold() {
	h := x.r.Header
	delete(h, "Txn-Token")
	delete(h, "X-Forwarded-Client-Cert")
	if x.token != nil { // ours, and a rule may have left it in
		delete(h, "Authorization")
	}
}

// callForeign sends the request to an endpoint of a service outside the mesh, another one if it cannot be reached.
func (x *exchange) callForeign() {
	if no := x.register(); no != nil {
		x.refuse(no)
		return
	}
	x.span.write(x.r.Header)
	x.withhold()
	ready := x.place.ready
	if len(ready) == 0 {
		no := *refuseNotDialled
		no.detail = x.place.state
		x.refuse(&no)
		return
	}
	var no *refused
	tried := make([]*target, 0, maxTries+1)
	for i := range min(len(ready), maxTries) {
		x.to = x.run.pool.choose(ready, tried)
		tried = append(tried, x.to)
		x.rec.Retries = i
		x.note(audit.PlaintextTo + x.to.addr)
		var again bool
		if no, again = x.forward(x.run.pool.outsider(x.to)); no == nil || !again {
			break
		}
	}
	if no != nil {
		x.refuse(no)
	}
}

// withdrawn is the end of an exchange whose backend took its consent back (gateway.md 8.1).
func (x *exchange) withdrawn(v *view) *cut {
	if x.backend == nil || v.Resolve == nil {
		return nil
	}
	no := v.Resolve(x.hit.Route, x.backend)
	if no.Reason == "RefNotPermitted" || x.place.foreign && no != (route.Refusal{}) {
		return &cut{why: cutRoute, rev: v.PolicyRevision}
	}
	return nil
}
