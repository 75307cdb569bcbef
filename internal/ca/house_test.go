package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/ca"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/keyring"
	"countersign.dev/internal/store"
)

// log is a Recorder in memory that can be told to fail.
type log struct {
	mu      sync.Mutex // guards all below, for an append
	records []*audit.Record
	fail    error
}

func (l *log) Record(_ context.Context, r *audit.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	l.records = append(l.records, r)
	return nil
}

func (l *log) broken(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

// last are the last n records, oldest first.
func (l *log) last(n int) []*audit.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records[max(0, len(l.records)-n):])
}

// house is a store, a seal key and a state directory: all that outlives an Authority.
type house struct {
	t    testing.TB
	st   store.Engine
	seal keyring.Sealer
	dir  *os.Root
	log  *log
	name string
}

func newHouse(t testing.TB) *house {
	t.Helper()
	st := store.Memory(store.MemoryOptions{})
	t.Cleanup(func() { st.Close() })
	seal, err := store.NewSealer(t.Context(), st, "default", bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return &house{t: t, st: st, seal: seal, dir: openDir(t), log: new(log), name: "s1"}
}

func openDir(t testing.TB) *os.Root {
	t.Helper()
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func (h *house) try() (*ca.Authority, error) {
	return ca.Open(h.t.Context(), ca.Options{
		Store: h.st, Sealer: h.seal, Dir: h.dir, TrustDomain: td, ServerName: h.name, Recorder: h.log,
	})
}

func (h *house) open() *ca.Authority {
	h.t.Helper()
	a, err := h.try()
	if err != nil {
		h.t.Fatal(err)
	}
	return a
}

func csrOf(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := ca.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func workload(t testing.TB) ca.Request {
	t.Helper()
	return ca.Request{
		Profile: ca.Workload, ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/api"),
		CSR: csrOf(t, newKey(t)), Entry: "shop/api", Selectors: []string{"run:shop/api"}, Node: "laptop", Replaces: []byte{9},
	}
}

func parse(t testing.TB, chain [][]byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for _, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, cert)
	}
	return out
}

// checkGood asks our own verifier and go-spiffe's.
func checkGood(t testing.TB, a *ca.Authority, issued *ca.Issued, want spiffeid.ID, now time.Time) {
	t.Helper()
	chain := parse(t, issued.Chain)
	peer, err := identity.Verify(chain, identity.NewTrust(td, a.Bundle()), now)
	if err != nil || peer.ID != want {
		t.Fatalf("Verify: got %q, %v, want %q", peer.ID, err, want)
	}
	if !bytes.Equal(peer.Serial, issued.Serial) || !peer.IssuedAt.Equal(issued.IssuedAt) || !peer.NotAfter.Equal(issued.NotAfter) {
		t.Errorf("peer %+v and issued %+v differ", peer, issued)
	}
	oracle, _, err := x509svid.Verify(chain, x509bundle.FromX509Authorities(td, a.Bundle().Roots), x509svid.WithTime(now))
	if err != nil || oracle != want {
		t.Errorf("go-spiffe: got %q, %v, want %q", oracle, err, want)
	}
}
