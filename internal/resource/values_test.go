package resource

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	security "istio.io/api/security/v1beta1"

	"countersign.dev/internal/entry"
	"countersign.dev/internal/policy"
)

func TestPolicy(t *testing.T) {
	o := one(t, `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: orders, namespace: shop, annotations: {countersign.dev/written-by: allow}}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules:
  - from:
    - source: {principals: [a], notPrincipals: [b], namespaces: [c], notNamespaces: [d]}
    - source: {serviceAccounts: [e], notServiceAccounts: [f/g]}
    to:
    - operation: {hosts: [h], notHosts: [i], ports: ["1"], notPorts: ["2"], methods: [GET], notMethods: [PUT], paths: [/x], notPaths: [/z]}
  - {}
`)
	got, err := Policy(o)
	if err != nil {
		t.Fatal(err)
	}
	want := policy.Policy{
		Namespace: "shop", Name: "orders", Action: policy.Deny,
		Selector: map[string]string{"app": "orders"}, WrittenBy: "allow",
		Pos: policy.Pos{File: "in.yaml", Line: 1, Col: 1},
		Rules: []policy.Rule{
			{
				Pos: policy.Pos{File: "in.yaml", Line: 8, Col: 5},
				From: []policy.Source{
					{Principals: []string{"a"}, NotPrincipals: []string{"b"}, Namespaces: []string{"c"}, NotNamespaces: []string{"d"}},
					{ServiceAccounts: []string{"e"}, NotServiceAccounts: []string{"f/g"}},
				},
				To: []policy.Operation{{
					Hosts: []string{"h"}, NotHosts: []string{"i"}, Ports: []string{"1"}, NotPorts: []string{"2"},
					Methods: []string{"GET"}, NotMethods: []string{"PUT"}, Paths: []string{"/x"}, NotPaths: []string{"/z"},
				}},
			},
			{Pos: policy.Pos{File: "in.yaml", Line: 13, Col: 5}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// The same from the store.
	places, err := json.Marshal(o.Places)
	if err != nil {
		t.Fatal(err)
	}
	var back Places
	if err := json.Unmarshal(places, &back); err != nil {
		t.Fatal(err)
	}
	kept, err := Stored(o.JSON, back)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(o, kept); diff != "" {
		t.Error(diff)
	}
}

// Each field of the descriptor is either refused or reaches the policy: a field that Istio
// adds cannot be dropped in silence.
func TestNoFieldIsLost(t *testing.T) {
	spec := func(side, inner, field, value string) string {
		return authz + "spec: {rules: [{" + side + ": [{" + inner + ": {" + field + ": [" + value + "]}}]}]}"
	}
	for _, tt := range []struct {
		side, inner string
		fields      []string
	}{
		{"from", "source", fromMessage((&security.Source{}).ProtoReflect().Descriptor()).order},
		{"to", "operation", fromMessage((&security.Operation{}).ProtoReflect().Descriptor()).order},
	} {
		for _, field := range tt.fields {
			value := `"77"`
			objects, faults := decode(t, spec(tt.side, tt.inner, field, value))
			if len(objects) == 0 {
				if len(faults) != 1 || faults[0].Code != "E301" {
					t.Errorf("%s: %v", field, faults)
				}
				continue
			}
			p, err := Policy(objects[0])
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), `"`+field+`":["77"]`) {
				t.Errorf("%s is lost: %s", field, text)
			}
		}
	}
}

func TestPeerAuthentication(t *testing.T) {
	got, err := PeerAuthentication(one(t, peer+"spec: {selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}, 0x1F91: {mode: UNSET}}}"), 7)
	if err != nil {
		t.Fatal(err)
	}
	want := policy.PeerAuthentication{
		Namespace: "shop", Name: "a", Selector: map[string]string{"app": "a"}, Mode: policy.Strict,
		Ports: map[uint16]policy.Mode{8080: policy.Disable, 8081: policy.Unset}, Created: 7,
		Pos: policy.Pos{File: "in.yaml", Line: 1, Col: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err = PeerAuthentication(one(t, peer+"spec: {}"), 0); err != nil || got.Mode != policy.Unset {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := PeerAuthentication(one(t, authz+"spec: {}"), 0); err == nil {
		t.Error("took an AuthorizationPolicy")
	}
}

func TestEntry(t *testing.T) {
	got, err := Entry(one(t, `apiVersion: countersign.dev/v1
kind: Workload
metadata: {name: payments, namespace: shop, labels: {tier: backend}}
spec:
  serviceAccount: pay
  selectors: ["unix:user:payments", "run:shop/payments"]
  anyOf:
  - ["unix:uid:1001"]
  nodes: [["node:name:web-1"], ["node:label:zone:eu-1"]]
  services: [payments-admin]
  ttl: 1h
  key: p256
  dnsNames: [pay.example.com]
  hint: x
  default: true
  fallback: false
  expires: 2027-01-01T00:00:00Z
`), 3, 9)
	if err != nil {
		t.Fatal(err)
	}
	want := entry.Entry{
		Namespace: "shop", Name: "payments", ServiceAccount: "pay",
		Labels: map[string]string{"tier": "backend", "app": "payments"},
		Sets:   [][]string{{"run:shop/payments", "unix:user:payments"}, {"unix:uid:1001"}},
		Nodes:  [][]string{{"node:name:web-1"}, {"node:label:zone:eu-1"}}, Services: []string{"payments-admin"},
		TTL: time.Hour, DNSNames: []string{"pay.example.com"}, Hint: "x", Default: true,
		Expires: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), Created: 3, Revision: 9,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNodes(t *testing.T) {
	text := work + "spec: {selectors: ['run:shop/api']}"
	if got := string(one(t, text).JSON); !strings.Contains(got, `"nodes":[["node:name:laptop"]]`) {
		t.Errorf("the only node is not written in: %s", got)
	}
	if e, err := Entry(one(t, work+"spec: {selectors: ['run:shop/api'], nodes: any}"), 0, 0); err != nil || !e.AnyNode || e.Nodes != nil {
		t.Errorf("got %+v, %v", e, err)
	}
	files := []File{{"w.yaml", []byte(text)}}
	if _, faults := Decode(files, Options{}); codes(faults) != "4:1 E223" {
		t.Errorf("several nodes: got %v", faults)
	}
	stored := func(kind, namespace, name string) (Object, bool) {
		o := WorkloadFor(namespace, name, "", "web-1", 1, nil)
		return o, kind == "Workload"
	}
	objects, faults := Decode(files, Options{OneNode: "other", Stored: stored})
	if len(objects) != 1 || !strings.Contains(string(objects[0].JSON), `"nodes":[["node:name:web-1"]]`) {
		t.Errorf("the stored nodes are not kept: %v %v", objects, faults)
	}
}

func TestWorkloadFaults(t *testing.T) {
	for _, tt := range []struct{ spec, want, text string }{
		{"{}", "4:1 E223", "selectors: [run:shop/api]"},
		{"{selectors: []}", "4:8 E108", ""},
		{"{anyOf: [[]]}", "4:16 E108", ""},
		{"{selectors: ['unix:usr:bob']}", "4:20 E223", "did you mean unix:user? (unix:user:bob)"},
		{"{selectors: ['user:bob']}", "4:20 E223", "did you mean unix:user? (unix:user:bob)"},
		{"{selectors: [bob]}", "4:20 E223", "type:value"},
		{"{selectors: ['k8s:ns:shop', 'systemd:id:a.service']}", "4:20 E301, 4:35 E301", ""},
		{"{selectors: ['unix:uid:01', 'unix:uid:-1', 'unix:uid:4294967296', 'unix:path:a', 'unix:path:/a/../b', 'unix:sha256:AB', 'run:api', 'run:shop/a*', 'unix:user:']}",
			"4:20 E223, 4:35 E223, 4:50 E223, 4:73 E223, 4:88 E223, 4:109 E223, 4:127 E223, 4:138 E223, 4:153 E223", ""},
		{"{selectors: ['run:shop/api', 'run:shop/api']}", "4:36 E223", "stands twice"},
		{"{selectors: ['run:shop/api'], ttl: 3000h}", "4:42 E111", "3000h is outside 10s to 24h"},
		{"{selectors: ['run:shop/api'], ttl: 1d}", "4:42 E111", ""},
		{"{selectors: ['run:shop/api'], ttl: 5}", "4:42 E109", ""},
		{"{selectors: ['run:shop/api'], expires: 2027-01-01}", "4:46 E111", ""},
		{"{selectors: ['run:shop/api'], serviceAccount: A}", "4:53 E103", "a service account"},
		{"{selectors: ['run:shop/api'], services: [a_b]}", "4:48 E103", "a-b"},
		{"{selectors: ['run:shop/api'], key: rsa2048}", "4:42 E301", ""},
		{"{selectors: ['run:shop/api'], key: rsa}", "4:42 E110", ""},
		{"{selectors: ['run:shop/api'], dnsNames: [api, '*.a.b', x.svc.cluster.local]}", "4:48 E223, 4:53 E223, 4:62 E223", ""},
		{"{selectors: ['run:shop/api'], federatesWith: [a], jwtTTL: 5m, containers: true, run: {users: [a]}}", "4:37 E301, 4:57 E301, 4:69 E301, 4:87 E301", ""},
		{"{selectors: ['run:shop/api'], template: {serviceAccount: x}}", "4:37 E301", ""},
		{"{selectors: ['run:shop/api'], nodes: ['node:name:a']}", "4:45 E109", "write [node:name:a]"},
		{"{selectors: ['run:shop/api'], nodes: [['node:nam:a', 'unix:uid:1', 'node:name:A']]}", "4:46 E223, 4:60 E223, 4:74 E223", ""},
		{"{selectors: ['run:shop/api'], nodes: all}", "4:44 E109", ""},
		{"{selectors: ['run:shop/api'], nodes: null}", "4:37 E107", ""},
		{"{selectors: ['run:shop/api'], selector: x}", "4:37 E106", `did you mean "selectors"?`},
		{"{selectors: ['unix:uid:0'], ttl: 1m, nodes: any}", "4:8 W-uid0, 4:40 W-ttl, 4:44 W-any-node", ""},
		{"{selectors: ['unix:path:/a']}", "4:8 W-exe", ""},
		{"{selectors: ['unix:gid:5']}", "4:8 W-group", ""},
	} {
		_, faults := decode(t, work+"spec: "+tt.spec)
		if got := codes(faults); got != tt.want {
			t.Errorf("%s\n got %q\nwant %q\n%v", tt.spec, got, tt.want, faults)
		} else if len(faults) == 1 && !strings.Contains(faults[0].String(), tt.text) {
			t.Errorf("%s: got %v, want %q in it", tt.spec, faults[0], tt.text)
		}
	}
	for _, tt := range []struct{ meta, want string }{
		{"{name: a.b, namespace: shop}", "3:18 E103"},
		{"{name: a, namespace: countersign}", "3:32 E223"},
		{"{name: A, namespace: shop}", "3:18 E103"},
	} {
		_, faults := decode(t, strings.Replace(work, "{name: api, namespace: shop}", tt.meta, 1)+"spec: {selectors: ['unix:uid:5']}")
		if got := codes(faults); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.meta, got, tt.want)
		}
	}
}

func TestWorkloadFor(t *testing.T) {
	o := WorkloadFor("shop", "api", "backend", "laptop", 1001, map[string]string{"app": "api"})
	want := `{"apiVersion":"countersign.dev/v1","kind":"Workload","metadata":{"name":"api","namespace":"shop","labels":{"app":"api"}},` +
		`"spec":{"serviceAccount":"backend","selectors":["run:shop/api","unix:uid:1001"],"nodes":[["node:name:laptop"]],"services":["api"]}}`
	if got := string(o.JSON); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// It is what apply would have taken.
	back := one(t, want)
	back.Places = Places{}
	if diff := cmp.Diff(o, back); diff != "" {
		t.Error(diff)
	}
	if _, faults := decode(t, string(WorkloadFor("shop", "api", "", "laptop", 0, nil).JSON)); len(faults) > 0 {
		t.Errorf("a run of root: %v", faults)
	}
	if got := string(WorkloadFor("shop", "api", "api", "laptop", 0, nil).JSON); strings.Contains(got, "services") || strings.Contains(got, "serviceAccount") {
		t.Errorf("says what goes without saying: %s", got)
	}
}

func TestLookupKind(t *testing.T) {
	for in, want := range map[string]string{
		"ap": "AuthorizationPolicy", "PA": "PeerAuthentication", "Workloads": "Workload",
		"AuthorizationPolicy": "AuthorizationPolicy", "peerauthentications": "PeerAuthentication", "peerauth": "",
		"ra": "RequestAuthentication", "OAuthClient": "OAuthClient", "oauthresources": "OAuthResource",
		"trustedissuers": "TrustedIssuer", "delegationpolicies": "DelegationPolicy", "": "",
	} {
		if k, _ := LookupKind(in); k.Name != want {
			t.Errorf("%s: got %q, want %q", in, k.Name, want)
		}
	}
	for in, want := range map[string]string{"peerauth": "peerauthentications", "workload": "workloads", "authorisationpolicy": "authorizationpolicies", "pods": "", "": ""} {
		if got := Suggest(in); got != want {
			t.Errorf("Suggest(%q) = %q, want %q", in, got, want)
		}
	}
}
