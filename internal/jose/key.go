package jose

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"

	gojose "github.com/go-jose/go-jose/v4"
)

// Key is one public key: one algorithm, one use. It never changes.
type Key struct {
	id  string
	alg Alg
	pub crypto.PublicKey
}

// ID is the kid, "" if the key came without one.
func (k *Key) ID() string { return k.id }

// Alg is the one algorithm that the key verifies.
func (k *Key) Alg() Alg { return k.alg }

// Public is the key itself: *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.pub }

// kidLength is how much of the thumbprint names a key: 132 bits.
const kidLength = 22

// NewKey is the ES256 key of a public key, named by its thumbprint (RFC 7638, tokens.md 10.1).
func NewKey(public crypto.PublicKey) (*Key, error) {
	pub, ok := public.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("a key of tokens is on P-256")
	}
	if _, err := pub.Bytes(); err != nil { // go-jose names a point that is not on the curve as well
		return nil, err
	}
	sum, err := (&gojose.JSONWebKey{Key: pub}).Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return &Key{id: alphabet.EncodeToString(sum)[:kidLength], alg: ES256, pub: pub}, nil
}

// MarshalJSON prints the key as JWK: what it is made of, alg, use and kid.
func (k *Key) MarshalJSON() ([]byte, error) {
	j, err := numbers(k.pub)
	if err != nil {
		return nil, err
	}
	j.Alg, j.Use, j.Kid = k.alg, "sig", k.id
	return json.Marshal(j)
}

// jwk is a key as JWK (RFC 7517), in the order of its printing.
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
	Alg Alg    `json:"alg,omitempty"`
	Use string `json:"use,omitempty"`
	Kid string `json:"kid,omitempty"`
}

// numbers are the members that make the key.
func numbers(pub crypto.PublicKey) (jwk, error) {
	var j jwk
	text, err := gojose.JSONWebKey{Key: pub}.MarshalJSON()
	if err != nil {
		return j, err
	}
	return j, json.Unmarshal(text, &j)
}

// build makes the key that a JWK means, its alg already known to be one of ours or empty.
// go-jose makes it, of the checked members alone: what else it would read is not looked at here.
func (j jwk) build(implied Alg) (*Key, error) {
	checked, alg, err := jwk{Kty: j.Kty}, cmp.Or(j.Alg, implied), error(nil)
	if j.Kty == "RSA" {
		if alg[0] != 'R' && alg[0] != 'P' {
			return nil, errors.New("the kind of key does not fit alg")
		}
		checked.N, checked.E = j.N, j.E
		err = j.modulus()
	} else {
		i := slices.IndexFunc(curves, func(c curve) bool { return c.kty == j.Kty && c.name == j.Crv })
		if i < 0 {
			return nil, errors.New("the curve does not fit kty")
		}
		if alg = cmp.Or(j.Alg, curves[i].alg); alg != curves[i].alg {
			return nil, errors.New("the curve does not fit alg")
		}
		checked.Crv, checked.X = j.Crv, j.X
		if j.Kty == "EC" {
			checked.Y = j.Y
		}
		err = j.point(curves[i])
	}
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(checked)
	if err != nil {
		return nil, err
	}
	var made gojose.JSONWebKey
	if err := made.UnmarshalJSON(text); err != nil {
		return nil, fmt.Errorf("making the key: %w", err) // of an EC key: not on the curve
	}
	if !made.IsPublic() || !made.Valid() {
		return nil, errors.New("it is not a public key")
	}
	return &Key{id: j.Kid, alg: alg, pub: made.Key}, nil
}

// curve is a curve of JWK, with the one algorithm that fits it and the octets of a coordinate.
type curve struct {
	kty, name string
	alg       Alg
	size      int
}

var curves = []curve{{"EC", "P-256", ES256, 32}, {"EC", "P-384", ES384, 48}, {"EC", "P-521", ES512, 66}, {"OKP", "Ed25519", EdDSA, 32}}

// octets decodes what is spelled in the one right way: also Strict skips CR and LF.
func octets(s string) ([]byte, error) {
	b, err := alphabet.DecodeString(s)
	if err != nil || alphabet.EncodedLen(len(b)) != len(s) {
		return nil, errors.New("a member is not base64url")
	}
	return b, nil
}

// point checks the spelling of a point, and all of it on Ed25519.
func (j jwk) point(c curve) error {
	for _, s := range []string{j.X, j.Y} {
		b, err := octets(s)
		if err != nil {
			return err
		}
		if len(b) != c.size {
			return errors.New("x or y has a wrong length")
		}
		if c.kty == "OKP" {
			return edwards(b)
		}
	}
	return nil
}

// bits of RSA: less is weak, more is work that a stranger orders, and go-jose reads no more.
const (
	minRSA = 2048
	maxRSA = 4096
)

// modulus checks an RSA key.
func (j jwk) modulus() error {
	nb, err := octets(j.N)
	if err != nil {
		return err
	}
	eb, err := octets(j.E)
	if err != nil {
		return err
	}
	if len(nb) > maxRSA/8+1 {
		return fmt.Errorf("RSA of more than %d bits", maxRSA)
	}
	n, e := new(big.Int).SetBytes(nb), new(big.Int).SetBytes(eb)
	switch {
	case n.BitLen() < minRSA:
		return fmt.Errorf("RSA of less than %d bits", minRSA)
	case n.BitLen() > maxRSA:
		return fmt.Errorf("RSA of more than %d bits", maxRSA)
	case n.Bit(0) == 0:
		return errors.New("the modulus is even")
	case e.BitLen() > 31 || e.Bit(0) == 0 || e.BitLen() < 2:
		return errors.New("the exponent is even, 1 or too large")
	case roca(n):
		return errors.New("the key is of a generator that leaks it (ROCA, CVE-2017-15361)")
	}
	return nil
}
