package revocation

import (
	"fmt"
	"testing"
)

// large is a log of n entries, of all kinds in turn.
func large(t testing.TB, n int) *Log {
	entries := []Entry{entry(ByBefore, "", at-100)}
	for i := range n {
		kind, before := []string{ByJTI, ByRTI, BySID, BySub, ByClient, ByKID}[i%6], int64(0)
		if kind == BySub || kind == ByClient {
			before = at
		}
		entries = append(entries, entry(kind, fmt.Sprintf("value-%016d", i), before))
	}
	return whole(t, entries...)
}

// long is a token with the longest chain there is, which nothing revokes.
func long() *token {
	s := &token{jti: "value-j000000000000000", kid: "value-k000000000000000", rti: "value-r000000000000000", sid: "value-s000000000000000",
		sub: "corp:value-0000000000000", client: "spiffe://example.com/ns/shop/sa/checkout", origin: "spiffe://example.com/ns/edge/sa/gateway", iat: at - 10}
	for i := range 8 {
		s.anc = append(s.anc, fmt.Sprintf("value-a%015d", i))
		s.act = append(s.act, fmt.Sprintf("spiffe://example.com/ns/shop/sa/hop-%d", i))
	}
	return s
}

func TestRevokedDoesNotAllocate(t *testing.T) {
	l, s, hit := large(t, 1000), long(), &token{sub: "value-0000000000000003", iat: at}
	if _, got := l.Revoked(s); got {
		t.Fatal("revoked")
	}
	if _, got := l.Revoked(hit); !got {
		t.Fatal("not revoked")
	}
	for _, s := range []*token{s, hit} {
		if n := testing.AllocsPerRun(100, func() { l.Revoked(s) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

func BenchmarkRevoked(b *testing.B) {
	for _, n := range []int{0, 10_000, 100_000} {
		l := large(b, n)
		for name, s := range map[string]*token{"plain": good(), "chain of 8": long()} {
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					l.Revoked(s)
				}
			})
		}
	}
}

// BenchmarkAdd is an increment of one entry beside 10 000: it copies the map of its kind.
func BenchmarkAdd(b *testing.B) {
	l := large(b, 10_000)
	e := entry(ByJTI, "one more", 0)
	b.ReportAllocs()
	for b.Loop() {
		e.Until++ // so that it says something new
		if err := l.Add([]Entry{e}, now); err != nil {
			b.Fatal(err)
		}
	}
}
