package server

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/snapshot"
)

const routeGateway = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: countersign
  listeners:
  - {name: web, port: 8080, protocol: HTTP}
  - {name: a, port: 8443, protocol: HTTPS, hostname: a.test}
  - {name: wild, port: 8443, protocol: HTTPS, hostname: "*.test"}
  - {name: bad, port: 9443, protocol: HTTPS, hostname: bad.test, tls: {certificateRefs: [{name: nothing}]}}
---
`

// routeDoc is an HTTPRoute of namespace shop on a listener; rules as YAML flow.
func routeDoc(name, listener, hostnames string, rules ...string) string {
	return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: %s, namespace: shop}\nspec:\n  parentRefs: [{name: edge, sectionName: %s}]\n  hostnames: [%s]\n  rules:\n  - %s\n---\n",
		name, listener, hostnames, strings.Join(rules, "\n  - "))
}

// routed is a server with a Gateway, and the services orders and web, of which orders runs.
func routed(t *testing.T, docs ...string) *running {
	t.Helper()
	r := newPlace(t).run()
	r.applied(append([]string{routeGateway}, docs...)...)
	v := *r.world.load()
	w := *v.World
	w.Services = []snapshot.Service{
		{Namespace: "shop", Name: "orders", Ports: []snapshot.Port{{Number: 80, Target: 8000, Protocol: "http"}}},
		{Namespace: "shop", Name: "web", Ports: []snapshot.Port{{Number: 80, Target: 8001, Protocol: "http"}}},
	}
	w.Instances = []snapshot.Instance{
		{ID: "1", Services: []string{"shop/orders"}, State: snapshot.Draining}, {ID: "2", Services: []string{"shop/orders"}, State: snapshot.Ready},
	}
	v.World = &w
	r.world.publish(w.Revision, &v, nil)
	return r
}

func (r *running) tested(q admin.RouteTest) admin.RouteVerdict {
	r.t.Helper()
	v, err := r.testRoute(r.t.Context(), q)
	if err != nil {
		r.t.Fatalf("%s %s: %v", q.Method, q.URL, err)
	}
	return v
}

// What a Gateway would do with one request, told by what decides it.
func TestRouteTest(t *testing.T) {
	r := routed(t,
		routeDoc("shop", "a", "a.test",
			`{matches: [{path: {type: PathPrefix, value: /api}, method: GET}], filters: [{type: URLRewrite, urlRewrite: {hostname: o.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}], backendRefs: [{name: orders, port: 80, weight: 9}, {name: nobody, port: 80}]}`,
			`{name: exact, matches: [{path: {type: Exact, value: /api/x}, headers: [{name: X-V, value: "2"}]}], backendRefs: [{name: web, port: 80}]}`,
			`{matches: [{path: {type: PathPrefix, value: /none}}]}`,
			`{matches: [{path: {type: PathPrefix, value: /gone}}], backendRefs: [{name: orders, port: 81}]}`,
			`{matches: [{path: {type: PathPrefix, value: /loop}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /loop/x}, port: 8443, statusCode: 302}}]}`,
			`{matches: [{path: {type: PathPrefix, value: /cors}, method: PUT}], filters: [{type: CORS, cors: {allowOrigins: ["https://app.test"], allowMethods: [PUT]}}], backendRefs: [{name: web, port: 80}]}`,
			`{matches: [{path: {type: PathPrefix, value: /own}}], backendRefs: [{name: web, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X-Own, value: hush}]}}]}]}`),
		routeDoc("up", "web", "a.test", `{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]}`),
		routeDoc("wild", "wild", `"*.test"`, `{backendRefs: [{name: web, port: 80}]}`),
		routeDoc("bad", "bad", "bad.test", `{backendRefs: [{name: web, port: 80}]}`),
	)
	taken := func(rule string, status int) string { return fmt.Sprintf("%s %d", rule, status) }
	for _, row := range []struct {
		name   string
		method string
		url    string
		sni    string
		header []string
		want   string // listener, rule and status; "-" is no rule
	}{
		{"prefix and method", "GET", "https://a.test:8443/api/orders", "", nil, "a " + taken("shop#0", 0)},
		{"no port means any of the scheme", "get", "https://a.test/api/orders", "", nil, "a " + taken("shop#0", 0)},
		{"exact with its header", "GET", "https://a.test/api/x", "", []string{"x-v: 2"}, "a " + taken("shop#exact", 0)},
		{"the path comes into normal form", "GET", "https://a.test/b/..//api/x", "", []string{"X-V:2"}, "a " + taken("shop#exact", 0)},
		{"host as it is looked up", "GET", "https://A.test.:8443/api", "", nil, "a " + taken("shop#0", 0)},
		{"no rule", "PUT", "https://a.test/api", "", nil, "a - 404"},
		{"a rule without backends", "GET", "https://a.test/none", "", nil, "a " + taken("shop#2", 500)},
		{"a backend without the port", "GET", "https://a.test/gone", "", nil, "a " + taken("shop#3", 500)},
		{"a redirect", "GET", "http://a.test:8080/q?x=1", "", nil, "web " + taken("up#0", 301)},
		{"a redirect to itself", "GET", "https://a.test:8443/loop/x", "", nil, "a " + taken("shop#4", 302)},
		{"a preflight", "OPTIONS", "https://a.test/cors", "", []string{"Origin: https://app.test", "Access-Control-Request-Method: PUT"}, "a " + taken("shop#5", 204)},
		{"a preflight of another origin", "OPTIONS", "https://a.test/cors", "", []string{"Origin: https://else.test", "Access-Control-Request-Method: PUT"}, "a " + taken("shop#5", 403)},
		{"a preflight nobody shares with", "OPTIONS", "https://a.test/api", "", []string{"Origin: https://app.test", "Access-Control-Request-Method: GET"}, "a - 404"},
		{"another listener of the port", "GET", "https://b.test/", "", nil, "wild " + taken("wild#0", 0)},
		{"a server name of another listener", "GET", "https://a.test/api", "b.test", nil, "wild - 421"},
		{"a server name of none", "GET", "https://a.test/api", "a.example", nil, " - 0"},
		{"no listener has the host", "GET", "https://a.example/api", "a.test", nil, " - 404"},
		{"no listener on the port", "GET", "https://a.test:1/api", "", nil, " - 0"},
		{"http where https is", "GET", "http://a.test:8443/api", "", nil, " - 0"},
		{"no certificate", "GET", "https://bad.test:9443/", "", nil, "bad - 0"},
		{"a path above the root", "GET", "https://a.test/%2e%2e/api", "", nil, " - 400"},
		{"an escaped slash", "GET", "https://a.test/api%2fx", "", nil, "a - 400"},
		{"an escaped slash where nothing looks at paths", "GET", "https://b.test/api%2fx", "", nil, "wild " + taken("wild#0", 0)},
		{"our own paths", "GET", "https://b.test/.well-known/countersign/x", "", nil, "wild - 404"},
		{"a method that is none", "G T", "https://a.test/api", "", nil, " - 400"},
		{"what strangers may not send is not looked at", "GET", "https://a.test/api/x", "", []string{"X-V: 2", "Connection: x-v"}, "a " + taken("shop#0", 0)},
	} {
		v := r.tested(admin.RouteTest{Method: row.method, URL: row.url, Header: row.header, SNI: row.sni})
		rule := "-"
		if v.Taken {
			rule = fmt.Sprintf("%s#%d", strings.TrimPrefix(v.Route, "shop/"), *v.Rule)
			if v.RuleName != "" {
				rule = strings.TrimPrefix(v.Route, "shop/") + "#" + v.RuleName
			}
		}
		if got := fmt.Sprintf("%s %s %d", v.Listener, rule, v.Status); got != row.want {
			t.Errorf("%s: %q, want %q (%s %s)", row.name, got, row.want, v.Reason, v.Text)
		}
		if (v.Text == "") != (v.Taken && v.Status < 400 && !v.Preflight) {
			t.Errorf("%s: text %q of status %d", row.name, v.Text, v.Status)
		}
	}

	v := r.tested(admin.RouteTest{Method: "GET", URL: "https://a.test/api/x"})
	if v.Place == nil || v.Place.String() != "b.yaml:8" || v.RewrittenPath != "/v1/x" || v.Host != "a.test" || v.Match != "/api/* GET" {
		t.Errorf("%+v", v)
	}
	if len(v.Nearest) != 5 || v.Nearest[1].Field != "path" || v.Nearest[0].RuleName != "exact" || v.Nearest[0].Field != "header" || v.Nearest[0].Why != "header X-V is absent" || v.Nearest[0].Place.Line != 9 {
		t.Errorf("better placed: %+v", v.Nearest)
	}
	if b := v.Backends; len(b) != 2 || b[0].Service != "shop/orders" || b[0].State != "ready" || b[0].Weight != 9 || b[0].Path != "/v1/x" || b[0].Host != "o.test" ||
		b[1].State != "refused" || b[1].Status != 500 || b[1].Reason != "BackendNotFound" {
		t.Errorf("backends: %+v", b)
	}
	v = r.tested(admin.RouteTest{Method: "GET", URL: "https://a.test/own"})
	if b := v.Backends; len(b) != 1 || b[0].State != "none" || b[0].Path != "/own" || !slices.Equal(b[0].Filters, []string{"request header has added X-Own"}) {
		t.Errorf("backends: %+v", b)
	}
	v = r.tested(admin.RouteTest{Method: "GET", URL: "http://a.test:8080/q?x=1"})
	if v.Location != "https://a.test/q?x=1" {
		t.Errorf("location %q", v.Location)
	}
	v = r.tested(admin.RouteTest{Method: "PUT", URL: "https://a.test/api/x"})
	if len(v.Nearest) != maxNearest || v.Nearest[0].Field != "header" || v.Nearest[1].Field != "method" || v.Nearest[2].Field != "path" || v.More != 4 {
		t.Errorf("nearest: %+v, %d more", v.Nearest, v.More)
	}
}

// Two Gateways may be for one host on one port: what takes the request is told, and that there is another. Of many
// better placed rules the first are shown.
func TestRouteTestOfTwoGateways(t *testing.T) {
	second := strings.NewReplacer("name: edge", "name: aaa", "hostname: a.test", "hostname: '*.a.test'", `"*.test"`, "a.test").Replace(routeGateway)
	var rules []string
	for i := range maxShownMisses + 2 {
		rules = append(rules, fmt.Sprintf("{matches: [{path: {type: Exact, value: /%d}}], backendRefs: [{name: web, port: 80}]}", i))
	}
	rules = append(rules, "{matches: [{path: {type: PathPrefix, value: /x}, method: PUT}], backendRefs: [{name: web, port: 80}]}", "{backendRefs: [{name: web, port: 80}]}")
	r := routed(t, second, routeDoc("shop", "a", "a.test", rules...))
	v := r.tested(admin.RouteTest{Method: "GET", URL: "https://a.test:8443/x"})
	if !v.Taken || v.Gateway != "shop/edge" || len(v.Notes) != 1 || v.Notes[0] != "more than one Gateway has a listener for it: shop/aaa:8443, shop/edge:8443" {
		t.Errorf("%+v", v)
	}
	if len(v.Nearest) != maxShownMisses || v.More != 3 || v.Nearest[0].Field != "method" {
		t.Errorf("%d nearest, %d more, first %+v", len(v.Nearest), v.More, v.Nearest[0])
	}
}

// What policy asks of a caller who shows nothing.
func TestRouteTestNeeds(t *testing.T) {
	r := routed(t, routeDoc("shop", "a", "a.test", `{backendRefs: [{name: web, port: 80}]}`))
	q := admin.RouteTest{Method: "GET", URL: "https://a.test/"}
	const target = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]"
	for _, row := range []struct{ policy, want string }{
		{"", "an AuthorizationPolicy that allows it at Gateway shop/edge: none does"},
		{"{" + target + ", rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}", "a token: AuthorizationPolicy/shop/p#0"},
		{"{" + target + ", rules: [{to: [{operation: {methods: [PUT]}}]}]}", "what the nearest rule asks for: AuthorizationPolicy/shop/p#0: method allows PUT"},
		{"{" + target + ", rules: [{to: [{operation: {methods: [GET]}}]}]}", ""},
		{"{" + target + ", action: DENY, rules: [{}]}", "policy to change: AuthorizationPolicy/shop/p#0"},
	} {
		if row.policy != "" {
			r.applied(policyDoc("p", "shop", row.policy))
		}
		v := r.tested(q)
		if !v.Taken || !strings.HasPrefix(v.Needs, row.want) || (v.Needs == "") != (row.want == "") {
			t.Errorf("%s: %t, needs %q, want %q", row.policy, v.Taken, v.Needs, row.want)
		}
	}
}

// What is no request is refused as the fault of the one who asks.
func TestRouteTestUsage(t *testing.T) {
	r := newPlace(t).run()
	many := slices.Repeat([]string{"A: b"}, maxTestHeaders+1)
	for _, q := range []admin.RouteTest{
		{Method: "GET", URL: "a.test/"}, {Method: "GET", URL: "ftp://a.test/"}, {Method: "GET", URL: "https:///x"}, {Method: "GET", URL: "https://u@a.test/"},
		{Method: "GET", URL: "https://a.test/{*}"}, {Method: "GET", URL: "https://a.test/*"}, {Method: "GET", URL: "http://a.test/", SNI: "a.test"},
		{Method: "GET", URL: "https://a.test/", Header: []string{"none"}}, {Method: "GET", URL: "https://a.test/", Header: []string{": b"}},
		{Method: "GET", URL: "https://a.test/", Header: many},
	} {
		if _, err := r.testRoute(t.Context(), q); code(err) != "bad_request" {
			t.Errorf("%s: %v", q.URL, err)
		}
	}
	if _, err := r.routeList(t.Context(), admin.RouteQuery{Host: "a.test"}); code(err) != "not_found" {
		t.Error(err)
	}
	if _, err := r.testRoute(t.Context(), admin.RouteTest{Method: "GET", URL: "https://a.test/", Header: many[:maxTestHeaders]}); err != nil {
		t.Errorf("%d fields: %v", maxTestHeaders, err)
	}
}

// Rows stand in order of precedence on each listener; a host sees those that may take its requests.
func TestRouteList(t *testing.T) {
	r := routed(t,
		routeDoc("shop", "a", "a.test", `{backendRefs: [{name: orders, port: 80, weight: 3}, {name: web, port: 80, weight: 1}]}`,
			`{name: exact, matches: [{path: {type: Exact, value: /x}, method: GET, headers: [{name: x-v, value: a}], queryParams: [{name: q, value: b}]}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Key, value: hush}]}}], backendRefs: [{name: orders, port: 80}]}`),
		routeDoc("wild", "wild", `"*.test", b.test`, `{backendRefs: [{name: web, port: 80}]}`),
		routeDoc("up", "web", "a.test", `{matches: [{path: {type: PathPrefix, value: /}}, {path: {type: PathPrefix, value: /a}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: c.test}}]}`),
	)
	listed := func(q admin.RouteQuery) (rows []string, list admin.Routes) {
		t.Helper()
		list, err := r.routeList(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range list.Routes {
			rows = append(rows, fmt.Sprintf("%s %d %s %s#%d", row.Listener, row.Order, row.Host, row.Route, row.Rule))
		}
		return rows, list
	}
	rows, list := listed(admin.RouteQuery{})
	want := []string{
		"web 1 a.test shop/up#0", "web 2 a.test shop/up#0", "a 1 a.test shop/shop#1", "a 2 a.test shop/shop#0",
		"wild 1 b.test shop/wild#0", "wild 2 *.test shop/wild#0",
	}
	if !slices.Equal(rows, want) {
		t.Errorf("%q, want %q", rows, want)
	}
	if m := list.Routes[2]; m.Match != "= /x GET h:X-V q:q" || !slices.Equal(m.Filters, []string{"request header has set X-Key"}) || m.RuleName != "exact" {
		t.Errorf("%+v", m)
	}
	if to := list.Routes[0].Redirect; to != "https://c.test" {
		t.Errorf("redirect to %q", to)
	}
	faults := map[string]bool{}
	for _, l := range list.Listeners {
		faults[l.Listener] = l.Fault != ""
	}
	if len(faults) != 4 || faults["web"] || faults["a"] || faults["wild"] || !faults["bad"] {
		t.Errorf("listeners: %+v", list.Listeners)
	}
	rows, list = listed(admin.RouteQuery{Host: "X.test:8443"})
	if !slices.Equal(rows, []string{"wild 2 *.test shop/wild#0"}) || len(list.Listeners) != 2 {
		t.Errorf("of x.test: %q, %+v", rows, list.Listeners)
	}
	_, list = listed(admin.RouteQuery{Host: "a.test"})
	if got := list.Listeners[1]; got.StrictBecause != "HTTPRoute/shop/shop#exact matches = /x GET h:X-V q:q" || got.Certificate != "of our own authority" {
		t.Errorf("%+v", got)
	}
	if rows, _ = listed(admin.RouteQuery{Namespace: "else"}); len(rows) != 0 {
		t.Errorf("of another namespace: %q", rows)
	}
	if _, err := r.routeList(t.Context(), admin.RouteQuery{Host: "a b"}); code(err) != "bad_host" {
		t.Error(err)
	}
}
