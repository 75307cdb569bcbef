package resource

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	security "istio.io/api/security/v1beta1"

	"countersign.dev/internal/policy"
)

const (
	publicKey  = `{"kty":"EC","crv":"P-256","kid":"1","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`
	privateKey = `{"kty":"EC","crv":"P-256","kid":"1","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}`
	secretKey  = `{"kty":"oct","kid":"2","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}`
)

func keySet(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

func TestRequestAuthentication(t *testing.T) {
	o := one(t, `apiVersion: security.istio.io/v1beta1
kind: RequestAuthentication
metadata: {name: jwt, namespace: shop}
spec:
  jwtRules:
  - issuer: https://id
    audiences: [api, web]
    jwks_uri: https://id/keys?v=1
    fromHeaders: [{name: x-jwt, prefix: "Value "}, {name: Authorization, prefix: ""}, {name: x-b}]
    fromParams: [t]
    fromCookies: [tok]
    outputPayloadToHeader: x-p
    outputClaimToHeaders: [{header: x-user, claim: sub}, {header: x-level, claim: n.level}]
    forwardOriginalToken: yes
    timeout: 1m30s
    spaceDelimitedClaims: [roles]
    presence: OPTIONAL
  - audiences: [api]
    issuer: https://other
    jwks: '`+keySet(publicKey)+`'
  selector: {matchLabels: {app: api}}
`)
	got, err := RequestAuthentication(o, 7)
	if err != nil {
		t.Fatal(err)
	}
	want := policy.RequestAuthentication{
		Namespace: "shop", Name: "jwt", Selector: map[string]string{"app": "api"}, Created: 7,
		Pos: policy.Pos{File: "in.yaml", Line: 1, Col: 1},
		Rules: []policy.TokenRule{
			{
				Issuer: "https://id", Audiences: []string{"api", "web"}, JWKSURI: "https://id/keys?v=1",
				Headers: []policy.TokenHeader{{Name: "x-jwt", Prefix: "Value "}, {Name: "Authorization"}, {Name: "x-b"}},
				Params:  []string{"t"}, Cookies: []string{"tok"}, PayloadHeader: "x-p",
				ClaimHeaders: []policy.ClaimHeader{{Header: "x-user", Claim: "sub"}, {Header: "x-level", Claim: "n.level"}},
				Forward:      true, Timeout: 90 * time.Second, Split: []string{"roles"},
				Pos: policy.Pos{File: "in.yaml", Line: 6, Col: 5},
			},
			{
				Issuer: "https://other", Audiences: []string{"api"}, JWKS: json.RawMessage(keySet(publicKey)),
				Pos: policy.Pos{File: "in.yaml", Line: 18, Col: 5},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(string(o.JSON), `"spec":{"selector":{"matchLabels":{"app":"api"}},"jwtRules":[{"issuer":"https://id","audiences":["api","web"],"jwksUri":"https://id/keys?v=1",`) {
		t.Errorf("not in canonical form: %s", o.JSON)
	}
	if got, err = RequestAuthentication(one(t, token+"spec: {}"), 0); err != nil || got.Rules != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := RequestAuthentication(one(t, peer+"spec: {}"), 0); err == nil {
		t.Error("took a PeerAuthentication")
	}
}

// What istio-semantics.md 6.1 and 11 refuse.
func TestRequestAuthenticationFaults(t *testing.T) {
	rule := func(s string) string { return token + "spec: {jwtRules: [{audiences: [a], " + s + "}]}" }
	id := func(s string) string { return rule("issuer: 'https://id', " + s) }
	keys := func(s string) string { return id("jwks: '" + s + "'") }
	for _, tt := range []struct{ name, in, want, text string }{
		{"no rules", token + "spec: {jwtRules: []}", "", ""},
		{"neither", rule("forwardOriginalToken: true"), "4:19 E218", "neither issuer nor jwksUri"},
		{"keys alone", rule("jwks: '" + keySet(publicKey) + "'"), "4:19 E218", ""},
		{"any issuer", rule("jwksUri: 'https://id/k'"), "4:19 L30", ""},
		{"empty issuer", rule("jwksUri: 'https://id/k', issuer: ''"), "4:69 E206", ""},
		{"no audiences", token + "spec: {jwtRules: [{issuer: 'https://id'}]}", "4:19 L28", ""},
		{"empty audience", token + "spec: {jwtRules: [{issuer: 'https://id', audiences: ['']}]}", "4:54 E206", ""},
		{"two sources", id("jwksUri: 'https://id/k', jwks: '" + keySet(publicKey) + "'"), "4:83 E218", "keep one"},
		{"two sources", id("jwks_uri: 'https://id/k', jwks: '" + keySet(publicKey) + "'"), "4:84 E218", "keep one"},
		{"no URL, no keys", rule("issuer: corp"), "4:44 E218", "add jwksUri or jwks"},
		{"no URL, keys", rule("issuer: corp, jwksUri: 'https://id/k'"), "", ""},
		{"http here", id("jwksUri: 'http://127.0.0.1:8080/k'"), "", ""},
		{"http here", id("jwksUri: 'http://localhost/k'"), "", ""},
		{"http here", id("jwksUri: 'http://[::1]/k'"), "", ""},
		{"http", id("jwksUri: 'http://id/k'"), "4:67 E218", "https"},
		{"http", id("jwksUri: 'http://localhost.example/k'"), "4:67 E218", ""},
		{"http in the mesh", id("jwksUri: 'http://keycloak.shop.svc.cluster.local/k'"), "4:67 E301", ""},
		{"file", id("jwksUri: 'file:///etc/k'"), "4:67 E218", ""},
		{"no host", id("jwksUri: 'https:///k'"), "4:67 E218", ""},
		{"password", id("jwksUri: 'https://a:b@id/k'"), "4:67 E218", ""},
		{"fragment", id("jwksUri: 'https://id/k#'"), "4:67 E218", ""},
		{"long", id("jwksUri: 'https://id/" + strings.Repeat("k", 2048) + "'"), "4:67 E102", ""},
		{"private", keys(keySet(publicKey, privateKey)), "4:64 E218", ""},
		{"symmetric", keys(keySet(secretKey)), "4:64 E218", ""},
		{"no key", keys(keySet()), "4:64 E218", "no key that can be used"},
		{"no set", keys("{}"), "4:64 E218", ""},
		{"no JSON", keys("keys"), "4:64 E218", ""},
		{"large", keys(keySet(publicKey) + strings.Repeat(" ", 256<<10)), "4:64 E102", ""},
		{"header", id("fromHeaders: [{prefix: x}, {name: ''}, {name: 'a b'}, {name: Host}, {name: x-countersign-a}, {name: Content-Length}, {name: x_envoy_a}]"),
			"4:72 E219, 4:92 E219, 4:104 E219, 4:119 E219, 4:133 E219, 4:158 E219, 4:182 E219", ""},
		{"parameter", id("fromParams: ['']"), "4:71 E219", ""},
		{"cookie", id("fromCookies: ['']"), "4:72 E219", ""},
		{"claim", id("spaceDelimitedClaims: ['']"), "4:81 E219", ""},
		{"payload", id("outputPayloadToHeader: 'a.b'"), "4:81 E219", ""},
		{"payload", id("outputPayloadToHeader: ''"), "4:81 E219", ""},
		{"outputs", id("outputClaimToHeaders: [{header: Host, claim: a}, {header: x_forwarded_for, claim: a}, {header: Connection, claim: a}, {header: X-Countersign-A, claim: a}, {header: content-length, claim: a}, {header: X-Forwarded-Client-Cert, claim: a}, {header: upgrade, claim: a}]"),
			"4:90 E219, 4:116 E219, 4:153 E219, 4:185 E219, 4:222 E219, 4:258 E219, 4:303 E219", ""},
		{"outputs", id("outputPayloadToHeader: x-a, outputClaimToHeaders: [{header: X-A, claim: a}, {header: x-b, claim: ''}, {header: x-b, claim: b}]"),
			"4:118 E219, 4:155 E219, 4:169 E219", ""},
		{"outputs", id("outputClaimToHeaders: [{header: x-a}, {claim: a}, {}]"), "4:81 E219, 4:96 E219, 4:108 E219, 4:108 E219", ""},
		{"API keys", "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a, namespace: shop, annotations: {countersign.dev/api-keys: prod}}\nspec: {}", "3:78 E402", ""},
		{"targets", token + "spec: {targetRefs: [{kind: Service, name: a}]}", "4:8 E301", ""},
		{"targets", token + "spec: {selector: {matchLabels: {a: b}}, targetRef: {kind: Service, name: a}}", "4:41 E201", ""},
		{"many rules", token + "spec: {jwtRules: [" + strings.Repeat("{issuer: 'https://id'}, ", 4097) + "]}", "", "4097 values, at most 4096 are taken"},
		{"many claims", id("spaceDelimitedClaims: [" + strings.Repeat("a, ", 65) + "]"), "4:58 E102", ""},
		{"snake", id("from_headers: [{name: a}]"), "4:58 E112", "fromHeaders"},
		{"unknown", id("issuers: [a]"), "4:58 E106", ""},
		{"dry run", strings.Replace(token, "name: a", "name: a, annotations: {istio.io/dry-run: 'true'}", 1) + "spec: {}", "3:35 E220", ""},
	} {
		_, faults := decode(t, tt.in)
		if got := codes(faults); got != tt.want && tt.name != "many rules" {
			t.Errorf("%s: %.300s\n got %q\nwant %q\n%v", tt.name, tt.in, got, tt.want, faults)
		} else if text := fmt.Sprint(faults); !strings.Contains(text, tt.text) {
			t.Errorf("%s: got %s, want %q in it", tt.name, text, tt.text)
		}
	}
}

// No fault shows what should never have been in a file.
func TestKeysAreNotShown(t *testing.T) {
	const d, k = "jpsQnnGQmL", "c2VjcmV0c2"
	for _, in := range []string{
		token + "spec: {jwtRules: [{issuer: 'https://id', jwks: '" + keySet(privateKey) + "'}]}",
		token + "spec: {jwtRules: [{issuer: 'https://id', jwks: '" + keySet(secretKey) + "'}]}",
		token + "spec: {jwtRules: [{issuer: 'https://id', jwks: '" + secretKey + "'}]}",
		token + "spec: {jwtRules: [{issuer: 'https://id', jwks: " + keySet(privateKey) + "}]}",
		client + "spec: {auth: private_key_jwt, jwks: " + keySet(privateKey) + "}",
		client + "spec: {auth: client_secret, secrets: [c2VjcmV0c2VjcmV0]}",
		issuer + "spec: {issuer: 'https://id', uses: [request], jwks: " + keySet(secretKey) + "}",
	} {
		objects, faults := decode(t, in)
		if text := fmt.Sprint(faults); len(objects) > 0 || strings.Contains(text, d) || strings.Contains(text, k) {
			t.Errorf("%s\n%d objects, faults %s", in, len(objects), text)
		}
	}
}

// Each field of a rule is either refused or reaches the policy.
func TestNoTokenFieldIsLost(t *testing.T) {
	values := map[string]string{
		"issuer": "'https://77'", "jwksUri": "'https://77'", "jwks": "'" + keySet(publicKey) + "'", "timeout": "77s",
		"forwardOriginalToken": "true", "outputPayloadToHeader": "x-77",
		"fromHeaders": "[{name: x-77, prefix: p77}]", "outputClaimToHeaders": "[{header: x-77, claim: c77}]",
		"audiences": "['77']", "fromParams": "['77']", "fromCookies": "['77']", "spaceDelimitedClaims": "['77']",
		"presence": "REQUIRED",
	}
	for _, field := range fromMessage((&security.JWTRule{}).ProtoReflect().Descriptor()).order {
		base := "issuer: 'https://id', "
		if field == "issuer" {
			base = ""
		}
		objects, faults := decode(t, token+"spec: {jwtRules: [{"+base+field+": "+values[field]+"}]}")
		if field == "presence" {
			if len(objects) > 0 {
				t.Error("presence is ignored")
			}
			continue
		}
		if len(objects) == 0 {
			t.Fatalf("%s: %v", field, faults)
		}
		r, err := RequestAuthentication(objects[0], 0)
		if err != nil {
			t.Fatal(err)
		}
		r.Rules[0].Pos = policy.Pos{}
		text, err := json.Marshal(r.Rules[0])
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), `"`+field+`":`) || strings.Contains(values[field], "77") && !strings.Contains(string(text), "77") {
			t.Errorf("%s is lost: %s", field, text)
		}
	}
}
