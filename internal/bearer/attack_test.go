package bearer

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"

	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/revocation"
)

// TestR are the rows of tokens.md 21.1 that one token can show, as the built-in rule answers.
func TestR(t *testing.T) {
	w := newWorld(t)
	k := w.own
	good := k.ours()
	body := func(more ...claims) string {
		return string(must(base64.RawURLEncoding.DecodeString(strings.Split(k.ours(more...), ".")[1])))
	}
	head := func(alg, more string) string {
		return `{"alg":` + alg + `,"kid":"` + k.kid() + `","typ":"at+jwt"` + more + `}`
	}
	raw := func(members string, without string) string { // members written as given
		return k.sign(head(`"ES256"`, ""), strings.TrimSuffix(body(claims{without: nil}), "}")+","+members+"}")
	}
	cut := strings.LastIndexByte(good, '.')
	text, sig := good[:cut], good[cut+1:]
	parts := strings.Split(good, ".")
	mac := func(secret []byte) string {
		text := b64(head(`"HS256"`, "")) + "." + parts[1]
		m := hmac.New(sha256.New, secret)
		m.Write([]byte(text))
		return text + "." + b64(string(m.Sum(nil)))
	}
	type attack struct {
		row, token string
		reason     jose.Reason // "" is accepted
	}
	list := []attack{
		{"R2", mac([]byte(k.jwks())), jose.Algo},
		{"R3a ES384", k.sign(head(`"ES384"`, ""), body()), jose.Algo},
		{"R3a ES512", k.sign(head(`"ES512"`, ""), body()), jose.Algo},
		{"R3b", k.sign(head(`"PS256"`, ""), body()), jose.Algo},
		{"R4a jwk", k.sign(head(`"ES256"`, `,"jwk":{}`), body()), jose.Header},
		{"R4a x5c", k.sign(head(`"ES256"`, `,"x5c":"x"`), body()), jose.Header},
		{"R4b jku", k.sign(head(`"ES256"`, `,"jku":"http://127.0.0.1/"`), body()), jose.Header},
		{"R4b x5u", k.sign(head(`"ES256"`, `,"x5u":"file:///etc/passwd"`), body()), jose.Header},
		{"R6 b64", k.sign(head(`"ES256"`, `,"b64":"false"`), body()), jose.Header},
		{"R7a claim", raw(`"sub":"x"`, "x"), jose.Dup},
		{"R7a escaped", raw(`"\u0073ub":"x"`, "x"), jose.Dup},
		{"R7b", k.ours(claims{"SUB": "x", "Aud": "x"}), ""},
		{"R7c", k.ours(claims{"exp": nil, "EXP": now.Unix() + 300}), jose.Exp},
		{"R7d ALG", k.sign(head(`"ES256"`, `,"ALG":"none"`), body()), jose.Header},
		{"R8 padding", good + "=", jose.Charset},
		{"R8 padding inside", parts[0] + "." + parts[1] + "=." + sig, jose.Charset},
		{"R8 unused bits", text + "." + sig[:len(sig)-1] + string(sig[len(sig)-1]+1), jose.Base64},
		{"R9a not UTF-8", raw("\"x\":\"\xff\"", "x"), jose.UTF8},
		{"R9a surrogate", raw(`"x":"\ud800"`, "x"), jose.UTF8},
		{"R9b depth", raw(`"x":`+strings.Repeat("[", 17)+strings.Repeat("]", 17), "x"), jose.Depth},
		{"R11 missing", k.ours(claims{"aud": nil}), jose.Aud},
		{"R11 other", k.ours(claims{"aud": checkout}), jose.Aud},
		{"R11 empty", k.ours(claims{"aud": ""}), jose.Aud},
		{"R11 number", k.ours(claims{"aud": 7}), jose.JSON},
		{"R11 array with us", k.ours(claims{"aud": []string{orders}}), jose.JSON},
		{"R12 our issuer, a foreign key", w.corp.ours(), jose.KeyID},
		{"R12 sub of another trust domain", k.ours(claims{"sub": "spiffe://other/x"}), jose.Claims},
		{"R13a missing", k.ours(claims{"exp": nil}), jose.Exp},
		{"R13a null", raw(`"exp":null`, "exp"), jose.JSON},
		{"R13a string", k.ours(claims{"exp": "1790000300"}), jose.JSON},
		{"R13a fraction", raw(`"exp":1790000300.0`, "exp"), jose.JSON},
		{"R13a huge", raw(`"exp":1e300`, "exp"), jose.JSON},
		{"R13a negative", raw(`"exp":-1`, "exp"), jose.JSON},
		{"R13a 2^63", raw(`"exp":9223372036854775808`, "exp"), jose.JSON},
		{"R13a a second ago", k.ours(claims{"exp": now.Unix() - 1}), jose.Exp},
		{"R13a now", k.ours(claims{"exp": now.Unix()}), jose.Exp},
		{"R13b", k.ours(claims{"iat": now.Unix() + 9}), ""},
		{"R13c iat", k.ours(claims{"iat": now.Unix() + 11}), jose.Iat},
		{"R13c nbf", k.ours(claims{"nbf": now.Unix() + 61}), jose.Nbf},
		{"R13c life", k.ours(claims{"iat": now.Unix(), "exp": now.Unix() + 3601}), jose.Lifetime},
		{"R14a zero", text + "." + b64(string(make([]byte, 64))), jose.Sig},
		{"R14a short", text + "." + b64(string(make([]byte, 63))), jose.Sig},
		{"R14a of another token", text + "." + k.signature("x"), jose.Sig},
		{"R14a high s", text + "." + mirrored(t, sig), ""},
		{"R19 depth", k.ours(claims{"act": nested(9)}), jose.Claims},
		{"R19 array", k.ours(claims{"act": []any{}}), jose.Claims},
		{"R19 text", k.ours(claims{"act": "x"}), jose.Claims},
		{"R19 two members", k.ours(claims{"cnf": claims{"spiffe": checkout, "jkt": "x"}}), jose.Claims},
		{"R19 cnf empty", k.ours(claims{"cnf": claims{}}), jose.Claims},
		{"R19 cnf null", raw(`"cnf":null`, "cnf"), jose.Binding},
		{"R19 no cnf", k.ours(claims{"cnf": nil}), jose.Binding},
	}
	for _, alg := range []string{`"none"`, `"nOnE"`, `"NONE"`, `""`, `[]`, `7`} {
		list = append(list, attack{"R1 " + alg, k.sign(head(alg, ""), body()), ""})
	}
	for _, typ := range []string{"JWT", "logout+jwt", "dpop+jwt", "txntoken+jwt", "client-authentication+jwt", "wit+jwt", ""} {
		list = append(list, attack{"R10 " + typ, k.sign(`{"alg":"ES256","kid":"`+k.kid()+`","typ":"`+typ+`"}`, body()), jose.Typ})
	}
	for _, kid := range []string{"../../key", "' OR 1=1", "*)(", strings.Repeat("a", 200)} {
		list = append(list, attack{"R5a", k.sign(`{"alg":"ES256","kid":"`+kid+`","typ":"at+jwt"}`, body()), jose.KeyID})
	}
	for _, crit := range []string{`["x"]`, `[]`, `["exp"]`, `"x"`} {
		list = append(list, attack{"R6 " + crit, k.sign(head(`"ES256"`, `,"crit":`+crit), body()), jose.Header})
	}
	for _, a := range list {
		t.Run(a.row, func(t *testing.T) {
			q := w.get("/", bearer(a.token))
			out := w.rules().Authenticate(q)
			switch {
			case strings.HasPrefix(a.row, "R1 "): // alg or header
				if out.Refused == nil || out.Refused.Status != 401 || out.Refused.Challenge != challenge {
					t.Errorf("%s (%+v)", say(out), out.Refused)
				}
			case a.reason == "":
				accepted(t, out)
			default:
				refused(t, out, a.reason)
			}
		})
	}
	// Another iss, and what cannot be a token of anybody, is the application's: it identifies nobody.
	for row, token := range map[string]string{
		"R12 slash": k.ours(claims{"iss": ourIssuer + "/"}), "R12 case": k.ours(claims{"iss": strings.ToUpper(ourIssuer)}),
		"R12 missing": k.ours(claims{"iss": nil}), "R8 flattened": `{"payload":"` + parts[1] + `"}`,
		"R9b dots": strings.Repeat(".", 1_000_000), "R9b long": good[:cut] + strings.Repeat("A", 8193), "R18 JWE": "a.b.c.d.e",
	} {
		if out := w.rules().Authenticate(w.get("/", bearer(token))); say(out) != "none" {
			t.Errorf("%s: %s (%+v)", row, say(out), out.Refused)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// nested is act of that depth.
func nested(depth int) claims {
	act := claims{"sub": checkout}
	for range depth - 1 {
		act = claims{"sub": checkout, "act": act}
	}
	return act
}

// mirrored is the other signature that holds, of n−s.
func mirrored(t *testing.T, sig string) string {
	t.Helper()
	raw := must(base64.RawURLEncoding.DecodeString(sig))
	n, _ := new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
	s := new(big.Int).SetBytes(raw[32:])
	n.Sub(n, s).FillBytes(raw[32:])
	return b64(string(raw))
}

func TestR15aKeyRemoved(t *testing.T) {
	w := newWorld(t)
	token := w.own.ours()
	accepted(t, w.rules().Authenticate(w.get("/", bearer(token))))
	w.own = newKey(t)
	refused(t, w.rules().Authenticate(w.get("/", bearer(token))), jose.KeyID)
}

// TestR15bRotation: tokens of the old key count while it is in the set, those of the new at once.
func TestR15bRotation(t *testing.T) {
	w := newWorld(t)
	next := newKey(t)
	old := w.own.ours()
	accepted(t, w.rules().Authenticate(w.get("/", bearer(old))))
	both := must(jose.NewSet(w.own.signer.Key(), next.signer.Key()))
	book := NewBook(Facts{TrustDomain: domain, Issuer: ourIssuer, Own: both, Directory: w.directory()}, w.book)
	r := book.For(Workload{ID: orders, Service: "shop/orders", Services: []string{"shop/orders"}})
	accepted(t, r.Authenticate(w.get("/", bearer(old))))
	accepted(t, r.Authenticate(w.get("/", bearer(next.ours()))))
}

// TestR16Revoked: each kind of entry, of a token in the cache, in both spellings of its signature.
func TestR16Revoked(t *testing.T) {
	for _, e := range []revocation.Entry{
		{Kind: revocation.ByJTI, Val: "5uVb0kYQm3T1cW9ZqA2xLr"}, {Kind: revocation.ByJTI, Val: "parent"},
		{Kind: revocation.ByRTI, Val: "root"}, {Kind: revocation.BySID, Val: "session"},
		{Kind: revocation.BySub, Val: checkout, Before: now.Unix()}, {Kind: revocation.ByClient, Val: checkout, Before: now.Unix()},
		{Kind: revocation.ByKID}, {Kind: revocation.ByBefore, Before: now.Unix()},
	} {
		w := newWorld(t)
		token := w.own.ours(claims{"rti": "root", "sid": "session", "anc": []string{"parent"}})
		r := w.rules()
		accepted(t, r.Authenticate(w.get("/", bearer(token))))
		e.At, e.Until = now.Unix(), now.Unix()+3660
		if e.Kind == revocation.ByKID {
			e.Val = w.own.kid()
		}
		if err := w.revoked.Add([]revocation.Entry{e}, now); err != nil {
			t.Fatal(err)
		}
		refused(t, r.Authenticate(w.get("/", bearer(token))), jose.Revoked)
		cut := strings.LastIndexByte(token, '.') + 1
		refused(t, r.Authenticate(w.get("/", bearer(token[:cut]+mirrored(t, token[cut:])))), jose.Revoked)
	}
}

// TestSecOutputAliases: nobody says what a rule's output header says, in no spelling.
func TestSecOutputAliases(t *testing.T) {
	w := newWorld(t)
	r := w.rules(w.r(func(r *policy.TokenRule) {
		r.ClaimHeaders = []policy.ClaimHeader{{Header: "x-user-id", Claim: "sub"}}
	}))
	for _, name := range []string{"X-User-Id", "x_user_id", "X_User-Id", "X.user.id", "x-USER_ID"} {
		for _, lines := range [][]string{{bearer(w.id.foreign())}, {}} {
			q := w.get("/", append(lines, "X-Userid: stays")...)
			q.Header[name] = []string{"forged"}
			accepted := r.Authenticate(q).Token != nil
			for got, values := range q.Header {
				if values[0] == "forged" {
					t.Errorf("%s was sent, %s is left", name, got)
				}
			}
			if (q.Header.Get("X-User-Id") == "alice") != accepted || q.Header.Get("X-Userid") != "stays" {
				t.Errorf("%s: %v", name, q.Header)
			}
		}
	}
}
