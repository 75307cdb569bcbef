package proxy

import (
	"cmp"
	"sync/atomic"
	"time"
)

// idle is how long a stream may be without a byte, as its rule says; 0: it says nothing.
func (x *exchange) idle() time.Duration {
	if s := x.entry.settings; s != nil {
		return s.Idle
	}
	return 0
}

// streamWatch ends an answer at a door that no rate is asked of, gRPC or an event stream, when nothing came of it for
// too long. nil watches nothing.
type streamWatch struct {
	x     *exchange
	bytes atomic.Int64
	timer *time.Timer
	over  bool // under the lock of live: the exchange is somebody else's now
}

func (x *exchange) watchStream() *streamWatch {
	w, most, live := &streamWatch{x: x}, cmp.Or(x.idle(), tunnelIdle), &x.run.live
	live.mu.Lock()
	defer live.mu.Unlock()
	last := x.reqBytes.Load()
	w.timer = time.AfterFunc(most, func() {
		live.mu.Lock()
		defer live.mu.Unlock()
		switch seen := w.bytes.Load() + x.reqBytes.Load(); {
		case w.over:
		case seen != last:
			last = seen
			w.timer.Reset(most)
		default:
			x.breakOff(&cut{why: cutIdle})
		}
	})
	return w
}

func (w *streamWatch) moved() {
	if w != nil {
		w.bytes.Add(1)
	}
}

func (w *streamWatch) end() {
	w.timer.Stop()
	live := &w.x.run.live
	live.mu.Lock()
	defer live.mu.Unlock()
	w.over = true
}
