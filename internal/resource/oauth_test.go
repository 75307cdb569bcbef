package resource

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign.dev/internal/grant"
)

const (
	client     = "apiVersion: countersign.dev/v1\nkind: OAuthClient\nmetadata: {name: ci, namespace: shop}\n"
	audience   = "apiVersion: countersign.dev/v1\nkind: OAuthResource\nmetadata: {name: ledger, namespace: shop}\n"
	issuer     = "apiVersion: countersign.dev/v1\nkind: TrustedIssuer\nmetadata: {name: corp, namespace: shop}\n"
	delegation = "apiVersion: countersign.dev/v1\nkind: DelegationPolicy\nmetadata: {name: d, namespace: shop}\n"
	web        = "spiffe://example.com/ns/shop/sa/web"
)

// The samples of tokens.md 5.1, and every field.
func TestClient(t *testing.T) {
	credentials := []string{"client_credentials"}
	for _, tt := range []struct {
		in   string
		want grant.Client
	}{
		{client + "spec:\n  clientId: ci\n  auth: client_secret\n  targets:\n  - {audience: orders, scopes: [orders:read, orders:create], defaultScopes: [orders:read]}\n", grant.Client{
			ClientID: "ci", Auth: grant.AuthSecret, Grants: credentials, TTL: 5 * time.Minute,
			Targets: []grant.Target{{Audience: "orders", Scopes: []string{"orders:read", "orders:create"}, DefaultScopes: []string{"orders:read"}}},
		}},
		{client + "spec: {spiffeId: '" + web + "', targets: [{audience: payments, attach: true, exchange: true}]}", grant.Client{
			ClientID: web, Auth: grant.AuthSPIFFE, SPIFFEID: web, Grants: credentials, TTL: 5 * time.Minute,
			Targets: []grant.Target{{Audience: "payments", Attach: true, Exchange: true}},
		}},
		{client + "spec: {spiffeId: 'spiffe://example.com/ns/shop/*', auth: spiffe}", grant.Client{
			ClientID: "ci", Auth: grant.AuthSPIFFE, SPIFFEID: "spiffe://example.com/ns/shop/*", Grants: credentials, TTL: 5 * time.Minute,
		}},
		{client + "spec: {spiffeId: '" + web + "', clientId: '" + web + "'}", grant.Client{
			ClientID: web, Auth: grant.AuthSPIFFE, SPIFFEID: web, Grants: credentials, TTL: 5 * time.Minute,
		}},
		{client + "spec: {auth: private_key_jwt, jwksUri: 'https://ci/keys'}", grant.Client{
			ClientID: "ci", Auth: grant.AuthPrivateKeyJWT, JWKSURI: "https://ci/keys", Grants: credentials, TTL: 5 * time.Minute,
			AssertionAlgs: []string{"ES256", "PS256", "EdDSA"},
		}},
		{client + "spec: {clientId: 'team:ci', auth: private_key_jwt, jwks: " + keySet(publicKey) + ", assertionAlgs: [RS256, ES256], assertionAudience: tokenEndpoint, " +
			"grants: ['urn:ietf:params:oauth:grant-type:token-exchange'], claims: {tenant: acme, count: 7, flag: true, l: [a, b]}, binding: certificate, ttl: 10m, " +
			"mayAct: {sub: web}, introspect: any, disabled: true}", grant.Client{
			ClientID: "team:ci", Auth: grant.AuthPrivateKeyJWT, JWKS: json.RawMessage(`{"keys":[{"crv":"P-256","kid":"1","kty":"EC","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`),
			AssertionAlgs: []string{"RS256", "ES256"}, AssertionEndpoint: true, Grants: []string{"urn:ietf:params:oauth:grant-type:token-exchange"},
			Claims:  map[string]any{"tenant": "acme", "count": int64(7), "flag": true, "l": []string{"a", "b"}},
			Binding: grant.BindCertificate, TTL: 10 * time.Minute, MayAct: map[string]any{"sub": "web"}, IntrospectAny: true, Disabled: true,
		}},
	} {
		got, err := Client(one(t, tt.in))
		if err != nil {
			t.Fatal(err)
		}
		tt.want.Namespace, tt.want.Name = "shop", "ci"
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s\n%s", tt.in, diff)
		}
	}
	if _, err := Client(one(t, audience+"spec: {service: a}")); err == nil {
		t.Error("took an OAuthResource")
	}
}

// The sample of tokens.md 6, and every field.
func TestAudience(t *testing.T) {
	got, err := Audience(one(t, audience+`spec:
  audience: https://ledger.example.com
  resources: [https://ledger.example.com/api]
  scopes: [{name: ledger:read, public: true}, {name: ledger:write}]
  ttlCap: 10m
  allowBearer: true
  typ: JWT
  requireToken: false
  grantTo: [{namespace: front, scopes: [ledger:read]}]
  delegation: forward
  onStale: serve
`))
	if err != nil {
		t.Fatal(err)
	}
	want := grant.Audience{
		Namespace: "shop", Name: "ledger", URI: "https://ledger.example.com", Resources: []string{"https://ledger.example.com/api"},
		Scopes: []grant.Scope{{Name: "ledger:read", Public: true}, {Name: "ledger:write"}}, TTLCap: 10 * time.Minute,
		AllowBearer: true, TypJWT: true, GrantTo: []grant.GrantTo{{Namespace: "front", Scopes: []string{"ledger:read"}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got, err = Audience(one(t, audience+"spec: {service: payments, requireToken: true, onStale: deny, typ: at+jwt}"))
	want = grant.Audience{Namespace: "shop", Name: "ledger", Service: "payments", RequireToken: true, OnStale: "deny", TTLCap: time.Hour}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

// The sample of tokens.md 7.3, as far as it is built, and every field.
func TestIssuer(t *testing.T) {
	got, err := Issuer(one(t, issuer+`spec:
  issuer: https://login.corp.example
  discovery: true
  algs: [RS256, ES256]
  audiences: [https://api.example.com]
  uses: [request, subject]
  subject: {claim: oid}
  carry: [role, department]
  clockSkew: 30s
  maxLifetime: 1d
  singleAudience: true
  ignoreHeaders: [x5c]
  typ: at+jwt
`))
	if err != nil {
		t.Fatal(err)
	}
	want := grant.Issuer{
		Namespace: "shop", Name: "corp", Issuer: "https://login.corp.example", Algs: []string{"RS256", "ES256"},
		Audiences: []string{"https://api.example.com"}, Uses: []grant.Use{grant.UseRequest, grant.UseSubject},
		SubjectClaim: "oid", Carry: []string{"role", "department"}, ClockSkew: 30 * time.Second, MaxLifetime: 24 * time.Hour,
		SingleAudience: true, IgnoreHeaders: []string{"x5c"}, Typ: "at+jwt",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for in, change := range map[string]func(*grant.Issuer){
		"":                    func(*grant.Issuer) {},
		", ignoreHeaders: []": func(i *grant.Issuer) { i.IgnoreHeaders = []string{} },
		", discovery: false, jwksUri: 'https://id/k'": func(i *grant.Issuer) { i.JWKSURI = "https://id/k" },
		", clockSkew: 0s, maxLifetime: 1d12h":         func(i *grant.Issuer) { i.MaxLifetime = 36 * time.Hour },
	} {
		got, err := Issuer(one(t, issuer+"spec: {issuer: 'https://id/', uses: [request]"+in+"}"))
		want := grant.Issuer{
			Namespace: "shop", Name: "corp", Issuer: "https://id/", Uses: []grant.Use{grant.UseRequest}, SubjectClaim: "sub",
			MaxLifetime: 24 * time.Hour,
			Algs:        []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"},
		}
		change(&want)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", in, err, diff)
		}
	}
}

// The sample of tokens.md 6.
func TestDelegation(t *testing.T) {
	got, err := Delegation(one(t, delegation+`spec:
  actors: [orders, "spiffe://example.com/ns/front/*"]
  audiences: [payments, https://ledger.example.com]
  subjectIssuers: ["https://login.corp.example"]
  subjects: ["corp:*"]
  scopes: [payments:create]
  origins: [oidc, jwt]
  maxDepth: 3
  allowCycles: true
`))
	if err != nil {
		t.Fatal(err)
	}
	want := grant.Delegation{
		Namespace: "shop", Name: "d", Actors: []string{"orders", "spiffe://example.com/ns/front/*"},
		Audiences: []string{"payments", "https://ledger.example.com"}, SubjectIssuers: []string{"https://login.corp.example"},
		Subjects: []string{"corp:*"}, Scopes: []string{"payments:create"}, Origins: []string{"oidc", "jwt"}, MaxDepth: 3, AllowCycles: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got, err = Delegation(one(t, delegation+"spec: {actors: [a], audiences: [b]}"))
	want = grant.Delegation{
		Namespace: "shop", Name: "d", Actors: []string{"a"}, Audiences: []string{"b"},
		Origins: []string{"oidc", "jwt", "svid", "mtls"}, MaxDepth: 8,
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

// faultTable runs specs of one kind against the faults they must have; * stands for any places.
func faultTable(t *testing.T, head string, table [][3]string) {
	t.Helper()
	for _, tt := range table {
		_, faults := decode(t, head+"spec: "+tt[0])
		if got := codes(faults); got != tt[1] && tt[1] != "*" {
			t.Errorf("%.400s\n got %q\nwant %q\n%v", tt[0], got, tt[1], faults)
		} else if text := fmt.Sprint(faults); !strings.Contains(text, tt[2]) {
			t.Errorf("%.400s: got %s, want %q in it", tt[0], text, tt[2])
		}
	}
}

func TestClientFaults(t *testing.T) {
	secret := func(s string) string { return "{auth: client_secret, " + s + "}" }
	numbered := func(n int, format string) string {
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf(format, i))
		}
		return strings.Join(out, ", ")
	}
	claims := func(n int) string { return "claims: {" + numbered(n, "c%d: x") + "}" }
	faultTable(t, client, [][3]string{
		{"{}", "4:1 E224", "neither auth nor spiffeId"},
		{"{auth: spiffe}", "4:14 E224", ""},
		{"{auth: basic}", "4:14 E110", ""},
		{"{auth: tls_client_auth}", "4:14 E301", ""},
		{"{auth: none}", "4:14 E301", ""},
		{"{auth: client_secret, spiffeId: '" + web + "'}", "4:29 E224", ""},
		{"{spiffeId: 'spiffe://example.com'}", "4:18 E224", ""},
		{"{spiffeId: 'spiffe://example.com/ns/*/sa/x'}", "4:18 E224", ""},
		{"{spiffeId: 'spiffe://example.com/ns/shop*'}", "4:18 E224", "whole segments"},
		{"{spiffeId: 'SPIFFE://example.com/a'}", "4:18 E224", ""},
		{"{spiffeId: 'example.com/a'}", "4:18 E224", ""},

		// X6a
		{secret("clientId: 'key:shop:acme'"), "4:39 E224", "somebody else"},
		{secret("clientId: 'cert:a'"), "4:39 E224", ""},
		{secret("clientId: 'Spiffe:a'"), "4:39 E224", ""},
		{secret("clientId: '" + web + "'"), "4:39 E224", "does not prove"},
		{"{spiffeId: 'spiffe://example.com/ns/shop/sa/api', clientId: '" + web + "'}", "4:67 E224", ""},
		{"{spiffeId: 'spiffe://example.com/ns/shop/*', clientId: '" + web + "'}", "4:62 E224", ""},
		{secret("clientId: 'a b'"), "4:39 E224", ""},
		{secret("clientId: 'a*'"), "4:39 E224", ""},
		{secret("clientId: ''"), "4:39 E224", ""},
		{secret("clientId: " + strings.Repeat("a", 2049)), "4:39 E102", ""},

		{"{auth: private_key_jwt}", "4:14 E218", "add jwks or jwksUri"},
		{"{auth: private_key_jwt, jwksUri: 'https://a/b', jwks: " + keySet(publicKey) + "}", "4:55 E218", "keep one"},
		{"{auth: private_key_jwt, jwks: " + keySet(privateKey) + "}", "4:31 E218", ""},
		{"{auth: private_key_jwt, jwks: " + keySet(secretKey) + "}", "4:31 E218", ""},
		{"{auth: private_key_jwt, jwks: {keys: []}}", "4:38 E108", ""},
		{"{auth: private_key_jwt, jwks: {kees: []}}", "4:31 E218, 4:38 E106", ""},
		{"{auth: private_key_jwt, jwks: 'x'}", "4:37 E109", ""},
		{"{auth: private_key_jwt, jwksUri: 'http://a/b'}", "4:40 E218", ""},
		{"{auth: private_key_jwt, jwksUri: 'https://a', assertionAlgs: [HS256, none, RS256]}", "4:69 E110, 4:76 E110", ""},
		{"{auth: private_key_jwt, jwksUri: 'https://a', assertionAudience: tokenEndpoint}", "4:72 W-aud", ""},
		{secret("jwksUri: 'https://a', assertionAlgs: [ES256], assertionAudience: issuer"), "4:29 E224, 4:51 E224, 4:75 E224", ""},

		{secret("grants: [client_credentials, token-exchange]"), "4:58 E110", ""},
		{secret("grants: [authorization_code, refresh_token, 'urn:ietf:params:oauth:grant-type:jwt-bearer', 'urn:ietf:params:oauth:grant-type:device_code']"), "4:38 E301, 4:58 E301, 4:73 E301, 4:120 E301", ""},
		{secret("grants: [client_credentials, client_credentials]"), "4:58 E224", "stands twice"},
		{secret("grants: []"), "4:29 E108", ""},

		{secret("targets: [{scopes: [a]}]"), "4:39 E224", "without audience"},
		{secret("targets: [{audience: A}]"), "4:50 E224", ""},
		{secret("targets: [{audience: 'https://a#b'}]"), "4:50 E224", ""},
		{secret("targets: [{audience: 'spiffe://a b'}]"), "4:50 E224", ""},
		{secret("targets: [{audience: 'spiffe://a/b'}, {audience: payments.shop}, {audience: 'urn:ledger'}]"), "", ""},
		{secret("targets: [{audience: a, attach: true}, {audience: b, attach: false}]"), "4:53 E224", "without spiffeId"},
		{"[]", "4:7 E109", ""},
		{secret("targets: [{audience: a}, {audience: a}]"), "4:65 E224", "stands twice"},
		{secret("targets: [{audience: a, scopes: [read, read], defaultScopes: [wright, read]}]"), "4:68 E224, 4:91 E224", `"wright" is not among the scopes of this target`},
		{secret("targets: [{audience: a, defaultScopes: [read]}]"), "4:69 E224", ""},
		{secret("targets: [{audience: a, scopes: ['a b', mesh, openid, 'a\"', '', 'é']}]"), "4:62 E224, 4:69 E224, 4:75 E224, 4:83 E224, 4:89 E206, 4:93 E224", ""},
		{secret("targets: [{audience: a, scopes: [" + strings.Repeat("a", 129) + "]}]"), "4:62 E224", ""},
		{secret("targets: [{audience: a, scopes: [" + strings.Repeat("a", 128) + "]}]"), "", ""},
		{secret("targets: [" + numbered(257, "{audience: 'urn:%d'}") + "]"), "4:29 E102", "257 values, at most 256 are taken"},

		// X3d, X7
		{secret("claims: {scope: x}"), "4:38 E224", "our own word"},
		{secret("claims: {act: x, cnf: y, sub: z, aud: a, Iss: b, nonce: c, txn: d, nbf: e}"), "4:38 E224, 4:46 E224, 4:54 E224, 4:62 E224, 4:70 E224, 4:78 E224, 4:88 E224, 4:96 E224", ""},
		{secret("claims: {role: {a: b}}"), "4:44 E224", ""},
		{secret("claims: {role: [a, 1]}"), "4:44 E224", ""},
		{secret("claims: {role: 1.5, c: 9007199254740992, x: null}"), "4:44 E224, 4:52 E224, 4:70 E107", ""},
		{secret("claims: {role: \"a\\0\"}"), "4:44 E224", ""},
		{secret("claims: {'': a, 'b c': d}"), "4:38 E206, 4:45 E224", ""},
		{secret(claims(16)), "", ""},
		{secret(claims(17)), "4:29 E102", ""},
		{secret("claims: {a: " + strings.Repeat("x", 1016) + "}"), "", ""},
		{secret("claims: {a: " + strings.Repeat("x", 1017) + "}"), "4:29 E224", "claims of 1025 bytes"},

		{secret("binding: dpop"), "4:38 E301", ""},
		{secret("binding: tls"), "4:38 E110", ""},
		{secret("ttl: 300"), "4:34 E111", "300s"},
		{secret("ttl: 4s"), "4:34 E111", "outside 5s to 1h"},
		{secret("ttl: 61m"), "4:34 E111", ""},
		{secret("ttl: 1d"), "4:34 E111", ""},
		{secret("ttl: 10.0001s"), "4:34 E111", ""},
		{secret("mayAct: {sub: 1, iss: [a], x: ''}"), "4:43 E109, 4:51 E109, 4:59 E206", ""},
		{secret("mayAct: {'a b': c}"), "4:38 E224", ""},
		{secret("introspect: all"), "4:41 E110", ""},
		{secret("secrets: [{sha256: x}]"), "4:29 E106", "countersign client rotate"},
		{secret("tls: {subjectDN: x}"), "4:29 E301", ""},
		{secret("redirectUris: ['https://a'], postLogoutRedirectUris: ['https://a'], origins: ['https://a'], requirePAR: true, refresh: {rotate: true}"),
			"4:29 E301, 4:58 E301, 4:97 E301, 4:121 E301, 4:139 E301", ""},
		{secret("idTokenAlg: RS256, consent: skip, profile: fapi2, gateway: true"), "4:29 E301, 4:48 E301, 4:63 E301, 4:79 E301", ""},
		{secret("target: []"), "4:29 E106", `did you mean "targets"?`},
	})
}

func TestAudienceFaults(t *testing.T) {
	faultTable(t, audience, [][3]string{
		{"x", "4:7 E109", ""},
		{"{}", "4:1 E224", "neither audience nor service"},
		{"{audience: 'https://a', service: b}", "4:31 E224", "keep one"},
		{"{audience: ledger}", "4:18 E224", "absolute URI"},
		{"{audience: ''}", "4:18 E224", ""},
		{"{audience: '/a'}", "4:18 E224", ""},
		{"{audience: 'https://a#b'}", "4:18 E224", ""},
		{"{audience: 'https://a b'}", "4:18 E224", ""},
		{"{audience: 'https://u:p@a'}", "4:18 E224", ""},
		{"{audience: 'urn:ledger'}", "", ""},
		{"{audience: 'spiffe://a/ns/b/sa/c'}", "4:18 E224", "write service: NAME"},
		{"{audience: 'SPIFFE://a/b'}", "4:18 E224", ""},
		{"{service: a.b}", "4:17 E103", ""},
		// X8
		{"{service: a, typ: JWT}", "4:25 E224", "at+jwt"},
		{"{audience: 'https://a', typ: jwt}", "4:36 E110", "write JWT"},
		{"{service: a, resources: [a, 'https://b', 'https://b', 'spiffe://c/d']}", "4:32 E224, 4:48 E224, 4:61 E224", ""},
		{"{service: a, scopes: [read]}", "4:29 E109", ""},
		{"{service: a, scopes: [{}, {name: mesh}, {name: r, public: 1}, {name: r}]}", "4:29 E224, 4:40 E224, 4:65 E109, 4:76 E224", ""},
		{"{service: a, scopes: [{name: r}], grantTo: [{}, {namespace: A}, {namespace: b, scopes: [r, w]}, {namespace: b}]}",
			"4:51 E224, 4:67 E103, 4:98 E224, 4:115 E224", `"w" is not among the scopes of this audience`},
		{"{service: a, ttlCap: 2h}", "4:28 E111", ""},
		{"{service: a, onStale: introspect, delegation: exchange, requireTransaction: false}", "4:29 E301, 4:53 E301, 4:63 E301", ""},
		{"{service: a, onStale: allow, delegation: none}", "4:29 E110, 4:48 E110", ""},
		{"{service: a, scopes: [" + strings.Repeat("{name: r}, ", 65) + "]}", "*", "65 values, at most 64 are taken"},
	})
}

func TestIssuerFaults(t *testing.T) {
	id := func(s string) string { return "{issuer: 'https://id', uses: [request], " + s + "}" }
	faultTable(t, issuer, [][3]string{
		{"x", "4:7 E109", ""},
		{"{}", "4:1 E224, 4:1 E224", "uses is missing"},
		{"{issuer: id, uses: [request]}", "4:16 E218", ""},
		{"{issuer: 'http://id', uses: [request]}", "4:16 E218", "https"},
		{"{issuer: 'http://localhost:8080/realms/a', uses: [request]}", "", ""},
		{"{issuer: 'https://id?a', uses: [request]}", "4:16 E218", ""},
		{"{issuer: 'https://id#', uses: [request]}", "4:16 E218", ""},
		{"{issuer: 'https://a@id', uses: [request]}", "4:16 E218", ""},
		{"{issuer: 'HTTPS://id', uses: [request]}", "", ""},
		{"{issuer: 'https://id', uses: [subject]}", "4:30 E224", "without audiences"},
		{"{issuer: 'https://id', uses: [request, request, grant, all]}", "4:46 E224, 4:55 E301, 4:62 E110", ""},
		{"{issuer: 'https://id', uses: []}", "4:30 E108", ""},
		{id("discovery: true, jwksUri: 'https://id/k'"), "4:64 E218", "together with discovery"},
		{id("jwksUri: 'https://id/k', jwks: " + keySet(publicKey)), "4:72 E218", ""},
		{id("discovery: false"), "4:58 E218", ""},
		{id("jwks: " + keySet(privateKey)), "4:47 E218", ""},
		{id("jwks: " + keySet(secretKey)), "4:47 E218", ""},
		{id("jwksUri: 'http://id/k'"), "4:56 E218", ""},
		{id("algs: [HS256, none, RS256, RS256]"), "4:54 E110, 4:61 E110, 4:74 E224", ""},
		{id("audiences: ['', 'a b', c, c]"), "4:59 E206, 4:63 E224, 4:73 E224", ""},
		{id("subject: {}"), "4:47 E224", ""},
		{id("subject: {claim: ''}"), "4:64 E206", ""},
		{id("carry: [act, role, role, SCOPE, 'a b']"), "4:55 E224, 4:66 E224, 4:72 E224, 4:79 E224", ""},
		{id("carry: [a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r]"), "4:47 E102", ""},
		{id("clockSkew: 61s"), "4:58 E111", ""},
		{id("clockSkew: 0"), "4:58 E111", ""},
		{id("clockSkew: -1s"), "4:58 E111", ""},
		{id("maxLifetime: 91d"), "4:60 E111", ""},
		{id("maxLifetime: 30s"), "4:60 E111", ""},
		{id("ignoreHeaders: [jku, x5u, x5c, jwk, crit]"), "4:78 E110, 4:83 E110", ""},
		{id("typ: txntoken+jwt"), "4:52 E110", ""},
		{id("noScope: empty, standalone: false, introspection: {}, trustDomain: ''"), "4:47 E301, 4:63 E301, 4:82 E301, 4:101 E301", ""},
	})
	// X6a
	for _, name := range []string{"key", "cert", "spiffe"} {
		_, faults := decode(t, strings.Replace(issuer, "corp", name, 1)+"spec: {issuer: 'https://id', uses: [request]}")
		if got := codes(faults); got != "3:18 E224" {
			t.Errorf("alias %s: got %q, %v", name, got, faults)
		}
	}
}

func TestDelegationFaults(t *testing.T) {
	base := func(s string) string { return "{actors: [a], audiences: [b], " + s + "}" }
	faultTable(t, delegation, [][3]string{
		{"x", "4:7 E109", ""},
		{"{}", "4:1 E224, 4:1 E224", "actors is missing"},
		{"{actors: [], audiences: [b]}", "4:8 E108", ""},
		{"{actors: [A, a/b, 'spiffe://a', 'spiffe://a/*', 'spiffe://a/b*', '*'], audiences: ['*', b, 'https://c']}",
			"4:17 E103, 4:20 E103, 4:25 E224, 4:55 E224, 4:72 E103, 4:90 E224", ""},
		{base("subjects: ['corp:*', '*', 'a*b', '**', 'a b', '']"), "4:63 E224, 4:70 E224, 4:76 E224, 4:83 E206", ""},
		{base("subjectIssuers: ['', 'a b', 'https://id']"), "4:54 E206, 4:58 E224", ""},
		{base("scopes: [mesh, openid]"), "4:46 E224, 4:52 E224", ""},
		{base("origins: [oidc, api_key, basic, magic]"), "4:53 E301, 4:62 E301, 4:69 E110", ""},
		{base("maxDepth: 0"), "4:47 E224", ""},
		{base("maxDepth: 9"), "4:47 E224", ""},
		{base("maxDepth: -1"), "4:47 E224", ""},
		{base("maxDepth: 1.5"), "4:47 E109", ""},
		{base("maxDepth: '3'"), "4:47 E109", "without quotes"},
		{base("maxDepth: 8"), "", ""},
	})
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"5m": 5 * time.Minute, "30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "0d": 0, "1h30m": 90 * time.Minute, "0s": 0,
		"": -1, "0": -1, "5": -1, "d": -1, "-1d": -1, "+1d": -1, "1d-1h": -1, "1d+1h": -1, "1.5d": -1, "1d1d": -1, " 1d": -1,
		"99999d": -1, "4095d2562047h": -1, "1d0": -1, "-5s": -1, "1h1d": -1,
	} {
		got, ok := parseDuration(in)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

// walk visits every shape of a kind, with the path of its field.
func walk(s *shape, at string, visit func(at string, s *shape)) {
	visit(at, s)
	if s.elem != nil {
		walk(s.elem, at+"[]", visit)
	}
	for _, name := range slices.Sorted(maps.Keys(s.fields)) {
		walk(s.fields[name], at+"."+name, visit)
	}
}

// Every field of a shape is printed in an order of its own, and numbers are judged. Of our own
// kinds what is built, and nothing else, is known to the value that it is read into.
func TestShapes(t *testing.T) {
	for _, k := range built() {
		walk(k.spec(), k.Name, func(at string, s *shape) {
			if got, want := slices.Sorted(slices.Values(s.order)), slices.Sorted(maps.Keys(s.fields)); !slices.Equal(got, want) {
				t.Errorf("%s: printed are %v, known are %v", at, got, want)
			}
			if (s.form == integer || s.form == duration) && s.check == nil {
				t.Errorf("%s is not judged", at)
			}
			if (s.form == list || s.form == mapping) != (s.elem != nil) {
				t.Errorf("%s: elements without a shape, or the reverse", at)
			}
		})
		if k.group != ownGroup {
			continue
		}
		for name, f := range k.spec().fields {
			err := k.read(Object{Kind: k.Name, JSON: []byte(`{"spec": {"` + name + `": null}}`)})
			known := err == nil || !strings.Contains(err.Error(), "unknown field")
			if built := !f.later && f.refuse == nil; built != known {
				t.Errorf("%s.%s: built is %v, read is %v", k.Name, name, built, known)
			}
		}
	}
}

// http is for loopback alone: an object cannot know what token.fetchAllow says, and the hint
// says that it does not help.
func TestHTTPOnLoopbackAlone(t *testing.T) {
	for at, taken := range map[string]bool{
		"http://127.0.0.1:8080/keys": true, "http://localhost/keys": true, "http://[::1]:8080/keys": true, "https://10.1.2.3/keys": true,
		"http://10.1.2.3/keys": false, "http://id.example/keys": false, "http://localhost.example/keys": false, "ftp://127.0.0.1/keys": false,
	} {
		c := checkKeysURL(at)
		if (c == nil) != taken {
			t.Errorf("%s: %+v", at, c)
		}
		if c != nil && (c.code != "E218" || !strings.HasPrefix(c.hint, "https, or http on loopback") || !strings.Contains(c.hint, "token.fetchAllow")) {
			t.Errorf("%s: %s, hint %q", at, c.code, c.hint)
		}
	}
}
