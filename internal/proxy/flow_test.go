package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/policy"
)

func echoSocket() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/ws", websocket.Handler(func(c *websocket.Conn) {
		var b []byte
		for websocket.Message.Receive(c, &b) == nil && websocket.Message.Send(c, b) == nil {
		}
	}))
	mux.HandleFunc("/", echo)
	return mux
}

func dialSocket(t *testing.T, c net.Conn) *websocket.Conn {
	t.Helper()
	cfg, err := websocket.NewConfig("ws://api/ws", "http://api")
	if err != nil {
		t.Fatal(err)
	}
	ws, err := websocket.NewClient(cfg, c)
	if err != nil {
		t.Fatalf("websocket handshake: %v", err)
	}
	return ws
}

// connect opens a CONNECT tunnel.
func (m *mesh) connect(to string) net.Conn {
	m.t.Helper()
	c, r := m.raw("CONNECT " + to + " HTTP/1.1\nHost: " + to + "\n\n")
	resp, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"})
	if err != nil || resp.StatusCode != 200 {
		m.t.Fatalf("CONNECT %s: %v %v", to, resp, err)
	}
	return c
}

func TestWebSocket(t *testing.T) {
	m := newMesh(t, setup{handler: echoSocket()})
	for name, dial := range map[string]func() *websocket.Conn{
		"CONNECT": func() *websocket.Conn { return dialSocket(t, m.connect("api:80")) },
		"absolute-form": func() *websocket.Conn {
			c, err := net.Dial("tcp", m.proxy.Host)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			return dialSocket(t, &absolute{Conn: c})
		},
	} {
		t.Run(name, func(t *testing.T) {
			m.policies("", allowAll())
			ws := dial()
			for _, text := range []string{"hello", strings.Repeat("x", 100_000)} {
				if err := websocket.Message.Send(ws, text); err != nil {
					t.Fatal(err)
				}
				var got string
				if err := websocket.Message.Receive(ws, &got); err != nil || got != text {
					t.Fatalf("got %d bytes, %v", len(got), err)
				}
			}
			rec := m.b.record(func(r *audit.Record) bool { return r.Phase == audit.PhaseOpening })
			if rec.Status != 101 || rec.Proto != audit.ProtoWebSocket || rec.PeerID != webID {
				t.Errorf("record %+v", rec)
			}
			start := time.Now()
			m.denied()
			var got string
			if err := websocket.Message.Receive(ws, &got); err == nil {
				t.Error("the tunnel outlived its permission")
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("cut after %v", took)
			}
			m.cutRecord()
			m.noClientRecord()
		})
	}
}

// absolute turns the first request line of a client into absolute-form.
type absolute struct {
	net.Conn
	done bool
}

func (a *absolute) Write(p []byte) (int, error) {
	if !a.done {
		a.done = true
		_, err := a.Conn.Write(bytes.Replace(p, []byte(" /ws "), []byte(" http://api/ws "), 1))
		return len(p), err
	}
	return a.Conn.Write(p)
}

// A 101 that proves nothing opens no tunnel; any other answer is an ordinary one.
func TestWebSocketBadAnswers(t *testing.T) {
	const head = "GET http://api/ws HTTP/1.1\nHost: api\nConnection: Upgrade\nUpgrade: websocket\n" +
		"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n"
	for name, tc := range map[string]struct {
		answer string
		want   int
	}{
		"right":        {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", 101},
		"ordinary":     {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200},
		"426":          {"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", 426},
		"no upgrade":   {"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", 502},
		"h2c":          {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", 502},
		"wrong accept": {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAA\r\n\r\n", 502},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, setup{handler: rawAnswer(tc.answer)})
			_, r := m.raw(head)
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != tc.want {
				t.Fatalf("got %v, %v; want %d", resp, err, tc.want)
			}
			if tc.want == 502 {
				if e := m.a.event("upstream_bad"); e.Text != "its answer was malformed" || e.To != "api" {
					t.Errorf("event %+v", e)
				}
			}
		})
	}
}

// rawAnswer is a program that answers every request with these bytes and closes.
func rawAnswer(answer string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(c, answer)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})
}

// What comes through a tunnel takes the same steps as any call, request by request.
func TestConnect(t *testing.T) {
	m := newMesh(t, setup{allow: []policy.Rule{{To: []policy.Operation{{Paths: []string{"/ok"}}}}}})
	c := m.connect("api:80")
	r := bufio.NewReader(c)
	for path, want := range map[string]int{"/ok": 200, "/denied": 403} {
		_, _ = io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: api\r\n\r\n")
		if status, _, _ := answerOf(t, r); status != want {
			t.Errorf("%s in the tunnel: got %d, want %d", path, status, want)
		}
	}
	_, _ = io.WriteString(c, "GET /ok HTTP/1.1\nHost: api\n\n")
	if status, _, _ := answerOf(t, r); status != 400 {
		t.Errorf("bare LF in the tunnel: got %d", status)
	}
	tls := m.connect("api:80")
	_, _ = tls.Write([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
	if status, _, _ := answerOf(t, bufio.NewReader(tls)); status != 400 {
		t.Errorf("TLS in a tunnel to an HTTP port: got %d", status)
	}
	for to, want := range map[string]int{
		"nowhere:80": 404, "x.shop:80": 404, "api:81": 404, "example.com:443": 403, "localhost:22": 403, "127.0.0.1:22": 403,
	} {
		_, r := m.raw("CONNECT " + to + " HTTP/1.1\nHost: " + to + "\n\n")
		if status, _, _ := answerOf(t, r); status != want {
			t.Errorf("CONNECT %s: got %d, want %d", to, status, want)
		}
	}
}

func TestConnectHTTP2(t *testing.T) {
	m := newMesh(t, setup{})
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return m.connect("api:80"), nil
	}}
	defer tr.CloseIdleConnections()
	for range 3 {
		resp, err := (&http.Client{Transport: tr}).Post("http://api/x", "text/plain", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != 200 || !strings.HasSuffix(string(b), "\nbody") {
			t.Fatalf("got %s %d %q", resp.Proto, resp.StatusCode, b)
		}
	}
}

func TestTrailers(t *testing.T) {
	seen := make(chan http.Header, 1)
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.Copy(w, r.Body)
		seen <- r.Trailer
		w.Header().Set("X-Sum", "7")
		w.Header().Set(http.TrailerPrefix+"X-Late", "8")
		w.Header().Set(http.TrailerPrefix+"X-Decision-Id", "forged")
	})})
	req, _ := http.NewRequest("POST", "http://api/t", io.MultiReader(strings.NewReader("body")))
	req.Trailer = http.Header{"X-Up": {"1"}, "Authorization": {"no"}}
	resp, err := m.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || string(b) != "body" {
		t.Fatalf("got %q, %v", b, err)
	}
	if up := <-seen; up.Get("X-Up") != "1" || up.Get("Authorization") != "" {
		t.Errorf("request trailers %v", up)
	}
	if resp.Trailer.Get("X-Sum") != "7" || resp.Trailer.Get("X-Late") != "8" || resp.Trailer.Get("X-Decision-Id") != "" {
		t.Errorf("response trailers %v", resp.Trailer)
	}
}

// Every byte goes on when it has come, both ways at once.
func TestStreaming(t *testing.T) {
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("X-Early", "1")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			if n > 0 {
				_, _ = w.Write(bytes.ToUpper(b[:n]))
				w.(http.Flusher).Flush()
			}
			if err != nil {
				return
			}
		}
	})})
	up, feed := io.Pipe()
	req, _ := http.NewRequest("POST", "http://api/s", up)
	resp, err := m.client().Do(req) // returns before any of the body was sent
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("X-Early") != "1" {
		t.Error("head lost")
	}
	b := make([]byte, 3)
	for range 5 {
		_, _ = feed.Write([]byte("abc"))
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != "ABC" {
			t.Fatalf("got %q, %v", b, err)
		}
	}
	_ = feed.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("end: %q, %v", rest, err)
	}
}

func TestBodies(t *testing.T) {
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		if r.ContentLength >= 0 {
			w.Header().Set("Content-Length", fmt.Sprint(r.ContentLength))
		}
		_, _ = io.Copy(w, r.Body)
	})})
	client := m.client()
	for _, size := range []int{0, 1, 1 << 10, 64 << 10, 64<<10 + 1, 3 << 20} {
		for _, chunked := range []bool{false, true} {
			want := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
			var body io.Reader = bytes.NewReader(want)
			if chunked {
				body = io.MultiReader(body)
			}
			resp, err := client.Post("http://api/b", "application/x", body)
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, chunked %v: got %d, %v", size, chunked, len(got), err)
			}
		}
	}
	for _, method := range []string{"HEAD", "DELETE", "PATCH", "OPTIONS"} {
		req, _ := http.NewRequest(method, "http://api/b", nil)
		resp, err := client.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %v, %v", method, resp, err)
		}
		resp.Body.Close()
	}
}

func TestExpectContinue(t *testing.T) {
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(413)
			return
		}
		echo(w, r)
	})})
	c, r := m.raw("POST http://api/yes HTTP/1.1\nHost: api\nContent-Length: 4\nExpect: 100-continue\n\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 100 {
		t.Fatalf("got %v, %v; want 100", resp, err)
	}
	_, _ = io.WriteString(c, "body")
	if status, body, _ := answerOf(t, r); status != 200 || !strings.HasSuffix(body, "body") {
		t.Errorf("got %d %q", status, body)
	}
	_, r = m.raw("POST http://api/no HTTP/1.1\nHost: api\nContent-Length: 4\nExpect: 100-continue\n\n")
	if status, _, _ := answerOf(t, r); status != 413 {
		t.Errorf("got %d, want 413 in place of the 100", status)
	}
	_, r = m.raw("POST http://nowhere/no HTTP/1.1\nHost: nowhere\nContent-Length: 4\nExpect: 100-continue\n\n")
	if status, _, _ := answerOf(t, r); status != 404 {
		t.Errorf("got %d, want 404 in place of the 100", status)
	}
}

// An answer that comes before the body ended reaches the client.
func TestEarlyAnswer(t *testing.T) {
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(413)
	})})
	_, r := m.raw("POST http://api/big HTTP/1.1\nHost: api\nContent-Length: 100000000\n\n" + strings.Repeat("x", 100_000))
	if status, _, _ := answerOf(t, r); status != 413 {
		t.Errorf("got %d", status)
	}
}

// gRPC between nodes is HTTP/2 with trailers; trailers-only replies stay so.
func TestGRPCShape(t *testing.T) {
	m := newMesh(t, setup{h2c: true, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
			http.Error(w, "not HTTP/2", 500)
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		if r.URL.Path == "/svc/fail" {
			w.Header().Set("Grpc-Status", "5")
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("Grpc-Status", "0")
	})})
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return m.connect("api:80"), nil
	}}
	defer tr.CloseIdleConnections()
	call := func(path string) (*http.Response, string) {
		req, _ := http.NewRequest("POST", "http://api"+path, strings.NewReader("\x00\x00\x00\x00\x02hi"))
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(b)
	}
	for range 20 {
		resp, body := call("/svc/ok")
		if resp.StatusCode != 200 || resp.Trailer.Get("Grpc-Status") != "0" || body != "\x00\x00\x00\x00\x02hi" {
			t.Fatalf("got %d %q %v", resp.StatusCode, body, resp.Trailer)
		}
		resp, body = call("/svc/fail")
		if resp.Header.Get("Grpc-Status") != "5" || body != "" {
			t.Fatalf("trailers-only: got %v %q", resp.Header, body)
		}
	}
	rec := m.b.record(func(r *audit.Record) bool { return r.Kind == audit.KindRequest })
	if rec.Proto != audit.ProtoGRPC || rec.ALPN != "h2" {
		t.Errorf("record %+v", rec)
	}
	m.policies("", nobody())
	resp, _ := call("/svc/ok")
	if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "7" || resp.Header.Get("X-Decision-Id") == "" {
		t.Errorf("refusal: got %d %v", resp.StatusCode, resp.Header)
	}
}

// What a program answers wrongly is a 502, and its connection is not used again.
func TestUpstreamFaults(t *testing.T) {
	for name, answer := range map[string]string{
		"both lengths":    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"two lengths":     "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
		"coding":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
		"bare LF":         "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
		"folded":          "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
		"status":          "HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
		"control":         "HTTP/1.1 200 OK\r\nX: a\x0bb\r\nContent-Length: 0\r\n\r\n",
		"unasked 101":     "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"six interim":     strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 6) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"head of 65 KiB":  "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 65<<10) + "\r\nContent-Length: 0\r\n\r\n",
		"nothing":         "",
		"half a head":     "HTTP/1.1 200 OK\r\nContent-Le",
		"HTTP/0.9":        "hello",
		"129 fields":      "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 129) + "\r\n",
		"blank in a name": "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, setup{handler: rawAnswer(answer)})
			status, _, h := m.get("http://api/x")
			if status != 502 || h.Get("X-Decision-Id") == "" {
				t.Errorf("got %d %v", status, h)
			}
			rec := m.b.record(func(r *audit.Record) bool { return r.Status == 502 })
			if rec.Decision != audit.Failed || rec.Error == "" {
				t.Errorf("record %+v", rec)
			}
			want := "its answer was malformed"
			if rec.Error == "upstream_reset" {
				want = "it broke off before its answer"
			}
			if e := m.a.event("upstream_bad"); e.Text != want || e.To != "api" || e.Decision != rec.ID {
				t.Errorf("event %+v", e)
			}
		})
	}
}

func TestUpstreamAnswers(t *testing.T) {
	big := "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 40<<10) + "\r\nContent-Length: 2\r\n\r\nok"
	for name, tc := range map[string]struct {
		answer, body string
		broken       bool
	}{
		"until close":     {answer: "HTTP/1.0 200 OK\r\n\r\nok", body: "ok"},
		"chunked":         {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\no\r\n1\r\nk\r\n0\r\n\r\n", body: "ok"},
		"one byte more":   {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!", body: "ok"},
		"early hints":     {answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
		"short":           {answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", broken: true},
		"short chunk":     {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", broken: true},
		"no last chunk":   {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", broken: true},
		"bad chunk":       {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0x0\r\n\r\n", broken: true},
		"head of 40 KiB":  {answer: big, body: "ok"},
		"204 with length": {answer: "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", body: ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, setup{handler: rawAnswer(tc.answer)})
			resp, err := m.client().Get("http://api/x")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if tc.broken != (err != nil) || !tc.broken && string(b) != tc.body {
				t.Errorf("got %q, %v", b, err)
			}
			if tc.broken {
				m.b.record(func(r *audit.Record) bool { return r.Error == "upstream_reset" })
				m.noClientRecord()
			}
		})
	}
}

// What a client does wrong is never the instance's fault.
func TestClientFaults(t *testing.T) {
	m := newMesh(t, setup{})
	const post = "POST http://api/x HTTP/1.1\nHost: api\n"
	for name, tc := range map[string]struct {
		request string
		want    int
	}{
		"chunk size":        {post + "Transfer-Encoding: chunked\n\n0x5\nhello\n0\n\n", 400},
		"chunk end":         {post + "Transfer-Encoding: chunked\n\n5\nhelloXX0\n\n", 400},
		"later chunk":       {post + "Transfer-Encoding: chunked\n\n5\nhello\n+1\nx\n0\n\n", 400},
		"both lengths":      {post + "Content-Length: 5\nTransfer-Encoding: chunked\n\n0\n\n", 400},
		"expectation":       {post + "Expect: more\nContent-Length: 0\n\n", 417},
		"other Host":        {"GET http://api/x HTTP/1.1\nHost: other\n\n", 400},
		"origin-form":       {"GET /x HTTP/1.1\nHost: api\n\n", 400},
		"half a handshake":  {"GET http://api/x HTTP/1.1\nHost: api\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 8\n\n", 400},
		"hidden dots":       {"GET http://api/a/..%2fb HTTP/1.1\nHost: api\n\n", 400},
		"connection: host":  {"GET http://api/ HTTP/1.1\nHost: api\nConnection: authorization\n\n", 400},
		"upgrade to h2c":    {"GET http://api/ HTTP/1.1\nHost: api\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AA\n\n", 200},
		"HTTP/1.0":          {"GET http://api/ HTTP/1.0\n\n", 200},
		"options asterisk":  {"OPTIONS http://api HTTP/1.1\nHost: api\n\n", 200},
		"not found service": {"GET http://apii/ HTTP/1.1\nHost: apii\n\n", 404},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := m.raw(tc.request)
			if status, body, _ := answerOf(t, r); status != tc.want {
				t.Errorf("got %d %q, want %d", status, body, tc.want)
			}
		})
	}
	for _, n := range []*node{m.a, m.b} {
		n.mu.Lock()
		for _, rec := range n.records {
			if rec.Status == 502 || rec.Decision == audit.Failed && rec.Error != "aborted" && rec.Error != "client_closed" {
				t.Errorf("blamed the instance: %+v", rec)
			}
		}
		n.mu.Unlock()
	}
}

func TestClientGone(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	})})
	c, _ := m.raw("GET http://api/slow HTTP/1.1\nHost: api\n\n")
	<-began
	_ = c.Close()
	<-ended
	m.b.record(func(r *audit.Record) bool { return r.Status == 499 && r.Error == "client_closed" })
}

// A route that leads nowhere is the caller's side to record, and a note for its terminal.
func TestNoRoute(t *testing.T) {
	m := newMesh(t, setup{})
	for _, tc := range []struct {
		target, reason, event string
		status                int
	}{
		{"http://apii/", "no_route", "no_service", 404},
		{"http://x.shop/", "no_route", "no_service", 404},
		{"http://example.com/", "no_egress", "no_egress", 403},
		{"http://127.0.0.1:9/", "no_egress", "no_egress", 403},
		{"http://169.254.169.254/", "no_egress", "no_egress", 403},
		{"http://other/", "no_endpoint", "no_instance", 503},
	} {
		status, body, h := m.get(tc.target)
		if status != tc.status || h.Get("X-Decision-Id") == "" || strings.Contains(body, "\n") {
			t.Errorf("%s: got %d %q", tc.target, status, body)
		}
		rec := m.a.record(func(r *audit.Record) bool { return r.ID == h.Get("X-Decision-Id") })
		if rec.Side != audit.SideClient || rec.PeerID != webID || rec.Layer != audit.LayerRoute || rec.Reason != tc.reason {
			t.Errorf("%s: record %+v", tc.target, rec)
		}
		m.a.event(tc.event)
	}
}

// What a call wanted is named in the same way whichever way it was made.
func TestNoRouteEvents(t *testing.T) {
	for _, tc := range []struct{ name, absolute, connect, event, to, text string }{
		{"no service", "http://apii/", "apii:80", "no_service", "apii", ""},
		{"no service, port", "http://apii:99/", "apii:99", "no_service", "apii", ""},
		{"no port", "http://api:81/", "api:81", "no_service", "api", "service api has no port 81"},
		{"outside", "http://example.com:8080/", "example.com:8080", "no_egress", "example.com", ""},
	} {
		for _, request := range []string{
			"GET " + tc.absolute + " HTTP/1.1\nHost: " + tc.connect + "\n\n",
			"CONNECT " + tc.connect + " HTTP/1.1\nHost: " + tc.connect + "\n\n",
		} {
			t.Run(tc.name+" "+request[:3], func(t *testing.T) {
				m := newMesh(t, setup{})
				_, r := m.raw(strings.Replace(request, "Host: apii:80", "Host: apii", 1))
				status, _, h := answerOf(t, r)
				if e := m.a.event(tc.event); e.To != tc.to || e.Text != tc.text || e.Decision != h.Get("X-Decision-Id") {
					t.Errorf("%d, event %+v", status, e)
				}
			})
		}
	}
}

// Nothing answers on the program's port: the callee's node says 502, the caller is told.
func TestProgramAway(t *testing.T) {
	m := newMesh(t, setup{})
	_ = m.program.Close()
	status, _, h := m.get("http://api/x")
	if status != 502 || h.Get("X-Decision-Id") == "" {
		t.Fatalf("got %d %v", status, h)
	}
	m.b.record(func(r *audit.Record) bool { return r.Error == "upstream_refused" && r.Reason == "" })
	if e := m.a.event("upstream_away"); e.Text != fmt.Sprint(m.apiPort) {
		t.Errorf("event %+v", e)
	}
}

// An instance that cannot be reached is left for the next.
func TestNextInstance(t *testing.T) {
	m := newMesh(t, setup{})
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close()
	m.change(func(s *State) {
		svc := *s.Services[ServiceKey{"default", "api"}]
		svc.Instances = append([]Instance{{ID: "api0", Owner: apiID, Addr: dead.Addr().String(), State: "ready"}}, svc.Instances...)
		s.Services = map[ServiceKey]*Service{{"default", "api"}: &svc}
	})
	for range 4 {
		if status, body, _ := m.get("http://api/x"); status != 200 {
			t.Fatalf("got %d %q", status, body)
		}
	}
}

// A certificate is renewed under load without a failed request, and the new one is used.
func TestRotation(t *testing.T) {
	m := newMesh(t, setup{})
	m.renew(m.web, webID, 3*time.Second)
	m.renew(m.api, apiID, 3*time.Second)
	stop := make(chan struct{})
	failed := make(chan error, 100)
	done := make(chan int)
	for range 4 {
		go func() {
			client, n := m.client(), 0
			defer func() { done <- n }()
			for ; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := client.Post("http://api/x", "text/plain", strings.NewReader("body"))
				if err != nil {
					failed <- err
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					failed <- fmt.Errorf("status %d, %v", resp.StatusCode, err)
					return
				}
			}
		}()
	}
	for range 8 {
		time.Sleep(40 * time.Millisecond)
		m.renew(m.web, webID, 3*time.Second) // a margin of 300 ms
		m.a.Renewed("default", "web", "web1")
		m.renew(m.api, apiID, 3*time.Second)
		m.b.Renewed("default", "api", "api1")
	}
	serial := m.web.svid.Load().Serial
	m.b.record(func(r *audit.Record) bool { return bytes.Equal(r.PeerSerial, serial) })
	close(stop)
	total := 0
	for range 4 {
		total += <-done
	}
	select {
	case err := <-failed:
		t.Errorf("a request failed: %v", err)
	default:
	}
	if total < 50 {
		t.Errorf("only %d requests", total)
	}
}

// Hosts outside the mesh, once the mesh allows any.
func TestOutside(t *testing.T) {
	m := newMesh(t, setup{})
	m.change(func(s *State) { s.AllowAny = true })
	inside := httptest.NewServer(http.HandlerFunc(echo))
	defer inside.Close()
	for _, host := range []string{"127.0.0.1", "[::1]", "localhost", "169.254.169.254", "0.0.0.0", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "127.1"} {
		_, port, _ := net.SplitHostPort(inside.Listener.Addr().String())
		authority := host + ":" + port
		_, r := m.raw("GET http://" + authority + "/ HTTP/1.1\nHost: " + authority + "\n\n")
		if status, body, _ := answerOf(t, r); status != 403 && status != 502 {
			t.Errorf("%s: got %d %q", host, status, body)
		}
		_, r = m.raw("CONNECT " + authority + " HTTP/1.1\nHost: " + authority + "\n\n")
		if status, _, _ := answerOf(t, r); status != 403 && status != 502 {
			t.Errorf("CONNECT %s: got %d", host, status)
		}
	}
}

// Stop ends what runs and leaves nothing behind.
func TestStopCutsTunnel(t *testing.T) {
	m := newMesh(t, setup{handler: echoSocket()})
	ws := dialSocket(t, m.connect("api:80"))
	if err := websocket.Message.Send(ws, "x"); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := websocket.Message.Receive(ws, &got); err != nil {
		t.Fatal(err)
	}
	m.api.stop()
	if err := websocket.Message.Receive(ws, &got); err == nil {
		t.Error("the tunnel outlived its workload")
	}
	m.b.record(func(r *audit.Record) bool { return r.CloseReason == cutStopped })
	m.web.stop()
	if _, err := net.Dial("tcp", m.proxy.Host); err == nil {
		t.Error("the proxy listener is still open")
	}
}
