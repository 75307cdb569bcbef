package grant_test

import (
	"strings"
	"testing"

	"countersign.dev/internal/grant"
)

func TestResolve(t *testing.T) {
	d := directory(t)
	record, implicit, secret := d.ClientFor(web, web), d.ClientFor(bare, bare), d.Client("ci")
	const no = ""
	for _, c := range []struct {
		name               string
		client             *grant.Client
		audience, resource []string
		want               string
	}{
		{"canonical", record, []string{orders}, nil, orders},
		{"bare name", record, []string{"orders"}, nil, orders},
		{"with namespace", record, []string{"orders.shop"}, nil, orders},
		{"full mesh name", record, []string{"orders.shop.svc.example.com"}, nil, orders},
		{"suffix without namespace", record, []string{"orders.svc.example.com"}, nil, no},
		{"suffix of another domain", record, []string{"orders.shop.svc.partner.example"}, nil, no},
		{"another namespace", record, []string{"ledger.front"}, nil, ledger},
		{"bare name of another namespace", record, []string{"ledger"}, nil, no},
		{"owner's other service", record, []string{"refunds"}, nil, payments},
		{"resource", record, nil, []string{"https://api.example.com/orders"}, orders},
		{"canonical URI as resource", record, nil, []string{orders}, orders},
		{"URI as audience", record, []string{"https://legacy.example.com"}, nil, "https://legacy.example.com"},
		{"URI as resource", record, nil, []string{"https://legacy.example.com"}, "https://legacy.example.com"},
		{"resource value as audience", record, []string{"https://api.example.com/orders"}, nil, no},
		{"name as resource", record, nil, []string{"orders"}, no},
		{"both, one target", record, []string{"orders", orders}, []string{"https://api.example.com/orders"}, orders},
		{"A6a two audiences", record, []string{"orders", "payments"}, nil, no},
		{"two of audience and resource", record, []string{"payments"}, []string{"https://api.example.com/orders"}, no},
		{"A6a unknown audience", record, []string{"nope"}, nil, no},
		{"known and unknown", record, []string{"orders", "nope"}, nil, no},
		{"A6a fragment", record, nil, []string{"https://api.example.com/orders#x"}, no},
		{"empty fragment", record, nil, []string{"https://api.example.com/orders#"}, no},
		{"A6a relative", record, nil, []string{"/orders"}, no},
		{"longer path", record, nil, []string{"https://api.example.com/orders/1"}, no},
		{"other case", record, nil, []string{"https://API.example.com/orders"}, no},
		{"upper case name", record, []string{"Orders"}, nil, no},
		{"empty", record, []string{""}, nil, no},
		{"empty resource", record, nil, []string{""}, no},
		{"no target of the record", record, []string{"catalog"}, nil, no},
		{"service to come", record, []string{"not-yet"}, nil, no},
		{"the issuer", record, []string{issuer}, nil, no},
		{"only target", secret, nil, nil, "https://legacy.example.com"},
		{"implicit: service", implicit, []string{"payments"}, nil, payments},
		{"implicit: without record", implicit, []string{"catalog"}, nil, "spiffe://example.com/ns/shop/sa/catalog"},
		{"implicit: another namespace", implicit, []string{"ledger.front"}, nil, ledger},
		{"implicit: another domain", implicit, []string{"outside.front"}, nil, no},
		{"A6d implicit: allowBearer", implicit, []string{"https://legacy.example.com"}, nil, no},
		{"A6d implicit: allowBearer as resource", implicit, nil, []string{"https://legacy.example.com"}, no},
	} {
		r, err := d.Resolve(c.client, c.audience, c.resource)
		switch {
		case c.want == no && err == nil:
			t.Errorf("%s: got %q", c.name, r.Canonical)
		case c.want == no:
			refused(t, err, "invalid_target", "target not allowed")
		case err != nil || r.Canonical != c.want || r.Record != d.Audience(c.want):
			t.Errorf("%s: got %+v, %v", c.name, r, err)
		case c.client.Implicit != (r.Target == nil):
			t.Errorf("%s: target %+v", c.name, r.Target)
		}
	}
	for name, c := range map[string]*grant.Client{"several": record, "implicit": implicit, "none": {Namespace: "shop", ClientID: "x"}} {
		_, err := d.Resolve(c, nil, nil)
		t.Run(name, func(t *testing.T) { refused(t, err, "invalid_target", "audience or resource is required") })
	}
}

func TestScopes(t *testing.T) {
	d := directory(t)
	record, implicit := d.ClientFor(web, web), d.ClientFor(bare, bare)
	many := make([]string, 65)
	for i := range many {
		many[i] = "orders:read"
	}
	const no = "no"
	for _, c := range []struct {
		name     string
		client   *grant.Client
		audience string
		asked    []string
		want     []string
	}{
		{"none is the defaults", record, "orders", nil, []string{"orders:read"}},
		{"one", record, "orders", []string{"orders:create"}, []string{"orders:create"}},
		{"all, in their order, each once", record, "orders", []string{"orders:create", "orders:read", "orders:create"}, []string{"orders:create", "orders:read"}},
		{"64", record, "orders", many[:64], []string{"orders:read"}},
		{"65", record, "orders", many, []string{no}},
		{"A6a wider", record, "payments", []string{"payments:read"}, []string{no}},
		{"unknown", record, "orders", []string{"orders:read", "x"}, []string{no}},
		{"none and no defaults", record, "payments", nil, nil},
		{"granted by the other namespace", record, "ledger.front", []string{"ledger:read"}, []string{"ledger:read"}},
		{"mesh", record, "orders", []string{"mesh"}, []string{no}},
		{"empty", record, "orders", []string{""}, []string{no}},
		{"implicit", implicit, "orders", nil, nil},
		{"implicit asks", implicit, "orders", []string{"orders:read"}, []string{no}},
		{"no record of the audience", implicit, "catalog", []string{"x"}, []string{no}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := d.Resolve(c.client, []string{c.audience}, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := d.Scopes(c.client, r, c.asked)
			if len(c.want) == 1 && c.want[0] == no {
				refused(t, err, "invalid_scope", "scope not allowed")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, c.want)
		})
	}
}

// RFC 8707, section 2: not even a record makes a resource of what is no absolute URI without fragment.
func TestA6aResourceSyntax(t *testing.T) {
	odd := []string{"https://odd.example/#x", "https://odd.example/y#", "/relative", "odd.example", "%zz:x", "http://[::1"}
	d := directory(t, func(o *grant.Objects) {
		o.Audiences = append(o.Audiences, grant.Audience{Namespace: "shop", Name: "odd", URI: "https://odd.example", Resources: odd})
	})
	for _, v := range odd {
		_, err := d.Resolve(d.ClientFor(bare, bare), nil, []string{v})
		refused(t, err, "invalid_target", "target not allowed")
	}
	if _, err := d.Resolve(d.ClientFor(bare, bare), nil, []string{"https://odd.example"}); err != nil {
		t.Error(err)
	}
}

// A scope of the record that the audience does not have is nobody's.
func TestScopeThatTheAudienceLacks(t *testing.T) {
	d := directory(t, func(o *grant.Objects) {
		o.Clients[1].Targets[0].Scopes = append(o.Clients[1].Targets[0].Scopes, "orders:gone")
	})
	c := d.ClientFor(web, web)
	r, err := d.Resolve(c, []string{"orders"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Scopes(c, r, []string{"orders:gone"})
	refused(t, err, "invalid_scope", "scope not allowed")
}

// What the audience does not have, or no longer grants, is out of force, default or asked for.
func TestScopesNeedConsent(t *testing.T) {
	o := world()
	o.Clients[1].Targets[2] = grant.Target{Audience: "ledger.front", Scopes: []string{"ledger:read", "ledger:write", "mesh", "gone"},
		DefaultScopes: []string{"ledger:write", "ledger:read", "gone"}}
	o.Audiences[4].Scopes = append(o.Audiences[4].Scopes, grant.Scope{Name: "mesh"})
	o.Audiences[4].GrantTo = append(o.Audiences[4].GrantTo, grant.GrantTo{Namespace: "shop", Scopes: []string{"mesh"}})
	d, faults := grant.New(o)
	if len(faults) != 1 || faults[0].Code != "E308" {
		t.Fatalf("got %+v", faults)
	}
	c := d.ClientFor(web, web)
	r, err := d.Resolve(c, []string{"ledger.front"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Scopes(c, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, []string{"ledger:read"})
	for _, s := range []string{"ledger:write", "mesh", "gone"} {
		_, err := d.Scopes(c, r, []string{s})
		refused(t, err, "invalid_scope", "scope not allowed")
	}
}

func TestValidScope(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "orders:read": true, "!#[]~": true, "https://x/y": true,
		"": false, "a b": false, "a\tb": false, `a"`: false, `a\`: false, "ä": false, "a\x7f": false, "\x00": false, "mesh": false,
		strings.Repeat("a", grant.MaxScope): true, strings.Repeat("a", grant.MaxScope+1): false,
	} {
		if got := grant.ValidScope(s); got != want {
			t.Errorf("%q: got %v", s, got)
		}
	}
}

func TestBinding(t *testing.T) {
	d := directory(t)
	bound, open := grant.Resolved{Record: &grant.Audience{}}, grant.Resolved{Record: &grant.Audience{AllowBearer: true}}
	plain := grant.Resolved{} // a service without a record
	implicit := d.ClientFor(bare, bare)
	const no = grant.Binding("refused")
	for _, c := range []struct {
		name   string
		client *grant.Client
		r      grant.Resolved
		want   grant.Binding
	}{
		{"workload", &grant.Client{Auth: grant.AuthSPIFFE}, bound, grant.BindIdentity},
		{"workload, no record of the audience", &grant.Client{Auth: grant.AuthSPIFFE}, plain, grant.BindIdentity},
		{"workload, bearer audience", &grant.Client{Auth: grant.AuthSPIFFE}, open, grant.BindNone},
		{"it says identity", &grant.Client{Auth: grant.AuthSPIFFE, Binding: grant.BindIdentity}, open, grant.BindIdentity},
		{"it says certificate", &grant.Client{Auth: grant.AuthSecret, Binding: grant.BindCertificate}, bound, grant.BindCertificate},
		{"it says none", &grant.Client{Auth: grant.AuthSPIFFE, Binding: grant.BindNone}, open, grant.BindNone},
		{"none for another", &grant.Client{Auth: grant.AuthSPIFFE, Binding: grant.BindNone}, bound, no},
		{"none for a plain service", &grant.Client{Auth: grant.AuthSPIFFE, Binding: grant.BindNone}, plain, no},
		{"secret", &grant.Client{Auth: grant.AuthSecret}, open, grant.BindNone},
		{"secret for another", &grant.Client{Auth: grant.AuthSecret}, bound, no},
		{"key", &grant.Client{Auth: grant.AuthPrivateKeyJWT}, open, grant.BindNone},
		{"key for another", &grant.Client{Auth: grant.AuthPrivateKeyJWT}, bound, no},
		{"implicit", implicit, bound, grant.BindIdentity},
		{"implicit, plain", implicit, plain, grant.BindIdentity},
		{"A6d implicit, bearer audience", implicit, open, no},
	} {
		got, err := d.Binding(c.client, c.r)
		if c.want == no {
			refused(t, err, "invalid_target", "target not allowed")
		} else if err != nil || got != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}
