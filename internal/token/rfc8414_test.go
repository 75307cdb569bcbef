package token

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
)

// M2: the metadata say exactly what is enabled.
func TestM2Metadata(t *testing.T) {
	b := newBed(t)
	methods := []any{"spiffe_x509", "private_key_jwt", "client_secret_basic", "client_secret_post"}
	algs := []any{"ES256", "EdDSA", "PS256"}
	want := map[string]any{
		"issuer": testIssuer, "token_endpoint": testIssuer + "/oauth2/token", "jwks_uri": testIssuer + "/oauth2/jwks",
		"introspection_endpoint": testIssuer + "/oauth2/introspect", "revocation_endpoint": testIssuer + "/oauth2/revoke",
		"grant_types_supported":                                    []any{"client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"},
		"response_types_supported":                                 []any{},
		"token_endpoint_auth_methods_supported":                    methods,
		"introspection_endpoint_auth_methods_supported":            methods,
		"revocation_endpoint_auth_methods_supported":               methods,
		"token_endpoint_auth_signing_alg_values_supported":         algs,
		"introspection_endpoint_auth_signing_alg_values_supported": algs,
		"revocation_endpoint_auth_signing_alg_values_supported":    algs,
		"tls_client_certificate_bound_access_tokens":               true,
		"mtls_endpoint_aliases": map[string]any{
			"token_endpoint": testMTLS + "/oauth2/token", "introspection_endpoint": testMTLS + "/oauth2/introspect", "revocation_endpoint": testMTLS + "/oauth2/revoke",
		},
		"scopes_supported": []any{"reports:read"}, "protected_resources": []any{testReports},
		"require_pushed_authorization_requests": false, "request_parameter_supported": false, "request_uri_parameter_supported": false,
	}
	got := b.send(nil, "GET", pathOAuth, "")
	if !reflect.DeepEqual(got.body, want) {
		t.Errorf("got  %v\nwant %v", got.body, want)
	}
	more := maps.Clone(want)
	maps.Copy(more, map[string]any{
		"subject_types_supported": []any{"public"}, "id_token_signing_alg_values_supported": []any{"ES256"},
		"claims_supported":           []any{"iss", "sub", "aud", "exp", "iat", "jti", "client_id", "scope", "cnf", "act"},
		"claims_parameter_supported": false, "backchannel_logout_supported": false,
	})
	if oidc := b.send(nil, "GET", pathOIDC, ""); !reflect.DeepEqual(oidc.body, more) {
		t.Errorf("got  %v\nwant %v", oidc.body, more)
	}

	// Each switch that is off goes.
	o := b.objects()
	o.Audiences[0].Scopes[0].Public = false
	i := slices.IndexFunc(o.Clients, func(c grant.Client) bool { return c.ClientID == "robot" })
	o.Clients[i].AssertionAlgs = []string{"ES256", "RS256"}
	off := newBed(t, func(n *bed) {
		n.options.MTLS = ""
		n.world.Store(n.newWorld(o))
	})
	got = off.send(nil, "GET", pathOAuth, "")
	delete(want, "mtls_endpoint_aliases")
	delete(want, "tls_client_certificate_bound_access_tokens")
	delete(want, "scopes_supported")
	for _, e := range []string{"token", "introspection", "revocation"} {
		want[e+"_endpoint_auth_methods_supported"] = methods[1:]
		want[e+"_endpoint_auth_signing_alg_values_supported"] = []any{"ES256", "EdDSA", "PS256", "RS256"}
	}
	if !reflect.DeepEqual(got.body, want) {
		t.Errorf("got  %v\nwant %v", got.body, want)
	}
}

// Documents are the same until the configuration changes, and any page may read them.
func TestDocuments(t *testing.T) {
	b := newBed(t)
	for _, path := range []string{pathOAuth, pathOIDC, pathJWKS} {
		first := b.send(nil, "GET", path, "")
		h := first.header
		if first.status != 200 || h.Get("Cache-Control") != "public, max-age=300" || h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Content-Type") != "application/json" || h.Get("ETag") == "" {
			t.Errorf("%s: %d %v", path, first.status, h)
		}
		again := b.send(nil, "GET", path, "", func(r *http.Request) { r.Header.Set("If-None-Match", h.Get("ETag")) })
		if again.status != 304 || again.raw != "" {
			t.Errorf("%s again: %d %q", path, again.status, again.raw)
		}
		if head := b.send(nil, "HEAD", path, ""); head.status != 200 || head.raw != "" {
			t.Errorf("HEAD %s: %d", path, head.status)
		}
		if post := b.send(nil, "POST", path, "x=1"); post.status != 405 || post.header.Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s: %d", path, post.status)
		}
	}
	before := b.send(nil, "GET", pathOAuth, "").header.Get("ETag")
	o := b.objects()
	o.Audiences[0].Scopes[1].Public = true
	b.world.Store(b.newWorld(o))
	after := b.send(nil, "GET", pathOAuth, "")
	if after.header.Get("ETag") == before || !strings.Contains(after.raw, "reports:write") {
		t.Errorf("after a change: %s", after.raw)
	}
}

func TestJWKS(t *testing.T) {
	var set *jose.Set
	b := newBed(t, func(b *bed) {
		set = b.options.Keys()
		b.options.Keys = func() *jose.Set { return set }
	})
	r := b.send(nil, "GET", pathJWKS, "")
	read, err := jose.ReadSet([]byte(r.raw))
	if err != nil || read.Len() != 1 || read.Keys()[0].ID() != b.signer.Key().ID() {
		t.Fatalf("got %s, %v", r.raw, err)
	}
	var doc struct{ Keys []map[string]string }
	if err := json.Unmarshal([]byte(r.raw), &doc); err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(doc.Keys[0]))
	if !slices.Equal(names, []string{"alg", "crv", "kid", "kty", "use", "x", "y"}) || doc.Keys[0]["use"] != "sig" || doc.Keys[0]["alg"] != "ES256" {
		t.Errorf("key %v", doc.Keys[0])
	}
	if set, err = jose.NewSet(append(set.Keys(), b.unknown.keys.Keys()...)...); err != nil {
		t.Fatal(err)
	}
	if next := b.send(nil, "GET", pathJWKS, ""); next.header.Get("ETag") == r.header.Get("ETag") || !strings.Contains(next.raw, set.Keys()[1].ID()) {
		t.Errorf("after a rotation: %s", next.raw)
	}
	set = nil
	b.want(b.send(nil, "GET", pathJWKS, ""), 500, "server_error", "", "")
}

// RFC 8414, section 3.1, and OIDC Discovery, section 4: a path of the issuer stands behind the
// one and before the other.
func TestIssuerWithPath(t *testing.T) {
	b := newBed(t, func(b *bed) { b.options.Issuer = "https://tokens.test/mesh" })
	for _, path := range []string{pathOAuth + "/mesh", "/mesh" + pathOIDC} {
		r := b.send(nil, "GET", path, "")
		if r.text("issuer") != "https://tokens.test/mesh" || r.text("token_endpoint") != "https://tokens.test/mesh/oauth2/token" || !strings.Contains(r.raw, testMTLS+"/mesh/oauth2/token") {
			t.Errorf("%s: %d %s", path, r.status, r.raw)
		}
	}
	for _, path := range []string{pathOAuth, pathOIDC, pathJWKS} {
		if r := b.send(nil, "GET", path, ""); r.status != 404 {
			t.Errorf("%s: %d", path, r.status)
		}
	}
	if r := b.send(nil, "GET", "/mesh"+pathJWKS, ""); r.status != 200 {
		t.Errorf("jwks: %d", r.status)
	}
	secret := b.newSecret("ci")
	if r := b.send(nil, "POST", "/mesh"+pathToken, formOf("grant_type", "client_credentials", "client_id", "ci", "client_secret", secret)); r.status != 200 {
		t.Errorf("token: %d %s", r.status, r.raw)
	}
}

// Documents are limited by source: nobody is authenticated there.
func TestDocumentLimit(t *testing.T) {
	b := newBed(t)
	at := b.now()
	b.Service.o.Now = func() time.Time { return at }
	for i := range strangerBurst {
		if r := b.send(nil, "GET", pathJWKS, ""); r.status != 200 {
			t.Fatalf("request %d: %d", i, r.status)
		}
	}
	b.want(b.send(nil, "GET", pathJWKS, ""), 429, "temporarily_unavailable", textRate, "")
}
