package token

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/store"
)

// claims of a good assertion of a client, changed by edits; nil removes one.
func (b *bed) claimsOf(id string, edits ...map[string]any) map[string]any {
	now := b.now().Unix()
	c := map[string]any{"iss": id, "sub": id, "aud": testIssuer, "exp": now + 60, "iat": now, "jti": rand.Text()}
	for _, e := range edits {
		maps.Copy(c, e)
	}
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// assert asks for a token with an assertion.
func (b *bed) assert(raw string, pairs ...string) reply {
	b.t.Helper()
	return b.ask(nil, append([]string{"audience", testReports, "client_assertion_type", assertionType, "client_assertion", raw}, pairs...)...)
}

var es256 = map[string]any{"alg": "ES256"}

func TestPrivateKeyJWT(t *testing.T) {
	b := newBed(t)
	for _, header := range []map[string]any{es256, {"alg": "ES256", "kid": thumbprintID(t, b.robot)}} {
		tok := b.wantToken(b.assert(signed(t, b.robot, header, b.claimsOf("robot")), "scope", "reports:write"), testReports)
		if tok.Subject() != "robot" || tok.ClientID() != "robot" || !slices.Equal(tok.Scopes(), []string{"reports:write"}) {
			t.Errorf("got %s", tok.Payload())
		}
	}
}

// A1a, A1b, A3: every claim of an assertion that is not right is one answer.
func TestA1A3Assertions(t *testing.T) {
	b := newBed(t)
	now := b.now().Unix()
	set := func(name string, v any) map[string]any { return map[string]any{name: v} }
	for _, tc := range []struct {
		name   string
		edit   map[string]any
		detail string // "" is a token
	}{
		{"A1a no aud", set("aud", nil), "aud"},
		{"A1a other AS", set("aud", "https://other.test"), "aud"},
		{"A1a token URL", set("aud", testIssuer+pathToken), "aud"},
		{"A1a PAR URL", set("aud", testIssuer+"/oauth2/par"), "aud"},
		{"A1a issuer and slash", set("aud", testIssuer+"/"), "aud"},
		{"A1a client's own", set("aud", "robot"), "aud"},
		{"A1b issuer and evil", set("aud", []string{testIssuer, "https://evil.test"}), "aud"},
		{"A1b issuer twice", set("aud", []string{testIssuer, testIssuer}), "aud"},
		{"A1b empty list", set("aud", []string{}), "aud"},
		{"A1b list of one", set("aud", []string{testIssuer}), ""},
		{"A3a no exp", set("exp", nil), "exp"},
		{"A3a exp 5 min ago", set("exp", now-300), "exp"},
		{"A3a exp in an hour", set("exp", now+3595), ""},
		{"A3a exp + 3601", set("exp", now+3610), "exp"},
		{"A3a iat behind exp", map[string]any{"exp": now + 2, "iat": now + 6}, "iat"},
		{"A3a iat − 3601", set("iat", now-3610), "iat"},
		{"A3a iat of 1970", set("iat", 0), "iat"},
		{"A3b iat + 8", set("iat", now+8), ""},
		{"A3b nbf + 8", set("nbf", now+8), ""},
		{"A3b no iat", set("iat", nil), ""},
		{"A3c iat + 61", set("iat", now+61), "iat"},
		{"A3c nbf + 61", set("nbf", now+61), "nbf"},
		{"A3d iss is not sub", set("sub", "rival"), "claims"},
		{"A3d no sub", set("sub", nil), "claims"},
		{"A3d no jti", set("jti", nil), "claims"},
		{"A3d long jti", set("jti", strings.Repeat("x", 256)), "claims"},
		{"A3d jti of 255", set("jti", strings.Repeat("x", 255)), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b.t = t
			b.later(time.Minute) // for the limits: what is before now in the table stays so
			shift := map[string]any{}
			for k, v := range tc.edit {
				if n, ok := v.(int64); ok && n > 0 {
					v = n - now + b.now().Unix()
				}
				shift[k] = v
			}
			r := b.assert(signed(t, b.robot, es256, b.claimsOf("robot", shift)))
			if tc.detail == "" {
				b.wantToken(r, testReports)
				return
			}
			b.wantClient(r, tc.detail)
		})
	}
}

// A1b: with assertionAudience: tokenEndpoint another one value counts, instead.
func TestA1bTokenEndpoint(t *testing.T) {
	b := newBed(t)
	for _, tc := range []struct {
		aud any
		ok  bool
	}{{testIssuer + pathToken, true}, {[]string{testIssuer + pathToken, testIssuer}, false}, {testIssuer, false}} {
		r := b.assert(signed(t, b.robot, es256, b.claimsOf("legacy", map[string]any{"aud": tc.aud})))
		if tc.ok {
			b.wantToken(r, testReports)
		} else {
			b.wantClient(r, "aud")
		}
	}
}

// A3d, A3e: keys, algorithms and types of assertions.
func TestA3dKeys(t *testing.T) {
	b := newBed(t)
	pem, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rs256 := func(sum []byte) []byte {
		sig, err := rsa.SignPKCS1v15(nil, pem, crypto.SHA256, sum)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	typ := func(v string) map[string]any { return map[string]any{"alg": "ES256", "typ": v} }
	b.wantClient(b.assert(signed(t, b.rival, es256, b.claimsOf("robot"))), "sig")
	b.wantClient(b.assert(signed(t, b.rival, map[string]any{"alg": "ES256", "kid": thumbprintID(t, b.rival)}, b.claimsOf("robot"))), "kid")
	b.wantClient(b.assert(signedBy(t, map[string]any{"alg": "RS256"}, b.claimsOf("robot"), rs256)), "alg")
	b.wantClient(b.assert(signedBy(t, map[string]any{"alg": "none"}, b.claimsOf("robot"), func([]byte) []byte { return nil })), "alg")
	b.wantClient(b.assert(signed(t, b.robot, es256, b.claimsOf("robot")), "client_id", "rival"), detailUnknown)
	b.wantClient(b.assert(signed(t, b.robot, typ("at+jwt"), b.claimsOf("robot"))), "typ")
	b.wantClient(b.assert(signed(t, b.robot, es256, b.claimsOf("nobody"))), detailUnknown)
	b.wantClient(b.assert(signed(t, b.robot, es256, b.claimsOf("ci"))), detailUnknown) // method other than the record's
	b.later(time.Minute)
	b.wantClient(b.assert("nonsense"), detailUnknown)
	b.wantClient(b.ask(nil, "audience", testReports, "client_assertion_type", "urn:other", "client_assertion", signed(t, b.robot, es256, b.claimsOf("robot"))), detailMethod)
	b.wantToken(b.assert(signed(t, b.robot, typ("client-authentication+jwt"), b.claimsOf("robot"))), testReports)
	b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot")), "client_id", "robot"), testReports)
}

// A2: an assertion counts once.
func TestA2Replay(t *testing.T) {
	b := newBed(t)
	raw := signed(t, b.robot, es256, b.claimsOf("robot"))
	b.wantToken(b.assert(raw), testReports)
	b.wantClient(b.assert(raw), detailReplay)

	t.Run("A2a other replica, and after a restart", func(t *testing.T) {
		other := newBed(t, func(o *bed) {
			o.robot, o.rival = b.robot, b.rival
			o.world.Store(o.newWorld(o.objects()))
			o.options.Store = b.store
		})
		other.wantClient(other.assert(raw), detailReplay)
	})
	t.Run("A2b another client spends the same jti", func(t *testing.T) {
		jti := map[string]any{"jti": "same"}
		b.wantToken(b.assert(signed(t, b.rival, es256, b.claimsOf("rival", jti))), testReports)
		b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot", jti))), testReports)
	})
	t.Run("A2c the same jti with a wrong aud first", func(t *testing.T) {
		jti := map[string]any{"jti": "early"}
		b.wantClient(b.assert(signed(t, b.robot, es256, b.claimsOf("robot", jti, map[string]any{"aud": "x"}))), "aud")
		b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot", jti))), testReports)
	})
	t.Run("the id is remembered until exp + 10 s, with a lease", func(t *testing.T) {
		kvs, _, err := b.store.List(t.Context(), "token/jti/")
		if err != nil || len(kvs) == 0 {
			t.Fatal(err, len(kvs))
		}
		for _, kv := range kvs {
			if kv.Lease == 0 || len(kv.Value) > 0 {
				t.Errorf("%+v", kv)
			}
		}
	})
}

// A2a: of many at once, through two replicas of the embedded store, one passes.
func TestA2aRace(t *testing.T) {
	st, err := store.Embedded(t.Context(), store.EmbeddedOptions{Dir: t.TempDir() + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	one := newBed(t, func(b *bed) { b.store.Close(); b.store, b.options.Store = st, st })
	two := newBed(t, func(b *bed) {
		b.robot, b.rival = one.robot, one.rival
		b.world.Store(b.newWorld(b.objects()))
		b.options.Store = st
	})
	for round := range 5 {
		raw := signed(t, one.robot, es256, one.claimsOf("robot"))
		one.client(one.public, nil)
		two.client(two.public, nil)
		var wg sync.WaitGroup
		status := make([]int, 8)
		for i := range status {
			b := one
			if i%2 == 1 {
				b = two
			}
			wg.Go(func() { status[i] = b.assert(raw).status })
		}
		wg.Wait()
		slices.Sort(status)
		if status[0] != 200 || status[1] == 200 {
			t.Fatalf("round %d: %v", round, status)
		}
		one.later(time.Minute)
		two.later(time.Minute)
	}
}

// A lease that the store has lost costs one more, not the request.
func TestA2LostLease(t *testing.T) {
	b := newBed(t)
	b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot"))), testReports)
	for minute := range b.leases.ids {
		b.store.(*store.Mem).Expire(b.leases.ids[minute])
	}
	b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot"))), testReports)
	b.later(2 * time.Hour)
	b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot"))), testReports)
	if len(b.leases.ids) != 1 {
		t.Errorf("%d leases are kept, of which one is of use", len(b.leases.ids))
	}
}

// A4a: one method of authentication a request.
func TestA4aMethods(t *testing.T) {
	b := newBed(t)
	secret, raw := b.newSecret("ci"), signed(t, b.robot, es256, b.claimsOf("robot"))
	body := func(pairs ...string) string {
		return formOf(append([]string{"grant_type", "client_credentials", "audience", testReports}, pairs...)...)
	}
	twice := func(r *http.Request) {
		r.SetBasicAuth("ci", secret)
		r.Header.Add("Authorization", r.Header.Get("Authorization"))
	}
	for _, r := range []reply{
		b.send(nil, "POST", pathToken, body("client_id", "ci", "client_secret", secret), basic("ci", secret)),
		b.send(nil, "POST", pathToken, body("client_assertion_type", assertionType, "client_assertion", raw), basic("ci", secret)),
		b.send(nil, "POST", pathToken, body("client_secret", secret, "client_assertion_type", assertionType, "client_assertion", raw)),
		b.send(nil, "POST", pathToken, body(), twice),
	} {
		b.want(r, 400, "invalid_request", textMethods, "")
		if r.header.Get("WWW-Authenticate") != "" {
			t.Error("a challenge beside another error")
		}
	}
}

// A4b: Basic in both spellings, ids with colons, and in the body.
func TestA4bBasic(t *testing.T) {
	b := newBed(t)
	body := formOf("grant_type", "client_credentials", "audience", testReports)
	for id, spellings := range map[string][]string{"ci": {"ci", "%63i"}, "team:ci:1": {"team:ci:1", "team%3Aci%3A1"}} {
		secret := b.newSecret(id)
		for _, user := range spellings {
			for _, pass := range []string{secret, strings.Replace(secret, "_", "%5F", 1)} {
				tok := b.wantToken(b.send(nil, "POST", pathToken, body, basic(user, pass)), testReports)
				if tok.Subject() != id {
					t.Errorf("sub is %q", tok.Subject())
				}
			}
		}
		b.wantToken(b.ask(nil, "audience", testReports, "client_id", id, "client_secret", secret), testReports)
		b.wantToken(b.send(nil, "POST", pathToken, body+"&client_id="+id, basic(id, secret)), testReports)
	}
}

// A4c, A7: what is no secret of this client.
func TestA4cSecrets(t *testing.T) {
	b := newBed(t)
	secret := b.newSecret("ci")
	off := b.newSecret("off")
	body := formOf("grant_type", "client_credentials", "audience", testReports)
	header := func(v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set("Authorization", v) } }
	for _, tc := range []struct {
		name, detail string
		edit         func(*http.Request)
		body         string
	}{
		{"empty secret", detailSecret, basic("ci", ""), ""},
		{"wrong secret", detailSecret, basic("ci", "css_wrong"), ""},
		{"hash as secret", detailSecret, basic("ci", "css_"), ""},
		{"no such client", detailUnknown, basic("nobody", secret), ""},
		{"A7 another client's secret", detailSecret, basic("team:ci:1", secret), ""},
		{"A7 two ids", detailUnknown, basic("ci", secret), "&client_id=robot"},
		{"method other than registered", detailMethod, basic("robot", secret), ""},
		{"secret of a SPIFFE client", detailMethod, basic(strings.ReplaceAll(webID, ":", "%3A"), secret), ""},
		{"disabled", detailDisabled, basic("off", off), ""},
		{"Bearer", detailMethod, header("Bearer " + secret), ""},
		{"no colon", detailMethod, header("Basic " + base64.StdEncoding.EncodeToString([]byte("ci"))), ""},
		{"not base64", detailMethod, header("Basic ci:" + secret), ""},
		{"bad escape", detailMethod, basic("ci", secret+"%zz"), ""},
		{"NUL", detailMethod, basic("ci\x00", secret), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b.t = t
			b.later(time.Minute)
			r := b.send(nil, "POST", pathToken, body+tc.body, tc.edit)
			b.wantClient(r, tc.detail)
			if got := r.header.Get("WWW-Authenticate"); got != `Basic realm="`+testIssuer+`"` {
				t.Errorf("the challenge is %q", got)
			}
		})
	}
	b.t = t
	for _, pairs := range [][]string{{"client_id", "ci", "client_secret", "css_wrong"}, {"client_id", "ci", "client_secret", ""}, {"client_id", "ci"}, {}} {
		r := b.ask(nil, append(pairs, "audience", testReports)...)
		if r.status != 401 || r.header.Get("WWW-Authenticate") != "" {
			t.Errorf("%v: got %d, challenge %q", pairs, r.status, r.header.Get("WWW-Authenticate"))
		}
	}
}

// A4d: an unknown client is answered as a wrong secret, byte for byte but for the request id.
func TestA4dUnknownClient(t *testing.T) {
	b := newBed(t)
	b.newSecret("ci")
	body := formOf("grant_type", "client_credentials", "audience", testReports)
	strip := func(r reply) string {
		h := r.header.Clone()
		h.Del("X-Request-Id")
		h.Del("Date")
		var out strings.Builder
		if err := h.Write(&out); err != nil {
			t.Fatal(err)
		}
		return out.String() + r.raw
	}
	known := make([]reply, 0, 20)
	for i := range 20 { // past the limit of a client, too
		known = append(known, b.send(nil, "POST", pathToken, body, basic("ci", "css_wrong")))
		if i == 0 {
			b.wantClient(known[0], detailSecret)
		}
	}
	b.later(time.Hour)
	for i := range 20 {
		unknown := b.send(nil, "POST", pathToken, body, basic("no", "css_wrong"))
		if got, want := strip(unknown), strip(known[i]); got != want {
			t.Fatalf("attempt %d:\n%s\nwant\n%s", i, got, want)
		}
	}
}

// A4e: rotation with overlap; two secrets at most; nothing is kept in clear.
func TestA4eRotation(t *testing.T) {
	b := newBed(t)
	try := func(secret string) int {
		return b.ask(nil, "audience", testReports, "client_id", "ci", "client_secret", secret).status
	}
	first := b.newSecret("ci")
	b.later(time.Hour)
	second := b.newSecret("ci")
	if try(first) != 200 || try(second) != 200 {
		t.Fatal("a secret inside the overlap was refused")
	}
	b.later(DefaultOverlap + time.Second)
	if try(first) != 401 || try(second) != 200 {
		t.Fatal("the old secret counts behind the overlap, or the new one does not")
	}
	third, fourth := b.newSecret("ci"), b.newSecret("ci")
	if try(second) != 401 || try(third) != 200 || try(fourth) != 200 {
		t.Fatal("more than two secrets count, or fewer")
	}
	list, err := b.Secrets(t.Context(), "ci")
	if err != nil || len(list) != 2 || !list[0].Expires.Before(list[1].Expires) {
		t.Fatalf("got %v, %v", list, err)
	}
	fifth, err := b.CreateSecret(t.Context(), "ci", b.now().Add(time.Hour), 0)
	if err != nil || try(fourth) != 401 || try(fifth) != 200 {
		t.Fatalf("without overlap: %v", err)
	}
	b.later(time.Hour + time.Second)
	if try(fifth) != 401 {
		t.Fatal("a secret counts behind its end")
	}
	for _, end := range []time.Time{b.now(), b.now().Add(-time.Second), b.now().Add(366 * 24 * time.Hour)} {
		if _, err := b.CreateSecret(t.Context(), "ci", end, 0); err == nil {
			t.Errorf("a secret until %s was made", end)
		}
	}
	if len(first) != len("css_")+43 || !strings.HasPrefix(first, "css_") || first == second {
		t.Errorf("secrets %q", first)
	}
	sixth := b.newSecret("ci")
	if err := b.DropClient(t.Context(), "ci"); err != nil || try(sixth) != 401 {
		t.Fatalf("the secret of a dropped client counts: %v", err)
	}
	b.newSecret("ci")
	kvs, _, err := b.store.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		if strings.Contains(string(kv.Value), "css_") {
			t.Errorf("%s holds a secret in clear", kv.Key)
		}
	}
}

// Go's x/oauth2 in automatic style: Basic with an empty password, 401, then in the body; the
// first is no failed attempt.
func TestAutomaticStyle(t *testing.T) {
	b := newBed(t)
	secret, web := b.newSecret("ci"), b.ca.Leaf(t, webID)
	for range 3 * failureBurst {
		b.later(100 * time.Millisecond)
		b.wantClient(b.send(nil, "POST", pathToken, formOf("grant_type", "client_credentials", "audience", testReports), basic("ci", "")), detailSecret)
	}
	b.wantToken(b.ask(nil, "audience", testReports, "client_id", "ci", "client_secret", secret), testReports)
	b.wantClient(b.send(web, "POST", pathToken, formOf("grant_type", "client_credentials"), basic(strings.ReplaceAll(webID, ":", "%3A"), "")), detailSecret)
	b.wantToken(b.ask(web, "client_id", webID), paymentsID)
}

// A5a, A5b: certificates that prove nobody.
func TestA5Certificates(t *testing.T) {
	b := newBed(t)
	stranger := identitytest.New(t, "stranger.test", time.Now())
	forged := identitytest.New(t, "other.test", time.Now())
	impostor := identitytest.New(t, "home.test", time.Now())
	edit := func(f func(*x509.Certificate)) *tls.Certificate { return b.ca.Leaf(t, webID, f) }
	san := func(names ...asn1.RawValue) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{identitytest.SAN(names...)} }
	}
	name := func(tag int, v string) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(v)}
	}
	for _, tc := range []struct {
		name, detail string
		cert         *tls.Certificate
	}{
		{"A5a unknown trust domain", "wrong_trust_domain", stranger.Leaf(t, "spiffe://stranger.test/ns/shop/sa/web")},
		{"A5a signed by another domain's CA", "unknown_ca", b.other.Leaf(t, webID)},
		{"A5a CA of the same name", "unknown_ca", impostor.Leaf(t, webID)},
		{"A5a federated domain's name by another CA", "unknown_ca", forged.Leaf(t, "spiffe://other.test/ns/a/sa/b")},
		{"A5b two URIs", "bad_san", edit(san(name(6, webID), name(6, plainID)))},
		{"A5b no URI", "bad_san", edit(san(name(2, "web.shop")))},
		{"A5b CA leaf", "ca_leaf", edit(func(c *x509.Certificate) { c.IsCA = true })},
		{"A5b keyCertSign", "ca_leaf", edit(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })},
		{"A5b serverAuth only", "bad_usage", edit(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })},
		{"A5b clientAuth only", "bad_usage", edit(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })},
		{"A5b expired", "expired", edit(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })},
		{"A5b not yet valid", "not_yet_valid", edit(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b.t = t
			b.limits.failedClient.due = map[uint64]int64{}
			b.limits.failedSource.due = map[uint64]int64{}
			b.wantClient(b.ask(tc.cert, "client_id", webID, "audience", "payments"), tc.detail)
		})
	}
	b.t = t
	b.wantToken(b.ask(edit(san(name(2, "web.shop"), name(6, webID))), "client_id", webID), paymentsID)
}

// A5a: the chain is judged on every request, for connections outlive certificates.
func TestA5aKeptAlive(t *testing.T) {
	b := newBed(t)
	web := b.ca.Leaf(t, webID)
	b.wantToken(b.ask(web, "client_id", webID), paymentsID)
	b.later(61 * time.Minute)
	b.wantClient(b.ask(web, "client_id", webID), "expired")
}

// A5c: which names a certificate may go by.
func TestA5cClientID(t *testing.T) {
	b := newBed(t)
	web := b.ca.Leaf(t, webID)
	for _, id := range []string{
		plainID, strings.ToUpper(webID), webID + "/", strings.Replace(webID, "web", "%2e", 1),
		"spiffe://home.test/ns/shop/sa/x/../web", "spiffe://HOME.test/ns/shop/sa/web", "ci", "robot", "bound", "nobody",
	} {
		b.later(time.Second)
		b.wantClient(b.ask(web, "client_id", id, "audience", "payments"), detailUnknown)
	}
	b.wantClient(b.ask(web, "audience", "payments"), detailUnknown)
	b.wantClient(b.ask(nil, "client_id", webID), detailMethod)
	b.wantToken(b.ask(b.ca.Leaf(t, "spiffe://home.test/ns/shop/sa/bound"), "client_id", "bound"), "spiffe://home.test/ns/shop/sa/orders")
	b.wantToken(b.ask(b.other.Leaf(t, "spiffe://other.test/ns/a/sa/b"), "client_id", "partner"), paymentsID)
}

// A5g: a pattern matches whole segments, and another trust domain only exactly.
func TestA5gPrefix(t *testing.T) {
	b := newBed(t)
	for id, ok := range map[string]bool{"spiffe://home.test/x1": false, "spiffe://home.test/x": false, "spiffe://home.test/x/1/2": true, "spiffe://home.test/x/1": true} {
		r := b.ask(b.ca.Leaf(t, id), "client_id", "fleet")
		if ok {
			if tok := b.wantToken(r, paymentsID); tok.ClientID() != "fleet" {
				t.Errorf("client_id is %q", tok.ClientID())
			}
		} else {
			b.wantClient(r, detailUnknown)
		}
	}
	o := b.objects()
	o.Clients = append(o.Clients, grant.Client{
		Namespace: "shop", Name: "abroad", ClientID: "abroad", Auth: grant.AuthSPIFFE, SPIFFEID: "spiffe://other.test/y/*",
		Grants: []string{grant.GrantClientCredentials}, Targets: []grant.Target{{Audience: "payments"}},
	})
	b.world.Store(b.newWorld(o))
	b.wantClient(b.ask(b.other.Leaf(t, "spiffe://other.test/y/1"), "client_id", "abroad"), detailUnknown)
}

// A6d: workloads without a record, and the servers and nodes that are none.
func TestA6dImplicit(t *testing.T) {
	b := newBed(t)
	plain := b.ca.Leaf(t, plainID)
	tok := b.wantToken(b.ask(plain, "client_id", plainID, "audience", "payments"), paymentsID)
	if kind, id := tok.Binding(); tok.Subject() != plainID || kind != "spiffe" || id != plainID || len(tok.Scopes()) > 0 {
		t.Errorf("got %v", tok.Values())
	}
	b.want(b.ask(plain, "client_id", plainID, "audience", testReports), 400, "invalid_target", textTarget, "")
	b.want(b.ask(plain, "client_id", plainID, "audience", "payments", "scope", "payments:create"), 400, "invalid_scope", textScope, "")
	for _, id := range []string{"spiffe://home.test/ns/countersign/sa/server", "spiffe://home.test/ns/countersign/sa/node"} {
		b.wantClient(b.ask(b.ca.Leaf(t, id), "client_id", id, "audience", "payments"), detailUnknown)
	}
	federated := "spiffe://other.test/ns/shop/sa/web"
	b.wantClient(b.ask(b.other.Leaf(t, federated), "client_id", federated, "audience", "payments"), detailUnknown)
}

// A certificate beside another method binds, and authenticates nobody (RFC 8705, section 4).
func TestCertificateBindsOnly(t *testing.T) {
	b := newBed(t, func(b *bed) {
		o := b.objects()
		i := slices.IndexFunc(o.Clients, func(c grant.Client) bool { return c.ClientID == "ci" })
		o.Clients[i].Binding = grant.BindCertificate
		b.world.Store(b.newWorld(o))
	})
	secret, web := b.newSecret("ci"), b.ca.Leaf(t, webID)
	tok := b.wantToken(b.ask(web, "client_id", "ci", "client_secret", secret, "audience", testReports), testReports)
	if kind, _ := tok.Binding(); tok.Subject() != "ci" || kind != "x5t#S256" {
		t.Errorf("got %v", tok.Values())
	}
	if err := tok.Bound(jose.Presenter{Fingerprint: fingerprint(web)}); err != nil {
		t.Error(err)
	}
	b.want(b.ask(nil, "client_id", "ci", "client_secret", secret, "audience", testReports), 400, "invalid_request", textProof, detailBinding)
}
