package route

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Condition is one condition of a status. Status computes all but its time.
type Condition struct {
	Type, Status       string // Status is True or False
	Reason, Message    string
	ObservedGeneration int64
	LastTransitionTime time.Time // by Carry
}

// Facts are what only the running system knows. What is missing counts as
// absent, unbound or not running.
type Facts struct {
	Features []string // those supported, in any order

	Backend   func(Ref, uint16) Backing // of a Service or Hostname and its port
	Secret    func(Name) Certificate
	RateLimit func(Name) bool

	TrustDomain func(name string) bool // whether its bundle is known

	Gateways map[Name]GatewayFacts
	Routes   func(Name) bool // whose status is asked for; nil: of all
	Invalid  []Fault         // of Compile, in any order
}

// Certificate is what is known of a Secret. Fault is empty if it holds a
// usable pair; else it goes on from the Secret's name and ends with the way
// out. Names are the DNS names of the certificate. Kept: there is a fault, and
// the pair of before is still shown.
type Certificate struct {
	Fault string
	Kept  bool
	Names []string
}

// GatewayFacts are those of one Gateway.
type GatewayFacts struct {
	Live           bool              // an instance runs it and acknowledged this revision
	Ports          map[uint16]string // those bound, with ""; those that cannot be, with what goes on from "port 80"
	Addresses      []Address         // those bound
	AddressRefusal Refusal           // AddressNotAssigned or AddressNotUsable

	Files map[string]Certificate // by listener, of those read; a Fault goes on from "certificate files"
}

// Statuses is the status of every object that is ours.
type Statuses struct {
	Classes  map[string]ClassStatus
	Gateways map[Name]GatewayStatus
	Routes   map[Name]RouteStatus
	Limits   map[Name]LimitStatus
}

// ClassStatus is the status of a GatewayClass.
type ClassStatus struct {
	Conditions        []Condition
	SupportedFeatures []string // sorted
}

// GatewayStatus is the status of a Gateway.
type GatewayStatus struct {
	Conditions []Condition
	Addresses  []Address
	Listeners  []ListenerStatus // in the order written
}

// ListenerStatus is that of one listener.
type ListenerStatus struct {
	Name           string
	SupportedKinds []Kind // never nil
	AttachedRoutes int
	Conditions     []Condition
}

// RouteStatus is the status of an HTTPRoute: one entry for each parentRef to
// a Gateway of an own class. Entries of others are not in it.
type RouteStatus struct{ Parents []ParentStatus }

// ParentStatus is what one parentRef of a route came to.
type ParentStatus struct {
	Parent     Parent
	Controller string
	Conditions []Condition
}

// Status computes the status of all objects (gateway.md 10). It depends on
// nothing but its arguments, and not on the order of the objects.
func Status(o Objects, f Facts) Statuses { return PlanOf(o).Status(f) }

// Status is Status.
func (p *Plan) Status(f Facts) Statuses {
	o, a := p.o, p.a
	s := Statuses{map[string]ClassStatus{}, map[Name]GatewayStatus{}, map[Name]RouteStatus{}, map[Name]LimitStatus{}}
	classes := ownClasses(o.Classes)
	features := append([]string{}, f.Features...)
	slices.Sort(features)
	features = slices.Compact(features)
	for name, c := range classes {
		s.Classes[name] = ClassStatus{[]Condition{
			conditionOf("Accepted", c.Generation, classRefusal(c), "Accepted", "the class is served"),
			conditionOf("SupportedVersion", c.Generation, Refusal{}, "SupportedVersion", "this version of Gateway API is supported"),
		}, slices.Clone(features)}
	}
	dropped, refused := droppedRules(f.Invalid), map[*HTTPRoute]bool{}
	limited := map[Name]bool{}
	for _, l := range o.Limits {
		for _, to := range l.Targets {
			limited[to.Name] = limited[to.Name] || to.Kind == httpRouteKind
		}
	}
	routes := map[Name]*HTTPRoute{} // that limits name
	for i := range o.Routes {
		r := &o.Routes[i]
		if limited[r.Name] {
			routes[r.Name] = r
		}
		if n := len(dropped[r.Name]); n > 0 && n == len(r.Rules) {
			refused[r] = true
		}
		if f.Routes == nil || f.Routes(r.Name) {
			s.Routes[r.Name] = routeStatus(r, a.verdicts[r.Name], refused[r], dropped[r.Name], o.Grants, f)
		}
	}
	for i := range o.Limits {
		s.Limits[o.Limits[i].Name] = a.limitStatus(&o.Limits[i], routes)
	}
	for name, listeners := range a.gateways {
		g := a.gatewayOf[name]
		in := inspection{g, gatewayRefusal(g, classes[g.Class]), o.Grants, f, f.Gateways[name], refused}
		s.Gateways[name] = in.status(listeners)
	}
	return s
}

// Carry gives the new conditions their times: of the old one of their type
// unless its status changed, else now.
func Carry(old, conditions []Condition, now time.Time) []Condition {
	out := slices.Clone(conditions)
	for i := range out {
		out[i].LastTransitionTime = now.UTC().Truncate(time.Second)
		for _, c := range old {
			if c.Type == out[i].Type && c.Status == out[i].Status {
				out[i].LastTransitionTime = c.LastTransitionTime
			}
		}
	}
	return out
}

func classRefusal(c Class) Refusal {
	if c.HasParametersRef {
		return Refusal{"InvalidParameters", fmt.Sprintf("no kind of parameters is supported; remove parametersRef from GatewayClass %q", c.Name.Name)}
	}
	return Refusal{}
}

// gatewayRefusal is why no listener of a Gateway is served, whatever they are.
func gatewayRefusal(g *Gateway, c Class) Refusal {
	if f := classRefusal(c); f != (Refusal{}) {
		return f
	}
	if g.HasParametersRef {
		return Refusal{"InvalidParameters", fmt.Sprintf("no kind of parameters is supported; remove parametersRef from Gateway %q", g.Name)}
	}
	for _, a := range g.Addresses {
		if a.Type != "IPAddress" {
			return Refusal{"UnsupportedAddress", fmt.Sprintf("addresses of type %q are not supported; write an IPAddress", a.Type)}
		}
	}
	return Refusal{}
}

// inspection is one Gateway with all that its status depends on.
type inspection struct {
	*Gateway
	refusal Refusal
	grants  []Grant
	facts   Facts
	own     GatewayFacts
	refused map[*HTTPRoute]bool // routes that are not accepted though they attach
}

func (in *inspection) status(listeners []attached) GatewayStatus {
	out := GatewayStatus{Addresses: append([]Address{}, in.own.Addresses...), Listeners: []ListenerStatus{}}
	var invalid, unresolved []string
	var pending, programmed bool
	for i, s := range in.listeners(listeners) {
		name := listeners[i].listener.Name
		if s.accepted != (Refusal{}) {
			invalid = append(invalid, name)
		}
		if s.refs != (Refusal{}) {
			unresolved = append(unresolved, name)
		}
		pending = pending || s.programmed.Reason == "Pending"
		programmed = programmed || s.programmed == (Refusal{})
		out.Listeners = append(out.Listeners, in.listenerStatus(&listeners[i], &s))
	}

	valid := "the Gateway is valid"
	if in.BelievesAnybody() {
		valid += "; whoever reaches its ports names his address himself: trusted-proxies is set without trusted-proxy-addresses"
	}
	accepted := conditionOf("Accepted", in.Generation, in.refusal, "Accepted", valid)
	if in.refusal == (Refusal{}) && len(invalid) > 0 {
		accepted.Reason = "ListenersNotValid"
		accepted.Message = fmt.Sprintf("not accepted: listeners %s; their conditions say why", strings.Join(invalid, ", "))
		if len(invalid) == len(listeners) {
			accepted.Status = "False"
		}
	}
	var refs Refusal
	if len(unresolved) > 0 {
		refs = Refusal{"ListenersNotResolved", fmt.Sprintf("references cannot be followed: listeners %s; their conditions say why", strings.Join(unresolved, ", "))}
	}
	var idle Refusal
	switch {
	case accepted.Status == "False":
		idle = Refusal{"Invalid", fmt.Sprintf("Gateway %q is not accepted; its condition Accepted says why", in.Name)}
	case in.own.AddressRefusal != (Refusal{}):
		idle = in.own.AddressRefusal
	case !in.own.Live:
		idle = in.notLive()
	case !programmed && pending:
		idle = Refusal{"Pending", fmt.Sprintf("Gateway %q is being opened; its listeners' conditions say what is missing", in.Name)}
	case !programmed:
		idle = Refusal{"Invalid", fmt.Sprintf("no listener of Gateway %q can serve; their conditions say why", in.Name)}
	}
	out.Conditions = []Condition{
		accepted,
		conditionOf("Programmed", in.Generation, idle, "Programmed", "the Gateway serves"),
		conditionOf("ResolvedRefs", in.Generation, refs, "ResolvedRefs", "all references of the listeners can be followed"),
	}
	if in.insecure() {
		out.Conditions = append(out.Conditions, conditionOf("InsecureFrontendValidationMode", in.Generation, Refusal{}, "ConfigurationChanged",
			"callers without a valid certificate are let in, as nobody"))
	}
	return out
}

func (in *inspection) notLive() Refusal {
	return Refusal{"Pending", fmt.Sprintf("no process runs Gateway %[1]q; start countersign gateway, and once: countersign identity register %[1]s --selector gateway:%[1]s", in.Name)}
}

// routeStatus is the status of one route. One that is refused as a whole still
// attaches, so that its requests get 500 and no wider rule takes them.
func routeStatus(r *HTTPRoute, verdicts []verdict, refused bool, dropped []string, grants []Grant, f Facts) RouteStatus {
	s := RouteStatus{Parents: []ParentStatus{}}
	refs := routeRefs(r, grants, f)
	for i, v := range verdicts {
		if !v.ours {
			continue
		}
		refusal := v.refusal
		if refusal == (Refusal{}) && refused {
			refusal = Refusal{"UnsupportedValue", "no rule can be served. " + strings.Join(dropped, ". ")}
		}
		conditions := []Condition{
			conditionOf("Accepted", r.Generation, refusal, "Accepted", "the route is attached"),
			conditionOf("ResolvedRefs", r.Generation, refs, "ResolvedRefs", "all references of the route can be followed"),
		}
		if len(dropped) > 0 && !refused {
			conditions = append(conditions, conditionOf("PartiallyInvalid", r.Generation, Refusal{}, "UnsupportedValue", strings.Join(dropped, ". ")))
		}
		s.Parents = append(s.Parents, ParentStatus{r.Parents[i], Controller, conditions})
	}
	return s
}

// droppedRules says of the invalid rules of every route why they are, in the
// order of the rules.
func droppedRules(invalid []Fault) map[Name][]string {
	sorted := slices.Clone(invalid)
	slices.SortFunc(sorted, func(a, b Fault) int {
		return cmp.Or(compareNames(a.Route, b.Route), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Text, b.Text))
	})
	sorted = slices.CompactFunc(sorted, func(a, b Fault) bool { return a.Route == b.Route && a.Rule == b.Rule })
	out := map[Name][]string{}
	for _, f := range sorted {
		out[f.Route] = append(out[f.Route], fmt.Sprintf("Dropped Rule %d: %s; its requests get 500", f.Rule, f.Text))
	}
	return out
}

// routeRefs is the first reference of the route that cannot be followed, in
// the order written, and how many there are.
func routeRefs(r *HTTPRoute, grants []Grant, f Facts) Refusal {
	var first Refusal
	n := 0
	note := func(rule int, refusal Refusal) {
		if refusal == (Refusal{}) {
			return
		}
		if n++; n == 1 {
			first = Refusal{refusal.Reason, fmt.Sprintf("rule %d: %s", rule, refusal.Text)}
		}
	}
	extensions := func(rule int, filters []Filter) {
		for _, filter := range filters {
			if filter.Extension != nil {
				note(rule, ResolveExtension(r, *filter.Extension, f))
			}
		}
	}
	for i := range r.Rules {
		extensions(i, r.Rules[i].Filters)
		for j := range r.Rules[i].Backends {
			b := &r.Rules[i].Backends[j]
			note(i, ResolveBackend(r, b, grants, f))
			extensions(i, b.Filters)
		}
	}
	if n > 1 {
		first.Text += fmt.Sprintf(" (and %d more)", n-1)
	}
	return first
}

// conditionOf is True without a refusal, with the reason and message given.
func conditionOf(kind string, generation int64, refusal Refusal, reason, message string) Condition {
	if refusal != (Refusal{}) {
		return Condition{Type: kind, Status: "False", Reason: refusal.Reason, Message: refusal.Text, ObservedGeneration: generation}
	}
	return Condition{Type: kind, Status: "True", Reason: reason, Message: message, ObservedGeneration: generation}
}
