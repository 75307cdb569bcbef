package route

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Objects are the Gateway API objects of one snapshot, in any order.
type Objects struct {
	Classes    []Class
	Gateways   []Gateway
	Routes     []HTTPRoute
	Grants     []Grant
	Limits     []RateLimit
	Namespaces map[string]map[string]string // labels of the namespaces that have a document
	Services   []Service
	Endpoints  []Endpoints
}

// The own controller, and the class that needs no document.
const (
	Controller   = "countersign.dev/gateway"
	builtInClass = "countersign"
)

// attached is one listener with what attaches to it.
type attached struct {
	listener *Listener
	conflict conflict
	routes   []Effective // older first; each has at least one hostname
}

// attachment is what attaches to what.
type attachment struct {
	gateways  map[Name][]attached // of the own classes, listeners in the order written
	verdicts  map[Name][]verdict  // of the routes, one for each parentRef
	gatewayOf map[Name]*Gateway
}

// verdict is what one parentRef of a route came to.
type verdict struct {
	ours    bool    // it names a Gateway of an own class
	refusal Refusal // if no listener took the route
}

// ownClasses are the classes of the own controller by name. A document may
// take the built-in name away, for another controller.
func ownClasses(classes []Class) map[string]Class {
	out := map[string]Class{builtInClass: {
		Meta:       Meta{Name: Name{Name: builtInClass}, Generation: 1},
		Controller: Controller,
	}}
	for _, c := range classes {
		if c.Controller == Controller {
			out[c.Name.Name] = c
		} else {
			delete(out, c.Name.Name)
		}
	}
	return out
}

// Attach finds the listeners that serve, as far as the objects say, with
// their routes: gateways by name, listeners in the order written. One without
// a certificate is among them; and one that conflicts, or asks for TLS, stands
// without routes beside those that serve on its port, so that no wider
// hostname takes its requests.
func Attach(o Objects) []Attached { return PlanOf(o).Attached() }

// Plan is what attaches to what among objects, for all that follows from it.
type Plan struct {
	o Objects
	a attachment
}

// PlanOf decides it.
func PlanOf(o Objects) *Plan { return &Plan{o, attach(o)} }

// Attached is Attach.
func (p *Plan) Attached() []Attached {
	a, classes := p.a, ownClasses(p.o.Classes)
	var out []Attached
	for _, name := range slices.SortedFunc(maps.Keys(a.gateways), compareNames) {
		g, listeners := a.gatewayOf[name], a.gateways[name]
		if gatewayRefusal(g, classes[g.Class]) != (Refusal{}) {
			continue
		}
		served := map[uint16]Protocol{} // what one port serves
		for _, l := range listeners {
			if l.serves() {
				served[l.listener.Port] = l.listener.Protocol
			}
		}
		for _, l := range listeners {
			at := Attached{Gateway: name, Listener: l.listener.Name, Port: l.listener.Port, Protocol: served[l.listener.Port], Hostname: l.listener.Hostname, Options: g.Options}
			switch {
			case l.serves():
				at.Routes = l.routes
			case at.Protocol == "" || l.conflict.reason == "" && l.listener.Protocol != protocolTLS:
				continue
			}
			out = append(out, at)
		}
	}
	return out
}

func (a *attached) serves() bool { return a.conflict == (conflict{}) && a.listener.Protocol.served() }

func compareNames(a, b Name) int { return a.Compare(b) }

// attach decides gateway.md 5 for all routes.
func attach(o Objects) attachment {
	a := attachment{map[Name][]attached{}, make(map[Name][]verdict, len(o.Routes)), map[Name]*Gateway{}}
	classes := ownClasses(o.Classes)
	for i := range o.Gateways {
		g := &o.Gateways[i]
		if _, ok := classes[g.Class]; !ok {
			continue
		}
		listeners := make([]attached, len(g.Listeners))
		for j, c := range conflicts(g.Listeners) {
			listeners[j] = attached{listener: &g.Listeners[j], conflict: c}
		}
		a.gateways[g.Name], a.gatewayOf[g.Name] = listeners, g
	}
	for _, r := range oldestFirst(o.Routes) {
		verdicts := make([]verdict, len(r.Parents))
		for i, p := range r.Parents {
			if listeners, ok := a.gateways[p.Name]; ok && p.Kind == gatewayKind {
				verdicts[i] = verdict{true, attachTo(listeners, r, p, o.Namespaces)}
			}
		}
		a.verdicts[r.Name] = verdicts
	}
	return a
}

// attachTo adds the route to the listeners of one parentRef: the steps L1 to
// L3 of gateway.md 5. No other kind of route is built that could make L4
// smaller than L3.
func attachTo(listeners []attached, r *HTTPRoute, p Parent, labels map[string]map[string]string) Refusal {
	var named, allowed, taken bool
	for i := range listeners {
		l := &listeners[i]
		if p.Section != "" && p.Section != l.listener.Name || p.Port != 0 && p.Port != l.listener.Port {
			continue
		}
		named = true
		if !l.listener.admits(p.Namespace, r.Namespace, labels) {
			continue
		}
		allowed = true
		hostnames := effective(l.listener.Hostname, r.Hostnames)
		if len(hostnames) == 0 {
			continue
		}
		taken = true
		// Two parentRefs may choose one listener, by its name and by its port.
		if n := len(l.routes); n == 0 || l.routes[n-1].Route != r {
			l.routes = append(l.routes, Effective{r, hostnames})
		}
	}
	switch {
	case taken:
		return Refusal{}
	case allowed:
		return Refusal{"NoMatchingListenerHostname", fmt.Sprintf("no listener of Gateway %q has a hostname in common with the route; correct hostnames", p.Name)}
	case named:
		return Refusal{"NotAllowedByListeners", fmt.Sprintf("no listener of Gateway %q takes HTTPRoutes of namespace %q; its allowedRoutes must admit them", p.Name, r.Namespace)}
	}
	return Refusal{"NoMatchingParent", fmt.Sprintf("Gateway %q has no listener with this sectionName and port; name one that it has", p.Name)}
}

func oldestFirst(routes []HTTPRoute) []*HTTPRoute {
	type aged struct {
		created int64 // Created is whole seconds
		*HTTPRoute
	}
	byAge := make([]aged, len(routes))
	for i := range routes {
		byAge[i] = aged{routes[i].Created.Unix(), &routes[i]}
	}
	slices.SortFunc(byAge, func(a, b aged) int {
		if a.created != b.created {
			return cmp.Compare(a.created, b.created)
		}
		return compareNames(a.Name, b.Name)
	})
	out := make([]*HTTPRoute, len(routes))
	for i, a := range byAge {
		out[i] = a.HTTPRoute
	}
	return out
}
