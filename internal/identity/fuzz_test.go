package identity_test

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
)

// FuzzVerify: no certificate, however broken, may panic the judge of it, and none is believed
// but the one that the authority signed.
func FuzzVerify(f *testing.F) {
	now := time.Now()
	a := identitytest.New(f, "example.org", now)
	leaf := a.Leaf(f, "spiffe://example.org/ns/a/sa/b").Leaf
	trust := a.Trust()
	f.Add(leaf.Raw)
	f.Add(a.Root.Raw)
	f.Add(leaf.Raw[:100])
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		p, err := identity.Verify([]*x509.Certificate{cert, a.Issuer}, trust, now)
		if err == nil && !bytes.Equal(cert.RawTBSCertificate, leaf.RawTBSCertificate) {
			t.Errorf("believed %q", p.ID)
		}
	})
}
