package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/h1/h1test"
)

// The rate rule of http-strictness 13, its own numbers.
func TestPace(t *testing.T) {
	e := &edge{}
	var p pace
	drip := func(n int, every time.Duration, most time.Duration) time.Duration {
		p = pace{}
		for now := time.Duration(0); now < most; now += every {
			if e.patience(&p) < every {
				return now + e.patience(&p)
			}
			p.moved(n, every)
		}
		return most
	}
	if got := drip(100, time.Second, time.Hour); got < 12*time.Second || got > 13*time.Second {
		t.Errorf("100 B/s lived for %v, want 12 s", got)
	}
	if got := drip(600, time.Second, time.Hour); got != time.Hour {
		t.Errorf("600 B/s lived for %v", got)
	}
	if got := drip(0, time.Minute, time.Hour); got != edgeGrace {
		t.Errorf("silence lived for %v, want %v", got, edgeGrace)
	}
	p = pace{}
	e.patience(&p)
	p.moved(10<<20, time.Second)
	if got := e.patience(&p); got != bodyIdle {
		t.Errorf("who is ahead may be silent for %v, want %v", got, bodyIdle)
	}
	if got := (*edge)(nil).patience(&p); got != bodyIdle {
		t.Errorf("base: %v", got)
	}
}

// M4, M5: a body that comes too slowly, with all times a fiftieth.
func TestFrontageSlowBody(t *testing.T) {
	f := newFrontage(t, &edge{grace: 200 * time.Millisecond}, nil)
	for name, c := range map[string]struct {
		piece  int
		every  time.Duration
		status int
	}{"slow": {1, 20 * time.Millisecond, 408}, "silent": {1, time.Minute, 408}, "fast": {100, 20 * time.Millisecond, 200}} {
		t.Run(name, func(t *testing.T) {
			f.m.b.t = t
			conn, l := f.dial(t)
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			stop := make(chan struct{})
			defer close(stop)
			conn.Write(h1test.Wire("[P]Content-Length: 2000⏎⏎"))
			go func() {
				for range 2000 / c.piece {
					if _, err := conn.Write(bytes.Repeat([]byte("x"), c.piece)); err != nil {
						return
					}
					select {
					case <-time.After(c.every):
					case <-stop:
						return
					}
				}
			}()
			br := bufio.NewReader(conn)
			if status, _, _, err := h1test.Response(br); status != c.status {
				t.Fatalf("got %d, %v; want %d", status, err, c.status)
			}
			if c.status != 200 {
				f.m.b.record(func(r *audit.Record) bool { return r.Conn == l.number && r.Reason == h1.Slow })
				if !h1test.Closed(conn, br) {
					t.Error("the connection lives")
				}
			}
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		f.m.b.t = t
		conn, _ := f.dial(t, "h2")
		h := newH2Client(conn)
		h.open(1, false, field{":method", "POST"})
		if got := h.outcome(1); got != "408" {
			t.Errorf("got %s", got)
		}
	})
}

// M6: a response that nobody reads. The upstream is let go with it.
func TestFrontageUnreadResponse(t *testing.T) {
	for _, alpn := range [][]string{nil, {"h2"}} {
		f := newFrontage(t, &edge{grace: 200 * time.Millisecond, idle: 400 * time.Millisecond}, nil)
		ended := make(chan error, 1)
		f.head = func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					ended <- err
					return
				}
			}
		}
		conn, _ := f.dial(t, alpn...)
		if alpn == nil {
			conn.Write(h1test.Wire("[G]⏎"))
		} else {
			newH2Client(conn).open(1, true)
		}
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Errorf("%v: the program is still writing", alpn)
		}
	}
}

func TestFrontageBodyLimit(t *testing.T) {
	limited := newFrontage(t, &edge{body: 1000}, nil)
	for _, c := range []struct {
		name, head string
		body       string
		status     int
	}{
		{"length", "[P]Content-Length: 1000⏎⏎", strings.Repeat("x", 1000), 200},
		{"long length", "[P]Content-Length: 1001⏎⏎", strings.Repeat("x", 1001), 413},
		{"long length, unsent", "[P]Content-Length: 1001⏎Expect: 100-continue⏎⏎", "", 413},
		{"content type exempts from nothing", "[P]Content-Type: application/grpc⏎Content-Length: 1001⏎⏎", strings.Repeat("x", 1001), 200},
		{"chunks", "[P][C]⏎", "3e8\r\n" + strings.Repeat("x", 1000) + "\r\n0\r\n\r\n", 200},
		{"long chunks", "[P][C]⏎", "3e9\r\n" + strings.Repeat("x", 1001) + "\r\n0\r\n\r\n", 413},
		{"many chunks", "[P][C]⏎", strings.Repeat("64\r\n"+strings.Repeat("x", 100)+"\r\n", 11) + "0\r\n\r\n", 413},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, _ := limited.dial(t)
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(conn, string(h1test.Wire(c.head))+c.body)
			status, _, header, err := h1test.Response(bufio.NewReader(conn))
			if status != c.status {
				t.Fatalf("got %d, %v; want %d", status, err, c.status)
			}
			arrived := limited.arrived()
			if grpc := header.Get("Grpc-Status"); strings.Contains(c.name, "content type") {
				if grpc == "" || len(arrived) != 0 {
					t.Errorf("grpc-status %q, %d arrived", grpc, len(arrived))
				}
			} else if (len(arrived) == 1) != (status == 200) {
				t.Errorf("status %d, %d arrived", status, len(arrived))
			}
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		conn, _ := limited.dial(t, "h2")
		h := newH2Client(conn)
		h.open(1, false, field{":method", "POST"})
		_ = h.WriteData(1, true, make([]byte, 1001))
		if got := h.outcome(1); got != "413" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("none", func(t *testing.T) {
		f := newFrontage(t, &edge{body: -1}, nil)
		conn, _ := f.dial(t)
		go fmt.Fprintf(conn, "%sContent-Length: %d\r\n\r\n%s", h1test.Wire("[P]"), edgeBody+1, make([]byte, edgeBody+1))
		if status, _, _, err := h1test.Response(bufio.NewReader(conn)); status != 200 {
			t.Errorf("got %d, %v", status, err)
		}
	})
}

// N8: an answer that comes before the end of a body without end. It is not destroyed by what the client still sends.
func TestFrontageEarlyAnswer(t *testing.T) {
	f := newFrontage(t, &edge{body: -1}, nil)
	f.head = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(413)
	}
	conn, _ := f.dial(t)
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	sent := make(chan int64)
	go func() {
		conn.Write(h1test.Wire("[P]Content-Length: 1073741824⏎⏎"))
		n := int64(0)
		for piece := make([]byte, 64<<10); n < 1<<30; {
			k, err := conn.Write(piece)
			if n += int64(k); err != nil {
				break
			}
		}
		sent <- n
	}()
	br := bufio.NewReader(conn)
	if status, _, _, err := h1test.Response(br); status != 413 {
		t.Fatalf("got %d, %v", status, err)
	}
	if !h1test.Closed(conn, br) {
		t.Error("the connection lives")
	}
	conn.Close()
	if n := <-sent; n >= 1<<28 { // what the sockets hold is not ours to bound
		t.Errorf("%d bytes were taken", n)
	}
}

// A connection has its share of requests and of time, and ends with an answer.
func TestFrontageSpent(t *testing.T) {
	for name, spend := range map[string]func(*link){
		"fresh":    func(*link) {},
		"requests": func(l *link) { l.served.Store(edgeRequests - 1) },
		"age":      func(l *link) { l.since = l.since.Add(-edgeAge - edgeAge/10 - time.Second) },
	} {
		for _, e := range []*edge{nil, strictShop()} {
			f := newFrontage(t, e, nil)
			f.spend = spend
			conn, _ := f.dial(t)
			conn.Write(h1test.Wire("[G]⏎"))
			br := bufio.NewReader(conn)
			if status, _, _, err := h1test.Response(br); status != 200 {
				t.Fatalf("%s, edge %v: got %d, %v", name, e != nil, status, err)
			}
			if e != nil && name != "fresh" {
				if !h1test.Closed(conn, br) {
					t.Errorf("%s: the connection lives", name)
				}
				continue
			}
			conn.Write(h1test.Wire("[G]⏎"))
			if status, _, _, err := h1test.Response(br); status != 200 {
				t.Errorf("%s, edge %v: then got %d, %v", name, e != nil, status, err)
			}
		}
	}
}

// M8: one place cannot take all connections of a listener.
func TestCrowd(t *testing.T) {
	var c crowd
	enter := func(s string) bool { return c.enter(placeOf(netip.MustParseAddr(s)), 0, 0) }
	leave := func(s string) { c.leave(placeOf(netip.MustParseAddr(s))) }
	for range crowdFrom {
		if !enter("192.0.2.1") || !enter("2001:db8::1") || !enter("127.0.0.1") || !enter("::1") {
			t.Fatal("refused")
		}
	}
	for _, a := range []string{"192.0.2.1", "::ffff:192.0.2.1", "2001:db8::2", "2001:db8::1%eth0"} {
		if enter(a) {
			t.Errorf("%s: the 257th was let in", a)
		}
	}
	for _, a := range []string{"192.0.2.2", "2001:db8:0:1::1", "127.0.0.1", "::1"} {
		if !enter(a) {
			t.Errorf("%s was refused", a)
		}
		leave(a)
	}
	leave("192.0.2.1")
	if !enter("192.0.2.1") {
		t.Error("who left makes no room")
	}
	for c.all < crowdAll {
		enter("127.0.0.1")
	}
	if enter("198.51.100.1") || enter("127.0.0.1") {
		t.Error("the listener has no bound")
	}
	for range crowdFrom {
		leave("192.0.2.1")
	}
	if _, left := c.from[placeOf(netip.MustParseAddr("192.0.2.1"))]; left {
		t.Error("a place nobody is at is kept")
	}
}
