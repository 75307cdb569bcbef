package keyring

import (
	"context"
	"errors"
	"fmt"
)

// Rotate brings the next key in before its time and returns it: the one that waits, if there
// is one, else a new one. Without now it is published at once, and signs when it has been
// published long enough; with now it signs as soon as Known returns.
//
// With drop, for a key that fell into other hands, the next key is always a new one, one that
// waited is gone, and with the first signature of the new one the key that was active when
// Rotate was called is gone from the store, not retired. The caller revokes what it signed.
//
// Calls of one ring go one after the other. After an error the ring is whole: the schedule, or
// another call, goes on from there.
func (r *Ring) Rotate(ctx context.Context, now, drop bool) (Key, error) {
	key, err := r.rotate(ctx, now, drop)
	if err != nil {
		return Key{}, fmt.Errorf("rotating the keys of %q: %w", r.o.Prefix, err)
	}
	return key.public(), nil
}

func (r *Ring) rotate(ctx context.Context, now, drop bool) (*held, error) {
	if drop && !now {
		return nil, errors.New("the active key is dropped only when another takes its place now")
	}
	select {
	case r.rotating <- struct{}{}:
		defer func() { <-r.rotating }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for another rotation: %w", context.Cause(ctx))
	}
	p, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	var next, dropped string
	if drop {
		dropped = p.active.id
	}
	for { // from state to state, whoever else changes the ring meanwhile
		if next == "" && !drop && p.waiting != nil {
			next = p.waiting.id
		}
		k := p.find(next)
		switch {
		case next == "":
			next, err = r.prepare(ctx, p)
		case k == nil || k.State == Retired:
			return nil, errors.New("another rotation replaced the next key")
		case k.State == Prepared:
			err = r.write(ctx, p, move{k, Published})
		case k.State == Published && !now:
			return k, nil
		case k.State == Published:
			err = r.activate(ctx, p, k, dropped)
		case p.find(dropped) != nil: // the schedule was faster, and retired it
			err = r.write(ctx, p, move{p.find(dropped), Gone})
		default:
			return k, nil
		}
		if err != nil && !errors.Is(err, errChanged) {
			return nil, err
		}
		p = r.shown.Load()
	}
}
