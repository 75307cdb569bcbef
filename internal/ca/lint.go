package ca

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"time"

	"countersign.dev/internal/identity"
)

// lints judge a certificate before its signature is made. Each knows only what was asked for
// and what came out, so that a slip in the making is not repeated in the judging.
var lints = []struct {
	name  string
	judge func(cert *x509.Certificate, d *draft, parent *x509.Certificate) error
}{
	{"name", lintName},
	{"subject", lintSubject},
	{"serial", lintSerial},
	{"validity", lintValidity},
	{"usage", lintUsage},
	{"extensions", lintExtensions},
	{"key ids", lintKeyIDs},
	{"algorithm", lintAlgorithm},
	{"encoding", lintEncoding},
}

// lint judges cert, made under the throw-away key, as what d asked for. A leaf must also
// prove its ID to identity.Verify, as it will have to prove it to every peer.
func lint(cert *x509.Certificate, d *draft, parent *x509.Certificate, trust *identity.Trust) error {
	for _, l := range lints {
		if err := l.judge(cert, d, parent); err != nil {
			return fmt.Errorf("%w: lint %q: %v", ErrLint, l.name, err)
		}
	}
	switch d.profile {
	case Root: // its path is itself, and sign checks its signature
		return nil
	case Issuer:
		if err := cert.CheckSignatureFrom(parent); err != nil {
			return fmt.Errorf("%w: lint %q: %v", ErrLint, "path", err)
		}
		return nil
	}
	peer, err := identity.Verify([]*x509.Certificate{cert}, trust, d.issued)
	if err != nil {
		return fmt.Errorf("%w: lint %q: %v", ErrLint, "path", err)
	}
	if peer.ID != d.id {
		return fmt.Errorf("%w: lint %q: it proves %q", ErrLint, "path", peer.ID)
	}
	return nil
}

var (
	oidSubjectKeyID   = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage       = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSAN            = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidConstraints    = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidAuthorityKeyID = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// lintName: exactly one URI, the ID, by its raw bytes; and the DNS names asked for.
func lintName(cert *x509.Certificate, d *draft, _ *x509.Certificate) error {
	const tagDNS, tagURI = 2, 6
	var want []asn1.RawValue
	for _, name := range d.dnsNames {
		if err := checkDNSName(name); err != nil {
			return err
		}
		want = append(want, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagDNS, Bytes: []byte(name)})
	}
	want = append(want, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagURI, Bytes: []byte(d.id.String())})
	value, err := asn1.Marshal(want)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSAN) })
	if i < 0 || !bytes.Equal(cert.Extensions[i].Value, value) {
		return fmt.Errorf("names are not %q and %q", d.id, d.dnsNames)
	}
	if _, err := identity.ParseID([]byte(d.id.String())); err != nil {
		return err
	}
	if profiles[d.profile].authority != (d.id.Path() == "") {
		return fmt.Errorf("%q is no ID for profile %s", d.id, d.profile)
	}
	return nil
}

// lintSubject: RFC 5280, appendix A.1, bounds the lengths; an empty subject would make the SAN
// critical.
func lintSubject(cert *x509.Certificate, d *draft, _ *x509.Certificate) error {
	s := cert.Subject
	if len(s.Names) != 2 || len(s.Organization) != 1 {
		return fmt.Errorf("subject is %q", s)
	}
	if len(s.Organization[0]) == 0 || len(s.Organization[0]) > maxOrganization || len(s.CommonName) == 0 || len(s.CommonName) > maxOrganization {
		return fmt.Errorf("subject %q has a part that is empty or too long", s)
	}
	if want := d.subject(); s.Organization[0] != want.Organization[0] || s.CommonName != want.CommonName {
		return fmt.Errorf("subject is %q, not %q", s, want)
	}
	return nil
}

// lintSerial: the form of ours, and the time of issue within two seconds.
func lintSerial(cert *x509.Certificate, d *draft, _ *x509.Certificate) error {
	at, ok := identity.IssuedAt(cert.SerialNumber.Bytes())
	if !ok || at.Sub(d.issued).Abs() > 2*time.Second || !bytes.Equal(cert.SerialNumber.Bytes(), d.serial) {
		return fmt.Errorf("serial %x does not say %v", cert.SerialNumber, d.issued)
	}
	return nil
}

// lintValidity: around now, no longer than the profile allows, within the authority's.
func lintValidity(cert *x509.Certificate, d *draft, parent *x509.Certificate) error {
	p := profiles[d.profile]
	switch {
	case !cert.NotBefore.Before(d.issued) || d.issued.Sub(cert.NotBefore) > p.backdate+time.Second:
		return fmt.Errorf("notBefore is %v", cert.NotBefore)
	case !cert.NotAfter.After(d.issued) || cert.NotAfter.Sub(d.issued) > p.max:
		return fmt.Errorf("notAfter is %v", cert.NotAfter)
	case cert.NotAfter.After(parent.NotAfter):
		return fmt.Errorf("notAfter %v is after the authority's, %v", cert.NotAfter, parent.NotAfter)
	}
	return nil
}

// lintUsage: exactly the bits of the profile (X509-SVID, sections 4.1, 4.3, 4.4).
func lintUsage(cert *x509.Certificate, d *draft, _ *x509.Certificate) error {
	p := profiles[d.profile]
	usage, ext, pathLen := leafUsage, leafExtUsage, -1
	if p.authority {
		usage, ext, pathLen = authorityUsage, nil, p.pathLen
	}
	if cert.KeyUsage != usage || !slices.Equal(cert.ExtKeyUsage, ext) || len(cert.UnknownExtKeyUsage) > 0 {
		return fmt.Errorf("usages are %b and %v", cert.KeyUsage, cert.ExtKeyUsage)
	}
	if !cert.BasicConstraintsValid || cert.IsCA != p.authority || p.authority && cert.MaxPathLen != pathLen {
		return fmt.Errorf("authority %v, path length %d", cert.IsCA, cert.MaxPathLen)
	}
	return nil
}

// lintExtensions: those of the profile and no others, each as critical as it must be.
func lintExtensions(cert *x509.Certificate, d *draft, _ *x509.Certificate) error {
	type kind struct {
		oid      string
		critical bool
	}
	want := []kind{{oidKeyUsage.String(), true}, {oidConstraints.String(), true}, {oidSubjectKeyID.String(), false}, {oidSAN.String(), false}}
	if !profiles[d.profile].authority {
		want = append(want, kind{oidExtKeyUsage.String(), false})
	}
	if d.profile != Root {
		want = append(want, kind{oidAuthorityKeyID.String(), false})
	}
	for _, ext := range cert.Extensions {
		i := slices.Index(want, kind{ext.Id.String(), ext.Critical})
		if i < 0 {
			return fmt.Errorf("extension %v (critical %v) is not the profile's, or stands twice", ext.Id, ext.Critical)
		}
		want = slices.Delete(want, i, i+1)
	}
	if len(want) > 0 {
		return fmt.Errorf("extension %s is missing", want[0].oid)
	}
	return nil
}

// lintKeyIDs: RFC 7093, section 2, method 1; the authority's id is the authority's.
func lintKeyIDs(cert *x509.Certificate, d *draft, parent *x509.Certificate) error {
	if ski := identity.SKI(d.public); len(ski) == 0 || !bytes.Equal(cert.SubjectKeyId, ski) || !bytes.Equal(identity.SKI(cert.PublicKey), ski) {
		return fmt.Errorf("subject key id is %x", cert.SubjectKeyId)
	}
	var want []byte
	if d.profile != Root {
		want = parent.SubjectKeyId
	}
	if !bytes.Equal(cert.AuthorityKeyId, want) {
		return fmt.Errorf("authority key id is %x", cert.AuthorityKeyId)
	}
	if !bytes.Equal(cert.RawIssuer, issuerName(cert, d, parent)) {
		return fmt.Errorf("issuer is %q", cert.Issuer)
	}
	return nil
}

func issuerName(cert *x509.Certificate, d *draft, parent *x509.Certificate) []byte {
	if d.profile == Root {
		return cert.RawSubject
	}
	return parent.RawSubject
}

// lintAlgorithm: the one that the authority's key signs with.
func lintAlgorithm(cert *x509.Certificate, _ *draft, _ *x509.Certificate) error {
	if cert.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return fmt.Errorf("signature algorithm is %v", cert.SignatureAlgorithm)
	}
	return nil
}

// tbsCertificate is RFC 5280, section 4.1.2.
type tbsCertificate struct {
	Version    int `asn1:"explicit,tag:0"`
	Serial     *big.Int
	Algorithm  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	Validity   struct{ NotBefore, NotAfter time.Time }
	Subject    asn1.RawValue
	Key        asn1.RawValue
	Extensions []pkix.Extension `asn1:"explicit,tag:3"`
}

// lintEncoding: what is read and written again is the same bytes, so nothing hides in it.
func lintEncoding(cert *x509.Certificate, _ *draft, _ *x509.Certificate) error {
	var tbs tbsCertificate
	rest, err := asn1.Unmarshal(cert.RawTBSCertificate, &tbs)
	if err != nil || len(rest) > 0 {
		return fmt.Errorf("not DER: %v", err)
	}
	again, err := asn1.Marshal(tbs)
	if err != nil || !bytes.Equal(again, cert.RawTBSCertificate) {
		return fmt.Errorf("encodes differently a second time: %v", err)
	}
	return nil
}
