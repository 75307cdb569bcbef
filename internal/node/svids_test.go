package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"countersign.dev/internal/attest"
	"countersign.dev/internal/control"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/memnet"
	"countersign.dev/internal/snapshot"
	"countersign.dev/internal/telemetry"
)

// authority is the server's side of the control protocol, in a bubble: it issues SVIDs of ten
// seconds, or does not.
type authority struct {
	t  *testing.T
	ca *identitytest.Authority

	mu    sync.Mutex // guards the rest, for a look-up
	world *snapshot.World
	newer chan struct{}
	away  bool
	asked int
	held  chan struct{} // while not nil, Issue waits for it

	misses []string // of keys, as they were told
}

const life = 10 * time.Second

func (a *authority) Roots() ([]byte, error) { return a.ca.Bundle().JSON() }
func (a *authority) Join(context.Context, control.Joining) (control.Joined, error) {
	return control.Joined{}, errors.New("not here")
}

func (a *authority) World() (*snapshot.World, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.world, a.newer
}

func (a *authority) Issue(_ context.Context, _ string, w *control.Want) ([][]byte, error) {
	a.mu.Lock()
	a.asked++
	away, held := a.away, a.held
	a.mu.Unlock()
	if held != nil {
		<-held
	}
	if away {
		return nil, &control.Refused{Code: "unissuable", Text: "the authority is away"}
	}
	csr, err := x509.ParseCertificateRequest(w.Csr)
	if err != nil {
		return nil, err
	}
	_, name, _ := strings.Cut(w.Entry, "/")
	template := a.ca.LeafTemplate("spiffe://cluster.local/ns/shop/sa/" + name)
	template.NotAfter = time.Now().Add(life)
	serial, err := identity.NewSerial(time.Now(), zero{})
	if err != nil {
		return nil, err
	}
	template.SerialNumber.SetBytes(serial)
	leaf := identitytest.Sign(a.t, template, a.ca.Issuer, csr.PublicKey, a.ca.IssuerKey)
	return [][]byte{leaf.Raw, a.ca.Issuer.Raw}, nil
}

func (a *authority) Report(_ context.Context, _ string, r *control.ReportRequest, _ []byte) (int64, error) {
	if miss := r.GetKeyMiss(); miss != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.misses = append(a.misses, miss.Issuer+" "+miss.Uri)
	}
	return 1, nil
}
func (a *authority) Watch(string, control.Event) {}
func (a *authority) Revoked(context.Context) *control.Revoked {
	return &control.Revoked{Epoch: 1}
}
func (a *authority) Heard(string, int64) {}

func (a *authority) set(away bool) (asked int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked, a.asked, a.away = a.asked, 0, away
	return asked
}

func (a *authority) hold(c chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = c
}

// publish makes the entries the newest revision.
func (a *authority) publish(entries ...entry.Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	bundle, err := a.ca.Bundle().JSON()
	if err != nil {
		a.t.Fatal(err)
	}
	rev := int64(1)
	if a.world != nil {
		rev = a.world.Revision + 1
		close(a.newer)
	}
	a.newer = make(chan struct{})
	a.world = &snapshot.World{
		Revision: rev, Epoch: "e", Entries: entries, Nodes: map[string][]string{"a": {"node:name:a"}},
		Bundles: map[string][]byte{"cluster.local": bundle},
		Mesh:    snapshot.Mesh{TrustDomain: "cluster.local", RootNamespace: "istio-system", PolicyRevision: strings.Repeat("0", 64)},
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// inBubble runs f with a node in touch with an authority, in fake time.
func inBubble(t *testing.T, f func(t *testing.T, n *Node, a *authority)) {
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	synctest.Test(t, func(t *testing.T) {
		a := &authority{t: t, ca: identitytest.New(t, "cluster.local", time.Now())}
		a.publish(shopEntry("web", 1))
		own := a.ca.Leaf(t, "spiffe://cluster.local/ns/countersign/sa/node-a", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(6 * 24 * time.Hour) })
		srv := a.ca.Leaf(t, "spiffe://cluster.local/ns/countersign/sa/server-s", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(6 * 24 * time.Hour) })
		memory, log := memnet.Listen("server"), slog.New(slog.DiscardHandler)
		n, err := New(Options{Dir: dir, Lineage: &Lineage{dir: dir}, Code: attest.Code{TrustDomain: "cluster.local"}, Name: "a", Dial: memory.Dial, Metrics: telemetry.NewMetrics("t"), Log: log})
		if err != nil {
			t.Fatal(err)
		}
		n.snap.Store(&held{Node: &snapshot.Node{}, trust: a.ca.Trust(), index: entry.NewIndex(nil)})
		n.own.Store(&ownSVID{cert: own, notAfter: own.Leaf.NotAfter})
		ctx, cancel := context.WithCancel(t.Context())
		var parts sync.WaitGroup
		parts.Go(func() {
			side := identity.Side{Own: func(string) (*tls.Certificate, error) { return srv, nil }, Trust: func() *identity.Trust { return a.ca.Trust() }, Now: time.Now}
			if err := control.Serve(ctx, memory, control.ServerOptions{House: a, Side: side, TrustDomain: "cluster.local", Log: log}); err != nil {
				t.Error(err)
			}
		})
		parts.Go(func() { n.client.Run(ctx) })
		<-n.first
		n.svids.hold("shop/web")
		parts.Go(func() { n.svids.run(ctx) })
		f(t, n, a)
		cancel()
		parts.Wait()
		n.svids.working.Wait()
		memory.Close()
		n.recorder.Close()
	})
}

func shopEntry(name string, rev int64) entry.Entry {
	return entry.Entry{Namespace: "shop", Name: name, ServiceAccount: name, AnyNode: true, Sets: [][]string{{"run:shop/" + name}}, Revision: rev}
}

// Ten-second SVIDs for an hour: one is always there, none is used after its end, each has a
// new key, and the authority is asked about every five seconds.
func TestRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Node, a *authority) {
		first, err := n.svids.demand(t.Context(), shopEntry("web", 1))
		if err != nil {
			t.Fatal(err)
		}
		gen := first.Generation
		for range 600 {
			time.Sleep(time.Second)
			synctest.Wait()
			v := n.svids.current("shop/web")
			if v == nil || !time.Now().Before(v.NotAfter) {
				t.Fatal("no SVID")
			}
			if v.Generation < gen || v.Generation > gen+1 || v.Generation != gen && string(v.PKCS8) == string(first.PKCS8) {
				t.Fatalf("generation %d after %d", v.Generation, gen)
			}
			gen, first = v.Generation, v
		}
		if asked := a.set(false); asked < 600/6 || asked > 600/4 {
			t.Errorf("asked %d times in 600 s", asked)
		}
	})
}

// While the authority is away the SVID ends and is gone; the node asks on, with patience, and
// has one again within a minute.
func TestOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Node, a *authority) {
		v, err := n.svids.demand(t.Context(), shopEntry("web", 1))
		if err != nil {
			t.Fatal(err)
		}
		a.set(true)
		time.Sleep(time.Until(v.NotAfter) - time.Millisecond)
		if n.svids.current("shop/web") == nil {
			t.Error("gone before its end")
		}
		time.Sleep(2 * time.Millisecond)
		if n.svids.current("shop/web") != nil {
			t.Error("there after its end")
		}
		if asked := a.set(true); asked < 3 || asked > 40 {
			t.Errorf("asked %d times before the end", asked)
		}
		time.Sleep(time.Hour)
		if asked := a.set(true); asked < 50 || asked > 150 {
			t.Errorf("asked %d times in an hour", asked)
		}
		if _, err := n.svids.demand(t.Context(), shopEntry("web", 1)); err == nil {
			t.Error("an SVID from nowhere")
		}
		a.set(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n.svids.current("shop/web") == nil {
			t.Error("no SVID a minute after the authority came back")
		}
	})
}

// Demands at the same time share one request.
func TestDemandOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Node, a *authority) {
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if _, err := n.svids.demand(t.Context(), shopEntry("web", 1)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if asked := a.set(false); asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
}

// A Workload that goes takes its key along, also the one that is just being made.
func TestEntryGoes(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Node, a *authority) {
		if _, err := n.svids.demand(t.Context(), shopEntry("web", 1)); err != nil {
			t.Fatal(err)
		}
		a.publish()
		synctest.Wait()
		if len(n.svids.all()) != 0 {
			t.Fatal("the key of a deleted Workload is kept")
		}
		a.publish(shopEntry("web", 3))
		synctest.Wait()
		release := make(chan struct{})
		a.hold(release)
		done := make(chan error, 1)
		go func() { _, err := n.svids.demand(t.Context(), shopEntry("web", 3)); done <- err }()
		synctest.Wait()
		a.publish()
		synctest.Wait()
		close(release)
		if err := <-done; err == nil || !strings.Contains(err.Error(), "is gone") {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Hour)
		if len(n.svids.all()) != 0 {
			t.Error("a key was made for a deleted Workload")
		}
	})
}

// A Workload that changes keeps its SVID while the identity is the same; what is written into
// certificates is brought up to date at once.
func TestEntryChanges(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Node, a *authority) {
		first, err := n.svids.demand(t.Context(), shopEntry("web", 1))
		if err != nil {
			t.Fatal(err)
		}
		hinted := shopEntry("web", 2)
		hinted.Hint = "main"
		a.publish(hinted)
		synctest.Wait()
		if v := n.svids.current("shop/web"); v == nil || v.Generation != first.Generation || v.entry.Revision != 2 {
			t.Errorf("got %+v", v)
		}
		named := shopEntry("web", 3)
		named.DNSNames = []string{"web.example.com"}
		a.publish(named)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if v := n.svids.current("shop/web"); v == nil || v.Generation == first.Generation {
			t.Error("the certificate still has the old names")
		}
		other := shopEntry("web", 4)
		other.ServiceAccount = "other"
		a.publish(other)
		synctest.Wait()
		if n.svids.current("shop/web") != nil {
			t.Error("the old identity is kept")
		}
	})
}

func TestRetryAfter(t *testing.T) {
	for range 100 {
		for tries := range 100 {
			for _, left := range []time.Duration{-time.Hour, 0, time.Second, time.Minute, time.Hour} {
				d := retryAfter(tries, left)
				most := time.Minute
				if left > 0 {
					most = max(left/10, 100*time.Millisecond)
				}
				if d < 50*time.Millisecond || d > min(most, time.Minute) {
					t.Fatalf("try %d with %v left: %v", tries, left, d)
				}
			}
		}
	}
}

// A key that nobody uses is not kept: its SVID is not renewed, and goes.
func TestUnusedSVIDGoes(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Node, a *authority) {
		n.svids.release("shop/web")
		if _, err := n.svids.demand(t.Context(), shopEntry("web", 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(life)
		synctest.Wait()
		if len(n.svids.all()) != 0 || len(n.svids.asked) != 0 || len(n.svids.idle) != 0 {
			t.Errorf("kept %d", len(n.svids.all()))
		}
		if asked := a.set(false); asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
}
