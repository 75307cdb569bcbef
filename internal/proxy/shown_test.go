package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// streamer is a client of a door over HTTP/2, on one connection.
type streamer struct {
	*http.Transport
	conn   *tls.Conn
	closed chan struct{}
}

type told struct {
	net.Conn
	closed chan struct{}
}

func (c told) Close() error {
	defer func() { _ = recover() }() // twice
	close(c.closed)
	return c.Conn.Close()
}

func (h *house) dial(most uint16, protocols ...string) (*tls.Conn, error) {
	roots := x509.NewCertPool()
	roots.AddCert(h.ca.Root)
	return tls.Dial("tcp", h.https, &tls.Config{RootCAs: roots, ServerName: "shop.test", NextProtos: protocols, MaxVersion: most})
}

func (h *house) streamer(most uint16) *streamer {
	h.t.Helper()
	raw, err := net.Dial("tcp", h.https)
	if err != nil {
		h.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(h.ca.Root)
	s := &streamer{closed: make(chan struct{})}
	s.conn = tls.Client(told{raw, s.closed}, &tls.Config{RootCAs: roots, ServerName: "shop.test", NextProtos: []string{"h2"}, MaxVersion: most})
	if err := s.conn.Handshake(); err != nil {
		h.t.Fatal(err)
	}
	s.Transport = &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return s.conn, nil }}
	h.t.Cleanup(s.CloseIdleConnections)
	return s
}

// Row T7, and gateway.md 22: 100 streams of HTTP/2 survive a swap of the certificate, which new handshakes see; a
// version of TLS that was given up begins nothing new, and its connections end when they have nothing to do.
func TestSecDoorReload(t *testing.T) {
	release, again := make(chan struct{}), make(chan struct{})
	h := newHouse(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, wait := range []chan struct{}{nil, again, release} {
			if wait != nil {
				select {
				case <-wait:
				case <-r.Context().Done():
					return
				}
			}
			_, _ = io.WriteString(w, "tick\n")
			w.(http.Flusher).Flush()
		}
	})}, toAPI())
	token := h.id.foreign()
	var conns []*streamer
	for i := range 5 {
		conns = append(conns, h.streamer([]uint16{tls.VersionTLS13, tls.VersionTLS12}[i/4]))
	}
	var streams []*bufio.Reader
	next := func(what string) {
		t.Helper()
		for i, s := range streams {
			if line, err := s.ReadString('\n'); err != nil || line != "tick\n" {
				t.Fatalf("%s: stream %d: %q, %v", what, i, line, err)
			}
		}
	}
	for i := range 100 {
		req, _ := http.NewRequest("GET", "https://shop.test/", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := conns[i%len(conns)].RoundTrip(req)
		if err != nil || resp.StatusCode != 200 || resp.ProtoMajor != 2 {
			t.Fatal(i, resp, err)
		}
		defer resp.Body.Close()
		streams = append(streams, bufio.NewReader(resp.Body))
	}
	next("begun")
	idle, err := h.dial(tls.VersionTLS12)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	old := idle.ConnectionState().PeerCertificates[0]

	fresh := h.show(0)
	if c, err := h.dial(0); err != nil || !c.ConnectionState().PeerCertificates[0].Equal(fresh) || fresh.Equal(old) {
		t.Fatal("a new handshake sees the old certificate", err)
	} else {
		c.Close()
	}
	close(again)
	next("after the swap")

	h.show(tls.VersionTLS13)
	h.change(func(*State) {})
	if c, err := h.dial(tls.VersionTLS12); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2 is taken: %v", err)
		if c != nil {
			c.Close()
		}
	}
	_ = idle.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := idle.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("an idle connection of TLS 1.2 lives on: %v", err)
	}
	close(release)
	next("after the version was raised")
	for i, s := range streams {
		if rest, err := io.ReadAll(s); err != nil || len(rest) > 0 {
			t.Errorf("stream %d ended with %q, %v", i, rest, err)
		}
	}
	select {
	case <-conns[4].closed:
	case <-time.After(10 * time.Second):
		t.Error("a connection of TLS 1.2 lives on after its streams")
	}
	select {
	case <-conns[0].closed:
		t.Error("a connection of TLS 1.3 was closed")
	default:
	}
}
