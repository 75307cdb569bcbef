package gate

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"countersign.dev/internal/h1"
	"countersign.dev/internal/h1/h1test"
)

// K6: a fault in the second of two pipelined requests does not disturb the first, however long that takes.
func TestGatePipelinedFaultWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newGateServer(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Hour)
			if r.Context().Err() != nil {
				t.Error("the second request cancelled the first")
			}
			io.WriteString(w, strings.Repeat("first", 10000))
		})
		conn := s.pipe()
		defer conn.Close()
		go conn.Write(h1test.Wire("[G]⏎GET /two HTTP/1.1⏎Host: x␀⏎⏎"))
		br := bufio.NewReader(conn)
		if status, body, _, err := h1test.Response(br); status != 200 || len(body) != 50000 {
			t.Fatalf("first: got %d, %d bytes, %v", status, len(body), err)
		}
		if status, _, _, err := h1test.Response(br); status != 400 {
			t.Fatalf("second: got %d, %v", status, err)
		}
		if !h1test.Closed(conn, br) {
			t.Error("the connection lives")
		}
	})
}

func TestGatePipelinesMany(t *testing.T) {
	s := newGateServer(t, Options{}, nil)
	conn := s.dial(t, nil)
	const n = 200
	go func() {
		for range n / 2 {
			conn.Write(h1test.Wire("[P]Content-Length: 3⏎⏎abc[P][C]⏎3⏎abc⏎0⏎X: 1⏎⏎"))
		}
	}()
	br := bufio.NewReader(conn)
	for i := range n {
		if status, body, _, err := h1test.Response(br); status != 200 || body != "POST /up 3" {
			t.Fatalf("request %d: got %d %q %v", i, status, body, err)
		}
	}
}

// A fault in a body is told every time the body is read, else net/http would hang while it drains; and the context
// ends, so that the upstream is let go.
func TestGateBodyFaultIsSticky(t *testing.T) {
	ids := make(chan string, 1)
	s := newGateServer(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		got, err := io.ReadAll(r.Body)
		_, err2 := io.ReadAll(r.Body)
		<-r.Context().Done()
		var f *h1.Fault
		if string(got) != "hello" || !errors.As(err, &f) || err2 == nil {
			t.Errorf("got %q, %v, then %v", got, err, err2)
		}
		ids <- From(r.Context()).DecisionID()
		answerVerdict(w, r)
	})
	conn := s.dial(t, nil)
	conn.Write(h1test.Wire("[P][C]⏎5⏎hello⏎zz⏎"))
	br := bufio.NewReader(conn)
	if status, _, _, err := h1test.Response(br); status != 400 {
		t.Fatalf("got %d, %v", status, err)
	}
	if !h1test.Closed(conn, br) {
		t.Error("the connection lives")
	}
	if id := <-ids; id != "idambiguous_framing" {
		t.Errorf("decision id: got %q", id)
	}
	if len(s.faults) != 1 || s.faults[0] != "body ambiguous_framing" {
		t.Errorf("faults: %q", s.faults)
	}
}

// A handler that does not read its body leaves the fault to be found by net/http; nothing hangs and nothing more is read.
func TestGateBodyFaultUnread(t *testing.T) {
	s := newGateServer(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		io.WriteString(w, "early")
	})
	conn := s.dial(t, nil)
	conn.Write(h1test.Wire("[P][C]⏎5⏎hello⏎zz⏎[G]⏎"))
	br := bufio.NewReader(conn)
	if status, body, _, err := h1test.Response(br); status != 200 || body != "early" {
		t.Fatalf("got %d %q %v", status, body, err)
	}
	if !h1test.Closed(conn, br) {
		t.Error("the connection lives")
	}
}

// H18: closing is how HTTP/1 clients cancel.
func TestGateDisconnectCancels(t *testing.T) {
	for _, head := range []string{"[G]⏎", "[P]Content-Length: 2⏎⏎ab", "[P][C]⏎2⏎ab⏎0⏎⏎"} {
		started, ended := make(chan struct{}), make(chan struct{})
		s := newGateServer(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			close(started)
			<-r.Context().Done()
			close(ended)
		})
		conn := s.dial(t, nil)
		conn.Write(h1test.Wire(head))
		<-started
		conn.Close()
		<-ended
	}
}

// I12: the 100 comes when the handler starts to read, not before.
func TestGateExpect(t *testing.T) {
	read := make(chan struct{})
	s := newGateServer(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		<-read
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %v", body, err)
	})
	conn := s.dial(t, nil)
	conn.Write(h1test.Wire("[P]Expect: 100-continue⏎Content-Length: 2⏎⏎"))
	close(read)
	br := bufio.NewReader(conn)
	if line, err := br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	br.ReadString('\n')
	conn.Write([]byte("ab"))
	if status, body, _, err := h1test.Response(br); status != 200 || body != "ab <nil>" {
		t.Fatalf("got %d %q %v", status, body, err)
	}
}

// L2: bytes that came with the head belong to the tunnel; half-close is kept.
func TestGateHijack(t *testing.T) {
	s := newGateServer(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		g := From(r.Context())
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil || buf.Reader.Buffered() != 0 {
			t.Errorf("hijack: %d bytes in net/http's hands, %v", buf.Reader.Buffered(), err)
			return
		}
		defer conn.Close()
		g.Raw()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		got, err := io.ReadAll(conn)
		fmt.Fprintf(conn, "%q %v", got, err)
		g.NetConn().(*net.TCPConn).CloseWrite()
	})
	conn := s.dial(t, nil)
	conn.Write(h1test.Wire("[G][W]⏎hello␊"))
	br := bufio.NewReader(conn)
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = br.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	io.WriteString(conn, "more\x00")
	conn.(*net.TCPConn).CloseWrite()
	rest, err := io.ReadAll(br)
	if want := `"hello\nmore\x00" <nil>`; string(rest) != want {
		t.Errorf("got %q, %v; want %q", rest, err, want)
	}
}

// A CONNECT tunnel is read by a gate of its own, over the one that was hijacked.
func TestGateTunnel(t *testing.T) {
	inner := newGateServer(t, Options{}, nil)
	outer := newGateServer(t, Options{AllowConnect: true, ProxyListener: true}, func(w http.ResponseWriter, r *http.Request) {
		g := From(r.Context())
		if r.Method != "CONNECT" || r.Host != "api:80" {
			t.Errorf("got %s %s", r.Method, r.Host)
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		g.Raw()
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		inner.feed.Deliver(New(g, inner.opts).Conn())
	})
	conn := outer.dial(t, nil)
	conn.Write(h1test.Wire("CONNECT api:80 HTTP/1.1⏎Host: api:80⏎⏎GET /in HTTP/1.1⏎Host: api⏎⏎")) // does not wait for the 200
	br := bufio.NewReader(conn)
	if line, _ := br.ReadString('\n'); line != "HTTP/1.1 200 OK\r\n" {
		t.Fatalf("got %q", line)
	}
	br.ReadString('\n')
	if status, body, _, err := h1test.Response(br); status != 200 || body != "GET /in 0" {
		t.Fatalf("got %d %q %v", status, body, err)
	}
	conn.Write(h1test.Wire("GET /in HTTP/1.1⏎Host: api␊"))
	if status, _, _, err := h1test.Response(br); status != 400 {
		t.Fatalf("got %d, %v", status, err)
	}
	if !h1test.Closed(conn, br) {
		t.Error("the tunnel lives")
	}
}

func TestGateProxyListener(t *testing.T) {
	for head, want := range map[string]int{"[G]⏎": 400, "GET http://shop.test/ HTTP/1.1⏎[H]⏎": 200} {
		s := newGateServer(t, Options{AllowConnect: true, ProxyListener: true}, nil)
		conn := s.dial(t, nil)
		conn.Write(h1test.Wire(head))
		if status, _, _, err := h1test.Response(bufio.NewReader(conn)); status != want {
			t.Errorf("%s: got %d, %v; want %d", head, status, err, want)
		}
	}
}

func TestGateConnectionState(t *testing.T) {
	for _, cert := range []*tls.Certificate{nil, h1test.Certificate(t)} {
		s := newGateServer(t, Options{TLS: cert != nil}, func(w http.ResponseWriter, r *http.Request) {
			if (r.TLS != nil) != (cert != nil) {
				t.Errorf("over TLS %v, Request.TLS %v", cert != nil, r.TLS)
			}
			if Of(From(r.Context()).Conn()) == nil {
				t.Error("no gate behind the connection")
			}
		})
		conn := s.dial(t, cert)
		scheme := "http"
		if cert != nil {
			scheme = "https"
		}
		conn.Write(h1test.Wire("GET " + scheme + "://shop.test/ HTTP/1.1⏎[H]⏎"))
		if status, _, _, err := h1test.Response(bufio.NewReader(conn)); status != 200 {
			t.Errorf("got %d, %v", status, err)
		}
	}
}

// 8.5: the preface, and nothing like it, makes HTTP/2; everything else on the port is HTTP/1 behind the gate.
func TestGateH2C(t *testing.T) {
	s := newGateServer(t, Options{AllowH2C: true}, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d %d", r.ProtoMajor, len(body))
	}, func(s *http.Server) {
		s.Protocols = new(http.Protocols)
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetUnencryptedHTTP2(true)
	})
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	client := http.Client{Transport: &http.Transport{Protocols: h2, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return s.dial(t, nil), nil
	}}}
	defer client.CloseIdleConnections()
	for range 2 {
		res, err := client.Post("http://shop.test/", "", strings.NewReader(strings.Repeat("x", 100_000)))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		if res.Body.Close(); string(body) != "2 100000" {
			t.Errorf("got %q", body)
		}
	}
	for head, want := range map[string]int{
		"[G]⏎": 200, "PRI * HTTP/2.0⏎⏎XX⏎⏎": 505, "PRI /x HTTP/1.1⏎[H]⏎": 200, "[G]⏎␊": 200, "PRI␊": 400,
	} {
		conn := s.dial(t, nil)
		conn.Write(h1test.Wire(head))
		if status, _, _, err := h1test.Response(bufio.NewReader(conn)); status != want {
			t.Errorf("%s: got %d, %v; want %d", head, status, err, want)
		}
	}
}
