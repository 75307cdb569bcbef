package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"countersign.dev/internal/identity"
)

// Animal is one chain of the zoo and why it is refused; an empty Reason means it is good.
type Animal struct {
	Name   string
	Reason string
	Key    crypto.Signer
	Chain  []*x509.Certificate
}

// Cages is what a zoo is built of: a verifier must trust Home and Other, each for itself.
type Cages struct {
	Home, Other *Authority
	Now         time.Time
}

// WorkloadID is the identity that most animals claim; its trust domain is Home's.
const WorkloadID = "spiffe://home.test/ns/shop/sa/api"

// Zoo returns the authorities and every animal.
func Zoo(t testing.TB, now time.Time) (Cages, []Animal) {
	t.Helper()
	c := Cages{Home: New(t, "home.test", now), Other: New(t, "other.test", now), Now: now}
	var all []Animal
	all = append(all, c.names(t)...)
	all = append(all, c.usages(t)...)
	all = append(all, c.keys(t)...)
	all = append(all, c.paths(t)...)
	all = append(all, c.times(t)...)
	return c, all
}

// leaf issues a changed leaf under Home's issuer.
func (c Cages) leaf(t testing.TB, name, reason string, edits ...func(*x509.Certificate)) Animal {
	t.Helper()
	pair := c.Home.Leaf(t, WorkloadID, edits...)
	return Animal{Name: name, Reason: reason, Key: pair.PrivateKey.(crypto.Signer), Chain: []*x509.Certificate{pair.Leaf, c.Home.Issuer}}
}

func san(uris ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{URISAN(uris...)} }
}

// names: which name is the identity (X509-SVID, sections 2 and 3.1).
func (c Cages) names(t testing.TB) []Animal {
	name := func(tag int, text string) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(text)}
	}
	const id = WorkloadID
	return []Animal{
		c.leaf(t, "good", ""),
		c.leaf(t, "no name", identity.BadSAN, func(c *x509.Certificate) { c.ExtraExtensions = nil }),
		c.leaf(t, "two identities", identity.BadSAN, san(id, "spiffe://home.test/ns/shop/sa/web")),
		c.leaf(t, "one identity twice", identity.BadSAN, san(id, id)),
		c.leaf(t, "identity and web address", identity.BadSAN, san(id, "https://home.test/")),
		c.leaf(t, "other kinds of names beside it", "", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{SAN(name(2, "api.shop"), name(7, "\x0a\x00\x00\x01"), name(1, "a@home.test"), name(6, id))}
		}),
		c.leaf(t, "capital scheme", identity.BadSAN, san("SPIFFE://home.test/ns/shop/sa/api")),
		c.leaf(t, "empty fragment", identity.BadSAN, san(id+"#")),
		c.leaf(t, "empty query", identity.BadSAN, san(id+"?")),
		c.leaf(t, "capital in the trust domain", identity.BadSAN, san("spiffe://Home.test/ns/shop/sa/api")),
		c.leaf(t, "percent sign", identity.BadSAN, san("spiffe://home.test/ns/shop/sa/%61pi")),
		c.leaf(t, "port", identity.BadSAN, san("spiffe://home.test:443/ns/shop/sa/api")),
		c.leaf(t, "dot segment", identity.BadSAN, san("spiffe://home.test/ns/shop/sa/../sa/api")),
		c.leaf(t, "no path", identity.BadSAN, san("spiffe://home.test")),
		c.leaf(t, "lone slash", identity.BadSAN, san("spiffe://home.test/")),
		c.leaf(t, "identity only in the subject", identity.BadSAN, func(c *x509.Certificate) {
			c.ExtraExtensions, c.Subject.CommonName = nil, id
		}),
		c.leaf(t, "identity only in a DNS name", identity.BadSAN, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{SAN(name(2, id))}
		}),
	}
}

// keyUsage writes the extension by hand: crypto/x509 always makes it critical.
func keyUsage(critical bool, bits byte) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		value, err := asn1.Marshal(asn1.BitString{Bytes: []byte{bits}, BitLength: 8})
		if err != nil {
			panic(err)
		}
		c.KeyUsage = 0
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: critical, Value: value})
	}
}

// usages: what the key of a leaf is for (X509-SVID, sections 4.1, 4.3, 4.4).
func (c Cages) usages(t testing.TB) []Animal {
	eku := func(usages ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = usages }
	}
	const digitalSignature, keyAgreement, keyCertSign, crlSign = 0x80, 0x08, 0x04, 0x02
	return []Animal{
		c.leaf(t, "authority as leaf", identity.CALeaf, func(c *x509.Certificate) { c.IsCA = true }),
		c.leaf(t, "authority with path length as leaf", identity.CALeaf, func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = true, true }),
		c.leaf(t, "no basic constraints", "", func(c *x509.Certificate) { c.BasicConstraintsValid = false }),
		c.leaf(t, "no key usage", identity.BadUsage, func(c *x509.Certificate) { c.KeyUsage = 0 }),
		c.leaf(t, "key usage not critical", identity.BadUsage, keyUsage(false, digitalSignature)),
		c.leaf(t, "no digitalSignature", identity.BadUsage, keyUsage(true, keyAgreement)),
		c.leaf(t, "keyCertSign", identity.CALeaf, keyUsage(true, digitalSignature|keyCertSign)),
		c.leaf(t, "cRLSign", identity.CALeaf, keyUsage(true, digitalSignature|crlSign)),
		c.leaf(t, "keyAgreement too", "", keyUsage(true, digitalSignature|keyAgreement)),
		c.leaf(t, "no extended key usage", "", eku()),
		c.leaf(t, "server only", identity.BadUsage, eku(x509.ExtKeyUsageServerAuth)),
		c.leaf(t, "client only", identity.BadUsage, eku(x509.ExtKeyUsageClientAuth)),
		c.leaf(t, "code signing only", identity.BadUsage, eku(x509.ExtKeyUsageCodeSigning)),
		c.leaf(t, "any usage", identity.BadUsage, eku(x509.ExtKeyUsageAny)),
		c.leaf(t, "code signing too", "", eku(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageCodeSigning)),
	}
}

// keys: kinds and sizes of keys, serial numbers, sizes of certificates.
func (c Cages) keys(t testing.TB) []Animal {
	withKey := func(name, reason string, key crypto.Signer, err error) Animal {
		if err != nil {
			t.Fatal(err)
		}
		leaf := Sign(t, c.Home.LeafTemplate(WorkloadID), c.Home.Issuer, key.Public(), c.Home.IssuerKey)
		return Animal{Name: name, Reason: reason, Key: key, Chain: []*x509.Certificate{leaf, c.Home.Issuer}}
	}
	ec := func(name, reason string, curve elliptic.Curve) Animal {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		return withKey(name, reason, key, err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	good := withKey("Ed25519", "", edKey, err)
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	fat := c.leaf(t, "20 KiB", identity.BadChain, func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, 20<<10)})
	})
	return []Animal{
		good, fat,
		withKey("RSA 2048", "", rsa2048, err),
		ec("P-224", identity.BadChain, elliptic.P224()),
		ec("P-384", "", elliptic.P384()),
		ec("P-521", "", elliptic.P521()),
		c.leaf(t, "21 octets of serial", identity.BadChain, func(c *x509.Certificate) {
			// 20 octets with the highest bit set are 21 on the wire, and the library writes them
			c.SerialNumber = new(big.Int).Lsh(big.NewInt(0xff), 152)
		}),
	}
}

// paths: who vouches (RFC 5280, section 6; X509-SVID, sections 3.2 and 4.3).
func (c Cages) paths(t testing.TB) []Animal {
	h, o := c.Home, c.Other
	key := NewKey(t)
	leafOf := func(parent *x509.Certificate, parentKey crypto.Signer, id string) *x509.Certificate {
		return Sign(t, h.LeafTemplate(id), parent, key.Public(), parentKey)
	}
	animal := func(name, reason string, chain ...*x509.Certificate) Animal {
		return Animal{Name: name, Reason: reason, Key: key, Chain: chain}
	}
	issuer := func(edit func(*x509.Certificate)) (*x509.Certificate, crypto.Signer) {
		template, k := h.CATemplate("issuer"), NewKey(t)
		template.Subject.CommonName = "edited issuer"
		edit(template)
		return Sign(t, template, h.Root, k.Public(), h.RootKey), k
	}
	good := leafOf(h.Issuer, h.IssuerKey, WorkloadID)
	foreign := leafOf(o.Issuer, o.IssuerKey, WorkloadID)
	stranger := New(t, "home.test", c.Now)
	falseParent, falseKey := good, key
	noSign, noSignKey := issuer(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	withPath, withPathKey := issuer(func(c *x509.Certificate) {
		c.URIs, c.ExtraExtensions = nil, []pkix.Extension{URISAN("spiffe://home.test/issuer")}
	})
	slash, slashKey := issuer(func(c *x509.Certificate) {
		c.URIs, c.ExtraExtensions = nil, []pkix.Extension{URISAN("spiffe://home.test/")}
	})
	loose, looseKey := issuer(keyUsage(false, 0x06))
	narrow, narrowKey := issuer(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"elsewhere.test"} })
	below := Sign(t, h.CATemplate("below"), h.Issuer, key.Public(), h.IssuerKey) // h.Issuer has path length 0
	return []Animal{
		animal("root directly", "", leafOf(h.Root, h.RootKey, WorkloadID)),
		animal("other trust domain, its own bundle", "", leafOf(o.Issuer, o.IssuerKey, "spiffe://other.test/ns/shop/sa/api"), o.Issuer),
		animal("signed by another known trust domain", identity.UnknownCA, foreign, o.Issuer),
		animal("signed by another known trust domain, its root sent", identity.UnknownCA, foreign, o.Issuer, o.Root),
		animal("unknown trust domain", identity.WrongTrustDomain, leafOf(h.Issuer, h.IssuerKey, "spiffe://nowhere.test/a"), h.Issuer),
		animal("stranger with the same names", identity.UnknownCA, leafOf(stranger.Issuer, stranger.IssuerKey, WorkloadID), stranger.Issuer, stranger.Root),
		animal("issuer not sent", identity.UnknownCA, good),
		animal("leaf as issuer", identity.BadChain, leafOf(falseParent, falseKey, WorkloadID), falseParent, h.Issuer),
		animal("issuer without keyCertSign", identity.BadChain, leafOf(noSign, noSignKey, WorkloadID), noSign),
		animal("issuer with a path in its ID", identity.BadChain, leafOf(withPath, withPathKey, WorkloadID), withPath),
		animal("issuer with a lone slash", "", leafOf(slash, slashKey, WorkloadID), slash),
		animal("issuer with key usage not critical", identity.BadChain, leafOf(loose, looseKey, WorkloadID), loose),
		animal("name constraint excludes the domain", identity.NameConstraint, leafOf(narrow, narrowKey, WorkloadID), narrow),
		animal("path length exceeded", identity.BadChain, leafOf(below, key, WorkloadID), below, h.Issuer),
		animal("other domain's issuer among them", "", good, o.Issuer, h.Issuer),
		animal("any order, twice, the root too", "", good, h.Root, h.Issuer, o.Issuer, h.Issuer),
		animal("six certificates", identity.BadChain, good, h.Issuer, h.Issuer, h.Issuer, h.Issuer, h.Issuer),
	}
}

// times: no leeway (RFC 5280, section 6.1.3).
func (c Cages) times(t testing.TB) []Animal {
	h := c.Home
	key := NewKey(t)
	old := h.CATemplate("old")
	old.NotBefore, old.NotAfter = c.Now.Add(-48*time.Hour), c.Now.Add(-time.Second)
	oldIssuer := Sign(t, old, h.Root, key.Public(), h.RootKey)
	return []Animal{
		c.leaf(t, "ended a second ago", identity.Expired, func(x *x509.Certificate) { x.NotAfter = c.Now.Add(-time.Second) }),
		c.leaf(t, "begins in a second", identity.NotYetValid, func(x *x509.Certificate) { x.NotBefore = c.Now.Add(time.Second) }),
		{
			Name: "issuer ended", Reason: identity.Expired, Key: key,
			Chain: []*x509.Certificate{Sign(t, h.LeafTemplate(WorkloadID), oldIssuer, key.Public(), key), oldIssuer},
		},
	}
}
