package policy

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// card is a verified token, as the tests write it: claims as JSON gives them. The reference
// evaluator reads the claims, the engine the methods.
type card struct {
	Claims map[string]any
	Own    bool // of our own token service
	flat   map[string][]string
}

// newCard prepares the top-level claims, as whoever verifies a token does.
func newCard(claims map[string]any, own bool) *card {
	c := &card{Claims: claims, Own: own, flat: map[string][]string{}}
	for name, v := range claims {
		c.flat[name] = texted(v)
	}
	return c
}

func jwt(claims string) *card {
	var m map[string]any
	if err := json.Unmarshal([]byte(claims), &m); err != nil {
		panic(err)
	}
	return newCard(m, false)
}

// texted is what of a claim can match: a text, or the texts of a list.
func texted(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

func (c *card) text(name string) string {
	s, _ := c.Claims[name].(string)
	return s
}

func (c *card) Issuer() string     { return c.text("iss") }
func (c *card) Subject() string    { return c.text("sub") }
func (c *card) Audience() []string { return c.flat["aud"] }

func (c *card) Upstream() (iss, sub string) {
	if c.Own {
		return c.text("oiss"), c.text("osub")
	}
	return "", ""
}

func (c *card) Presenter() string {
	if c.Own {
		return c.text("client_id")
	}
	return c.text("azp")
}

func (c *card) Actors() []string {
	var out []string
	for act, ok := c.Claims["act"].(map[string]any); ok && c.Own; act, ok = act["act"].(map[string]any) {
		if s, is := act["sub"].(string); is {
			out = append(out, s)
		}
	}
	return out
}

func (c *card) Claim(path []string) []string {
	if len(path) == 1 {
		return c.flat[path[0]]
	}
	inner, ok := c.Claims[path[0]].(map[string]any)
	if !ok {
		return nil
	}
	return newCard(inner, false).Claim(path[1:])
}

// Table of istio-semantics 6.1: which token rules a workload has, and in which order.
func TestTokens(t *testing.T) {
	object := func(ns, name string, created int64, labels map[string]string, issuers ...string) RequestAuthentication {
		out := RequestAuthentication{Namespace: ns, Name: name, Created: created, Selector: labels}
		for _, iss := range issuers {
			issuer, param, _ := strings.Cut(iss, " ")
			out.Rules = append(out.Rules, TokenRule{Issuer: issuer, Params: []string{param}})
		}
		return out
	}
	app := map[string]string{"app": "api"}
	set := Set{RootNamespace: "istio-system", RequestAuth: []RequestAuthentication{
		object("shop", "late", 9, nil, "b 5", "a 3"),
		object("shop", "y", 1, app, "a 1", "a 2"),
		object("istio-system", "x", 1, nil, "a 0"),
		object("istio-system", "web", 0, map[string]string{"app": "web"}, "a no"),
		object("crm", "c", 0, nil, "a crm", " crm"),
		object("countersign", "own", 0, nil, "a own"),
		object("shop", "b", 1, nil, "b 4"),
	}}
	before := asJSON(set)
	compiled, faults := Compile(set)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for _, c := range []struct {
		to   Destination
		want []string
	}{
		{shopAPI, []string{"a 0", "a 1", "a 2", "a 3", "b 4", "b 5"}},
		{Destination{Namespace: "shop"}, []string{"a 0", "a 3", "b 4", "b 5"}},
		{Destination{Namespace: "crm"}, []string{" crm", "a crm", "a 0"}},
		{Destination{Namespace: "istio-system", Labels: map[string]string{"app": "web"}}, []string{"a no", "a 0"}},
		{Destination{Namespace: "countersign", Labels: app}, nil},
	} {
		var got []string
		for _, r := range compiled.Tokens(c.to) {
			got = append(got, r.Issuer+" "+r.Params[0])
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %q, want %q", c.to, got, c.want)
		}
	}
	if asJSON(set) != before {
		t.Error("the set was changed")
	}
	if (*Compiled)(nil).Tokens(shopAPI) != nil {
		t.Error("token rules without a snapshot")
	}
}

// S19, security.md 3: a DENY of the root namespace on peers holds for the token service too;
// one that speaks of the request identity does not, in neither sign and in no spelling, for
// whoever comes for a token has none.
func TestSecRootDenyTokens(t *testing.T) {
	root := func(r ...Rule) Policy {
		return Policy{Namespace: "istio-system", Name: "d", Action: Deny, Rules: r}
	}
	when := func(key string, values, not []string) Rule {
		return Rule{When: []Condition{{Key: key, Values: values, NotValues: not}}}
	}
	star := []string{"*"}
	evil := Source{Principals: []string{"*/sa/evil"}}
	for _, c := range []struct {
		name   string
		policy Policy
		id     string
		denied bool // in namespace countersign
		others bool // in shop
	}{
		{"peer", root(from(evil)), as("shop/evil"), true, true},
		{"another peer", root(from(evil)), as("shop/web"), false, false},
		{"peer by condition", root(when("source.principal", []string{"*/sa/evil"}, nil)), as("shop/evil"), true, true},
		{"method", root(methods("GET")), as("shop/web"), true, true},
		{"header", root(when("request.headers[x-absent]", nil, star)), as("shop/web"), true, true},
		{"no token", root(from(Source{NotRequestPrincipals: star})), as("shop/web"), false, true},
		{"no token, by condition", root(when("request.auth.principal", nil, star)), as("shop/web"), false, true},
		{"no claim", root(when("request.auth.claims[role]", nil, []string{"admin"})), as("shop/web"), false, true},
		{"no audience", root(when("request.auth.audiences", nil, star)), as("shop/web"), false, true},
		{"no presenter", root(when("request.auth.presenter", nil, star)), as("shop/web"), false, true},
		{"no actor", root(when("request.auth.actors", nil, star)), as("shop/web"), false, true},
		{"a token key that cannot be read", root(when("request.auth.claims[a", nil, star)), as("shop/web"), false, true},
		{"a transaction", root(when("request.txn[a]", nil, star)), as("shop/web"), false, true},
		{"any other key that cannot be read", root(when("source.ip", star, nil)), as("shop/web"), true, true},
		{"peer and no token", root(from(Source{Principals: star, NotRequestPrincipals: star})), as("shop/web"), false, true},
		{"one rule of two", root(from(Source{NotRequestPrincipals: star}), from(evil)), as("shop/evil"), true, true},
		{"unknown action", Policy{Namespace: "istio-system", Name: "d", Action: "?", Rules: []Rule{from(Source{NotRequestPrincipals: star})}}, as("shop/web"), true, true},
		{"of the namespace itself", Policy{Namespace: "countersign", Name: "d", Action: Deny, Rules: []Rule{from(Source{NotRequestPrincipals: star})}}, as("shop/web"), true, false},
	} {
		compiled, _ := Compile(Set{TrustDomain: "prod.example", Policies: []Policy{c.policy}})
		for ns, denied := range map[string]bool{"countersign": c.denied, "shop": c.others} {
			a := asked{id: c.id}
			bound := compiled.For(Destination{Namespace: ns}).Bind(a.conn())
			if v := bound.Decide(a.request()); v.Allow == denied {
				t.Errorf("%s in %s: got %+v", c.name, ns, v)
			}
		}
	}
}

// The table of istio-semantics 7.4.1, line by line.
func TestPairs(t *testing.T) {
	for _, c := range []struct {
		value, iss, sub string
		want            bool
	}{
		{"*", "i", "s", true},
		{"*", "i", "", false},
		{"*", "", "s", false},
		{"*/s", "i", "s", true},
		{"*/s", "", "s", false},
		{"*/s", "i", "xs", false},
		{"*/", "i", "", true},
		{"*.com/s", "https://a.com", "s", true},
		{"*.com/s", "https://a.org", "s", false},
		{"*.com/*", "https://a.com", "s", false},
		{"*.com/*", "https://a.com", "*", true},
		{"**/s", "i*", "s", true},
		{"**/s", "i", "s", false},
		{"*bob", "i", "xbob", true},
		{"*bob", "", "bob", false},
		{"https://id/*", "https://id", "s", true},
		{"https://id/*", "https://id", "", false},
		{"https://id/*", "https://id/", "s", false},
		{"https://id/ab*", "https://id", "abc", true},
		{"https://id/ab*", "https://id", "a", false},
		{"https://id/ab*", "https://id/x", "abc", false},
		{"https://id/**", "https://id", "*x", true},
		{"https://id/**", "https://id", "x", false},
		{"idp*", "idp7", "s", true},
		{"idp*", "idp7", "", false},
		{"idp*", "id", "s", false},
		{"https://id/s", "https://id", "s", true},
		{"https://id/s", "https://id/s", "", false},
		{"https://id/a/b", "https://id/a", "b", true},
		{"https://id/", "https://id", "", true},
		{"/s", "", "s", true},
		{"idp", "idp", "", true},
		{"idp", "idp", "s", false},
	} {
		p, err := parsePair(c.value, narrow)
		if err != nil {
			t.Fatalf("%q: %v", c.value, err)
		}
		for _, read := range []reading{narrow, wide} {
			if got := p.matches(c.iss, c.sub, read); got != c.want {
				t.Errorf("%q on %q, %q: got %v", c.value, c.iss, c.sub, got)
			}
		}
	}
}

// A missing claim names nobody, and an empty one does: "idp" is the issuer with an empty subject.
func TestPairNeedsBothClaims(t *testing.T) {
	for _, c := range []struct {
		claims string
		want   bool
	}{
		{`{"iss":"idp","sub":""}`, true},
		{`{"iss":"idp"}`, false},
		{`{"sub":""}`, false},
	} {
		for _, policy := range []Policy{allow(from(Source{RequestPrincipals: []string{"idp"}})), deny(from(Source{NotRequestPrincipals: []string{"idp"}}))} {
			a := asked{jwt: c.claims}
			if v := decide(t, a, policy); v.Allow != c.want {
				t.Errorf("%s under %s: %+v", c.claims, policy.Action, v)
			}
		}
	}
}

// The origin pair of an exchanged token, tokens.md 8.7: either pair is enough for a value,
// both must be out of a not list, and in a foreign token they are ordinary claims.
func TestUpstreamPair(t *testing.T) {
	claims := map[string]any{"iss": "https://us", "sub": "spiffe://prod.example/ns/a/sa/b", "oiss": "https://id", "osub": "u1"}
	half := maps.Clone(claims)
	delete(half, "osub")
	user, us := []string{"https://id/u1"}, []string{"https://us/*"}
	for _, c := range []struct {
		name   string
		token  *card
		policy Policy
		want   bool
	}{
		{"own pair", newCard(claims, true), allow(from(Source{RequestPrincipals: us})), true},
		{"origin", newCard(claims, true), allow(from(Source{RequestPrincipals: user})), true},
		{"origin by condition", newCard(claims, true), allow(Rule{When: []Condition{{Key: "request.auth.principal", Values: user}}}), true},
		{"not mixed", newCard(claims, true), allow(from(Source{RequestPrincipals: []string{"https://us/u1"}})), false},
		{"not origin", newCard(claims, true), allow(from(Source{NotRequestPrincipals: user})), false},
		{"not own", newCard(claims, true), allow(from(Source{NotRequestPrincipals: us})), false},
		{"neither", newCard(claims, true), allow(from(Source{NotRequestPrincipals: []string{"https://x/*"}})), true},
		{"DENY exempts the origin", newCard(claims, true), deny(from(Source{NotRequestPrincipals: user})), true},
		{"half an origin", newCard(half, true), allow(from(Source{RequestPrincipals: []string{"https://id/", "https://id/*"}})), false},
		{"foreign token", newCard(claims, false), allow(from(Source{RequestPrincipals: user})), false},
		{"foreign token not", newCard(claims, false), allow(from(Source{NotRequestPrincipals: user})), true},
	} {
		a := asked{token: c.token}
		if v := decide(t, a, c.policy); v.Allow != c.want {
			t.Errorf("%s: got %+v", c.name, v)
		}
	}
}

func TestRequestPrincipalPerSource(t *testing.T) {
	rule := Rule{From: []Source{
		{Principals: []string{"*/sa/web"}, RequestPrincipals: []string{"i/u1"}},
		{Principals: []string{"*/sa/web"}, RequestPrincipals: []string{"i/u2"}, NotRequestPrincipals: []string{"*9"}},
		{ServiceAccounts: []string{"admin"}},
	}, To: []Operation{{Methods: []string{"GET"}}, {Methods: []string{"PUT"}, Paths: []string{"/x"}}}}
	for _, c := range []struct {
		id, sub, method string
		want            bool
	}{
		{"shop/web", "u1", "GET", true},
		{"shop/web", "u2", "PUT", true},
		{"shop/web", "u3", "GET", false},
		{"shop/web", "u1", "POST", false},
		{"shop/web", "", "GET", false},
		{"shop/api", "u1", "GET", false},
		{"shop/admin", "", "PUT", true},
		{"shop/admin", "", "POST", false},
	} {
		a := asked{id: as(c.id), method: c.method}
		if c.sub != "" {
			a.token = newCard(map[string]any{"iss": "i", "sub": c.sub}, false)
		}
		if v := decide(t, a, allow(rule)); v.Allow != c.want {
			t.Errorf("%+v: got %+v", c, v)
		}
	}
}

// An own token's presenter and actors (tokens.md 8.7).
func TestPresenterAndActors(t *testing.T) {
	claims := map[string]any{"client_id": "c1", "azp": "z1", "act": map[string]any{"sub": "a1", "act": map[string]any{"sub": "a2"}}}
	when := func(key string, v ...string) Policy {
		return allow(Rule{When: []Condition{{Key: "request.auth." + key, Values: v}}})
	}
	for _, c := range []struct {
		policy       Policy
		own, foreign bool
	}{
		{when("presenter", "c1"), true, false},
		{when("presenter", "z*"), false, true},
		{when("actors", "a1"), true, false},
		{when("actors", "*2"), true, false},
		{when("actors", "a3", "c1"), false, false},
	} {
		for own, want := range map[bool]bool{true: c.own, false: c.foreign} {
			a := asked{token: newCard(claims, own)}
			if v := decide(t, a, c.policy); v.Allow != want {
				t.Errorf("%+v, own %v: got %+v", c.policy.Rules, own, v)
			}
		}
	}
}

func decide(t *testing.T, a asked, policies ...Policy) Verdict {
	t.Helper()
	compiled, faults := Compile(Set{TrustDomain: "prod.example", Policies: policies})
	if len(faults) > 0 {
		t.Fatalf("faults %v", faults)
	}
	bound := compiled.For(shopAPI).Bind(a.conn())
	return bound.Decide(a.request())
}

func TestBrackets(t *testing.T) {
	for _, c := range []struct {
		key  string
		path []string
		err  error
	}{
		{"request.auth.claims[a]", []string{"a"}, nil},
		{"request.auth.claims[a][b.c][https://x/y]", []string{"a", "b.c", "https://x/y"}, nil},
		{"request.auth.claims", nil, ErrUnknownKey},
		{"request.auth.claims[]", nil, ErrUnknownKey},
		{"request.auth.claims[a]b", nil, ErrUnknownKey},
		{"request.auth.claims[a]b[c]", nil, ErrUnknownKey},
		{"request.auth.claims[a", nil, ErrUnknownKey},
		{"request.auth.claims[[a]]", nil, ErrUnknownKey},
		{"request.auth.claims[a]]", nil, ErrUnknownKey},
		{"request.auth.claimsX[a]", nil, ErrUnknownKey},
		{"request.auth.principal[a]", nil, ErrUnknownKey},
		{"request.headersX[y]", nil, ErrUnknownKey},
		{"request.headers[]", nil, ErrUnknownKey},
		{"request.headers[a][b]", nil, ErrUnknownKey},
		{"request.headers[a b]", nil, ErrUnknownKey},
		{"request.headers[:status]", nil, ErrUnknownKey},
		{"request.headers[X-Envoy-Internal]", nil, ErrNeverThere},
		{"request.txn[a]", nil, ErrNoFact},
		{"source.ip", nil, ErrNoFact},
		{"source.trustDomain", nil, ErrNoFact},
		{"remote.ip", nil, ErrNoFact},
		{"destination.ip", nil, ErrNoFact},
		{"connection.sni", nil, ErrNoFact},
		{"destination.name", nil, ErrUnknownKey},
		{"experimental.envoy.filters.x[y]", nil, ErrUnknownKey},
		{"", nil, ErrUnknownKey},
		{"[a]", nil, ErrUnknownKey},
	} {
		k, err := parseKey(c.key)
		if err != c.err || !reflect.DeepEqual(k.path, c.path) || CheckKey(c.key) != c.err {
			t.Errorf("%q: got %q, %v; want %q, %v", c.key, k.path, err, c.path, c.err)
		}
	}
}
