package server

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/entry"
	"countersign.dev/internal/route"
	"countersign.dev/internal/snapshot"
)

// The token service takes an identity for a Gateway's if nothing but the Gateway earns it, whatever its labels say; it
// gets tokens for what its routes lead to.
func TestSecWhoIsAGateway(t *testing.T) {
	const edgeID, apiID = "spiffe://cluster.local/ns/default/sa/edge", "spiffe://cluster.local/ns/default/sa/api-1"
	entryOf := func(account string, selectors ...string) entry.Entry {
		return entry.Entry{Namespace: "default", Name: account, ServiceAccount: account, Sets: [][]string{selectors}, Labels: map[string]string{"gateway.networking.k8s.io/gateway-name": account}}
	}
	earned := entryOf("edge", "gateway:default/edge")
	name := func(s string) route.Name { return route.Name{Namespace: "default", Name: s} }
	for what, c := range map[string]struct {
		class   string
		entries []entry.Entry
		is      bool
	}{
		"its own Workload":         {"countersign", []entry.Entry{earned, entryOf("api", "run:default/api")}, true},
		"no Workload":              {"countersign", nil, false},
		"a program's Workload":     {"countersign", []entry.Entry{entryOf("edge", "run:default/edge")}, false},
		"a program's too":          {"countersign", []entry.Entry{earned, entryOf("edge", "unix:uid:7")}, false},
		"another Gateway's":        {"countersign", []entry.Entry{entryOf("edge", "gateway:default/other")}, false},
		"a Gateway of another one": {"theirs", []entry.Entry{earned}, false},
	} {
		route1 := route.HTTPRoute{
			Meta: route.Meta{Name: name("shop")}, Parents: []route.Parent{{Ref: route.Ref{Kind: route.Kind{Group: "gateway.networking.k8s.io", Kind: "Gateway"}, Name: name("edge")}}},
			Rules: []route.Rule{{Backends: []route.Backend{
				{Ref: route.Ref{Kind: route.Kind{Kind: "Service"}, Name: name("api")}, Port: 80, Weight: 1},
				{Ref: route.Ref{Kind: route.Kind{Kind: "Service"}, Name: name("gone")}, Port: 80, Weight: 1},
			}}},
		}
		v := newView(&snapshot.World{
			Entries:  c.entries,
			Services: []snapshot.Service{{Namespace: "default", Name: "api", Audience: apiID, Ports: []snapshot.Port{{Number: 80}}}, {Namespace: "default", Name: "other", Audience: "spiffe://cluster.local/ns/default/sa/other"}},
			Edge: route.Objects{
				Gateways: []route.Gateway{{Meta: route.Meta{Name: name("edge")}, Class: c.class, Listeners: []route.Listener{{Name: "a", Port: 80, Protocol: route.HTTP, From: "Same"}}}},
				Routes:   []route.HTTPRoute{route1},
			},
		})
		leads := (&Server{td: spiffeid.RequireTrustDomainFromString("cluster.local")}).leads(v)
		got := leads(edgeID)
		if (got != nil) != c.is {
			t.Errorf("%s: %v", what, got)
		}
		if c.is && (len(got) != 1 || len(got[apiID]) != 1 || got[apiID][0] != "default/shop") {
			t.Errorf("%s: leads to %v", what, got)
		}
		if leads(apiID) != nil || leads("") != nil {
			t.Errorf("%s: a program is a Gateway", what)
		}
	}
}
