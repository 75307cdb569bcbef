package server

import (
	"fmt"
	"strings"
	"testing"

	"countersign.dev/internal/admin"
)

func limitDoc(name, spec string) string {
	return "---\napiVersion: countersign.dev/v1\nkind: RateLimit\nmetadata: {name: " + name + "}\nspec: " + spec + "\n"
}

// apply tells of limits that hold for nothing, and of more than are counted; the route says so too.
func TestLimitWarnings(t *testing.T) {
	const (
		refs    = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]"
		gateway = "{gatewayClassName: countersign, listeners: [{name: web, port: 8080, protocol: HTTP}]}"
		route   = "{parentRefs: [{name: edge}], rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}]}"
	)
	house := policyDoc("edge", "default", "{"+refs+", rules: [{}]}") + edgeDoc("Gateway", "edge", gateway) + edgeDoc("HTTPRoute", "shop", route)
	many := ""
	for i := range 5 {
		rules := strings.Repeat("{name: r%d, concurrent: 1}, ", 13)
		for j := range 13 {
			rules = strings.Replace(rules, "%d", fmt.Sprint(j), 1)
		}
		many += limitDoc(fmt.Sprint("l", i), "{"+refs+", rules: ["+rules+"]}")
	}
	r := newPlace(t).run()
	for name, c := range map[string]struct{ docs, want string }{
		"fine":     {house + limitDoc("l", "{"+refs+", rules: [{name: a, concurrent: 1}]}"), ""},
		"class":    {limitDoc("l", "{rules: [{name: a, concurrent: 1}]}"), ""},
		"nowhere":  {limitDoc("l", "{"+refs+", rules: [{name: a, concurrent: 1}]}"), `spec.targetRefs[0]: gateway.networking.k8s.io/Gateway "default/edge" is not served here [TargetNotFound]`},
		"listener": {house + limitDoc("l", "{"+strings.Replace(refs, "edge}", "edge, sectionName: tls}", 1)+", rules: [{name: a, concurrent: 1}]}"), `has no listener "tls" [TargetNotFound]`},
		"too many": {house + many, "65 rules of RateLimits hold for its requests, 64 are most"},
		"missing": {policyDoc("edge", "default", "{"+refs+", rules: [{}]}") + edgeDoc("Gateway", "edge", gateway) +
			edgeDoc("HTTPRoute", "shop", strings.Replace(route, "filters: [", "filters: [{type: ExtensionRef, extensionRef: {group: countersign.dev, kind: RateLimit, name: l}}, ", 1)), `countersign.dev/RateLimit "default/l" does not exist`},
	} {
		reply, err := r.apply(t.Context(), admin.ApplyRequest{Files: []admin.File{{Name: "l.yaml", Data: c.docs}}, DryRun: true})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, f := range reply.Warnings {
			got = append(got, f.String())
		}
		if all := strings.Join(got, "\n"); (c.want == "") != (all == "") || !strings.Contains(all, c.want) {
			t.Errorf("%s: got %s\nwant %s", name, all, c.want)
		}
	}
	r.applied(house + many)
	list, err := r.routeList(t.Context(), admin.RouteQuery{})
	if err != nil || len(list.Routes) != 1 || len(list.Routes[0].Limits) != 65 || !strings.HasPrefix(list.Routes[0].Fault, "65 rules") {
		t.Errorf("%v, %+v", err, list.Routes)
	}
	o, err := r.objects(t.Context(), admin.Query{Kind: "HTTPRoute", Namespace: "default"})
	if err != nil || !strings.Contains(o.Objects[0].JSON, "UnsupportedValue") {
		t.Errorf("%v, %+v", err, o)
	}
}
