package resource

import (
	"fmt"
	"strings"
	"testing"
)

// What kubectl and generators print around an object is taken, and what they leave empty is said.
func TestKubectlOutput(t *testing.T) {
	const gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: edge\n  creationTimestamp: null\n  uid: 0b1c\n  resourceVersion: \"17\"\n  generation: 3\n" +
		"  managedFields:\n  - manager: kubectl\n    operation: Apply\nspec:\n  gatewayClassName: countersign\n  listeners:\n  - {name: a, port: 80, protocol: HTTP}\nstatus: {}\n"
	const service = "apiVersion: v1\nkind: Service\nmetadata:\n  creationTimestamp: null\n  name: ext\nspec:\n  ports:\n  - {port: 80, protocol: TCP, targetPort: 8080}\nstatus:\n  loadBalancer: {}\n"
	const slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: ext-1\n  labels: {kubernetes.io/service-name: ext}\naddressType: IPv4\nendpoints: null\nports: null\n"
	const route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, creationTimestamp: null}\nspec:\n  parentRefs: [{name: edge}]\nstatus: {parents: null}\n"
	const namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, creationTimestamp: null}\nspec: {}\nstatus: {}\n"
	item := func(doc string) string {
		return "- " + strings.ReplaceAll(strings.TrimSuffix(doc, "\n"), "\n", "\n  ") + "\n"
	}
	all := strings.Join([]string{"# a comment alone\n", "", gateway, "# nothing here\n", service, slice, route, namespace}, "---\n")
	for name, c := range map[string]struct{ doc, want string }{
		"documents":      {all, "Gateway/edge Service/ext EndpointSlice/ext-1 HTTPRoute/r Namespace/shop"},
		"CRLF":           {strings.ReplaceAll(all, "\n", "\r\n"), "Gateway/edge Service/ext EndpointSlice/ext-1 HTTPRoute/r Namespace/shop"},
		"byte order":     {"\ufeff" + service, "Service/ext"},
		"end of stream":  {gateway + "...\n---\n" + service + "...\n", "Gateway/edge Service/ext"},
		"List":           {"apiVersion: v1\nkind: List\nmetadata: {resourceVersion: \"\"}\nitems:\n" + item(gateway) + item(service), "Gateway/edge Service/ext"},
		"typed list":     {"apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayList\nitems:\n" + item(gateway), "Gateway/edge"},
		"empty List":     {"apiVersion: v1\nkind: List\nitems: []\n", ""},
		"List of null":   {"apiVersion: v1\nkind: List\nitems: null\n", "3:1 E103"},
		"null in a List": {"apiVersion: v1\nkind: List\nitems: [null]\n", "3:9 E107"},
		"null in a spec": {strings.Replace(route, "parentRefs: [{name: edge}]", "hostnames: null", 1), "5:3 E107"},
		"a workload of Kubernetes": {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x, creationTimestamp: null}\nspec: {template: {spec: {containers: [{name: a, resources: {}}]}}}\nstatus: {}\n",
			"2:7 E105"},
		"a route that is not built": {"apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: g}\nspec: {}\n", "2:7 E302"},
	} {
		objects, faults := Decode([]File{{Name: "k.yaml", Data: []byte(c.doc)}}, Options{})
		var got []string
		for _, o := range objects {
			got = append(got, o.Kind+"/"+o.Name)
		}
		for _, f := range faults {
			got = append(got, fmt.Sprintf("%d:%d %s", f.Line, f.Column, f.Code))
		}
		if have := strings.Join(got, " "); have != c.want {
			t.Errorf("%s: %s, want %s (%v)", name, have, c.want, faults)
		}
	}
}
