package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/store"
)

const (
	testIssuer  = "https://tokens.test"
	testMTLS    = "https://tokens.test:7445"
	testReports = "https://reports.example"
	webID       = "spiffe://home.test/ns/shop/sa/web"
	plainID     = "spiffe://home.test/ns/shop/sa/plain" // without a record
	paymentsID  = "spiffe://home.test/ns/shop/sa/payments"
)

// The fixed texts and codes that package grant says.
const (
	textNoTarget = "audience or resource is required"
	textTarget   = "target not allowed"
	textScope    = "scope not allowed"
	textCycle    = "actor already in delegation chain"

	codeScope  = "invalid_scope"
	codeTarget = "invalid_target"
)

// bed is the service behind two real TLS servers, with everything real around it.
type bed struct {
	t testing.TB
	*Service
	options      Options
	ca, other    *identitytest.Authority
	store        store.Engine
	records      *audit.Recorder
	dir          string // of the records
	revoked      *revocation.Log
	signer       *jose.Signer
	world        atomic.Pointer[World]
	offset       atomic.Int64 // of the service's clock
	public, mtls *httptest.Server
	robot, rival *ecdsa.PrivateKey // of the private_key_jwt clients
	clients      map[*tls.Certificate]*http.Client
}

// now is the service's clock.
func (b *bed) now() time.Time { return time.Now().Add(time.Duration(b.offset.Load())) }

func (b *bed) later(d time.Duration) { b.offset.Add(int64(d)) }

func newBed(t testing.TB, edits ...func(*bed)) *bed {
	t.Helper()
	b := &bed{t: t, revoked: revocation.NewLog(), clients: map[*tls.Certificate]*http.Client{}}
	b.ca, b.other = identitytest.New(t, "home.test", time.Now()), identitytest.New(t, "other.test", time.Now())
	b.robot, b.rival = identitytest.NewKey(t).(*ecdsa.PrivateKey), identitytest.NewKey(t).(*ecdsa.PrivateKey)
	b.store = store.Memory(store.MemoryOptions{})
	if err := b.revoked.Reset(nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	var err error
	if b.signer, err = jose.NewSigner(identitytest.NewKey(t)); err != nil {
		t.Fatal(err)
	}
	keys, err := jose.NewSet(b.signer.Key())
	if err != nil {
		t.Fatal(err)
	}
	b.dir = t.TempDir()
	b.records = openRecords(t, b.dir)
	b.world.Store(b.newWorld(b.objects()))
	b.options = Options{
		Issuer: testIssuer, MTLS: testMTLS, TrustDomain: b.ca.TrustDomain, World: b.world.Load,
		Signer: func() *jose.Signer { return b.signer }, Keys: func() *jose.Set { return keys },
		Revoked: b.revoked, Store: b.store, Records: b.records, Now: b.now, Log: slog.New(slog.DiscardHandler),
	}
	for _, edit := range edits {
		edit(b)
	}
	if b.Service, err = New(b.options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.store.Close() })
	b.public, b.mtls = httptest.NewUnstartedServer(b.Handler()), httptest.NewUnstartedServer(b.Handler())
	b.mtls.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13}
	for _, srv := range []*httptest.Server{b.public, b.mtls} {
		srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		srv.StartTLS()
		t.Cleanup(srv.Close)
	}
	return b
}

func openRecords(t testing.TB, name string) *audit.Recorder {
	t.Helper()
	dir, err := os.OpenRoot(name)
	if err != nil {
		t.Fatal(err)
	}
	key := []byte("0123456789abcdef")
	r, err := audit.Open(audit.Options{Dir: dir, Node: "spiffe://home.test/ns/countersign/sa/server", DecisionKey: func() []byte { return key }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); dir.Close() })
	return r
}

// objects are the clients and audiences of most tests.
func (b *bed) objects() grant.Objects {
	reports := []grant.Target{{Audience: testReports, Scopes: []string{"reports:read", "reports:write"}, DefaultScopes: []string{"reports:read"}}}
	cc := []string{grant.GrantClientCredentials}
	jwt := func(name string) grant.Client {
		return grant.Client{Namespace: "shop", Name: name, ClientID: name, Auth: grant.AuthPrivateKeyJWT, JWKS: json.RawMessage(`{}`), Grants: cc, Targets: reports}
	}
	legacy := jwt("legacy")
	legacy.AssertionEndpoint = true
	return grant.Objects{
		TrustDomain: "home.test", RootNamespace: "istio-system", Issuer: testIssuer,
		Services: []grant.Service{
			{Namespace: "shop", Name: "payments", Owners: []string{paymentsID}},
			{Namespace: "shop", Name: "orders", Owners: []string{"spiffe://home.test/ns/shop/sa/orders"}},
		},
		Audiences: []grant.Audience{
			{
				Namespace: "shop", Name: "reports", URI: testReports, AllowBearer: true,
				Scopes: []grant.Scope{{Name: "reports:read", Public: true}, {Name: "reports:write"}},
			},
			{Namespace: "shop", Name: "payments", Service: "payments", Scopes: []grant.Scope{{Name: "payments:create"}}, TTLCap: 2 * time.Minute},
		},
		Clients: []grant.Client{
			{Namespace: "shop", Name: "ci", ClientID: "ci", Auth: grant.AuthSecret, Grants: cc, Targets: reports},
			{Namespace: "shop", Name: "colons", ClientID: "team:ci:1", Auth: grant.AuthSecret, Grants: cc, Targets: reports},
			{Namespace: "shop", Name: "off", ClientID: "off", Auth: grant.AuthSecret, Grants: cc, Targets: reports, Disabled: true},
			jwt("robot"), jwt("rival"), legacy,
			{
				Namespace: "shop", Name: "web", ClientID: webID, Auth: grant.AuthSPIFFE, SPIFFEID: webID, Grants: cc,
				Targets: []grant.Target{{Audience: "payments", Scopes: []string{"payments:create"}, DefaultScopes: []string{"payments:create"}}},
			},
			{
				Namespace: "shop", Name: "bound", ClientID: "bound", Auth: grant.AuthSPIFFE, SPIFFEID: "spiffe://home.test/ns/shop/sa/bound", Grants: cc,
				Targets: []grant.Target{{Audience: "orders"}}, Binding: grant.BindCertificate, TTL: time.Hour,
			},
			{
				Namespace: "shop", Name: "fleet", ClientID: "fleet", Auth: grant.AuthSPIFFE, SPIFFEID: "spiffe://home.test/x/*", Grants: cc,
				Targets: []grant.Target{{Audience: "payments"}},
			},
			{
				Namespace: "shop", Name: "partner", ClientID: "partner", Auth: grant.AuthSPIFFE, SPIFFEID: "spiffe://other.test/ns/a/sa/b", Grants: cc,
				Targets: []grant.Target{{Audience: "payments"}},
			},
			{Namespace: "shop", Name: "idle", ClientID: "idle", Auth: grant.AuthSecret, Targets: reports},
		},
	}
}

func (b *bed) newWorld(o grant.Objects) *World {
	b.t.Helper()
	d, faults := grant.New(o)
	for _, f := range faults {
		b.t.Errorf("objects of the test: %+v", f)
	}
	set := func(key *ecdsa.PrivateKey) *jose.Set {
		s, err := jose.NewSigner(key)
		if err != nil {
			b.t.Fatal(err)
		}
		out, err := jose.NewSet(s.Key())
		if err != nil {
			b.t.Fatal(err)
		}
		return out
	}
	return &World{
		Directory: d, Trust: b.ca.Trust(b.other),
		ClientKeys: map[string]*jose.Set{"robot": set(b.robot), "legacy": set(b.robot), "rival": set(b.rival)},
		Allow: func(identity.Peer, *http.Request) policy.Verdict {
			return policy.Verdict{Allow: true, Rule: -1}
		},
	}
}

// reply is an answer, read.
type reply struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
}

func (r reply) text(name string) string { s, _ := r.body[name].(string); return s }

// client is one that shows the certificate; nil shows none.
func (b *bed) client(srv *httptest.Server, cert *tls.Certificate) *http.Client {
	if c := b.clients[cert]; c != nil {
		return c
	}
	tr := srv.Client().Transport.(*http.Transport).Clone()
	tr.TLSClientConfig.InsecureSkipVerify = true // the servers of httptest are not what is tested
	if cert != nil {
		tr.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	b.clients[cert] = &http.Client{Transport: tr}
	b.t.Cleanup(tr.CloseIdleConnections)
	return b.clients[cert]
}

// send sends a request to the port that fits the certificate.
func (b *bed) send(cert *tls.Certificate, method, path, body string, edits ...func(*http.Request)) reply {
	b.t.Helper()
	srv := b.public
	if cert != nil {
		srv = b.mtls
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, srv.URL+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, edit := range edits {
		edit(req)
	}
	resp, err := b.client(srv, cert).Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	out := reply{status: resp.StatusCode, header: resp.Header, raw: string(raw)}
	if len(raw) > 0 && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(raw, &out.body); err != nil {
			b.t.Fatalf("answer %q: %v", raw, err)
		}
	}
	if resp.Header.Get("X-Request-Id") == "" {
		b.t.Errorf("%s %s: no X-Request-Id", method, path)
	}
	return out
}

// ask sends client_credentials with these pairs of parameters.
func (b *bed) ask(cert *tls.Certificate, pairs ...string) reply {
	b.t.Helper()
	return b.send(cert, http.MethodPost, pathToken, formOf(append([]string{"grant_type", "client_credentials"}, pairs...)...))
}

func formOf(pairs ...string) string {
	var out []string
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, url.QueryEscape(pairs[i])+"="+url.QueryEscape(pairs[i+1]))
	}
	return strings.Join(out, "&")
}

func basic(user, secret string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(user, secret) }
}

// newSecret makes a secret of a client.
func (b *bed) newSecret(id string) string {
	b.t.Helper()
	secret, err := b.CreateSecret(b.t.Context(), id, time.Time{}, DefaultOverlap)
	if err != nil {
		b.t.Fatal(err)
	}
	return secret
}

// want asserts an error answer and, of the record behind it, reason and detail.
func (b *bed) want(r reply, status int, code, text, detail string) {
	b.t.Helper()
	b.answers(r, status, code, text)
	rec := b.refusal(r)
	if rec == nil {
		return
	}
	if rec.Detail != detail || rec.Status != status {
		b.t.Errorf("the record says %q, %d; want %q, %d", rec.Detail, rec.Status, detail, status)
	}
}

// answers asserts an error answer alone: in a flood, records of one reason and source are folded.
func (b *bed) answers(r reply, status int, code, text string) {
	b.t.Helper()
	if r.status != status || r.text("error") != code || r.text("error_description") != text {
		b.t.Fatalf("got %d %s, want %d %s %q", r.status, r.raw, status, code, text)
	}
	if r.header.Get("Cache-Control") != "no-store" {
		b.t.Errorf("Cache-Control is %q", r.header.Get("Cache-Control"))
	}
}

func (b *bed) wantClient(r reply, detail string) {
	b.t.Helper()
	b.want(r, http.StatusUnauthorized, "invalid_client", textAuth, detail)
}

// many reports that ten refusals of a reason have a record of their own.
func (b *bed) many(reason string) bool {
	n := 0
	b.records.Refused(func(rec *audit.Record) bool {
		if rec.Reason == reason {
			n++
		}
		return false
	})
	return n >= 10
}

func (b *bed) refusal(r reply) *audit.Record {
	b.t.Helper()
	id := r.header.Get("X-Request-Id")
	rec, ok := b.records.Refused(func(rec *audit.Record) bool { return rec.ID == id })
	if !ok && b.many(r.text("error")) {
		return nil // folded: of one reason and source the first ten of ten seconds are written one by one
	}
	if !ok {
		b.t.Fatalf("no record of refusal %q: %s", id, r.raw)
	}
	return rec
}

// wantToken asserts a token and returns it, verified for the audience.
func (b *bed) wantToken(r reply, audience string) *jose.Token {
	b.t.Helper()
	if r.status != http.StatusOK {
		detail := ""
		if rec, ok := b.records.Refused(func(rec *audit.Record) bool { return rec.ID == r.header.Get("X-Request-Id") }); ok {
			detail = rec.Reason + " " + rec.Detail
		}
		b.t.Fatalf("got %d %s (%s), want a token", r.status, r.raw, detail)
	}
	check := &jose.Check{Profile: jose.Own, Issuer: testIssuer, Keys: b.options.Keys(), Audiences: []string{audience}, TrustDomain: "home.test"}
	tok, err := check.Verify(b.now(), r.text("access_token"))
	if err != nil {
		b.t.Fatalf("the token: %v", err)
	}
	return tok
}

// signed is a compact JWS by an ES256 key.
func signed(t testing.TB, key *ecdsa.PrivateKey, header, claims map[string]any) string {
	t.Helper()
	return signedBy(t, header, claims, func(sum []byte) []byte {
		r, s, err := ecdsa.Sign(rand.Reader, key, sum)
		if err != nil {
			t.Fatal(err)
		}
		out := make([]byte, 64)
		r.FillBytes(out[:32])
		s.FillBytes(out[32:])
		return out
	})
}

func signedBy(t testing.TB, header, claims map[string]any, sign func(sum []byte) []byte) string {
	t.Helper()
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	input := encode(header) + "." + encode(claims)
	sum := sha256.Sum256([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(sign(sum[:]))
}

func thumbprintID(t testing.TB, key crypto.Signer) string {
	t.Helper()
	s, err := jose.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s.Key().ID()
}

func fingerprint(c *tls.Certificate) [32]byte { return sha256.Sum256(c.Leaf.Raw) }
