package jose

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// stand is a forge with the checks of both profiles.
type stand struct {
	*forge
	own, ext *Check
}

func newStand(t *testing.T) *stand {
	t.Helper()
	f := newForge(t)
	keys, err := ReadSet(f.keys)
	if err != nil {
		t.Fatal(err)
	}
	c := Check{Profile: Own, Issuer: issuer, Keys: keys, Audiences: []string{orders}, TrustDomain: domain}
	e := c
	e.Profile = External
	return &stand{f, &c, &e}
}

// want asserts a verdict; reasons are those that are right, none means accepted.
func want(t *testing.T, c *Check, what, raw string, reasons ...Reason) *Token {
	t.Helper()
	if len(what) > 80 {
		what = what[:80] + "…"
	}
	tok, err := c.Verify(now, raw)
	if len(reasons) == 0 {
		if err != nil {
			t.Errorf("%s %q: refused: %v", c.Profile, what, err)
		}
		return tok
	}
	if err == nil {
		t.Errorf("%s %q: accepted", c.Profile, what)
	} else if r := err.(*Error).Reason; !slices.Contains(reasons, r) {
		t.Errorf("%s %q: %v, want %v", c.Profile, what, err, reasons)
	}
	return nil
}

func (s *stand) both(t *testing.T, what, raw string, reasons ...Reason) {
	t.Helper()
	want(t, s.own, what, raw, reasons...)
	want(t, s.ext, what, raw, reasons...)
}

func TestR1AlgNone(t *testing.T) {
	s := newStand(t)
	for _, alg := range []string{`"none"`, `"nOnE"`, `"NONE"`, `""`, `["ES256"]`, `7`, `null`, `"es256"`, `"ES256 "`} {
		for _, tail := range []string{"." + strings.Repeat("A", 86), "."} {
			raw := b64(s.header(TypAccess).set("alg", alg).String()) + "." + b64(claimsNow().String()) + tail
			s.both(t, alg, raw, Algo, Header)
		}
	}
	s.both(t, "missing", s.sign(s.header(TypAccess).drop("alg").String(), claimsNow().String()), Algo)
}

func TestR2PublicKeyAsSecret(t *testing.T) {
	s := newStand(t)
	der, err := x509.MarshalPKIXPublicKey(&s.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	point, err := s.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string][]byte{"PEM": s.pem(), "DER": der, "JWK": s.keys, "point": point} {
		for _, alg := range []string{"HS256", "ES256"} {
			input := b64(s.header(TypAccess).set("alg", quote(alg)).String()) + "." + b64(claimsNow().String())
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(input))
			s.both(t, name+alg, input+"."+b64(string(mac.Sum(nil))), Algo, Sig)
		}
	}
}

func TestR3AlgOfTheKey(t *testing.T) {
	s := newStand(t)
	for _, alg := range []string{"ES384", "ES512", "EdDSA", "RS256", "PS256"} {
		s.both(t, alg, s.sign(s.header(TypAccess).set("alg", quote(alg)).String(), claimsNow().String()), Algo)
	}
	key, err := rsa.GenerateKey(rand.Reader, minRSA)
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range []string{"RS256", "PS256"} {
		keys, err := ReadSet([]byte(`{"keys":[` + rsaJWK(key.N, `,"alg":`+quote(alg)) + `]}`))
		if err != nil {
			t.Fatal(err)
		}
		other := map[string]string{"RS256": "PS256", "PS256": "RS256"}[alg]
		c := *s.ext
		c.Keys = keys
		want(t, &c, alg+" key, header "+other, s.sign(object{{"alg", quote(other)}, {"kid", `"rsa"`}}.String(), claimsNow().String()), Algo)
		c.Algs = []Alg{ES256}
		want(t, &c, "not in the issuer's list", s.sign(object{{"alg", quote(alg)}, {"kid", `"rsa"`}}.String(), claimsNow().String()), Algo)
	}
}

// A key of the sender, or a place to find one, refuses the token; nothing is ever fetched, since
// this package has nothing to fetch with (its imports are held by TestFloors).
func TestR4KeyOfTheSender(t *testing.T) {
	s, thief := newStand(t), newForge(t)
	for name, value := range map[string]string{
		"jwk": strings.Trim(strings.TrimPrefix(string(thief.keys), `{"keys":`), "[]}") + "}", "x5c": `["MIIB"]`,
		"jku": `"http://127.0.0.1/keys"`, "x5u": `"file:///etc/passwd"`, "JKU": `"http://169.254.169.254/"`, "Jwk": `{}`,
	} {
		s.both(t, name, thief.sign(s.header(TypAccess).after(name, value).String(), claimsNow().String()), Header)
	}
	c := *s.ext
	c.IgnoreHeaders = []string{"jku", "x5c", "crit", "jwk"}
	for name, value := range map[string]string{"jku": `"http://127.0.0.1/keys"`, "x5c": `["MIIB"]`} {
		want(t, &c, name+" ignored", s.sign(s.header(TypAccess).after(name, value).String(), claimsNow().String()))
		want(t, &c, name+" ignored, not used", thief.sign(s.header(TypAccess).after(name, value).String(), claimsNow().String()), Sig)
	}
	for _, name := range []string{"crit", "jwk", "x5u", "JKU"} {
		want(t, &c, name+" cannot be ignored", s.sign(s.header(TypAccess).after(name, `"x"`).String(), claimsNow().String()), Header)
	}
}

func TestR5aKeyIDs(t *testing.T) {
	s := newStand(t)
	for _, kid := range []string{`"../../key"`, `"' OR 1=1"`, `"*)("`, `"\u0000"`, quote("kéy"), `7`, `["a"]`, `""`, quote(strings.Repeat("k", maxKeyID+1)), `null`} {
		raw := s.sign(s.header(TypAccess).set("kid", kid).String(), claimsNow().String())
		s.both(t, kid, raw, KeyID, Header)
		if _, err := s.own.Verify(now, raw); strings.Contains(err.Error(), "OR 1=1") {
			t.Errorf("the kid of a stranger is in the text: %v", err)
		}
	}
	s.both(t, "10 KB", s.sign(s.header(TypAccess).set("kid", quote(strings.Repeat("k", 10240))).String(), claimsNow().String()), Size)
}

func TestR6Crit(t *testing.T) {
	s := newStand(t)
	for _, crit := range []string{`["x"]`, `[]`, `["exp"]`, `"x"`, `["b64"]`} {
		s.both(t, crit, s.sign(s.header(TypAccess).after("crit", crit).String(), claimsNow().String()), Header)
	}
	s.both(t, "b64", s.sign(s.header(TypAccess).after("b64", "false").String(), claimsNow().String()), Header)
}

func TestR6aTypesOfForeignClaims(t *testing.T) {
	s := newStand(t)
	for name, values := range map[string][]string{
		"sub": {"7", "null", "{}", "true"}, "iss": {"7", "null"}, "jti": {"7", "null", "[]"},
		"aud": {"7", "null", `["a",7]`, `[null]`, `[["a"]]`, "{}", "false"},
		"nbf": {`"1"`, "null", "true", "-1", "[1]"}, "iat": {"-1", "null", "1e300", "9007199254740992"}, "exp": {`"1"`, "-0.5", "{}"},
	} {
		for _, v := range values {
			s.both(t, name+" "+v, s.sign(s.header(TypAccess).String(), claimsNow().set(name, v).String()), JSON)
		}
	}
	s.both(t, "HS256 over ES256", s.sign(s.header(TypAccess).set("alg", `"HS256"`).String(), claimsNow().String()), Algo)
	// A null elsewhere is an absent claim.
	if tok := want(t, s.ext, "null azp", s.sign(s.header("").String(), claimsNow().set("azp", "null").set("scope", "null").String())); tok != nil {
		if _, ok := tok.Value("azp"); ok || tok.Presenter() != "" || tok.Claim([]string{"azp"}) != nil {
			t.Error("a null claim is there")
		}
	}
	if tok := want(t, s.ext, "no audience", s.sign(s.header("").String(), claimsNow().drop("sub").drop("jti").drop("iat").String())); tok != nil && tok.Subject() != "" {
		t.Error("a subject from nowhere")
	}
}

func TestR7Duplicates(t *testing.T) {
	s := newStand(t)
	h, p := s.header(TypAccess), claimsNow()
	for _, name := range []string{"alg", "kid", "typ"} {
		s.both(t, "header "+name, s.sign(h.after(name, `"x"`).String(), p.String()), Dup)
	}
	for _, name := range []string{"iss", "sub", "aud", "exp", "jti", `\u0073ub`, `su\u0062`} {
		s.both(t, name, s.sign(h.String(), p.after(name, `"x"`).String()), Dup, JSON)
	}
	s.both(t, "nested", s.sign(h.String(), p.after("x", `{"a":1,"a":2}`).String()), Dup)
	// R7b, R7c, R7d
	for _, c := range []*Check{s.own, s.ext} {
		tok := want(t, c, "SUB, Aud", s.sign(h.String(), p.after("SUB", `"admin"`).after("Aud", `"x"`).String()))
		if tok != nil && (tok.Subject() != "alice" || tok.Audience()[0] != orders) {
			t.Errorf("another name changed the token: %q, %q", tok.Subject(), tok.Audience())
		}
	}
	s.both(t, "EXP alone", s.sign(h.String(), p.drop("exp").after("EXP", fmt.Sprint(epoch+300)).String()), Exp)
	for _, name := range []string{"ALG", "Kid", "tYp", "\u212aid"} { // the last begins with the Kelvin sign
		s.both(t, name, s.sign(h.after(name, `"x"`).String(), p.String()), Header)
	}
}

func TestR8OtherSpellings(t *testing.T) {
	s := newStand(t)
	good := s.sign(s.header(TypAccess).String(), claimsNow().String())
	for i, mark := range []string{"\r", "\n", " ", "\t", "=", "+", "/", "\x00", "é", "%"} {
		at := []int{0, 10, strings.IndexByte(good, '.'), len(good) / 2, len(good)}[i%5]
		s.both(t, mark, good[:at]+mark+good[at:], Charset)
		s.both(t, mark, good+mark, Charset)
	}
	s.both(t, "general JSON", `{"payload":"`+b64("{}")+`","signatures":[]}`, Charset)
	s.both(t, "trailing part", good+".", Format)
	s.both(t, "trailing byte", good+"A", Base64, Sig)
	s.both(t, "two parts", good[:strings.LastIndexByte(good, '.')], Format)
	for _, raw := range []string{".", "..", "a", "a.b", ".a.b"} {
		s.both(t, raw, raw, Format)
	}
	s.both(t, "empty", "", Size)
}

func TestR9aPayloads(t *testing.T) {
	s := newStand(t)
	h := s.header(TypAccess).String()
	p := claimsNow().String()
	for text, reason := range map[string]Reason{
		strings.Replace(p, "alice", "\xc3\x28", 1): UTF8, strings.Replace(p, "alice", `\udfff`, 1): UTF8,
		strings.Replace(p, "alice", `\ud800x`, 1): UTF8, "\ufeff" + p: JSON, p + "x": JSON, p + p: JSON,
		"null": JSON, "[]": JSON, "": JSON, " " + p: JSON, "{": JSON, p[:len(p)-1]: JSON, strings.Replace(p, ",", ",,", 1): JSON,
		strings.Replace(p, "alice", "al\nice", 1): JSON, strings.Replace(p, `"alice"`, "NaN", 1): JSON, strings.Replace(p, "alice", `\x41`, 1): JSON,
	} {
		s.both(t, text, s.sign(h, text), reason)
	}
	for _, h := range []string{"{}", "null", "[]", `"x"`, "{\xff}", `{"alg":"ES256"`, h + h} {
		s.both(t, "header "+h, s.sign(h, p), Header, Algo, KeyID, Typ, UTF8)
	}
	want(t, s.own, "blanks in the header", s.sign(" "+h, p), Header)
	want(t, s.ext, "blanks in the header", s.sign(" "+h, p))
}

func TestR9bSizes(t *testing.T) {
	s := newStand(t)
	h := s.header(TypAccess)
	many := claimsNow()
	for len(many) < maxMembers {
		many = many.after(fmt.Sprint("c", len(many)), "1")
	}
	s.both(t, "128 claims", s.sign(h.String(), many.String()))
	s.both(t, "129 claims", s.sign(h.String(), many.after("more", "1").String()), JSON)
	start := time.Now()
	for what, raw := range map[string]string{
		"100 000 [": b64(strings.Repeat("[", 100000)), "dots": strings.Repeat(".", 1000000),
		"1 MB header": s.sign(h.set("typ", quote(strings.Repeat("x", 1<<20))).String(), claimsNow().String()), "8193": strings.Repeat("A", MaxToken+1),
	} {
		s.both(t, what, raw, Size)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %s", took)
	}
	s.both(t, "8192 bytes", strings.Repeat("A", MaxToken), Format)
	s.both(t, "16 deep", s.sign(h.String(), claimsNow().after("x", strings.Repeat(`{"a":`, 14)+"[]"+strings.Repeat("}", 14)).String()))
	s.both(t, "17 deep", s.sign(h.String(), claimsNow().after("x", strings.Repeat(`{"a":`, 15)+"[]"+strings.Repeat("}", 15)).String()), Depth)
	s.both(t, "brackets in a text", s.sign(h.String(), claimsNow().after("x", quote(strings.Repeat(`[{"\`, 30))).String()))
	wide := h
	for len(wide) <= maxHeaderMembers {
		wide = wide.after(fmt.Sprint("h", len(wide)), `"x"`)
	}
	want(t, s.own, "9 header members", s.sign(wide.String(), claimsNow().String()), Header)
	want(t, s.ext, "9 header members", s.sign(wide.String(), claimsNow().String()))
}

// No kind of token passes for another: the typ of each row is refused by the profile of each
// other row. Rows that share JWT or an absent typ are told apart by their keys and issuers.
func TestR10KindsOfTokens(t *testing.T) {
	s := newStand(t)
	rows := map[string]*Profile{
		"at+jwt": Own, "txntoken+jwt": Txn, "client-authentication+jwt": Assertion, "JOSE": SVID, "dpop+jwt": Proof,
		"logout+jwt": Logout, "token-introspection+jwt": Introspection, "JWT": OwnJWT, "wit+jwt": nil, "application/at+jwt": External,
	}
	shares := map[*Profile][]string{
		Assertion: {"JWT"}, SVID: {"JWT"}, External: {"JWT", "at+jwt"},
	}
	pairs := 0
	for typ := range rows {
		for home, p := range rows {
			if p == nil {
				continue
			}
			pairs++
			c := *s.own
			c.Profile = p
			raw := s.sign(s.header(typ).String(), claimsNow().String())
			if home == typ || slices.Contains(shares[p], typ) {
				want(t, &c, typ, raw)
			} else {
				want(t, &c, typ, raw, Typ)
			}
		}
	}
	if pairs != 90 {
		t.Errorf("%d pairs", pairs)
	}
	for typ, p := range rows {
		if got := ProfileFor(typ); typ != "JWT" && got != p {
			t.Errorf("%s belongs to %v, want %v", typ, got, p)
		}
	}
	if ProfileFor("") != External || ProfileFor("JWT") != External || ProfileFor("jwt") != External || ProfileFor("AT+JWT") != External {
		t.Error("an absent or common typ is not external")
	}
	c := *s.ext
	c.Typ = "at+jwt"
	want(t, &c, "demanded", s.sign(s.header("AT+JWT").String(), claimsNow().String()))
	want(t, &c, "not the demanded", s.sign(s.header("JWT").String(), claimsNow().String()), Typ)
	want(t, &c, "none", s.sign(s.header("").String(), claimsNow().String()), Typ)
}

func TestR11Audience(t *testing.T) {
	s := newStand(t)
	for _, aud := range []string{`"other"`, `""`, quote(orders + "/"), quote(strings.ToUpper(orders))} {
		s.both(t, aud, s.sign(s.header(TypAccess).String(), claimsNow().set("aud", aud).String()), Aud)
	}
	s.both(t, "missing", s.sign(s.header(TypAccess).String(), claimsNow().drop("aud").String()), Aud)
	for _, aud := range []string{`7`, `{"a":` + quote(orders) + `}`, `[["a"]]`} {
		s.both(t, aud, s.sign(s.header(TypAccess).String(), claimsNow().set("aud", aud).String()), JSON)
	}
	want(t, s.own, "array with us", s.sign(s.header(TypAccess).String(), claimsNow().set("aud", `[`+quote(orders)+`]`).String()), JSON)
	want(t, s.ext, "empty list", s.sign(s.header(TypAccess).String(), claimsNow().set("aud", `[]`).String()), Aud)
	any := *s.ext
	any.Audiences = nil
	want(t, &any, "not asked", s.sign(s.header("").String(), claimsNow().drop("aud").String()))
	if _, err := s.ext.Verify(now, s.sign(s.header("").String(), claimsNow().set("aud", `["a","b","c","d"]`).String())); !strings.HasPrefix(err.Error(), `aud: the token is for "a", "b", "c", …, this is`) {
		t.Errorf("says %v", err)
	}
	// A wrong audience is told as such only of a token that is signed, where that is asked for.
	last := *s.ext
	last.AudienceLast = true
	wrong := s.sign(s.header("").String(), claimsNow().set("aud", `"other"`).String())
	want(t, &last, "wrong audience", wrong, Aud)
	want(t, &last, "wrong audience, forged", wrong[:len(wrong)-20]+strings.Repeat("A", 20), Sig)
	want(t, s.ext, "wrong audience, forged", wrong[:len(wrong)-20]+strings.Repeat("A", 20), Aud)
	if _, err := s.ext.Verify(now, wrong); err.Error() != `aud: the token is for "other", this is "`+orders+`"` {
		t.Errorf("says %v", err)
	}
}

func TestR12Issuer(t *testing.T) {
	s, fed := newStand(t), newForge(t)
	for _, iss := range []string{issuer + "/", strings.ToUpper(issuer), "http" + issuer[5:], issuer + "/tenant", ""} {
		s.both(t, iss, s.sign(s.header(TypAccess).String(), claimsNow().set("iss", quote(iss)).String()), Iss)
	}
	s.both(t, "missing", s.sign(s.header(TypAccess).String(), claimsNow().drop("iss").String()), Iss)
	s.both(t, "our iss, their key", fed.sign(fed.header(TypAccess).String(), claimsNow().String()), KeyID)
	// A federated issuer speaks for its own trust domain alone.
	keys, err := ReadSet(fed.keys)
	if err != nil {
		t.Fatal(err)
	}
	c := &Check{Profile: Own, Issuer: "https://other.example", Keys: keys, Audiences: []string{orders}, TrustDomain: "other.example"}
	theirs := claimsNow().set("iss", `"https://other.example"`).set("client_id", `"spiffe://other.example/w"`).set("sub", `"spiffe://other.example/w"`)
	want(t, c, "theirs", fed.sign(fed.header(TypAccess).String(), theirs.String()))
	for _, o := range []object{
		theirs.set("sub", quote(orders)), theirs.set("client_id", quote(orders)), theirs.set("act", `{"sub":`+quote(orders)+`}`),
		theirs.set("act", `{"sub":"a","act":{"sub":`+quote(orders)+`}}`), theirs.set("sub", `"SPIFFE://example.com/x"`),
		theirs.set("sub", `"spiffe://other.example.com/x"`), theirs.set("sub", `"spiffe:other"`),
	} {
		want(t, c, o.String(), fed.sign(fed.header(TypAccess).String(), o.String()), Claims)
	}
}

func TestR13aExpiry(t *testing.T) {
	s := newStand(t)
	for exp, reason := range map[string]Reason{
		"null": JSON, `"1790000300"`: JSON, "1e300": JSON, "-1": JSON, "9223372036854775808": JSON, "9007199254740992": JSON,
		fmt.Sprint(epoch): Exp, fmt.Sprint(epoch + 1): Exp, "0": Exp,
	} {
		s.both(t, exp, s.sign(s.header(TypAccess).String(), claimsNow().set("exp", exp).String()), reason)
	}
	s.both(t, "missing", s.sign(s.header(TypAccess).String(), claimsNow().drop("exp").String()), Exp)
	want(t, s.own, "5.0", s.sign(s.header(TypAccess).String(), claimsNow().set("exp", "1790000300.0").String()), JSON)
	want(t, s.own, "exponent", s.sign(s.header(TypAccess).String(), claimsNow().set("exp", "17900003e2").String()), JSON)
	want(t, s.own, "-0", s.sign(s.header(TypAccess).String(), claimsNow().set("exp", "-0").String()), JSON)
	if tok := want(t, s.ext, "5.9", s.sign(s.header(TypAccess).String(), claimsNow().set("exp", "1790000300.9").String())); tok != nil && tok.Expires() != epoch+300 {
		t.Errorf("exp is %d", tok.Expires())
	}
	ends := s.sign(s.header(TypAccess).String(), claimsNow().set("exp", fmt.Sprint(epoch+2)).String())
	s.both(t, "a second left", ends)
	loose := *s.ext
	loose.ExpSkew = time.Minute
	for after, ok := range map[time.Duration]bool{59 * time.Second: true, 60 * time.Second: false, 61 * time.Second: false} {
		if _, err := loose.Verify(time.Unix(epoch+2, 0).Add(after), ends); (err == nil) != ok {
			t.Errorf("%s after the end with 60 s tolerance: %v", after, err)
		}
	}
}

func TestR13bIssuedAhead(t *testing.T) {
	s := newStand(t)
	for ahead, ok := range map[int]bool{9: true, 10: true, 11: false, 61: false} {
		var reasons []Reason
		if !ok {
			reasons = []Reason{Iat}
		}
		s.both(t, fmt.Sprint("iat ahead ", ahead), s.sign(s.header(TypAccess).String(), claimsNow().set("iat", fmt.Sprint(epoch+1+ahead)).String()), reasons...)
	}
	want(t, s.own, "no iat", s.sign(s.header(TypAccess).String(), claimsNow().drop("iat").String()), Iat)
}

func TestR13cTimes(t *testing.T) {
	s := newStand(t)
	s.both(t, "nbf ahead 61", s.sign(s.header(TypAccess).String(), claimsNow().set("nbf", fmt.Sprint(epoch+62)).String()), Nbf)
	s.both(t, "nbf ahead 10", s.sign(s.header(TypAccess).String(), claimsNow().set("nbf", fmt.Sprint(epoch+11)).String()))
	long := s.sign(s.header(TypAccess).String(), claimsNow().set("exp", fmt.Sprint(epoch+3601)).String())
	want(t, s.own, "3601 s", long, Lifetime)
	want(t, s.own, "3600 s", s.sign(s.header(TypAccess).String(), claimsNow().set("exp", fmt.Sprint(epoch+3600)).String()))
	most := *s.own
	most.MaxLife = 24 * time.Hour
	want(t, &most, "a check cannot widen the hour", long, Lifetime)
	most.MaxLife = time.Minute
	want(t, &most, "it can narrow it", s.sign(s.header(TypAccess).String(), claimsNow().String()), Lifetime)
	foreign := *s.ext
	foreign.MaxLife = time.Hour
	want(t, &foreign, "without iat, 3600 s ahead", s.sign(s.header("").String(), claimsNow().drop("iat").set("exp", fmt.Sprint(epoch+3601)).String()))
	want(t, &foreign, "without iat, 3601 s ahead", s.sign(s.header("").String(), claimsNow().drop("iat").set("exp", fmt.Sprint(epoch+3602)).String()), Lifetime)
}

func TestR14aSignatures(t *testing.T) {
	s := newStand(t)
	good := s.sign(s.header(TypAccess).String(), claimsNow().String())
	other := s.sign(s.header(TypAccess).String(), claimsNow().set("jti", `"other"`).String())
	dot := strings.LastIndexByte(good, '.')
	sig := es256(t, s.key, good[:dot])
	order := elliptic.P256().Params().N
	n, over := order.Bytes(), new(big.Int).Add(order, big.NewInt(1)).Bytes()
	zero, full := make([]byte, 32), []byte(strings.Repeat("\xff", 32))
	for what, b := range map[string][]byte{
		"r = 0": slices.Concat(zero, sig[32:]), "s = 0": slices.Concat(sig[:32], zero), "r = n": slices.Concat(n, sig[32:]), "s = n": slices.Concat(sig[:32], n),
		"r > n": slices.Concat(over, sig[32:]), "s > n": slices.Concat(sig[:32], over), "full": slices.Concat(full, full), "zero": slices.Concat(zero, zero),
		"63": sig[:63], "65": append(slices.Clone(sig), 0), "65 in front": append([]byte{0}, sig...), "empty": nil, "96": append(slices.Clone(sig), zero...),
		"swapped": slices.Concat(sig[32:], sig[:32]),
	} {
		s.both(t, what, good[:dot+1]+alphabet.EncodeToString(b), Sig)
	}
	der, err := ecdsa.SignASN1(rand.Reader, s.key, digestOf(good[:dot]))
	if err != nil {
		t.Fatal(err)
	}
	s.both(t, "DER", good[:dot+1]+alphabet.EncodeToString(der), Sig)
	s.both(t, "of another token", good[:dot]+other[strings.LastIndexByte(other, '.'):], Sig)
	s.both(t, "good", good)
}

// A JWE is refused unread, whatever its header would have done.
func TestR18Encrypted(t *testing.T) {
	s := newStand(t)
	for _, h := range []string{
		`{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","p2c":2147483648,"p2s":"AAAA"}`, `{"alg":"dir","enc":"A128GCM","zip":"DEF"}`,
	} {
		s.both(t, "five parts", b64(h)+".AAAA.AAAA.AAAA.AAAA", Format)
		s.both(t, "three parts", s.sign(h, claimsNow().String()), Header)
	}
}

func TestR19ActorsAndBinding(t *testing.T) {
	s := newStand(t)
	deep := func(n int) string {
		return strings.Repeat(`{"sub":"a","act":`, n-1) + `{"sub":"a"}` + strings.Repeat("}", n-1)
	}
	sign := func(name, value string) string {
		return s.sign(s.header(TypAccess).String(), claimsNow().set(name, value).String())
	}
	for _, v := range []string{deep(9), `[]`, `"x"`, `[{"sub":"a"}]`, `{}`, `{"sub":7}`, `{"sub":""}`, `{"sub":"a","act":[]}`, `{"sub":"a","act":{}}`, `{"sub":"a","iss":7}`, `{"sub":"a","x":1}`, `7`, `true`} {
		want(t, s.own, v, sign("act", v), Claims)
	}
	want(t, s.ext, "deep", sign("act", deep(9)), Claims)
	s.both(t, "8 deep", sign("act", deep(8)))
	if tok := want(t, s.own, "actors", sign("act", `{"sub":"a","iss":"i","act":{"sub":"b","act":null}}`)); tok != nil && !slices.Equal(tok.Actors(), []string{"a", "b"}) {
		t.Errorf("actors %q", tok.Actors())
	}
	hash := strings.Repeat("A", 43)
	for _, v := range []string{
		`{}`, `{"":"x"}`, `[]`, `"x"`, `7`, `{"jkt":"` + hash + `","spiffe":"spiffe://a/b"}`, `{"jkt":"` + hash + `","spiffe":null}`, `{"jkt":"short"}`,
		`{"x5t#S256":"` + hash[:42] + `"}`, `{"x5t#S256":"` + hash[:42] + `B"}`, `{"x5t#S256":"` + hash[:42] + `="}`, `{"x5t#S256":"` + hash[:42] + `\n"}`, `{"x5t#S256":7}`, `{"x5t#S256":"` + hash + `A"}`,
		`{"spiffe":"https://a/b"}`, `{"spiffe":["spiffe://a/b"]}`,
	} {
		s.both(t, "cnf "+v, sign("cnf", v), Claims)
	}
	want(t, s.own, "cnf of another kind", sign("cnf", `{"jwk":{}}`), Claims)
	for _, c := range []*Check{s.own, s.ext} {
		if tok := want(t, c, "cnf null", sign("cnf", "null")); tok != nil {
			if kind, _ := tok.Binding(); kind != "" {
				t.Errorf("cnf null binds by %q", kind)
			}
		}
	}
	for name, values := range map[string][]string{
		"anc":       {`"a"`, `{}`, `[7]`, `["a",null]`, `[""]`, quoteList(9, "a"), `["` + strings.Repeat("a", 65) + `"]`},
		"scope":     {`["a"]`, `7`, `""`, `" a"`, `"a "`, `"a  b"`, `"a\tb"`, `"a\"b"`, `"é"`, quote(strings.TrimSpace(strings.Repeat("a ", 65)))},
		"client_id": {`7`, `null`, `""`, `[]`},
		"jti":       {`""`, quote(strings.Repeat("j", 65))},
		"sub":       {`""`, quote(strings.Repeat("s", maxSubject+1))},
		"sid":       {`7`}, "rti": {`[]`}, "oat": {`{}`}, "ocid": {`""`}, "oiss": {`1`}, "osub": {`true`}, "own": {`1`}, "may_act": {`"x"`, `[]`},
	} {
		for _, v := range values {
			want(t, s.own, name+" "+v, sign(name, v), Claims)
		}
	}
	for name, v := range map[string]string{
		"anc": quoteList(8, strings.Repeat("a", 64)), "scope": quote(strings.TrimSpace(strings.Repeat("a ", 64))), "sub": quote(strings.Repeat("s", maxSubject)), "jti": quote(strings.Repeat("j", 64)),
	} {
		want(t, s.own, name+" at its limit", sign(name, v))
	}
	for _, name := range []string{"client_id", "jti", "sub"} {
		want(t, s.own, "no "+name, s.sign(s.header(TypAccess).String(), claimsNow().drop(name).String()), Claims)
	}
}

func quoteList(n int, s string) string {
	return "[" + strings.TrimSuffix(strings.Repeat(quote(s)+",", n), ",") + "]"
}

// An issuer that nobody names must still be there in an own token, and no keys refuse all.
func TestCheckFailsClosed(t *testing.T) {
	s := newStand(t)
	c := *s.own
	c.Issuer = ""
	want(t, &c, "no iss", s.sign(s.header(TypAccess).String(), claimsNow().drop("iss").String()), Claims)
	good := s.sign(s.header(TypAccess).String(), claimsNow().String())
	c.Keys = nil
	want(t, &c, "no set", good, KeyID)
	c.Keys = &Set{}
	want(t, &c, "empty set", good, KeyID)
	c = *s.own
	c.Audiences = []string{}
	want(t, &c, "an audience that nothing meets", good, Aud)
	c.Audiences = nil
	want(t, &c, "own, no aud, none asked", s.sign(s.header(TypAccess).String(), claimsNow().drop("aud").String()), Aud)
	long := strings.Repeat("x", 3000)
	if _, err := s.ext.Verify(now, s.sign(s.header("").String(), claimsNow().set("iss", quote(long)).String())); len(err.Error()) > 400 {
		t.Errorf("a stranger's text of %d bytes stands in the error", len(err.Error()))
	}
}
