package route

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// naiveEndpoints walks over everything for one port.
func naiveEndpoints(o *Objects, of Name, port string) []string {
	seen := map[string]bool{}
	for _, leaving := range []bool{false, true} {
		for _, e := range o.Endpoints {
			if e.Namespace != of.Namespace || e.Service != of.Name {
				continue
			}
			list := e.Addresses
			if leaving {
				list = e.Leaving
			}
			for _, a := range list {
				for _, p := range e.Ports {
					if p.Name == port {
						seen[netip.AddrPortFrom(a, p.Port).String()] = true
					}
				}
			}
		}
		if len(seen) > 0 {
			break
		}
	}
	out := []string{}
	for at := range seen {
		out = append(out, at)
	}
	slices.Sort(out)
	return out
}

func TestForeignTwin(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	some := func() (out []netip.Addr) {
		for range r.IntN(3) {
			out = append(out, netip.MustParseAddr(pick("192.0.2.1", "192.0.2.2", "2001:db8::1")))
		}
		return out
	}
	for range 2000 {
		var o Objects
		for _, ns := range []string{"a", "b"} {
			o.Services = append(o.Services, Service{Name: Name{ns, "s"}, Plaintext: r.IntN(2) == 0, Ports: []ServicePort{
				{Name: "x", Port: 80, AppProtocol: pick("", "http", "https", "kubernetes.io/h2c", "kubernetes.io/wss", "else")}, {Name: "", Port: 81},
			}})
		}
		for i := range r.IntN(5) {
			e := Endpoints{Name: Name{pick("a", "b"), fmt.Sprint(i)}, Service: pick("s", "t", ""), Addresses: some(), Leaving: some()}
			for range r.IntN(3) {
				e.Ports = append(e.Ports, EndpointPort{Name: pick("x", "", "y"), Port: uint16(1 + r.IntN(3))})
			}
			o.Endpoints = append(o.Endpoints, e)
		}
		got := o.Foreign()
		if len(got) != 2 {
			t.Fatalf("%d services", len(got))
		}
		for _, s := range o.Services {
			f := got[s.Name]
			for _, p := range s.Ports {
				at := []string{}
				for _, e := range f.Port(p.Port).Endpoints {
					at = append(at, e.String())
				}
				slices.Sort(at)
				if diff := cmp.Diff(naiveEndpoints(&o, s.Name, p.Name), at); diff != "" {
					t.Fatalf("%+v of %+v: %s", p, o.Endpoints, diff)
				}
				want := NoIdentity
				if s.Plaintext {
					want = Usable
					if p.AppProtocol == "https" || p.AppProtocol == "kubernetes.io/wss" {
						want = NeedsTLS
					}
				}
				if b := f.Backing(p.Port); b != want {
					t.Fatalf("%+v %+v is %v", s, p, b)
				}
			}
			if f.Backing(82) != NoPort || f.Port(82) != nil {
				t.Fatal("a port that is not there")
			}
		}
	}
}

func TestForeignBacking(t *testing.T) {
	o := Objects{Services: []Service{{Name: Name{"a", "s"}, Plaintext: true, Ports: []ServicePort{{Port: 80}}}}}
	for to, want := range map[Ref]Backing{
		{serviceKind, Name{"a", "s"}}: Usable, {serviceKind, Name{"b", "s"}}: NoService, {hostnameKind, Name{"a", "s"}}: NoService,
		{Kind{"x", "Service"}, Name{"a", "s"}}: NoService,
	} {
		if got := ForeignBacking(o.Foreign(), to, 80); got != want {
			t.Errorf("%s: %v", to, got)
		}
	}
	// What a route is told of a backend without identity names both ways out.
	b := &Backend{Ref: Ref{serviceKind, Name{"shop", "s"}}, Port: 80}
	r := &HTTPRoute{Meta: Meta{Name: Name{"shop", "r"}}}
	for backing, want := range map[Backing]Refusal{
		NoIdentity: {"UnsupportedProtocol", `no identity: Service "shop/s" has endpoints outside the mesh; annotate it with countersign.dev/plaintext: allow to reach it in clear text (a BackendTLSPolicy is not supported yet)`},
		NeedsTLS:   {"UnsupportedProtocol", `no identity: port 80 of Service "shop/s" takes TLS alone, which needs a BackendTLSPolicy, and that is not supported yet; name a port in clear text`},
	} {
		if got := ResolveBackend(r, b, nil, Facts{Backend: func(Ref, uint16) Backing { return backing }}); got != want {
			t.Errorf("%v", got)
		}
	}
}

func TestProtocolOf(t *testing.T) {
	for in, want := range map[string]string{
		"": PlainHTTP1, "http": PlainHTTP1, "kubernetes.io/ws": PlainHTTP1, "kubernetes.io/h2c": PlainHTTP2, "grpc": PlainGRPC,
		"https": needsTLS, "kubernetes.io/wss": needsTLS, "example.com/x": PlainHTTP1,
	} {
		if got := protocolOf(in); got != want || KnownAppProtocol(in) != (in != "example.com/x") {
			t.Errorf("%q: %s", in, got)
		}
	}
}
