package route

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"
)

// The naive twin: every match of every route is tried, those that fit are sorted by gateway.md 6.2, row by row.

type fitting struct {
	hostname    string
	route       *HTTPRoute
	rule, match int
}

func (f fitting) m() Match { return f.route.Rules[f.rule].Matches[f.match] }

func naiveLookup(routes []Effective, host string, q *Request) (fitting, bool) {
	var all []fitting
	for _, e := range routes {
		for _, hostname := range e.Hostnames {
			if !naiveCovers(hostname, host) {
				continue
			}
			for i, rule := range e.Route.Rules {
				for j, m := range rule.Matches {
					if naiveFits(m, q) {
						all = append(all, fitting{hostname, e.Route, i, j})
					}
				}
			}
		}
	}
	sort.Slice(all, func(i, j int) bool { return naiveBefore(all[i], all[j]) })
	if len(all) == 0 {
		return fitting{}, false
	}
	return all[0], true
}

func naiveCovers(hostname, host string) bool {
	if suffix, ok := strings.CutPrefix(hostname, "*"); ok {
		return strings.HasSuffix(host, suffix) && len(host) > len(suffix)
	}
	return hostname == "" || hostname == host
}

var smallEscape = regexp.MustCompile("%[0-9a-fA-F]{2}")

func naiveUpper(path string) string {
	return smallEscape.ReplaceAllStringFunc(path, strings.ToUpper)
}

func naiveFits(m Match, q *Request) bool {
	path, value := naiveUpper(q.Path), naiveUpper(m.Path)
	switch m.PathType {
	case Exact:
		if path != value {
			return false
		}
	case Regex:
		if !naiveRegex(m.Path, path) {
			return false
		}
	default:
		value = strings.TrimSuffix(value, "/")
		if path != value && !strings.HasPrefix(path, value+"/") {
			return false
		}
	}
	if m.Method != "" && m.Method != q.Method {
		return false
	}
	seen := map[string]bool{}
	for _, p := range m.Headers {
		name := http.CanonicalHeaderKey(p.Name)
		if seen[name] || q.Preflight {
			continue
		}
		seen[name] = true
		lines := q.Header.Values(name)
		if len(lines) == 0 || !naiveValue(p, strings.Join(lines, ", ")) {
			return false
		}
	}
	for _, p := range naiveFirst(m.Query) {
		if value, ok := naiveParameter(q.Query, p.Name); !ok || !naiveValue(p, value) {
			return false
		}
	}
	return true
}

var naiveRegexes = map[string]*regexp.Regexp{}

func naiveRegex(expr, value string) bool {
	if naiveRegexes[expr] == nil {
		naiveRegexes[expr] = regexp.MustCompile("^(?:" + expr + ")$")
	}
	return naiveRegexes[expr].MatchString(value)
}

func naiveFirst(list []Pair) (out []Pair) {
	seen := map[string]bool{}
	for _, p := range list {
		if !seen[p.Name] {
			out = append(out, p)
		}
		seen[p.Name] = true
	}
	return out
}

func naiveValue(p Pair, value string) bool {
	if p.Regex {
		return naiveRegex(p.Value, value)
	}
	return value == p.Value
}

func naiveParameter(query, name string) (string, bool) {
	for _, one := range strings.Split(query, "&") {
		key, value, _ := strings.Cut(one, "=")
		if one == "" {
			continue
		}
		if k, err := url.QueryUnescape(key); err == nil && k == name {
			v, err := url.QueryUnescape(value)
			return v, err == nil
		}
	}
	return "", false
}

func naiveBefore(a, b fitting) bool {
	exact := func(f fitting) int {
		if strings.HasPrefix(f.hostname, "*") {
			return 0
		}
		return len(f.hostname)
	}
	kind := func(f fitting) int { return map[PathType]int{Exact: 2, Regex: 1}[f.m().PathType] }
	length := func(f fitting) int {
		switch f.m().PathType {
		case Prefix:
			return len(strings.TrimSuffix(f.m().Path, "/"))
		case Regex:
			return len(f.m().Path)
		}
		return 0
	}
	headers := func(f fitting) int {
		names := map[string]bool{}
		for _, p := range f.m().Headers {
			names[http.CanonicalHeaderKey(p.Name)] = true
		}
		return len(names)
	}
	method := func(f fitting) int { return min(1, len(f.m().Method)) }
	query := func(f fitting) int { return len(naiveFirst(f.m().Query)) }
	for _, row := range []func(fitting) int{exact, func(f fitting) int { return len(f.hostname) }, kind, length, method, headers, query} {
		if row(a) != row(b) {
			return row(a) > row(b)
		}
	}
	if a.route != b.route {
		return a.route.Older(b.route.Meta)
	}
	if a.rule != b.rule {
		return a.rule < b.rule
	}
	return a.match < b.match
}

// dice draws tables and requests over few names, so that nearly everything meets something.
type dice struct{ *rand.Rand }

func pick[T any](d dice, list ...T) T { return list[d.IntN(len(list))] }

func (d dice) match() Match {
	m := Match{PathType: pick(d, Exact, Prefix, Prefix, Regex)}
	switch m.PathType {
	case Regex:
		m.Path = pick(d, "/.*", "/a|/b", "/[ab]/.*", "/a(/b)?", "/%C3%A9", ".*b")
	default:
		m.Path = d.path()
	}
	m.Method = pick(d, "", "", "", "GET", "PUT")
	for range max(0, d.IntN(5)-2) {
		m.Headers = append(m.Headers, d.pair("A", "a", "B"))
	}
	for range max(0, d.IntN(5)-2) {
		m.Query = append(m.Query, d.pair("k", "K", "a b"))
	}
	return m
}

func (d dice) pair(names ...string) Pair {
	if d.IntN(4) == 0 {
		return Pair{pick(d, names...), pick(d, "1|2", "1.*", ".*"), true}
	}
	return Pair{pick(d, names...), pick(d, "1", "2", "1, 2"), false}
}

func (d dice) path() string {
	var b strings.Builder
	for range d.IntN(4) {
		b.WriteString(pick(d, "/a", "/b", "/%C3%A9", "/%c3%a9", "/ab"))
	}
	b.WriteString(pick(d, "", "/"))
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

func (d dice) routes() []Effective {
	out := make([]Effective, 1+d.IntN(5))
	for i := range out {
		r := routeOf(fmt.Sprint("r", i))
		r.Created = r.Created.Add(time.Duration(d.IntN(3)) * time.Second)
		for range 1 + d.IntN(3) {
			rule := Rule{}
			for range 1 + d.IntN(3) {
				rule.Matches = append(rule.Matches, d.match())
			}
			r.Rules = append(r.Rules, rule)
		}
		out[i].Route = r
		for range 1 + d.IntN(3) {
			out[i].Hostnames = append(out[i].Hostnames, pick(d, "", "*.test", "*.x.test", "*.a.x.test", "a.x.test", "x.test"))
		}
	}
	return out
}

func (d dice) request() (host string, q *Request) {
	header := http.Header{}
	for range d.IntN(4) {
		header.Add(pick(d, "A", "B"), pick(d, "1", "2", "1, 2"))
	}
	q = &Request{Method: pick(d, "GET", "PUT", "HEAD"), Path: d.path(), Header: header, Preflight: d.IntN(8) == 0}
	for range d.IntN(4) {
		q.Query += pick(d, "&", "") + pick(d, "k", "K", "a+b", "%6B", "%6", "") + pick(d, "=1", "=2", "=1,+2", "=%31", "=%zz", "", "=")
	}
	return pick(d, "x.test", "a.x.test", "b.a.x.test", "y.test", "192.0.2.1", "test"), q
}

// agree compares router, explanation and twin on one request.
func agree(routes []Effective, r *Router, host string, q *Request) error {
	want, found := naiveLookup(routes, host, q)
	hit, ok := r.Lookup(host, q)
	if ok != found || ok && (fitting{hit.Hostname, hit.Route, hit.Index, hit.Match}) != want {
		return fmt.Errorf("%s %s?%s on %s with %v: got %v %+v, want %v %+v", q.Method, q.Path, q.Query, host, q.Header, ok, hit, found, want)
	}
	e := r.Explain(host, q)
	if (e.Taken != nil) != ok || ok && *e.Taken != hit {
		return fmt.Errorf("%s %s?%s on %s: explained as %+v, taken by %+v", q.Method, q.Path, q.Query, host, e.Taken, hit)
	}
	for _, m := range e.Missed {
		if ok && !naiveBefore(fitting{m.Hostname, m.Route, m.Index, m.Hit.Match}, want) {
			return fmt.Errorf("a miss that stands behind what is taken: %+v", m)
		}
	}
	return nil
}

// 100,000 random requests on 12,500 random tables.
func TestLookupEqualsNaiveSort(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(1, 2))}
	taken := 0
	for range 12_500 {
		routes := d.routes()
		table, faults := Compile([]Attached{{Port: 80, Routes: routes}})
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		r := table.Port(Name{}, 80).Router("")
		for range 8 {
			host, q := d.request()
			if err := agree(routes, r, host, q); err != nil {
				t.Fatal(err)
			}
			if _, ok := r.Lookup(host, q); ok {
				taken++
			}
		}
	}
	if taken < 30_000 || taken > 90_000 {
		t.Errorf("%d of 100000 requests are taken: the draw tells little", taken)
	}
}

// Rows lists every match once, in the order of precedence.
func TestRowsAreInOrder(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(3, 4))}
	for range 300 {
		routes := d.routes()
		table, _ := Compile([]Attached{{Port: 80, Routes: routes}})
		want, got := 0, 0
		for _, e := range routes {
			seen := map[string]bool{}
			for _, h := range e.Hostnames {
				for _, rule := range e.Route.Rules {
					if !seen[h] {
						want += len(rule.Matches)
					}
				}
				seen[h] = true
			}
		}
		var last Row
		for row := range table.Port(Name{}, 80).Router("").Rows() {
			if got++; got > 1 && last.Hostname == row.Hostname && !naiveBefore(
				fitting{last.Hostname, last.Route, last.Index, last.Match}, fitting{row.Hostname, row.Route, row.Index, row.Match}) {
				t.Fatalf("%+v stands before %+v", last, row)
			}
			last = row
		}
		if got != want {
			t.Fatalf("%d rows, want %d", got, want)
		}
	}
}

// FuzzLookup: no request, however odd, may panic the router or be taken otherwise than by the twin.
func FuzzLookup(f *testing.F) {
	f.Add(uint64(1), "x.test", "GET", "/a/b", "k=1", "1")
	f.Add(uint64(2), "a.x.test", "PUT", "/%c3%a9//", "k=%zz&k=1", "1, 2")
	f.Add(uint64(3), ".", "", "*", "&&=", "")
	f.Fuzz(func(t *testing.T, seed uint64, host, method, path, query, header string) {
		d := dice{rand.New(rand.NewPCG(seed, 0))}
		routes := d.routes()
		table, _ := Compile([]Attached{{Port: 80, Routes: routes}})
		r := table.Port(Name{}, 80).Router("")
		q := &Request{Method: method, Path: path, Query: query, Header: http.Header{"A": {header}, "B": {"1", header}}}
		if path == "" || path[0] != '/' || strings.HasPrefix(host, ".") || strings.ContainsAny(host, "*") || strings.ContainsAny(path+header+query, "\n\\") {
			r.Lookup(host, q) // h1 lets none of these through
			return
		}
		if err := agree(routes, r, host, q); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzQuery: a query parameter is found and compared as net/url would decode it.
func FuzzQuery(f *testing.F) {
	f.Add("k=v+w", "k", "v w")
	f.Add("k=%zz&k=v", "k", "v")
	f.Add("&&=&%6b=%", "", "%")
	f.Fuzz(func(t *testing.T, query, name, value string) {
		got := (&condition{name: name, value: value}).fitsQuery(query)
		v, ok := naiveParameter(query, name)
		if want := ok && v == value; got != want {
			t.Errorf("query %q, %q = %q: %v, want %v", query, name, value, got, want)
		}
		any := condition{name: name, regex: true, pattern: pattern{regexp.MustCompile(`\A(?s:.*)\z`)}}
		if any.fitsQuery(query) != ok {
			t.Errorf("query %q, %q = any: %v, want %v", query, name, !ok, ok)
		}
	})
}
