package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// copySize is one piece of a body under way.
const copySize = 32 << 10

var (
	pieces  = sync.Pool{New: func() any { return new([copySize]byte) }}
	readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriter(nil) }}
)

// wire is one HTTP/1.1 connection to an upstream: one exchange at a time, nothing pipelined.
//
// It stands in http.Transport's place because that passes every exchange through two
// goroutines of its own and hides what section 4.3 has to see: two lengths in a response, a
// byte too many. Between nodes and towards programs most requests go this way.
type wire struct {
	conn  net.Conn // TLS between nodes, plain towards a program
	under *socket  // what conn stands on
	r     *bufio.Reader
	w     *bufio.Writer

	generation uint64        // of the SVID it was made with
	retire     time.Time     // the peer's certificate nears its end: no new exchange from then on
	jitter     time.Duration // how long it outlives a renewal of ours
	idleAt     time.Time
	used       bool // a whole exchange went over it
	answered   bool // a byte of the response to the exchange under way came
	spoilt     bool // its request was not sent whole
}

// socket is the connection under TLS. It remembers that the peer's end of the stream came:
// crypto/tls reports a stream cut at a record boundary as an ordinary end (dataplane.md 4.8).
type socket struct {
	net.Conn
	ended  atomic.Bool
	closed atomic.Bool
	deaf   atomic.Bool // nothing further is read: the peer's stream ends here
	dry    bool        // reads find nothing: set by who alone reads, to see what crypto/tls still holds
}

func (s *socket) Read(p []byte) (int, error) {
	if s.dry {
		return 0, os.ErrDeadlineExceeded // crypto/tls forgets temporary errors
	}
	if s.deaf.Load() {
		return 0, io.EOF
	}
	n, err := s.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		s.ended.Store(true)
	}
	return n, err
}

func (s *socket) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.Conn.Close()
}

// CloseWrite ends our direction alone, where the connection can.
func (s *socket) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

func newWire(conn net.Conn, under *socket) *wire {
	w := &wire{conn: conn, under: under}
	w.arm()
	return w
}

// arm lends the wire its buffers for one exchange: an idle connection holds none.
func (w *wire) arm() {
	w.r, w.w = readers.Get().(*bufio.Reader), writers.Get().(*bufio.Writer)
	w.r.Reset(w.conn)
	w.w.Reset(w.conn)
}

func (w *wire) disarm() {
	if w.r != nil && w.r.Size() < maxResponseHead {
		w.r.Reset(nil)
		readers.Put(w.r)
	}
	if w.w != nil {
		w.w.Reset(nil)
		writers.Put(w.w)
	}
	w.r, w.w = nil, nil
}

// close ends the connection at once: no goodbye is sent that could wait for a full buffer.
func (w *wire) close() { _ = w.under.Close() }

// cut reports that the peer's stream ended without its close_notify.
func (w *wire) cut() bool { return w.conn != net.Conn(w.under) && w.under.ended.Load() }

// outgoing is a request as it goes out: every byte of it is written by us from parsed values
// (http-strictness.md 2).
type outgoing struct {
	method, target, host string
	header               http.Header // hop-by-hop and framing fields are gone
	length               int64       // of the body; 0: none, -1: chunked
	body                 io.Reader
	trailers             []string // names announced
	trailer              func() http.Header
	upgrade              bool // to websocket
	expect               bool // the client waits for a 100
}

// writeHead puts the head into the buffer; it is sent with what follows, or by flush.
func (w *wire) writeHead(o *outgoing) {
	b := w.w
	_, _ = b.WriteString(o.method)
	_ = b.WriteByte(' ')
	_, _ = b.WriteString(o.target)
	_, _ = b.WriteString(" HTTP/1.1\r\n")
	writeField(b, "Host", o.host)
	for name, values := range o.header {
		for _, v := range values {
			writeField(b, name, v)
		}
	}
	switch {
	case o.length > 0:
		var digits [20]byte
		_, _ = b.WriteString("Content-Length: ")
		_, _ = b.Write(strconv.AppendInt(digits[:0], o.length, 10))
		_, _ = b.WriteString("\r\n")
	case o.length < 0:
		_, _ = b.WriteString("Transfer-Encoding: chunked\r\n")
		for _, name := range o.trailers {
			writeField(b, "Trailer", name)
		}
	case o.method == http.MethodPost || o.method == http.MethodPut || o.method == http.MethodPatch:
		_, _ = b.WriteString("Content-Length: 0\r\n") // RFC 9110, section 8.6
	}
	switch {
	case o.upgrade:
		_, _ = b.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\n")
	case o.header["Te"] != nil:
		_, _ = b.WriteString("Connection: te\r\n")
	}
	if o.expect {
		_, _ = b.WriteString("Expect: 100-continue\r\n")
	}
	_, _ = b.WriteString("\r\n")
}

func writeField(b *bufio.Writer, name, value string) {
	_, _ = b.WriteString(name)
	_, _ = b.WriteString(": ")
	_, _ = b.WriteString(value)
	_, _ = b.WriteString("\r\n")
}

// writeBody sends the body piece by piece, each as soon as it has come. Whether a fault is the
// client's or the upstream's is for who made o.body to know.
func (w *wire) writeBody(o *outgoing) error {
	buf := pieces.Get().(*[copySize]byte)
	defer pieces.Put(buf)
	left := o.length
	for left != 0 {
		p := buf[:]
		if left > 0 && left < int64(len(p)) {
			p = p[:left]
		}
		n, err := o.body.Read(p)
		if n > 0 {
			if werr := w.writePiece(p[:n], left < 0); werr != nil {
				return werr
			}
			left = max(left-int64(n), min(left, 0))
		}
		switch {
		case left == 0:
		case err == nil:
		case !errors.Is(err, io.EOF):
			return err
		case left > 0:
			return io.ErrUnexpectedEOF
		default:
			return w.writeEnd(o)
		}
	}
	return nil
}

func (w *wire) writePiece(p []byte, chunked bool) error {
	if chunked {
		var size [18]byte
		_, _ = w.w.Write(append(strconv.AppendInt(size[:0], int64(len(p)), 16), '\r', '\n'))
	}
	_, _ = w.w.Write(p)
	if chunked {
		_, _ = w.w.WriteString("\r\n")
	}
	return w.w.Flush()
}

// writeEnd ends a chunked body with the trailers the client sent.
func (w *wire) writeEnd(o *outgoing) error {
	_, _ = w.w.WriteString("0\r\n")
	if o.trailer != nil {
		for name, values := range o.trailer() {
			for _, v := range values {
				writeField(w.w, name, v)
			}
		}
	}
	_, _ = w.w.WriteString("\r\n")
	return w.w.Flush()
}

// interim is told of the 1xx responses other than 101; nil: they are dropped.
type interim func(status int, h http.Header)

// readResponse reads up to the final response head. Interim ones are few, and a 101 is only
// an answer to an upgrade (dataplane.md 4.3).
func (w *wire) readResponse(o *outgoing, on interim) (head, error) {
	for n := 0; ; n++ {
		if _, err := w.r.Peek(1); err != nil {
			return head{}, err
		}
		w.answered = true
		h, r, err := readHead(w.r, w.conn, o.method)
		if r != w.r {
			w.r.Reset(nil)
			readers.Put(w.r)
			w.r = r
		}
		switch {
		case err != nil:
			return head{}, err
		case h.status == http.StatusSwitchingProtocols && !o.upgrade:
			return head{}, malformed("101 that nobody asked for")
		case h.status >= 200 || h.status == http.StatusSwitchingProtocols:
			return h, nil
		case n == maxInterim:
			return head{}, malformed("more than five interim responses")
		case on != nil:
			on(h.status, h.header)
		}
	}
}

// clean reports that the connection stands exactly between two exchanges: a byte too many
// anywhere, also inside crypto/tls, would begin the next response (dataplane.md 4.4).
func (w *wire) clean() bool {
	if w.r.Buffered() > 0 || w.w.Buffered() > 0 {
		return false
	}
	if w.conn == net.Conn(w.under) {
		return true // what is in the socket is seen by stale
	}
	w.under.dry = true
	var b [1]byte
	n, err := w.conn.Read(b[:])
	w.under.dry = false
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// watch closes the connection when ctx ends, whatever it is doing then.
func (w *wire) watch(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, w.close)
}
