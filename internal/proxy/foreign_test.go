package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

var loopbackListed = []Egress{{Network: netip.MustParsePrefix("127.0.0.0/8")}}

// newYard is a house whose Gateway may call loopback, and lets everybody in.
func newYard(t testing.TB, rules ...route.Rule) *house {
	t.Helper()
	h := newHouse(t, setup{handler: echoSocket()}, rules...)
	h.a.egress = loopbackListed
	h.admit(policy.Rule{})
	return h
}

func toExt(edit ...func(*route.Rule)) route.Rule {
	r := toAPI()
	r.Backends[0].Name.Name = "ext"
	for _, e := range edit {
		e(&r)
	}
	return r
}

// outsider is a server outside the mesh.
func outsider(t testing.TB, handler http.Handler, h2c bool) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(!h2c)
	protocols.SetUnencryptedHTTP2(h2c)
	srv := &http.Server{Handler: handler, Protocols: &protocols}
	var wait sync.WaitGroup
	wait.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() {
		_ = srv.Close()
		wait.Wait()
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// foreign puts the Service ext in force with these endpoints.
func (h *house) foreign(appProtocol string, plaintext bool, at ...netip.AddrPort) {
	o := route.Objects{Services: []route.Service{{
		Name: route.Name{Namespace: "default", Name: "ext"}, Plaintext: plaintext, Ports: []route.ServicePort{{Port: 80, AppProtocol: appProtocol}},
	}}}
	for i, a := range at {
		o.Endpoints = append(o.Endpoints, route.Endpoints{
			Name: route.Name{Namespace: "default", Name: fmt.Sprint("ext-", i)}, Service: "ext", Addresses: []netip.Addr{a.Addr()}, Ports: []route.EndpointPort{{Port: a.Port()}},
		})
	}
	h.consent(o)
}

// consent puts objects in force as a node does.
func (h *house) consent(o route.Objects) {
	h.change(func(s *State) {
		s.Foreign = o.Foreign()
		facts := route.Facts{Backend: func(to route.Ref, port uint16) route.Backing {
			if s.Services[ServiceKey(to.Name)] != nil {
				return route.Usable
			}
			return route.ForeignBacking(s.Foreign, to, port)
		}}
		s.Resolve = func(r *route.HTTPRoute, b *route.Backend) route.Refusal {
			return route.ResolveBackend(r, b, o.Grants, facts)
		}
	})
}

// What goes to an endpoint outside the mesh is the request, and nothing that speaks for us or proves a caller.
func TestForeignBackend(t *testing.T) {
	h := newYard(t, toExt())
	at := outsider(t, http.HandlerFunc(echo), false)
	h.foreign("", true, at)
	status, body, header := h.ask("POST /orders?id=7", bearerLine(h.id.foreign()), "Txn-Token: x", "X-Forwarded-For: 9.9.9.9", "X-Countersign-Peer: admin", "Content-Length: 0")
	if status != 200 || !strings.HasPrefix(body, "POST /orders?id=7 shop.test\n") {
		t.Fatalf("%d %s", status, body)
	}
	for _, want := range []string{"X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-Host: shop.test\r\n", "X-Forwarded-Proto: http\r\n", "Via: 1.1 cs-", "Traceparent: "} {
		if !strings.Contains(body, want) {
			t.Errorf("the service does not see %q:\n%s", want, body)
		}
	}
	for _, no := range []string{"Authorization", "Txn-Token", "X-Forwarded-Client-Cert", "Countersign", "spiffe://", "9.9.9.9"} {
		if strings.Contains(body, no) {
			t.Errorf("the service sees %q:\n%s", no, body)
		}
	}
	if header.Get("X-Decision-Id") != "" || header.Get("X-Countersign-Peer") != "" {
		t.Errorf("a stranger speaks for us: %v", header)
	}
	rec := h.a.record(func(r *audit.Record) bool { return r.DstID == edgeID && r.Status == 200 })
	if rec.Decision != audit.Allow || rec.Service != "default/ext" || rec.RouteRule != "default/shop#0" || !strings.HasSuffix(rec.Detail, "plaintext to "+at.String()) {
		t.Errorf("%+v", rec)
	}
}

// What proves a caller to the mesh is for the mesh, also where a rule leaves it in the request.
func TestSecForeignNoOwnToken(t *testing.T) {
	for _, c := range []struct {
		token *jose.Token
		want  int
	}{{nil, 1}, {&jose.Token{}, 0}} {
		h := http.Header{"Authorization": {"Basic x"}, "Txn-Token": {"x"}, "X-Forwarded-Client-Cert": {"x"}}
		if (&exchange{r: &http.Request{Header: h}, token: c.token}).withhold(); len(h) != c.want {
			t.Errorf("own token %v: %v", c.token != nil, h)
		}
	}
}

// Without consent of its namespace, with a port that takes TLS alone, or under a name of the mesh, nothing is sent in
// clear text (F15).
func TestSecForeignNoConsent(t *testing.T) {
	h := newYard(t, toExt())
	var reached atomic.Int32
	at := outsider(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }), false)
	for _, c := range []struct {
		appProtocol string
		plaintext   bool
		status      int
	}{{"", false, 500}, {"https", true, 500}, {"kubernetes.io/wss", true, 500}, {"", true, 200}} {
		h.foreign(c.appProtocol, c.plaintext, at)
		before := reached.Load()
		if status, body, _ := h.ask("GET /"); status != c.status || (reached.Load() > before) != (c.status == 200) {
			t.Errorf("%+v: %d %q, reached %d times", c, status, body, reached.Load()-before)
		}
	}
	h.serve(toAPI())
	h.consent(route.Objects{Services: []route.Service{{Name: route.Name{Namespace: "default", Name: "api"}, Plaintext: true, Ports: []route.ServicePort{{Port: 80}}}},
		Endpoints: []route.Endpoints{{Name: route.Name{Namespace: "default", Name: "e"}, Service: "api", Addresses: []netip.Addr{at.Addr()}, Ports: []route.EndpointPort{{Port: at.Port()}}}}})
	before := reached.Load()
	if status, body, _ := h.ask("GET /"); status != 200 || reached.Load() != before || !strings.Contains(body, "URI="+edgeID) {
		t.Errorf("a Service took the name of a workload: %d %s", status, body)
	}
}

// No program of the mesh reaches a Service outside it by name: it stands behind Gateways alone.
func TestSecForeignOnlyAtGateways(t *testing.T) {
	h := newYard(t, toExt())
	h.foreign("", true, outsider(t, http.HandlerFunc(echo), false))
	for _, host := range []string{"ext", "ext.default", "ext.default.svc.cluster.local"} {
		if status, body, _ := h.get("http://" + host + "/"); status != 404 {
			t.Errorf("%s: %d %q", host, status, body)
		}
	}
}

// No object makes a Gateway call this machine, a cloud's metadata or countersign itself (sec-object-cannot-widen-node).
func TestSecObjectCannotWidenNode(t *testing.T) {
	h := newYard(t, toExt())
	var reached atomic.Int32
	at := outsider(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }), false)
	for name, set := range map[string]func(){
		"not listed":   func() { h.a.egress = nil },
		"another port": func() { h.a.egress = []Egress{{netip.PrefixFrom(at.Addr(), 32), at.Port() + 1}} },
		"a port of countersign": func() {
			h.a.egress, h.a.ownPorts = loopbackListed, []uint16{at.Port()}
		},
	} {
		set()
		h.foreign("", true, at)
		status, _, header := h.ask("GET /")
		if status != 503 || reached.Load() != 0 {
			t.Errorf("%s: %d, reached %d times", name, status, reached.Load())
		}
		rec := h.a.record(func(r *audit.Record) bool { return r.ID == header.Get("X-Decision-Id") })
		if rec.Layer != audit.LayerRoute || rec.Reason != "no_endpoint" || !strings.Contains(rec.Detail, "egress.allow") {
			t.Errorf("%s: %+v", name, rec)
		}
	}

	p := &Proxy{ownPorts: []uint16{7443}, egress: []Egress{
		{netip.MustParsePrefix("127.0.0.1/32"), 9000}, {Network: netip.MustParsePrefix("127.64.0.0/16")}, {Network: netip.MustParsePrefix("10.0.0.0/8")},
	}}
	own := ownAddress(t)
	for to, want := range map[string]bool{
		"127.0.0.1:9000": true, "127.64.1.2:80": true, "192.0.2.1:80": true, "10.1.2.3:7443": true, "[2001:db8::1]:80": true,
		"127.0.0.1:9001": false, "127.64.1.2:7443": false, "[::1]:9000": false, "0.0.0.0:9000": false, "[::]:80": false, "169.254.169.254:80": false,
		"[fe80::1]:80": false, "[fd00:ec2::254]:80": false, "100.100.100.200:80": false, "168.63.129.16:80": false, "224.0.0.1:80": false,
		"[::ffff:127.0.0.1]:9001": false, "[64:ff9b::7f00:1]:80": false, "[64:ff9b::a9fe:a9fe]:80": false, "255.255.255.255:80": false,
		netip.AddrPortFrom(own, 80).String(): false,
	} {
		if got := p.mayDial(netip.MustParseAddrPort(to)); got != want {
			t.Errorf("%s may be called: %v", to, got)
		}
	}
}

// The doors of Gateways are not called for anybody either, whatever the file lists: who came in by one of them would come
// to another from this machine.
func TestSecOwnDoorsNeverCalled(t *testing.T) {
	h := newYard(t, toExt())
	h.foreign("", true, netip.MustParseAddrPort(h.http))
	if status, body, _ := h.ask("GET /"); status != 502 && status != 503 {
		t.Errorf("a door was called: %d %s", status, body)
	}
	for _, addr := range []string{h.http, h.https} {
		if h.a.mayDial(netip.MustParseAddrPort(addr)) {
			t.Errorf("the door at %s may be called", addr)
		}
	}
}

// ownAddress is one of this machine that is not loopback, or else a loopback one.
func ownAddress(t *testing.T) netip.Addr {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		n, err := netip.ParsePrefix(a.String())
		if err == nil && !n.Addr().IsLoopback() && !netip.MustParsePrefix("10.0.0.0/8").Contains(n.Addr()) {
			return n.Addr()
		}
	}
	return netip.MustParseAddr("127.0.0.2")
}

// As the port says it is spoken to; gRPC always by HTTP/2.
func TestForeignProtocols(t *testing.T) {
	h := newYard(t, toExt())
	grpc := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Header().Set("Trailer", "Grpc-Status")
		n, _ := io.Copy(w, r.Body)
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"X-Seen", fmt.Sprintf("%s %d", r.Proto, n))
	})
	h1, h2 := outsider(t, grpc, false), outsider(t, grpc, true)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols}
	defer tr.CloseIdleConnections()
	for _, c := range []struct {
		appProtocol, content string
		at                   netip.AddrPort
		want                 string
	}{
		{"", "text/plain", h1, "HTTP/1.1 5"}, {"http", "text/plain", h1, "HTTP/1.1 5"}, {"x.example/new", "text/plain", h1, "HTTP/1.1 5"},
		{"kubernetes.io/ws", "text/plain", h1, "HTTP/1.1 5"}, {"kubernetes.io/h2c", "text/plain", h2, "HTTP/2.0 5"},
		{"grpc", "application/grpc", h2, "HTTP/2.0 5"}, {"", "application/grpc", h2, "HTTP/2.0 5"},
	} {
		h.foreign(c.appProtocol, true, c.at)
		req, _ := http.NewRequest("POST", "http://"+h.http+"/pkg.Svc/Call", strings.NewReader("\x00\x00\x00\x00\x00"))
		req.Host = "shop.test"
		req.Header = http.Header{"Content-Type": {c.content}, "Te": {"trailers"}}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || resp.Trailer.Get("X-Seen") != c.want || resp.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("%+v: %d %v %v %v", c, resp.StatusCode, resp.Header, resp.Trailer, err)
		}
	}
}

// A port that is spoken to otherwise from now on gets connections of its own; a refusal is of gRPC where the call is.
func TestForeignProtocolChanges(t *testing.T) {
	h := newYard(t, toExt())
	seen := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: seen, Protocols: &protocols}
	var wait sync.WaitGroup
	wait.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() {
		_ = srv.Close()
		wait.Wait()
	})
	at := ln.Addr().(*net.TCPAddr).AddrPort()
	for _, c := range [][2]string{{"http", "HTTP/1.1"}, {"kubernetes.io/h2c", "HTTP/2.0"}, {"", "HTTP/1.1"}} {
		h.foreign(c[0], true, at)
		if status, body, _ := h.ask("GET /"); status != 200 || body != c[1] {
			t.Errorf("%v: %d %s", c, status, body)
		}
	}
	h.foreign("", false, at)
	if status, _, header := h.ask("POST /", "Content-Type: application/grpc", "Content-Length: 0"); status != 200 || header.Get("Grpc-Status") != "14" {
		t.Errorf("%d %v", status, header)
	}
}

// A WebSocket at the door ends with the consent that opened it: that of the other namespace, or to clear text (F14).
func TestForeignWebSocket(t *testing.T) {
	const other = "team"
	h := newYard(t, toExt(), toAPI(path(route.Prefix, "/mesh")))
	at := outsider(t, echoSocket(), false)
	service := func(plaintext bool) route.Objects {
		return route.Objects{
			Services:  []route.Service{{Name: route.Name{Namespace: other, Name: "ext"}, Plaintext: plaintext, Ports: []route.ServicePort{{Port: 80}}}},
			Endpoints: []route.Endpoints{{Name: route.Name{Namespace: other, Name: "e"}, Service: "ext", Addresses: []netip.Addr{at.Addr()}, Ports: []route.EndpointPort{{Port: at.Port()}}}},
			Grants: []route.Grant{{Meta: route.Meta{Name: route.Name{Namespace: other, Name: "g"}},
				From: []route.GrantFrom{{Kind: route.Kind{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute"}, Namespace: "default"}},
				To:   []route.GrantTo{{Kind: route.Kind{Kind: "Service"}}}}},
		}
	}
	h.serve(toExt(func(r *route.Rule) { r.Backends[0].Namespace = other }))
	for name, after := range map[string]route.Objects{
		"grant removed":   {Services: service(true).Services, Endpoints: service(true).Endpoints},
		"consent removed": service(false), "Service removed": {Grants: service(true).Grants},
	} {
		h.consent(service(true))
		c, err := net.Dial("tcp", h.http)
		if err != nil {
			t.Fatal(err)
		}
		ws := dialSocket(t, c)
		var got string
		if err := websocket.Message.Send(ws, "hello"); err != nil {
			t.Fatal(err)
		}
		if err := websocket.Message.Receive(ws, &got); err != nil || got != "hello" {
			t.Fatalf("%s: got %q, %v", name, got, err)
		}
		began := time.Now()
		h.consent(after)
		if err := websocket.Message.Receive(ws, &got); err == nil || time.Since(began) > time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(began))
		}
		ws.Close()
		rec := h.a.record(func(r *audit.Record) bool { return r.CloseReason == cutRoute })
		if rec.Layer != audit.LayerRoute || rec.Reason != "bad_backend" || rec.Decision != audit.Deny || rec.Service != other+"/ext" {
			t.Errorf("%s: %+v", name, rec)
		}
	}
}

// A mesh backend takes a WebSocket from the door too.
func TestDoorWebSocketToMesh(t *testing.T) {
	h := newYard(t, toAPI())
	c, err := net.Dial("tcp", h.http)
	if err != nil {
		t.Fatal(err)
	}
	ws := dialSocket(t, c)
	defer ws.Close()
	var got string
	if err := websocket.Message.Send(ws, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := websocket.Message.Receive(ws, &got); err != nil || got != "hello" {
		t.Fatalf("got %q, %v", got, err)
	}
}

// Every byte goes on when it has come; an early word of the endpoint too; who leaves ends the work.
func TestForeignStreams(t *testing.T) {
	gone := make(chan struct{}, 1)
	h := newYard(t, toExt())
	h.foreign("", true, outsider(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		switch r.URL.Path {
		case "/wait":
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			gone <- struct{}{}
		case "/no":
			w.WriteHeader(413)
		default:
			w.Header().Set("Trailer", "X-Sum")
			b := make([]byte, 100)
			for {
				n, err := r.Body.Read(b)
				_, _ = w.Write(b[:n])
				w.(http.Flusher).Flush()
				if err != nil {
					break
				}
			}
			w.Header().Set("X-Sum", r.Trailer.Get("X-Up"))
		}
	}), false))

	feed, up := io.Pipe()
	req, _ := http.NewRequest("POST", "http://"+h.http+"/echo", feed)
	req.Host, req.Trailer = "shop.test", http.Header{"X-Up": {"7"}}
	go func() { _, _ = up.Write([]byte("one")) }()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 3)
	for _, text := range []string{"one", "two"} {
		if text != "one" {
			_, _ = up.Write([]byte(text))
		}
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != text {
			t.Fatalf("%q, %v", b, err)
		}
	}
	_ = up.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 || resp.Trailer.Get("X-Sum") != "7" {
		t.Errorf("%q %v, trailers %v", rest, err, resp.Trailer)
	}

	c, r := dialRaw(t, h.http, "POST /echo HTTP/1.1\nHost: shop.test\nContent-Length: 4\nExpect: 100-continue\n\n")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 100 {
		t.Fatalf("%v %v, want 100", resp, err)
	}
	_, _ = io.WriteString(c, "body")
	if status, body, _ := answerOf(t, r); status != 200 || body != "body" {
		t.Errorf("%d %q", status, body)
	}
	_, r = dialRaw(t, h.http, "POST /no HTTP/1.1\nHost: shop.test\nContent-Length: 4\nExpect: 100-continue\n\n")
	if status, _, _ := answerOf(t, r); status != 413 {
		t.Errorf("%d in place of the 100, want 413", status)
	}

	c, r = dialRaw(t, h.http, "GET /wait HTTP/1.1\nHost: shop.test\n\n")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	c.Close()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("the endpoint works on for a client that left")
	}
	rec := h.a.record(func(r *audit.Record) bool { return r.Error == "client_closed" })
	if rec.Status != 499 || rec.Decision == audit.Failed {
		t.Errorf("the endpoint is blamed: %+v", rec)
	}
}

// The faults of an endpoint, and whose they are.
func TestForeignFaults(t *testing.T) {
	h := newYard(t, toExt(func(r *route.Rule) { d := 200 * time.Millisecond; r.Timeouts.Request = &d }))
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	closed := outsider(t, nil, false)
	for name, c := range map[string]struct {
		at     []netip.AddrPort
		status int
		err    string
	}{
		"malformed": {[]netip.AddrPort{outsider(t, rawAnswer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), false)}, 502, "upstream_malformed"},
		"reset":     {[]netip.AddrPort{outsider(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), false)}, 502, "upstream_reset"},
		"silent":    {[]netip.AddrPort{silent.Addr().(*net.TCPAddr).AddrPort()}, 504, "upstream_timeout"},
		"away":      {[]netip.AddrPort{netip.AddrPortFrom(closed.Addr(), 1)}, 502, "upstream_refused"},
		"none":      {nil, 503, ""},
	} {
		h.foreign("", true, c.at...)
		status, body, header := h.ask("GET /")
		rec := h.a.record(func(r *audit.Record) bool { return r.ID == header.Get("X-Decision-Id") })
		if status != c.status || rec.Error != c.err || rec.Decision != audit.Failed {
			t.Errorf("%s: %d %q, record %+v", name, status, body, rec)
		}
	}
}

// An endpoint that cannot be reached costs nothing but a try, also where there is a body.
func TestForeignNextEndpoint(t *testing.T) {
	h := newYard(t, toExt())
	dead := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.2:1")}
	h.foreign("", true, append(dead, outsider(t, http.HandlerFunc(echo), false))...)
	for range 20 {
		if status, body, _ := h.ask("POST /", "Content-Length: 0"); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
}

// Of two endpoints the one with fewer requests under way gets the next.
func TestForeignChoice(t *testing.T) {
	r := &run{p: &Proxy{now: time.Now}}
	r.pool.init(r)
	ready := []*target{{addr: "192.0.2.1:80", protocol: "http"}, {addr: "192.0.2.2:80", protocol: "http"}, {addr: "192.0.2.3:80", protocol: "http"}}
	for range 3 {
		r.pool.outsider(ready[0]) // never released
	}
	r.pool.outsider(ready[1])
	got := map[string]int{}
	for range 3000 {
		got[r.pool.choose(ready, make([]*target, 0, 4)).addr]++
	}
	if got[ready[0].addr] != 0 || got[ready[1].addr] < 800 || got[ready[1].addr] > 1200 || got[ready[2].addr] < 1800 {
		t.Error(got)
	}
	for n := range len(ready) {
		if one := r.pool.choose(ready, slices.Clone(ready[:n])); slices.Contains(ready[:n], one) {
			t.Errorf("%s was tried", one.addr)
		}
	}
}

// Shares of refs: one that does not exist answers 500 for its own, weight 0 is never taken (F11, F12).
func TestDoorShares(t *testing.T) {
	refs := func(weights map[string]int) func(*route.Rule) {
		return func(r *route.Rule) {
			b := r.Backends[0]
			r.Backends = nil
			for _, name := range []string{"ext", "gone", "api"} {
				b.Name.Name, b.Weight = name, weights[name]
				r.Backends = append(r.Backends, b)
			}
		}
	}
	h := newYard(t, toExt(path(route.Exact, "/half"), refs(map[string]int{"ext": 1, "gone": 1})),
		toExt(path(route.Exact, "/one"), refs(map[string]int{"ext": 0, "api": 5})), toExt(path(route.Exact, "/none"), refs(nil)))
	h.foreign("", true, outsider(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }), false))
	count := func(target string, n int) map[int]int {
		out := map[int]int{}
		c, r := dialRaw(t, h.http, "")
		defer c.Close()
		for range n {
			_, _ = io.WriteString(c, "GET "+target+" HTTP/1.1\r\nHost: shop.test\r\n\r\n")
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			out[resp.StatusCode]++
		}
		return out
	}
	if got := count("/half", 1000); got[204]+got[500] != 1000 || got[500] < 430 || got[500] > 570 {
		t.Error("half:", got)
	}
	if got := count("/one", 100); got[200] != 100 {
		t.Error("weight 0:", got)
	}
	if got := count("/none", 10); got[500] != 10 {
		t.Error("all 0:", got)
	}
}

// A connection is used again, and an answer that went wrong ends its own.
func TestForeignKeepAlive(t *testing.T) {
	h := newYard(t, toExt())
	var conns atomic.Int32
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(echo), ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
		conns.Add(1)
		return ctx
	}}
	var wait sync.WaitGroup
	wait.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() {
		_ = srv.Close()
		wait.Wait()
	})
	h.foreign("", true, ln.Addr().(*net.TCPAddr).AddrPort())
	for range 10 {
		if status, body, _ := h.ask("GET /"); status != 200 {
			t.Fatal(status, body)
		}
	}
	if n := conns.Load(); n > 2 { // the wire goes back when the answer has, which the client may see first
		t.Errorf("%d connections for 10 requests", n)
	}
}
