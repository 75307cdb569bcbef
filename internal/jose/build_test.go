package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

// forge writes tokens that our signer never would, signed with the right key.
type forge struct {
	tb   testing.TB
	key  *ecdsa.PrivateKey
	kid  string
	keys json.RawMessage
}

func newForge(tb testing.TB) *forge {
	tb.Helper()
	k := newKey(tb, elliptic.P256())
	s, err := NewSigner(k)
	if err != nil {
		tb.Fatal(err)
	}
	set, err := json.Marshal(setOf(tb, s.Key()))
	if err != nil {
		tb.Fatal(err)
	}
	return &forge{tb: tb, key: k, kid: s.Key().ID(), keys: set}
}

func (f *forge) header(typ string) object {
	o := object{{"alg", `"ES256"`}, {"kid", quote(f.kid)}}
	if typ != "" {
		o = o.set("typ", quote(typ))
	}
	return o
}

func claimsNow() object {
	return object{
		{"iss", quote(issuer)}, {"sub", `"alice"`}, {"aud", quote(orders)}, {"exp", fmt.Sprint(epoch + 300)},
		{"iat", fmt.Sprint(epoch)}, {"jti", `"5uVb0kYQm3T1cW9ZqA2xLr"`}, {"client_id", `"web"`},
	}
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func b64(s string) string { return alphabet.EncodeToString([]byte(s)) }

// es256 is r and s of the input.
func es256(tb testing.TB, key *ecdsa.PrivateKey, input string) []byte {
	tb.Helper()
	sum := sha256.Sum256([]byte(input))
	der, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		tb.Fatal(err)
	}
	sig := make([]byte, es256Size)
	if !rawECDSA(sig, der) {
		tb.Fatal("no ASN.1")
	}
	return sig
}

// seal signs two segments as they are.
func (f *forge) seal(input string) string {
	return input + "." + b64(string(es256(f.tb, f.key, input)))
}

func (f *forge) sign(header, payload string) string { return f.seal(b64(header) + "." + b64(payload)) }

// loosen sets an unused bit of the last character of a segment.
func loosen(tb testing.TB, segment string) string {
	tb.Helper()
	const abc = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(segment)%4 == 0 {
		tb.Fatal("no unused bits")
	}
	last := len(segment) - 1
	return segment[:last] + string(abc[strings.IndexByte(abc, segment[last])|1])
}

func mustMarshal(tb testing.TB, v any) json.RawMessage {
	tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// member puts members into the only key of a set.
func (f *forge) member(name, value string) json.RawMessage {
	return json.RawMessage(strings.Replace(string(f.keys), `{"kty"`, `{"`+name+`":`+value+`,"kty"`, 1))
}

// rows of one profile.
func (f *forge) rows(profile, typ string) []vector {
	ext := profile == "external"
	head, body := f.header(typ), claimsNow()
	var out []vector
	base := vector{Profile: profile, Keys: f.keys, Issuer: issuer, Audiences: []string{orders}, Now: epoch + 1}
	add := func(id, what, token string, reason Reason, change ...func(*vector)) {
		v := base
		v.ID, v.What, v.Token, v.Reason = id, what, token, reason
		for _, c := range change {
			c(&v)
		}
		if v.Accept = v.Reason == ""; v.Accept {
			v.Sub, v.Jti = "alice", "5uVb0kYQm3T1cW9ZqA2xLr"
		}
		out = append(out, v)
	}
	or := func(own, foreign Reason) Reason {
		if ext {
			return foreign
		}
		return own
	}
	h, p := head.String(), body.String()
	good := f.sign(h, p)
	claims := func(o object) string { return f.sign(h, o.String()) }
	header := func(o object) string { return f.sign(o.String(), p) }
	sigAt := strings.LastIndexByte(good, '.') + 1
	input, sig := good[:sigAt-1], es256(f.tb, f.key, good[:sigAt-1])

	add("T01", "control", good, "")
	add("T02", "alg none, empty signature", b64(head.set("alg", `"none"`).String())+"."+b64(p)+".", Algo)
	mac := hmac.New(sha256.New, f.pem())
	hs := b64(head.set("alg", `"HS256"`).String()) + "." + b64(p)
	mac.Write([]byte(hs))
	add("T03", "HS256 keyed with the public PEM", hs+"."+b64(string(mac.Sum(nil))), Algo)
	thief := newForge(f.tb)
	var own struct{ Keys []json.RawMessage }
	_ = json.Unmarshal(thief.keys, &own)
	add("T04", "jwk of the attacker in the header", thief.sign(head.after("jwk", string(own.Keys[0])).String(), p), Header)
	add("T05", "aud twice", claims(body.before("aud", `"bad"`)), Dup)
	add("T06", "sub twice", claims(body.after("sub", `"admin"`)), Dup)
	add("T07", `sub twice, once as \u0073ub`, claims(body.after(`\u0073ub`, `"admin"`)), Dup)
	add("T08", "SUB after sub", claims(body.after("SUB", `"admin"`)), "")
	add("T09", "EXP for exp", claims(body.drop("exp").after("EXP", fmt.Sprint(epoch+300))), Exp)
	add("T10", "alg twice", header(head.before("alg", `"none"`)), Dup)
	add("T11", "ALG beside alg", header(head.after("ALG", `"none"`)), Header)
	add("T12", "unknown crit", header(head.after("crit", `["x"]`).after("x", "1")), Header)
	add("T13", "empty crit", header(head.after("crit", `[]`)), Header)
	add("T14", "b64 false", header(head.after("b64", `false`).after("crit", `["b64"]`)), Header)
	add("T15", "unused bits in the signature", input+"."+loosen(f.tb, good[sigAt:]), Base64)
	odd := body
	for len(b64(odd.String()))%4 == 0 {
		odd = odd.after("x", `"y"`)
	}
	add("T16", "unused bits in the payload", f.seal(b64(h)+"."+loosen(f.tb, b64(odd.String()))), Base64)
	add("T16", "unused bits in the header", f.seal(loosen(f.tb, b64(h))+"."+b64(p)), Base64)
	r, s := sig[:32], new(big.Int).SetBytes(sig[32:])
	s.Sub(elliptic.P256().Params().N, s)
	add("T17", "s becomes n - s", input+"."+b64(string(r)+string(s.FillBytes(make([]byte, 32)))), "")
	add("T18", "LF between segments", strings.Replace(good, ".", ".\n", 1), Charset)
	for name, tail := range map[string]string{"LF": "\n", "CR LF": "\r\n", "space": " "} {
		add("T19", name+" at the end", good+tail, Charset)
	}
	add("T20", "== at the end", good+"==", Charset)
	standard := strings.NewReplacer("-", "+", "_", "/")
	for standard.Replace(good) == good {
		good = f.sign(h, p)
	}
	add("T21", "standard alphabet", standard.Replace(good), Charset)
	good = f.sign(h, p)
	add("T22", "JSON after the payload", f.sign(h, p+`{"sub":"admin"}`), JSON)
	add("T23", "invalid UTF-8", claims(body.after("x", "\"\xff\"")), UTF8)
	add("T24", "lone surrogate", claims(body.after("x", `"\ud800"`)), UTF8)
	add("T25", "exp as text", claims(body.set("exp", `"1790000300"`)), JSON)
	for _, n := range []string{"1e300", "-1e300", "9223372036854775808"} {
		add("T26", "exp "+n, claims(body.set("exp", n)), JSON)
	}
	add("T27", "exp with fraction", claims(body.set("exp", fmt.Sprint(epoch+300)+".7")), or(JSON, ""))
	add("T28", "no exp", claims(body.drop("exp")), Exp)
	add("T29", "exp null", claims(body.set("exp", "null")), JSON)
	for _, name := range []string{"sub", "iss", "jti", "aud", "nbf", "iat"} {
		add("T29a", name+" null", claims(body.set(name, "null")), JSON)
	}
	add("T29a", "sub a number", claims(body.set("sub", "7")), JSON)
	times := func(exp, iat int64) object {
		return body.set("exp", fmt.Sprint(exp)).set("iat", fmt.Sprint(iat))
	}
	add("T30", "ended 30 s ago", claims(times(epoch-29, epoch-300)), Exp)
	if ext {
		add("T30", "ended 30 s ago, clockSkew 60", claims(times(epoch-29, epoch-300)), "", func(v *vector) { v.Skew = 60 })
	}
	add("T31", "ended 1 s ago", claims(times(epoch, epoch-300)), Exp)
	add("T32", "nbf + 30 s", claims(body.set("nbf", fmt.Sprint(epoch+31))), Nbf)
	add("T33", "nbf + 10 min", claims(body.set("nbf", fmt.Sprint(epoch+601)).set("exp", fmt.Sprint(epoch+900))), Nbf)
	add("T34", "iat + 10 min", claims(times(epoch+900, epoch+601)), Iat)
	add("T35", "iat + 9 s", claims(times(epoch+300, epoch+10)), "")
	add("T36", "typ logout+jwt", header(head.set("typ", `"logout+jwt"`)), Typ)
	add("T37", "typ absent", header(head.drop("typ")), or(Typ, ""))
	add("T38", "typ application/at+jwt", header(head.set("typ", `"application/at+jwt"`)), or(Typ, ""))
	for _, other := range []string{
		"txntoken+jwt", "client-authentication+jwt", "JOSE", "dpop+jwt", "token-introspection+jwt",
		"wit+jwt", "wpt+jwt", "secevent+jwt", "oauth-authz-req+jwt", "entity-statement+jwt",
	} {
		add("T39", "typ "+other, header(head.set("typ", quote(other))), Typ)
	}
	add("T40", "unknown kid", header(head.set("kid", `"aaaaaaaaaaaaaaaaaaaaaa"`)), KeyID)
	add("T41", "kid absent", header(head.drop("kid")), or(KeyID, ""))
	if ext {
		second := newForge(f.tb)
		add("T41", "kid absent, two keys", header(head.drop("kid")), KeyID, func(v *vector) { v.Keys = merge(f.keys, second.keys) })
	}
	add("T42", "ES384 by the P-256 key", header(head.set("alg", `"ES384"`)), Algo)
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	add("T43", "nested 100 000 deep", f.sign(h, `{"x":`), Size, func(v *vector) { v.Pad, v.Times = "W1tb", 25000 })
	add("T44", "nested 17 deep", claims(body.after("x", nested(16))), Depth)
	add("T44", "nested 16 deep", claims(body.after("x", nested(15))), "")
	add("T45", "flattened JSON serialization", fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, b64(h), b64(p), good[sigAt:]), Charset)
	add("T46", "1 000 000 dots", "", Size, func(v *vector) { v.Pad, v.Times = ".", 1000000 })
	add("T47", "BOM before the header", f.sign("\ufeff"+h, p), Header)
	add("T47", "BOM before the payload", f.sign(h, "\ufeff"+p), JSON)
	add("T48", "aud of two", claims(body.set("aud", `["bad",`+quote(orders)+`]`)), or(JSON, ""))
	if ext {
		add("T48", "aud of two, singleAudience", claims(body.set("aud", `["bad",`+quote(orders)+`]`)), Aud, func(v *vector) { v.Single = true })
	}
	add("T49", "aud a list of one", claims(body.set("aud", `[`+quote(orders)+`]`)), or(JSON, ""))
	for _, text := range []string{"null", "[]", `"x"`, ""} {
		add("T50", "payload "+text, f.sign(h, text), JSON)
	}
	if ext {
		out = append(out, f.pss(base, head, body)...)
	}
	add("T52", "key for encryption", good, KeyID, func(v *vector) {
		v.Keys = json.RawMessage(strings.Replace(string(f.keys), `"use":"sig"`, `"use":"enc"`, 1))
	})
	add("T52", "key_ops without verify", good, KeyID, func(v *vector) { v.Keys = f.member("key_ops", `["sign"]`) })
	for what, bad := range map[string]json.RawMessage{
		"kid twice":     merge(f.keys, f.keys),
		"RSA 1024":      merge(f.keys, []byte(`{"keys":[`+weakRSA(f.tb, 1024)+`]}`)),
		"ROCA":          merge(f.keys, []byte(`{"keys":[`+rocaKey(f.tb)+`]}`)),
		"symmetric key": merge(f.keys, []byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"x"}]}`)),
	} {
		add("T53", what, good, KeyID, func(v *vector) { v.Keys, v.BadSet = bad, true })
	}
	der, _ := ecdsa.SignASN1(rand.Reader, f.key, digestOf(input))
	n := elliptic.P256().Params().N.FillBytes(make([]byte, 32))
	for what, bad := range map[string]string{
		"DER": string(der), "63 bytes": string(sig[:63]), "65 bytes": string(sig) + "\x00",
		"r = 0": strings.Repeat("\x00", 32) + string(sig[32:]), "s = n": string(sig[:32]) + string(n),
	} {
		add("T54", what, input+"."+b64(bad), Sig)
	}
	add("T55", "Ed25519 of low order", good, KeyID, func(v *vector) {
		v.Keys, v.BadSet = merge(f.keys, []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"`+b64("\x01"+strings.Repeat("\x00", 31))+`"}]}`)), true
	})
	fed := newForge(f.tb)
	theirs := func(v *vector) { v.Issuer, v.Keys = "https://other.example", fed.keys }
	foreign := body.set("iss", `"https://other.example"`).String()
	add("T56", "issuer other, our key", f.sign(h, foreign), KeyID, theirs)
	add("T56", "issuer other, our key under its kid", f.sign(fed.header(typ).String(), foreign), Sig, theirs)
	add("T56", "our issuer, its key under our kid", fed.sign(h, p), Sig)
	long := times(epoch+3601, epoch)
	add("T57", "lives 3601 s", claims(long), or(Lifetime, ""))
	if ext {
		add("T57", "lives 3601 s, maxLifetime 3600", claims(long), Lifetime, func(v *vector) { v.MaxLife = 3600 })
	}
	add("T58", "a claim of nobody's", claims(body.after("role", `["x",7]`)), "")
	add("T59", "cnf with two", claims(body.after("cnf", `{"spiffe":"spiffe://a/b","jkt":"`+strings.Repeat("A", 43)+`"}`)), Claims)
	deep := `{"sub":"a"}`
	for range 8 {
		deep = `{"sub":"a","act":` + deep + `}`
	}
	add("T59", "act 9 deep", claims(body.after("act", deep)), Claims)
	add("T60", "escaped header name", f.sign(strings.Replace(h, `"alg"`, `"\u0061lg"`, 1), p), or(Header, ""))
	add("T60", "escaped header name twice", f.sign(strings.Replace(h, `{`, `{"\u0061lg":"ES256",`, 1), p), or(Header, Dup))
	add("T61", "8193 bytes", good, Size, func(v *vector) { v.Pad, v.Times = "A", MaxToken+1-len(good) })
	add("T61", "header of 1025 bytes", header(head.after("x", quote(strings.Repeat("y", maxHeader+1-len(h)-7)))), Size)
	for _, name := range []string{"sub", "iss", "aud", "client_id"} {
		add("T62", "U+0000 in "+name, claims(body.set(name, `"a\u0000b"`)), Claims)
	}
	jwt := header(head.set("typ", `"JWT"`))
	add("T63", "typ JWT", jwt, or(Typ, ""))
	if !ext {
		add("T63", "typ JWT at an audience of such tokens", jwt, "", func(v *vector) { v.Profile = "own-jwt" })
	}
	return out
}

func buildMatrix(tb testing.TB) []vector {
	f := newForge(tb)
	return append(f.rows("own", "at+jwt"), f.rows("external", "JWT")...)
}

func digestOf(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

func (f *forge) pem() []byte {
	der, err := x509.MarshalPKIXPublicKey(&f.key.PublicKey)
	if err != nil {
		f.tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// merge is one set of the keys of several.
func merge(sets ...json.RawMessage) json.RawMessage {
	var all struct {
		Keys []json.RawMessage `json:"keys"`
	}
	for _, s := range sets {
		var one struct{ Keys []json.RawMessage }
		_ = json.Unmarshal(s, &one)
		all.Keys = append(all.Keys, one.Keys...)
	}
	b, _ := json.Marshal(all)
	return b
}

func rsaJWK(n *big.Int, more string) string {
	return `{"kty":"RSA","n":"` + b64(string(n.Bytes())) + `","e":"AQAB","kid":"rsa"` + more + `}`
}

func weakRSA(tb testing.TB, bits int) string {
	tb.Helper()
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	return rsaJWK(n.SetBit(n, 0, 1), "")
}

// rocaKey is a modulus that is a power of 65537 modulo each prime of the fingerprint.
func rocaKey(tb testing.TB) string {
	tb.Helper()
	m := big.NewInt(1)
	for _, p := range rocaPrimes {
		m.Mul(m, big.NewInt(p))
	}
	n := new(big.Int).Lsh(big.NewInt(1), minRSA)
	n.Sub(n, new(big.Int).Mod(n, m)).Add(n, big.NewInt(65537)).Sub(n, m)
	if n.Bit(0) == 0 {
		n.Sub(n, m)
	}
	if !roca(n) || n.BitLen() != minRSA {
		tb.Fatal("not what it should be")
	}
	return rsaJWK(n, "")
}

// pss is T51: the salt is as long as the hash, or the signature is none.
func (f *forge) pss(base vector, head, body object) []vector {
	key, err := rsa.GenerateKey(rand.Reader, minRSA)
	if err != nil {
		f.tb.Fatal(err)
	}
	base.Keys = []byte(`{"keys":[` + rsaJWK(key.N, `,"alg":"PS256"`) + `]}`)
	input := b64(head.set("alg", `"PS256"`).set("kid", `"rsa"`).String()) + "." + b64(body.String())
	var out []vector
	for _, salt := range []int{32, 20, 48, 222} {
		sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digestOf(input), &rsa.PSSOptions{SaltLength: salt})
		if err != nil {
			f.tb.Fatal(err)
		}
		v := base
		v.ID, v.What, v.Token, v.Reason = "T51", fmt.Sprintf("PSS, salt of %d", salt), input+"."+b64(string(sig)), Sig
		if salt == 32 {
			v.Accept, v.Reason, v.Sub, v.Jti = true, "", "alice", "5uVb0kYQm3T1cW9ZqA2xLr"
		}
		out = append(out, v)
	}
	return out
}
