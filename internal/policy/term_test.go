package policy

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// The third miss of cli.md 10.9: an identity and a claim, the more telling first.
func TestMissOfClaim(t *testing.T) {
	r := from(Source{Principals: []string{"prod.example/ns/ops/*"}})
	r.When = claim("role", "admin").When
	e := explain(t, asked{id: as("shop/orders")}, allow(r))
	want := []Miss{{Policy: "shop/a", Cost: 8, Fields: []FieldMiss{
		{"principal", []string{"prod.example/ns/ops/*"}, 0, as("shop/orders")},
		{"claim role", []string{"admin"}, 0, "(absent)"},
	}}}
	if !reflect.DeepEqual(e.Nearest, want) {
		t.Errorf("got  %+v\nwant %+v", e.Nearest, want)
	}
}

func TestConditionMissFields(t *testing.T) {
	const token = `{"iss":"https://id","sub":"u1","aud":["web"],"role":["user","guest"],"realm":{"roles":["x"]},"n":3}`
	exchanged := asked{token: newCard(map[string]any{"iss": "https://us", "sub": "a", "oiss": "https://id", "osub": "u1"}, true)}
	long := asked{token: newCard(map[string]any{"role": strings.Repeat("ä", 300)}, false)}
	given := asked{jwt: token, query: "token=secret", headers: []string{"x-key=secret"}, path: "/v1"}
	for _, c := range []struct {
		name string
		rule Rule
		ask  asked
		want FieldMiss
	}{
		{"no token", tokens("https://id/*"), asked{}, FieldMiss{"request principal", []string{"https://id/*"}, 0, "(absent)"}},
		{"another", tokens("a/*", "b/*", "c/*", "d/*"), given, FieldMiss{"request principal", []string{"a/*", "b/*", "c/*"}, 1, "https://id/u1"}},
		{"excluded", noTokens("https://id/*"), given, FieldMiss{"request principal", []string{"not https://id/*"}, 0, "https://id/u1"}},
		{"both pairs", on("request.auth.principal", "x"), exchanged, FieldMiss{"request principal", []string{"x"}, 0, "https://us/a, https://id/u1"}},
		{"half a principal", tokens("*"), asked{jwt: `{"iss":"i"}`}, FieldMiss{"request principal", []string{"*"}, 0, "(absent)"}},
		{"claim", claim("role", "admin"), given, FieldMiss{"claim role", []string{"admin"}, 0, "user, guest"}},
		{"claim excluded", on("not request.auth.claims[role]", "guest"), given, FieldMiss{"claim role", []string{"not guest"}, 0, "user, guest"}},
		{"claim of claims", claim("realm][roles", "admin"), given, FieldMiss{"claim [realm][roles]", []string{"admin"}, 0, "x"}},
		{"number", claim("n", "3"), given, FieldMiss{"claim n", []string{"3"}, 0, "(absent)"}},
		{"long", claim("role", "admin"), long, FieldMiss{"claim role", []string{"admin"}, 0, strings.Repeat("ä", 100) + "…"}},
		{"audience", on("request.auth.audiences", "api"), given, FieldMiss{"audience", []string{"api"}, 0, "web"}},
		{"presenter", on("request.auth.presenter", "api"), given, FieldMiss{"presenter", []string{"api"}, 0, "(absent)"}},
		{"actor", on("request.auth.actors", "api"), given, FieldMiss{"actor", []string{"api"}, 0, "(absent)"}},
		{"header", header("X-Key", "k1"), given, FieldMiss{"header x-key", []string{"k1"}, 0, "(present)"}},
		{"no header", header("x-other", "k1"), given, FieldMiss{"header x-other", []string{"k1"}, 0, "(absent)"}},
		{"scheme", header(":scheme", "https"), given, FieldMiss{"header :scheme", []string{"https"}, 0, "(present)"}},
		{"path", header(":path", "/v1"), given, FieldMiss{"header :path", []string{"/v1"}, 0, "/v1?…"}},
		{"plain path", header(":path", "/v2"), asked{path: "/v1"}, FieldMiss{"header :path", []string{"/v2"}, 0, "/v1"}},
		{"method", header(":method", "PUT"), given, FieldMiss{"header :method", []string{"PUT"}, 0, "GET"}},
		{"host", header("host", "x"), given, FieldMiss{"header host", []string{"x"}, 0, "api"}},
		{"namespace", on("source.namespace", "crm"), asked{id: as("shop/web")}, FieldMiss{"namespace", []string{"crm"}, 0, "shop"}},
		{"account", on("source.serviceAccount", "x"), asked{id: as("shop/web")}, FieldMiss{"service account", []string{"shop/x"}, 0, "shop/web"}},
		{"port", on("destination.port", "1"), asked{}, FieldMiss{"port", []string{"1"}, 0, "8080"}},
		{"token on TCP", tokens("*"), asked{tcp: true}, FieldMiss{"request principal", []string{"*"}, 0, "(absent)"}},
		{"one source of two on TCP", Rule{From: []Source{{NotNamespaces: []string{"x"}}, {NotRequestPrincipals: []string{"*"}}}}, asked{tcp: true}, FieldMiss{"request principal", []string{"not *"}, 0, "(absent)"}},
		{"header on TCP", header("not x", "y"), asked{tcp: true}, FieldMiss{"header x", []string{"not y"}, 0, "(absent)"}},
	} {
		e := explain(t, c.ask, allow(c.rule))
		if len(e.Nearest) != 1 || !reflect.DeepEqual(e.Nearest[0].Fields, []FieldMiss{c.want}) {
			t.Errorf("%s: got %+v, want %+v", c.name, e.Nearest, c.want)
		}
		if text := fmt.Sprintf("%+v", e); strings.Contains(text, "secret") {
			t.Errorf("%s: told a secret: %s", c.name, text)
		}
	}
}

func TestMissOfUnreadableCondition(t *testing.T) {
	compiled, _ := Compile(Set{Policies: []Policy{allow(on("source.ip", "10.0.0.0/8"))}})
	a := asked{}
	e := compiled.For(shopAPI).Explain(a.conn(), a.request())
	want := []FieldMiss{{"condition", []string{"nothing: it cannot be judged here"}, 0, "source.ip"}}
	if len(e.Nearest) != 1 || !reflect.DeepEqual(e.Nearest[0].Fields, want) {
		t.Errorf("got %+v", e.Nearest)
	}
}

// A DENY that matched in the wide reading only says so, without telling what was read.
func TestConditionReadAs(t *testing.T) {
	for _, c := range []struct {
		name string
		rule Rule
		ask  asked
		want string
	}{
		{"plain", header("x", "secret"), asked{headers: []string{"x=secret"}}, ""},
		{"one line of two", header("x", "secret"), asked{headers: []string{"x=secret", "x=b"}}, "header x read line by line and joined"},
		{"scheme", header(":scheme", "http"), asked{id: as("shop/web"), headers: []string{"x-forwarded-proto=http"}}, "header :scheme read from every place that tells it"},
		{"query", header(":path", "/p?a=1"), asked{path: "/p", query: "a=1", cut: true}, "header :path read without the query's order, which the token left open"},
		{"request id", header("x-request-id", "a*"), asked{}, "header x-request-id read as any value: none was sent"},
		{"line feed", claim("role", "*"), asked{jwt: `{"role":"a\nb"}`}, "claim role read with its line feed"},
	} {
		e := explain(t, c.ask, deny(c.rule))
		if e.Verdict.Reason != ReasonDenyRule || e.ReadAs != c.want {
			t.Errorf("%s: got %+v, want %q", c.name, e, c.want)
		}
	}
}

func TestMayUnderConditions(t *testing.T) {
	web := []string{"*/sa/web"}
	user := Source{Principals: web, RequestPrincipals: []string{"https://id/*"}}
	other := Source{Principals: web, RequestPrincipals: []string{"*"}, NotRequestPrincipals: []string{"*/x"}}
	free := Source{Principals: web}
	named := Rule{From: []Source{user}, To: []Operation{{Methods: []string{"GET"}}}, When: []Condition{
		{Key: "request.auth.claims[role]", Values: []string{"a", "b"}, NotValues: []string{"c"}},
		{Key: "request.headers[x]", NotValues: []string{"*"}},
		{Key: "destination.port", Values: []string{"8080"}},
		{Key: "source.namespace", Values: []string{"shop"}},
		{Key: "request.auth.principal", Values: []string{"*"}},
	}}
	compiled, _ := Compile(Set{TrustDomain: "prod.example", Policies: []Policy{
		allow(named, Rule{From: []Source{user, other}}, Rule{From: []Source{user, free}},
			on("source.namespace", "crm"), on("destination.port", "9090"), on("source.ip", "*")),
		deny(noTokens("*"), on("source.ip", "*")),
	}})
	got := compiled.For(shopAPI).May(ParsePeer(as("shop/web"), "prod.example"), []uint16{8080})
	want := []Grant{
		{Action: Allow, Methods: []string{"GET"}, Policy: "shop/a", If: []string{
			"request principal is https://id/*", "port is 8080", "claim role is (a or b) and not c", "header x is not there", "request principal is there",
		}},
		{Action: Allow, Policy: "shop/a", Rule: 1, If: []string{"(request principal is https://id/* or request principal is there and not */x)"}},
		{Action: Allow, Policy: "shop/a", Rule: 2},
		{Action: Deny, Policy: "shop/d", If: []string{"request principal is not there"}},
		{Action: Deny, Policy: "shop/d", Rule: 1},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	anywhere := compiled.For(shopAPI).May(ParsePeer(as("shop/web"), "prod.example"), nil)
	if len(anywhere) != len(want)+1 {
		t.Errorf("at any port: %+v", anywhere)
	}
}

func TestSayTokensAndConditions(t *testing.T) {
	web := []string{"cluster.local/ns/shop/sa/web"}
	for _, c := range []struct {
		want   string
		policy Policy
	}{
		{"web with a token of https://id/* may POST /charges", allow(one(Source{Principals: web, RequestPrincipals: []string{"https://id/*"}}, Operation{Methods: []string{"POST"}, Paths: []string{"/charges"}}))},
		{"anybody with a token may do anything", allow(tokens("*"))},
		{"anybody with a token of (a/* or b/*) may do anything", allow(tokens("a/*", "b/*"))},
		{"anybody without a token may not do anything", deny(noTokens("*"))},
		{"anybody with a token but not one of i/evil may do anything", allow(from(Source{RequestPrincipals: []string{"*"}, NotRequestPrincipals: []string{"i/evil"}}))},
		{"(web with a token) or a or b may do anything", allow(Rule{From: []Source{{Principals: web, RequestPrincipals: []string{"*"}}, {ServiceAccounts: []string{"a", "b"}}}})},
		{"(a or b) with a token may do anything", allow(from(Source{ServiceAccounts: []string{"a", "b"}, RequestPrincipals: []string{"*"}}))},
		{"if claim role is admin, web may GET", allow(Rule{From: []Source{{Principals: web}}, To: []Operation{{Methods: []string{"GET"}}}, When: claim("role", "admin").When})},
		{"if claim role is admin or ops, everything is allowed", allow(claim("role", "admin", "ops"))},
		{"if header x-debug is there, everything is denied", deny(header("X-Debug", "*"))},
		{"if header x-debug is not there, everything is denied", deny(header("not x-debug", "*"))},
		{"if claim role is (a or b) and not (c or d) and principal is web, everything is allowed", allow(Rule{When: []Condition{
			{Key: "request.auth.claims[role]", Values: []string{"a", "b"}, NotValues: []string{"c", "d"}}, {Key: "source.principal", Values: web},
		}})},
		{"if service account is not (web or crm/api), anybody may GET /a, or POST /b", allow(Rule{
			To:   []Operation{{Methods: []string{"GET"}, Paths: []string{"/a"}}, {Methods: []string{"POST"}, Paths: []string{"/b"}}},
			When: on("not source.serviceAccount", "shop/web", "crm/api").When,
		})},
		{"if source.ip is 10.0.0.0/8, everything is allowed", allow(on("source.ip", "10.0.0.0/8"))},
		{"if audience is api, nobody may GET", deny(Rule{To: []Operation{{Methods: []string{"GET"}}}, When: on("request.auth.audiences", "api").When})},
	} {
		if got := Say(c.policy); got != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}
