package proxy

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"countersign.dev/internal/audit"
)

// attachTo makes web's calls to a service carry a token.
func (w *tokens) attachTo(service string) {
	w.change(func(s *State) {
		s.Attach = map[AttachKey]Attach{{webID, ServiceKey{"default", service}}: {Audience: apiID, Scopes: []string{"orders:read"}}}
	})
}

// inTunnel is a request inside a CONNECT.
func (w *tokens) inTunnel(lines ...string) (int, string, http.Header) {
	w.t.Helper()
	c := w.connect("api:80")
	_, _ = io.WriteString(c, "GET /x HTTP/1.1\r\nHost: api\r\n"+strings.Join(append(lines, "\r\n"), "\r\n"))
	return answerOf(w.t, newReader(c))
}

func TestG11Attach(t *testing.T) {
	w := newTokens(t, setup{})
	token := w.own.ours()
	var asked []Attach
	w.a.attach = func(r *Run, a Attach) (string, error) {
		asked = append(asked, a)
		return token, nil
	}
	if _, body, _ := w.call("http://api/x"); strings.Contains(body, "Authorization") {
		t.Errorf("a token without a target: %q", body)
	}
	w.attachTo("other")
	if _, body, _ := w.call("http://api/x"); strings.Contains(body, "Authorization") || len(asked) > 0 {
		t.Errorf("a token of another target: %q", body)
	}
	w.attachTo("api")
	for name, call := range map[string]func(...string) (int, string, http.Header){
		"plain":  func(lines ...string) (int, string, http.Header) { return w.call("http://api/x", lines...) },
		"tunnel": w.inTunnel,
	} {
		if status, body, _ := call("X-None: x"); status != 200 || !strings.Contains(body, bearerLine(token)+"\r\n") {
			t.Errorf("%s: got %d %q", name, status, body)
		}
		asked = nil
		for _, own := range []string{"Authorization: Basic eDp5", "Authorization: Bearer mine"} {
			if status, body, _ := call(own); status != 200 || !strings.Contains(body, own+"\r\n") || strings.Contains(body, token) || len(asked) > 0 {
				t.Errorf("%s, %s: got %d %q", name, own, status, body)
			}
		}
	}
	if rec := w.b.record(func(r *audit.Record) bool { return r.Subject != nil }); rec.ClientID != webID || rec.JTI != "jti-of-the-token" {
		t.Errorf("record %+v", rec)
	}
}

// No token to be had: the call goes nowhere, and says when to come again.
func TestG11AttachDown(t *testing.T) {
	reached := make(chan struct{}, 16)
	w := newTokens(t, setup{protocol: "grpc", handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached <- struct{}{} })})
	w.a.attach = func(*Run, Attach) (string, error) { return "", errors.New("no token service") }
	w.attachTo("api")
	for name, call := range map[string]func(...string) (int, string, http.Header){
		"plain":  func(lines ...string) (int, string, http.Header) { return w.call("http://api/x", lines...) },
		"tunnel": w.inTunnel,
	} {
		status, body, h := call("X-None: x")
		if status != 503 || body != "no access token" || h.Get("Retry-After") != "5" {
			t.Errorf("%s: got %d %q %v", name, status, body, h)
		}
		rec := w.a.record(func(r *audit.Record) bool { return r.ID == h.Get("X-Decision-Id") })
		if rec.Layer != audit.LayerToken || rec.Reason != "missing" || rec.Decision != audit.Failed || rec.Service != "default/api" {
			t.Errorf("%s: record %+v", name, rec)
		}
	}
	if h := w.grpc("/svc/x"); h.Get("Grpc-Status") != "14" || h.Get("Retry-After") != "5" {
		t.Errorf("gRPC: got %v", h)
	}
	select {
	case <-reached:
		t.Error("the program was called without the token")
	default:
	}
}
