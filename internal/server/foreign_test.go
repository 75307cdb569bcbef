package server

import (
	"errors"
	"strings"
	"testing"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/control"
)

const (
	plainExt = "apiVersion: v1\nkind: Service\nmetadata: {name: ext, namespace: default, annotations: {countersign.dev/plaintext: allow}}\nspec: {ports: [{port: 80}]}\n---\n"
	extSlice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: ext-1, namespace: default, labels: {kubernetes.io/service-name: ext}}\n" +
		"addressType: IPv4\nendpoints: [{addresses: [192.0.2.1]}]\nports: [{port: 8080}]\n---\n"
)

func extDoc(doc, old, new string) string { return strings.Replace(doc, old, new, 1) }

// A route says of a backend outside the mesh whether it may be called, and route test that nothing protects the way.
func TestForeignStatus(t *testing.T) {
	r := newPlace(t).run()
	r.join("a", true)
	r.applied(
		edgeDoc("Gateway", "edge", "{gatewayClassName: countersign, listeners: [{name: web, port: 8080, protocol: HTTP}]}") +
			edgeDoc("HTTPRoute", "shop", "{parentRefs: [{name: edge}], rules: [{backendRefs: [{name: ext, port: 80}]}]}"),
	)
	shown := func() (reason, message string, b admin.RouteBackend) {
		_, o := r.shownOf("HTTPRoute", "shop")
		c := conditionIn(statusOf(t, o).Status.Parents[0].Conditions, "ResolvedRefs")
		v := r.tested(admin.RouteTest{Method: "GET", URL: "http://shop.test:8080/"})
		return c.Reason, c.Message, v.Backends[0]
	}
	if reason, _, _ := shown(); reason != "BackendNotFound" {
		t.Error(reason)
	}
	r.applied(extDoc(plainExt, ", annotations: {countersign.dev/plaintext: allow}", ""), extSlice)
	if reason, message, b := shown(); reason != "UnsupportedProtocol" || !strings.Contains(message, "countersign.dev/plaintext: allow") ||
		!strings.Contains(message, "BackendTLSPolicy") || b.Status != 500 {
		t.Error(reason, message, b)
	}
	reply := r.applied(plainExt)
	if len(reply.Warnings) != 1 || reply.Warnings[0].Code != "W-plaintext" {
		t.Error(reply.Warnings)
	}
	if reason, _, b := shown(); reason != "ResolvedRefs" || b.Status != 0 || b.State != "ready" || !b.Plaintext {
		t.Error(reason, b)
	}
	r.applied(extDoc(extSlice, "[{addresses: [192.0.2.1]}]", "[]"))
	if reason, _, b := shown(); reason != "ResolvedRefs" || b.State != "none" { // F13
		t.Error(reason, b)
	}
	r.applied(extDoc(plainExt, "port: 80", "port: 81"))
	if reason, _, _ := shown(); reason != "BackendNotFound" {
		t.Error(reason)
	}
}

// Endpoints without identity never take the name of a workload, nor a workload theirs (registry.md 13).
func TestSecServiceTakesNoMeshName(t *testing.T) {
	r := newPlace(t).run()
	c, _ := r.join("a", true).attach()
	r.applied(workloadDoc("api", "default", `{selectors: ["unix:uid:1"], services: [pay]}`))
	r.applied(plainExt)
	r.applied("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: api, namespace: default}\ndata: {a: b}\n")
	for what, doc := range map[string]string{
		"Service/default/api":         extDoc(plainExt, "name: ext", "name: api"),
		"Service/default/pay":         extDoc(plainExt, "name: ext", "name: pay"),
		"EndpointSlice/default/ext-1": extDoc(extSlice, "service-name: ext", "service-name: pay"),
		"Workload/default/ext":        workloadDoc("ext", "default", `{selectors: ["unix:uid:2"]}`),
		"Workload/default/web":        workloadDoc("web", "default", `{selectors: ["unix:uid:2"], services: [ext]}`),
	} {
		_, err := r.apply(t.Context(), applyOf(false, doc))
		p, ok := errors.AsType[*admin.Problem](err)
		if !ok || len(p.Faults) != 1 || p.Faults[0].Code != noConsent || p.Faults[0].Resource != what || p.Faults[0].Line != 1 {
			t.Errorf("%s: %v", what, err)
		}
	}
	r.applied(extDoc(extDoc(plainExt, "name: ext", "name: api"), "namespace: default", "namespace: other"))

	_, err := c.Report(t.Context(), &control.ReportRequest{What: &control.ReportRequest_Ensure{Ensure: &control.Ensure{Namespace: "default", Name: "ext"}}})
	if err == nil || !strings.Contains(err.Error(), `"default/ext" is a Service with endpoints outside the mesh`) {
		t.Errorf("run took the name of a Service: %v", err)
	}
}
