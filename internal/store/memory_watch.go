package store

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// memWatch is one watch of a Mem. Its channel is sent to and closed under Mem.mu only.
type memWatch struct {
	m      *Mem
	prefix string
	out    chan Batch // has one place more than may be used: the last batch always fits
	cut    chan struct{}
}

// Watch implements Store.
func (m *Mem) Watch(ctx context.Context, prefix string, after int64) (<-chan Batch, error) {
	if after < 0 {
		return nil, fmt.Errorf("%w: watching %q after revision %d", ErrInvalid, prefix, after)
	}
	unlock, err := m.lock(ctx, "watching "+prefix)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if m.horizon > 1 && after < m.horizon {
		out := make(chan Batch, 1)
		out <- Batch{Rev: m.horizon, Err: fmt.Errorf("watching %q after revision %d: %w", prefix, after, ErrCompacted)}
		close(out)
		return out, nil
	}
	var missed []Batch
	for _, b := range m.history {
		if b = b.below(prefix); b.Rev > after && len(b.Events) > 0 {
			missed = append(missed, b)
		}
	}
	w := &memWatch{m: m, prefix: prefix, out: make(chan Batch, len(missed)+WatchBuffer+1), cut: make(chan struct{})}
	for _, b := range missed {
		w.out <- b
	}
	m.watchers[w] = true
	m.waiting.Go(func() { w.wait(ctx) })
	return w.out, nil
}

// wait gives progress marks until the watch ends.
func (w *memWatch) wait(ctx context.Context) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.m.mu.Lock()
			if w.m.watchers[w] && len(w.out) == 0 {
				w.out <- Batch{Rev: w.m.rev}
			}
			w.m.mu.Unlock()
			continue
		case <-w.cut:
		case <-ctx.Done():
			w.m.mu.Lock()
			w.endLocked(nil)
			w.m.mu.Unlock()
		case <-w.m.closed:
			w.m.mu.Lock()
			w.endLocked(fmt.Errorf("watching %q: %w: closed", w.prefix, ErrUnavailable))
			w.m.mu.Unlock()
		}
		return
	}
}

func (w *memWatch) sendLocked(b Batch) {
	if b = b.below(w.prefix); len(b.Events) == 0 {
		return
	}
	if len(w.out) >= cap(w.out)-1 {
		w.endLocked(fmt.Errorf("watching %q: %w", w.prefix, ErrSlow))
		return
	}
	w.out <- b
}

// endLocked closes the watch, with err as its last batch.
func (w *memWatch) endLocked(err error) {
	if !w.m.watchers[w] {
		return
	}
	delete(w.m.watchers, w)
	if err != nil {
		w.out <- Batch{Rev: w.m.rev, Err: err}
	}
	close(w.out)
	close(w.cut)
}

// below is the part of b under prefix, its values copied.
func (b Batch) below(prefix string) Batch {
	part := Batch{Rev: b.Rev}
	for _, e := range b.Events {
		if strings.HasPrefix(e.KV.Key, prefix) {
			part.Events = append(part.Events, Event{Deleted: e.Deleted, KV: e.KV.clone()})
		}
	}
	return part
}

// memLease is a lease of a Mem; its fields are guarded by Mem.mu.
type memLease struct {
	m     *Mem
	id    int64
	keys  map[string]bool
	done  chan struct{}
	ended sync.Once
	timer *time.Timer // runs once ctx has ended
	stop  func() bool // of the wait for ctx
}

// Lease implements Store. A lease is kept alive by itself while ctx lives; when ctx ends, Done
// closes at once and the keys go a ttl later.
func (m *Mem) Lease(ctx context.Context, ttl time.Duration) (Lease, error) {
	unlock, err := m.lock(ctx, "making a lease")
	if err != nil {
		return nil, err
	}
	defer unlock()
	ttl = max(ttl, leaseFloor)
	m.lastID++
	l := &memLease{m: m, id: m.lastID, keys: map[string]bool{}, done: make(chan struct{})}
	m.leases[l.id] = l
	l.stop = context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		l.endLocked()
		if m.leases[l.id] == l && !m.stopped {
			l.timer = time.AfterFunc(ttl, func() { m.Expire(l.id) })
		}
	})
	return l, nil
}

// Expire ends a lease as if its holder had been cut off: Done closes and its keys go.
func (m *Mem) Expire(id int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.leases[id]
	if l == nil || m.stopped {
		return
	}
	l.endLocked()
	var events []Event
	for _, key := range m.sortedLocked("") {
		if l.keys[key] {
			events = append(events, m.deleteLocked(key))
		}
	}
	delete(m.leases, id)
	m.publishLocked(events)
}

func (l *memLease) endLocked() {
	l.ended.Do(func() {
		close(l.done)
		l.stop()
	})
	if l.timer != nil {
		l.timer.Stop()
	}
}

func (l *memLease) ID() int64             { return l.id }
func (l *memLease) Done() <-chan struct{} { return l.done }

func (l *memLease) End(ctx context.Context) error {
	unlock, err := l.m.lock(ctx, "ending a lease")
	if err != nil {
		return err
	}
	unlock()
	l.m.Expire(l.id)
	return nil
}
