package policy

import (
	"reflect"
	"testing"
)

func explain(t *testing.T, a asked, policies ...Policy) Explanation {
	t.Helper()
	compiled, faults := Compile(Set{TrustDomain: "prod.example", Policies: policies})
	if len(faults) > 0 {
		t.Fatalf("faults %v", faults)
	}
	return compiled.For(shopAPI).Explain(a.conn(), a.request())
}

// The three misses of cli.md 10.9, by cost: a method, an identity, and two fields at once.
func TestNearestMisses(t *testing.T) {
	p := allow(
		one(Source{Principals: []string{"cluster.local/ns/shop/sa/web"}}, Operation{Methods: []string{"GET", "HEAD"}, Paths: []string{"/v1/{**}"}}),
		principals("prod.example/ns/shop/sa/billing"),
		one(Source{Principals: []string{"prod.example/ns/ops/*"}}, Operation{Hosts: []string{"a", "b", "c", "d", "e"}}),
		one(Source{Namespaces: []string{"crm"}}, Operation{NotPaths: []string{"/v1*"}, Ports: []string{"1"}}),
	)
	p.Rules[1].Pos = Pos{File: "p.yaml", Line: 5, Col: 3}
	p.WrittenBy = "allow"
	e := explain(t, asked{id: as("shop/web"), method: "PATCH", path: "/v1/payments/42"}, p)
	if e.Verdict.Reason != ReasonNoRule {
		t.Fatalf("got %+v", e.Verdict)
	}
	identity := as("shop/web")
	want := []Miss{
		{"shop/a", 0, Pos{}, "allow", 2, []FieldMiss{{"method", []string{"GET", "HEAD"}, 0, "PATCH"}}},
		{"shop/a", 1, Pos{File: "p.yaml", Line: 5, Col: 3}, "allow", 5, []FieldMiss{{"principal", []string{"prod.example/ns/shop/sa/billing"}, 0, identity}}},
		{"shop/a", 2, Pos{}, "allow", 7, []FieldMiss{
			{"principal", []string{"prod.example/ns/ops/*"}, 0, identity},
			{"host", []string{"a", "b", "c"}, 2, "api"},
		}},
	}
	if !reflect.DeepEqual(e.Nearest, want) {
		t.Errorf("got  %+v\nwant %+v", e.Nearest, want)
	}
}

func TestMissFields(t *testing.T) {
	region := asked{id: "prod.example/region/eu/ns/shop/sa/web"}
	for _, c := range []struct {
		name string
		rule Rule
		ask  asked
		want []FieldMiss
	}{
		{"no identity", principals("*"), asked{}, []FieldMiss{{"principal", []string{"*"}, 0, "(absent)"}}},
		{"foreign", principals("*"), asked{id: "partner.example/ns/a/sa/b"}, []FieldMiss{{"principal", []string{"*"}, 0, "partner.example/ns/a/sa/b"}}},
		{"account in full", accounts("web"), asked{id: as("crm/web")}, []FieldMiss{{"service account", []string{"shop/web"}, 0, "crm/web"}}},
		{"no account", accounts("web"), region, []FieldMiss{{"service account", []string{"shop/web"}, 0, region.id}}},
		{"namespace", namespaces("crm"), asked{id: as("shop/web")}, []FieldMiss{{"namespace", []string{"crm"}, 0, "shop"}}},
		{"negated", to(Operation{NotPaths: []string{"/x*"}}), asked{}, []FieldMiss{{"path", []string{"not /x*"}, 0, "/x"}}},
		{"port", ports("1"), asked{}, []FieldMiss{{"port", []string{"1"}, 0, "8080"}}},
		{"best operation", Rule{To: []Operation{{Paths: []string{"/y"}}, {Methods: []string{"PUT"}}}}, asked{}, []FieldMiss{{"method", []string{"PUT"}, 0, "GET"}}},
		{"dropped on TCP", Rule{To: []Operation{{Ports: []string{"5432"}}, {Methods: []string{"GET"}}}}, asked{tcp: true}, []FieldMiss{{"method", []string{"GET"}, 0, "(absent)"}}},
	} {
		e := explain(t, c.ask, allow(c.rule))
		if len(e.Nearest) != 1 || !reflect.DeepEqual(e.Nearest[0].Fields, c.want) {
			t.Errorf("%s: got %+v, want %+v", c.name, e.Nearest, c.want)
		}
	}
}

func TestExplainDeny(t *testing.T) {
	anything := allow(Rule{})
	secret := deny(paths("/v1/secret*"))
	for _, c := range []struct {
		name     string
		ask      asked
		policies []Policy
		readAs   string
		without  string // the reason of the allow without the rule
		also     int
	}{
		{"plain", asked{path: "/v1/secret"}, []Policy{anything, secret}, "", ReasonAllowRule, 0},
		{"no ALLOW attached", asked{path: "/v1/secret"}, []Policy{secret}, "", ReasonNoPolicy, 0},
		{"no ALLOW matches", asked{path: "/v1/secret"}, []Policy{allow(), secret}, "", "", 0},
		{"another DENY", asked{path: "/v1/secret"}, []Policy{anything, deny(paths("/v1/secret"), methods("GET"))}, "", "", 1},
		{"wide path", asked{path: "/v1%2fsecret"}, []Policy{anything, secret}, "/v1%2fsecret read as /v1/secret", ReasonAllowRule, 0},
		{"wide host", asked{host: "api:80"}, []Policy{anything, deny(hosts("api"))}, "api:80 read as api", ReasonAllowRule, 0},
		{"wide account", asked{id: "prod.example/region/eu/ns/shop/sa/web"}, []Policy{deny(accounts("web"))}, "prod.example/region/eu/ns/shop/sa/web read as service account shop/web", ReasonNoPolicy, 0},
		{"wide namespace", asked{id: "prod.example/region/eu/ns/shop/sa/web"}, []Policy{deny(namespaces("shop"))}, "prod.example/region/eu/ns/shop/sa/web read as namespace shop", ReasonNoPolicy, 0},
		{"parsed account", asked{id: as("shop/web")}, []Policy{deny(accounts("web"))}, "", ReasonNoPolicy, 0},
		{"foreign namespace", asked{id: "partner.example/ns/shop/sa/web"}, []Policy{deny(namespaces("shop"))}, "", ReasonNoPolicy, 0},
	} {
		e := explain(t, c.ask, c.policies...)
		without := ""
		if e.WouldAllowWithout != nil {
			without = e.WouldAllowWithout.Reason
		}
		if e.Verdict.Reason != ReasonDenyRule || e.ReadAs != c.readAs || without != c.without || len(e.AlsoDeniedBy) != c.also {
			t.Errorf("%s: got %+v", c.name, e)
		}
	}
}

func TestExplainAllow(t *testing.T) {
	e := explain(t, asked{}, allow(methods("GET"), methods("PUT"), Rule{}))
	if e.Verdict.Rule != 0 || !reflect.DeepEqual(e.AlsoAllowedBy, []Ref{{Policy: "shop/a", Rule: 2}}) {
		t.Errorf("got %+v", e)
	}
}

// "no ALLOW policy names api" is said where the only ALLOW is empty.
func TestNamesDestination(t *testing.T) {
	nothing := Policy{Namespace: "istio-system", Name: "allow-nothing", Action: Allow}
	for _, c := range []struct {
		policies     []Policy
		allow, names bool
	}{
		{nil, false, false},
		{[]Policy{nothing}, true, false},
		{[]Policy{nothing, deny(Rule{})}, true, false},
		{[]Policy{nothing, allow(methods("GET"))}, true, true},
	} {
		compiled, _ := Compile(Set{Policies: c.policies})
		if p := compiled.For(shopAPI); p.HasAllow() != c.allow || p.NamesDestination() != c.names {
			t.Errorf("%+v: HasAllow %v, NamesDestination %v", c, p.HasAllow(), p.NamesDestination())
		}
	}
}

func TestMay(t *testing.T) {
	compiled, _ := Compile(Set{TrustDomain: "prod.example", Policies: []Policy{
		allow(
			one(Source{Principals: []string{"cluster.local/ns/shop/sa/web"}}, Operation{Methods: []string{"GET", "HEAD"}, Paths: []string{"/v1/orders"}, NotPaths: []string{"/v1/x"}, Hosts: []string{"api"}}),
			principals("prod.example/ns/shop/sa/other"),
			Rule{To: []Operation{{Ports: []string{"9999"}}, {Ports: []string{"8080"}}}},
		),
		deny(paths("/v1/orders/export"), principals("*/sa/evil")),
	}})
	got := compiled.For(shopAPI).May(ParsePeer(as("shop/web"), "prod.example"), []uint16{8080})
	want := []Grant{
		{Action: Allow, Methods: []string{"GET", "HEAD"}, Paths: []string{"/v1/orders"}, NotPaths: []string{"/v1/x"}, Hosts: []string{"api"}, Policy: "shop/a"},
		{Action: Allow, Ports: []string{"8080"}, Policy: "shop/a", Rule: 2},
		{Action: Deny, Paths: []string{"/v1/orders/export"}, Policy: "shop/d"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSay(t *testing.T) {
	for _, c := range []struct {
		want   string
		policy Policy
	}{
		{"nothing is allowed", allow()},
		{"nothing is denied", deny()},
		{"everything is allowed", allow(Rule{})},
		{"everything is denied", deny(Rule{})},
		{"web may GET /orders/{*}", allow(one(Source{Principals: []string{"cluster.local/ns/shop/sa/web"}}, Operation{Methods: []string{"GET"}, Paths: []string{"/orders/{*}"}}))},
		{"web or crm/api may (GET or HEAD) (/a or /b)", allow(one(Source{Principals: []string{"cluster.local/ns/shop/sa/web", "cluster.local/ns/crm/sa/api"}}, Operation{Methods: []string{"GET", "HEAD"}, Paths: []string{"/a", "/b"}}))},
		{"web may do anything", allow(accounts("web"))},
		{"partner.example/ns/shop/sa/web may do anything", allow(principals("partner.example/ns/shop/sa/web"))},
		{"anybody may call /healthz", allow(paths("/healthz"))},
		{"anybody may call (/a or /b) except /a/x", allow(to(Operation{Paths: []string{"/a", "/b"}, NotPaths: []string{"/a/x"}}))},
		{"any identity may GET or HEAD on port 8080", allow(one(Source{Principals: []string{"*"}}, Operation{Methods: []string{"GET", "HEAD"}, Ports: []string{"8080"}}))},
		{"(a or b) and not namespace dev may do anything", allow(from(Source{ServiceAccounts: []string{"a", "b"}, NotNamespaces: []string{"dev"}}))},
		{"(a and namespace x) or b may do anything", allow(Rule{From: []Source{{ServiceAccounts: []string{"a"}, Namespaces: []string{"x"}}, {ServiceAccounts: []string{"b"}}}})},
		{"anybody without an identity may not do anything", deny(from(Source{NotPrincipals: []string{"*"}}))},
		{"anybody but namespace shop may not do anything", deny(from(Source{NotNamespaces: []string{"shop"}}))},
		{"nobody may DELETE", deny(methods("DELETE"))},
		{"nobody may call with a method that is not GET", deny(to(Operation{NotMethods: []string{"GET"}}))},
		{"anybody may GET; anybody may POST /in at host api", allow(methods("GET"), to(Operation{Methods: []string{"POST"}, Paths: []string{"/in"}, Hosts: []string{"api"}}))},
	} {
		if got := Say(c.policy); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	if got := SayIn(allow(principals("prod.example/ns/shop/sa/web")), "prod.example"); got != "web may do anything" {
		t.Errorf("own trust domain: %q", got)
	}
}
