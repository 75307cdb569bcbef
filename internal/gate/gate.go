// Package gate stands between a socket and net/http and lets only strict HTTP/1 pass
// (http-strictness.md 10). Every listener of the house that speaks HTTP stands behind it.
//
// Its words: a Gate is a net.Conn that releases whole, right heads; a Feed is a net.Listener of connections that were
// accepted, and shaken hands with, elsewhere; Strict is what an http.Handler asks besides.
//
// Its promise: it changes nothing; what passes passes byte for byte, and what two parsers could read differently does not.
package gate

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"countersign.dev/internal/h1"
)

// Limits of a gate (http-strictness 10.4, 10.6).
const (
	defaultHeadTimeout = 10 * time.Second
	refusalTimeout     = 2 * time.Second // to write the answer to a bad head
	drainTimeout       = 300 * time.Millisecond
	drainBytes         = 64 << 10
	readBytes          = 4 << 10 // what a gate reads at once where net/http's own buffer is too small
	minSpare           = 512     // smaller than this, a buffer is too small to read a head into
)

// h2Preface opens an HTTP/2 connection (RFC 9113 section 3.4).
const h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Options is what a listener asks of its gates.
type Options struct {
	// HeadTimeout is how long a head may take from its first byte; 0 is 10 s.
	HeadTimeout time.Duration
	// Fault is called once, when a fault is found. It returns the decision id that goes into the answer, or "".
	// A gate that is Busy has found it in a body: then the handler answers, see Verdict and DecisionID.
	Fault func(g *Gate, f *h1.Fault) string
	// AllowConnect lets CONNECT through.
	AllowConnect bool
	// ProxyListener takes nothing but CONNECT and absolute-form targets.
	ProxyListener bool
	// AllowH2C hands a connection that opens with the HTTP/2 preface on as it is.
	AllowH2C bool
	// Profile is how strict the listener is.
	Profile h1.Profile
	// TLS says that the client speaks TLS: an absolute-form target may be https.
	TLS bool
}

// Gate stands between a connection and net/http, which reads HTTP/1 more generously than this house does and, once
// it has parsed a message, cannot tell any more (dataplane 5.1, http-strictness 10). It checks, then releases:
// net/http never sees a byte of a head that is not whole and right, nor a body byte that breaks the framing. The gate
// has no rule of its own, all are those of package h1; and it changes nothing, so what passes passes byte for byte.
//
// One goroutine reads at a time, as net/http does it. Deadlines may be set, and the gate be closed, meanwhile.
type Gate struct {
	conn net.Conn
	opts Options

	// Of the reader alone.
	buf      []byte // read, not yet passed on
	released int    // so much of buf net/http may have
	state    gateState
	later    bool // a head has passed already: no preface can come any more
	inFlight bool // from the release of a head until net/http reports the connection idle
	remain   int64
	chunks   *h1.Chunks
	scan     h1.Scanner

	verdict atomic.Pointer[verdict]

	mu      sync.Mutex    // guards what follows, for the time of a deadline call
	want    time.Time     // the read deadline net/http asked for
	headEnd time.Time     // our own, while a head is coming
	parked  chan struct{} // closed to wake a parked read
	rest    net.Conn      // what must be read off before it is closed; nil: nothing
	closed  bool
}

type verdict struct {
	fault *h1.Fault
	id    string
}

type gateState uint8

const (
	gateHead    gateState = iota // the next byte is of a head
	gateLength                   // remain bytes of a body
	gateChunked                  // a chunked body
	gateRaw                      // no HTTP/1 any more: hijacked, or HTTP/2
	gateDead                     // a fault was found; nothing behind it is read
)

// tlsGate is a gate over TLS: net/http takes Request.TLS from whatever has a ConnectionState.
type tlsGate struct {
	*Gate
	state func() tls.ConnectionState
}

func (g *tlsGate) ConnectionState() tls.ConnectionState { return g.state() }

func New(c net.Conn, o Options) *Gate {
	if o.HeadTimeout == 0 {
		o.HeadTimeout = defaultHeadTimeout
	}
	return &Gate{conn: c, opts: o}
}

// Conn is the gate as a connection for an http.Server: over TLS it has a ConnectionState.
func (g *Gate) Conn() net.Conn {
	if c, ok := g.conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
		return &tlsGate{g, c.ConnectionState}
	}
	return g
}

// NetConn is the connection under the gate, for a half-close. Bytes may wait in the gate: read from the gate.
func (g *Gate) NetConn() net.Conn { return g.conn }

// Raw ends HTTP/1 on the connection. It is called after a hijack: bytes pass from now on, the gate's own first.
func (g *Gate) Raw() { g.state, g.released = gateRaw, 0 }

// Idle ends the exchange. It is called on http.StateIdle, not when the handler returns: net/http flushes the answer
// after the handler, and our answer to a bad next head would overtake it.
func (g *Gate) Idle() { g.inFlight = false }

// Busy reports whether an exchange is under way. It may be asked by the Fault function only.
func (g *Gate) Busy() bool { return g.inFlight }

// Verdict is the fault found on this connection, or nil. A handler asks it before it blames anyone else for a body
// that could not be read: net/http masks some errors.
func (g *Gate) Verdict() *h1.Fault {
	if v := g.verdict.Load(); v != nil {
		return v.fault
	}
	return nil
}

// DecisionID is what the Fault function gave for the verdict.
func (g *Gate) DecisionID() string {
	if v := g.verdict.Load(); v != nil {
		return v.id
	}
	return ""
}

// Read is http-strictness 10.3, in its order.
func (g *Gate) Read(p []byte) (int, error) {
	switch {
	case len(p) == 0:
		return 0, nil
	case g.state == gateDead:
		if g.inFlight {
			return 0, g.Verdict() // every time: told once only, net/http would hang while it drains the body
		}
		return 0, io.EOF // net/http closes without an answer: ours has been sent
	case g.state == gateRaw:
		if len(g.buf) > 0 {
			return g.take(p), nil
		}
		return g.conn.Read(p)
	case g.released > 0:
		n := g.take(p[:min(len(p), g.released)])
		g.released -= n
		return n, nil
	case g.state == gateLength:
		return g.readLength(p)
	case g.state == gateChunked:
		return g.readChunked(p)
	case g.inFlight:
		return g.readAhead(p)
	}
	return g.readHead(p)
}

// take moves bytes out of the buffer, which is given up when it is empty.
func (g *Gate) take(p []byte) int {
	n := copy(p, g.buf)
	g.buf = g.buf[n:]
	if len(g.buf) == 0 {
		g.buf = nil
	}
	return n
}

// readLength passes a body of known length on, never more than it.
func (g *Gate) readLength(p []byte) (n int, err error) {
	p = p[:min(int64(len(p)), g.remain)]
	if len(g.buf) > 0 {
		n = g.take(p)
	} else {
		n, err = g.conn.Read(p)
	}
	if g.remain -= int64(n); g.remain == 0 {
		g.state = gateHead
	}
	return n, err
}

// readChunked passes a chunked body on as far as it is right; what follows it is kept.
func (g *Gate) readChunked(p []byte) (n int, err error) {
	if len(g.buf) > 0 {
		n = g.take(p)
	} else {
		n, err = g.conn.Read(p)
	}
	good, done, f := g.chunks.Check(p[:n])
	if f != nil {
		g.fail(f)
		if good == 0 {
			return 0, f
		}
		return good, nil
	}
	if done {
		g.state = gateHead
		if good < n {
			g.buf = append(slices.Clone(p[good:n]), g.buf...)
		}
	}
	return good, err
}

// readAhead is net/http's read of one byte while a handler runs, made to notice that the client has gone. Pipelined
// bytes are kept, and not looked at: an error here would cancel the request under way.
func (g *Gate) readAhead(p []byte) (int, error) {
	if len(g.buf) == 0 {
		n, err := g.conn.Read(p)
		if n == 0 {
			return 0, err
		}
		g.buf = slices.Clone(p[:n])
	}
	return 0, g.park()
}

// park waits for net/http to end its read by a deadline in the past.
func (g *Gate) park() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return net.ErrClosed
	}
	if past(g.want) {
		g.mu.Unlock()
		return os.ErrDeadlineExceeded
	}
	wake := make(chan struct{})
	g.parked = wake
	g.mu.Unlock()
	<-wake
	return os.ErrDeadlineExceeded
}

func past(t time.Time) bool { return !t.IsZero() && !t.After(time.Now()) }

// readHead reads until a head is whole, checks it and releases it (http-strictness 10.4). An ordinary head comes
// whole in one read, straight into net/http's buffer; only what comes in pieces is kept here.
func (g *Gate) readHead(p []byte) (int, error) {
	b, theirs := g.buf, len(p) >= len(g.buf)+minSpare
	if theirs {
		b = p[:copy(p, b)]
	}
	for {
		if len(b) > 0 {
			end, f := g.find(b)
			if f != nil {
				return 0, g.refuse(f)
			}
			if end > 0 {
				return g.release(b, end, p, theirs), nil
			}
		}
		var n int
		var err error
		if theirs && len(p)-len(b) >= minSpare {
			n, err = g.more(p[len(b):], len(b) > 0)
			b = p[:len(b)+n]
		} else {
			if theirs {
				b, theirs = slices.Clone(b), false
			}
			b = slices.Grow(b, readBytes)
			n, err = g.more(b[len(b):cap(b)], len(b) > 0)
			b = b[:len(b)+n]
		}
		if n == 0 && err != nil {
			if theirs {
				b = slices.Clone(b)
			}
			g.buf = b
			return 0, g.headError(err)
		}
	}
}

// more reads from the connection. Once a byte of the head is there, the rest has its time: net/http would start its
// clock only when it saw a byte, and it sees none before the head is whole.
func (g *Gate) more(p []byte, begun bool) (int, error) {
	if begun {
		g.startHeadClock()
	}
	return g.conn.Read(p)
}

// find looks for the end of the head, and checks the head when it is whole. 0 means: not yet.
func (g *Gate) find(b []byte) (end int, f *h1.Fault) {
	if g.opts.AllowH2C && !g.later {
		n := min(len(b), len(h2Preface))
		if string(b[:n]) == h2Preface[:n] {
			if n < len(h2Preface) {
				return 0, nil
			}
			g.state = gateRaw
			return len(b), nil
		}
	}
	end, f = g.scan.Scan(b)
	if f != nil || end == 0 {
		return 0, f
	}
	rules := h1.Rules{TLS: g.opts.TLS, Connect: g.opts.AllowConnect, Proxy: g.opts.ProxyListener, Profile: g.opts.Profile}
	shape, f := rules.Check(b[:end])
	if f != nil {
		return 0, f
	}
	g.inFlight = true
	switch shape.Framing {
	case h1.Chunked:
		g.state, g.chunks = gateChunked, new(h1.Chunks)
	case h1.Length:
		if g.remain = shape.Length; g.remain > 0 {
			g.state = gateLength
		}
	}
	return end, nil
}

// release gives b[:end] to net/http and keeps the rest of b.
func (g *Gate) release(b []byte, end int, p []byte, theirs bool) int {
	g.stopHeadClock()
	g.scan, g.later = h1.Scanner{}, true
	if theirs {
		g.buf = nil
		if end < len(b) {
			g.buf = slices.Clone(b[end:])
		}
		return end
	}
	g.buf = b
	n := g.take(p[:min(len(p), end)])
	g.released = end - n
	return n
}

// headError judges what ended a head early. A client that has gone gets no answer, one that is too slow gets 408 if
// it had begun.
func (g *Gate) headError(err error) error {
	var timeout net.Error
	if len(g.buf) > 0 && errors.As(err, &timeout) && timeout.Timeout() {
		return g.refuse(h1.FaultSlow)
	}
	return err
}

// fail notes a fault and lets the listener record it.
func (g *Gate) fail(f *h1.Fault) {
	v := &verdict{fault: f}
	if g.opts.Fault != nil {
		v.id = g.opts.Fault(g, f)
	}
	g.state, g.buf, g.released = gateDead, nil, 0
	g.verdict.Store(v)
}

// startHeadClock gives the head its time from now, once.
func (g *Gate) startHeadClock() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.headEnd.IsZero() {
		g.headEnd = time.Now().Add(g.opts.HeadTimeout)
		g.conn.SetReadDeadline(earlier(g.want, g.headEnd))
	}
}

// stopHeadClock restores the deadline that net/http had asked for.
func (g *Gate) stopHeadClock() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.headEnd.IsZero() {
		g.headEnd = time.Time{}
		g.conn.SetReadDeadline(g.want)
	}
}

// earlier compares deadlines, of which the zero one is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
