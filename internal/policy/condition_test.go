package policy

import (
	"strings"
	"testing"
)

// when is a rule of conditions: "key": values, "not key": notValues.
func when(conditions map[string][]string) Rule {
	var r Rule
	for key, values := range conditions {
		if k, not := strings.CutPrefix(key, "not "); not {
			r.When = append(r.When, Condition{Key: k, NotValues: values})
		} else {
			r.When = append(r.When, Condition{Key: key, Values: values})
		}
	}
	return r
}

func on(key string, values ...string) Rule { return when(map[string][]string{key: values}) }

func header(name string, values ...string) Rule {
	key := "request.headers[" + name + "]"
	if k, not := strings.CutPrefix(name, "not "); not {
		key = "not request.headers[" + k + "]"
	}
	return on(key, values...)
}

func claim(name string, values ...string) Rule { return on("request.auth.claims["+name+"]", values...) }

func tokens(v ...string) Rule   { return from(Source{RequestPrincipals: v}) }
func noTokens(v ...string) Rule { return from(Source{NotRequestPrincipals: v}) }

// The tables of istio-semantics 13.1 and 13.3 that speak of tokens and conditions. Claims are
// verified and split; of 13.3 what the token step has left of the request is given.
func TestConditionCases(t *testing.T) {
	get, web := asked{}, asked{id: as("shop/web")}
	sent := func(lines ...string) asked { return asked{headers: lines} }
	token := func(claims string) asked { return asked{jwt: claims} }
	u1 := token(`{"iss":"https://id","sub":"u1"}`)
	proto := func(id string, lines ...string) asked { return asked{id: id, headers: lines} }
	const meshWeb = "prod.example/ns/shop/sa/web"
	for _, c := range []struct {
		name   string
		policy Policy
		ask    asked
		allow  bool
	}{
		{"P46", allow(on("source.principal", "*")), web, true},
		{"P46 foreign", allow(on("source.principal", "*")), asked{id: "partner.example/ns/shop/sa/web"}, false},
		{"P46 rewritten", allow(on("source.principal", "cluster.local/ns/shop/sa/web")), web, true},
		{"P47", allow(Rule{From: []Source{{Principals: []string{"*"}}}, When: on("not source.namespace", "dev").When}), asked{id: as("dev/t")}, false},
		{"P47 another", allow(Rule{From: []Source{{Principals: []string{"*"}}}, When: on("not source.namespace", "dev").When}), web, true},
		{"namespace", allow(on("source.namespace", "shop")), web, true},
		{"namespace, wide", deny(on("source.namespace", "shop")), asked{id: "prod.example/region/eu/ns/shop/sa/web"}, false},
		{"account, short", allow(on("source.serviceAccount", "web")), web, true},
		{"account of another", allow(on("source.serviceAccount", "crm/web")), web, false},
		{"reserved account", allow(on("source.principal", "*")), asked{id: as("countersign/node-a")}, false},
		{"port", allow(on("destination.port", "8080")), get, true},
		{"another port", allow(on("destination.port", "80", "9090")), get, false},
		{"not port", allow(on("not destination.port", "8080")), get, false},

		{"P73", allow(header("x-tier", "*")), sent("x-tier="), true},
		{"P73 absent", allow(header("x-tier", "*")), get, false},
		{"P74", allow(header("X-Tier", "gold")), sent("x-tier=gold"), true},
		{"P75", allow(header("x-tier", "gold")), sent("x-tier=Gold"), false},
		{"P76", allow(header("x-tier", "gold*")), sent("x-tier=gold", "x-tier=evil"), false},
		{"P77", deny(header("x-tier", "evil")), sent("x-tier=gold", "x-tier=evil"), false},
		{"P77a", deny(header("x-tier", "gold,evil")), sent("x-tier=gold", "x-tier=evil"), false},
		{"P77b", deny(header("user-agent", "a,b")), sent("user-agent=a", "user-agent=", "user-agent=b"), false},
		{"P77c", allow(header("user-agent", "a*")), sent("user-agent=a", "user-agent=b"), false},
		{"P77d", deny(header("cookie", "a=1; b=2")), sent("cookie=a=1", "cookie=b=2"), false},
		{"every line and all of them", allow(header("x-tier", "g*")), sent("x-tier=gold", "x-tier=great"), true},
		{"a DENY exemption wants every line", deny(header("not x-tier", "gold*")), sent("x-tier=gold", "x-tier=evil"), false},
		{"an ALLOW exclusion is met by one", allow(header("not x-tier", "evil")), sent("x-tier=gold", "x-tier=evil"), false},
		{"P78", deny(header("not x-key", "k1")), get, false},
		{"P79", allow(header("not x-key", "bad")), get, true},
		{"P80", allow(header(":path", "/a")), asked{path: "/a", query: "x=1"}, false},
		{"P80 prefix", allow(header(":path", "/a?x*")), asked{path: "/a", query: "x=1"}, true},
		{"P80 suffix", allow(header(":path", "*a?x=1")), asked{path: "/a", query: "x=1"}, true},
		{"P80a", allow(header(":path", "/a?")), asked{path: "/a", query: "?"}, true},
		{"P80a none", allow(header(":path", "/a?")), asked{path: "/a"}, false},
		{"P80b", allow(header(":authority", "api")), asked{host: "API"}, false},
		{"P80b host", allow(header("Host", "api:80")), asked{host: "api:80"}, true},
		{"P80c", allow(header("not x-forwarded-proto", "http")), get, false},
		{"P80d", allow(header("x-forwarded-proto", "https")), web, true},
		{"P80e", allow(header("x-forwarded-proto", "https")), proto(meshWeb, "x-forwarded-proto=http"), false},
		{"P80e empty", allow(header("x-forwarded-proto", "http*")), proto(meshWeb, "x-forwarded-proto="), false},
		{"P80f", allow(header(":scheme", "https")), web, true},
		{"P80g", allow(header(":scheme", "https")), proto("", "x-forwarded-proto=https"), false},
		{"P80h", deny(header(":scheme", "http")), proto(meshWeb, "x-forwarded-proto=http"), false},
		{"scheme of an absolute form", allow(header(":scheme", "https")), asked{id: meshWeb, claimed: "http"}, false},
		{"scheme of an absolute form, DENY", deny(header(":scheme", "http")), asked{id: meshWeb, claimed: "http"}, false},
		{"scheme beyond the connection's", allow(header(":scheme", "https")), asked{claimed: "https"}, false},
		{"scheme beyond the connection's, DENY", deny(header(":scheme", "http")), asked{claimed: "https"}, false},
		{"scheme of HTTP/2", allow(header(":scheme", "https")), asked{http2: true, claimed: "https", headers: []string{"x-forwarded-proto=http"}}, true},
		{"scheme of HTTP/2, DENY", deny(header(":scheme", "http")), asked{http2: true, claimed: "https", headers: []string{"x-forwarded-proto=http"}}, true},
		{"P80i", allow(header("not x-request-id", "*")), get, false},
		{"request id, any", allow(header("x-request-id", "*")), get, true},
		{"request id, not known", allow(header("x-request-id", "a*")), get, false},
		{"request id, could be", deny(header("x-request-id", "a*")), get, false},
		{"request id, could not be", deny(header("x-request-id", "a")), get, true},
		{"request id, sent", allow(header("x-request-id", "a*")), sent("x-request-id=abc"), true},
		{"P80k", deny(header("upgrade", "websocket")), asked{socket: true}, false},
		{"P80k not complete", deny(header("upgrade", "websocket")), sent("upgrade=websocket"), true},
		{"method", allow(header(":method", "GET", "HEAD")), get, true},
		{"method by case", allow(header(":method", "get")), get, false},

		{"P111", allow(tokens("*")), get, false},
		{"P112", allow(tokens("*")), u1, true},
		{"P112 key", allow(on("request.auth.principal", "*")), u1, true},
		{"P113", allow(tokens("*")), token(`{"iss":"https://id"}`), false},
		{"P114", allow(tokens("https://id/u1")), u1, true},
		{"P115", allow(tokens("https://id/u1")), token(`{"iss":"https://id/u1","sub":""}`), false},
		{"P116", allow(tokens("https://id/*")), token(`{"iss":"https://id","sub":"u9"}`), true},
		{"P117", allow(tokens("*/u1")), token(`{"iss":"https://evil","sub":"u1"}`), true},
		{"P118", allow(tokens("*/*")), u1, false},
		{"P119", allow(tokens("auth0|7")), token(`{"iss":"https://id","sub":"auth0|7"}`), false},
		{"P120", allow(tokens("https://id/a/b")), token(`{"iss":"https://id","sub":"a/b"}`), false},
		{"P121", deny(noTokens("*")), web, false},
		{"P121 with one", deny(noTokens("*")), u1, true},
		{"P122", allow(claim("role", "admin")), token(`{"iss":"i","sub":"s","role":["user","admin"]}`), true},
		{"P123", allow(claim("level", "3")), token(`{"iss":"i","sub":"s","level":3}`), false},
		{"P124", allow(claim("vip", "true")), token(`{"iss":"i","sub":"s","vip":true}`), false},
		{"P125", allow(claim("realm][roles", "ops")), token(`{"iss":"i","sub":"s","realm":{"roles":["ops"]}}`), true},
		{"P126", allow(claim("realm.roles", "ops")), token(`{"iss":"i","sub":"s","realm":{"roles":["ops"]}}`), false},
		{"P127", allow(claim("scope", "orders:*")), token(`{"iss":"i","sub":"s","scope":["orders:read","x"]}`), true},
		{"P128", allow(claim("scope", "a", "b")), token(`{"iss":"i","sub":"s","scope":["b"]}`), true},
		{"P129", allow(on("request.auth.audiences", "api")), token(`{"iss":"i","sub":"s","aud":["web","api"]}`), true},
		{"P129 text", allow(on("request.auth.audiences", "api")), token(`{"iss":"i","sub":"s","aud":"api"}`), true},
		{"P130", allow(claim("tenant", "*")), token(`{"iss":"i","sub":"s","tenant":""}`), false},
		{"P130a", allow(claim("tenant", "*")), token(`{"iss":"i","sub":"s","tenant":"a\nb"}`), false},
		{"P130b", deny(claim("tenant", "*")), token(`{"iss":"i","sub":"s","tenant":"a\nb"}`), false},
		{"P130c", allow(tokens("*")), token(`{"iss":"i","sub":"a\nb"}`), false},
		{"P130c DENY exemption", deny(noTokens("*")), token(`{"iss":"i","sub":"a\nb"}`), false},
		{"P131", allow(on("not request.auth.claims[tenant]", "evil")), get, true},
		{"a claim without a principal", allow(claim("role", "admin")), token(`{"role":"admin"}`), true},
		{"conditions are joined by AND", allow(when(map[string][]string{"request.auth.claims[role]": {"admin"}, "request.headers[x-tier]": {"gold"}})), token(`{"role":"admin"}`), false},
		{"both signs of one", allow(Rule{When: []Condition{{Key: "request.auth.claims[role]", Values: []string{"a*"}, NotValues: []string{"ab"}}}}), token(`{"role":["ac","ab"]}`), false},

		{"P139", allow(tokens("*")), asked{id: meshWeb, tcp: true}, false},
		{"DENY of tokens on TCP", deny(tokens("*")), asked{id: meshWeb, tcp: true}, false},
		{"DENY of a missing token on TCP", deny(Rule{From: []Source{{Namespaces: []string{"dev"}, NotRequestPrincipals: []string{"*"}}}}), asked{id: meshWeb, tcp: true}, true},
		{"ALLOW dropped whole on TCP", allow(Rule{From: []Source{{Principals: []string{"*"}}, {RequestPrincipals: []string{"*"}}}}), asked{id: meshWeb, tcp: true}, false},
		{"ALLOW with a header dropped on TCP", allow(header("not x", "y")), asked{id: meshWeb, tcp: true}, false},
		{"DENY with a header on TCP", deny(header("x", "y")), asked{id: meshWeb, tcp: true}, false},
		{"ALLOW with peer conditions on TCP", allow(when(map[string][]string{"source.namespace": {"shop"}, "destination.port": {"5432"}})), asked{id: meshWeb, tcp: true}, true},

		{"J34", allow(tokens("*")), get, false},
		{"J35", allow(tokens("*")), asked{method: "OPTIONS"}, false},
		{"J35 with a rule", allow(tokens("*"), methods("OPTIONS")), asked{method: "OPTIONS"}, true},
		{"J36", allow(tokens("*"), paths("/healthz")), asked{path: "/healthz"}, true},
		{"J37 removed", allow(header("x-p", "*")), get, false},
		{"J40", allow(claim("scope", "read")), token(`{"scope":["read","write"]}`), true},
		{"J40 whole", allow(claim("scope", "read write")), token(`{"scope":["read","write"]}`), false},
		{"J40a", allow(claim("scope", "read")), token(`{"scope":["read\twrite"]}`), false},
		{"J40a whole", allow(claim("scope", "read\twrite")), token(`{"scope":["read\twrite"]}`), true},
		{"J40b", allow(claim("scope", "*")), token(`{"scope":[]}`), false},
		{"J41", allow(claim("roles", "b")), token(`{"roles":["a","b"]}`), true},
		{"J42", allow(claim("scope", "b")), token(`{"scope":["a b"]}`), false},
		{"J47 removed", allow(header("authorization", "*")), u1, false},
		{"J47 forwarded", allow(header("authorization", "*")), asked{headers: []string{"Authorization=Bearer x"}}, true},
		{"J48a", allow(header("x-jwt", "*")), u1, false},
		{"J49", allow(header("cookie", "a=1; tok=*")), sent("cookie=a=1; tok=x"), true},
		{"J50", allow(header(":path", "/p?b=1*")), asked{path: "/p", query: "b=1&a=2", cut: true}, false},
		{"J50 any", allow(header(":path", "*")), asked{path: "/p", query: "b=1&a=2", cut: true}, true},
		{"J50 path", allow(header(":path", "/p*")), asked{path: "/p", query: "b=1&a=2", cut: true}, true},
		{"J50 exact", allow(header(":path", "/p")), asked{path: "/p", cut: true}, false},
		{"J50 DENY", deny(header(":path", "/other")), asked{path: "/p", query: "b=1&a=2", cut: true}, false},
		{"J50 excluded", allow(header("not :path", "/other")), asked{path: "/p", query: "b=1&a=2", cut: true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if v := decide(t, c.ask, c.policy); v.Allow != c.allow {
				t.Errorf("got %+v, want allow %v", v, c.allow)
			}
		})
	}
}

// What is absent is in no list and out of every not list (istio-semantics 7.7): the path of a
// CONNECT, a host, a header, a claim; what we do not know takes access.
func TestAbsentAttributes(t *testing.T) {
	for _, key := range []string{
		":path", ":authority", "host", ":method", "x-tier", "upgrade", "cookie",
	} {
		compiled, faults := Compile(Set{Policies: []Policy{allow(header(key, "*"))}})
		negative, more := Compile(Set{Policies: []Policy{allow(header("not "+key, "*"))}})
		if len(faults)+len(more) > 0 {
			t.Fatal(faults, more)
		}
		c := Conn{Port: 80, HTTP: true}
		positive, not := compiled.For(shopAPI).Bind(c), negative.For(shopAPI).Bind(c)
		q := &Request{Scheme: "https"}
		if v := positive.Decide(q); v.Allow {
			t.Errorf("%s: %+v", key, v)
		}
		if v := not.Decide(q); !v.Allow {
			t.Errorf("not %s: %+v", key, v)
		}
	}
	for _, key := range []string{":scheme", "x-forwarded-proto"} {
		a := Conn{Port: 80, HTTP: true}
		for _, p := range []Policy{allow(header(key, "https")), allow(header("not "+key, "https")), deny(header(key, "https")), deny(header("not "+key, "https"))} {
			compiled, _ := Compile(Set{Policies: []Policy{p}})
			bound := compiled.For(shopAPI).Bind(a)
			if v := bound.Decide(&Request{Method: "GET"}); v.Allow {
				t.Errorf("%s unknown, %+v: %+v", key, p.Rules, v)
			}
		}
	}
}

// Conditions that nobody can judge close an ALLOW rule and are true in DENY, for requests and
// for TCP (istio-semantics 1, rule I).
func TestUnreadableConditions(t *testing.T) {
	star := []string{"*"}
	for _, c := range []struct {
		condition Condition
		field     string
	}{
		{Condition{Key: "source.ip", Values: star}, "spec.rules[0].when[0].key"},
		{Condition{Key: "source.ip", NotValues: star}, "spec.rules[0].when[0].key"},
		{Condition{Key: "remote.ip", Values: star}, "spec.rules[0].when[0].key"},
		{Condition{Key: "destination.ip", Values: star}, "spec.rules[0].when[0].key"},
		{Condition{Key: "connection.sni", Values: star}, "spec.rules[0].when[0].key"},
		{Condition{Key: "source.trustDomain", Values: star}, "spec.rules[0].when[0].key"},
		{Condition{Key: "request.txn[sub]", NotValues: star}, "spec.rules[0].when[0].key"},
		{Condition{Key: "request.headers[x-forwarded-client-cert]", NotValues: star}, "spec.rules[0].when[0].key"},
		{Condition{Key: "request.headers[te]", NotValues: star}, "spec.rules[0].when[0].key"},
		{Condition{Key: "nothing", Values: star}, "spec.rules[0].when[0].key"},
		{Condition{Values: star}, "spec.rules[0].when[0].key"},
		{Condition{Key: "request.headers[x]"}, "spec.rules[0].when[0]"},
		{Condition{Key: "request.headers[x]", Values: []string{""}}, "spec.rules[0].when[0].values[0]"},
		{Condition{Key: "request.headers[x]", NotValues: []string{""}}, "spec.rules[0].when[0].notValues[0]"},
		{Condition{Key: "request.auth.principal", Values: []string{""}}, "spec.rules[0].when[0].values[0]"},
		{Condition{Key: "request.auth.principal", NotValues: []string{"a", ""}}, "spec.rules[0].when[0].notValues[1]"},
		{Condition{Key: "source.namespace", Values: []string{"["}}, "spec.rules[0].when[0].values[0]"},
		{Condition{Key: "source.namespace", NotValues: []string{"["}}, "spec.rules[0].when[0].notValues[0]"},
		{Condition{Key: "source.serviceAccount", Values: []string{"/"}}, "spec.rules[0].when[0].values[0]"},
		{Condition{Key: "destination.port", NotValues: []string{"http"}}, "spec.rules[0].when[0].notValues[0]"},
	} {
		rule := Rule{When: []Condition{c.condition}}
		for _, p := range []Policy{allow(rule), deny(rule)} {
			compiled, faults := Compile(Set{TrustDomain: "prod.example", Policies: []Policy{p}})
			if len(faults) != 1 || faults[0].Field != c.field {
				t.Errorf("%+v: faults %+v, want one at %s", c.condition, faults, c.field)
			}
			for _, a := range []asked{{id: as("shop/web")}, {id: as("shop/web"), tcp: true}} {
				bound := compiled.For(shopAPI).Bind(a.conn())
				if v := bound.Decide(a.request()); v.Allow {
					t.Errorf("%s %+v: %+v", p.Action, c.condition, v)
				}
			}
		}
	}
}

// joined reads lines as one value without making it; here it is made.
func TestJoined(t *testing.T) {
	pieces := []string{"", "a", "b", ",", "a,b", ",a", "ab"}
	for _, x := range pieces {
		for _, y := range pieces {
			for _, z := range pieces {
				for _, empty := range []bool{false, true} {
					var kept []string
					for _, s := range []string{x, y, z} {
						if s != "" || empty {
							kept = append(kept, s)
						}
					}
					whole := strings.Join(kept, "; ")
					j := joined{lines: []string{x, y, z}, sep: "; ", empty: empty}
					for _, text := range append(pieces, whole, "a; b", "; a", "a; ", "b; ab", "a; a; a", "; ; ", ";", whole+"a", "a"+whole) {
						for _, p := range []pattern{{kind: exact, text: text}, {kind: prefix, text: text}, {kind: suffix, text: text}} {
							if got, want := j.matches(&p), p.matches(whole); got != want {
								t.Fatalf("%q %v by kind %d on %q: got %v, want %v", text, j, p.kind, whole, got, want)
							}
						}
					}
				}
			}
		}
	}
}
