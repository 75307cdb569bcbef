package resource

import (
	"crypto/sha256"
	"fmt"
	"go/build"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	yaml "go.yaml.in/yaml/v3"
)

func eachRule(c *crd, visit func(message string)) {
	for _, m := range c.Rules {
		visit(m)
	}
	for _, child := range c.Properties {
		eachRule(child, visit)
	}
	for _, child := range []*crd{c.Items, c.Values} {
		if child != nil {
			eachRule(child, visit)
		}
	}
}

// Every rule of the schema has a function, and every function a rule that says what it said
// when the function was written.
func TestEveryRuleHasAFunction(t *testing.T) {
	messages := make(map[string]bool)
	for _, c := range crds() {
		eachRule(c, func(m string) { messages[m] = true })
	}
	if got, want := slices.Sorted(maps.Keys(celRules)), slices.Sorted(maps.Keys(messages)); !slices.Equal(got, want) {
		t.Errorf("functions for\n%s\nrules\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if crdRules != judgedRules {
		t.Errorf("the rules of the schema changed: read each anew, then write judgedRules = %q", crdRules)
	}
}

// gatewayModule is the directory of the Gateway API's module, if this machine has it.
func gatewayModule(t *testing.T) (string, bool) {
	cache := os.Getenv("GOMODCACHE")
	if cache == "" {
		cache = filepath.Join(build.Default.GOPATH, "pkg", "mod")
	}
	dir := filepath.Join(cache, "sigs.k8s.io", "gateway-api@v1.6.3")
	if _, err := os.Stat(dir); err != nil {
		t.Logf("NOT COMPARED: %s is not there; go mod download sigs.k8s.io/gateway-api@v1.6.3 brings it", dir)
		return "", false
	}
	return dir, true
}

// The generated schema holds every validation of the CRDs themselves, of all their versions.
func TestRulesAreThoseOfTheCRDs(t *testing.T) {
	dir, ok := gatewayModule(t)
	if !ok {
		return
	}
	rules := make(map[string]string)
	var collect func(v any)
	collect = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, r := range itemsOf(v["x-kubernetes-validations"]) {
				rules[word(r, "message")] = word(r, "rule")
			}
			for _, child := range v {
				collect(child)
			}
		case []any:
			for _, child := range v {
				collect(child)
			}
		}
	}
	for _, name := range []string{"gatewayclasses", "gateways", "httproutes", "referencegrants"} {
		text, err := os.ReadFile(filepath.Join(dir, "config/crd/experimental/gateway.networking.k8s.io_"+name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := yaml.Unmarshal(text, &v); err != nil {
			t.Fatal(err)
		}
		for _, version := range itemsOf(at(v, "spec", "versions")) {
			collect(at(version, "schema", "openAPIV3Schema", "properties", "spec"))
		}
	}
	digest := sha256.New()
	for _, message := range slices.Sorted(maps.Keys(rules)) {
		fmt.Fprintf(digest, "%s\n%s\n", message, rules[message])
		if celRules[message] == nil {
			t.Errorf("no function for %q", message)
		}
	}
	if got := fmt.Sprintf("%x", digest.Sum(nil)); got != judgedRules || len(rules) != len(celRules) {
		t.Errorf("%d rules with the digest %s, judged are %d, %s", len(rules), got, len(celRules), judgedRules)
	}
}

// verdict takes a spec through steps 2 to 5 with the schema alone: also what is not built.
func verdict(t *testing.T, kind, spec string, old any) []Fault {
	t.Helper()
	doc, flaws := chunk{[]byte("spec: " + spec + "\n"), 1}.parse("in.yaml")
	if doc == nil || len(flaws) > 0 {
		t.Fatalf("%s: %v", spec, flaws)
	}
	o := &object{batch: &batch{options: Options{}.withDefaults()}, name: "in.yaml", root: doc.root, value: fieldsOf(doc.value)}
	c := crds()[kind]
	at := root.field("spec")
	if o.match(c.shape("spec"), o.value["spec"], at); o.errors == 0 {
		if settled, blocked := o.settle(c, o.value["spec"], at); !blocked {
			o.keepRules(c, settled, old, at)
		}
	}
	return o.batch.faults.sorted()
}

// Each rule of the CRDs is kept by one document and broken by another.
func TestRules(t *testing.T) {
	gateway := func(s string) string { return "{gatewayClassName: c, " + s + "}" }
	listeners := func(s string) string { return gateway("listeners: [" + s + "]") }
	const plain = "listeners: [{name: a, port: 80, protocol: HTTP}]"
	withTLS := func(s string) string {
		return listeners("{name: a, port: 443, protocol: HTTPS, tls: " + s + "}")
	}
	rule := func(s string) string { return "{rules: [" + s + "]}" }
	filter := func(s string) string { return rule("{filters: [" + s + "]}") }
	path := func(s string) string { return rule("{matches: [{path: " + s + "}]}") }
	mirror := func(s string) string {
		return filter("{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}" + s + "}}")
	}
	auth := func(s string) string {
		return filter("{type: ExternalAuth, externalAuth: {backendRef: {name: a, port: 80}, " + s + "}}")
	}
	cors := func(s string) string { return filter("{type: CORS, cors: {" + s + "}}") }
	rewrite := func(s string) string { return filter("{type: URLRewrite, urlRewrite: {path: " + s + "}}") }
	parents := func(s string) string { return "{parentRefs: [" + s + "]}" }
	frontend := func(s string) string {
		return gateway(plain + ", tls: {frontend: {default: {}, perPort: [" + s + "]}}")
	}
	const prefix = "{path: {type: PathPrefix, value: /a}}"
	const replaces = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}"

	type row struct{ kind, message, kept, broken string }
	table := []row{
		{"Gateway", "IPAddress values must be unique", gateway(plain + ", addresses: [{value: 192.0.2.1}, {value: 192.0.2.2}, {}, {}]"), gateway(plain + ", addresses: [{value: 192.0.2.1}, {value: 192.0.2.1}]")},
		{"Gateway", "Hostname values must be unique", gateway(plain + ", addresses: [{type: Hostname, value: a.x}, {type: Hostname, value: b.x}]"), gateway(plain + ", addresses: [{type: Hostname, value: a.x}, {type: Hostname, value: a.x}]")},
		{"Gateway", `Hostname value must be empty or contain only valid characters (matching ^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$)`, gateway(plain + ", addresses: [{type: Hostname, value: a.x}]"), gateway(plain + ", addresses: [{type: Hostname, value: A_x}]")},
		{"Gateway", "Annotation keys must be in the form of an optional DNS subdomain prefix followed by a required name segment of up to 63 characters.", gateway(plain + ", infrastructure: {annotations: {x.test/a: b}}"), gateway(plain + ", infrastructure: {annotations: {x.test/-a: b}}")},
		{"Gateway", "If specified, the annotation key's prefix must be a DNS subdomain not longer than 253 characters in total.", gateway(plain + ", infrastructure: {annotations: {x.test/a: b}}"), gateway(plain + ", infrastructure: {annotations: {" + strings.Repeat("a", 253) + "/a: b}}")},
		{"Gateway", "Label keys must be in the form of an optional DNS subdomain prefix followed by a required name segment of up to 63 characters.", gateway(plain + ", infrastructure: {labels: {a: b}}"), gateway(plain + ", infrastructure: {labels: {a/b/c: b}}")},
		{"Gateway", "If specified, the label key's prefix must be a DNS subdomain not longer than 253 characters in total.", gateway(plain + ", infrastructure: {labels: {x.test/a: b}}"), gateway(plain + ", infrastructure: {labels: {" + strings.Repeat("a", 253) + "/a: b}}")},
		{"Gateway", "tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']", withTLS("{certificateRefs: [{name: a}]}"), listeners("{name: a, port: 80, protocol: HTTP, tls: {certificateRefs: [{name: a}]}}")},
		{"Gateway", "tls mode must be Terminate for protocol HTTPS", withTLS("{certificateRefs: [{name: a}]}"), withTLS("{mode: Passthrough}")},
		{"Gateway", "tls mode must be set for protocol TLS", listeners("{name: a, port: 443, protocol: TLS, tls: {mode: Passthrough}}"), listeners("{name: a, port: 443, protocol: TLS}")},
		{"Gateway", "hostname must not be specified for protocols ['TCP', 'UDP']", listeners("{name: a, port: 80, protocol: TCP}"), listeners("{name: a, port: 80, protocol: TCP, hostname: x.test}")},
		{"Gateway", "Listener name must be unique within the Gateway", listeners("{name: a, port: 80, protocol: HTTP}, {name: b, port: 81, protocol: HTTP}"), listeners("{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}")},
		{"Gateway", "Combination of port, protocol and hostname must be unique for each listener", listeners("{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP, hostname: x.test}"), listeners("{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}")},
		{"Gateway", "certificateRefs or options must be specified when mode is Terminate", withTLS("{options: {a.test/b: c}}"), withTLS("{}")},
		{"Gateway", "Port for TLS configuration must be unique within the Gateway", frontend("{port: 1, tls: {}}, {port: 2, tls: {}}"), frontend("{port: 1, tls: {}}, {port: 1, tls: {}}")},

		{"HTTPRoute", "sectionName or port must be specified when parentRefs includes 2 or more references to the same parent", parents("{name: g, sectionName: a}, {name: g, sectionName: b}, {name: h}"), parents("{name: g, sectionName: a}, {name: g}")},
		{"HTTPRoute", "sectionName or port must be unique when parentRefs includes 2 or more references to the same parent", parents("{name: g, port: 1}, {name: g, port: 2}, {name: g, namespace: ns, port: 1}"), parents("{name: g, port: 1}, {name: g, port: 1}")},
		{"HTTPRoute", "While 16 rules and 64 matches per rule are allowed, the total number of matches across all rules in a route must be less than 128", rule("{matches: [" + strings.Repeat(prefix+", ", 64) + "]}, {matches: [" + strings.Repeat(prefix+", ", 64) + "]}"), rule("{matches: [" + strings.Repeat(prefix+", ", 64) + "]}, {matches: [" + strings.Repeat(prefix+", ", 64) + "]}, {}")},
		{"HTTPRoute", "Rule name must be unique within the route", rule("{name: a}, {name: b}, {}, {}"), rule("{name: a}, {name: a}")},
		{"HTTPRoute", "RequestRedirect filter must not be used together with backendRefs", rule("{backendRefs: [], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}"), rule("{backendRefs: [{name: a, port: 80}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}")},
		{"HTTPRoute", "When using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified", rule("{matches: [" + prefix + "], filters: [{type: RequestRedirect, requestRedirect: {" + replaces + "}}]}"), rule("{matches: [{path: {type: Exact, value: /a}}], filters: [{type: RequestRedirect, requestRedirect: {" + replaces + "}}]}")},
		{"HTTPRoute", "When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified", rule("{matches: [" + prefix + "], filters: [{type: URLRewrite, urlRewrite: {" + replaces + "}}]}"), rule("{matches: [" + prefix + ", " + prefix + "], filters: [{type: URLRewrite, urlRewrite: {" + replaces + "}}]}")},
		{"HTTPRoute", "Within backendRefs, when using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified", rule("{matches: [" + prefix + "], backendRefs: [{name: a, port: 80, filters: [{type: RequestRedirect, requestRedirect: {" + replaces + "}}]}]}"), rule("{matches: [" + prefix + ", " + prefix + "], backendRefs: [{name: a, port: 80, filters: [{type: RequestRedirect, requestRedirect: {" + replaces + "}}]}]}")},
		{"HTTPRoute", "Within backendRefs, When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified", rule("{backendRefs: [{name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {" + replaces + "}}]}]}"), rule("{matches: [], backendRefs: [{name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {" + replaces + "}}]}]}")},
		{"HTTPRoute", "Must have port for Service reference", rule("{backendRefs: [{name: a, port: 80}, {name: a, kind: Other}]}"), rule("{backendRefs: [{name: a}]}")},
		{"HTTPRoute", "May specify either httpRouteFilterRequestRedirect or httpRouteFilterRequestRewrite, but not both", filter("{type: URLRewrite, urlRewrite: {hostname: a}}"), filter("{type: URLRewrite, urlRewrite: {hostname: a}}, {type: RequestRedirect, requestRedirect: {hostname: a}}")},
		{"HTTPRoute", "AllowHeaders cannot contain '*' alongside other methods", cors("allowHeaders: ['*']"), cors("allowHeaders: ['*', a]")},
		{"HTTPRoute", "AllowMethods cannot contain '*' alongside other methods", cors("allowMethods: [GET, PUT]"), cors("allowMethods: [GET, '*']")},
		{"HTTPRoute", "AllowOrigins cannot contain '*' alongside other origins", cors("allowOrigins: ['https://a.test', 'https://*.b.test']"), cors("allowOrigins: ['https://a.test', '*']")},
		{"HTTPRoute", "grpc must be specified when protocol is set to 'GRPC'", auth("protocol: GRPC, grpc: {}"), auth("protocol: GRPC")},
		{"HTTPRoute", "protocol must be 'GRPC' when grpc is set", auth("protocol: GRPC, grpc: {}"), auth("protocol: HTTP, http: {}, grpc: {}")},
		{"HTTPRoute", "http must be specified when protocol is set to 'HTTP'", auth("protocol: HTTP, http: {}"), auth("protocol: HTTP")},
		{"HTTPRoute", "protocol must be 'HTTP' when http is set", auth("protocol: HTTP, http: {}"), auth("protocol: GRPC, http: {}, grpc: {}")},
		{"HTTPRoute", "Only one of percent or fraction may be specified in HTTPRequestMirrorFilter", mirror(", percent: 5"), mirror(", percent: 5, fraction: {numerator: 1}")},
		{"HTTPRoute", "numerator must be less than or equal to denominator", mirror(", fraction: {numerator: 100}"), mirror(", fraction: {numerator: 4, denominator: 3}")},
		{"HTTPRoute", "replaceFullPath must be specified when type is set to 'ReplaceFullPath'", rewrite("{type: ReplaceFullPath, replaceFullPath: /a}"), rewrite("{type: ReplaceFullPath}")},
		{"HTTPRoute", "type must be 'ReplaceFullPath' when replaceFullPath is set", rewrite("{type: ReplaceFullPath, replaceFullPath: /a}"), rewrite("{type: ReplacePrefixMatch, replaceFullPath: /a, replacePrefixMatch: /a}")},
		{"HTTPRoute", "replacePrefixMatch must be specified when type is set to 'ReplacePrefixMatch'", rewrite("{type: ReplacePrefixMatch, replacePrefixMatch: ''}"), rewrite("{type: ReplacePrefixMatch}")},
		{"HTTPRoute", "type must be 'ReplacePrefixMatch' when replacePrefixMatch is set", rewrite("{type: ReplacePrefixMatch, replacePrefixMatch: /a}"), rewrite("{type: ReplaceFullPath, replaceFullPath: /a, replacePrefixMatch: /a}")},
		{"HTTPRoute", "AbsoluteTimeout must be specified when cookie lifetimeType is Permanent", rule("{sessionPersistence: {absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}}"), rule("{sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}}")},
		{"HTTPRoute", "cookieConfig can only be set with type Cookie", rule("{sessionPersistence: {cookieConfig: {}}}"), rule("{sessionPersistence: {type: Header, cookieConfig: {}}}")},
		{"HTTPRoute", "backendRequest timeout cannot be longer than request timeout", rule("{timeouts: {request: 0s, backendRequest: 1s}}"), rule("{timeouts: {request: 1s, backendRequest: 1001ms}}")},
	}
	for message, broken := range map[string]string{
		"value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']":                                             "a",
		"must not contain '//' when type one of ['Exact', 'PathPrefix']":                                                                         "/a//b",
		"must not contain '/./' when type one of ['Exact', 'PathPrefix']":                                                                        "/a/./b",
		"must not contain '/../' when type one of ['Exact', 'PathPrefix']":                                                                       "/a/../b",
		"must not contain '%2f' when type one of ['Exact', 'PathPrefix']":                                                                        "/a%2fb",
		"must not contain '%2F' when type one of ['Exact', 'PathPrefix']":                                                                        "/a%2Fb",
		"must not contain '#' when type one of ['Exact', 'PathPrefix']":                                                                          "/a#b",
		"must not end with '/..' when type one of ['Exact', 'PathPrefix']":                                                                       "/a/..",
		"must not end with '/.' when type one of ['Exact', 'PathPrefix']":                                                                        "/a/.",
		"must only contain valid characters (matching ^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$) for types ['Exact', 'PathPrefix']": "/a b",
	} {
		table = append(table,
			row{"HTTPRoute", message, path("{value: '/a;b/%7e.c'}"), path("{type: Exact, value: '" + broken + "'}")},
			row{"HTTPRoute", message, path("{type: RegularExpression, value: '" + broken + "'}"), path("{value: '" + broken + "'}")})
	}
	content := map[string]string{
		"cors": "{}", "requestHeaderModifier": "{set: [{name: a, value: b}]}", "responseHeaderModifier": "{remove: [a]}",
		"requestMirror": "{backendRef: {name: a, port: 80}}", "requestRedirect": "{scheme: https}", "urlRewrite": "{hostname: a}",
		"extensionRef": "{group: a.test, kind: K, name: nm}", "externalAuth": "{protocol: GRPC, grpc: {}, backendRef: {name: a, port: 80}}",
	}
	for field, kind := range filterTypes {
		f := "{type: " + kind + ", " + field + ": " + content[field] + "}"
		other := "{type: CORS, cors: {}, " + field + ": " + content[field] + "}"
		if kind == "CORS" {
			other = "{type: ExtensionRef, extensionRef: {group: a.test, kind: K, name: nm}, cors: {}}"
		}
		table = append(table,
			row{"HTTPRoute", "filter." + field + " must be nil if the filter.type is not " + kind, filter(f), filter(other)},
			row{"HTTPRoute", "filter." + field + " must be specified for " + kind + " filter.type", filter(f), filter("{type: " + kind + "}")})
		if m := kind + " filter cannot be repeated"; celRules[m] != nil {
			table = append(table, row{"HTTPRoute", m, filter(f), filter(f + ", " + f)})
		}
	}

	// A path of another type does not pass the enum, which goes first; and one document knows of
	// no other: TestControllerNameStays.
	const typed = "type must be one of ['Exact', 'PathPrefix', 'RegularExpression']"
	if !celRules[typed](map[string]any{"type": "RegularExpression"}, nil) || celRules[typed](map[string]any{"type": "Regex"}, nil) {
		t.Error(typed)
	}
	exercised := map[string]bool{"Value is immutable": true, typed: true}
	for _, r := range table {
		exercised[r.message] = true
		if faults := verdict(t, r.kind, r.kept, nil); len(faults) > 0 {
			t.Errorf("%s\nkept by %s: %v", r.message, r.kept, faults)
		}
		if !slices.ContainsFunc(verdict(t, r.kind, r.broken, nil), func(f Fault) bool {
			return f.Code == "E401" && f.Text == r.message && strings.HasPrefix(f.Field, "spec.")
		}) {
			t.Errorf("%s\nnot found broken in %s: %v", r.message, r.broken, verdict(t, r.kind, r.broken, nil))
		}
	}
	for message := range celRules {
		if !exercised[message] {
			t.Errorf("%s: no document keeps it, and none breaks it", message)
		}
	}
}

// controllerName cannot change: the one rule that looks at what is applied.
func TestControllerNameStays(t *testing.T) {
	stored := gatewayObject(t, classText("a.test/b"))
	for name, want := range map[string]string{"a.test/b": "", "a.test/c": "E401 Value is immutable"} {
		_, faults := Decode([]File{{"in.yaml", []byte(classText(name))}}, Options{Gateway: true, Stored: func(kind, namespace, name string) (Object, bool) {
			return stored, kind == "GatewayClass" && namespace == "" && name == "c"
		}})
		var got []string
		for _, f := range faults {
			got = append(got, f.Code+" "+f.Text)
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}
}

func classText(controller string) string {
	return "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: c}\nspec: {controllerName: " + controller + "}\n"
}
