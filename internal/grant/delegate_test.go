package grant_test

import (
	"fmt"
	"slices"
	"testing"

	"countersign.dev/internal/grant"
)

// forCustomer is the exchange that the policy of world allows: orders, for a customer, towards payments.
func forCustomer(t *testing.T, d *grant.Directory, change ...func(*grant.Exchange)) grant.Exchange {
	t.Helper()
	c := d.ClientFor(orders, orders)
	target, err := d.Resolve(c, []string{"payments"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	e := grant.Exchange{
		Client: c, Actor: orders, Subject: "corp:7f3b", SubjectIssuer: corp, Origin: "oidc", Target: target,
		SubjectScopes: []string{"payments:create", "orders:read"}, Scopes: []string{"payments:create"},
	}
	for _, f := range change {
		f(&e)
	}
	return e
}

func policy(change func(*grant.Delegation)) func(*grant.Objects) {
	return func(o *grant.Objects) { change(&o.Delegations[0]) }
}

// Every field of a DelegationPolicy that is there must match.
func TestDelegationPolicy(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy func(*grant.Delegation)
		e      func(*grant.Exchange)
		ok     bool
	}{
		{"all match", nil, nil, true},
		{"another actor", nil, func(e *grant.Exchange) { e.Actor = web }, false},
		{"account of another namespace", nil, func(e *grant.Exchange) { e.Actor = "spiffe://example.com/ns/front/sa/orders" }, false},
		{"account of another domain", nil, func(e *grant.Exchange) { e.Actor = "spiffe://partner.example/ns/shop/sa/orders" }, false},
		{"client of the account's name", nil, func(e *grant.Exchange) { e.Actor = "orders" }, false},
		{"actor by ID", func(p *grant.Delegation) { p.Actors = []string{orders} }, nil, true},
		{"actor by prefix", func(p *grant.Delegation) { p.Actors = []string{"spiffe://example.com/ns/shop/*"} }, nil, true},
		{"prefix of part of a segment", func(p *grant.Delegation) { p.Actors = []string{"spiffe://example.com/ns/shop/sa/or*"} }, nil, false},
		{"prefix of everything", func(p *grant.Delegation) { p.Actors = []string{"spiffe://*", "*", "/*", "spiffe:/*"} }, nil, false},
		{"no actors", func(p *grant.Delegation) { p.Actors = nil }, nil, false},
		{"audience by ID", func(p *grant.Delegation) { p.Audiences = []string{payments} }, nil, true},
		{"audience by owner's other service", func(p *grant.Delegation) { p.Audiences = []string{"refunds"} }, nil, true},
		{"another audience", func(p *grant.Delegation) { p.Audiences = []string{"orders"} }, nil, false},
		{"no audiences", func(p *grant.Delegation) { p.Audiences = nil }, nil, false},
		{"an audience to come", func(p *grant.Delegation) { p.Audiences = []string{"not-yet"} }, nil, false},
		{"another issuer", nil, func(e *grant.Exchange) { e.SubjectIssuer = corp + "/" }, false},
		{"any issuer", func(p *grant.Delegation) { p.SubjectIssuers = nil }, func(e *grant.Exchange) { e.SubjectIssuer = issuer }, true},
		{"another subject", nil, func(e *grant.Exchange) { e.Subject = "corpx:7f3b" }, false},
		{"exact subject", func(p *grant.Delegation) { p.Subjects = []string{"corp:7f3b"} }, nil, true},
		{"longer subject", func(p *grant.Delegation) { p.Subjects = []string{"corp:7f3b"} }, func(e *grant.Exchange) { e.Subject += "2" }, false},
		{"any subject", func(p *grant.Delegation) { p.Subjects = nil }, func(e *grant.Exchange) { e.Subject = web }, true},
		{"another origin", nil, func(e *grant.Exchange) { e.Origin = "svid" }, false},
		{"origin by default", func(p *grant.Delegation) { p.Origins = nil }, func(e *grant.Exchange) { e.Origin = "mtls" }, true},
		{"origin not of the default", func(p *grant.Delegation) { p.Origins = nil }, func(e *grant.Exchange) { e.Origin = "basic" }, false},
		{"no origin", func(p *grant.Delegation) { p.Origins = nil }, func(e *grant.Exchange) { e.Origin = "" }, false},
		{"API key, by policy", func(p *grant.Delegation) { p.Origins = []string{"api_key"} }, func(e *grant.Exchange) { e.Origin = "api_key" }, false},
		{"no actor", nil, func(e *grant.Exchange) { e.Actor = "" }, false},
		{"no subject", func(p *grant.Delegation) { p.Subjects = nil }, func(e *grant.Exchange) { e.Subject = "" }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := directory(t, func(o *grant.Objects) {
				if c.policy != nil {
					c.policy(&o.Delegations[0])
				}
			})
			e := forCustomer(t, d)
			if c.e != nil {
				c.e(&e)
			}
			scopes, err := d.Delegate(e)
			if !c.ok {
				refused(t, err, "invalid_request", "delegation not permitted")
			} else if err != nil {
				t.Error(err)
			} else {
				same(t, scopes, []string{"payments:create"})
			}
		})
	}
}

// An audience opens itself: a policy elsewhere is a fault, and allows nothing.
func TestSecDelegationOfAnotherNamespace(t *testing.T) {
	for _, audience := range []string{"payments.shop", payments, "https://legacy.example.com", "spiffe://example.com/ns/shop/sa/nobody-yet", "outside"} {
		o := world()
		o.Delegations[0] = grant.Delegation{Namespace: "front", Name: "x", Actors: []string{orders}, Audiences: []string{"ledger", audience}}
		d, faults := grant.New(o)
		if len(faults) != 1 || faults[0].Code != "E308" || faults[0].Field != "spec.audiences[1]" || faults[0].Kind != "DelegationPolicy" {
			t.Errorf("%s: got %+v", audience, faults)
		}
		_, err := d.Delegate(forCustomer(t, d))
		refused(t, err, "invalid_request", "delegation not permitted")
	}
}

// The client needs the grant, and the target must be one for exchanges.
func TestDelegateNeedsRecord(t *testing.T) {
	d := directory(t)
	_, err := d.Delegate(forCustomer(t, d, func(e *grant.Exchange) { e.Client = d.ClientFor(bare, bare) }))
	refused(t, err, "unauthorized_client", "grant not allowed for this client")
	_, err = d.Delegate(forCustomer(t, d, func(e *grant.Exchange) { e.Client = d.Client("ci") }))
	refused(t, err, "unauthorized_client", "grant not allowed for this client")
	_, err = d.Delegate(forCustomer(t, d, func(e *grant.Exchange) { e.Client = nil }))
	refused(t, err, "unauthorized_client", "grant not allowed for this client")
	_, err = d.Delegate(forCustomer(t, d, func(e *grant.Exchange) { e.Target.Target = &grant.Target{Audience: "payments"} }))
	refused(t, err, "invalid_target", "target not allowed")
	_, err = d.Delegate(forCustomer(t, d, func(e *grant.Exchange) { e.Target.Target = nil }))
	refused(t, err, "invalid_target", "target not allowed")
}

// A scope must be the subject's, the client's and, if it says, the policy's.
func TestX1cScopes(t *testing.T) {
	any := policy(func(p *grant.Delegation) { p.Scopes = nil })
	all := []string{"payments:create", "payments:read", "orders:read"}
	for _, c := range []struct {
		name               string
		world              func(*grant.Objects)
		subject, requested []string
		want               []string // nil: refused
	}{
		{"requested", any, all, []string{"payments:read"}, []string{"payments:read"}},
		{"more than the subject's", any, []string{"payments:create"}, []string{"payments:read"}, nil},
		{"more than the client's", any, all, []string{"orders:read"}, nil},
		{"more than the policy's", policy(func(*grant.Delegation) {}), all, []string{"payments:read"}, nil},
		{"default: what all have", any, all, nil, []string{"payments:create", "payments:read"}},
		{"default: less by the policy", policy(func(*grant.Delegation) {}), all, nil, []string{"payments:create"}},
		{"the subject has none", any, nil, []string{"payments:create"}, nil},
		{"default of none", any, nil, nil, []string{}},
		{"malformed", any, []string{"a b", "mesh"}, []string{"mesh"}, nil},
		{"one policy of two leaves it", func(o *grant.Objects) {
			o.Delegations = append(o.Delegations, o.Delegations[0])
			o.Delegations[1].Name, o.Delegations[1].Scopes = "more", []string{"payments:read"}
		}, all, []string{"payments:read"}, []string{"payments:read"}},
		{"default: the most that one of two leaves", func(o *grant.Objects) {
			o.Delegations = append(o.Delegations, o.Delegations[0])
			o.Delegations[1].Name, o.Delegations[1].Scopes = "more", []string{"payments:read", "payments:create"}
		}, all, nil, []string{"payments:create", "payments:read"}},
		{"default: the first of two that leave as much", func(o *grant.Objects) {
			o.Delegations = append(o.Delegations, o.Delegations[0])
			o.Delegations[1].Name, o.Delegations[1].Scopes = "more", []string{"payments:read"}
		}, all, nil, []string{"payments:create"}},
		{"no one policy of two leaves both", func(o *grant.Objects) {
			o.Delegations = append(o.Delegations, o.Delegations[0])
			o.Delegations[1].Name, o.Delegations[1].Scopes = "more", []string{"payments:read"}
		}, all, []string{"payments:read", "payments:create"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := directory(t, c.world)
			got, err := d.Delegate(forCustomer(t, d, func(e *grant.Exchange) { e.SubjectScopes, e.Scopes = c.subject, c.requested }))
			if c.want == nil {
				refused(t, err, "invalid_scope", "scope not allowed")
			} else if err != nil {
				t.Error(err)
			} else {
				same(t, got, c.want)
			}
		})
	}
}

// may_act stands in the place of a policy; cycles and depth it does not lift.
func TestX2MayAct(t *testing.T) {
	d := directory(t, func(o *grant.Objects) { o.Delegations = nil })
	got, err := d.Delegate(forCustomer(t, d, func(e *grant.Exchange) { e.MayAct = true }))
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, []string{"payments:create"})
	_, err = d.Delegate(forCustomer(t, d))
	refused(t, err, "invalid_request", "delegation not permitted")
	_, err = d.Delegate(forCustomer(t, d, func(e *grant.Exchange) { e.MayAct, e.Chain = true, []string{web, orders} }))
	refused(t, err, "invalid_request", "actor already in delegation chain")
	_, err = d.Delegate(forCustomer(t, d, func(e *grant.Exchange) { e.MayAct, e.Chain = true, chain(8) }))
	refused(t, err, "invalid_request", "delegation chain too deep")
	_, err = d.Delegate(forCustomer(t, d, func(e *grant.Exchange) { e.MayAct, e.Origin = true, "api_key" }))
	refused(t, err, "invalid_request", "delegation not permitted")
}

func chain(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("spiffe://example.com/ns/shop/sa/hop-%d", i))
	}
	return out
}

// The chain keeps all earlier actors in order.
func TestX2cChainGrows(t *testing.T) {
	e := grant.Exchange{Actor: orders, Subject: "corp:7f3b", Chain: []string{web, bare}}
	same(t, e.Acts(), []string{orders, web, bare})
	e.Actor = web
	same(t, e.Acts(), []string{web, bare})
	if before := slices.Clone(e.Chain); !slices.Equal(before, e.Chain) {
		t.Error("the chain of the subject token was changed")
	}
}

// The subject itself needs no policy, adds no act, and only narrows.
func TestX3aActorIsSubject(t *testing.T) {
	d := directory(t, func(o *grant.Objects) { o.Delegations = nil })
	for name, change := range map[string]func(*grant.Exchange){
		"by identity": func(e *grant.Exchange) { e.Subject = orders },
		"by client_id": func(e *grant.Exchange) {
			e.Subject, e.Actor = e.Client.ClientID, "spiffe://example.com/ns/shop/sa/other-name"
		},
	} {
		e := forCustomer(t, d, change, func(e *grant.Exchange) { e.SubjectIssuer, e.Origin, e.Chain = issuer, "", []string{web} })
		got, err := d.Delegate(e)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		same(t, got, []string{"payments:create"})
		same(t, e.Acts(), []string{web})
		e.Scopes = []string{"payments:read"}
		_, err = d.Delegate(e)
		refused(t, err, "invalid_scope", "scope not allowed")
	}
}

// A → B → A is refused unless the policy says allowCycles; who acted last may act again.
func TestX3bCycle(t *testing.T) {
	cycle := func(e *grant.Exchange) { e.Chain = []string{web, orders} }
	d := directory(t)
	_, err := d.Delegate(forCustomer(t, d, cycle))
	refused(t, err, "invalid_request", "actor already in delegation chain")
	again := forCustomer(t, d, func(e *grant.Exchange) { e.Chain = []string{orders, web} })
	if _, err := d.Delegate(again); err != nil {
		t.Error(err)
	}
	same(t, again.Acts(), []string{orders, web})

	d = directory(t, policy(func(p *grant.Delegation) { p.AllowCycles = true }))
	e := forCustomer(t, d, cycle)
	if _, err := d.Delegate(e); err != nil {
		t.Error(err)
	}
	same(t, e.Acts(), []string{orders, web, orders})
	_, err = d.Delegate(forCustomer(t, d, cycle, func(e *grant.Exchange) { e.Origin = "svid" }))
	refused(t, err, "invalid_request", "delegation not permitted")
}

// Eight actors are the most, whatever a policy says; a policy may say fewer.
func TestX3cDepth(t *testing.T) {
	for _, c := range []struct {
		most, before int
		ok           bool
	}{
		{0, 7, true}, {0, 8, false}, {8, 7, true}, {100, 8, false}, {3, 2, true}, {3, 3, false}, {1, 0, true}, {1, 1, false},
	} {
		d := directory(t, policy(func(p *grant.Delegation) { p.MaxDepth = c.most }))
		e := forCustomer(t, d, func(e *grant.Exchange) { e.Chain = chain(c.before) })
		_, err := d.Delegate(e)
		if c.ok && err != nil {
			t.Errorf("maxDepth %d, %d actors before: %v", c.most, c.before, err)
		} else if !c.ok {
			refused(t, err, "invalid_request", "delegation chain too deep")
		}
		if c.ok && len(e.Acts()) != c.before+1 {
			t.Errorf("got a chain of %d", len(e.Acts()))
		}
	}
	// Where nothing is added, eight stay eight; nine are refused even to the subject.
	d := directory(t)
	for n, ok := range map[int]bool{8: true, 9: false} {
		_, err := d.Delegate(forCustomer(t, d, func(e *grant.Exchange) { e.Subject, e.Chain = orders, chain(n) }))
		if ok && err != nil {
			t.Error(err)
		} else if !ok {
			refused(t, err, "invalid_request", "delegation chain too deep")
		}
	}
}

// The record gets the finer reason.
func TestRefusalReasons(t *testing.T) {
	d := directory(t)
	for want, change := range map[string]func(*grant.Exchange){
		"delegation":  func(e *grant.Exchange) { e.Subject = "hr:1" },
		"actor_cycle": func(e *grant.Exchange) { e.Chain = []string{web, orders} },
		"chain_depth": func(e *grant.Exchange) { e.Chain = chain(8) },
		"":            func(e *grant.Exchange) { e.Scopes = []string{"x"} },
	} {
		_, err := d.Delegate(forCustomer(t, d, change))
		if r, ok := err.(*grant.Refusal); !ok || r.Reason != want {
			t.Errorf("got %#v, want reason %q", err, want)
		}
	}
}
