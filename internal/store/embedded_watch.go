package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// replayWithin is how long a watcher may leave the replay of history unread; replayPoll is how
// often it is looked at meanwhile.
const (
	replayWithin = 30 * time.Second
	replayPoll   = 5 * time.Millisecond
)

// Watch implements Store.
func (e *Etcd) Watch(ctx context.Context, prefix string, after int64) (<-chan Batch, error) {
	if after < 0 {
		return nil, fmt.Errorf("%w: watching %q after revision %d", ErrInvalid, prefix, after)
	}
	if ctx.Err() != nil || !e.enter() {
		return nil, e.failed(ctx, "watching "+prefix, context.Canceled)
	}
	watching, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(e.life, cancel)
	w := &etcdWatch{e: e, prefix: prefix, after: after, replay: e.etcd.Server.KV().Rev(), out: make(chan Batch, WatchBuffer+1)}
	// WithFragment is never set: a revision arrives whole (registry.md 2).
	in := e.client.Watch(watching, e.prefix+prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1), clientv3.WithProgressNotify())
	go func() {
		defer e.leave()
		defer stop()
		defer cancel()
		w.pump(watching, in)
	}()
	return w.out, nil
}

// etcdWatch hands on what etcd's watch gives, a revision a batch.
type etcdWatch struct {
	e      *Etcd
	prefix string
	after  int64
	replay int64      // up to this revision it is history: the watcher is waited for
	out    chan Batch // has one place more than may be used: the last batch always fits
}

func (w *etcdWatch) pump(ctx context.Context, in clientv3.WatchChan) {
	defer close(w.out)
	for r := range in {
		switch err := r.Err(); {
		case r.CompactRevision != 0:
			w.last(r.CompactRevision, fmt.Errorf("watching %q after revision %d: %w", w.prefix, w.after, ErrCompacted))
			return
		case err != nil && ctx.Err() == nil:
			w.last(0, w.e.failed(ctx, "watching "+w.prefix, err))
			return
		case r.IsProgressNotify():
			if len(w.out) == 0 {
				w.out <- Batch{Rev: r.Header.Revision}
			}
			continue
		}
		for _, b := range w.split(r.Events) {
			if err := w.send(ctx, b); err != nil {
				if errors.Is(err, ErrSlow) {
					w.last(b.Rev-1, err)
				}
				return
			}
		}
	}
	if w.e.life.Err() != nil {
		w.last(0, w.e.failed(ctx, "watching "+w.prefix, w.e.life.Err()))
	}
}

// split makes one batch of each revision.
func (w *etcdWatch) split(events []*clientv3.Event) (batches []Batch) {
	for _, event := range events {
		kv := w.e.kv(event.Kv)
		deleted := event.Type == clientv3.EventTypeDelete
		if deleted {
			kv = KV{Key: kv.Key, Mod: kv.Mod}
		}
		if n := len(batches); n == 0 || batches[n-1].Rev != kv.Mod {
			batches = append(batches, Batch{Rev: kv.Mod})
		}
		b := &batches[len(batches)-1]
		b.Events = append(b.Events, Event{Deleted: deleted, KV: kv})
	}
	return batches
}

// send hands one batch on. Live batches never wait; history waits, but not for ever. It polls,
// because a blocked send would take the place kept for the last batch.
func (w *etcdWatch) send(ctx context.Context, b Batch) error {
	for waited := time.Duration(0); len(w.out) >= WatchBuffer; waited += replayPoll {
		if b.Rev > w.replay || waited >= replayWithin {
			return fmt.Errorf("watching %q: %w", w.prefix, ErrSlow)
		}
		select {
		case <-time.After(replayPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.out <- b
	return nil
}

// last sends the batch that ends the watch: its place was kept.
func (w *etcdWatch) last(rev int64, err error) { w.out <- Batch{Rev: rev, Err: err} }

// etcdLease keeps one lease of etcd alive.
type etcdLease struct {
	e    *Etcd
	id   clientv3.LeaseID
	done chan struct{}
	stop context.CancelFunc
}

// Lease implements Store.
func (e *Etcd) Lease(ctx context.Context, ttl time.Duration) (Lease, error) {
	seconds := max(int64((ttl+time.Second-1)/time.Second), int64(leaseFloor/time.Second))
	asking, done, err := e.call(ctx, "making a lease")
	if err != nil {
		return nil, err
	}
	defer done()
	sent := time.Now()
	r, err := e.client.Grant(asking, seconds)
	if err != nil {
		return nil, e.failed(asking, "making a lease", err)
	}
	granted := time.Duration(r.TTL) * time.Second
	if granted > ttl {
		e.log.InfoContext(ctx, "lease is longer than asked", "asked", ttl, "ttl", granted)
	}
	if !e.enter() {
		return nil, e.failed(ctx, "making a lease", context.Canceled)
	}
	living, stop := context.WithCancel(ctx)
	l := &etcdLease{e: e, id: r.ID, done: make(chan struct{}), stop: stop}
	unhook := context.AfterFunc(e.life, stop)
	go func() {
		defer e.leave()
		defer unhook()
		defer stop()
		defer close(l.done)
		l.keep(living, granted, sent.Add(granted))
	}()
	return l, nil
}

// keep sends a keep-alive each third of the ttl until ctx ends, the lease is gone, or until may
// have come: ttl after the last successful keep-alive was sent.
func (l *etcdLease) keep(ctx context.Context, ttl time.Duration, until time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(ttl/3, time.Until(until))):
		}
		sent := time.Now()
		if !sent.Before(until) {
			return
		}
		asking, cancel := context.WithDeadline(ctx, until)
		_, err := l.e.client.KeepAliveOnce(asking, l.id)
		cancel()
		switch {
		case err == nil:
			until = sent.Add(ttl)
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			return
		}
	}
}

func (l *etcdLease) ID() int64             { return int64(l.id) }
func (l *etcdLease) Done() <-chan struct{} { return l.done }

func (l *etcdLease) End(ctx context.Context) error {
	l.stop()
	ctx, done, err := l.e.call(ctx, "ending a lease")
	if err != nil {
		return err
	}
	defer done()
	_, err = l.e.client.Revoke(ctx, l.id)
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return l.e.failed(ctx, "ending a lease", err)
	}
	return nil
}
