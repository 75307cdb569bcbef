package proxy

import (
	"strconv"
	"sync"
	"time"
)

// Limits of idle upstream connections (dataplane.md 9.1).
const (
	appIdle  = 4 * time.Second // Node closes at 5 s
	wireIdle = 60 * time.Second
	muxIdle  = 5 * time.Minute
	maxIdle  = 64 // per key
)

// upstreamKey is what a connection may be shared by: the run that it belongs to is the pool's,
// so the source identity is part of the key towards other nodes; towards the program it is named.
type upstreamKey struct {
	serverName, addr, owner string // another node's instance
	caller                  string // the local program, for one caller
	port                    uint16
	foreign                 string // how addr is spoken to, an endpoint outside the mesh
}

// pool holds the upstreams of a run.
type pool struct {
	run *run

	mu     sync.Mutex // guards the rest; held for one look-up
	all    map[upstreamKey]*upstream
	closed bool
}

func (p *pool) init(r *run) {
	p.run = r
	p.all = map[upstreamKey]*upstream{}
}

// mesh is the way to an instance on some node.
func (p *pool) mesh(t *target) *upstream {
	return p.find(upstreamKey{serverName: t.serverName, addr: t.addr, owner: t.owner}, t.protocol)
}

// app is the way to the local program for one caller: if its responses ever get out of step,
// the damage stays within that caller. A connection keeps its upstream at hand.
func (p *pool) app(l *link) *upstream {
	if u := l.apps.Load(); u != nil && u.hold() {
		return u
	}
	u := p.find(upstreamKey{caller: l.peerID, port: l.port}, l.proto)
	l.apps.Store(u)
	return u
}

func (p *pool) find(key upstreamKey, protocol string) *upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.all[key]
	if u == nil || !u.hold() {
		u = &upstream{pool: p, run: p.run, key: key, protocol: protocol, users: 1, gone: p.closed}
		if !p.closed {
			p.all[key] = u
		}
	}
	return u
}

// renewed retires what was made with the SVID before (dataplane.md 12.3).
func (p *pool) renewed() {
	for _, u := range p.list() {
		u.reap(false)
	}
}

func (p *pool) list() []*upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*upstream, 0, len(p.all))
	for _, u := range p.all {
		list = append(list, u)
	}
	return list
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	for _, u := range p.list() {
		u.reap(true)
	}
}

// upstream is one pool key of section 9.1 with its connections: for HTTP/1 the idle ones, the
// warmest on top; for HTTP/2 one http.Transport per SVID generation.
type upstream struct {
	pool     *pool
	run      *run
	key      upstreamKey
	protocol string

	mu    sync.Mutex // guards the rest; held for a push or a pop
	idle  []*wire
	users int
	gone  bool // out of the pool: take another
	timer *time.Timer
	mux   *mux
}

func (u *upstream) toNode() bool { return u.key.serverName != "" }

// speaksHTTP2: between nodes HTTP/2 carries gRPC alone, because in net/http it costs more per
// request than HTTP/1.1 does (BenchmarkReverseProxy). The program is spoken to as its
// port says, and gRPC always by prior knowledge (dataplane.md 4.8).
func (u *upstream) speaksHTTP2(grpc bool) bool {
	return grpc || !u.toNode() && (u.protocol == "http2" || u.protocol == "grpc")
}

// hold counts a user; false: the upstream has been taken out of the pool.
func (u *upstream) hold() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.gone {
		return false
	}
	u.users++
	return true
}

func (u *upstream) release() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.users--
}

// take gives an idle connection that nothing came on, or a new one.
func (u *upstream) take(x *exchange, fresh bool) (*wire, error) {
	now := u.run.p.now()
	for !fresh {
		w := u.pop()
		if w == nil {
			break
		}
		if u.tooOld(w, now) || stale(w.under.Conn) {
			w.close()
			continue
		}
		w.arm()
		w.answered = false
		return w, nil
	}
	return u.dial(x.context())
}

func (u *upstream) pop() *wire {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(u.idle)
	if n == 0 {
		return nil
	}
	w := u.idle[n-1]
	u.idle[n-1] = nil
	u.idle = u.idle[:n-1]
	return w
}

// tooOld: idle for too long, or made with a certificate that is not ours any more.
func (u *upstream) tooOld(w *wire, now time.Time) bool {
	if now.Sub(w.idleAt) >= u.idleTime() {
		return true
	}
	if !u.toNode() {
		return false
	}
	if now.After(w.retire) {
		return true
	}
	own := u.run.Certificate()
	return own == nil || own.Generation != w.generation && now.After(time.Unix(0, u.run.since.Load()).Add(w.jitter))
}

func (u *upstream) idleTime() time.Duration {
	if u.toNode() {
		return wireIdle
	}
	return appIdle
}

// put takes a connection back that stands exactly behind a finished exchange.
func (u *upstream) put(w *wire) {
	clean := w.clean()
	w.disarm()
	w.used, w.idleAt = true, u.run.p.now()
	if !clean || u.toNode() && u.tooOld(w, w.idleAt) {
		w.close()
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.gone || len(u.idle) >= maxIdle {
		w.close()
		return
	}
	u.idle = append(u.idle, w)
	if u.timer == nil {
		u.timer = time.AfterFunc(u.idleTime(), func() { u.reap(false) })
	}
}

// reap closes what has been idle for too long, and with all everything. An upstream nobody
// uses and that holds nothing leaves the pool.
func (u *upstream) reap(all bool) {
	now := u.run.p.now()
	u.pool.mu.Lock()
	u.mu.Lock()
	kept := u.idle[:0]
	var old []*wire
	for _, w := range u.idle {
		if all || u.tooOld(w, now) {
			old = append(old, w)
		} else {
			kept = append(kept, w)
		}
	}
	clear(u.idle[len(kept):])
	u.idle = kept
	if u.mux != nil && (all || u.mux.retiring(u)) {
		u.mux.retireLocked()
		u.mux = nil
	}
	switch {
	case all:
		u.gone = true
	case len(kept) > 0 || u.mux != nil || u.users > 0:
		if u.timer != nil {
			u.timer.Reset(u.idleTime() / 2)
		}
	default:
		u.gone = true
		if u.pool.all[u.key] == u {
			delete(u.pool.all, u.key)
		}
	}
	if u.gone && u.timer != nil {
		u.timer.Stop()
	}
	u.mu.Unlock()
	u.pool.mu.Unlock()
	for _, w := range old {
		w.close()
	}
}

func portText(t *target) string { return strconv.Itoa(int(t.port)) }
