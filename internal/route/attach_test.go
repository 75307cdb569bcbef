package route

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// edge is a Gateway in namespace infra with these listeners.
func edge(listeners ...Listener) Gateway {
	return Gateway{Meta: Meta{Name: Name{"infra", "edge"}, Generation: 3}, Class: builtInClass, Listeners: listeners}
}

// open is a listener for routes of all namespaces.
func open(name string, port uint16, p Protocol, hostname string) Listener {
	return Listener{Name: name, Port: port, Protocol: p, Hostname: hostname, From: "All"}
}

// toEdge is a route of a namespace to listeners of edge.
func toEdge(namespace, name string, hostnames []string, parents ...Parent) HTTPRoute {
	if parents == nil {
		parents = []Parent{edgeParent("", 0)}
	}
	return HTTPRoute{
		Meta:      Meta{Name: Name{namespace, name}, Generation: 7},
		Parents:   parents,
		Hostnames: hostnames,
		Rules:     []Rule{{Matches: []Match{{PathType: Prefix, Path: "/"}}}},
	}
}

func edgeParent(section string, port uint16) Parent {
	return Parent{Ref: Ref{gatewayKind, Name{"infra", "edge"}}, Section: section, Port: port}
}

// reasons are what the parentRefs of a route came to; "-" is no entry.
func reasons(o Objects, r Name) (out []string) {
	for _, v := range attach(o).verdicts[r] {
		switch {
		case !v.ours:
			out = append(out, "-")
		case v.refusal.Reason == "":
			out = append(out, "Accepted")
		default:
			out = append(out, v.refusal.Reason)
		}
	}
	return out
}

func TestAttachment(t *testing.T) {
	web := open("web", 80, HTTP, "")
	same := Listener{Name: "web", Port: 80, Protocol: HTTP, From: "Same"}
	selector := Listener{Name: "web", Port: 80, Protocol: HTTP, From: "Selector", Selector: &Selector{Labels: map[string]string{"edge": "yes"}}}
	byName := selector
	byName.Selector = &Selector{Labels: map[string]string{nameLabel: "shop"}}
	nobody := selector
	nobody.Selector = nil
	grpcOnly := web
	grpcOnly.Kinds = []Kind{{httpRouteKind.Group, "GRPCRoute"}}
	labelled := map[string]map[string]string{"shop": {"edge": "yes"}}
	two := []Listener{open("a", 80, HTTP, "a.test"), open("b", 8080, HTTP, "b.test")}

	for _, c := range []struct {
		name       string
		listeners  []Listener
		route      HTTPRoute
		namespaces map[string]map[string]string
		want       []string
	}{
		{"all", []Listener{web}, toEdge("shop", "r", nil), nil, []string{"Accepted"}},
		{"A8 from Same, other namespace", []Listener{same}, toEdge("shop", "r", nil), nil, []string{"NotAllowedByListeners"}},
		{"from Same, same namespace", []Listener{same}, toEdge("infra", "r", nil), nil, []string{"Accepted"}},
		{"from None", []Listener{{Name: "web", Port: 80, Protocol: HTTP, From: "None"}}, toEdge("infra", "r", nil), nil, []string{"NotAllowedByListeners"}},
		{"from what is not known", []Listener{{Name: "web", Port: 80, Protocol: HTTP, From: "Any"}}, toEdge("infra", "r", nil), nil, []string{"NotAllowedByListeners"}},
		{"from Selector", []Listener{selector}, toEdge("shop", "r", nil), labelled, []string{"Accepted"}},
		{"A16 label removed", []Listener{selector}, toEdge("shop", "r", nil), nil, []string{"NotAllowedByListeners"}},
		{"selector by name needs no document", []Listener{byName}, toEdge("shop", "r", nil), nil, []string{"Accepted"}},
		{"sec-edge-host-owner: another namespace", []Listener{byName}, toEdge("thief", "r", nil), map[string]map[string]string{"thief": {nameLabel: "shop"}}, []string{"NotAllowedByListeners"}},
		{"from Selector without a selector", []Listener{nobody}, toEdge("infra", "r", nil), labelled, []string{"NotAllowedByListeners"}},
		{"A9 name, port, and both of two listeners", two, toEdge("shop", "r", nil, edgeParent("c", 0), edgeParent("", 81), edgeParent("a", 8080)), nil, []string{"NoMatchingParent", "NoMatchingParent", "NoMatchingParent"}},
		{"name and port", two, toEdge("shop", "r", nil, edgeParent("a", 80), edgeParent("b", 0), edgeParent("", 8080)), nil, []string{"Accepted", "Accepted", "Accepted"}},
		{"A10 HTTPRoute on a TLS listener", []Listener{open("tls", 443, protocolTLS, "a.test")}, toEdge("shop", "r", nil), nil, []string{"NotAllowedByListeners"}},
		{"other kinds alone", []Listener{grpcOnly}, toEdge("shop", "r", nil), nil, []string{"NotAllowedByListeners"}},
		{"A11 one of two hostnames", []Listener{open("x", 80, HTTP, "*.x.test")}, toEdge("shop", "r", []string{"a.x.test", "a.y.test"}), nil, []string{"Accepted"}},
		{"A12 no hostname", []Listener{open("x", 80, HTTP, "*.x.test")}, toEdge("shop", "r", []string{"x.test"}), nil, []string{"NoMatchingListenerHostname"}},
		{"the section decides the hostname", two, toEdge("shop", "r", []string{"b.test"}, edgeParent("a", 0), edgeParent("b", 0)), nil, []string{"NoMatchingListenerHostname", "Accepted"}},
		{"a conflicting listener attaches", []Listener{open("a", 80, HTTP, ""), open("b", 80, HTTPS, "")}, toEdge("shop", "r", nil), nil, []string{"Accepted"}},
		{
			"others get no entry",
			[]Listener{web},
			toEdge(
				"shop", "r", nil,
				Parent{Ref: Ref{gatewayKind, Name{"infra", "nothing"}}},
				Parent{Ref: Ref{Kind{gatewayKind.Group, "ListenerSet"}, Name{"infra", "edge"}}},
				Parent{Ref: Ref{Kind{"", "Service"}, Name{"infra", "edge"}}},
				edgeParent("", 0),
			),
			nil,
			[]string{"-", "-", "-", "Accepted"},
		},
	} {
		o := Objects{Gateways: []Gateway{edge(c.listeners...)}, Routes: []HTTPRoute{c.route}, Namespaces: c.namespaces}
		if got := reasons(o, c.route.Name); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// What serves is what the table gets: no listener of a Gateway that is refused
// or of another controller, and of a conflict or another protocol the hostname
// alone, without routes.
func TestAttachServes(t *testing.T) {
	elsewhere := edge(open("web", 80, HTTP, ""))
	elsewhere.Name, elsewhere.Class = Name{"infra", "elsewhere"}, "example"
	parameters := edge(open("web", 80, HTTP, ""))
	parameters.Name, parameters.HasParametersRef = Name{"infra", "parameters"}, true
	first := edge(open("web", 80, HTTP, ""))
	first.Name = Name{"aaa", "edge"}

	old := toEdge("shop", "z-old", []string{"a.x.test", "a.y.test"}, edgeParent("x", 0), edgeParent("", 80))
	young := toEdge("shop", "a-young", nil)
	young.Created = old.Created.Add(time.Second)
	none := toEdge("shop", "none", []string{"n.test"})
	o := Objects{
		Gateways: []Gateway{parameters, elsewhere, edge(
			open("x", 80, HTTP, "*.x.test"), open("tls", 444, protocolTLS, ""),
			open("c1", 81, HTTP, ""), open("c2", 81, HTTPS, ""),
			open("y", 443, HTTPS, "z.test"), open("t", 443, protocolTLS, "t.test"), open("u", 443, "UDP", "u.test"),
			open("h1", 80, HTTP, "h.test"), open("h2", 80, HTTP, "h.test"),
		), first},
		Routes: []HTTPRoute{young, none, old},
	}
	want := []Attached{
		{Name{"aaa", "edge"}, "web", 80, HTTP, "", nil, nil},
		{Name{"infra", "edge"}, "x", 80, HTTP, "*.x.test", []Effective{{&o.Routes[2], []string{"a.x.test"}}, {&o.Routes[0], []string{"*.x.test"}}}, nil},
		{Name{"infra", "edge"}, "y", 443, HTTPS, "z.test", []Effective{{&o.Routes[0], []string{"z.test"}}}, nil},
		{Name{"infra", "edge"}, "t", 443, HTTPS, "t.test", nil, nil},
		{Name{"infra", "edge"}, "h1", 80, HTTP, "h.test", nil, nil},
		{Name{"infra", "edge"}, "h2", 80, HTTP, "h.test", nil, nil},
	}
	if got := Attach(o); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// A class of the built-in name that names another controller is not ours.
func TestAttachClasses(t *testing.T) {
	route := toEdge("shop", "r", nil)
	class := func(name, controller string, parameters bool) Class {
		return Class{Meta: Meta{Name: Name{Name: name}, Generation: 2}, Controller: controller, HasParametersRef: parameters}
	}
	for _, c := range []struct {
		name    string
		class   string
		classes []Class
		want    string
		served  bool
	}{
		{"built in", builtInClass, nil, "Accepted", true},
		{"A1 nobody's", "example", nil, "-", false},
		{"A1 of another controller", "example", []Class{class("example", "example.com/gateway", false)}, "-", false},
		{"own by its controller", "example", []Class{class("example", Controller, false)}, "Accepted", true},
		{"built-in name taken away", builtInClass, []Class{class(builtInClass, "example.com/gateway", false)}, "-", false},
		{"with parameters", "example", []Class{class("example", Controller, true)}, "Accepted", false},
	} {
		g := edge(open("web", 80, HTTP, ""))
		g.Class = c.class
		o := Objects{Classes: c.classes, Gateways: []Gateway{g}, Routes: []HTTPRoute{route}}
		if got := reasons(o, route.Name); !slices.Equal(got, []string{c.want}) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if got := len(Attach(o)) == 1; got != c.served {
			t.Errorf("%s: served %t, want %t", c.name, got, c.served)
		}
		if _, ok := Status(o, Facts{}).Gateways[g.Name]; ok != (c.want != "-") {
			t.Errorf("%s: has a status %t", c.name, ok)
		}
	}
}

// The naive twin: gateway.md 5 as it is written, one set after the other.
func naive(o Objects, g *Gateway, r *HTTPRoute, p Parent) (reason string, l3 []int) {
	var l1, l2 []int
	for i, l := range g.Listeners {
		if (p.Section == "" || l.Name == p.Section) && (p.Port == 0 || l.Port == p.Port) {
			l1 = append(l1, i)
		}
	}
	for _, i := range l1 {
		l := g.Listeners[i]
		kind := len(l.Kinds) == 0 || slices.Contains(l.Kinds, httpRouteKind)
		var namespace bool
		switch l.From {
		case "All":
			namespace = true
		case "Same":
			namespace = r.Namespace == g.Namespace
		case "Selector":
			namespace = l.Selector != nil && o.Namespaces[r.Namespace]["edge"] == l.Selector.Labels["edge"]
		}
		if (l.Protocol == HTTP || l.Protocol == HTTPS) && kind && namespace {
			l2 = append(l2, i)
		}
	}
	for _, i := range l2 {
		// Some host of a universe that is large enough is taken by both.
		if slices.ContainsFunc(universe, func(host string) bool {
			return Admits(g.Listeners[i].Hostname, host) &&
				(len(r.Hostnames) == 0 || slices.ContainsFunc(r.Hostnames, func(h string) bool { return Admits(h, host) }))
		}) {
			l3 = append(l3, i)
		}
	}
	switch {
	case len(l1) == 0:
		return "NoMatchingParent", nil
	case len(l2) == 0:
		return "NotAllowedByListeners", nil
	case len(l3) == 0:
		return "NoMatchingListenerHostname", nil
	}
	return "Accepted", l3
}

// universe has a host for every intersection of the patterns of scene.
var universe = []string{"test", "x.test", "a.x.test", "b.x.test", "c.x.test", "a.b.x.test", "c.b.x.test", "y.test", "a.y.test", "q.test", "q"}

var patterns = []string{"", "x.test", "a.x.test", "*.x.test", "*.b.x.test", "a.b.x.test", "*.y.test", "y.test", "*.test"}

// scene is random objects, small enough that all cases meet.
func scene(rng *rand.Rand) Objects {
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	o := Objects{Namespaces: map[string]map[string]string{"n0": {"edge": "yes"}, "n1": {"edge": "no"}}}
	for i := range 1 + rng.IntN(2) {
		g := Gateway{Meta: Meta{Name: Name{"n0", "g" + number(uint16(i))}, Generation: 1}, Class: builtInClass}
		for j := range 1 + rng.IntN(4) {
			l := Listener{
				Name: "l" + number(uint16(j)), Port: uint16(80 + rng.IntN(2)), Hostname: pick(patterns...),
				Protocol: Protocol(pick("HTTP", "HTTP", "HTTPS", "TLS", "TCP", "x.test/y")), From: pick("All", "Same", "Selector", "None"),
			}
			if rng.IntN(4) > 0 {
				l.Selector = &Selector{Labels: map[string]string{"edge": "yes"}}
			}
			if rng.IntN(4) == 0 {
				l.Kinds = []Kind{{httpRouteKind.Group, pick("HTTPRoute", "GRPCRoute")}}
			}
			if l.Protocol == HTTPS && rng.IntN(2) == 0 {
				l.Certificates = []Ref{secret(pick("n0", "n1"), pick("good", "bad"))}
			}
			g.Listeners = append(g.Listeners, l)
		}
		o.Gateways = append(o.Gateways, g)
	}
	for i := range 1 + rng.IntN(4) {
		r := HTTPRoute{Meta: Meta{Name: Name{pick("n0", "n1", "n2"), "r" + number(uint16(i))}, Created: time.Unix(int64(rng.IntN(2)), 0)}, Rules: make([]Rule, 1)}
		for range 1 + rng.IntN(3) {
			p := Parent{Ref: Ref{gatewayKind, Name{"n0", pick("g0", "g0", "g1")}}, Section: pick("", "", "l0", "l1", "l9")}
			if rng.IntN(3) == 0 {
				p.Port = uint16(80 + rng.IntN(3))
			}
			r.Parents = append(r.Parents, p)
		}
		for range rng.IntN(3) {
			r.Hostnames = append(r.Hostnames, pick(patterns[1:]...))
		}
		r.Rules[0].Backends = []Backend{{Ref: service(pick("n0", "n1"), pick("good", "bad")), Port: 80}}
		o.Routes = append(o.Routes, r)
	}
	if rng.IntN(2) == 0 {
		o.Grants = append(o.Grants, grantIn("n1", GrantFrom{gatewayKind, "n0"}, GrantTo{secretKind, ""}), grantIn("n0", GrantFrom{httpRouteKind, "n1"}, GrantTo{serviceKind, ""}))
	}
	return o
}

func TestAttachmentAgainstNaive(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 27))
	seen := map[string]int{}
	for round := range 20_000 {
		o := scene(rng)
		a := attach(o)
		want := map[*HTTPRoute]map[*Listener]bool{}
		for i := range o.Routes {
			r := &o.Routes[i]
			want[r] = map[*Listener]bool{}
			got := reasons(o, r.Name)
			for j, p := range r.Parents {
				expected := "-"
				if g := a.gatewayOf[p.Name]; g != nil {
					var l3 []int
					expected, l3 = naive(o, g, r, p)
					for _, k := range l3 {
						want[r][&g.Listeners[k]] = true
					}
				}
				seen[expected]++
				if got[j] != expected {
					t.Fatalf("round %d: route %s, parent %d: %s, want %s\n%+v", round, r.Name, j, got[j], expected, o)
				}
			}
		}
		for _, listeners := range a.gateways {
			for _, l := range listeners {
				for i, e := range l.routes {
					if !want[e.Route][l.listener] {
						t.Fatalf("round %d: route %s is on listener %s, or twice", round, e.Route.Name, l.listener.Name)
					}
					delete(want[e.Route], l.listener)
					if i > 0 && !l.routes[i-1].Route.Older(e.Route.Meta) {
						t.Fatalf("round %d: route %s stands before an older one", round, l.routes[i-1].Route.Name)
					}
					for _, host := range universe {
						got := slices.ContainsFunc(e.Hostnames, func(h string) bool { return Admits(h, host) })
						if both := Admits(l.listener.Hostname, host) && (len(e.Route.Hostnames) == 0 ||
							slices.ContainsFunc(e.Route.Hostnames, func(h string) bool { return Admits(h, host) })); got != both {
							t.Fatalf("round %d: effective hostnames %q of %q on %q take %s: %t", round, e.Hostnames, e.Route.Hostnames, l.listener.Hostname, host, got)
						}
					}
				}
			}
		}
		for r, missing := range want {
			if len(missing) > 0 {
				t.Fatalf("round %d: route %s is missing on %d listeners", round, r.Name, len(missing))
			}
		}
	}
	for _, reason := range []string{"-", "Accepted", "NoMatchingParent", "NotAllowedByListeners", "NoMatchingListenerHostname"} {
		if seen[reason] < 1_000 {
			t.Errorf("%s was met %d times only", reason, seen[reason])
		}
	}
}

// From objects to the table: what is not attached is not found.
func TestAttachedAndServed(t *testing.T) {
	wild := open("x", 80, HTTP, "*.x.test")
	selector := Listener{Name: "x", Port: 80, Protocol: HTTP, From: "Selector", Selector: &Selector{Labels: map[string]string{"edge": "yes"}}}
	for _, c := range []struct {
		name       string
		listeners  []Listener
		hostnames  []string
		namespaces map[string]map[string]string
		host       string
		want       bool
	}{
		{"A11 the hostname in common", []Listener{wild}, []string{"a.x.test", "a.y.test"}, nil, "a.x.test", true},
		{"A11 the other", []Listener{wild}, []string{"a.x.test", "a.y.test"}, nil, "a.y.test", false},
		{"A12", []Listener{wild}, []string{"x.test"}, nil, "x.test", false},
		{"A16 label there", []Listener{selector}, nil, map[string]map[string]string{"shop": {"edge": "yes"}}, "x.test", true},
		{"A16 label removed", []Listener{selector}, nil, map[string]map[string]string{"shop": {}}, "x.test", false},
		{"A5 no wider listener takes the hosts of a conflict", []Listener{wild, open("a", 80, HTTP, "a.x.test"), open("b", 80, HTTP, "a.x.test")}, nil, nil, "a.x.test", false},
		{"A5 the third serves", []Listener{wild, open("a", 80, HTTP, "a.x.test"), open("b", 80, HTTP, "a.x.test")}, nil, nil, "b.x.test", true},
		{"A6 conflict", []Listener{wild, open("tcp", 80, protocolTCP, "")}, nil, nil, "a.x.test", false},
	} {
		o := Objects{Gateways: []Gateway{edge(c.listeners...)}, Routes: []HTTPRoute{toEdge("shop", "r", c.hostnames)}, Namespaces: c.namespaces}
		table, _ := Compile(Attach(o))
		got := false
		if port := table.Port(Name{"infra", "edge"}, 80); port != nil {
			if router := port.Router(c.host); router != nil {
				_, got = router.Lookup(c.host, &Request{Method: "GET", Path: "/"})
			}
		}
		if got != c.want {
			t.Errorf("%s: served %t, want %t", c.name, got, c.want)
		}
	}
}

// The faults of the table are those of the status.
func TestFaultsOfTheTable(t *testing.T) {
	r := toEdge("shop", "r", nil)
	r.Rules = append(r.Rules, Rule{Filters: []Filter{{Unknown: "RequestMirror"}}})
	o, f := Objects{Gateways: []Gateway{edge(open("web", 80, HTTP, ""))}, Routes: []HTTPRoute{r}}, running(80)
	_, f.Invalid = Compile(Attach(o))
	conditions := Status(o, f).Routes[r.Name].Parents[0].Conditions
	last := conditions[len(conditions)-1]
	if last.Type != "PartiallyInvalid" || last.Status != "True" || last.Reason != "UnsupportedValue" || !strings.HasPrefix(last.Message, "Dropped Rule 1: ") {
		t.Errorf("%+v", last)
	}
}
