package grant_test

import (
	"errors"
	"slices"
	"testing"

	"countersign.dev/internal/grant"
)

const (
	web      = "spiffe://example.com/ns/shop/sa/web"
	orders   = "spiffe://example.com/ns/shop/sa/orders"
	payments = "spiffe://example.com/ns/shop/sa/payments"
	ledger   = "spiffe://example.com/ns/front/sa/ledger"
	bare     = "spiffe://example.com/ns/shop/sa/bare" // a workload without a record
	issuer   = "https://tokens.example.com"
	corp     = "https://login.corp.example"
)

// world is a mesh of two namespaces with something of everything, and no fault.
func world() grant.Objects {
	return grant.Objects{
		TrustDomain: "example.com", RootNamespace: "istio-system", Issuer: issuer,
		Services: []grant.Service{
			{Namespace: "shop", Name: "orders"}, // no owners: the workload of its name
			{Namespace: "shop", Name: "payments", Owners: []string{payments}},
			{Namespace: "shop", Name: "refunds", Owners: []string{payments, orders}},
			{Namespace: "shop", Name: "catalog"},
			{Namespace: "front", Name: "ledger", Owners: []string{ledger}},
			{Namespace: "front", Name: "outside", Owners: []string{"spiffe://partner.example/ns/x/sa/y"}},
		},
		Audiences: []grant.Audience{
			{Namespace: "shop", Name: "orders", Service: "orders", Resources: []string{"https://api.example.com/orders"},
				Scopes: []grant.Scope{{Name: "orders:read", Public: true}, {Name: "orders:create"}}},
			{Namespace: "shop", Name: "payments", Service: "payments", Scopes: []grant.Scope{{Name: "payments:create"}, {Name: "payments:read"}}},
			{Namespace: "shop", Name: "legacy", URI: "https://legacy.example.com", AllowBearer: true, TypJWT: true,
				Scopes: []grant.Scope{{Name: "legacy:read", Public: true}}},
			{Namespace: "shop", Name: "later", Service: "not-yet", Scopes: []grant.Scope{{Name: "later:read"}}},
			{Namespace: "front", Name: "ledger", Service: "ledger", Scopes: []grant.Scope{{Name: "ledger:read"}, {Name: "ledger:write"}},
				GrantTo: []grant.GrantTo{{Namespace: "shop", Scopes: []string{"ledger:read"}}}},
		},
		Issuers: []grant.Issuer{
			{Namespace: "istio-system", Name: "corp", Issuer: corp, Uses: []grant.Use{grant.UseRequest, grant.UseSubject},
				Audiences: []string{"https://api.example.com/orders", "https://elsewhere.example.com"}},
			{Namespace: "istio-system", Name: "ci", Issuer: "https://ci.example", Uses: []grant.Use{grant.UseRequest}},
			{Namespace: "istio-system", Name: "hr", Issuer: "https://hr.example", Uses: []grant.Use{grant.UseSubject}},
		},
		Clients: []grant.Client{
			{Namespace: "shop", Name: "ci", ClientID: "ci", Auth: grant.AuthSecret, Grants: []string{grant.GrantClientCredentials},
				Targets: []grant.Target{{Audience: "https://legacy.example.com", Scopes: []string{"legacy:read"}}}},
			{Namespace: "shop", Name: "web", ClientID: web, SPIFFEID: web, Auth: grant.AuthSPIFFE,
				Grants: []string{grant.GrantClientCredentials, grant.GrantTokenExchange},
				Targets: []grant.Target{
					{Audience: "orders", Scopes: []string{"orders:read", "orders:create"}, DefaultScopes: []string{"orders:read"}, Exchange: true},
					{Audience: "payments", Scopes: []string{"payments:create"}},
					{Audience: "ledger.front", Scopes: []string{"ledger:read"}, Exchange: true},
					{Audience: "https://legacy.example.com"},
				}},
			{Namespace: "shop", Name: "orders", ClientID: orders, SPIFFEID: orders, Auth: grant.AuthSPIFFE,
				Grants:  []string{grant.GrantTokenExchange},
				Targets: []grant.Target{{Audience: "payments", Scopes: []string{"payments:create", "payments:read"}, Exchange: true}}},
		},
		Delegations: []grant.Delegation{
			{Namespace: "shop", Name: "customers", Actors: []string{"orders"}, Audiences: []string{"payments"},
				SubjectIssuers: []string{corp}, Subjects: []string{"corp:*"}, Scopes: []string{"payments:create"},
				Origins: []string{"oidc", "jwt"}, MaxDepth: 3},
		},
	}
}

// directory is the Directory of objects without a fault.
func directory(t testing.TB, change ...func(*grant.Objects)) *grant.Directory {
	t.Helper()
	o := world()
	for _, c := range change {
		c(&o)
	}
	d, faults := grant.New(o)
	for _, f := range faults {
		t.Errorf("unexpected fault %+v", f)
	}
	return d
}

// refused checks that an error is the refusal of that code and text.
func refused(t *testing.T, err error, code, text string) {
	t.Helper()
	r, ok := errors.AsType[*grant.Refusal](err)
	if !ok || r.Code != code || r.Text != text {
		t.Errorf("got %v, want %s: %s", err, code, text)
	}
}

func same(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
