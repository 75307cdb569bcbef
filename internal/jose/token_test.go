package jose

import (
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestMintedTokenIsVerified(t *testing.T) {
	s, raw, check := minted(t)
	tok := want(t, check, "minted", raw)
	if tok == nil {
		t.FailNow()
	}
	c := typical()
	iss, sub := tok.Upstream()
	got := []any{
		tok.Issuer(), tok.Subject(), tok.Audience(), tok.Expires(), tok.Issued(), tok.ID(), tok.ClientID(), tok.Scopes(), tok.SessionID(), tok.Root(),
		tok.Ancestors(), tok.OriginKind(), tok.Origin(), iss, sub, tok.Presenter(), tok.Actors(), tok.Typ(), tok.KeyID(), tok.Alg(), tok.Payload(),
	}
	wanted := []any{
		c.Iss, c.Sub, []string{c.Aud}, c.Exp, c.Iat, c.Jti, c.CID, strings.Fields(c.Scope), c.Sid, c.Rti,
		c.Anc, c.Oat, c.Ocid, c.Oiss, c.Osub, c.CID, []string{web, "spiffe://example.com/ns/edge/sa/gateway"}, "at+jwt", s.Key().ID(), ES256, strings.Split(raw, ".")[1],
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], wanted[i]) {
			t.Errorf("%d: %v, want %v", i, got[i], wanted[i])
		}
	}
	if kind, value := tok.Binding(); kind != ByIdentity || value != web {
		t.Errorf("bound by %s to %s", kind, value)
	}
	if head, _ := alphabet.DecodeString(strings.Split(raw, ".")[0]); string(head) != `{"alg":"ES256","kid":"`+s.Key().ID()+`","typ":"at+jwt"}` {
		t.Errorf("header %s", head)
	}
	// What Values gives is what was minted, and mints the same again.
	if again := mustMarshal(t, tok.Values()); !sameJSON(t, again, mustMarshal(t, c)) {
		t.Errorf("values %s", again)
	}
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}

// A token of anyone else names nobody by the claims that are ours.
func TestForeignTokenHasNoneOfOurClaims(t *testing.T) {
	s := newStand(t)
	o := claimsNow().set("azp", `"app"`)
	for _, name := range []string{"sid", "rti", "ocid", "oat", "oiss", "osub"} {
		o = o.set(name, `"x"`)
	}
	tok := want(t, s.ext, "ours", s.sign(s.header("").String(), o.set("anc", `["a"]`).set("act", `{"sub":"a"}`).set("scope", `"a b"`).String()))
	if tok == nil {
		t.FailNow()
	}
	iss, sub := tok.Upstream()
	if got := tok.ClientID() + tok.SessionID() + tok.Root() + tok.Origin() + tok.OriginKind() + iss + sub; got != "" || tok.Actors() != nil || tok.Ancestors() != nil {
		t.Errorf("a foreign token names %q, %q, %q", got, tok.Actors(), tok.Ancestors())
	}
	if tok.Presenter() != "app" || !slices.Equal(tok.Scopes(), []string{"a", "b"}) || !slices.Equal(tok.Claim([]string{"osub"}), []string{"x"}) {
		t.Errorf("presenter %q, scopes %q", tok.Presenter(), tok.Scopes())
	}
}

// Claims as policy reads them: istio-semantics.md 6.4 and 7.5.
func TestClaim(t *testing.T) {
	s := newStand(t)
	c := *s.ext
	c.Split = []string{"roles", "a.b"}
	o := claimsNow()
	for _, m := range []Member{
		{"scope", `"read  write "`}, {"permission", `"a\tb c"`}, {"roles", `"a b"`}, {"a.b", `"x y"`}, {"groups", `"a b"`},
		{"n", "7"}, {"b", "true"}, {"nul", "null"}, {"list", `["a b","c",7,null,["d"],{"e":"f"}]`}, {"empty", `[]`},
		{"deep", `{"a":{"scope":"a b","list":["x"],"n":1},"a b":"c"}`}, {`esc\u0061pe`, `"\u0061\n"`}, {"text", `""`},
	} {
		o = o.set(m.Name, m.Value)
	}
	tok := want(t, &c, "claims", s.sign(s.header("").String(), o.String()))
	if tok == nil {
		t.FailNow()
	}
	for path, wanted := range map[string][]string{
		"scope": {"read", "write"}, "permission": {"a\tb", "c"}, "roles": {"a", "b"}, "a.b": {"x", "y"}, "groups": {"a b"},
		"n": nil, "b": nil, "nul": nil, "list": {"a b", "c"}, "empty": nil, "deep": nil, "deep|a": nil, "deep|a|scope": {"a b"}, "deep|a|list": {"x"},
		"deep|a|n": nil, "deep|a b": {"c"}, "escape": {"a\n"}, "text": {""}, "aud": {orders}, "sub": {"alice"}, "list|0": nil, "list|e": nil, "sub|x": nil, "none": nil, "Scope": nil,
	} {
		if got := tok.Claim(strings.Split(path, "|")); !slices.Equal(got, wanted) {
			t.Errorf("%s: %q, want %q", path, got, wanted)
		}
	}
	if tok.Claim(nil) != nil {
		t.Error("no path finds something")
	}
	for in, wanted := range map[string][]string{`""`: nil, `" "`: nil, `["a b"]`: {"a b"}, `"a"`: {"a"}} {
		tok := want(t, &c, in, s.sign(s.header("").String(), claimsNow().set("scope", in).String()))
		if got := tok.Claim([]string{"scope"}); !slices.Equal(got, wanted) {
			t.Errorf("scope %s: %q, want %q", in, got, wanted)
		}
	}
}

func TestValues(t *testing.T) {
	s := newStand(t)
	o := claimsNow().set("n", "9007199254740993").set("f", "1.5").set("big", "1e400").set("o", `{"n":7,"l":[1,"a",null,true]}`).set("nul", "null").set("b", "false")
	tok := want(t, s.ext, "values", s.sign(s.header("").String(), o.String()))
	if tok == nil {
		t.FailNow()
	}
	for name, wanted := range map[string]any{
		"n": int64(9007199254740993), "f": 1.5, "b": false, "sub": "alice", "exp": int64(epoch + 300),
		"o": map[string]any{"n": int64(7), "l": []any{int64(1), "a", nil, true}},
	} {
		if got, ok := tok.Value(name); !ok || !reflect.DeepEqual(got, wanted) || !reflect.DeepEqual(tok.Values()[name], wanted) {
			t.Errorf("%s: %#v, want %#v", name, got, wanted)
		}
	}
	for _, name := range []string{"nul", "none", ""} {
		if got, ok := tok.Value(name); ok || got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	if _, ok := tok.Values()["nul"]; ok {
		t.Error("a null claim is among the values")
	}
	tok.Values()["sub"] = "admin"
	tok.Values()["o"].(map[string]any)["n"] = "changed"
	if got, _ := tok.Value("o"); tok.Subject() != "alice" || got.(map[string]any)["n"] != int64(7) {
		t.Error("a caller changed the token")
	}
	mustMarshal(t, tok.Values())
}

func TestU0000InAnyClaim(t *testing.T) {
	s := newStand(t)
	for _, m := range []Member{{"x", `"a\u0000"`}, {"x", `{"a":["\u0000"]}`}, {"x", `{"\u0000":1}`}, {`\u0000`, "1"}, {"scope", `"a\u0000b"`}} {
		s.both(t, m.Name+m.Value, s.sign(s.header(TypAccess).String(), claimsNow().set(m.Name, m.Value).String()), Claims)
	}
	s.both(t, "only looks so", s.sign(s.header(TypAccess).String(), claimsNow().set("x", `"\\u0000"`).String()))
}

// tokens.md 9.2: who may show a token.
func TestBound(t *testing.T) {
	s := newStand(t)
	leaf := sha256.Sum256([]byte("leaf"))
	sum := alphabet.EncodeToString(leaf[:])
	token := func(c *Check, cnf string) *Token {
		tok := want(t, c, cnf, s.sign(s.header(TypAccess).String(), claimsNow().set("cnf", cnf).String()))
		if tok == nil {
			t.FailNow()
		}
		return tok
	}
	spiffe := `{"spiffe":"` + web + `"}`
	x5t := `{"x5t#S256":"` + sum + `"}`
	for _, c := range []struct {
		cnf  string
		by   Presenter
		want string
	}{
		{"null", Presenter{}, ""},
		{spiffe, Presenter{ID: web}, ""},
		{spiffe, Presenter{ID: web, Fingerprint: leaf}, ""},
		{spiffe, Presenter{ID: orders}, `binding: the token belongs to "…/sa/web", the caller is "…/sa/orders"`},
		{spiffe, Presenter{ID: "spiffe://example.org/ns/shop/sa/web"}, `binding: the token belongs to "` + web + `", the caller is "spiffe://example.org/ns/shop/sa/web"`},
		{spiffe, Presenter{ID: web + "2"}, `binding: the token belongs to "…/sa/web", the caller is "…/sa/web2"`},
		{spiffe, Presenter{ID: "spiffe://example.com/ns/shop"}, `binding: the token belongs to "` + web + `", the caller is "spiffe://example.com/ns/shop"`},
		{spiffe, Presenter{Fingerprint: leaf}, `binding: the token belongs to "` + web + `", the caller proved no identity`},
		{x5t, Presenter{Fingerprint: leaf}, ""},
		{x5t, Presenter{ID: web}, "binding: the token belongs to a certificate, the caller showed none"},
		{x5t, Presenter{Fingerprint: sha256.Sum256(nil)}, "binding: the token belongs to another certificate than the caller's"},
		{`{"x5t#S256":"` + strings.Repeat("A", 43) + `"}`, Presenter{}, "binding: the token belongs to a certificate, the caller showed none"},
		{`{"jkt":"` + sum + `"}`, Presenter{ID: web, Fingerprint: leaf}, "binding: the token needs a proof by DPoP, which is not taken here"},
	} {
		got := ""
		if err := token(s.own, c.cnf).Bound(c.by); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s by %v: %q, want %q", c.cnf, c.by, got, c.want)
		}
	}
	if err := token(s.ext, `{"kid":"x"}`).Bound(Presenter{ID: web, Fingerprint: leaf}); err == nil {
		t.Error("a binding that nobody can show was shown")
	}
}

// remote signs elsewhere, as a KMS does.
type remote struct {
	crypto.Signer
	sign func(der []byte) ([]byte, error)
}

func (r remote) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	der, err := r.Signer.Sign(rand, digest, opts)
	if err != nil {
		return nil, err
	}
	return r.sign(der)
}

func TestSigner(t *testing.T) {
	key := newKey(t, elliptic.P256())
	s, err := NewSigner(remote{key, func(der []byte) ([]byte, error) { return der, nil }})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.Sign(TypAccess, typical())
	if err != nil {
		t.Fatal(err)
	}
	want(t, &Check{Profile: Own, Issuer: issuer, Keys: setOf(t, s.Key()), Audiences: []string{orders}}, "remote", raw)
	if _, err := s.Sign("txntoken+jwt", typical()); err == nil {
		t.Error("a typ that is not made here")
	}
	if _, err := s.Sign(TypAccess, map[string]any{"x": func() {}}); err == nil {
		t.Error("claims that are no JSON")
	}
	if _, err := s.Sign(TypAccess, map[string]string{"x": strings.Repeat("x", MaxToken)}); err == nil {
		t.Error("a token that nobody would read")
	}
	for what, sign := range map[string]func([]byte) ([]byte, error){
		"error": func([]byte) ([]byte, error) { return nil, io.ErrUnexpectedEOF },
		"empty": func([]byte) ([]byte, error) { return nil, nil },
		"raw":   func([]byte) ([]byte, error) { return make([]byte, 64), nil },
		"short": func(d []byte) ([]byte, error) { return d[:len(d)-1], nil },
		"long":  func(d []byte) ([]byte, error) { return append(slices.Clone(d), 0), nil },
		"large": func([]byte) ([]byte, error) {
			return slices.Concat([]byte{0x30, 39, 2, 33, 1}, make([]byte, 32), []byte{2, 2, 1, 1}), nil
		},
	} {
		s, err := NewSigner(remote{key, sign})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sign(TypAccess, typical()); err == nil {
			t.Errorf("%s: a token", what)
		}
	}
}

func TestPeek(t *testing.T) {
	s := newStand(t)
	for payload, wanted := range map[string]string{
		`{"iss":"a","exp":"x"}`: "a", `{"is\u0073":"\u0061"}`: "a", `{}`: "", `{"iss":""}`: "",
		`{"x":{"iss":"b"},"iss":"a"}`: "a",
	} {
		if iss, ok := Peek("e30." + b64(payload) + "."); !ok || iss != wanted {
			t.Errorf("%s: %q, %v", payload, iss, ok)
		}
	}
	for _, payload := range []string{`{"iss":7}`, `{"iss":null}`, `{"iss":"a","iss":"a"}`, `{"iss":"a"}x`, "[]", "", "null", `{"iss":"a"`, strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17)} {
		if iss, ok := Peek("e30." + b64(payload) + "."); ok || iss != "" {
			t.Errorf("%s: %q", payload, iss)
		}
	}
	for _, raw := range []string{"", "opaque", "a.b", "e30.e3.0.", strings.Repeat("A", MaxToken+1), "e30.e31.", "e30.\n."} {
		if iss, ok := Peek(raw); ok || iss != "" {
			t.Errorf("%q: %q", raw[:min(len(raw), 20)], iss)
		}
	}
	good := s.sign(s.header("").String(), claimsNow().String())
	if iss, ok := Peek(good); !ok || iss != issuer {
		t.Errorf("%q, %v", iss, ok)
	}
}

// Inspect shows what no check lets pass, as long as it can be decoded.
func TestInspect(t *testing.T) {
	u, err := Inspect(b64(`{ "typ":"x","alg":"none","kid":7,"crit":[]}`) + "." + b64("{\"sub\":\"a\",\"sub\":\"b\",\"x\":{\"y\": 1},\"z\":\"\xff\"}") + "=.")
	if err != nil {
		t.Fatal(err)
	}
	if u.Typ != "x" || u.Alg != "none" || u.KeyID != "" || u.Signature != 0 || len(u.Header) != 4 {
		t.Errorf("%+v", u)
	}
	if len(u.Claims) != 4 || u.Claims[0] != (Member{"sub", `"a"`}) || u.Claims[1] != (Member{"sub", `"b"`}) || u.Claims[2] != (Member{"x", `{"y": 1}`}) {
		t.Errorf("%+v", u.Claims)
	}
	for raw, reason := range map[string]Reason{
		"": Size, strings.Repeat("a", MaxToken+1): Size, "a.b": Format, "a.b.c.d": Format, "e30.!.": Base64, "e30..": JSON, "e30." + b64("[]") + ".": JSON, b64("null") + ".e30.": JSON,
		b64(`{"x":"`+strings.Repeat("x", maxHeader)+`"}`) + ".e30.": Size, "e30." + b64(`{"x":`+strings.Repeat("[", 3000)) + ".": Depth,
	} {
		_, err := Inspect(raw)
		if e, ok := errors.AsType[*Error](err); !ok || e.Reason != reason {
			t.Errorf("%q: %v, want %s", raw[:min(len(raw), 30)], err, reason)
		}
	}
}

// The paths of every request allocate nothing.
func TestHotPathsDoNotAllocate(t *testing.T) {
	_, raw, check := minted(t)
	cache := NewCache(1 << 20)
	tok, err := cache.Verify(now, raw, check)
	if err != nil {
		t.Fatal(err)
	}
	path, who := []string{"scope"}, Presenter{ID: web}
	for what, f := range map[string]func(){
		"cached": func() { _, err = cache.Verify(now, raw, check) }, "claim": func() { tok.Claim(path) }, "bound": func() { err = tok.Bound(who) },
		"facts": func() { tok.Issuer(); tok.Upstream(); tok.Audience(); tok.Actors(); tok.Presenter() },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 || err != nil {
			t.Errorf("%s: %v allocations, %v", what, n, err)
		}
	}
}
