package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
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

// bits of RSA: less is weak, more is work that a stranger orders.
const (
	minRSA = 2048
	maxRSA = 8192
)

// curve is a curve of JWK, with the one algorithm that fits it.
type curve struct {
	name string
	alg  Alg
	on   elliptic.Curve // nil: Ed25519
}

var curves = []curve{{"P-256", ES256, elliptic.P256()}, {"P-384", ES384, elliptic.P384()}, {"P-521", ES512, elliptic.P521()}, {"Ed25519", EdDSA, nil}}

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
	b64 := alphabet.EncodeToString
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		point, err := p.Bytes()
		if err != nil {
			return jwk{}, err
		}
		for _, c := range curves {
			if c.on == p.Curve {
				half := len(point) / 2
				return jwk{Kty: "EC", Crv: c.name, X: b64(point[1 : 1+half]), Y: b64(point[1+half:])}, nil
			}
		}
	case ed25519.PublicKey:
		return jwk{Kty: "OKP", Crv: "Ed25519", X: b64(p)}, nil
	case *rsa.PublicKey:
		return jwk{Kty: "RSA", N: b64(p.N.Bytes()), E: b64(big.NewInt(int64(p.E)).Bytes())}, nil
	}
	return jwk{}, errors.New("a kind of key that is not used here")
}

// kidLength is how much of the thumbprint names a key: 132 bits.
const kidLength = 22

// thumbprint is RFC 7638 with SHA-256, of an EC key: others are not made here. Nothing in its
// members needs an escape.
func (j jwk) thumbprint() string {
	sum := sha256.Sum256([]byte(`{"crv":"` + j.Crv + `","kty":"EC","x":"` + j.X + `","y":"` + j.Y + `"}`))
	return alphabet.EncodeToString(sum[:])
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

// build makes the key that a JWK means, its alg already known to be one of ours or empty.
func (j jwk) build(implied Alg) (*Key, error) {
	k := &Key{id: j.Kid, alg: j.Alg}
	var err error
	switch j.Kty {
	case "EC", "OKP":
		for _, c := range curves {
			if c.name != j.Crv || (c.on == nil) != (j.Kty == "OKP") {
				continue
			}
			if k.alg == "" {
				k.alg = c.alg
			}
			if k.alg != c.alg {
				return nil, errors.New("the curve does not fit alg")
			}
			k.pub, err = j.point(c)
			return k, err
		}
		return nil, errors.New("the curve does not fit kty")
	}
	if k.alg == "" {
		k.alg = implied
	}
	if k.alg[0] != 'R' && k.alg[0] != 'P' {
		return nil, errors.New("the kind of key does not fit alg")
	}
	k.pub, err = j.modulus()
	return k, err
}

func (j jwk) point(c curve) (crypto.PublicKey, error) {
	x, err := alphabet.DecodeString(j.X)
	if err != nil {
		return nil, errors.New("x is not base64url")
	}
	if c.on == nil {
		if len(x) != ed25519.PublicKeySize {
			return nil, errors.New("x has a wrong length")
		}
		return ed25519.PublicKey(x), edwards(x)
	}
	y, err := alphabet.DecodeString(j.Y)
	if err != nil {
		return nil, errors.New("y is not base64url")
	}
	if size := (c.on.Params().BitSize + 7) / 8; len(x) != size || len(y) != size {
		return nil, errors.New("x or y has a wrong length")
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(c.on, append(append([]byte{4}, x...), y...))
	if err != nil {
		return nil, errors.New("the point is not on the curve")
	}
	return pub, nil
}

func (j jwk) modulus() (crypto.PublicKey, error) {
	nb, err1 := alphabet.DecodeString(j.N)
	eb, err2 := alphabet.DecodeString(j.E)
	if err1 != nil || err2 != nil {
		return nil, errors.New("n or e is not base64url")
	}
	if len(nb) > maxRSA/8+1 {
		return nil, fmt.Errorf("RSA of more than %d bits", maxRSA)
	}
	n, e := new(big.Int).SetBytes(nb), new(big.Int).SetBytes(eb)
	switch {
	case n.BitLen() < minRSA:
		return nil, fmt.Errorf("RSA of less than %d bits", minRSA)
	case n.BitLen() > maxRSA:
		return nil, fmt.Errorf("RSA of more than %d bits", maxRSA)
	case n.Bit(0) == 0:
		return nil, errors.New("the modulus is even")
	case e.BitLen() > 31 || e.Bit(0) == 0 || e.BitLen() < 2:
		return nil, errors.New("the exponent is even, 1 or too large")
	case roca(n):
		return nil, errors.New("the key is of a generator that leaks it (ROCA, CVE-2017-15361)")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}
