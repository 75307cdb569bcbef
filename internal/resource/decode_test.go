package resource

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// decode reads one file as a mesh with one node would.
func decode(t *testing.T, text string) ([]Object, []Fault) {
	t.Helper()
	return Decode([]File{{Name: "in.yaml", Data: []byte(text)}}, Options{OneNode: "laptop"})
}

// one reads a document that must be accepted.
func one(t *testing.T, text string) Object {
	t.Helper()
	objects, faults := decode(t, text)
	if len(objects) != 1 || Stops(faults) {
		t.Fatalf("got %d objects and faults %v\nof %s", len(objects), faults, text)
	}
	return objects[0]
}

func codes(faults []Fault) string {
	var out []string
	for _, f := range faults {
		out = append(out, fmt.Sprintf("%d:%d %s", f.Line, f.Column, f.Code))
	}
	return strings.Join(out, ", ")
}

const (
	authz = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\n"
	peer  = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a, namespace: shop}\n"
	work  = "apiVersion: countersign.dev/v1\nkind: Workload\nmetadata: {name: api, namespace: shop}\n"
	token = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a, namespace: shop}\n"
	port  = "spec: {selector: {matchLabels: {app: a}}, portLevelMtls: "
)

// The YAML of the issue, as it stands there.
func TestIssue(t *testing.T) {
	o := one(t, `apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
    name: default
    namespace: your-namespace
spec:
    mtls:
        mode: STRICT
`)
	want := `{"apiVersion":"security.istio.io/v1beta1","kind":"PeerAuthentication","metadata":{"name":"default","namespace":"your-namespace"},"spec":{"mtls":{"mode":"STRICT"}}}`
	if got := string(o.JSON); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// The table of istio-semantics.md 2.3: what strict jsonpb alone would let through. The
// empty code is acceptance.
func TestStrictness(t *testing.T) {
	source := func(s string) string { return authz + "spec: {rules: [{from: [{source: {" + s + "}}]}]}\n" }
	operation := func(s string) string { return authz + "spec: {rules: [{to: [{operation: {" + s + "}}]}]}\n" }
	jwt := func(s string) string {
		return token + "spec: {jwtRules: [{issuer: 'https://x', audiences: [a], " + s + "}]}\n"
	}
	for _, tt := range []struct{ row, in, want, hint string }{
		{"D1", authz + "spec: {}", "", ""},
		{"D2 allow", authz + "spec: {rules: []}", "4:8 L44", ""},
		{"D2 deny", authz + "spec: {action: DENY, rules: []}", "4:22 E204", "rules: [{}]"},
		{"D2 deny without", authz + "spec: {action: DENY}", "4:1 E204", "rules: [{}]"},
		{"D3", authz + "spec: {rules: [null]}", "4:16 E107", ""},
		{"D4", authz + "spec: {rules: [{}]}", "", ""},
		{"D5", authz + "spec: {rules: [{from: []}]}", "4:17 E108", "widen"},
		{"D6", authz + "spec: {rules: [{from: null}]}", "4:17 E107", ""},
		{"D7 null", authz + "spec: {rules: [{from: [null]}]}", "4:24 E107", ""},
		{"D7 empty", authz + "spec: {rules: [{from: [{}]}]}", "4:24 E205", ""},
		{"D7 source", authz + "spec: {rules: [{from: [{source: null}]}]}", "4:25 E107", ""},
		{"D8 source", authz + "spec: {rules: [{from: [{source: {}}]}]}", "4:25 E205", ""},
		{"D8 operation", authz + "spec: {rules: [{to: [{operation: {}}]}]}", "4:23 E205", ""},
		{"D9", source("principals: [], namespaces: [a]"), "4:34 E108", "widen"},
		{"D10", operation("methods: [null]"), "4:45 E107", ""},
		{"D11", authz + "spec: {rules: [{when: []}]}", "4:17 E108", ""},
		{"D12", authz + "spec: {action: allow}", "4:16 E110", "write ALLOW"},
		{"D13", authz + "spec: {action: 1, rules: [{}]}", "4:16 E110", "ALLOW, DENY"},
		{"D14", authz + "spec: {action: 9, rules: [{}]}", "4:16 E110", ""},
		{"D15 number", authz + `spec: {action: "1", rules: [{}]}`, "4:16 E110", ""},
		{"D15 word", authz + "spec: {action: BLOCK, rules: [{}]}", "4:16 E110", ""},
		{"D16", peer + "spec: {mtls: {mode: strict}}", "4:21 E110", "write STRICT"},
		{"D17", peer + "spec: {mtls: {mode: 3}}", "4:21 E110", ""},
		{"D18", source("principal: [x]"), "4:34 E106", `did you mean "principals"?`},
		{"D19", authz + "spec: {Rules: [{}]}", "4:8 E106", `did you mean "rules"?`},
		{"D20", source("not_principals: [x]"), "4:34 E112", "write notPrincipals"},
		{"D21", source("not_principals: [x], notPrincipals: [z]"), "4:34 E112", "write notPrincipals"},
		{"D22", jwt("jwks_uri: 'https://x/y'"), "", ""},
		{"D22 both", jwt("jwks_uri: 'https://x/y', jwksUri: 'https://x/y'"), "4:57 E112", "keep jwksUri"},
		{"D23", operation("ports: [8080]"), "4:43 E109", `ports are strings: write "8080"`},
		{"D24", operation("methods: GET"), "4:44 E109", "write [GET]"},
		{"D25 true", source("namespaces: [true]"), "4:47 E109", `quote it: "true"`},
		{"D25 on", source("namespaces: [on]"), "4:47 E109", `quote it: "on"`},
		{"D26 number", authz + "spec: {selector: {matchLabels: {v: 1}}}", "4:36 E109", `"1"`},
		{"D26 boolean", authz + "spec: {selector: {matchLabels: {v: true}}}", "4:36 E109", "quote it"},
		{"D27", authz + "spec: {selector: {matchLabels: {v: null}}}", "4:33 E107", ""},
		{"D28 plain", peer + port + "{8080: {mode: DISABLE}}}", "", ""},
		{"D28 quoted", peer + port + "{'8080': {mode: DISABLE}}}", "", ""},
		{"D28 hexadecimal", peer + port + "{0x1F90: {mode: DISABLE}}}", "", ""},
		{"D29 name", peer + port + "{http: {mode: DISABLE}}}", "4:59 E109", ""},
		{"D29 negative", peer + port + "{-1: {mode: DISABLE}}}", "4:59 E109", ""},
		{"D30", peer + port + "{}}", "4:43 E216", ""},
		{"D31", peer + port + "{8080: null}}", "4:59 E107", ""},
		{"D32", jwt("timeout: 1m30s"), "", ""},
		{"D32 short", jwt("timeout: 500ms"), "", ""},
		{"D33 number", jwt("timeout: 5"), "4:66 E111", "5s"},
		{"D33 text", jwt("timeout: '5'"), "4:66 E111", ""},
		{"D33 days", jwt("timeout: 1d"), "4:66 E111", ""},
		{"D34 negative", jwt("timeout: -5s"), "4:66 E111", ""},
		{"D34 zero", jwt("timeout: 0s"), "4:66 E111", ""},
		{"D34 short", jwt("timeout: 100us"), "4:66 E111", ""},
		{"D35", jwt("forwardOriginalToken: yes"), "", ""},
		{"D36", jwt(`forwardOriginalToken: "true"`), "4:79 E109", "without quotes"},
		{"D37", jwt("fromHeaders: [x]"), "4:71 E109", "name, prefix"},
		{"D38", jwt("jwks: {keys: []}"), "4:63 E109", "jwks is a string"},
		{"D39", token + "spec: {jwtRules: [null]}", "4:19 E107", ""},
		{"D40", authz + "spec: {rules: [{}], rules: []}", "4:21 E101", "the first is in line 4"},
		{"D41 both", authz + "spec: {targetRef: {kind: Service, name: x}, targetRefs: [{kind: Service, name: x}]}", "4:45 E201", "keep one"},
		{"D41 selector", authz + "spec: {selector: {matchLabels: {a: b}}, targetRef: {kind: Service, name: x}}", "4:41 E201", "keep one"},
		{"D42 spec", authz + "spec:", "4:1 E107", "spec: {}"},
		{"D42 mtls", peer + "spec: {mtls: }", "4:8 E107", ""},
		{"D43", authz + "spec: {action: DENY, provider: {name: x}, rules: [{}]}", "4:22 E214", ""},
		{"D44 audiences", token + "spec: {jwtRules: [{issuer: 'https://x', audiences: []}]}", "4:41 E108", "widen"},
		{"D44 headers", jwt("fromHeaders: []"), "4:57 E108", "widen"},
		{"D44 targetRefs", authz + "spec: {targetRefs: []}", "4:8 E108", "widen"},
		{"D45", jwt("presence: REQUIRED"), "4:67 E301", `requestPrincipals: ["*"]`},
		{"D46 action", authz + "spec: {action: null}", "4:8 E107", ""},
		{"D46 mode", peer + "spec: {mtls: {mode: null}}", "4:15 E107", ""},
		{"D47 long", jwt("timeout: 9999999h"), "4:66 E111", ""},
		{"D47 exponent", jwt("timeout: 1e3ms"), "4:66 E111", ""},
		{"D47 blank", jwt("timeout: ' 5s'"), "4:66 E111", ""},
		{"D47 sign", jwt("timeout: +5s"), "4:66 E111", ""},
	} {
		objects, faults := decode(t, tt.in)
		if got := codes(faults); got != tt.want {
			t.Errorf("%s: %s\n got %q\nwant %q\n%v", tt.row, tt.in, got, tt.want, faults)
			continue
		}
		if Stops(faults) == (len(objects) == 1) {
			t.Errorf("%s: %d objects with faults %v", tt.row, len(objects), faults)
		}
		if len(faults) == 1 && !strings.Contains(faults[0].Hint, tt.hint) {
			t.Errorf("%s: hint %q, want %q in it", tt.row, faults[0].Hint, tt.hint)
		}
	}
}

// The kinds and fields of istio-semantics.md 2.1, 2.2, 11 that the table above lacks.
func TestFaults(t *testing.T) {
	document := func(version, kind string) string {
		return "apiVersion: " + version + "\nkind: " + kind + "\nmetadata: {name: a, namespace: shop}\nspec: {}\n"
	}
	for _, tt := range []struct{ name, in, want, text string }{
		{"no apiVersion", "kind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {}", "1:1 E103", "apiVersion: security.istio.io/v1"},
		{"no kind", "apiVersion: security.istio.io/v1\nmetadata: {name: a}\nspec: {}", "1:1 E103", "kind is missing"},
		{"no metadata", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nspec: {}", "1:1 E103", "metadata.name is missing"},
		{"no name", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop}\nspec: {}", "3:1 E103", "AuthorizationPolicy: metadata.name is missing [E103]"},
		{"empty name", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ''}\nspec: {}", "3:18 E103", ""},
		{"no spec", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}", "1:1 E103", "write spec: {}"},
		{"namespace", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: My_Shop}\nspec: {}", "3:32 E103", "my-shop"},
		{"label", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, labels: {a b: c}}\nspec: {}", "3:30 E103", "label key"},
		{"generateName", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {generateName: b}\nspec: {}", "3:1 E103", "metadata.name is missing"},
		{"metadata field", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, nmespace: b}\nspec: {}", "3:21 E106", `did you mean "namespace"?`},
		{"misplaced", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {}\nrules: []", "5:1 E106", "it belongs under spec"},
		{"version", document("security.istio.io/v1alpha1", "AuthorizationPolicy"), "1:13 E104", "write security.istio.io/v1"},
		{"group", document("v1", "PeerAuthentication"), "1:13 E104", "write security.istio.io/v1"},
		{"misspelt", document("security.istio.io/v1", "AuthorisationPolicy"), "2:7 E105", `in.yaml:2:7: kind "AuthorisationPolicy" is not known [E105]`},
		{"foreign", document("apps/v1", "Deployment"), "2:7 E105", "countersign apply -f in.yaml --ignore-unknown-kinds"},
		{"removed", document("rbac.istio.io/v1alpha1", "ServiceRole"), "2:7 E105", "write an AuthorizationPolicy"},
		{"removed", document("authentication.istio.io/v1alpha1", "Policy"), "2:7 E105", "PeerAuthentication"},
		{"later", document("networking.istio.io/v1", "VirtualService"), "2:7 E302", ""},
		{"later", document("networking.istio.io/v1", "Gateway"), "2:7 E302", "gateway.networking.k8s.io"},
		{"later", document("gateway.networking.k8s.io/v1", "GRPCRoute"), "2:7 E302", ""},
		{"later", document("countersign.dev/v1", "TrustDomain"), "2:7 E302", ""},
		{"action", authz + "spec: {action: AUDIT}", "4:16 E301", ""},
		{"action", authz + "spec: {action: CUSTOM, provider: {name: x}, rules: [{}]}", "4:16 E301, 4:24 E301", ""},
		{"when", authz + "spec: {rules: [{when: [{key: source.ip, values: [a]}]}]}", "4:30 E301", "spec.rules[0].when[0].key: source.ip is not supported yet [E301]\n\thint: refused, not weakened"},
		{"source", authz + "spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0/8], requestPrincipals: ['*']}}]}]}", "4:34 E301", ""},
		{"dry run", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, annotations: {istio.io/dry-run: 'true'}}\nspec: {}", "3:35 E301", ""},
		{"dry run", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, annotations: {istio.io/dry-run: 'jes'}}\nspec: {}", "3:53 E220", ""},
		{"dry run", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a, annotations: {istio.io/dry-run: 'true'}}\nspec: {}", "3:35 E220", ""},
		{"selector", authz + "spec: {selector: {matchLabels: {'a*': b, c: 'd*', '': e}}}", "4:33 E202, 4:45 E202, 4:51 E202", ""},
		{"selector", authz + "spec: {selector: {}}", "4:8 L44", ""},
		{"empty value", authz + "spec: {rules: [{from: [{source: {principals: ['']}}]}]}", "4:47 E206", ""},
		{"accounts", authz + "spec: {rules: [{from: [{source: {serviceAccounts: [a/b/c, 'x*', /a, ''], namespaces: [b]}}]}]}", "4:34 E207, 4:52 E207, 4:59 E207, 4:65 E207, 4:69 E207", ""},
		{"ports", authz + "spec: {rules: [{to: [{operation: {ports: ['70000', '-1', '08', http, '8080']}}]}]}", "4:43 E209, 4:52 E209, 4:58 E209, 4:64 E209", ""},
		{"templates", authz + "spec: {rules: [{to: [{operation: {paths: ['/{id}', '/a{*}', '{*}', '/{**}/{*}', '/{*}//a', '/{*}/', '/{**}/b']}}]}]}", "4:43 E210, 4:52 E210, 4:61 E210, 4:68 E210, 4:81 E210", ""},
		{"never", authz + "spec: {rules: [{from: [{source: {principals: ['spiffe://a/ns/b/sa/c']}}], to: [{operation: {methods: [get], paths: ['a', '/a?b', '/a/**', '/a/*/b'], hosts: ['https://a'], ports: ['0']}}]}]}",
			"4:47 L01, 4:103 L03, 4:117 L04, 4:122 L35, 4:130 L09, 4:139 L09, 4:158 L34, 4:180 L38", ""},
		{"ports of all", peer + "spec: {portLevelMtls: {8080: {mode: STRICT}}}", "4:8 E216", "without a selector"},
		{"port range", peer + port + "{0: {mode: STRICT}, 70000: {mode: STRICT}}}", "4:59 E216, 4:78 E216", ""},
		{"root selector", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a, namespace: istio-system}\nspec: {selector: {matchLabels: {a: b}}}", "4:8 E217", ""},
		{"permissive", peer + "spec: {mtls: {mode: PERMISSIVE}}", "4:21 L41", ""},
		{"scalar", "just text", "1:1 E109", "a document must be a mapping"},
		{"two spellings of a key", peer + port + "{8080: {mode: DISABLE}, '8080': {mode: STRICT}}}", "4:82 E101", ""},
		{"two spellings of a key", authz + "spec: {selector: {matchLabels: {yes: a, 'true': b}}}", "4:32 E101", "different spellings"},
		{"tag", authz + "spec: !!binary aGVsbG8=", "4:7 E101", "tag"},
		{"infinity", authz + "spec: {rules: .inf}", "4:15 E109", ""},
		{"key", authz + "spec: {? [a] : b}", "4:10 E101", "a key must be text"},
		{"directive", "%YAML 1.2\n---\n" + authz + "spec: {}", "1:1 E101", "directive"},
		{"not UTF-8", authz + "spec: {x: \xff}", "4:11 E101", "not UTF-8"},
		{"quote open", authz + "spec: {x: 'a", "4:1 E101", ""},
		{"depth", authz + "spec: " + strings.Repeat("[", 70) + strings.Repeat("]", 70), "4:71 E102", "nested"},
		{"cycle", authz + "spec: &a {rules: [*a]}", "4:19 E102", "stands within"},
		{"line separator", authz + "spec: {}\u2028---\u2028" + authz + "spec: {}", "1:1 E101", ""},
	} {
		_, faults := decode(t, tt.in)
		if got := codes(faults); got != tt.want {
			t.Errorf("%s:\n got %q\nwant %q\n%v", tt.name, got, tt.want, faults)
			continue
		}
		if text := fmt.Sprint(faults); !strings.Contains(text, tt.text) {
			t.Errorf("%s: got %s, want %q in it", tt.name, text, tt.text)
		}
	}
}

// What the issue asks of broken YAML: one error per fault, with its place.
func TestBadYAML(t *testing.T) {
	good := authz + "spec: {}\n"
	bomb := "a: &a [x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'i'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat("*"+string(c-1)+", ", 9), ", "))
	}
	for _, tt := range []struct {
		name, in string
		objects  int
		want     string
	}{
		{"unknown field", peer + "spec: {mtls: {mod: STRICT}}", 0, "in.yaml:4:15: PeerAuthentication/shop/a: spec.mtls: unknown field \"mod\" [E106]\n\thint: did you mean \"mode\"?"},
		{"wrong type", peer + "spec: {mtls: STRICT}", 0, "in.yaml:4:14: PeerAuthentication/shop/a: spec.mtls: \"STRICT\" is text, a mapping is needed [E109]\n\thint: its fields are mode"},
		{"bad enum", peer + "spec: {mtls: {mode: STRIKT}}", 0, "in.yaml:4:21: PeerAuthentication/shop/a: spec.mtls.mode: \"STRIKT\" is not a mode [E110]\n\thint: did you mean STRICT? (STRICT, PERMISSIVE, DISABLE, UNSET)"},
		{"tab", peer + "spec:\n\tmtls: {}", 0, "in.yaml:5:1: a tab where blanks are needed [E101]\n\thint: expand -i -t2 in.yaml > in.fixed.yaml"},
		{"two documents", good + "---\n" + peer + "spec: {mtls: [\n---\n" + work + "spec: {selectors: [run:shop/api]}", 2, "in.yaml:9:1: not YAML: did not find expected node content [E101]\n\thint: look at the indentation of this line and the one before, and for a bracket or quote left open"},
		{"10 MB", "#" + strings.Repeat("x", 10<<20-1), 0, "in.yaml:1:1: the file has 10 MiB, at most 1 MiB a document is read [E102]"},
		{"long document", good + "---\n# " + strings.Repeat("x", 3<<19), 1, "in.yaml:5:1: the document has 1.5 MiB, at most 1 MiB a document is read [E102]"},
		{"unknown kind", strings.Replace(good, "AuthorizationPolicy", "Policy", 1), 0, "in.yaml:2:7: kind \"Policy\" is not known [E105]"},
		{"missing name", strings.Replace(good, "name: a, ", "", 1), 0, "in.yaml:3:1: AuthorizationPolicy: metadata.name is missing [E103]\n\thint: add a line such as\n\t\t  name: allow-web"},
		{"invalid namespace", strings.Replace(good, "shop", "My_Shop", 1), 0, "in.yaml:3:32: AuthorizationPolicy/My_Shop/a: metadata.namespace: \"My_Shop\" is not a namespace [E103]\n\thint: a-z, 0-9 and -, at most 63 characters: my-shop"},
		{"null in a list", authz + "spec: {rules: [{}, null]}", 0, "in.yaml:4:20: AuthorizationPolicy/shop/a: spec.rules[1]: no value (null) [E107]\n\thint: give it one, or leave it out"},
		{"alias bomb", bomb, 0, "in.yaml:1:1: more than 1 MiB after its aliases are expanded [E102]\n\thint: write out what the aliases stand for, in several documents"},
	} {
		objects, faults := decode(t, tt.in)
		if len(faults) != 1 || faults[0].String() != tt.want || len(objects) != tt.objects {
			t.Errorf("%s: %d objects, %v\nwant %d, %s", tt.name, len(objects), faults, tt.objects, tt.want)
		}
	}
}

// The block of cli.md 9.5, four files at once.
func TestGolden(t *testing.T) {
	files := []File{
		{"bad.yaml", []byte("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: default\n  namespace: shop\nbogus: 1\nspec:\n  mtls:\n    mode: STRIKT\n")},
		{"two.yaml", []byte("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: default\nspec:\n  mtls:\n    mode: STRICT\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: other\nspec:\n\tmtls:\n")},
		{"three.yaml", []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  labels: {a: b}\nspec: {}\n")},
		{"four.yaml", []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\n  namespace: My_Shop\nspec: {}\n")},
	}
	_, faults := Decode(files, Options{})
	var got strings.Builder
	for _, f := range faults {
		fmt.Fprintln(&got, f)
	}
	want := `bad.yaml:6:1: PeerAuthentication/shop/default: unknown field "bogus" [E106]
	hint: only apiVersion, kind, metadata, spec stand at the top
bad.yaml:9:11: PeerAuthentication/shop/default: spec.mtls.mode: "STRIKT" is not a mode [E110]
	hint: did you mean STRICT? (STRICT, PERMISSIVE, DISABLE, UNSET)
two.yaml:14:1: a tab where blanks are needed [E101]
	hint: expand -i -t2 two.yaml > two.fixed.yaml
three.yaml:3:1: AuthorizationPolicy: metadata.name is missing [E103]
	hint: add a line such as
		  name: allow-web
four.yaml:5:14: AuthorizationPolicy/My_Shop/a: metadata.namespace: "My_Shop" is not a namespace [E103]
	hint: a-z, 0-9 and -, at most 63 characters: my-shop
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

// Every fault of a document is reported at once, and a broken field does not hide another.
func TestAllFaultsAtOnce(t *testing.T) {
	_, faults := decode(t, authz+`spec:
  bogus: 1
  rules:
  - from:
    - source: {principals: [], namespaces: [a]}
    to:
    - operation: {ports: [8080], methods: GET}
  - null
  - to: [{operation: {paths: ["/{x}"]}}]
extra: 1
`)
	want := "5:3 E106, 8:16 E108, 10:27 E109, 10:43 E109, 11:5 E107, 12:31 E210, 13:1 E106"
	if got := codes(faults); got != want {
		t.Errorf("got  %s\nwant %s\n%v", got, want, faults)
	}
}

func TestFaultLimit(t *testing.T) {
	_, faults := decode(t, authz+"spec: {rules: ["+strings.TrimSuffix(strings.Repeat("null,", 300), ",")+"]}")
	if len(faults) != 201 || faults[200].String() != "and 100 more" {
		t.Errorf("got %d faults, last %v", len(faults), faults[len(faults)-1])
	}
}

func TestLists(t *testing.T) {
	objects, faults := decode(t, `apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata: {name: a}
  spec: {}
- null
- apiVersion: v1
  kind: List
  items: []
---
apiVersion: security.istio.io/v1
kind: PeerAuthenticationList
items:
- metadata: {name: b}
  spec: {mtls: {mode: STRICT}}
- metadata: {name: c}
  spec: {mtls: {mod: STRICT}}
`)
	if got, want := codes(faults), "9:3 E107, 11:9 E103, 20:17 E106"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var ids []string
	for _, o := range objects {
		ids = append(ids, o.ID())
	}
	if diff := cmp.Diff([]string{"AuthorizationPolicy/default/a", "PeerAuthentication/default/b"}, ids); diff != "" {
		t.Error(diff)
	}
}

func TestTwice(t *testing.T) {
	_, faults := Decode([]File{{"a.yaml", []byte(authz + "spec: {}")}, {"b.yaml", []byte("---\n" + authz + "spec: {}")}}, Options{})
	if len(faults) != 1 || faults[0].Code != "E113" || faults[0].File != "b.yaml" || faults[0].Line != 2 || !strings.Contains(faults[0].Text, "a.yaml:1:1") {
		t.Errorf("got %v", faults)
	}
}

func TestIgnoreUnknownKinds(t *testing.T) {
	in := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\napiVersion: security.istio.io/v1\nkind: Foo\n---\n" +
		"apiVersion: securty.istio.io/v1\nkind: AuthorizationPolicy\n---\napiVersion: x/v1\nkind: AuthorizationPolicies\n---\n" +
		"apiVersion: networking.istio.io/v1\nkind: VirtualService"
	_, faults := Decode([]File{{"m.yaml", []byte(in)}}, Options{IgnoreUnknownKinds: true})
	if got, want := codes(faults), "2:7 E105, 6:7 E105, 8:13 E104, 12:7 E105, 15:7 E302"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if faults[0].Severity != Notice || faults[0].String() != `m.yaml:2:7: notice: Deployment/default/a: kind "Deployment" is not known: left out [E105]` {
		t.Errorf("got %v", faults[0])
	}
	for _, f := range faults[1:] {
		if f.Severity != Error {
			t.Errorf("skipped: %v", f)
		}
	}
}

// kubectl get -o yaml is taken, what a server added is dropped.
func TestServerSideFields(t *testing.T) {
	o := one(t, `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  creationTimestamp: null
  uid: x
  resourceVersion: "42"
  managedFields: [{a: b}]
  name: a
  labels: {b: c, a: b}
spec: {}
status: null
`)
	want := `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"a","namespace":"default","labels":{"a":"b","b":"c"}},"spec":{}}`
	if got := string(o.JSON); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAnchorsAndMerges(t *testing.T) {
	o := one(t, authz+`spec:
  rules:
  - from: &web
    - source: {principals: [x]}
  - from: *web
    to:
    - operation: &get {methods: [GET]}
    - operation:
        <<: *get
        paths: [/a]
`)
	p, err := Policy(o)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Rules) != 2 || p.Rules[1].From[0].Principals[0] != "x" || p.Rules[1].To[1].Methods[0] != "GET" || p.Rules[1].To[1].Paths[0] != "/a" {
		t.Errorf("got %+v", p.Rules)
	}
	if p.Rules[1].Pos.Line != 8 || p.Rules[1].Pos.Col != 5 || p.Rules[1].Pos.File != "in.yaml" || p.Pos.Line != 1 {
		t.Errorf("got places %+v, %+v", p.Pos, p.Rules[1].Pos)
	}
}

func TestDocumentsEnd(t *testing.T) {
	objects, faults := decode(t, "# nothing\n---\n"+authz+"spec: {}\n...\n# between\n"+peer+"spec: {}\n--- # empty\n---\n")
	if len(objects) != 2 || len(faults) != 0 {
		t.Errorf("got %d objects, faults %v", len(objects), faults)
	}
	if got := objects[1].Places.Line; got != 9 {
		t.Errorf("second object in line %d, want 9", got)
	}
	if objects, faults = decode(t, `{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",`+"\n\t"+`"metadata": {"name": "a"}, "spec": {}}`); len(objects) != 1 {
		t.Errorf("JSON: got faults %v", faults)
	}
	if objects, faults = Decode([]File{{"bom.yaml", []byte("\ufeff" + strings.ReplaceAll(authz, "\n", "\r\n") + "spec: {}\r\n")}}, Options{}); len(objects) != 1 {
		t.Errorf("byte order mark and CR LF: got faults %v", faults)
	}
}

func TestObjectLimit(t *testing.T) {
	var b bytes.Buffer
	for i := range MaxObjects + 5 {
		fmt.Fprintf(&b, "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a%d}\nspec: {}\n", i)
	}
	objects, faults := Decode([]File{{"many.yaml", b.Bytes()}}, Options{})
	if len(objects) != MaxObjects || len(faults) != 1 || faults[0].Code != "E102" {
		t.Errorf("got %d objects, faults %v", len(objects), faults)
	}
}
