package grant_test

import (
	"testing"

	"countersign.dev/internal/grant"
)

// An API key is for audiences of its own namespace, and for those that grant the namespace all of its scopes.
func TestKeyReach(t *testing.T) {
	d, faults := grant.New(grant.Objects{
		TrustDomain: "example.com", Issuer: "https://issuer",
		Services: []grant.Service{{Namespace: "shop", Name: "orders"}, {Namespace: "bank", Name: "ledger"}, {Namespace: "bank", Name: "vault"}},
		Audiences: []grant.Audience{
			{Namespace: "bank", Name: "ledger", Service: "ledger", Scopes: []grant.Scope{{Name: "r"}, {Name: "w"}}, GrantTo: []grant.GrantTo{{Namespace: "shop", Scopes: []string{"r"}}}},
			{Namespace: "shop", Name: "uri", URI: "https://shop.example"},
		},
	})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for name, tt := range map[string]struct {
		ns, service       string
		audiences, scopes []string
		want              bool
	}{
		"own, by name":                  {"shop", "shop/orders", []string{"orders"}, []string{"any"}, true},
		"own, by identity":              {"shop", "shop/orders", []string{"spiffe://example.com/ns/shop/sa/orders"}, nil, true},
		"own, in full":                  {"shop", "shop/orders", []string{"orders.shop"}, nil, true},
		"another of its own":            {"shop", "shop/orders", []string{"https://shop.example"}, nil, false},
		"elsewhere, by consent":         {"shop", "bank/ledger", []string{"ledger.bank"}, []string{"r"}, true},
		"elsewhere, a scope too much":   {"shop", "bank/ledger", []string{"ledger.bank"}, []string{"r", "w"}, false},
		"elsewhere, without consent":    {"shop", "bank/vault", []string{"vault.bank"}, nil, false},
		"elsewhere, another asks":       {"front", "bank/ledger", []string{"ledger.bank"}, []string{"r"}, false},
		"a name of its own that is not": {"shop", "bank/ledger", []string{"ledger"}, nil, false},
		"no such service":               {"shop", "shop/nosuch", []string{"nosuch"}, nil, false},
		"none":                          {"shop", "shop/orders", nil, nil, false},
	} {
		if got := d.Reaches(tt.ns, tt.audiences, tt.scopes, tt.service); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	var none *grant.Directory
	if none.Reaches("shop", []string{"orders"}, nil, "shop/orders") {
		t.Error("a key reaches something where nothing is known")
	}
	own, elsewhere := []string{"orders"}, "shop/orders"
	if n := testing.AllocsPerRun(100, func() { d.Reaches("shop", own, nil, elsewhere) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
