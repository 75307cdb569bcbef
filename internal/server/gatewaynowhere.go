package server

import (
	"fmt"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/route"
)

// unservable is why no node can ever serve a Gateway: it is a workload, and takes its name and identity from that.
func unservable(g *route.Gateway) route.Refusal {
	const reason = "NameNotUsable"
	switch {
	case identity.CheckLabel(g.Name.Name) != nil:
		return route.Refusal{Reason: reason, Text: fmt.Sprintf("a Gateway is a workload, and %q is no name of one; name it otherwise: at most 63 characters, a-z, 0-9 and -", g.Name.Name)}
	case g.Namespace == identity.ReservedNamespace:
		return route.Refusal{Reason: reason, Text: fmt.Sprintf("namespace %q is that of countersign itself, which no workload is in; move the Gateway to another namespace", g.Namespace)}
	}
	return route.Refusal{}
}

// foresee adds to the facts of Gateways that all run what no node has to try: who cannot be served, and the ports of
// this process.
func (s *Server) foresee(v *view, f *route.Facts) {
	for _, g := range v.Edge.Ours() {
		facts := f.Gateways[g.Name]
		if facts.AddressRefusal = unservable(g); facts.AddressRefusal == (route.Refusal{}) && s.o.Refuses != nil {
			facts.AddressRefusal = s.o.Refuses(g)
		}
		for port, name := range s.o.OwnPorts {
			if _, wanted := facts.Ports[port]; wanted && len(g.Addresses) == 0 {
				facts.Ports[port] = fmt.Sprintf("is that of countersign itself (%s); write another port", name)
			}
		}
		f.Gateways[g.Name] = facts
	}
}
