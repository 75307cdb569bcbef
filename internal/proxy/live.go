package proxy

import (
	"net/http"
	"sync"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/policy"
)

// Why an exchange was cut, as its record says.
const (
	cutPolicy  = "policy_changed"
	cutRevoked = "revoked"
	cutToken   = "token_revoked"
	cutStopped = "workload_stopped"
	cutRoute   = "route_changed"
	cutIdle    = "idle"
)

// cut is the end of an exchange from outside.
type cut struct {
	why     string
	verdict policy.Verdict // where policy has changed: the one that denies it now
	rev     [32]byte       // and the revision that says so
}

// judge decides a running exchange anew: nil, or its end.
func (x *exchange) judge(v *view) *cut {
	if x.rec.Side == audit.SideClient {
		if x.place != nil || v.AllowAny { // what is in the mesh the callee's side decides
			return nil
		}
		return &cut{why: cutPolicy, verdict: policy.Verdict{Rule: -1}, rev: v.PolicyRevision}
	}
	ask := x.ask
	if x.key != nil {
		token, c := x.judgeKey(v)
		if c != nil {
			return c
		}
		ask.Token = token
	}
	if x.link.door != nil {
		if c := x.judgeEntry(v); c != nil {
			return c
		}
	}
	b, ok := x.link.bind(v, x.now)
	if !ok {
		return &cut{why: cutRevoked, rev: v.PolicyRevision}
	}
	if ask.Header == nil && b.bound.ReadsHeader() {
		// The policy that let it begin looked at no header, and none was kept for one that does.
		return &cut{why: cutPolicy, verdict: policy.Verdict{Rule: -1}, rev: v.PolicyRevision}
	}
	verdict := b.bound.Decide(&ask)
	if verdict.Allow {
		return x.withdrawn(v)
	}
	return &cut{why: cutPolicy, verdict: verdict, rev: v.PolicyRevision}
}

// redecided puts the decision that ended the exchange in place of the one that let it begin.
func (x *exchange) redecided(c *cut) {
	rec := &x.rec
	switch c.why {
	case cutPolicy:
		rec.Layer, rec.Reason = audit.LayerAuthz, cutPolicy
		rec.Policy, rec.Rule, rec.Rev = c.verdict.Policy, c.verdict.Rule+1, c.rev
	case cutRoute:
		rec.Layer, rec.Reason, rec.Policy, rec.Rule = audit.LayerRoute, refuseBackend.reason, "", 0
	case cutToken:
		rec.Layer, rec.Reason = audit.LayerToken, "revoked"
		rec.Policy, rec.Rule, rec.Rev = "", 0, c.rev
	case cutRevoked:
		rec.Layer, rec.Reason = audit.LayerTLS, cutRevoked
		rec.Policy, rec.Rule, rec.Rev = "", 0, c.rev
	}
}

// refusedBy is the answer to an exchange that was cut before any other.
func (x *exchange) refusedBy(c *cut) *refused {
	x.redecided(c)
	switch c.why {
	case cutPolicy:
		return refuseChanged
	case cutRoute:
		return refuseBackend
	case cutToken:
		if x.key != nil {
			return refuseKeyEnded
		}
		return refusedToken(x.rules.Revoked())
	case cutRevoked:
		return refuseRevoked
	}
	return refuseDraining
}

// live are the exchanges of a run that are being forwarded. One list under one lock: an
// exchange is in it for one append and one unlink, a sweep is done at revisions only.
type live struct {
	mu     sync.Mutex // guards the list; held for a whole sweep, so that no exchange ends under it
	first  *exchange
	n      int
	closed bool
}

func (s *live) add(x *exchange) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	x.next = s.first
	if s.first != nil {
		s.first.prev = x
	}
	s.first, x.listed = x, true
	s.n++
	return true
}

func (s *live) remove(x *exchange) {
	if !x.listed {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.prev != nil {
		x.prev.next = x.next
	} else {
		s.first = x.next
	}
	if x.next != nil {
		x.next.prev = x.prev
	}
	x.next, x.prev, x.listed = nil, nil, false
	s.n--
}

// attach gives a listed exchange that became a tunnel the way to break it; one that was cut
// before is broken now.
func (s *live) attach(x *exchange, snap func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.snap = snap
	if x.cut.Load() != nil {
		snap()
	}
}

func (s *live) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// sweep judges every exchange under way and cuts those whose end it is.
func (s *live) sweep(judge func(*exchange) *cut) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := s.first; x != nil; x = x.next {
		if c := judge(x); c != nil {
			x.breakOff(c)
		}
	}
}

func (s *live) cutAll(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for x := s.first; x != nil; x = x.next {
		x.breakOff(&cut{why: why})
	}
}

// breakOff ends a listed exchange from outside, without waiting for anybody: what it still
// may answer it answers itself, what it is in the middle of fails.
func (x *exchange) breakOff(c *cut) {
	if !x.cut.CompareAndSwap(nil, c) {
		return
	}
	begun := x.begun.Load() // before what follows lets it answer that it was cut
	if cancel := x.cancel.Load(); cancel != nil {
		(*cancel)()
	}
	if w := x.wire.Swap(nil); w != nil {
		w.close()
	}
	if x.snap != nil {
		x.snap()
		return
	}
	if x.r.Body != http.NoBody {
		x.body.leave(x.w)
	}
	if d, ok := x.w.(deadlines); ok && begun {
		at := time.Unix(1, 0)
		if c.gentle(x) {
			at = time.Now().Add(gentleTime)
		}
		_ = d.SetWriteDeadline(at)
	}
}

// gentle reports a cut that is told in a trailer: gRPC has a status for tokens (tokens.md 13).
func (c *cut) gentle(x *exchange) bool { return c != nil && c.why == cutToken && x.grpc && x.h2 }

// gentleTime is what a caller has to take that trailer.
const gentleTime = time.Second

// deadlines are those of a connection, or of a stream in HTTP/2. Both of net/http's response
// writers have them.
type deadlines interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}
