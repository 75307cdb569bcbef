package token

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/grant"
)

func TestLimit(t *testing.T) {
	at := time.Unix(1_790_000_000, 0)
	l := limit{every: time.Second, burst: 3, kept: 2, due: map[uint64]int64{}}
	take := func(key uint64) (n int) {
		for l.take(key, at) {
			n++
		}
		return n
	}
	if got := take(1); got != 3 {
		t.Errorf("a full bucket gave %d", got)
	}
	at = at.Add(2 * time.Second)
	if got := take(1); got != 2 {
		t.Errorf("after two seconds it gave %d", got)
	}
	for range 5 {
		if !l.left(2, at) {
			t.Fatal("left takes")
		}
	}
	if take(2) != 3 || l.left(2, at) {
		t.Error("take does not, or left says otherwise")
	}
	// No place: whoever comes now shares one bucket, and those with a place keep theirs.
	if got := take(3) + take(4) + take(5); got != 3 || len(l.due) != 3 {
		t.Errorf("without a place: %d, %d kept", got, len(l.due))
	}
	at = at.Add(time.Second)
	if got := take(1); got != 1 {
		t.Errorf("who has a place got %d", got)
	}
	at = at.Add(time.Minute) // all are full again, so none is kept
	if got := take(6); got != 3 || len(l.due) != 1 {
		t.Errorf("after a minute: %d, %d kept", got, len(l.due))
	}
	at = at.Add(-time.Hour) // a clock that goes back
	if got := take(7); got != 3 {
		t.Errorf("an hour ago: %d", got)
	}
}

// S20: failures of others never limit a correct credential; what fails is limited, and a client
// that asks too often is by itself.
func TestSecLimitsNoLockout(t *testing.T) {
	b := newBed(t)
	at := b.now()
	b.options.Now = func() time.Time { return at }
	b.Service.o.Now = b.options.Now
	secret := b.newSecret("ci")
	limited := 0
	for range 300 {
		r := b.ask(nil, "client_id", "ci", "client_secret", "css_wrong", "audience", testReports)
		switch r.status {
		case 401:
			if limited > 0 {
				t.Fatal("a failure beyond the limit was answered")
			}
		case 429:
			if limited == 0 {
				b.answers(r, 429, "temporarily_unavailable", textRate)
				if r.header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
			}
			limited++
		default:
			t.Fatalf("got %d %s", r.status, r.raw)
		}
	}
	if limited != 300-failureBurst {
		t.Errorf("%d of 300 were limited", limited)
	}
	b.answers(b.send(nil, "POST", pathToken, "a=1&a=2"), 429, "temporarily_unavailable", textRate)
	b.wantToken(b.ask(nil, "client_id", "ci", "client_secret", secret, "audience", testReports), testReports)
	b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot"))), testReports)

	for range clientBurst - 1 {
		if r := b.ask(nil, "client_id", "ci", "client_secret", secret, "audience", testReports); r.status != 200 {
			t.Fatalf("got %d %s", r.status, r.raw)
		}
	}
	b.answers(b.ask(nil, "client_id", "ci", "client_secret", secret, "audience", testReports), 429, "temporarily_unavailable", textRate)
	b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot"))), testReports)
	at = at.Add(time.Second)
	b.wantToken(b.ask(nil, "client_id", "ci", "client_secret", secret, "audience", testReports), testReports)
}

// S20, tokens.md 17: what fails under one name takes nothing from another of the same source, and
// names that do not exist are one name.
func TestSecLimitsNoLockoutAssertions(t *testing.T) {
	b := newBed(t)
	at := b.now()
	b.Service.o.Now = func() time.Time { return at }
	const source = "127.0.0.1"
	secret, key, robot := b.newSecret("ci"), b.limits.key(source), b.world.Load().Directory.Client("robot")
	bad := signed(t, b.rival, es256, b.claimsOf("robot"))
	for range 420 {
		if r := b.assert(bad); r.status == 200 {
			t.Fatal("a bad signature passed")
		}
	}
	rival := func() reply { return b.assert(signed(t, b.rival, es256, b.claimsOf("rival"))) }
	passes := func() {
		t.Helper()
		b.wantToken(rival(), testReports)
		b.wantToken(b.ask(nil, "client_id", "ci", "client_secret", secret, "audience", testReports), testReports)
	}
	passes()
	if b.limits.signature.left(b.limits.assertionKey(source, robot), at) {
		t.Error("the budget of the name was not taken")
	}
	b.answers(b.assert(signed(t, b.robot, es256, b.claimsOf("robot"))), 429, "temporarily_unavailable", textRate)

	for i := range signatureBurst + 50 {
		b.assert(signed(t, b.rival, es256, b.claimsOf(fmt.Sprint("nobody-", i))))
	}
	if b.limits.signature.left(b.limits.assertionKey(source, nil), at) {
		t.Error("invented names have a budget each")
	}
	if left := drain(&b.limits.signatures, key, at); left != (sourceSignatures-2)*signatureBurst {
		t.Errorf("the source has %d left, after two names used up theirs", left)
	}
	passes() // the source has none left, but nothing failed under these names
	for range failureBurst {
		b.assert(signed(t, b.robot, es256, b.claimsOf("rival")))
	}
	b.answers(rival(), 429, "temporarily_unavailable", textRate) // its own failures, beyond what the source has
	at = at.Add(time.Second)
	passes()
	b.wantToken(b.assert(signed(t, b.robot, es256, b.claimsOf("robot"))), testReports)
}

// drain takes what a bucket has.
func drain(l *limit, key uint64, at time.Time) (n int) {
	for l.take(key, at) {
		n++
	}
	return n
}

// Every limit of a client or a source answers 429 at its constants, once they are used up, and
// passes again when they are not.
func TestLimitConstants(t *testing.T) {
	c := newChainBed(t)
	at := c.now()
	c.Service.o.Now = func() time.Time { return at }
	source, a := c.limits.key("127.0.0.1"), c.limits.key(idOf("a"))
	raw := c.first("a", "b")
	for _, tc := range []struct {
		name        string
		limit       *limit
		key         uint64
		rate, burst int
		ask         func() reply
		passes      int // status of what is not limited
	}{
		{"clientRate", &c.limits.client, a, clientRate, clientBurst, func() reply { return c.ask(c.cert("a"), "client_id", idOf("a"), "audience", "b") }, 200},
		{"exchangeRate", &c.limits.exchange, a, exchangeRate, exchangeBurst, func() reply { return c.exchange("a", raw, "audience", "b") }, 200},
		{"introspectRate", &c.limits.introspect, a, introspectRate, introspBurst, func() reply { return c.introspects("a", raw) }, 200},
		{"strangerRate", &c.limits.stranger, source, strangerRate, strangerBurst, func() reply { return c.send(nil, "GET", pathJWKS, "") }, 200},
		{"failureRate of a source", &c.limits.failedSource, source, failureRate, failureBurst, func() reply { return c.ask(nil, "client_id", "x", "client_secret", "css_wrong") }, 401},
		{"failureRate of a client", &c.limits.failedClient, c.limits.key("y"), failureRate, failureBurst, func() reply { return c.ask(nil, "client_id", "y", "client_secret", "css_wrong") }, 401},
	} {
		t.Run(tc.name, func(t *testing.T) {
			at = at.Add(time.Minute)
			if n := drain(tc.limit, tc.key, at); n != tc.burst {
				t.Errorf("%d at once, want %d", n, tc.burst)
			}
			c.answers(tc.ask(), 429, "temporarily_unavailable", textRate)
			at = at.Add(time.Second)
			if n := drain(tc.limit, tc.key, at); n != tc.rate {
				t.Errorf("%d a second, want %d", n, tc.rate)
			}
			c.answers(tc.ask(), 429, "temporarily_unavailable", textRate)
			at = at.Add(time.Second)
			if r := tc.ask(); r.status != tc.passes {
				t.Errorf("a second later: %d %s", r.status, r.raw)
			}
		})
	}
}

// What strangers fill is bounded by strangersKept, what the proven need by clientsKept, each by
// itself: beyond, all share one bucket, and who has a place keeps it.
func TestLimitsKept(t *testing.T) {
	b := newBed(t)
	l, at := &b.limits, b.now()
	for _, of := range []struct {
		kept   int
		limits []*limit
	}{
		{strangersKept, []*limit{&l.stranger, &l.failedSource, &l.failedClient, &l.signature, &l.signatures, &l.firstChecks}},
		{clientsKept, []*limit{&l.client, &l.exchange, &l.introspect}},
	} {
		for i, limit := range of.limits {
			for key := range uint64(of.kept) {
				if !limit.take(key+1, at) {
					t.Fatalf("limit %d: bucket %d is not its own", i, key)
				}
			}
			if n := drain(limit, uint64(of.kept)+1, at); n != limit.burst || limit.take(uint64(of.kept)+2, at) {
				t.Errorf("limit %d: beyond %d names, %d of %d pass together", i, of.kept, n, limit.burst)
			}
			if len(limit.due) != of.kept+1 || !limit.take(1, at) {
				t.Errorf("limit %d: %d are kept", i, len(limit.due))
			}
		}
	}
}

// On loopback the source is who holds the socket; of a proven peer it is the identity, and
// elsewhere the address.
func TestLoopbackSource(t *testing.T) {
	asked := 0
	b := newBed(t, func(b *bed) {
		b.options.PeerOf = func(r *http.Request) string { asked++; return r.Header.Get("Test-User") }
	})
	at := b.now()
	b.Service.o.Now = func() time.Time { return at }
	user := func(name string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Test-User", name) }
	}
	drain(&b.limits.stranger, b.limits.key("uid 1000"), at)
	b.answers(b.send(nil, "GET", pathJWKS, "", user("uid 1000")), 429, "temporarily_unavailable", textRate)
	for _, other := range []string{"uid 1001", ""} {
		if r := b.send(nil, "GET", pathJWKS, "", user(other)); r.status != 200 {
			t.Errorf("user %q: %d", other, r.status)
		}
	}
	drain(&b.limits.stranger, b.limits.key("127.0.0.1"), at)
	b.answers(b.send(nil, "GET", pathJWKS, "", user("")), 429, "temporarily_unavailable", textRate)

	asked = 0
	if r := b.send(b.ca.Leaf(t, webID), "GET", pathJWKS, "", user("uid 1000")); r.status != 200 {
		t.Errorf("a proven peer: %d", r.status)
	}
	for _, from := range []string{"192.0.2.1:1", "[2001:db8::1]:1"} {
		r, w := httptest.NewRequest("GET", pathJWKS, nil), httptest.NewRecorder()
		r.RemoteAddr = from
		user("uid 1000")(r)
		if b.Handler().ServeHTTP(w, r); w.Code != 200 {
			t.Errorf("from %s: %d", from, w.Code)
		}
	}
	if asked != 0 {
		t.Error("who holds a socket was asked of what is not loopback, or proven")
	}
}

// At most signaturesPerCore × cores are in flight; the next waits, then learns that this is why.
func TestMintConcurrency(t *testing.T) {
	b := newBed(t)
	if cap(b.signing) != signaturesPerCore*runtime.GOMAXPROCS(0) {
		t.Fatalf("%d places", cap(b.signing))
	}
	web := b.ca.Leaf(t, webID)
	for range cap(b.signing) - 1 {
		b.signing <- struct{}{}
	}
	b.wantToken(b.ask(web, "client_id", webID), paymentsID)
	b.signing <- struct{}{}
	began := time.Now()
	r := b.ask(web, "client_id", webID)
	b.want(r, 503, "temporarily_unavailable", textRate, "")
	rec := b.refusal(r)
	if rec.Decision != audit.Limited || rec.Layer != audit.LayerLimit || rec.Reason != reasonConcurrency || r.header.Get("Retry-After") != "1" {
		t.Errorf("record %+v, Retry-After %q", rec, r.header.Get("Retry-After"))
	}
	if rec.ClientID != webID || rec.JTI != "" || rec.IssuedKind != "" || time.Since(began) < signatureWait {
		t.Errorf("record %+v after %s", rec, time.Since(began))
	}
	<-b.signing
	b.wantToken(b.ask(web, "client_id", webID), paymentsID)
}

// slow is a file of records whose disk waits for free.
type slow struct {
	Recorder
	free chan struct{}
}

func (s slow) Write(ctx context.Context, rec *audit.Record) error {
	select {
	case <-s.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.Recorder.Write(ctx, rec)
}

// A slow disk is no rate limit: what finds no place because records wait is told that, and no
// more than the places wait.
func TestSlowRecords(t *testing.T) {
	free := make(chan struct{})
	b := newBed(t, func(b *bed) { b.options.Records = slow{b.records, free} })
	web := b.ca.Leaf(t, webID)
	b.client(b.mtls, web)
	replies := make(chan reply)
	for range cap(b.signing) {
		go func() { replies <- b.ask(web, "client_id", webID) }()
	}
	for end := time.Now().Add(10 * time.Second); int(b.recording.Load()) < cap(b.signing); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the requests do not come")
		}
	}
	r := b.ask(web, "client_id", webID)
	b.want(r, 503, "temporarily_unavailable", textStore, detailRecord)
	if rec := b.refusal(r); rec.Decision != audit.Failed || rec.Layer != audit.LayerIssue || rec.JTI != "" || r.header.Get("Retry-After") != "5" {
		t.Errorf("record %+v", rec)
	}
	close(free)
	for range cap(b.signing) {
		b.wantToken(<-replies, paymentsID)
	}
	if b.recording.Load() != 0 || len(b.signing) != 0 {
		t.Error("a place was not given back")
	}
}

// The record of a token that could not be written down says nothing of that token; once the
// request has ended the first record may yet be written, so it is another event.
func TestUnrecorded(t *testing.T) {
	b := newBed(t, func(b *bed) { b.options.Records = slow{b.records, nil} })
	web := b.ca.Leaf(t, webID)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, pathToken, strings.NewReader(formOf("grant_type", "client_credentials", "client_id", webID)))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.TLS = &tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{web.Leaf, b.ca.Issuer}}
	w := httptest.NewRecorder()
	b.Handler().ServeHTTP(w, r)
	if w.Code != 503 || !strings.Contains(w.Body.String(), textStore) {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	rec, ok := b.records.Refused(func(rec *audit.Record) bool { return rec.Detail == detailRecord })
	if !ok || rec.ID == w.Header().Get("X-Request-Id") {
		t.Fatalf("record %+v", rec)
	}
	if rec.Decision != audit.Failed || rec.ClientID != webID || rec.Auth != "mtls" || rec.Grant != grant.GrantClientCredentials || rec.Audience != paymentsID {
		t.Errorf("the record does not say who asked for what: %+v", rec)
	}
	if rec.JTI != "" || rec.KID != "" || rec.IssuedKind != "" || rec.Binding != "" || rec.Sub != "" || !rec.TokenExp.IsZero() {
		t.Errorf("the record speaks of a token: %+v %+v", rec, rec.Subject)
	}
}
