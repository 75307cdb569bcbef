package jwks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"countersign.dev/internal/jose"
	"countersign.dev/internal/store"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// provider is a foreign issuer on a real TLS listener. What it answers can be changed.
type provider struct {
	*httptest.Server
	answer atomic.Pointer[http.HandlerFunc]
	hits   atomic.Int64 // requests
	conns  atomic.Int64
}

func newProvider(t *testing.T, answer http.HandlerFunc) *provider {
	t.Helper()
	p := &provider{}
	p.answer.Store(&answer)
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.hits.Add(1)
		(*p.answer.Load())(w, r)
	}))
	p.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			p.conns.Add(1)
		}
	}
	p.StartTLS()
	t.Cleanup(p.Close)
	return p
}

func (p *provider) says(answer http.HandlerFunc) { p.answer.Store(&answer) }

func (p *provider) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.Certificate())
	return pool
}

// serve answers with a body, a key set as a rule.
func serve(body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }
}

// keySet is a set of n new keys, and its key ids.
func keySet(t testing.TB, n int) (body []byte, ids []string) {
	t.Helper()
	var keys []*jose.Key
	for range n {
		priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := jose.NewSigner(priv)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, signer.Key())
		ids = append(ids, signer.Key().ID())
	}
	set, err := jose.NewSet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	if body, err = json.Marshal(set); err != nil {
		t.Fatal(err)
	}
	return body, ids
}

// clock is a wall clock that tests move.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(1_790_000_000_000_000_000)
	return c
}

func (c *clock) now() time.Time       { return time.Unix(0, c.at.Load()) }
func (c *clock) pass(d time.Duration) { c.at.Add(int64(d)) }
func newStore(t *testing.T) *store.Mem {
	st := store.Memory(store.MemoryOptions{})
	t.Cleanup(func() { st.Close() })
	return st
}

// turn retrieves all that is due, and returns when that is over.
func turn(t *testing.T, k *Keeper) {
	t.Helper()
	k.begin(t.Context())
	k.flights.Wait()
}

// stored is the record of a source.
func stored(t *testing.T, st store.Store, s Source) Kept {
	t.Helper()
	kv, err := st.Get(t.Context(), s.Key())
	if err != nil {
		t.Fatal(err)
	}
	k, err := Decode(kv)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// idsOf are the key ids that count at a time.
func idsOf(k Kept, now time.Time) (ids []string) {
	for _, key := range k.Keys(now).Keys() {
		ids = append(ids, key.ID())
	}
	return ids
}
