package gate

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"countersign.dev/internal/h1"
)

// This file is what a gate is besides its Read: a connection, the answer to a bad head, and the way from a request
// back to its gate.

// refuse answers a bad head (http-strictness 10.6) and ends the connection for net/http. The answer must outlive
// what the client is still sending: a reset would destroy it, so the rest is read for a moment.
func (g *Gate) refuse(f *h1.Fault) error {
	g.fail(f)
	g.stopHeadClock()
	g.conn.SetWriteDeadline(time.Now().Add(refusalTimeout))
	if _, err := g.conn.Write(refusal(f, g.DecisionID(), time.Now())); err != nil {
		return io.EOF
	}
	g.part(g.conn)
	return io.EOF
}

// part ends our direction and reads what still comes for a moment.
func (g *Gate) part(from net.Conn) {
	g.CloseWrite()
	from.SetReadDeadline(time.Now().Add(drainTimeout))
	io.CopyN(io.Discard, from, drainBytes)
}

// Linger says that the client may still be sending a body nobody wants: Close then reads it for a moment off the
// socket under the gate, so that a reset does not destroy the answer (http-strictness 10.6).
func (g *Gate) Linger(socket net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rest = socket
}

// refusal is the whole answer: the fault's own line, nothing of the request.
func refusal(f *h1.Fault, id string, now time.Time) []byte {
	b := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"Content-Length: %d\r\nCache-Control: no-store\r\nConnection: close\r\n",
		f.Status, http.StatusText(f.Status), now.UTC().Format(http.TimeFormat), len(f.Text))
	if id != "" {
		b = append(b, "X-Decision-Id: "+id+"\r\n"...)
	}
	switch {
	case f.Reason == h1.UpgradeRefused:
		b = append(b, "Sec-WebSocket-Version: 13\r\n"...)
	case f.Status == http.StatusMethodNotAllowed: // RFC 9110 section 15.5.6
		b = append(b, "Allow: "+h1.Allow+"\r\n"...)
	}
	return append(b, "\r\n"+f.Text...)
}

func (g *Gate) Write(p []byte) (int, error) { return g.conn.Write(p) }
func (g *Gate) LocalAddr() net.Addr         { return g.conn.LocalAddr() }
func (g *Gate) RemoteAddr() net.Addr        { return g.conn.RemoteAddr() }

// Close also ends a parked read.
func (g *Gate) Close() error {
	g.mu.Lock()
	g.closed = true
	g.wakeLocked()
	rest := g.rest
	g.rest = nil
	g.mu.Unlock()
	if rest != nil {
		g.part(rest)
	}
	return g.conn.Close()
}

// CloseWrite ends our direction alone, where the connection can.
func (g *Gate) CloseWrite() error {
	if c, ok := g.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// SetReadDeadline remembers what net/http asks for, so that a head under way keeps its own, earlier one. A deadline
// in the past is how net/http ends its background read.
func (g *Gate) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.want = t
	if past(t) {
		g.wakeLocked()
	}
	return g.conn.SetReadDeadline(earlier(t, g.headEnd))
}

func (g *Gate) SetWriteDeadline(t time.Time) error { return g.conn.SetWriteDeadline(t) }

func (g *Gate) SetDeadline(t time.Time) error {
	if err := g.SetReadDeadline(t); err != nil {
		return err
	}
	return g.SetWriteDeadline(t)
}

func (g *Gate) wakeLocked() {
	if g.parked != nil {
		close(g.parked)
		g.parked = nil
	}
}

// Of is the gate that an http.Server was given as a connection, or nil: HTTP/2 over TLS has none.
func Of(c net.Conn) *Gate {
	switch c := c.(type) {
	case *Gate:
		return c
	case *tlsGate:
		return c.Gate
	}
	return nil
}

type gateKey struct{}

// With is for http.Server.ConnContext: a handler finds its gate by From.
func With(ctx context.Context, c net.Conn) context.Context {
	if g := Of(c); g != nil {
		return context.WithValue(ctx, gateKey{}, g)
	}
	return ctx
}

// From is the gate a request came through, or nil.
func From(ctx context.Context) *Gate {
	g, _ := ctx.Value(gateKey{}).(*Gate)
	return g
}

// ConnState is for http.Server.ConnState: an exchange ends with http.StateIdle.
func ConnState(c net.Conn, s http.ConnState) {
	if s != http.StateIdle {
		return
	}
	if g := Of(c); g != nil {
		g.Idle()
	}
}

// Feed feeds an http.Server with connections that were accepted, and shaken hands with, elsewhere.
type Feed struct {
	addr  net.Addr
	conns chan net.Conn // no buffer: a connection belongs to one side or the other
	done  chan struct{}
	once  sync.Once
}

func NewFeed(addr net.Addr) *Feed {
	return &Feed{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// Deliver hands a connection over. If the listener is closed, so is the connection.
func (l *Feed) Deliver(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.done:
		c.Close()
		return false
	}
}

func (l *Feed) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed // http.Server.Close waits for it
	}
}

func (l *Feed) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *Feed) Addr() net.Addr { return l.addr }

// Listen puts a gate before every connection of a listener. Its http.Server has With as ConnContext and calls ConnState.
func Listen(ln net.Listener, o Options) net.Listener { return &gated{ln, o} }

type gated struct {
	net.Listener
	opts Options
}

func (l *gated) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return New(c, l.opts).Conn(), nil
}
