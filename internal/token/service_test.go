package token

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/jose"
)

// S2: a store that answers nothing stops what needs it, and nothing else (tokens.md 16).
func TestS2StoreUnavailable(t *testing.T) {
	b := newBed(t)
	web, secret := b.ca.Leaf(t, webID), b.newSecret("ci")
	token := b.ask(web, "client_id", webID).text("access_token")
	raw := signed(t, b.robot, es256, b.claimsOf("robot"))
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}

	b.wantToken(b.ask(web, "client_id", webID), paymentsID)
	for _, path := range []string{pathJWKS, pathOAuth, pathOIDC} {
		if r := b.send(nil, "GET", path, ""); r.status != 200 {
			t.Errorf("%s: %d", path, r.status)
		}
	}
	if r := b.send(web, "POST", pathIntrospect, formOf("client_id", webID, "token", token)); r.body["active"] != true {
		t.Errorf("introspection: %d %s", r.status, r.raw)
	}

	for name, r := range map[string]reply{
		"private_key_jwt": b.assert(raw),
		"client_secret":   b.ask(nil, "client_id", "ci", "client_secret", secret, "audience", testReports),
		"revocation":      b.send(web, "POST", pathRevoke, formOf("client_id", webID, "token", token)),
	} {
		if r.status != 503 || r.text("error") != "temporarily_unavailable" || r.text("error_description") != textStore || r.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", name, r.status, r.raw)
		}
		if rec := b.refusal(r); rec.Decision != audit.Failed {
			t.Errorf("%s: record %+v", name, rec)
		}
	}
	if _, err := b.CreateSecret(t.Context(), "ci", time.Time{}, 0); err == nil {
		t.Error("a secret was made")
	}
}

// handled is a request of an authenticated workload, handed to the handler without a network.
func (b *bed) handled(h http.Handler, cert *tls.Certificate, chain []*x509.Certificate, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, pathToken, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.TLS = &tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: chain}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// S3: nothing is kept for a token, in memory or in the store.
func TestS3NothingKept(t *testing.T) {
	const tokens = 100_000
	b := newBed(t)
	at := b.now()
	b.Service.o.Now = func() time.Time { return at }
	web := b.ca.Leaf(t, webID)
	chain := []*x509.Certificate{web.Leaf, b.ca.Issuer}
	body := formOf("grant_type", "client_credentials", "client_id", webID)
	h := b.Handler()
	issue := func(n int) {
		for range n {
			at = at.Add(time.Second / clientRate)
			if w := b.handled(h, web, chain, body); w.Code != 200 {
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
		}
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	issue(tokens / 10) // pools, buffers and proofs are in place
	before, was := heap(), b.size()
	issue(tokens)
	if grown := int64(heap()) - int64(before); grown > tokens {
		t.Errorf("the heap grew by %d bytes over %d tokens", grown, tokens)
	}
	if now := b.size(); now != was {
		t.Errorf("the store went from %+v to %+v", was, now)
	}
}

func (b *bed) size() [2]int64 {
	st, err := b.store.Status(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return [2]int64{st.Size, st.Revision}
}

// S5: no log, no record, no error holds a credential or a token.
func TestS5Canaries(t *testing.T) {
	var log bytes.Buffer
	b := newBed(t, func(b *bed) { b.options.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
	web, secret := b.ca.Leaf(t, webID), b.newSecret("ci")
	good, bad := signed(t, b.robot, es256, b.claimsOf("robot")), signed(t, b.rival, es256, b.claimsOf("robot"))
	canaries := []string{secret, "css_canary", good, bad, base64.StdEncoding.EncodeToString([]byte("ci:" + secret))}
	var answers strings.Builder
	ask := func(r reply) {
		token := r.text("access_token")
		if token != "" {
			canaries = append(canaries, token)
		}
		answers.WriteString(strings.ReplaceAll(r.raw, token, ""))
	}
	ask(b.ask(web, "client_id", webID))
	ask(b.assert(good))
	ask(b.assert(good))
	ask(b.assert(bad))
	ask(b.send(nil, "POST", pathToken, formOf("grant_type", "client_credentials"), basic("ci", secret)))
	ask(b.send(nil, "POST", pathToken, formOf("grant_type", "client_credentials"), basic("ci", "css_canary")))
	ask(b.send(nil, "POST", pathToken+"?client_secret="+secret, formOf("grant_type", "client_credentials")))
	ask(b.send(nil, "POST", pathToken, formOf("grant_type", secret, "scope", secret, "client_id", secret, "client_secret", "css_canary")))
	ask(b.send(nil, "GET", "/"+secret, ""))
	b.store.Close()
	ask(b.send(nil, "POST", pathToken, formOf("grant_type", "client_credentials"), basic("ci", secret)))
	if err := b.records.Close(); err != nil {
		t.Fatal(err)
	}
	ask(b.ask(web, "client_id", webID))
	files, err := os.ReadDir(b.dir)
	if err != nil || len(files) == 0 {
		t.Fatal(err, len(files))
	}
	written := log.String() + answers.String()
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(b.dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		written += string(text)
	}
	if !strings.Contains(written, "assertion_replay") || !strings.Contains(written, "recording a token") {
		t.Fatal("nothing was written")
	}
	for _, c := range canaries {
		for part := range strings.SplitSeq(c, ".") {
			if strings.Contains(written, part) && part != "" {
				t.Errorf("%q was written down", part)
			}
		}
	}
}

// A signer that fails after the record: no token, and a second event.
func TestSignerFails(t *testing.T) {
	b := newBed(t, func(b *bed) {
		broken, err := jose.NewSigner(brokenKey{identitytest.NewKey(b.t)})
		if err != nil {
			b.t.Fatal(err)
		}
		b.options.Signer = func() *jose.Signer { return broken }
	})
	r := b.ask(b.ca.Leaf(t, webID), "client_id", webID)
	if r.status != 500 || r.text("error") != "server_error" {
		t.Fatalf("got %d %s", r.status, r.raw)
	}
	first, err := b.records.Find(r.header.Get("X-Request-Id"))
	if err != nil || first.Decision != audit.Allow {
		t.Fatalf("got %+v, %v", first, err)
	}
	second, ok := b.records.Refused(func(rec *audit.Record) bool { return rec.JTI == first.JTI })
	if !ok || second.Decision != audit.Failed || second.Seq == first.Seq {
		t.Errorf("got %+v", second)
	}
}

type brokenKey struct{ crypto.Signer }

func (brokenKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the key is elsewhere")
}

func TestBase62(t *testing.T) {
	for _, tc := range []struct {
		number []byte
		digits int
		want   string
	}{
		{[]byte{0}, 2, "00"}, {[]byte{61}, 1, "z"}, {[]byte{62}, 2, "10"}, {[]byte{0xff, 0xff}, 3, "H31"},
		{[]byte(strings.Repeat("\xff", 16)), 22, "7n42DGM5Tflk9n8mt7Fhc7"},
		{[]byte(strings.Repeat("\xff", 32)), 43, "yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1"},
	} {
		if got := base62([]byte(string(tc.number)), tc.digits); len(got) != tc.digits || got != tc.want {
			t.Errorf("%x: %q, want %q", tc.number, got, tc.want)
		}
	}
}
