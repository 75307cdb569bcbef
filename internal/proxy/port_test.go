package proxy

import (
	"io"
	"net/http"
	"os"
	"sync"
	"testing"

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
