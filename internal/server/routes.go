package server

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
	"countersign.dev/internal/snapshot"
)

// routing is what the Gateways do at one revision, computed as every node computes it.
type routing struct {
	*view
	table     *route.Table
	limits    *route.Limits
	listeners map[listenerKey]*route.Listener
	idle      map[listenerKey]string           // why a listener cannot serve
	bad       map[*route.Backend]route.Refusal // backends whose share answers 500
	states    map[string]string                // of services, by ns/name: that of the best instance
	programs  map[route.Name]*policy.Program   // of Gateways, as they were asked for
	plain     map[string]bool                  // services that are called in clear text, by ns/name
}

type listenerKey struct {
	gateway  route.Name
	listener string
}

func (v *view) routing() *routing {
	r := &routing{
		view: v, listeners: map[listenerKey]*route.Listener{}, idle: map[listenerKey]string{},
		bad: map[*route.Backend]route.Refusal{}, states: map[string]string{}, plain: map[string]bool{}, programs: map[route.Name]*policy.Program{},
	}
	attached := route.Attach(v.Edge)
	r.table, _ = route.Compile(attached) // a rule with a fault says so itself
	r.limits = route.CompileLimits(v.Edge, r.table)
	facts := route.Facts{Backend: v.backing, Secret: v.secret, TrustDomain: v.knows, Gateways: map[route.Name]route.GatewayFacts{}}
	for _, g := range v.Edge.Ours() {
		ports, files := map[uint16]string{}, map[string]route.Certificate{}
		for i := range g.Listeners {
			l := &g.Listeners[i]
			files[l.Name] = route.Certificate{}
			ports[l.Port] = "" // whether a node has it open is for its status to say
			r.listeners[listenerKey{g.Name, l.Name}] = l
		}
		facts.Gateways[g.Name] = route.GatewayFacts{Live: true, Ports: ports, Files: files}
	}
	for name, g := range route.Status(v.Edge, facts).Gateways {
		for _, l := range g.Listeners {
			for _, c := range l.Conditions {
				if c.Type == "Programmed" && c.Status != "True" {
					r.idle[listenerKey{name, l.Name}] = c.Message
				}
			}
		}
	}
	for _, a := range attached {
		for _, e := range a.Routes {
			for i := range e.Route.Rules {
				backends := e.Route.Rules[i].Backends
				for j := range backends {
					if no := route.ResolveBackend(e.Route, &backends[j], v.Edge.Grants, facts); no != (route.Refusal{}) {
						r.bad[&backends[j]] = no
					}
				}
			}
		}
	}
	for name, f := range v.foreign() {
		r.plain[name.String()] = true
		if slices.ContainsFunc(f.Ports, func(p route.ForeignPort) bool { return len(p.Endpoints) > 0 }) {
			r.states[name.String()] = snapshot.Ready
		}
	}
	for _, i := range v.Instances {
		for _, name := range i.Services {
			if rankOf(i.State) > rankOf(r.states[name]) {
				r.states[name] = i.State
			}
		}
	}
	return r
}

// rankOf orders the states of instances: the best has most, none is below all.
func rankOf(state string) int {
	return slices.Index([]string{snapshot.Draining, snapshot.Unready, snapshot.Starting, snapshot.Ready}, state)
}

// backing is what the registry knows of a backend.
func (v *view) backing(to route.Ref, port uint16) route.Backing {
	i := slices.IndexFunc(v.Services, func(s snapshot.Service) bool { return s.Namespace == to.Namespace && s.Name == to.Name.Name })
	switch {
	case i < 0:
		return route.ForeignBacking(v.foreign(), to, port)
	case to.Group != "":
		return route.NoService
	case !slices.ContainsFunc(v.Services[i].Ports, func(p snapshot.Port) bool { return p.Number == port }):
		return route.NoPort
	}
	return route.Usable
}

// routeList lists matches in order of precedence, of all listeners or of those that one host has.
func (s *Server) routeList(_ context.Context, q admin.RouteQuery) (admin.Routes, error) {
	host := ""
	if q.Host != "" {
		if f := h1.Edge.CheckHost(q.Host); f != nil {
			return admin.Routes{}, &admin.Problem{Code: "bad_host", Exit: 2, Message: fmt.Sprintf("host %q is none", q.Host), Hints: []string{"countersign route list"}}
		}
		host, _ = h1.LookupHost(q.Host)
	}
	r := s.world.load().routing()
	out := admin.Routes{Routes: []admin.RouteRow{}, Listeners: []admin.RouteListener{}}
	for at := range r.table.Routers() {
		l := r.listener(at)
		var hostnames []string
		if host != "" {
			if r.table.Port(at.Gateway, at.Port).Router(host) != at {
				continue
			}
			hostnames = at.Explain(host, &route.Request{Header: http.Header{}}).Hostnames // nothing fits: all are walked over
			l.StrictBecause = r.strict(at, host, policy.Conn{Port: at.Port, HTTP: true})
		}
		out.Listeners = append(out.Listeners, l)
		order := 0
		for row := range at.Rows() {
			order++
			if host != "" && !slices.Contains(hostnames, row.Hostname) || q.Namespace != "" && row.Route.Namespace != q.Namespace {
				continue
			}
			out.Routes = append(out.Routes, r.row(at, row, order))
		}
	}
	if host != "" && len(out.Listeners) == 0 {
		return out, &admin.Problem{Code: "not_found", Message: fmt.Sprintf("no listener of a Gateway is for host %q", host), Hints: []string{"countersign route list"}}
	}
	return out, nil
}

func (r *routing) listener(at *route.Router) admin.RouteListener {
	l := admin.RouteListener{
		Gateway: at.Gateway.String(), Listener: at.Listener, Port: at.Port, Protocol: string(at.Protocol), Hostname: at.Hostname,
		Fault: r.idle[listenerKey{at.Gateway, at.Listener}], Options: optionTexts(r.edgeGateway(at.Gateway).Options, at.Listener),
	}
	if at.Protocol == route.HTTPS {
		l.Certificate = "of our own authority"
		of := r.listeners[listenerKey{at.Gateway, at.Listener}]
		var names []string
		for _, ref := range of.Certificates {
			name := ref.Kind.String() + "/" + ref.Name.String()
			if c := r.certificates[ref.Name]; !c.notAfter.IsZero() {
				name += " until " + c.notAfter.UTC().Format(time.DateOnly)
			}
			names = append(names, name)
		}
		if of.Files != nil {
			names = append(names, "files "+of.Files.Chain+", "+of.Files.Key)
		}
		if len(names) > 0 {
			l.Certificate = strings.Join(names, ", ")
		}
	}
	return l
}

func (r *routing) row(at *route.Router, row route.Row, order int) admin.RouteRow {
	out := admin.RouteRow{
		Gateway: at.Gateway.String(), Listener: at.Listener, Port: at.Port, Host: row.Hostname, Match: row.Form, Order: order,
		Route: row.Route.String(), Rule: row.Index, RuleName: row.Rule.Name, Place: r.placeOf(row.Action),
		Backends: r.backends(row.Action), Filters: filterTexts(row.Rule.Filters), Limits: r.limitTexts(at, row.Action), Fault: r.answers500(at, row.Action),
		Options: optionTexts(row.Route.Options, row.Rule.Name), Needs: r.rowNeeds(at, row),
	}
	if row.Redirect != nil {
		out.Redirect = redirectText(row.Redirect, at, row.Hostname)
	}
	return out
}

// form is how the match of a hit is shown.
func (r *routing) form(at *route.Router, hit route.Hit) string {
	for row := range at.Rows() {
		if row.Action == hit.Action && row.Hostname == hit.Hostname && row.Match == hit.Match {
			return row.Form
		}
	}
	return ""
}

func (r *routing) backends(a *route.Action) []admin.RouteBackend {
	out := []admin.RouteBackend{}
	for i := range a.Rule.Backends {
		b := &a.Rule.Backends[i]
		name := b.Ref.Name.String()
		row := admin.RouteBackend{Service: name, Port: b.Port, Weight: b.Weight, State: cmp.Or(r.states[name], "none"), Plaintext: r.plain[name]}
		if no, bad := r.bad[b]; bad {
			row.State, row.Status, row.Reason, row.Fault = "refused", http.StatusInternalServerError, no.Reason, no.Text
		}
		if len(b.Filters) > 0 {
			row.Filters = filterTexts(b.Filters)
		}
		out = append(out, row)
	}
	return out
}

// answers500 is why a rule answers 500 to all it takes on a listener.
func (r *routing) answers500(at *route.Router, a *route.Action) string {
	set := r.limits.Of(at, a)
	switch {
	case a.Bad != "":
		return a.Bad
	case set != nil && set.Bad != "":
		return set.Bad
	case a.Redirect == nil && a.Choose(0) < 0:
		return "no backend with a weight"
	}
	return ""
}

// placeOf is where a rule was written.
func (r *routing) placeOf(a *route.Action) *admin.Place {
	rec, ok := r.records[catalog.Key("HTTPRoute", a.Route.Namespace, a.Route.Name.Name)]
	if !ok || rec.Places.File == "" {
		return nil
	}
	place := &admin.Place{File: rec.Places.File, Line: rec.Places.Line}
	if at := rec.Places.Rule(a.Index); at.Line > 0 {
		place.Line = at.Line
	}
	return place
}
