package resource

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign.dev/internal/policy"
)

// withKey is a policy with one condition.
func withKey(key, values string) string {
	text, _ := json.Marshal(key)
	return authz + "spec: {rules: [{when: [{key: " + string(text) + ", " + values + "}]}]}"
}

// The keys of istio-semantics.md 7.5, exactly.
func TestConditionKeys(t *testing.T) {
	for _, tt := range []struct{ key, code, text string }{
		{"source.namespace", "", ""},
		{"source.serviceAccount", "", ""},
		{"source.principal", "", ""},
		{"destination.port", "", ""},
		{"request.auth.principal", "", ""},
		{"request.auth.audiences", "", ""},
		{"request.auth.presenter", "", ""},
		{"request.auth.actors", "", ""},
		{"request.auth.claims[a]", "", ""},
		{"request.auth.claims[https://x/y.z][b c]", "", ""},
		{"request.headers[X-Tenant]", "", ""},
		{"request.headers[authorization]", "", ""},
		{"request.headers[upgrade]", "", ""},
		{"request.headers[:scheme]", "", ""},
		{"request.headers[x_tenant]", "", ""},

		{"request.headers[:path]", "L13", "use paths"},
		{"request.headers[:method]", "L13", "use methods"},
		{"request.headers[:authority]", "L13", "use hosts"},
		{"request.headers[Host]", "L13", "use hosts"},

		{"source.ip", "E301", "source.ip is not supported yet"},
		{"remote.ip", "E301", ""},
		{"source.trustDomain", "E301", ""},
		{"destination.ip", "E301", ""},
		{"connection.sni", "E301", ""},
		{"request.txn[tctx]", "E301", ""},

		{"", "E213", "an empty key"},
		{"experimental.envoy.filters.network.mysql_proxy[db.t]", "E303", ""},
		{"destination.labels[app]", "E212", "selector"},
		{"destination.namespace", "E212", "metadata.namespace"},
		{"destination.name", "E212", "selector"},
		{"destination.user", "E212", "selector"},
		{"request.headersX[y]", "E212", "did you mean request.headers[…]?"},
		{"request.headers[]", "E212", ""},
		{"request.headers", "E212", ""},
		{"request.headers[a b]", "E212", ""},
		{"request.headers[a][b]", "E212", ""},
		{"request.headers[:status]", "E212", ""},
		{"request.headers[x] ", "E212", ""},
		{"request.auth.claims", "E212", ""},
		{"request.auth.claims[]", "E212", ""},
		{"request.auth.claims[a]b", "E212", "nothing between"},
		{"request.auth.claims[a]b[c]", "E212", ""},
		{"request.auth.claims[a][]", "E212", ""},
		{"request.auth.claims[[a]]", "E212", ""},
		{"request.auth.claims[a", "E212", ""},
		{"request.auth.clams[a]", "E212", "did you mean request.auth.claims[…]?"},
		{"source.principals", "E212", "did you mean source.principal?"},
		{"Source.principal", "E212", ""},
		{"request.txn[]", "E212", ""},
		{"nonsense", "E212", "such as request.auth.claims[role]"},

		{"request.headers[x-forwarded-client-cert]", "E307", "use source.principal"},
		{"request.headers[X_Forwarded_Client_Cert]", "E307", ""},
		{"request.headers[x-countersign-anything]", "E307", ""},
		{"request.headers[x-envoy-original-path]", "E307", ""},
		{"request.headers[connection]", "E307", ""},
		{"request.headers[te]", "E307", ""},
		{"request.headers[transfer_encoding]", "E307", ""},
		{"request.headers[txn-token]", "E307", ""},
		{"request.headers[proxy-authorization]", "E307", ""},
		{"request.headers[expect]", "E307", ""},
	} {
		value := "a/b" // no lint speaks of it at any key, but a port it is not
		if tt.key == "destination.port" {
			value = "8080"
		}
		objects, faults := decode(t, withKey(tt.key, "notValues: ['"+value+"']"))
		switch {
		case tt.code == "" && len(faults) > 0:
			t.Errorf("%s: got %v", tt.key, faults)
		case tt.code == "":
		case len(faults) != 1 || faults[0].Code != tt.code || !strings.Contains(faults[0].String(), tt.text):
			t.Errorf("%s: got %v, want %s %q", tt.key, faults, tt.code, tt.text)
		}
		if want := tt.code == "" || tt.code == "L13"; want != (len(objects) == 1) {
			t.Errorf("%s: accepted %v", tt.key, !want)
		}
	}
}

// The values of a key are judged as those of the field it mirrors.
func TestConditionValues(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{withKey("source.namespace", "values: [a], notValues: ['b*']"), ""},
		{withKey("source.namespace", "values: ['']"), "4:59 E206"},
		{withKey("source.namespace", "values: []"), "4:50 E108"},
		{withKey("source.namespace", "values: null"), "4:50 E107"},
		{withKey("source.namespace", "not_values: [a]"), "4:50 E112"},
		{withKey("source.namespace", "value: [a]"), "4:24 E213, 4:50 E106"},
		{withKey("source.namespace", "values: [1]"), "4:59 E109"},
		{withKey("source.namespace", "values: a"), "4:58 E109"},
		{withKey("source.serviceAccount", "values: [a/b/c, 'x*'], notValues: [/a]"), "4:64 E207, 4:71 E207, 4:90 E207"},
		{withKey("source.serviceAccount", "values: ["+strings.Repeat("a, ", 17)+"]"), "4:55 E102"},
		{withKey("source.principal", "values: ['spiffe://a/ns/b/sa/c']"), "4:59 L01"},
		{withKey("destination.port", "values: ['70000', '08', '0']"), "4:59 E209, 4:68 E209, 4:74 L38"},
		{withKey("request.auth.principal", "values: ['*', 'https://id/*', 'https://id/7']"), ""},
		{withKey("request.auth.principal", "values: ['*/*', a, '*/7', 'https://id/spiffe://a/b']"), "4:65 L16, 4:72 L16, 4:75 L15, 4:82 L16"},
		{withKey("request.auth.claims[scope]", "values: [read, 'read write']"), "4:75 L31"},
		{withKey("request.auth.claims[role]", "values: ['read write', '7', 'true', customer]"), "4:82 L32, 4:87 L32"},
		{withKey("request.headers[x-a]", "values: ['', 'a b', '7']"), "4:63 E206"},
		{authz + "spec: {rules: [{when: [{}]}]}", "4:24 E213"},
		{authz + "spec: {rules: [{when: [{values: [a]}]}]}", "4:24 E213"},
		{authz + "spec: {rules: [{when: [{key: source.namespace}]}]}", "4:24 E213"},
		{authz + "spec: {rules: [{when: [null, a]}]}", "4:24 E107, 4:30 E109"},
		{authz + "spec: {rules: [{when: [{key: 7, values: [a]}]}]}", "4:30 E109"},
		{authz + "spec: {rules: [{from: [{source: {requestPrincipals: ['*'], notRequestPrincipals: ['*/7', a]}}]}]}", "4:83 L15, 4:90 L16"},
	} {
		if _, faults := decode(t, tt.in); codes(faults) != tt.want {
			t.Errorf("%s\n got %q\nwant %q\n%v", tt.in, codes(faults), tt.want, faults)
		}
	}
}

// "Orders, on behalf of a customer": the policy of tokens.md 8.7.
func TestConditionPolicy(t *testing.T) {
	o := one(t, `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: charge, namespace: shop}
spec:
  selector: {matchLabels: {app: payments}}
  rules:
  - from: [{source: {principals: ["example.com/ns/shop/sa/orders"], requestPrincipals: ["https://login.corp.example/*"], notRequestPrincipals: ["https://login.corp.example/7"]}}]
    to: [{operation: {methods: [POST], paths: [/charges]}}]
    when: [{key: "request.auth.claims[role]", values: [customer]}, {key: "request.auth.claims[scope]", notValues: ["payments:create"]}]
`)
	p, err := Policy(o)
	if err != nil {
		t.Fatal(err)
	}
	want := []policy.Rule{{
		Pos: policy.Pos{File: "in.yaml", Line: 7, Col: 5},
		From: []policy.Source{{
			Principals:           []string{"example.com/ns/shop/sa/orders"},
			RequestPrincipals:    []string{"https://login.corp.example/*"},
			NotRequestPrincipals: []string{"https://login.corp.example/7"},
		}},
		To: []policy.Operation{{Methods: []string{"POST"}, Paths: []string{"/charges"}}},
		When: []policy.Condition{
			{Key: "request.auth.claims[role]", Values: []string{"customer"}},
			{Key: "request.auth.claims[scope]", NotValues: []string{"payments:create"}},
		},
	}}
	if diff := cmp.Diff(want, p.Rules); diff != "" {
		t.Error(diff)
	}
}

// FuzzCondition: a condition that is taken is one that package policy enforces as it stands.
// Left aside are the values that Istio reads as expressions over the whole ID: those that are
// none are found when all that is applied is compiled.
func FuzzCondition(f *testing.F) {
	f.Add("request.auth.claims[a][b]", "x")
	f.Add("request.headers[x-a]", "x*")
	f.Add("source.serviceAccount", "a/b")
	f.Add("request.auth.claims[a]b", "")
	f.Add("destination.port", "80")
	f.Fuzz(func(t *testing.T, key, value string) {
		v, err := json.Marshal([]string{value})
		if err != nil {
			t.Fatal(err)
		}
		objects, _ := Decode([]File{{"f.yaml", []byte(withKey(key, "values: "+string(v)))}}, Options{})
		for _, o := range objects {
			p, err := Policy(o)
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Rules) != 1 || len(p.Rules[0].When) != 1 || len(p.Rules[0].When[0].Values) != 1 {
				t.Fatalf("%q, %q: got %+v", key, value, p)
			}
			if key == "source.namespace" || key == "source.serviceAccount" {
				continue
			}
			if _, faults := policy.Compile(policy.Set{TrustDomain: "cluster.local", RootNamespace: "istio-system", Policies: []policy.Policy{p}}); len(faults) > 0 {
				t.Errorf("%q, %q is taken, and policy says %v", key, value, faults)
			}
		}
	})
}
