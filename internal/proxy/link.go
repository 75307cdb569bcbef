package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/policy"
)

// link is one connection from downstream and what it proved (dataplane.md 12.1). But for the
// last group of fields it never changes once it serves requests.
type link struct {
	run    *run
	conn   net.Conn // the socket: closing it ends everything above
	number uint64
	src    netip.AddrPort
	edge   *edge                // nil: the listener has the base profile
	door   *door                // of a Gateway; nil: none
	front  *tls.ConnectionState // of a caller from outside over TLS, who proved nothing
	served atomic.Int64
	since  time.Time
	age    time.Duration // the most it should have at the edge
	resets atomic.Int64  // see cancelled
	place  netip.Prefix  // that it is counted under at the door; zero: none

	// Inbound.
	state   *tls.ConnectionState // nil: plaintext
	peer    identity.Peer
	peerID  string // "" if nobody is proven
	caller  *policy.Peer
	label   string // "ns/name" of the caller, for counting
	xfcc    []string
	key     ServiceKey // the service its server name chose
	service string     // the same as "ns/name"
	port    uint16     // the workload's own
	proto   string     // of that port
	grown   uint64     // generation of our SVID it was made with
	jitter  time.Duration
	expires *time.Timer

	// Outbound.
	tcp *net.TCPConn
	via *place // inside a CONNECT tunnel: where it leads

	greeted atomic.Bool // at a door: the handshake is done
	proven  atomic.Bool // outbound: the caller is the run's
	timed   atomic.Bool // a write deadline was left on it
	active  atomic.Int32
	bound   atomic.Pointer[binding]
	apps    atomic.Pointer[upstream]
	gone    atomic.Bool
}

// binding is the policy of one connection under one view.
type binding struct {
	v      *view
	bound  policy.Bound
	limits atomic.Pointer[[]policy.Bound] // see link.limits
}

type linkKey struct{}

func linkOf(ctx context.Context) *link {
	l, _ := ctx.Value(linkKey{}).(*link)
	return l
}

func (p *Proxy) newLink(r *run, conn net.Conn) *link {
	l := &link{run: r, conn: conn, number: p.links.Add(1), since: p.now(), age: edgeAge - edgeAge/10 + rand.N(edgeAge/5)}
	if addr, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		l.src = addr.AddrPort()
		l.src = netip.AddrPortFrom(l.src.Addr().Unmap(), l.src.Port())
	}
	return l
}

// prove takes in what a finished handshake proved.
func (l *link) prove(cs *tls.ConnectionState, peer identity.Peer, own *SVID) {
	l.state, l.peer, l.peerID = cs, peer, peer.ID.String()
	caller := policy.ParsePeer(l.peerID, l.run.ID.TrustDomain().Name())
	l.caller = &caller
	l.label = l.caller.Principal
	if peer.Canonical && !l.caller.Foreign {
		l.label = peer.Namespace + "/" + peer.ServiceAccount
	}
	// Envoy's form (http-strictness.md 7.4): one element, made of what was proven alone.
	l.xfcc = []string{"By=" + l.run.text + ";Hash=" + hex.EncodeToString(peer.Fingerprint[:]) + ";URI=" + l.peerID}
	if own != nil {
		l.grown = own.Generation
		l.jitter = rand.N(own.margin() + 1)
	}
}

// side is whose decision a record of this link tells.
func (l *link) side() string {
	if l.tcp != nil {
		return audit.SideClient
	}
	return audit.SideServer
}

// identify fills what a record tells of the connection.
func (l *link) identify(rec *audit.Record) {
	rec.Conn, rec.SrcIP, rec.SrcPort = l.number, l.src.Addr(), l.src.Port()
	if l.tcp != nil {
		if l.proven.Load() {
			rec.PeerID = l.run.text
		}
		return
	}
	rec.DstID, rec.DstInstance, rec.Service, rec.Port = l.run.text, l.run.Instance, l.service, l.port
	if l.door != nil {
		rec.Gateway = l.run.label
	}
	if cs := cmp.Or(l.state, l.front); cs != nil {
		rec.TLSVersion, rec.TLSGroup, rec.TLSSuite = cs.Version, uint16(cs.CurveID), cs.CipherSuite
		rec.ALPN, rec.SNI = cs.NegotiatedProtocol, cs.ServerName
	}
	if l.state == nil {
		return
	}
	rec.PeerID, rec.PeerSerial = l.peerID, l.peer.Serial
	copy(rec.PeerFP[:], l.peer.Fingerprint[:16])
}

// bind gives the policy of this connection under v. A view with another trust judges the
// peer's certificate anew; false: it is not trusted any more.
func (l *link) bind(v *view, now time.Time) (*binding, bool) {
	was := l.bound.Load()
	if was != nil && was.v == v {
		return was, true
	}
	if was != nil && l.state != nil && was.v.Trust != v.Trust && !l.trusted(v, now) {
		return nil, false
	}
	b := &binding{v: v, bound: l.run.policy(v).Bind(policy.Conn{Peer: l.caller, Port: l.port, HTTP: true})}
	l.bound.Store(b)
	return b, true
}

// trusted asks whether the authority that vouched for the peer still stands. That the
// certificate ended since is no reason against what is under way (dataplane.md 12.6).
func (l *link) trusted(v *view, now time.Time) bool {
	if end := l.peer.NotAfter.Add(-time.Second); now.After(end) {
		now = end
	}
	_, err := identity.PeerOf(*l.state, v.Trust, now)
	return err == nil
}

// ended reports that nothing new may start: the peer's certificate is over.
func (l *link) ended(now time.Time) bool {
	return l.state != nil && !now.Before(l.peer.NotAfter)
}

// retiring reports that the SVID this connection was made with was renewed long enough ago
// that a caller who does not retire by itself is asked to (dataplane.md 12.3).
func (l *link) retiring(now time.Time) bool {
	if l.state == nil || l.door != nil { // a door's connections have an age of their own
		return false
	}
	own := l.run.Certificate()
	if own == nil || own.Generation == l.grown {
		return false
	}
	since := time.Unix(0, l.run.since.Load())
	return now.After(since.Add(own.margin() + l.jitter))
}

// recheck closes what a new view leaves no room for: plaintext on a port that has become
// STRICT, a peer whose authority has gone.
func (l *link) recheck(v *view) {
	switch {
	case l.tcp != nil: // nothing was proven to us
	case l.door != nil:
		switch {
		case !l.greeted.Load():
		case !l.admits(v):
			l.close()
		case l.outdated():
			l.retire()
		}
	case l.state == nil:
		if l.run.policy(v).Mode(l.port) == policy.Strict {
			l.close()
		}
	case l.bound.Load() != nil && l.bound.Load().v.Trust != v.Trust && !l.trusted(v, l.run.p.now()):
		l.close()
	}
}

func (l *link) close() {
	l.gone.Store(true)
	_ = l.conn.Close()
}

// expireAt closes the connection when the peer's certificate ends, unless an exchange runs:
// that goes on, and the connection ends with it.
func (l *link) expireAt(end time.Time, now time.Time) {
	l.expires = time.AfterFunc(end.Sub(now), func() {
		if l.active.Load() == 0 {
			l.close()
		}
	})
}

// links are the connections of a run: at most maxLinks, closed and waited for when it stops.
type links struct {
	mu       sync.Mutex // guards the rest; never held over I/O
	all      map[*link]struct{}
	unproven []*link // oldest first
	n        int     // connections and exchanges that are not over
	closed   bool
	empty    chan struct{} // closed once closed and n is 0
}

func (s *links) init() {
	s.all = map[*link]struct{}{}
	s.empty = make(chan struct{})
}

// add takes a connection in; false: there are too many, or the run has stopped.
func (s *links) add(l *link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.all) >= maxLinks {
		return false
	}
	s.all[l] = struct{}{}
	s.n++
	return true
}

func (s *links) remove(l *link) {
	if l.expires != nil {
		l.expires.Stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.all[l]; !ok {
		return
	}
	delete(s.all, l)
	if l.door != nil {
		l.door.unseat(l)
	}
	s.dropUnprovenLocked(l)
	s.leaveLocked()
}

// enter counts an exchange whose connection may be gone before it; false: the run has stopped.
func (s *links) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.n++
	return true
}

func (s *links) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked()
}

func (s *links) leaveLocked() {
	s.n--
	if s.closed && s.n == 0 {
		close(s.empty)
	}
}

// suspect holds a connection among those whose caller is not proven: at most 64 of a listener,
// each for 10 s; one more closes the oldest (dataplane.md 25.2).
func (s *links) suspect(l *link) {
	s.mu.Lock()
	s.unproven = append(s.unproven, l)
	var oldest *link
	if len(s.unproven) > maxUnproven {
		oldest, s.unproven = s.unproven[0], s.unproven[1:]
	}
	s.mu.Unlock()
	if oldest != nil {
		oldest.close()
	}
	l.expires = time.AfterFunc(unprovenTime, func() {
		if !l.proven.Load() {
			l.close()
		}
	})
}

func (s *links) trust(l *link) {
	l.proven.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropUnprovenLocked(l)
}

func (s *links) dropUnprovenLocked(l *link) {
	for i, other := range s.unproven {
		if other == l {
			s.unproven = append(s.unproven[:i], s.unproven[i+1:]...)
			return
		}
	}
}

func (s *links) each(f func(*link)) {
	s.mu.Lock()
	list := make([]*link, 0, len(s.all))
	for l := range s.all {
		list = append(list, l)
	}
	s.mu.Unlock()
	for _, l := range list {
		f(l)
	}
}

// close refuses what is new and ends what is there.
func (s *links) close() {
	s.mu.Lock()
	s.closed = true
	if s.n == 0 {
		close(s.empty)
	}
	s.mu.Unlock()
	s.each((*link).close)
}

func (s *links) wait() { <-s.empty }
