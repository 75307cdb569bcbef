package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
)

var now = time.Date(2026, 11, 21, 20, 0, 0, 0, time.UTC)

func reasonOf(err error) string {
	if refused, ok := errors.AsType[*identity.Error](err); ok {
		return refused.Reason
	}
	if err != nil {
		return "untyped: " + err.Error()
	}
	return ""
}

func TestVerifyZoo(t *testing.T) {
	cages, zoo := identitytest.Zoo(t, now)
	trust := cages.Home.Trust(cages.Other)
	for _, a := range zoo {
		t.Run(a.Name, func(t *testing.T) {
			for range 2 { // a second time from the remembered proof
				peer, err := identity.Verify(a.Chain, trust, now)
				if got := reasonOf(err); got != a.Reason {
					t.Fatalf("got reason %q (%v), want %q", got, err, a.Reason)
				}
				if err == nil && peer.Fingerprint == [32]byte{} {
					t.Error("no fingerprint")
				}
			}
		})
	}
}

// go-spiffe must take whatever we take: we are never wider than the standard's own library.
func TestVerifyNeverWiderThanGoSpiffe(t *testing.T) {
	cages, zoo := identitytest.Zoo(t, now)
	bundles := x509bundle.NewSet(
		x509bundle.FromX509Authorities(cages.Home.TrustDomain, []*x509.Certificate{cages.Home.Root}),
		x509bundle.FromX509Authorities(cages.Other.TrustDomain, []*x509.Certificate{cages.Other.Root}))
	for _, a := range zoo {
		if a.Reason != "" {
			continue
		}
		id, _, err := x509svid.Verify(a.Chain, bundles, x509svid.WithTime(now))
		if err != nil {
			t.Errorf("%s: go-spiffe refuses what we accept: %v", a.Name, err)
			continue
		}
		peer, err := identity.Verify(a.Chain, cages.Home.Trust(cages.Other), now)
		if err != nil || peer.ID != id {
			t.Errorf("%s: got %q, %v, want %q", a.Name, peer.ID, err, id)
		}
	}
}

func TestVerifyPeer(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	leaf := a.Leaf(t, identitytest.WorkloadID)
	peer, err := identity.Verify([]*x509.Certificate{leaf.Leaf, a.Issuer}, a.Trust(), now)
	if err != nil {
		t.Fatal(err)
	}
	if peer.Namespace != "shop" || peer.ServiceAccount != "api" || !peer.Canonical {
		t.Errorf("got %q %q %v, want shop api true", peer.Namespace, peer.ServiceAccount, peer.Canonical)
	}
	if !peer.IssuedAt.Equal(now) { // from the serial, not from the backdated notBefore
		t.Errorf("issued at %v, want %v", peer.IssuedAt, now)
	}
	if !slices.Equal(peer.IssuerSKI, a.Issuer.SubjectKeyId) || peer.BundleSeq != 1 || len(peer.Serial) != 16 {
		t.Errorf("got issuer %x, sequence %d, serial %x", peer.IssuerSKI, peer.BundleSeq, peer.Serial)
	}

	foreign := a.Leaf(t, "spiffe://home.test/some/other/form", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) })
	peer, err = identity.Verify([]*x509.Certificate{foreign.Leaf, a.Issuer}, a.Trust(), now)
	if err != nil {
		t.Fatal(err)
	}
	if peer.Canonical || peer.Namespace != "" || !peer.IssuedAt.Equal(foreign.Leaf.NotBefore) {
		t.Errorf("foreign form: got %+v", peer)
	}
}

func TestVerifyEmptyTrust(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	leaf := a.Leaf(t, identitytest.WorkloadID)
	chain := []*x509.Certificate{leaf.Leaf, a.Issuer}
	empty := a.Bundle()
	empty.Roots = nil
	for name, trust := range map[string]*identity.Trust{
		"nil": nil, "no bundle": identity.NewTrust(a.TrustDomain), "empty bundle": identity.NewTrust(a.TrustDomain, empty),
	} {
		_, err := identity.Verify(chain, trust, now)
		if got := reasonOf(err); got != identity.WrongTrustDomain {
			t.Errorf("%s: got %q, want %q", name, got, identity.WrongTrustDomain)
		}
	}
	if _, err := identity.Verify(nil, a.Trust(), now); reasonOf(err) != identity.BadChain {
		t.Errorf("empty chain: got %v, want %s", err, identity.BadChain)
	}
}

// A remembered proof must never outlive what it was proved by.
func TestProofIsNeverStale(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	b := identitytest.New(t, "home.test", now)
	leaf := a.Leaf(t, identitytest.WorkloadID, func(c *x509.Certificate) { c.NotAfter = now.Add(30 * 24 * time.Hour) })
	chain := []*x509.Certificate{leaf.Leaf, a.Issuer}
	trust := a.Trust()
	verify := func(trust *identity.Trust, at time.Time, want string) {
		t.Helper()
		if _, err := identity.Verify(chain, trust, at); reasonOf(err) != want {
			t.Errorf("at %v: got %v, want %q", at, err, want)
		}
	}
	verify(trust, now, "")
	verify(trust, now.Add(8*24*time.Hour), identity.Expired) // the issuer ended, the leaf did not
	verify(trust, now.Add(-2*time.Hour), identity.NotYetValid)
	verify(trust, now, "")
	verify(b.Trust(), now, identity.UnknownCA)
	// the remembered peer cannot be changed by who got it
	peer, _ := identity.Verify(chain, trust, now)
	clear(peer.Serial)
	again, _ := identity.Verify(chain, trust, now)
	if slices.Equal(peer.Serial, again.Serial) {
		t.Error("two callers share one serial")
	}
}

func TestProofsAreBounded(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	trust := a.Trust()
	key := identitytest.NewKey(t)
	for range 4200 {
		leaf := identitytest.Sign(t, a.LeafTemplate(identitytest.WorkloadID), a.Issuer, key.Public(), a.IssuerKey)
		if _, err := identity.Verify([]*x509.Certificate{leaf, a.Issuer}, trust, now); err != nil {
			t.Fatal(err)
		}
	}
	if n := identity.Remembered(trust); n != 4096 {
		t.Errorf("got %d remembered proofs, want 4096", n)
	}
}

// Keys made to cost time are refused before any signature is checked.
func TestVerifyRSALimits(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	leaf := a.Leaf(t, identitytest.WorkloadID)
	for _, bits := range []int{1024, 16384} {
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		huge := *a.Issuer
		huge.PublicKey = &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
		_, err := identity.Verify([]*x509.Certificate{leaf.Leaf, &huge}, a.Trust(), now)
		if got := reasonOf(err); got != identity.BadChain {
			t.Errorf("RSA %d in the chain: got %q, want %q", bits, got, identity.BadChain)
		}
	}
}

func TestVerifyManyNamesIsCheap(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	template := a.CATemplate("constrained")
	for range 500 {
		template.PermittedURIDomains = append(template.PermittedURIDomains, "x"+strings.Repeat("a", 10)+".test")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer := identitytest.Sign(t, template, a.Root, key.Public(), a.RootKey)
	leaf := identitytest.Sign(t, a.LeafTemplate(identitytest.WorkloadID), issuer, key.Public(), key)
	if _, err := identity.Verify([]*x509.Certificate{leaf, issuer}, a.Trust(), now); err == nil {
		t.Error("500 constraints for other domains: accepted")
	}
}

func BenchmarkVerify(b *testing.B) {
	a := identitytest.New(b, "home.test", now)
	leaf := a.Leaf(b, identitytest.WorkloadID)
	chain := []*x509.Certificate{leaf.Leaf, a.Issuer}
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := identity.Verify(chain, a.Trust(), now); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		trust := a.Trust()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := identity.Verify(chain, trust, now); err != nil {
				b.Fatal(err)
			}
		}
	})
}
