package server

import (
	"fmt"
	"slices"
	"strings"

	"countersign.dev/internal/catalog"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/route"
)

// edgeWarnings say what will not work of the Gateway API objects that a batch writes, though every node does its part:
// the conditions that would be False (gateway.md 3.2), and a door that nobody may pass.
func (s *Server) edgeWarnings(b batch, then map[string]catalog.Record, v *view) []resource.Fault {
	if b.verb == "expose" || !slices.ContainsFunc(b.changes, func(ch catalog.Change) bool {
		return !ch.Remove && (strings.HasPrefix(ch.Object.APIVersion, "gateway.networking.k8s.io/") || ch.Object.Kind == "RateLimit")
	}) {
		return nil
	}
	now := s.world.load()
	v.Services, v.Bundles = now.Services, now.Bundles
	plan := route.PlanOf(v.Edge)
	attached := plan.Attached()
	facts := s.ifAllRuns(v, attached, then)
	s.foresee(v, &facts)
	written := map[route.Name]bool{}
	for _, ch := range b.changes {
		if ch.Object.Kind == "HTTPRoute" {
			written[route.Name{Namespace: ch.Object.Namespace, Name: ch.Object.Name}] = true
		}
	}
	facts.Routes = func(name route.Name) bool { return written[name] }
	w := edgeWarner{v: v, attached: attached, status: plan.Status(facts), then: then, entered: map[route.Name]bool{}}
	for _, ch := range b.changes {
		if ch.Remove {
			continue
		}
		name := route.Name{Namespace: ch.Object.Namespace, Name: ch.Object.Name}
		switch ch.Object.Kind {
		case "Gateway":
			w.gateway(name)
		case "HTTPRoute":
			w.route(name)
		case "RateLimit":
			w.limit(name)
		}
	}
	return bounded(w.faults)
}

// ifAllRuns are the facts of a mesh where every Gateway has its ports. Its caller holds s.writing.
func (s *Server) ifAllRuns(v *view, attached []route.Attached, objects map[string]catalog.Record) route.Facts {
	table, invalid := s.compiler.Compile(attached)
	limits := route.CompileLimits(v.Edge, table)
	invalid = append(invalid, limits.Faults()...)
	for i := range v.Edge.Routes {
		invalid = append(invalid, s.compiler.Check(&v.Edge.Routes[i])...)
	}
	f := route.Facts{Backend: v.backing, Secret: secretOf(objects), TrustDomain: v.knows, RateLimit: limits.Known, Invalid: invalid, Gateways: map[route.Name]route.GatewayFacts{}}
	for _, g := range v.Edge.Ours() {
		ports, files := map[uint16]string{}, map[string]route.Certificate{}
		for _, l := range g.Listeners {
			ports[l.Port], files[l.Name] = "", route.Certificate{}
		}
		f.Gateways[g.Name] = route.GatewayFacts{Live: true, Ports: ports, Files: files}
	}
	return f
}

type edgeWarner struct {
	v        *view
	attached []route.Attached
	status   route.Statuses
	then     map[string]catalog.Record
	entered  map[route.Name]bool // Gateways whose policies were looked at
	faults   []resource.Fault
}

// warn cuts the way out off a sentence of a condition: it stands behind the last semicolon.
func (w *edgeWarner) warn(kind string, name route.Name, field, code, text, hint string) {
	if i := strings.LastIndex(text, "; "); hint == "" && i >= 0 {
		text, hint = text[:i], text[i+2:]
	}
	r := w.then[catalog.Key(kind, name.Namespace, name.Name)]
	f := resource.Fault{
		File: r.Places.File, Line: r.Places.Line, Column: r.Places.Col, Code: code, Resource: r.ID(), Field: field, Text: text, Hint: hint, Severity: resource.Warning,
	}
	if !slices.Contains(w.faults, f) {
		w.faults = append(w.faults, f)
	}
}

func (w *edgeWarner) gateway(name route.Name) {
	i := slices.IndexFunc(w.v.Edge.Gateways, func(g route.Gateway) bool { return g.Name == name })
	g := &w.v.Edge.Gateways[i]
	s, ours := w.status.Gateways[name]
	if !ours {
		w.warn("Gateway", name, "spec.gatewayClassName", "", fmt.Sprintf("nobody serves class %q", g.Class), "gatewayClassName: countersign")
		return
	}
	for _, c := range s.Conditions {
		// What its listeners say better is left to them.
		if c.Status == "False" && !slices.Contains([]string{"ListenersNotValid", "ListenersNotResolved", "Invalid"}, c.Reason) {
			w.warn("Gateway", name, "", c.Reason, c.Message, "")
		}
	}
	for i, l := range s.Listeners {
		for _, c := range l.Conditions {
			if c.Status == "False" && (c.Type == "Accepted" || c.Type == "ResolvedRefs") {
				w.warn("Gateway", name, fmt.Sprintf("spec.listeners[%d]", i), c.Reason, c.Message, "")
			}
		}
	}
	w.entry(name)
}

func (w *edgeWarner) route(name route.Name) {
	i := slices.IndexFunc(w.v.Edge.Routes, func(r route.HTTPRoute) bool { return r.Name == name })
	parents := w.status.Routes[name].Parents
	if len(w.v.Edge.Routes[i].Parents) == 0 {
		w.warn("HTTPRoute", name, "spec.parentRefs", "", "no Gateway takes it", "name one")
	}
	for i, p := range w.v.Edge.Routes[i].Parents {
		field := fmt.Sprintf("spec.parentRefs[%d]", i)
		at := slices.IndexFunc(parents, func(s route.ParentStatus) bool { return s.Parent == p })
		if at < 0 {
			w.warn("HTTPRoute", name, field, "", w.noParent(p), "")
			continue
		}
		for _, c := range parents[at].Conditions {
			switch {
			case c.Type == "PartiallyInvalid" && c.Status == "True", c.Type == "ResolvedRefs" && c.Status == "False":
				w.warn("HTTPRoute", name, "spec.rules", c.Reason, c.Message, "")
			case c.Status == "False":
				w.warn("HTTPRoute", name, field, c.Reason, c.Message, "")
			}
		}
		w.entry(p.Name)
	}
}

// noParent says why a parent is none of ours.
func (w *edgeWarner) noParent(p route.Parent) string {
	i := slices.IndexFunc(w.v.Edge.Gateways, func(g route.Gateway) bool { return g.Name == p.Name })
	switch {
	case p.Kind.Kind != "Gateway":
		return fmt.Sprintf("a %s as parent is not supported yet; refer to a Gateway", p.Kind.Kind)
	case i < 0:
		return fmt.Sprintf("there is no Gateway %q of countersign; correct the name, or apply the Gateway", p.Name)
	}
	return fmt.Sprintf("Gateway %q is of class %q, which nobody serves; gatewayClassName: countersign", p.Name, w.v.Edge.Gateways[i].Class)
}

// entry warns of a Gateway that nobody may enter, or everybody.
func (w *edgeWarner) entry(name route.Name) {
	if w.entered[name] {
		return
	}
	w.entered[name] = true
	program := w.v.compiled.For(w.v.gatewayDestination(name))
	say := fmt.Sprintf("say who may in an AuthorizationPolicy with targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: %s}]", name.Name)
	switch {
	case !program.HasAllow():
		w.warn("Gateway", name, "", "", "everybody can enter: no ALLOW policy selects it", say)
		return
	case !program.NamesDestination():
		w.warn("Gateway", name, "", "", "nobody can enter: no rule of an ALLOW policy selects it", say)
		return
	}
	for _, a := range w.attached {
		if a.Gateway == name && a.Protocol == route.HTTP && onlyRedirects(a) && !allows(program, a.Port) {
			w.warn("Gateway", name, "", "", fmt.Sprintf("listener %q only redirects, and no ALLOW policy lets anybody do that on port %d", a.Listener, a.Port), fmt.Sprintf("a rule with ports: [\"%d\"] in an AuthorizationPolicy for it", a.Port))
		}
	}
}

func onlyRedirects(a route.Attached) bool {
	for _, r := range a.Routes {
		for _, rule := range r.Route.Rules {
			if !slices.ContainsFunc(rule.Filters, func(f route.Filter) bool { return f.Redirect != nil }) {
				return false
			}
		}
	}
	return len(a.Routes) > 0
}

// allows reports whether somebody without a certificate may do something on a port.
func allows(p *policy.Program, port uint16) bool {
	return slices.ContainsFunc(p.May(policy.Peer{}, []uint16{port}), func(g policy.Grant) bool { return g.Action == policy.Allow })
}

// bounded are warnings of which the rest is only counted.
func bounded(warnings []resource.Fault) []resource.Fault {
	if more := len(warnings) - maxWarnings; more > 0 {
		return append(warnings[:maxWarnings:maxWarnings], resource.Fault{Text: fmt.Sprintf("and %d more", more), Severity: resource.Warning})
	}
	return warnings
}

// certificateNotes say which listeners of written Gateways show a certificate of our own authority though nobody said so.
func certificateNotes(changes []catalog.Change, results []string) []string {
	var out []string
	for i, ch := range changes {
		if ch.Remove || ch.Object.Kind != "Gateway" || results[i] == catalog.Unchanged {
			continue
		}
		for _, name := range resource.WithoutTLS(ch.Object) {
			out = append(out, fmt.Sprintf("listener %s names no certificate; our own is used (ca root)", name))
		}
	}
	return out
}
