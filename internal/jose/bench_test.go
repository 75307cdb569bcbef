package jose

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"testing"
	"time"
)

// The tests' one moment, and who speaks in it.
const (
	epoch  = 1790000000
	issuer = "https://tokens.example.com"
	domain = "example.com"
	orders = "spiffe://example.com/ns/shop/sa/orders"
	web    = "spiffe://example.com/ns/shop/sa/web"
)

var now = time.Unix(epoch+1, 0)

// access is the claims of a token as the token service mints it, with an actor and a chain.
type access struct {
	Iss   string   `json:"iss"`
	Sub   string   `json:"sub"`
	Aud   string   `json:"aud"`
	Exp   int64    `json:"exp"`
	Iat   int64    `json:"iat"`
	Jti   string   `json:"jti"`
	CID   string   `json:"client_id"`
	Scope string   `json:"scope"`
	Cnf   cnf      `json:"cnf"`
	Act   *act     `json:"act,omitempty"`
	Sid   string   `json:"sid,omitempty"`
	Rti   string   `json:"rti,omitempty"`
	Anc   []string `json:"anc,omitempty"`
	Oat   string   `json:"oat,omitempty"`
	Ocid  string   `json:"ocid,omitempty"`
	Oiss  string   `json:"oiss,omitempty"`
	Osub  string   `json:"osub,omitempty"`
}

type cnf struct {
	SPIFFE string `json:"spiffe"`
}

type act struct {
	Sub string `json:"sub"`
	Act *act   `json:"act,omitempty"`
}

func typical() access {
	return access{
		Iss: issuer, Sub: "corp:7f3b2f6c", Aud: orders, Exp: epoch + 300, Iat: epoch, Jti: "5uVb0kYQm3T1cW9ZqA2xLr",
		CID: web, Scope: "orders:create orders:read", Cnf: cnf{web}, Act: &act{web, &act{Sub: "spiffe://example.com/ns/edge/sa/gateway"}},
		Sid: "3nT8aaaaaaaaaaaaaaaaaa", Rti: "0aQ4aaaaaaaaaaaaaaaaaa", Anc: []string{"4Gm1aaaaaaaaaaaaaaaaaa", "7Zx9aaaaaaaaaaaaaaaaaa"},
		Oat: "oidc", Ocid: "web", Oiss: "https://login.corp.example", Osub: "7f3b2f6c",
	}
}

func newKey(tb testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	tb.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func setOf(tb testing.TB, keys ...*Key) *Set {
	tb.Helper()
	s, err := NewSet(keys...)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// minted gives a signer, a token of it, and a check that takes the token.
func minted(tb testing.TB) (*Signer, string, *Check) {
	tb.Helper()
	s, err := NewSigner(newKey(tb, elliptic.P256()))
	if err != nil {
		tb.Fatal(err)
	}
	raw, err := s.Sign(TypAccess, typical())
	if err != nil {
		tb.Fatal(err)
	}
	return s, raw, &Check{Profile: Own, Issuer: issuer, Keys: setOf(tb, s.Key()), Audiences: []string{orders}, TrustDomain: domain}
}

func BenchmarkMint(b *testing.B) {
	s, raw, _ := minted(b)
	claims := typical()
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := s.Sign(TypAccess, claims); err != nil {
			b.Fatal(err)
		}
	}
}

// The raw signature and its check, beside which the others are read.
func BenchmarkRaw(b *testing.B) {
	k := newKey(b, elliptic.P256())
	sum := sha256.Sum256([]byte("x"))
	sig, err := ecdsa.SignASN1(rand.Reader, k, sum[:])
	if err != nil {
		b.Fatal(err)
	}
	b.Run("sign", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ecdsa.SignASN1(rand.Reader, k, sum[:]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !ecdsa.VerifyASN1(&k.PublicKey, sum[:], sig) {
				b.Fatal("refused")
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	_, raw, check := minted(b)
	b.Run("cold", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := check.Verify(now, raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("cached", func(b *testing.B) {
		cache := NewCache(1 << 20)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := cache.Verify(now, raw, check); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("cached other copy", func(b *testing.B) {
		cache := NewCache(1 << 20)
		copies := []string{strings.Clone(raw), strings.Clone(raw)}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := cache.Verify(now, copies[i%2], check); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Garbage that looks like a token dies before the signature.
func BenchmarkGarbage(b *testing.B) {
	s, raw, check := minted(b)
	late := typical()
	late.Exp, late.Iat = epoch-300, epoch-600
	ended, err := s.Sign(TypAccess, late)
	if err != nil {
		b.Fatal(err)
	}
	other := typical()
	other.Iss = "https://tokens.example.org"
	foreign, err := s.Sign(TypAccess, other)
	if err != nil {
		b.Fatal(err)
	}
	for name, garbage := range map[string]string{
		"charset": raw[:len(raw)-1] + "=",
		"header":  "eyJhbGciOiJub25lIn0" + raw[strings.IndexByte(raw, '.'):],
		"ended":   ended,
		"issuer":  foreign,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := check.Verify(now, garbage); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}

func BenchmarkBound(b *testing.B) {
	_, raw, check := minted(b)
	t, err := check.Verify(now, raw)
	if err != nil {
		b.Fatal(err)
	}
	who := Presenter{ID: strings.Clone(web)}
	b.ReportAllocs()
	for b.Loop() {
		if err := t.Bound(who); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkClaim(b *testing.B) {
	_, raw, check := minted(b)
	t, err := check.Verify(now, raw)
	if err != nil {
		b.Fatal(err)
	}
	path := []string{"scope"}
	b.ReportAllocs()
	for b.Loop() {
		if len(t.Claim(path)) != 2 {
			b.Fatal("no scope")
		}
	}
}
