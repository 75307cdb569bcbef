package route

import (
	"net/netip"
	"slices"
)

// Service is a Service of Kubernetes: a name for endpoints that have no identity of the mesh.
type Service struct {
	Name
	Ports     []ServicePort
	Plaintext bool // annotation plaintext: allow
}

// ServicePort is one TCP port of a Service. Which port it leads to is for its endpoints to say.
type ServicePort struct {
	Name        string
	Port        uint16
	AppProtocol string
}

// Endpoints is one EndpointSlice.
type Endpoints struct {
	Name
	Service   string // of its namespace; empty: of none
	Addresses []netip.Addr
	Leaving   []netip.Addr // terminating, and still serving
	Ports     []EndpointPort
}

// EndpointPort is one TCP port of all addresses; its name is that of the Service's port.
type EndpointPort struct {
	Name string
	Port uint16
}

// Protocol of a backend that has no identity of the mesh.
const (
	PlainHTTP1 = "http"
	PlainHTTP2 = "http2" // by prior knowledge
	PlainGRPC  = "grpc"  // the same, and silence has no limit
	needsTLS   = "tls"
)

// Foreign is a Service with its endpoints found.
type Foreign struct {
	Plaintext bool
	Ports     []ForeignPort
}

// ForeignPort is one port of it. No endpoint: none is ready.
type ForeignPort struct {
	Number    uint16
	Protocol  string
	Endpoints []netip.AddrPort
}

// Foreign are the Services by name.
func (o *Objects) Foreign() map[Name]*Foreign {
	slicesOf := map[Name][]*Endpoints{}
	for i := range o.Endpoints {
		e := &o.Endpoints[i]
		of := Name{e.Namespace, e.Service}
		slicesOf[of] = append(slicesOf[of], e)
	}
	out := make(map[Name]*Foreign, len(o.Services))
	for i := range o.Services {
		s := &o.Services[i]
		f := &Foreign{Plaintext: s.Plaintext}
		for _, p := range s.Ports {
			f.Ports = append(f.Ports, ForeignPort{p.Port, protocolOf(p.AppProtocol), endpoints(slicesOf[s.Name], p.Name)})
		}
		out[s.Name] = f
	}
	return out
}

// endpoints are those behind the port of a name. Only where none is ready do those count that are about to leave, as
// in Kubernetes.
func endpoints(of []*Endpoints, port string) []netip.AddrPort {
	collect := func(addresses func(*Endpoints) []netip.Addr) (out []netip.AddrPort) {
		for _, e := range of {
			for _, p := range e.Ports {
				if p.Name != port {
					continue
				}
				for _, a := range addresses(e) {
					out = append(out, netip.AddrPortFrom(a, p.Port))
				}
			}
		}
		slices.SortFunc(out, netip.AddrPort.Compare)
		return slices.Compact(out)
	}
	if ready := collect(func(e *Endpoints) []netip.Addr { return e.Addresses }); len(ready) > 0 {
		return ready
	}
	return collect(func(e *Endpoints) []netip.Addr { return e.Leaving })
}

// protocolOf is how a port is spoken to (gateway.md 8.2).
func protocolOf(appProtocol string) string {
	switch appProtocol {
	case "kubernetes.io/h2c":
		return PlainHTTP2
	case "grpc":
		return PlainGRPC
	case "kubernetes.io/wss", "https":
		return needsTLS
	}
	return PlainHTTP1
}

// KnownAppProtocol reports whether an appProtocol says anything here; of others HTTP/1.1 is taken.
func KnownAppProtocol(s string) bool {
	return slices.Contains([]string{"", "http", "https", "grpc", "kubernetes.io/h2c", "kubernetes.io/ws", "kubernetes.io/wss"}, s)
}

// Port is the port of a number, nil if there is none.
func (f *Foreign) Port(number uint16) *ForeignPort {
	for i := range f.Ports {
		if f.Ports[i].Number == number {
			return &f.Ports[i]
		}
	}
	return nil
}

// Backing is what is known of a port of it.
func (f *Foreign) Backing(port uint16) Backing {
	p := f.Port(port)
	switch {
	case p == nil:
		return NoPort
	case !f.Plaintext:
		return NoIdentity
	case p.Protocol == needsTLS:
		return NeedsTLS
	}
	return Usable
}

// ForeignBacking is what is known of a backend that the mesh has not: of a Service without mesh identity, if there is
// one of that name.
func ForeignBacking(services map[Name]*Foreign, to Ref, port uint16) Backing {
	if f := services[to.Name]; f != nil && to.Kind == serviceKind {
		return f.Backing(port)
	}
	return NoService
}

// Permitted reports whether an HTTPRoute of a namespace may refer to a backend.
func Permitted(grants []Grant, namespace string, b *Backend) bool {
	return permitted(grants, httpRouteKind, namespace, b.Ref)
}
