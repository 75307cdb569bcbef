package ca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"testing"
	"time"
)

// FuzzRequest: no certificate request, however broken, may panic the authority, and one that is
// taken holds a P-256 key that signed it; nothing else of it matters.
func FuzzRequest(f *testing.F) {
	a := newHouse(f).open()
	good := workload(f)
	f.Add(good.CSR)
	f.Add(good.CSR[:len(good.CSR)-1])
	f.Add([]byte{0x30, 0x80})
	now := time.Now()
	f.Fuzz(func(t *testing.T, csr []byte) {
		r := good
		r.CSR = csr
		if _, err := a.Prepare(r, now); err != nil {
			return
		}
		parsed, err := x509.ParseCertificateRequest(csr)
		if err != nil || parsed.CheckSignature() != nil {
			t.Fatalf("took a request that is none: %v", err)
		}
		if key, ok := parsed.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			t.Errorf("took a key of type %T", parsed.PublicKey)
		}
	})
}
