package apikey

import (
	"crypto/sha256"
	"fmt"
	"io"
)

// PepperLen is the length of a pepper's key, in bytes.
const PepperLen = 32

// Pepper makes hashes worthless to who has the records alone. The nil Pepper is none: the hash
// is SHA-256.
type Pepper struct {
	inner, outer [sha256.BlockSize]byte
}

// NewPepper takes a key from the CA's key store.
func NewPepper(key []byte) (*Pepper, error) {
	if len(key) != PepperLen {
		return nil, fmt.Errorf("pepper of %d bytes: it has %d", len(key), PepperLen)
	}
	p := new(Pepper)
	copy(p.inner[:], key)
	copy(p.outer[:], key)
	for i := range p.inner {
		p.inner[i] ^= 0x36
		p.outer[i] ^= 0x5c
	}
	return p, nil
}

// hash is SHA-256 of the secret's digits, or HMAC-SHA256 (RFC 2104, section 2) with the pepper:
// spelled out, for crypto/hmac allocates.
func (p *Pepper) hash(secret []byte) [sha256.Size]byte {
	if p == nil {
		return sha256.Sum256(secret)
	}
	var first [sha256.BlockSize + secretLen]byte
	n := copy(first[:], p.inner[:])
	n += copy(first[n:], secret)
	sum := sha256.Sum256(first[:n])
	var second [sha256.BlockSize + sha256.Size]byte
	copy(second[:], p.outer[:])
	copy(second[sha256.BlockSize:], sum[:])
	return sha256.Sum256(second[:])
}

// Format keeps every verb from the key.
func (p *Pepper) Format(f fmt.State, _ rune) { io.WriteString(f, "pepper") }
