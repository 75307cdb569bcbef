package route

import (
	"fmt"
	"iter"
	"strings"
)

// Explanation says which match takes a request, and why every better placed one of the hostnames that cover its
// host does not.
type Explanation struct {
	Hostnames []string // most specific first; empty: no route of the listener has one for the host
	Missed    []Miss   // in order of precedence
	Taken     *Hit     // nil: 404
}

// Miss is a candidate and what of the request it does not fit.
type Miss struct {
	Hit
	Form string // as Row has it
	Why  string
}

// Explain walks over all candidates, in the order of gateway.md 6.2. It is for people, and slow.
func (r *Router) Explain(hostname string, q *Request) Explanation {
	var e Explanation
	path := upperEscapes(q.Path)
	for h := r.hosts.find(hostname); h != nil; h = h.wider {
		e.Hostnames = append(e.Hostnames, h.name)
		for _, m := range h.sorted() {
			hit := h.hit(m)
			if why := m.miss(path, q); why != "" {
				e.Missed = append(e.Missed, Miss{hit, m.String(), why})
				continue
			}
			e.Taken = &hit
			return e
		}
	}
	return e
}

// Row is one match of a listener, as it is listed.
type Row struct {
	Hit
	Form string // path, method, and the names of headers and query parameters
}

// Rows are all matches of the listener in order of precedence.
func (r *Router) Rows() iter.Seq[Row] {
	return func(yield func(Row) bool) {
		for _, h := range r.order {
			for _, m := range h.sorted() {
				if !yield(Row{h.hit(m), m.String()}) {
					return
				}
			}
		}
	}
}

// miss names the first condition that does not hold; "" if all do.
func (m *match) miss(path string, q *Request) string {
	if !m.fitsPath(path) {
		return fmt.Sprintf("path is %q", path)
	}
	if m.method != "" && m.method != q.Method {
		return fmt.Sprintf("method is %q, not %q", q.Method, m.method)
	}
	for i := range m.headers {
		c := &m.headers[i]
		lines := q.lines(c.name)
		switch {
		case q.Preflight || c.fitsLines(lines):
		case len(lines) == 0:
			return fmt.Sprintf("header %s is absent", c.name)
		default:
			return fmt.Sprintf("header %s is %q, not %s", c.name, strings.Join(lines, lineSeparator), c)
		}
	}
	for i := range m.query {
		c := &m.query[i]
		if c.fitsQuery(q.Query) {
			continue
		}
		value, ok := parameter(q.Query, c.name)
		if !ok {
			return fmt.Sprintf("query parameter %q is absent", c.name)
		}
		return fmt.Sprintf("query parameter %q is %q, not %s", c.name, value, c)
	}
	return ""
}

func (m *match) fitsPath(path string) bool {
	switch {
	case path == "" || path[0] != '/':
		return false
	case m.kind == Exact:
		return path == m.path
	case m.kind == Prefix:
		rest, ok := strings.CutPrefix(path, m.path)
		return ok && (rest == "" || rest[0] == '/')
	}
	return m.pattern.fits(path)
}

// String is what a condition asks for.
func (c *condition) String() string {
	if c.regex {
		return "~ " + c.value
	}
	return fmt.Sprintf("%q", c.value)
}

// String is how a match is shown.
func (m *match) String() string {
	var b strings.Builder
	switch m.kind {
	case Exact:
		b.WriteString("= " + m.path)
	case Prefix:
		b.WriteString(m.path + "/*")
	default:
		b.WriteString("~ " + m.path)
	}
	if m.method != "" {
		b.WriteString(" " + m.method)
	}
	for _, c := range m.headers {
		b.WriteString(" h:" + c.name)
	}
	for _, c := range m.query {
		b.WriteString(" q:" + c.name)
	}
	return b.String()
}
