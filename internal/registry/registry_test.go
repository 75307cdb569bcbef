package registry

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/entry"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/snapshot"
	"countersign.dev/internal/store"
)

// world is a registry over an empty store, the authority of its mesh, and one of another mesh.
type world struct {
	t          *testing.T
	st         *store.Mem
	r          *Registry
	ca, others *identitytest.Authority
	now        time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	now := time.Now()
	w := &world{t: t, st: store.Memory(store.MemoryOptions{}), now: now, ca: identitytest.New(t, "cluster.local", now), others: identitytest.New(t, "other.example", now)}
	t.Cleanup(func() { w.st.Close() })
	w.r = New(w.st)
	return w
}

const here = "this connection"

// claim is a good claim of id for an entry, on node a.
func (w *world) claim(id string, e entry.Entry) Claim {
	w.t.Helper()
	return w.claimOf(w.ca.Leaf(w.t, id), e)
}

func (w *world) claimOf(svid *tls.Certificate, e entry.Entry) Claim {
	c := Claim{
		Node: Node{Name: "a", Inbound: "127.0.0.1:7443"}, ID: "i1", Entry: e, Selectors: []string{"node:name:a"},
		Ports: []snapshot.Port{{Number: 80, Target: 8081, Protocol: "http"}}, State: snapshot.Ready,
	}
	for _, der := range svid.Certificate {
		c.Chain = append(c.Chain, identitytest.Parse(w.t, der))
	}
	return w.sign(c, svid, here)
}

func (w *world) sign(c Claim, svid *tls.Certificate, connection string) Claim {
	w.t.Helper()
	sum := sha256.Sum256([]byte(connection))
	var err error
	c.Signed = sum[:]
	if c.Signature, err = ecdsa.SignASN1(rand.Reader, svid.PrivateKey.(*ecdsa.PrivateKey), c.Signed); err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) up(c Claim) (int64, error) {
	return w.r.Up(w.t.Context(), c, w.ca.Trust(), w.now)
}

func (w *world) owners(name string, owners ...string) {
	w.t.Helper()
	ns, short, _ := strings.Cut(name, "/")
	b, err := json.Marshal(serviceRecord{V: 1, Service: snapshot.Service{Namespace: ns, Name: short, Owners: owners}})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.st.Commit(w.t.Context(), store.Txn{Then: []store.Op{store.Put(ServicePrefix+name, b)}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) instance(id string) (snapshot.Instance, bool) {
	w.t.Helper()
	kv, err := w.st.Get(w.t.Context(), InstancePrefix+"a/"+id)
	if errors.Is(err, store.ErrNotFound) {
		return snapshot.Instance{}, false
	}
	if err != nil {
		w.t.Fatal(err)
	}
	i, err := DecodeInstance(kv)
	if err != nil {
		w.t.Fatal(err)
	}
	return i, true
}

func workload(name string, edits ...func(*entry.Entry)) entry.Entry {
	e := entry.Entry{Namespace: "shop", Name: name, ServiceAccount: name, Nodes: [][]string{{"node:name:a"}}}
	for _, edit := range edits {
		edit(&e)
	}
	return e
}

func id(sa string) string { return "spiffe://cluster.local/ns/shop/sa/" + sa }

// R1 to R3 (registry.md 10): which services an identity may be found as.
func TestRules(t *testing.T) {
	services := func(names ...string) func(*entry.Entry) { return func(e *entry.Entry) { e.Services = names } }
	for _, c := range []struct {
		name   string
		owners map[string][]string
		entry  entry.Entry
		want   []string
		refuse string
	}{
		{"R1, a new name", nil, workload("orders"), []string{"shop/orders"}, ""},
		{"R2, names of the entry", nil, workload("web", services("orders", "cart")), []string{"shop/cart", "shop/orders", "shop/web"}, ""},
		{"R3, an owner", map[string][]string{"shop/orders": {id("orders")}}, workload("orders"), []string{"shop/orders"}, ""},
		{"owners without it", map[string][]string{"shop/orders": {id("other")}}, workload("orders"), nil, `"` + id("orders") + `" may not serve "shop/orders"`},
		{"owners take R2 away", map[string][]string{"shop/cart": {id("cart")}}, workload("web", services("cart")), nil, "shop/cart"},
		{"own name taken, another is not", map[string][]string{"shop/web": {id("other")}}, workload("web", services("cart")), []string{"shop/cart"}, ""},
		{"own name taken and said twice", map[string][]string{"shop/web": {id("other")}}, workload("web", services("web")), nil, "shop/web"},
		{"an owner is no prefix", map[string][]string{"shop/orders": {"spiffe://cluster.local/ns/shop/sa/order", "spiffe://cluster.local/ns/shop/sa/*"}}, workload("orders"), nil, "shop/orders"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			for name, owners := range c.owners {
				w.owners(name, owners...)
			}
			_, err := w.up(w.claim(id(c.entry.ServiceAccount), c.entry))
			i, found := w.instance("i1")
			if c.refuse != "" {
				var refused *Refusal
				if !errors.As(err, &refused) || refused.Reason != "identity_mismatch" || !strings.Contains(refused.Text, c.refuse) || refused.Hint == "" {
					t.Fatalf("got %v, want a refusal with %q and a hint", err, c.refuse)
				}
				if found {
					t.Errorf("a refused instance was written: %+v", i)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(i.Services, c.want) || i.Owner != id(c.entry.ServiceAccount) || i.Address != "127.0.0.1:7443" {
				t.Errorf("instance is %+v, want services %v", i, c.want)
			}
		})
	}
}

// A claim is worth the owner's key on this very connection, and nothing else.
func TestProof(t *testing.T) {
	admitNobody := func(e *entry.Entry) { e.Nodes = [][]string{{"node:name:b"}} }
	for _, c := range []struct {
		name  string
		claim func(w *world) Claim
		want  string
	}{
		{"another workload's SVID", func(w *world) Claim { return w.claim(id("web"), workload("orders")) }, "does not give"},
		{"a foreign SVID", func(w *world) Claim {
			return w.claimOf(w.others.Leaf(w.t, "spiffe://other.example/ns/shop/sa/orders"), workload("orders"))
		}, "the owner's SVID"},
		{"a node's SVID", func(w *world) Claim {
			return w.claim("spiffe://cluster.local/ns/countersign/sa/node-a", workload("orders"))
		}, "does not give"},
		{"an ended SVID", func(w *world) Claim {
			return w.claimOf(w.ca.Leaf(w.t, id("orders"), func(c *x509.Certificate) { c.NotAfter = w.now.Add(-time.Second) }), workload("orders"))
		}, "the owner's SVID"},
		{"no SVID", func(w *world) Claim { c := w.claim(id("orders"), workload("orders")); c.Chain = nil; return c }, "the owner's SVID"},
		{"an SVID without its key", func(w *world) Claim {
			return w.sign(w.claim(id("orders"), workload("orders")), w.ca.Leaf(w.t, id("orders")), here)
		}, "did not sign"},
		{"a signature of another connection", func(w *world) Claim {
			svid := w.ca.Leaf(w.t, id("orders"))
			c := w.claimOf(svid, workload("orders"))
			elsewhere := w.sign(c, svid, "another connection")
			c.Signature = elsewhere.Signature
			return c
		}, "did not sign"},
		{"no signature", func(w *world) Claim { c := w.claim(id("orders"), workload("orders")); c.Signature = nil; return c }, "did not sign"},
		{"TestSecNodeNotAdmitted", func(w *world) Claim { return w.claim(id("orders"), workload("orders", admitNobody)) }, "does not admit node"},
		{"a state that is none", func(w *world) Claim { c := w.claim(id("orders"), workload("orders")); c.State = "great"; return c }, "is no state"},
		{"port 0", func(w *world) Claim { c := w.claim(id("orders"), workload("orders")); c.Ports[0].Target = 0; return c }, "1 to 65535"},
		{"too many ports", func(w *world) Claim {
			c := w.claim(id("orders"), workload("orders"))
			c.Ports = slices.Repeat(c.Ports, maxPorts+1)
			return c
		}, "ports"},
		{"an id with a slash", func(w *world) Claim { c := w.claim(id("orders"), workload("orders")); c.ID = "x/y"; return c }, "instance"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			_, err := w.up(c.claim(w))
			var refused *Refusal
			if !errors.As(err, &refused) || !strings.Contains(refused.Text, c.want) {
				t.Fatalf("got %v, want a refusal with %q", err, c.want)
			}
			kvs, _, err := w.st.List(t.Context(), "")
			if err != nil || len(kvs) != 0 {
				t.Errorf("a refused claim wrote %v (%v)", kvs, err)
			}
		})
	}
}

// Said again a registration makes no revision: a node that comes back moves nothing (G13).
func TestAgainChangesNothing(t *testing.T) {
	w := newWorld(t)
	svid := w.ca.Leaf(t, id("orders"))
	first, err := w.up(w.claimOf(svid, workload("orders")))
	if err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(time.Minute)
	again, err := w.up(w.claimOf(svid, workload("orders")))
	if err != nil || again != first {
		t.Fatalf("again: revision %d, %v; want %d", again, err, first)
	}
	c := w.claimOf(svid, workload("orders"))
	c.Ports = append(c.Ports, snapshot.Port{Number: 81, Target: 8082, Protocol: "http"})
	if rev, err := w.up(c); err != nil || rev <= first {
		t.Fatalf("with another port: revision %d, %v", rev, err)
	}
	kv, err := w.st.Get(t.Context(), ServicePrefix+"shop/orders")
	if err != nil {
		t.Fatal(err)
	}
	svc, err := DecodeService(kv)
	if err != nil || len(svc.Ports) != 2 {
		t.Errorf("service is %+v, %v; want both ports", svc, err)
	}
}

// States are those of registry.md 11.1, and only of what is registered.
func TestState(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	if _, err := w.r.State(ctx, "a", "i1", snapshot.Ready, w.now); reason(err) != "stale" {
		t.Fatalf("of an unknown instance: %v", err)
	}
	c := w.claim(id("orders"), workload("orders"))
	c.State = snapshot.Starting
	first, err := w.up(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.r.State(ctx, "a", "i1", "great", w.now); reason(err) != "bad_report" {
		t.Fatalf("a state that is none: %v", err)
	}
	if _, err := w.r.State(ctx, "b", "i1", snapshot.Ready, w.now); reason(err) != "stale" {
		t.Fatalf("another node's instance: %v", err)
	}
	rev, err := w.r.State(ctx, "a", "i1", snapshot.Ready, w.now)
	if err != nil || rev <= first {
		t.Fatalf("got %d, %v", rev, err)
	}
	if again, err := w.r.State(ctx, "a", "i1", snapshot.Ready, w.now); err != nil || again != rev {
		t.Fatalf("again: got %d, %v; want %d", again, err, rev)
	}
}

func reason(err error) string {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}

// Gone without an id takes every instance of one node, and of no node whose name begins alike.
func TestGone(t *testing.T) {
	w := newWorld(t)
	for _, node := range []string{"a", "ab"} {
		for _, inst := range []string{"i1", "i2"} {
			c := w.claim(id("orders"), workload("orders", func(e *entry.Entry) { e.Nodes, e.AnyNode = nil, true }))
			c.Node.Name, c.ID = node, inst
			if _, err := w.up(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	left := func() (names []string) {
		kvs, _, err := w.st.List(t.Context(), InstancePrefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range kvs {
			names = append(names, strings.TrimPrefix(kv.Key, InstancePrefix))
		}
		return names
	}
	if _, err := w.r.Gone(t.Context(), "a", "i1"); err != nil {
		t.Fatal(err)
	}
	if got, want := left(), []string{"a/i2", "ab/i1", "ab/i2"}; !slices.Equal(got, want) {
		t.Fatalf("after one: got %v, want %v", got, want)
	}
	if _, err := w.r.Gone(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	if got, want := left(), []string{"ab/i1", "ab/i2"}; !slices.Equal(got, want) {
		t.Fatalf("after all: got %v, want %v", got, want)
	}
}

// Copies that come at once all count: a conflict is read again.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	const copies = 8
	done := make(chan error, copies)
	for n := range copies {
		c := w.claim(id("orders"), workload("orders"))
		c.ID = "i" + string(rune('a'+n))
		c.Ports[0].Number = uint16(80 + n)
		go func() { _, err := w.r.Up(t.Context(), c, w.ca.Trust(), w.now); done <- err }()
	}
	for range copies {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	kv, err := w.st.Get(t.Context(), ServicePrefix+"shop/orders")
	if err != nil {
		t.Fatal(err)
	}
	if svc, err := DecodeService(kv); err != nil || len(svc.Ports) != copies {
		t.Errorf("service is %+v, %v; want %d ports", svc, err, copies)
	}
}
