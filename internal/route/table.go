package route

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// Attached is one listener that serves, with the routes attached to it.
type Attached struct {
	Gateway  Name
	Listener string
	Port     uint16
	Protocol Protocol
	Hostname string // of the listener; empty: any
	Routes   []Effective
	Options  Options // of the Gateway
}

// Effective is a route and its effective hostnames on one listener (gateway.md section 5); "" is any host.
type Effective struct {
	Route     *HTTPRoute
	Hostnames []string
}

// Fault says why a rule answers 500 (E403). Nothing that a stranger sent is in it.
type Fault struct {
	Route Name
	Rule  int
	Text  string
}

// Table is all that decides where requests go. It never changes; all its methods are safe for concurrent use.
type Table struct {
	ports   map[address]*Port
	routers []*Router
	names   map[string]struct{} // of the routes attached
}

// address is a port of a Gateway: every Gateway has addresses of its own.
type address struct {
	gateway Name
	port    uint16
}

// Port is the listeners of one Gateway on one port. They are distinct: at most one of each hostname.
type Port struct {
	routers names[Router]

	// The bounds of its connections, 0 where no one said, and the fields that a rule lets strangers say.
	MaxConnections, MaxPerSource int
	ClientHeaders                []string
	proxies                      []*Networks
}

// Router is one listener and what is attached to it. Its requests never see routes of another one (gateway.md 4.3).
type Router struct {
	Gateway  Name
	Listener string
	Port     uint16
	Protocol Protocol
	Hostname string

	hosts names[host]
	order []*host // most specific first, rows 1 and 2 of gateway.md 6.2

	entrance *Entrance
	settings *Settings
	own      map[*Action]*Settings // of the rules of routes with options
}

// Compile makes a table. A rule with a fault keeps its place in it and answers 500 to what it takes: it never makes
// room for a wider one.
func Compile(listeners []Attached) (*Table, []Fault) { return new(Compiler).Compile(listeners) }

// Check reports the faults of one route that do not depend on what it is attached to.
func Check(r *HTTPRoute) []Fault { return newCompiler().compileRoute(r, 1).faults() }

func faults(routes map[*HTTPRoute]*compiled) (out []Fault) {
	for _, c := range routes {
		out = append(out, c.faults()...)
	}
	slices.SortFunc(out, func(a, b Fault) int {
		return cmp.Or(compareNames(a.Route, b.Route), cmp.Compare(a.Rule, b.Rule))
	})
	return out
}

// Routers are those of all listeners, in the order they were given.
func (t *Table) Routers() iter.Seq[*Router] { return slices.Values(t.routers) }

// Port is the listeners of a Gateway on a port, nil if there are none.
func (t *Table) Port(gateway Name, port uint16) *Port { return t.ports[address{gateway, port}] }

// Router is that of the most specific listener for a host in look-up form (h1.LookupHost) or a server name in
// lower case; "" is that of a client that named none. Nil: 404, or the alert unrecognized_name.
func (p *Port) Router(host string) *Router {
	if host == "" {
		return p.routers.any
	}
	return p.routers.find(host)
}

// Serves decides whether a request for host may be served on a connection whose TLS handshake chose a listener
// (http-strictness section 6): 421 if another listener is the one for it, 404 if none is, else 0.
func (p *Port) Serves(handshake *Router, host string) (status int) {
	switch p.Router(host) {
	case nil:
		return 404
	case handshake:
		return 0
	}
	return 421
}

// names finds the most specific of a set of hostnames: exact, then the wildcard with most labels, then none.
type names[T any] struct {
	exact map[string]*T
	wild  label[T]
	any   *T
}

// label is a node of the tree of reversed labels; value is that of the wildcard one label below.
type label[T any] struct {
	below map[string]*label[T]
	value *T
}

// put keeps what was there first.
func (n *names[T]) put(hostname string, value *T) {
	place := &n.any
	if suffix, wild := strings.CutPrefix(hostname, "*."); wild {
		at := &n.wild
		for l, rest := lastLabel(suffix); ; l, rest = lastLabel(rest) {
			next := at.below[l]
			if next == nil {
				next = &label[T]{}
				if at.below == nil {
					at.below = map[string]*label[T]{}
				}
				at.below[l] = next
			}
			at = next
			if rest == "" {
				break
			}
		}
		place = &at.value
	} else if hostname != "" {
		if n.exact == nil {
			n.exact = map[string]*T{}
		}
		if n.exact[hostname] == nil {
			n.exact[hostname] = value
		}
		return
	}
	if *place == nil {
		*place = value
	}
}

func (n *names[T]) find(hostname string) *T {
	if v := n.exact[hostname]; v != nil {
		return v
	}
	return n.covering(hostname)
}

// covering is the most specific wildcard above a hostname, else the value of no hostname. *.x.test covers any depth
// below x.test, and not x.test itself.
func (n *names[T]) covering(hostname string) *T {
	best, at := n.any, &n.wild
	for at.below != nil {
		l, rest := lastLabel(hostname)
		if at = at.below[l]; at == nil || rest == "" {
			break
		}
		if at.value != nil {
			best = at.value
		}
		hostname = rest
	}
	return best
}

func lastLabel(hostname string) (last, rest string) {
	i := strings.LastIndexByte(hostname, '.')
	return hostname[i+1:], hostname[:max(i, 0)]
}
