package ca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/ca"
	"countersign.dev/internal/identity"
)

var td = spiffeid.RequireTrustDomainFromString("cluster.local")

func TestIssue(t *testing.T) {
	h := newHouse(t)
	a := h.open()
	node, err := identity.ForNode(td, "laptop")
	if err != nil {
		t.Fatal(err)
	}
	server, err := identity.ForServer(td, "s1")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []ca.Request{
		workload(t),
		{Profile: ca.Node, ID: node, CSR: csrOf(t, newKey(t))},
		{Profile: ca.Server, ID: server, CSR: csrOf(t, newKey(t)), DNSNames: []string{"issuer.example.org"}},
	} {
		issued, err := a.Issue(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if len(issued.Chain) != 2 {
			t.Errorf("%s: chain of %d, want leaf and issuing authority", r.Profile, len(issued.Chain))
		}
		checkGood(t, a, issued, r.ID, time.Now())
	}
}

// Every signature is recorded before it is made: of the root, the issuing authority, the leaf.
func TestRecordsBeforeSignatures(t *testing.T) {
	h := newHouse(t)
	a := h.open()
	r := workload(t)
	issued, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, rec := range h.log.last(6) {
		got = append(got, rec.Phase+" "+rec.IssuedKind+" "+rec.IssuedFor)
		if rec.Kind != audit.KindIssue || rec.Layer != audit.LayerIssue || len(rec.Serial) != 16 || rec.SPKIFP == [32]byte{} || rec.CAKey == "" || rec.NotAfter.IsZero() {
			t.Errorf("incomplete record: %+v", rec)
		}
	}
	want := []string{
		"opening ca spiffe://cluster.local", "closing ca spiffe://cluster.local",
		"opening ca spiffe://cluster.local", "closing ca spiffe://cluster.local",
		"opening x509-svid spiffe://cluster.local/ns/shop/sa/api", "closing x509-svid spiffe://cluster.local/ns/shop/sa/api",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	intent, outcome := h.log.last(2)[0], h.log.last(2)[1]
	if !bytes.Equal(intent.Serial, issued.Serial) || !bytes.Equal(outcome.Serial, issued.Serial) || intent.CertFP != [32]byte{} || outcome.CertFP == [32]byte{} {
		t.Error("intent and outcome do not name the certificate")
	}
	if intent.Entry != "shop/api" || intent.Attestor != "laptop" || len(intent.Selectors) != 1 || !bytes.Equal(intent.Replaces, []byte{9}) {
		t.Errorf("intent lacks who asked: %+v", intent)
	}

	h.log.broken(errors.New("disk full"))
	if issued, err := a.Issue(t.Context(), workload(t)); err == nil || issued != nil {
		t.Error("issued without a record")
	}
	// a whole authority comes to nothing without its records
	empty := newHouse(t)
	empty.log.broken(errors.New("disk full"))
	if _, err := empty.try(); err == nil {
		t.Error("opened without a record")
	}
	if kvs, _, err := empty.st.List(t.Context(), "ca/"); err != nil || len(kvs) != 0 {
		t.Errorf("without a record the store holds %d values, %v", len(kvs), err)
	}
}

func TestRefusalIsRecorded(t *testing.T) {
	h := newHouse(t)
	a := h.open()
	r := workload(t)
	r.TTL = time.Second
	if _, err := a.Issue(t.Context(), r); !errors.Is(err, ca.ErrRequest) {
		t.Fatalf("got %v, want ErrRequest", err)
	}
	rec := h.log.last(1)[0]
	if rec.Decision != audit.Deny || rec.Reason != "invalid_request" || rec.IssuedFor != r.ID.String() || rec.Phase != "" {
		t.Errorf("got %+v", rec)
	}
}

func TestTokenIsSpentOnce(t *testing.T) {
	a := newHouse(t).open()
	token, err := a.Prepare(workload(t), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := a.Record(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan error, 100)
	for range cap(results) {
		go func() {
			_, err := a.Sign(recorded)
			results <- err
		}()
	}
	signed := 0
	for range cap(results) {
		switch err := <-results; {
		case err == nil:
			signed++
		case !errors.Is(err, ca.ErrSpent):
			t.Errorf("got %v, want ErrSpent", err)
		}
	}
	if signed != 1 {
		t.Errorf("signed %d times, want once", signed)
	}
	again, err := a.Record(t.Context(), token) // a second record does not fill it up again
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sign(again); !errors.Is(err, ca.ErrSpent) {
		t.Errorf("recorded twice: got %v, want ErrSpent", err)
	}
}

func TestStaleTokens(t *testing.T) {
	a, other := newHouse(t).open(), newHouse(t).open()
	record := func(token *ca.Token, err error) *ca.Recorded {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		recorded, err := a.Record(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		return recorded
	}
	for name, recorded := range map[string]*ca.Recorded{
		"31 s old":          record(a.Prepare(workload(t), time.Now().Add(-31*time.Second))),
		"from the future":   record(a.Prepare(workload(t), time.Now().Add(time.Minute))),
		"another authority": record(other.Prepare(workload(t), time.Now())),
	} {
		if issued, err := a.Sign(recorded); !errors.Is(err, ca.ErrStale) || issued != nil {
			t.Errorf("%s: got %v, want ErrStale", name, err)
		}
	}
}

func TestRequestsRefused(t *testing.T) {
	a := newHouse(t).open()
	id := func(text string) func(*ca.Request) {
		return func(r *ca.Request) { r.ID = spiffeid.RequireFromString(text) }
	}
	dns := func(names ...string) func(*ca.Request) { return func(r *ca.Request) { r.DNSNames = names } }
	ttl := func(d time.Duration) func(*ca.Request) { return func(r *ca.Request) { r.TTL = d } }
	as := func(p ca.Profile) func(*ca.Request) { return func(r *ca.Request) { r.Profile = p } }
	for _, tt := range []struct {
		name string
		edit func(*ca.Request)
		want error
	}{
		{"no profile", as(""), ca.ErrRequest},
		{"an issuing authority", as(ca.Issuer), ca.ErrRequest},
		{"a root", as(ca.Root), ca.ErrRequest},
		{"no ID", func(r *ca.Request) { r.ID = spiffeid.ID{} }, ca.ErrRequest},
		{"trust domain", id("spiffe://cluster.local"), ca.ErrRequest},
		{"another domain", id("spiffe://other.test/ns/shop/sa/api"), ca.ErrRequest},
		{"another form", id("spiffe://cluster.local/shop/api"), ca.ErrRequest},
		{"capitals", id("spiffe://cluster.local/ns/Shop/sa/api"), ca.ErrRequest},
		{"label too long", id("spiffe://cluster.local/ns/shop/sa/" + strings.Repeat("a", 64)), ca.ErrRequest},
		{"reserved namespace", id("spiffe://cluster.local/ns/countersign/sa/api"), ca.ErrRequest},
		{"a node's ID", id("spiffe://cluster.local/ns/countersign/sa/node-laptop"), ca.ErrRequest},
		{"node with a workload's ID", as(ca.Node), ca.ErrRequest},
		{"server with a workload's ID", as(ca.Server), ca.ErrRequest},
		{"node with a server's ID", func(r *ca.Request) {
			as(ca.Node)(r)
			id("spiffe://cluster.local/ns/countersign/sa/server-s1")(r)
		}, ca.ErrRequest},
		{"node with DNS names", func(r *ca.Request) {
			as(ca.Node)(r)
			id("spiffe://cluster.local/ns/countersign/sa/node-a")(r)
			dns("a.test")(r)
		}, ca.ErrRequest},
		{"DNS name with a space", dns("a b"), ca.ErrRequest},
		{"DNS name empty", dns(""), ca.ErrRequest},
		{"DNS name a wildcard within", dns("a.*.example.org"), ca.ErrRequest},
		{"DNS name half a wildcard", dns("a*.example.org"), ca.ErrRequest},
		{"DNS name only a wildcard", dns("*."), ca.ErrRequest},
		{"DNS name an address", dns("10.0.0.1"), ca.ErrRequest},
		{"DNS name an IPv6 address", dns("::1"), ca.ErrRequest},
		{"DNS name too long", dns(strings.Repeat("a.", 127) + "a"), ca.ErrRequest},
		{"DNS name with an empty label", dns("a..b"), ca.ErrRequest},
		{"DNS name with a hyphen in front", dns("-a.b"), ca.ErrRequest},
		{"ttl of 9 s", ttl(9 * time.Second), ca.ErrRequest},
		{"ttl over a day", ttl(24*time.Hour + 1), ca.ErrRequest},
		{"negative ttl", ttl(-time.Hour), ca.ErrRequest},
		{"entry ends in a minute", func(r *ca.Request) { r.NotAfter = time.Now().Add(time.Minute) }, ca.ErrTooShort},
		{"entry has ended", func(r *ca.Request) { r.NotAfter = time.Now().Add(-time.Minute) }, ca.ErrTooShort},
	} {
		r := workload(t)
		tt.edit(&r)
		if token, err := a.Prepare(r, time.Now()); !errors.Is(err, tt.want) || token != nil {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestCSR(t *testing.T) {
	a := newHouse(t).open()
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	broken := csrOf(t, newKey(t))
	broken[len(broken)-1] ^= 1
	for name, der := range map[string][]byte{
		"nothing": nil, "no DER": []byte("hello"), "bad signature": broken,
		"something after it": append(csrOf(t, newKey(t)), 0), "too large": make([]byte, 9<<10),
		"P-224": csrOf(t, weak), "P-384": csrOf(t, p384), "RSA": csrOf(t, rsaKey), "Ed25519": csrOf(t, ed),
	} {
		r := workload(t)
		r.CSR = der
		if _, err := a.Prepare(r, time.Now()); !errors.Is(err, ca.ErrCSR) {
			t.Errorf("%s: got %v, want ErrCSR", name, err)
		}
	}

	// Only the public key is taken.
	key := newKey(t)
	greedy, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "root", Organization: []string{"admins"}},
		DNSNames: []string{"bank.example"},
		URIs:     []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/shop/sa/admin"}},
		ExtraExtensions: []pkix.Extension{
			{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}, // cA true
		},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	r := workload(t)
	r.CSR = greedy
	issued, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	leaf := parse(t, issued.Chain)[0]
	if leaf.IsCA || len(leaf.DNSNames) != 0 || leaf.Subject.CommonName != "api" || !key.PublicKey.Equal(leaf.PublicKey) {
		t.Errorf("the leaf says more than the entry: %v %v %v", leaf.Subject, leaf.DNSNames, leaf.IsCA)
	}
	checkGood(t, a, issued, r.ID, time.Now())
}

func TestEndsAreCut(t *testing.T) {
	a := newHouse(t).open()
	now := time.Now()
	r := workload(t)
	r.TTL, r.NotAfter = time.Hour, now.Add(31*time.Minute)
	issued, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if want := r.NotAfter.Truncate(time.Second); !issued.NotAfter.Equal(want) {
		t.Errorf("entry's end: got %v, want %v", issued.NotAfter, want)
	}
	issuer := a.Status()[1]
	token, err := a.Prepare(workload(t), issuer.NotAfter.Add(-40*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if got := token.Intent().NotAfter; !got.Equal(issuer.NotAfter) {
		t.Errorf("authority's end: got %v, want %v", got, issuer.NotAfter)
	}
	if _, err := a.Prepare(workload(t), issuer.NotAfter.Add(-time.Minute)); !errors.Is(err, ca.ErrTooShort) {
		t.Errorf("a minute before the authority's end: got %v, want ErrTooShort", err)
	}
	r = workload(t)
	r.TTL = 10 * time.Second // the shortest there is must be issuable
	if _, err := a.Issue(t.Context(), r); err != nil {
		t.Errorf("10 s: %v", err)
	}
}

// A leaf and its authority carry a real TLS connection.
func TestIssuedInTLS(t *testing.T) {
	a := newHouse(t).open()
	key := newKey(t)
	r := workload(t)
	r.CSR = csrOf(t, key)
	issued, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	side := identity.Side{
		Own: func(string) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: issued.Chain, PrivateKey: key}, nil
		},
		Trust: func() *identity.Trust { return identity.NewTrust(td, a.Bundle()) },
		Now:   time.Now,
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", identity.ServerConfig(side, tls.RequireAnyClientCert))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	served := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			err = c.(*tls.Conn).Handshake()
			c.Close()
		}
		served <- err
	}()
	c, err := tls.Dial("tcp", ln.Addr().String(), identity.ClientConfig(side, "api.shop"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
}

func BenchmarkIssue(b *testing.B) {
	a := newHouse(b).open()
	r := workload(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Issue(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	a := newHouse(b).open()
	issued, err := a.Issue(b.Context(), workload(b))
	if err != nil {
		b.Fatal(err)
	}
	chain := parse(b, issued.Chain)
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := identity.Verify(chain, identity.NewTrust(td, a.Bundle()), now); err != nil {
			b.Fatal(err)
		}
	}
}
