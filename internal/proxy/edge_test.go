package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/gate"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/h1/h1test"
	"countersign.dev/internal/policy"
)

// frontage is a listener of one profile before the pipeline of a workload, whose program notes what reaches it.
type frontage struct {
	m    *mesh
	run  *run
	face *face
	edge *edge // nil: base
	opts gate.Options
	cert *tls.Certificate
	// Set before calls.
	head  http.HandlerFunc // of the program, in place of all it does
	spend func(*link)      // what a connection has behind it

	mu   sync.Mutex
	seen []arrival
}

// arrival is a request that reached the program whole.
type arrival struct {
	method, target, host, body string
	length                     int64
	header, trailer            http.Header
}

func newFrontage(t *testing.T, e *edge, answer http.HandlerFunc) *frontage {
	f := &frontage{edge: e, cert: h1test.Certificate(t)}
	f.m = newMesh(t, setup{mode: policy.Permissive, allow: []policy.Rule{{}}, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.head != nil {
			f.head(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler) // cut off
		}
		f.mu.Lock()
		f.seen = append(f.seen, arrival{r.Method, r.RequestURI, r.Host, string(body), r.ContentLength, r.Header.Clone(), r.Trailer})
		f.mu.Unlock()
		if answer != nil {
			answer(w, r)
		}
	})})
	f.run = f.m.b.runs["api1"]
	f.face = newFace(f.m.b.Proxy, f.m.b.inbound, faceOptions{idle: edgeIdle, h2: true, h2c: true, edge: e != nil})
	t.Cleanup(f.face.close)
	return f
}

// dial connects through a real socket, with TLS if protocols are given.
func (f *frontage) dial(t *testing.T, alpn ...string) (net.Conn, *link) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p, under := f.m.b.Proxy, &socket{Conn: server}
	l := p.newLink(f.run, under)
	l.edge = f.edge
	// Each from elsewhere, or their records would be folded into counts.
	l.src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(l.number >> 8), byte(l.number), 1}), 1)
	l.key, l.service = f.run.key, f.run.label
	l.port, l.proto, _ = f.run.port(p.view.Load().Services[f.run.key], 0)
	if f.spend != nil {
		f.spend(l)
	}
	if !f.run.open.add(l) {
		t.Fatal("no room for a connection")
	}
	if alpn == nil {
		f.face.give(p.gated(under, l, f.opts), l)
		return client, l
	}
	over := tls.Server(under, &tls.Config{Certificates: []tls.Certificate{*f.cert}, NextProtos: alpn})
	c := tls.Client(client, &tls.Config{InsecureSkipVerify: true, NextProtos: alpn})
	done := make(chan error, 1)
	go func() { done <- over.HandshakeContext(t.Context()) }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if alpn[0] == "h2" {
		f.face.give(over, l)
	} else {
		f.face.give(p.gated(over, l, f.opts), l)
	}
	return c, l
}

// arrived gives what reached the program since it was last asked.
func (f *frontage) arrived() []arrival {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := f.seen
	f.seen = nil
	return seen
}

// strictShop is the edge of the tables of section 17.
func strictShop() *edge { return &edge{strict: func(host string) bool { return host == "shop.test" }} }

// edgeTargets are the targets that reach the program at the edge, by the number of the row; baseTargets those that
// differ in the base profile.
var (
	edgeTargets = map[string]string{
		"A1": "/items?id=7", "B2": "/items", "B3": "/items", "B4": "/", "B4a": "/?a=1", "B8a": "/items", "B9": "/shop.test/items", "B12": "/caf%C3%A9",
		"B16": "/items?q=100%", "B19": `/items?f={"a":1}`,
		"C1": "/a/b", "C2": "/a/c", "C3": "/", "C6": "/b", "C7": "/a/b/c/", "C8": "/admin", "C14b": "/a/...;v/b", "C15": "/a;v=1/b",
		"C17": "/caf%c3%a9", "C18": "/a%7Cb", "C19": "/a%2fb", "C20": "/a%7Bb%7D%22", "C21": "/a/b/",
		"C25": "//", "C25a": "//", "C25b": "//", "C26": "//?x=1", "C27": "/a?",
	}
	baseTargets = map[string]string{
		"A24": "*", "B9": "//shop.test/items", "B10": "/items", "B11": "/caf%E9", "B18": "/x/items", "C4": "/etc", "C5": "/etc",
		"C7": "/a//b///c/", "C9": "/a%2Fb", "C10": "/a%5cb", "C11": "/a/%252e%252e/b", "C12": "/a%3bx", "C12a": "/a%23x", "C12b": "/a%3Fx",
		"C13": "/a%0d%0aX-Y:1", "C16": "/a%c0%af", "C25a": "///",
	}
	tableBodies = map[string]string{
		"F12": "abcd", "F13": "abcd", "F16": "abcd", "F17": "abcd", "G3": "ab", "H1": "hello", "H11": "hello", "H17": "hello",
		"H18": "ab", "H19": "ab", "H20": "ab", "H24": "ab", "H25": "ab", "I14": "ab",
	}
	// absent are fields that must not arrive, by the number of the row.
	absent = map[string][]string{
		"E17": {"Content.Length"}, "E18": {"Transfer_Encoding"}, "E20": {"X_Countersign_Subject"},
		"E21": {"X-Countersign-Subject", "X-Forwarded-Client-Cert", "Txn-Token"},
		"I1":  {"X-Debug", "Connection"}, "I11": {"Keep-Alive", "Proxy-Connection", "Proxy-Authorization"},
		"I14": {"Expect"}, "J1": {"Upgrade", "Http2-Settings", "Connection"}, "J2": {"Upgrade", "Connection"},
	}
	edgeAbsent = map[string][]string{
		"E19":  {"X.forwarded.for", "X.Forwarded.For"},
		"E21a": {"Remote-User", "X-Auth-Request-Email", "X-Real-Ip", "X-Original-Url", "X-Http-Method-Override"},
	}
)

// checkArrival holds what reached the program against its row.
func checkArrival(t *testing.T, row string, profile h1.Profile, got arrival) {
	t.Helper()
	want, known := edgeTargets[row]
	if profile == h1.Base {
		if base, differs := baseTargets[row]; differs {
			want, known = base, true
		}
	}
	if known && got.target != want {
		t.Errorf("target %q arrived, want %q", got.target, want)
	}
	if want, known := tableBodies[row]; known && got.body != want {
		t.Errorf("body %q arrived, want %q", got.body, want)
	}
	none := absent[row]
	if profile == h1.Edge {
		none = append(slices.Clone(none), edgeAbsent[row]...)
	}
	for _, name := range none {
		if values, sent := got.header[name]; sent {
			t.Errorf("%s: %q arrived", name, values)
		}
	}
	if stripped, f := profile.Strip(maps.Clone(got.header)); len(stripped) > 0 || f != nil {
		t.Errorf("fields that are ours to say arrived: %q, %v", stripped, f)
	}
	switch row {
	case "F13":
		if got.length != 4 {
			t.Errorf("length %d arrived", got.length)
		}
	case "G18":
		if te := got.header["Te"]; !slices.Equal(te, []string{"trailers"}) {
			t.Errorf("Te %q arrived", te)
		}
	case "H18":
		if got.trailer.Get("X-Sum") != "1" {
			t.Errorf("trailers %v arrived", got.trailer)
		}
	case "H19", "H20":
		if len(got.trailer) > 0 {
			t.Errorf("trailers %v arrived", got.trailer)
		}
	}
}

// more are the rows of 17.1 that need a pipeline: I12 a handler that reads, K3 a clock.
var moreRequests = []h1test.Case{
	{Name: "I12 continue", Bytes: "[P]Expect: 100-continue⏎Content-Length: 2⏎⏎ab", Status: []int{100, 200}},
	{Name: "L3 websocket, program answers 200", Bytes: "[G][W]⏎[G]⏎", Status: []int{200, 200}},
}

func (f *frontage) request(t *testing.T, c h1test.Case, whole bool, alpn ...string) {
	profile := h1.Base
	if f.edge != nil {
		profile = h1.Edge
	}
	row, _, _ := strings.Cut(c.Name, " ")
	if row == "B8a" && alpn != nil { // it is no cleartext here
		c.Status, c.Reason = []int{200}, ""
	}
	conn, l := f.dial(t, alpn...)
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	gone := c.Status[len(c.Status)-1] == 0
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for b := h1test.Wire(c.Bytes); len(b) > 0; {
			n := 1
			if whole {
				n = len(b)
			}
			if _, err := conn.Write(b[:n]); err != nil {
				return // refused, and no longer read
			}
			b = b[n:]
		}
		if gone {
			conn.(interface{ CloseWrite() error }).CloseWrite()
		}
	}()
	br := bufio.NewReader(conn)
	complete, last := 0, 0
	for _, want := range c.Status {
		if want == 0 {
			break
		}
		status, _, header, err := h1test.Response(br)
		if err != nil || status != want {
			t.Fatalf("got %d, %v; want %v", status, err, c.Status)
		}
		switch last = want; {
		case want == 200:
			complete++
		case c.Reason == h1.UpgradeRefused && header.Get("Sec-Websocket-Version") != "13":
			t.Error("no Sec-WebSocket-Version")
		case (want == 204 || want == 405) && header.Get("Allow") != h1.Allow:
			t.Errorf("Allow %q", header.Get("Allow"))
		}
	}
	if (last == 0 || last >= 400) && !h1test.Closed(conn, br) {
		t.Error("the connection lives")
	}
	conn.Close()
	<-sent
	arrived := f.arrived()
	if len(arrived) != complete {
		t.Fatalf("%d complete requests arrived, want %d: %v", len(arrived), complete, arrived)
	}
	if complete > 0 {
		checkArrival(t, row, profile, arrived[0])
	}
	switch {
	case c.Reason != "":
		f.m.b.record(func(r *audit.Record) bool { return r.Conn == l.number && r.Reason == c.Reason && r.Status == last })
	case row == "F15" || row == "H16":
		f.m.b.record(func(r *audit.Record) bool { return r.Conn == l.number && r.Status == 499 })
	}
}

// The tables of http-strictness 17.1 through gate, net/http, the pipeline and a connection to a real program, in both
// profiles: in one segment, byte by byte, and over TLS.
func TestFrontageRequests(t *testing.T) {
	for _, p := range []struct {
		name   string
		edge   *edge
		tables [][]h1test.Case
	}{{"base", nil, h1test.Requests}, {"edge", strictShop(), h1test.Edge()}} {
		for _, way := range []struct {
			name  string
			whole bool
			alpn  []string
		}{{"whole", true, nil}, {"bytes", false, nil}, {"tls", true, []string{"http/1.1"}}} {
			t.Run(p.name+"/"+way.name, func(t *testing.T) {
				f := newFrontage(t, p.edge, nil)
				for _, table := range append(p.tables, moreRequests) {
					for _, c := range table {
						t.Run(c.Name, func(t *testing.T) {
							f.m.b.t = t
							f.request(t, c, way.whole, way.alpn...)
						})
					}
				}
			})
		}
	}
}

// K3: a head that is not whole in time.
func TestFrontageSlowHead(t *testing.T) {
	for _, e := range []*edge{nil, strictShop()} {
		f := newFrontage(t, e, nil)
		f.opts.HeadTimeout = 50 * time.Millisecond
		f.request(t, h1test.Case{Name: "K3", Bytes: "GET /items HTTP/1.1⏎Host: sh", Status: []int{408}, Reason: h1.Slow}, true)
	}
}

// The rows N of 17.1: what a program may answer, and what of it goes on.
func TestFrontageResponses(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		status       int
		broken       bool // ends without its end
		check        func(http.Header, http.Header) string
	}{
		{name: "N1 both framings", answer: "HTTP/1.1 200 OK⏎Transfer-Encoding: chunked⏎Content-Length: 5⏎⏎0⏎⏎", status: 502},
		{name: "N2 two lengths", answer: "HTTP/1.1 200 OK⏎Content-Length: 2⏎Content-Length: 3⏎⏎abc", status: 502},
		{name: "N2 equal lengths", answer: "HTTP/1.1 200 OK⏎Content-Length: 2⏎Content-Length: 2⏎⏎ab", status: 502},
		{name: "N3 chunks cut off", answer: "HTTP/1.1 200 OK⏎Transfer-Encoding: chunked⏎⏎2⏎ab⏎", status: 200, broken: true},
		{name: "N3 length cut off", answer: "HTTP/1.1 200 OK⏎Content-Length: 5⏎⏎ab", status: 200, broken: true},
		{name: "N4 unasked 101", answer: "HTTP/1.1 101 Switching Protocols⏎Connection: upgrade⏎Upgrade: websocket⏎⏎", status: 502},
		{name: "N4 six 103", answer: strings.Repeat("HTTP/1.1 103 Early Hints⏎Link: </a>⏎⏎", 6) + "HTTP/1.1 200 OK⏎Content-Length: 0⏎⏎", status: 502},
		{name: "N5 fields", answer: "HTTP/1.1 200 OK⏎Alt-Svc: h3=\":443\"⏎Proxy-Authenticate: Basic⏎Proxy-Status: x⏎Connection: x-b⏎X-B: 1⏎" +
			"X-Countersign-Peer: y⏎X-Decision-Id: z⏎X-Envoy-Attempt-Count: 1⏎Early-Data: 1⏎X-Own: 1⏎Content-Length: 0⏎⏎", status: 200,
			check: func(h, _ http.Header) string {
				for _, name := range []string{"Alt-Svc", "Proxy-Authenticate", "Proxy-Status", "X-B", "X-Countersign-Peer", "X-Decision-Id", "X-Envoy-Attempt-Count", "Early-Data"} {
					if h.Get(name) != "" {
						return name + " went on"
					}
				}
				if h.Get("X-Own") != "1" {
					return "the program's own field did not"
				}
				return ""
			}},
		{name: "N6 trailers", answer: "HTTP/1.1 200 OK⏎Trailer: grpc-status, Content-Length⏎Transfer-Encoding: chunked⏎⏎2⏎ab⏎0⏎grpc-status: 5⏎Content-Length: 9⏎⏎", status: 200,
			check: func(_, trailer http.Header) string {
				if len(trailer) != 1 || trailer.Get("Grpc-Status") != "5" {
					return fmt.Sprint("trailers ", trailer)
				}
				return ""
			}},
		{name: "N9 control in a value", answer: "HTTP/1.1 200 OK⏎X-A: a‹0B›b⏎Content-Length: 0⏎⏎", status: 502},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFrontage(t, strictShop(), func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				conn.Write(h1test.Wire(c.answer))
				conn.Close()
			})
			conn, _ := f.dial(t)
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			conn.Write(h1test.Wire("[G]⏎"))
			br := bufio.NewReader(conn)
			var res *http.Response
			for {
				var err error
				if res, err = http.ReadResponse(br, nil); err != nil {
					t.Fatal(err)
				}
				if res.StatusCode != 103 {
					break
				}
			}
			_, err := io.ReadAll(res.Body)
			if res.StatusCode != c.status || (err != nil) != c.broken {
				t.Fatalf("got %d, %v; want %d, broken %v", res.StatusCode, err, c.status, c.broken)
			}
			if c.check != nil {
				if wrong := c.check(res.Header, res.Trailer); wrong != "" {
					t.Error(wrong)
				}
			}
			if c.broken && !h1test.Closed(conn, br) {
				t.Error("the connection lives")
			}
		})
	}
}

// L1, L2: bytes that came with the handshake, and before its answer, belong to the tunnel; its halves close one by one.
func TestFrontageWebSocket(t *testing.T) {
	f := newFrontage(t, strictShop(), nil)
	f.head = func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Envoy-A: 1\r\nSec-WebSocket-Accept: %s\r\n\r\n",
			h1.Accept(r.Header.Get("Sec-Websocket-Key")))
		got, err := io.ReadAll(buf)
		fmt.Fprintf(conn, "%q %v", got, err)
	}
	conn, _ := f.dial(t)
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	conn.Write(h1test.Wire("[G][W]⏎hello␊"))
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("X-Envoy-A") != "" {
		t.Fatalf("got %+v, %v", res, err)
	}
	io.WriteString(conn, "more\x00")
	conn.(*net.TCPConn).CloseWrite()
	rest, err := io.ReadAll(br)
	if want := `"hello\nmore\x00" <nil>`; string(rest) != want {
		t.Errorf("got %q, %v; want %q", rest, err, want)
	}
}
