//go:build system && linux

package systemtest

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestSystemSecTokensBound: a token is worth nothing to whoever took it, on whatever way it is
// shown, and nothing once it is revoked; the thief stands in the record (audit.md, drill 10).
func TestSystemSecTokensBound(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	h.serve("other")
	h.cli("allow", "web", "api", "GET /open")
	h.cli("allow", "thief", "api", "GET /open")
	h.cli("allow", "web", "other", "GET /**")
	h.tokenPolicies()
	token := h.token("web", "api")
	auth := "Authorization: Bearer " + token
	_, web := h.svid("web")
	_, thief := h.svid("thief")

	if r := h.curl("web", "-H", auth, "http://api/secret"); r.status() != "200" {
		t.Fatalf("its owner: %v", r)
	}
	for what, words := range map[string][]string{
		"HTTP/1.1":          {"-H", auth, "http://api/secret"},
		"HTTP/2":            {"--http2-prior-knowledge", "-H", auth, "http://api/secret"},
		"CONNECT":           {"-p", "-H", auth, "http://api/secret"},
		"lower case":        {"-H", "authorization: bearer " + token, "http://api/secret"},
		"where none needed": {"-H", auth, "http://api/open"},
		"DPoP":              {"-H", "Authorization: DPoP " + token, "http://api/secret"},
	} {
		if r := h.curl("thief", words...); r.status() != "401" || strings.Contains(r.out, token) {
			t.Errorf("a thief, %s: %v, want 401", what, r)
		}
	}
	if r := h.curl("thief", "-H", auth, "-H", auth, "http://api/secret"); r.status() != "400" {
		t.Errorf("two Authorization fields: %v, want 400", r)
	}
	for what, words := range map[string][]string{
		"query": {"http://api/secret?access_token=" + token}, "cookie": {"-b", "access_token=" + token, "http://api/secret"},
		"form": {"-X", "GET", "-d", "access_token=" + token, "http://api/secret"},
	} {
		for _, who := range []string{"web", "thief"} {
			if r := h.curl(who, words...); r.status() != "403" {
				t.Errorf("%s with the token in the %s: %v, want 403", who, what, r)
			}
		}
	}
	if r := call(h.caller(thief, "api"), "api", "/secret", token); r.status != 401 {
		t.Errorf("a thief without a node: %v, want 401", r)
	}
	if r := h.curl("web", "-H", auth, "http://other/"); r.status() != "401" {
		t.Errorf("at another audience: %v, want 401", r)
	}
	h.recorded("node/audit", "the thief", func(r record) bool {
		return r.Layer == "token" && r.Reason == "binding" && r.PeerID == idOf("thief") && r.Status == 401
	})
	h.recorded("node/audit", "the audience", func(r record) bool {
		return r.Layer == "token" && r.Reason == "aud" && r.PeerID == idOf("web")
	})

	// The thief cannot exchange, introspect or revoke it either, and its owner can.
	d := h.door()
	mine, his := d.client(web), d.client(thief)
	form := func(more ...string) url.Values {
		v := url.Values{"token": {token}}
		for i := 0; i < len(more); i += 2 {
			v.Set(more[i], more[i+1])
		}
		return v
	}
	if r := post(his, "https://"+d.mtls+"/oauth2/introspect", form("client_id", idOf("thief"))); r.status != 200 || r.body != `{"active":false}` {
		t.Errorf("introspection by the thief: %v", r)
	}
	if r := post(his, "https://"+d.mtls+"/oauth2/revoke", form("client_id", idOf("thief"))); r.status != 400 {
		t.Errorf("revocation by the thief: %v, want 400", r)
	}
	exchange := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {token}, "client_id": {idOf("thief")},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"}, "audience": {"other"},
	}
	if r := post(his, "https://"+d.mtls+"/oauth2/token", exchange); r.status != 400 || r.token != "" {
		t.Errorf("exchange by the thief: %v, want 400", r)
	}
	if r := h.curl("web", "-H", auth, "http://api/secret"); r.status() != "200" {
		t.Errorf("after what the thief tried, its owner: %v", r)
	}
	began := time.Now()
	if r := post(mine, "https://"+d.mtls+"/oauth2/revoke", form("client_id", idOf("web"))); r.status != 200 || r.body != "" {
		t.Fatalf("revocation by its owner: %v", r)
	}
	api := h.caller(web, "api")
	for {
		if r := call(api, "api", "/secret", token); r.status == 401 {
			break
		} else if time.Since(began) > time.Second {
			t.Fatalf("1 s after it was revoked: %v, want 401", r)
		}
	}
	h.recorded("node/audit", "the revoked token", func(r record) bool { return r.Layer == "token" && r.Reason == "revoked" && r.JTI != "" })
}

// TestSystemSecTokensStolenOverListen: a listener of its own that takes plaintext takes no
// bound token there: nobody is the one it is bound to.
func TestSystemSecTokensStolenOverListen(t *testing.T) {
	h := openHouse(t, owner)
	own := localPort(t)
	h.serve("api", "--listen", own)
	h.cli("allow", "web", "api", "GET /open")
	h.tokenPolicies()
	h.apply("{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: api, namespace: default}, spec: {selector: {matchLabels: {app: api}}, mtls: {mode: PERMISSIVE}}}")
	h.apply("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: anyone, namespace: default}, spec: {selector: {matchLabels: {app: api}}, rules: [{to: [{operation: {paths: [/open]}}]}]}}")
	auth := "Authorization: Bearer " + h.token("web", "api")
	for _, c := range []struct{ name, path, header, want string }{
		{"no token", "/open", "X-A: b", "200"}, {"no token", "/secret", "X-A: b", "403"},
		{"stolen", "/secret", auth, "401"}, {"stolen", "/open", auth, "401"},
		{"with a forged identity", "/secret", "X-Forwarded-Client-Cert: URI=" + idOf("web"), "403"},
	} {
		for _, version := range [][]string{{"--http1.1"}, {"--http2-prior-knowledge"}, {"--http2"}} {
			args := append([]string{"-sS", "-m", "5", "-o", "/dev/null", "-w", "\n%{http_code}", "-H", c.header, "http://" + own + c.path}, version...)
			if r := finish(t, stranger.command("curl", args...)); r.status() != c.want {
				t.Errorf("%s, %s, %s: %v, want %s", c.name, c.path, version, r, c.want)
			}
		}
	}
	dir, _ := h.svid("thief")
	args := []string{"-skS", "-m", "5", "-o", "/dev/null", "-w", "\n%{http_code}", "-H", auth, "--cert", dir + "/svid.pem", "--key", dir + "/key.pem", "https://" + own + "/secret"}
	if r := finish(t, owner.command("curl", args...)); r.status() != "401" && r.status() != "000" {
		t.Errorf("stolen, over mutual TLS as another: %v, want 401", r)
	}
}

// TestSystemSecTokensRootDeny: who is shut out of the mesh gets no token, through neither door;
// rules that would end every token do not hold there (tokens.md 6; security.md S19; G10b).
func TestSystemSecTokensRootDeny(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	d := h.door()
	clients := map[string]*http.Client{}
	for _, name := range []string{"web", "thief"} {
		_, cert := h.svid(name)
		clients[name] = d.client(cert)
	}
	evil := func(d *door, name, header string) *http.Request {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {idOf(name)}, "audience": {"api"}}
		req, err := http.NewRequest(http.MethodPost, "https://"+d.mtls+"/oauth2/token", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("X-Evil", header)
		return req
	}
	const gets, denied = 200, 403
	for _, c := range []struct {
		name, namespace, spec string
		web, thief            int
		header                string
	}{
		{"allow nothing", "istio-system", `{}`, gets, gets, ""},
		{"ALLOW for one namespace", "istio-system", `{rules: [{from: [{source: {namespaces: [shop]}}]}]}`, gets, gets, ""},
		{"DENY of a workload", "istio-system", `{action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/thief]}}]}]}`, gets, denied, ""},
		{"DENY of all others", "istio-system", `{action: DENY, rules: [{from: [{source: {notPrincipals: [cluster.local/ns/default/sa/web]}}]}]}`, gets, denied, ""},
		{"DENY of all without a token", "istio-system", `{action: DENY, rules: [{from: [{source: {notRequestPrincipals: ["*"]}}]}]}`, gets, gets, ""},
		{"DENY of a workload without a token", "istio-system", `{action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/thief], notRequestPrincipals: ["*"]}}]}]}`, gets, gets, ""},
		{"DENY in countersign", "countersign", `{action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/thief]}}], to: [{operation: {paths: [/oauth2/token], methods: [POST]}}]}]}`, gets, denied, ""},
		{"ALLOW in countersign", "countersign", `{selector: {matchLabels: {app: tokens}}, rules: [{from: [{source: {serviceAccounts: [default/web]}}]}]}`, gets, denied, ""},
		{"ALLOW nobody in countersign", "countersign", `{}`, denied, denied, ""},
		{"DENY of a header in countersign", "countersign", `{action: DENY, rules: [{when: [{key: "request.headers[x-evil]", values: [really]}]}]}`, denied, denied, "really"},
		{"DENY of all in a namespace", "default", `{action: DENY, rules: [{}]}`, gets, gets, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.in(t)
			h.apply(fmt.Sprintf("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: tried, namespace: %s}, spec: %s}", c.namespace, c.spec))
			defer h.cli("delete", "ap", "tried", "-n", c.namespace, "--yes")
			for name, want := range map[string]int{"web": c.web, "thief": c.thief} {
				if r := do(clients[name], evil(d, name, c.header)); r.status != want || (r.token != "") != (want == gets) {
					t.Errorf("%s on the mTLS port: %v, want %d", name, r, want)
				}
				r := h.curl(name, "-H", "X-Evil: "+c.header, "-d", "grant_type=client_credentials", "-d", "client_id="+idOf(name), "-d", "audience=api", "http://tokens.countersign/oauth2/token")
				if r.status() != fmt.Sprint(want) || strings.Contains(r.out, "access_token") != (want == gets) {
					t.Errorf("%s through the mesh: %v, want %d", name, r, want)
				}
			}
		})
	}
	h.recorded("server/tokens", "who was shut out", func(r record) bool {
		return r.Layer == "authz" && r.Status == 403 && r.PeerID == idOf("thief")
	})
}

// TestSystemSecTokensWhy: the id that a refusal of the token service shows can be asked about.
func TestSystemSecTokensWhy(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	h.apply(`{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: tried, namespace: istio-system}, spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/thief]}}]}]}}`)
	r := finish(t, h.command(owner, "run", "thief", "--", countersign, "token", "issue", "--audience", "api"))
	hints := regexp.MustCompile(`countersign why ([0-9a-z]{8,26})\b[^:]`).FindAllStringSubmatch(r.err+"\n", -1)
	if r.code != 1 || len(hints) == 0 {
		t.Fatalf("a refused token: %v, want a hint to ask why", r)
	}
	id := hints[len(hints)-1][1]
	var last result
	eventually(t, "why says which policy refused the token", func() (bool, string) {
		last = finish(t, h.command(owner, "why", id))
		return strings.Contains(last.out, "tried"), last.String()
	})
}

// TestSystemTokensFirstSecret is the third first token of tokens.md 4.3, as it stands there.
func TestSystemTokensFirstSecret(t *testing.T) {
	h := openHouse(t, owner)
	d := h.door()
	h.apply(`{apiVersion: countersign.dev/v1, kind: OAuthResource, metadata: {name: reports}, spec: {audience: "` + reports + `", scopes: [{name: "reports:read"}], allowBearer: true}}`)
	secret := strings.TrimSpace(h.cli("client", "create", "ci", "--audience", reports, "--scope", "reports:read").out)
	if r := d.withSecret(d.client(), secret); r.status != 200 || !strings.Contains(r.body, `"scope":"reports:read"`) {
		t.Errorf("a token for the new client: %v", r)
	}
	keys := writeFile(t, owner, h.home+"/keys.json", newIssuerKey(t, "k1").set())
	h.cli("client", "create", "batch", "--auth", "private_key_jwt", "--jwks", keys, "--audience", reports)
	h.cli("client", "create", "spiffe", "--spiffe-id", idOf("other"), "--audience", "api")
}

// TestSystemSecTokensCertificates: on the mTLS port a certificate counts if our own authority
// vouches for it now, and the client_id is exactly its own (tokens.md 5.3; A5, P8).
func TestSystemSecTokensCertificates(t *testing.T) {
	short := writeFile(t, owner, newDir(t, owner)+"/up.yaml", "svidTTL: 10s\n")
	h := openHouse(t, owner, "--config", short)
	h.serve("api")
	d := h.door()
	_, fresh := h.svid("web")
	kept := d.client(fresh)
	if r := d.own(kept, "web", "api"); r.status != 200 {
		t.Fatalf("with a certificate that lives: %v", r)
	}
	ends := fresh.Leaf.NotAfter

	other := openHouse(t, stranger) // an authority of the same trust domain and names
	_, theirs := other.svid("web")
	dir := newDir(t, owner)
	finishWell(t, owner.command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-keyout", dir+"/key.pem", "-out", dir+"/svid.pem",
		"-subj", "/CN=web", "-addext", "subjectAltName=URI:"+idOf("web"), "-addext", "keyUsage=critical,digitalSignature"))
	forged, err := tls.LoadX509KeyPair(dir+"/svid.pem", dir+"/key.pem")
	if err != nil {
		t.Fatal(err)
	}
	_, again := h.svid("web")
	want401 := func(what string, r reply) {
		t.Helper()
		if r.status != 401 || r.token != "" || !strings.Contains(r.body, `"invalid_client"`) {
			t.Errorf("%s: %v, want 401 invalid_client", what, r)
		}
	}
	want401("another authority", d.own(d.client(theirs), "web", "api"))
	want401("forged", d.own(d.client(forged), "web", "api"))
	want401("no certificate", d.own(d.client(), "web", "api"))
	for _, id := range []string{"", "ci", idOf("thief"), strings.ToUpper(idOf("web")), idOf("web") + "/", idOf("%77eb"), idOf("x/../web"), idOf("web") + "#", " " + idOf("web")} {
		r := post(d.client(again), "https://"+d.mtls+"/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "audience": {"api"}})
		want401(fmt.Sprintf("client_id %q", id), r)
	}
	// Under the name that the mesh knows, whoever is not of the mesh ends at the handshake.
	for _, name := range []string{"x.tokens.countersign.svc.cluster.local", "X.TOKENS.COUNTERSIGN.SVC.CLUSTER.LOCAL", "tokens.countersign.svc.cluster.local"} {
		for what, certs := range map[string][]tls.Certificate{"none": nil, "forged": {forged}, "of another authority": {theirs}} {
			conn, err := tls.Dial("tcp", d.mtls, &tls.Config{ServerName: name, InsecureSkipVerify: true, Certificates: certs})
			if err == nil {
				fmt.Fprintf(conn, "GET /oauth2/jwks HTTP/1.1\r\nHost: localhost\r\n\r\n")
				n, readErr := conn.Read(make([]byte, 1))
				if n != 0 || readErr == nil {
					t.Errorf("server name %s, certificate %s: it was answered", name, what)
				}
				conn.Close()
			}
		}
	}
	// The port that all workloads share is no way to the token service.
	if conn, err := tls.Dial("tcp", h.inbound, &tls.Config{ServerName: "x.tokens.countersign.svc.cluster.local", InsecureSkipVerify: true, Certificates: []tls.Certificate{again}}); err == nil {
		conn.Close()
		t.Error("the shared port answers for the token service")
	}
	if conn, err := tls.Dial("tcp", d.mtls, &tls.Config{RootCAs: d.roots, ServerName: "localhost", MaxVersion: tls.VersionTLS12}); err == nil {
		conn.Close()
		t.Error("the mTLS port speaks TLS 1.2")
	}
	time.Sleep(time.Until(ends.Add(time.Second)))
	want401("a connection that outlived its certificate", d.own(kept, "web", "api"))
	want401("a certificate that has ended", d.own(d.client(fresh), "web", "api"))
	if r := finish(t, h.command(owner, "run", "web", "--", countersign, "token", "issue", "--audience", "api")); r.code != 0 {
		t.Errorf("a workload whose certificate is renewed: %v", r)
	}
}

// TestSystemSecTokensAttached: a token that the node attaches goes to the service that the
// record names, of the workload that it names, and never beside a credential of the program's
// own (tokens.md 15.4; G11).
func TestSystemSecTokensAttached(t *testing.T) {
	h := openHouse(t, owner)
	for _, name := range []string{"api", "evil"} {
		h.serve(name)
		h.cli("allow", "web", name, "GET /**")
		h.cli("allow", "thief", name, "GET /**")
	}
	h.apply(`{apiVersion: countersign.dev/v1, kind: OAuthClient, metadata: {name: web, namespace: default}, spec: {spiffeId: "` + idOf("web") + `", targets: [{audience: api, attach: true}, {audience: evil}]}}`)
	for _, c := range []struct {
		who   string
		words []string
		want  string // what Authorization begins with; empty: there is none
	}{
		{"web", []string{"http://api/"}, "Bearer eyJ"},
		{"web", []string{"--http2-prior-knowledge", "http://api/"}, "Bearer eyJ"},
		{"web", []string{"-H", "Authorization: Bearer mine", "http://api/"}, "Bearer mine"},
		{"web", []string{"-H", "Authorization: Basic mine", "http://api/"}, "Basic mine"},
		{"web", []string{"http://evil/"}, ""},
		{"web", []string{"-H", "Host: api", "http://evil/"}, ""},
		{"web", []string{"http://evil/http://api/"}, ""},
		{"thief", []string{"http://api/"}, ""},
	} {
		r := h.curl(c.who, c.words...)
		var saw seen
		json.NewDecoder(strings.NewReader(r.out)).Decode(&saw)
		got := saw.Header.Values("Authorization")
		switch {
		case r.status() != "200" && c.words[0] != "-H":
			t.Errorf("%s, %q: %v", c.who, c.words, r)
		case c.want == "" && len(got) > 0, c.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], c.want)):
			t.Errorf("%s, %q: the program saw %q, want %q", c.who, c.words, got, c.want)
		}
	}
	h.apply(`{apiVersion: countersign.dev/v1, kind: OAuthClient, metadata: {name: web, namespace: default}, spec: {spiffeId: "` + idOf("web") + `", targets: [{audience: api}]}}`)
	r := h.curl("web", "http://api/")
	if strings.Contains(r.out, "Authorization") || r.status() != "200" {
		t.Errorf("once the record attaches nothing: %v", r)
	}
}
