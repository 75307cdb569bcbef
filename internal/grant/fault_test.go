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
			"OAuthClient/shop/a", "E308", "spec.clientId", "key:"},
		{"X6a cert", func(o *grant.Objects) { o.Clients = append(o.Clients, client("shop", "a", "cert:x")) },
			"OAuthClient/shop/a", "E308", "spec.clientId", "cert:"},
		{"X6a SPIFFE ID", func(o *grant.Objects) { o.Clients = append(o.Clients, client("shop", "a", bare)) },
			"OAuthClient/shop/a", "E308", "spec.clientId", "SPIFFE ID"},
		{"SPIFFE ID under a prefix", func(o *grant.Objects) {
			o.Clients = append(o.Clients, grant.Client{Namespace: "shop", Name: "a", ClientID: bare, SPIFFEID: "spiffe://example.com/ns/shop/*", Auth: grant.AuthSPIFFE})
		}, "OAuthClient/shop/a", "E308", "spec.clientId", "SPIFFE ID"},
		{"node as client", func(o *grant.Objects) {
			id := "spiffe://example.com/ns/countersign/sa/node-a"
			o.Clients = append(o.Clients, grant.Client{Namespace: "shop", Name: "a", ClientID: id, SPIFFEID: id, Auth: grant.AuthSPIFFE})
		}, "OAuthClient/shop/a", "E308", "spec.spiffeId", "countersign"},
		{"prefix of all domains", func(o *grant.Objects) {
			o.Clients = append(o.Clients, grant.Client{Namespace: "shop", Name: "a", ClientID: "a", SPIFFEID: "spiffe://*", Auth: grant.AuthSPIFFE})
		}, "OAuthClient/shop/a", "E103", "spec.spiffeId", "no SPIFFE ID"},
		{"X6a issuer named spiffe", func(o *grant.Objects) {
			o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "istio-system", Name: "spiffe", Issuer: "https://a.example"})
		}, "TrustedIssuer/istio-system/spiffe", "E308", "metadata.name", "aliases"},
		{"X6a issuer named key", func(o *grant.Objects) {
			o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "istio-system", Name: "key", Issuer: "https://a.example"})
		}, "TrustedIssuer/istio-system/key", "E308", "metadata.name", "aliases"},
		{"X6a issuer named cert", func(o *grant.Objects) {
			o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "istio-system", Name: "cert", Issuer: "https://a.example"})
		}, "TrustedIssuer/istio-system/cert", "E308", "metadata.name", "aliases"},
		{"alias twice", func(o *grant.Objects) {
			o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "zoo", Name: "corp", Issuer: "https://a.example"})
		}, "TrustedIssuer/zoo/corp", "E308", "metadata.name", "namespace istio-system"},
		{"issuer twice", func(o *grant.Objects) {
			o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "zoo", Name: "z", Issuer: corp})
		}, "TrustedIssuer/zoo/z", "E308", "spec.issuer", "namespace istio-system"},
		{"our own issuer", func(o *grant.Objects) {
			o.Issuers = append(o.Issuers, grant.Issuer{Namespace: "zoo", Name: "z", Issuer: issuer})
		}, "TrustedIssuer/zoo/z", "E308", "spec.issuer", "own"},
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
		}, "OAuthResource/shop/z", "E308", "spec.audience", "issuer"},
		{"X8 typ JWT, a client", func(o *grant.Objects) {
			o.Clients = append(o.Clients, client("zoo", "z", "https://app.example"))
			o.Audiences = append(o.Audiences, grant.Audience{Namespace: "shop", Name: "z", URI: "https://app.example", TypJWT: true})
		}, "OAuthResource/shop/z", "E308", "spec.audience", "namespace zoo"},
		{"X8 typ JWT, a service", func(o *grant.Objects) { o.Audiences[0].TypJWT = true },
			"OAuthResource/shop/orders", "E308", "spec.typ", "mesh services"},
		{"X8 typ JWT, a service to come", func(o *grant.Objects) { o.Audiences[3].TypJWT = true },
			"OAuthResource/shop/later", "E308", "spec.typ", "mesh services"},
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
