package bearer

import (
	"testing"

	"countersign.dev/internal/grant"
)

func BenchmarkNoToken(b *testing.B) {
	w := newWorld(b)
	r, q := w.rules(), w.get("/?a=1", "Cookie: a=1; b=2")
	measure(b, r, q, false)
}

func BenchmarkCachedOwn(b *testing.B) {
	w := newWorld(b)
	r, q := w.rules(), w.get("/", bearer(w.own.ours()))
	measure(b, r, q, true)
}

// BenchmarkCachedOwnBesideOthers is an own token where several issuers are believed.
func BenchmarkCachedOwnBesideOthers(b *testing.B) {
	w := newWorld(b)
	w.issuers = []grant.Issuer{{Name: "corp", Namespace: "shop", Issuer: corp, JWKS: w.corp.jwks(), Uses: []grant.Use{grant.UseRequest}}}
	r, q := w.rules(), w.get("/", bearer(w.own.ours()))
	measure(b, r, q, true)
}

func BenchmarkOpaqueOfApplication(b *testing.B) {
	w := newWorld(b)
	r, q := w.rules(), w.get("/", bearer("2YotnFZFEjr1zCsicMWpAA"))
	measure(b, r, q, false)
}

func BenchmarkGarbage(b *testing.B) {
	w := newWorld(b)
	r, q := w.rules(), w.get("/", bearer(w.own.ours(claims{"exp": 1})))
	b.ReportAllocs()
	for b.Loop() {
		if r.Authenticate(q).Refused == nil {
			b.Fatal("accepted")
		}
	}
}

func measure(b *testing.B, r *Rules, q *Request, identity bool) {
	b.ReportAllocs()
	for b.Loop() {
		if out := r.Authenticate(q); out.Refused != nil || (out.Token != nil) != identity {
			b.Fatalf("%+v", out)
		}
	}
}

// TestHotPathAllocates holds what the benchmarks show: nothing is allocated for a request without
// token, or with one of ours that was verified before.
func TestHotPathAllocates(t *testing.T) {
	w := newWorld(t)
	r := w.rules()
	for name, q := range map[string]*Request{
		"no token": w.get("/?a=1", "Cookie: a=1"), "own token": w.get("/", bearer(w.own.ours())),
	} {
		r.Authenticate(q)
		if n := testing.AllocsPerRun(100, func() { r.Authenticate(q) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
