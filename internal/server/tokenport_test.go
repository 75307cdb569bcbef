package server

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// Whoever holds every place of strangers keeps nobody out: a new connection takes the place of
// the one that did nothing for longest, on the public port and on the other.
func TestSecTokenPortNoLockout(t *testing.T) {
	r := newPlace(t).run()
	for i, ln := range r.ports {
		held := make([]net.Conn, 0, portStrangers+8)
		for range portStrangers + 8 {
			c, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			held = append(held, c)
		}
		base := "https://" + ln.Addr().String()
		c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}, DisableKeepAlives: true}}
		resp, err := c.Get(base + "/oauth2/jwks")
		if err != nil {
			t.Fatalf("port %d: %v", i, err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("port %d: %d", i, resp.StatusCode)
		}
		held[0].SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := held[0].Read(make([]byte, 1)); err == nil || err == io.ErrNoProgress {
			t.Errorf("port %d: the oldest connection was kept", i)
		} else if n, ok := err.(net.Error); ok && n.Timeout() {
			t.Errorf("port %d: the oldest connection was kept", i)
		}
	}
}

// A handshake that dawdles gives way to later ones.
func TestSecTokenPortHandshakes(t *testing.T) {
	r := newPlace(t).run()
	addr := r.ports[0].Addr().String()
	for range portHandshakes + 16 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
