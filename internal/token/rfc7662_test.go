package token

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"countersign.dev/internal/grant"
)

const inactiveBody = `{"active":false}`

// introspects asks about a token as service name.
func (c *chainBed) introspects(name, raw string) reply {
	c.t.Helper()
	return c.send(c.cert(name), "POST", pathIntrospect, formOf("client_id", idOf(name), "token", raw))
}

func (c *chainBed) active(name, raw string) bool {
	c.t.Helper()
	r := c.introspects(name, raw)
	if r.status != 200 || r.header.Get("Cache-Control") != "no-store" {
		c.t.Fatalf("introspection: %d %s %v", r.status, r.raw, r.header)
	}
	if r.body["active"] != true && r.raw != inactiveBody {
		c.t.Fatalf("introspection: %s", r.raw)
	}
	return r.body["active"] == true
}

// The answer of tokens.md 4.1, to each of those who may ask.
func TestIntrospection(t *testing.T) {
	c := newChainBed(t, func(o *grant.Objects) { o.Clients[1].MayAct = map[string]any{"sub": idOf("c")} })
	r := c.exchange("a", c.signCorp(nil), "subject_token_type", typeJWT, "audience", "b")
	if r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.raw)
	}
	tok, raw := c.next("b", r.text("access_token"), "c")
	want := fmt.Sprintf(`{"active":true,"iss":"%s","sub":"corp:7f3b","aud":"%s","exp":%d,"iat":%d,"jti":"%s","client_id":"%s","scope":"read",`+
		`"token_type":"Bearer","cnf":{"spiffe":"%s"},"act":{"act":{"sub":"%s"},"sub":"%s"},"may_act":{"sub":"%s"},"sid":"corp:s1","auth_time":%d,"acr":"gold","amr":["pwd","mfa"]}`,
		testIssuer, idOf("c"), tok.Expires(), tok.Issued(), tok.ID(), idOf("b"), idOf("b"), idOf("a"), idOf("b"), idOf("c"), second(tok.Value("auth_time")))
	for _, name := range []string{"c", "b"} { // its audience, its client
		if r := c.introspects(name, raw); r.raw != want {
			t.Errorf("to %s: %s\nwant %s", name, r.raw, want)
		}
	}
	secret := c.newSecret("auditor")
	ask := func(edits ...func(*http.Request)) reply {
		return c.send(nil, "POST", pathIntrospect, formOf("client_id", "auditor", "client_secret", secret, "token", raw, "token_type_hint", "refresh_token"), edits...)
	}
	if r := ask(); r.raw != want {
		t.Errorf("to who may ask about any: %s", r.raw)
	}
	// I3: the signed form of RFC 9701 is not offered, whatever is asked for.
	r = ask(func(r *http.Request) { r.Header.Set("Accept", "application/token-introspection+jwt") })
	if r.raw != want || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %s", r.header.Get("Content-Type"), r.raw)
	}
	// A machine's token, as in tokens.md 8.1; and one of typ JWT at the audience that takes it.
	ci := c.newSecret("ci")
	for _, aud := range []string{testReports, "https://spring.example"} {
		r := c.ask(nil, "client_id", "ci", "client_secret", ci, "audience", aud)
		if got := c.send(nil, "POST", pathIntrospect, formOf("client_id", "ci", "client_secret", ci, "token", r.text("access_token"))); got.body["active"] != true || got.body["cnf"] != nil {
			t.Errorf("%s: %s", aud, got.raw)
		}
	}
}

// I1: nobody, and whoever fails to prove himself.
func TestI1Unauthenticated(t *testing.T) {
	c := newChainBed(t)
	raw := c.first("a", "b")
	r := c.send(nil, "POST", pathIntrospect, formOf("token", raw))
	c.wantClient(r, detailMethod)
	c.wantClient(c.send(nil, "POST", pathIntrospect, formOf("client_id", "ci", "client_secret", "css_wrong", "token", raw)), detailSecret)
	c.want(c.introspects("b", ""), 400, codeRequest, textMalformed, "")
}

// I2: everything else is one answer, to the byte.
func TestI2Inactive(t *testing.T) {
	c := newChainBed(t)
	now := c.now().Unix()
	good := c.first("a", "b")
	if !c.active("b", good) || !c.active("a", good) {
		t.Fatal("a good token is not active")
	}
	revoked := c.first("a", "b")
	c.send(c.cert("a"), "POST", pathRevoke, formOf("client_id", idOf("a"), "token", revoked))
	c.settle()
	for name, raw := range map[string]string{
		"of another audience": c.first("a", "c"),
		"garbage":             "garbage",
		"dots":                "..",
		"JWE":                 "e30.e30.e30.e30.e30",
		"long":                strings.Repeat("a", 8192),
		"expired":             c.signOwn(map[string]any{"exp": now - 1, "iat": now - 300}),
		"ends now":            c.signOwn(map[string]any{"exp": now, "iat": now - 300}),
		"revoked":             revoked,
		"cut":                 good[:len(good)-1],
		"id token":            c.sign("JWT", map[string]any{"iss": testIssuer, "sub": "x", "aud": idOf("b"), "exp": now + 60, "iat": now, "jti": "1", "client_id": idOf("b")}, nil),
		"txn token":           c.sign("txntoken+jwt", map[string]any{"iss": testIssuer, "sub": "x", "aud": "home.test", "exp": now + 60, "iat": now}, nil),
		"logout token":        c.sign("logout+jwt", map[string]any{"iss": testIssuer, "sub": "x", "aud": idOf("b"), "exp": now + 60, "iat": now}, nil),
		"foreign":             c.signCorp(nil),
	} {
		if c.active("b", raw) {
			t.Errorf("%s: active", name)
		}
	}
	if c.active("c", good) {
		t.Error("active to a stranger")
	}
}
