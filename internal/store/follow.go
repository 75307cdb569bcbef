package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	followFirstWait = 50 * time.Millisecond
	followLongest   = 5 * time.Second
)

// Follow keeps a caller's picture of a prefix equal to the store's until ctx ends: reset is
// called with everything at one revision, then apply with each later batch in order (one
// without events is a progress mark). When the watch breaks (compacted, slow, unavailable) it
// lists again and calls reset again: reset must publish the difference as one change, so that
// no reader ever sees an empty moment (registry.md 8). An error of reset or apply ends it.
// Follow owns no goroutine; the two functions are never called at once.
func Follow(ctx context.Context, st Store, prefix string, reset func(kvs []KV, rev int64) error, apply func(Batch) error) error {
	wait := followFirstWait
	for {
		moved, err := followOnce(ctx, st, prefix, reset, apply)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if moved {
			wait = followFirstWait // it worked for a while: no punishment
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, followLongest)
	}
}

// followOnce lists and watches until the watch breaks; moved says that a batch was applied, err
// ends Follow.
func followOnce(ctx context.Context, st Store, prefix string, reset func([]KV, int64) error, apply func(Batch) error) (moved bool, err error) {
	ctx, cancel := context.WithCancel(ctx) // an error of apply must end the watch
	defer cancel()
	kvs, rev, err := st.List(ctx, prefix)
	if err != nil {
		return false, unlessBroken(err)
	}
	if err := reset(kvs, rev); err != nil {
		return false, err
	}
	batches, err := st.Watch(ctx, prefix, rev)
	if err != nil {
		return false, unlessBroken(err)
	}
	for b := range batches {
		if b.Err != nil {
			return moved, unlessBroken(b.Err)
		}
		if err := apply(b); err != nil {
			return moved, err
		}
		moved = true
	}
	return moved, nil
}

// unlessBroken drops the errors that listing again mends.
func unlessBroken(err error) error {
	if errors.Is(err, ErrCompacted) || errors.Is(err, ErrSlow) || errors.Is(err, ErrUnavailable) {
		return nil
	}
	return err
}
