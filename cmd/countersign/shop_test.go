package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// street is a forward proxy as the shop's programs meet it: it notes each call, and answers it
// by the handler of its host, or 403.
type street struct {
	mu    sync.Mutex // guards calls
	calls []string
	hosts map[string]http.Handler
}

func (s *street) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.calls = append(s.calls, r.Method+" "+r.URL.String())
	s.mu.Unlock()
	h := s.hosts[r.URL.Host]
	if h == nil {
		http.Error(w, "refused", http.StatusForbidden)
		return
	}
	h.ServeHTTP(w, r)
}

func (s *street) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

// through gives a client whose calls go through the street.
func through(t *testing.T, s *street) *http.Client {
	t.Helper()
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	proxy, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{Proxy: http.ProxyURL(proxy)}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// serveRole starts a serving role on a free port, gives its URL, and stops it with the test.
func serveRole(t *testing.T, role string, s *street) string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	out, outW := io.Pipe()
	ended := make(chan int)
	r := &shopRole{name: role, client: through(t, s), out: outW, err: io.Discard}
	go func() { ended <- r.run(ctx, "127.0.0.1:0") }()
	line := make([]byte, 200)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if code := <-ended; code != 0 {
			t.Errorf("%s ended with %d", role, code)
		}
	})
	_, addr, ok := strings.Cut(strings.TrimSpace(string(line[:n])), " listens on ")
	if !ok {
		t.Fatalf("%s said %q", role, line[:n])
	}
	return "http://" + addr
}

func TestShopServers(t *testing.T) {
	s := &street{hosts: map[string]http.Handler{}}
	for _, role := range []string{"payments", "inventory", "orders"} {
		target, err := url.Parse(serveRole(t, role, s))
		if err != nil {
			t.Fatal(err)
		}
		s.hosts[role] = forward{target}
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, tt := range []struct {
		role, method, path string
		want               int
		calls              string // what it caused
	}{
		{"payments", "POST", "/payments", 201, ""},
		{"payments", "GET", "/payments", 405, ""},
		{"inventory", "GET", "/stock/17", 200, ""},
		{"inventory", "GET", "/", 404, ""},
		{"orders", "GET", "/orders/17", 200, "GET http://inventory/stock/17"},
		{"orders", "POST", "/orders", 201, "POST http://payments/payments"},
		{"orders", "DELETE", "/orders/17", 405, ""},
	} {
		before := len(s.seen())
		target := s.hosts[tt.role].(forward)
		status, err := (&shopRole{client: client}).call(t.Context(), tt.method, target.to.String()+tt.path)
		if err != nil || status != tt.want {
			t.Errorf("%s %s of %s = %d, %v, want %d", tt.method, tt.path, tt.role, status, err, tt.want)
		}
		if got := strings.Join(s.seen()[before:], ", "); got != tt.calls {
			t.Errorf("%s %s of %s called %q, want %q", tt.method, tt.path, tt.role, got, tt.calls)
		}
	}
}

// forward sends requests on to one server.
type forward struct{ to *url.URL }

func (f forward) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, err := (&shopRole{client: &http.Client{}}).call(r.Context(), r.Method, f.to.String()+r.URL.Path)
	if err != nil {
		status = http.StatusBadGateway
	}
	w.WriteHeader(status)
}

// An order that needs what is refused is answered with 502, and nothing of the reason.
func TestShopOrdersRefused(t *testing.T) {
	base := serveRole(t, "orders", &street{})
	client := &http.Client{}
	resp, err := client.Get(base + "/orders/17")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 502 || strings.Contains(string(b), "403") {
		t.Errorf("%d %q, %v", resp.StatusCode, b, err)
	}
}

// stopAfter ends the caller after enough calls.
type stopAfter struct {
	http.Handler
	left int
	stop func()
	mu   sync.Mutex // guards left
}

func (s *stopAfter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.left--
	if s.left == 0 {
		defer s.stop()
	}
	s.mu.Unlock()
	s.Handler.ServeHTTP(w, r)
}

func TestShopCallers(t *testing.T) {
	fine := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	refused := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) })
	for _, tt := range []struct {
		role, host string
		answer     http.Handler
		calls      int
		want       string // the last calls
		says       string
	}{
		{"web", "orders", fine, 6, "GET http://orders/orders/4, POST http://orders/orders, GET http://orders/orders/6", "web: orders are shown and placed\n"},
		{"web", "orders", refused, 2, "GET http://orders/orders/1, GET http://orders/orders/2", "web: GET http://orders/orders/1: 403\n"},
		{"intruder", "payments", refused, 3, "POST http://payments/payments, POST http://payments/payments", "intruder: refused with 403, as it should be\n"},
		{"intruder", "payments", fine, 2, "POST http://payments/payments", "intruder: a payment was taken that nobody allowed\n"},
	} {
		ctx, stop := context.WithCancel(t.Context())
		s := &street{hosts: map[string]http.Handler{tt.host: &stopAfter{Handler: tt.answer, left: tt.calls, stop: stop}}}
		var said bytes.Buffer
		r := &shopRole{name: tt.role, client: through(t, s), out: io.Discard, err: &said}
		if code := r.run(ctx, ""); code != 0 {
			t.Errorf("%s ended with %d", tt.role, code)
		}
		if got := strings.Join(s.seen(), ", "); !strings.HasSuffix(got, tt.want) {
			t.Errorf("%s called %s, want %s at the end", tt.role, got, tt.want)
		}
		if !strings.HasPrefix(said.String(), tt.says) {
			t.Errorf("%s said %q, want %q", tt.role, said.String(), tt.says)
		}
		stop()
	}
}

func TestShopUsage(t *testing.T) {
	for _, tt := range []struct {
		role string
		args []string
		want int
		says string
	}{
		{"thief", nil, 2, `no role "thief"`},
		{"orders", nil, 2, "--listen is missing"},
		{"orders", []string{"--port", "1"}, 2, "flag provided but not defined"},
		{"orders", []string{"x"}, 2, `unexpected argument "x"`},
		{"orders", []string{"--listen", "127.0.0.1:99999"}, 1, "shop orders: listen tcp"},
	} {
		var out, err bytes.Buffer
		if got := shop(t.Context(), tt.role, tt.args, &out, &err); got != tt.want || !strings.Contains(err.String(), tt.says) || out.Len() > 0 {
			t.Errorf("shop %s %v = %d, stdout %q, stderr %q, want %d, %q", tt.role, tt.args, got, out.String(), err.String(), tt.want, tt.says)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if got := shop(ctx, "payments", []string{"--listen", "127.0.0.1:0"}, io.Discard, io.Discard); got != 0 {
		t.Errorf("shop after its end = %d", got)
	}
}
