package bearer

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/revocation"
)

const (
	realm     = `Bearer realm="shop/orders"`
	challenge = realm + `, error="invalid_token", error_description="the access token is not valid"`
	metadata  = `, resource_metadata="http://orders.shop/.well-known/oauth-protected-resource"`
)

// refused holds an outcome against the one answer of the built-in rules, and its reason.
func refused(t *testing.T, out Outcome, reason jose.Reason) {
	t.Helper()
	no := out.Refused
	switch {
	case no == nil:
		t.Fatalf("%s, want refused for %s", say(out), reason)
	case no.Status != 401 || no.Text != "the access token is not valid" || no.Challenge != challenge:
		t.Errorf("answer %d %q %s", no.Status, no.Text, no.Challenge)
	case no.Reason != string(reason):
		t.Errorf("reason %s (%s), want %s", no.Reason, no.Detail, reason)
	}
	verified := reason == jose.Revoked || reason == jose.Stale || reason == jose.Binding && !strings.Contains(no.Detail, "DPoP is")
	if out.Token != nil || (no.Token != nil) != verified || out.Own != verified {
		t.Errorf("identity %v, for the record %v, own %t", out.Token, no.Token, out.Own)
	}
}

func accepted(t *testing.T, out Outcome) {
	t.Helper()
	if out.Refused != nil || out.Token == nil {
		t.Fatalf("got %s (%+v), want an identity", say(out), out.Refused)
	}
}

// untouched: the application gets what was sent, and nobody is identified.
func untouched(t *testing.T, q *Request, out Outcome, lines ...string) {
	t.Helper()
	if say(out) != "none" || out.Own || out.Rest != nil {
		t.Fatalf("got %s (%+v), want untouched", say(out), out.Refused)
	}
	want := (&world{}).get("/", lines...).Header
	if fmt.Sprint(q.Header) != fmt.Sprint(want) {
		t.Errorf("header %v, was %v", q.Header, want)
	}
}

// TestG10 is the built-in rule beside no other.
func TestG10(t *testing.T) {
	w := newWorld(t)
	r := w.rules()
	q := w.get("/", bearer(w.own.ours()))
	out := r.Authenticate(q)
	accepted(t, out)
	if !out.Own || out.Token.Issuer() != ourIssuer || out.Token.Subject() != checkout || out.Rest != nil {
		t.Errorf("%+v", out)
	}
	checkProgram(t, program(q, out), []string{"/", "Authorization: " + q.Header.Get("Authorization")})
	for _, line := range []string{
		bearer("opaque"), bearer("a.b.c"), bearer(w.id.foreign()), bearer(w.id.foreign(claims{"iss": ourIssuer + "/"})),
		"Authorization: Basic eDp5", "Authorization: Bearer", "Authorization: DPoP " + w.id.foreign(),
		`Authorization: Digest username="a", uri="/"`, "X-Api-Key: csk_live_x",
	} {
		q := w.get("/", line)
		untouched(t, q, r.Authenticate(q), line)
	}
}

// TestG10BesideOthers: at Authorization of attached rules the built-in rule is one more.
func TestG10BesideOthers(t *testing.T) {
	w := newWorld(t)
	r := w.rules(w.r())
	q := w.get("/", bearer(w.own.ours()))
	out := r.Authenticate(q)
	accepted(t, out)
	if !out.Own || out.Rest != nil || len(q.Header["Authorization"]) != 1 {
		t.Errorf("an own token does not go on: %+v", out)
	}
	q = w.get("/", bearer(w.id.foreign()))
	if out := r.Authenticate(q); out.Token == nil || out.Own || len(q.Header["Authorization"]) != 0 {
		t.Errorf("the attached rule does not count: %+v", out)
	}
	refused(t, r.Authenticate(w.get("/", bearer(w.own.ours(claims{"aud": "spiffe://example.com/ns/shop/sa/returns"})))), jose.Aud)
	if out := r.Authenticate(w.get("/", bearer("opaque"))); say(out) != form {
		t.Errorf("opaque: %s", say(out))
	}
	if out := r.Authenticate(w.get("/?access_token="+w.own.ours(), bearer(w.own.ours()))); say(out) != alien {
		t.Errorf("own token in the query: %s", say(out))
	}
	// A rule of another place leaves Authorization to the built-in one.
	r = w.rules(at2(w.r(), "x-jwt"))
	accepted(t, r.Authenticate(w.get("/", bearer(w.own.ours()))))
	if out := r.Authenticate(w.get("/", bearer(w.own.ours()), "X-Jwt: "+w.id.foreign())); say(out) != multiple {
		t.Errorf("two identities: %s", say(out))
	}
}

// TestAttachedToOurs: a rule that names our issuer replaces the built-in one; what is verified
// stays profile own.
func TestAttachedToOurs(t *testing.T) {
	w := newWorld(t)
	rule := policy.TokenRule{
		Issuer: ourIssuer, JWKS: w.id.jwks(), Audiences: []string{orders}, Headers: []policy.TokenHeader{{Name: "x-jwt"}},
		ClaimHeaders: []policy.ClaimHeader{{Header: "x-sub", Claim: "sub"}},
	}
	r := w.rules(rule)
	q := w.get("/", "X-Jwt: "+w.own.ours())
	out := r.Authenticate(q)
	accepted(t, out)
	if !out.Own || len(q.Header["X-Jwt"]) != 0 || q.Header.Get("X-Sub") != checkout {
		t.Errorf("%+v %v", out, q.Header)
	}
	q = w.get("/", bearer(w.own.ours()))
	untouched(t, q, r.Authenticate(q), bearer(w.own.ours())[:0]+"Authorization: "+q.Header.Get("Authorization"))
	for name, c := range map[string]struct{ token, want string }{
		"audience":          {w.own.ours(claims{"aud": "spiffe://example.com/ns/shop/sa/returns"}), forbidden},
		"typ":               {w.own.sign(w.own.header(), payload(t, claims{"iss": ourIssuer})), fails},
		"keys of the rule":  {w.id.ours(), "401 Jwks doesn't have key to match kid or alg from Jwt"},
		"no tolerance":      {w.own.ours(claims{"exp": now.Unix() - 1}), expired},
		"bound to another":  {w.own.ours(claims{"cnf": claims{"spiffe": thief}}), fails},
		"bound to nobody":   {w.own.ours(claims{"cnf": nil}), fails},
		"life of two hours": {w.own.ours(claims{"exp": now.Unix() + 7200}), fails},
	} {
		if got := say(r.Authenticate(w.get("/", "X-Jwt: "+c.token))); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	for _, lines := range [][]string{{}, {"X-Jwt: " + w.own.ours()}} { // DPoP is refused beside a good token too
		out := r.Authenticate(w.get("/", append(lines, "Authorization: DPoP "+w.own.ours())...))
		if out.Refused == nil || out.Refused.Reason != "binding" || out.Token != nil {
			t.Errorf("DPoP: %+v", out)
		}
	}
}

// TestG10a is a TrustedIssuer with use request.
func TestG10a(t *testing.T) {
	w := newWorld(t)
	w.issuers = []grant.Issuer{{
		Name: "corp", Namespace: "shop", Issuer: corp, JWKS: w.corp.jwks(), Audiences: []string{"https://api"},
		Uses: []grant.Use{grant.UseRequest}, ClockSkew: 30 * time.Second,
	}}
	w.audiences = []grant.Audience{{Namespace: "shop", Name: "orders", Service: "orders", Resources: []string{"https://api"}}}
	token := func(more ...claims) string {
		return w.corp.foreign(append([]claims{{"iss": corp, "aud": "https://api"}}, more...)...)
	}
	r := w.rules()
	q := w.get("/", bearer(token()))
	out := r.Authenticate(q)
	accepted(t, out)
	if out.Own || out.Token.Issuer() != corp || len(q.Header["Authorization"]) != 1 {
		t.Errorf("%+v", out)
	}
	door := w.book.For(Workload{ID: orders, Service: "shop/orders", Services: []string{"shop/orders"}, Gateway: true})
	q = w.get("/", bearer(token()))
	q.Reached = []string{"shop/orders"}
	out = door.Authenticate(q)
	accepted(t, out)
	if !gone(q, out, "Authorization") {
		t.Errorf("a Gateway lets the token of its caller go on: %v, %+v", q.Header, out.Rest)
	}
	elsewhere := w.book.For(Workload{ID: "spiffe://example.com/ns/shop/sa/returns", Service: "shop/returns", Services: []string{"shop/returns"}})
	if out := elsewhere.Authenticate(w.get("/", bearer(token()))); out.Refused == nil || out.Refused.Status != 401 || out.Refused.Reason != "aud" {
		t.Errorf("at another service: %+v", out)
	}
	for name, c := range map[string]struct {
		token string
		want  jose.Reason // "" is accepted
	}{
		"other audience":          {token(claims{"aud": "https://other"}), jose.Aud},
		"no audience":             {token(claims{"aud": nil}), jose.Aud},
		"within the record's 30s": {token(claims{"exp": now.Unix() - 29}), ""},
		"beyond":                  {token(claims{"exp": now.Unix() - 30}), jose.Exp},
		"longer than a day":       {token(claims{"iat": now.Unix() - 10, "exp": now.Unix() + 86400}), jose.Lifetime},
		"our sub":                 {token(claims{"sub": orders, "client_id": orders}), ""}, // it names nobody: the principal is <iss>/<sub>
		"our issuer, their key":   {w.corp.ours(), jose.KeyID},
		"their issuer, our key":   {w.own.foreign(claims{"iss": corp, "aud": "https://api"}), jose.KeyID},
	} {
		out := r.Authenticate(w.get("/", bearer(c.token)))
		switch {
		case c.want == "" && (out.Token == nil || out.Own):
			t.Errorf("%s: %s (%+v)", name, say(out), out.Refused)
		case c.want != "" && (out.Refused == nil || out.Refused.Reason != string(c.want) || out.Refused.Challenge != challenge+metadata):
			t.Errorf("%s: %s (%+v), want %s", name, say(out), out.Refused, c.want)
		}
	}
	// An attached rule for the issuer counts instead of the record, with the record's clock.
	r = w.rules(policy.TokenRule{Issuer: corp, JWKS: w.corp.jwks(), Audiences: []string{"https://rule"}})
	for name, c := range map[string]struct{ token, want string }{
		"the record's audience": {token(), forbidden},
		"the rule's":            {token(claims{"aud": "https://rule"}), "ok"},
		"within 30 s":           {token(claims{"aud": "https://rule", "exp": now.Unix() - 29}), "ok"},
		"beyond":                {token(claims{"aud": "https://rule", "exp": now.Unix() - 30}), expired},
	} {
		if got := say(r.Authenticate(w.get("/", bearer(c.token)))); got != c.want {
			t.Errorf("attached, %s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestRecordedIssuer: what else the record of an issuer asks and allows.
func TestRecordedIssuer(t *testing.T) {
	w := newWorld(t)
	issuer := grant.Issuer{Name: "corp", Namespace: "shop", Issuer: corp, JWKS: w.corp.jwks(), Uses: []grant.Use{grant.UseRequest}}
	token := func(header string) string {
		return w.corp.sign(header, payload(t, claims{"iss": corp, "aud": []string{orders, "b"}, "exp": now.Unix() + 300}))
	}
	plain := w.corp.header()
	x5c := `{"alg":"ES256","kid":"` + w.corp.kid() + `","x5c":"a"}`
	for name, c := range map[string]struct {
		change func(*grant.Issuer)
		header string
		want   string // reason
	}{
		"nothing":          {func(*grant.Issuer) {}, plain, ""},
		"typ":              {func(i *grant.Issuer) { i.Typ = "at+jwt" }, plain, "typ"},
		"the typ":          {func(i *grant.Issuer) { i.Typ = "at+jwt" }, strings.Replace(plain, "JWT", "at+jwt", 1), ""},
		"algs":             {func(i *grant.Issuer) { i.Algs = []string{"RS256"} }, plain, "alg"},
		"single audience":  {func(i *grant.Issuer) { i.SingleAudience = true }, plain, "aud"},
		"lifetime":         {func(i *grant.Issuer) { i.MaxLifetime = time.Minute }, plain, "lifetime"},
		"x5c":              {func(*grant.Issuer) {}, x5c, "header"},
		"x5c ignored":      {func(i *grant.Issuer) { i.IgnoreHeaders = []string{"x5c"} }, x5c, ""},
		"for subject only": {func(i *grant.Issuer) { i.Uses = []grant.Use{grant.UseSubject} }, plain, "untouched"},
	} {
		i := issuer
		c.change(&i)
		w.issuers = []grant.Issuer{i}
		out := w.rules().Authenticate(w.get("/", bearer(token(c.header))))
		got := ""
		if out.Refused != nil {
			got = out.Refused.Reason
		} else if out.Token == nil {
			got = "untouched"
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestP1OwnTokenElsewhere(t *testing.T) {
	w := newWorld(t)
	token := w.own.ours()
	for name, q := range map[string]*Request{
		"query":         w.get("/?a=1&access_token=" + token),
		"another name":  w.get("/?t=" + token),
		"cookie":        w.get("/", "Cookie: a=1; session="+token),
		"quoted cookie": w.get("/", `Cookie: session="`+token+`"`),
	} {
		out := w.rules().Authenticate(q)
		if say(out) != "none" || out.Detail != "token_elsewhere" || out.Query != q.Query || out.Rest != nil {
			t.Errorf("%s: %+v", name, out)
		}
	}
	for name, q := range map[string]*Request{
		"foreign": w.get("/?access_token=" + w.id.foreign()), "nothing": w.get("/?a=eyJ", "Cookie: a=eyJ"),
	} {
		if out := w.rules().Authenticate(q); say(out) != "none" || out.Detail != "" {
			t.Errorf("%s: %+v", name, out)
		}
	}
	w.audiences = []grant.Audience{{Namespace: "shop", Name: "orders", Service: "orders", RequireToken: true}}
	out := w.rules().Authenticate(w.get("/?access_token=" + token))
	if out.Refused == nil || out.Refused.Status != 401 || out.Refused.Challenge != realm+metadata || out.Refused.Detail != "token_elsewhere" {
		t.Errorf("required: %+v", out.Refused)
	}
	// In the header and in the query: RFC 6750 section 2 allows one method.
	out = w.rules().Authenticate(w.get("/?access_token="+token, bearer(token)))
	if out.Refused == nil || out.Refused.Status != 400 || !strings.Contains(out.Refused.Challenge, `error="invalid_request"`) {
		t.Errorf("both: %+v", out)
	}
}

func TestP2SeveralCredentials(t *testing.T) {
	w := newWorld(t)
	token := w.own.ours()
	for name, lines := range map[string][]string{
		"two lines":       {bearer(token), bearer(token)},
		"Basic and token": {"Authorization: Basic eDp5", bearer(token)},
		"comma":           {bearer(token + ", Bearer " + token)},
		"comma no blank":  {bearer(token + ",Bearer " + token)},
		"Basic, Bearer":   {"Authorization: Basic eDp5, Bearer " + token},
		"bearer, dpop":    {"Authorization: Bearer x, dpop " + token},
		"comma alone":     {bearer(token + ",")},
	} {
		out := w.rules().Authenticate(w.get("/", lines...))
		if out.Refused == nil || out.Refused.Status != 400 || !strings.HasPrefix(out.Refused.Challenge, realm+`, error="invalid_request"`) || out.Refused.Reason != "multiple" {
			t.Errorf("%s: %s (%+v)", name, say(out), out.Refused)
		}
	}
	refused(t, w.rules().Authenticate(w.get("/", bearer(token+" x"))), jose.Charset)
}

func TestP3BoundToCertificate(t *testing.T) {
	w := newWorld(t)
	q := w.get("/")
	token := w.own.ours(claims{"cnf": claims{"x5t#S256": base64.RawURLEncoding.EncodeToString(q.Presenter.Fingerprint[:])}})
	accepted(t, w.rules().Authenticate(w.get("/", bearer(token))))
	other := w.get("/", bearer(token))
	other.Presenter.Fingerprint = sha256.Sum256([]byte("renewed, the same key"))
	refused(t, w.rules().Authenticate(other), jose.Binding)
	bare := w.get("/", bearer(token))
	bare.Presenter = jose.Presenter{}
	refused(t, w.rules().Authenticate(bare), jose.Binding)
}

func TestP4BoundToIdentity(t *testing.T) {
	w := newWorld(t)
	token := w.own.ours()
	for id, good := range map[string]bool{
		checkout: true, thief: false, strings.Replace(checkout, domain, "other.example", 1): false, "": false,
	} {
		q := w.get("/", bearer(token))
		q.Presenter = jose.Presenter{ID: id, Fingerprint: sha256.Sum256([]byte("rotated"))}
		out := w.rules().Authenticate(q)
		if good {
			accepted(t, out)
		} else {
			refused(t, out, jose.Binding)
		}
	}
}

func TestP5Proof(t *testing.T) {
	w := newWorld(t)
	jkt := w.own.ours(claims{"cnf": claims{"jkt": base64.RawURLEncoding.EncodeToString(make([]byte, 32))}})
	refused(t, w.rules().Authenticate(w.get("/", bearer(jkt))), jose.Binding)
	for _, token := range []string{jkt, w.own.ours()} {
		for _, scheme := range []string{"DPoP", "dpop", "DPOP"} { // P6: the scheme is known in any case, and not taken
			refused(t, w.rules().Authenticate(w.get("/", "Authorization: "+scheme+" "+token)), jose.Binding)
		}
	}
}

func TestP6SchemeCase(t *testing.T) {
	w := newWorld(t)
	for _, scheme := range []string{"bearer", "BEARER", "Bearer", "Bearer "} {
		line := "Authorization: " + scheme + " " + w.own.ours()
		accepted(t, w.rules().Authenticate(w.get("/", line)))
		if strings.HasPrefix(scheme, "Bearer") {
			continue
		}
		if out := w.rules(w.r()).Authenticate(w.get("/", line)); say(out) != form {
			t.Errorf("%s under an attached rule: %s", scheme, say(out))
		}
	}
}

// TestP8CertificateEnded: who is no longer proven, though still connected, shows no bound token.
func TestP8CertificateEnded(t *testing.T) {
	w := newWorld(t)
	token := w.own.ours()
	accepted(t, w.rules().Authenticate(w.get("/", bearer(token))))
	q := w.get("/", bearer(token))
	q.Presenter.ID = ""
	refused(t, w.rules().Authenticate(q), jose.Binding)
}

// TestP9Stolen: what the cache holds helps no thief.
func TestP9Stolen(t *testing.T) {
	w := newWorld(t)
	token := w.own.ours()
	accepted(t, w.rules().Authenticate(w.get("/", bearer(token))))
	q := w.get("/", bearer(token))
	q.Presenter.ID = thief
	refused(t, w.rules().Authenticate(q), jose.Binding)
	there := w.book.For(Workload{ID: "spiffe://example.com/ns/shop/sa/returns", Service: "shop/returns", Services: []string{"shop/returns"}})
	if out := there.Authenticate(w.get("/", bearer(token))); out.Refused == nil || out.Refused.Reason != "aud" {
		t.Errorf("at another service: %+v", out)
	}
}

// TestStaleLog is G9 at one workload.
func TestStaleLog(t *testing.T) {
	w := newWorld(t)
	token := w.own.ours()
	r := w.rules(at2(w.r(), "x-jwt"))
	for name, log := range map[string]*revocation.Log{"no list yet": revocation.NewLog(), "no log": nil} {
		q := w.get("/", bearer(token))
		q.Revoked = log
		out := r.Authenticate(q)
		if out.Refused == nil || out.Refused.Reason != "stale" || out.Refused.Status != 401 {
			t.Errorf("%s: %+v", name, out)
		}
		q = w.get("/", "X-Jwt: "+w.id.foreign())
		q.Revoked = log
		accepted(t, r.Authenticate(q)) // a foreign token needs no list of ours
	}
	late := func() *Request {
		q := w.get("/", bearer(token))
		q.Now = now.Add(31 * time.Second)
		return q
	}
	accepted(t, r.Authenticate(late()))
	w.audiences = []grant.Audience{{Namespace: "shop", Name: "orders", Service: "orders", OnStale: "deny"}}
	r = w.rules()
	accepted(t, r.Authenticate(w.get("/", bearer(token))))
	if out := r.Authenticate(late()); out.Refused == nil || out.Refused.Reason != "stale" {
		t.Errorf("onStale deny: %+v", out)
	}
}

// TestAllowBearer is R19 at an audience whose record takes tokens bound to nobody.
func TestAllowBearer(t *testing.T) {
	w := newWorld(t)
	w.audiences = []grant.Audience{{Namespace: "shop", Name: "orders", Service: "orders", AllowBearer: true}}
	q := w.get("/", bearer(w.own.ours(claims{"cnf": nil})))
	q.Presenter = jose.Presenter{}
	accepted(t, w.rules().Authenticate(q))
	q = w.get("/", bearer(w.own.ours()))
	q.Presenter.ID = thief
	if out := w.rules().Authenticate(q); out.Refused == nil || out.Refused.Reason != "binding" {
		t.Errorf("a bound token of another: %+v", out)
	}
}

func TestRequireToken(t *testing.T) {
	w := newWorld(t)
	w.audiences = []grant.Audience{{Namespace: "shop", Name: "orders", Service: "orders", RequireToken: true}}
	r := w.rules(w.r())
	for name, q := range map[string]*Request{
		"nothing": w.get("/"), "Basic": w.get("/", "Authorization: Basic eDp5"), "opaque elsewhere": w.get("/", "X-Jwt: opaque"),
	} {
		out := r.Authenticate(q)
		if no := out.Refused; no == nil || no.Status != 401 || no.Challenge != realm+metadata || no.Reason != "missing" {
			t.Errorf("%s: %+v", name, no)
		}
	}
	accepted(t, r.Authenticate(w.get("/", bearer(w.own.ours()))))
	accepted(t, r.Authenticate(w.get("/", bearer(w.id.foreign()))))
	q := w.get("/", "Origin: https://shop", "Access-Control-Request-Method: GET", bearer(w.own.ours()))
	q.Method = http.MethodOptions
	if out := r.Authenticate(q); say(out) != "401 an access token is required" {
		t.Errorf("preflight: %s", say(out))
	}
}

// TestMissed: an unknown kid of a foreign issuer is told, nothing else is.
func TestMissed(t *testing.T) {
	w := newWorld(t)
	source := Source{Issuer: foreignID, URI: "https://id/keys"}
	w.foreign[source] = w.id.set()
	r := w.rules(policy.TokenRule{Issuer: foreignID, JWKSURI: source.URI})
	rotated := newKey(t)
	if out := r.Authenticate(w.get("/", bearer(rotated.foreign()))); out.Missed == nil || *out.Missed != source || out.Refused == nil {
		t.Errorf("unknown kid: %+v", out)
	}
	for name, token := range map[string]string{
		"good": w.id.foreign(), "expired": w.id.foreign(claims{"exp": 1}), "ours": rotated.ours(), "another issuer": rotated.foreign(claims{"iss": "x"}),
	} {
		if out := r.Authenticate(w.get("/", bearer(token))); out.Missed != nil {
			t.Errorf("%s: missed %+v", name, out.Missed)
		}
	}
	if out := w.rules(w.r()).Authenticate(w.get("/", bearer(rotated.foreign()))); out.Missed != nil {
		t.Error("keys that stand in the rule are retrieved by nobody")
	}
}

// TestChallengeQuotes: nothing ends the quoted text, and the realm is cut without its query.
func TestChallengeQuotes(t *testing.T) {
	w := newWorld(t)
	q := w.get("/a\"b\\?access_token=" + w.id.foreign(claims{"exp": 1}))
	q.Host = strings.Repeat("h", 300)
	got := w.rules(w.r()).Authenticate(q).Refused.Challenge
	if want := `Bearer realm="https://` + strings.Repeat("h", 248) + `", error="invalid_token"`; got != want {
		t.Errorf("got %s", got)
	}
	q = w.get("/a\"b\\?access_token=" + w.id.foreign(claims{"exp": 1}))
	if got := w.rules(w.r()).Authenticate(q).Refused.Challenge; got != `Bearer realm="https://orders.shop/ab", error="invalid_token"` {
		t.Errorf("got %s", got)
	}
}

// TestNothingOfTheToken: what a caller or a record gets holds no part of a token.
func TestNothingOfTheToken(t *testing.T) {
	w := newWorld(t)
	for _, token := range []string{w.own.ours(claims{"exp": 1}), w.own.ours(claims{"aud": "x"}), w.id.foreign(claims{"exp": 1}), w.corp.ours()} {
		no := w.rules(w.r()).Authenticate(w.get("/?access_token=", bearer(token))).Refused
		no2 := w.rules(w.r()).Authenticate(w.get("/", bearer(token))).Refused
		for _, part := range strings.Split(token, ".") {
			if text := fmt.Sprintf("%+v %+v", *no, *no2); strings.Contains(text, part) {
				t.Errorf("%s holds a part of the token", text)
			}
		}
	}
}

// A tab parts no scheme from its token: what is plainly one of ours, or of an issuer that is
// trusted, is refused however good it is; all else stays the application's own affair.
func TestTabBehindScheme(t *testing.T) {
	w := newWorld(t)
	w.issuers = []grant.Issuer{{Name: "corp", Namespace: "shop", Issuer: corp, JWKS: w.corp.jwks(), Uses: []grant.Use{grant.UseRequest}}}
	ofCorp := w.corp.foreign(claims{"iss": corp, "aud": orders})
	accepted(t, w.rules().Authenticate(w.get("/", bearer(ofCorp))))
	for value, refused := range map[string]bool{
		"Bearer\t" + w.own.ours(): true, "Bearer \t" + w.own.ours(): true, "bearer\t " + w.own.ours(): true,
		"Bearer\t" + w.own.ours(claims{"exp": 1}): true, "Bearer\t" + w.own.ours() + "x": true, "Bearer\t" + ofCorp: true,
		"Bearer\t" + w.id.foreign(): false, "Bearer\topaque": false, "Bearer\t": false,
	} {
		q := w.get("/", "Authorization: "+value)
		out := w.rules().Authenticate(q)
		switch no := out.Refused; {
		case refused && (no == nil || no.Status != 401 || no.Text != textInvalid || no.Reason != string(jose.Format)):
			t.Errorf("%q: %+v", value, out)
		case !refused && (no != nil || out.Token != nil || q.Header.Get("Authorization") != value):
			t.Errorf("%q: %+v", value, out)
		}
	}
}

// gone reports that a header is taken out, at once or behind policy.
func gone(q *Request, out Outcome, name string) bool {
	return len(q.Header[name]) == 0 || out.Rest != nil && slices.Contains(out.Rest.Drop, name)
}
