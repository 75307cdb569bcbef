package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// furnish puts one route in force behind a Gateway, both with options; with grants it is of namespace team. Without
// rules there is no route.
func (h *house) furnish(gateway, options route.Options, grants []route.Grant, rules ...route.Rule) {
	gw := route.Name{Namespace: "default", Name: "edge"}
	at := []route.Attached{
		{Gateway: gw, Listener: "plain", Port: plainPort, Protocol: route.HTTP, Options: gateway},
		{Gateway: gw, Listener: "secure", Port: securePort, Protocol: route.HTTPS, Hostname: "shop.test", Options: gateway},
	}
	if len(rules) > 0 {
		namespace := "default"
		if len(grants) > 0 {
			namespace = "team"
		}
		r := &route.HTTPRoute{Meta: route.Meta{Name: route.Name{Namespace: namespace, Name: "shop"}}, Options: options, Rules: rules}
		for i := range at {
			at[i].Routes = []route.Effective{{Route: r, Hostnames: []string{at[i].Hostname}}}
		}
	}
	table, _ := route.Compile(at)
	usable := route.Facts{Backend: func(route.Ref, uint16) route.Backing { return route.Usable }}
	h.change(func(s *State) {
		s.Routes = table
		s.Resolve = func(r *route.HTTPRoute, b *route.Backend) route.Refusal {
			return route.ResolveBackend(r, b, grants, usable)
		}
	})
}

func named(name string) func(*route.Rule) { return func(r *route.Rule) { r.Name = name } }

const websocketFields = "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="

// What the service sees of the caller's address, and by which spelling a stranger cannot say it.
func TestSecDoorClientAddress(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	token := bearerLine(h.id.foreign())
	for _, c := range []struct {
		name    string
		options route.Options
		fields  []string
		want    string
	}{
		{"nobody is trusted", nil, []string{"X-Forwarded-For: 9.9.9.9"}, "127.0.0.1"},
		{"the last is added by ours", route.Options{"trusted-proxies": "1"}, []string{"X-Forwarded-For: 9.9.9.9, 1.2.3.4"}, "1.2.3.4, 127.0.0.1"},
		{"two lines", route.Options{"trusted-proxies": "1"}, []string{"X-Forwarded-For: 9.9.9.9", "X-Forwarded-For: [2001:db8::7]:443"}, "2001:db8::7, 127.0.0.1"},
		{"too few", route.Options{"trusted-proxies": "2"}, []string{"X-Forwarded-For: 1.2.3.4"}, "127.0.0.1"},
		{"an alias", route.Options{"trusted-proxies": "1"}, []string{"X_Forwarded_For: 1.2.3.4"}, "127.0.0.1"},
		{"the standard one", route.Options{"trusted-proxies": "1"}, []string{"Forwarded: for=1.2.3.4", "X-Real-IP: 1.2.3.4"}, "127.0.0.1"},
		{"another peer", route.Options{"trusted-proxies": "1", "trusted-proxy-addresses": "10.0.0.0/8"}, []string{"X-Forwarded-For: 1.2.3.4"}, "127.0.0.1"},
		{"this peer", route.Options{"trusted-proxies": "1", "trusted-proxy-addresses": "127.0.0.1"}, []string{"X-Forwarded-For: 1.2.3.4"}, "1.2.3.4, 127.0.0.1"},
		{"of one listener", route.Options{"trusted-proxies": "1", "trusted-proxies.plain": "0"}, []string{"X-Forwarded-For: 1.2.3.4"}, "127.0.0.1"},
	} {
		h.furnish(c.options, nil, nil, toAPI())
		status, body, _ := h.ask("GET /", append(c.fields, token)...)
		if status != 200 || !strings.Contains(body, "\nX-Forwarded-For: "+c.want+"\r\n") || strings.Contains(body, "Forwarded: for") || strings.Contains(body, "Real") {
			t.Errorf("%s: %d\n%s", c.name, status, body)
		}
	}
	rec := h.a.record(func(r *audit.Record) bool { return strings.Contains(r.Detail, "client 1.2.3.4") })
	if rec.SrcIP.String() != "127.0.0.1" {
		t.Errorf("a record has %s for the socket's peer", rec.SrcIP)
	}
}

// Lists of addresses stand before tokens, and each holder has its own (gateway.md 20).
func TestSecDoorIPLists(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	token := bearerLine(h.id.foreign())
	shared := toAPI(path(route.Exact, "/shared"), named("shared"), func(r *route.Rule) { r.Matches[0].Method = "PUT" },
		filter(route.Filter{CORS: &route.CORS{Origins: []string{"https://x.test"}, Methods: []string{"PUT"}, MaxAge: 5}}))
	with := func(key, value string) route.Options { return route.Options{"trusted-proxies": "1", key: value} }
	for _, c := range []struct {
		name           string
		gateway, route route.Options
		from           string
		line           string
		policy         string // "" is let in
	}{
		{"denied by the Gateway", with("ip-deny", "1.2.3.0/24"), nil, "1.2.3.4", "GET /", "Gateway/default/edge"},
		{"another", with("ip-deny", "1.2.3.0/24"), nil, "1.2.4.4", "GET /", ""},
		{"mapped", with("ip-deny", "1.2.3.0/24"), nil, "::ffff:1.2.3.4", "GET /", "Gateway/default/edge"},
		{"not allowed", with("ip-allow", "2001:db8::/32"), nil, "1.2.3.4", "GET /", "Gateway/default/edge"},
		{"allowed", with("ip-allow", "2001:db8::/32"), nil, "2001:db8::1", "GET /", ""},
		{"by the listener", with("ip-deny.plain", "1.2.3.4"), nil, "1.2.3.4", "GET /", "Gateway/default/edge"},
		{"by another listener", with("ip-deny.secure", "1.2.3.4"), nil, "1.2.3.4", "GET /", ""},
		{"by the route", with("via", "true"), route.Options{"ip-deny": "1.2.3.4"}, "1.2.3.4", "GET /", "HTTPRoute/default/shop"},
		{"by the rule", with("via", "true"), route.Options{"ip-deny.main": "1.2.3.4"}, "1.2.3.4", "GET /", "HTTPRoute/default/shop"},
		{"by another rule", with("via", "true"), route.Options{"ip-deny.shared": "1.2.3.4"}, "1.2.3.4", "GET /", ""},
		{"a route opens nothing", with("ip-deny", "1.2.3.4"), route.Options{"ip-allow": "1.2.3.4"}, "1.2.3.4", "GET /", "Gateway/default/edge"},
		{"a preflight", with("via", "true"), route.Options{"ip-deny.shared": "1.2.3.4"}, "1.2.3.4", "OPTIONS /shared", "HTTPRoute/default/shop"},
		{"OPTIONS *", with("ip-deny", "1.2.3.4"), nil, "1.2.3.4", "OPTIONS *", "Gateway/default/edge"},
		{"our own paths", with("ip-deny", "1.2.3.4"), nil, "1.2.3.4", "GET /.well-known/countersign/x", "Gateway/default/edge"},
	} {
		h.furnish(c.gateway, c.route, nil, toAPI(named("main")), shared)
		fields := []string{"X-Forwarded-For: " + c.from, "Origin: https://x.test", "Access-Control-Request-Method: PUT"}
		if c.policy == "" {
			if status, body, _ := h.ask(c.line, append(fields, token)...); status != 200 {
				t.Errorf("%s: %d %s", c.name, status, body)
			}
			continue
		}
		status, body, header := h.ask(c.line, append(fields, token+"x")...) // a bad token would be 401
		if status != 403 || body != "RBAC: access denied" {
			t.Errorf("%s: %d %s", c.name, status, body)
			continue
		}
		id := header.Get("X-Decision-Id")
		if rec := h.a.record(func(r *audit.Record) bool { return r.ID == id }); rec.Layer != audit.LayerAuthz || rec.Reason != policy.ReasonDenyRule || rec.Policy != c.policy {
			t.Errorf("%s: %s/%s by %q", c.name, rec.Layer, rec.Reason, rec.Policy)
		}
	}
}

// What is under way ends within a second when a list or a missing grant now refuses it, and goes on when its route is
// gone (gateway.md 22, F14).
func TestSecDoorStreamsEnd(t *testing.T) {
	echoing := afterUpgrade(func(c net.Conn) { _, _ = io.Copy(c, c) })
	h := newHouse(t, setup{handler: echoing}, toAPI())
	abroad := toAPI(named("ws"))
	token := bearerLine(h.id.foreign())
	one := route.Options{"trusted-proxies": "1"}
	open := func(t *testing.T) (net.Conn, *bufio.Reader) {
		t.Helper()
		c, r := dialRaw(t, h.http, "GET /ws HTTP/1.1\nHost: shop.test\nX-Forwarded-For: 1.2.3.4\n"+token+"\n"+websocketFields+"\n\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatalf("%v, %v", resp, err)
		}
		return c, r
	}
	alive := func(c net.Conn, r *bufio.Reader) bool {
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			return false
		}
		_, err := r.ReadByte()
		return err == nil
	}
	for _, c := range []struct {
		name   string
		change func()
		lives  bool
		reason string
	}{
		{"nothing", func() { h.furnish(one, nil, nil, abroad) }, true, ""},
		{"the route is gone", func() { h.furnish(one, nil, nil) }, true, ""},
		{"another is denied", func() { h.furnish(route.Options{"ip-deny": "1.2.3.5"}, nil, nil, abroad) }, true, ""},
		{"the Gateway denies", func() { h.furnish(route.Options{"ip-deny": "1.2.3.4"}, nil, nil, abroad) }, false, cutPolicy},
		{"the rule denies", func() { h.furnish(one, route.Options{"ip-deny.ws": "1.2.3.0/24"}, nil, abroad) }, false, cutPolicy},
		{"the listener allows others", func() { h.furnish(route.Options{"ip-allow.plain": "10.0.0.0/8"}, nil, nil, abroad) }, false, cutPolicy},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.furnish(one, nil, nil, abroad)
			conn, r := open(t)
			if !alive(conn, r) {
				t.Fatal("no tunnel")
			}
			c.change()
			if got := alive(conn, r); got != c.lives {
				t.Fatalf("alive: %v", got)
			}
			if c.reason != "" {
				h.a.record(func(r *audit.Record) bool { return r.CloseReason == c.reason && r.Decision == audit.Deny })
			}
			_ = conn.Close()
		})
	}

	grant := []route.Grant{{Meta: route.Meta{Name: route.Name{Namespace: "default", Name: "g"}},
		From: []route.GrantFrom{{Kind: route.Kind{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute"}, Namespace: "team"}},
		To:   []route.GrantTo{{Kind: route.Kind{Kind: "Service"}}}}}
	h.furnish(one, nil, grant, abroad)
	conn, r := open(t)
	h.furnish(one, nil, grant)
	if !alive(conn, r) {
		t.Error("a tunnel ends with its route")
	}
	h.furnish(one, nil, []route.Grant{})
	if alive(conn, r) {
		t.Error("a tunnel goes on without its grant")
	}
	h.a.record(func(r *audit.Record) bool {
		return r.CloseReason == cutRoute && r.Decision == audit.Deny && r.Reason == "bad_backend"
	})
}

// aDoor is one of the doors of the Gateway.
func (h *house) aDoor() *door {
	for _, r := range h.a.all() {
		if len(r.doors) > 0 {
			return r.doors[0]
		}
	}
	return nil
}

func TestDoorMessageOptions(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	token := bearerLine(h.id.foreign())
	all := toAPI(named("all"))
	deep := toAPI(path(route.Prefix, "/deep"), named("deep"))
	for _, c := range []struct {
		name           string
		gateway, route route.Options
		rules          []route.Rule
		line           string
		fields         []string
		status         int
		first          string   // line of what the service sees
		has, lacks     []string // in it
	}{
		{name: "no WebSocket", route: route.Options{"websocket": "deny"}, rules: []route.Rule{all}, line: "GET /", fields: []string{websocketFields}, status: 403},
		{name: "body within", gateway: route.Options{"request-body": "4"}, rules: []route.Rule{all}, line: "POST /", fields: []string{"Content-Length: 4", "", "abcd"}, status: 200},
		{name: "body beyond", gateway: route.Options{"request-body": "3"}, rules: []route.Rule{all}, line: "POST /", fields: []string{"Content-Length: 4", "", "abcd"}, status: 413},
		{name: "chunked body beyond", gateway: route.Options{"request-body": "3"}, rules: []route.Rule{all}, line: "POST /", fields: []string{"Transfer-Encoding: chunked", "", "4", "abcd", "0", "", ""}, status: 413},
		{name: "no bound for the rule", gateway: route.Options{"request-body": "3"}, route: route.Options{"request-body.all": "0"}, rules: []route.Rule{all}, line: "POST /", fields: []string{"Content-Length: 4", "", "abcd"}, status: 200},

		{name: "no rule for paths", rules: []route.Rule{all}, line: "GET /a%2Fb%3B", status: 200, first: "GET /a%2Fb%3B shop.test"},
		{name: "strict host", rules: []route.Rule{all, deep}, line: "GET /a%2Fb", status: 400},
		{name: "strict host, kept", route: route.Options{"escaped-reserved": "keep"}, rules: []route.Rule{all, deep}, line: "GET /a%2Fb", status: 200, first: "GET /a%2Fb shop.test"},
		{name: "strict host, kept by another rule", route: route.Options{"escaped-reserved.all": "keep"}, rules: []route.Rule{all, deep}, line: "GET /deep/a%2Fb", status: 400},
		{name: "hidden dots are refused all the same", route: route.Options{"escaped-reserved": "keep"}, rules: []route.Rule{all}, line: "GET /a/..%2Fb", status: 400},
		{name: "nothing takes it", rules: []route.Rule{deep}, line: "GET /a%2Fb", status: 400},

		{name: "slashes are one", rules: []route.Rule{all}, line: "GET //a///b//?c//d", status: 200, first: "GET /a/b/?c//d shop.test"},
		{name: "slashes are kept", route: route.Options{"merge-slashes": "false"}, rules: []route.Rule{all}, line: "GET //a///b//?c//d", status: 200, first: "GET //a///b//?c//d shop.test"},
		{name: "in absolute-form", route: route.Options{"merge-slashes": "false"}, rules: []route.Rule{all}, line: "GET http://shop.test//a//b", status: 200, first: "GET //a//b shop.test"},
		{name: "never past a rule for paths", route: route.Options{"merge-slashes": "false"}, rules: []route.Rule{all, deep}, line: "GET //deep//a", status: 200, first: "GET /deep/a shop.test"},

		{name: "address headers", rules: []route.Rule{all}, line: "GET /", fields: []string{"X-Client-Ip: 6.6.6.6", "Client-IP: 6.6.6.6", "True-Client-IP: 6.6.6.6",
			"Fastly-Client-IP: 6.6.6.6", "X-Azure-ClientIP: 6.6.6.6", "X-Cluster-Client-Ip: 6.6.6.6", "X-Original-Forwarded-For: 6.6.6.6", "CF-Connecting-IPv6: 6.6.6.6", "X-Forwarded: 6.6.6.6",
			"WL-Proxy-Client-IP: 6.6.6.6", "Fly-Client-IP: 6.6.6.6", "X-Remote-Addr: 6.6.6.6", "X_Client_Ip: 6.6.6.6", "Forwarded-For: 6.6.6.6"}, status: 200, lacks: []string{"6.6.6.6"}},
		{name: "let through", route: route.Options{"allow-client-headers": "x-real-ip,x-host"}, rules: []route.Rule{all}, line: "GET /", fields: []string{"X-Real-Ip: 7.7.7.7", "X_Real_Ip: 6.6.6.6", "X-Host: a", "X-Client-Ip: 6.6.6.6"},
			status: 200, has: []string{"X-Real-Ip: 7.7.7.7", "X-Host: a"}, lacks: []string{"6.6.6.6"}},
		{name: "foreign identity of a stranger", route: route.Options{"allow-client-headers": "x-auth-request-user"}, rules: []route.Rule{all}, line: "GET /", fields: []string{"X-Auth-Request-User: root"}, status: 200, lacks: []string{"root"}},
		{name: "foreign identity of a trusted proxy", gateway: route.Options{"trusted-proxy-addresses": "127.0.0.0/8"}, route: route.Options{"allow-client-headers": "x-auth-request-user"}, rules: []route.Rule{all}, line: "GET /",
			fields: []string{"X-Auth-Request-User: root"}, status: 200, has: []string{"X-Auth-Request-User: root"}},
		{name: "of another rule", route: route.Options{"allow-client-headers.deep": "x-host"}, rules: []route.Rule{all, deep}, line: "GET /", fields: []string{"X-Host: a"}, status: 200, lacks: []string{"X-Host"}},
		{name: "underscores pass", rules: []route.Rule{all}, line: "GET /", fields: []string{"my_field: 1"}, status: 200, has: []string{"My_field: 1"}},
		{name: "underscores are dropped", gateway: route.Options{"underscores": "drop"}, rules: []route.Rule{all}, line: "GET /", fields: []string{"my_field: 1", "My-Field: 2"}, status: 200, has: []string{"My-Field: 2"}, lacks: []string{"_"}},

		{name: "no Via", gateway: route.Options{"via": "false"}, rules: []route.Rule{all}, line: "GET /", status: 200, lacks: []string{"Via: "}},
		{name: "Forwarded", gateway: route.Options{"forwarded": "true", "trusted-proxies": "2"}, rules: []route.Rule{all}, line: "GET /", fields: []string{"X-Forwarded-For: 2001:db8::7, x"}, status: 200,
			has: []string{`Forwarded: for="[2001:db8::7]", for=unknown, for=127.0.0.1;host="shop.test";proto=http`}},

		{name: "our own paths", rules: []route.Rule{all}, line: "GET /.well-known/countersign/x", status: 404},
		{name: "not ours", rules: []route.Rule{all}, line: "GET /.well-known/countersignx", status: 200},
	} {
		h.furnish(c.gateway, c.route, nil, c.rules...)
		fields := c.fields
		for i, f := range fields {
			if f == "" { // a body follows
				fields = append(append(append([]string{}, fields[:i]...), token), fields[i:]...)
				break
			}
		}
		if len(fields) == len(c.fields) {
			fields = append(append([]string{}, fields...), token)
		}
		_, r := dialRaw(t, h.http, strings.TrimSuffix(strings.Join(append([]string{c.line + " HTTP/1.1", "Host: shop.test"}, fields...), "\n"), "\n")+"\n\n")
		status, body, _ := answerOf(t, r)
		if status != c.status || c.first != "" && !strings.HasPrefix(body, c.first+"\n") {
			t.Errorf("%s: %d\n%s", c.name, status, body)
			continue
		}
		for _, want := range c.has {
			if !strings.Contains(body, "\n"+want+"\r\n") {
				t.Errorf("%s: the service does not see %q\n%s", c.name, want, body)
			}
		}
		for _, no := range c.lacks {
			if strings.Contains(body, no) {
				t.Errorf("%s: the service sees %q\n%s", c.name, no, body)
			}
		}
	}
}

// A policy for paths makes every host of its Gateway strict.
func TestSecDoorStrictByPolicy(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	h.admit(policy.Rule{From: []policy.Source{{RequestPrincipals: []string{foreignID + "/*"}}}, To: []policy.Operation{{Paths: []string{"/a/{*}"}}}})
	token := bearerLine(h.id.foreign())
	for options, want := range map[string]int{"refuse": 400, "keep": 200} {
		h.furnish(nil, route.Options{"escaped-reserved": options, "merge-slashes": "false"}, nil, toAPI())
		if status, body, _ := h.ask("GET /a/b%2Fc", token); status != want {
			t.Errorf("%s: %d %s", options, status, body)
		}
		if status, body, _ := h.ask("GET /a//b", token); status != 200 || !strings.HasPrefix(body, "GET /a/b ") {
			t.Errorf("%s: a policy for paths is passed by //: %d %s", options, status, body)
		}
	}
}

// Browsers hear of HSTS in every answer over TLS, also in refusals, and in none over clear text.
func TestDoorHSTS(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	h.furnish(route.Options{"hsts": "max-age=300"}, nil, nil, toAPI())
	token := bearerLine(h.id.foreign())
	if _, _, header := h.ask("GET /", token); header.Get("Strict-Transport-Security") != "" {
		t.Error("said over clear text")
	}
	roots := x509.NewCertPool()
	roots.AddCert(h.ca.Root)
	c, err := tls.Dial("tcp", h.https, &tls.Config{RootCAs: roots, ServerName: "shop.test"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for line, want := range map[string]int{"GET / HTTP/1.1\r\n" + token: 200, "GET / HTTP/1.1": 403, "OPTIONS * HTTP/1.1": 204} {
		_, _ = io.WriteString(c, line+"\r\nHost: shop.test\r\n\r\n")
		if status, _, header := answerOf(t, r); status != want || header.Get("Strict-Transport-Security") != "max-age=300" {
			t.Errorf("%s: %d %q", line, status, header.Get("Strict-Transport-Security"))
		}
	}
}

// The bounds of connections that a Gateway names.
func TestDoorSeats(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	h.furnish(route.Options{"max-connections": "5", "max-connections-per-source": "2", "trusted-proxy-addresses": "192.0.2.9"}, nil, nil, toAPI())
	d := h.aDoor()
	taken := map[string]int{}
	var seated []*link
	for _, from := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.9:1", "192.0.2.9:2", "192.0.2.9:3", "192.0.2.2:1"} {
		l := &link{run: d.run, door: d, src: netip.MustParseAddrPort(from)}
		if d.seat(l) {
			taken[l.src.Addr().String()]++
			seated = append(seated, l)
		}
	}
	if taken["192.0.2.1"] != 2 || taken["192.0.2.9"] != 3 || taken["192.0.2.2"] != 0 {
		t.Errorf("%v", taken)
	}
	for _, l := range seated {
		d.unseat(l)
	}
	if d.crowd.all != 0 || len(d.crowd.from) != 0 || h.a.crowd.all != 0 {
		t.Error("who left is counted")
	}
}

// A tunnel that is idle for as long as its rule says ends, and so does an event stream.
func TestDoorStreamIdle(t *testing.T) {
	h := newHouse(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			afterUpgrade(func(c net.Conn) { _, _ = io.Copy(c, c) }).ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})}, toAPI())
	h.furnish(nil, route.Options{"stream-idle": "1s"}, nil, toAPI())
	for _, fields := range []string{websocketFields, "Accept: text/event-stream"} {
		began := time.Now()
		c, r := dialRaw(t, h.http, "GET / HTTP/1.1\nHost: shop.test\n"+bearerLine(h.id.foreign())+"\n"+fields+"\n\n")
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err := io.Copy(io.Discard, r)
		if took := time.Since(began); took < 900*time.Millisecond || took > 5*time.Second {
			t.Errorf("%s: ended after %s, %v", fields, took, err)
		}
	}
	h.a.record(func(r *audit.Record) bool { return r.CloseReason == cutIdle && r.Decision == audit.Allow })
}
