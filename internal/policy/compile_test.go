package policy

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// What package resource should have refused opens nothing and closes what it means, and is
// reported with its place (istio-semantics 1, rule I).
func TestFaultsFailClosed(t *testing.T) {
	at := Pos{File: "p.yaml", Line: 7, Col: 3}
	everything := Rule{}
	for _, c := range []struct {
		name    string
		policy  Policy
		allowed bool   // GET /x of shop/web at 8080
		field   string // where the fault is
	}{
		{"ALLOW braces", allow(paths("/{x}")), false, "spec.rules[0].to[0].operation.paths[0]"},
		{"DENY braces", deny(paths("/{x}")), false, "spec.rules[0].to[0].operation.paths[0]"},
		{"ALLOW notPaths braces", allow(to(Operation{NotPaths: []string{"/ok", "/{x}"}})), false, "spec.rules[0].to[0].operation.notPaths[1]"},
		{"DENY notPaths braces", deny(to(Operation{NotPaths: []string{"/{x}"}})), false, "spec.rules[0].to[0].operation.notPaths[0]"},
		{"ALLOW template without slash", allow(paths("v1/{*}")), false, "spec.rules[0].to[0].operation.paths[0]"},
		{"DENY operator beside a literal", deny(paths("/v1/x{*}")), false, "spec.rules[0].to[0].operation.paths[0]"},
		{"DENY two open operators", deny(paths("/{**}/{**}")), false, "spec.rules[0].to[0].operation.paths[0]"},
		{"ALLOW port", allow(ports("http")), false, "spec.rules[0].to[0].operation.ports[0]"},
		{"DENY port", deny(ports("70000")), false, "spec.rules[0].to[0].operation.ports[0]"},
		{"ALLOW namespace", allow(namespaces("[")), false, "spec.rules[0].from[0].source.namespaces[0]"},
		{"DENY namespace", deny(namespaces("[")), false, "spec.rules[0].from[0].source.namespaces[0]"},
		{"DENY namespace that is one only in brackets", deny(namespaces("a)|(b")), false, "spec.rules[0].from[0].source.namespaces[0]"},
		{"DENY account", deny(accounts("/")), false, "spec.rules[0].from[0].source.serviceAccounts[0]"},
		{"ALLOW empty source", allow(Rule{From: []Source{{}}}), false, "spec.rules[0].from[0].source"},
		{"DENY empty source", deny(Rule{From: []Source{{}}}), false, "spec.rules[0].from[0].source"},
		{"ALLOW empty operation", allow(Rule{To: []Operation{{}}}), false, "spec.rules[0].to[0].operation"},
		{"DENY empty operation", deny(Rule{To: []Operation{{}}}), false, "spec.rules[0].to[0].operation"},
		{"unknown action", Policy{Namespace: "shop", Name: "a", Action: "AUDIT"}, false, "spec.action"},
		{"unknown action with rules", Policy{Namespace: "shop", Name: "a", Action: "allow", Rules: []Rule{everything}}, false, "spec.action"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.policy.Pos = at
			compiled, faults := Compile(Set{TrustDomain: "prod.example", Policies: []Policy{c.policy}})
			if len(faults) != 1 || faults[0].Field != c.field || faults[0].Pos != at || !strings.HasPrefix(faults[0].Policy, "shop/") || faults[0].Text == "" {
				t.Errorf("faults %+v, want one at %s", faults, c.field)
			}
			web := asked{id: as("shop/web")}
			bound := compiled.For(shopAPI).Bind(web.conn())
			if v := bound.Decide(web.request()); v.Allow != c.allowed {
				t.Errorf("got %+v", v)
			}
		})
	}
}

func TestFaultyModesAreStrict(t *testing.T) {
	app := map[string]string{"app": "api"}
	for _, c := range []struct {
		name   string
		object PeerAuthentication
	}{
		{"unknown mode", PeerAuthentication{Namespace: "shop", Name: "p", Mode: "OFF"}},
		{"selector in root", PeerAuthentication{Namespace: "istio-system", Name: "p", Selector: app, Mode: Disable}},
		{"ports without selector", PeerAuthentication{Namespace: "shop", Name: "p", Mode: Disable, Ports: map[uint16]Mode{80: Disable}}},
		{"unknown mode of a port", PeerAuthentication{Namespace: "shop", Name: "p", Selector: app, Mode: Disable, Ports: map[uint16]Mode{80: "OFF"}}},
	} {
		compiled, faults := Compile(Set{DefaultMode: Permissive, PeerAuth: []PeerAuthentication{c.object}})
		if len(faults) != 1 {
			t.Errorf("%s: faults %v", c.name, faults)
		}
		if m := compiled.For(shopAPI).Mode(80); m != Strict {
			t.Errorf("%s: mode %s", c.name, m)
		}
	}
}

// Without a snapshot nothing is allowed, whichever value is missing.
func TestNothingCompiledDeniesEverything(t *testing.T) {
	var none *Compiled
	web := asked{id: as("shop/web")}
	zero, nobody := Bound{}, (*Program)(nil).Bind(web.conn())
	missing := none.For(shopAPI).Bind(web.conn())
	for _, b := range []*Bound{&zero, &nobody, &missing} {
		if v := b.Decide(web.request()); v.Allow || v.Reason != ReasonNoSnapshot || v.Layer != LayerAuthz || v.Rule != -1 {
			t.Errorf("got %+v", v)
		}
	}
	if m := none.For(shopAPI).Mode(80); m != Strict {
		t.Errorf("mode %s", m)
	}
	if none.Revision() != [32]byte{} {
		t.Error("a revision without a set")
	}
	if e := none.For(shopAPI).Explain(web.conn(), web.request()); e.Verdict.Allow {
		t.Errorf("explained as %+v", e)
	}
	open, _ := Compile(Set{})
	bound := open.For(shopAPI).Bind(web.conn())
	if v := bound.Decide(nil); v.Allow {
		t.Errorf("an HTTP connection without a request: %+v", v)
	}
}

func TestRevision(t *testing.T) {
	want := [32]byte{1, 2, 3}
	c, _ := Compile(Set{Revision: want})
	if c.Revision() != want {
		t.Errorf("got %x", c.Revision())
	}
}

// A program is made once for a list of policies, however many destinations share it and
// however many ask at once.
func TestProgramsAreShared(t *testing.T) {
	app := map[string]string{"app": "api"}
	compiled, _ := Compile(Set{
		Policies: []Policy{allow(Rule{}), {Namespace: "shop", Name: "s", Action: Deny, Selector: app, Rules: []Rule{{}}}},
		PeerAuth: []PeerAuthentication{{Namespace: "shop", Name: "p", Selector: map[string]string{"tls": "off"}, Mode: Disable}},
	})
	one := compiled.For(Destination{Namespace: "shop", ServiceAccount: "a", Labels: map[string]string{"app": "a"}})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				if p := compiled.For(Destination{Namespace: "shop", Labels: map[string]string{"app": fmt.Sprint("b", i)}}); p != one {
					t.Errorf("two programs for one list of policies")
				}
			}
		})
	}
	wg.Wait()
	for _, other := range []Destination{
		shopAPI, {Namespace: "crm"}, {Namespace: "countersign"},
		{Namespace: "shop", Labels: map[string]string{"app": "a", "tls": "off"}},
	} {
		if compiled.For(other) == one {
			t.Errorf("%+v shares a program that is not its own", other)
		}
	}
	if compiled.For(Destination{Namespace: "crm"}) == compiled.For(Destination{Namespace: "countersign"}) {
		t.Error("namespace countersign, always STRICT, shares a program")
	}
}

// The smallest number of (namespace, name, index) decides, whatever the order of files.
func TestDecidingRule(t *testing.T) {
	set := Set{TrustDomain: "prod.example", Policies: []Policy{
		{Namespace: "shop", Name: "z", Action: Allow, Rules: []Rule{{}}},
		{Namespace: "shop", Name: "b", Action: Allow, WrittenBy: "allow", Rules: []Rule{methods("POST"), {Pos: Pos{File: "b.yaml", Line: 9, Col: 3}}}},
		{Namespace: "istio-system", Name: "y", Action: Allow, Rules: []Rule{methods("GET"), methods("POST")}, Pos: Pos{File: "y.yaml", Line: 1, Col: 1}},
	}}
	compiled, _ := Compile(set)
	bound := compiled.For(shopAPI).Bind(asked{}.conn())
	for _, c := range []struct {
		method string
		want   Verdict
	}{
		{"GET", Verdict{true, "authz", "allow_rule", "istio-system/y", 0, Pos{File: "y.yaml", Line: 1, Col: 1}, ""}},
		{"POST", Verdict{true, "authz", "allow_rule", "istio-system/y", 1, Pos{File: "y.yaml", Line: 1, Col: 1}, ""}},
		{"PUT", Verdict{true, "authz", "allow_rule", "shop/b", 1, Pos{File: "b.yaml", Line: 9, Col: 3}, "allow"}},
	} {
		if v := bound.Decide(&Request{Method: c.method, Host: "api", Path: "/"}); v != c.want {
			t.Errorf("%s: got %+v, want %+v", c.method, v, c.want)
		}
	}
}

func TestLocalDomain(t *testing.T) {
	for _, c := range [][2]string{
		{"cluster.local/ns/a/sa/b", "prod.example/ns/a/sa/b"},
		{"prod.example/ns/a/sa/b", "prod.example/ns/a/sa/b"},
		{"prod*/ns/a/sa/b", "prod.example/ns/a/sa/b"},
		{"*.example/ns/a/sa/b", "*.example/ns/a/sa/b"},
		{"*/ns/a/sa/b", "*/ns/a/sa/b"},
		{"other/ns/a/sa/b", "other/ns/a/sa/b"},
		{"cluster.local/ns/a/*", "cluster.local/ns/a/*"},
		{"cluster.local/ns/a/sa/*", "prod.example/ns/a/sa/*"},
		{"cluster.local/a/b/c/d", "prod.example/a/b/c/d"},
		{"**/ns/a/sa/b", "**/ns/a/sa/b"},
		{"*", "*"},
		{"", ""},
	} {
		if got := localDomain(c[0], "prod.example"); got != c[1] {
			t.Errorf("%q: got %q, want %q", c[0], got, c[1])
		}
	}
}

func TestParsePeer(t *testing.T) {
	for _, c := range []struct {
		id   string
		want Peer
	}{
		{"spiffe://prod.example/ns/shop/sa/web", Peer{"prod.example/ns/shop/sa/web", "prod.example", "shop", "web", true, false}},
		{"prod.example/ns/shop/sa/web", Peer{"prod.example/ns/shop/sa/web", "prod.example", "shop", "web", true, false}},
		{"spiffe://partner.example/ns/shop/sa/web", Peer{"partner.example/ns/shop/sa/web", "partner.example", "shop", "web", true, true}},
		{"spiffe://prod.example/region/eu/ns/shop/sa/web", Peer{Principal: "prod.example/region/eu/ns/shop/sa/web", TrustDomain: "prod.example"}},
		{"spiffe://prod.example/ns/shop/sa/web/x", Peer{Principal: "prod.example/ns/shop/sa/web/x", TrustDomain: "prod.example"}},
	} {
		if got := ParsePeer(c.id, "prod.example"); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.id, got, c.want)
		}
	}
}
