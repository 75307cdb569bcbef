package audit

import (
	"context"
	"sync"
)

const tapBuffer = 1024 // records that a slow reader of a tap may be behind

// Tapped is a record seen by a tap.
type Tapped struct {
	Record  *Record // must not be changed
	Dropped uint64  // how many were dropped before it because the reader was too slow
}

type tap struct {
	keep    func(*Record) bool
	c       chan Tapped
	dropped uint64
}

// taps are the live views. Its lock is held while one batch is shown.
type taps struct {
	mu     sync.Mutex
	all    map[*tap]bool
	closed bool
}

// Tap shows the records that keep takes, from now on, in the order they are written, until ctx
// or the recorder ends; then the channel is closed. A reader that is slow loses records, not the
// recorder its time. keep must be quick and must not use the recorder; nil takes all.
func (r *Recorder) Tap(ctx context.Context, keep func(*Record) bool) <-chan Tapped {
	t := &tap{keep: keep, c: make(chan Tapped, tapBuffer)}
	r.taps.mu.Lock()
	defer r.taps.mu.Unlock()
	if r.taps.closed {
		close(t.c)
		return t.c
	}
	if r.taps.all == nil {
		r.taps.all = map[*tap]bool{}
	}
	r.taps.all[t] = true
	context.AfterFunc(ctx, func() {
		r.taps.mu.Lock()
		defer r.taps.mu.Unlock()
		r.taps.endLocked(t)
	})
	return t.c
}

func (ts *taps) endLocked(t *tap) {
	if ts.all[t] {
		delete(ts.all, t)
		close(t.c)
	}
}

func (ts *taps) close() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.closed = true
	for t := range ts.all {
		ts.endLocked(t)
	}
}

// offer shows records to all taps and gives those that nobody holds back to be used again.
func (ts *taps) offer(records []*Record, reuse func(any)) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, rec := range records {
		held := rec.Refused() // by the refusals in memory
		for t := range ts.all {
			if t.keep != nil && !t.keep(rec) {
				continue
			}
			select {
			case t.c <- Tapped{rec, t.dropped}:
				t.dropped = 0
				held = true
			default:
				t.dropped++
			}
		}
		if !held {
			reuse(rec)
		}
	}
}
