package identity

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"
)

const (
	serialSize    = 16
	serialVersion = 0x01 // also keeps the number positive and its length fixed (RFC 5280, section 4.1.2.2)
)

// NewSerial is the serial number of a certificate issued at now: 0x01, 48 bits of Unix
// milliseconds, 72 random bits. The time in it makes "everything issued before" exact
// although notBefore is backdated.
func NewSerial(now time.Time, random io.Reader) ([]byte, error) {
	serial := make([]byte, serialSize)
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	serial[0] = serialVersion
	copy(serial[1:7], ms[2:])
	if _, err := io.ReadFull(random, serial[7:]); err != nil {
		return nil, fmt.Errorf("reading random bits for a serial number: %v", err)
	}
	return serial, nil
}

// IssuedAt reads the issue time from a serial number of ours; ok is false for any other form.
func IssuedAt(serial []byte) (at time.Time, ok bool) {
	if len(serial) != serialSize || serial[0] != serialVersion {
		return time.Time{}, false
	}
	var ms [8]byte
	copy(ms[2:], serial[1:7])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:]))).UTC(), true
}

// issuedAt is the issue time of a verified leaf. A foreign serial can look like ours by
// chance: then the time in it does not lie within the validity, and notBefore counts.
func issuedAt(leaf *x509.Certificate) time.Time {
	at, ok := IssuedAt(leaf.SerialNumber.Bytes())
	if !ok || at.Before(leaf.NotBefore) || at.After(leaf.NotAfter) {
		return leaf.NotBefore
	}
	return at
}

// RenewAt is when the certificate is to be renewed: at 45 to 55 % of its life. The place
// in that range is drawn from the serial, so it is the same after a restart and spread
// over a fleet.
func RenewAt(serial []byte, issued, notAfter time.Time) time.Time {
	sum := sha256.Sum256(serial)
	u := float64(binary.BigEndian.Uint64(sum[:8])) / math.Pow(2, 64)
	life := notAfter.Sub(issued)
	return issued.Add(time.Duration(float64(life) * (0.45 + 0.10*u)))
}

// SKI is the key id of a public key: the first 160 bits of the SHA-256 of its bit string
// (RFC 7093, section 2, method 1). It is nil for a key that X.509 cannot carry.
func SKI(pub crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil
	}
	var spki struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &spki); err != nil {
		return nil
	}
	sum := sha256.Sum256(spki.Key.Bytes)
	return bytes.Clone(sum[:20])
}
