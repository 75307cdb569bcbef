package proxy

import (
	"cmp"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/h1"
)

// Limits of an edge listener (http-strictness 13).
const (
	edgeIdle     = 60 * time.Second // keep-alive
	edgeGrace    = 10 * time.Second // before a rate is asked for
	edgeRate     = 500              // bytes a second
	edgeBody     = 10 << 20         // of a request
	edgeRequests = 10_000           // of a connection
	edgeAge      = time.Hour        // of a connection; each has its own, a tenth more or less
	edgeStreams  = 128              // per HTTP/2 connection

	edgeResets    = 100 // of streams before the answer, on a connection
	edgeResetRate = 20  // a second more
)

// edge makes a connection one of the edge profile: where strangers call (http-strictness 1). One is shared by all
// connections of a listener. The zero edge has the defaults.
type edge struct {
	// strict reports whether a rule for paths is in force on a host, given as h1.LookupHost gives it. nil: on all.
	strict func(host string) bool
	// body is the most a request body may have; 0 is 10 MiB, below 0 there is no limit.
	body int64
	// grace is the time before a rate is asked for, idle the most that bytes can buy; 0 is 10 s and 60 s.
	grace, idle time.Duration
}

func (e *edge) maxBody() int64 {
	if e.body == 0 {
		return edgeBody
	}
	return max(e.body, 0)
}

// profile is how strict the connection's listener is.
func (l *link) profile() h1.Profile {
	if l.edge != nil {
		return h1.Edge
	}
	return h1.Base
}

// shapeEdge is what the edge asks of a path in normal form.
func (x *exchange) shapeEdge() *refused {
	e := x.link.edge
	if e == nil || x.link.door != nil { // there it depends on the rule: see settle
		return nil
	}
	if host, _ := h1.LookupHost(x.host); e.strict != nil && !e.strict(host) {
		return nil
	}
	if f := h1.CheckStrict(x.path); f != nil {
		return refuseFault(f)
	}
	return nil
}

// answerOptions answers OPTIONS * at the edge, where no single application is meant (RFC 9110 section 9.3.7).
func (x *exchange) answerOptions() {
	if x.link.edge == nil || x.path != "*" {
		return
	}
	x.limitDrain()
	h := x.w.Header()
	x.secure(h)
	h["Allow"] = []string{h1.Allow}
	h["Cache-Control"] = []string{"no-store"}
	x.begun.Store(true)
	x.w.WriteHeader(http.StatusNoContent)
	x.rec.Layer = audit.LayerRoute
	x.finish(outcome{status: http.StatusNoContent})
}

// unpaced: gRPC may be silent, and its messages have limits of their own. At the edge a content type proves nothing:
// there the port has to say it.
func (x *exchange) unpaced(u *upstream) bool {
	return x.grpc && (x.link.edge == nil || u.protocol == "grpc")
}

// pace is how slowly bytes may come or go at the edge (http-strictness 13): there is time for the grace at first, every
// byte buys 1/rate of a second, and nobody is ahead by more than the idle time. Only time spent waiting for the other
// side is taken off, so a slow upstream costs a client nothing.
type pace struct {
	left  time.Duration
	most  time.Duration // that bytes can buy; 0: what the listener says
	begun bool
}

// patience is how long the next bytes may take. nil has the base profile, which asks for no rate.
func (e *edge) patience(p *pace) time.Duration {
	if e == nil {
		return bodyIdle
	}
	if !p.begun {
		p.begun, p.left = true, cmp.Or(e.grace, edgeGrace)
	}
	p.left = min(p.left, cmp.Or(p.most, e.idle, bodyIdle))
	return p.left
}

// boundWrite gives a client at the edge its time for what is about to be written. However short that is: the window of an
// HTTP/2 stream may be shut from the start, and a socket be full of answers that nobody reads.
func (x *exchange) boundWrite(p *pace) {
	if d, ok := x.w.(deadlines); ok && x.link.edge != nil && x.cut.Load() == nil {
		x.link.timed.Store(true)
		_ = d.SetWriteDeadline(time.Now().Add(x.link.edge.patience(p)))
	}
}

// moved counts n bytes that took that long.
func (p *pace) moved(n int, took time.Duration) {
	p.left += time.Duration(n)*(time.Second/edgeRate) - took
}

// spent reports that an edge connection has had its share of time or requests, and another one spreads the load anew;
// or that its listener has given up its version of TLS.
func (l *link) spent(now time.Time) bool {
	return l.edge != nil && (l.served.Load() >= edgeRequests || now.Sub(l.since) > l.age || l.outdated())
}

// cancelled counts a request of HTTP/2 whose client left before the head of its answer came (the cancel budget of
// http-strictness 8.3). net/http stops only who is fast; this also stops who waits between resets. The budget is kept
// as one instant, at which it would be whole again.
func (l *link) cancelled(now time.Time) {
	for {
		was := l.resets.Load()
		next := max(was, now.UnixNano()) + int64(time.Second/edgeResetRate)
		if !l.resets.CompareAndSwap(was, next) {
			continue
		}
		if next-now.UnixNano() > int64(edgeResets*time.Second/edgeResetRate) && !l.gone.Swap(true) {
			l.run.p.recordFault(l, h1.FaultAbuse, audit.ProtoHTTP2)
			l.close()
		}
		return
	}
}

// crowd counts connections, in all and by where they come from, so that one place cannot take them all.
type crowd struct {
	mu   sync.Mutex // guards the rest; held for one look-up
	most int        // of all; 0: crowdAll
	all  int
	from map[netip.Prefix]int
}

// Connections of an edge listener.
const (
	crowdAll  = 10_000
	crowdFrom = 256 // of an IPv4 address, of an IPv6 /64
)

// enter counts a connection; false: there are too many, and it is to be closed at once. The zero place is none: it is
// counted in all alone. most and each are the bounds, 0 the default ones.
func (c *crowd) enter(place netip.Prefix, most, each int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= cmp.Or(most, c.most, crowdAll) || place.IsValid() && c.from[place] >= cmp.Or(each, crowdFrom) {
		return false
	}
	c.all++
	if !place.IsValid() {
		return true
	}
	if c.from == nil {
		c.from = map[netip.Prefix]int{}
	}
	c.from[place]++
	return true
}

func (c *crowd) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}

// leave undoes one enter that was true.
func (c *crowd) leave(place netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if !place.IsValid() {
		return
	}
	if c.from[place]--; c.from[place] == 0 {
		delete(c.from, place)
	}
}

// placeOf is what counts as one place: an IPv4 address, an IPv6 /64. On loopback all users of this machine are one
// address, which is no place.
func placeOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() {
		return netip.Prefix{}
	}
	bits := 32
	if a.Is6() {
		bits = 64
	}
	place, _ := a.Prefix(bits) // the zero prefix for no address
	return place
}
