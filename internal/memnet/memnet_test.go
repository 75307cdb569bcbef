package memnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

// pair returns both ends of an accepted connection.
func pair(t testing.TB) (client, server *Conn) {
	t.Helper()
	l := Listen("server")
	a, err := l.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close(); l.Close() })
	return a.(*Conn), b.(*Conn)
}

// The suite of x/net: reads, writes, racing calls, past and future deadlines, close.
func TestConnSuite(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		l := Listen("suite")
		a, err := l.Dial(t.Context())
		if err != nil {
			return nil, nil, nil, err
		}
		b, err := l.Accept()
		return a, b, func() { a.Close(); b.Close(); l.Close() }, err
	})
}

func TestAddresses(t *testing.T) {
	a, b := pair(t)
	if a.RemoteAddr().String() != "server" || a.RemoteAddr().Network() != "memnet" {
		t.Errorf("remote address of the client is %q", a.RemoteAddr())
	}
	if a.LocalAddr().String() != "server#1" || b.RemoteAddr() != a.LocalAddr() || b.LocalAddr() != a.RemoteAddr() {
		t.Errorf("addresses %q→%q and %q→%q do not mirror", a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr())
	}
}

func TestLargeWriteAndHalfClose(t *testing.T) {
	a, b := pair(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB, sixteen buffers
	sent := make(chan error, 1)
	go func() {
		n, err := a.Write(want)
		if err == nil && n != len(want) {
			err = io.ErrShortWrite
		}
		a.CloseWrite()
		sent <- err
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write after CloseWrite: %v, want EPIPE", err)
	}
	if _, err := b.Write([]byte("answer")); err != nil { // the other direction stays
		t.Fatal(err)
	}
	b.Close()
	if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
		t.Errorf("read %q, %v after the other end closed", got, err)
	}
	if _, err := a.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read after EOF: %v", err)
	}
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read on a closed end: %v, want net.ErrClosed", err)
	}
}

// A blocked goroutine counts as durably blocked: time moves, and nothing spins.
func TestTimeMovesInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		began := time.Now()
		a.SetReadDeadline(began.Add(time.Hour))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read: %v, want a deadline", err)
		}
		b.SetWriteDeadline(time.Now().Add(time.Hour))
		if n, err := b.Write(make([]byte, 1<<20)); n != bufferBytes || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("write took %d, %v; want %d and a deadline", n, err, bufferBytes)
		}
		if d := time.Since(began); d != 2*time.Hour {
			t.Errorf("took %v, want 2h of the bubble's time", d)
		}
	})
}

func TestListenerCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Listen("server")
		waiting, err := l.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c, err := l.Accept(); err != nil {
			t.Fatal(err)
		} else {
			defer c.Close()
		}
		queued, err := l.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if _, err := queued.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a connection nobody accepted reads %v, want EOF", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v, want net.ErrClosed", err)
		}
		if _, err := l.Dial(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial: %v, want connection refused", err)
		}
		if _, err := waiting.Write([]byte("x")); err != nil {
			t.Errorf("an accepted connection must outlive its listener: %v", err)
		}
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second close: %v", err)
		}
	})
}

func TestDialWaitsForTheBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Listen("server")
		defer l.Close()
		for range backlog {
			if _, err := l.Dial(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := l.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial over the backlog: %v, want the context's error", err)
		}
	})
}

// net/http, both halves, in a bubble.
func TestHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Listen("server")
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		})}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		tr := &http.Transport{DialContext: l.DialContext}
		body := bytes.Repeat([]byte("x"), 300<<10)
		resp, err := (&http.Client{Transport: tr}).Post("http://server/", "text/plain", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("echo of %d bytes: %d, %v", len(body), len(got), err)
		}
		resp.Body.Close()
		tr.CloseIdleConnections()
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != http.ErrServerClosed {
			t.Error(err)
		}
	})
}
