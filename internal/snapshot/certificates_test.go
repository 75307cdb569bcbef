package snapshot

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/entry"
	"countersign.dev/internal/route"
)

// A pair goes to the nodes that may run a Gateway which refers to it and may see it; what is public of it to all.
func TestSecPairsByNode(t *testing.T) {
	secret := func(ns, name string) route.Ref {
		return route.Ref{Kind: route.Kind{Kind: "Secret"}, Name: route.Name{Namespace: ns, Name: name}}
	}
	gateway := func(name string, refs ...route.Ref) route.Gateway {
		return route.Gateway{
			Meta: route.Meta{Name: route.Name{Namespace: "shop", Name: name}}, Class: "countersign",
			Listeners: []route.Listener{{Name: "https", Port: 443, Protocol: route.HTTPS, Certificates: refs}},
		}
	}
	runs := func(name, node string, selector string) entry.Entry {
		return entry.Entry{Namespace: "shop", Name: name, ServiceAccount: name, Sets: [][]string{{selector}}, Nodes: [][]string{{"node:name:" + node}}}
	}
	w := &World{
		Mesh: Mesh{TrustDomain: "cluster.local", PolicyRevision: strings.Repeat("0", 64)},
		Edge: route.Objects{Gateways: []route.Gateway{
			gateway("edge", secret("shop", "a"), secret("team", "hidden"), secret("shop", "bad"), secret("shop", "none")), gateway("other", secret("shop", "b")),
			gateway("fake", secret("shop", "c")),
		}},
		Entries: []entry.Entry{runs("edge", "one", "gateway:shop/edge"), runs("fake", "one", "unix:uid:1001"), runs("other", "two", "gateway:shop/other")},
		Nodes:   map[string][]string{"one": {"node:name:one"}, "two": {"node:name:two"}, "three": {"node:name:three"}},
	}
	for _, name := range []string{"a", "b", "c", "bad", "unused"} {
		c := Certificate{Name: route.Name{Namespace: "shop", Name: name}, Certificate: route.Certificate{Names: []string{name + ".test"}}, Pair: KeyPair{[]byte("chain"), []byte("key-of-" + name)}}
		if name == "bad" {
			c.Fault, c.Pair = "holds none; apply it", KeyPair{}
		}
		w.Certificates = append(w.Certificates, c)
	}
	w.Certificates = append(w.Certificates, Certificate{Name: route.Name{Namespace: "team", Name: "hidden"}, Pair: KeyPair{[]byte("chain"), []byte("key-of-hidden")}})
	for node, want := range map[string][]string{"one": {"shop/a"}, "two": {"shop/b"}, "three": nil} {
		r, err := Of(w, node)
		if err != nil {
			t.Fatal(err)
		}
		n, err := Decode(node, "", 1, r)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for name, p := range n.KeyPairs {
			got = append(got, name.String())
			if string(p.Key) != "key-of-"+name.Name || string(p.Chain) != "chain" {
				t.Errorf("%s: another pair came", name)
			}
			if shown := fmt.Sprintf("%v %+v %#v %s %x", p, p, p, p, p); strings.Contains(shown, "key-of") || strings.Contains(shown, fmt.Sprintf("%x", "key-of")) {
				t.Errorf("prints %s", shown)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("node %s has the pairs of %v, want %v", node, got, want)
		}
		if len(n.Certificates) != 4 || n.Certificates[route.Name{Namespace: "shop", Name: "bad"}].Fault == "" {
			t.Errorf("node %s knows of %v", node, n.Certificates)
		}
		for name, b := range r {
			if !strings.HasPrefix(name, "keypair/") && strings.Contains(string(b), "key-of") {
				t.Errorf("%s holds a key", name)
			}
		}
	}
	if _, err := Decode("one", "", 1, Resources{"mesh": []byte(`{"trustDomain":"t"}`), "keypair/shop/a": []byte(`{"Key":7777}`)}); err == nil || strings.Contains(err.Error(), "7777") {
		t.Errorf("a broken pair: %v", err)
	}
}
