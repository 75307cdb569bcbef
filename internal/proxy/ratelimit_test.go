package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// onGateway makes a RateLimit of the Gateway of a house.
func onGateway(rules ...route.LimitRule) route.RateLimit {
	return route.RateLimit{
		Meta:    route.Meta{Name: route.Name{Namespace: "default", Name: "api"}},
		Targets: []route.LimitTarget{{Ref: gatewayRef}}, Rules: rules,
	}
}

var gatewayRef = route.Ref{Kind: route.Kind{Group: "gateway.networking.k8s.io", Kind: "Gateway"}, Name: route.Name{Namespace: "default", Name: "edge"}}

func routeRef(name string) route.Ref {
	return route.Ref{Kind: route.Kind{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute"}, Name: route.Name{Namespace: "default", Name: name}}
}

// slow is a rate that gives nothing back while a test runs.
func slow(name string, burst int64, key ...string) route.LimitRule {
	return route.LimitRule{Name: name, Requests: 1, Per: time.Hour, Burst: burst, Key: parts(key...)}
}

func parts(texts ...string) (out []route.KeyPart) {
	for _, s := range texts {
		p, err := route.ParseKeyPart(s)
		if err != nil {
			panic(err)
		}
		out = append(out, p)
	}
	return out
}

// limit puts RateLimits in force.
func (h *house) limit(limits ...route.RateLimit) {
	h.t.Helper()
	h.change(func(s *State) {
		o := route.Objects{Limits: limits}
		for at := range s.Routes.Routers() {
			for row := range at.Rows() {
				o.Routes = append(o.Routes, *row.Route)
			}
		}
		s.Limits = CompileLimits(o, route.CompileLimits(o, s.Routes), domain)
	})
}

// everybody lets strangers without a token in.
func (h *house) everybody() { h.admit(policy.Rule{}) }

func newLimited(t testing.TB, limits ...route.RateLimit) *house {
	t.Helper()
	socket := echoSocket()
	h := newHouse(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ws":
			socket.ServeHTTP(w, r)
		default:
			echo(w, r)
		}
	})}, toAPI())
	h.everybody()
	h.limit(limits...)
	return h
}

// counts asks n times and says how often each status came.
func (h *house) counts(n int, line string, fields ...string) map[int]int {
	out := map[int]int{}
	for range n {
		status, _, _ := h.ask(line, fields...)
		out[status]++
	}
	return out
}

func (h *house) want(got map[int]int, admitted, refused int) {
	h.t.Helper()
	if got[200] != admitted || got[429] != refused || len(got) != min(admitted, 1)+min(refused, 1) {
		h.t.Errorf("%v, want %d of 200 and %d of 429", got, admitted, refused)
	}
}

func TestL1AnswerOfADoor(t *testing.T) {
	h := newLimited(t, onGateway(slow("burst", 5, "principal", "route")))
	for i := range 5 {
		status, _, header := h.ask("GET /orders")
		if got, want := header.Get("RateLimit"), fmt.Sprintf(`"burst";r=%d;t=3600`, 4-i); status != 200 || got != want {
			t.Fatalf("%d, RateLimit %s; want %s", status, got, want)
		}
	}
	status, body, header := h.ask("GET /orders", "Origin: https://app.test")
	want := `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Request limit reached","status":429,"violated-policies":["burst"]}`
	if status != 429 || body != want {
		t.Fatalf("%d %s", status, body)
	}
	for name, want := range map[string]string{
		"Retry-After": "3600", "RateLimit": `"burst";r=0;t=3600`, "RateLimit-Policy": `"burst";q=1;w=3600`,
		"Content-Type": "application/problem+json", "Cache-Control": "no-store",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	rec := h.a.record(func(r *audit.Record) bool { return r.ID == header.Get("X-Decision-Id") })
	if rec.Decision != audit.Limited || rec.Layer != audit.LayerLimit || rec.Reason != "rate" || rec.Policy != "default/api" || rec.Rule != 1 ||
		!strings.HasSuffix(rec.Detail, "RateLimit/default/api#burst: 1 an hour, burst 5, by principal and route, 1h to wait") {
		t.Errorf("record %+v", rec)
	}
}

// A request that one rule refuses costs nothing at the others, whatever object they are of.
func TestL3OfADoor(t *testing.T) {
	wide := onGateway(slow("wide", 3))
	narrow := route.RateLimit{
		Meta:    route.Meta{Name: route.Name{Namespace: "default", Name: "narrow"}},
		Targets: []route.LimitTarget{{Ref: routeRef("shop")}},
		Rules:   []route.LimitRule{slow("post", 1)},
	}
	narrow.Rules[0].When = policy.Rule{To: []policy.Operation{{Methods: []string{"POST"}}}}
	h := newLimited(t, wide, narrow)
	h.want(h.counts(5, "POST /"), 1, 4)
	h.want(h.counts(3, "GET /"), 2, 1)
}

// L6, and nobody gets a bucket of his own by leaving out what the key asks for.
func TestL6AbsentPartsShareABucket(t *testing.T) {
	for _, key := range []string{"claim.tenant", "header.x-id", "apiKey", "client", "peer", "claim.a.b"} {
		h := newLimited(t, onGateway(slow("burst", 2, key)))
		got := h.counts(2, "GET /")
		for status, n := range h.counts(1, "GET /", bearerLine(h.id.foreign())) {
			got[status] += n
		}
		h.want(got, 2, 1)
	}
}

func TestPrincipalIsElseTheAddress(t *testing.T) {
	h := newLimited(t, onGateway(slow("burst", 1, "principal")))
	token := bearerLine(h.id.foreign())
	h.want(h.counts(2, "GET /", token), 1, 1)
	h.want(h.counts(2, "GET /"), 1, 1)
	_, body, _ := h.ask("GET /", "X-Forwarded-For: 192.0.2.9") // a stranger's word for his address
	if !strings.Contains(body, "quota-exceeded") {
		t.Error("X-Forwarded-For of a stranger opens a bucket")
	}
}

// TestSecNoBucketBySpelling: one request spelled otherwise is counted as the same.
func TestSecNoBucketBySpelling(t *testing.T) {
	h := newLimited(t, onGateway(slow("burst", 1, "ip", "host", "method", "path", "route", "service")))
	ask := func(method, target, host string) int {
		_, r := dialRaw(t, h.http, method+" "+target+" HTTP/1.1\nHost: "+host+"\n\n")
		status, _, _ := answerOf(t, r)
		return status
	}
	if got := ask("GET", "/a/b", "shop.test"); got != 200 {
		t.Fatal(got)
	}
	for _, tt := range [][3]string{
		{"GET", "/a/b", "SHOP.test"}, {"GET", "/a/b", "shop.test:80"}, {"GET", "/a/b", "shop.test."}, {"GET", "/a/./b", "shop.test"},
		{"GET", "//a//b", "shop.test"}, {"GET", "/a/%62", "shop.test"}, {"GET", "/a/b?x=1", "shop.test"}, {"GET", "/x/../a/b", "shop.test"},
		{"GET", "http://shop.test/a/b", "shop.test"},
	} {
		if got := ask(tt[0], tt[1], tt[2]); got != 429 {
			t.Errorf("%v: %d", tt, got)
		}
	}
	if got := []int{ask("MAKEUP", "/a/b", "shop.test"), ask("INVENT", "/a/b", "shop.test"), ask("POST", "/a/b", "shop.test")}; !slices.Equal(got, []int{200, 429, 200}) {
		t.Errorf("methods that nobody knows: %v", got)
	}
}

// L8: a change of numbers keeps what was counted.
func TestL8BurstLoweredKeepsTheBucket(t *testing.T) {
	h := newLimited(t, onGateway(slow("burst", 10, "ip")))
	h.want(h.counts(7, "GET /"), 7, 0)
	h.limit(onGateway(slow("burst", 5, "ip")))
	h.want(h.counts(3, "GET /"), 0, 3)
	h.limit(onGateway(slow("burst", 8, "ip")))
	h.want(h.counts(3, "GET /"), 1, 2)
}

func TestL13Shadow(t *testing.T) {
	l := onGateway(slow("burst", 1, "ip"))
	l.Shadow = true
	h := newLimited(t, l)
	h.want(h.counts(3, "GET /"), 3, 0)
	_, _, header := h.ask("GET /")
	if header.Get("RateLimit") != "" {
		t.Error("a shadow is shown")
	}
	rec := h.a.record(func(r *audit.Record) bool { return strings.Contains(r.Detail, "shadow RateLimit/default/api#burst") })
	if rec.Decision != audit.Allow {
		t.Errorf("%+v", rec)
	}
	w := httptest.NewRecorder()
	h.a.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`countersign_gateway_limit_total{result="admitted",rule="default/api#burst"} 1`,
		`countersign_gateway_limit_total{result="shadow",rule="default/api#burst"} 3`, "countersign_gateway_limit_keys 1",
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// L16: tunnels hold their place for as long as they live.
func TestL16Tunnels(t *testing.T) {
	h := newLimited(t, onGateway(route.LimitRule{Name: "parallel", Concurrent: 3, Key: parts("ip")}))
	open := func() (net.Conn, int) {
		c, r := dialRaw(t, h.http, "GET /ws HTTP/1.1\nHost: shop.test\nConnection: Upgrade\nUpgrade: websocket\nOrigin: http://shop.test\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n\n")
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var status int
		_, _ = fmt.Sscanf(line, "HTTP/1.1 %d", &status)
		return c, status
	}
	var conns []net.Conn
	for range 3 {
		c, status := open()
		if conns = append(conns, c); status != 101 {
			t.Fatal(status)
		}
	}
	if _, status := open(); status != 429 {
		t.Errorf("the fourth: %d", status)
	}
	if rec := h.a.record(func(r *audit.Record) bool { return r.Reason == "concurrency" }); rec.Layer != audit.LayerLimit || !strings.HasSuffix(rec.Detail, "3 at a time, by ip") {
		t.Errorf("%+v", rec)
	}
	_ = conns[0].Close()
	eventually(t, "a place after a tunnel ended", func() bool { _, status := open(); return status == 101 })
}

// A client that goes away while its answer is awaited gives its place back.
func TestConcurrencyEndsWithTheClient(t *testing.T) {
	began := make(chan struct{})
	h := newHouse(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(began)
			<-r.Context().Done()
			return
		}
		echo(w, r)
	})}, toAPI())
	h.everybody()
	h.limit(onGateway(route.LimitRule{Name: "parallel", Concurrent: 1}))
	c, _ := dialRaw(t, h.http, "GET /slow HTTP/1.1\nHost: shop.test\n\n")
	<-began
	if status, _, _ := h.ask("GET /"); status != 429 {
		t.Fatalf("a second request: %d", status)
	}
	_ = c.Close()
	eventually(t, "the place is free", func() bool { status, _, _ := h.ask("GET /"); return status == 200 })
	h.want(h.counts(5, "GET /"), 5, 0)
}

// L18: preflights are answered before identity, and count at early rules alone.
func TestL18Preflights(t *testing.T) {
	early := slow("early", 2, "ip")
	early.Early = true
	h := newLimited(t)
	h.serve(toAPI(filter(route.Filter{CORS: &route.CORS{Origins: []string{"https://app.test"}, Methods: []string{"GET"}}})))
	h.limit(onGateway(early, slow("late", 1, "ip")))
	preflight := []string{"Origin: https://app.test", "Access-Control-Request-Method: GET"}
	for i, want := range []int{204, 204, 429} {
		status, _, header := h.ask("OPTIONS /", preflight...)
		if status != want || want == 429 && header.Get("Access-Control-Allow-Origin") != "https://app.test" {
			t.Errorf("preflight %d: %d, want %d; %v", i, status, want, header)
		}
	}
	h.limit(onGateway(slow("late", 1, "ip")))
	h.want(h.counts(2, "GET /"), 1, 1)
}

// Early rules stand before the token step: what they refuse is not verified.
func TestEarlyBeforeIdentity(t *testing.T) {
	early := slow("early", 1, "ip", "path")
	early.Early = true
	h := newLimited(t, onGateway(early))
	got := h.counts(3, "GET /", "Authorization: Bearer a.b.c")
	if got[401] != 1 || got[429] != 2 {
		t.Errorf("%v", got)
	}
}

func TestLimitOfGRPC(t *testing.T) {
	h := newLimited(t, onGateway(slow("burst", 1, "ip")))
	h.ask("GET /")
	status, _, header := h.ask("POST /x", "Content-Type: application/grpc", "Content-Length: 0")
	wait, err := strconv.Atoi(header.Get("Grpc-Retry-Pushback-Ms"))
	if status != 200 || header.Get("Grpc-Status") != "14" || err != nil || wait < 3_590_000 || wait > 3_600_000 {
		t.Errorf("%d %v", status, header)
	}
}

// A redirect to another host tells nobody there what he has left here.
func TestLimitFieldsOfRedirects(t *testing.T) {
	h := newLimited(t)
	for _, tt := range []struct {
		redirect route.Redirect
		told     bool
	}{{route.Redirect{Hostname: "other.test", Status: 302}, false}, {route.Redirect{Scheme: "https", Status: 301}, true}} {
		h.serve(route.Rule{Matches: []route.Match{{PathType: route.Prefix, Path: "/"}}, Filters: []route.Filter{{Redirect: &tt.redirect}}})
		h.limit(onGateway(slow("burst", 100, "ip")))
		status, _, header := h.ask("GET /")
		if status != tt.redirect.Status || (header.Get("RateLimit") != "") != tt.told {
			t.Errorf("%+v: %d %v", tt.redirect, status, header)
		}
	}
}

// An ExtensionRef counts the rule that has it; a missing one, and too many rules, are 500 and never a way round.
func TestLimitByExtension(t *testing.T) {
	ref := func(name string) func(*route.Rule) {
		return filter(route.Filter{Extension: &route.Ref{Kind: route.Kind{Group: "countersign.dev", Kind: "RateLimit"}, Name: route.Name{Namespace: "default", Name: name}}})
	}
	h := newLimited(t)
	class := onGateway(slow("burst", 1, "ip"))
	class.Targets = nil
	h.serve(toAPI(path(route.Exact, "/limited"), ref("api")), toAPI(path(route.Exact, "/lost"), ref("nosuch")), toAPI())
	h.limit(class)
	h.want(h.counts(2, "GET /limited"), 1, 1)
	h.want(h.counts(2, "GET /free"), 2, 0)
	if status, _, _ := h.ask("GET /lost"); status != 500 {
		t.Errorf("a RateLimit that is not there: %d", status)
	}
	var many []route.RateLimit
	for i := range 5 {
		l := onGateway()
		l.Name.Name = fmt.Sprint("l", i)
		for j := range 13 {
			l.Rules = append(l.Rules, slow(fmt.Sprint("r", j), 1000))
		}
		many = append(many, l)
	}
	h.limit(append(many, class)...)
	if status, _, _ := h.ask("GET /free"); status != 500 {
		t.Errorf("65 rules: %d", status)
	}
	many[4].Rules = many[4].Rules[:12]
	h.limit(append(many, class)...)
	if status, _, _ := h.ask("GET /free"); status != 200 {
		t.Errorf("64 rules: %d", status)
	}
}

// A rule whose numbers nobody checked takes access, never the limit.
func TestLimitThatCannotBeKept(t *testing.T) {
	for _, bad := range []route.LimitRule{
		{Name: "none"}, {Name: "Bad_Name", Concurrent: 1}, {Name: "long", Requests: 1, Per: 48 * time.Hour},
		{Name: "test", Concurrent: 1, When: policy.Rule{When: []policy.Condition{{Key: "nosuch", Values: []string{"x"}}}}},
	} {
		h := newLimited(t, onGateway(slow("fine", 5), bad))
		if status, _, _ := h.ask("GET /"); status != 500 {
			t.Errorf("%+v: %d", bad, status)
		}
	}
}

// The rules of a key's class count for that key alone, whatever else counts.
func TestLimitClass(t *testing.T) {
	h := newLimited(t)
	class := onGateway(slow("burst", 2))
	class.Targets, class.Name.Name = nil, "partner"
	h.limit(class)
	v := h.a.view.Load()
	ask := func(key *apikey.Record) *refused {
		x := &exchange{p: h.a.Proxy, v: v, link: &link{door: &door{}}, r: &http.Request{Header: http.Header{}}, now: time.Now(), key: key, w: nil}
		x.counted = &route.Action{Route: &route.HTTPRoute{}, Rule: &route.Rule{}}
		defer x.endLimits()
		return x.limitLate()
	}
	acme, other := &apikey.Record{Namespace: "default", Name: "acme", LimitClass: "partner"}, &apikey.Record{Namespace: "default", Name: "other", LimitClass: "partner"}
	for i, tt := range []struct {
		key    *apikey.Record
		status int
	}{{acme, 0}, {acme, 0}, {acme, 429}, {other, 0}, {nil, 0}, {&apikey.Record{Namespace: "default", Name: "x", LimitClass: "nosuch"}, 500}, {&apikey.Record{Namespace: "default", Name: "acme"}, 0}} {
		status := 0
		if no := ask(tt.key); no != nil {
			status = no.status
		}
		if status != tt.status {
			t.Errorf("%d: %d, want %d", i, status, tt.status)
		}
	}
}

// 2,000 connections at once against a burst of 100: exactly 100 get in.
func TestExactlyTheBurst(t *testing.T) {
	h := newLimited(t, onGateway(slow("burst", 100, "ip")))
	var admitted, refused atomic.Int64
	var all sync.WaitGroup
	gate := make(chan struct{})
	slots := make(chan struct{}, 400) // connections at a time: descriptors are few
	for range 2000 {
		all.Go(func() {
			<-gate
			slots <- struct{}{}
			defer func() { <-slots }()
			switch status, err := get(t.Context(), h.http); {
			case err != nil:
				t.Error(err)
			case status == 200:
				admitted.Add(1)
			case status == 429:
				refused.Add(1)
			}
		})
	}
	close(gate)
	all.Wait()
	if admitted.Load() != 100 || refused.Load() != 1900 {
		t.Errorf("%d admitted, %d refused", admitted.Load(), refused.Load())
	}
}

// get asks by a connection of its own.
func get(ctx context.Context, addr string) (int, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")); err != nil {
		return 0, err
	}
	var status int
	_, err = fmt.Fscanf(c, "HTTP/1.1 %d", &status)
	return status, err
}
