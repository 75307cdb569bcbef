//go:build system && linux

package systemtest

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSystemSecTokensCanary: a token, a secret, an assertion and an Authorization field stand in
// no log, record, metric, answer of a command, file of the store or crash output, whether the
// request succeeds, fails or kills the program (tokens.md 21, S5; audit.md, drill 21).
func TestSystemSecTokensCanary(t *testing.T) {
	h := openHouse(t, owner, "--log", "debug")
	h.serve("api")
	h.cli("allow", "web", "api", "GET /open")
	h.cli("allow", "thief", "api", "GET /open")
	h.tokenPolicies()
	d := h.door()
	person := "person-" + freePort(t) + "@customers.example"
	key := newIssuerKey(t, "k1")
	h.apply(`{apiVersion: countersign.dev/v1, kind: TrustedIssuer, metadata: {name: corp}, spec: {issuer: "https://corp.example", uses: [request], algs: [ES256], jwks: ` + key.set() + `}}`)
	h.apply(`{apiVersion: countersign.dev/v1, kind: OAuthClient, metadata: {name: batch, namespace: default}, spec: {clientId: batch, auth: private_key_jwt, jwks: ` + key.set() + `, targets: [{audience: "` + reports + `"}]}}`)
	canaries := map[string]string{}
	plant := func(name, value string) string {
		canaries[name] = value
		if head, signature, ok := cutLast(value, "."); ok && strings.HasPrefix(value, "eyJ") {
			_, payload, _ := strings.Cut(head, ".")
			canaries[name+", its payload"], canaries[name+", its signature"] = payload, signature
		}
		return value
	}
	secret := plant("secret", h.secretClient())
	token := plant("token", h.token("web", "api"))
	_, cert := h.svid("web")

	// What succeeds.
	owned := plant("token of the client", d.withSecret(d.client(), secret).token)
	plant("credentials", base64.StdEncoding.EncodeToString([]byte("ci:"+secret)))
	now := time.Now().Unix()
	foreign := plant("foreign token", key.sign("k1", map[string]any{"iss": "https://corp.example", "sub": person, "aud": idOf("api"), "iat": now, "exp": now + 300}))
	for name, bearer := range map[string]string{"bound": token, "foreign": foreign} {
		if r := h.curl("web", "-H", "Authorization: Bearer "+bearer, "http://api/secret"); r.status() != "200" {
			t.Errorf("a call with the %s token: %v", name, r)
		}
	}
	issuer := "https://localhost:" + portOf(d.public)
	assertion := plant("assertion", key.sign("k1", map[string]any{"iss": "batch", "sub": "batch", "aud": issuer, "jti": "canary", "iat": now, "exp": now + 120}))
	for _, want := range []int{200, 401} { // and again, replayed
		r := post(d.client(), "https://"+d.public+"/oauth2/token", url.Values{
			"grant_type": {"client_credentials"}, "audience": {reports}, "client_assertion": {assertion}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}})
		if r.status != want {
			t.Errorf("an assertion: %v, want %d", r, want)
		}
	}
	// What fails, with each in every place where it does not belong.
	wrong := plant("wrong secret", "css_"+strings.Repeat("wrongCanary", 4)[:43])
	public := "https://" + d.public
	for _, value := range []string{secret, token, owned, foreign, assertion, wrong} {
		c := d.client()
		for _, r := range []reply{
			post(c, public+"/oauth2/token?client_secret="+value, url.Values{"grant_type": {"client_credentials"}}),
			post(c, public+"/oauth2/"+value, nil),
			post(c, public+"/oauth2/token", url.Values{"grant_type": {value}, "client_id": {value}, "client_secret": {value}, "audience": {value}, "scope": {value}, value[:min(len(value), 60)]: {"x"}}),
			post(c, public+"/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "audience": {value}}, "ci", secret),
			post(c, public+"/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "audience": {reports}, "scope": {value}}, "ci", secret),
			post(c, public+"/oauth2/token", url.Values{"grant_type": {"client_credentials"}}, "ci", value),
			post(c, public+"/oauth2/introspect", url.Values{"token": {value}}, "ci", secret),
			post(c, public+"/oauth2/revoke", url.Values{"token": {value + "x"}}, "ci", secret),
		} {
			if strings.Contains(r.body, value) || strings.Contains(fmt.Sprint(r.head), value) {
				t.Errorf("an answer holds what was sent: %v", r)
			}
		}
		if strings.Contains(value, ".") { // what has the shape of a token is taken out of paths (audit.md 3)
			h.curl("thief", "http://api/refused/"+value+"/x")
			h.curl("thief", "http://nowhere.default/"+value)
		}
		for _, words := range [][]string{
			{"http://api/open?access_token=" + value}, {"-b", "t=" + value, "http://api/open"}, {"-H", "Authorization: Bearer " + value, "http://api/open"},
			{"-H", "Authorization: Bearer " + value + "x", "http://api/secret"}, {"-H", "X-Api-Key: " + value, "http://api/nothing"}, {"-H", "Authorization: Basic " + value, "http://nowhere/"},
		} {
			if r := h.curl("thief", words...); strings.Contains(r.err, value) {
				t.Errorf("an error holds a credential: %s", r.err)
			}
		}
		for _, args := range [][]string{{"token", "verify"}, {"token", "revoke"}} {
			if args[1] == "revoke" && value == token {
				continue
			}
			cmd := h.command(owner, args...)
			cmd.Stdin = strings.NewReader(value + "x\n")
			if r := finish(t, cmd); strings.Contains(r.out+r.err, value) {
				t.Errorf("%q says what it was given: %v", args, r)
			}
		}
		conn, err := tls.Dial("tcp", d.public, &tls.Config{RootCAs: d.roots, ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nAuthorization : Bearer %s\r\n\r\n", value)
		conn.Read(make([]byte, 64))
		conn.Close()
	}
	// What kills the program in the middle of a call.
	port := freePort(t)
	dies := h.run("dies", "--port", port, "--", prog, "die", "127.0.0.1:"+port)
	h.ready("dies")
	h.cli("allow", "web", "dies", "GET /**")
	if r := h.curl("web", "-H", "Authorization: Bearer "+token, "-H", "X-Canary: "+secret, "http://dies/"); r.status() == "200" {
		t.Errorf("a program that dies answers: %v", r)
	}
	dies.stop()
	h.recorded("node/audit", "what failed", func(r record) bool { return r.Layer == "token" && r.PeerID == idOf("thief") })
	h.recorded("server/tokens", "what failed", func(r record) bool { return r.Detail == "secret" })

	resp, err := http.Get("http://" + h.health + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	var metrics bytes.Buffer
	metrics.ReadFrom(resp.Body)
	resp.Body.Close()
	look := func(where string, b []byte) {
		t.Helper()
		for name, c := range canaries {
			if bytes.Contains(b, []byte(c)) {
				t.Errorf("%s stands in %s", name, where)
			}
		}
	}
	look("metrics", metrics.Bytes())
	for _, args := range [][]string{
		{"status", "--json"}, {"client", "show", "ci", "--json"}, {"client", "list", "-A", "--json"}, {"get", "oauthclients", "-A", "-o", "yaml"},
		{"get", "oauthresources", "-A", "-o", "yaml"}, {"why", "--json"}, {"why"},
	} {
		r := finish(t, h.command(owner, args...))
		look(strings.Join(args, " "), []byte(r.out+r.err))
	}
	post(d.client(cert), "https://"+d.mtls+"/oauth2/revoke", url.Values{"token": {token}, "client_id": {idOf("web")}})
	h.up.Process.Signal(syscall.SIGQUIT) // every stack goes to stderr
	<-h.ended
	h.up = nil
	log := h.logged()
	if !strings.Contains(log, "goroutine ") || !strings.Contains(log, "level=DEBUG") {
		t.Error("there is no crash output, or nothing of level debug, to look at")
	}
	look("the log", []byte(log))
	for _, path := range h.tree() {
		if b, err := os.ReadFile(path); err == nil {
			look(strings.TrimPrefix(path, h.dir), b)
			if strings.Contains(path, "audit") && bytes.Contains(b, []byte(person)) {
				t.Errorf("a person's name stands in %s", strings.TrimPrefix(path, h.dir))
			}
		}
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
