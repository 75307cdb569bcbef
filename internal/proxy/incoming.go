package proxy

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"countersign.dev/internal/gate"
	"countersign.dev/internal/h1"
)

// incoming is the client's body. It remembers the first fault of the client, because what
// the upstream then says about the broken request is not the upstream's fault (http-strictness.md
// 10.5), and gives a client that sends nothing its time.
type incoming struct {
	x      *exchange
	src    io.Reader
	timed  deadlines // nil: its silence has no limit
	pace   pace      // at the edge
	most   int64     // bytes it may have; 0: no limit
	failed atomic.Pointer[error]
	left   atomic.Bool // nobody reads it any more
	ended  atomic.Bool // its end was read
}

func (x *exchange) receiveBody(u *upstream) {
	if x.r.Body == nil || x.r.Body == http.NoBody || x.body.src != nil {
		return
	}
	x.body.x, x.body.src = x, x.r.Body
	if !x.h2 {
		_ = http.NewResponseController(x.w).EnableFullDuplex()
	}
	edge := x.link.edge
	if !x.unpaced(u) && (!x.h2 || edge != nil) {
		x.body.timed, _ = x.w.(deadlines)
	}
	if edge != nil && !x.unpaced(u) {
		x.body.most, x.body.pace.most = x.maxBody(), x.idle()
	}
}

func (b *incoming) Read(p []byte) (int, error) {
	edge := b.x.link.edge
	var began time.Time
	if b.timed != nil {
		if b.x.expect && !b.pace.begun {
			b.x.boundWrite(new(pace)) // of the 100 that net/http sends now
		}
		began = time.Now()
		_ = b.timed.SetReadDeadline(began.Add(edge.patience(&b.pace)))
	}
	if b.left.Load() { // asked behind the deadline: who leaves the body sets one that has passed
		return 0, os.ErrDeadlineExceeded
	}
	n, err := b.src.Read(p)
	all := b.x.reqBytes.Add(int64(n))
	if edge != nil && b.timed != nil {
		b.pace.moved(n, time.Since(began))
	}
	if b.most > 0 && all > b.most {
		n, err = 0, h1.FaultBodyLong
	}
	if err != nil {
		if b.timed != nil { // or it would end the watch for a client that goes away
			_ = b.timed.SetReadDeadline(time.Time{})
		}
		switch {
		case errors.Is(err, io.EOF):
			b.ended.Store(true)
		case !b.left.Load():
			b.failed.CompareAndSwap(nil, &err)
		}
	}
	return n, err
}

// finishBody reads what is left of a body after its answer, within bounds; if there is more,
// the connection gives no further byte, or net/http would take the rest for the next request. (In
// full duplex it drains the body itself only after it has stopped watching the connection,
// and then starts watching anew.)
func (x *exchange) finishBody() {
	if x.h2 || x.body.src == nil || x.body.ended.Load() {
		return
	}
	if x.body.failed.Load() == nil && x.cut.Load() == nil {
		x.flush()
		if d, ok := x.w.(deadlines); ok {
			_ = d.SetReadDeadline(time.Now().Add(drainTime))
		}
		if _, err := io.CopyN(io.Discard, x.body.src, maxDrained); errors.Is(err, io.EOF) {
			return
		}
	}
	if s, ok := x.link.conn.(*socket); ok {
		s.deaf.Store(true)
		if g := gate.From(x.r.Context()); g != nil {
			g.Linger(s.Conn)
		}
	}
}

// stopSending ends the sender and waits for it: the body is not ours after the handler.
func (x *exchange) stopSending() {
	if x.mux != nil {
		x.mux.letGo(x)
		x.mux = nil
	}
	if x.sender == nil {
		return
	}
	select {
	case <-x.sender:
	default:
		if cancel := x.cancel.Load(); cancel != nil {
			(*cancel)()
		}
		x.body.leave(x.w)
		<-x.sender
	}
	x.sender = nil
}

// leave ends a read of the body that waits, from any goroutine.
func (b *incoming) leave(w http.ResponseWriter) {
	b.left.Store(true)
	if d, ok := w.(deadlines); ok {
		_ = d.SetReadDeadline(time.Unix(1, 0))
	}
}

// sent reports that the whole body went up, waiting a moment for its last piece.
func (x *exchange) sent() bool {
	if x.sender == nil {
		return true
	}
	var moment <-chan time.Time
	if length := x.r.ContentLength; length < 0 || x.reqBytes.Load() == length {
		moment = time.After(lastPiece)
	} else {
		closed := make(chan time.Time)
		close(closed)
		moment = closed
	}
	select {
	case <-x.sender:
		return true
	case <-moment:
		return false
	}
}

// lastPiece is how long a finished exchange waits for the goroutine that has sent its body.
const lastPiece = 20 * time.Millisecond
