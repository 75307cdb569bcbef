package grant_test

import (
	"strings"
	"testing"

	"countersign.dev/internal/grant"
)

func client(ns, name, id string) grant.Client {
	return grant.Client{Namespace: ns, Name: name, ClientID: id, Auth: grant.AuthSecret}
}

// What objects may not be beside each other. The text names the other's namespace, never the
// other object.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*grant.Objects)
		kind   string // Kind/namespace/name of the fault
		code   string
		field  string
		says   string
	}{
		{"client id of another namespace", func(o *grant.Objects) { o.Clients = append(o.Clients, client("zoo", "z", "ci")) },
			"OAuthClient/zoo/z", "E308", "spec.clientId", `clientId "ci" is taken in namespace shop`},
		{"client id of the namespace", func(o *grant.Objects) { o.Clients = append(o.Clients, client("shop", "z", "ci")) },
			"OAuthClient/shop/z", "E113", "spec.clientId", "namespace shop"},
		{"X6a alias", func(o *grant.Objects) { o.Clients = append(o.Clients, client("shop", "a", "corp:alice")) },
			"OAuthClient/shop/a", "E308", "spec.clientId", "namespace istio-system"},
		{"X6a key", func(o *grant.Objects) { o.Clients = append(o.Clients, client("shop", "a", "key:shop:acme")) },
			"OAuthClient/shop/a", "E224", "spec.clientId", "key:"},
		{"X6a cert", func(o *grant.Objects) { o.Clients = append(o.Clients, client("shop", "a", "cert:x")) },
			"OAuthClient/shop/a", "E224", "spec.clientId", "cert:"},
		{"X6a SPIFFE ID", func(o *grant.Objects) { o.Clients = append(o.Clients, client("shop", "a", bare)) },
			"OAuthClient/shop/a", "E224", "spec.clientId", "SPIFFE ID"},
		{"SPIFFE ID under a prefix", func(o *grant.Objects) {
			o.Clients = append(o.Clients, grant.Client{Namespace: "shop", Name: "a", ClientID: bare, SPIFFEID: "spiffe://example.com/ns/shop/*", Auth: grant.AuthSPIFFE})
		}, "OAuthClient/shop/a", "E224", "spec.clientId", "SPIFFE ID"},
		{"node as client", func(o *grant.Objects) {
			id := "spiffe://example.com/ns/countersign/sa/node-a"
			o.Clients = append(o.Clients, grant.Client{Namespace: "shop", Name: "a", ClientID: id, SPIFFEID: id, Auth: grant.AuthSPIFFE})
		}, "OAuthClient/shop/a", "E224", "spec.spiffeId", "countersign"},
		{"prefix of all domains", func(o *grant.Objects) {
			o.Clients = append(o.Clients, grant.Client{Namespace: "shop", Name: "a", ClientID: "a", SPIFFEID: "spiffe://*", Auth: grant.AuthSPIFFE})
		}, "OAuthClient/shop/a", "E103", "spec.spiffeId", "no SPIFFE ID"},
		{"X6a issuer named spiffe", func(o *grant.Objects) {
			o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "istio-system", Name: "spiffe", Issuer: "https://a.example"})
		}, "TrustedIssuer/istio-system/spiffe", "E224", "metadata.name", "aliases"},
		{"X6a issuer named key", func(o *grant.Objects) {
			o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "istio-system", Name: "key", Issuer: "https://a.example"})
		}, "TrustedIssuer/istio-system/key", "E224", "metadata.name", "aliases"},
		{"X6a issuer named cert", func(o *grant.Objects) {
			o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "istio-system", Name: "cert", Issuer: "https://a.example"})
		}, "TrustedIssuer/istio-system/cert", "E224", "metadata.name", "aliases"},
		{"alias twice", func(o *grant.Objects) {
			o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "zoo", Name: "corp", Issuer: "https://a.example"})
		}, "TrustedIssuer/zoo/corp", "E308", "metadata.name", "namespace istio-system"},
		{"issuer twice", func(o *grant.Objects) {
			o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "zoo", Name: "z", Issuer: corp})
		}, "TrustedIssuer/zoo/z", "E308", "spec.issuer", "namespace istio-system"},
		{"our own issuer", func(o *grant.Objects) {
			o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "zoo", Name: "z", Issuer: issuer})
		}, "TrustedIssuer/zoo/z", "E224", "spec.issuer", "own"},
		{"audience twice", func(o *grant.Objects) {
			o.Audiences = append(o.Audiences, grant.Audience{Namespace: "zoo", Name: "z", URI: "https://legacy.example.com"})
		}, "OAuthResource/zoo/z", "E308", "spec.audience", "namespace shop"},
		{"audience is a resource value", func(o *grant.Objects) {
			o.Audiences = append(o.Audiences, grant.Audience{Namespace: "zoo", Name: "z", URI: "https://api.example.com/orders"})
		}, "OAuthResource/zoo/z", "E308", "spec.audience", "namespace shop"},
		{"resource value twice", func(o *grant.Objects) {
			o.Audiences = append(o.Audiences, grant.Audience{Namespace: "shop", Name: "z", URI: "https://z.example", Resources: []string{"https://z.example/a", "https://api.example.com/orders"}})
		}, "OAuthResource/shop/z", "E113", "spec.resources[1]", "namespace shop"},
		{"service twice", func(o *grant.Objects) {
			o.Audiences = append(o.Audiences, grant.Audience{Namespace: "shop", Name: "z", Service: "orders"})
		}, "OAuthResource/shop/z", "E113", "spec.service", "namespace shop"},
		{"service twice, not there yet", func(o *grant.Objects) {
			o.Audiences = append(o.Audiences, grant.Audience{Namespace: "shop", Name: "z", Service: "not-yet"})
		}, "OAuthResource/shop/z", "E113", "spec.service", "namespace shop"},
		{"canonical audience twice", func(o *grant.Objects) {
			o.Audiences = append(o.Audiences, grant.Audience{Namespace: "shop", Name: "z", Service: "refunds"})
		}, "OAuthResource/shop/z", "E113", "spec.service", "namespace shop"},
		{"audience of another namespace's identity", func(o *grant.Objects) {
			o.Services = append(o.Services, grant.Service{Namespace: "zoo", Name: "z", Owners: []string{bare}})
			o.Audiences = append(o.Audiences, grant.Audience{Namespace: "zoo", Name: "z", Service: "z", AllowBearer: true})
		}, "OAuthResource/zoo/z", "E308", "spec.service", "zoo"},
		{"audience is an identity", func(o *grant.Objects) {
			o.Audiences = append(o.Audiences, grant.Audience{Namespace: "zoo", Name: "z", URI: bare})
		}, "OAuthResource/zoo/z", "E308", "spec.audience", "identity"},
		{"resource is an identity of a service", func(o *grant.Objects) {
			o.Audiences = append(o.Audiences, grant.Audience{Namespace: "zoo", Name: "z", URI: "https://z.example", Resources: []string{"spiffe://partner.example/ns/x/sa/y"}})
		}, "OAuthResource/zoo/z", "E308", "spec.resources[0]", "identity"},
		{"X8 typ JWT, the issuer", func(o *grant.Objects) {
			o.Audiences = append(o.Audiences, grant.Audience{Namespace: "shop", Name: "z", URI: issuer, TypJWT: true})
		}, "OAuthResource/shop/z", "E224", "spec.audience", "issuer"},
		{"X8 typ JWT, a client", func(o *grant.Objects) {
			o.Clients = append(o.Clients, client("zoo", "z", "https://app.example"))
			o.Audiences = append(o.Audiences, grant.Audience{Namespace: "shop", Name: "z", URI: "https://app.example", TypJWT: true})
		}, "OAuthResource/shop/z", "E224", "spec.audience", "namespace zoo"},
		{"X8 typ JWT, a service", func(o *grant.Objects) { o.Audiences[0].TypJWT = true },
			"OAuthResource/shop/orders", "E224", "spec.typ", "mesh services"},
		{"X8 typ JWT, a service to come", func(o *grant.Objects) { o.Audiences[3].TypJWT = true },
			"OAuthResource/shop/later", "E224", "spec.typ", "mesh services"},
		{"a client named as a user of an issuer is older", func(o *grant.Objects) {
			o.Clients = append(o.Clients, client("zoo", "z", "hr:alice"))
			o.Issuers[2].Since = 1
		}, "TrustedIssuer/istio-system/hr", "E308", "metadata.name", "namespace zoo"},
		{"X8 typ JWT, a younger client", func(o *grant.Objects) {
			o.Clients = append(o.Clients, client("zoo", "z", "https://legacy.example.com"))
			o.Clients[3].Since = 1
		}, "OAuthClient/zoo/z", "E224", "spec.clientId", "namespace shop"},
		{"scopes without consent", func(o *grant.Objects) { o.Audiences[4].GrantTo = nil },
			"OAuthClient/shop/web", "E308", "spec.targets[2].scopes", "grantTo in OAuthResource front/ledger"},
		{"scopes that the consent leaves out", func(o *grant.Objects) { o.Clients[1].Targets[2].Scopes = []string{"ledger:write"} },
			"OAuthClient/shop/web", "E308", "spec.targets[2].scopes", "grantTo in OAuthResource front/ledger"},
		{"consent to another namespace", func(o *grant.Objects) { o.Audiences[4].GrantTo[0].Namespace = "zoo" },
			"OAuthClient/shop/web", "E308", "spec.targets[2].scopes", "grantTo in OAuthResource front/ledger"},
		{"scopes of a service without record", func(o *grant.Objects) { o.Audiences = o.Audiences[:4] },
			"OAuthClient/shop/web", "E308", "spec.targets[2].scopes", "grantTo in an OAuthResource of namespace front"},
		{"scopes of a service elsewhere that is not there", func(o *grant.Objects) {
			o.Clients[1].Targets[2].Audience = "gone.front"
		}, "OAuthClient/shop/web", "E308", "spec.targets[2].scopes", "grantTo in an OAuthResource of namespace front"},
		{"one audience by two names", func(o *grant.Objects) { o.Clients[1].Targets[0].Audience = "refunds" },
			"OAuthClient/shop/web", "E113", "spec.targets[1].audience", "spec.targets[0]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := world()
			c.change(&o)
			_, faults := grant.New(o)
			if len(faults) != 1 {
				t.Fatalf("got %d faults: %+v", len(faults), faults)
			}
			f := faults[0]
			if at := f.Kind + "/" + f.Namespace + "/" + f.Name; at != c.kind || f.Code != c.code || f.Field != c.field || !strings.Contains(f.Text, c.says) {
				t.Errorf("got %s %s %s: %s", at, f.Code, f.Field, f.Text)
			}
		})
	}
}

// What is allowed though it looks odd.
func TestNoFaults(t *testing.T) {
	directory(t)
	for name, change := range map[string]func(*grant.Objects){
		"client of another namespace's identity": func(o *grant.Objects) {
			o.Clients = append(o.Clients, grant.Client{Namespace: "zoo", Name: "z", ClientID: "z", SPIFFEID: bare, Auth: grant.AuthSPIFFE})
		},
		"target of another namespace without scopes": func(o *grant.Objects) {
			o.Clients[1].Targets[2] = grant.Target{Audience: "ledger.front", Exchange: true}
			o.Audiences[4].GrantTo = nil
		},
		"consent before the service": func(o *grant.Objects) { o.Services = append(o.Services[:4], o.Services[5]) },
		"target that nobody knows":   func(o *grant.Objects) { o.Clients[1].Targets[2].Audience = "https://unknown.example" },
		"policy for an audience to come": func(o *grant.Objects) {
			o.Delegations[0].Audiences = []string{"not-yet", "https://unknown.example"}
		},
		"clientId with a colon":     func(o *grant.Objects) { o.Clients = append(o.Clients, client("zoo", "z", "urn:x")) },
		"clientId that is an alias": func(o *grant.Objects) { o.Clients = append(o.Clients, client("zoo", "z", "corp")) },
		"two records for one identity": func(o *grant.Objects) {
			o.Clients = append(o.Clients, grant.Client{Namespace: "shop", Name: "z", ClientID: "z", SPIFFEID: web, Auth: grant.AuthSPIFFE})
		},
	} {
		t.Run(name, func(t *testing.T) { directory(t, change) })
	}
}

// Order of files is nothing: the first by namespace and name keeps what two claim.
func TestFirstByNameKeeps(t *testing.T) {
	a, b := client("aaa", "z", "twice"), client("bbb", "a", "twice")
	for _, list := range [][]grant.Client{{a, b}, {b, a}} {
		d, faults := grant.New(grant.Objects{TrustDomain: "example.com", Issuer: issuer, Clients: list})
		if len(faults) != 1 || faults[0].Namespace != "bbb" || d.Client("twice").Namespace != "aaa" {
			t.Errorf("got %+v, kept by %s", faults, d.Client("twice").Namespace)
		}
	}
}

// Who was there first keeps what a younger object claims, whatever their names; the fault is of
// the younger one, and tells the namespace of the older one alone.
func TestOlderKeeps(t *testing.T) {
	o := world()
	o.Clients = append(o.Clients, client("aaa", "a", "ci"))
	o.Audiences = append(o.Audiences, grant.Audience{Namespace: "aaa", Name: "a", URI: "https://legacy.example.com"})
	o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "aaa", Name: "corp", Issuer: "https://a.example"})
	o.Clients[3].Since, o.Audiences[5].Since, o.Issuers[3].Since = 1, 1, 1
	d, faults := grant.New(o)
	if len(faults) != 3 || d.Client("ci").Namespace != "shop" || d.Audience("https://legacy.example.com").Namespace != "shop" || d.Issuer(corp) == nil || d.Issuer("https://a.example") != nil {
		t.Errorf("got %+v", faults)
	}
	for _, f := range faults {
		if f.Namespace != "aaa" || strings.Contains(f.Text, "legacy ") || !strings.Contains(f.Text, "taken in namespace ") {
			t.Errorf("got %+v", f)
		}
	}
}

// What cannot work is told, and is no fault.
func TestWarnings(t *testing.T) {
	d := directory(t)
	both := []string{grant.GrantClientCredentials, grant.GrantTokenExchange}
	for name, c := range map[string]struct {
		grants  []string
		binding grant.Binding
		target  grant.Target
		want    string // code and field
	}{
		"nothing":                    {both, "", grant.Target{Audience: "orders", Scopes: []string{"orders:read"}, Exchange: true, Attach: true}, ""},
		"unbound where that is open": {both, grant.BindNone, grant.Target{Audience: "https://legacy.example.com", Scopes: []string{"legacy:read"}}, ""},
		"a scope it does not have":   {both, "", grant.Target{Audience: "orders", Scopes: []string{"orders:reed", "orders:read", "orders:rode"}}, "W-scope spec.targets[0].scopes"},
		"a scope without a record":   {both, "", grant.Target{Audience: "catalog", Scopes: []string{"x"}}, "W-scope spec.targets[0].scopes"},
		"attached to no service":     {both, "", grant.Target{Audience: "https://legacy.example.com", Attach: true}, "W-attach spec.targets[0].attach"},
		"attached without the grant": {both[1:], "", grant.Target{Audience: "orders", Attach: true}, "W-grant spec.targets[0].attach"},
		"exchange without the grant": {both[:1], "", grant.Target{Audience: "orders", Exchange: true}, "W-grant spec.targets[0].exchange"},
		"unbound where it is not":    {both, grant.BindNone, grant.Target{Audience: "orders"}, "W-binding spec.targets[0].audience"},
		"an audience to come":        {both, "", grant.Target{Audience: "not-yet", Scopes: []string{"later:read"}}, "W-audience spec.targets[0].audience"},
	} {
		got := ""
		for _, f := range d.Warnings(&grant.Client{
			Namespace: "shop", Name: "x", ClientID: "x", SPIFFEID: web, Auth: grant.AuthSPIFFE, Grants: c.grants, Binding: c.binding, Targets: []grant.Target{c.target},
		}) {
			got += f.Code + " " + f.Field
			if f.Text == "" || f.Kind != "OAuthClient" || f.Name != "x" {
				t.Errorf("%s: %+v", name, f)
			}
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// An audience that may not be gives nobody anything.
func TestSecFaultyAudienceIsNone(t *testing.T) {
	o := world()
	o.Audiences = append(o.Audiences, grant.Audience{Namespace: "shop", Name: "z", URI: issuer, TypJWT: true, AllowBearer: true, Resources: []string{"https://z.example"}})
	o.Clients[0].Targets = []grant.Target{{Audience: issuer}}
	d, faults := grant.New(o)
	if len(faults) != 1 {
		t.Fatalf("got %+v", faults)
	}
	_, err := d.Resolve(d.Client("ci"), []string{issuer}, nil)
	refused(t, err, "invalid_target", "target not allowed")
	_, err = d.Resolve(d.Client("ci"), nil, []string{"https://z.example"})
	refused(t, err, "invalid_target", "target not allowed")
	if d.Audience(issuer) != nil {
		t.Error("the record is still there")
	}
}
