package route

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Hit is the match that takes a request.
type Hit struct {
	*Action
	Hostname string // the effective one it stands under; empty: any
	Match    int    // its index in the rule
	Prefix   int    // bytes of the path that a PathPrefix took, without its final slash
}

// host is the router of one effective hostname. Every list is in the order of rows 4 to 11 of gateway.md 6.2.
type host struct {
	name  string
	wider *host // the next less specific hostname of the listener that covers this one
	exact map[string][]*match
	regex []*match
	root  element
	path  *match // one that looks at the path; nil: all are PathPrefix /

	of      []*compiled // what it was built of
	bounded bool        // more expressions than are read: their rules were marked
}

// element is a node of the tree of path elements.
type element struct {
	below map[string]*element
	leaf  []*match // those whose prefix ends here
	up    *element // the nearest one above that has a leaf
}

// attach builds the routers of a listener's hostnames, of what hosted gives for a name and the routes on it.
func (r *Router) attach(routes []Effective, all map[*HTTPRoute]*compiled, hosted func(string, []*compiled) *host) {
	on := map[string][]*compiled{}
	for _, e := range routes {
		for i, name := range e.Hostnames {
			if !slices.Contains(e.Hostnames[:i], name) {
				on[name] = append(on[name], all[e.Route])
			}
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(on), moreSpecific) {
		h := *hosted(name, on[name]) // what is wider is this table's alone
		r.hosts.put(name, &h)
		r.order = append(r.order, &h)
	}
	for _, h := range r.order {
		h.wider = nil
		if h.name != "" {
			h.wider = r.hosts.covering(strings.TrimPrefix(h.name, "*."))
		}
	}
}

func newHost(name string, of []*compiled) *host {
	h := &host{name: name, of: of, exact: map[string][]*match{}}
	var all []*match
	for _, c := range of {
		all = append(all, c.matches...)
	}
	h.build(all)
	return h
}

// moreSpecific is rows 1 and 2 of gateway.md 6.2. Hostnames that tie there never fit one request.
func moreSpecific(a, b string) int {
	return cmp.Or(
		cmp.Compare(exactLength(b), exactLength(a)),
		cmp.Compare(len(b), len(a)),
		cmp.Compare(a, b),
	)
}

func exactLength(hostname string) int {
	if strings.HasPrefix(hostname, "*.") {
		return 0
	}
	return len(hostname)
}

// build puts every match into its list, and sorts the lists.
func (h *host) build(all []*match) {
	for _, m := range all {
		if h.path == nil && (m.kind != Prefix || m.path != "") {
			h.path = m
		}
		switch m.rank() {
		case 0:
			h.exact[m.path] = append(h.exact[m.path], m)
		case 1:
			h.regex = append(h.regex, m)
		default:
			at := h.root.child(m.path)
			at.leaf = append(at.leaf, m)
		}
	}
	h.boundRegexes()
	for _, list := range h.exact {
		slices.SortFunc(list, compare)
	}
	slices.SortFunc(h.regex, compare)
	h.root.finish(nil)
}

// boundRegexes keeps the expressions of the oldest rules. One beyond the bound counts as unreadable: the rule
// answers 500, also to what its expression would not have taken.
func (h *host) boundRegexes() {
	if len(h.regex) <= maxHostRegexes {
		return
	}
	h.bounded = true
	slices.SortFunc(h.regex, compareAge)
	for i, m := range h.regex[maxHostRegexes:] {
		m.fault("more than %d regular expressions for the paths of one hostname", maxHostRegexes)
		unread := *m // on another hostname it may be within the bound
		unread.pattern = pattern{}
		h.regex[maxHostRegexes+i] = &unread
	}
}

// sorted is all matches in the order of rows 3 to 11.
func (h *host) sorted() []*match {
	all := slices.Concat(slices.Collect(maps.Values(h.exact))...)
	all = append(all, h.regex...)
	h.root.each(func(leaf []*match) { all = append(all, leaf...) })
	slices.SortFunc(all, compare)
	return all
}

func (e *element) child(path string) *element {
	for path != "" {
		var name string
		name, path = cutElement(path)
		next := e.below[name]
		if next == nil {
			next = &element{}
			if e.below == nil {
				e.below = map[string]*element{}
			}
			e.below[name] = next
		}
		e = next
	}
	return e
}

// cutElement cuts the first element off a path that starts with a slash; the rest is empty or starts with one.
func cutElement(path string) (name, rest string) {
	if i := strings.IndexByte(path[1:], '/'); i >= 0 {
		return path[1 : i+1], path[i+1:]
	}
	return path[1:], ""
}

// finish sorts the leaves and links each node to the nearest leaf above it.
func (e *element) finish(up *element) {
	e.up = up
	if len(e.leaf) > 0 {
		slices.SortFunc(e.leaf, compare)
		up = e
	}
	for _, next := range e.below {
		next.finish(up)
	}
}

func (e *element) each(visit func([]*match)) {
	visit(e.leaf)
	for _, next := range e.below {
		next.each(visit)
	}
}

// Lookup finds the match that takes a request for a host in look-up form. It allocates nothing, unless an escape
// of the path has a small letter or a regular expression looks at a value in pieces.
func (r *Router) Lookup(hostname string, q *Request) (Hit, bool) {
	if q.Path == "" || q.Path[0] != '/' {
		return Hit{}, false
	}
	path, v := upperEscapes(q.Path), view{Request: q}
	for h := r.hosts.find(hostname); h != nil; h = h.wider {
		if m := h.lookup(path, &v); m != nil {
			return h.hit(m), true
		}
	}
	return Hit{}, false
}

func (h *host) hit(m *match) Hit {
	hit := Hit{Action: m.Action, Hostname: h.name, Match: int(m.index)}
	if m.kind == Prefix {
		hit.Prefix = len(m.path)
	}
	return hit
}

func (h *host) lookup(path string, v *view) *match {
	if m := first(h.exact[path], v); m != nil {
		return m
	}
	for _, m := range h.regex {
		if m.fits(v) && m.pattern.fits(path) {
			return m
		}
	}
	at := &h.root
	for rest := path; rest != "" && at.below != nil; {
		var name string
		name, rest = cutElement(rest)
		next := at.below[name]
		if next == nil {
			break
		}
		at = next
	}
	for ; at != nil; at = at.up {
		if m := first(at.leaf, v); m != nil {
			return m
		}
	}
	return nil
}

func first(leaf []*match, v *view) *match {
	for _, m := range leaf {
		if m.fits(v) {
			return m
		}
	}
	return nil
}

// Preflight finds the rule that a CORS preflight asks about: the one that takes a request of that method, its
// header left out of account. Without a hit the preflight is an ordinary OPTIONS request (gateway.md 7.6).
func (r *Router) Preflight(hostname string, q *Request, method string) (Hit, bool) {
	asked := *q
	asked.Method, asked.Preflight = method, true
	hit, ok := r.Lookup(hostname, &asked)
	if !ok || hit.CORS == nil || hit.Bad != "" {
		return Hit{}, false
	}
	return hit, true
}

// Strict reports whether a match for the host looks at the path, and one that does: escapes of reserved characters
// are then refused, because parsers disagree on them (http-strictness 5.3).
func (r *Router) Strict(hostname string) (Hit, bool) {
	for h := r.hosts.find(hostname); h != nil; h = h.wider {
		if h.path != nil {
			return h.hit(h.path), true
		}
	}
	return Hit{}, false
}
