package ca

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/identity"
)

// Profile is a kind of certificate.
type Profile string

// The profiles. Root and Issuer are made by an Authority for itself and cannot be asked for.
const (
	Workload Profile = "workload"
	Node     Profile = "node"
	Server   Profile = "server"
	Issuer   Profile = "issuer"
	Root     Profile = "root"
)

const (
	day = 24 * time.Hour

	// A leaf begins this long before it is issued: a server five minutes ahead and a verifier
	// five minutes behind still understand each other.
	leafBackdate      = 10 * time.Minute
	authorityBackdate = time.Hour

	maxOrganization = 64 // RFC 5280, appendix A.1: ub-organization-name
)

// rules are what a profile fixes (the reference, table 4.1).
type rules struct {
	min, max, usual time.Duration // life after the issue
	backdate        time.Duration
	authority       bool
	pathLen         int // of an authority; -1 is without limit
	dnsNames        bool
}

var profiles = map[Profile]rules{
	Workload: {min: 10 * time.Second, max: day, usual: time.Hour, backdate: leafBackdate, dnsNames: true},
	Node:     {min: 10 * time.Second, max: day, usual: day, backdate: leafBackdate},
	Server:   {min: 10 * time.Second, max: day, usual: day, backdate: leafBackdate, dnsNames: true},
	Issuer:   {min: day, max: 7 * day, usual: 7 * day, backdate: authorityBackdate, authority: true, pathLen: 0},
	Root:     {min: day, max: 365 * day, usual: 365 * day, backdate: authorityBackdate, authority: true, pathLen: -1},
}

const (
	authorityUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	leafUsage      = x509.KeyUsageDigitalSignature
)

var leafExtUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}

// draft is everything that goes into one certificate.
type draft struct {
	profile  Profile
	id       spiffeid.ID
	public   crypto.PublicKey
	ski      []byte
	dnsNames []string
	serial   []byte
	issued   time.Time
	notAfter time.Time // whole seconds
}

// template is the certificate of a draft, still without its signer (X509-SVID, sections 2 to 4).
func (d *draft) template() *x509.Certificate {
	p := profiles[d.profile]
	t := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(d.serial),
		Subject:               d.subject(),
		NotBefore:             d.issued.Add(-p.backdate).UTC().Truncate(time.Second),
		NotAfter:              d.notAfter,
		URIs:                  []*url.URL{d.id.URL()},
		DNSNames:              d.dnsNames,
		SubjectKeyId:          d.ski, // Go would fill it in for authorities alone
		BasicConstraintsValid: true,
	}
	if !p.authority {
		t.KeyUsage, t.ExtKeyUsage = leafUsage, leafExtUsage
		return t
	}
	t.KeyUsage, t.IsCA = authorityUsage, true
	t.MaxPathLen, t.MaxPathLenZero = p.pathLen, p.pathLen == 0
	return t
}

// subject is for the eyes of people and for PostgreSQL's user maps; nothing of ours reads it.
func (d *draft) subject() pkix.Name {
	if profiles[d.profile].authority {
		td := d.id.TrustDomain().Name()
		return pkix.Name{
			Organization: []string{td[:min(len(td), maxOrganization)]},
			CommonName:   "countersign " + string(d.profile) + " " + shortID(d.ski),
		}
	}
	ns, sa, _ := identity.Split(d.id)
	return pkix.Name{Organization: []string{ns}, CommonName: sa}
}
