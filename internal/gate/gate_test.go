package gate

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/h1"
	"countersign.dev/internal/h1/h1test"
)

// gateServer is a real http.Server behind gates. Its handler reads the body and answers 200, or what the gate's
// verdict says.
type gateServer struct {
	*http.Server
	feed *Feed
	opts Options

	mu     sync.Mutex
	faults []string
	seen   []string // method and target of complete requests
}

func newGateServer(t *testing.T, opts Options, handler http.HandlerFunc, changes ...func(*http.Server)) *gateServer {
	s := &gateServer{feed: NewFeed(&net.TCPAddr{}), opts: opts}
	s.opts.Fault = func(g *Gate, f *h1.Fault) string {
		s.mu.Lock()
		defer s.mu.Unlock()
		where := "head"
		if g.Busy() {
			where = "body"
		}
		s.faults = append(s.faults, where+" "+f.Reason)
		return "id" + f.Reason
	}
	if handler == nil {
		handler = s.echo
	}
	s.Server = &http.Server{
		Handler: handler, ConnContext: With, ConnState: ConnState, DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute, ErrorLog: log.New(io.Discard, "", 0),
	}
	for _, change := range changes {
		change(s.Server)
	}
	var done sync.WaitGroup
	done.Go(func() { s.Serve(s.feed) })
	t.Cleanup(func() {
		s.Close()
		done.Wait()
	})
	return s
}

func (s *gateServer) echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if answerVerdict(w, r) {
		return
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
	s.mu.Lock()
	s.seen = append(s.seen, r.Method+" "+r.RequestURI)
	s.mu.Unlock()
	fmt.Fprintf(w, "%s %s %d", r.Method, r.RequestURI, len(body))
}

// answerVerdict is what every handler does with a body it could not read.
func answerVerdict(w http.ResponseWriter, r *http.Request) bool {
	f := From(r.Context()).Verdict()
	if f == nil {
		return false
	}
	w.Header().Set("Connection", "close")
	http.Error(w, f.Text, f.Status)
	return true
}

// dial connects through a real socket, with TLS if a certificate is given.
func (s *gateServer) dial(t *testing.T, cert *tls.Certificate) net.Conn {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if cert == nil {
		s.feed.Deliver(New(server, s.opts).Conn())
		t.Cleanup(func() { client.Close() })
		return client
	}
	over := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{*cert}})
	c := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
	done := make(chan error, 1)
	go func() { done <- over.HandshakeContext(t.Context()) }()
	if err := errors.Join(c.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	s.feed.Deliver(New(over, s.opts).Conn())
	t.Cleanup(func() { c.Close() })
	return c
}

func runGateCase(t *testing.T, c h1test.Case, whole bool, cert *tls.Certificate) {
	s := newGateServer(t, Options{}, nil)
	conn := s.dial(t, cert)
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
			t.Fatalf("%s: got %d, %v; want %v", c.Name, status, err, c.Status)
		}
		if last = want; want == 200 {
			complete++
		} else if c.Reason == h1.UpgradeRefused && header.Get("Sec-Websocket-Version") != "13" {
			t.Errorf("%s: no Sec-WebSocket-Version", c.Name)
		}
	}
	if last != 200 && !h1test.Closed(conn, br) {
		t.Errorf("%s: the connection lives", c.Name)
	}
	conn.Close()
	<-sent
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) != complete {
		t.Errorf("%s: %d complete requests, want %d", c.Name, len(s.seen), complete)
	}
	if c.Reason != "" && (len(s.faults) != 1 || !strings.HasSuffix(s.faults[0], " "+c.Reason)) {
		t.Errorf("%s: faults %q, want one %s", c.Name, s.faults, c.Reason)
	}
	if c.Reason == "" && len(s.faults) != 0 {
		t.Errorf("%s: faults %q, want none", c.Name, s.faults)
	}
}

// The tables of http-strictness 17.1 against a real server on a real socket: in one segment and byte by byte, clear
// and over TLS.
func TestGateRequests(t *testing.T) {
	cert := h1test.Certificate(t)
	for _, way := range []struct {
		name  string
		whole bool
		cert  *tls.Certificate
	}{{"whole", true, nil}, {"bytes", false, nil}, {"tls", true, cert}} {
		t.Run(way.name, func(t *testing.T) {
			for _, table := range h1test.Requests {
				for _, c := range table {
					runGateCase(t, c, way.whole, way.cert)
				}
			}
		})
	}
}

func TestGateRefusal(t *testing.T) {
	s := newGateServer(t, Options{}, nil)
	conn := s.dial(t, nil)
	conn.Write(h1test.Wire("GET /secret HTTP/1.1⏎X-Note: a␊⏎"))
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	if body != "line ends in LF without CR" {
		t.Errorf("body: got %q", body)
	}
	lines := strings.Split(head, "\r\n")
	date, _ := strings.CutPrefix(lines[1], "Date: ")
	if _, err := http.ParseTime(date); err != nil {
		t.Error(err)
	}
	want := []string{
		"HTTP/1.1 400 Bad Request", lines[1], "Content-Type: text/plain; charset=utf-8", "Content-Length: 26",
		"Cache-Control: no-store", "Connection: close", "X-Decision-Id: idbad_header",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("head: got %q, want %q", lines, want)
	}
}

// A client that is still sending when it is refused gets its answer, not a reset.
func TestGateRefusalOutlivesBytes(t *testing.T) {
	s := newGateServer(t, Options{}, nil)
	conn := s.dial(t, nil)
	conn.Write(append(h1test.Wire("[P]Content-Length: 1⏎Content-Length: 1⏎⏎"), bytes.Repeat([]byte("x"), 60<<10)...))
	if status, _, _, err := h1test.Response(bufio.NewReader(conn)); status != 400 {
		t.Fatalf("got %d, %v", status, err)
	}
}
