//go:build unix

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"countersign.dev/internal/identity"
)

// cannedProgram answers every GET with 1 KiB, without net/http: what is measured is the hops.
func cannedProgram(b *testing.B) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ln.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 8<<10)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
						_, _ = c.Write(answer)
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// drive keeps conns connections busy and reports the CPU of the whole process per request.
func drive(b *testing.B, addr, request string, conns int) {
	b.Helper()
	per := max(1, b.N/conns)
	one := func(n int) error {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		r := bufio.NewReader(c)
		for range n {
			if _, err := io.WriteString(c, request); err != nil {
				return err
			}
			for length := 0; ; {
				line, err := r.ReadSlice('\n')
				if err != nil {
					return err
				}
				if bytes.HasPrefix(line, []byte("HTTP/1.1 ")) && !bytes.HasPrefix(line[9:], []byte("200")) {
					return fmt.Errorf("got %s", line)
				}
				if bytes.HasPrefix(line, []byte("Content-Length: 1024")) {
					length = 1024
				}
				if len(line) == 2 {
					_, _ = r.Discard(length)
					break
				}
			}
		}
		return nil
	}
	if err := one(50); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	var wait sync.WaitGroup
	for range conns {
		wait.Go(func() {
			if err := one(per); err != nil {
				b.Error(err)
			}
		})
	}
	wait.Wait()
	b.ReportMetric(float64((cpu()-before).Nanoseconds())/1000/float64(per*conns), "cpu-µs/op")
}

const benchFields = "User-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nX-Request-Id: 0123456789abcdef\r\nCookie: a=b; c=d\r\n\r\n"

// BenchmarkHop is two hops with mutual TLS between them; see BenchmarkReverseProxy and
// BenchmarkDirect for what to hold it against.
func BenchmarkHop(b *testing.B) {
	for _, conns := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("conns=", conns), func(b *testing.B) {
			m := newMesh(b, setup{})
			m.retarget(cannedProgram(b))
			drive(b, m.proxy.Host, "GET http://api/orders/17 HTTP/1.1\r\nHost: api\r\n"+benchFields, conns)
		})
	}
}

func BenchmarkDirect(b *testing.B) {
	for _, conns := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("conns=", conns), func(b *testing.B) {
			drive(b, cannedProgram(b), "GET /orders/17 HTTP/1.1\r\nHost: api\r\n"+benchFields, conns)
		})
	}
}

// BenchmarkReverseProxy is the same path through two of httputil's, with nothing else done.
func BenchmarkReverseProxy(b *testing.B) {
	for _, h2 := range []bool{false, true} {
		for _, conns := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("h2=%v/conns=%d", h2, conns), func(b *testing.B) {
				m := newMesh(b, setup{})
				alpn := []string{"http/1.1"}
				if h2 {
					alpn = []string{"h2"}
				}
				side := func(id string) identity.Side {
					pair := m.ca.Leaf(b, id)
					return identity.Side{
						Own: func(string) (*tls.Certificate, error) { return pair, nil }, Trust: func() *identity.Trust { return m.state.Trust },
						Now: time.Now, NextProtos: alpn,
					}
				}
				inner := serveBench(b, &httputil.ReverseProxy{
					Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "program"}) },
					Transport: transportTo(cannedProgram(b)),
				}, identity.ServerConfig(side(apiID), tls.RequireAnyClientCert))
				tr := transportTo(inner)
				tr.TLSClientConfig = identity.ClientConfig(side(webID), "api")
				tr.ForceAttemptHTTP2 = h2
				outer := serveBench(b, &httputil.ReverseProxy{
					Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "https", Host: "api"}) },
					Transport: tr,
				}, nil)
				drive(b, outer, "GET /orders/17 HTTP/1.1\r\nHost: api\r\n"+benchFields, conns)
			})
		}
	}
}

func transportTo(addr string) *http.Transport {
	var d net.Dialer
	return &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", addr)
	}}
}

func serveBench(b *testing.B, h http.Handler, cfg *tls.Config) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: h, TLSConfig: cfg}
	go func() {
		if cfg != nil {
			_ = srv.ServeTLS(ln, "", "")
			return
		}
		_ = srv.Serve(ln)
	}()
	b.Cleanup(func() { _ = srv.Close() })
	return ln.Addr().String()
}
