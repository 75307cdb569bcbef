package conformance

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

// The three first tokens of the manual (tokens.md 4.3), by curl alone.
func TestCurl(t *testing.T) {
	need(t, "curl")
	const grant = "grant_type=client_credentials"
	web := "client_id=spiffe://cluster.local/ns/default/sa/web"
	m := startMesh(t, `
apiVersion: countersign.dev/v1
kind: OAuthResource
metadata: {name: reports}
spec: {audience: https://reports.example, scopes: [{name: reports:read}], allowBearer: true}
`)
	m.countersign(t, "run", "api", "--port", "8081", "--", "true") // from now on api is a service

	t.Run("Workload", func(t *testing.T) {
		answer := m.countersign(t, "run", "web", "--", "curl", "-sS", "http://tokens.countersign/oauth2/token", "-d", grant, "-d", web, "-d", "audience=api")
		checkAnswer(t, answer, "", `{"spiffe":"spiffe://cluster.local/ns/default/sa/web"}`)
	})
	t.Run("SVIDFiles", func(t *testing.T) {
		m.svid(t, "web")
		answer := finish(t, m.environment(), "curl", "-sS", m.mtls+"/oauth2/token", "--cacert", m.path("root.pem"),
			"--cert", m.path("svid.pem"), "--key", m.path("svid.key"), "-d", grant, "-d", web, "-d", "audience=api")
		checkAnswer(t, answer, "", `{"spiffe":"spiffe://cluster.local/ns/default/sa/web"}`)
	})
	t.Run("Secret", func(t *testing.T) {
		secret := strings.TrimSpace(m.countersign(t, "client", "create", "ci", "--audience", reports, "--scope", "reports:read"))
		answer := finish(t, m.environment(), "curl", "-sS", "--cacert", m.path("root.pem"), "-u", "ci:"+secret, m.issuer+"/oauth2/token",
			"-d", grant, "-d", "audience="+reports, "-d", "scope=reports:read")
		checkAnswer(t, answer, "reports:read", "")
	})
}

// checkAnswer holds an answer against the one of the manual, and the binding of its token.
func checkAnswer(t *testing.T, answer, scope, binding string) {
	t.Helper()
	var got map[string]any
	if err := json.Unmarshal([]byte(answer), &got); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	token, _ := got["access_token"].(string)
	delete(got, "access_token")
	want := map[string]any{"token_type": "Bearer", "expires_in": 300.0}
	if scope != "" {
		want["scope"] = scope
	}
	if g, w := jsonText(t, got), jsonText(t, want); g != w {
		t.Errorf("got %s and a token, want %s", g, w)
	}
	part := strings.Split(token, ".")
	if len(part) != 3 {
		t.Fatalf("no token: %s", answer)
	}
	payload, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Binding json.RawMessage `json:"cnf"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil || string(claims.Binding) != binding {
		t.Errorf("cnf %s, want %q (%v)", claims.Binding, binding, err)
	}
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
