package grant_test

import (
	"testing"

	"countersign.dev/internal/grant"
)

func TestOwnAudiences(t *testing.T) {
	d := directory(t)
	same(t, d.OwnAudiences(orders, []string{"shop/orders", "shop/refunds", "shop/payments", "shop/gone"}), []string{orders, payments})
	same(t, d.OwnAudiences(bare, nil), []string{bare})
}

// An audience of an issuer counts at the service that lists it, and nowhere else.
func TestG10aAccepts(t *testing.T) {
	d := directory(t)
	byAlias := map[string]*grant.Issuer{}
	for _, i := range d.Issuers() {
		byAlias[i.Name] = &i
	}
	const listed = "https://api.example.com/orders"
	for _, c := range []struct {
		name     string
		issuer   *grant.Issuer
		id       string
		services []string
		want     []string
	}{
		{"the service that lists it", byAlias["corp"], orders, []string{"shop/orders"}, []string{listed}},
		{"beside another", byAlias["corp"], orders, []string{"shop/catalog", "shop/orders"}, []string{listed}},
		{"another service", byAlias["corp"], payments, []string{"shop/payments"}, nil},
		{"a service of that name elsewhere", byAlias["corp"], ledger, []string{"front/orders"}, nil},
		{"no service", byAlias["corp"], orders, nil, nil},
		{"issuer without audiences", byAlias["ci"], payments, []string{"shop/payments", "shop/catalog"}, []string{payments, "spiffe://example.com/ns/shop/sa/catalog"}},
		{"issuer for subjects alone", byAlias["hr"], payments, []string{"shop/payments"}, nil},
		{"no issuer", d.Issuer("https://unknown.example"), payments, []string{"shop/payments"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) { same(t, d.Accepts(c.issuer, c.id, c.services), c.want) })
	}
}

func TestIssuers(t *testing.T) {
	d := directory(t)
	if i := d.Issuer(corp); i == nil || i.Name != "corp" {
		t.Errorf("got %+v", i)
	}
	for _, iss := range []string{"", corp + "/", "https://LOGIN.corp.example", issuer} {
		if i := d.Issuer(iss); i != nil {
			t.Errorf("%q: got %+v", iss, i)
		}
	}
	if all := d.Issuers(); len(all) != 3 || all[0].Name != "ci" || all[2].Name != "hr" {
		t.Errorf("got %+v", all)
	}
}

func TestMetadata(t *testing.T) {
	d := directory(t)
	same(t, d.PublicScopes(), []string{"legacy:read", "orders:read"})
	same(t, d.Resources(), []string{"https://api.example.com/orders", "https://legacy.example.com"})
}

// A service without an owner that could be one is no audience; an audience of a service
// exists from the moment the service does.
func TestServicesComeAndGo(t *testing.T) {
	d := directory(t, func(o *grant.Objects) {
		o.Services = append(o.Services, grant.Service{Namespace: "shop", Name: "odd", Owners: []string{""}}, grant.Service{Namespace: "shop", Name: "not-yet"})
	})
	c := d.ClientFor(bare, bare)
	for _, v := range []string{"odd", ""} {
		_, err := d.Resolve(c, []string{v}, nil)
		refused(t, err, "invalid_target", "target not allowed")
	}
	r, err := d.Resolve(c, []string{"not-yet"}, nil)
	if err != nil || r.Record == nil || r.Record.Name != "later" {
		t.Errorf("got %+v, %v", r, err)
	}
}
