package route

import (
	"net/http"
	"slices"
	"testing"
)

// Every better placed candidate says what of the request it does not fit.
func TestExplain(t *testing.T) {
	p := onPort(Attached{Routes: []Effective{
		on(routeOf("exact", ruleNamed("path", exactly("/x")), ruleNamed("method", exactly("/a").by("PUT")),
			ruleNamed("absent", prefix("/a").h("X-A=1").q("k=1")), ruleNamed("expression", regex("/b+"))), "a.x.test"),
		on(routeOf("wild",
			Rule{Name: "value", Matches: []Match{{PathType: Prefix, Path: "/a", Headers: []Pair{{Name: "X-B", Value: "2|3", Regex: true}}}}},
			ruleNamed("query", prefix("/a").q("k=1")), ruleNamed("no query", prefix("/a").q("l=1")),
			ruleNamed("taken", prefix("/")), ruleNamed("behind", prefix("/").by("POST"))), "*.x.test"),
		on(routeOf("other", ruleNamed("other", prefix("/"))), "y.test"),
	}})
	q := asked("/a?k=2", "X-B=1", "X-B=4")
	e := p.Router("a.x.test").Explain("a.x.test", q)
	var got []string
	for _, m := range e.Missed {
		got = append(got, m.Hostname+" "+m.Rule.Name+": "+m.Form+": "+m.Why)
	}
	want := []string{
		`a.x.test method: = /a PUT: method is "GET", not "PUT"`,
		`a.x.test path: = /x: path is "/a"`,
		`a.x.test expression: ~ /b+: path is "/a"`,
		`a.x.test absent: /a/* h:X-A q:k: header X-A is absent`,
		`*.x.test value: /a/* h:X-B: header X-B is "1, 4", not ~ 2|3`,
		`*.x.test query: /a/* q:k: query parameter "k" is "2", not "1"`,
		`*.x.test no query: /a/* q:l: query parameter "l" is absent`,
		`*.x.test behind: /* POST: method is "GET", not "POST"`,
	}
	if !slices.Equal(got, want) || e.Taken == nil || e.Taken.Rule.Name != "taken" || !slices.Equal(e.Hostnames, []string{"a.x.test", "*.x.test"}) {
		t.Errorf("%v: %q\nwant %q", e.Hostnames, got, want)
	}
	if e := p.Router("z.test").Explain("z.test", q); e.Taken != nil || len(e.Hostnames)+len(e.Missed) != 0 {
		t.Errorf("unknown host: %+v", e)
	}
	preflight := &Request{Method: "PUT", Path: "/a", Header: http.Header{}, Preflight: true}
	if e := p.Router("a.x.test").Explain("a.x.test", preflight); e.Taken == nil || e.Taken.Rule.Name != "method" {
		t.Errorf("preflight: %+v", e)
	}
}
