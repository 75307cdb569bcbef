package proxy

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/h1"
)

// answer is a response on its way back, from a wire or from a multiplexed connection.
type answer struct {
	status int
	header http.Header
	length int64

	wire    *wire
	body    *body
	unwatch func() bool
	last    bool

	resp *http.Response
}

func (a *answer) Read(p []byte) (int, error) {
	if a.resp != nil {
		return a.resp.Body.Read(p)
	}
	return a.body.Read(p)
}

// whole reports that nothing more comes; that is known before the last read only sometimes.
func (a *answer) whole() bool { return a.resp == nil && a.body.whole }

// headAlone reports that the head came and nothing behind it yet: who waits for it (an event
// stream, gRPC metadata) gets it now. It is never sent ahead of an end that is here already: a
// gRPC reply of trailers only is one frame, and would become two.
func (a *answer) headAlone() bool {
	if a.resp != nil {
		return a.resp.ContentLength != 0 // 0: it ended with its head, or with trailers that tell all
	}
	return !a.body.whole && a.wire.r.Buffered() == 0
}

func (a *answer) trailer() http.Header {
	if a.resp != nil {
		return a.resp.Trailer
	}
	return a.body.trailer
}

// end gives the connection back if it stands exactly behind this exchange, else closes it.
func (a *answer) end(x *exchange, u *upstream, complete bool) {
	if a.resp != nil {
		_ = a.resp.Body.Close()
		return
	}
	w := a.wire
	free := a.unwatch() && x.wire.CompareAndSwap(w, nil) // else somebody is closing it
	if !free || !complete || !x.sent() || a.last || w.spoilt {
		w.close()
		x.stopSending()
		w.disarm()
		return
	}
	u.put(w)
}

// relay sends the answer down: nothing is held back once it has come, and nothing is finished
// cleanly that ended short.
func (x *exchange) relay(a *answer, u *upstream) {
	x.answered = true
	x.upstreamAnswered()
	x.tellRejected(a)
	x.tellRefusal(a)
	trailers := a.header["Trailer"]
	x.writeAnswerHead(a, trailers)
	if a.headAlone() {
		x.flush()
	}
	buf := pieces.Get().(*[copySize]byte)
	n, fault := x.copyBody(a, u, buf)
	pieces.Put(buf)

	if fault == nil {
		x.writeTrailer(a.trailer(), trailers)
		a.end(x, u, true)
		x.finish(outcome{status: a.status, resp: n})
		return
	}
	a.end(x, u, false)
	switch {
	case a.length >= 0:
	case x.late(fault):
		x.endGRPC(4, refuseOverdue.text, trailers)
		x.finish(outcome{status: a.status, resp: n, decision: refuseOverdue.decision, err: refuseOverdue.err})
		return
	case x.cut.Load().gentle(x):
		x.endGRPC(grpcStatus(http.StatusUnauthorized), x.rules.Revoked().Text, trailers)
		x.finish(x.broken(fault, a.status, n))
		return
	}
	x.finish(x.broken(fault, a.status, n))
	panic(http.ErrAbortHandler)
}

// endGRPC ends a gRPC stream with a status of ours.
func (x *exchange) endGRPC(code int, text string, trailers []string) {
	x.writeTrailer(http.Header{"Grpc-Status": {strconv.Itoa(code)}, "Grpc-Message": {text}}, trailers)
	x.rec.GRPCStatus = code + 1
}

// writeAnswerHead writes the response head without what speaks of the upstream's connection.
func (x *exchange) writeAnswerHead(a *answer, trailers []string) {
	x.stripAnswer(a.header)
	x.changeAnswer(a.header)
	h := x.w.Header()
	for name, values := range a.header {
		h[name] = values
	}
	if _, typed := h["Content-Type"]; !typed {
		h["Content-Type"] = nil // net/http would guess one
	}
	if a.status == http.StatusNoContent {
		delete(h, "Content-Length")
	}
	if len(trailers) > 0 {
		h["Trailer"] = allowedTrailers(trailers)
	}
	if x.link.retiring(x.now) || x.link.ended(x.now) || x.link.spent(x.now) {
		h["Connection"] = []string{"close"}
	}
	x.begun.Store(true)
	x.status = a.status
	x.w.WriteHeader(a.status)
}

// stripAnswer removes from an answer what is not its sender's to say: a program does not speak for us.
func (x *exchange) stripAnswer(header http.Header) {
	switch {
	case x.link.edge != nil:
		h1.StripEdgeResponse(header, x.to != nil && !x.to.foreign)
	case x.rec.Side == audit.SideServer:
		h1.StripResponse(header)
	default:
		h1.StripHop(header)
	}
}

func allowedTrailers(lines []string) []string {
	announced := http.Header{}
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			if name, ok := canonical(strings.Trim(name, " \t")); ok && name != "" {
				announced[name] = nil
			}
		}
	}
	return trailerNames(h1.Base, announced)
}

// downstreamError is a write that failed: the client has gone.
type downstreamError struct{ error }

func (x *exchange) copyBody(a *answer, u *upstream, buf *[copySize]byte) (sent int64, err error) {
	timed, _ := x.w.(deadlines)
	edge := x.link.edge
	if isEventStream(a.header) {
		edge = nil
	}
	if x.unpaced(u) || x.h2 && edge == nil {
		timed = nil // HTTP/2 has its own watch over a connection that takes nothing
	}
	out := pace{most: x.idle()}
	var watch *streamWatch
	if x.link.door != nil && (edge == nil || x.unpaced(u)) {
		watch = x.watchStream()
		defer watch.end()
	}
	for {
		if x.cut.Load() != nil {
			return sent, errCut
		}
		if a.whole() {
			return sent, nil
		}
		n, err := a.Read(buf[:])
		if n > 0 {
			var began time.Time
			if timed != nil && (sent+int64(n) > 4<<10 || edge != nil && !a.whole()) { // less than that no socket of a peer refuses
				x.link.timed.Store(true)
				began = time.Now()
				_ = timed.SetWriteDeadline(began.Add(edge.patience(&out)))
			}
			if _, werr := x.w.Write(buf[:n]); werr != nil {
				return sent, downstreamError{werr}
			}
			sent += int64(n)
			watch.moved()
			if !a.whole() {
				x.flush()
				x.noteLength()
			}
			if edge != nil && !began.IsZero() {
				out.moved(n, time.Since(began))
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return sent, nil
		default:
			return sent, err
		}
	}
}

func isEventStream(h http.Header) bool {
	values := h["Content-Type"]
	return len(values) == 1 && strings.HasPrefix(values[0], "text/event-stream")
}

func (x *exchange) flush() {
	if f, ok := x.w.(http.Flusher); ok {
		f.Flush()
	}
}

// noteLength writes the opening record of a stream that has lasted a minute.
func (x *exchange) noteLength() {
	if !x.opened && x.p.now().Sub(x.now) > longStream {
		x.openRecord(x.status)
	}
}

func (x *exchange) writeTrailer(t http.Header, announced []string) {
	if len(t) == 0 {
		return
	}
	h1.StripTrailer(t)
	h := x.w.Header()
	named := h["Trailer"]
	for name, values := range t {
		if len(announced) > 0 && slices.Contains(named, name) {
			h[name] = values
			continue
		}
		h[http.TrailerPrefix+name] = values
	}
}

var errCut = errors.New("cut")

// tellRefusal notes for the caller's terminal what the callee's side refused: only a node
// answers with a decision id, a program's own is taken off.
func (x *exchange) tellRefusal(a *answer) {
	if x.rec.Side != audit.SideClient || x.place == nil {
		return
	}
	ids := a.header["X-Decision-Id"]
	if len(ids) != 1 {
		return
	}
	switch grpc := a.header["Grpc-Status"]; {
	case a.status == http.StatusForbidden, len(grpc) == 1 && grpc[0] == "7":
		x.tell("call_refused", ids[0], "")
	case a.status == http.StatusBadGateway, len(grpc) == 1 && grpc[0] == "14":
		x.tellFailure(ids[0], a.firstLine())
	}
}

// tellFailure notes what the callee's node found wrong with its program.
func (x *exchange) tellFailure(id, text string) {
	for _, no := range [...]*refused{refuseReset, refuseMalformed, refuseUpgrade} {
		if no.text == text {
			x.tell(no.event, id, no.note)
			return
		}
	}
	if text == refuseAway.text {
		x.tell(refuseAway.event, id, portText(x.to))
	}
}

// firstLine is the text of a node's own answer (dataplane.md 3.3), which comes with its head.
func (a *answer) firstLine() string {
	if a.resp != nil {
		return a.header.Get("Grpc-Message")
	}
	if a.length > 0 && a.length <= maxOwnText && int64(a.wire.r.Buffered()) >= a.length {
		text, _ := a.wire.r.Peek(int(a.length))
		return string(text)
	}
	return ""
}

// maxOwnText is more than any text of our own.
const maxOwnText = 128
