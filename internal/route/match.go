package route

import (
	"cmp"
	"net/textproto"
	"slices"
	"strings"

	"countersign.dev/internal/h1"
)

// Header gives the lines of a field by its canonical name, as net/http.Header does.
type Header interface{ Values(name string) []string }

// Request is what a rule looks at: a request after its path came into normal form and its header was cleaned.
type Request struct {
	Method string
	Path   string
	Query  string // as sent, without the question mark
	Header Header
	// Preflight leaves header matches out: a CORS preflight carries none of the request it asks for. Method is then
	// that of the request to come.
	Preflight bool
}

// match is one match of a rule, in the form it is compared in.
type match struct {
	// What a look-up reads first stands together.
	method  string
	headers []condition
	query   []condition

	*Action
	index   int32  // in the rule
	place   int64  // of the route, by age
	path    string // normal, escapes in upper case, a prefix without its final slash; the pattern of a Regex
	pattern pattern
	kind    PathType
}

// condition is a header or query match.
type condition struct {
	name    string
	value   string
	regex   bool
	pattern pattern
}

func (c *condition) fits(value string) bool {
	if c.regex {
		return c.pattern.fits(value)
	}
	return value == c.value
}

// rank is row 3 of gateway.md 6.2. A type that is unknown stands with the regular expressions.
func (m *match) rank() int {
	switch m.kind {
	case Exact:
		return 0
	case Prefix:
		return 2
	}
	return 1
}

func (m *match) length() int {
	if m.kind == Exact {
		return 0
	}
	return len(m.path)
}

// compare is rows 3 to 11 of gateway.md 6.2: the better placed match comes first.
func compare(a, b *match) int {
	if c := cmp.Compare(a.rank(), b.rank()); c != 0 {
		return c
	}
	if c := cmp.Compare(b.length(), a.length()); c != 0 {
		return c
	}
	return cmp.Or(
		cmp.Compare(min(len(b.method), 1), min(len(a.method), 1)),
		cmp.Compare(len(b.headers), len(a.headers)),
		cmp.Compare(len(b.query), len(a.query)),
		compareAge(a, b),
	)
}

// compareAge is rows 8 to 11.
func compareAge(a, b *match) int {
	return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.Index, b.Index), cmp.Compare(a.index, b.index))
}

// compileMatch reads one match. An expression that cannot be read is a fault of its rule, and fits everything; a
// path that no request can have is one too, and the match is left out.
func (c *compiler) compileMatch(a *Action, out *match, m *Match) (possible bool) {
	out.Action, out.method = a, c.word(m.Method)
	out.kind, out.path = cmp.Or(m.PathType, Prefix), cmp.Or(m.Path, "/")
	switch out.kind {
	case Exact, Prefix:
		path, _, _, fault := h1.Normalize(out.path)
		if fault != nil || path[0] != '/' || strings.ContainsAny(out.path, "?#") {
			a.fault("path %q cannot be that of a request", out.path)
			return false
		}
		out.path = upperEscapes(path)
		if out.kind == Prefix {
			out.path = strings.TrimSuffix(out.path, "/")
		}
	case Regex:
		out.pattern = a.pattern(out.path)
	default:
		a.fault("path type %q is unknown", out.kind)
	}
	out.headers = c.conditions(a, m.Headers, c.field)
	out.query = c.conditions(a, m.Query, c.word)
	return true
}

func (a *Action) pattern(expr string) pattern {
	p, err := compilePattern(expr)
	if err != nil {
		a.fault("%v", err)
	}
	return p
}

// compiler lays what is looked at together near to each other: a big table does not fit the caches.
type compiler struct {
	words  map[string]string // methods and names, each kept once
	fields map[string]string // header names as written, to the canonical form
	slab   []condition
}

func newCompiler() *compiler {
	return &compiler{words: map[string]string{}, fields: map[string]string{}}
}

func (c *compiler) word(s string) string {
	if w, ok := c.words[s]; ok {
		return w
	}
	c.words[s] = s
	return s
}

func (c *compiler) field(name string) string {
	f, ok := c.fields[name]
	if !ok {
		f = c.word(textproto.CanonicalMIMEHeaderKey(name))
		c.fields[name] = f
	}
	return f
}

// conditions reads a list; the first of a repeated name counts.
func (c *compiler) conditions(a *Action, list []Pair, name func(string) string) []condition {
	start := len(c.slab)
	for _, p := range list {
		one := condition{name: name(p.Name), value: p.Value, regex: p.Regex}
		if slices.ContainsFunc(c.slab[start:], func(c condition) bool { return c.name == one.name }) {
			continue
		}
		if p.Regex {
			one.pattern = a.pattern(p.Value)
		}
		c.slab = append(c.slab, one)
	}
	return slices.Clip(c.slab[start:])
}

// view is a request with the field that was looked up last: neighbours in a list often ask for the same.
type view struct {
	*Request
	name  string
	found []string
}

func (v *view) lines(name string) []string {
	if v.name != name {
		v.name, v.found = name, v.Request.lines(name)
	}
	return v.found
}

func (q *Request) lines(name string) []string {
	if q.Header == nil {
		return nil
	}
	return q.Header.Values(name)
}

// fits reports whether a request meets everything but the path.
func (m *match) fits(v *view) bool {
	if m.method != "" && m.method != v.Method {
		return false
	}
	for i := range m.headers {
		if c := &m.headers[i]; !v.Preflight && !c.fitsLines(v.lines(c.name)) {
			return false
		}
	}
	for i := range m.query {
		if !m.query[i].fitsQuery(v.Query) {
			return false
		}
	}
	return true
}

const lineSeparator = ", "

// fitsLines compares the lines of a field joined with ", "; only a regular expression has to join them.
func (c *condition) fitsLines(lines []string) bool {
	switch {
	case len(lines) == 0:
		return false
	case len(lines) == 1:
		return c.fits(lines[0])
	case c.regex:
		return c.fits(strings.Join(lines, lineSeparator))
	}
	rest := c.value
	for i, line := range lines {
		var ok bool
		if i > 0 {
			if rest, ok = strings.CutPrefix(rest, lineSeparator); !ok {
				return false
			}
		}
		if rest, ok = strings.CutPrefix(rest, line); !ok {
			return false
		}
	}
	return rest == ""
}

// fitsQuery is http-strictness 5.4: the first parameter of the name counts; + and escapes are decoded for the
// comparison alone, and what has a malformed one fits nothing.
func (c *condition) fitsQuery(query string) bool {
	value, ok := parameter(query, c.name)
	if !ok {
		return false
	}
	if !c.regex {
		return equalDecoded(value, c.value)
	}
	if strings.ContainsAny(value, "%+") {
		if value, ok = decode(value); !ok {
			return false
		}
	}
	return c.fits(value)
}

// parameter finds the first parameter of a name; its value is as sent.
func parameter(query, name string) (value string, ok bool) {
	for query != "" {
		var one string
		one, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(one, "=")
		if one != "" && equalDecoded(key, name) {
			return value, true
		}
	}
	return "", false
}

// equalDecoded compares without decoding into memory.
func equalDecoded(sent, want string) bool {
	n := 0
	for i := 0; i < len(sent); n++ {
		c, width, ok := decodeByte(sent[i:])
		if !ok || n == len(want) || want[n] != c {
			return false
		}
		i += width
	}
	return n == len(want)
}

func decode(sent string) (string, bool) {
	b := make([]byte, 0, len(sent))
	for i := 0; i < len(sent); {
		c, width, ok := decodeByte(sent[i:])
		if !ok {
			return "", false
		}
		b = append(b, c)
		i += width
	}
	return string(b), true
}

func decodeByte(s string) (c byte, width int, ok bool) {
	switch {
	case s[0] == '+':
		return ' ', 1, true
	case s[0] != '%':
		return s[0], 1, true
	case len(s) < 3:
		return 0, 0, false
	}
	hi, lo := unhex(s[1]), unhex(s[2])
	return byte(hi<<4 | lo), 3, hi >= 0 && lo >= 0
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c - 'a' + 10)
	case c >= 'A' && c <= 'F':
		return int(c - 'A' + 10)
	}
	return -1
}

// upperEscapes is the form that paths are compared in. It allocates only where an escape has a small letter.
func upperEscapes(path string) string {
	i := strings.IndexByte(path, '%')
	if i < 0 {
		return path
	}
	var b []byte
	for ; i+2 < len(path); i++ {
		if path[i] != '%' {
			continue
		}
		for j := i + 1; j <= i+2; j++ {
			if c := path[j]; c >= 'a' && c <= 'f' {
				if b == nil {
					b = []byte(path)
				}
				b[j] = c - 'a' + 'A'
			}
		}
	}
	if b == nil {
		return path
	}
	return string(b)
}
