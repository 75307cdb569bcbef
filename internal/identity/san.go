package identity

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	oidSAN         = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// tagURI is the context-specific tag of uniformResourceIdentifier (RFC 5280, section 4.2.1.6).
const tagURI = 6

// IDFromLeaf reads the identity of a leaf: exactly one URI SAN, a SPIFFE ID with a path
// (X509-SVID, sections 2 and 5.2). Names of other kinds and the subject are never read.
func IDFromLeaf(leaf *x509.Certificate) (spiffeid.ID, error) {
	uris, err := rawURIs(leaf)
	if err != nil {
		return spiffeid.ID{}, err
	}
	if len(uris) != 1 {
		return spiffeid.ID{}, refuse(BadSAN, "certificate has %d URI names, exactly one SPIFFE ID is needed", len(uris))
	}
	id, err := ParseID(uris[0])
	if err != nil {
		return spiffeid.ID{}, refuse(BadSAN, "certificate: %v", err)
	}
	if id.Path() == "" { // X509-SVID, section 3.1
		return spiffeid.ID{}, refuse(BadSAN, "certificate: %q has no path: it names a trust domain, not a workload", id)
	}
	return id, nil
}

// rawURIs are the bytes of every URI SAN as they stand in the certificate.
func rawURIs(cert *x509.Certificate) ([][]byte, error) {
	ext := extension(cert, oidSAN)
	if ext == nil {
		return nil, nil
	}
	var names []asn1.RawValue
	rest, err := asn1.Unmarshal(ext.Value, &names)
	if err != nil || len(rest) != 0 {
		return nil, refuse(BadSAN, "certificate: subject alternative names are malformed")
	}
	var uris [][]byte
	for _, name := range names {
		if name.Class == asn1.ClassContextSpecific && name.Tag == tagURI && !name.IsCompound {
			uris = append(uris, name.Bytes)
		}
	}
	return uris, nil
}

func extension(cert *x509.Certificate, oid asn1.ObjectIdentifier) *pkix.Extension {
	for i := range cert.Extensions {
		if cert.Extensions[i].Id.Equal(oid) {
			return &cert.Extensions[i]
		}
	}
	return nil
}
