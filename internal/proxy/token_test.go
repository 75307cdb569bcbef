package proxy

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/revocation"
)

// An own token needs no rule: it identifies, goes on to the program, and is told in the record.
func TestG10OwnToken(t *testing.T) {
	w := newTokens(t, setup{})
	token := w.own.ours()
	status, body, _ := w.call("http://api/x", bearerLine(token))
	if status != 200 || !strings.Contains(body, bearerLine(token)+"\r\n") {
		t.Fatalf("got %d %q", status, body)
	}
	rec := w.b.record(func(r *audit.Record) bool { return r.Subject != nil })
	s := rec.Subject
	if rec.Decision != audit.Allow || rec.Stale || s.Iss != ourIssuer || s.Sub != webID || s.JTI != "jti-of-the-token" || s.ClientID != webID ||
		s.Scopes != "orders:read orders:write" || s.TokenType != "at+jwt" || s.Binding != "spiffe" || s.RTI != "root" {
		t.Errorf("record %+v, subject %+v", rec, s)
	}
	line, _ := rec.MarshalJSON()
	for part := range strings.SplitSeq(token, ".") {
		if strings.Contains(string(line), part) {
			t.Errorf("the record holds a part of the token: %s", line)
		}
	}
	for _, line := range []string{bearerLine("opaque"), bearerLine(w.id.foreign()), "Authorization: Basic eDp5"} {
		if status, body, _ := w.call("http://api/x", line); status != 200 || !strings.Contains(body, line+"\r\n") {
			t.Errorf("%s: got %d %q", line, status, body)
		}
	}
}

// What is refused, with its gRPC twin: the status differs, the metadata do not.
func TestTokenRefused(t *testing.T) {
	w := newTokens(t, setup{protocol: "grpc", h2c: true}, func(w *tokens) {
		w.rules = []policy.TokenRule{w.rule(func(r *policy.TokenRule) {
			r.Audiences, r.Headers = []string{"api"}, []policy.TokenHeader{{Name: "x-jwt"}}
		})}
	})
	w.revoke(revocation.Entry{Kind: revocation.ByJTI, Val: "revoked"})
	bound := func(id string) claims { return claims{"cnf": claims{"spiffe": id}} }
	built := `Bearer realm="default/api", error="invalid_token", error_description="` + invalidToken + `"`
	ambiguous := strings.NewReplacer("invalid_token", "invalid_request", invalidToken, "malformed request").Replace(built)
	attached := `Bearer realm="https://api/svc/x", error="invalid_token"`
	for _, c := range []struct {
		row       string
		lines     []string
		status    int
		grpc      string
		text      string
		challenge string
		reason    string
		subject   bool // what it says is believed
	}{
		{"P4 stolen", []string{bearerLine(w.own.ours(bound(otherID)))}, 401, "16", invalidToken, built, "binding", true},
		{"R13a expired", []string{bearerLine(w.own.ours(claims{"exp": time.Now().Unix() - 1}))}, 401, "16", invalidToken, built, "exp", false},
		{"R16 revoked", []string{bearerLine(w.own.ours(claims{"jti": "revoked"}))}, 401, "16", invalidToken, built, "revoked", true},
		{"R11 audience", []string{bearerLine(w.own.ours(claims{"aud": otherID}))}, 401, "16", invalidToken, built, "aud", false},
		{"R12 foreign key", []string{bearerLine(w.id.ours())}, 401, "16", invalidToken, built, "kid", false},
		{"P2 two lines", []string{bearerLine(w.own.ours()), bearerLine(w.own.ours())}, 400, "13", "malformed request", ambiguous, "multiple", false},
		{"rule, expired", []string{"X-Jwt: " + w.id.foreign(claims{"aud": "api", "exp": 1})}, 401, "16", "Jwt is expired", attached, "exp", false},
		{"rule, audience", []string{"X-Jwt: " + w.id.foreign(claims{"aud": "b"})}, 403, "7", "Audiences in Jwt are not allowed", attached, "aud", false},
	} {
		t.Run(c.row, func(t *testing.T) {
			status, body, h := w.call("http://api/svc/x?a=1", c.lines...)
			if status != c.status || body != c.text || h.Get("Www-Authenticate") != c.challenge || h.Get("X-Decision-Id") == "" {
				t.Errorf("got %d %q %v", status, body, h)
			}
			rec := w.b.record(func(r *audit.Record) bool { return r.ID == h.Get("X-Decision-Id") })
			if rec.Layer != audit.LayerToken || rec.Reason != c.reason || rec.Decision != audit.Deny || (rec.Subject != nil) != c.subject || len(rec.Detail) > 200 {
				t.Errorf("record %+v", rec)
			}
			h = w.grpc("/svc/x?a=1", c.lines...)
			if h.Get("Grpc-Status") != c.grpc || h.Get("Grpc-Message") != c.text || h.Get("Www-Authenticate") != c.challenge || h.Get("X-Decision-Id") == "" {
				t.Errorf("gRPC: got %v", h)
			}
		})
	}
}

// What a peer writes into a token that nobody believes does not fill the record, and what was
// stripped is still told.
func TestTokenRefusedDetail(t *testing.T) {
	w := newTokens(t, setup{})
	for aud, told := range map[string]string{strings.Repeat("a", 4000): "; the token is for ", "x " + w.own.ours(): ""} {
		c, err := w.dialMesh(w.ca, webID, apiName, "http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: api\r\nX-Countersign-Peer: x\r\n"+bearerLine(w.own.ours(claims{"aud": aud}))+"\r\n\r\n")
		resp, err := http.ReadResponse(newReader(c), nil)
		if err != nil || resp.StatusCode != 401 {
			t.Fatalf("got %v, %v", resp, err)
		}
		rec := w.b.record(func(r *audit.Record) bool { return r.ID == resp.Header.Get("X-Decision-Id") })
		rest, ok := strings.CutPrefix(rec.Detail, "stripped:x-countersign-peer"+told)
		if !ok || (rest != "") != (told != "") || len(rec.Detail) > 250 {
			t.Errorf("detail %q", rec.Detail)
		}
	}
}

// The effects of istio-semantics.md 6.4 as the program sees them.
func TestProgramSeesEffects(t *testing.T) {
	w := newTokens(t, setup{}, func(w *tokens) {
		w.rules = []policy.TokenRule{w.rule(func(r *policy.TokenRule) {
			r.Headers, r.Params, r.Cookies = []policy.TokenHeader{{Name: "x-jwt", Prefix: "jwt "}}, []string{"t"}, []string{"session"}
			r.PayloadHeader = "x-payload"
			r.ClaimHeaders = []policy.ClaimHeader{{Header: "x-user", Claim: "sub"}, {Header: "x-level", Claim: "level"}}
		})}
	})
	token := w.id.foreign()
	payload := strings.Split(token, ".")[1]
	for _, c := range []struct {
		name, target string
		lines        []string
		line         string // that the program gets
		cookie       string
	}{
		{"header", "/x?a=1", []string{"X-Jwt: jwt " + token, "Cookie: a=b"}, "GET /x?a=1 api\n", "Cookie: a=b\r\n"},
		{"query", "/x?a=1&t=" + token + "&b=%41", nil, "GET /x?a=1&b=%41 api\n", ""},
		{"query alone", "/x?t=" + token, nil, "GET /x api\n", ""},
		{"cookie", "/x", []string{"Cookie: a=b; session=" + token + "; c=d"}, "GET /x api\n", "Cookie: a=b; c=d\r\n"},
		{"cookie alone", "/x", []string{"Cookie: session=" + token}, "GET /x api\n", ""},
		{"all", "/x?t=" + token, []string{"X-Jwt: jwt " + token, "Cookie: session=" + token}, "GET /x api\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body, _ := w.call("http://api"+c.target, append(c.lines, "X-User: forged", "x_user: forged", "X_Level: forged", "X-Payload: forged")...)
			if status != 200 || !strings.HasPrefix(body, c.line) || strings.Contains(body, token) || strings.Contains(body, "forged") {
				t.Fatalf("got %d %q", status, body)
			}
			for _, want := range []string{"X-User: alice\r\n", "X-Level: 7\r\n", "X-Payload: " + payload + "\r\n", c.cookie} {
				if !strings.Contains(body, want) {
					t.Errorf("no %q in %q", want, body)
				}
			}
			if c.cookie == "" && strings.Contains(body, "Cookie") {
				t.Errorf("a cookie is left in %q", body)
			}
		})
	}
	if status, body, _ := w.call("http://api/x", "X-User: forged", "X.Level: forged"); status != 200 || strings.Contains(body, "forged") {
		t.Errorf("without token: %d %q", status, body)
	}
}

// TestSecOutputTrailers: nobody says in a trailer what only rules may say, on either protocol.
func TestSecOutputTrailers(t *testing.T) {
	seen := make(chan http.Header, 1)
	program := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen <- r.Trailer
	})
	for _, s := range []setup{{handler: program}, {handler: program, protocol: "grpc", h2c: true}} {
		w := newTokens(t, s, func(w *tokens) {
			w.rules = []policy.TokenRule{w.rule(func(r *policy.TokenRule) {
				r.ClaimHeaders = []policy.ClaimHeader{{Header: "x-user", Claim: "sub"}}
			})}
		})
		req, _ := http.NewRequest("POST", "http://api/t", io.MultiReader(strings.NewReader("body")))
		req.Trailer = http.Header{"X-Up": {"1"}, "X-User": {"forged"}, "X_user": {"forged"}}
		client := w.client()
		if s.h2c {
			req.Header.Set("Content-Type", "application/grpc")
			client = &http.Client{Transport: w.http2()}
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if up := <-seen; up.Get("X-Up") != "1" || len(up) != 1 {
			t.Errorf("%s: trailers %v", s.protocol, up)
		}
	}
}

func TestRequireToken(t *testing.T) {
	w := newTokens(t, setup{}, func(w *tokens) {
		w.audiences = []grant.Audience{{Namespace: "default", Name: "api", Service: "api", RequireToken: true}}
	})
	want := `Bearer realm="default/api", resource_metadata="http://api.default/.well-known/oauth-protected-resource"`
	status, body, h := w.call("http://api/x?access_token=" + w.own.ours())
	if status != 401 || body != "an access token is required" || h.Get("Www-Authenticate") != want {
		t.Errorf("got %d %q %v", status, body, h)
	}
	if rec := w.b.reason("missing"); rec.Layer != audit.LayerToken || rec.Detail != "token_elsewhere" {
		t.Errorf("P1: record %+v", rec)
	}
	if status, _, _ := w.call("http://api/x", bearerLine(w.own.ours())); status != 200 {
		t.Errorf("with a token: %d", status)
	}
}

// Policies on request identity, claims and headers, as a caller meets them.
func TestTokenPolicies(t *testing.T) {
	web := policy.Source{Principals: []string{"cluster.local/ns/default/sa/web"}}
	person := policy.Source{RequestPrincipals: []string{foreignID + "/*"}}
	w := newTokens(t, setup{}, func(w *tokens) {
		w.rules = []policy.TokenRule{w.rule(nil)}
		when := func(key string, values ...string) []policy.Condition {
			return []policy.Condition{{Key: key, Values: values}}
		}
		to := func(path string) []policy.Operation { return []policy.Operation{{Paths: []string{path}}} }
		w.allow = []policy.Rule{
			{From: []policy.Source{person}, To: to("/person")},
			{From: []policy.Source{web}, To: to("/scope"), When: when("request.auth.claims[scope]", "orders:read")},
			{From: []policy.Source{web}, To: to("/role"), When: when("request.auth.claims[role]", "customer")},
			{From: []policy.Source{web}, To: to("/header"), When: when("request.headers[x-env]", "test")},
			{From: []policy.Source{web}, To: to("/bearer"), When: when("request.headers[authorization]", "*")},
		}
	})
	own, foreign := bearerLine(w.own.ours()), bearerLine(w.id.foreign())
	for _, c := range []struct {
		path  string
		lines []string
		want  int
	}{
		{"/person", nil, 403}, {"/person", []string{foreign}, 200}, {"/person", []string{own}, 403},
		{"/scope", []string{own}, 200}, {"/scope", []string{foreign}, 403},
		{"/role", []string{foreign}, 200}, {"/role", []string{own}, 403}, {"/role", []string{bearerLine(w.id.foreign(claims{"role": "clerk"}))}, 403},
		{"/header", []string{"X-Env: test"}, 200}, {"/header", []string{"X-Env: prod"}, 403}, {"/header", nil, 403},
		{"/bearer", []string{own}, 200}, {"/bearer", []string{foreign}, 403}, // taken out before policy looks
	} {
		status, body, h := w.call("http://api"+c.path, c.lines...)
		if status != c.want || c.want == 403 && body != "RBAC: access denied" {
			t.Errorf("%s: got %d %q, want %d", c.path, status, body, c.want)
		}
		if asked, kept := w.b.Asked(h.Get("X-Decision-Id")); c.want == 403 && (!kept || asked.Header == nil || asked.Path != c.path) {
			t.Errorf("%s: not kept for explanations: %+v", c.path, asked)
		}
	}
}

// A verifier that never had the list refuses own tokens, and only those.
func TestG9NeverWhole(t *testing.T) {
	w := newTokens(t, setup{}, func(w *tokens) { w.rules = []policy.TokenRule{w.rule(nil)} })
	token := w.own.ours()
	if status, _, _ := w.call("http://api/x", bearerLine(token)); status != 200 {
		t.Fatalf("got %d", status)
	}
	if err := w.b.log.Add([]revocation.Entry{{Kind: "unknown", Val: "x", At: 1, Until: 2}}, time.Now()); err == nil {
		t.Fatal("an entry of no kind was taken")
	}
	status, body, _ := w.call("http://api/x", bearerLine(token))
	if status != 401 || body != invalidToken {
		t.Errorf("got %d %q", status, body)
	}
	if rec := w.b.reason("stale"); rec.Layer != audit.LayerToken || rec.Subject == nil || rec.JTI != "jti-of-the-token" {
		t.Errorf("record %+v", rec)
	}
	for _, line := range []string{bearerLine(w.id.foreign()), "X-None: x"} {
		if status, _, _ := w.call("http://api/x", line); status != 200 {
			t.Errorf("%.20s: got %d", line, status)
		}
	}
	if err := w.b.log.Reset(nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := w.call("http://api/x", bearerLine(token)); status != 200 {
		t.Errorf("with a list again: %d", status)
	}
}

// While nothing is heard of the log its decisions say so; an audience can ask for refusal.
func TestG9Stale(t *testing.T) {
	w := newTokens(t, setup{})
	w.b.log.Beat(time.Now().Add(-31 * time.Second))
	if status, _, _ := w.call("http://api/x", bearerLine(w.own.ours())); status != 200 {
		t.Errorf("got %d", status)
	}
	w.b.record(func(r *audit.Record) bool { return r.Subject != nil && r.Stale })
	w.audiences = []grant.Audience{{Namespace: "default", Name: "api", Service: "api", OnStale: "deny"}}
	w.enforce()
	if status, _, _ := w.call("http://api/x", bearerLine(w.own.ours())); status != 401 {
		t.Errorf("deny: got %d", status)
	}
	w.b.reason("stale")
}

// A token that the cache knows is refused with the key gone from the set, and with it revoked.
func TestR15KeyGone(t *testing.T) {
	w := newTokens(t, setup{})
	token := w.own.ours()
	c, r := w.raw("GET http://api/x HTTP/1.1\nHost: api\n" + bearerLine(token) + "\n\n")
	if status, _, _ := answerOf(t, r); status != 200 {
		t.Fatalf("got %d", status)
	}
	next := func(want int) {
		t.Helper()
		_, _ = io.WriteString(c, "GET http://api/x HTTP/1.1\r\nHost: api\r\n"+bearerLine(token)+"\r\n\r\n")
		if status, _, _ := answerOf(t, r); status != want {
			t.Errorf("got %d, want %d", status, want)
		}
	}
	old := w.own
	w.own = newKey(t)
	w.enforce() // R15a
	next(401)
	w.own = old
	w.enforce()
	next(200)
	w.revoke(revocation.Entry{Kind: revocation.ByKID, Val: w.own.Key().ID()}) // R15c
	next(401)
}
