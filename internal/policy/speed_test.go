package policy

import (
	"fmt"
	"testing"
)

// many is a set of n ALLOW rules of one destination, each with its caller, method and path,
// beside a few DENY rules; the last rule is the one that matches.
func many(n int) (*Program, Conn, *Request) {
	p := allow()
	for i := range n {
		p.Rules = append(p.Rules, one(
			Source{Principals: []string{fmt.Sprintf("prod.example/ns/shop/sa/w%d", i%1024), "prod.example/ns/ops/*"}},
			Operation{Methods: []string{"GET", "HEAD"}, Paths: []string{fmt.Sprintf("/v1/r%d/{*}", i)}, Hosts: []string{"API.shop"}}))
	}
	d := deny(paths("/admin*", "/v1/{**}/export"), to(Operation{NotMethods: []string{"GET", "POST"}, Hosts: []string{"*.shop"}}), namespaces("evil"))
	compiled, _ := Compile(Set{TrustDomain: "prod.example", Policies: []Policy{p, d}})
	a := asked{id: as(fmt.Sprintf("shop/w%d", (n-1)%1024)), host: "api.SHOP", path: fmt.Sprintf("/v1/r%d/a%%2Fb;x", n-1)}
	return compiled.For(shopAPI), a.conn(), a.request()
}

// A decision never allocates, whatever answers it.
func TestDecideDoesNotAllocate(t *testing.T) {
	p, c, q := many(100)
	anonymous := c
	anonymous.Peer = nil
	for _, c := range []struct {
		conn Conn
		q    *Request
		want string
	}{
		{c, q, ReasonAllowRule},
		{c, &Request{Method: "GET", Host: "api.shop:80", Path: "/x/admin", Wide: "/admin"}, ReasonDenyRule},
		{anonymous, q, ReasonNoRule},
		{Conn{Port: 5432}, nil, ReasonDenyRule},
	} {
		b := p.Bind(c.conn)
		if v := b.Decide(c.q); v.Reason != c.want {
			t.Errorf("got %+v, want %s", v, c.want)
		}
		if n := testing.AllocsPerRun(100, func() { b.Decide(c.q) }); n != 0 {
			t.Errorf("%s: %v allocations a decision", c.want, n)
		}
	}
}

// conditioned is many, with a token or a header in every rule: nothing of it may cost more
// than looking.
func conditioned(n int) (*Program, Conn, *Request) {
	p := allow()
	for i := range n {
		r := one(Source{Principals: []string{"prod.example/ns/shop/*"}, RequestPrincipals: []string{fmt.Sprintf("https://id%d/*", i), "*u1"}},
			Operation{Methods: []string{"GET"}, Paths: []string{"/v1/*"}})
		r.When = []Condition{
			{Key: "request.auth.claims[scope]", Values: []string{fmt.Sprintf("orders:%d", i)}},
			{Key: "request.auth.audiences", Values: []string{"api"}},
			{Key: "request.auth.presenter", NotValues: []string{"evil"}},
			{Key: "request.headers[x-tier]", Values: []string{"gold", "silver*"}},
			{Key: "request.headers[:path]", NotValues: []string{"*/export?all=1"}},
			{Key: "request.headers[:scheme]", Values: []string{"https"}},
			{Key: "request.headers[:method]", NotValues: []string{"PUT"}},
			{Key: "request.headers[x-forwarded-proto]", Values: []string{"https"}},
			{Key: "request.headers[x-request-id]", Values: []string{"*"}},
			{Key: "source.namespace", Values: []string{"shop"}},
		}
		p.Rules = append(p.Rules, r)
	}
	d := deny(noTokens("*"), header("cookie", "debug=1"), header("upgrade", "*"), claim("role", "evil"))
	compiled, _ := Compile(Set{TrustDomain: "prod.example", Policies: []Policy{p, d}})
	scopes := []any{"read", fmt.Sprintf("orders:%d", n-1)}
	a := asked{id: as("shop/web"), path: "/v1/a", query: "b=1", headers: []string{"x-tier=silver1", "x-tier=silver2", "cookie=a=1", "cookie=b=2"},
		token: newCard(map[string]any{"iss": "https://id", "sub": "u1", "aud": "api", "scope": scopes, "azp": "app"}, false)}
	return compiled.For(shopAPI), a.conn(), a.request()
}

func TestDecideWithConditionsDoesNotAllocate(t *testing.T) {
	p, c, q := conditioned(50)
	with := func(change func(*Request)) *Request { r := *q; change(&r); return &r }
	for _, c := range []struct {
		q    *Request
		want string
		rule int
	}{
		{q, ReasonAllowRule, 49},
		{with(func(r *Request) { r.Token = nil }), ReasonDenyRule, 0},
		{with(func(r *Request) { r.Header = map[string][]string{"Cookie": {"a=1", "debug=1"}} }), ReasonDenyRule, 1},
		{with(func(r *Request) { r.WebSocket = true }), ReasonDenyRule, 2},
		{with(func(r *Request) { r.Header = nil }), ReasonNoRule, -1},
		{with(func(r *Request) { r.Scheme = "http" }), ReasonNoRule, -1},
		{with(func(r *Request) { r.QueryCut = true }), ReasonNoRule, -1},
	} {
		b := p.Bind(asked{id: as("shop/web")}.conn())
		if v := b.Decide(c.q); v.Reason != c.want || v.Rule != c.rule {
			t.Errorf("got %+v, want %s of rule %d", v, c.want, c.rule)
		}
		if n := testing.AllocsPerRun(100, func() { b.Decide(c.q) }); n != 0 {
			t.Errorf("%s: %v allocations a decision", c.want, n)
		}
	}
	if b := p.Bind(c); len(b.allow) != 50 {
		t.Errorf("%d rules left", len(b.allow))
	}
}

func BenchmarkDecideConditions(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p, c, q := conditioned(n)
			bound := p.Bind(c)
			b.ReportAllocs()
			for b.Loop() {
				bound.Decide(q)
			}
		})
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p, c, q := many(n)
			bound := p.Bind(c)
			b.ReportAllocs()
			for b.Loop() {
				bound.Decide(q)
			}
		})
	}
}

func BenchmarkBind(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p, c, _ := many(n)
			b.ReportAllocs()
			for b.Loop() {
				p.Bind(c)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	set := Set{TrustDomain: "prod.example", Policies: []Policy{allow()}}
	for i := range 10_000 {
		set.Policies[0].Rules = append(set.Policies[0].Rules, one(
			Source{Principals: []string{fmt.Sprintf("prod.example/ns/shop/sa/w%d", i%1024)}},
			Operation{Methods: []string{"GET"}, Paths: []string{fmt.Sprintf("/v1/r%d/{*}", i)}}))
	}
	b.ReportAllocs()
	for b.Loop() {
		Compile(set)
	}
}

func BenchmarkExplain(b *testing.B) {
	p, c, _ := many(1000)
	q := &Request{Method: "PATCH", Host: "api", Path: "/v1"}
	b.ReportAllocs()
	for b.Loop() {
		p.Explain(c, q)
	}
}

// Fields are kept only where a rule that is left at the connection looks at one.
func TestReadsHeader(t *testing.T) {
	get := asked{id: as("shop/web")}
	for _, c := range []struct {
		rule Rule
		want bool
	}{
		{methods("GET"), false},
		{tokens("*"), false},
		{claim("role", "x"), false},
		{on("request.auth.principal", "*"), false},
		{on("source.namespace", "shop"), false},
		{header("x-tier", "x"), true},
		{header("not x-request-id", "x"), true},
		{header(":scheme", "https"), true},
		{Rule{From: []Source{{Namespaces: []string{"crm"}}}, When: header("x-tier", "x").When}, false},
	} {
		for _, p := range []Policy{allow(c.rule), deny(c.rule)} {
			compiled, _ := Compile(Set{TrustDomain: "prod.example", Policies: []Policy{p}})
			b := compiled.For(shopAPI).Bind(get.conn())
			if got := b.ReadsHeader(); got != c.want {
				t.Errorf("%s %+v: got %v", p.Action, c.rule, got)
			}
		}
	}
}

func TestReadsPath(t *testing.T) {
	for name, c := range map[string]struct {
		rule Rule
		want bool
	}{
		"nothing":     {Rule{}, false},
		"methods":     {Rule{To: []Operation{{Methods: []string{"GET"}}}}, false},
		"paths":       {Rule{To: []Operation{{Paths: []string{"/a"}}}}, true},
		"notPaths":    {Rule{To: []Operation{{Methods: []string{"GET"}}, {NotPaths: []string{"/a"}}}}, true},
		":path":       {Rule{When: []Condition{{Key: "request.headers[:path]", Values: []string{"/a*"}}}}, true},
		"a header":    {Rule{When: []Condition{{Key: "request.headers[x-a]", Values: []string{"1"}}}}, false},
		"other port":  {Rule{To: []Operation{{Paths: []string{"/a"}, Ports: []string{"81"}}}}, false},
		"other peers": {Rule{From: []Source{{Namespaces: []string{"other"}}}, To: []Operation{{Paths: []string{"/a"}}}}, false},
	} {
		for _, action := range []Action{Allow, Deny} {
			compiled, faults := Compile(Set{TrustDomain: "cluster.local", RootNamespace: "istio-system", Policies: []Policy{{Namespace: "shop", Name: "p", Action: action, Rules: []Rule{c.rule}}}})
			if len(faults) > 0 {
				t.Fatal(faults)
			}
			b := compiled.For(Destination{Namespace: "shop"}).Bind(Conn{Port: 80, HTTP: true})
			if got := b.ReadsPath(); got != c.want {
				t.Errorf("%s, %s: %v", name, action, got)
			}
		}
	}
}
