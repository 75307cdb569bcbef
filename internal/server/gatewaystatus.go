package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"countersign.dev/internal/catalog"
	"countersign.dev/internal/control"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/route"
)

// features are those of the conformance suite of the Gateway API that are supported.
var features = []string{
	"Gateway", "GatewayAddressEmpty", "GatewayHTTPListenerIsolation", "GatewayHTTPSListenerDetectMisdirectedRequests",
	"GatewayPort8080", "GatewayStaticAddresses",
	"HTTPRoute", "HTTPRoute303RedirectStatusCode", "HTTPRoute307RedirectStatusCode", "HTTPRoute308RedirectStatusCode",
	"HTTPRouteBackendProtocolH2C", "HTTPRouteBackendProtocolWebSocket", "HTTPRouteBackendRequestHeaderModification",
	"HTTPRouteBackendTimeout", "HTTPRouteCORS", "HTTPRouteDestinationPortMatching", "HTTPRouteHostRewrite", "HTTPRouteMethodMatching",
	"HTTPRouteNamedRouteRule", "HTTPRouteParentRefPort", "HTTPRoutePathRedirect", "HTTPRoutePathRewrite", "HTTPRoutePortRedirect",
	"HTTPRouteQueryParamMatching", "HTTPRouteRequestTimeout", "HTTPRouteResponseHeaderModification", "HTTPRouteSchemeRedirect",
	"ReferenceGrant",
}

// Bounds of what a node says of the ports of Gateways.
const (
	maxGatewayPorts = 4096
	maxPortText     = 512

	maxPortAddresses = 64
)

// gateways takes what a node says of the ports of Gateways.
func (h house) gateways(node string, g *control.GatewayState) error {
	bad := func(text string) error { return &control.Refused{Code: "bad_report", Text: text} }
	if len(g.GetPorts()) > maxGatewayPorts {
		return bad(fmt.Sprintf("%d ports of Gateways, at most %d", len(g.Ports), maxGatewayPorts))
	}
	for _, p := range g.GetPorts() {
		if p.Port == 0 || p.Port > math.MaxUint16 {
			return bad(fmt.Sprintf("port %d: a port is 1 to 65535", p.Port))
		}
		if i := slices.IndexFunc(p.Addresses, func(a string) bool { _, err := netip.ParseAddr(a); return err != nil }); i >= 0 || len(p.Addresses) > maxPortAddresses {
			return bad(fmt.Sprintf("port %d: what is said of its addresses is none", p.Port))
		}
		if p.Reason != "" && p.Reason != "AddressNotUsable" && p.Reason != "AddressNotAssigned" {
			return bad(fmt.Sprintf("port %d: %q is no reason", p.Port, p.Reason))
		}
		if len(p.Text) > maxPortText {
			return bad(fmt.Sprintf("%d bytes of why port %d is not open, at most %d", len(p.Text), p.Port, maxPortText))
		}
	}
	if err := checkFiles(g.GetFiles()); err != nil {
		return err
	}
	if !h.s.nodes.said(node, g, time.Now()) {
		return &control.Refused{Code: "not_attached", Text: fmt.Sprintf("node %q has no stream here", node)}
	}
	return nil
}

// edgeMemory is what one status has of the one before.
type edgeMemory struct {
	mu    sync.Mutex // guards the rest; held while a status is computed
	edge  route.Objects
	since int64 // the first revision seen that holds them: a node that enforces less may serve others
	last  route.Statuses
}

// edgeStatus is the status of the objects of one revision.
type edgeStatus struct {
	*view
	route.Statuses
}

// edge computes the status of now. Times of transition live in memory: they are those of the first status that shows
// them, and begin anew with the server.
func (s *Server) edge() *edgeStatus {
	m := &s.nodes.edge
	m.mu.Lock()
	defer m.mu.Unlock()
	v := s.world.load()
	edge := v.Edge
	edge.Services, edge.Endpoints = nil, nil // they come and go, and no port hangs on them
	if m.since == 0 || !reflect.DeepEqual(m.edge, edge) {
		m.edge, m.since = edge, v.Revision
	}
	table, invalid := route.Compile(route.Attach(v.Edge))
	limits := route.CompileLimits(v.Edge, table)
	invalid = append(invalid, limits.Faults()...)
	for i := range v.Edge.Routes {
		invalid = append(invalid, route.Check(&v.Edge.Routes[i])...)
	}
	f := route.Facts{
		Features: features, Backend: v.backing, Secret: v.secret, TrustDomain: v.knows, RateLimit: limits.Known, Invalid: invalid,
		Gateways: map[route.Name]route.GatewayFacts{},
	}
	for _, g := range v.Edge.Ours() {
		f.Gateways[g.Name] = s.gatewayFacts(v, g, m.since)
	}
	now := route.Status(v.Edge, f)
	carry(m.last, now, time.Now())
	m.last = now
	return &edgeStatus{v, now}
}

// gatewayFacts is what the nodes that enforce the objects of now make of a Gateway. A node that lacks its identity
// waits: for that one it does not run.
func (s *Server) gatewayFacts(v *view, g *route.Gateway, since int64) route.GatewayFacts {
	f := route.GatewayFacts{Ports: map[uint16]string{}, AddressRefusal: unservable(g)}
	newest := g.Revision
	for _, c := range v.Edge.Classes {
		if c.Name.Name == g.Class {
			newest = max(newest, c.Revision)
		}
	}
	e, known := v.entry(g.String())
	for _, node := range slices.Sorted(maps.Keys(v.nodes)) {
		a := s.nodes.state(node)
		if a.streams <= 0 || a.enforced < since || a.gateways == nil || a.gateways.Revision < newest {
			continue
		}
		admitted := known && entry.Admits(e, v.World.Nodes[node])
		served, waits := false, false
		takeFiles(&f, g, a.gateways.Files, admitted, known)
		for _, p := range a.gateways.Ports {
			port := uint16(p.Port)
			switch _, told := f.Ports[port]; {
			case p.Namespace != g.Namespace || p.Name != g.Name.Name:
			case !admitted, !p.Bound && p.Text == "":
				waits = true
			case p.Reason != "":
				f.AddressRefusal = route.Refusal{Reason: p.Reason, Text: p.Text}
			case p.Bound:
				f.Ports[port], served = "", true
				for _, a := range p.Addresses {
					if at := (route.Address{Type: "IPAddress", Value: a}); !slices.Contains(f.Addresses, at) {
						f.Addresses = append(f.Addresses, at)
					}
				}
			case !told:
				f.Ports[port] = p.Text
			}
		}
		f.Live = f.Live || served || !waits
	}
	if len(f.Addresses) > 0 { // one node that serves it is enough
		f.AddressRefusal = route.Refusal{}
	}
	return f
}

// carry gives all conditions of a status their times.
func carry(old, status route.Statuses, now time.Time) {
	for name, c := range status.Classes {
		c.Conditions = route.Carry(old.Classes[name].Conditions, c.Conditions, now)
		status.Classes[name] = c
	}
	for name, g := range status.Gateways {
		was := old.Gateways[name]
		g.Conditions = route.Carry(was.Conditions, g.Conditions, now)
		status.Gateways[name] = g
		for i := range g.Listeners {
			l, before := &g.Listeners[i], []route.Condition(nil)
			if at := slices.IndexFunc(was.Listeners, func(o route.ListenerStatus) bool { return o.Name == l.Name }); at >= 0 {
				before = was.Listeners[at].Conditions
			}
			l.Conditions = route.Carry(before, l.Conditions, now)
		}
	}
	for name, l := range status.Limits {
		was := old.Limits[name].Ancestors
		for i := range l.Ancestors {
			a, before := &l.Ancestors[i], []route.Condition(nil)
			if at := slices.IndexFunc(was, func(o route.AncestorStatus) bool { return o.Target == a.Target }); at >= 0 {
				before = was[at].Conditions
			}
			a.Conditions = route.Carry(before, a.Conditions, now)
		}
	}
	for name, r := range status.Routes {
		was := old.Routes[name].Parents
		for i := range r.Parents {
			p, before := &r.Parents[i], []route.Condition(nil)
			if at := slices.IndexFunc(was, func(o route.ParentStatus) bool { return o.Parent == p.Parent }); at >= 0 {
				before = was[at].Conditions
			}
			p.Conditions = route.Carry(before, p.Conditions, now)
		}
	}
}

// of is the column READY and the status of one object, in the form of the Gateway API. What is another controller's
// has none.
func (e *edgeStatus) of(r catalog.Record) (ready string, status []byte, err error) {
	name := route.Name{Namespace: r.Namespace, Name: r.Name}
	var shown any
	switch r.Kind {
	case "GatewayClass":
		if c, ok := e.Classes[r.Name]; ok {
			shown, ready = classStatusOf(c), readyBy(c.Conditions, "Accepted")
		}
	case "Gateway":
		if g, ok := e.Gateways[name]; ok {
			shown, ready = gatewayStatusOf(g), readyBy(g.Conditions, "Programmed")
		}
	case "RateLimit":
		if l, ok := e.Limits[name]; ok {
			shown, ready = limitStatusOf(l), readyLimit(l)
		}
	case "HTTPRoute":
		if s, ok := e.Routes[name]; ok {
			shown, ready = routeStatusOf(s), readyRoute(s)
		}
	}
	switch {
	case e.records[catalog.Key(r.Kind, r.Namespace, r.Name)].Last < r.Last:
		ready = "False: not in force yet"
	case shown == nil && r.Kind == "Gateway":
		ready = "False: no class of countersign"
	case shown == nil && r.Kind == "GatewayClass":
		ready = "False: of another controller"
	}
	if shown == nil {
		return ready, nil, nil
	}
	status, err = json.Marshal(shown)
	return ready, status, err
}

// readyBy is "True" if all conditions of the types are, or "False: " and the reason of the first that is not.
func readyBy(conditions []route.Condition, types ...string) string {
	for _, c := range conditions {
		if c.Status != "True" && slices.Contains(types, c.Type) {
			return "False: " + c.Reason
		}
	}
	return "True"
}

func readyRoute(s route.RouteStatus) string {
	for _, p := range s.Parents {
		if word := readyBy(p.Conditions, "Accepted", "ResolvedRefs"); word != "True" {
			return word
		}
	}
	if len(s.Parents) == 0 {
		return "False: no parent of countersign"
	}
	return "True"
}

// The forms of the Gateway API.
type (
	conditionJSON struct {
		Type               string `json:"type"`
		Status             string `json:"status"`
		Reason             string `json:"reason"`
		Message            string `json:"message"`
		ObservedGeneration int64  `json:"observedGeneration"`
		LastTransitionTime string `json:"lastTransitionTime"`
	}
	featureJSON struct {
		Name string `json:"name"`
	}
	classStatusJSON struct {
		Conditions        []conditionJSON `json:"conditions"`
		SupportedFeatures []featureJSON   `json:"supportedFeatures"`
	}
	addressJSON struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	}
	kindJSON struct {
		Group string `json:"group"`
		Kind  string `json:"kind"`
	}
	listenerJSON struct {
		Name           string          `json:"name"`
		SupportedKinds []kindJSON      `json:"supportedKinds"`
		AttachedRoutes int             `json:"attachedRoutes"`
		Conditions     []conditionJSON `json:"conditions"`
	}
	gatewayStatusJSON struct {
		Addresses  []addressJSON   `json:"addresses,omitempty"`
		Conditions []conditionJSON `json:"conditions"`
		Listeners  []listenerJSON  `json:"listeners"`
	}
	parentRefJSON struct {
		Group       string `json:"group"`
		Kind        string `json:"kind"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
		SectionName string `json:"sectionName,omitempty"`
		Port        uint16 `json:"port,omitempty"`
	}
	parentJSON struct {
		ParentRef      parentRefJSON   `json:"parentRef"`
		ControllerName string          `json:"controllerName"`
		Conditions     []conditionJSON `json:"conditions"`
	}
	routeStatusJSON struct {
		Parents []parentJSON `json:"parents"`
	}
)

func conditionsOf(conditions []route.Condition) []conditionJSON {
	return each(conditions, func(c route.Condition) conditionJSON {
		return conditionJSON{c.Type, c.Status, c.Reason, c.Message, c.ObservedGeneration, c.LastTransitionTime.UTC().Format(time.RFC3339)}
	})
}

func classStatusOf(c route.ClassStatus) classStatusJSON {
	return classStatusJSON{conditionsOf(c.Conditions), each(c.SupportedFeatures, func(name string) featureJSON { return featureJSON{name} })}
}

func gatewayStatusOf(g route.GatewayStatus) gatewayStatusJSON {
	return gatewayStatusJSON{
		each(g.Addresses, func(a route.Address) addressJSON { return addressJSON(a) }),
		conditionsOf(g.Conditions),
		each(g.Listeners, func(l route.ListenerStatus) listenerJSON {
			return listenerJSON{l.Name, each(l.SupportedKinds, func(k route.Kind) kindJSON { return kindJSON(k) }), l.AttachedRoutes, conditionsOf(l.Conditions)}
		}),
	}
}

func routeStatusOf(s route.RouteStatus) routeStatusJSON {
	return routeStatusJSON{each(s.Parents, func(p route.ParentStatus) parentJSON {
		return parentJSON{
			parentRefJSON{p.Parent.Group, p.Parent.Kind.Kind, p.Parent.Namespace, p.Parent.Name.Name, p.Parent.Section, p.Parent.Port},
			p.Controller, conditionsOf(p.Conditions),
		}
	})}
}

// each is never nil: the Gateway API wants its lists there.
func each[T, U any](list []T, of func(T) U) []U {
	out := make([]U, 0, len(list))
	for _, x := range list {
		out = append(out, of(x))
	}
	return out
}
