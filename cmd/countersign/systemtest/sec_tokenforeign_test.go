//go:build system && linux

package systemtest

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestSystemSecTokensForged: nobody who writes objects or keys speaks for our own issuer, and
// what a token claims reaches the program in no other field than the rule names.
func TestSystemSecTokensForged(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	h.cli("allow", "web", "api", "GET /open")
	h.tokenPolicies()
	d := h.door()
	ours := "https://localhost:" + portOf(d.public)
	key := newIssuerKey(t, "k1")
	_, cert := h.svid("web")
	api := h.caller(cert, "api")
	now := time.Now().Unix()
	claims := func(more map[string]any) map[string]any {
		c := map[string]any{"iss": "https://corp.example", "sub": "alice", "aud": idOf("api"), "iat": now, "exp": now + 300}
		for k, v := range more {
			c[k] = v
		}
		return c
	}
	forged := map[string]any{
		"iss": ours, "sub": idOf("web"), "client_id": idOf("web"), "jti": "0123456789abcdefghijkl", "cnf": map[string]string{"spiffe": idOf("web")},
	}
	own := h.token("web", "api")
	for _, rules := range []string{
		`{issuer: "` + ours + `", jwks: '` + key.set() + `'}`,
		`{issuer: "` + ours + `", jwks: '` + key.set() + `', audiences: ["` + idOf("api") + `"], forwardOriginalToken: true}, {issuer: "https://corp.example", jwks: '` + key.set() + `'}`,
	} {
		cmd := h.command(owner, "apply", "-f", "-", "--wait=10s")
		cmd.Stdin = strings.NewReader(`{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: forged, namespace: default}, spec: {selector: {matchLabels: {app: api}}, jwtRules: [` + rules + `]}}`)
		said := finish(t, cmd) // refused, or without effect
		for _, typ := range []string{"JWT", "at+jwt"} {
			if r := call(api, "api", "/secret", key.signTyped(typ, "k1", claims(forged))); r.status != 401 {
				t.Errorf("a token of our issuer by a key of an object's (%v), typ %s: %v, want 401", said, typ, r)
			}
		}
		if r := call(api, "api", "/secret", own); r.status != 200 {
			t.Errorf("an own token beside that object (%v): %v", said, r)
		}
	}
	cmd := h.command(owner, "apply", "-f", "-", "--wait=10s")
	cmd.Stdin = strings.NewReader(`{apiVersion: countersign.dev/v1, kind: TrustedIssuer, metadata: {name: forged}, spec: {issuer: "` + ours + `", uses: [request], jwks: ` + key.set() + `}}`)
	said := finish(t, cmd)
	if r := call(api, "api", "/secret", key.signTyped("at+jwt", "k1", claims(forged))); r.status != 401 {
		t.Errorf("our issuer as a TrustedIssuer (%v): a forged token gets %v, want 401", said, r)
	}
	if r := call(api, "api", "/secret", own); r.status != 200 {
		t.Errorf("our issuer as a TrustedIssuer (%v): an own token gets %v", said, r)
	}

	// Claims on their way to the program.
	h.apply(`{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: forged, namespace: default}, spec: {selector: {matchLabels: {app: api}}, jwtRules: [{issuer: "https://corp.example", jwks: '` + key.set() + `', audiences: ["` + idOf("api") + `"], outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-user, claim: name}]}]}}`)
	see := func(token string, fields ...string) (reply, seen) {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, "https://api/open", nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(fields); i += 2 {
			req.Header.Add(fields[i], fields[i+1])
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		r := do(api, req)
		var saw seen
		json.Unmarshal([]byte(r.body), &saw)
		return r, saw
	}
	if r, saw := see(key.sign("k1", claims(map[string]any{"name": "Alice"}))); saw.Header.Get("X-User") != "Alice" || saw.Header.Get("X-Payload") == "" {
		t.Fatalf("a claim is not passed on: %v", r)
	}
	for _, name := range []string{"a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\x00b", "a\rb", "\r\n\r\nGET /secret HTTP/1.1\r\nHost: api\r\n\r\n"} {
		if r, saw := see(key.sign("k1", claims(map[string]any{"name": name}))); saw.Header.Get("X-Evil") != "" || strings.ContainsAny(saw.Header.Get("X-User"), "\r\n\x00") || r.status == 200 && saw.Path != "/open" {
			t.Errorf("a claim %q: %v", name, r)
		}
	}
	for _, sent := range [][]string{{"X-User", "root"}, {"x-user", "root"}, {"X_User", "root"}, {"X-Payload", "root"}} {
		for what, token := range map[string]string{"none": "", "one that does not say": key.sign("k1", claims(nil))} {
			r, saw := see(token, sent...)
			if r.status == 200 && strings.Contains(strings.Join(saw.Header.Values(sent[0]), ","), "root") {
				t.Errorf("%s of the caller's own, token %s: the program saw %q", sent[0], what, saw.Header)
			}
		}
	}
	if r := call(api, "api", "/seen", own); strings.Contains(r.body, "GET") {
		t.Errorf("the program read a claim as a request: %v", r)
	}
}

// TestSystemSecTokensOpenStream: an answer that is under way ends when the token it was asked for
// with is revoked, and no other does (tokens.md 13).
func TestSystemSecTokensOpenStream(t *testing.T) {
	h := openHouse(t, owner)
	port := freePort(t)
	h.run("api", "--port", port, "--", prog, "drip", "127.0.0.1:"+port)
	h.ready("api")
	h.cli("allow", "web", "api", "GET /open")
	h.tokenPolicies()
	_, cert := h.svid("web")
	tokens := []string{h.token("web", "api"), h.token("web", "api")}
	ended := make([]chan error, len(tokens))
	for i, token := range tokens {
		ended[i] = make(chan error, 1)
		req, err := http.NewRequest(http.MethodGet, "https://api/secret", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		c := h.caller(cert, "api")
		c.Timeout = 0
		resp, err := c.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("a stream: %v, %v", resp, err)
		}
		defer resp.Body.Close()
		go func() {
			_, err := io.Copy(io.Discard, resp.Body)
			ended[i] <- err
		}()
	}
	cmd := h.command(owner, "token", "revoke")
	cmd.Stdin = strings.NewReader(tokens[0] + "\n")
	finishWell(t, cmd)
	select {
	case err := <-ended[0]:
		if err == nil {
			t.Error("a stream that was cut looks whole")
		}
	case <-time.After(time.Second):
		t.Error("1 s after the revocation the stream goes on")
	}
	select {
	case err := <-ended[1]:
		t.Errorf("the stream of another token ended: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	cmd = h.command(owner, "token", "rotate", "--now", "--revoke-previous", "--yes")
	finishWell(t, cmd)
	select {
	case <-ended[1]:
	case <-time.After(time.Second):
		t.Error("1 s after its key was revoked the stream goes on")
	}
}

// TestSystemSecTokensClientGone: a client that is disabled or deleted gets nothing, what it got
// ends, and whoever makes one of its name has not its secret.
func TestSystemSecTokensClientGone(t *testing.T) {
	h := openHouse(t, owner)
	d := h.door()
	secret := h.secretClient()
	c := d.client()
	first := d.withSecret(c, secret)
	if first.status != 200 {
		t.Fatalf("a token: %v", first)
	}
	verify := func() result {
		cmd := h.command(owner, "token", "verify")
		cmd.Stdin = strings.NewReader(first.token + "\n")
		return finish(t, cmd)
	}
	if r := verify(); r.code != 0 {
		t.Errorf("the token: %v", r)
	}
	client := func(more string) string {
		return `{apiVersion: countersign.dev/v1, kind: OAuthClient, metadata: {name: ci, namespace: default}, spec: {clientId: ci, auth: client_secret, targets: [{audience: "` + reports + `"}]` + more + `}}`
	}
	h.apply(client(", disabled: true"))
	if r := d.withSecret(c, secret); r.status != 401 {
		t.Errorf("a disabled client: %v, want 401", r)
	}
	if r := verify(); r.code != 1 || !strings.Contains(r.out, "revoked") {
		t.Errorf("the token of a disabled client: %v, want revoked", r)
	}
	h.apply(client(""))
	if r := d.withSecret(c, secret); r.status != 200 {
		t.Errorf("a client that counts again: %v", r)
	}
	h.cli("client", "delete", "ci", "--yes")
	if r := d.withSecret(c, secret); r.status != 401 {
		t.Errorf("a deleted client: %v, want 401", r)
	}
	h.apply(client(""))
	if r := d.withSecret(c, secret); r.status != 401 {
		t.Errorf("the secret of a deleted client, for one of its name: %v, want 401", r)
	}
	new := strings.TrimSpace(h.cli("client", "rotate", "ci").out)
	newer := strings.TrimSpace(h.cli("client", "rotate", "ci", "--overlap", "0s").out)
	for s, want := range map[string]int{new: 401, newer: 200} {
		if r := d.withSecret(c, s); r.status != want {
			t.Errorf("after a rotation without overlap: %v, want %d", r, want)
		}
	}
}

// TestSystemSecTokensTricks: no header and no spelling makes a verifier believe more, or dial
// anybody (tokens.md 21, R1 to R9, R18; audit.md, drill 12).
func TestSystemSecTokensTricks(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	h.cli("allow", "web", "api", "GET /open")
	h.tokenPolicies()
	lure := newKeyServer(t, "good")
	_, cert := h.svid("web")
	api := h.caller(cert, "api")
	token := h.token("web", "api")
	head, rest, _ := strings.Cut(token, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	plain, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	var was struct{ Kid string }
	if err := json.Unmarshal(plain, &was); err != nil || was.Kid == "" {
		t.Fatalf("the header %s: %v", plain, err)
	}
	with := func(header string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + payload + "." + signature
	}
	key := newIssuerKey(t, was.Kid)
	claims := map[string]any{}
	body, _ := base64.RawURLEncoding.DecodeString(payload)
	json.Unmarshal(body, &claims)
	tricks := map[string]string{
		"another key":  key.signTyped("at+jwt", was.Kid, claims),
		"no signature": head + "." + payload + ".", "two parts": head + "." + payload, "four dots": token + "..", "padding": token + "=", "a line's end": head + ".\t" + rest,
		"a longer one": with(`{"alg":"ES256","kid":"` + was.Kid + `","typ":"at+jwt"}` + strings.Repeat(" ", 9000)), "dots": strings.Repeat(".", 12000),
		"JSON form": `{"payload":"` + payload + `","protected":"` + head + `","signature":"` + signature + `"}`,
	}
	for _, alg := range []string{`"none"`, `"nOnE"`, `"HS256"`, `"ES384"`, `"RS256"`, `""`, `null`, `["ES256"]`, `"es256"`} {
		tricks["alg "+alg] = with(`{"alg":` + alg + `,"kid":"` + was.Kid + `","typ":"at+jwt"}`)
		tricks["alg without signature "+alg] = strings.TrimSuffix(tricks["alg "+alg], signature)
	}
	for _, kid := range []string{`"../../key"`, `"' OR 1=1"`, `"\u0000"`, `7`, `["` + was.Kid + `"]`, `""`} {
		tricks["kid "+kid] = with(`{"alg":"ES256","kid":` + kid + `,"typ":"at+jwt"}`)
	}
	for _, more := range []string{
		`"jku":"` + lure.url + `/good"`, `"x5u":"` + lure.url + `/good"`, `"jwk":` + strings.TrimSuffix(strings.TrimPrefix(key.set(), `{"keys":[`), `]}`),
		`"x5c":["MIIB"]`, `"crit":["exp"]`, `"crit":[]`, `"b64":false`, `"zip":"DEF"`, `"enc":"A256GCM"`, `"ALG":"none"`, `"alg":"ES256"`,
	} {
		header := `{"alg":"ES256","kid":"` + was.Kid + `","typ":"at+jwt",` + more + `}`
		tricks[more[:6]] = with(header)
		tricks["signed by its own key, "+more[:6]] = key.signHeader(header, claims)
	}
	for _, typ := range []string{"JWT", "dpop+jwt", "logout+jwt", "txntoken+jwt", "client-authentication+jwt", "AT+JWT", ""} {
		tricks["typ "+typ] = with(`{"alg":"ES256","kid":"` + was.Kid + `","typ":"` + typ + `"}`)
	}
	for what, trick := range tricks {
		want := 401
		switch what {
		case "JSON form", "a line's end", "dots":
			want = 403 // nothing of ours can be seen in it: nobody's, and no identity (G10)
		}
		if r := call(api, "api", "/secret", trick); r.status != want {
			t.Errorf("%s: %v, want %d", what, r, want)
		}
	}
	if r := call(api, "api", "/secret", token); r.status != 200 {
		t.Errorf("the token itself, after all that: %v", r)
	}
	if n := lure.count("good"); n != 0 {
		t.Errorf("%d retrievals of what headers name", n)
	}
}
