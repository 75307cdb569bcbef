package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"countersign.dev/internal/grant"
)

// rawCosts are the CPU nanoseconds of one P-256 signature and one verification, now: on a
// shared machine the only measure that others can be held against.
func rawCosts(b *testing.B, key *ecdsa.PrivateKey) (sign, verify float64) {
	const runs = 400
	sum := sha256.Sum256(nil)
	var sig []byte
	began := cpu(b)
	for range runs {
		var err error
		if sig, err = ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
			b.Fatal(err)
		}
	}
	signed := cpu(b)
	for range runs {
		if !ecdsa.VerifyASN1(&key.PublicKey, sum[:], sig) {
			b.Fatal("a good signature is refused")
		}
	}
	return float64(signed-began) / runs, float64(cpu(b)-signed) / runs
}

// measure asks again and again, and reports what one answer costs: in CPU time, and as a part
// of what the goal of tokens.md 20 allows, raw operations of the same run.
func (c *chainBed) measure(b *testing.B, w *wire, verifications, signatures float64) {
	w.ask(b)
	b.ReportAllocs()
	began := cpu(b)
	for b.Loop() {
		w.ask(b)
	}
	each := float64(cpu(b)-began) / float64(b.N)
	sign, verify := rawCosts(b, c.key)
	b.ReportMetric(each, "cpu-ns/op")
	b.ReportMetric(each/(verifications*verify+signatures*sign), "of-goal")
}

// BenchmarkExchange is one exchange over a kept-alive mTLS connection, record included: the goal
// is 2.5 raw verifications and 2 signatures. The client's side of the connection counts too.
func BenchmarkExchange(b *testing.B) {
	c := newChainBed(b)
	c.limits.exchange.every = 0
	form := formOf("grant_type", grant.GrantTokenExchange, "client_id", idOf("b"), "subject_token", c.first("a", "b"),
		"subject_token_type", typeAccess, "audience", "c")
	c.measure(b, c.wire(c.cert("b"), form, ""), 2.5, 2)
}

// BenchmarkIntrospection is one answer about an own token: the goal is 0.15 ms, which is two raw
// verifications where the goals were measured.
func BenchmarkIntrospection(b *testing.B) {
	c := newChainBed(b)
	c.limits.introspect.every = 0
	w := c.wire(c.cert("b"), formOf("client_id", idOf("b"), "token", c.first("a", "b")), "")
	w.request = bytes.Replace(w.request, []byte(pathToken), []byte(pathIntrospect), 1)
	c.measure(b, w, 2, 0)
}
