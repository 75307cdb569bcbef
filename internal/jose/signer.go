package jose

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
)

// The typ of the tokens that are made here.
const (
	TypAccess = "at+jwt"
	TypJWT    = "JWT"
)

// Signer makes tokens with one P-256 key, as ES256.
type Signer struct {
	private crypto.Signer
	key     *Key
	headers map[string]string // encoded, with the dot behind it
}

// NewSigner makes a signer of a P-256 key, which may live elsewhere (KMS, HSM). The kid is the
// key's thumbprint, so it never comes back for another key.
func NewSigner(key crypto.Signer) (*Signer, error) {
	k, err := NewKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("the signing key: %w", err)
	}
	s := &Signer{private: key, key: k, headers: map[string]string{}}
	for _, typ := range []string{TypAccess, TypJWT} {
		h := `{"alg":"ES256","kid":"` + s.key.id + `","typ":"` + typ + `"}`
		s.headers[typ] = alphabet.EncodeToString([]byte(h)) + "."
	}
	return s, nil
}

// Key is the public half.
func (s *Signer) Key() *Key { return s.key }

// Sign makes a token of claims, which become JSON by encoding/json.
func (s *Signer) Sign(typ string, claims any) (string, error) {
	head, ok := s.headers[typ]
	if !ok {
		return "", errors.New("signing a token: a typ that is not made here")
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	size := len(head) + alphabet.EncodedLen(len(body)) + 1 + alphabet.EncodedLen(es256Size)
	if size > MaxToken {
		return "", fmt.Errorf("signing a token: it would be longer than %d bytes", MaxToken)
	}
	out := alphabet.AppendEncode(append(make([]byte, 0, size), head...), body)
	sum := sha256.Sum256(out)
	der, err := s.private.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	var sig [es256Size]byte
	if !rawECDSA(sig[:], der) {
		return "", errors.New("signing a token: the signer gave no ECDSA signature in ASN.1")
	}
	return string(alphabet.AppendEncode(append(out, '.'), sig[:])), nil
}
