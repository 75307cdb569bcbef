package resource

import (
	"bytes"
	"crypto/elliptic"
	"strings"
	"testing"
	"time"
)

// FuzzGateway: no document of the gateway's kinds, however broken, may panic the program or
// leave a key in what is shown; what is accepted can be read, and comes back from its own printing.
func FuzzGateway(f *testing.F) {
	chain, private := selfSigned(f, ecKey(f, elliptic.P256()))
	slice := "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\n"
	for _, s := range []string{
		"", classText("a.test/b"), gatewayText + "spec: " + plainSpec, grantText + "spec: {from: [{group: a, kind: B, namespace: c}], to: [{group: '', kind: Service}]}",
		gatewayText + "spec: {gatewayClassName: c, addresses: [{type: Hostname, value: a}], listeners: [{name: a, port: 443, protocol: HTTPS, hostname: '*.a', tls: {certificateRefs: [{name: s}]}, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In, values: [b]}]}}}}]}",
		routeText + "spec: {parentRefs: [{name: edge, port: 80}], hostnames: [a.test], rules: [{matches: [{path: {type: Exact, value: /a}, method: GET, headers: [{name: a, value: b}]}], backendRefs: [{name: s, port: 80}], timeouts: {request: 1s}}]}",
		routeText + "spec: {rules: [{filters: [{type: CORS, cors: {allowOrigins: ['*']}}, {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]}]}",
		routeText + "spec: {rules: [{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /b}}}]}]}",
		strings.Replace(routeText, "{name", "{annotations: {countersign.dev/websocket: deny, countersign.dev/merge-slashes: 'false'}, name", 1) + "spec: {rules: [{retry: {}}]}",
		asString(map[string]string{certKey: chain, keyKey: private}), secretOf(map[string]string{certKey: chain, keyKey: private}), secretText + "data: {tls.key: <sealed>}",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {ca.crt: x}\n", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {b: c}}\n",
		"apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80, targetPort: http}]}\n",
		slice + "addressType: IPv4\nendpoints: [{addresses: [192.0.2.1], conditions: {ready: true}}]\nports: [{port: 80}]\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, faults := Decode([]File{{"f.yaml", data}}, Options{Gateway: true})
		for _, fault := range faults {
			s := fault.String()
			if fault.Line < 1 && fault.File != "" || strings.ContainsAny(s, "\x00\r\x1b") {
				t.Errorf("fault %q", s)
			}
		}
		for _, o := range objects {
			group, _ := groupOf(o.APIVersion)
			k, ok := gatewayKindOf(group, o.Kind)
			if !ok {
				continue
			}
			if err := k.read(o); err != nil {
				t.Fatalf("%s is accepted and cannot be read: %v", o.JSON, err)
			}
			if top, err := bareOf[struct{ Data map[string]string }](o, "Secret"); err == nil && top.Data[keyKey] != Sealed {
				t.Fatalf("%s holds the key", o.JSON)
			}
			text, err := YAML(o, time.Unix(1, 0), "1")
			if err != nil {
				t.Fatal(err)
			}
			back, faults := Decode([]File{{"g.yaml", text}}, Options{Gateway: true, Stored: func(string, string, string) (Object, bool) { return o, true }})
			if len(back) != 1 || !bytes.Equal(back[0].JSON, o.JSON) {
				t.Fatalf("%s\nby way of\n%s\nbecomes %v %v", o.JSON, text, back, faults)
			}
		}
	})
}
