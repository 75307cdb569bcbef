package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
)

// NewKey is the ES256 key of a public key, named by its thumbprint (tokens.md 10.1).
func NewKey(public crypto.PublicKey) (*Key, error) {
	pub, ok := public.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("a key of tokens is on P-256")
	}
	j, err := numbers(pub)
	if err != nil {
		return nil, err
	}
	return &Key{id: j.thumbprint()[:kidLength], alg: ES256, pub: pub}, nil
}
