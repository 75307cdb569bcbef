package policy

import "testing"

// API keys are taken at Gateways alone, where a RequestAuthentication attaches that says so; the oldest counts.
func TestAPIKeysAttach(t *testing.T) {
	c, faults := Compile(Set{TrustDomain: "cluster.local", RootNamespace: "istio-system", RequestAuth: []RequestAuthentication{
		{Namespace: "shop", Name: "named", Gateways: []string{"edge"}, APIKeys: "live", Created: 2},
		{Namespace: "shop", Name: "newer", Selector: map[string]string{"app": "edge"}, APIKeys: "test", Created: 3},
		{Namespace: "shop", Name: "older", Selector: map[string]string{"app": "edge"}, Created: 1},
		{Namespace: "istio-system", Name: "all", Selector: map[string]string{"app": "else"}, APIKeys: "test", Created: 4},
	}})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	labels := func(app string) map[string]string { return map[string]string{"app": app} }
	for name, tt := range map[string]struct {
		d    Destination
		want string
	}{
		"by name, before the younger":  {Destination{Namespace: "shop", ServiceAccount: "edge", Labels: labels("edge"), Gateway: true}, "live"},
		"by label":                     {Destination{Namespace: "shop", ServiceAccount: "other", Labels: labels("edge"), Gateway: true}, "test"},
		"from the root namespace":      {Destination{Namespace: "team", ServiceAccount: "a", Labels: labels("else"), Gateway: true}, "test"},
		"of another namespace":         {Destination{Namespace: "team", ServiceAccount: "edge", Labels: labels("edge"), Gateway: true}, ""},
		"a workload of the same names": {Destination{Namespace: "shop", ServiceAccount: "edge", Labels: labels("edge")}, ""},
	} {
		if got := c.APIKeys(tt.d); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	var none *Compiled
	if none.APIKeys(Destination{Gateway: true}) != "" {
		t.Error("keys are taken without a snapshot")
	}
}
