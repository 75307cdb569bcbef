package proxy

import (
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/attest"
)

// A program that answers and closes at once has left no trace of itself when its answer is
// read: whose port it is must be settled before. Many HTTP/1.0 servers are like this.
func TestProgramThatClosesAtOnce(t *testing.T) {
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		_ = c.Close()
	})})
	m.api.stop()
	kernel := attest.Run{UID: uint32(os.Geteuid()), PID: os.Getppid()}
	m.start(m.b, m.api, apiID, "api", "api1", Run{Ports: []Port{{Number: m.apiPort, Protocol: "http"}}, Facts: kernel})
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(m.proxy), MaxConnsPerHost: 16}}
	defer client.CloseIdleConnections()
	var calls sync.WaitGroup
	for range 16 {
		calls.Go(func() {
			for range 25 {
				res, err := client.Get("http://api/x")
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(b) != "hi" {
					t.Errorf("got %d %q, %v", res.StatusCode, b, err)
				}
			}
		})
	}
	calls.Wait()
}

// Every call to a port that is somebody else's finds the same; the log says it once in ten seconds.
func TestPortWarnedOnce(t *testing.T) {
	var out strings.Builder
	now := time.Now()
	p := New(Options{Log: slog.New(slog.NewTextHandler(&out, nil)), Now: func() time.Time { return now }})
	r := &run{p: p, label: "default/api"}
	lines := func() int { return strings.Count(out.String(), "port is not the run's") }
	for i, want := range []int{1, 1, 1, 1, 1, 2, 2} {
		r.warnPort(errNotItsPort)
		if got := lines(); got != want {
			t.Errorf("after %d s: %d lines, want %d", 2*i, got, want)
		}
		now = now.Add(2 * time.Second)
	}
	(&run{p: p, label: "default/other"}).warnPort(errNotItsPort)
	if got := lines(); got != 3 {
		t.Errorf("another run: %d lines", got)
	}
}
