package resource

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The sample of cli.md 10.6.
func TestYAML(t *testing.T) {
	a := Allow{FromNamespace: "default", From: "web", ToNamespace: "default", To: "api", Requests: []string{"GET /orders/{*}"}}
	o, _, err := BuildAllow(a, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	made := time.Date(2026, 11, 21, 20, 14, 9, 0, time.UTC)
	got, err := YAML(o, made, "42")
	if err != nil {
		t.Fatal(err)
	}
	want := `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: api-from-web
  namespace: default
  annotations:
    countersign.dev/written-by: allow
  creationTimestamp: "2026-11-21T20:14:09Z"
  resourceVersion: "42"
spec:
  selector:
    matchLabels:
      app: api
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/default/sa/web"]
    to:
    - operation:
        methods: ["GET"]
        paths: ["/orders/{*}"]
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	text, err := JSONWith(o, made, "42")
	if err != nil {
		t.Fatal(err)
	}
	if back := one(t, string(text)); !bytes.Equal(back.JSON, o.JSON) {
		t.Errorf("got  %s\nwant %s", back.JSON, o.JSON)
	}
}

// Decoded, printed, decoded: the same canonical JSON, whatever words YAML 1.1 has a meaning for.
func TestRoundTrip(t *testing.T) {
	for _, in := range []string{
		authz + "spec: {}", authz + "spec: {rules: [{}]}", authz + "spec: {rules: []}",
		peer + port + "{8080: {mode: DISABLE}}}",
		token + "spec: {jwtRules: []}",
		token + `spec: {selector: {matchLabels: {a: b}}, jwtRules: [{issuer: "https://id", audiences: ["on"], jwks_uri: "https://id/k", fromHeaders: [{name: a, prefix: ""}], timeout: 1m30s, forwardOriginalToken: true}, {issuer: x, jwks: '` + keySet(publicKey) + `'}]}`,
		authz + `spec: {rules: [{when: [{key: "request.auth.claims[https://x/y][n]", values: ["no", "7"], notValues: ["*"]}]}]}`,
		client + "spec: {auth: private_key_jwt, jwks: " + keySet(publicKey) + `, claims: {count: 7, "on": true, "1": [a, "no"], l: ["2"]}, targets: [{audience: a, scopes: [b, c], defaultScopes: [c], exchange: true}], ttl: 1h, mayAct: {sub: "7"}}`,
		audience + "spec: {service: a, scopes: [{name: r, public: true}, {name: w}], grantTo: [{namespace: front, scopes: [r]}], requireToken: true}",
		issuer + "spec: {issuer: 'https://id', uses: [request], discovery: true, subject: {claim: oid}, maxLifetime: 1d12h, ignoreHeaders: []}",
		delegation + "spec: {actors: [a], audiences: [b], subjects: ['*'], maxDepth: 3, allowCycles: false}",
		work + "spec: {selectors: ['unix:user:no', 'run:shop/api'], nodes: any, ttl: 90m, default: true, hint: \"a\\nb\\u2028\"}",
		authz + `spec: {selector: {matchLabels: {"y": "n", "1": "2", "<<": x}}, rules: [{from: [{source: {namespaces: ["no", "on", "1e3", "0x1F", "1:20", "~", "null", "&a", "*", "<<", "2001-01-01", " a ", "é", "\x00\x7f\u0085\u2028\ufeff"]}}]}]}`,
		authz + `spec: {rules: [{from: [{source: {namespaces: [` + strings.TrimSuffix(strings.Repeat(`"abcdefghij", `, 20), ", ") + `]}}]}]}`,
	} {
		o := one(t, in)
		text, err := YAML(o, time.Time{}, "")
		if err != nil {
			t.Fatal(err)
		}
		back := one(t, string(text))
		if !bytes.Equal(o.JSON, back.JSON) {
			t.Errorf("got  %s\nwant %s\nby way of\n%s", back.JSON, o.JSON, text)
		}
	}
}

func TestRow(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []string
	}{
		{strings.Replace(authz, "shop", "istio-system", 1) + "spec: {}", []string{"ALLOW", "all", "nothing is allowed"}},
		{peer + "spec: {mtls: {mode: STRICT}}", []string{"STRICT", "its namespace"}},
		{peer + "spec: {selector: {matchLabels: {b: c, a: b}}, portLevelMtls: {90: {mode: UNSET}, 80: {mode: DISABLE}}}", []string{"UNSET, 80 DISABLE, 90 UNSET", "a=b,b=c"}},
		{token + "spec: {jwtRules: [{issuer: 'https://a'}, {issuer: 'https://b'}, {issuer: 'https://a'}, {jwksUri: 'https://c/k'}]}", []string{"https://a,https://b,any", "its namespace"}},
		{token + "spec: {}", []string{"none", "its namespace"}},
		{client + "spec: {auth: client_secret}", []string{""}},
		{audience + "spec: {service: a}", []string{""}},
		{issuer + "spec: {issuer: 'https://id', uses: [request]}", []string{""}},
		{delegation + "spec: {actors: [a], audiences: [b]}", []string{""}},
		{work + "spec: {selectors: ['run:shop/api'], anyOf: [['unix:uid:1', 'unix:gid:2']]}", []string{"spiffe://cluster.local/ns/shop/sa/api", "run:shop/api or unix:gid:2,unix:uid:1"}},
	} {
		o := one(t, tt.in)
		if diff := cmp.Diff(tt.want, Row(o, "istio-system", "cluster.local")); diff != "" {
			t.Error(diff)
		}
		if len(Columns(o.Kind)) != len(tt.want) {
			t.Errorf("%s: %d columns, %d cells", o.Kind, len(Columns(o.Kind)), len(tt.want))
		}
	}
}

// The kinds of the Gateway API have columns as kubectl has, then READY, which the server fills.
func TestGatewayRow(t *testing.T) {
	for _, tt := range []struct {
		in         string
		head, want []string
	}{
		{gatewayText + "spec: {gatewayClassName: own, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 443, protocol: HTTPS, hostname: x.test}]}",
			[]string{"CLASS", "LISTENERS", "READY"}, []string{"own", "HTTP any:80, HTTPS x.test:443", ""}},
		{"apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: own}\nspec: {controllerName: countersign.dev/gateway}", []string{"CONTROLLER", "READY"}, []string{"countersign.dev/gateway", ""}},
		{routeText + "spec: {hostnames: [a.test, b.test], parentRefs: [{name: edge}, {name: x, namespace: far, sectionName: s}]}",
			[]string{"HOSTS", "PARENTS", "READY"}, []string{"a.test,b.test", "shop/edge, far/x#s", ""}},
		{routeText + "spec: {parentRefs: [{name: edge}]}", []string{"HOSTS", "PARENTS", "READY"}, []string{"any", "shop/edge", ""}},
	} {
		o := gatewayObject(t, tt.in)
		if diff := cmp.Diff(tt.head, Columns(o.Kind)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(tt.want, Row(o, "istio-system", "cluster.local")); diff != "" {
			t.Error(diff)
		}
	}
}

// What a server adds stands where kubectl shows it, and apply drops it again.
func TestServed(t *testing.T) {
	o := gatewayObject(t, gatewayText+"spec: {gatewayClassName: own, listeners: [{name: a, port: 80, protocol: HTTP}]}")
	served := Served{
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Version: "7", Generation: 7,
		Status: []byte(`{"conditions":[{"type":"Accepted","status":"True","message":"it is: \"on\"","observedGeneration":7}],"listeners":[{"name":"a","supportedKinds":[]}]}`),
	}
	text, err := served.YAML(o)
	if err != nil {
		t.Fatal(err)
	}
	const want = `  creationTimestamp: "2026-01-02T03:04:05Z"
  generation: 7
  resourceVersion: "7"
`
	const status = `status:
  conditions:
  - type: Accepted
    status: "True"
    message: "it is: \"on\""
    observedGeneration: 7
  listeners:
  - name: a
    supportedKinds: []
`
	if !strings.Contains(string(text), want) || !strings.HasSuffix(string(text), status) {
		t.Errorf("got\n%s\nwant\n%s…\n%s", text, want, status)
	}
	j, err := served.JSON(o)
	if err != nil || !strings.HasSuffix(string(j), `"status":`+string(served.Status)+`}`) {
		t.Errorf("got %s, %v", j, err)
	}
	for _, text := range []string{string(text), string(j)} {
		if back := gatewayObject(t, text); string(back.JSON) != string(o.JSON) {
			t.Errorf("by way of\n%s\nbecomes %s", text, back.JSON)
		}
	}
	served.Status = []byte(`{`)
	if text, err := served.JSON(o); err == nil {
		t.Errorf("half a status is printed: %s", text)
	}
}

// RFC 8785: the example of section 3.2.2, the order of 3.2.3, numbers of appendix B.
func TestCanonical(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}`,
			`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`},
		{"{\"\\u20ac\":1,\"\\r\":2,\"\\ufb33\":3,\"1\":4,\"\\ud83d\\ude00\":5,\"\\u0080\":6,\"\\u00f6\":7}",
			"{\"\\r\":2,\"1\":4,\"\u0080\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\ufb33\":3}"},
		{"[-0, 0.0, 5e-324, 1e21, 1e-6, 1e-7, 123456789012345680000, -1.5]", "[0,0,5e-324,1e+21,0.000001,1e-7,123456789012345680000,-1.5]"},
		{`{"a":"<&>"}`, `{"a":"<&>"}`},
	} {
		got, err := Canonical([]byte(tt.in))
		if err != nil || string(got) != tt.want {
			t.Errorf("%s\n got %s, %v\nwant %s", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{`{"a":1,"a":2}`, `{} {}`, `{`, "\"\xff\"", `1e999`, strings.Repeat("[", 1000) + strings.Repeat("]", 1000)} {
		if got, err := Canonical([]byte(in)); err == nil {
			t.Errorf("%.40s: got %.40s", in, got)
		}
	}
}

func TestRevision(t *testing.T) {
	a := one(t, authz+"spec: {rules: [{}]}")
	b := one(t, peer+"spec: {mtls: {mode: STRICT}}")
	w := WorkloadFor("shop", "api", "", "laptop", 1, nil)
	base := Revision([]Object{a, b}, "cluster.local", "istio-system")
	if got := hex.EncodeToString(base[:]); got != "322605ad565b5143cbd90e57bfbe9d1047c5c1b82a52fb4a1998ce1a913a3f04" {
		t.Errorf("the revision of a fixed set changed: %s", got)
	}
	same := map[string][]Object{
		"order":      {b, a},
		"workloads":  {a, w, b},
		"version":    {one(t, strings.Replace(authz, "/v1", "/v1beta1", 1)+"spec: {rules: [{}]}"), b},
		"annotation": {one(t, strings.Replace(authz, "name: a", "name: a, annotations: {x: z}, labels: {x: z}", 1)+"# away\n\nspec:\n  rules:\n  - {}"), b},
	}
	for name, set := range same {
		if Revision(set, "cluster.local", "istio-system") != base {
			t.Errorf("%s counts", name)
		}
	}
	other := map[string][]Object{
		"spec": {one(t, authz+"spec: {rules: [{}, {}]}"), b},
		"name": {one(t, strings.Replace(authz, "name: a", "name: b", 1)+"spec: {rules: [{}]}"), b},
		"less": {a},
	}
	for name, set := range other {
		if Revision(set, "cluster.local", "istio-system") == base {
			t.Errorf("%s does not count", name)
		}
	}
	// What decides whose tokens count is in it; what decides who gets one is not.
	for name, in := range map[string]string{
		"tokens":   token + "spec: {jwtRules: [{issuer: 'https://id'}]}",
		"issuer":   issuer + "spec: {issuer: 'https://id', uses: [request]}",
		"audience": audience + "spec: {service: a, requireToken: true}",
	} {
		if Revision([]Object{a, b, one(t, in)}, "cluster.local", "istio-system") == base {
			t.Errorf("%s does not count", name)
		}
	}
	for name, in := range map[string]string{
		"client":     client + "spec: {auth: client_secret}",
		"delegation": delegation + "spec: {actors: [a], audiences: [b]}",
	} {
		if Revision([]Object{a, b, one(t, in)}, "cluster.local", "istio-system") != base {
			t.Errorf("%s counts", name)
		}
	}
	uri := func(name string) [32]byte {
		return Revision([]Object{one(t, token+"spec: {jwtRules: [{issuer: 'https://id', "+name+": 'https://id/k'}]}")}, "cluster.local", "istio-system")
	}
	if uri("jwks_uri") != uri("jwksUri") {
		t.Error("the spelling of jwksUri counts")
	}
	if Revision([]Object{a, b}, "prod.example", "istio-system") == base || Revision([]Object{a, b}, "cluster.local", "root") == base {
		t.Error("the settings of the mesh do not count")
	}
}
