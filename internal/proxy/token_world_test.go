package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/bearer"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/revocation"
)

const (
	ourIssuer = "https://localhost:7444"
	foreignID = "https://id"
	otherID   = "spiffe://cluster.local/ns/default/sa/other"

	invalidToken = "the access token is not valid"
)

type claims = map[string]any

// key signs tokens of one issuer.
type key struct {
	t testing.TB
	*jose.Signer
}

func newKey(t testing.TB) *key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := jose.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return &key{t, s}
}

func (k *key) set() *jose.Set {
	k.t.Helper()
	set, err := jose.NewSet(k.Key())
	if err != nil {
		k.t.Fatal(err)
	}
	return set
}

func (k *key) sign(typ string, base claims, more []claims) string {
	k.t.Helper()
	for _, m := range more {
		maps.Copy(base, m)
	}
	token, err := k.Sign(typ, base)
	if err != nil {
		k.t.Fatal(err)
	}
	return token
}

// ours is an own token for api, bound to web.
func (k *key) ours(more ...claims) string {
	now := time.Now().Unix()
	return k.sign("at+jwt", claims{
		"iss": ourIssuer, "sub": webID, "aud": apiID, "exp": now + 300, "iat": now - 1, "jti": "jti-of-the-token", "rti": "root",
		"client_id": webID, "scope": "orders:write orders:read", "cnf": claims{"spiffe": webID},
	}, more)
}

// foreign is a token of alice, of an issuer that rules name.
func (k *key) foreign(more ...claims) string {
	return k.sign("JWT", claims{"iss": foreignID, "sub": "alice", "exp": time.Now().Unix() + 300, "role": "customer", "level": 7}, more)
}

// tokens is a mesh with a token service.
type tokens struct {
	*mesh
	own, id   *key
	audiences []grant.Audience
	rules     []policy.TokenRule // of a RequestAuthentication of api
	allow     []policy.Rule
	book      *bearer.Book
}

func newTokens(t testing.TB, s setup, edit ...func(*tokens)) *tokens {
	t.Helper()
	if s.allow == nil {
		s.allow = allowAll()
	}
	w := &tokens{mesh: newMesh(t, s), own: newKey(t), id: newKey(t), allow: s.allow}
	for _, e := range edit {
		e(w)
	}
	for _, n := range []*node{w.a, w.b} {
		if err := n.log.Reset(nil, time.Now()); err != nil {
			t.Fatal(err)
		}
		n.log.Beat(time.Now())
	}
	w.enforce()
	return w
}

// rule is one of a RequestAuthentication that reads tokens of the foreign issuer.
func (w *tokens) rule(edit func(*policy.TokenRule)) policy.TokenRule {
	w.t.Helper()
	keys, err := w.id.set().MarshalJSON()
	if err != nil {
		w.t.Fatal(err)
	}
	r := policy.TokenRule{Issuer: foreignID, JWKS: keys}
	if edit != nil {
		edit(&r)
	}
	return r
}

// enforce puts what the world holds in force on both nodes.
func (w *tokens) enforce() {
	w.t.Helper()
	compiled, faults := policy.Compile(policy.Set{
		TrustDomain: domain, RootNamespace: "istio-system",
		Policies: []policy.Policy{
			{Namespace: "istio-system", Name: "allow-nothing", Action: policy.Allow},
			{Namespace: "default", Name: "web-api", Action: policy.Allow, Selector: map[string]string{"app": "api"}, Rules: w.allow},
		},
		RequestAuth: []policy.RequestAuthentication{{Namespace: "default", Name: "api", Selector: map[string]string{"app": "api"}, Rules: w.rules}},
	})
	if len(faults) > 0 {
		w.t.Fatal(faults)
	}
	d, wrong := grant.New(grant.Objects{
		TrustDomain: domain, RootNamespace: "istio-system", Issuer: ourIssuer, Audiences: w.audiences,
		Services: []grant.Service{{Namespace: "default", Name: "api", Owners: []string{apiID}}, {Namespace: "default", Name: "other", Owners: []string{otherID}}},
	})
	if len(wrong) > 0 {
		w.t.Fatal(wrong)
	}
	w.book = bearer.NewBook(bearer.Facts{TrustDomain: domain, Issuer: ourIssuer, Own: w.own.set(), Directory: d}, w.book)
	w.change(func(s *State) { s.Compiled, s.Tokens = compiled, w.book })
}

// revoke tells the callee's node of one entry, as the control stream does.
func (w *tokens) revoke(e revocation.Entry) {
	w.t.Helper()
	w.log(e)
	w.b.Revoked()
}

func (w *tokens) log(e revocation.Entry) {
	w.t.Helper()
	now := time.Now()
	e.At, e.Until = now.Unix(), revocation.Until(now, 0)
	if err := w.b.log.Add([]revocation.Entry{e}, now); err != nil {
		w.t.Error(err)
	}
}

// call is one request of web: target, then "Name: value" lines.
func (w *tokens) call(target string, lines ...string) (int, string, http.Header) {
	w.t.Helper()
	_, r := w.raw("GET " + target + " HTTP/1.1\nHost: api\n" + strings.Join(append(lines, "\n"), "\n"))
	return answerOf(w.t, r)
}

func bearerLine(token string) string { return "Authorization: Bearer " + token }

// http2 is a client that speaks HTTP/2 in a CONNECT tunnel, as gRPC does.
func (w *tokens) http2() *http.Transport {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return w.connect("api:80"), nil
	}}
	w.t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// grpc is the twin of call: what comes back are the fields of a trailers-only reply.
func (w *tokens) grpc(path string, lines ...string) http.Header {
	w.t.Helper()
	req, _ := http.NewRequest("POST", "http://api"+path, strings.NewReader("\x00\x00\x00\x00\x00"))
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Header[http.CanonicalHeaderKey(name)] = append(req.Header[http.CanonicalHeaderKey(name)], value)
	}
	resp, err := w.http2().RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 200 {
		w.t.Errorf("gRPC: HTTP status %d", resp.StatusCode)
	}
	return resp.Header
}
