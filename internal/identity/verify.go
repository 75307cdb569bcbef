package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Peer is what a verified chain proves about the other side.
type Peer struct {
	ID                        spiffeid.ID
	Namespace, ServiceAccount string // empty unless Canonical
	Canonical                 bool   // the ID has the form spiffe://<td>/ns/<ns>/sa/<sa>
	Serial, IssuerSKI         []byte
	Fingerprint               [32]byte // SHA-256 of the leaf
	NotAfter, IssuedAt        time.Time
	BundleSeq                 uint64 // sequence of the bundle that judged it
}

// Limits against chains made to cost time.
const (
	maxChain   = 5
	maxCert    = 16 << 10
	minRSA     = 2048
	maxRSA     = 8192
	maxSerial  = 20 // octets (RFC 5280, section 4.1.2.2)
	caUsages   = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	leafUsages = x509.KeyUsageDigitalSignature
)

// Verify decides whether chain, leaf first, proves an identity at now. It does no I/O and
// trusts nothing but t. A refusal is an *Error; the first failure ends the list.
func Verify(chain []*x509.Certificate, t *Trust, now time.Time) (Peer, error) {
	if err := checkSizes(chain); err != nil {
		return Peer{}, err
	}
	leaf := chain[0]
	fingerprint := sha256.Sum256(leaf.Raw)
	if t != nil {
		if peer, ok := t.seen.find(fingerprint, now); ok {
			return peer, nil
		}
	}
	id, err := IDFromLeaf(leaf) // X509-SVID, sections 2, 3.1 and 5.2
	if err != nil {
		return Peer{}, err
	}
	if err := checkLeaf(leaf); err != nil { // X509-SVID, sections 4.1, 4.3, 4.4 and 5.2
		return Peer{}, err
	}
	a, err := anchorOf(t, id.TrustDomain()) // SPIFFE Federation, section 7.3
	if err != nil {
		return Peer{}, err
	}
	path, err := findPath(chain, a.pool, now) // X509-SVID, section 5.1
	if err != nil {
		return Peer{}, err
	}
	peer := Peer{
		ID:          id,
		Serial:      leaf.SerialNumber.Bytes(),
		IssuerSKI:   keyID(path[1]),
		Fingerprint: fingerprint,
		NotAfter:    leaf.NotAfter,
		IssuedAt:    issuedAt(leaf),
		BundleSeq:   a.bundle.Sequence,
	}
	peer.Namespace, peer.ServiceAccount, peer.Canonical = Split(id)
	t.seen.keep(peer, path)
	return peer, nil
}

// checkSizes refuses what would cost more to look at than a handshake may.
func checkSizes(chain []*x509.Certificate) error {
	if len(chain) == 0 || len(chain) > maxChain {
		return refuse(BadChain, "chain of %d certificates: 1 to %d are allowed", len(chain), maxChain)
	}
	for _, cert := range chain {
		if len(cert.Raw) == 0 || len(cert.Raw) > maxCert {
			return refuse(BadChain, "certificate of %d bytes: at most %d are allowed", len(cert.Raw), maxCert)
		}
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && (key.N.BitLen() < minRSA || key.N.BitLen() > maxRSA) {
			return refuse(BadChain, "RSA key of %d bits: %d to %d are allowed", key.N.BitLen(), minRSA, maxRSA)
		}
	}
	return nil
}

// checkLeaf judges the leaf by itself.
func checkLeaf(leaf *x509.Certificate) error {
	if leaf.IsCA { // X509-SVID, section 4.1
		return refuse(CALeaf, "leaf is marked as a certificate authority")
	}
	usage := extension(leaf, oidKeyUsage) // X509-SVID, section 4.3
	switch {
	case usage == nil:
		return refuse(BadUsage, "leaf has no key usage")
	case leaf.KeyUsage&caUsages != 0:
		return refuse(CALeaf, "leaf may sign certificates or revocation lists")
	case !usage.Critical:
		return refuse(BadUsage, "key usage of the leaf is not critical")
	case leaf.KeyUsage&leafUsages == 0:
		return refuse(BadUsage, "leaf lacks digitalSignature")
	}
	if extension(leaf, oidExtKeyUsage) != nil { // X509-SVID, section 4.4
		if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) ||
			!slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
			return refuse(BadUsage, "extended key usage of the leaf lacks serverAuth or clientAuth")
		}
	}
	if !allowedLeafKey(leaf.PublicKey) {
		return refuse(BadChain, "leaf key is none of P-256, P-384, P-521, Ed25519, RSA")
	}
	if n := leaf.SerialNumber; n.Sign() <= 0 || n.BitLen()/8+1 > maxSerial {
		return refuse(BadChain, "serial number is not positive, or longer than %d octets", maxSerial)
	}
	return nil
}

func allowedLeafKey(pub any) bool {
	switch key := pub.(type) {
	case *ecdsa.PublicKey:
		return key.Curve == elliptic.P256() || key.Curve == elliptic.P384() || key.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return true
	case *rsa.PublicKey: // its size was judged with the whole chain's
		return true
	default:
		return false
	}
}

// anchorOf is the bundle of the leaf's own trust domain, and no other.
func anchorOf(t *Trust, td spiffeid.TrustDomain) (anchor, error) {
	if t == nil {
		return anchor{}, refuse(WrongTrustDomain, "no trust bundle is known yet")
	}
	a, ok := t.anchors[td]
	if !ok {
		return anchor{}, refuse(WrongTrustDomain, "trust domain %q is not known here", td)
	}
	if len(a.bundle.Roots) == 0 { // SPIFFE Trust Domain and Bundle, section 4.1.3
		return anchor{}, refuse(WrongTrustDomain, "bundle of trust domain %q is empty", td)
	}
	return a, nil
}

// findPath finds a valid path from the leaf to a root (RFC 5280, section 6) whose every
// intermediate is a proper authority. No leeway in time, no key usage but what checkLeaf asked.
func findPath(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) ([]*x509.Certificate, error) {
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: between,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, pathError(err, chain, now)
	}
	var refused error
	for _, path := range paths {
		if refused = checkAuthorities(path); refused == nil {
			return path, nil
		}
	}
	return nil, refused
}

// checkAuthorities judges the intermediates of a path; the roots were judged with the bundle.
func checkAuthorities(path []*x509.Certificate) error {
	if len(path) < 2 { // a bundle holds no leaf; if it ever did, a leaf would vouch for itself
		return refuse(BadChain, "leaf is itself an anchor of the bundle")
	}
	for _, cert := range path[1 : len(path)-1] {
		if err := checkAuthority(cert); err != nil {
			return refuse(BadChain, "intermediate %q: %v", cert.Subject.CommonName, err)
		}
	}
	return nil
}

// checkAuthority judges a certificate that signs others (X509-SVID, sections 3.2, 4.1, 4.3).
func checkAuthority(cert *x509.Certificate) error {
	usage := extension(cert, oidKeyUsage)
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return errors.New("not a certificate authority")
	case usage == nil || cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("lacks keyCertSign")
	case !usage.Critical:
		return errors.New("key usage is not critical")
	}
	uris, err := rawURIs(cert)
	if err != nil {
		return err
	}
	for _, uri := range uris {
		if !bytes.HasPrefix(uri, []byte(scheme)) {
			continue
		}
		id, err := ParseID(bytes.TrimSuffix(uri, []byte("/"))) // the standard's own example has a lone slash
		if err != nil {
			return err
		}
		if id.Path() != "" {
			return errors.New("its SPIFFE ID has a path")
		}
	}
	return nil
}

// pathError turns crypto/x509's refusal into one of the reasons.
func pathError(err error, chain []*x509.Certificate, now time.Time) *Error {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		switch {
		case invalid.Reason == x509.Expired && now.Before(invalid.Cert.NotBefore):
			return refuse(NotYetValid, "certificate %q is valid from %s on", nameOf(invalid.Cert), invalid.Cert.NotBefore.UTC().Format(time.RFC3339))
		case invalid.Reason == x509.Expired:
			return refuse(Expired, "certificate %q ended %s", nameOf(invalid.Cert), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
		case invalid.Reason == x509.CANotAuthorizedForThisName:
			return refuse(NameConstraint, "name constraints of an authority exclude this ID: %v", err)
		default:
			return refuse(BadChain, "no valid path: %v", err)
		}
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		if cert := falseAuthority(chain); cert != nil {
			return refuse(BadChain, "certificate %q signed another without being an authority", nameOf(cert))
		}
		return refuse(UnknownCA, "no path to the bundle of the leaf's trust domain")
	}
	return refuse(BadChain, "no valid path: %v", err)
}

// falseAuthority finds a certificate of the chain that signed another one and must not:
// crypto/x509 calls this an unknown authority too.
func falseAuthority(chain []*x509.Certificate) *x509.Certificate {
	for _, parent := range chain {
		if checkAuthority(parent) == nil {
			continue
		}
		for _, child := range chain {
			if child != parent && bytes.Equal(child.RawIssuer, parent.RawSubject) &&
				parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature) == nil {
				return parent
			}
		}
	}
	return nil
}

func nameOf(cert *x509.Certificate) string {
	if uris, err := rawURIs(cert); err == nil && len(uris) == 1 {
		return clip(uris[0])
	}
	return clip([]byte(cert.Subject.CommonName))
}

func keyID(cert *x509.Certificate) []byte {
	if len(cert.SubjectKeyId) > 0 {
		return bytes.Clone(cert.SubjectKeyId)
	}
	return SKI(cert.PublicKey)
}
