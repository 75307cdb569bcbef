package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
)

// Sealer seals what lies at a path of the store; *store.Sealer is one. What is sealed for one
// path opens under no other. Safe for concurrent use.
type Sealer interface {
	Seal(path string, plain []byte) ([]byte, error)
	Unseal(path string, sealed []byte) ([]byte, error)
}

// SealKey seals a private key for a path, as PKCS #8.
func SealKey(s Sealer, path string, key *ecdsa.PrivateKey) ([]byte, error) {
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("encoding a key: it is on no curve of PKCS #8")
	}
	defer clear(plain)
	sealed, err := s.Seal(path, plain)
	if err != nil {
		return nil, fmt.Errorf("sealing a key: %w", err)
	}
	return sealed, nil
}

// OpenKey opens what SealKey sealed for the same path, if it is the key of public.
func OpenKey(s Sealer, path string, sealed []byte, public crypto.PublicKey) (*ecdsa.PrivateKey, error) {
	return openKey(s, path, sealed, func(own *ecdsa.PublicKey) bool { return own.Equal(public) })
}

// openKey opens a sealed key whose public part is the right one.
func openKey(s Sealer, path string, sealed []byte, right func(*ecdsa.PublicKey) bool) (*ecdsa.PrivateKey, error) {
	plain, err := s.Unseal(path, sealed)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	parsed, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, errors.New("what is sealed is no key") // the error could quote it
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !right(&key.PublicKey) {
		return nil, errors.New("what is sealed is another key")
	}
	return key, nil
}

// signer signs with a key and shows nothing of it, not even to a formatter.
type signer struct{ key *ecdsa.PrivateKey }

// Public implements crypto.Signer.
func (s signer) Public() crypto.PublicKey { return &s.key.PublicKey }

// Sign implements crypto.Signer for ES256 alone: one key, one algorithm (tokens.md 10.1).
func (s signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, errors.New("signing: the key is for ES256 alone")
	}
	return s.key.Sign(rand, digest, opts)
}
