package server

import (
	"sync"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/route"
	"countersign.dev/internal/token"
)

// leads tells the token service which identities are Gateways, and which services their routes lead to: for these they
// get edge tokens (tokens.md 8.2). It is worked out once a revision, when a Gateway first asks.
func (s *Server) leads(v *view) func(id string) token.Gateway {
	names := sync.OnceValue(func() map[string]route.Name {
		out := map[string]route.Name{}
		for _, g := range v.Edge.Ours() {
			if id, err := identity.ForWorkload(s.td, g.Namespace, g.Name.Name); err == nil && v.servesAlone(g) {
				out[id.String()] = g.Name
			}
		}
		return out
	})
	all := sync.OnceValue(func() map[string]token.Gateway {
		to, out := route.Leads(v.Edge, route.Facts{Backend: v.backing}), map[string]token.Gateway{}
		for id, name := range names() {
			out[id] = token.Gateway{}
			for i := range v.Services {
				svc := &v.Services[i]
				for _, r := range to[name][route.Name{Namespace: svc.Namespace, Name: svc.Name}] {
					out[id][svc.Audience] = append(out[id][svc.Audience], r.String())
				}
			}
		}
		return out
	})
	return func(id string) token.Gateway {
		if _, ok := names()[id]; !ok { // most who ask are no Gateway, and need no look at the routes
			return nil
		}
		return all()[id]
	}
}

// servesAlone says whether nothing but serving the Gateway earns its identity.
func (v *view) servesAlone(g *route.Gateway) bool {
	found := false
	for _, e := range v.Entries {
		if e.Namespace == g.Namespace && e.ServiceAccount == g.Name.Name {
			if !e.OfGateway() {
				return false
			}
			found = true
		}
	}
	return found
}
