package bearer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/revocation"
)

const (
	ourIssuer = "https://localhost:7444"
	domain    = "example.com"
	orders    = "spiffe://example.com/ns/shop/sa/orders"
	checkout  = "spiffe://example.com/ns/shop/sa/checkout"
	thief     = "spiffe://example.com/ns/shop/sa/thief"
	foreignID = "https://id"
	corp      = "https://corp"
)

var now = time.Unix(1_790_000_000, 500_000_000)

type claims = map[string]any

// key signs what it is told to.
type key struct {
	t       testing.TB
	private *ecdsa.PrivateKey
	signer  *jose.Signer
}

func newKey(t testing.TB) *key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return &key{t, private, signer}
}

func (k *key) set() *jose.Set {
	k.t.Helper()
	set, err := jose.NewSet(k.signer.Key())
	if err != nil {
		k.t.Fatal(err)
	}
	return set
}

func (k *key) jwks() json.RawMessage {
	k.t.Helper()
	text, err := k.set().MarshalJSON()
	if err != nil {
		k.t.Fatal(err)
	}
	return text
}

func (k *key) kid() string { return k.signer.Key().ID() }

// sign makes an ES256 signature over any header and payload.
func (k *key) sign(header, payload string) string {
	k.t.Helper()
	text := b64(header) + "." + b64(payload)
	return text + "." + k.signature(text)
}

func (k *key) signature(text string) string {
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, k.private, sum[:])
	if err != nil {
		k.t.Fatal(err)
	}
	var raw [64]byte
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return b64(string(raw[:]))
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// header is that of a good foreign token.
func (k *key) header() string { return `{"alg":"ES256","kid":"` + k.kid() + `","typ":"JWT"}` }

// foreign makes a token of issuer https://id; claims of the value nil are left out.
func (k *key) foreign(more ...claims) string {
	k.t.Helper()
	return k.sign(k.header(), payload(k.t, claims{
		"iss": foreignID, "sub": "alice", "exp": now.Unix() + 300, "iat": now.Unix() - 10,
	}, more...))
}

// raw makes a token with members written as given behind those of foreign.
func (k *key) raw(members string, without ...string) string {
	k.t.Helper()
	base := claims{"iss": foreignID, "sub": "alice", "exp": now.Unix() + 300}
	for _, name := range without {
		delete(base, name)
	}
	text := payload(k.t, base)
	if members != "" {
		text = strings.TrimSuffix(text, "}") + "," + members + "}"
	}
	return k.sign(k.header(), text)
}

// ours makes an own token for orders, bound to checkout.
func (k *key) ours(more ...claims) string {
	k.t.Helper()
	header := `{"alg":"ES256","kid":"` + k.kid() + `","typ":"at+jwt"}`
	return k.sign(header, payload(k.t, claims{
		"iss": ourIssuer, "sub": checkout, "aud": orders, "exp": now.Unix() + 300, "iat": now.Unix() - 10,
		"jti": "5uVb0kYQm3T1cW9ZqA2xLr", "client_id": checkout, "scope": "orders:read", "cnf": claims{"spiffe": checkout},
	}, more...))
}

func payload(t testing.TB, base claims, more ...claims) string {
	t.Helper()
	base = maps.Clone(base)
	for _, m := range more {
		maps.Copy(base, m)
	}
	maps.DeleteFunc(base, func(_ string, v any) bool { return v == nil })
	text, err := json.Marshal(base)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// world is a mesh with its own token service, an identity provider https://id that rules name,
// and one, https://corp, that is trusted for requests.
type world struct {
	t             testing.TB
	own, id, corp *key
	issuers       []grant.Issuer
	audiences     []grant.Audience
	foreign       map[Source]*jose.Set
	until         time.Time // end of the foreign keys
	book          *Book
	cache         *jose.Cache
	revoked       *revocation.Log
}

func newWorld(t testing.TB) *world {
	w := &world{
		t: t, own: newKey(t), id: newKey(t), corp: newKey(t),
		foreign: map[Source]*jose.Set{}, until: now.Add(24 * time.Hour), cache: jose.NewCache(1 << 20), revoked: revocation.NewLog(),
	}
	if err := w.revoked.Reset(nil, now); err != nil {
		t.Fatal(err)
	}
	w.revoked.Beat(now)
	return w
}

// directory holds the world's records against each other.
func (w *world) directory() *grant.Directory {
	w.t.Helper()
	d, faults := grant.New(grant.Objects{
		TrustDomain: domain, RootNamespace: "istio-system", Issuer: ourIssuer,
		Audiences: w.audiences, Issuers: w.issuers,
		Services: []grant.Service{
			{Namespace: "shop", Name: "orders", Owners: []string{orders}},
			{Namespace: "shop", Name: "returns", Owners: []string{"spiffe://example.com/ns/shop/sa/returns"}},
		},
	})
	if len(faults) > 0 {
		w.t.Fatalf("the world is at fault: %+v", faults)
	}
	return d
}

// open makes the next Book.
func (w *world) open() *Book {
	w.t.Helper()
	w.book = NewBook(Facts{
		TrustDomain: domain, Issuer: ourIssuer, Own: w.own.set(), Directory: w.directory(),
		Foreign: func(s Source) (*jose.Set, time.Time) { return w.foreign[s], w.until },
	}, w.book)
	return w.book
}

// rules are those of workload orders with the attached ones given.
func (w *world) rules(attached ...policy.TokenRule) *Rules {
	w.t.Helper()
	return w.open().For(Workload{ID: orders, Service: "shop/orders", Services: []string{"shop/orders"}, Rules: attached})
}

// r is the rule R of istio-semantics.md 13.3.
func (w *world) r(change ...func(*policy.TokenRule)) policy.TokenRule {
	w.t.Helper()
	r := policy.TokenRule{Issuer: foreignID, JWKS: w.id.jwks()}
	for _, c := range change {
		c(&r)
	}
	return r
}

// get is a request by checkout: target, then "Name: value" lines.
func (w *world) get(target string, lines ...string) *Request {
	q := &Request{
		Now: now, Method: "GET", Host: "orders.shop", Scheme: "https", Header: http.Header{},
		Presenter: jose.Presenter{ID: checkout, Fingerprint: sha256.Sum256([]byte("checkout's leaf"))},
		Cache:     w.cache, Revoked: w.revoked,
	}
	q.Path, q.Query, q.HasQuery = strings.Cut(target, "?")
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		name = http.CanonicalHeaderKey(strings.TrimSuffix(name, ":"))
		q.Header[name] = append(q.Header[name], value)
	}
	return q
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// program is the request as the application gets it.
func program(q *Request, out Outcome) *Request {
	p := *q
	p.Header = q.Header.Clone()
	p.Query, p.HasQuery = out.Query, out.HasQuery
	if out.Rest != nil {
		p.Query, p.HasQuery = out.Rest.Query, out.Rest.HasQuery
		for _, name := range out.Rest.Drop {
			delete(p.Header, name)
		}
		if out.Rest.Cookie {
			delete(p.Header, "Cookie")
			if len(out.Rest.Cookies) > 0 {
				p.Header["Cookie"] = out.Rest.Cookies
			}
		}
	}
	return &p
}

func target(q *Request) string {
	if !q.HasQuery {
		return q.Path
	}
	return q.Path + "?" + q.Query
}

// allows asks policy about what is left of the request.
func allows(t testing.TB, q *Request, out Outcome, p policy.Policy) bool {
	t.Helper()
	p.Namespace, p.Name = "shop", "p"
	compiled, faults := policy.Compile(policy.Set{
		TrustDomain: domain, RootNamespace: "istio-system", Policies: []policy.Policy{p},
	})
	if len(faults) > 0 {
		t.Fatalf("policy: %+v", faults)
	}
	peer := policy.ParsePeer(checkout, domain)
	bound := compiled.For(policy.Destination{Namespace: "shop", ServiceAccount: "orders"}).Bind(policy.Conn{Peer: &peer, Port: 80, HTTP: true})
	ask := policy.Request{
		Method: q.Method, Host: q.Host, Path: q.Path, Header: q.Header,
		Query: out.Query, HasQuery: out.HasQuery, QueryCut: out.QueryCut, Scheme: q.Scheme,
	}
	if out.Token != nil {
		ask.Token = out.Token
	}
	return bound.Decide(&ask).Allow
}

func when(k string, values ...string) policy.Policy {
	return policy.Policy{Action: policy.Allow, Rules: []policy.Rule{{When: []policy.Condition{{Key: k, Values: values}}}}}
}

func principals(values ...string) policy.Rule {
	return policy.Rule{From: []policy.Source{{RequestPrincipals: values}}}
}

func operation(methods, paths []string) policy.Rule {
	return policy.Rule{To: []policy.Operation{{Methods: methods, Paths: paths}}}
}
