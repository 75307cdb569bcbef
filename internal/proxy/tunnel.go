package proxy

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/gate"
	"countersign.dev/internal/h1"
)

// upgrade carries a WebSocket over a connection of its own. The tunnel opens only on a 101
// that proves the other side understood the handshake; any other answer is an ordinary
// response (dataplane.md 4.7).
func (x *exchange) upgrade(u *upstream) (no *refused, again bool) {
	w, err := u.take(x, true)
	if err != nil {
		return x.unreached(err, u)
	}
	a, err := x.over(w, x.outgoing())
	switch {
	case err != nil:
		w.close()
		return x.blame(err), false
	case a.status != http.StatusSwitchingProtocols:
		a.last = true
		x.relay(a, u)
		return nil, false
	case !goodUpgrade(a.header, x.wantsKey):
		a.end(x, u, false)
		return refuseUpgrade, false
	}
	x.openWebSocket(a)
	return nil, false
}

// goodUpgrade checks a 101 (RFC 6455, section 4.1). Not checking it is the hole through which a
// client goes on talking to an origin that never opened a tunnel.
func goodUpgrade(h http.Header, key string) bool {
	up, accept := h["Upgrade"], h["Sec-Websocket-Accept"]
	if len(up) != 1 || !strings.EqualFold(up[0], "websocket") || len(accept) != 1 || accept[0] != h1.Accept(key) {
		return false
	}
	for _, line := range h["Connection"] {
		for option := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.Trim(option, " \t"), "upgrade") {
				return true
			}
		}
	}
	return false
}

// openWebSocket answers 101 and relays until both sides have ended.
func (x *exchange) openWebSocket(a *answer) {
	x.stripAnswer(a.header)
	x.changeAnswer(a.header)
	x.answered = true
	x.upstreamAnswered()
	w, l, g := a.wire, x.link, gate.From(x.r.Context())
	if g == nil {
		a.end(x, nil, false)
		x.clientGone()
	}
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		a.end(x, nil, false)
		x.clientGone()
	}
	defer x.run.open.remove(l) // from the hijack on the connection is ours
	x.begun.Store(true)
	g.Raw()
	a.unwatch()
	x.wire.Store(nil)
	_ = conn.SetDeadline(time.Time{})
	t := &tunnel{
		idle: x.idle(),
		down: side{r: conn, conn: g.NetConn(), base: l.conn},
		up:   side{r: w.r, conn: w.conn, base: w.under, cut: w.cut},
	}
	if x.link.state != nil {
		if s, ok := l.conn.(*socket); ok {
			t.down.cut = s.ended.Load
		}
	}
	x.run.live.attach(x, t.snap)
	x.openRecord(http.StatusSwitchingProtocols)
	if err := write101(conn, a.header); err != nil {
		t.snap()
	}
	x.finishTunnel(t, http.StatusSwitchingProtocols)
	w.disarm()
}

// finishTunnel relays and records how it ended.
func (x *exchange) finishTunnel(t *tunnel, status int) {
	sent, got, reason := t.relay(x.cut.Load() != nil)
	x.reqBytes.Store(sent)
	o := outcome{status: status, resp: got, reason: reason}
	if c := x.cut.Load(); c != nil {
		o.reason, o.decision = c.why, audit.Deny
		x.redecided(c)
	} else if reason == "truncated" {
		o.reason, o.err = "", reason
	}
	x.finish(o)
}

func write101(conn net.Conn, h http.Header) error {
	b := writers.Get().(*bufio.Writer)
	b.Reset(conn)
	defer func() {
		b.Reset(nil)
		writers.Put(b)
	}()
	_, _ = b.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
	for name, values := range h {
		for _, v := range values {
			writeField(b, name, v)
		}
	}
	_, _ = b.WriteString("\r\n")
	return b.Flush()
}

// tunnel is bytes both ways.
type tunnel struct {
	down, up side
	moved    atomic.Int64
	idle     time.Duration // without a byte; 0: tunnelIdle
	snapped  atomic.Bool
	idled    atomic.Bool
}

// side is one end of a tunnel: bytes are read from r, which may hold some already.
type side struct {
	r    io.Reader
	conn net.Conn // written to, and half-closed
	base net.Conn // the socket
	cut  func() bool
}

// snap breaks both sides, from any goroutine.
func (t *tunnel) snap() {
	t.snapped.Store(true)
	_ = t.down.base.Close()
	_ = t.up.base.Close()
}

// relay carries bytes until both directions have ended, or one failed. An end is passed on as
// an end, a failure as a failure (dataplane.md 4.8).
func (t *tunnel) relay(snapped bool) (sent, got int64, reason string) {
	if snapped {
		t.snap()
	}
	var last int64 = -1
	var idle *time.Timer
	set, most := make(chan struct{}), cmp.Or(t.idle, tunnelIdle)
	idle = time.AfterFunc(most, func() {
		<-set
		if moved := t.moved.Load(); moved != last {
			last = moved
			idle.Reset(most)
			return
		}
		t.idled.Store(true)
		t.snap()
	})
	close(set)
	defer idle.Stop()

	var up sync.WaitGroup
	var upErr error
	up.Go(func() { sent, upErr = t.copy(&t.up, &t.down) })
	got, downErr := t.copy(&t.down, &t.up)
	up.Wait()
	_ = t.down.base.Close()
	_ = t.up.base.Close()
	if errors.Is(upErr, errTruncated) || errors.Is(downErr, errTruncated) {
		return sent, got, "truncated"
	}
	if t.idled.Load() {
		return sent, got, cutIdle
	}
	return sent, got, ""
}

// errTruncated is the end of a stream that nobody signed.
var errTruncated = errors.New("truncated")

// copy moves one direction. What fails breaks the tunnel.
func (t *tunnel) copy(to, from *side) (n int64, err error) {
	buf := pieces.Get().(*[copySize]byte)
	defer pieces.Put(buf)
	for {
		k, err := from.r.Read(buf[:])
		if k > 0 {
			if _, werr := to.conn.Write(buf[:k]); werr != nil {
				t.fail()
				return n, werr
			}
			n += int64(k)
			t.moved.Add(int64(k))
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && (from.cut == nil || !from.cut()):
			if half, ok := to.conn.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
				return n, nil
			}
			t.fail()
			return n, nil
		default:
			if from.cut != nil && from.cut() && !t.snapped.Load() {
				err = errTruncated
			}
			t.fail()
			return n, err
		}
	}
}

// fail resets plain TCP, so that the other end can tell failure from end.
func (t *tunnel) fail() {
	for _, s := range []*side{&t.down, &t.up} {
		if base, ok := s.base.(*socket); ok {
			if tcp, ok := base.Conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
		}
	}
	t.snap()
}
