package proxy

import (
	"net/http"
	"slices"
	"time"

	"countersign.dev/internal/h1"
)

// toProgram is step 6 inbound: the fixed way to the local program.
func (x *exchange) toProgram() {
	if no := x.register(); no != nil {
		x.refuse(no)
		return
	}
	h := x.r.Header
	x.span.write(h)
	if x.link.xfcc != nil { // only of a proven peer; what came was stripped
		h["X-Forwarded-Client-Cert"] = x.link.xfcc
	}
	if no, _ := x.forward(x.run.pool.app(x.link)); no != nil {
		x.refuse(no)
	}
}

// forward sends the request to one upstream and its answer back. A refusal comes back
// if nothing was answered yet, and whether another instance may be tried: the request has then
// reached nobody.
func (x *exchange) forward(u *upstream) (no *refused, again bool) {
	defer u.release()
	x.receiveBody(u)
	if x.body.most > 0 && x.r.ContentLength > x.body.most {
		return refuseFault(h1.FaultBodyLong), false
	}
	switch {
	case x.websocket:
		return x.upgrade(u)
	case u.speaksHTTP2(x.grpc):
		return x.overMux(u)
	}
	o := x.outgoing()
	for fresh := false; ; fresh = true {
		w, err := u.take(x, fresh)
		if err != nil {
			return x.unreached(err, u)
		}
		a, err := x.over(w, o)
		if err == nil {
			x.relay(a, u)
			return nil, false
		}
		w.close()
		if !x.stale(w, o, fresh) {
			return x.blame(err), false
		}
	}
}

// stale is rule 1 of section 9.2: the connection had been used before and brought nothing
// back, so it most likely ended just as we took it. Once, if the request may be sent again.
func (x *exchange) stale(w *wire, o *outgoing, fresh bool) bool {
	return !fresh && w.used && !w.answered && o.length == 0 && idempotent(o.method) &&
		x.r.Context().Err() == nil && x.cut.Load() == nil
}

func idempotent(method string) bool { // RFC 9110, section 9.2.2
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// outgoing makes the request that goes on.
func (x *exchange) outgoing() *outgoing {
	r := x.r
	o := &x.out
	*o = outgoing{
		method: r.Method, target: x.target, host: x.host, header: r.Header, length: r.ContentLength,
		upgrade: x.websocket, expect: x.expect,
	}
	if r.Body == http.NoBody || r.Body == nil {
		o.length, o.expect = 0, false
		return o
	}
	o.body = &x.body
	if o.length < 0 {
		o.trailers = x.announcedTrailers()
		o.trailer = func() http.Header { return x.sentTrailer() }
	}
	return o
}

// announcedTrailers are those of the request that may go on.
func (x *exchange) announcedTrailers() []string {
	x.clearTrailer(x.r.Trailer)
	return trailerNames(x.link.profile(), x.r.Trailer)
}

// trailerNames are the announced trailers that may go on.
func trailerNames(p h1.Profile, t http.Header) []string {
	if len(t) == 0 {
		return nil
	}
	announced := make(http.Header, len(t))
	for name := range t {
		announced[name] = nil
	}
	p.StripTrailer(announced)
	names := make([]string, 0, len(announced))
	for name := range announced {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (x *exchange) sentTrailer() http.Header {
	t := x.r.Trailer
	x.link.profile().StripTrailer(t)
	x.clearTrailer(t)
	return t
}

// over is one exchange on one HTTP/1.1 connection, up to the response head.
func (x *exchange) over(w *wire, o *outgoing) (*answer, error) {
	unwatch := w.watch(x.r.Context())
	x.wire.Store(w)
	if x.cut.Load() != nil {
		w.close()
	}
	w.writeHead(o)
	var proceed chan struct{}
	switch {
	case o.length == 0:
		if err := w.w.Flush(); err != nil {
			unwatch()
			return nil, err
		}
	case o.length > 0 && o.length <= maxHeld && !o.expect:
		// A small body is sent by this goroutine; a response that comes before its end waits.
		if err := w.writeBody(o); err != nil {
			if x.body.failed.Load() != nil {
				unwatch()
				return nil, err
			}
			w.spoilt = true // an early answer may be there all the same
		}
	default:
		if err := w.w.Flush(); err != nil {
			unwatch()
			return nil, err
		}
		if o.expect {
			proceed = make(chan struct{}, 1)
			x.context()
		}
		x.send(w, o, proceed)
	}
	h, err := w.readResponse(o, func(status int, fields http.Header) { x.interim(status, fields, proceed) })
	if err != nil {
		unwatch()
		return nil, err
	}
	x.down.reset(w, h)
	x.back = answer{
		status: h.status, header: h.header, length: h.length, wire: w, unwatch: unwatch, last: h.last, body: &x.down,
	}
	return &x.back, nil
}

// send starts the goroutine that carries the body up while the response may already come.
// With Expect it waits for the upstream's word, or a second (dataplane.md 5.2).
func (x *exchange) send(w *wire, o *outgoing, proceed <-chan struct{}) {
	done := make(chan struct{})
	x.sender = done
	go func() {
		defer close(done)
		if proceed != nil {
			wait := time.NewTimer(continueTime)
			defer wait.Stop()
			select {
			case <-proceed:
			case <-wait.C:
			case <-x.ctx.Done():
				w.spoilt = true
				return
			}
		}
		if err := w.writeBody(o); err != nil {
			w.spoilt = true
			if x.body.failed.Load() != nil {
				w.close() // the upstream must not take a broken request for a whole one
			}
		}
	}()
}

// interim passes an early response on; 100 is net/http's own to send when the body is read.
func (x *exchange) interim(status int, fields http.Header, proceed chan<- struct{}) {
	if status == http.StatusContinue {
		if proceed != nil {
			select {
			case proceed <- struct{}{}:
			default:
			}
		}
		return
	}
	if !x.r.ProtoAtLeast(1, 1) {
		return
	}
	h1.StripResponse(fields)
	if x.link.edge != nil {
		h1.StripEdgeResponse(fields, false)
	}
	h := x.w.Header()
	for name, values := range fields {
		h[name] = values
	}
	x.w.WriteHeader(status)
	clear(h)
}
