package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// Pseudonym is how a token's subject stands in records (audit.md 3.1): people by p1: and a
// keyed hash of issuer and subject, so that one person can be followed and not named; workloads,
// API keys, certificates and registered clients of our own issuer in clear. Without a key a
// person is p1: alone.
func Pseudonym(key []byte, iss, sub string, person bool) string {
	if !person || sub == "" {
		return sub
	}
	if len(key) == 0 {
		return "p1:"
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(iss))
	h.Write([]byte{0})
	h.Write([]byte(sub))
	return "p1:" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:16]))
}
