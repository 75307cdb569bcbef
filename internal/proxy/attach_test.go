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
	w.a.attach = func(*Run, Attach) (string, error) {
		return "", &NoToken{Detail: "the token service answered 401: invalid_client" + strings.Repeat("x", 300), Err: errors.New("not for a record")}
	}
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
		if rec.Layer != audit.LayerToken || rec.Reason != "missing" || rec.Decision != audit.Failed || rec.Service != "default/api" ||
			len(rec.Detail) != maxDetail || !strings.HasPrefix(rec.Detail, "the token service answered 401: invalid_client") || strings.Contains(rec.Detail, "not for") {
			t.Errorf("%s: record %+v", name, rec)
		}
	}
	if e := w.a.event("no_token"); e.From != "web" || e.To != "api" || !strings.HasPrefix(e.Text, "the token service answered 401") {
		t.Errorf("the program's people are told %+v", e)
	}
	w.a.attach = func(*Run, Attach) (string, error) { return "", errors.New("something else") }
	if status, body, h := w.call("http://api/x"); status != 503 || body != "no access token" {
		t.Errorf("another error: got %d %q", status, body)
	} else if rec := w.a.record(func(r *audit.Record) bool { return r.ID == h.Get("X-Decision-Id") }); rec.Detail != "" {
		t.Errorf("another error is told in the record: %q", rec.Detail)
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

// A token of ours that the destination refuses is told to who gave it, one that the program
// brought or another answer is not.
func TestAttachedTokenRejected(t *testing.T) {
	answer := http.StatusOK
	w := newTokens(t, setup{h2c: true, protocol: "http", handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(answer) })})
	w.attachTo("api")
	var token string
	w.a.attach = func(*Run, Attach) (string, error) { return token, nil }
	var told []string
	w.a.rejected = func(a Attach, text string) { told = append(told, a.Audience+" "+text) }
	good, bad := w.own.ours(), w.own.ours(claims{"exp": 1})
	for name, tc := range map[string]struct {
		token  string
		answer int
		lines  []string
		want   int
	}{
		"taken":               {good, 200, nil, 0},
		"refused by the node": {bad, 200, nil, 1},
		"by the program":      {good, 401, nil, 1},
		"forbidden":           {good, 403, nil, 0},
		"one of the program":  {good, 401, []string{"Authorization: Bearer " + w.id.foreign()}, 0},
	} {
		told, token, answer = nil, tc.token, tc.answer
		status, _, _ := w.call("http://api/x", append(tc.lines, "X-None: x")...)
		if len(told) != tc.want || tc.want > 0 && told[0] != apiID+" "+tc.token {
			t.Errorf("%s: answered %d, told %q", name, status, told)
		}
	}
	told, token, answer = nil, bad, 200
	if h := w.grpc("/svc/x"); h.Get("Grpc-Status") != "16" || len(told) != 1 {
		t.Errorf("gRPC: got %v, told %q", h, told)
	}
}
