package proxy

import (
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"countersign.dev/internal/h1/h1test"
)

// An answer that nobody reads ends, however short: on HTTP/2 behind a window that was shut from the start, on HTTP/1
// behind others that fill the socket.
func TestSecUnreadShortAnswer(t *testing.T) {
	for name, fields := range map[string][]field{
		"of the program": nil,
		"chunked":        {{":path", "/pieces"}},
		"a refusal":      {{"x-forwarded-proto", "https"}, {":method", "TRACE"}},
	} {
		t.Run("HTTP/2, "+name, func(t *testing.T) {
			f := newFrontage(t, &edge{grace: 200 * time.Millisecond, idle: 400 * time.Millisecond}, nil)
			f.head = short
			conn, _ := f.dial(t, "h2")
			h := newH2Client(conn)
			_ = h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			h.open(1, true, fields...)
			for {
				frame, err := h.ReadFrame()
				if err != nil {
					t.Fatalf("the stream lives: %v", err)
				}
				if frame, ok := frame.(*http2.RSTStreamFrame); ok && frame.StreamID == 1 {
					return
				}
			}
		})
	}
	t.Run("HTTP/1, pipelined", func(t *testing.T) {
		f := newFrontage(t, &edge{grace: 200 * time.Millisecond, idle: 400 * time.Millisecond}, nil)
		f.head = short
		conn, l := f.dial(t)
		_ = conn.(*net.TCPConn).SetReadBuffer(2 << 10)
		_ = l.conn.(*socket).Conn.(*net.TCPConn).SetWriteBuffer(2 << 10)
		_ = conn.SetWriteDeadline(time.Now().Add(15 * time.Second))
		requests := []byte(strings.Repeat(string(h1test.Wire("[G]⏎")), 1000))
		for {
			if _, err := conn.Write(requests); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the connection lives")
			} else if err != nil {
				return
			}
		}
	})
}

// short answers with less than any socket refuses, in one piece or in several.
func short(w http.ResponseWriter, r *http.Request) {
	_, _ = w.Write(make([]byte, 1<<10))
	if r.URL.Path == "/pieces" {
		for range 3 {
			w.(http.Flusher).Flush()
			_, _ = w.Write(make([]byte, 100))
		}
	}
}
