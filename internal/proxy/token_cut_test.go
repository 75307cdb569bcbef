package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/revocation"
)

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

func readString(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// ticking is a program whose answers never end by themselves; a WebSocket sends back what comes.
func ticking() http.Handler {
	socket := afterUpgrade(func(c net.Conn) { _, _ = io.Copy(c, c) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			socket.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		for {
			_, _ = io.WriteString(w, "tick\n")
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
}

// stream opens one over HTTP/1, HTTP/2 or gRPC and reads its first line.
func (w *tokens) stream(rt http.RoundTripper, contentType, token string) (*http.Response, *bufio.Reader) {
	w.t.Helper()
	req, _ := http.NewRequest("POST", "http://api/stream", strings.NewReader("go"))
	req.Header = http.Header{"Content-Type": {contentType}, "Authorization": {"Bearer " + token}, "X-Env": {"test"}}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = resp.Body.Close() })
	r := bufio.NewReader(resp.Body)
	if line, err := r.ReadString('\n'); err != nil || resp.StatusCode != 200 {
		w.t.Fatalf("got %d %q %v", resp.StatusCode, line, err)
	}
	return resp, r
}

// TestG8Streams: what runs with a revoked token ends, of every protocol; what runs with another
// goes on.
func TestG8Streams(t *testing.T) {
	for _, c := range []struct {
		name, contentType string
		s                 setup
		http2             bool
	}{
		{"HTTP/1", "text/plain", setup{}, false},
		{"HTTP/2", "text/plain", setup{}, true},
		{"HTTP/2 program", "text/plain", setup{protocol: "http2", h2c: true}, true},
		{"gRPC", "application/grpc", setup{protocol: "grpc", h2c: true}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.s.handler = ticking()
			w := newTokens(t, c.s)
			rt := w.client().Transport
			if c.http2 {
				rt = w.http2()
			}
			_, kept := w.stream(rt, c.contentType, w.own.ours(claims{"jti": "kept"}))
			resp, lines := w.stream(rt, c.contentType, w.own.ours(claims{"jti": "stolen"}))
			start := time.Now()
			w.revoke(revocation.Entry{Kind: revocation.ByJTI, Val: "stolen"})
			_, err := io.Copy(io.Discard, lines)
			t.Logf("ended after %v", time.Since(start))
			if grpc := c.contentType == "application/grpc"; grpc != (err == nil) || grpc && resp.Trailer.Get("Grpc-Status") != "16" {
				t.Errorf("ended with %v, trailer %v", err, resp.Trailer)
			}
			rec := w.b.record(func(r *audit.Record) bool { return r.CloseReason != "" })
			if rec.CloseReason != "token_revoked" || rec.Decision != audit.Deny || rec.Layer != audit.LayerToken || rec.Reason != "revoked" ||
				rec.Policy != "" || rec.Rule != 0 || rec.Subject == nil || rec.JTI != "stolen" {
				t.Errorf("record %+v", rec)
			}
			for range 5 {
				if _, err := kept.ReadString('\n'); err != nil {
					t.Fatalf("another's stream broke: %v", err)
				}
			}
			if status, _, _ := w.call("http://api/x", bearerLine(w.own.ours(claims{"jti": "stolen"}))); status != 401 {
				t.Errorf("the next request: %d", status)
			}
		})
	}
}

func TestG8WebSocket(t *testing.T) {
	w := newTokens(t, setup{handler: ticking()})
	open := func(token string) (net.Conn, *bufio.Reader) {
		t.Helper()
		c, r := w.raw(strings.TrimSuffix(goodHandshake, "\n") + bearerLine(token) + "\n\n")
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 {
			t.Fatalf("got %v, %v", resp, err)
		}
		return c, r
	}
	echoes := func(c net.Conn, r *bufio.Reader) error {
		_, _ = io.WriteString(c, "x")
		_, err := r.ReadByte()
		return err
	}
	keptConn, kept := open(w.own.ours(claims{"rti": "another"}))
	cut, r := open(w.own.ours())
	if err := echoes(cut, r); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	w.revoke(revocation.Entry{Kind: revocation.ByRTI, Val: "root"})
	_, err := r.ReadByte()
	t.Logf("ended with %v after %v", err, time.Since(start))
	if err == nil || isTimeout(err) {
		t.Errorf("the WebSocket outlived its token: %v", err)
	}
	rec := w.b.record(func(r *audit.Record) bool { return r.CloseReason == "token_revoked" })
	if rec.Phase != audit.PhaseClosing || rec.Decision != audit.Deny || rec.Reason != "revoked" {
		t.Errorf("record %+v", rec)
	}
	if err := echoes(keptConn, kept); err != nil {
		t.Errorf("another's WebSocket broke: %v", err)
	}
}

// A request whose token is revoked before its answer came is refused as one that comes later.
func TestRevokedBeforeAnswer(t *testing.T) {
	began := make(chan struct{}, 1)
	w := newTokens(t, setup{protocol: "grpc", h2c: true, handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-r.Context().Done()
	})})
	_, r := w.raw("GET http://api/slow HTTP/1.1\nHost: api\n" + bearerLine(w.own.ours()) + "\n\n")
	<-began
	w.revoke(revocation.Entry{Kind: revocation.BySub, Val: webID, Before: time.Now().Unix()})
	status, body, h := answerOf(t, r)
	if status != 401 || body != invalidToken || !strings.HasPrefix(h.Get("Www-Authenticate"), `Bearer realm="default/api", error="invalid_token"`) {
		t.Errorf("got %d %q %v", status, body, h)
	}
	rec := w.b.record(func(r *audit.Record) bool { return r.ID == h.Get("X-Decision-Id") })
	if rec.Layer != audit.LayerToken || rec.Reason != "revoked" || rec.Decision != audit.Deny || rec.Policy != "" {
		t.Errorf("record %+v", rec)
	}
	w.noClientRecord()
}

// TestSecRevokedMeanwhile: what comes when the token was verified, and the sweep has gone by
// before the request is among those under way, is not missed.
func TestSecRevokedMeanwhile(t *testing.T) {
	revoked := revocation.Entry{Kind: revocation.ByJTI, Val: "jti-of-the-token"}
	for name, c := range map[string]struct {
		happen func(*tokens)
		want   int
	}{
		"swept before":  {func(w *tokens) { w.revoke(revoked) }, 401},
		"sweep to come": {func(w *tokens) { w.log(revoked) }, 401},
		"with a policy": {func(w *tokens) { w.revoke(revoked); w.enforce() }, 401},
		"log not whole": {func(w *tokens) { _ = w.b.log.Add([]revocation.Entry{{Kind: "unknown"}}, time.Now()) }, 401},
		"policy alone":  {func(w *tokens) { w.allow = nobody(); w.enforce() }, 403},
		"another token": {func(w *tokens) { w.revoke(revocation.Entry{Kind: revocation.ByJTI, Val: "another"}) }, 200},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTokens(t, setup{})
			happen := func() { c.happen(w) }
			w.b.pseudonym.Store(&happen)
			if status, body, _ := w.call("http://api/x", bearerLine(w.own.ours())); status != c.want || w.b.pseudonym.Load() != nil {
				t.Errorf("got %d %q, want %d", status, body, c.want)
			}
		})
	}
}

// A policy that looks at headers decides what is under way by those it had; where none were
// kept, because no policy looked at any, it ends.
func TestPolicyChangeHeaders(t *testing.T) {
	env := func(values ...string) []policy.Rule {
		rules := allowAll()
		rules[0].When = []policy.Condition{{Key: "request.headers[x-env]", Values: values}}
		return rules
	}
	w := newTokens(t, setup{handler: ticking()})
	tr := w.client().Transport
	token := w.own.ours()
	_, lines := w.stream(tr, "text/plain", token)
	w.allow = env("test")
	w.enforce()
	if _, err := io.Copy(io.Discard, lines); err == nil {
		t.Error("a stream goes on whose headers nobody kept")
	}
	w.b.record(func(r *audit.Record) bool { return r.CloseReason == "policy_changed" })

	w.allow = allowAll()
	w.enforce()
	_, lines = w.stream(tr, "text/plain", token)
	w.allow = env()
	w.allow[0].When[0].NotValues = []string{"test"} // of no header it would hold
	w.enforce()
	if _, err := io.Copy(io.Discard, lines); err == nil {
		t.Error("a stream goes on because nobody kept its headers")
	}

	w.allow = env("test")
	w.enforce()
	_, lines = w.stream(tr, "text/plain", token)
	w.allow = env("test", "staging")
	w.enforce()
	for range 5 {
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatalf("an allowed stream broke: %v", err)
		}
	}
	w.allow = env("staging")
	w.enforce()
	if _, err := io.Copy(io.Discard, lines); err == nil {
		t.Error("a denied stream goes on")
	}
	w.allow = allowAll()
	w.allow[0].When = []policy.Condition{{Key: "request.auth.claims[scope]", Values: []string{"orders:read"}}}
	w.enforce()
	_, lines = w.stream(tr, "text/plain", token)
	w.allow[0].When[0].Values = []string{"orders:delete"}
	w.enforce()
	if _, err := io.Copy(io.Discard, lines); err == nil {
		t.Error("a stream goes on whose token no longer suffices")
	}
}
