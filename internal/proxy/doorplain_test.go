package proxy

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// HTTP on a port of TLS is told so; anything else that is no TLS is closed without a word of HTTP.
func TestDoorTellsPlain(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	ask := func(text string) *bufio.Reader {
		c, err := net.Dial("tcp", h.https)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return bufio.NewReader(c)
	}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		status, body, _ := answerOf(t, ask(method+" / HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
		if status != 400 || !strings.Contains(body, "this port takes https") {
			t.Errorf("%s: %d %q", method, status, body)
		}
	}
	got, _ := io.ReadAll(ask("SSH-2.0-OpenSSH_9.2\r\n"))
	if strings.Contains(string(got), "HTTP") {
		t.Errorf("no HTTP: %q", got)
	}
}
