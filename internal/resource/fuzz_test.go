package resource

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// FuzzDecode: no file, however broken, may panic the program; what is accepted holds no
// null, no empty list but rules, no number in place of a word (D3, D5, D9, D13, D14, D21),
// and comes back from its own printing.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"", "---", "a: b", "\t", authz + "spec: {}", authz + "spec: {rules: [null]}", authz + "spec: {action: 1}",
		authz + "spec: {rules: [{from: [{source: {not_principals: [a], notPrincipals: [b]}}]}]}",
		authz + "spec: {rules: [{from: &a [{source: {principals: [a]}}], to: [{operation: {ports: ['80'], paths: ['/{*}']}}]}, {from: *a}]}",
		peer + port + "{8080: {mode: DISABLE}, '8080': {mode: STRICT}}}",
		work + "spec: {selectors: ['run:shop/api', 'unix:uid:1'], nodes: [['node:name:a']], ttl: 1h}",
		authz + "spec: {rules: [{from: [{source: {requestPrincipals: ['*']}}], when: [{key: 'request.auth.claims[a]', values: [b], notValues: [c]}]}]}",
		token + "spec: {jwtRules: [{issuer: 'https://id', jwks_uri: 'https://id/k', timeout: 5s, fromHeaders: [{name: a, prefix: ''}], outputClaimToHeaders: [{header: b, claim: c}]}]}",
		token + "spec: {jwtRules: [{issuer: 'https://id', jwks: '" + keySet(publicKey) + "'}]}",
		client + "spec: {auth: private_key_jwt, jwks: " + keySet(publicKey) + ", claims: {a: 1, b: [c], d: true}, mayAct: {sub: e}, targets: [{audience: f, scopes: [g], defaultScopes: [g]}], ttl: 5m}",
		client + "spec: {spiffeId: 'spiffe://a/b/*', clientId: c}",
		audience + "spec: {audience: 'https://a', scopes: [{name: b, public: true}], grantTo: [{namespace: c, scopes: [b]}], typ: JWT}",
		issuer + "spec: {issuer: 'https://id', uses: [subject], audiences: [a], carry: [role], maxLifetime: 1d12h, ignoreHeaders: []}",
		delegation + "spec: {actors: [a], audiences: [b], subjects: ['c:*'], maxDepth: 3}",
		limits + "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}], mode: shadow, rules: [{name: a, from: [], key: [ip/24/48, claim.b], limit: {requests: 3, per: 1m, burst: 2}, cost: {fixed: 1}}, {name: b, concurrent: 4, expose: false}]}",
		"apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(authz, "\n", "\n  ") + "spec: {}",
		"a: &a [*a]", "%YAML 1.1\n---\n{}", "{<<: {a: b}, <<: {a: c}}", "? [a]\n: b", "!!binary aa", "--- >\n a\n...\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, faults := Decode([]File{{"f.yaml", data}}, Options{OneNode: "n"})
		for _, fault := range faults {
			if s := fault.String(); fault.Line < 1 && fault.File != "" || strings.ContainsAny(s, "\x00\r\x1b") {
				t.Errorf("fault %q", s)
			}
		}
		for _, o := range objects {
			var v any
			if err := json.Unmarshal(o.JSON, &v); err != nil {
				t.Fatalf("%s: %v", o.JSON, err)
			}
			spec := fieldsOf(v)["spec"]
			if strings.HasPrefix(o.APIVersion, istioGroup) {
				inspect(t, spec, "spec")
			}
			if k, ok := builtKind(o.Kind); ok && k.read(o) != nil { // FuzzGateway has the others
				t.Fatalf("%s is accepted and cannot be read: %v", o.JSON, k.read(o))
			}
			text, err := YAML(o, time.Unix(1, 0), "1")
			if err != nil {
				t.Fatal(err)
			}
			back, faults := Decode([]File{{"g.yaml", text}}, Options{})
			if len(back) != 1 || !bytes.Equal(back[0].JSON, o.JSON) {
				t.Fatalf("%s\nby way of\n%s\nbecomes %v %v", o.JSON, text, back, faults)
			}
		}
	})
}

func inspect(t *testing.T, v any, at string) {
	switch v := v.(type) {
	case nil, float64:
		t.Errorf("%s holds %v", at, v)
	case []any:
		if len(v) == 0 && at != "spec.rules" && at != "spec.jwtRules" {
			t.Errorf("%s is an empty list", at)
		}
		for _, item := range v {
			inspect(t, item, at+"[]")
		}
	case map[string]any:
		for key, child := range v {
			if strings.Contains(key, "_") && !strings.Contains(at, "matchLabels") {
				t.Errorf("%s.%s is accepted", at, key)
			}
			inspect(t, child, at+"."+key)
		}
	}
}

// FuzzParseRequest: what is accepted says what it seems to say, and what is suggested is
// accepted.
func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{"", "GET /a", "GET,HEAD /a/**", "/a/*/b", "* /x", "GET /a/{*}/{**}", "get *.png", "GET /{a}/:b", "a b c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, paths, err := ParseRequest(s)
		if err != nil {
			bad, ok := err.(*BadPattern)
			if !ok {
				t.Fatalf("%q: %T", s, err)
			}
			if bad.Request != "" {
				if _, _, err := ParseRequest(bad.Request); err != nil {
					t.Errorf("%q: suggests %q, which is refused: %v", s, bad.Request, err)
				}
			}
			return
		}
		for _, p := range paths {
			if checkPath(p) != nil || lintStar(p) != nil || strings.ContainsAny(p, "?# \t\n") {
				t.Errorf("%q: took path %q", s, p)
			}
		}
		if len(s) < 100 {
			a := Allow{FromNamespace: "a", From: "b", ToNamespace: "c", To: "d", Requests: []string{s}}
			o, _, err := BuildAllow(a, nil, nil)
			if err != nil {
				t.Fatalf("%q: %v", s, err)
			}
			if back, faults := Decode([]File{{"a.yaml", o.JSON}}, Options{}); len(back) != 1 || !bytes.Equal(back[0].JSON, o.JSON) {
				t.Errorf("%q: apply refuses %s: %v", s, o.JSON, faults)
			}
		}
	})
}
