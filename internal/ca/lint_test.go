package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/store"
)

type noRecord struct{}

func (noRecord) Record(context.Context, *audit.Record) error { return nil }

func openTest(t *testing.T) (*Authority, store.Engine) {
	t.Helper()
	st := store.Memory(store.MemoryOptions{})
	t.Cleanup(func() { st.Close() })
	seal, err := store.NewSealer(t.Context(), st, "default", bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	a, err := Open(t.Context(), Options{
		Store: st, Sealer: seal, Dir: dir, ServerName: "s1", Recorder: noRecord{},
		TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return a, st
}

// Table 4.1 of the reference, field by field.
func TestTable(t *testing.T) {
	a, _ := openTest(t)
	at := time.Now().UTC().Truncate(time.Second).Add(250 * time.Millisecond)
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	td := a.opt.TrustDomain
	rootKey, err := a.openRootKey()
	if err != nil {
		t.Fatal(err)
	}
	const h, d = time.Hour, 24 * time.Hour
	rootSigner, byIssuer := a.newSigner(a.root.cert, rootKey), &a.issuer.Load().signer
	const keySign, cRLSign, signature = x509.KeyUsageCertSign, x509.KeyUsageCRLSign, x509.KeyUsageDigitalSignature
	short := shortID(identity.SKI(&key.PublicKey))
	for _, tt := range []struct {
		by         *signer
		r          Request
		subject    string
		before     time.Duration // the issue
		life       time.Duration
		ca         bool
		pathLen    int
		usage      x509.KeyUsage
		extensions string
	}{
		{byIssuer, Request{Profile: Workload, ID: spiffeid.RequireFromPath(td, "/ns/shop/sa/api"), DNSNames: []string{"api.example.org"}}, "CN=api,O=shop", 10 * time.Minute, h, false, -1, signature, "2.5.29.15! 2.5.29.37 2.5.29.19! 2.5.29.14 2.5.29.35 2.5.29.17"},
		{byIssuer, Request{Profile: Node, ID: spiffeid.RequireFromPath(td, "/ns/countersign/sa/node-a")}, "CN=node-a,O=countersign", 10 * time.Minute, d, false, -1, signature, "2.5.29.15! 2.5.29.37 2.5.29.19! 2.5.29.14 2.5.29.35 2.5.29.17"},
		{byIssuer, Request{Profile: Server, ID: spiffeid.RequireFromPath(td, "/ns/countersign/sa/server-a")}, "CN=server-a,O=countersign", 10 * time.Minute, d, false, -1, signature, "2.5.29.15! 2.5.29.37 2.5.29.19! 2.5.29.14 2.5.29.35 2.5.29.17"},
		{rootSigner, Request{Profile: Issuer, ID: td.ID()}, "CN=countersign issuer " + short + ",O=cluster.local", h, 7 * d, true, 0, keySign | cRLSign, "2.5.29.15! 2.5.29.19! 2.5.29.14 2.5.29.35 2.5.29.17"},
		{&signer{key: key}, Request{Profile: Root, ID: td.ID()}, "CN=countersign root " + short + ",O=cluster.local", h, 365 * d, true, -1, keySign | cRLSign, "2.5.29.15! 2.5.29.19! 2.5.29.14 2.5.29.17"},
	} {
		t.Run(string(tt.r.Profile), func(t *testing.T) {
			token, err := a.prepare(tt.by, tt.r, &key.PublicKey, at)
			if err != nil {
				t.Fatal(err)
			}
			recorded, err := a.Record(t.Context(), token)
			if err != nil {
				t.Fatal(err)
			}
			issued, err := a.Sign(recorded)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(issued.Chain[0])
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(cert.RawTBSCertificate, token.tbs) {
				t.Error("signed bytes are not the linted bytes")
			}
			checkFields(t, cert, tt.r, at, tt.before, tt.life)
			if got := cert.Subject.String(); got != tt.subject {
				t.Errorf("subject %q, want %q", got, tt.subject)
			}
			if cert.IsCA != tt.ca || !cert.BasicConstraintsValid || cert.MaxPathLen != tt.pathLen || cert.KeyUsage != tt.usage {
				t.Errorf("authority %v, path length %d, usage %b", cert.IsCA, cert.MaxPathLen, cert.KeyUsage)
			}
			if eku := cert.ExtKeyUsage; tt.ca && eku != nil || !tt.ca && (len(eku) != 2 || eku[0] != x509.ExtKeyUsageServerAuth || eku[1] != x509.ExtKeyUsageClientAuth) {
				t.Errorf("extended usage %v", eku)
			}
			var extensions []string
			for _, e := range cert.Extensions {
				extensions = append(extensions, e.Id.String()+map[bool]string{true: "!"}[e.Critical])
			}
			if got := strings.Join(extensions, " "); got != tt.extensions {
				t.Errorf("extensions %s, want %s", got, tt.extensions)
			}
			parent := tt.by.cert
			if tt.r.Profile == Root {
				parent = cert
			} else if !bytes.Equal(cert.AuthorityKeyId, parent.SubjectKeyId) {
				t.Errorf("authority key id %x, want %x", cert.AuthorityKeyId, parent.SubjectKeyId)
			}
			if err := cert.CheckSignatureFrom(parent); err != nil {
				t.Error(err)
			}
		})
	}
}

func checkFields(t *testing.T, cert *x509.Certificate, r Request, at time.Time, before, life time.Duration) {
	t.Helper()
	serial := cert.SerialNumber.Bytes()
	if issued, ok := identity.IssuedAt(serial); !ok || !issued.Equal(at) {
		t.Errorf("serial %x says %v, want %v", serial, issued, at)
	}
	if want := at.Add(-before).Truncate(time.Second); !cert.NotBefore.Equal(want) {
		t.Errorf("notBefore %v, want %v", cert.NotBefore, want)
	}
	if want := at.Add(life).Truncate(time.Second); !cert.NotAfter.Equal(want) {
		t.Errorf("notAfter %v, want %v", cert.NotAfter, want)
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != r.ID.String() || strings.Join(cert.DNSNames, " ") != strings.Join(r.DNSNames, " ") || cert.EmailAddresses != nil || cert.IPAddresses != nil {
		t.Errorf("names %v %v", cert.URIs, cert.DNSNames)
	}
	if cert.Version != 3 || cert.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		t.Errorf("version %d, algorithm %v", cert.Version, cert.SignatureAlgorithm)
	}
	if got, want := len(cert.SubjectKeyId), 20; got != want || !bytes.Equal(cert.SubjectKeyId, identity.SKI(cert.PublicKey)) {
		t.Errorf("subject key id %x", cert.SubjectKeyId)
	}
	if cert.OCSPServer != nil || cert.IssuingCertificateURL != nil || cert.CRLDistributionPoints != nil || cert.PolicyIdentifiers != nil || cert.PermittedURIDomains != nil {
		t.Error("it has more than the table")
	}
}

// One certificate spoilt per lint: Prepare would refuse it and name the lint.
func TestLints(t *testing.T) {
	a, _ := openTest(t)
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	by := &a.issuer.Load().signer
	now := time.Now()
	d, err := newDraft(by, Request{Profile: Workload, ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/api"), DNSNames: []string{"a.test"}}, &key.PublicKey, now)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	judge := func(edit func(*x509.Certificate), parentEdit func(*x509.Certificate), signKey *ecdsa.PrivateKey) error {
		template, parent := d.template(), *by.rehearse
		if edit != nil {
			edit(template)
		}
		if parentEdit != nil {
			parentEdit(&parent)
		}
		parent.PublicKey = signKey.Public()
		der, err := x509.CreateCertificate(rand.Reader, template, &parent, d.public, signKey)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return lint(cert, &d, by.rehearse, by.trust)
	}
	if err := judge(nil, nil, a.throwaway); err != nil {
		t.Fatalf("untouched: %v", err)
	}
	add := func(id []int, critical bool, value []byte) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: value})
		}
	}
	for _, tt := range []struct {
		lint, name string
		edit       func(*x509.Certificate)
	}{
		{"name", "another ID", func(c *x509.Certificate) {
			c.URIs[0] = &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/shop/sa/web"}
		}},
		{"name", "two IDs", func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }},
		{"name", "no ID", func(c *x509.Certificate) { c.URIs = nil }},
		{"name", "another DNS name", func(c *x509.Certificate) { c.DNSNames = []string{"b.test"} }},
		{"name", "an address", func(c *x509.Certificate) { c.IPAddresses = []net.IP{{10, 0, 0, 1}} }},
		{"subject", "another name", func(c *x509.Certificate) { c.Subject.CommonName = "web" }},
		{"subject", "empty", func(c *x509.Certificate) { c.Subject = pkix.Name{} }},
		{"subject", "more of it", func(c *x509.Certificate) { c.Subject.Country = []string{"XX"} }},
		{"serial", "small", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1) }},
		{"serial", "of another time", func(c *x509.Certificate) {
			b, err := identity.NewSerial(now.Add(time.Minute), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			c.SerialNumber = new(big.Int).SetBytes(b)
		}},
		{"validity", "begins too early", func(c *x509.Certificate) { c.NotBefore = now.Add(-time.Hour) }},
		{"validity", "begins late", func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }},
		{"validity", "too long", func(c *x509.Certificate) { c.NotAfter = now.Add(25 * time.Hour) }},
		{"validity", "beyond the authority", func(c *x509.Certificate) { c.NotAfter = by.cert.NotAfter.Add(time.Second) }},
		{"usage", "may sign", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }},
		{"usage", "authority", func(c *x509.Certificate) { c.IsCA = true }},
		{"usage", "server only", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }},
		{"usage", "one more", func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage[:2:2], x509.ExtKeyUsageCodeSigning) }},
		{"extensions", "one more", add([]int{1, 2, 3}, false, []byte{5, 0})},
		{"extensions", "policies", func(c *x509.Certificate) {
			c.PolicyIdentifiers, c.Policies = nil, []x509.OID{mustOID(t, "2.23.140.1.2.1")}
		}},
		{"extensions", "usage not critical", func(c *x509.Certificate) {
			c.KeyUsage = 0
			add(oidKeyUsage, false, []byte{3, 2, 7, 0x80})(c)
		}},
		{"usage", "no basic constraints", func(c *x509.Certificate) { c.BasicConstraintsValid = false }},
		{"key ids", "another key's", func(c *x509.Certificate) { c.SubjectKeyId = make([]byte, 20) }},
	} {
		err := judge(tt.edit, nil, a.throwaway)
		if !errors.Is(err, ErrLint) || !strings.Contains(err.Error(), `"`+tt.lint+`"`) {
			t.Errorf("%s, %s: got %v", tt.lint, tt.name, err)
		}
	}
	if err := judge(nil, func(p *x509.Certificate) { p.SubjectKeyId = make([]byte, 20) }, a.throwaway); err == nil || !strings.Contains(err.Error(), `"key ids"`) {
		t.Errorf("another authority's key id: got %v", err)
	}
	if err := judge(nil, nil, p384); err == nil || !strings.Contains(err.Error(), `"algorithm"`) {
		t.Errorf("another algorithm: got %v", err)
	}
	other, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := judge(nil, nil, other); err == nil || !strings.Contains(err.Error(), `"path"`) {
		t.Errorf("signed by nobody: got %v", err)
	}
}

func mustOID(t *testing.T, text string) x509.OID {
	t.Helper()
	oid, err := x509.ParseOID(text)
	if err != nil {
		t.Fatal(err)
	}
	return oid
}

// lintEncoding must not take anything that reads the same but is written otherwise.
func TestLintEncoding(t *testing.T) {
	a, _ := openTest(t)
	cert := *a.root.cert
	if err := lintEncoding(&cert, nil, nil); err != nil {
		t.Fatalf("untouched: %v", err)
	}
	cert.RawTBSCertificate = append(bytes.Clone(cert.RawTBSCertificate), 0)
	if err := lintEncoding(&cert, nil, nil); err == nil {
		t.Error("a byte after it: accepted")
	}
}

// What was signed by the throw-away key is worth nothing to anybody.
func TestThrowAwayProvesNothing(t *testing.T) {
	a, _ := openTest(t)
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	by := &a.issuer.Load().signer
	d, err := newDraft(by, Request{Profile: Workload, ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/api")}, &key.PublicKey, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, d.template(), by.rehearse, &key.PublicKey, a.throwaway)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	_, err = identity.Verify([]*x509.Certificate{cert, by.cert}, identity.NewTrust(a.opt.TrustDomain, a.Bundle()), time.Now())
	refused, ok := errors.AsType[*identity.Error](err)
	if !ok || refused.Reason != identity.UnknownCA {
		t.Errorf("got %v, want %s", err, identity.UnknownCA)
	}
}

// An authority's key is nobody else's key.
func TestCSRWithAuthorityKey(t *testing.T) {
	a, _ := openTest(t)
	rootKey, err := a.openRootKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]*ecdsa.PrivateKey{"root": rootKey, "issuing authority": a.issuer.Load().key} {
		der, err := NewCSR(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.parseCSR(der); !errors.Is(err, ErrCSR) {
			t.Errorf("key of the %s: got %v, want ErrCSR", name, err)
		}
	}
}

// A signature that came out wrong must not leave: it could give the key away.
func TestSignChecksItself(t *testing.T) {
	a, _ := openTest(t)
	s := a.issuer.Load().signer
	if _, err := s.sign([]byte("not a certificate")); err == nil {
		t.Error("signed something that is no certificate")
	}
}

// Private keys lie nowhere unsealed: neither in the store, its dump, nor the state directory.
func TestKeysAreSealed(t *testing.T) {
	a, st := openTest(t)
	rootKey, err := a.openRootKey()
	if err != nil {
		t.Fatal(err)
	}
	var places [][]byte
	var dump bytes.Buffer
	if _, err := st.(store.Dumper).Dump(t.Context(), &dump); err != nil {
		t.Fatal(err)
	}
	places = append(places, dump.Bytes())
	kvs, _, err := st.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		places = append(places, kv.Value)
	}
	files, err := a.issuerFiles()
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text, err := fs.ReadFile(a.opt.Dir.FS(), files[0])
	if err != nil {
		t.Fatal(err)
	}
	places = append(places, text)
	for name, key := range map[string]*ecdsa.PrivateKey{"root": rootKey, "issuer": a.issuer.Load().key} {
		scalar, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		markers := [][]byte{scalar, []byte(hex.EncodeToString(scalar))}
		for skip := range 3 { // base64 of the scalar within something longer, at each of three offsets
			for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				markers = append(markers, []byte(enc.EncodeToString(scalar[skip:skip+27])))
			}
		}
		for i, place := range places {
			for _, marker := range markers {
				if bytes.Contains(place, marker) || bytes.Contains(decoded(place), scalar) {
					t.Errorf("key of the %s lies open in place %d", name, i)
				}
			}
		}
	}
}

// decoded is every base64 string of a text, decoded.
func decoded(text []byte) []byte {
	var out []byte
	for _, part := range strings.FieldsFunc(string(text), func(r rune) bool { return r == '"' || r == '\n' }) {
		if b, err := base64.StdEncoding.DecodeString(part); err == nil {
			out = append(out, b...)
			out = append(out, decodedOnce(b)...)
		}
	}
	return out
}

func decodedOnce(text []byte) []byte {
	var out []byte
	for _, part := range strings.Split(string(text), `"`) {
		if b, err := base64.StdEncoding.DecodeString(part); err == nil {
			out = append(out, b...)
		}
	}
	return out
}
