package node

import (
	"fmt"
	"slices"

	"countersign.dev/internal/entry"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/proxy"
	"countersign.dev/internal/route"
	"countersign.dev/internal/snapshot"
)

// prepare turns a snapshot into what is enforced. It changes nothing: an error leaves the
// last good state in force.
func (n *Node) prepare(s *snapshot.Node, before *held) (*held, *proxy.State, error) {
	if s.Mesh.TrustDomain != n.td.Name() {
		return nil, nil, fmt.Errorf("snapshot of trust domain %q, this node is of %q", s.Mesh.TrustDomain, n.td.Name())
	}
	own, ok := s.Bundles[n.td.Name()]
	if !ok {
		return nil, nil, fmt.Errorf("snapshot without the bundle of %q", n.td.Name())
	}
	bundle, err := identity.ParseBundle(n.td, own)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the trust bundle: %w", err)
	}
	compiled, faults := policy.Compile(s.Set)
	if len(faults) > 0 {
		return nil, nil, fmt.Errorf("policies: %s: %s: %s", faults[0].Policy, faults[0].Field, faults[0].Text)
	}
	book, err := n.book(s, before.book)
	if err != nil {
		return nil, nil, err
	}
	keys, err := n.apiKeys(s, before.keys)
	if err != nil {
		return nil, nil, err
	}
	h := &held{book: book, keys: keys, Node: s, trust: identity.NewTrust(n.td, bundle), index: entry.NewIndex(s.Entries), compiled: compiled}
	state := &proxy.State{
		Revision: s.Revision, PolicyRevision: s.Set.Revision, Compiled: compiled, Trust: h.trust,
		Services: map[proxy.ServiceKey]*proxy.Service{}, Namespaces: map[string]bool{"default": true},
		AllowAny: s.Mesh.AllowAny, TrustDomain: n.td.Name(), Node: n.o.Name,
		Tokens: book, Keys: proxy.Keys{Set: keys.set, Header: keyHeaders(s)}, Attach: map[proxy.AttachKey]proxy.Attach{},
	}
	for _, svc := range s.Services {
		p := &proxy.Service{Namespace: svc.Namespace, Name: svc.Name, Owners: svc.Owners, Audience: svc.Audience}
		for _, port := range svc.Ports {
			p.Ports = append(p.Ports, proxy.ServicePort{Number: port.Number, Target: port.Target, Protocol: port.Protocol})
		}
		state.Services[proxy.ServiceKey{Namespace: svc.Namespace, Name: svc.Name}] = p
		state.Namespaces[svc.Namespace] = true
	}
	for _, i := range s.Instances {
		for _, name := range i.Services {
			if svc := state.Services[keyOf(name)]; svc != nil {
				svc.Instances = append(svc.Instances, instanceOf(i))
			}
		}
	}
	for _, e := range s.Entries {
		state.Namespaces[e.Namespace] = true
		id, err := identity.ForWorkload(n.td, e.Namespace, e.ServiceAccount)
		if err != nil {
			continue
		}
		for _, a := range s.Attach {
			if a.Matches(id.String()) {
				state.Attach[proxy.AttachKey{ID: id.String(), Service: keyOf(a.Service)}] = proxy.Attach{Audience: a.Audience, Scopes: a.Scopes}
			}
		}
	}
	n.prepareFaces(h)
	n.prepareEdge(h, state)
	return h, state, nil
}

// prepareEdge compiles the routes of the Gateways, and finds the backends that none of their requests may reach.
func (n *Node) prepareEdge(h *held, state *proxy.State) {
	attached := route.Attach(h.Edge)
	if len(attached) == 0 {
		return
	}
	state.Routes, _ = n.compiler.Compile(attached) // a rule with a fault answers 500 by itself
	state.Limits = proxy.CompileLimits(h.Edge, route.CompileLimits(h.Edge, state.Routes), state.TrustDomain)
	state.Refused = map[*route.Backend]route.Refusal{}
	state.Foreign = h.Edge.Foreign()
	facts := route.Facts{Backend: func(to route.Ref, port uint16) route.Backing { return backing(state, to, port) }}
	state.Resolve = func(r *route.HTTPRoute, b *route.Backend) route.Refusal {
		return route.ResolveBackend(r, b, h.Edge.Grants, facts)
	}
	for _, a := range attached {
		for _, e := range a.Routes {
			for i := range e.Route.Rules {
				for j := range e.Route.Rules[i].Backends {
					b := &e.Route.Rules[i].Backends[j]
					if no := state.Resolve(e.Route, b); no != (route.Refusal{}) {
						state.Refused[b] = no
					}
				}
			}
		}
	}
}

// backing is what the registry knows of a backend.
func backing(state *proxy.State, to route.Ref, port uint16) route.Backing {
	svc := state.Services[proxy.ServiceKey(to.Name)]
	switch {
	case svc == nil:
		return route.ForeignBacking(state.Foreign, to, port)
	case to.Group != "":
		return route.NoService
	case !slices.ContainsFunc(svc.Ports, func(p proxy.ServicePort) bool { return p.Number == port }):
		return route.NoPort
	}
	return route.Usable
}

func keyOf(name string) proxy.ServiceKey {
	for i := range name {
		if name[i] == '/' {
			return proxy.ServiceKey{Namespace: name[:i], Name: name[i+1:]}
		}
	}
	return proxy.ServiceKey{Name: name}
}

func instanceOf(i snapshot.Instance) proxy.Instance {
	out := proxy.Instance{ID: i.ID, Owner: i.Owner, Addr: i.Address, State: i.State, Ports: map[uint16]uint16{}}
	for _, p := range i.Ports {
		out.Ports[p.Number] = p.Target
	}
	return out
}
