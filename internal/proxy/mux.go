package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// mux is HTTP/2 to one upstream, with one generation of our SVID.
type mux struct {
	transport  *http.Transport
	generation uint64
	users      int // under the upstream's lock
	retired    bool
}

// takeMux gives the transport of the current generation; old ones end with their last stream.
func (u *upstream) takeMux() *mux {
	var generation uint64
	if u.toNode() {
		if own := u.run.Certificate(); own != nil {
			generation = own.Generation
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if m := u.mux; m != nil && m.generation != generation {
		m.retireLocked()
		u.mux = nil
	}
	if u.mux == nil {
		u.mux = &mux{transport: u.newTransport(), generation: generation}
		if u.timer == nil {
			u.timer = time.AfterFunc(u.idleTime(), func() { u.reap(false) })
		}
	}
	u.mux.users++
	return u.mux
}

func (u *upstream) putMux(m *mux) {
	u.mu.Lock()
	defer u.mu.Unlock()
	m.users--
	if m.retired && m.users == 0 {
		m.transport.CloseIdleConnections()
	}
}

func (m *mux) retiring(u *upstream) bool {
	if m.users > 0 {
		return false
	}
	own := u.run.Certificate()
	return u.toNode() && (own == nil || own.Generation != m.generation)
}

// retireLocked: CloseIdleConnections alone does not retire a connection that is never idle,
// so it is asked again when its last stream has ended.
func (m *mux) retireLocked() {
	m.retired = true
	m.transport.CloseIdleConnections()
}

func (u *upstream) newTransport() *http.Transport {
	var protocols http.Protocols
	t := &http.Transport{
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponseHead,
		IdleConnTimeout:        muxIdle,
		Protocols:              &protocols,
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize:              16 << 10,
			MaxReceiveBufferPerConnection: 1 << 20,
			MaxReceiveBufferPerStream:     256 << 10,
			SendPingTimeout:               30 * time.Second,
			PingTimeout:                   15 * time.Second,
			WriteByteTimeout:              30 * time.Second,
		},
	}
	if u.toNode() {
		protocols.SetHTTP2(true)
		t.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, connectTime)
			defer cancel()
			conn, _, _, err := u.dialNode(ctx, "h2")
			if err != nil {
				return nil, &dialFailure{err}
			}
			return conn, nil // bare: net/http knows HTTP/2 by it
		}
		return t
	}
	protocols.SetUnencryptedHTTP2(true)
	t.IdleConnTimeout = appIdle
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, connectTime)
		defer cancel()
		s, err := u.dialPlain(ctx)
		if err != nil {
			return nil, &dialFailure{err}
		}
		return s, nil
	}
	return t
}

// overMux is one exchange over HTTP/2: gRPC between nodes, and what the program's port asks for.
func (x *exchange) overMux(u *upstream) (no *refused, again bool) {
	m := u.takeMux()
	defer u.putMux(m)
	resp, err := m.transport.RoundTrip(x.muxRequest(u))
	if err != nil {
		if _, ok := errors.AsType[*dialFailure](err); ok {
			return x.unreached(err, u)
		}
		return x.blame(err), false
	}
	h := resp.Header
	if resp.ContentLength < 0 {
		delete(h, "Content-Length")
	}
	x.relay(&answer{status: resp.StatusCode, header: h, length: resp.ContentLength, resp: resp}, u)
	return nil, false
}

// dialFailure tells that no connection could be made, so that the request reached nobody.
type dialFailure struct{ err error }

func (e *dialFailure) Error() string { return "no connection: " + e.err.Error() }
func (e *dialFailure) Unwrap() error { return e.err }

// muxRequest makes the request for http.Transport. It pools by URL.Host, so that is the server
// name, never the node's address (dataplane.md 5.2).
func (x *exchange) muxRequest(u *upstream) *http.Request {
	r := x.r
	host := u.key.serverName
	scheme := "https"
	if !u.toNode() {
		host, scheme = "program", "http"
	}
	out := &http.Request{
		Method: r.Method, URL: x.muxURL(scheme, host), Host: x.host, Header: r.Header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: r.ContentLength,
	}
	out = out.WithContext(x.context())
	if x.body.src == nil {
		out.Body, out.ContentLength = http.NoBody, 0
		return out
	}
	x.mux = &muxBody{x: x, out: out}
	out.Body = x.mux
	if names := x.announcedTrailers(); len(names) > 0 {
		out.Trailer = make(http.Header, len(names))
		for _, name := range names {
			out.Trailer[name] = nil
		}
	}
	return out
}

// muxURL sends exactly the bytes of the normal form. Opaque does, but not with two slashes
// in front: then Path and RawPath do, which the normal form survives (http-strictness.md 5.2).
func (x *exchange) muxURL(scheme, host string) *url.URL {
	path, query, hasQuery := strings.Cut(x.target, "?")
	to := &url.URL{Scheme: scheme, Host: host, RawQuery: query, ForceQuery: hasQuery && query == ""}
	if !strings.HasPrefix(path, "//") {
		to.Opaque = path
		return to
	}
	to.RawPath = path
	to.Path, _ = url.PathUnescape(path)
	return to
}

// muxBody hands the client's trailers on when its body has ended. net/http may go on reading
// after it has answered; the exchange lets go of it before it ends.
type muxBody struct {
	out *http.Request

	reading sync.Mutex // held for a read

	mu     sync.Mutex // guards the rest; held for a moment
	x      *exchange  // nil: over
	closed bool
}

func (b *muxBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	b.mu.Lock()
	x, closed := b.x, b.closed
	b.mu.Unlock()
	if x == nil || closed {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := x.body.Read(p)
	if errors.Is(err, io.EOF) && b.out.Trailer != nil {
		for name, values := range x.sentTrailer() {
			if _, announced := b.out.Trailer[name]; announced {
				b.out.Trailer[name] = values
			}
		}
	}
	return n, err
}

// Close is net/http's way to say that it reads no more. It waits for a read under way, so that
// is ended, or the upstream's reset would wait for the client's next message. The body stays the
// server's to close.
func (b *muxBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.x != nil && !b.idle() {
		b.x.body.leave(b.x.w)
	}
	return nil
}

// idle reports that no read is under way.
func (b *muxBody) idle() bool {
	if !b.reading.TryLock() {
		return false
	}
	b.reading.Unlock()
	return true
}

// settle waits for a read under way, which something else ends.
func (b *muxBody) settle() {
	b.reading.Lock()
	defer b.reading.Unlock()
}

// letGo waits for a read under way, which it ends.
func (b *muxBody) letGo(x *exchange) {
	if !b.idle() {
		x.body.leave(x.w)
	}
	b.reading.Lock()
	defer b.reading.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.x = nil
}
