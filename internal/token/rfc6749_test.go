package token

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/revocation"
)

// The answers of tokens.md 4.3, and what stands in the token and its record (8.1, 19).
func TestFirstToken(t *testing.T) {
	b := newBed(t)
	web := b.ca.Leaf(t, webID)
	r := b.ask(web, "client_id", webID, "audience", "payments")
	tok := b.wantToken(r, paymentsID)
	if want := `","token_type":"Bearer","expires_in":120,"scope":"payments:create"}`; !strings.HasPrefix(r.raw, `{"access_token":"ey`) || !strings.HasSuffix(r.raw, want) {
		t.Errorf("answer %s", r.raw)
	}
	now := tok.Issued()
	want := map[string]any{
		"iss": testIssuer, "sub": webID, "aud": paymentsID, "exp": now + 120, "iat": now, "jti": tok.ID(),
		"client_id": webID, "scope": "payments:create", "cnf": map[string]any{"spiffe": webID},
	}
	if got, want := fmt.Sprint(tok.Values()), fmt.Sprint(want); got != want {
		t.Errorf("claims %s\nwant   %s", got, want)
	}
	if !regexp.MustCompile(`^[0-9A-Za-z]{22}$`).MatchString(tok.ID()) || tok.Typ() != "at+jwt" {
		t.Errorf("jti %q, typ %q", tok.ID(), tok.Typ())
	}
	rec, err := b.records.Find(r.header.Get("X-Request-Id"))
	if err != nil {
		t.Fatal(err)
	}
	rec.Time = time.Time{}
	fp := fingerprint(web)
	if rec.Kind != audit.KindIssue || rec.Decision != audit.Allow || rec.Layer != audit.LayerIssue || rec.PeerID != webID || rec.Path != pathToken ||
		rec.ClientID != webID || rec.Auth != "mtls" || rec.Sub != webID || rec.Audience != paymentsID || rec.Scopes != "payments:create" ||
		rec.JTI != tok.ID() || rec.KID != tok.KeyID() || rec.Binding != "spiffe" || rec.Grant != "client_credentials" || rec.Iss != testIssuer ||
		rec.TokenIat.Unix() != now || rec.TokenExp.Unix() != now+120 || string(rec.PeerFP[:]) != string(fp[:16]) {
		t.Errorf("record %+v %+v", rec, rec.Subject)
	}

	b.newSecret("ci")
	secret := b.newSecret("ci")
	r = b.send(nil, "POST", pathToken, formOf("grant_type", "client_credentials", "audience", testReports, "scope", "reports:read"), basic("ci", secret))
	tok = b.wantToken(r, testReports)
	if _, bound := tok.Value("cnf"); bound || !strings.HasSuffix(r.raw, `"token_type":"Bearer","expires_in":300,"scope":"reports:read"}`) {
		t.Errorf("answer %s", r.raw)
	}
	if again := b.wantToken(b.ask(web, "client_id", webID), paymentsID); again.ID() == tok.ID() {
		t.Error("two requests got one token")
	}
}

// A6a: targets and scopes.
func TestA6aTargets(t *testing.T) {
	b := newBed(t)
	secret := b.newSecret("ci")
	ask := func(pairs ...string) reply {
		return b.ask(nil, append(pairs, "client_id", "ci", "client_secret", secret)...)
	}
	b.want(ask("audience", testReports, "scope", "reports:read reports:all"), 400, "invalid_scope", textScope, "")
	b.want(ask("audience", testReports, "scope", "reports:read  reports:write"), 400, "invalid_scope", textScope, "")
	b.want(ask("audience", testReports, "scope", "mesh"), 400, "invalid_scope", textScope, "")
	b.want(ask("audience", testReports, "scope", strings.Repeat("a ", 64)+"a"), 400, "invalid_scope", textScope, "")
	b.want(ask("audience", "nowhere"), 400, "invalid_target", textTarget, "")
	b.want(ask("audience", "payments"), 400, "invalid_target", textTarget, "")
	b.want(ask("audience", testReports, "audience", "payments"), 400, "invalid_target", textTarget, "")
	b.want(ask("audience", testReports, "resource", paymentsID), 400, "invalid_target", textTarget, "")
	b.want(ask("resource", testReports+"#x"), 400, "invalid_target", textTarget, "")
	b.want(ask("resource", "/reports"), 400, "invalid_target", textTarget, "")
	b.wantToken(ask("audience", testReports, "audience", testReports, "resource", testReports), testReports)
	b.wantToken(ask(), testReports) // its only target
	plain := b.ca.Leaf(t, plainID)
	b.want(b.ask(plain, "client_id", plainID), 400, "invalid_target", textNoTarget, "")
	idle := b.newSecret("idle")
	b.want(b.ask(nil, "client_id", "idle", "client_secret", idle), 400, "unauthorized_client", textGrant, "")
	auth := "&" + formOf("client_id", "ci", "client_secret", secret)
	b.want(b.send(nil, "POST", pathToken, "grant_type=password"+auth), 400, "unsupported_grant_type", "", "")
	b.want(b.send(nil, "POST", pathToken, "scope=x"+auth), 400, "invalid_request", textMalformed, "")
}

// A6b, A6c: forms that are refused before anybody is authenticated.
func TestA6bForms(t *testing.T) {
	b := newBed(t)
	secret := b.newSecret("ci")
	good := formOf("grant_type", "client_credentials", "audience", testReports, "client_id", "ci", "client_secret", secret)
	typ := func(v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set("Content-Type", v) } }
	var many string // one more than may be
	for i := range maxParameters - strings.Count(good, "&") {
		many += fmt.Sprintf("&x%d=", i)
	}
	for _, tc := range []struct {
		name, method, query, body string
		edit                      func(*http.Request)
		status                    int
		code, text                string
	}{
		{"repeated", "POST", "", good + "&scope=a&scope=a", nil, 400, "invalid_request", textRepeated},
		{"repeated, once empty", "POST", "", good + "&client_secret=", nil, 400, "invalid_request", textRepeated},
		{"repeated, unknown", "POST", "", good + "&a=1&a=2", nil, 400, "invalid_request", textRepeated},
		{"repeated, escaped", "POST", "", good + "&%73cope=a&scope=a", nil, 400, "invalid_request", textRepeated},
		{"query", "POST", "?client_id=ci", good, nil, 400, "invalid_request", textQuery},
		{"query, escaped", "POST", "?%63lient_id=ci", good, nil, 400, "invalid_request", textQuery},
		{"JSON", "POST", "", `{"grant_type":"client_credentials"}`, typ("application/json"), 400, "invalid_request", textMalformed},
		{"no type", "POST", "", good, typ(""), 400, "invalid_request", textMalformed},
		{"multipart", "POST", "", good, typ("multipart/form-data; boundary=x"), 400, "invalid_request", textMalformed},
		{"GET", "GET", "", "", nil, 405, "invalid_request", textMalformed},
		{"PUT", "PUT", "", good, nil, 405, "invalid_request", textMalformed},
		{"64 KiB and one", "POST", "", good + "&" + strings.Repeat("x", maxForm-len(good)), nil, 413, "invalid_request", textMalformed},
		{"65 parameters", "POST", "", good + many, nil, 400, "invalid_request", textMalformed},
		{"long name", "POST", "", good + "&" + strings.Repeat("n", maxName+1) + "=1", nil, 400, "invalid_request", textMalformed},
		{"long value", "POST", "", good + "&n=" + strings.Repeat("v", maxValue+1), nil, 400, "invalid_request", textMalformed},
		{"percent", "POST", "", good + "&n=%zz", nil, 400, "invalid_request", textMalformed},
		{"percent in a name", "POST", "", good + "&%=1", nil, 400, "invalid_request", textMalformed},
		{"UTF-8", "POST", "", good + "&n=%ff", nil, 400, "invalid_request", textMalformed},
		{"NUL", "POST", "", good + "&n=%00", nil, 400, "invalid_request", textMalformed},
		{"no name", "POST", "", good + "&=1", nil, 400, "invalid_request", textMalformed},
		{"authorization_details", "POST", "", good + "&authorization_details=[]", nil, 400, "invalid_authorization_details", ""},
		{"request", "POST", "", good + "&request=x", nil, 400, "request_not_supported", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b.t = t
			edit := tc.edit
			if edit == nil {
				edit = func(*http.Request) {}
			}
			r := b.send(nil, tc.method, pathToken+tc.query, tc.body, edit)
			b.want(r, tc.status, tc.code, tc.text, "")
			if tc.status == 405 && r.header.Get("Allow") != "POST" {
				t.Errorf("Allow is %q", r.header.Get("Allow"))
			}
			if strings.Contains(r.raw, secret) {
				t.Error("the answer holds the secret")
			}
		})
	}
	b.t = t
	chunked := func(r *http.Request) { r.ContentLength = -1 }
	b.want(b.send(nil, "POST", pathToken, good+"&"+strings.Repeat("x", maxForm), chunked), 413, "invalid_request", textMalformed, "")
	b.wantToken(b.send(nil, "POST", pathToken, good+"&unknown=1&scope=&request=&&", typ("Application/X-WWW-Form-urlencoded; charset=utf-8")), testReports)
	b.wantToken(b.send(nil, "POST", pathToken, good+many[:strings.LastIndexByte(many, '&')]), testReports) // 64
	b.wantToken(b.send(nil, "POST", pathToken, good, chunked), testReports)
}

// I4: no answer that could hold a token or say whether one is good may be kept.
func TestI4NoStore(t *testing.T) {
	b := newBed(t)
	secret := b.newSecret("ci")
	for _, path := range []string{pathToken, pathIntrospect, pathRevoke} {
		for _, body := range []string{
			formOf("grant_type", "client_credentials", "client_id", "ci", "client_secret", secret, "token", "x"),
			formOf("client_id", "ci", "client_secret", "wrong"), "a=1&a=2",
		} {
			r := b.send(nil, "POST", path, body)
			if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Pragma") != "no-cache" {
				t.Errorf("%s %d: %v", path, r.status, r.header)
			}
			if r.raw != "" && r.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %d: %v", path, r.status, r.header)
			}
			if r.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s may be read by any page", path)
			}
		}
	}
}

// error_description holds the fixed texts alone, and they are such as RFC 6749 lets pass.
func TestFixedTexts(t *testing.T) {
	for _, text := range []string{
		textAuth, textMethods, textRepeated, textQuery, textMalformed, textGrant, textNoTarget, textTarget, textScope, textSubject,
		textActor, textTokenType, textDelegation, textCycle, textDepth, textProof, textRate, textStore,
	} {
		if strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r > 0x7e || r == '"' || r == '\\' }) {
			t.Errorf("%q", text)
		}
	}
}

// The lifetime is the smallest of all that bounds it.
func TestLifetimes(t *testing.T) {
	b := newBed(t)
	bound := "spiffe://home.test/ns/shop/sa/bound"
	life := func(end time.Duration) reply {
		cert := b.ca.Leaf(t, bound, func(c *x509.Certificate) { c.NotAfter = b.now().Add(end) })
		return b.ask(cert, "client_id", "bound")
	}
	for _, tc := range []struct{ certificate, least, most time.Duration }{
		{2 * time.Hour, time.Hour, time.Hour}, {10 * time.Minute, 598 * time.Second, 10 * time.Minute},
	} {
		tok := b.wantToken(life(tc.certificate), "spiffe://home.test/ns/shop/sa/orders")
		if got := time.Duration(tok.Expires()-tok.Issued()) * time.Second; got < tc.least || got > tc.most {
			t.Errorf("certificate of %s: token of %s", tc.certificate, got)
		}
		if kind, _ := tok.Binding(); kind != "x5t#S256" {
			t.Errorf("bound by %q", kind)
		}
	}
	b.want(life(4*time.Second), 400, "invalid_request", textProof, "lifetime")
	if _, f := b.mint(t.Context(), &caller{world: b.world.Load(), now: b.now(), client: b.world.Load().Directory.Client("ci")}, &issue{
		subject: "x", target: grant.Resolved{Canonical: testReports, Record: b.world.Load().Directory.Audience(testReports)}, until: b.now().Add(4 * time.Second),
	}, &audit.Record{Subject: &audit.Subject{}}); f == nil || f.text != textSubject {
		t.Errorf("got %v", f)
	}
}

// An audience for verifiers that refuse at+jwt gets JWT; claims of a client go along; may_act.
func TestTypAndClaims(t *testing.T) {
	b := newBed(t, func(b *bed) {
		o := b.objects()
		o.Audiences[0].TypJWT = true
		o.Clients[0].Claims = map[string]any{"tenant": "acme", "tiers": []any{"a", "b"}}
		o.Clients[0].MayAct = map[string]any{"sub": paymentsID}
		b.world.Store(b.newWorld(o))
	})
	secret := b.newSecret("ci")
	r := b.ask(nil, "client_id", "ci", "client_secret", secret)
	check := &jose.Check{Profile: jose.OwnJWT, Issuer: testIssuer, Keys: b.options.Keys(), Audiences: []string{testReports}}
	tok, err := check.Verify(b.now(), r.text("access_token"))
	if err != nil {
		t.Fatal(err)
	}
	if tok.Typ() != "JWT" || !slices.Equal(tok.Claim([]string{"tenant"}), []string{"acme"}) || !slices.Equal(tok.Claim([]string{"tiers"}), []string{"a", "b"}) {
		t.Errorf("got %v", tok.Values())
	}
	if may, _ := tok.Value("may_act"); fmt.Sprint(may) != fmt.Sprint(map[string]any{"sub": paymentsID}) {
		t.Errorf("may_act is %v", may)
	}
	for _, name := range reserved {
		if _, f := othersOf(&grant.Client{Claims: map[string]any{name: "x"}}, &issue{}); f == nil {
			t.Errorf("a client may write %s", name)
		}
	}
}

// The names that mint writes are exactly those that nobody else may.
func TestReservedClaims(t *testing.T) {
	full := claims{Scope: "x", Cnf: &confirmation{}, Act: &actor{}, MayAct: map[string]any{"a": 1}, SID: "x", RTI: "x", Anc: []string{"x"}, Oat: "x", OCID: "x", Oiss: "x", Osub: "x"}
	text, err := json.Marshal(carried{&full, map[string]any{"tenant": "acme"}})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for name := range got {
		if name != "tenant" && !slices.Contains(reserved, name) {
			t.Errorf("%s is not reserved", name)
		}
	}
	if got["tenant"] != "acme" {
		t.Errorf("got %s", text)
	}
}

// Section 13: a token minted in the second in which its client was revoked lives.
func TestIatBehindRevocation(t *testing.T) {
	b := newBed(t)
	web := b.ca.Leaf(t, webID)
	for i, kind := range []string{revocation.ByClient, revocation.BySub, revocation.ByBefore} {
		now := b.now()
		e := revocation.Entry{Seq: int64(i + 1), Kind: kind, Val: webID, Before: now.Unix(), At: now.Unix(), Until: now.Unix() + 3660}
		if kind == revocation.ByBefore {
			e.Val = ""
		}
		if err := b.revoked.Add([]revocation.Entry{e}, now); err != nil {
			t.Fatal(err)
		}
		tok := b.wantToken(b.ask(web, "client_id", webID), paymentsID)
		if _, revoked := b.revoked.Revoked(tok); revoked || tok.Issued() <= e.Before {
			t.Errorf("%s: iat %d, before %d", kind, tok.Issued(), e.Before)
		}
	}
	// What descends from a token that was revoked since it was judged is not minted; what descends
	// from one that was issued behind the entry is no older than that.
	c := &caller{world: b.world.Load(), now: b.now(), client: b.world.Load().Directory.Client("ci")}
	derived := func(issued int64) *fault {
		i := issue{grant: "token-exchange", subject: webID, parent: "x", issued: issued, until: c.now.Add(time.Minute)}
		i.target = grant.Resolved{Canonical: testReports, Record: c.world.Directory.Audience(testReports)}
		_, f := b.mint(t.Context(), c, &i, &audit.Record{Kind: audit.KindIssue, Subject: &audit.Subject{}})
		return f
	}
	entry := revocation.Entry{Seq: 8, Kind: revocation.BySub, Val: webID, Before: c.now.Unix(), At: c.now.Unix(), Until: c.now.Unix() + 3660}
	if err := b.revoked.Add([]revocation.Entry{entry}, c.now); err != nil {
		t.Fatal(err)
	}
	if f := derived(c.now.Unix() - 5); f == nil || f.text != textSubject {
		t.Errorf("a token of a revoked one: %+v", f)
	}
	if f := derived(c.now.Unix() + 1); f != nil {
		t.Errorf("a token of a new one: %+v", f)
	}
	now := b.now()
	kid := revocation.Entry{Seq: 9, Kind: revocation.ByKID, Val: b.signer.Key().ID(), At: now.Unix(), Until: now.Unix() + 3660}
	if err := b.revoked.Add([]revocation.Entry{kid}, now); err != nil {
		t.Fatal(err)
	}
	b.want(b.ask(web, "client_id", webID), 500, "server_error", "", "revoked")
}

// Nothing is signed that was not written down first.
func TestRecordFirst(t *testing.T) {
	b := newBed(t)
	web := b.ca.Leaf(t, webID)
	b.wantToken(b.ask(web, "client_id", webID), paymentsID)
	if err := b.records.Close(); err != nil {
		t.Fatal(err)
	}
	if r := b.ask(web, "client_id", webID); r.status != 503 || r.text("error") != "temporarily_unavailable" || strings.Contains(r.raw, "access_token") {
		t.Errorf("got %d %s", r.status, r.raw)
	}
}

func TestNoKey(t *testing.T) {
	b := newBed(t, func(b *bed) { b.options.Signer = func() *jose.Signer { return nil } })
	b.want(b.ask(b.ca.Leaf(t, webID), "client_id", webID), 503, "temporarily_unavailable", textStore, "no active key")
}

// S19: whom a policy of the mesh shuts out gets no token, and no document.
func TestSecRootDenyTokens(t *testing.T) {
	b := newBed(t)
	w := *b.world.Load()
	w.Allow = func(p identity.Peer, r *http.Request) policy.Verdict {
		if path := r.URL.Path; p.ID.String() == webID && (path == pathToken || path == pathJWKS) {
			return policy.Verdict{Layer: policy.LayerAuthz, Reason: policy.ReasonDenyRule, Policy: "istio-system/quarantine"}
		}
		return policy.Verdict{Allow: true, Rule: -1}
	}
	b.world.Store(&w)
	web, secret := b.ca.Leaf(t, webID), b.newSecret("ci")
	for _, r := range []reply{
		b.ask(web, "client_id", webID),
		b.ask(web, "client_id", "ci", "client_secret", secret),
		b.send(web, "GET", pathJWKS, ""),
		b.send(web, "POST", "/oauth2/%74oken", formOf("grant_type", "client_credentials", "client_id", webID)),
	} {
		if r.status != 403 || r.raw != "RBAC: access denied" || r.header.Get("Content-Type") != "text/plain" || r.header.Get("X-Decision-Id") == "" || r.header.Get("X-Decision-Id") != r.header.Get("X-Request-Id") {
			t.Fatalf("got %d %q %v", r.status, r.raw, r.header)
		}
		if rec := b.refusal(r); rec.Layer != audit.LayerAuthz || rec.Reason != policy.ReasonDenyRule || rec.Policy != "istio-system/quarantine" || rec.PeerID != webID {
			t.Errorf("record %+v", rec)
		}
	}
	plain := b.ca.Leaf(t, plainID)
	b.wantToken(b.ask(plain, "client_id", plainID, "audience", "payments"), paymentsID)
	w.Allow = nil
	b.world.Store(&w)
	if r := b.ask(plain, "client_id", plainID, "audience", "payments"); r.status != 403 {
		t.Errorf("without policies: %d", r.status)
	}
}

func TestNotFound(t *testing.T) {
	b := newBed(t)
	for _, path := range []string{"/", "/oauth2", "/oauth2/token/", "/oauth2/authorize", "/oauth2//token", "/.well-known/openid-configuration/x"} {
		if r := b.send(nil, "GET", path, ""); r.status != 404 {
			t.Errorf("%s: %d", path, r.status)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, issuer := range []string{"", "http://x", "https://", "https://x/", "https://x?a", "https://x?", "https://x#a", "https://u@x", "x", "https://x/a/", "https://x\n"} {
		if _, err := New(Options{Issuer: issuer}); err == nil || !strings.Contains(err.Error(), "reading the issuer") {
			t.Errorf("%q: %v", issuer, err)
		}
	}
	if _, err := New(Options{Issuer: testIssuer}); err == nil {
		t.Error("a service without parts")
	}
}
