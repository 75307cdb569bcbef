package gate

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"countersign.dev/internal/h1/h1test"
)

// pipe connects through memory, for clocks that synctest moves.
func (s *gateServer) pipe() net.Conn {
	client, server := net.Pipe()
	s.feed.Deliver(New(server, s.opts).Conn())
	return client
}

// dribble sends a byte a second until the server has had enough, and gives what it answered and when.
func dribble(conn net.Conn, b []byte) (answer string, after time.Duration) {
	start := time.Now()
	var sender sync.WaitGroup
	defer sender.Wait()
	defer conn.Close()
	sender.Go(func() {
		for i := range b {
			if _, err := conn.Write(b[i : i+1]); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	})
	got := make([]byte, 12)
	n, _ := io.ReadFull(conn, got)
	return string(got[:n]), time.Since(start)
}

// M1 to M3: a head has 10 s from its first byte, on a new connection and on a kept one.
func TestGateSlowHead(t *testing.T) {
	slow := h1test.Wire("GET /items HTTP/1.1⏎Host: shop.test⏎")
	t.Run("first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newGateServer(t, Options{}, nil)
			conn := s.pipe()
			defer conn.Close()
			if answer, after := dribble(conn, slow); answer != "HTTP/1.1 408" || after != 10*time.Second {
				t.Errorf("got %q after %v", answer, after)
			}
		})
	})
	t.Run("kept", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newGateServer(t, Options{}, nil)
			conn := s.pipe()
			defer conn.Close()
			conn.Write(h1test.Wire("[G]⏎"))
			if status, _, _, err := h1test.Response(bufio.NewReaderSize(conn, 16)); status != 200 {
				t.Fatal(status, err)
			}
			time.Sleep(time.Minute)
			if answer, after := dribble(conn, slow); answer != "HTTP/1.1 408" || after != 10*time.Second {
				t.Errorf("got %q after %v", answer, after)
			}
			if len(s.faults) != 1 || s.faults[0] != "head slow" {
				t.Errorf("faults: %q", s.faults)
			}
		})
	})
	t.Run("nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newGateServer(t, Options{}, nil)
			conn := s.pipe()
			defer conn.Close()
			if answer, after := dribble(conn, nil); answer != "" || after != 10*time.Second {
				t.Errorf("got %q after %v", answer, after)
			}
			if len(s.faults) != 0 {
				t.Errorf("faults: %q", s.faults)
			}
		})
	})
	t.Run("in time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newGateServer(t, Options{HeadTimeout: time.Minute}, nil, func(s *http.Server) { s.ReadHeaderTimeout = 0 })
			conn := s.pipe()
			defer conn.Close()
			if answer, after := dribble(conn, append(slow, "\r\n"...)); answer != "HTTP/1.1 200" || after != time.Duration(len(slow)+1)*time.Second {
				t.Errorf("got %q after %v", answer, after)
			}
		})
	})
	// A body may take its time: that limit is not the gate's.
	t.Run("body", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newGateServer(t, Options{}, nil)
			conn := s.pipe()
			defer conn.Close()
			conn.Write(h1test.Wire("[P]Content-Length: 30⏎⏎"))
			if answer, after := dribble(conn, bytes.Repeat([]byte("x"), 30)); answer != "HTTP/1.1 200" || after != 29*time.Second {
				t.Errorf("got %q after %v", answer, after)
			}
		})
	})
}

// A parked read must not outlive its connection.
func TestGateCloseWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		g := New(server, Options{})
		go client.Write(h1test.Wire("[G]⏎[G]⏎"))
		if n, err := g.Read(make([]byte, 4096)); n == 0 {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, err := g.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait() // parked
		g.Close()
		if err := <-done; err == nil {
			t.Error("read after close: no error")
		}
		if _, err := g.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("park after close: %v", err)
		}
	})
}

func TestChanListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewFeed(&net.TCPAddr{Port: 7443})
		client, server := net.Pipe()
		go l.Deliver(server)
		if c, err := l.Accept(); c != server || err != nil {
			t.Errorf("got %v, %v", c, err)
		}
		l.Close()
		l.Close()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v", err)
		}
		if l.Deliver(server) {
			t.Error("delivered after close")
		}
		if _, err := client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("undelivered connection: %v, want it closed", err)
		}
	})
}
