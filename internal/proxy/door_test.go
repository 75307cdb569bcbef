package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

const edgeID = "spiffe://cluster.local/ns/default/sa/edge"

// house is a token world with a Gateway in front of api, which takes foreign tokens.
type house struct {
	*tokens
	gateway member
	http    string // address of the door without TLS
	https   string
	shown   atomic.Pointer[Shown] // for shop.test
}

const (
	plainPort  = 80
	securePort = 443
)

func newHouse(t testing.TB, s setup, rules ...route.Rule) *house {
	t.Helper()
	if s.allow == nil {
		s.allow = []policy.Rule{{From: []policy.Source{{Principals: []string{"cluster.local/ns/default/sa/edge"}}}}}
	}
	h := &house{tokens: newTokens(t, s)}
	doors := make([]Door, 2)
	for i, port := range []uint16{plainPort, securePort} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		doors[i] = Door{Listener: ln, Port: port}
	}
	h.http, h.https = doors[0].Listener.Addr().String(), doors[1].Listener.Addr().String()
	h.show(0)
	doors[1].Certificate = func(listener, _ string) Shown {
		if listener == "secure" {
			return *h.shown.Load()
		}
		return Shown{}
	}
	h.start(h.a, &h.gateway, edgeID, "edge", "edge1", Run{Doors: doors})
	h.serve(rules...)
	h.admit(policy.Rule{From: []policy.Source{{RequestPrincipals: []string{foreignID + "/*"}}}})
	return h
}

// show has the door show a new certificate, to no older version of TLS than least.
func (h *house) show(least uint16) *x509.Certificate {
	pair := *h.ca.Leaf(h.t, edgeID, func(c *x509.Certificate) { c.ExtraExtensions, c.DNSNames = nil, []string{"shop.test"} })
	h.shown.Store(&Shown{Certificates: []tls.Certificate{pair}, Least: least})
	return pair.Leaf
}

// serve puts one route with these rules in force.
func (h *house) serve(rules ...route.Rule) {
	r := &route.HTTPRoute{Meta: route.Meta{Name: route.Name{Namespace: "default", Name: "shop"}}, Rules: rules}
	gw := route.Name{Namespace: "default", Name: "edge"}
	at := func(name string, port uint16, p route.Protocol, hostname string) route.Attached {
		return route.Attached{Gateway: gw, Listener: name, Port: port, Protocol: p, Hostname: hostname,
			Routes: []route.Effective{{Route: r, Hostnames: []string{hostname}}}}
	}
	table, _ := route.Compile([]route.Attached{
		at("plain", plainPort, route.HTTP, ""), at("secure", securePort, route.HTTPS, "shop.test"),
		at("bare", securePort, route.HTTPS, "bare.test"), // has no certificate
	})
	h.change(func(s *State) { s.Routes = table })
}

// admit is the policy of the Gateway.
func (h *house) admit(rules ...policy.Rule) {
	h.t.Helper()
	compiled, faults := policy.Compile(policy.Set{
		TrustDomain: domain, RootNamespace: "istio-system",
		Policies: []policy.Policy{
			{Namespace: "istio-system", Name: "allow-nothing", Action: policy.Allow},
			{Namespace: "default", Name: "api", Action: policy.Allow, Selector: map[string]string{"app": "api"}, Rules: h.allow},
			{Namespace: "default", Name: "edge", Action: policy.Allow, Selector: map[string]string{"app": "edge"}, Rules: rules},
		},
		RequestAuth: []policy.RequestAuthentication{{
			Namespace: "default", Name: "edge", Selector: map[string]string{"app": "edge"}, Rules: []policy.TokenRule{h.rule(nil)},
		}},
	})
	if len(faults) > 0 {
		h.t.Fatal(faults)
	}
	h.change(func(s *State) { s.Compiled = compiled })
}

func toAPI(edit ...func(*route.Rule)) route.Rule {
	r := route.Rule{
		Matches: []route.Match{{PathType: route.Prefix, Path: "/"}},
		Backends: []route.Backend{{
			Ref: route.Ref{Kind: route.Kind{Kind: "Service"}, Name: route.Name{Namespace: "default", Name: "api"}}, Port: 80, Weight: 1,
		}},
	}
	for _, e := range edit {
		e(&r)
	}
	return r
}

func path(kind route.PathType, value string) func(*route.Rule) {
	return func(r *route.Rule) { r.Matches = []route.Match{{PathType: kind, Path: value}} }
}

func filter(f route.Filter) func(*route.Rule) {
	return func(r *route.Rule) { r.Filters = append(r.Filters, f) }
}

// ask sends a request by the door without TLS: its first line, then fields.
func (h *house) ask(line string, fields ...string) (int, string, http.Header) {
	h.t.Helper()
	_, r := dialRaw(h.t, h.http, strings.Join(append([]string{line + " HTTP/1.1", "Host: shop.test"}, fields...), "\n")+"\n\n")
	return answerOf(h.t, r)
}

// A stranger's JWT becomes the request principal at the door; the service sees the Gateway, and no token of the stranger.
func TestDoorToService(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	status, body, _ := h.ask("GET /orders?id=7", bearerLine(h.id.foreign()), "X-Forwarded-For: 9.9.9.9", "X-Countersign-Peer: admin",
		"X-Forwarded-Client-Cert: By=x", "Traceparent: 00-11111111111111111111111111111111-2222222222222222-01")
	if status != 200 || !strings.HasPrefix(body, "GET /orders?id=7 shop.test\n") {
		t.Fatalf("%d %s", status, body)
	}
	for _, want := range []string{"X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-Host: shop.test\r\n", "X-Forwarded-Proto: http\r\n", "Via: 1.1 cs-", "URI=" + edgeID} {
		if !strings.Contains(body, want) {
			t.Errorf("the service does not see %q:\n%s", want, body)
		}
	}
	for _, no := range []string{"9.9.9.9", "Authorization", "admin", "By=x", "11111111"} {
		if strings.Contains(body, no) {
			t.Errorf("the service sees %q:\n%s", no, body)
		}
	}
	rec := h.a.record(func(r *audit.Record) bool { return r.DstID == edgeID && r.Status == 200 })
	if rec.Decision != audit.Allow || rec.Service != "default/api" || rec.Subject == nil || rec.Iss != foreignID || rec.RouteRule != "default/shop#0" {
		t.Errorf("%+v", rec)
	}
}

func TestDoorRefusals(t *testing.T) {
	h := newHouse(t, setup{}, toAPI(path(route.Prefix, "/orders")), toAPI(path(route.Exact, "/gone"), func(r *route.Rule) {
		r.Backends[0].Name.Name = "nobody"
	}), toAPI(path(route.Exact, "/none"), func(r *route.Rule) { r.Backends = nil }), toAPI(path(route.Exact, "/idle"), func(r *route.Rule) {
		r.Backends[0].Name.Name = "other"
	}))
	token := bearerLine(h.id.foreign())
	for _, c := range []struct {
		name, line    string
		fields        []string
		status        int
		layer, reason string
	}{
		{"no token", "GET /orders", nil, 403, audit.LayerAuthz, "no_allow_rule"},
		{"bad token", "GET /orders", []string{token + "x"}, 401, audit.LayerToken, ""},
		{"two tokens", "GET /orders", []string{token, token}, 400, audit.LayerToken, ""},
		{"no rule", "GET /else", []string{token}, 404, audit.LayerRoute, "no_route"},
		{"unknown service", "GET /gone", []string{token}, 500, audit.LayerRoute, "bad_backend"},
		{"no backend", "GET /none", []string{token}, 500, audit.LayerRoute, "bad_backend"},
		{"no instance", "GET /idle", []string{token}, 503, audit.LayerRoute, "no_endpoint"},
		{"above the root", "GET /../orders", []string{token}, 400, audit.LayerHTTP, "bad_path"},
		{"lower case method", "get /orders", []string{token}, 501, audit.LayerHTTP, "bad_request_line"},
	} {
		status, body, header := h.ask(c.line, c.fields...)
		id := header.Get("X-Decision-Id")
		if status != c.status || id == "" {
			t.Errorf("%s: %d %q, decision %q", c.name, status, body, id)
			continue
		}
		rec := h.a.record(func(r *audit.Record) bool { return r.ID == id })
		if rec.Layer != c.layer || c.reason != "" && rec.Reason != c.reason {
			t.Errorf("%s: %s/%s", c.name, rec.Layer, rec.Reason)
		}
	}
}

func TestDoorFilters(t *testing.T) {
	h := newHouse(t, setup{},
		toAPI(path(route.Prefix, "/v1"), filter(route.Filter{Rewrite: &route.Rewrite{Hostname: "inner.test", Path: &route.PathReplace{Value: "/"}}}),
			filter(route.Filter{RequestHeaders: &route.HeaderFilter{Set: []route.Pair{{Name: "X-Tier", Value: "gold"}}, Remove: []string{"X-Debug"}}}),
			filter(route.Filter{ResponseHeaders: &route.HeaderFilter{Add: []route.Pair{{Name: "Set-Cookie", Value: "a=1"}}}})),
		route.Rule{Matches: []route.Match{{PathType: route.Prefix, Path: "/old"}}, Filters: []route.Filter{{
			Redirect: &route.Redirect{Scheme: "https", Status: 301, Path: &route.PathReplace{Value: "/new"}}}}},
		toAPI(path(route.Exact, "/shared"), func(r *route.Rule) { r.Matches[0].Method = "PUT" }, filter(route.Filter{CORS: &route.CORS{
			Origins: []string{"https://*.x.test"}, Methods: []string{"PUT"}, Credentials: true, MaxAge: 5}})),
	)
	token := bearerLine(h.id.foreign())

	status, body, header := h.ask("GET /v1/orders?x=%2F", token, "X-Debug: 1", "X-Tier: tin")
	if status != 200 || !strings.HasPrefix(body, "GET /orders?x=%2F inner.test\n") || !strings.Contains(body, "X-Tier: gold\r\n") || strings.Contains(body, "X-Debug") ||
		!strings.Contains(body, "X-Forwarded-Host: shop.test\r\n") || header.Get("Set-Cookie") != "a=1" {
		t.Errorf("%d %v\n%s", status, header, body)
	}
	if status, _, header := h.ask("GET /old/a?b", token); status != 301 || header.Get("Location") != "https://shop.test/new/a?b" {
		t.Errorf("redirect: %d %q", status, header.Get("Location"))
	}
	if status, _, _ := h.ask("GET /old/a?b"); status != 403 {
		t.Errorf("a redirect that no policy allows: %d", status)
	}
	status, _, header = h.ask("OPTIONS /shared", "Origin: https://a.x.test", "Access-Control-Request-Method: PUT")
	if status != 204 || header.Get("Access-Control-Allow-Origin") != "https://a.x.test" || header.Get("Access-Control-Allow-Methods") != "PUT" {
		t.Errorf("preflight: %d %v", status, header)
	}
	if status, _, header := h.ask("OPTIONS /shared", "Origin: https://evil.test", "Access-Control-Request-Method: PUT"); status != 403 || header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight of a stranger: %d %v", status, header)
	}
	if status, _, header := h.ask("PUT /shared", "Origin: https://a.x.test", "Content-Length: 0"); status != 403 || header.Get("Access-Control-Allow-Credentials") != "true" || header.Get("Vary") != "Origin" {
		t.Errorf("a refusal that scripts may read: %d %v", status, header)
	}
}

// The server name chooses the listener, and a request for another one is misdirected (T1, T2).
func TestDoorTLS(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	roots := x509.NewCertPool()
	roots.AddCert(h.ca.Root)
	dial := func(sni string, protocols ...string) (*tls.Conn, error) {
		return tls.Dial("tcp", h.https, &tls.Config{RootCAs: roots, ServerName: sni, NextProtos: protocols})
	}
	for _, sni := range []string{"else.test", "bare.test"} {
		if c, err := dial(sni); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("server name %s: %v", sni, err)
			if c != nil {
				c.Close()
			}
		}
	}
	token := bearerLine(h.id.foreign())
	for host, want := range map[string]int{"shop.test": 200, "SHOP.TEST.:443": 200, "bare.test": 421, "else.test": 404} {
		c, err := dial("shop.test")
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: " + host + "\r\n" + token + "\r\nConnection: close\r\n\r\n"))
		status, body, _ := answerOf(t, bufio.NewReader(c))
		if status != want || want == 200 && !strings.Contains(body, "X-Forwarded-Proto: https\r\n") {
			t.Errorf("host %s: %d, want %d\n%s", host, status, want, body)
		}
		c.Close()
	}
	tr := &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return dial("shop.test", "h2") }}
	defer tr.CloseIdleConnections()
	req, _ := http.NewRequest("GET", "https://shop.test/", nil)
	name, value, _ := strings.Cut(token, ": ")
	req.Header.Set(name, value)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	_, _ = body.ReadFrom(resp.Body)
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 || !strings.Contains(body.String(), "Via: 2.0 cs-") {
		t.Errorf("%s %d\n%s", resp.Proto, resp.StatusCode, body.String())
	}
}

// An own token is never taken over clear text from elsewhere; from this machine it may be (T9a).
func TestSecDoorTokenInCleartext(t *testing.T) {
	for from, want := range map[string]*refused{"127.0.0.1:1": nil, "[::1]:1": nil, "192.0.2.7:1": refuseCleartext} {
		x := &exchange{token: &jose.Token{}, link: &link{src: netip.MustParseAddrPort(from)}}
		if got := x.needsTLS(); got != want {
			t.Errorf("from %s: %v", from, got)
		}
		x.link.front = &tls.ConnectionState{}
		if got := x.needsTLS(); got != nil {
			t.Errorf("over TLS from %s: %v", from, got)
		}
	}
}

// A rule's time is over: 504 and no answer of the backend; 0s is no bound (F27).
func TestDoorTimeouts(t *testing.T) {
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(300 * time.Millisecond):
		}
		echo(w, r)
	})
	limit := func(request, backend time.Duration) func(*route.Rule) {
		return func(r *route.Rule) { r.Timeouts = route.Timeouts{Request: &request, Backend: &backend} }
	}
	h := newHouse(t, setup{handler: slow}, toAPI(path(route.Exact, "/short"), limit(50*time.Millisecond, time.Hour)),
		toAPI(path(route.Exact, "/backend"), limit(0, 50*time.Millisecond)), toAPI(path(route.Exact, "/free"), limit(0, 0)))
	token := bearerLine(h.id.foreign())
	for line, want := range map[string]int{"GET /short": 504, "GET /backend": 504, "GET /free": 200} {
		status, body, header := h.ask(line, token)
		if status != want {
			t.Errorf("%s: %d %q", line, status, body)
		}
		if id := header.Get("X-Decision-Id"); want == 504 && h.a.record(func(r *audit.Record) bool { return r.ID == id }).Error != "upstream_timeout" {
			t.Errorf("%s: its record blames somebody else", line)
		}
	}
}

// Who holds all the places that a machine's loopback has keeps nobody out (sec-limits-no-lockout).
func TestSecDoorNoLockout(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	h.a.crowd.mu.Lock()
	h.a.crowd.most = 20
	h.a.crowd.mu.Unlock()
	for range 30 {
		c, err := net.Dial("tcp", h.http)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for range 5 {
		if status, body, _ := h.ask("GET /", bearerLine(h.id.foreign())); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
}

// A rewrite leads past no policy: the Gateway's judges the path as it was asked for, the service's the one it gets.
func TestSecDoorRewriteIsJudgedTwice(t *testing.T) {
	full := func(to string) func(*route.Rule) {
		return filter(route.Filter{Rewrite: &route.Rewrite{Path: &route.PathReplace{Full: true, Value: to}}})
	}
	h := newHouse(t, setup{allow: []policy.Rule{{
		From: []policy.Source{{Principals: []string{"cluster.local/ns/default/sa/edge"}}}, To: []policy.Operation{{Paths: []string{"/orders"}}},
	}}}, toAPI(path(route.Exact, "/good"), full("/orders")), toAPI(path(route.Exact, "/bad"), full("/admin")), toAPI(path(route.Exact, "/admin"), full("/orders")))
	h.admit(policy.Rule{To: []policy.Operation{{NotPaths: []string{"/admin"}}}})
	for line, want := range map[string]struct {
		status int
		by     string // whose policy refuses
	}{"GET /good": {200, ""}, "GET /bad": {403, apiID}, "GET /admin": {403, edgeID}, "GET /orders": {404, ""}} {
		status, body, header := h.ask(line)
		if status != want.status {
			t.Errorf("%s: %d %s", line, status, body)
			continue
		}
		if want.by != "" {
			n := h.a
			if want.by == apiID {
				n = h.b
			}
			rec := n.record(func(r *audit.Record) bool { return r.ID == header.Get("X-Decision-Id") })
			if rec.DstID != want.by || rec.Layer != audit.LayerAuthz {
				t.Errorf("%s: %s by %s", line, rec.Reason, rec.DstID)
			}
		}
	}
}

// What has come by this Gateway three times goes round in circles: 508.
func TestSecDoorLoop(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	h.admit(policy.Rule{})
	_, body, _ := h.ask("GET /")
	_, own, found := strings.Cut(body, "Via: 1.1 ")
	own, _, _ = strings.Cut(own, "\r")
	if !found {
		t.Fatal(body)
	}
	for times, want := range []int{200, 200, 200, 508} {
		status, _, _ := h.ask("GET /", "Via: 1.1 other"+strings.Repeat(", 1.1 "+own, times))
		if status != want {
			t.Errorf("%d times: %d, want %d", times, status, want)
		}
	}
}

// F19: an instance that shows another SVID than its service's gets nothing of a request.
func TestSecDoorUnverifiedEndpoint(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	h.admit(policy.Rule{})
	h.change(func(s *State) {
		svc := *s.Services[ServiceKey{"default", "api"}]
		svc.Instances = []Instance{{ID: "api1", Owner: "spiffe://cluster.local/ns/default/sa/other", Addr: h.b.addr, State: "ready"}}
		s.Services = map[ServiceKey]*Service{{"default", "api"}: &svc}
	})
	status, _, header := h.ask("POST /", "Content-Length: 0")
	rec := h.a.record(func(r *audit.Record) bool { return r.ID == header.Get("X-Decision-Id") })
	if status != 502 || rec.Reason != "unverified_endpoint" || h.b.requests() != 0 {
		t.Errorf("%d, %s, %d requests reached it", status, rec.Reason, h.b.requests())
	}
}
