package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/identity"
)

// Request asks for one leaf. Who may ask for it was decided by the caller.
type Request struct {
	Profile       Profile
	ID            spiffeid.ID
	CSR           []byte        // DER; only its public key is taken
	TTL           time.Duration // zero: the profile's
	NotAfter      time.Time     // not beyond this, if set: the end of the entry
	DNSNames      []string
	Entry         string   // for the record, as all below
	EntryRevision int64    // the caller's; a Token is spent at once and not held against later revisions
	Selectors     []string // that earned it
	Replaces      []byte   // serial that is renewed
	Node          string   // that asks
}

// Token is a certificate that was checked and linted and waits to be recorded, then signed. It
// belongs to the authority whose Prepare made it.
type Token struct {
	authority *Authority
	by        *signer
	draft     draft
	request   Request
	spki      [32]byte // SHA-256 of the SubjectPublicKeyInfo
	notBefore time.Time
	tbs       []byte // what was linted is what is signed
	spent     atomic.Bool
}

// signer is the authority above a certificate.
type signer struct {
	cert     *x509.Certificate
	key      *ecdsa.PrivateKey
	rehearse *x509.Certificate // a copy of cert with the throw-away public key
	trust    *identity.Trust   // whose only anchor is that copy
}

func (a *Authority) newSigner(cert *x509.Certificate, key *ecdsa.PrivateKey) *signer {
	rehearse := *cert
	rehearse.PublicKey = a.throwaway.Public()
	return &signer{cert: cert, key: key, rehearse: &rehearse, trust: identity.NewTrust(a.opt.TrustDomain, identity.Bundle{
		TrustDomain: a.opt.TrustDomain, Roots: []*x509.Certificate{&rehearse},
	})}
}

// Prepare checks a request and builds and lints its certificate under a throw-away key. The
// real key is not touched.
func (a *Authority) Prepare(r Request, now time.Time) (*Token, error) {
	if err := a.checkRequest(r); err != nil {
		return nil, err
	}
	public, err := a.parseCSR(r.CSR)
	if err != nil {
		return nil, err
	}
	by := &a.issuer.Load().signer
	return a.prepare(by, r, public, now)
}

// checkRequest holds a request against its profile.
func (a *Authority) checkRequest(r Request) error {
	p, ok := profiles[r.Profile]
	if !ok || p.authority {
		return fmt.Errorf("%w: no profile %q for leaves", ErrRequest, r.Profile)
	}
	if r.ID.TrustDomain() != a.opt.TrustDomain {
		return fmt.Errorf("%w: %q is not of trust domain %q", ErrRequest, r.ID, a.opt.TrustDomain)
	}
	ns, sa, ok := identity.Split(r.ID)
	if !ok || identity.CheckLabel(ns) != nil || identity.CheckLabel(sa) != nil {
		return fmt.Errorf("%w: %q does not have the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>", ErrRequest, r.ID)
	}
	switch reserved := ns == identity.ReservedNamespace; {
	case r.Profile == Workload && reserved:
		return fmt.Errorf("%w: namespace %s is reserved for nodes and servers", ErrRequest, ns)
	case r.Profile == Node && !(reserved && strings.HasPrefix(sa, "node-")),
		r.Profile == Server && !(reserved && strings.HasPrefix(sa, "server-")):
		return fmt.Errorf("%w: %q is not the ID of a %s", ErrRequest, r.ID, r.Profile)
	}
	if len(r.DNSNames) > 0 && !p.dnsNames {
		return fmt.Errorf("%w: a %s certificate has no DNS names", ErrRequest, r.Profile)
	}
	for _, name := range r.DNSNames {
		if err := checkDNSName(name); err != nil {
			return fmt.Errorf("%w: %v", ErrRequest, err)
		}
	}
	if r.TTL != 0 && (r.TTL < p.min || r.TTL > p.max) {
		return fmt.Errorf("%w: ttl %v is outside %v to %v", ErrRequest, r.TTL, p.min, p.max)
	}
	return nil
}

// prepare builds the certificate, signs it with the throw-away key and judges the result.
func (a *Authority) prepare(by *signer, r Request, public *ecdsa.PublicKey, now time.Time) (*Token, error) {
	d, err := newDraft(by, r, public, now)
	if err != nil {
		return nil, err
	}
	parent := by.rehearse
	if parent == nil { // a root stands above itself
		parent = d.template()
		parent.PublicKey = a.throwaway.Public()
	}
	der, err := x509.CreateCertificate(rand.Reader, d.template(), parent, public, a.throwaway)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrLint, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrLint, err)
	}
	if err := lint(cert, &d, parent, by.trust); err != nil {
		return nil, err
	}
	return &Token{
		authority: a, by: by, draft: d, request: r,
		spki:      sha256.Sum256(cert.RawSubjectPublicKeyInfo),
		notBefore: cert.NotBefore,
		tbs:       cert.RawTBSCertificate,
	}, nil
}

// newDraft fixes serial, times and names.
func newDraft(by *signer, r Request, public *ecdsa.PublicKey, now time.Time) (draft, error) {
	serial, err := identity.NewSerial(now, rand.Reader)
	if err != nil {
		return draft{}, err
	}
	ttl := r.TTL
	if ttl == 0 {
		ttl = profiles[r.Profile].usual
	}
	notAfter := now.Add(ttl)
	for _, end := range []time.Time{r.NotAfter, by.end()} {
		if !end.IsZero() && end.Before(notAfter) {
			notAfter = end
		}
	}
	notAfter = notAfter.UTC().Truncate(time.Second)
	if left := notAfter.Sub(now); left < min(2*time.Minute, ttl/2) {
		return draft{}, fmt.Errorf("%w: it would end %v after its issue", ErrTooShort, left.Round(time.Second))
	}
	return draft{
		profile: r.Profile, id: r.ID, public: public, ski: identity.SKI(public), dnsNames: r.DNSNames,
		serial: serial, issued: now, notAfter: notAfter,
	}, nil
}

// end is when the authority itself ends; zero for a root, which stands above itself.
func (s *signer) end() time.Time {
	if s.cert == nil {
		return time.Time{}
	}
	return s.cert.NotAfter
}

// maxCSR bounds what a node can make us parse.
const maxCSR = 8 << 10

// parseCSR takes the public key out of a request (RFC 2986). Names and extensions in it are
// ignored: a certificate says what the entry says, not what its holder would like.
func (a *Authority) parseCSR(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrCSR, len(der), maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCSR, err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != a.throwaway.Curve {
		return nil, fmt.Errorf("%w: the key is no P-256 key", ErrCSR)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCSR, err)
	}
	ski := identity.SKI(key)
	for _, authority := range []*x509.Certificate{a.root.cert, a.issuer.Load().cert} {
		if bytes.Equal(ski, authority.SubjectKeyId) {
			return nil, fmt.Errorf("%w: the key is an authority's", ErrCSR)
		}
	}
	return key, nil
}

const (
	maxDNSName  = 253
	maxDNSLabel = 63
)

// checkDNSName allows host names of letters, digits and hyphens (RFC 1123, section 2.1), and a whole first label *,
// which a Gateway may listen for (RFC 9525, section 6.3).
func checkDNSName(name string) error {
	name = strings.TrimPrefix(name, "*.")
	if name == "" || len(name) > maxDNSName {
		return fmt.Errorf("DNS name of %d bytes: 1 to %d are allowed", len(name), maxDNSName)
	}
	digits := true // of the last label: what ends in a number is an address
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxDNSLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("DNS name %q has a wrong label", name)
		}
		digits = true
		for i := range len(label) {
			switch c := label[i]; {
			case c >= '0' && c <= '9':
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-':
				digits = false
			default:
				return fmt.Errorf("DNS name %q: only letters, digits, hyphens and dots are allowed", name)
			}
		}
	}
	if digits {
		return fmt.Errorf("DNS name %q is an address", name)
	}
	return nil
}

// NewCSR is a request for a certificate of key: a signature that proves the key, and no names.
func NewCSR(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %v", err)
	}
	return der, nil
}
