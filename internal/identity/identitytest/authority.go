// Package identitytest makes authorities and certificates for tests: good ones, and a zoo of
// bad ones that every verifier must refuse for the same reason.
package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/identity"
)

// Authority is a root and an issuing authority of one trust domain, both keys in hand.
type Authority struct {
	TrustDomain        spiffeid.TrustDomain
	Root, Issuer       *x509.Certificate
	RootKey, IssuerKey crypto.Signer
	now                time.Time
}

// New makes an authority whose certificates are valid around now.
func New(t testing.TB, trustDomain string, now time.Time) *Authority {
	t.Helper()
	a := &Authority{
		TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain),
		RootKey:     NewKey(t),
		IssuerKey:   NewKey(t),
		now:         now,
	}
	root := a.CATemplate("root")
	root.NotAfter = now.Add(365 * 24 * time.Hour)
	a.Root = Sign(t, root, root, a.RootKey.Public(), a.RootKey)
	issuer := a.CATemplate("issuer")
	issuer.MaxPathLen, issuer.MaxPathLenZero = 0, true
	a.Issuer = Sign(t, issuer, a.Root, a.IssuerKey.Public(), a.RootKey)
	return a
}

// Bundle is the bundle of the trust domain: the root.
func (a *Authority) Bundle() identity.Bundle {
	return identity.Bundle{TrustDomain: a.TrustDomain, Roots: []*x509.Certificate{a.Root}, Sequence: 1}
}

// Trust trusts this authority and, as federated domains, the others.
func (a *Authority) Trust(others ...*Authority) *identity.Trust {
	bundles := []identity.Bundle{a.Bundle()}
	for _, other := range others {
		bundles = append(bundles, other.Bundle())
	}
	return identity.NewTrust(a.TrustDomain, bundles...)
}

// CATemplate is the template of a certificate authority of this domain, 7 days long.
func (a *Authority) CATemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          serial(a.now),
		Subject:               pkix.Name{CommonName: name, Organization: []string{a.TrustDomain.Name()}},
		NotBefore:             a.now.Add(-time.Hour),
		NotAfter:              a.now.Add(7 * 24 * time.Hour),
		URIs:                  []*url.URL{a.TrustDomain.ID().URL()},
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// LeafTemplate is the template of a good leaf for id, one hour long.
func (a *Authority) LeafTemplate(id string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          serial(a.now),
		Subject:               pkix.Name{CommonName: "leaf"},
		NotBefore:             a.now.Add(-10 * time.Minute),
		NotAfter:              a.now.Add(time.Hour),
		ExtraExtensions:       []pkix.Extension{URISAN(id)},
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// Leaf issues a leaf for id, changed by edits, with a new key; the chain is leaf and issuer.
func (a *Authority) Leaf(t testing.TB, id string, edits ...func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	template := a.LeafTemplate(id)
	for _, edit := range edits {
		edit(template)
	}
	key := NewKey(t)
	return Pair(key, Sign(t, template, a.Issuer, key.Public(), a.IssuerKey), a.Issuer)
}

// Pair is a key with its chain, leaf first.
func Pair(key crypto.Signer, chain ...*x509.Certificate) *tls.Certificate {
	pair := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, cert := range chain {
		pair.Certificate = append(pair.Certificate, cert.Raw)
	}
	return pair
}

// NewKey makes a P-256 key.
func NewKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Sign makes a certificate.
func Sign(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	return Parse(t, SignRaw(t, template, parent, pub, key))
}

// SignRaw makes a certificate that Go's own parser may refuse.
func SignRaw(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Parse reads a certificate.
func Parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// URISAN is a subject alternative name extension of these bytes as URIs, whatever they are:
// a net/url value could not carry most of the bad ones.
func URISAN(uris ...string) pkix.Extension {
	names := make([]asn1.RawValue, 0, len(uris))
	for _, uri := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	return SAN(names...)
}

// SAN is a subject alternative name extension of any general names.
func SAN(names ...asn1.RawValue) pkix.Extension {
	value, err := asn1.Marshal(names)
	if err != nil {
		panic(err) // raw values always marshal
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}
}

func serial(now time.Time) *big.Int {
	b, err := identity.NewSerial(now, rand.Reader)
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	return new(big.Int).SetBytes(b)
}
