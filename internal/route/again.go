package route

import (
	"cmp"
	"slices"
)

// Compiler compiles one table after another, of which each is much like the one before: what did not change is taken
// from there. The zero Compiler is ready; it is for one goroutine.
type Compiler struct {
	routes map[*Rule]*compiled // by the first rule, which a reading has for itself
	hosts  map[hostKey]*host
}

// hostKey is a hostname of a listener.
type hostKey struct {
	at       address
	listener string
	hostname string
}

// Compile makes a table. A rule with a fault keeps its place in it and answers 500 to what it takes: it never makes
// room for a wider one.
func (c *Compiler) Compile(listeners []Attached) (*Table, []Fault) {
	t := &Table{ports: map[address]*Port{}}
	routes := c.compileRoutes(listeners)
	t.names = make(map[string]struct{}, len(routes))
	for _, r := range routes {
		if len(r.actions) > 0 {
			t.names[r.actions[0].Of] = struct{}{}
		}
	}
	hosts := make(map[hostKey]*host, len(c.hosts))
	for i := range listeners {
		at := &listeners[i]
		router := &Router{Gateway: at.Gateway, Listener: at.Listener, Port: at.Port, Protocol: at.Protocol, Hostname: at.Hostname}
		key := address{at.Gateway, at.Port}
		router.attach(at.Routes, routes, func(name string, of []*compiled) *host {
			k := hostKey{key, at.Listener, name}
			h := c.hosts[k]
			if h == nil || !slices.Equal(h.of, of) {
				h = newHost(name, of)
			}
			if !h.bounded {
				hosts[k] = h
			}
			return h
		})
		router.choose(at.Options, at.Routes, routes)
		t.routers = append(t.routers, router)
		if t.ports[key] == nil {
			t.ports[key] = &Port{}
		}
		t.ports[key].routers.put(at.Hostname, router)
		t.ports[key].join(router)
	}
	c.hosts = hosts
	return t, faults(routes)
}

// Check reports the faults of one route that do not depend on what it is attached to.
func (c *Compiler) Check(r *HTTPRoute) []Fault {
	if len(r.Rules) > 0 {
		if had := c.routes[&r.Rules[0]]; had != nil {
			return had.faults()
		}
	}
	return Check(r)
}

// spacing of places leaves room for routes that come between others.
const spacing = 1 << 10

// compileRoutes compiles every route once, however many listeners it is attached to, and gives it its place by age. One
// that was compiled before keeps its place while that is right.
func (c *Compiler) compileRoutes(listeners []Attached) map[*HTTPRoute]*compiled {
	n := 0
	for i := range listeners {
		n = max(n, len(listeners[i].Routes))
	}
	out := make(map[*HTTPRoute]*compiled, n)
	oldest := make([]*HTTPRoute, 0, n)
	for i := range listeners {
		for _, e := range listeners[i].Routes {
			if _, seen := out[e.Route]; !seen {
				out[e.Route] = nil
				oldest = append(oldest, e.Route)
			}
		}
	}
	slices.SortFunc(oldest, func(a, b *HTTPRoute) int {
		return cmp.Or(a.Created.Compare(b.Created), compareNames(a.Name, b.Name))
	})
	ahead := make([]int64, len(oldest)) // places of the nearest younger ones that have one
	for i, next := len(oldest)-1, int64(0); i >= 0; i-- {
		ahead[i] = next
		if place := c.placeOf(oldest[i]); place > 0 {
			next = place
		}
	}
	compiler, kept, last := newCompiler(), make(map[*Rule]*compiled, n), int64(0)
	for i, r := range oldest {
		var had *compiled
		if len(r.Rules) > 0 {
			had = c.routes[&r.Rules[0]]
		}
		if had == nil || had.place <= last {
			place := last + spacing
			if ahead[i] > last {
				place = last + max((ahead[i]-last)/2, 1)
			}
			had = compiler.compileRoute(r, place)
		}
		out[r], last = had, had.place
		if !had.regex && len(r.Rules) > 0 { // a bound on expressions marks rules for one table
			kept[&r.Rules[0]] = had
		}
	}
	c.routes = kept
	return out
}

// placeOf is the place that a route had; 0: none.
func (c *Compiler) placeOf(r *HTTPRoute) int64 {
	if len(r.Rules) == 0 || c.routes[&r.Rules[0]] == nil {
		return 0
	}
	return c.routes[&r.Rules[0]].place
}
