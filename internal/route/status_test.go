package route

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// running are the facts of an edge that runs, with its ports bound.
func running(ports ...uint16) Facts {
	bound := map[uint16]string{}
	for _, p := range ports {
		bound[p] = ""
	}
	files := map[string]Certificate{
		"good": {Names: []string{"a.test"}}, "text": {Fault: "hold no PEM; write a certificate"}, "spoilt": {Fault: "hold no PEM; write a certificate", Kept: true},
	}
	return Facts{
		Gateways: map[Name]GatewayFacts{{"infra", "edge"}: {Live: true, Ports: bound, Addresses: []Address{{"IPAddress", "192.0.2.1"}}, Files: files}},
		Backend: func(r Ref, port uint16) Backing {
			if r.Name.Name == "good" {
				return Usable
			}
			return NoService
		},
		Secret: func(n Name) Certificate {
			switch n.Name {
			case "good":
				return Certificate{Names: []string{"*.x.test"}}
			case "other":
				return Certificate{Names: []string{"a.x.test"}}
			case "deep":
				return Certificate{Names: []string{"a.b.x.test"}}
			case "mismatch":
				return Certificate{Fault: "has a key of another certificate; replace tls.key"}
			case "weak":
				return Certificate{Fault: "has an RSA key of 1024 bits; use 2048 or more"}
			case "spoilt":
				return Certificate{Fault: "has no PEM in tls.crt; write a certificate", Kept: true}
			case "text":
				return Certificate{Fault: "has no PEM in tls.crt; write a certificate"}
			}
			return Certificate{Fault: "does not exist; apply it or correct the name"}
		},
	}
}

// say writes conditions as "Accepted=True/Accepted …", for comparison.
func say(t *testing.T, generation int64, conditions []Condition) string {
	t.Helper()
	var out []string
	for _, c := range conditions {
		out = append(out, c.Type+"="+c.Status+"/"+c.Reason)
		if c.ObservedGeneration != generation {
			t.Errorf("condition %s is of generation %d, want %d", c.Type, c.ObservedGeneration, generation)
		}
		if c.Message == "" || c.Status == "False" && c.Type != "Conflicted" && !strings.Contains(c.Message, ";") {
			t.Errorf("condition %s=%s has the message %q: no way out", c.Type, c.Status, c.Message)
		}
		if !c.LastTransitionTime.IsZero() {
			t.Errorf("condition %s has a time", c.Type)
		}
	}
	return strings.Join(out, " ")
}

const (
	gatewayGood  = "Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=True/ResolvedRefs"
	listenerGood = gatewayGood + " Conflicted=False/NoConflicts"
	hostClash    = "Accepted=False/HostnameConflict Programmed=False/HostnameConflict ResolvedRefs=True/ResolvedRefs Conflicted=True/HostnameConflict"
	protoClash   = "Accepted=False/ProtocolConflict Programmed=False/ProtocolConflict ResolvedRefs=True/ResolvedRefs Conflicted=True/ProtocolConflict"
	unsupported  = "Accepted=False/UnsupportedProtocol Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs Conflicted=False/NoConflicts"
	pending      = "Accepted=True/Accepted Programmed=False/Pending ResolvedRefs=True/ResolvedRefs Conflicted=False/NoConflicts"
)

func certified(l Listener, refs ...Ref) Listener {
	l.Certificates = refs
	return l
}

func filed(l Listener) Listener {
	l.Files = &Files{"/certs/infra/chain.pem", "/certs/infra/key.pem"}
	return l
}

func unresolved(reason string) string {
	return "Accepted=True/Accepted Programmed=False/Invalid ResolvedRefs=False/" + reason + " Conflicted=False/NoConflicts"
}

func TestGatewayStatus(t *testing.T) {
	https := open("https", 443, HTTPS, "a.x.test")
	grpc := open("web", 80, HTTP, "")
	grpc.Kinds = []Kind{{httpRouteKind.Group, "GRPCRoute"}}
	manyKinds := https
	manyKinds.Kinds = append(grpc.Kinds, httpRouteKind)
	addressed := func(kind string) func(*Gateway, *Facts) {
		return func(g *Gateway, _ *Facts) { g.Addresses = []Address{{kind, "x"}} }
	}
	edgeFacts := func(change func(*GatewayFacts)) func(*Gateway, *Facts) {
		return func(g *Gateway, f *Facts) {
			own := f.Gateways[g.Name]
			change(&own)
			f.Gateways[g.Name] = own
		}
	}
	right := func(g *Gateway, f *Facts) {}
	for _, c := range []struct {
		name      string
		listeners []Listener
		change    func(*Gateway, *Facts)
		grants    []Grant
		gateway   string
		want      []string
	}{
		{"all good", []Listener{open("web", 80, HTTP, ""), certified(https, secret("infra", "good"))}, right, nil, gatewayGood, []string{listenerGood, listenerGood}},
		{
			"A5 HTTPS and TLS of one hostname",
			[]Listener{https, open("tls", 443, protocolTLS, "a.x.test"), open("web", 80, HTTP, "")}, right, nil,
			"Accepted=True/ListenersNotValid Programmed=True/Programmed ResolvedRefs=True/ResolvedRefs",
			[]string{hostClash, hostClash, listenerGood},
		},
		{
			"A6 TCP and HTTP on one port",
			[]Listener{open("tcp", 80, protocolTCP, ""), open("web", 80, HTTP, "")}, right, nil,
			"Accepted=False/ListenersNotValid Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs",
			[]string{protoClash, protoClash},
		},
		{
			"A7 unknown protocol beside a good one",
			[]Listener{open("x", 80, "example.com/x", ""), open("web", 80, HTTP, "")}, right, nil,
			"Accepted=True/ListenersNotValid Programmed=True/Programmed ResolvedRefs=True/ResolvedRefs",
			[]string{unsupported, listenerGood},
		},
		{
			"A7 unknown protocol alone",
			[]Listener{open("x", 80, "example.com/x", "")}, right, nil,
			"Accepted=False/ListenersNotValid Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs",
			[]string{unsupported},
		},
		{
			"TLS is not served, and nobody looks for its certificates", []Listener{certified(open("x", 443, protocolTLS, ""), secret("infra", "nothing"))}, right, nil,
			"Accepted=False/ListenersNotValid Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs",
			[]string{unsupported},
		},
		{
			"A17 without a grant",
			[]Listener{certified(https, secret("b", "good"))}, right, nil,
			"Accepted=True/Accepted Programmed=False/Invalid ResolvedRefs=False/ListenersNotResolved",
			[]string{unresolved("RefNotPermitted")},
		},
		{
			"A17 with a wrong grant",
			[]Listener{certified(https, secret("b", "good"))}, right, []Grant{grantIn("b", GrantFrom{httpRouteKind, "infra"}, GrantTo{secretKind, ""})},
			"Accepted=True/Accepted Programmed=False/Invalid ResolvedRefs=False/ListenersNotResolved",
			[]string{unresolved("RefNotPermitted")},
		},
		{
			"A17 with the right grant",
			[]Listener{certified(https, secret("b", "good"))}, right, []Grant{grantIn("b", GrantFrom{gatewayKind, "infra"}, GrantTo{secretKind, "good"})},
			gatewayGood, []string{listenerGood},
		},
		{
			"A18 bad pairs, another kind, nothing there",
			[]Listener{
				certified(open("1", 443, HTTPS, "1.test"), secret("infra", "mismatch")), certified(open("2", 443, HTTPS, "2.test"), secret("infra", "weak")),
				certified(open("3", 443, HTTPS, "3.test"), secret("infra", "text")), certified(open("4", 443, HTTPS, "4.test"), Ref{Kind{"", "ConfigMap"}, Name{"infra", "good"}}),
				certified(open("5", 443, HTTPS, "5.test"), secret("infra", "nothing")), certified(open("6", 443, HTTPS, "6.test"), Ref{Kind{"x.test", "Secret"}, Name{"infra", "good"}}),
			}, right, nil,
			"Accepted=True/Accepted Programmed=False/Invalid ResolvedRefs=False/ListenersNotResolved",
			slices.Repeat([]string{unresolved("InvalidCertificateRef")}, 6),
		},
		{
			"one certificate of several serves",
			[]Listener{certified(https, secret("infra", "text"), secret("infra", "good"))}, right, nil,
			"Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=False/ListenersNotResolved",
			[]string{"Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=False/InvalidCertificateRef Conflicted=False/NoConflicts"},
		},
		{
			"a bad Secret in place of a good one: that one serves",
			[]Listener{certified(https, secret("infra", "spoilt"))}, right, nil,
			"Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=False/ListenersNotResolved",
			[]string{"Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=False/InvalidCertificateRef Conflicted=False/NoConflicts"},
		},
		{
			"certificate files: good, bad, bad in place of good, not read",
			[]Listener{filed(open("good", 443, HTTPS, "1.test")), filed(open("text", 443, HTTPS, "2.test")), filed(open("spoilt", 443, HTTPS, "3.test")), filed(open("unread", 443, HTTPS, "4.test"))}, right, nil,
			"Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=False/ListenersNotResolved",
			[]string{
				listenerGood, unresolved("InvalidCertificateRef"),
				"Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=False/InvalidCertificateRef Conflicted=False/NoConflicts", pending,
			},
		},
		{
			"the first bad reference is named",
			[]Listener{certified(manyKinds, secret("b", "good"), secret("infra", "text"))}, right, nil,
			"Accepted=True/Accepted Programmed=False/Invalid ResolvedRefs=False/ListenersNotResolved",
			[]string{unresolved("RefNotPermitted")},
		},
		{"A19 own certificate", []Listener{https}, right, nil, gatewayGood, []string{listenerGood}},
		{
			"a kind that cannot be served",
			[]Listener{grpc}, right, nil,
			"Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=False/ListenersNotResolved",
			[]string{"Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=False/InvalidRouteKinds Conflicted=False/NoConflicts"},
		},
		{
			"A22 port taken by an older Gateway, another one bound",
			[]Listener{open("web", 80, HTTP, ""), https},
			edgeFacts(func(f *GatewayFacts) { f.Ports[80] = `is held by Gateway "infra/old"; choose another port` }), nil,
			"Accepted=True/ListenersNotValid Programmed=True/Programmed ResolvedRefs=True/ResolvedRefs",
			[]string{"Accepted=False/PortUnavailable Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs Conflicted=False/NoConflicts", listenerGood},
		},
		{
			"A22 its only port taken",
			[]Listener{open("web", 80, HTTP, "")},
			edgeFacts(func(f *GatewayFacts) { f.Ports[80] = `is held by Gateway "infra/old"; choose another port` }), nil,
			"Accepted=False/ListenersNotValid Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs",
			[]string{"Accepted=False/PortUnavailable Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs Conflicted=False/NoConflicts"},
		},
		{
			"not bound yet", []Listener{open("web", 80, HTTP, "")}, edgeFacts(func(f *GatewayFacts) { clear(f.Ports) }), nil,
			"Accepted=True/Accepted Programmed=False/Pending ResolvedRefs=True/ResolvedRefs", []string{pending},
		},
		{
			"bound once, and no instance left", []Listener{open("web", 80, HTTP, "")}, edgeFacts(func(f *GatewayFacts) { f.Live = false }), nil,
			"Accepted=True/Accepted Programmed=False/Pending ResolvedRefs=True/ResolvedRefs", []string{pending},
		},
		{
			"no instance", []Listener{open("web", 80, HTTP, "")}, func(_ *Gateway, f *Facts) { f.Gateways = nil }, nil,
			"Accepted=True/Accepted Programmed=False/Pending ResolvedRefs=True/ResolvedRefs", []string{pending},
		},
		{
			"an address that cannot be used", []Listener{open("web", 80, HTTP, "")},
			edgeFacts(func(f *GatewayFacts) {
				f.AddressRefusal = Refusal{"AddressNotUsable", "address 192.0.2.2 is not on this host; write another"}
			}), nil,
			"Accepted=True/Accepted Programmed=False/AddressNotUsable ResolvedRefs=True/ResolvedRefs", []string{listenerGood},
		},
		{"IPAddress", []Listener{open("web", 80, HTTP, "")}, addressed("IPAddress"), nil, gatewayGood, []string{listenerGood}},
		{
			"Hostname as address", []Listener{open("web", 80, HTTP, "")}, addressed("Hostname"), nil,
			"Accepted=False/UnsupportedAddress Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs",
			[]string{"Accepted=True/Accepted Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs Conflicted=False/NoConflicts"},
		},
		{
			"another type of address, and no good listener", []Listener{open("x", 80, "example.com/x", "")}, addressed("NamedAddress"), nil,
			"Accepted=False/UnsupportedAddress Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs",
			[]string{unsupported},
		},
		{
			"parametersRef", []Listener{open("web", 80, HTTP, "")}, func(g *Gateway, _ *Facts) { g.HasParametersRef = true }, nil,
			"Accepted=False/InvalidParameters Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs",
			[]string{"Accepted=True/Accepted Programmed=False/Invalid ResolvedRefs=True/ResolvedRefs Conflicted=False/NoConflicts"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, f := edge(c.listeners...), running(80, 443)
			c.change(&g, &f)
			s := Status(Objects{Gateways: []Gateway{g}, Grants: c.grants}, f).Gateways[g.Name]
			if got := say(t, 3, s.Conditions); got != c.gateway {
				t.Errorf("gateway: %s\nwant     %s", got, c.gateway)
			}
			if s.Addresses == nil || len(s.Listeners) != len(c.want) {
				t.Fatalf("addresses %v, %d listeners", s.Addresses, len(s.Listeners))
			}
			for i, l := range s.Listeners {
				if got := say(t, 3, l.Conditions); got != c.want[i] || l.Name != c.listeners[i].Name {
					t.Errorf("listener %s: %s\nwant      %s", l.Name, got, c.want[i])
				}
				want, _ := c.listeners[i].kinds()
				if l.SupportedKinds == nil || !slices.Equal(l.SupportedKinds, want) {
					t.Errorf("listener %s supports %v, want %v", l.Name, l.SupportedKinds, want)
				}
			}
		})
	}
}

func TestOverlappingTLSConfig(t *testing.T) {
	for _, c := range []struct {
		name      string
		listeners []Listener
		want      []string
	}{
		{
			"hostnames, on their port alone",
			[]Listener{certified(open("foo", 443, HTTPS, "foo.x.test"), secret("infra", "other")), certified(open("wild", 443, HTTPS, "*.x.test"), secret("infra", "deep")), open("no", 443, HTTPS, "y.test"), open("port", 444, HTTPS, "foo.x.test")},
			[]string{"OverlappingHostnames", "OverlappingHostnames", "", ""},
		},
		{"no hostname overlaps every one", []Listener{open("a", 443, HTTPS, "a.test"), certified(open("b", 443, HTTPS, ""), secret("infra", "deep"))}, []string{"OverlappingHostnames", "OverlappingHostnames"}},
		{
			"certificates before hostnames, with whichever listener",
			[]Listener{certified(open("a", 443, HTTPS, "a.x.test"), secret("infra", "good")), certified(open("wild", 443, HTTPS, "*.x.test"), secret("infra", "deep")), certified(open("b", 443, HTTPS, "b.test"), secret("infra", "other"))},
			[]string{"OverlappingCertificates", "OverlappingHostnames", "OverlappingCertificates"},
		},
		{
			"a wildcard covers a name of our own",
			[]Listener{open("own", 443, HTTPS, "a.x.test"), certified(open("b", 443, HTTPS, "b.test"), secret("infra", "good")), certified(open("c", 443, HTTPS, "c.test"), secret("infra", "deep"))},
			[]string{"OverlappingCertificates", "OverlappingCertificates", ""},
		},
		{"our own is one for all", []Listener{open("a", 443, HTTPS, "a.test"), open("b", 443, HTTPS, "b.test"), open("c", 444, HTTPS, "c.test")}, []string{"OverlappingCertificates", "OverlappingCertificates", ""}},
		{"HTTP has none", []Listener{open("a", 80, HTTP, "a.test"), open("b", 80, HTTP, "")}, []string{"", ""}},
		{
			"certificates",
			[]Listener{certified(open("b", 443, HTTPS, "b.x.test"), secret("infra", "good")), certified(open("a", 443, HTTPS, "a.x.test"), secret("infra", "other"))},
			[]string{"OverlappingCertificates", "OverlappingCertificates"},
		},
		{
			"the wildcard of a certificate is one label",
			[]Listener{certified(open("b", 443, HTTPS, "b.x.test"), secret("infra", "good")), certified(open("a", 443, HTTPS, "a.b.x.test"), secret("infra", "deep"))},
			[]string{"", ""},
		},
		{
			"a conflicting listener is in nobody's way",
			[]Listener{open("a", 443, HTTPS, "a.x.test"), open("b", 443, HTTPS, "a.x.test"), open("c", 443, HTTPS, "*.x.test")},
			[]string{"", "", ""},
		},
	} {
		s := Status(Objects{Gateways: []Gateway{edge(c.listeners...)}}, running(443, 444))
		for i, l := range s.Gateways[Name{"infra", "edge"}].Listeners {
			j := slices.IndexFunc(l.Conditions, func(c Condition) bool { return c.Type == "OverlappingTLSConfig" })
			if (j >= 0) != (c.want[i] != "") || j >= 0 && (l.Conditions[j].Reason != c.want[i] || l.Conditions[j].Status != "True") {
				t.Errorf("%s: listener %s has %+v, want %q", c.name, l.Name, l.Conditions, c.want[i])
			}
		}
	}
}

func TestRouteStatus(t *testing.T) {
	const resolved = " ResolvedRefs=True/ResolvedRefs"
	to := func(refs ...Ref) []Rule {
		rules := make([]Rule, len(refs))
		for i, r := range refs {
			rules[i].Backends = []Backend{{Ref: r, Port: 80, Weight: 1}}
		}
		return rules
	}
	extension := Rule{Filters: []Filter{{Extension: &Ref{Kind{"x.test", "Magic"}, Name{"shop", "m"}}}}}
	onBackend := Rule{Backends: []Backend{{Ref: service("shop", "good"), Port: 80, Filters: extension.Filters}}}
	good := service("shop", "good")
	for _, c := range []struct {
		name     string
		rules    []Rule
		invalid  []Fault
		section  string
		want     string
		attached int
		message  string
	}{
		{"good", to(good), nil, "", "Accepted=True/Accepted" + resolved, 1, "attached"},
		{"no backends", make([]Rule, 1), nil, "", "Accepted=True/Accepted" + resolved, 1, "attached"},
		{"not attached, and resolved all the same", to(good), nil, "none", "Accepted=False/NoMatchingParent" + resolved, 0, "sectionName"},
		{"not attached, and not resolved", to(service("shop", "bad")), nil, "none", "Accepted=False/NoMatchingParent ResolvedRefs=False/BackendNotFound", 0, "does not exist"},
		{"first bad backend in the order written", to(good, Ref{Kind{"", "Pod"}, Name{"shop", "p"}}, service("shop", "bad"), service("b", "good")), nil, "", "Accepted=True/Accepted ResolvedRefs=False/InvalidKind", 1, "rule 1: Pod \"shop/p\" is no backend; refer to a Service (and 2 more)"},
		{"no grant", to(service("b", "good")), nil, "", "Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted", 1, "rule 0: "},
		{"extension", []Rule{extension}, nil, "", "Accepted=True/Accepted ResolvedRefs=False/InvalidKind", 1, "x.test/Magic"},
		{"extension of a backend", []Rule{onBackend}, nil, "", "Accepted=True/Accepted ResolvedRefs=False/InvalidKind", 1, "x.test/Magic"},
		{
			"some rules invalid", to(good, good, good),
			[]Fault{{Name{"shop", "r"}, 2, "too long; shorten it"}, {Name{"shop", "other"}, 0, "bad; mend it"}, {Name{"shop", "r"}, 0, "bad regex; mend it"}},
			"", "Accepted=True/Accepted" + resolved + " PartiallyInvalid=True/UnsupportedValue", 1,
			"Dropped Rule 0: bad regex; mend it; its requests get 500. Dropped Rule 2: too long; shorten it; its requests get 500",
		},
		{
			"all rules invalid", to(good, good),
			[]Fault{{Name{"shop", "r"}, 1, "bad; mend it"}, {Name{"shop", "other"}, 1, "less; mend it"}, {Name{"shop", "r"}, 0, "bad; mend it"}, {Name{"shop", "r"}, 1, "worse; mend it"}},
			"", "Accepted=False/UnsupportedValue" + resolved, 0, "Dropped Rule 0: bad; mend it; its requests get 500",
		},
		{
			"all rules invalid, not attached", to(good),
			[]Fault{{Name{"shop", "r"}, 0, "bad; mend it"}},
			"none", "Accepted=False/NoMatchingParent" + resolved, 0, "sectionName",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := toEdge("shop", "r", nil, Parent{Ref: service("shop", "x")}, edgeParent(c.section, 0))
			r.Rules = c.rules
			f := running(80)
			f.Invalid = c.invalid
			o := Objects{Gateways: []Gateway{edge(open("web", 80, HTTP, ""))}, Routes: []HTTPRoute{r}}
			s := Status(o, f)
			parents := s.Routes[r.Name].Parents
			if len(parents) != 1 || parents[0].Controller != Controller || parents[0].Parent != r.Parents[1] {
				t.Fatalf("parents: %+v", parents)
			}
			if got := say(t, 7, parents[0].Conditions); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if !slices.ContainsFunc(parents[0].Conditions, func(x Condition) bool { return strings.Contains(x.Message, c.message) }) {
				t.Errorf("no message of %+v has %q", parents[0].Conditions, c.message)
			}
			if got := s.Gateways[Name{"infra", "edge"}].Listeners[0].AttachedRoutes; got != c.attached {
				t.Errorf("attachedRoutes %d, want %d", got, c.attached)
			}
			if on := Attach(o)[0].Routes; (len(on) == 1) != (c.section == "") {
				t.Errorf("the table has %d routes: a route that is refused keeps its place", len(on))
			}
		})
	}
}

// attachedRoutes counts a route once, however many of its parentRefs chose the
// listener, and also where the listener is not accepted.
func TestAttachedRoutes(t *testing.T) {
	o := Objects{
		Gateways: []Gateway{edge(open("a", 80, HTTP, ""), open("b", 80, HTTPS, ""), open("c", 81, HTTP, "c.test"))},
		Routes: []HTTPRoute{
			toEdge("shop", "twice", nil, edgeParent("a", 0), edgeParent("", 80)),
			toEdge("shop", "all", []string{"x.test"}),
		},
	}
	for i, want := range []int{2, 2, 0} {
		if got := Status(o, running(80, 81)).Gateways[Name{"infra", "edge"}].Listeners[i].AttachedRoutes; got != want {
			t.Errorf("listener %d: attachedRoutes %d, want %d", i, got, want)
		}
	}
}

func TestClassStatus(t *testing.T) {
	class := func(name, controller string, parameters bool) Class {
		return Class{Meta: Meta{Name: Name{Name: name}, Generation: 4}, Controller: controller, HasParametersRef: parameters}
	}
	s := Status(Objects{Classes: []Class{
		class("own", Controller, false), class("other", "example.com/gateway", false), class("parameters", Controller, true),
	}}, Facts{Features: []string{"HTTPRoute", "Gateway", "HTTPRoute"}}).Classes
	const good = "Accepted=True/Accepted SupportedVersion=True/SupportedVersion"
	if len(s) != 3 {
		t.Fatalf("classes: %+v", s)
	}
	for name, want := range map[string]string{
		"own": good, "parameters": "Accepted=False/InvalidParameters SupportedVersion=True/SupportedVersion",
	} {
		if got := say(t, 4, s[name].Conditions); got != want {
			t.Errorf("class %s: %s, want %s", name, got, want)
		}
	}
	if got := say(t, 1, s[builtInClass].Conditions); got != good {
		t.Errorf("built-in class: %s", got)
	}
	if got := s["own"].SupportedFeatures; !slices.Equal(got, []string{"Gateway", "HTTPRoute"}) {
		t.Errorf("features %q", got)
	}
}

// The same objects in another order are the same table and the same status.
func TestA24OrderOfObjects(t *testing.T) {
	rng := rand.New(rand.NewPCG(24, 24))
	for round := range 2_000 {
		o, f := scene(rng), running(80)
		f.Gateways[Name{"n0", "g0"}] = GatewayFacts{Live: true, Ports: map[uint16]string{80: "", 81: "is taken; choose another"}}
		for i := range o.Routes {
			f.Invalid = append(f.Invalid, Fault{o.Routes[i].Name, rng.IntN(2), "bad; mend it"})
		}
		p, q := o, f
		p.Gateways, p.Routes, p.Grants = slices.Clone(o.Gateways), slices.Clone(o.Routes), slices.Clone(o.Grants)
		q.Invalid = slices.Clone(f.Invalid)
		rng.Shuffle(len(p.Gateways), reflect.Swapper(p.Gateways))
		rng.Shuffle(len(p.Routes), reflect.Swapper(p.Routes))
		rng.Shuffle(len(p.Grants), reflect.Swapper(p.Grants))
		rng.Shuffle(len(q.Invalid), reflect.Swapper(q.Invalid))
		if a, b := Attach(o), Attach(p); !reflect.DeepEqual(a, b) {
			t.Fatalf("round %d: %+v\n%+v", round, a, b)
		}
		if a, b := Status(o, f), Status(p, q); !reflect.DeepEqual(a, b) {
			t.Fatalf("round %d: %+v\n%+v", round, a, b)
		}
	}
}

// The time of a condition changes with its status alone, and is whole seconds.
func TestCarry(t *testing.T) {
	before := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := before.Add(time.Hour + time.Millisecond)
	old := []Condition{
		{Type: "Accepted", Status: "True", Reason: "Accepted", LastTransitionTime: before},
		{Type: "Programmed", Status: "False", Reason: "Pending", LastTransitionTime: before},
	}
	fresh := []Condition{
		{Type: "Accepted", Status: "True", Reason: "ListenersNotValid", ObservedGeneration: 2},
		{Type: "Programmed", Status: "True", Reason: "Programmed"},
		{Type: "ResolvedRefs", Status: "True", Reason: "ResolvedRefs"},
	}
	got := Carry(old, fresh, now)
	for i, want := range []time.Time{before, before.Add(time.Hour), before.Add(time.Hour)} {
		w := fresh[i]
		w.LastTransitionTime = want
		if got[i] != w {
			t.Errorf("%+v, want %+v", got[i], w)
		}
		if !fresh[i].LastTransitionTime.IsZero() {
			t.Error("Carry changed what it was given")
		}
	}
}
