package resource

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign.dev/internal/route"
)

const (
	gatewayText = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\n"
	routeText   = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: api, namespace: shop}\n"
	grantText   = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: shop}\n"
	plainSpec   = "{gatewayClassName: countersign, listeners: [{name: http, port: 80, protocol: HTTP}]}"
)

func decodeGateway(text string) ([]Object, []Fault) {
	return Decode([]File{{"in.yaml", []byte(text)}}, Options{Gateway: true})
}

func gatewayObject(t *testing.T, text string) Object {
	t.Helper()
	objects, faults := decodeGateway(text)
	if len(objects) != 1 || Stops(faults) {
		t.Fatalf("got %d objects and faults %v\nof %s", len(objects), faults, text)
	}
	return objects[0]
}

// refusals is what is said of a document: code and text.
func refusals(faults []Fault) string {
	var out []string
	for _, f := range faults {
		if f.Severity == Error {
			out = append(out, f.Code+" "+strings.TrimPrefix(f.Field, "spec.")+": "+f.Text)
		}
	}
	return strings.Join(out, "\n")
}

// Where Options.Gateway is off, the kinds that are not served are unknown.
func TestGatewayKindsAreOff(t *testing.T) {
	for _, k := range gatewayKinds() {
		if _, ok := LookupKind(k.Name); ok != servedKind(k.Name) {
			t.Errorf("%s is known to get: %v", k.Name, ok)
		}
		objects, faults := decode(t, "apiVersion: "+k.APIVersion+"\nkind: "+k.Name+"\nmetadata: {name: a}\n")
		if off := len(objects) == 0 && len(faults) == 1 && faults[0].Code == "E105"; off == servedKind(k.Name) {
			t.Errorf("%s: %v %v", k.Name, objects, faults)
		}
	}
}

// Shapes are complete, as TestShapes says of the kinds that are on.
func TestGatewayShapes(t *testing.T) {
	for _, k := range gatewayKinds() {
		walk(k.spec(), k.Name, func(at string, s *shape) {
			if s.form == record && len(s.order) != len(s.fields) {
				t.Errorf("%s: printed are %v", at, s.order)
			}
			if (s.form == integer || s.form == duration) && s.check == nil || (s.form == list || s.form == mapping) != (s.elem != nil) {
				t.Errorf("%s is not judged", at)
			}
		})
	}
}

// Rows A2 to A4 and A23, and what else is refused, with its code.
func TestGatewayRefusals(t *testing.T) {
	rule := func(s string) string { return routeText + "spec: {rules: [{" + s + "}]}" }
	exact := func(s string) string { return rule("matches: [{path: {type: Exact, value: " + s + "}}]") }
	annotated := func(text, note string) string {
		return strings.Replace(text, "namespace: shop}", "namespace: shop, annotations: {"+note+"}}", 1)
	}
	modify := func(s string) string {
		return rule("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {" + s + "}}]")
	}
	respond := func(s string) string {
		return rule("filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {" + s + "}}]")
	}
	rewrite := func(s string) string {
		return rule("matches: [{path: {value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: '" + s + "'}}}]")
	}
	full := func(s string) string {
		return rule("filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '" + s + "'}}}]")
	}
	redirect := func(match, s string) string {
		return rule("matches: [{path: " + match + "}], filters: [{type: RequestRedirect, requestRedirect: {" + s + "}}]")
	}
	gateway := func(s string) string { return gatewayText + "spec: " + strings.Replace(plainSpec, "{", "{"+s+", ", 1) }
	listener := func(s string) string {
		return gatewayText + "spec: {gatewayClassName: c, listeners: [{name: a, port: 443, protocol: HTTPS, " + s + "}]}"
	}
	for _, tt := range []struct{ name, in, want string }{
		{"A2", rule("matchs: []"), `E106 rules[0]: unknown field "matchs"`},
		{"A3 dots", exact("/a/../b"), "E401 rules[0].matches[0].path: must not contain '/../' when type one of ['Exact', 'PathPrefix']"},
		{"A3 slashes", exact("/a//b"), "E401 rules[0].matches[0].path: must not contain '//' when type one of ['Exact', 'PathPrefix']"},
		{"A3 escape", exact("/a%2Fb"), "E401 rules[0].matches[0].path: must not contain '%2F' when type one of ['Exact', 'PathPrefix']"},
		{"A3 relative", exact("a"), "E401 rules[0].matches[0].path: value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']"},
		{"A4 two", rule("matches: [{path: {value: /a}}, {path: {value: /b}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /c}}}]"),
			"E401 rules[0]: When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified\nE403 rules[0].filters[0].urlRewrite.path.replacePrefixMatch: needs exactly one PathPrefix match in its rule"},
		{"A4 exact", redirect("{type: Exact, value: /a}", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /c}"),
			"E401 rules[0]: When using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified\nE403 rules[0].filters[0].requestRedirect.path.replacePrefixMatch: needs exactly one PathPrefix match in its rule"},
		{"A23", annotated(gatewayText+"spec: "+plainSpec, "countersign.dev/websockets: deny"), `E402 metadata.annotations["countersign.dev/websockets"]: annotation "countersign.dev/websockets" is not known`},

		{"null", rule("name: null"), "E107 rules[0].name: no value (null)"},
		{"wrong type", rule("matches: {}"), "E109 rules[0].matches: a mapping, a list is needed"},
		{"text for a number", rule("backendRefs: [{name: a, port: '80'}]"), `E109 rules[0].backendRefs[0].port: "80" is text, an integer is needed`},
		{"enum", rule("matches: [{method: get}]"), `E110 rules[0].matches[0].method: "get" is not a method`},
		{"number enum", redirect("{}", "statusCode: 306, scheme: https"), "E110 rules[0].filters[0].requestRedirect.statusCode: 306 is not a statusCode"},
		{"duration", rule("timeouts: {request: 1.5s}"), `E111 rules[0].timeouts.request: "1.5s" is not a duration`},
		{"number for a duration", rule("timeouts: {request: 5}"), "E111 rules[0].timeouts.request: 5 is not a duration"},
		{"pattern", routeText + "spec: {hostnames: [X.test]}", `E109 hostnames[0]: "X.test" is not of the form ^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`},
		{"too long", exact("/" + strings.Repeat("a", 1024)), "E102 rules[0].matches[0].path.value: 1025 characters, at most 1024 are taken"},
		{"empty text", rule("matches: [{headers: [{name: '', value: a}]}]"), "E102 rules[0].matches[0].headers[0].name: 0 characters, at least 1 is needed"},
		{"too many", routeText + "spec: {hostnames: [" + strings.Repeat("a, ", 17) + "]}", "E102 hostnames: 17 values, at most 16 are taken"},
		{"too few", routeText + "spec: {rules: []}", "E102 rules: 0 items, at least 1 is needed"},
		{"weight", rule("backendRefs: [{name: a, port: 80, weight: 1000001}]"), "E109 rules[0].backendRefs[0].weight: 1000001, at most 1000000 is taken"},
		{"port 0", rule("backendRefs: [{name: a, port: 0}]"), "E109 rules[0].backendRefs[0].port: 0, at least 1 is needed"},
		{"64 bits", rule("filters: [{type: CORS, cors: {maxAge: 5000000000}}]"), "E109 rules[0].filters[0].cors.maxAge: 5000000000 is no integer of 32 bits"},
		{"missing", gatewayText + "spec: {listeners: [{name: a, port: 80}]}", "E103 gatewayClassName: gatewayClassName is missing\nE103 listeners[0].protocol: protocol is missing"},
		{"set", rule("filters: [{type: CORS, cors: {allowMethods: [GET, GET]}}]"), "E109 rules[0].filters[0].cors.allowMethods[1]: stands twice in allowMethods"},
		{"map", rule("matches: [{headers: [{name: a, value: b}, {name: a, value: c}]}]"), "E109 rules[0].matches[0].headers[1].name: stands twice in headers"},
		{"not an address", gateway("addresses: [{value: a.test}]"), `E109 addresses[0]: "a.test" is not an IP address`},
		{"namespace of a class", strings.Replace(classText("a.test/b"), "name: c", "name: c, namespace: d", 1), `E103 metadata.namespace: GatewayClass has no namespace, "d" is given`},
		{"version", strings.Replace(rule(""), "/v1", "/v1alpha2", 1), `E104 : apiVersion "gateway.networking.k8s.io/v1alpha2" is not known for HTTPRoute`},

		{"retry", rule("retry: {attempts: 1}"), "E301 rules[0].retry: not supported yet"},
		{"sessionPersistence", rule("sessionPersistence: {}"), "E301 rules[0].sessionPersistence: not supported yet"},
		{"mirror", rule("filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}}}]"), "E301 rules[0].filters[0].type: \"RequestMirror\" is not supported yet\nE301 rules[0].filters[0].requestMirror: not supported yet"},
		{"ExternalAuth", rule("filters: [{type: ExternalAuth}]"), `E301 rules[0].filters[0].type: "ExternalAuth" is not supported yet`},
		{"useDefaultGateways", routeText + "spec: {useDefaultGateways: All}", `E301 useDefaultGateways: "All" is not supported yet`},
		{"defaultScope", gateway("defaultScope: All"), `E301 defaultScope: "All" is not supported yet`},
		{"frontend of another kind", gateway("tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: a}]}}}}"), "E301 tls.frontend.default.validation.caCertificateRefs[0]: only SVIDs are taken from callers: other authorities are not supported yet"},
		{"frontend of a port", gateway("tls: {frontend: {default: {}, perPort: [{port: 1, tls: {validation: {caCertificateRefs: [{group: countersign.dev, kind: TrustDomain, name: A_b}]}}}]}}"), `E103 tls.frontend.perPort[0].tls.validation.caCertificateRefs[0].name: "A_b" is not a trust domain`},
		{"frontend of a namespace", gateway("tls: {frontend: {default: {validation: {caCertificateRefs: [{group: countersign.dev, kind: TrustDomain, name: a, namespace: b}]}}}}"), "E103 tls.frontend.default.validation.caCertificateRefs[0].namespace: a trust domain has no namespace"},
		{"client certificate", gateway("tls: {backend: {clientCertificateRef: {name: a}}}"), "E301 tls.backend: not supported yet"},
		{"allowedListeners", gateway("allowedListeners: {namespaces: {from: Same}}"), `E301 allowedListeners.namespaces.from: "Same" is not supported yet`},
		{"mesh route", routeText + "spec: {parentRefs: [{group: '', kind: Service, name: a}]}", "E301 parentRefs[0]: routes of a service in the mesh are not supported yet"},
		{"ListenerSet", routeText + "spec: {parentRefs: [{kind: ListenerSet, name: a}]}", "E301 parentRefs[0]: kind ListenerSet is not supported yet"},
		{"x kind", "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XMesh\nmetadata: {name: a}\nspec: {}", `E302 : kind "XMesh" is not supported yet`},
		{"other kind", "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: a}\nspec: {}", `E302 : kind "GRPCRoute" is not supported yet`},
		{"min version", listener("tls: {options: {countersign.dev/min-version: '1.1'}}"), `E402 listeners[0].tls.options["countersign.dev/min-version"]: "1.1" is not a value of countersign.dev/min-version`},
		{"foreign option", listener("tls: {options: {a.test/min: '1.3'}}"), `E301 listeners[0].tls.options["a.test/min"]: option "a.test/min" is of another implementation`},
		{"unknown option", listener("tls: {options: {countersign.dev/certificat: own}}"), `E402 listeners[0].tls.options["countersign.dev/certificat"]: option "countersign.dev/certificat" is not known`},
		{"bad option", listener("tls: {options: {countersign.dev/certificate: mine}}"), `E402 listeners[0].tls.options["countersign.dev/certificate"]: "mine" is not a value of countersign.dev/certificate`},
		{"In of nothing", listener("allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In}]}}}"), "E109 listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0]: In without values"},
		{"operator", listener("allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: Is}]}}}"), `E110 listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].operator: "Is" is not an operator`},

		{"F5 dots", rewrite("/.."), `E403 rules[0].filters[0].urlRewrite.path.replacePrefixMatch: "/.." has a dot segment`},
		{"F5 slashes", rewrite("//"), `E403 rules[0].filters[0].urlRewrite.path.replacePrefixMatch: "//" has an empty segment`},
		{"F5 query", rewrite("/x?y"), `E403 rules[0].filters[0].urlRewrite.path.replacePrefixMatch: "/x?y" has a query or a fragment`},
		{"hidden dots", full("/a/%2e%2E;b/c"), `E403 rules[0].filters[0].urlRewrite.path.replaceFullPath: "/a/%2e%2E;b/c" has a dot segment`},
		{"hidden slash", full("/a/..%2fb"), `E403 rules[0].filters[0].urlRewrite.path.replaceFullPath: "/a/..%2fb" has an escape that stands for no character of a segment`},
		{"NUL", full("/a%00"), `E403 rules[0].filters[0].urlRewrite.path.replaceFullPath: "/a%00" has an escape that stands for no character of a segment`},
		{"relative", full("a"), `E403 rules[0].filters[0].urlRewrite.path.replaceFullPath: "a" does not start with /`},
		{"no path", full(""), `E403 rules[0].filters[0].urlRewrite.path.replaceFullPath: "" does not start with /`},
		{"F6 token", modify("set: [{name: Txn-Token, value: a}]"), "E403 rules[0].filters[0].requestHeaderModifier.set[0].name: header Txn-Token is not a filter's to change"},
		{"F6 host", modify("set: [{name: Host, value: a}]"), "E403 rules[0].filters[0].requestHeaderModifier.set[0].name: header Host is not a filter's to change"},
		{"F6 length", modify("add: [{name: Content-Length, value: '1'}]"), "E403 rules[0].filters[0].requestHeaderModifier.add[0].name: header Content-Length is not a filter's to change"},
		{"F6 forwarded", modify("remove: [X-Forwarded-For]"), "E403 rules[0].filters[0].requestHeaderModifier.remove[0]: header X-Forwarded-For is not a filter's to change"},
		{"alias", modify("set: [{name: X_Forwarded.For, value: a}]"), "E403 rules[0].filters[0].requestHeaderModifier.set[0].name: header X_Forwarded.For is not a filter's to change"},
		{"response", respond("set: [{name: WWW-Authenticate, value: a}], remove: [RateLimit]"), "E403 rules[0].filters[0].responseHeaderModifier.set[0].name: header WWW-Authenticate is not a filter's to change\nE403 rules[0].filters[0].responseHeaderModifier.remove[0]: header RateLimit is not a filter's to change"},
		{"F7", modify("set: [{name: X-A, value: b}], remove: [x-a]"), "E403 rules[0].filters[0].requestHeaderModifier.remove[0]: header x-a stands in set and in remove"},
		{"redirect to itself", redirect("{value: /a}", "statusCode: 301"), ""}, // the conformance suite asks for it
		{"regexp", rule("matches: [{path: {type: RegularExpression, value: '/a('}}, {headers: [{name: a, type: RegularExpression, value: '(?=b)'}]}]"),
			`E403 rules[0].matches[0].path.value: "/a(" is not a regular expression` + "\n" + `E403 rules[0].matches[1].headers[0].value: "(?=b)" is not a regular expression`},
		{"large regexp", rule("matches: [{path: {type: RegularExpression, value: '(a{1,100}){1,10}b{1000}'}}, {path: {type: RegularExpression, value: '" + strings.Repeat("a{1000}", 11) + "'}}]"),
			`E403 rules[0].matches[1].path.value: "` + strings.Repeat("a{1000}", 11) + `" is too large once its repetitions are written out`},
		{"two refs", rule("matches: [], backendRefs: [{name: a, port: 1, filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /c}}}]}, {name: b, port: 1, filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /c}}}]}]"),
			"E403 rules[0].backendRefs[0].filters[0].urlRewrite.path.replacePrefixMatch: needs exactly one PathPrefix match in its rule\nE403 rules[0].backendRefs[1].filters[0].urlRewrite.path.replacePrefixMatch: needs exactly one PathPrefix match in its rule"},

		{"wrong kind", annotated(rule(""), "countersign.dev/max-connections: '5'"), `E402 metadata.annotations["countersign.dev/max-connections"]: HTTPRoute has no option max-connections`},
		{"class", strings.Replace(classText("a.test/b"), "name: c", "name: c, annotations: {countersign.dev/websocket: deny}", 1), `E402 metadata.annotations["countersign.dev/websocket"]: GatewayClass has no option websocket`},
		{"no such rule", annotated(rule("name: b"), "countersign.dev/websocket.a: deny"), `E402 metadata.annotations["countersign.dev/websocket.a"]: annotation "countersign.dev/websocket.a" names "a", which is not there`},
		{"not built", annotated(gatewayText+"spec: "+plainSpec, "countersign.dev/http3: 'on'"), `E301 metadata.annotations["countersign.dev/http3"]: not supported yet`},
		{"never", annotated(rule(""), "countersign.dev/scopes: a"), `E301 metadata.annotations["countersign.dev/scopes"]: not supported yet`},
		{"E404", annotated(exact("/a"), "countersign.dev/merge-slashes: 'false'"), `E404 metadata.annotations["countersign.dev/merge-slashes"]: rule 0 matches a path: empty segments would pass by it`},
	} {
		_, faults := decodeGateway(tt.in)
		if diff := cmp.Diff(tt.want, refusals(faults)); diff != "" {
			t.Errorf("%s: %s\n%s", tt.name, tt.in, diff)
		}
	}
	_, faults := decodeGateway(rule("matchs: []"))
	if got := faults[0].Hint; got != `did you mean "matches"?` {
		t.Errorf("A2: hint %s", got)
	}
	_, faults = decodeGateway(annotated(gatewayText+"spec: "+plainSpec, "countersign.dev/websockets: deny"))
	if got := faults[0].Hint; got != `did you mean "websocket"?` {
		t.Errorf("A23: hint %s", got)
	}
}

// What is taken although it looks as if it might not be.
func TestGatewayAccepts(t *testing.T) {
	for _, in := range []string{
		routeText + "spec: {}",
		routeText + "spec: {hostnames: [], parentRefs: [], rules: [{matches: [], filters: [], backendRefs: []}]}",
		routeText + "spec: {useDefaultGateways: None, parentRefs: [{group: a.test, kind: K, name: nm}]}",
		routeText + "spec: {}\nstatus: {parents: [{controllerName: other.test/c, conditions: []}]}", // A25
		strings.Replace(routeText, "/v1\n", "/v1beta1\n", 1) + "spec: {}",
		gatewayText + "spec: {gatewayClassName: c, defaultScope: None, allowedListeners: {namespaces: {from: None}}, listeners: [{name: a, port: 1, protocol: TLS, tls: {mode: Passthrough}}, {name: b, port: 2, protocol: TCP}, {name: c, port: 3, protocol: UDP}, {name: d, port: 4, protocol: a.test/x}]}",
		gatewayText + "spec: {gatewayClassName: c, infrastructure: {labels: {a: b}, annotations: {c: d}}, listeners: [{name: a, port: 1, protocol: HTTPS, tls: {options: {countersign.dev/certificate: own, countersign.dev/min-version: '1.2'}}}]}",
		routeText + "spec: {rules: [{filters: [{type: ExtensionRef, extensionRef: {group: countersign.dev, kind: RateLimit, name: a}}, {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Api-Key, value: a}], add: [{name: x-api-key2, value: b}], remove: [Cookie]}}]}]}",
	} {
		gatewayObject(t, in)
	}
}

func TestEdgeOptions(t *testing.T) {
	spec := map[string]string{
		"Gateway":   gatewayText + "spec: " + plainSpec,
		"HTTPRoute": routeText + "spec: {rules: [{name: http}]}",
		"Service":   "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\n",
	}
	for _, tt := range []struct{ kind, note, good, bad string }{
		{"HTTPRoute", "websocket", "allow deny", "Deny"},
		{"Gateway", "request-body", "0 10Mi 1Gi 512Ki 1000", "10M -1 010 1.5Mi 99999999999"},
		{"Gateway", "stream-idle", "1h 60s", "0s 1.5h 60"},
		{"HTTPRoute", "ip-allow", "192.0.2.0/24 2001:db8::/32,192.0.2.1", "192.0.2.1/24 a ::ffff:1.2.3.4 , fe80::1%eth0"},
		{"HTTPRoute", "ip-deny", "192.0.2.1", "x " + strings.TrimSuffix(strings.Repeat("192.0.2.1,", maxOptionList+1), ",")},
		{"Gateway", "escaped-reserved", "refuse keep", "allow"},
		{"HTTPRoute", "merge-slashes", "true false", "yes"},
		{"HTTPRoute", "allow-client-headers", "X-Original-Url,cf-access-x", "Txn-Token X-Decision-Id x,Authorization a: x-countersign-peer X-Forwarded-For Forwarded X_Real_Ip"},
		{"HTTPRoute", "underscores", "allow drop", "keep"},
		{"Service", "plaintext", "allow refuse", "true"},
		{"Gateway", "api-key-header", "X-API-Key Api-Key", "Authorization Cookie X-Forwarded-For a:b"},
		{"Gateway", "trusted-proxies", "0 64", "-1 65 +1 01"},
		{"Gateway", "trusted-proxy-addresses", "10.0.0.0/8", "10.0.0.1/8"},
		{"Gateway", "hsts", "max-age=5", "5 max-age=5\x07"},
		{"Gateway", "via", "true false", "off"},
		{"Gateway", "forwarded", "true false", "on"},
		{"Gateway", "max-connections", "1 1000000", "0 1000001"},
		{"Gateway", "max-connections-per-source", "256", "0"},
		{"HTTPRoute", "sign-in", "off", "on"},
		{"Gateway", "compress-private", "deny", "off"},
		{"HTTPRoute", "retry-unsafe", "false", "1"},
		{"HTTPRoute", "cross-site", "protect", "deny"},
		{"HTTPRoute", "waf", "off", "on"},
		{"Gateway", "proxy-protocol", "off", "on"},
		{"Gateway", "http3", "off", "true"},
		{"Gateway", "client-principal", "off", "on"},
	} {
		with := func(note, value string) string {
			return strings.Replace(spec[tt.kind], "namespace: shop}", fmt.Sprintf("namespace: shop, annotations: {countersign.dev/%s: %q}}", note, value), 1)
		}
		for value := range strings.FieldsSeq(tt.good) {
			gatewayObject(t, with(tt.note, value))
			if tt.kind != "Service" {
				gatewayObject(t, with(tt.note+".http", value))
			}
		}
		for value := range strings.FieldsSeq(tt.bad) {
			if _, faults := decodeGateway(with(tt.note, value)); !strings.HasPrefix(refusals(faults), "E402") {
				t.Errorf("%s: %s: %v", tt.note, value, faults)
			}
		}
	}
}

// An option that nothing acts on is refused, unless it says what holds anyway.
func TestUnwiredOptionsAreRefused(t *testing.T) {
	with := func(note string) string {
		return strings.Replace(gatewayText, "namespace: shop}", "namespace: shop, annotations: {"+note+"}}", 1) + "spec: " + plainSpec
	}
	one(t, with("countersign.dev/websocket: allow, countersign.dev/max-connections: '10000', a.test/b: c"))
	for name, option := range edgeOptions() {
		if option.check(option.holds) != nil && option.holds != "\x00" {
			t.Errorf("%s does not take its own default %q", name, option.holds)
		}
	}
	for name, value := range map[string]string{"websocket": "deny", "ip-deny": "192.0.2.1", "max-connections": "5", "hsts": "max-age=5"} {
		_, faults := decode(t, with(fmt.Sprintf("countersign.dev/%s: %q", name, value)))
		if taken := !Stops(faults); taken != slices.Contains(wiredOptions, name) {
			t.Errorf("%s: %s: %v", name, value, faults)
		}
	}
}

// A Gateway that believes anybody about addresses is warned of (gateway.md 20).
func TestSecProxiesWithoutAddresses(t *testing.T) {
	for notes, want := range map[string]int{
		"trusted-proxies: '1'": 1, "trusted-proxies.http: '1'": 1, "trusted-proxies: '0'": 0, "trusted-proxy-addresses: 10.0.0.0/8": 1,
		"trusted-proxies: '1', countersign.dev/trusted-proxy-addresses: 10.0.0.0/8":           0,
		"trusted-proxies.http: '1', countersign.dev/trusted-proxy-addresses: 10.0.0.0/8":      0,
		"trusted-proxies.http: '1', countersign.dev/trusted-proxy-addresses.http: 10.0.0.0/8": 0,
	} {
		_, faults := decodeGateway(strings.Replace(gatewayText, "namespace: shop}", "namespace: shop, annotations: {countersign.dev/"+notes+"}}", 1) + "spec: " + plainSpec)
		if Stops(faults) || len(faults) != want || want == 1 && faults[0].Code != "W-proxies" {
			t.Errorf("%s: %v", notes, faults)
		}
	}
}

// The defaults of gateway.md 3.3, as get shows them, and none where its parent is not there.
func TestGatewayDefaults(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{routeText + "spec: {parentRefs: [{name: edge}]}",
			`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"api","namespace":"shop"},"spec":{"parentRefs":[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"edge"}],"rules":[{"matches":[{"path":{"type":"PathPrefix","value":"/"}}]}]}}`},
		{routeText + "spec: {rules: [{matches: [{headers: [{name: a, value: b}], path: {type: Exact}}], backendRefs: [{name: s, port: 80}], filters: [{type: CORS, cors: {}}]}]}",
			`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"api","namespace":"shop"},"spec":{"rules":[{"backendRefs":[{"group":"","kind":"Service","name":"s","port":80,"weight":1}],"filters":[{"cors":{"maxAge":5},"type":"CORS"}],"matches":[{"headers":[{"name":"a","type":"Exact","value":"b"}],"path":{"type":"Exact","value":"/"}}]}]}}`},
		{gatewayText + "spec: {gatewayClassName: c, addresses: [{}], listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: s}]}}]}",
			`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"name":"edge","namespace":"shop"},"spec":{"addresses":[{"type":"IPAddress"}],"gatewayClassName":"c","listeners":[{"allowedRoutes":{"namespaces":{"from":"Same"}},"name":"a","port":443,"protocol":"HTTPS","tls":{"certificateRefs":[{"group":"","kind":"Secret","name":"s"}],"mode":"Terminate"}}]}}`},
	} {
		o := gatewayObject(t, tt.in)
		if diff := cmp.Diff(tt.want, string(o.JSON)); diff != "" {
			t.Errorf("%s\n%s", tt.in, diff)
		}
		back, err := Stored(o.JSON, o.Places)
		if err != nil {
			t.Fatal(err)
		}
		text, err := YAML(back, time.Unix(0, 0), "1")
		if err != nil {
			t.Fatal(err)
		}
		if again := gatewayObject(t, string(text)); string(again.JSON) != tt.want {
			t.Errorf("by way of\n%s\nbecomes %s", text, again.JSON)
		}
	}
}

func TestGatewayValue(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	got, err := Gateway(gatewayObject(t, gatewayText+`spec:
  gatewayClassName: countersign
  infrastructure: {parametersRef: {group: a.test, kind: K, name: nm}}
  addresses: [{value: 192.0.2.1}, {type: Hostname, value: a.test}]
  listeners:
  - {name: http, port: 80, protocol: HTTP, hostname: "*.x.test", allowedRoutes: {namespaces: {from: All}, kinds: [{kind: HTTPRoute}]}}
  - name: https
    port: 443
    protocol: HTTPS
    tls: {certificateRefs: [{name: a}, {name: b, namespace: certs}]}
    allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}, matchExpressions: [{key: c, operator: In, values: [d]}]}}}
  - {name: tcp, port: 9, protocol: TCP}
  tls:
    frontend:
      default: {validation: {caCertificateRefs: [{group: countersign.dev, kind: TrustDomain, name: cluster.local}]}}
      perPort:
      - {port: 443, tls: {}}
      - {port: 444, tls: {validation: {mode: AllowInsecureFallback, caCertificateRefs: [{group: countersign.dev, kind: TrustDomain, name: b.test}]}}}
`), created, 7)
	if err != nil {
		t.Fatal(err)
	}
	secret := func(ns, name string) route.Ref {
		return route.Ref{Kind: route.Kind{Kind: "Secret"}, Name: route.Name{Namespace: ns, Name: name}}
	}
	authority := func(name string) route.Ref {
		return route.Ref{Kind: route.Kind{Group: "countersign.dev", Kind: "TrustDomain"}, Name: route.Name{Namespace: "shop", Name: name}}
	}
	want := route.Gateway{
		Meta:  route.Meta{Name: route.Name{Namespace: "shop", Name: "edge"}, Generation: 7, Created: created.Truncate(time.Second)},
		Class: "countersign", HasParametersRef: true,
		Addresses: []route.Address{{Type: "IPAddress", Value: "192.0.2.1"}, {Type: "Hostname", Value: "a.test"}},
		Listeners: []route.Listener{
			{Name: "http", Hostname: "*.x.test", Port: 80, Protocol: route.HTTP, From: "All", Kinds: []route.Kind{{Group: gatewayGroup, Kind: "HTTPRoute"}}},
			{Name: "https", Port: 443, Protocol: route.HTTPS, From: "Selector", Certificates: []route.Ref{secret("shop", "a"), secret("certs", "b")},
				Selector: &route.Selector{Labels: map[string]string{"a": "b"}, Terms: []route.Term{{Key: "c", Operator: "In", Values: []string{"d"}}}}},
			{Name: "tcp", Port: 9, Protocol: "TCP", From: "Same"},
		},
		Frontend: route.Frontend{
			Default: &route.Validation{Authorities: []route.Ref{authority("cluster.local")}},
			Ports:   map[uint16]*route.Validation{443: nil, 444: {Insecure: true, Authorities: []route.Ref{authority("b.test")}}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	class, err := GatewayClass(gatewayObject(t, strings.Replace(classText("a.test/b"), "b}", "b, parametersRef: {group: a, kind: K, name: nm}}", 1)), created, 1)
	if want := (route.Class{Meta: route.Meta{Name: route.Name{Name: "c"}, Generation: 1, Created: created.Truncate(time.Second)}, Controller: "a.test/b", HasParametersRef: true}); err != nil || class != want {
		t.Errorf("%+v %v", class, err)
	}
	if _, err := Gateway(Object{Kind: "HTTPRoute"}, created, 1); err == nil {
		t.Error("took an HTTPRoute")
	}
}

func TestHTTPRouteValue(t *testing.T) {
	got, err := HTTPRoute(gatewayObject(t, routeText+`spec:
  parentRefs: [{name: edge}, {name: other, namespace: ns, sectionName: http, port: 80}]
  hostnames: [a.test]
  rules:
  - name: one
    matches:
    - {path: {type: Exact, value: /a}, method: GET, headers: [{name: h, value: v}, {name: i, type: RegularExpression, value: w}], queryParams: [{name: q, value: r}]}
    - {path: {type: RegularExpression, value: "/v[0-9]+"}}
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [f]}}
    - {type: URLRewrite, urlRewrite: {hostname: b.test, path: {type: ReplaceFullPath, replaceFullPath: /z}}}
    - {type: CORS, cors: {allowOrigins: ["*"], allowCredentials: true, allowMethods: [GET], allowHeaders: [a], exposeHeaders: [b], maxAge: 9}}
    - {type: ExtensionRef, extensionRef: {group: countersign.dev, kind: RateLimit, name: r}}
    backendRefs:
    - {name: s, port: 80, weight: 0, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [g]}}]}
    - {name: t, namespace: ns, port: 81}
    timeouts: {request: 0s, backendRequest: 1m30s}
  - matches: []
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: c.test, port: 8443, statusCode: 308, path: {type: ReplaceFullPath, replaceFullPath: /y}}}]
`), time.Time{}, 3)
	if err != nil {
		t.Fatal(err)
	}
	ref := func(group, kind, ns, name string) route.Ref {
		return route.Ref{Kind: route.Kind{Group: group, Kind: kind}, Name: route.Name{Namespace: ns, Name: name}}
	}
	limit := ref("countersign.dev", "RateLimit", "shop", "r")
	want := route.HTTPRoute{
		Meta: route.Meta{Name: route.Name{Namespace: "shop", Name: "api"}, Generation: 3},
		Parents: []route.Parent{{Ref: ref(gatewayGroup, "Gateway", "shop", "edge")},
			{Ref: ref(gatewayGroup, "Gateway", "ns", "other"), Section: "http", Port: 80}},
		Hostnames: []string{"a.test"},
		Rules: []route.Rule{{
			Name: "one",
			Matches: []route.Match{
				{PathType: route.Exact, Path: "/a", Method: "GET", Headers: []route.Pair{{Name: "h", Value: "v"}, {Name: "i", Value: "w", Regex: true}}, Query: []route.Pair{{Name: "q", Value: "r"}}},
				{PathType: route.Regex, Path: "/v[0-9]+"},
			},
			Filters: []route.Filter{
				{RequestHeaders: &route.HeaderFilter{Set: []route.Pair{{Name: "a", Value: "b"}}, Add: []route.Pair{{Name: "c", Value: "d"}}, Remove: []string{"e"}}},
				{ResponseHeaders: &route.HeaderFilter{Remove: []string{"f"}}},
				{Rewrite: &route.Rewrite{Hostname: "b.test", Path: &route.PathReplace{Full: true, Value: "/z"}}},
				{CORS: &route.CORS{Origins: []string{"*"}, Credentials: true, Methods: []string{"GET"}, Headers: []string{"a"}, Expose: []string{"b"}, MaxAge: 9}},
				{Extension: &limit},
			},
			Backends: []route.Backend{
				{Ref: ref("", "Service", "shop", "s"), Port: 80, Weight: 0, Filters: []route.Filter{{RequestHeaders: &route.HeaderFilter{Remove: []string{"g"}}}}},
				{Ref: ref("", "Service", "ns", "t"), Port: 81, Weight: 1},
			},
			Timeouts: route.Timeouts{Request: new(time.Duration(0)), Backend: new(90 * time.Second)},
		}, {
			Matches: []route.Match{{PathType: route.Prefix, Path: "/"}},
			Filters: []route.Filter{{Redirect: &route.Redirect{Scheme: "https", Hostname: "c.test", Port: 8443, Status: 308, Path: &route.PathReplace{Full: true, Value: "/y"}}}},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReferenceGrantValue(t *testing.T) {
	got, err := ReferenceGrant(gatewayObject(t, grantText+"spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: ns}], to: [{group: '', kind: Service}, {group: '', kind: Secret, name: s}]}"), time.Time{}, 1)
	want := route.Grant{
		Meta: route.Meta{Name: route.Name{Namespace: "shop", Name: "g"}, Generation: 1},
		From: []route.GrantFrom{{Kind: route.Kind{Group: gatewayGroup, Kind: "HTTPRoute"}, Namespace: "ns"}},
		To:   []route.GrantTo{{Kind: route.Kind{Kind: "Service"}}, {Kind: route.Kind{Kind: "Secret"}, Name: "s"}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}
