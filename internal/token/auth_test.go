package token

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/jose"
)

// P7: what header fields say of a certificate, of an identity or of an address is not read.
func TestP7ForwardedHeaders(t *testing.T) {
	b := newBed(t)
	web := b.ca.Leaf(t, webID)
	other := b.ca.Leaf(t, plainID)
	der := base64.StdEncoding.EncodeToString(other.Leaf.Raw)
	forward := func(id string) func(*http.Request) {
		return func(r *http.Request) {
			fp := fingerprint(other)
			xfcc := "By=spiffe://home.test/ns/countersign/sa/server;Hash=" + hex.EncodeToString(fp[:]) + ";URI=" + id
			r.Header["X-Forwarded-Client-Cert"] = []string{xfcc, xfcc}
			for _, name := range []string{"Client-Cert", "Client-Cert-Chain"} { // RFC 9440
				r.Header.Set(name, ":"+der+":")
			}
			for _, name := range []string{"X-Client-Cert", "X-SSL-Client-Cert", "X-SSL-Cert", "X-ARR-ClientCert", "X-Amzn-Mtls-Clientcert"} {
				r.Header.Set(name, der)
			}
			for _, name := range []string{"X-Countersign-Peer", "X-Countersign-Subject", "X-SSL-Client-S-DN", "X-Forwarded-User", "X-Remote-User"} {
				r.Header.Set(name, id)
			}
			for _, name := range []string{"X-Forwarded-For", "X-Real-IP", "True-Client-IP"} {
				r.Header.Set(name, "203.0.113.7")
			}
			r.Header.Set("Forwarded", "for=203.0.113.7")
		}
	}
	form := func(id, to string) string {
		return formOf("grant_type", "client_credentials", "client_id", id, "audience", to)
	}
	for _, id := range []string{webID, plainID} { // nobody is proven by them
		r := b.send(nil, "POST", pathToken, form(id, "payments"), forward(id))
		b.wantClient(r, detailMethod)
		if rec := b.refusal(r); rec.SrcIP.String() != "127.0.0.1" || rec.PeerID != "" {
			t.Errorf("the record says %s, %q", rec.SrcIP, rec.PeerID)
		}
	}
	tok := b.wantToken(b.send(web, "POST", pathToken, form(webID, "payments"), forward(plainID)), paymentsID)
	if kind, value := tok.Binding(); tok.Subject() != webID || kind != "spiffe" || value != webID {
		t.Errorf("sub %s, cnf %s %s", tok.Subject(), kind, value)
	}
	b.wantClient(b.send(web, "POST", pathToken, form(plainID, "payments"), forward(plainID)), detailUnknown)

	at := b.now() // nor is a source another one
	b.Service.o.Now = func() time.Time { return at }
	drain(&b.limits.stranger, b.limits.key("127.0.0.1"), at)
	b.answers(b.send(nil, "GET", pathJWKS, "", forward(webID)), 429, "temporarily_unavailable", textRate)
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
