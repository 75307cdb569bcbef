package gate

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"

	"countersign.dev/internal/h1"
	"countersign.dev/internal/h1/h1test"
)

// script is a connection that says its lines in pieces and then is gone. It notes what it is answered.
type script struct {
	net.Conn
	rest   []byte
	piece  int
	answer bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	n := copy(p[:min(len(p), s.piece)], s.rest)
	s.rest = s.rest[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { return s.answer.Write(p) }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// tap notes what a gate releases.
type tap struct {
	*Gate
	released []byte
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Gate.Read(p)
	t.released = append(t.released, p[:n]...)
	return n, err
}

// readAll reads a connection's requests the way http.Server does, behind a gate or not. It gives a line for each
// request, and the error that ended it.
func readAll(br *bufio.Reader, idle func()) (requests []string, err error) {
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return requests, err
		}
		for name, values := range req.Header {
			if !httpguts.ValidHeaderFieldName(name) {
				return requests, fmt.Errorf("name %q", name)
			}
			for _, v := range values {
				if !httpguts.ValidHeaderFieldValue(v) {
					return requests, fmt.Errorf("value %q", v)
				}
			}
		}
		if !httpguts.ValidHostHeader(req.Host) {
			return requests, fmt.Errorf("host %q", req.Host)
		}
		body, err := io.ReadAll(req.Body)
		requests = append(requests, fmt.Sprintf("%s %q %q %v %d %q %q", req.Method, req.RequestURI, req.Host, req.TransferEncoding, req.ContentLength, body, req.Trailer))
		if err != nil {
			return requests, err
		}
		idle()
	}
}

// The promise of the gate: whatever it releases, net/http reads as one request with the framing the gate computed and
// consumes to the last byte; what net/http would refuse, the gate has refused before; and pieces change nothing.
func FuzzGate(f *testing.F) {
	for _, table := range h1test.Requests {
		for _, c := range table {
			if len(c.Bytes) < 400 {
				f.Add(h1test.Wire(c.Bytes), uint16(7), false)
				f.Add(h1test.Wire(c.Bytes), uint16(7), true)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, piece uint16, edge bool) {
		rules := h1.Rules{TLS: true, Connect: true}
		if edge {
			rules.Profile = h1.Edge
		}
		var whole []string
		for _, size := range []int{1 << 20, int(piece)%5000 + 1} {
			conn := &script{rest: b, piece: size}
			gate := &tap{Gate: New(conn, Options{TLS: true, AllowConnect: true, Profile: rules.Profile})}
			br := bufio.NewReaderSize(gate, 4096)
			requests, err := readAll(br, gate.Idle)
			verdict := gate.Verdict()
			if verdict == nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Fatalf("%q: net/http refuses what the gate released: %v", gate.released, err)
			}
			if verdict != nil && gate.Busy() == (conn.answer.Len() > 0) {
				t.Fatalf("%q: fault %v, busy %v, answer %q", b, verdict, gate.Busy(), conn.answer.String())
			}
			if err == io.EOF && br.Buffered() != 0 { // else a body ended badly, inside its trailers perhaps
				t.Fatalf("%q: net/http left %d bytes", gate.released, br.Buffered())
			}
			if !bytes.HasPrefix(b, gate.released) {
				t.Fatalf("%q became %q", b, gate.released)
			}
			checkFraming(t, rules, gate.released, len(requests))
			if whole == nil {
				whole = requests
			} else if n := len(requests); n != len(whole) || n > 0 && !sameRequests(requests, whole) {
				t.Fatalf("%q: whole %q, in pieces of %d %q", b, whole, size, requests)
			}
		}
	})
}

// sameRequests compares; the last body may have been cut by a fault, at a byte that depends on the pieces.
func sameRequests(a, b []string) bool {
	last := len(a) - 1
	return strings.Join(a[:last], "\n") == strings.Join(b[:last], "\n")
}

// checkFraming walks released bytes by the grammar alone and must meet as many requests as net/http did.
func checkFraming(t *testing.T, rules h1.Rules, b []byte, requests int) {
	all := b
	for ; requests > 0; requests-- {
		var s h1.Scanner
		end, f := s.Scan(b)
		if f != nil || end == 0 {
			t.Fatalf("%q: %d requests more than the grammar finds, %v", all, requests, f)
		}
		shape, f := rules.Check(b[:end])
		if f != nil {
			t.Fatalf("%q: released although %v", all, f)
		}
		b = b[end:]
		switch shape.Framing {
		case h1.Length:
			b = b[min(int64(len(b)), shape.Length):]
		case h1.Chunked:
			n, _, _ := new(h1.Chunks).Check(b)
			b = b[n:]
		}
	}
	if len(b) != 0 {
		t.Fatalf("%q: %d bytes released that net/http did not want", all, len(b))
	}
}

// What Chunks accepts, net/http reads to the same bytes, and never past its end.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{
		"0⏎⏎", "5⏎hello⏎0⏎⏎", "5;a=b⏎hello⏎000⏎X: 1⏎⏎", "1⏎a⏎1⏎b⏎0⏎⏎GET", "a⏎0123456789⏎0⏎A:⏎B: ␉⏎⏎", "5␊hello",
	} {
		f.Add(h1test.Wire(s))
	}
	head := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	f.Fuzz(func(t *testing.T, b []byte) {
		n, done, fault := new(h1.Chunks).Check(b)
		var byByte h1.Chunks
		for i := range n {
			if k, _, f := byByte.Check(b[i : i+1]); k != 1 || f != nil {
				t.Fatalf("%q: byte %d is good, alone it is not: %v", b, i, f)
			}
		}
		if !done {
			return
		}
		if fault != nil {
			t.Fatalf("%q: done and %v", b, fault)
		}
		br := bufio.NewReader(strings.NewReader(head + string(b)))
		req, err := http.ReadRequest(br)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			t.Fatalf("%q: net/http refuses it: %v", b, err)
		}
		rest, _ := io.ReadAll(br)
		if string(rest) != string(b[n:]) {
			t.Fatalf("%q: net/http ends at %d, we at %d", b, len(b)-len(rest), n)
		}
	})
}

// BenchmarkGate is a keep-alive request over a real socket, with the gate and without: the difference is its cost.
func BenchmarkGate(b *testing.B) {
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprintf("gate=%v", with), func(b *testing.B) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ReadHeaderTimeout: 10 * time.Second}
			s.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return With(ctx, c) }
			s.ConnState = ConnState
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.Serve(gateBench{ln, with})
			}()
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			head := h1test.Wire("GET /shop/items/4711 HTTP/1.1⏎Host: shop.test⏎User-Agent: bench/1.0⏎Accept: */*⏎Cookie: " + strings.Repeat("c", 600) + "⏎⏎")
			answer := make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				conn.Write(head)
				if _, err := conn.Read(answer); err != nil {
					b.Fatal(err)
				}
			}
			conn.Close()
			s.Close()
			<-done
		})
	}
}

type gateBench struct {
	net.Listener
	with bool
}

func (l gateBench) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || !l.with {
		return c, err
	}
	return New(c, Options{}).Conn(), nil
}
