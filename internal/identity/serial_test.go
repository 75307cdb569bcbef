package identity_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"
	"time"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
)

func TestNewSerial(t *testing.T) {
	seen := make(map[string]bool)
	var or, and [9]byte
	for i := range and {
		and[i] = 0xff
	}
	for range 100_000 {
		serial, err := identity.NewSerial(now, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if len(serial) != 16 || new(big.Int).SetBytes(serial).Sign() <= 0 || serial[0] != 1 {
			t.Fatalf("serial %x: want 16 octets, positive", serial)
		}
		if seen[string(serial)] {
			t.Fatalf("serial %x twice", serial)
		}
		seen[string(serial)] = true
		for i, b := range serial[7:] {
			or[i], and[i] = or[i]|b, and[i]&b
		}
	}
	if or != [9]byte{255, 255, 255, 255, 255, 255, 255, 255, 255} || and != [9]byte{} {
		t.Errorf("some of the 72 random bits never change: %x %x", or, and)
	}
	if _, err := identity.NewSerial(now, bytes.NewReader(nil)); err == nil {
		t.Error("no random bits: want an error")
	}
}

func TestIssuedAt(t *testing.T) {
	at := time.Date(2026, 11, 21, 20, 14, 7, 312_000_000, time.UTC)
	serial, err := identity.NewSerial(at, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := identity.IssuedAt(serial); !ok || !got.Equal(at) {
		t.Errorf("got %v %v, want %v", got, ok, at)
	}
	for _, foreign := range [][]byte{nil, {1}, serial[1:], append([]byte{2}, serial[1:]...), append(serial, 0)} {
		if got, ok := identity.IssuedAt(foreign); ok {
			t.Errorf("IssuedAt(%x): got %v, want none", foreign, got)
		}
	}
}

func TestRenewAt(t *testing.T) {
	const n = 10_000
	issued, notAfter := now, now.Add(time.Hour)
	var buckets [10]int
	for range n {
		serial, err := identity.NewSerial(now, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		at := identity.RenewAt(serial, issued, notAfter)
		if at != identity.RenewAt(serial, issued, notAfter) {
			t.Fatal("not fixed per certificate")
		}
		part := float64(at.Sub(issued)) / float64(time.Hour)
		if part < 0.45 || part >= 0.55 {
			t.Fatalf("renewed at %.3f of its life, want 0.45 to 0.55", part)
		}
		buckets[min(9, int((part-0.45)*100))]++
	}
	for i, got := range buckets {
		if got < n/10*8/10 || got > n/10*12/10 {
			t.Errorf("tenth %d holds %d of %d: not an even spread", i, got, n)
		}
	}
}

func TestSKI(t *testing.T) {
	a := identitytest.New(t, "home.test", now) // Go fills in RFC 7093 method 1 for authorities
	if got := identity.SKI(a.RootKey.Public()); !bytes.Equal(got, a.Root.SubjectKeyId) {
		t.Errorf("got %x, crypto/x509 says %x", got, a.Root.SubjectKeyId)
	}
	if got := identity.SKI("not a key"); got != nil {
		t.Errorf("got %x for something that is no key", got)
	}
}

// Serial numbers that crypto/x509 reads but RFC 5280 forbids.
func TestVerifySerial(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	leaf := a.Leaf(t, identitytest.WorkloadID)
	for _, n := range []*big.Int{big.NewInt(0), big.NewInt(-1), new(big.Int).Lsh(big.NewInt(1), 160)} {
		odd := *leaf.Leaf
		odd.SerialNumber = n
		_, err := identity.Verify([]*x509.Certificate{&odd, a.Issuer}, a.Trust(), now)
		refused, ok := errors.AsType[*identity.Error](err)
		if !ok || refused.Reason != identity.BadChain {
			t.Errorf("serial %v: got %v, want %s", n, err, identity.BadChain)
		}
	}
}
