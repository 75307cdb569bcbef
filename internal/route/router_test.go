package route

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/h1"
)

// The short names that the case tables are written in.

func prefix(path string) Match { return Match{PathType: Prefix, Path: path} }
func exactly(path string) Match {
	return Match{PathType: Exact, Path: path}
}
func regex(path string) Match { return Match{PathType: Regex, Path: path} }

func (m Match) by(method string) Match { m.Method = method; return m }

// h and q add conditions given as name=value.
func (m Match) h(conditions ...string) Match {
	m.Headers = append(m.Headers, pairs(conditions)...)
	return m
}
func (m Match) q(conditions ...string) Match {
	m.Query = append(m.Query, pairs(conditions)...)
	return m
}

func pairs(list []string) (out []Pair) {
	for _, s := range list {
		name, value, _ := strings.Cut(s, "=")
		out = append(out, Pair{Name: name, Value: value})
	}
	return out
}

// ruleNamed is a rule of one backend that is known by its name.
func ruleNamed(name string, matches ...Match) Rule {
	return Rule{Name: name, Matches: matches, Backends: []Backend{{Port: 80, Weight: 1}}}
}

func routeOf(name string, rules ...Rule) *HTTPRoute {
	return &HTTPRoute{Meta: Meta{Name: Name{"n", name}, Created: time.Unix(1e9, 0)}, Rules: rules}
}

func on(r *HTTPRoute, hostnames ...string) Effective { return Effective{r, hostnames} }

// onPort is port 80 of a Gateway, each listener with what is attached to it.
func onPort(listeners ...Attached) *Port {
	for i := range listeners {
		listeners[i].Port, listeners[i].Protocol = 80, HTTP
	}
	t, _ := Compile(listeners)
	return t.Port(Name{}, 80)
}

// asked is a request as an edge listener hands it over: its path in normal form, slashes merged.
func asked(line string, header ...string) *Request {
	method, target, ok := strings.Cut(line, " ")
	if !ok {
		method, target = "GET", line
	}
	path, query, _, f := h1.Normalize(target)
	if f != nil {
		panic(f)
	}
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	q := &Request{Method: method, Path: path, Query: query, Header: http.Header{}}
	for _, p := range pairs(header) {
		q.Header.(http.Header).Add(p.Name, p.Value)
	}
	return q
}

// taker is the name of the rule that takes a request; "" is 404.
func taker(p *Port, authority string, q *Request) string {
	host, _ := h1.LookupHost(authority)
	router := p.Router(host)
	if router == nil {
		return ""
	}
	hit, ok := router.Lookup(host, q)
	if !ok {
		return ""
	}
	return hit.Rule.Name
}

// gateway.md 27.2, but for GRPC.
func TestMatching(t *testing.T) {
	x := func(rules ...Rule) []Effective { return []Effective{on(routeOf("r", rules...), "x.test")} }
	m1 := x(ruleNamed("a", prefix("/")), ruleNamed("b", prefix("/abc")), ruleNamed("c", exactly("/abc")))
	older, newer := routeOf("b", ruleNamed("n/b", prefix("/"))), routeOf("a", ruleNamed("n/a", prefix("/")))
	newer.Created = older.Created.Add(time.Second)
	sameAge := routeOf("a", ruleNamed("n/a", prefix("/")))
	m6 := x(ruleNamed("a", prefix("/a")), ruleNamed("b", prefix("/a").by("GET")))
	m8 := x(ruleNamed("a", prefix("/").h("H1=1")), ruleNamed("b", prefix("/").h("H1=1").q("q1=1")), ruleNamed("c", prefix("/").h("H1=1", "H2=1")))
	m17 := x(ruleNamed("a", regex("/v[0-9]+/.*")), ruleNamed("b", prefix("/v1/x")), ruleNamed("c", exactly("/v1/x")))
	m20 := x(ruleNamed("a", prefix("/").q("k=v w")))
	m26 := x(ruleNamed("a", exactly("/b")))
	for _, c := range []struct {
		name   string
		routes []Effective
		host   string // empty: x.test
		q      *Request
		want   string
	}{
		{"M1", m1, "", asked("/abc"), "c"},
		{"M2", m1, "", asked("/abc/"), "b"},
		{"M2 below", m1, "", asked("/abc/d"), "b"},
		{"M3", m1, "", asked("/abcd"), "a"},
		{"M3 case", m1, "", asked("/ABC"), "a"},
		{"M4", x(ruleNamed("a", prefix("/abc/"))), "", asked("/abc"), "a"},
		{"M5", x(ruleNamed("a", prefix("/a/b")), ruleNamed("b", prefix("/a").by("GET").h("A=1", "B=1", "C=1"))), "", asked("GET /a/b", "A=1", "B=1", "C=1"), "a"},
		{"M6", m6, "", asked("HEAD /a"), "a"},
		{"M6 GET", m6, "", asked("GET /a"), "b"},
		{"M7", x(ruleNamed("a", prefix("/").by("GET")), ruleNamed("b", prefix("/").h("H1=1", "H2=1"))), "", asked("/", "H1=1", "H2=1"), "a"},
		{"M8", m8, "", asked("/?q1=1", "H1=1", "H2=1"), "c"},
		{"M8 without h2", m8, "", asked("/?q1=1", "H1=1"), "b"},
		{"M9", []Effective{on(newer, "x.test"), on(older, "x.test")}, "", asked("/"), "n/b"},
		{"M9 same age", []Effective{on(older, "x.test"), on(sameAge, "x.test")}, "", asked("/"), "n/a"},
		{"M10", x(ruleNamed("0", prefix("/")), ruleNamed("1", prefix("/"))), "", asked("/"), "0"},
		{"M11", []Effective{on(routeOf("a", ruleNamed("wild", exactly("/p"))), "*.x.test"), on(routeOf("b", ruleNamed("a.x", prefix("/"))), "a.x.test")}, "a.x.test", asked("/p"), "a.x"},
		{"M12", []Effective{on(routeOf("a", ruleNamed("wild", prefix("/"))), "*.x.test"), on(routeOf("b", ruleNamed("a.x", prefix("/a"))), "a.x.test")}, "a.x.test", asked("/b"), "wild"},
		{"M14", []Effective{on(routeOf("a", ruleNamed("a", prefix("/"))), "*.b.x.test"), on(routeOf("b", ruleNamed("b", prefix("/"))), "*.x.test")}, "c.b.x.test", asked("/"), "a"},
		{"M14 itself", []Effective{on(routeOf("a", ruleNamed("a", prefix("/"))), "*.b.x.test"), on(routeOf("b", ruleNamed("b", prefix("/"))), "*.x.test")}, "b.x.test", asked("/"), "b"},
		{"M14 above", []Effective{on(routeOf("a", ruleNamed("a", prefix("/"))), "*.x.test")}, "x.test", asked("/"), ""},
		{"M15", x(ruleNamed("a", exactly("/%61bc"))), "", asked("/abc"), "a"},
		{"M15 escaped", x(ruleNamed("a", exactly("/%61bc"))), "", asked("/%61bc"), "a"},
		{"M16", x(ruleNamed("a", exactly("/caf%c3%a9"))), "", asked("/caf%C3%A9"), "a"},
		{"M16 lower", x(ruleNamed("a", exactly("/caf%c3%a9"))), "", asked("/caf%c3%a9"), "a"},
		{"M16 raw", x(ruleNamed("a", exactly("/caf%c3%a9"))), "", asked("/caf\xc3\xa9"), "a"},
		{"M17 exact", m17, "", asked("/v1/x"), "c"},
		{"M17 regex", m17, "", asked("/v1/y"), "a"},
		{"M17 anchored", m17, "", asked("/av1/y"), ""},
		{"M18", x(ruleNamed("a", prefix("/").h("X-A=1, 2"))), "", asked("/", "X-A=1", "X-A=2"), "a"},
		{"M18 order", x(ruleNamed("a", prefix("/").h("X-A=1, 2"))), "", asked("/", "X-A=2", "X-A=1"), ""},
		{"M18 more", x(ruleNamed("a", prefix("/").h("X-A=1, 2"))), "", asked("/", "X-A=1", "X-A=2", "X-A=3"), ""},
		{"M19", x(ruleNamed("a", prefix("/").h("a=1", "A=2"))), "", asked("/", "A=1"), "a"},
		{"M20 plus", m20, "", asked("/?k=v+w"), "a"},
		{"M20 first", m20, "", asked("/?k=v%20w&k=z"), "a"},
		{"M20 second", m20, "", asked("/?k=z&k=v+w"), ""},
		{"M20 case", m20, "", asked("/?K=v+w"), ""},
		{"M20 malformed", m20, "", asked("/?k=%zz"), ""},
		{"M20 malformed first", m20, "", asked("/?k=%zz&k=v+w"), ""},
		{"M20 escaped name", m20, "", asked("/?%6b=v+w"), "a"},
		{"M21", x(ruleNamed("a", prefix("/"))), "X.TEST.:8443", asked("/"), "a"},
		{"M22", []Effective{on(routeOf("r", ruleNamed("a", prefix("/"))), "")}, "192.0.2.1", asked("/"), "a"},
		{"M26 dots", m26, "", asked("/a/../b"), "a"},
		{"M26 slashes", m26, "", asked("//b"), "a"},
		{"M26 parameter", m26, "", asked("/b;x=1"), ""},
		{"no header", x(ruleNamed("a", prefix("/").h("A=1"))), "", &Request{Method: "GET", Path: "/"}, ""},
		{"no path", x(ruleNamed("a", prefix("/"))), "", asked("OPTIONS *"), ""},
	} {
		host := c.host
		if host == "" {
			host = "x.test"
		}
		if got := taker(onPort(Attached{Routes: c.routes}), host, c.q); got != c.want {
			t.Errorf("%s: taken by %q, want %q", c.name, got, c.want)
		}
	}
}

// M13: what is attached to another listener is never looked at.
func TestM13Isolation(t *testing.T) {
	wild, a := routeOf("a", ruleNamed("wild", prefix("/"))), routeOf("b", ruleNamed("a.x", prefix("/a")))
	p := onPort(
		Attached{Hostname: "*.x.test", Routes: []Effective{on(wild, "*.x.test")}},
		Attached{Hostname: "a.x.test", Routes: []Effective{on(a, "a.x.test")}},
	)
	for path, want := range map[string]string{"/b": "", "/a": "a.x"} {
		if got := taker(p, "a.x.test", asked(path)); got != want {
			t.Errorf("%s is taken by %q, want %q", path, got, want)
		}
	}
}

// gateway.md 4.3 and http-strictness section 6.
func TestChoiceOfListener(t *testing.T) {
	named := func(hostnames ...string) *Port {
		var all []Attached
		for _, h := range hostnames {
			all = append(all, Attached{Listener: "on " + h, Hostname: h})
		}
		return onPort(all...)
	}
	some, all := named("*.x.test", "*.b.x.test", "a.x.test", "*.b.y.test"), named("*.x.test", "a.x.test", "")
	for _, c := range []struct {
		port      *Port
		sni, host string
		chosen    string
		status    int
	}{
		{some, "a.x.test", "a.x.test", "on a.x.test", 0},
		{some, "c.x.test", "d.e.x.test", "on *.x.test", 0},
		{some, "c.b.x.test", "c.b.x.test", "on *.b.x.test", 0},
		{some, "b.x.test", "c.x.test", "on *.x.test", 0},
		{some, "c.x.test", "a.x.test", "on *.x.test", 421},
		{some, "c.x.test", "c.b.x.test", "on *.x.test", 421},
		{some, "a.x.test", "x.test", "on a.x.test", 404},
		{some, "a.x.test", "192.0.2.1", "on a.x.test", 404},
		{some, "x.test", "", "", 0},
		{some, "b.y.test", "", "", 0},
		{some, ".x.test", "", "", 0},
		{some, "", "", "", 0},
		{all, "", "a.x.test", "on ", 421},
		{all, "", "x.test", "on ", 0},
		{all, "c.x.test", "unknown.test", "on *.x.test", 421},
	} {
		r := c.port.Router(c.sni)
		if r == nil {
			if c.chosen != "" {
				t.Errorf("no listener for %q, want %q", c.sni, c.chosen)
			}
			continue
		}
		if r.Listener != c.chosen {
			t.Errorf("%q chooses %q, want %q", c.sni, r.Listener, c.chosen)
		}
		if got := c.port.Serves(r, c.host); got != c.status {
			t.Errorf("%q on a connection for %q: %d, want %d", c.host, c.sni, got, c.status)
		}
	}
	if table, _ := Compile(nil); table.Port(Name{"n", "g"}, 80) != nil {
		t.Error("an empty table has a port")
	}
}

// A rule with a fault answers 500; what it would have taken goes to no wider rule.
func TestInvalidRuleKeepsItsPlace(t *testing.T) {
	long := strings.Repeat("a", maxRegex+1)
	for name, bad := range map[string]Match{
		"unreadable":        regex("/("),
		"out of its group":  regex("/a)|(/b"),
		"too long":          regex("/" + long),
		"open quotation":    regex(`/\Qa`),
		"header":            {PathType: Prefix, Path: "/", Headers: []Pair{{"A", "(", true}}},
		"unknown path type": {PathType: "Glob", Path: "/*"},
		"ends in an escape": {PathType: Regex, Path: `/\`},
	} {
		r := routeOf("r", ruleNamed("wide", prefix("/")), ruleNamed("bad", bad))
		table, faults := Compile([]Attached{{Port: 80, Routes: []Effective{on(r, "x.test")}}})
		if len(faults) != 1 || faults[0].Rule != 1 || faults[0].Route != r.Name {
			t.Errorf("%s: faults %v", name, faults)
		}
		hit, ok := table.Port(Name{}, 80).Router("x.test").Lookup("x.test", asked("/any", "A=1"))
		if !ok || hit.Rule.Name != "bad" || hit.Bad == "" {
			t.Errorf("%s: taken by %q (%v), bad %q", name, hit.Rule.Name, ok, hit.Bad)
		}
	}
}

// Paths that no request can have: the rule is invalid, and takes nothing by that match.
func TestImpossiblePaths(t *testing.T) {
	for _, path := range []string{"/a?b", "/a#b", "/a/..%2fb", "/a/..;x", "/%zz", "a", "xa", "*", "/%00"} {
		r := routeOf("r", ruleNamed("wide", prefix("/")), ruleNamed("bad", exactly(path), prefix(path), prefix("/ok")))
		table, faults := Compile([]Attached{{Port: 80, Routes: []Effective{on(r, "x.test")}}})
		if len(faults) != 1 || len(Check(r)) != 1 {
			t.Errorf("%q: faults %v", path, faults)
		}
		hit, _ := table.Port(Name{}, 80).Router("x.test").Lookup("x.test", asked("/ok"))
		if hit.Bad == "" {
			t.Errorf("%q: the rule's other match still serves", path)
		}
		if got := taker(table.Port(Name{}, 80), "x.test", asked("/a")); got != "wide" {
			t.Errorf("%q takes /a", path)
		}
	}
}

// Only the oldest expressions of one hostname are evaluated; another hostname has its own bound.
func TestRegexBound(t *testing.T) {
	var rules []Rule
	for i := range maxHostRegexes + 1 {
		rules = append(rules, ruleNamed(fmt.Sprint(i), regex(fmt.Sprintf("/%03d", i))))
	}
	if _, err := compilePattern(strings.Repeat("a", maxRegex)); err != nil {
		t.Errorf("%d bytes: %v", maxRegex, err)
	}
	old, more := routeOf("old", rules[1:]...), routeOf("more", ruleNamed("beyond", regex("/beyond")))
	more.Created = old.Created.Add(time.Second)
	if _, faults := Compile([]Attached{{Routes: []Effective{on(old, "x.test"), on(more, "y.test")}}}); len(faults) != 0 {
		t.Errorf("faults %v within the bound", faults)
	}
	table, faults := Compile([]Attached{{Port: 80, Routes: []Effective{on(more, "x.test", "y.test"), on(old, "x.test")}}})
	if len(faults) != 1 || faults[0].Route != more.Name {
		t.Fatalf("faults %v, want one of the newest rule", faults)
	}
	for _, c := range []struct{ host, path, want string }{
		{"x.test", "/001", "beyond"}, // its pattern is the longest, and nobody reads it
		{"y.test", "/001", ""},
		{"y.test", "/beyond", "beyond"},
	} {
		hit, ok := table.Port(Name{}, 80).Router(c.host).Lookup(c.host, asked(c.path))
		if c.want == "" && ok || c.want != "" && (!ok || hit.Rule.Name != c.want || hit.Bad == "") {
			t.Errorf("%s%s: %v %+v", c.host, c.path, ok, hit)
		}
	}
}

// A preflight is looked up with the method that it asks for, header matches left out.
func TestPreflightLookup(t *testing.T) {
	put := ruleNamed("put", prefix("/").by("PUT").h("X-A=1"))
	put.Filters = []Filter{{CORS: &CORS{Origins: []string{"https://a.test"}}}}
	bad := ruleNamed("bad", prefix("/bad").by("PUT"))
	bad.Filters = []Filter{{CORS: &CORS{Origins: []string{"nonsense"}}}}
	p := onPort(Attached{Routes: []Effective{on(routeOf("r", put, bad, ruleNamed("all", prefix("/"))), "")}})
	for _, c := range []struct {
		path, method string
		want         bool
	}{{"/", "PUT", true}, {"/", "GET", false}, {"/bad", "PUT", false}} {
		q := asked("OPTIONS " + c.path)
		if hit, ok := p.Router("x.test").Preflight("x.test", q, c.method); ok != c.want || ok && hit.Rule.Name != "put" {
			t.Errorf("preflight for %s %s: %v", c.method, c.path, ok)
		}
		if q.Method != "OPTIONS" || q.Preflight {
			t.Errorf("the request was changed: %+v", q)
		}
	}
	if got := taker(p, "x.test", asked("OPTIONS /")); got != "all" {
		t.Errorf("OPTIONS is taken by %q", got)
	}
}

// A host is strict through its own routes and through those it falls back to.
func TestStrictHosts(t *testing.T) {
	p := onPort(Attached{Routes: []Effective{
		on(routeOf("all", ruleNamed("all", prefix("/"), prefix("/").by("GET").h("A=1"))), "", "a.x.test", "y.test"),
		on(routeOf("paths", ruleNamed("all", prefix("/")), ruleNamed("admin", prefix("/admin"))), "*.x.test"),
		on(routeOf("exact", ruleNamed("root", exactly("/"))), "exact.test"),
		on(routeOf("regex", ruleNamed("any", regex("/.*"))), "regex.test"),
	}})
	for host, want := range map[string]string{
		"y.test": "", "z.test": "", "x.test": "", "a.x.test": "admin", "b.x.test": "admin", "exact.test": "root", "regex.test": "any",
	} {
		hit, strict := p.Router(host).Strict(host)
		if strict != (want != "") || strict && hit.Rule.Name != want {
			t.Errorf("%s: strict %v, %+v; want %q", host, strict, hit, want)
		}
	}
}

// The routers stand in the order of their listeners, which no port or Gateway mixes.
func TestRouters(t *testing.T) {
	a, b := Name{"n", "a"}, Name{"n", "b"}
	table, _ := Compile([]Attached{{Gateway: b, Listener: "1", Port: 80}, {Gateway: a, Listener: "2", Port: 80}, {Gateway: b, Listener: "3", Port: 81}})
	var got []string
	for r := range table.Routers() {
		got = append(got, r.Listener)
		if table.Port(r.Gateway, r.Port).Router("x.test") != r {
			t.Errorf("%s is not found on its port", r.Listener)
		}
	}
	if !slices.Equal(got, []string{"1", "2", "3"}) || table.Port(a, 81) != nil {
		t.Errorf("routers %q", got)
	}
}
