package jwks

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"countersign.dev/internal/store"
)

const (
	// tick is how often the wall clock is looked at: Go's timers stand still while a machine sleeps.
	tick       = 30 * time.Second
	sweepEvery = time.Hour
	atOnce     = 8 // retrievals
)

// Options are what a Keeper is made of.
type Options struct {
	Store store.Store
	Allow []netip.Prefix   // token.fetchAllow: networks that may be called although blocked, over http too
	Roots *x509.CertPool   // token.fetchRoots and the system's; nil: the system's
	Now   func() time.Time // nil: time.Now
	Log   *slog.Logger     // nil: none
}

// Keeper keeps the records of the sources that are wanted. Several servers may each run one on
// the same store: who writes that it tries, tries.
type Keeper struct {
	opt     Options
	client  *client
	wake    chan struct{}
	slots   chan struct{} // one for each retrieval under way
	flights sync.WaitGroup

	mu     sync.Mutex // guards wanted and what it points to, for a moment
	wanted map[string]*wish
}

// wish is one wanted source, as this server last saw it.
type wish struct {
	source Source
	due    time.Time // when its record is to be looked at; zero: now
	tried  time.Time
	missed bool // a token named a key that the set does not have
	busy   bool
	failed string
}

// NewKeeper prepares a Keeper; Run makes it work.
func NewKeeper(o Options) *Keeper {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{
		opt: o, client: newClient(o.Allow, o.Roots), wake: make(chan struct{}, 1),
		slots: make(chan struct{}, atOnce), wanted: map[string]*wish{},
	}
}

// Want says which sources are needed from now on, all of them. Of several timeouts of one
// source the longest counts.
func (k *Keeper) Want(sources []Source) {
	wanted := make(map[string]*wish, len(sources))
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range sources {
		key := s.Key()
		w := wanted[key]
		if w == nil {
			if w = k.wanted[key]; w == nil {
				w = &wish{}
			}
			w.source = s
			wanted[key] = w
		}
		w.source.Timeout = max(w.source.limit(), s.limit())
	}
	k.wanted = wanted
	k.nudge()
}

// Miss says that a token of the source named a key which its set does not have. It never waits,
// and causes a retrieval if the fleet made none in the last 30 seconds.
func (k *Keeper) Miss(s Source) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.wanted[s.Key()]
	if w == nil || w.missed || k.opt.Now().Before(w.tried.Add(missEvery)) {
		return
	}
	w.missed = true
	k.nudge()
}

func (k *Keeper) nudge() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run retrieves what is due until ctx ends, and waits for what is under way.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.flights.Wait()
	var sweep time.Time
	for {
		wait := k.begin(ctx)
		if now := k.opt.Now(); !now.Before(sweep) {
			if err := k.drop(ctx, now); err != nil && ctx.Err() == nil {
				k.opt.Log.Warn("dropping unused key sets", "error", err)
			}
			sweep = now.Add(sweepEvery)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-k.wake:
		case <-time.After(wait):
		}
	}
}

// begin starts all that is due and returns how long nothing else will be.
func (k *Keeper) begin(ctx context.Context) (wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	wait, now := tick, k.opt.Now()
	for _, w := range k.wanted {
		switch {
		case w.busy:
		case w.missed || !now.Before(w.due):
			w.busy = true
			source, missed := w.source, w.missed
			k.flights.Go(func() { k.turn(ctx, w, source, missed) })
		default:
			wait = min(wait, w.due.Sub(now))
		}
	}
	return wait
}

// turn visits one source and notes what it found.
func (k *Keeper) turn(ctx context.Context, w *wish, s Source, missed bool) {
	select {
	case <-ctx.Done():
		return
	case k.slots <- struct{}{}:
	}
	kept, err := k.visit(ctx, s, missed)
	<-k.slots

	k.mu.Lock()
	defer k.mu.Unlock()
	w.busy, w.missed = false, false
	w.due, w.tried = kept.due(), kept.Tried
	now, failed := k.opt.Now(), kept.Error
	if err != nil {
		w.due, failed = now.Add(afterFail), err.Error()
	}
	if ctx.Err() == nil && failed != w.failed { // once, not every minute
		if failed == "" {
			k.opt.Log.Info("key set retrieved again", "source", s.name())
		} else {
			k.opt.Log.Warn("retrieving a key set", "source", s.name(), "error", failed, "usable", now.Before(kept.Until))
		}
		w.failed = failed
	}
	k.nudge()
}

// visit looks at the record of a source and retrieves the set if that is due. Who wins the
// write of the attempt makes it: so it is one retrieval in the whole fleet.
func (k *Keeper) visit(ctx context.Context, s Source, missed bool) (Kept, error) {
	kept, mod, err := k.read(ctx, s)
	if err != nil {
		return kept, err
	}
	now := k.opt.Now().UTC()
	switch {
	case mod == 0 || kept.Tried.After(now.Add(everyMax)): // none yet, or from a clock gone wrong
	case missed && !now.Before(kept.Tried.Add(missEvery)):
	case now.Before(kept.due()):
		return kept, nil
	}
	kept.Tried = now
	if mod, err = k.write(ctx, kept, mod); errors.Is(err, store.ErrConflict) {
		return kept, nil // another server is at it: look again in a minute
	} else if err != nil {
		return kept, err
	}
	set, again, err := k.client.keys(ctx, s)
	if ctx.Err() != nil {
		return kept, context.Cause(ctx)
	}
	if err != nil {
		kept.Error = err.Error()
	} else {
		kept.JWKS, kept.Fetched, kept.Until, kept.again, kept.Error = set, now, now.Add(lastGood), again, ""
	}
	if _, err := k.write(ctx, kept, mod); err != nil {
		return kept, err
	}
	return kept, nil
}

// read returns the record of a source and its revision, 0 if there is none. One that cannot be
// read is as none, but for the revision: it will be written over.
func (k *Keeper) read(ctx context.Context, s Source) (Kept, int64, error) {
	none := Kept{Source: s}
	kv, err := k.opt.Store.Get(ctx, s.Key())
	if errors.Is(err, store.ErrNotFound) {
		return none, 0, nil
	}
	if err != nil {
		return none, 0, fmt.Errorf("reading the record: %w", err)
	}
	kept, err := Decode(kv)
	if err != nil {
		return none, kv.Mod, nil
	}
	return kept, kv.Mod, nil
}

// write replaces the record if it is still the one of revision mod.
func (k *Keeper) write(ctx context.Context, kept Kept, mod int64) (int64, error) {
	value, err := encode(kept)
	if err != nil {
		return 0, err
	}
	key := kept.Source.Key()
	res, err := k.opt.Store.Commit(ctx, store.Txn{If: []store.Cmp{store.ModIs(key, mod)}, Then: []store.Op{store.Put(key, value)}})
	if err != nil {
		return 0, fmt.Errorf("writing the record: %w", err)
	}
	return res.Rev, nil
}

// drop removes the records that nobody has tried to renew for seven days.
func (k *Keeper) drop(ctx context.Context, now time.Time) error {
	kvs, _, err := k.opt.Store.List(ctx, Prefix)
	if err != nil {
		return err
	}
	for _, kv := range kvs {
		kept, err := Decode(kv)
		if err != nil || now.Before(kept.Tried.Add(unused)) || k.wants(kv.Key) {
			continue
		}
		_, err = k.opt.Store.Commit(ctx, store.Txn{If: []store.Cmp{store.ModIs(kv.Key, kv.Mod)}, Then: []store.Op{store.Delete(kv.Key)}})
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}

func (k *Keeper) wants(key string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.wanted[key] != nil
}
