package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/store"
)

// cutShort is how old a prepared key is that nobody publishes any more: who prepares one goes
// on to publish it, and is not to be disturbed.
const cutShort = time.Minute

// errChanged: another one changed the ring first. What it is now was loaded and is shown.
var errChanged = errors.New("the keys changed meanwhile")

// move takes a key to a state.
type move struct {
	key *held
	to  State
}

// step is a move of the schedule.
type step struct {
	at time.Time
	move
}

// next is the step that comes next, and when. Its key is nil if it is still to be made.
func (r *Ring) next(p *picture) step {
	var s step
	switch w := p.waiting; {
	case w == nil:
		s = step{p.active.Activated.Add(r.o.Period - r.o.Publish), move{nil, Prepared}}
	case w.State == Prepared:
		s = step{w.Created.Add(cutShort), move{w, Published}}
	default:
		s = step{w.Published.Add(r.o.Publish), move{w, Active}}
	}
	for _, k := range p.keys {
		if at := k.Retired.Add(r.o.Retire); k.State == Retired && at.Before(s.at) {
			s = step{at, move{k, Gone}}
		}
	}
	return s
}

// take makes a step of the schedule from p. What changes who signs, or what is known, waits
// until the step before it is known everywhere.
func (r *Ring) take(ctx context.Context, p *picture, s step) error {
	switch s.to {
	case Prepared:
		id, err := r.prepare(ctx, p)
		if err != nil {
			return err
		}
		p = r.shown.Load()
		s.move = move{p.find(id), Published}
		if s.key == nil || s.key.State != Prepared {
			return errChanged
		}
	case Active:
		return r.activate(ctx, p, s.key, "")
	case Gone:
		if err := r.known(ctx); err != nil {
			return err
		}
	}
	return r.write(ctx, p, s.move)
}

// prepare makes a key that takes the place of one that waits; no id, no key.
func (r *Ring) prepare(ctx context.Context, p *picture) (id string, err error) {
	key, err := r.newKey()
	if err != nil {
		return "", err
	}
	moves := []move{{key, Prepared}}
	if p.waiting != nil {
		moves = append(moves, move{p.waiting, Gone})
	}
	if err := r.write(ctx, p, moves...); err != nil {
		return "", err
	}
	return key.id, nil
}

// activate lets k sign in place of the active key once k is known; dropped is the id of a key
// that goes with that, "" for none.
func (r *Ring) activate(ctx context.Context, p *picture, k *held, dropped string) error {
	if err := r.known(ctx); err != nil {
		return err
	}
	moves := []move{{k, Active}}
	if p.active.id != dropped {
		moves = append(moves, move{p.active, Retired})
	}
	if old := p.find(dropped); old != nil {
		moves = append(moves, move{old, Gone})
	}
	return r.write(ctx, p, moves...)
}

func (r *Ring) known(ctx context.Context) error {
	if err := r.o.Known(ctx); err != nil {
		return fmt.Errorf("waiting until the step before is known: %w", err)
	}
	return nil
}

// write makes moves from p in one transaction: all of them, each recorded before, or none.
// Every change of a ring writes its active key, if only as it was: two changes never mix, not
// even of keys that neither knows of. The comparisons are tried before anything is recorded: a
// server that does not hold the fence should not fill the log.
func (r *Ring) write(ctx context.Context, p *picture, moves ...move) error {
	txn, err := r.transaction(p, moves)
	if err != nil {
		return err
	}
	if _, err := r.o.Store.Commit(ctx, store.Txn{If: txn.If}); err != nil {
		return r.refused(ctx, p, err)
	}
	for _, m := range moves {
		if err := r.o.Record(ctx, m.key.public(), m.to); err != nil {
			return fmt.Errorf("recording that key %q goes to %q: %w", m.key.id, m.to, err)
		}
	}
	if _, err := r.o.Store.Commit(ctx, txn); err != nil {
		return r.refused(ctx, p, err)
	}
	for _, m := range moves {
		r.o.Log.Info("signing key", "ring", r.o.Prefix, "key", m.key.id, "state", m.to)
	}
	_, err = r.load(ctx)
	return err
}

func (r *Ring) transaction(p *picture, moves []move) (store.Txn, error) {
	now := r.o.Now().UTC()
	txn := store.Txn{If: slices.Clone(r.o.Fence())}
	if p.active == nil { // an empty store: whoever makes this key makes the ring
		txn.If = append(txn.If, store.Absent(r.mark()))
		txn.Then = append(txn.Then, store.Put(r.mark(), []byte(`{"v":1}`)))
	} else if !slices.ContainsFunc(moves, func(m move) bool { return m.key == p.active }) {
		moves = append(slices.Clip(moves), move{p.active, Active})
	}
	for _, m := range moves {
		txn.If = append(txn.If, store.ModIs(m.key.path, m.key.mod))
		if m.to == Gone {
			txn.Then = append(txn.Then, store.Delete(m.key.path))
			continue
		}
		value, err := json.Marshal(m.key.in(m.to, now))
		if err != nil {
			return txn, fmt.Errorf("encoding key %q: %w", m.key.id, err)
		}
		txn.Then = append(txn.Then, store.Put(m.key.path, value))
	}
	return txn, nil
}

// mark is the key in the store that says that the ring was made, once.
func (r *Ring) mark() string { return strings.TrimSuffix(r.o.Prefix, "/") }

// refused says why a transaction from p was not done.
func (r *Ring) refused(ctx context.Context, p *picture, err error) error {
	if !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("writing the keys: %w", err)
	}
	switch q, err := r.load(ctx); {
	case err != nil:
		return err
	case !p.same(q):
		return errChanged
	case p.active != nil:
		return ErrFence
	}
	switch _, err := r.o.Store.Get(ctx, r.mark()); {
	case err == nil:
		return fmt.Errorf("%w: the store says by %q that there were keys, and holds none", ErrKey, r.mark())
	case errors.Is(err, store.ErrNotFound):
		return ErrFence
	default:
		return fmt.Errorf("reading %q: %w", r.mark(), err)
	}
}
