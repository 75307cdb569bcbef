package keyring

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"countersign.dev/internal/store"
)

const (
	// tick is how often the wall clock is looked at: Go's timers stand still while a machine
	// sleeps, the schedule does not.
	tick     = time.Minute
	maxRetry = time.Minute
)

// Run follows what other servers do to the ring and keeps its schedule, until ctx ends or the
// store holds what is not this ring (ErrKey): then nothing should be signed any more. Every
// step that is due is made, one after the other, however late; one that fails is tried again.
func (r *Ring) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	var following sync.WaitGroup
	following.Go(func() { stop(r.follow(ctx)) })
	r.keep(ctx)
	following.Wait()
	return context.Cause(ctx)
}

// follow shows the ring as the store has it.
func (r *Ring) follow(ctx context.Context) error {
	values := map[string]store.KV{}
	show := func(rev int64) error {
		p, err := r.parse(slices.Collect(maps.Values(values)), rev)
		if err != nil {
			return fmt.Errorf("following the keys of %q: %w", r.o.Prefix, err)
		}
		r.show(p)
		return nil
	}
	reset := func(kvs []store.KV, rev int64) error {
		clear(values)
		for _, kv := range kvs {
			values[kv.Key] = kv
		}
		return show(rev)
	}
	apply := func(b store.Batch) error {
		for _, e := range b.Events {
			if e.Deleted {
				delete(values, e.KV.Key)
			} else {
				values[e.KV.Key] = e.KV
			}
		}
		if len(b.Events) == 0 {
			return nil
		}
		return show(b.Rev)
	}
	return store.Follow(ctx, r.o.Store, r.o.Prefix, reset, apply)
}

// keep makes the steps of the schedule when they are due.
func (r *Ring) keep(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		p := r.shown.Load()
		s := r.next(p)
		wait := min(s.at.Sub(r.o.Now()), tick)
		if wait <= 0 {
			err := r.take(ctx, p, s)
			if err == nil || errors.Is(err, errChanged) {
				failures = 0
				continue
			}
			wait = min(time.Second<<min(failures, 6), maxRetry)
			failures++
			r.complain(ctx, s, err, wait)
		}
		select {
		case <-ctx.Done():
		case <-r.changed:
		case <-time.After(wait):
		}
	}
}

func (r *Ring) complain(ctx context.Context, s step, err error, wait time.Duration) {
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, ErrFence): // as it should be, of all servers but one
		r.o.Log.Debug("a step of a signing key is another server's", "ring", r.o.Prefix, "to", s.to)
	default:
		r.o.Log.Error("a step of a signing key failed", "ring", r.o.Prefix, "to", s.to, "error", err, "due", s.at, "next_try", wait)
	}
}
