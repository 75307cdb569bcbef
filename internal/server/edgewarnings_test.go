package server

import (
	"strings"
	"testing"

	"countersign.dev/internal/admin"
	gw "countersign.dev/internal/route"
)

// apply tells what will not work of a Gateway, with its place, before anybody calls (gateway.md 3.2, 15).
func TestEdgeWarnings(t *testing.T) {
	const gateway, backend = "{gatewayClassName: countersign, listeners: [{name: web, port: 8080, protocol: HTTP}]}", "rules: [{backendRefs: [{name: api, port: 80}]}]"
	open := policyDoc("edge", "default", "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], rules: [{to: [{operation: {ports: ['8443']}}]}]}")
	route := edgeDoc("HTTPRoute", "shop", "{parentRefs: [{name: edge}], rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}]}")
	for name, c := range map[string]struct {
		docs string
		want []string // of the warnings, in order
	}{
		"nobody": {edgeDoc("Gateway", "edge", gateway) + route, []string{
			"Gateway/default/edge: nobody can enter: no rule of an ALLOW policy selects it",
		}},
		"the port of a redirect": {open + edgeDoc("Gateway", "edge", gateway) + route, []string{
			`Gateway/default/edge: listener "web" only redirects, and no ALLOW policy lets anybody do that on port 8080` + "\n\thint: a rule with ports: [\"8080\"] in an AuthorizationPolicy for it",
		}},
		"a port that is allowed": {strings.Replace(open, "'8443'", "'8080'", 1) + edgeDoc("Gateway", "edge", gateway) + route, nil},
		"another class":          {edgeDoc("Gateway", "edge", strings.Replace(gateway, "countersign", "example", 1)), []string{"Gateway/default/edge: spec.gatewayClassName: nobody serves class \"example\"\n\thint: gatewayClassName: countersign"}},
		"a parent that is not there": {edgeDoc("HTTPRoute", "shop", "{parentRefs: [{name: nosuch}], "+backend+"}"), []string{
			`HTTPRoute/default/shop: spec.parentRefs[0]: there is no Gateway "default/nosuch" of countersign` + "\n\thint: correct the name, or apply the Gateway",
		}},
		"a parent of another class": {edgeDoc("Gateway", "edge", strings.Replace(gateway, "countersign", "example", 1)) + edgeDoc("HTTPRoute", "shop", "{parentRefs: [{name: edge}], "+backend+"}"), []string{
			`Gateway/default/edge: spec.gatewayClassName: nobody serves class "example"`,
			`HTTPRoute/default/shop: spec.parentRefs[0]: Gateway "default/edge" is of class "example", which nobody serves` + "\n\thint: gatewayClassName: countersign",
		}},
		"a parent of another kind": {edgeDoc("HTTPRoute", "shop", "{parentRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: api}], "+backend+"}"), []string{
			`HTTPRoute/default/shop: spec.parentRefs[0]: a ServiceImport as parent is not supported yet` + "\n\thint: refer to a Gateway",
		}},
		"no parent": {edgeDoc("HTTPRoute", "shop", "{"+backend+"}"), []string{
			"HTTPRoute/default/shop: spec.parentRefs: no Gateway takes it\n\thint: name one",
		}},
		"a service that is not there": {open + edgeDoc("Gateway", "edge", gateway) + edgeDoc("HTTPRoute", "shop", "{parentRefs: [{name: edge, sectionName: web}, {name: edge, sectionName: raw}], "+backend+"}"), []string{
			`HTTPRoute/default/shop: spec.rules: rule 0: Service "default/api" does not exist [BackendNotFound]` + "\n\thint: run it or correct the name",
			`HTTPRoute/default/shop: spec.parentRefs[1]: Gateway "default/edge" has no listener with this sectionName and port [NoMatchingParent]` + "\n\thint: name one that it has",
		}},
		"listeners": {open + edgeDoc("Gateway", "edge", "{gatewayClassName: countersign, addresses: [{value: 192.0.2.1}], listeners: [{name: raw, port: 9000, protocol: TCP}, {name: web, port: 8080, protocol: HTTP}]}"), []string{
			`Gateway/default/edge: address "192.0.2.1" is nowhere [AddressNotUsable]` + "\n\thint: write another",
			`Gateway/default/edge: spec.listeners[0]: listener "raw" has protocol "TCP" [UnsupportedProtocol]` + "\n\thint: write HTTP or HTTPS",
		}},
		"a name that no workload has": {open + edgeDoc("Gateway", "edge.eu", gateway), []string{
			`Gateway/default/edge.eu: a Gateway is a workload, and "edge.eu" is no name of one [NameNotUsable]` + "\n\thint: name it otherwise: at most 63 characters",
			"Gateway/default/edge.eu: nobody can enter",
		}},
		"our own namespace": {strings.ReplaceAll(open+edgeDoc("Gateway", "edge", gateway), "namespace: default", "namespace: countersign"), []string{
			`Gateway/countersign/edge: namespace "countersign" is that of countersign itself, which no workload is in [NameNotUsable]` + "\n\thint: move the Gateway",
		}},
		"our own port": {open + edgeDoc("Gateway", "edge", strings.Replace(gateway, "8080", "7443", 1)), []string{
			"Gateway/default/edge: spec.listeners[0]: port 7443 is that of countersign itself (inbound) [PortUnavailable]\n\thint: write another port",
		}},
		"a policy alone": {open, nil},
	} {
		r := newPlace(t).run(func(o *Options) {
			o.OwnPorts = map[uint16]string{7443: "inbound"}
			o.Refuses = func(g *gw.Gateway) gw.Refusal {
				if len(g.Addresses) > 0 {
					return gw.Refusal{Reason: "AddressNotUsable", Text: `address "192.0.2.1" is nowhere; write another`}
				}
				return gw.Refusal{}
			}
		})
		reply, err := r.apply(t.Context(), admin.ApplyRequest{Files: []admin.File{{Name: "edge.yaml", Data: c.docs}}, DryRun: true})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, f := range reply.Warnings {
			place, text, ok := strings.Cut(f.String(), ": warning: ")
			if !ok || !strings.HasPrefix(place, "edge.yaml:") {
				t.Errorf("%s: %s", name, f)
			}
			got = append(got, text)
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: got %q", name, got)
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(got[i], want) {
				t.Errorf("%s:\ngot  %q\nwant %q", name, got[i], want)
			}
		}
	}
	r := newPlace(t).run()
	https := edgeDoc("Gateway", "edge", "{gatewayClassName: countersign, listeners: [{name: https, port: 8443, protocol: HTTPS}, {name: said, port: 8444, protocol: HTTPS, tls: {options: {countersign.dev/certificate: own}}}]}")
	if first := r.applied(https); len(first.Notes) != 1 || first.Notes[0] != "listener https names no certificate; our own is used (ca root)" {
		t.Errorf("notes %q", first.Notes)
	}
	if again := r.applied(https); len(again.Notes) != 0 {
		t.Errorf("said again: %q", again.Notes)
	}
	r.deleted("AuthorizationPolicy", "istio-system", "allow-nothing")
	if open := r.applied(https); len(open.Warnings) != 1 || !strings.Contains(open.Warnings[0].Text, "everybody can enter") {
		t.Errorf("without allow-nothing: %v", open.Warnings)
	}
}
