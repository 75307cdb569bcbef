package admin

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/resource"
)

const root = "istio-system"

// sets are policies as people have them, from nothing to a lock that no ALLOW opens.
func sets(t *testing.T) map[string]policy.Set {
	t.Helper()
	out := map[string]policy.Set{}
	for name, docs := range map[string][]string{
		"nothing":        nil,
		"allow-nothing":  {"AuthorizationPolicy a istio-system {}"},
		"another method": {"AuthorizationPolicy a istio-system {}", "AuthorizationPolicy b shop {rules: [{to: [{operation: {methods: [GET]}}]}]}"},
		"another caller": {`AuthorizationPolicy b shop {rules: [{from: [{source: {principals: ["cluster.local/ns/shop/sa/other"]}}]}]}`},
		"locked":         {"AuthorizationPolicy a istio-system {}", "AuthorizationPolicy l shop {action: DENY, rules: [{}]}"},
		"locked path":    {"AuthorizationPolicy a istio-system {}", `AuthorizationPolicy l shop {action: DENY, rules: [{to: [{operation: {paths: ["/orders/*"]}}]}]}`},
		"locked method":  {"AuthorizationPolicy a istio-system {}", `AuthorizationPolicy l shop {action: DENY, rules: [{to: [{operation: {notMethods: [GET]}}]}]}`},
		"another app":    {"AuthorizationPolicy a shop {selector: {matchLabels: {app: other}}}"},
		"this app":       {"AuthorizationPolicy a shop {selector: {matchLabels: {app: api}}, rules: [{to: [{operation: {methods: [PUT]}}]}]}"},
		"disabled":       {"AuthorizationPolicy a istio-system {}", "PeerAuthentication d istio-system {mtls: {mode: DISABLE}}"},
	} {
		s := policy.Set{TrustDomain: "cluster.local", RootNamespace: root, DefaultMode: policy.Strict}
		for _, d := range docs {
			f := strings.SplitN(d, " ", 4)
			doc := fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", f[0], f[1], f[2], f[3])
			objects, faults := resource.Decode([]resource.File{{Name: "x.yaml", Data: []byte(doc)}}, resource.Options{})
			if resource.Stops(faults) {
				t.Fatalf("%s: %v", doc, faults)
			}
			if f[0] == "PeerAuthentication" {
				p, err := resource.PeerAuthentication(objects[0], 1)
				if err != nil {
					t.Fatal(err)
				}
				s.PeerAuth = append(s.PeerAuth, p)
				continue
			}
			p, err := resource.Policy(objects[0])
			if err != nil {
				t.Fatal(err)
			}
			s.Policies = append(s.Policies, p)
		}
		out[name] = s
	}
	return out
}

func compile(t *testing.T, s policy.Set) *policy.Compiled {
	t.Helper()
	c, faults := policy.Compile(s)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return c
}

// A hint is a promise: pasted, it allows exactly the call that was refused. Where no allow can
// help (a DENY, no proven caller) there is none.
func TestSuggestionIsTrue(t *testing.T) {
	labels := map[string]string{"app": "api"}
	dest := policy.Destination{Namespace: "shop", ServiceAccount: "api", Labels: labels}
	own := policy.ParsePeer("spiffe://cluster.local/ns/shop/sa/web", "cluster.local")
	foreign := policy.ParsePeer("spiffe://other.example/ns/shop/sa/web", "cluster.local")
	odd := policy.ParsePeer("spiffe://cluster.local/legacy/web", "cluster.local")
	suggested, refused := 0, 0
	for name, set := range sets(t) {
		compiled := compile(t, set)
		for _, peer := range []*policy.Peer{nil, &own, &foreign, &odd} {
			for _, method := range []string{"GET", "DELETE", "PURGE", "it's"} {
				for _, path := range []string{"/", "/orders/17", "/orders/17/x", "/a%20b", "/a b", "/{x}", "/x*", "/" + strings.Repeat("a", 5000), "/é", ""} {
					a := Asked{
						Set: set, Compiled: compiled, Dest: dest, Conn: policy.Conn{Peer: peer, Port: 8081, HTTP: true},
						Request: policy.Request{Method: method, Host: "api", Path: path}, From: "web", To: "api",
					}
					var w Why
					Explain(&w, a)
					if w.Decision == audit.Deny {
						refused++
					}
					if w.Hint == "" {
						continue
					}
					suggested++
					if w.Decision != audit.Deny || peer != &own {
						t.Errorf("%s, %s %q: %s for a call that was %s", name, method, path, w.Hint, w.Decision)
						continue
					}
					if !allowsIt(t, set, a, w.Hint) {
						t.Errorf("%s, %s %q: %s does not allow it", name, method, path, w.Hint)
					}
				}
			}
		}
	}
	if suggested < 20 || refused <= suggested {
		t.Errorf("%d suggestions for %d refusals: this tests nothing", suggested, refused)
	}
}

// allowsIt does what the hint says, by the code that allow runs.
func allowsIt(t *testing.T, set policy.Set, a Asked, hint string) bool {
	t.Helper()
	request, ok := strings.CutPrefix(hint, "countersign allow web api '")
	request, ok2 := strings.CutSuffix(request, "'")
	if !ok || !ok2 {
		t.Errorf("hint %q is not of the form expected", hint)
		return false
	}
	o, _, err := resource.BuildAllow(resource.Allow{
		FromNamespace: "shop", From: "web", ToNamespace: "shop", To: "api", ToLabels: a.Dest.Labels,
		Requests: []string{strings.ReplaceAll(request, `'\''`, "'")},
	}, nil, nil)
	if err != nil {
		t.Errorf("%s: %v", hint, err)
		return false
	}
	p, err := resource.Policy(o)
	if err != nil {
		t.Fatal(err)
	}
	set.Policies = append(slices.Clone(set.Policies), p)
	bound := compile(t, set).For(a.Dest).Bind(a.Conn)
	return bound.Decide(&a.Request).Allow
}

// TestTokenFor holds that a rule that misses what a token would say is answered with how to come
// by one, in commands that can be pasted.
func TestTokenFor(t *testing.T) {
	scope := policy.FieldMiss{Field: "claim scope", Allows: []string{"things:read"}, Got: absent}
	subject := policy.FieldMiss{Field: "request principal", Allows: []string{"https://id.example/*"}, Got: absent}
	role := policy.FieldMiss{Field: "claim role", Allows: []string{"admin", "root"}, Got: "guest"}
	for _, test := range []struct {
		name, from, to string
		misses         []policy.FieldMiss
		want           string
	}{
		{"a scope", "web", "api", []policy.FieldMiss{scope}, "countersign run web -- countersign token issue --audience api --scope 'things:read' --header"},
		{"for whom", "shop/web", "shop/api", []policy.FieldMiss{subject}, "countersign run shop/web -- countersign token exchange --audience api.shop --header < TOKEN"},
		{"another role", "web", "api", []policy.FieldMiss{role}, "the token of the call must say role admin or root"},
		{"nobody proven", "", "api", []policy.FieldMiss{subject}, ""},
	} {
		if got := tokenFor(Asked{From: test.from, To: test.to}, test.misses); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
