package snapshot

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/entry"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

func world() *World {
	return &World{
		Revision: 7, Epoch: "e1",
		Mesh: Mesh{TrustDomain: "cluster.local", RootNamespace: "istio-system", PolicyRevision: strings.Repeat("0", 64)},
		Entries: []entry.Entry{
			{Namespace: "default", Name: "api", ServiceAccount: "api", Nodes: [][]string{{"node:name:a"}}},
			{Namespace: "default", Name: "db", ServiceAccount: "db", Nodes: [][]string{{"node:name:b"}}},
			{Namespace: "default", Name: "web", ServiceAccount: "web", AnyNode: true},
		},
		Policies:  []policy.Policy{{Namespace: "default", Name: "p", Action: policy.Allow}},
		PeerAuth:  []policy.PeerAuthentication{{Namespace: "shop", Name: "default", Mode: policy.Permissive, Ports: map[uint16]policy.Mode{8081: policy.Disable}}},
		Bundles:   map[string][]byte{"cluster.local": []byte(`{"keys":[]}`)},
		Services:  []Service{{Namespace: "default", Name: "api", Ports: []Port{{80, 8081, "http"}}}},
		Instances: []Instance{{ID: "x", Node: "b", Owner: "spiffe://cluster.local/ns/default/sa/api", State: Ready}},
		Nodes:     map[string][]string{"a": {"node:name:a"}, "b": {"node:name:b"}},
		Secrets:   map[string][]byte{"decision-id": []byte("0123456789abcdef")},
		Edge: route.Objects{
			Services: []route.Service{{Name: route.Name{Namespace: "default", Name: "ext"}, Plaintext: true, Ports: []route.ServicePort{{Name: "a", Port: 80, AppProtocol: "kubernetes.io/ws"}}}},
			Endpoints: []route.Endpoints{{
				Name: route.Name{Namespace: "default", Name: "ext-1"}, Service: "ext", Ports: []route.EndpointPort{{Name: "a", Port: 8080}},
				Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Leaving: []netip.Addr{netip.MustParseAddr("2001:db8::1")},
			}},
		},
	}
}

// Services outside the mesh come through whole, each as a resource of its own.
func TestForeignServices(t *testing.T) {
	r, err := Of(world(), "a")
	if err != nil {
		t.Fatal(err)
	}
	n, err := Decode("a", "e1", 7, r)
	if err != nil {
		t.Fatal(err)
	}
	if want := world().Edge; !reflect.DeepEqual(n.Edge.Services, want.Services) || !reflect.DeepEqual(n.Edge.Endpoints, want.Endpoints) {
		t.Errorf("came through as %+v", n.Edge)
	}
	if r["foreign/default/ext"] == nil || r["endpointslice/default/ext-1"] == nil {
		t.Error("not a resource each")
	}
}

// A node learns its own entries and never those that do not admit it.
func TestOfKeepsEntriesOfOthersAway(t *testing.T) {
	r, err := Of(world(), "a")
	if err != nil {
		t.Fatal(err)
	}
	n, err := Decode("a", "e1", 7, r)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range n.Entries {
		got = append(got, e.Name)
	}
	if want := []string{"api", "web"}; !slices.Equal(got, want) {
		t.Errorf("entries of node a: got %v, want %v", got, want)
	}
	if n.Set.DefaultMode != policy.Strict || n.Set.PeerAuth[0].Ports[8081] != policy.Disable {
		t.Errorf("policy set came through as %+v", n.Set)
	}
	if _, err := Decode("b", "e1", 7, r); err == nil {
		t.Error("node b took the record of node a")
	}
}

// Applying the difference gives the very resources, and a frame from elsewhere is refused.
func TestDiffApply(t *testing.T) {
	w := world()
	old, _ := Of(w, "a")
	w2 := world()
	w2.Policies, w2.Services = nil, append(w2.Services, Service{Namespace: "shop", Name: "new"})
	now, _ := Of(w2, "a")
	f := Diff("e1", 7, 9, old, now)
	if f.Empty() || !slices.Contains(f.Removed, "policies/default") {
		t.Fatalf("difference is %+v", f)
	}
	got, err := f.Apply(old, 7)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, now) {
		t.Errorf("applied: got %v, want %v", got, now)
	}
	if _, ok := old["policies/default"]; !ok {
		t.Error("applying a frame changed the resources it started from")
	}
	if _, err := f.Apply(old, 8); err == nil {
		t.Error("a frame that starts at 7 was applied at 8")
	}
	if d := Diff("e1", 9, 10, now, now); !d.Empty() {
		t.Errorf("difference of equals is %+v", d)
	}
}

// What a node does not understand it does not enforce by half.
func TestDecodeRefusesUnknown(t *testing.T) {
	r, _ := Of(world(), "a")
	r["routes/default/api"] = []byte("{}")
	if _, err := Decode("a", "e1", 7, r); err == nil || !strings.Contains(err.Error(), "routes") {
		t.Errorf("unknown resource: got %v", err)
	}
	delete(r, "routes/default/api")
	delete(r, "mesh")
	if _, err := Decode("a", "e1", 7, r); err == nil {
		t.Error("resources without mesh settings were taken")
	}
}
