package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/ca"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/store"
	"countersign.dev/internal/token"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func kindDoc(kind, name, ns, spec string) string {
	return "apiVersion: countersign.dev/v1\nkind: " + kind + "\nmetadata: {name: " + name + ", namespace: " + ns + "}\nspec: " + spec + "\n---\n"
}

// client is an HTTP client that knows this mesh's roots, with an SVID of id if that is not "".
func (r *running) client(id string) *http.Client {
	r.t.Helper()
	pool := x509.NewCertPool()
	for _, c := range r.ca.Bundle().Roots {
		pool.AddCert(c)
	}
	cfg := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	if id != "" {
		cert := r.svid(id)
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	tr := &http.Transport{TLSClientConfig: cfg}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

// svid is an SVID of this mesh, issued as nodes have them issued.
func (r *running) svid(id string) *tls.Certificate {
	r.t.Helper()
	parsed := spiffeid.RequireFromString(id)
	profile := ca.Workload
	if ns, _, _ := identity.Split(parsed); ns == identity.ReservedNamespace {
		profile = ca.Node
	}
	key, csr := newCSR(r.t)
	got, err := r.ca.Issue(context.Background(), ca.Request{Profile: profile, ID: parsed, CSR: csr, TTL: time.Hour})
	if err != nil {
		r.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: got.Chain, PrivateKey: key}
}

type issued struct {
	status int
	Token  string `json:"access_token"`
	Error  string `json:"error"`
	raw    string
}

func (r *running) token(c *http.Client, base string, form url.Values) issued {
	r.t.Helper()
	resp, err := c.PostForm(base+"/oauth2/token", form)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	out := issued{status: resp.StatusCode, raw: string(b)}
	json.Unmarshal(b, &out)
	return out
}

const (
	web     = "spiffe://cluster.local/ns/default/sa/web"
	reports = "https://reports.example"
)

func reportsDoc() string {
	return kindDoc("OAuthResource", "reports", "default", `{audience: "`+reports+`", scopes: [{name: "reports:read"}]}`)
}

func asWorkload(id string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "audience": {reports}}
}

// A workload's identity is the credential on the mTLS port, by its own name and by the service's
// name in the mesh; nobody else gets a token there.
func TestTokensMTLS(t *testing.T) {
	r := newPlace(t).run()
	r.applied(reportsDoc())
	if got := r.token(r.client(web), r.tokens.mtlsURL, asWorkload(web)); got.status != 200 || got.Token == "" {
		t.Fatalf("web: %d %s", got.status, got.raw)
	}
	for name, c := range map[string]*http.Client{
		"no certificate":  r.client(""),
		"another's":       r.client("spiffe://cluster.local/ns/default/sa/thief"),
		"a node's (A6d)":  r.client("spiffe://cluster.local/ns/countersign/sa/node-a"),
		"the public port": r.client(web),
	} {
		base := r.tokens.mtlsURL
		if name == "the public port" {
			base = r.Issuer()
		}
		if got := r.token(c, base, asWorkload(web)); got.status != 401 || got.Error != "invalid_client" {
			t.Errorf("%s: %d %s", name, got.status, got.raw)
		}
	}
	if got := r.token(r.client("spiffe://cluster.local/ns/countersign/sa/node-a"), r.tokens.mtlsURL, asWorkload("spiffe://cluster.local/ns/countersign/sa/node-a")); got.Error != "invalid_client" {
		t.Errorf("a node as a client: %d %s", got.status, got.raw)
	}
}

// Under the mesh name the server shows its SVID and wants one; under any other it shows a
// certificate for the issuer's host.
func TestTokensServerName(t *testing.T) {
	r := newPlace(t).run()
	addr := r.ports[1].Addr().String()
	dial := func(name string, cert *tls.Certificate) (*tls.Conn, error) {
		cfg := &tls.Config{InsecureSkipVerify: true, ServerName: name, MinVersion: tls.VersionTLS13}
		if cert != nil {
			cfg.Certificates = []tls.Certificate{*cert}
		}
		c, err := tls.Dial("tcp", addr, cfg)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.Close() })
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				return nil, err
			}
		}
		return c, nil
	}
	const mesh = "tokens-s.tokens.countersign.svc.cluster.local"
	c, err := dial(strings.ToUpper(mesh), r.svid(web))
	if err != nil {
		t.Fatalf("with an SVID: %v", err)
	}
	if leaf := c.ConnectionState().PeerCertificates[0]; len(leaf.URIs) != 1 || !strings.HasSuffix(leaf.URIs[0].Path, "/sa/server-s") {
		t.Errorf("shown under the mesh name: %v", leaf.URIs)
	}
	if _, err := dial(mesh, nil); err == nil {
		t.Error("the mesh name was answered without an SVID")
	}
	if c, err = dial("localhost", nil); err != nil {
		t.Fatalf("localhost: %v", err)
	}
	if err := c.ConnectionState().PeerCertificates[0].VerifyHostname("localhost"); err != nil {
		t.Error(err)
	}
}

// Policies that hold at the token service (tokens.md 6, G10b, sec-root-deny-tokens): a mesh-wide
// ALLOW or allow-nothing ends no token, a mesh-wide DENY of a peer does, one that speaks of
// tokens does not, and those of namespace countersign hold.
func TestSecRootDenyTokens(t *testing.T) {
	const batch = "spiffe://cluster.local/ns/default/sa/batch"
	r := newPlace(t).run()
	r.applied(reportsDoc())
	for _, c := range []struct {
		name, doc, key string
		web, batch     int
	}{
		{"allow-nothing alone", "", "", 200, 200},
		{"ALLOW of one namespace", policyDoc("one", "istio-system", `{rules: [{from: [{source: {namespaces: [shop]}}]}]}`), "one", 200, 200},
		{"DENY of a workload", policyDoc("out", "istio-system", `{action: DENY, rules: [{from: [{source: {principals: ["cluster.local/ns/default/sa/batch"]}}]}]}`), "out", 200, 403},
		{"DENY of all without a token", policyDoc("anon", "istio-system", `{action: DENY, rules: [{from: [{source: {notRequestPrincipals: ["*"]}}]}]}`), "anon", 200, 200},
	} {
		if c.doc != "" {
			r.applied(c.doc)
		}
		for id, want := range map[string]int{web: c.web, batch: c.batch} {
			if got := r.token(r.client(id), r.tokens.mtlsURL, asWorkload(id)); got.status != want {
				t.Errorf("%s: %s got %d %s, want %d", c.name, id, got.status, got.raw, want)
			}
		}
		if c.key != "" {
			r.deleted("AuthorizationPolicy", "istio-system", c.key)
		}
	}
	r.applied(policyDoc("only-web", "countersign", `{selector: {matchLabels: {app: tokens}}, rules: [{from: [{source: {principals: ["cluster.local/ns/default/sa/web"]}}], to: [{operation: {paths: [/oauth2/token]}}]}]}`))
	for id, want := range map[string]int{web: 200, batch: 403} {
		if got := r.token(r.client(id), r.tokens.mtlsURL, asWorkload(id)); got.status != want {
			t.Errorf("policy of namespace countersign: %s got %d, want %d", id, got.status, want)
		}
	}
}

func (r *running) deleted(kind, ns, name string) {
	r.t.Helper()
	do(r, r.remove, admin.DeleteRequest{Refs: []admin.Ref{{Kind: kind, Namespace: ns, Name: name}}, Confirmed: true})
}

// An object speaks only for its own namespace (S15), and a name in the mesh is taken once; a
// batch that brings its consent along passes, and taking the consent back is no fault.
func TestSecConsent(t *testing.T) {
	r := newPlace(t).run()
	ledger := func(grant string) string {
		return kindDoc("OAuthResource", "ledger", "shop", `{audience: "https://ledger.example", scopes: [{name: "ledger:read"}]`+grant+`}`)
	}
	reader := kindDoc("OAuthClient", "reader", "front", `{clientId: reader, auth: client_secret, targets: [{audience: "https://ledger.example", scopes: ["ledger:read"]}]}`)
	consent := `, grantTo: [{namespace: front, scopes: ["ledger:read"]}]`

	r.applied(ledger(""))
	before := r.Revision()
	if p := r.refused(reader); !has(p, "E308") {
		t.Errorf("without consent: %+v", p)
	}
	if r.Revision() != before {
		t.Error("a refused batch changed something")
	}
	r.applied(ledger(consent), reader)
	r.applied(ledger("")) // the consent is taken back
	if p := r.refused(strings.ReplaceAll(reader, "reader", "other")); !has(p, "E308") {
		t.Errorf("after the consent went: %+v", p)
	}
	for name, doc := range map[string]string{
		"client id, earlier name": kindDoc("OAuthClient", "aaa", "aaa", `{clientId: reader, auth: client_secret}`),
		"client id, later name":   kindDoc("OAuthClient", "zzz", "zzz", `{clientId: reader, auth: client_secret}`),
		"audience":                kindDoc("OAuthResource", "aaa", "aaa", `{audience: "https://ledger.example"}`),
		"delegation elsewhere":    kindDoc("DelegationPolicy", "d", "aaa", `{actors: [web], audiences: ["https://ledger.example"]}`),
	} {
		if p := r.refused(doc); p == nil {
			t.Errorf("%s was taken twice", name)
		}
	}
}

func (r *running) refused(docs ...string) *admin.Problem {
	r.t.Helper()
	_, err := r.apply(r.t.Context(), applyOf(true, docs...))
	var p *admin.Problem
	if err != nil && !errors.As(err, &p) {
		r.t.Fatal(err)
	}
	return p
}

func has(p *admin.Problem, code string) bool {
	if p == nil {
		return false
	}
	for _, f := range p.Faults {
		if f.Code == code {
			return true
		}
	}
	return false
}

// What the token service writes for requests wakes nobody: no node is sent anything, no world
// is made anew; and still a write that concerns the world is seen behind it.
func TestWorldPassesOverTokens(t *testing.T) {
	p := newPlace(t)
	r := p.run()
	v, newer := r.world.watch()
	res, err := p.st.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("token/jti/x", []byte("{}")), store.Put(token.RevocationPrefix+"1", []byte("{}"))}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.world.waitFor(t.Context(), res.Rev); err != nil {
		t.Fatal(err)
	}
	select {
	case <-newer:
		t.Error("a record of the token service made a new world")
	default:
	}
	if now := r.world.load(); now != v {
		t.Errorf("the world is of revision %d, was of %d", now.Revision, v.Revision)
	}
	if _, ok := r.world.values["token/jti/x"]; ok {
		t.Error("it is kept in memory")
	}
	r.applied(reportsDoc())
	if r.Revision() <= res.Rev {
		t.Errorf("the world stayed at revision %d", r.Revision())
	}
}

// Disabling a client, deleting it, or deleting the Workload that is one ends its tokens; a client
// made anew under an old name does not take the old secrets over.
func TestClientsEnd(t *testing.T) {
	r := newPlace(t).run()
	r.applied(kindDoc("OAuthResource", "reports", "default", `{audience: "`+reports+`", allowBearer: true}`))
	made := do(r, r.createClient, admin.ClientCreate{Name: "ci", Audiences: []string{reports}})
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"ci"}, "client_secret": {made.Secret}}
	first := r.token(r.client(""), r.Issuer(), form)
	if first.status != 200 {
		t.Fatalf("a token: %d %s", first.status, first.raw)
	}
	verdict := func(token string) admin.TokenVerdict {
		return do(r, r.verifyTokens, admin.TokenVerify{Tokens: []string{token}}).Verdicts[0]
	}
	if v := verdict(first.Token); !v.OK {
		t.Fatalf("fresh: %+v", v)
	}
	r.applied(kindDoc("OAuthClient", "ci", "default", `{auth: client_secret, disabled: true, targets: [{audience: "`+reports+`"}]}`))
	until(t, "the disabled client's token to be refused", func() bool { v := verdict(first.Token); return !v.OK && v.Reason == "revoked" })
	if got := r.token(r.client(""), r.Issuer(), form); got.Error != "invalid_client" {
		t.Errorf("disabled: %d %s", got.status, got.raw)
	}
	r.deleted("OAuthClient", "default", "ci")
	again := do(r, r.createClient, admin.ClientCreate{Name: "ci", Audiences: []string{reports}})
	if got := r.token(r.client(""), r.Issuer(), form); got.Error != "invalid_client" {
		t.Errorf("the secret of the client before: %d %s", got.status, got.raw)
	}
	form.Set("client_secret", again.Secret)
	if got := r.token(r.client(""), r.Issuer(), form); got.status != 200 || !verdict(got.Token).OK {
		t.Errorf("the new client: %d %s", got.status, got.raw)
	}

	r.applied(workloadDoc("web", "default", `{selectors: ["unix:uid:1"], nodes: any}`))
	mine := r.token(r.client(web), r.tokens.mtlsURL, url.Values{"grant_type": {"client_credentials"}, "client_id": {web}, "audience": {"https://bound.example"}})
	if mine.status != 400 {
		t.Fatalf("an audience nobody has: %d %s", mine.status, mine.raw)
	}
	r.applied(kindDoc("OAuthResource", "bound", "default", `{audience: "https://bound.example"}`))
	mine = r.token(r.client(web), r.tokens.mtlsURL, url.Values{"grant_type": {"client_credentials"}, "client_id": {web}, "audience": {"https://bound.example"}})
	if v := verdict(mine.Token); !v.OK || v.Binding != web {
		t.Fatalf("the workload's token: %+v", v)
	}
	r.deleted("Workload", "default", "web")
	until(t, "the deleted workload's token to be refused", func() bool { return verdict(mine.Token).Reason == "revoked" })
}

// A rotation refuses no token; one that revokes the key before refuses all that it signed.
func TestRotation(t *testing.T) {
	r := newPlace(t).run()
	r.applied(reportsDoc())
	c := r.client(web)
	verdict := func(token string) admin.TokenVerdict {
		return do(r, r.verifyTokens, admin.TokenVerify{Tokens: []string{token}, Audience: reports}).Verdicts[0]
	}
	old := r.token(c, r.tokens.mtlsURL, asWorkload(web))
	next := do(r, r.rotateTokens, admin.TokenRotate{Now: true})
	fresh := r.token(c, r.tokens.mtlsURL, asWorkload(web))
	for name, token := range map[string]string{"old": old.Token, "new": fresh.Token} {
		if v := verdict(token); !v.OK {
			t.Errorf("%s after a rotation: %+v", name, v)
		}
	}
	if len(next.Keys) != 2 || next.New.State != "activate" {
		t.Errorf("keys: %+v", next)
	}
	do(r, r.rotateTokens, admin.TokenRotate{Now: true, RevokePrevious: true})
	last := r.token(c, r.tokens.mtlsURL, asWorkload(web))
	if v := verdict(last.Token); !v.OK {
		t.Errorf("the newest key: %+v", v)
	}
	until(t, "what the dropped key signed to be refused", func() bool {
		v := verdict(fresh.Token)
		return v.Reason == "revoked" || v.Reason == "kid"
	})
	if v := verdict(old.Token); !v.OK {
		t.Errorf("the key before the dropped one: %+v", v)
	}
}

// The log outlives the server: what was revoked is refused after a restart, the rest is good.
func TestRestartBetweenIssueAndUse(t *testing.T) {
	p := newPlace(t)
	// The issuer is named, since the test's ports change with each start.
	named := func(o *Options) { o.Tokens.Issuer = "https://localhost:7444" }
	r := p.run(named)
	r.applied(reportsDoc())
	c := r.client(web)
	good, bad := r.token(c, r.tokens.mtlsURL, asWorkload(web)), r.token(c, r.tokens.mtlsURL, asWorkload(web))
	do(r, r.revokeToken, admin.TokenRevoke{Token: bad.Token, WaitMS: 10})
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = p.run(named)
	until(t, "the log to be read", func() bool { return r.tokens.ledger.Log().Ready() })
	got := do(r, r.verifyTokens, admin.TokenVerify{Tokens: []string{good.Token, bad.Token}})
	if !got.Verdicts[0].OK || got.Verdicts[1].Reason != "revoked" {
		t.Errorf("after a restart: %+v", got.Verdicts)
	}
}

// What is asked of the log must be a kind of it.
func TestRevokeRequests(t *testing.T) {
	r := newPlace(t).run()
	for name, req := range map[string]admin.TokenRevoke{
		"an unknown kind": {Kind: "aud", Val: "x"}, "no value": {Kind: revocation.ByJTI}, "no token": {Token: "e30.e30.x"},
		"the future": {Kind: revocation.ByBefore, Before: time.Now().Add(time.Hour)},
	} {
		reply, err := r.revokeToken(t.Context(), req)
		if _, ok := errors.AsType[*admin.Problem](err); !ok {
			t.Errorf("%s: %v, %+v", name, err, reply)
		}
	}
}

// do is what an administrator asks for, and gets.
func do[Q, A any](r *running, f func(context.Context, Q) (A, error), q Q) A {
	r.t.Helper()
	a, err := f(r.t.Context(), q)
	if p, ok := errors.AsType[*admin.Problem](err); ok {
		r.t.Fatalf("%v %+v", p, p.Faults)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Whatever was issued before a revocation is refused after it, also where both happen in one
// second, and again and again.
func TestRevokeWithinASecond(t *testing.T) {
	r := newPlace(t).run()
	r.applied(reportsDoc())
	c := r.client(web)
	for i := range 4 {
		got := r.token(c, r.tokens.mtlsURL, asWorkload(web))
		if got.status != 200 {
			t.Fatalf("round %d: %d %s", i, got.status, got.raw)
		}
		if v := do(r, r.verifyTokens, admin.TokenVerify{Tokens: []string{got.Token}}).Verdicts[0]; !v.OK {
			t.Fatalf("round %d: a fresh token: %+v", i, v)
		}
		req := admin.TokenRevoke{Kind: revocation.ByClient, Val: web, WaitMS: 1}
		if i%2 == 1 {
			req = admin.TokenRevoke{Kind: revocation.ByBefore, WaitMS: 1}
		}
		done := do(r, r.revokeToken, req)
		until(t, "the log to hold it", func() bool { return r.tokens.ledger.Log().Epoch() >= uint64(i+1) && done.Seq > 0 })
		until(t, "the token to be refused", func() bool {
			return do(r, r.verifyTokens, admin.TokenVerify{Tokens: []string{got.Token}}).Verdicts[0].Reason == "revoked"
		})
	}
}

// The instance of the token service is the server's own: no node is out of touch for its sake.
func TestTokenServiceIsNoNode(t *testing.T) {
	r := newPlace(t).run()
	if lost := r.lost(time.Now().Add(-time.Hour), time.Now().Add(time.Hour)); len(lost) > 0 {
		t.Errorf("out of touch: %q", lost)
	}
}

// A DENY by a header holds at the token service too, and one by the port it listens on.
func TestSecTokenPolicyAttributes(t *testing.T) {
	r := newPlace(t).run()
	_, port, _ := net.SplitHostPort(r.ports[1].Addr().String())
	r.applied(reportsDoc())
	evil := r.client(web)
	evil.Transport = headed{evil.Transport, "X-Evil", "1"}
	r.applied(policyDoc("evil", "countersign", `{action: DENY, rules: [{when: [{key: "request.headers[x-evil]", values: ["*"]}]}]}`))
	if got := r.token(evil, r.tokens.mtlsURL, asWorkload(web)); got.status != 403 {
		t.Errorf("with the header: %d %s", got.status, got.raw)
	}
	if got := r.token(r.client(web), r.tokens.mtlsURL, asWorkload(web)); got.status != 200 {
		t.Errorf("without it: %d %s", got.status, got.raw)
	}
	r.applied(policyDoc("evil", "countersign", `{action: DENY, rules: [{to: [{operation: {ports: ["`+port+`"]}}]}]}`))
	if got := r.token(r.client(web), r.tokens.mtlsURL, asWorkload(web)); got.status != 403 {
		t.Errorf("by port: %d %s", got.status, got.raw)
	}
}

// headed sends one more header field.
type headed struct {
	http.RoundTripper
	name, value string
}

func (h headed) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set(h.name, h.value)
	return h.RoundTripper.RoundTrip(r)
}
