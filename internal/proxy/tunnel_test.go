package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/audit"
)

const goodHandshake = "GET http://api/ws HTTP/1.1\nHost: api\nConnection: Upgrade\nUpgrade: websocket\n" +
	"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n"

// afterUpgrade is a program that opens a tunnel and then does as use says.
func afterUpgrade(use func(c net.Conn)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
		use(&readsFirst{c, buffered})
	})
}

type readsFirst struct {
	net.Conn
	buffered *bufio.ReadWriter
}

func (c *readsFirst) Read(p []byte) (int, error) { return c.buffered.Read(p) }

// One side may end while the other goes on, over TLS in between; bytes sent with the handshake
// belong to the tunnel.
func TestTunnelHalfClose(t *testing.T) {
	m := newMesh(t, setup{handler: afterUpgrade(func(c net.Conn) {
		b, _ := io.ReadAll(c)
		_, _ = c.Write([]byte("got " + string(b)))
	})})
	c, r := m.raw(goodHandshake + "early ")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("got %v, %v", resp, err)
	}
	_, _ = io.WriteString(c, "late")
	_ = c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(r); err != nil || string(b) != "got early late" {
		t.Errorf("got %q, %v", b, err)
	}
	rec := m.b.record(func(r *audit.Record) bool { return r.Phase == audit.PhaseClosing })
	if rec.ReqBytes != 10 || rec.RespBytes != 14 || rec.Status != 101 || rec.Decision != audit.Allow || rec.Dur == 0 {
		t.Errorf("record %+v", rec)
	}
}

// A program that breaks off is not taken for one that has ended.
func TestTunnelBroken(t *testing.T) {
	m := newMesh(t, setup{handler: afterUpgrade(func(c net.Conn) {
		_, _ = c.Write([]byte("part"))
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.(*readsFirst).Conn.(*net.TCPConn).SetLinger(0)
	})})
	c, r := m.raw(goodHandshake)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("got %v, %v", resp, err)
	}
	if _, err := io.ReadFull(r, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("x"))
	if b, err := io.ReadAll(r); err == nil {
		t.Errorf("a clean end after a broken one: %q", b)
	}
}

// A tunnel is full of bytes both ways at once, and none is lost.
func TestTunnelBulk(t *testing.T) {
	const size = 8 << 20
	m := newMesh(t, setup{handler: afterUpgrade(func(c net.Conn) { _, _ = io.Copy(c, io.LimitReader(c, size)) })})
	c, r := m.raw(goodHandshake)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("got %v, %v", resp, err)
	}
	go func() { _, _ = io.Copy(c, io.LimitReader(zeros{}, size)) }()
	if n, err := io.Copy(io.Discard, io.LimitReader(r, size)); n != size || err != nil {
		t.Errorf("%d bytes came back, %v", n, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// Drain lets what runs end and refuses what is new.
func TestDrain(t *testing.T) {
	began, finish := make(chan struct{}), make(chan struct{})
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(began)
		<-finish
	})})
	_, r := m.raw("GET http://api/slow HTTP/1.1\nHost: api\n\n")
	<-began
	done := make(chan error)
	go func() { done <- m.a.Drain(t.Context()) }()
	eventually(t, "draining", m.a.drained.Load)
	if status, _, _ := m.get("http://api/x"); status != 503 {
		t.Errorf("a new call: %d", status)
	}
	close(finish)
	if status, _, _ := answerOf(t, r); status != 200 {
		t.Errorf("the running call: %d", status)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A slow body of a call that is refused holds nobody: it gets its answer and is closed.
func TestRefusedSlowBody(t *testing.T) {
	m := newMesh(t, setup{allow: nobody()})
	start := time.Now()
	_, r := m.raw("POST http://nowhere/x HTTP/1.1\nHost: nowhere\nContent-Length: 1000\n\nabc")
	if status, _, _ := answerOf(t, r); status != 404 {
		t.Errorf("got %d", status)
	}
	if _, err := r.ReadByte(); err == nil || isTimeout(err) {
		t.Errorf("the connection goes on: %v", err)
	}
	if took := time.Since(start); took > drainTime+time.Second {
		t.Errorf("answered after %v", took)
	}
	c, r := m.raw("POST http://api/x HTTP/1.1\nHost: api\nContent-Length: 3\n\nabc")
	for range 2 { // a body that is there is read, and the connection goes on
		if status, _, _ := answerOf(t, r); status != 403 {
			t.Errorf("got %d", status)
		}
		_, _ = io.WriteString(c, "POST http://api/x HTTP/1.1\r\nHost: api\r\nContent-Length: 3\r\n\r\nabc")
	}
}

// What follows a body that nobody read is never taken for a request.
func TestSecUnreadBody(t *testing.T) {
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // answered before the body was read
	})})
	smuggled := strings.Repeat("GET http://api/smuggled HTTP/1.1\r\nHost: api\r\n\r\n", 12_000)
	c, r := m.raw("POST http://api/x HTTP/1.1\nHost: api\nContent-Length: 10000000\n\n")
	go func() { _, _ = io.WriteString(c, smuggled) }()
	if status, _, _ := answerOf(t, r); status != 200 {
		t.Fatalf("got %d", status)
	}
	if resp, err := http.ReadResponse(r, nil); err == nil {
		t.Errorf("a second answer: %d", resp.StatusCode)
	}
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	for _, rec := range m.b.records {
		if strings.Contains(rec.Route+rec.Path, "smuggled") {
			t.Errorf("a request that nobody sent: %+v", rec)
		}
	}
}
