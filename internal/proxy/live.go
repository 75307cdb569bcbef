package proxy

import (
	"net/http"
	"sync"
	"time"
)

// Why an exchange was cut, as its record says.
var (
	cutPolicy  = "policy_changed"
	cutStopped = "workload_stopped"
)

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

// recheck decides every exchange under way by v and cuts what it denies.
func (s *live) recheck(v *view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := s.first; x != nil; x = x.next {
		if !x.allowedBy(v) {
			x.breakOff(&cutPolicy)
		}
	}
}

func (s *live) cutAll(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for x := s.first; x != nil; x = x.next {
		x.breakOff(&why)
	}
}

// breakOff ends a listed exchange from outside, without waiting for anybody: what it still
// may answer it answers itself, what it is in the middle of fails.
func (x *exchange) breakOff(why *string) {
	if !x.cut.CompareAndSwap(nil, why) {
		return
	}
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
	if d, ok := x.w.(deadlines); ok && x.begun.Load() {
		_ = d.SetWriteDeadline(time.Unix(1, 0))
	}
}

// deadlines are those of a connection, or of a stream in HTTP/2. Both of net/http's response
// writers have them.
type deadlines interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}
