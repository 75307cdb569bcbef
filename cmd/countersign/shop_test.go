package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
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
	call := r.Method + " " + r.URL.String()
	if token := r.Header.Get("Authorization"); token != "" {
		call += " as " + token
	}
	s.calls = append(s.calls, call)
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
func serveRole(t *testing.T, role string, o shopOptions, s *street) string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	out, outW := io.Pipe()
	ended := make(chan int)
	r := &shopRole{name: role, shopOptions: o, client: through(t, s), out: outW, err: io.Discard}
	r.listen = "127.0.0.1:0"
	go func() { ended <- r.run(ctx) }()
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
		target, err := url.Parse(serveRole(t, role, shopOptions{}, s))
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
		{"orders", "GET", "/orders", 200, ""},
		{"orders", "DELETE", "/orders/17", 405, ""},
	} {
		before := len(s.seen())
		target := s.hosts[tt.role].(forward)
		status, err := (&shopRole{client: client}).call(t.Context(), tt.method, target.to.String()+tt.path, "")
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
	status, err := (&shopRole{client: &http.Client{}}).call(r.Context(), r.Method, f.to.String()+r.URL.Path, "")
	if err != nil {
		status = http.StatusBadGateway
	}
	w.WriteHeader(status)
}

// An order that needs what is refused is answered with 502, and nothing of the reason.
func TestShopOrdersRefused(t *testing.T) {
	base := serveRole(t, "orders", shopOptions{}, &street{})
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
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("t0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	customer := shopOptions{shop: "http://door", token: file}
	for _, tt := range []struct {
		role, host string
		o          shopOptions
		answer     http.Handler
		calls      int
		want       string // the last calls
		says       string
	}{
		{"customer", "door", customer, fine, 6, "GET http://door/orders/4 as Bearer t0, POST http://door/orders as Bearer t0, GET http://door/orders/6 as Bearer t0", "customer: orders are shown and placed\n"},
		{"customer", "door", customer, refused, 2, "GET http://door/orders/1 as Bearer t0, GET http://door/orders/2 as Bearer t0", "customer: GET http://door/orders/1: 403\n"},
		{"partner", "door", shopOptions{shop: "http://door"}, fine, 3, "GET http://door/stock/1, GET http://door/orders/2, GET http://door/stock/3", "partner: the stock is shown, orders are not\npartner: GET http://door/orders/2: 200\n"},
		{"scraper", "door", shopOptions{shop: "http://door"}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }), 2, "GET http://door/stock/1, GET http://door/stock/2", "scraper: the stock is shown, as often"},
		{"scraper", "door", shopOptions{shop: "http://door"}, refused, 2, "GET http://door/stock/1, GET http://door/stock/2", "scraper: GET http://door/stock/1: 403\n"},
		{"stranger", "door", shopOptions{shop: "http://door"}, refused, 2, "GET http://door/orders/1, GET http://door/orders/2", "stranger: refused, as it should be\n"},
		{"intruder", "payments", shopOptions{}, refused, 3, "POST http://payments/payments, POST http://payments/payments, POST http://payments/payments", "intruder: refused, as it should be\n"},
		{"intruder", "payments", shopOptions{leak: file}, refused, 2, "POST http://payments/payments, GET http://orders/orders/2 as Bearer t0, POST http://payments/payments", "intruder: refused, as it should be\n"},
		{"intruder", "payments", shopOptions{}, fine, 2, "POST http://payments/payments", "intruder: POST http://payments/payments went through, which nobody allowed\n"},
	} {
		ctx, stop := context.WithCancel(t.Context())
		s := &street{hosts: map[string]http.Handler{tt.host: &stopAfter{Handler: tt.answer, left: tt.calls, stop: stop}}}
		var said bytes.Buffer
		r := &shopRole{name: tt.role, shopOptions: tt.o, client: through(t, s), out: io.Discard, err: &said}
		if code := r.run(ctx); code != 0 {
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

// tokenService gives a token for each exchange, which names it, and notes what was asked.
func tokenService(asked *[]url.Values, life int) http.Handler {
	var mu sync.Mutex // guards asked
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.ParseForm() != nil || r.URL.Path != "/oauth2/token" || r.PostForm.Get("subject_token") == "" {
			w.WriteHeader(400)
			io.WriteString(w, `{"error":"invalid_request","error_description":"malformed request"}`)
			return
		}
		*asked = append(*asked, r.PostForm)
		fmt.Fprintf(w, `{"access_token":"x%d","token_type":"Bearer","expires_in":%d}`, len(*asked), life)
	})
}

// What web asks of orders carries the token that its customer's was exchanged for: one for
// each customer, and a new one when it is half over.
func TestShopWeb(t *testing.T) {
	fine := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	revoked := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer x1" {
			w.WriteHeader(401)
		}
	})
	for _, tt := range []struct {
		name   string
		life   int
		orders http.Handler
		first  int      // status of the first answer
		want   []string // calls of orders
	}{
		{"kept", 300, fine, 200, []string{"GET http://orders/orders/1 as Bearer x1", "POST http://orders/orders as Bearer x1", "GET http://orders/orders/1 as Bearer x2"}},
		{"revoked", 300, revoked, 502, []string{"GET http://orders/orders/1 as Bearer x1", "POST http://orders/orders as Bearer x2", "GET http://orders/orders/1 as Bearer x3"}},
		{"over at once", 0, fine, 200, []string{"GET http://orders/orders/1 as Bearer x1", "POST http://orders/orders as Bearer x2", "GET http://orders/orders/1 as Bearer x3"}},
	} {
		var asked []url.Values
		s := &street{hosts: map[string]http.Handler{"orders": tt.orders, "tokens.countersign": tokenService(&asked, tt.life)}}
		leak := filepath.Join(t.TempDir(), "leak")
		base := serveRole(t, "web", shopOptions{clientID: webID, leak: leak}, s)
		client := &shopRole{client: &http.Client{}}
		for _, c := range []struct {
			method, path, token string
			want                int
		}{
			{"GET", "/orders/1", "alice", tt.first}, {"POST", "/orders", "alice", 201}, {"GET", "/orders/1", "bob", 200},
			{"GET", "/orders/1", "", 502},
		} {
			if status, err := client.call(t.Context(), c.method, base+c.path, c.token); status != c.want || err != nil {
				t.Errorf("%s: %s %s of %q = %d, %v, want %d", tt.name, c.method, c.path, c.token, status, err, c.want)
			}
		}
		var calls []string
		for _, c := range s.seen() {
			if strings.Contains(c, " as ") {
				calls = append(calls, c)
			}
		}
		if !slices.Equal(calls, tt.want) {
			t.Errorf("%s: web called %q, want %q", tt.name, calls, tt.want)
		}
		want := url.Values{"grant_type": {grantExchange}, "client_id": {webID}, "subject_token": {"alice"}, "subject_token_type": {typeAccess}, "audience": {"orders"}}
		if len(asked) == 0 || asked[0].Encode() != want.Encode() {
			t.Errorf("%s: web asked for %v, want %v", tt.name, asked, want)
		}
		if got, want := readToken(leak), tt.want[2][len(tt.want[2])-2:]; got != want {
			t.Errorf("%s: leaked %q, want %q", tt.name, got, want)
		}
	}
}

// Many customers do not fill web's memory.
func TestShopWebBound(t *testing.T) {
	var asked []url.Values
	s := &street{hosts: map[string]http.Handler{"tokens.countersign": tokenService(&asked, 300)}}
	w := &web{shopRole: &shopRole{client: through(t, s)}, tokens: map[string]exchanged{}}
	for i := range maxExchanged {
		w.tokens[fmt.Sprint(i)] = exchanged{}
	}
	if token, err := w.onBehalf(t.Context(), "one more"); token != "x1" || err != nil || len(w.tokens) != 1 {
		t.Errorf("%q, %v, %d kept", token, err, len(w.tokens))
	}
}

// web's own job asks for no customer, and says what became of it.
func TestShopReport(t *testing.T) {
	s := &street{hosts: map[string]http.Handler{}}
	r := &shopRole{client: through(t, s)}
	if got := r.report(t.Context(), 1); got != "the report is refused, as it should be" {
		t.Errorf("refused: %q", got)
	}
	s.hosts["orders"] = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	if got := r.report(t.Context(), 2); got != "all orders were shown to nobody's program" {
		t.Errorf("let through: %q", got)
	}
	if got := s.seen(); !slices.Equal(got, []string{"GET http://orders/orders", "GET http://orders/orders"}) {
		t.Errorf("called %q", got)
	}
}

func TestShopUsage(t *testing.T) {
	for _, tt := range []struct {
		role string
		o    shopOptions
		want int
		says string
	}{
		{"thief", shopOptions{}, 2, `no role "thief"`},
		{"orders", shopOptions{}, 2, "--listen is missing"},
		{"orders", shopOptions{listen: "127.0.0.1:99999"}, 1, "shop orders: listen tcp"},
		{"web", shopOptions{listen: "127.0.0.1:99999"}, 1, "shop web: listen tcp"},
	} {
		var out bytes.Buffer
		var errs lockedBuffer
		if got := shop(t.Context(), tt.role, tt.o, &out, &errs); got != tt.want || !strings.Contains(errs.String(), tt.says) || out.Len() > 0 {
			t.Errorf("shop %s %v = %d, stdout %q, stderr %q, want %d, %q", tt.role, tt.o, got, out.String(), errs.String(), tt.want, tt.says)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if got := shop(ctx, "payments", shopOptions{listen: "127.0.0.1:0"}, io.Discard, io.Discard); got != 0 {
		t.Errorf("shop after its end = %d", got)
	}
}

// lockedBuffer takes what two goroutines of a program write.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
