//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// edge is how a caller reaches a door for strangers; nil: it calls inside the mesh.
type edge struct {
	Host string // server name, and Host of every request
	Root []byte // certificate, PEM
	H2   bool
}

// config is TLS 1.3 with the same ALPN for every subject.
func (e *edge) config() (*tls.Config, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(e.Root) {
		return nil, errors.New("reading the root certificate")
	}
	proto := "http/1.1"
	if e.H2 {
		proto = "h2"
	}
	return &tls.Config{RootCAs: pool, ServerName: e.Host, MinVersion: tls.VersionTLS13, NextProtos: []string{proto}, CurvePreferences: []tls.CurveID{tls.X25519}}, nil
}

// dial makes a connection of the one cipher that is compared.
func (e *edge) dial(ctx context.Context, addr string, cfg *tls.Config) (net.Conn, error) {
	d := tls.Dialer{Config: cfg}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := c.(*tls.Conn).ConnectionState()
	if s.CipherSuite != tls.TLS_AES_128_GCM_SHA256 || s.NegotiatedProtocol != cfg.NextProtos[0] {
		c.Close()
		return nil, fmt.Errorf("the connection has %s and %q", tls.CipherSuiteName(s.CipherSuite), s.NegotiatedProtocol)
	}
	return c, nil
}

// stream is the life of one HTTP/2 connection, one request at a time.
func (c *caller) stream(ctx context.Context) error {
	p := new(http.Protocols)
	p.SetHTTP2(true)
	tr := &http.Transport{
		Protocols: p, TLSClientConfig: c.tls.Clone(), DisableCompression: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.edge.dial(ctx, c.addr, c.tls) },
	}
	defer tr.CloseIdleConnections()
	var body [bodySize + 1]byte
	for ctx.Err() == nil {
		began := time.Now()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.edge.Host+"/orders/17", nil)
		if err != nil {
			return err
		}
		req.Header = c.header
		res, err := tr.RoundTrip(req)
		if err != nil {
			return fmt.Errorf("reading an answer: %w", err)
		}
		n, err := io.ReadFull(res.Body, body[:])
		res.Body.Close()
		if n != bodySize || !errors.Is(err, io.ErrUnexpectedEOF) || res.StatusCode != http.StatusOK || res.Header.Get("Content-Length") != strconv.Itoa(bodySize) {
			return fmt.Errorf("answer is %s with %d bytes", res.Status, n)
		}
		c.answered(began)
	}
	return nil
}

// callerHeader is what HTTP/1.1 callers say too.
func callerHeader(token string) http.Header {
	h := http.Header{
		"User-Agent": {"bench/1.0"}, "Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "X-Request-Id": {"0123456789abcdef"}, "Cookie": {"a=b; c=d"},
	}
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	return h
}
