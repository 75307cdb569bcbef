package proxy

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/policy"
)

// dialMesh speaks to a node's inbound port as id, by hand.
func (m *mesh) dialMesh(ca *identitytest.Authority, id, serverName string, alpn ...string) (*tls.Conn, error) {
	m.t.Helper()
	c, err := net.Dial("tcp", m.b.addr)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	side := identity.Side{Trust: func() *identity.Trust { return m.ca.Trust() }, Now: time.Now, NextProtos: alpn}
	if id != "" {
		pair := ca.Leaf(m.t, id)
		side.Own = func(string) (*tls.Certificate, error) { return pair, nil }
	}
	conn := tls.Client(c, identity.ClientConfig(side, serverName))
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	return conn, nil
}

const apiName = "api1.api.default.svc.cluster.local"

// S13: identity headers and Proxy from callers are dropped in every spelling, at both hops.
func TestSecHTTPoxy(t *testing.T) {
	m := newMesh(t, setup{})
	forged := "Proxy: http://evil/\nPROXY: http://evil/\nX-Forwarded-Client-Cert: URI=forged\n" +
		"x_forwarded_client_cert: URI=forged\nX.Forwarded.Client.Cert: URI=forged\nX-Countersign-Peer: forged\n" +
		"x_countersign_peer: forged\nTxn-Token: forged\nWorkload-Identity-Token: forged\nX-Decision-Id: forged\n" +
		"Client-Cert: forged\nSSL_CLIENT_S_DN: forged\nX-SSL-Client: forged\nContent_Length: 7\nX-Envoy-Peer-Metadata: forged\n"
	check := func(t *testing.T, body string) {
		t.Helper()
		low := strings.ToLower(body)
		for _, bad := range []string{"forged", "evil", "content_length", "proxy:"} {
			if strings.Contains(low, bad) {
				t.Errorf("%q reached the program:\n%s", bad, body)
			}
		}
		pair := m.web.svid.Load().TLS.Leaf
		_ = pair
		if strings.Count(low, "x-forwarded-client-cert: by="+apiID+";hash=") != 1 || !strings.Contains(body, ";URI="+webID+"\r\n") {
			t.Errorf("no proven identity in\n%s", body)
		}
	}
	t.Run("proxy listener", func(t *testing.T) {
		_, r := m.raw("GET http://api/x HTTP/1.1\nHost: api\n" + forged + "\n")
		status, body, _ := answerOf(t, r)
		if status != 200 {
			t.Fatalf("got %d", status)
		}
		check(t, body)
	})
	t.Run("inbound", func(t *testing.T) {
		c, err := m.dialMesh(m.ca, webID, apiName, "http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, strings.ReplaceAll("GET /x HTTP/1.1\nHost: api\n"+forged+"\n", "\n", "\r\n"))
		status, body, _ := answerOf(t, bufio.NewReader(c))
		if status != 200 {
			t.Fatalf("got %d", status)
		}
		check(t, body)
		rec := m.b.record(func(r *audit.Record) bool { return strings.HasPrefix(r.Detail, "stripped:") })
		if !strings.Contains(rec.Detail, "stripped:") {
			t.Errorf("detail %q", rec.Detail)
		}
	})
	t.Run("traceparent", func(t *testing.T) {
		_, r := m.raw("GET http://api/x HTTP/1.1\nHost: api\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n" +
			"Tracestate: countersign=forged,a=b\n\n")
		_, body, _ := answerOf(t, r)
		if !strings.Contains(body, "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-") || strings.Contains(body, "b7ad6b7169203331") ||
			!strings.Contains(body, "Tracestate: a=b\r\n") {
			t.Errorf("got\n%s", body)
		}
	})
}

// withSecret is content with a uid where the secret was shown.
type withSecret struct {
	*facts
	uid error
}

func (w withSecret) CallerWithSecret(*net.TCPConn) error { return w.uid }

// S9: outward a connection is served only after the kernel named its caller, with the secret too.
func TestSecSecretOtherUID(t *testing.T) {
	m := newMesh(t, setup{})
	call := func(secret string) string {
		s := "GET http://api/x HTTP/1.1\nHost: api\n"
		if secret != "" {
			s += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("web:"+secret)) + "\n"
		}
		return s + "\n"
	}
	expect := func(t *testing.T, want int, request string) {
		t.Helper()
		_, r := m.raw(request)
		status, body, h := answerOf(t, r)
		if status != want || want == 407 && h.Get("Proxy-Authenticate") == "" || want == 200 && strings.Contains(body, "Proxy-Auth") {
			t.Errorf("got %d %v, want %d", status, h, want)
		}
	}
	expect(t, 200, call(""))
	expect(t, 200, call("s3cret"))
	expect(t, 407, call("wrong"))
	m.web.caller.Store(no("socket of uid 1001"))
	expect(t, 407, call(""))
	expect(t, 407, call("s3cret")) // read off somebody's argv
	expect(t, 407, call("wrong"))
	expect(t, 407, "CONNECT api:80 HTTP/1.1\nHost: api:80\n\n")
	m.a.record(func(r *audit.Record) bool { return r.Status == 407 && r.PeerID == "" && r.Reason == "bad_header" })

	m.web.caller.Store(nil)
	c, r := m.raw(call("wrong")) // Java and .NET show the secret only after a 407
	if status, _, _ := answerOf(t, r); status != 407 {
		t.Fatalf("got %d", status)
	}
	_, _ = io.WriteString(c, strings.ReplaceAll(call("s3cret"), "\n", "\r\n"))
	if status, _, _ := answerOf(t, r); status != 200 {
		t.Errorf("the right secret on the same connection: got %d", status)
	}

	m.web.stop()
	out, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.proxy.Host = out.Addr().String()
	m.web.caller.Store(no("inode is not the run's"))
	m.start(m.a, m.web, webID, "web", "web2", Run{Outbound: out, Secret: "s3cret", Facts: withSecret{&m.web.facts, nil}})
	expect(t, 200, call("s3cret"))
	expect(t, 407, call(""))
	expect(t, 407, call("wrong"))
}

// S10: inward a port gets a request only if it is the run's, and its answer is believed only
// if it still is.
func TestSecUnacceptedPort(t *testing.T) {
	m := newMesh(t, setup{})
	m.api.port.Store(no("port of uid 1001"))
	status, _, _ := m.get("http://api/x")
	if status != 502 {
		t.Fatalf("got %d", status)
	}
	m.b.record(func(r *audit.Record) bool { return r.Error == "port_not_proven" })
	m.api.port.Store(nil)
	if status, _, _ := m.get("http://api/x"); status != 200 {
		t.Fatalf("got %d", status)
	}
}

// Who answers must be exactly the instance's owner.
func TestSecUnverifiedEndpoint(t *testing.T) {
	m := newMesh(t, setup{})
	m.change(func(s *State) {
		svc := *s.Services[ServiceKey{"default", "api"}]
		svc.Instances = []Instance{{ID: "api1", Owner: "spiffe://cluster.local/ns/default/sa/other", Addr: m.b.addr, State: "ready"}}
		s.Services = map[ServiceKey]*Service{{"default", "api"}: &svc}
	})
	for _, kind := range []string{"text/plain", "application/grpc"} {
		_, r := m.raw("POST http://api/x HTTP/1.1\nHost: api\nContent-Type: " + kind + "\nContent-Length: 4\n\nbody")
		status, _, h := answerOf(t, r)
		if kind == "text/plain" && status != 502 || kind != "text/plain" && h.Get("Grpc-Status") != "14" {
			t.Fatalf("%s: got %d %v", kind, status, h)
		}
		rec := m.a.record(func(r *audit.Record) bool { return r.ID == h.Get("X-Decision-Id") })
		if rec.Reason != "unverified_endpoint" || rec.Detail != identity.UnexpectedPeer || rec.Side != audit.SideClient {
			t.Errorf("record %+v", rec)
		}
	}
	if got := m.b.requests(); got != 0 {
		t.Errorf("%d requests reached the wrong peer", got)
	}
}

func (n *node) requests() (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.records {
		if r.Kind == audit.KindRequest {
			count++
		}
	}
	return count
}

// A handshake that is refused is a record with its reason, and nothing else happens.
func TestSecHandshakeRefused(t *testing.T) {
	m := newMesh(t, setup{})
	other := identitytest.New(t, domain, time.Now())
	foreign := identitytest.New(t, "other.example", time.Now())
	for _, tc := range []struct {
		name, reason, layer string
		ca                  *identitytest.Authority
		id, serverName      string
	}{
		{"no certificate", "no_client_cert", "tls", nil, "", apiName},
		{"other authority", "unknown_ca", "tls", other, webID, apiName},
		{"other domain", "wrong_trust_domain", "tls", foreign, "spiffe://other.example/ns/default/sa/web", apiName},
		{"no such workload", "no_route", "route", m.ca, webID, "db1.db.default.svc.cluster.local"},
		{"no name", "no_route", "route", m.ca, webID, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ca := tc.ca
			conn, err := m.dialMesh(ca, tc.id, tc.serverName, "http/1.1")
			if err == nil { // in TLS 1.3 the refusal comes with the first read
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil {
				t.Error("the handshake went through")
			}
			rec := m.b.reason(tc.reason)
			if rec.Kind != audit.KindConnection || rec.Layer != tc.layer || rec.PeerID != "" || rec.Decision != audit.Deny || !rec.SrcIP.IsValid() {
				t.Errorf("record %+v", rec)
			}
		})
	}
	_, r := dialRaw(t, m.b.addr, "GET / HTTP/1.1\nHost: api\n\n")
	if b, _ := io.ReadAll(r); strings.Contains(string(b), "HTTP/") {
		t.Errorf("plaintext was answered: %q", b)
	}
	m.b.reason("plaintext")
}

// The server name chooses workload and port; the full name without either will do; a Host of
// another mesh service is the caller's fault.
func TestServerNames(t *testing.T) {
	m := newMesh(t, setup{})
	for name, want := range map[string]int{
		apiName:                                   200,
		"api.default.svc.cluster.local":           200,
		"_80.api.default.svc.cluster.local":       200,
		fmt.Sprintf("_%d.%s", m.apiPort, apiName): 200,
		"_81.api.default.svc.cluster.local":       0,
		"api2.api.default.svc.cluster.local":      0,
		"other.default.svc.cluster.local":         0,
		"api.default.svc.example.org":             0,
	} {
		c, err := m.dialMesh(m.ca, webID, name, "http/1.1")
		if err != nil {
			if want != 0 {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		for host, status := range map[string]int{
			"api": 200, "api.default": 200, "shop.example.com": 200, "api1.api.default.svc.cluster.local": 200,
			"other": 421, "other.default.svc": 421,
		} {
			_, _ = io.WriteString(c, "GET /x HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
			if got, _, _ := answerOf(t, bufio.NewReader(c)); got != status || want == 0 {
				t.Errorf("server name %s, host %s: got %d, want %d", name, host, got, status)
			}
		}
	}
}

// The listener of a run's own takes what the mode of its port says.
func TestOwnListener(t *testing.T) {
	anyone := []policy.Rule{{}}
	call := "GET /x HTTP/1.1\nHost: whatever\nX-Forwarded-Client-Cert: URI=forged\n\n"
	m := newMesh(t, setup{listen: true, allow: anyone})
	addr := m.api.cfg.Listen[0].Addr().String()
	overTLS := func() (int, string, error) {
		pair := m.ca.Leaf(t, webID)
		conn, err := tls.Dial("tcp", addr, identity.ClientConfig(identity.Side{
			Own: func(string) (*tls.Certificate, error) { return pair, nil }, Trust: func() *identity.Trust { return m.ca.Trust() }, Now: time.Now,
		}, "anything.example"))
		if err != nil {
			return 0, "", err
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, strings.ReplaceAll(call, "\n", "\r\n"))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return 0, "", err
		}
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}

	t.Run("STRICT", func(t *testing.T) {
		_, r := dialRaw(t, addr, call)
		if b, _ := io.ReadAll(r); len(b) > 0 {
			t.Errorf("plaintext got %q", b)
		}
		m.b.record(func(r *audit.Record) bool { return r.Reason == "plaintext" && r.DstID == apiID })
		if status, body, err := overTLS(); status != 200 || !strings.Contains(body, ";URI="+webID) || strings.Contains(body, "forged") {
			t.Errorf("TLS: %d %q %v", status, body, err)
		}
	})
	t.Run("PERMISSIVE", func(t *testing.T) {
		m.policies(policy.Permissive, anyone)
		c, r := dialRaw(t, addr, call)
		if status, body, _ := answerOf(t, r); status != 200 || strings.Contains(body, "Client-Cert") {
			t.Errorf("plaintext: %d %q", status, body)
		}
		rec := m.b.record(func(r *audit.Record) bool { return r.Kind == audit.KindRequest && r.PeerID == "" })
		if rec.TLSVersion != 0 || rec.DstID != apiID {
			t.Errorf("record %+v", rec)
		}
		if status, body, err := overTLS(); status != 200 || !strings.Contains(body, ";URI="+webID) {
			t.Errorf("TLS: %d %q %v", status, body, err)
		}
		m.policies(policy.Permissive, allowAll())
		_, r2 := dialRaw(t, addr, call)
		if status, _, _ := answerOf(t, r2); status != 403 {
			t.Errorf("anonymous where a principal is asked: %d", status)
		}
		m.policies(policy.Strict, anyone) // closes plaintext connections of the port
		if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("a plaintext connection outlived STRICT: %v", err)
		}
	})
	t.Run("DISABLE", func(t *testing.T) {
		m.policies(policy.Disable, anyone)
		_, r := dialRaw(t, addr, call)
		if status, _, _ := answerOf(t, r); status != 200 {
			t.Errorf("plaintext: %d", status)
		}
		if status, _, err := overTLS(); err == nil {
			t.Errorf("TLS went through: %d", status)
		}
	})
}

// S12: what one parser reads as two requests, and another as one, goes nowhere; each request the
// program answers is one that was meant.
func TestSecSmuggling(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		seen = append(seen, fmt.Sprintf("%s %s %d", r.Method, r.RequestURI, len(b)))
		mu.Unlock()
	})})
	const post = "POST http://api/outer HTTP/1.1\nHost: api\n"
	const inner = "GET http://api/smuggled HTTP/1.1\nHost: api\n\n"
	attacks := map[string]string{
		"CL.TE":          post + "Content-Length: 50\nTransfer-Encoding: chunked\n\n0\n\n" + inner,
		"TE.CL":          post + "Transfer-Encoding: chunked\nContent-Length: 4\n\n5c\n" + inner + "\n0\n\n",
		"TE.TE":          post + "Transfer-Encoding: chunked\nTransfer-Encoding: x\n\n0\n\n" + inner,
		"TE tab":         post + "Transfer-Encoding:\tchunked, identity\n\n0\n\n" + inner,
		"TE vertical":    post + "Transfer-Encoding: \x0bchunked\n\n0\n\n" + inner,
		"CL.CL":          post + "Content-Length: 0\nContent-Length: 44\n\n" + inner,
		"CL list":        post + "Content-Length: 0, 44\n\n" + inner,
		"CL sign":        post + "Content-Length: +44\n\n" + inner,
		"CL folded":      post + "Content-Length:\n 44\n\n" + inner,
		"blank colon":    post + "Content-Length : 44\n\n" + inner,
		"chunk ext":      post + "Transfer-Encoding: chunked\n\n1;\x00\nx\n0\n\n" + inner,
		"two hosts":      "GET http://api/outer HTTP/1.1\nHost: api\nHost: other\n\n" + inner,
		"HTTP/1.0 TE":    "POST http://api/outer HTTP/1.0\nHost: api\nTransfer-Encoding: chunked\n\n0\n\n" + inner,
		"no version":     "GET http://api/outer\n\n" + inner,
		"space in path":  "GET http://api/outer /x HTTP/1.1\nHost: api\n\n" + inner,
		"version":        "GET http://api/outer HTTP/1.2\nHost: api\n\n" + inner,
		"chunk overflow": post + "Transfer-Encoding: chunked\n\n10000000000000000\nx\n0\n\n" + inner,
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			_, r := m.raw(attack)
			status, _, _ := answerOf(t, r)
			if status < 400 {
				t.Errorf("got %d", status)
			}
			if resp, err := http.ReadResponse(r, nil); err == nil {
				t.Errorf("a second answer: %d", resp.StatusCode)
			}
		})
	}
	// A bare LF that a lax origin would take for a line end.
	c, r := m.raw("")
	_, _ = io.WriteString(c, "GET http://api/outer HTTP/1.1\r\nHost: api\r\nX: y\nGET /smuggled HTTP/1.1\r\n\r\n")
	if status, _, _ := answerOf(t, r); status != 400 {
		t.Errorf("bare LF: got %d", status)
	}
	mu.Lock()
	defer mu.Unlock()
	if i := slices.IndexFunc(seen, func(s string) bool { return strings.Contains(s, "smuggled") }); i >= 0 {
		t.Errorf("the program saw %q", seen[i])
	}
}

// A body that breaks its framing gets its 400, and a client that is still sending reads it.
func TestBadBodyAnswerOutlivesBytes(t *testing.T) {
	m := newMesh(t, setup{})
	for range 20 {
		c, r := m.raw("POST http://api/x HTTP/1.1\nHost: api\nTransfer-Encoding: chunked\n\n1;\x00\nx\n" + strings.Repeat("0123456789abcde\n", 2<<10))
		if status, _, _ := answerOf(t, r); status != 400 {
			t.Fatalf("got %d", status)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(r); err != nil || len(b) > 0 {
			t.Fatalf("behind the answer: %q, %v", b, err)
		}
	}
}

// A byte too many behind a response must not begin the next one, for the same caller or another.
func TestSecResponseSplitting(t *testing.T) {
	const poison = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned"
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/plain" {
			_, _ = io.WriteString(w, "plain")
			return
		}
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"+poison)
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})})
	for range 10 {
		if _, body, _ := m.get("http://api/split"); body != "ok" {
			t.Fatalf("got %q", body)
		}
		if _, body, _ := m.get("http://api/plain"); body != "plain" {
			t.Fatalf("got %q", body)
		}
	}
}

// S14: addresses that are never dialled for a call.
func TestSecNeverDialled(t *testing.T) {
	for _, s := range []string{
		"127.0.0.1", "127.8.9.1", "::1", "0.0.0.0", "::", "0.1.2.3", "224.0.0.1", "ff02::1", "169.254.1.1", "fe80::1%eth0",
		"169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
		"64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "::ffff:0:127.0.0.1",
		"::127.0.0.1", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "192.0.0.192", "255.255.255.255",
	} {
		if !forbiddenAddr(netip.MustParseAddr(s)) {
			t.Errorf("%s may be dialled", s)
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok {
			if ip, _ := netip.AddrFromSlice(n.IP); !forbiddenAddr(ip) {
				t.Errorf("%s is this host's and may be dialled", ip)
			}
		}
	}
	for _, s := range []string{"192.0.2.7", "10.255.254.3", "2001:db8::1"} {
		if forbiddenAddr(netip.MustParseAddr(s)) {
			t.Errorf("%s is refused", s)
		}
	}
}

// HTTP/2 from another node is held to the tables that its writing as HTTP/1 needs.
func TestSecHTTP2Fields(t *testing.T) {
	m := newMesh(t, setup{})
	c, err := m.dialMesh(m.ca, webID, apiName, "h2")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		fields [][2]string
		want   string
	}{
		"plain":           {[][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/x"}, {":authority", "api"}}, "200"},
		"absolute path":   {[][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "http://other/x"}, {":authority", "api"}}, "400"},
		"blank in path":   {[][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/x HTTP/1.1"}, {":authority", "api"}}, "400"},
		"other host":      {[][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/x"}, {":authority", "api"}, {"host", "other"}}, "400"},
		"blank at edge":   {[][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/x"}, {":authority", "api"}, {"x", " y"}}, "400"},
		"method blank":    {[][2]string{{":method", "GE T"}, {":scheme", "https"}, {":path", "/x"}, {":authority", "api"}}, "400"},
		"misdirected":     {[][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/x"}, {":authority", "other"}}, "421"},
		"length, no body": {[][2]string{{":method", "POST"}, {":scheme", "https"}, {":path", "/x"}, {":authority", "api"}, {"content-length", "5"}}, "400"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err = m.dialMesh(m.ca, webID, apiName, "h2")
			if err != nil {
				t.Fatal(err)
			}
			if got := rawHTTP2(t, c, tc.fields); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// A fault in us ends one exchange, with one record.
func TestPanic(t *testing.T) {
	m := newMesh(t, setup{})
	m.web.stop()
	out, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.proxy.Host = out.Addr().String()
	m.start(m.a, m.web, webID, "web", "web2", Run{Outbound: out, Facts: panics{}})
	status, _, h := m.get("http://api/x")
	if status != 502 || h.Get("X-Decision-Id") == "" {
		t.Errorf("got %d %v", status, h)
	}
	rec := m.a.record(func(r *audit.Record) bool { return r.Error == "panic" })
	if rec.Decision != audit.Failed {
		t.Errorf("record %+v", rec)
	}
	if m.web.cfg.Outbound == nil {
		t.Fatal()
	}
}

type panics struct{}

func (panics) Caller(*net.TCPConn) error { panic("fault") }
func (panics) Port(*net.TCPConn) error   { panic("fault") }

// Nothing is left behind when a run stops.
func TestStopLeavesNothing(t *testing.T) {
	m := newMesh(t, setup{listen: true})
	eventually(t, "steady", func() bool { return runtime.NumGoroutine() > 0 })
	m.web.stop()
	m.api.stop()
	before := runtime.NumGoroutine()
	for i := range 3 {
		out, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		m.proxy.Host = out.Addr().String()
		m.start(m.a, m.web, webID, "web", fmt.Sprint("web-", i), Run{Outbound: out})
		m.start(m.b, m.api, apiID, "api", "api1", Run{Ports: []Port{{Number: m.apiPort, Protocol: "http"}}})
		for range 5 {
			if status, _, _ := m.get("http://api/x"); status != 200 {
				t.Fatalf("got %d", status)
			}
		}
		_, _ = m.raw("GET http://api/half HTTP/1.1\nHo")
		m.connect("api:80")
		m.web.stop()
		m.api.stop()
	}
	eventually(t, "no goroutine left", func() bool { return runtime.NumGoroutine() <= before+2 })
}
