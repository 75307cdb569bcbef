package policy

import "testing"

// targetRefs find the Gateway whatever labels its Workload has, and no program of its name.
func TestSecTargetRefsNeedNoLabel(t *testing.T) {
	c, faults := Compile(Set{TrustDomain: "cluster.local", RootNamespace: "root", Policies: []Policy{
		{Namespace: "shop", Name: "all", Action: Allow, Rules: []Rule{{}}},
		{Namespace: "shop", Name: "none", Action: Deny, Gateways: []string{"edge"}, Rules: []Rule{{}}},
	}, RequestAuth: []RequestAuthentication{{Namespace: "shop", Name: "tokens", Gateways: []string{"edge"}, Rules: []TokenRule{{Issuer: "https://id"}}}}})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for _, test := range []struct {
		name string
		d    Destination
		ours bool
	}{
		{"the Gateway", Destination{Namespace: "shop", ServiceAccount: "edge", Gateway: true}, true},
		{"a program with its label", Destination{Namespace: "shop", ServiceAccount: "edge", Labels: map[string]string{GatewayLabel: "edge"}}, false},
		{"another Gateway", Destination{Namespace: "shop", ServiceAccount: "other", Gateway: true}, false},
		{"one of another namespace", Destination{Namespace: "team", ServiceAccount: "edge", Gateway: true}, false},
	} {
		bound := c.For(test.d).Bind(Conn{Port: 80, HTTP: true})
		allowed := test.d.Namespace == "shop" && !test.ours
		if got := bound.Decide(&Request{Method: "GET", Path: "/"}).Allow; got != allowed && test.d.Namespace == "shop" {
			t.Errorf("%s: allowed %v", test.name, got)
		}
		if got := len(c.Tokens(test.d)) > 0; got != test.ours {
			t.Errorf("%s: token rules %v", test.name, got)
		}
	}
}
