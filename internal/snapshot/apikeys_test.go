package snapshot

import (
	"strings"
	"testing"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/entry"
)

// API keys go to nodes that serve Gateways, and to no other.
func TestSecKeysGoToGatewaysAlone(t *testing.T) {
	w := &World{
		Revision: 3, Mesh: Mesh{TrustDomain: "cluster.local", PolicyRevision: strings.Repeat("0", 64)},
		Nodes:   map[string][]string{"edge": {"node:name:edge"}, "inner": {"node:name:inner"}},
		APIKeys: apikey.Blocks{"0a": []byte(`[]`), "ff": []byte(`[]`)},
		Entries: []entry.Entry{
			{Namespace: "default", Name: "edge", ServiceAccount: "edge", Sets: [][]string{{"gateway:default/edge"}}, Nodes: [][]string{{"node:name:edge"}}},
			{Namespace: "default", Name: "api", ServiceAccount: "api", Sets: [][]string{{"run:default/api"}}, Nodes: [][]string{{"node:name:inner"}}},
		},
	}
	for node, want := range map[string]int{"edge": 2, "inner": 0, "nobody": 0} {
		r, err := Of(w, node)
		if err != nil {
			t.Fatal(err)
		}
		n, err := Decode(node, "e", 3, r)
		if err != nil || len(n.APIKeys) != want {
			t.Errorf("%s knows %d blocks of keys, want %d; %v", node, len(n.APIKeys), want, err)
		}
	}
}
