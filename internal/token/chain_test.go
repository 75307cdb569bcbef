package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/jose"
)

const (
	corpIssuer   = "https://login.corp.example"
	corpAudience = "https://api.example.com" // of service a
)

func idOf(name string) string { return "spiffe://home.test/ns/shop/sa/" + name }

// chainBed is a bed in which the services a to j may exchange towards one another, and a takes
// tokens of a foreign issuer; its ledger runs.
type chainBed struct {
	*bed
	ledger *Ledger
	certs  map[string]*tls.Certificate
	key    *ecdsa.PrivateKey // of the service
	corp   *ecdsa.PrivateKey // of the foreign issuer
	o      grant.Objects
}

func newChainBed(t testing.TB, edits ...func(*grant.Objects)) *chainBed {
	t.Helper()
	c := &chainBed{certs: map[string]*tls.Certificate{}}
	c.key, c.corp = identitytest.NewKey(t).(*ecdsa.PrivateKey), identitytest.NewKey(t).(*ecdsa.PrivateKey)
	c.bed = newBed(t, func(b *bed) {
		c.bed, c.o = b, chainObjects()
		keys := c.setOf(c.key)
		b.options.Keys = func() *jose.Set { return keys }
		for _, edit := range edits {
			edit(&c.o)
		}
		c.useWorld()
		c.ledger = NewLedger(b.store, slog.New(slog.DiscardHandler))
		b.revoked, b.options.Revoked = c.ledger.Log(), c.ledger.Log()
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.ledger.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	c.settle()
	return c
}

// useWorld puts the objects into force.
func (c *chainBed) useWorld() {
	w := c.newWorld(c.o)
	w.Foreign = map[string]*jose.Set{corpIssuer: c.setOf(c.corp)}
	c.world.Store(w)
}

// setOf is the set of one key; the key of the service signs from now on.
func (c *chainBed) setOf(key *ecdsa.PrivateKey) *jose.Set {
	signer, err := jose.NewSigner(key)
	if err != nil {
		c.t.Fatal(err)
	}
	set, err := jose.NewSet(signer.Key())
	if err != nil {
		c.t.Fatal(err)
	}
	if key == c.key {
		c.signer = signer
	}
	return set
}

func chainObjects() grant.Objects {
	o := grant.Objects{TrustDomain: "home.test", RootNamespace: "istio-system", Issuer: testIssuer}
	names := strings.Split("abcdefghij", "")
	var targets []grant.Target
	for _, n := range names {
		targets = append(targets, grant.Target{Audience: n, Scopes: []string{"read", "write"}, DefaultScopes: []string{"read"}, Exchange: true})
	}
	both := []string{grant.GrantClientCredentials, grant.GrantTokenExchange}
	var audiences []string
	for _, n := range names {
		o.Services = append(o.Services, grant.Service{Namespace: "shop", Name: n, Owners: []string{idOf(n)}})
		a := grant.Audience{Namespace: "shop", Name: n, Service: n, Scopes: []grant.Scope{{Name: "read"}, {Name: "write"}}}
		if n == "a" {
			a.Resources = []string{corpAudience}
		}
		o.Audiences = append(o.Audiences, a)
		o.Clients = append(o.Clients, grant.Client{
			Namespace: "shop", Name: n, ClientID: idOf(n), Auth: grant.AuthSPIFFE, SPIFFEID: idOf(n), Grants: both, Targets: targets,
		})
		audiences = append(audiences, n)
	}
	o.Audiences = append(o.Audiences,
		grant.Audience{Namespace: "shop", Name: "reports", URI: testReports, AllowBearer: true, Scopes: []grant.Scope{{Name: "read"}, {Name: "write"}}},
		grant.Audience{Namespace: "shop", Name: "spring", URI: "https://spring.example", AllowBearer: true, TypJWT: true})
	bearer := []grant.Target{{Audience: testReports, Scopes: []string{"read", "write"}, Exchange: true}, {Audience: "https://spring.example", Exchange: true}}
	o.Clients = append(o.Clients,
		grant.Client{Namespace: "shop", Name: "ci", ClientID: "ci", Auth: grant.AuthSecret, Grants: both, Targets: bearer, Claims: map[string]any{"tenant": "acme"}},
		grant.Client{Namespace: "shop", Name: "auditor", ClientID: "auditor", Auth: grant.AuthSecret, Grants: both, Targets: bearer, IntrospectAny: true})
	o.Issuers = []grant.Issuer{{
		Name: "corp", Namespace: "shop", Issuer: corpIssuer, Algs: []string{"ES256"}, Audiences: []string{corpAudience},
		Uses: []grant.Use{grant.UseSubject}, Carry: []string{"role", "groups", "level", "big", "bad"},
	}}
	o.Delegations = []grant.Delegation{{
		Namespace: "shop", Name: "all", Actors: []string{"spiffe://home.test/ns/shop/*"}, Audiences: audiences,
		Origins: []string{"svid", "jwt"},
	}}
	return o
}

// settle waits until the ledger knows all that the store holds.
func (c *chainBed) settle() {
	c.t.Helper()
	rev := c.size()[1]
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		c.ledger.mu.Lock()
		at := c.ledger.rev
		c.ledger.mu.Unlock()
		if at >= rev || at > 0 && rev == 1 {
			return
		}
	}
	c.t.Fatal("the ledger does not follow")
}

func (c *chainBed) cert(name string) *tls.Certificate {
	if c.certs[name] == nil {
		c.certs[name] = c.ca.Leaf(c.t, idOf(name))
	}
	return c.certs[name]
}

// first is a token of service name for service to.
func (c *chainBed) first(name, to string) string {
	c.t.Helper()
	r := c.ask(c.cert(name), "client_id", idOf(name), "audience", to, "scope", "read write")
	if r.status != 200 {
		c.t.Fatalf("first token: %d %s", r.status, r.raw)
	}
	return r.text("access_token")
}

// exchange is an exchange by service name.
func (c *chainBed) exchange(name, subject string, pairs ...string) reply {
	c.t.Helper()
	return c.send(c.cert(name), "POST", pathToken, formOf(c.exchangeForm(name, subject, pairs...)...))
}

func (c *chainBed) exchangeForm(name, subject string, pairs ...string) []string {
	form := []string{"grant_type", grant.GrantTokenExchange, "client_id", idOf(name), "subject_token", subject}
	if !slices.Contains(pairs, "subject_token_type") {
		form = append(form, "subject_token_type", typeAccess)
	}
	return append(form, pairs...)
}

// next is the token of such an exchange, and its text.
func (c *chainBed) next(name, subject, to string, pairs ...string) (*jose.Token, string) {
	c.t.Helper()
	r := c.exchange(name, subject, append(pairs, "audience", to)...)
	return c.wantToken(r, idOf(to)), r.text("access_token")
}

// signOwn is an own token with these claims changed or, if nil, left out.
func (c *chainBed) signOwn(edits map[string]any) string {
	c.t.Helper()
	now := c.now().Unix()
	claims := map[string]any{
		"iss": testIssuer, "sub": idOf("a"), "aud": idOf("b"), "exp": now + 300, "iat": now, "jti": newJTI(), "client_id": idOf("a"),
		"scope": "read write",
	}
	return c.sign("at+jwt", claims, edits)
}

func (c *chainBed) sign(typ string, claims, edits map[string]any) string {
	c.t.Helper()
	maps.Copy(claims, edits)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return signed(c.t, c.key, map[string]any{"alg": "ES256", "kid": c.signer.Key().ID(), "typ": typ}, claims)
}

// signCorp is a token of the foreign issuer.
func (c *chainBed) signCorp(edits map[string]any) string {
	c.t.Helper()
	now := c.now().Unix()
	claims := map[string]any{
		"iss": corpIssuer, "sub": "7f3b", "aud": corpAudience, "exp": now + 3600, "iat": now, "jti": newJTI(), "scope": "read",
		"sid": "s1", "role": "customer", "auth_time": now - 10, "acr": "gold", "amr": []string{"pwd", "mfa"}, "groups": []string{"x", "y"},
	}
	maps.Copy(claims, edits)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return signed(c.t, c.corp, map[string]any{"alg": "ES256", "kid": thumbprintID(c.t, c.corp), "typ": "JWT"}, claims)
}

// wantRefusal asserts a refusal with its reason in the record.
func (c *chainBed) wantRefusal(r reply, code, text, reason, detail string) {
	c.t.Helper()
	c.want(r, 400, code, text, detail)
	if rec := c.refusal(r); rec.Reason != reason || rec.Grant != "token-exchange" {
		c.t.Errorf("the record says %q of %q, want %q", rec.Reason, rec.Grant, reason)
	}
}

// nested is an act of so many actors.
func nested(depth int) map[string]any {
	act := map[string]any{"sub": idOf("j") + fmt.Sprint(depth)}
	if depth > 1 {
		act["act"] = nested(depth - 1)
	}
	return act
}

func second(v any, _ bool) any { return v }

func thumb(cert *tls.Certificate) string {
	fp := fingerprint(cert)
	return base64.RawURLEncoding.EncodeToString(fp[:])
}
