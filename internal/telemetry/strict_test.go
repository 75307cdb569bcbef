package telemetry

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

// The pages stand behind the gate too: nobody on this machine sends them what two parsers read differently.
func TestSecPagesStrict(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, Pages(NewMetrics("t"), &Health{}), slog.New(slog.DiscardHandler)) }()
	for request, want := range map[string]string{
		"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n":                                                             "200",
		"GET //livez HTTP/1.1\r\nHost: localhost\r\n\r\n":                                                            "200",
		"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n":                                                              "204",
		"GET /livez HTTP/1.1\nHost: localhost\n\n":                                                                   "400",
		"get /livez HTTP/1.1\r\nHost: localhost\r\n\r\n":                                                             "501",
		"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": "400",
		"GET /livez%2f HTTP/1.1\r\nHost: localhost\r\n\r\n":                                                          "400",
	} {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, request)
		if line, _ := bufio.NewReader(c).ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 "+want+" ") {
			t.Errorf("%q: %q", request, line)
		}
		c.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
