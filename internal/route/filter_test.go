package route

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func filtered(filters ...Filter) *HTTPRoute {
	r := ruleNamed("", prefix("/"))
	r.Filters = filters
	return routeOf("r", r)
}

func requestHeaders(f HeaderFilter) Filter  { return Filter{RequestHeaders: &f} }
func responseHeaders(f HeaderFilter) Filter { return Filter{ResponseHeaders: &f} }

// F6: fields that are not a filter's to change, in any spelling.
func TestF6ReservedHeaders(t *testing.T) {
	for _, name := range []string{
		"Txn-Token", "Host", "Content-Length", "X-Forwarded-For",
		"txn_token", "X.Forwarded.Proto", "X-Countersign-Peer", "Connection", "TE", "Transfer-Encoding", "Upgrade", "Date", "Via",
		"Forwarded", "X-Real-IP", "X-Original-URL", "X-Rewrite-Url", "Client-Cert", "X-Client-Cert-Hash", "Ssl-Client-Verify", "X-SSL-Cert",
		"Proxy", "Authorization", "DPoP", "Workload-Identity-Token", "X-HTTP-Method-Override",
		"", "a b", "a:b", "é",
	} {
		for list, f := range map[string]HeaderFilter{
			"set": {Set: []Pair{{Name: name, Value: "v"}}}, "add": {Add: []Pair{{Name: name, Value: "v"}}}, "remove": {Remove: []string{name}},
		} {
			for _, filter := range []Filter{requestHeaders(f), responseHeaders(f)} {
				if faults := Check(filtered(filter)); len(faults) != 1 {
					t.Errorf("%s %q: faults %v", list, name, faults)
				}
			}
		}
	}
	for _, name := range []string{"WWW-Authenticate", "X-Decision-Id", "RateLimit", "RateLimit-Policy", "X-RateLimit-Limit"} {
		f := HeaderFilter{Remove: []string{name}}
		if faults := Check(filtered(responseHeaders(f))); len(faults) != 1 {
			t.Errorf("%q of a response: faults %v", name, faults)
		}
		if faults := Check(filtered(requestHeaders(f))); len(faults) != 0 {
			t.Errorf("%q of a request: faults %v", name, faults)
		}
	}
}

// F7: a name in two lists.
func TestF7TwoLists(t *testing.T) {
	for name, f := range map[string]HeaderFilter{
		"set and remove": {Set: []Pair{{Name: "X-A", Value: "1"}}, Remove: []string{"x-a"}},
		"set and add":    {Set: []Pair{{Name: "X-A", Value: "1"}}, Add: []Pair{{Name: "x-A", Value: "1"}}},
		"add and remove": {Add: []Pair{{Name: "x-a", Value: "1"}}, Remove: []string{"X-A"}},
	} {
		if faults := Check(filtered(requestHeaders(f))); len(faults) != 1 {
			t.Errorf("%s: faults %v", name, faults)
		}
	}
}

// F8: every line that is added stays a line; the backend's filter comes before the rule's.
func TestF8AddedLines(t *testing.T) {
	cookie := func(v string) Filter {
		return responseHeaders(HeaderFilter{Add: []Pair{{Name: "set-cookie", Value: v}}})
	}
	r := filtered(cookie("rule=1"))
	r.Rules[0].Backends[0].Filters = []Filter{cookie("backend=1")}
	h := http.Header{"Set-Cookie": {"upstream=1"}}
	for _, c := range hitOn(t, r.Rules[0], "/").Effects(0).Response {
		c.Apply(h)
	}
	if want := []string{"upstream=1", "backend=1", "rule=1"}; !slices.Equal(h["Set-Cookie"], want) {
		t.Errorf("%q, want %q", h["Set-Cookie"], want)
	}
}

func TestHeaderChange(t *testing.T) {
	r := filtered(requestHeaders(HeaderFilter{
		Set:    []Pair{{Name: "x-set", Value: "1"}, {Name: "X-Set", Value: "2"}},
		Add:    []Pair{{Name: "X-Add", Value: "1"}},
		Remove: []string{"x-remove", "X-REMOVE"},
	}))
	r.Rules[0].Backends[0].Filters = []Filter{requestHeaders(HeaderFilter{Set: []Pair{{Name: "X-Set", Value: "backend"}}})}
	hit := hitOn(t, r.Rules[0], "/")
	for backend, set := range map[int]string{-1: "1", 0: "backend"} {
		h := http.Header{"X-Set": {"a", "b"}, "X-Add": {"0"}, "X-Remove": {"c"}}
		for _, c := range hit.Effects(backend).Request {
			c.Apply(h)
		}
		want := http.Header{"X-Set": {set}, "X-Add": {"0", "1"}}
		if !maps.EqualFunc(h, want, slices.Equal) {
			t.Errorf("backend %d: %v, want %v", backend, h, want)
		}
	}
}

// One backend's filters must not show in another's.
func TestEffectsAreSeparate(t *testing.T) {
	r := filtered(requestHeaders(HeaderFilter{Set: []Pair{{Name: "A", Value: "rule"}}}), Filter{Rewrite: &Rewrite{Hostname: "rule.test"}})
	for _, v := range []string{"0", "1"} {
		r.Rules[0].Backends = append(r.Rules[0].Backends, Backend{Weight: 1, Filters: []Filter{
			requestHeaders(HeaderFilter{Set: []Pair{{Name: "B", Value: v}}}),
			{Rewrite: &Rewrite{Path: &PathReplace{Full: true, Value: "/" + v}}},
		}})
	}
	hit := hitOn(t, r.Rules[0], "/a")
	for backend, want := range map[int]http.Header{-1: {"A": {"rule"}}, 0: {"A": {"rule"}}, 1: {"A": {"rule"}, "B": {"0"}}, 2: {"A": {"rule"}, "B": {"1"}}} {
		h, e := http.Header{}, hit.Effects(backend)
		for _, c := range e.Request {
			c.Apply(h)
		}
		path, err := e.Path("/a", hit.Prefix)
		if backend > 0 && path != "/"+want.Get("B") || backend < 1 && path != "/a" || err != nil {
			t.Errorf("backend %d: path %q, %v", backend, path, err)
		}
		if !maps.EqualFunc(h, want, slices.Equal) || e.Host != "rule.test" {
			t.Errorf("backend %d: %v on %q, want %v", backend, h, e.Host, want)
		}
	}
}

// Filters that make their rule answer 500; only a wrong extension is a matter of references, not a fault.
func TestUnsoundFilters(t *testing.T) {
	rewrite, redirect := Filter{Rewrite: &Rewrite{Hostname: "y.test"}}, Filter{Redirect: &Redirect{Scheme: "https", Status: 301}}
	limit := func(kind, namespace string) Filter {
		return Filter{Extension: &Ref{Kind{"countersign.dev", kind}, Name{namespace, "l"}}}
	}
	alone := func(filters ...Filter) Rule { return Rule{Filters: filters} }
	atBackend := func(f Filter) Rule { return Rule{Backends: []Backend{{Weight: 1, Filters: []Filter{f}}}} }
	for name, c := range map[string]struct {
		rule       Rule
		bad, fault bool
	}{
		"unknown":              {alone(Filter{Unknown: "RequestMirror"}), true, true},
		"nothing":              {alone(Filter{}), true, true},
		"twice":                {alone(rewrite, rewrite), true, true},
		"redirect and rewrite": {alone(redirect, rewrite), true, true},
		"redirect and backend": {Rule{Filters: []Filter{redirect}, Backends: []Backend{{Weight: 1}}}, true, true},
		"redirect at backend":  {atBackend(redirect), true, true},
		"CORS at backend":      {atBackend(Filter{CORS: &CORS{}}), true, true},
		"limit at backend":     {atBackend(limit("RateLimit", "n")), true, true},
		"control character":    {alone(requestHeaders(HeaderFilter{Set: []Pair{{Name: "A", Value: "b\r\nC: d"}}})), true, true},
		"another extension":    {alone(limit("Other", "n")), true, false},
		"another namespace":    {alone(limit("RateLimit", "m")), true, false},
		"two limits":           {alone(limit("RateLimit", "n"), limit("RateLimit", "n")), false, false},
		"redirect":             {alone(redirect), false, false},
		"rewrite at backend":   {atBackend(rewrite), false, false},
	} {
		r := routeOf("r", c.rule)
		table, faults := Compile([]Attached{{Routes: []Effective{on(r, "")}}})
		hit, ok := table.Port(Name{}, 0).Router("x.test").Lookup("x.test", asked("/"))
		if !ok || (hit.Bad != "") != c.bad || (len(faults) > 0) != c.fault {
			t.Errorf("%s: bad %q, faults %v", name, hit.Bad, faults)
		}
		if strings.Contains(name, "limits") && len(hit.Extensions) != 2 {
			t.Errorf("%s: extensions %v", name, hit.Extensions)
		}
	}
}
