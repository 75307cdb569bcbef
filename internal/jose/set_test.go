package jose

import (
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	reference "github.com/go-jose/go-jose/v4"
)

func publicKeys(t *testing.T) map[string]crypto.PublicKey {
	t.Helper()
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, minRSA)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.PublicKey{
		"EC P-256 ES256": &newKey(t, elliptic.P256()).PublicKey, "EC P-384 ES384": &newKey(t, elliptic.P384()).PublicKey,
		"EC P-521 ES512": &newKey(t, elliptic.P521()).PublicKey, "OKP Ed25519 EdDSA": ed, "RSA  RS256": &r.PublicKey,
	}
}

// What go-jose writes is read, what is written go-jose reads, and thumbprints are the same.
func TestKeysAsAnotherLibrarySeesThem(t *testing.T) {
	for name, pub := range publicKeys(t) {
		theirs := reference.JSONWebKey{Key: pub, KeyID: "k", Use: "sig"}
		text := mustMarshal(t, reference.JSONWebKeySet{Keys: []reference.JSONWebKey{theirs}})
		s, err := ReadSet(text)
		if err != nil || s.Len() != 1 {
			t.Fatalf("%s: %v", name, err)
		}
		k := s.Keys()[0]
		if alg := strings.Fields(name)[len(strings.Fields(name))-1]; string(k.Alg()) != alg || k.ID() != "k" {
			t.Errorf("%s is read as %s %s", name, k.ID(), k.Alg())
		}
		if !k.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(pub) {
			t.Errorf("%s is read as another key", name)
		}
		var back reference.JSONWebKeySet
		if err := json.Unmarshal(mustMarshal(t, s), &back); err != nil {
			t.Fatal(err)
		}
		if b := back.Keys[0]; !b.Valid() || b.Algorithm != string(k.Alg()) || b.Use != "sig" || b.KeyID != "k" || !b.Key.(interface{ Equal(crypto.PublicKey) bool }).Equal(pub) {
			t.Errorf("%s is written as %+v", name, b)
		}
		if !strings.HasPrefix(name, "EC") {
			continue
		}
		want, err := theirs.Thumbprint(crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		j, err := numbers(pub)
		if err != nil || j.thumbprint() != alphabet.EncodeToString(want) {
			t.Errorf("%s: thumbprint %s, want %x", name, j.thumbprint(), want)
		}
	}
}

// The set that is published has these members and no others, in this order.
func TestPublishedSet(t *testing.T) {
	s, err := NewSigner(newKey(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	j, err := numbers(s.Key().Public())
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","x":%q,"y":%q,"alg":"ES256","use":"sig","kid":%q}]}`, j.X, j.Y, s.Key().ID())
	if got := mustMarshal(t, setOf(t, s.Key())); string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := mustMarshal(t, &Set{}); string(got) != `{"keys":[]}` {
		t.Errorf("empty: %s", got)
	}
	if id := s.Key().ID(); len(id) != kidLength || id != j.thumbprint()[:kidLength] {
		t.Errorf("kid %q", id)
	}
	if k, err := NewKey(s.Key().Public()); err != nil || k.ID() != s.Key().ID() || k.Alg() != ES256 {
		t.Errorf("the public half alone is another key: %v", err)
	}
	for name, pub := range publicKeys(t) {
		if _, err := NewKey(pub); (err == nil) != strings.Contains(name, "P-256") {
			t.Errorf("a key of tokens on %s: %v", name, err)
		}
	}
	if _, err := NewSigner(newKey(t, elliptic.P384())); err == nil {
		t.Error("a signer of P-384")
	}
}

func TestR14bBadKeysRefuseTheSet(t *testing.T) {
	f := newForge(t)
	good := strings.TrimSuffix(strings.TrimPrefix(string(f.keys), `{"keys":[`), `]}`)
	with := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in the key", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	var k jwk
	if err := json.Unmarshal([]byte(good), &k); err != nil {
		t.Fatal(err)
	}
	okp := func(x []byte) string {
		return `{"kty":"OKP","crv":"Ed25519","x":"` + alphabet.EncodeToString(x) + `"}`
	}
	prime := func(add int64) []byte { // p + add, little-endian
		b := new(big.Int).Add(field25519, big.NewInt(add)).FillBytes(make([]byte, 32))
		slices.Reverse(b)
		return b
	}
	n := new(big.Int).SetBit(new(big.Int).Lsh(big.NewInt(1), minRSA-1), 0, 1)
	exponent := func(e string) string { return strings.Replace(rsaJWK(n, ""), "AQAB", e, 1) }
	bad := map[string]string{
		"off-curve":       with(`"y":"`+k.Y, `"y":"`+k.X),
		"no y":            with(`"y":"`+k.Y+`",`, ""),
		"short x":         with(k.X, k.X[:40]),
		"padded x":        with(k.X, k.X+"="),
		"LF in x":         with(k.X, k.X[:10]+`\n`+k.X[10:]),
		"loose x":         with(k.X, loosen(t, k.X)),
		"x no text":       with(`"x":"`+k.X+`"`, `"x":7`),
		"alg of another":  with(`"alg":"ES256"`, `"alg":"ES384"`),
		"alg of RSA":      with(`"alg":"ES256"`, `"alg":"RS256"`),
		"curve of Edward": with("P-256", "Ed25519"),
		"EC as OKP":       with(`"kty":"EC"`, `"kty":"OKP"`),
		"EC as RSA":       with(`"kty":"EC"`, `"kty":"RSA"`),
		"private":         with(`"kty"`, `"d":"AAAA","kty"`),
		"private, passed over": with(`"kty"`, `"d":"AAAA","kty"`)[:0] +
			strings.Replace(with(`"kty"`, `"d":"AAAA","kty"`), `"use":"sig"`, `"use":"enc"`, 1),
		"private of an unknown kty": `{"kty":"AKP","alg":"ML-DSA-44","pub":"AAAA","priv":"AAAA"}`,
		"symmetric":                 `{"kty":"oct","k":"AAAA"}`,
		"symmetric for encryption":  `{"kty":"oct","k":"AAAA","use":"enc"}`,
		"symmetric without k":       `{"kty":"oct"}`,
		"name twice":                with(`"kty":"EC"`, `"kty":"EC","kty":"EC"`),
		"name twice, escaped":       with(`"kty":"EC"`, `"kty":"EC","k\u0074y":"EC"`),
		"no kty":                    with(`"kty":"EC",`, ""),
		"kid no text":               with(`"kid":"`+f.kid+`"`, `"kid":7`),
		"use no text":               with(`"use":"sig"`, `"use":["sig"]`),
		"key_ops no list":           with(`"kty"`, `"key_ops":"verify","kty"`),
		"kid twice":                 good,
		"no object":                 `"x"`,
		"null":                      `null`,
		"RSA 1024":                  weakRSA(t, 1024),
		"RSA 2047":                  weakRSA(t, 2047),
		"RSA 8193":                  weakRSA(t, maxRSA+1),
		"RSA even":                  rsaJWK(new(big.Int).SetBit(n, 0, 0), ""),
		"e = 1":                     exponent("AQ"),
		"e = 0":                     exponent("AA"),
		"e even":                    exponent("AQAA"),
		"e empty":                   exponent(""),
		"e of 33 bits":              exponent(alphabet.EncodeToString([]byte{1, 0, 0, 0, 1})),
		"ROCA":                      rocaKey(t),
		"Ed25519 short":             okp(make([]byte, 31)),
		"y = p":                     okp(prime(0)),
		"y = p + 1":                 okp(prime(1)),
		"y = 2^255 - 1":             okp([]byte(strings.Repeat("\xff", 32))),
	}
	for i, y := range lowOrder {
		b := y.FillBytes(make([]byte, 32))
		slices.Reverse(b)
		bad[fmt.Sprint("low order ", i)] = okp(b)
		b[31] |= 0x80
		bad[fmt.Sprint("low order, other sign ", i)] = okp(b)
	}
	for y := byte(2); ; y++ { // the first y that is none of a point
		if b := append([]byte{y}, make([]byte, 31)...); edwards(b) != nil {
			bad["Ed25519 off the curve"] = okp(b)
			break
		}
	}
	for what, key := range bad {
		if s, err := ReadSet([]byte(`{"keys":[` + good + `,` + key + `]}`)); err == nil {
			t.Errorf("%s: a set of %d keys", what, s.Len())
		}
	}
	for what, text := range map[string]string{
		"empty": "", "null": "null", "list": "[]", "no keys": "{}", "keys null": `{"keys":null}`, "keys no list": `{"keys":{}}`, "keys twice": `{"keys":[],"keys":[]}`,
		"trailing": `{"keys":[]}x`, "UTF-8": "{\"keys\":[],\"x\":\"\xff\"}", "deep": `{"keys":[],"x":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + "}",
		"1 MiB": `{"keys":[]` + strings.Repeat(" ", maxSet) + "}",
	} {
		if _, err := ReadSet([]byte(text)); err == nil {
			t.Errorf("%s: is a set", what)
		}
	}
}

// Keys for other uses are passed over, and the rest of the set stays (Keycloak's enc key).
func TestKeysPassedOver(t *testing.T) {
	f := newForge(t)
	good := strings.TrimSuffix(strings.TrimPrefix(string(f.keys), `{"keys":[`), `]}`)
	for what, key := range map[string]string{
		"use enc, same kid": strings.Replace(good, `"use":"sig"`, `"use":"enc"`, 1), "RSA-OAEP": rsaJWK(big.NewInt(7), `,"alg":"RSA-OAEP"`),
		"key_ops": strings.Replace(good, `"kty"`, `"key_ops":["sign"],"kty"`, 1), "no key_ops": strings.Replace(good, `"kty"`, `"key_ops":[],"kty"`, 1),
		"secp256k1": `{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}`, "X25519": `{"kty":"OKP","crv":"X25519","x":"AA"}`, "AKP": `{"kty":"AKP","alg":"ML-DSA-44","pub":"AA"}`,
		"alg none": strings.Replace(good, "ES256", "none", 1), "bad key for another use": `{"kty":"RSA","use":"enc","n":"AA","e":"AQ"}`, "jwt-svid": strings.Replace(good, `"use":"sig"`, `"use":"jwt-svid"`, 1),
		"use empty": strings.Replace(good, `"use":"sig"`, `"use":""`, 1),
	} {
		s, err := ReadSet([]byte(`{"x":1,"keys":[` + key + `,` + good + `]}`))
		if err != nil || s.Len() != 1 || s.Keys()[0].ID() != f.kid {
			t.Errorf("%s: %v", what, err)
		}
		if s, err := ReadSet([]byte(`{"keys":[` + key + `]}`)); err != nil || s.Len() != 0 {
			t.Errorf("%s alone: %v", what, err)
		}
	}
	ops := strings.Replace(good, `"kty"`, `"key_ops":["verify","x"],"x5c":["!"],"kty"`, 1)
	if s, err := ReadSet([]byte(`{"keys":[` + ops + `]}`)); err != nil || s.Len() != 1 {
		t.Errorf("key_ops with verify: %v", err)
	}
}

// An RSA key that names no algorithm has the one that the issuer's record lists, else RS256.
func TestImpliedAlgorithm(t *testing.T) {
	n := new(big.Int).SetBit(new(big.Int).Lsh(big.NewInt(1), minRSA-1), 0, 1)
	for _, c := range []struct {
		rsa  []Alg
		more string
		want Alg
	}{{nil, "", RS256}, {[]Alg{PS512}, "", PS512}, {[]Alg{ES256, PS256}, "", PS256}, {[]Alg{"", ES256}, "", RS256}, {[]Alg{PS256}, `,"alg":"RS384"`, RS384}} {
		s, err := ReadSet([]byte(`{"keys":[`+rsaJWK(n, c.more)+`]}`), c.rsa...)
		if err != nil || s.Keys()[0].Alg() != c.want {
			t.Errorf("%v %s: %v, want %s", c.rsa, c.more, err, c.want)
		}
	}
}

func TestKeyCount(t *testing.T) {
	var keys []*Key
	for i := range maxKeys + 1 {
		keys = append(keys, &Key{id: fmt.Sprint(i), alg: ES256, pub: &newKey(t, elliptic.P256()).PublicKey})
	}
	text := mustMarshal(t, setOf(t, keys[:maxKeys]...))
	if s, err := ReadSet(text); err != nil || s.Len() != maxKeys {
		t.Errorf("%d keys: %v", maxKeys, err)
	}
	if _, err := NewSet(keys...); err == nil {
		t.Errorf("%d keys in a set", maxKeys+1)
	}
	more := mustMarshal(t, keys[maxKeys])
	if _, err := ReadSet([]byte(strings.Replace(string(text), `[`, `[`+string(more)+`,`, 1))); err == nil {
		t.Errorf("%d keys read", maxKeys+1)
	}
	enc := strings.Replace(string(more), `"sig"`, `"enc"`, 1)
	if _, err := ReadSet([]byte(strings.Replace(string(text), `[`, `[`+enc+`,`, 1))); err != nil {
		t.Errorf("a key that is passed over counts: %v", err)
	}
	if _, err := NewSet(keys[0], keys[0]); err == nil {
		t.Error("one key twice")
	}
	both := []*Key{keys[0], {id: keys[0].id, alg: ES384, pub: &newKey(t, elliptic.P384()).PublicKey}}
	if _, err := NewSet(both...); err != nil {
		t.Errorf("two algorithms under one kid: %v", err)
	}
}

// Every algorithm verifies what another library signs, under the key that it reads.
func TestAlgorithms(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, minRSA)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range all {
		var key crypto.Signer = r
		switch alg {
		case ES256:
			key = newKey(t, elliptic.P256())
		case ES384:
			key = newKey(t, elliptic.P384())
		case ES512:
			key = newKey(t, elliptic.P521())
		case EdDSA:
			key = ed
		}
		s, err := reference.NewSigner(reference.SigningKey{Algorithm: reference.SignatureAlgorithm(alg), Key: reference.JSONWebKey{Key: key, KeyID: "k"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := ReadSet(mustMarshal(t, reference.JSONWebKeySet{Keys: []reference.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: string(alg)}}}))
		if err != nil {
			t.Fatal(err)
		}
		check := &Check{Profile: External, Issuer: issuer, Keys: keys}
		for range 20 { // r and s that begin with zeros come by
			signed, err := s.Sign([]byte(claimsNow().String()))
			if err != nil {
				t.Fatal(err)
			}
			raw, err := signed.CompactSerialize()
			if err != nil {
				t.Fatal(err)
			}
			tok := want(t, check, string(alg), raw)
			if tok != nil && (tok.Alg() != alg || tok.KeyID() != "k" || tok.Typ() != "") {
				t.Errorf("%s: a token of %s %s %s", alg, tok.Alg(), tok.KeyID(), tok.Typ())
			}
			cut := strings.LastIndexByte(raw, '.') + 1
			for _, bad := range []string{raw[:cut], raw[:cut] + "AAAA", raw + "AAAA", raw[:cut] + strings.Repeat("A", len(raw)-cut)} {
				want(t, check, string(alg), bad, Sig)
			}
		}
	}
}

// What is minted, go-jose verifies.
func TestMintedForAnotherLibrary(t *testing.T) {
	s, raw, _ := minted(t)
	for range 50 {
		signed, err := reference.ParseSignedCompact(raw, []reference.SignatureAlgorithm{reference.ES256})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signed.Verify(s.Key().Public()); err != nil {
			t.Fatal(err)
		}
		if raw, err = s.Sign(TypJWT, typical()); err != nil {
			t.Fatal(err)
		}
	}
}
