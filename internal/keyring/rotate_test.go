package keyring_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"countersign.dev/internal/keyring"
	"countersign.dev/internal/store"
)

// rotate is no key after an error; it may run in a goroutine of its own.
func rotate(t testing.TB, r *keyring.Ring, now, drop bool) keyring.Key {
	t.Helper()
	k, err := r.Rotate(t.Context(), now, drop)
	if err != nil {
		t.Error(err)
	}
	return k
}

func TestRotateLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		r := h.open()
		stop := run(t, r)
		first, _ := r.Active()
		sleep(time.Hour)
		next := rotate(t, r, false, false)
		if next.State != keyring.Published || next.ID == first.ID || !slices.Equal(ids(r.Keys()), []string{first.ID, next.ID}) {
			t.Errorf("next is %+v, known are %q", next, ids(r.Keys()))
		}
		if again := rotate(t, r, false, false); again.ID != next.ID {
			t.Error("a second call made another key")
		}
		sleep(2*time.Hour - time.Minute)
		if k, _ := r.Active(); k.ID != first.ID {
			t.Error("the next key signs before its time")
		}
		sleep(2 * time.Minute)
		if k, _ := r.Active(); k.ID != next.ID {
			t.Error("the next key does not sign at its time")
		}
		sleep(70 * time.Minute)
		if got := ids(r.Keys()); !slices.Equal(got, []string{next.ID}) {
			t.Errorf("known are %q, want %q alone", got, next.ID)
		}
		sleep(23 * time.Hour) // its own period counts from its activation
		if k, _ := r.Active(); k.ID == next.ID {
			t.Error("no rotation after the period of the key")
		}
		stop()
		h.checkHistory(false)
	})
}

func TestRotateNow(t *testing.T) {
	h := newHouse(t)
	var atKnown []string
	h.edit = func(o *keyring.Options) {
		o.Known = func(context.Context) error { atKnown = h.states(); return nil }
	}
	r := h.open()
	first, _ := r.Active()
	h.recorded()
	next := rotate(t, r, true, false)
	if k, _ := r.Active(); k.ID != next.ID || next.State != keyring.Active {
		t.Errorf("active is %s, Rotate returned %+v", k.ID, next)
	}
	checkSigns(t, r)
	if !slices.Equal(atKnown, []string{"activate", "publish"}) {
		t.Errorf("Known was asked in states %q", atKnown)
	}
	keys := r.Keys()
	if len(keys) != 2 || keys[0].ID != first.ID || keys[0].State != keyring.Retired || keys[0].Retired.IsZero() {
		t.Errorf("known are %+v, want the first retired", keys)
	}
	if got := h.recorded(); !slices.Equal(got, []string{"→prepare", "prepare→publish", "publish→activate", "activate→retire"}) {
		t.Errorf("recorded %q", got)
	}
	waits := rotate(t, r, false, false)
	if k := rotate(t, r, true, false); k.ID != waits.ID {
		t.Error("a key was made though one waited")
	}
	h.checkHistory(false)
}

func TestRotateDrops(t *testing.T) {
	h := newHouse(t)
	r := h.open()
	first, _ := r.Active()
	waits := rotate(t, r, false, false)
	h.recorded()
	next := rotate(t, r, true, true)
	if next.ID == waits.ID || next.ID == first.ID {
		t.Error("the key is not fresh")
	}
	if got := ids(r.Keys()); !slices.Equal(got, []string{next.ID}) {
		t.Errorf("known are %q, want the new key alone", got)
	}
	if all := h.values(); len(all) != 1 || all[next.ID]["state"] != "activate" {
		t.Errorf("the store holds %v", all)
	}
	if got := h.recorded(); !slices.Equal(got, []string{"→prepare", "publish→gone", "prepare→publish", "publish→activate", "activate→gone"}) {
		t.Errorf("recorded %q", got)
	}
	checkSigns(t, r)
	checkSigns(t, h.open())
	if k, err := r.Rotate(t.Context(), false, true); err == nil {
		t.Errorf("dropped the only key that signs: %+v", k)
	}
	h.checkHistory(true)
}

// The key in other hands goes even if the schedule retired it while the rotation waited.
func TestRotateDropsWhatWasRetiredMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		slow := make(chan struct{})
		h.edit = func(o *keyring.Options) {
			o.Known = func(ctx context.Context) error { <-slow; return nil }
		}
		r := h.open()
		first, _ := r.Active()
		got := make(chan keyring.Key)
		go func() { got <- rotate(t, r, true, true) }()
		synctest.Wait()
		h.edit = nil
		other := rotate(t, h.open(), true, false) // another server takes the key that waits
		close(slow)
		if k := <-got; k.ID != other.ID {
			t.Errorf("made %s though %s signs by now", k.ID, other.ID)
		}
		if _, there := h.values()[first.ID]; there {
			t.Error("the key that was to be dropped is still there")
		}
		h.checkHistory(true)
	})
}

// Rotations of all kinds at once, on two servers that keep the schedule as well.
func TestRotateAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.edit = func(o *keyring.Options) {
			o.Period, o.Publish, o.Retire = 3*time.Hour, time.Hour, time.Hour
			o.Known = func(ctx context.Context) error {
				select {
				case <-time.After(time.Minute):
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		}
		a, b := h.open(), h.open()
		stopA, stopB := run(t, a), run(t, b)
		var wg sync.WaitGroup
		for i := range 60 {
			time.Sleep(7 * time.Minute)
			for _, r := range []*keyring.Ring{a, b} {
				for range 2 {
					wg.Go(func() {
						// one rotation may replace the key of another; the ring stays whole
						if k, err := r.Rotate(t.Context(), i%3 > 0, i%3 == 2); err == nil && k.ID == "" {
							t.Error("neither a key nor an error")
						}
					})
				}
			}
		}
		wg.Wait()
		sleep(time.Minute)
		checkSigns(t, a)
		checkSigns(t, b)
		ka, _ := a.Active()
		if kb, _ := b.Active(); ka.ID != kb.ID {
			t.Errorf("%s and %s are active", ka.ID, kb.ID)
		}
		stopA()
		stopB()
		if n := h.checkHistory(true); n < 20 {
			t.Errorf("%d keys signed", n)
		}
	})
}

// Two calls at once for the key that waits are one rotation when they come from two servers.
func TestRotateNowTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.edit = func(o *keyring.Options) {
			o.Known = func(context.Context) error { time.Sleep(time.Minute); return nil }
		}
		a, b := h.open(), h.open()
		keys := make(chan keyring.Key, 2)
		go func() { keys <- rotate(t, a, true, false) }()
		go func() {
			time.Sleep(time.Second)
			keys <- rotate(t, b, true, false)
		}()
		if x, y := <-keys, <-keys; x.ID != y.ID || x.State != keyring.Active || y.State != keyring.Active {
			t.Errorf("got %+v and %+v, want one key", x, y)
		}
		if n := h.checkHistory(false); n != 2 {
			t.Errorf("%d keys signed, want 2", n)
		}
	})
}

// A rotation that ends half-way leaves a whole ring, which goes on.
func TestRotateEndsHalfway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.edit = func(o *keyring.Options) {
			o.Known = func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
		}
		r := h.open()
		first, _ := r.Active()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		waiting := make(chan error)
		go func() {
			time.Sleep(time.Second)
			_, err := r.Rotate(ctx, true, true)
			waiting <- err
		}()
		if _, err := r.Rotate(ctx, true, true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the end of the context", err)
		}
		if err := <-waiting; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the second call: %v, want the end of the context", err)
		}
		if k, _ := r.Active(); k.ID != first.ID {
			t.Error("a key signs that is not known")
		}
		h.edit = nil
		again := h.open()
		stop := run(t, again)
		sleep(2*time.Hour + time.Minute)
		if k, _ := again.Active(); k.ID == first.ID {
			t.Error("the schedule did not go on from there")
		}
		stop()
		h.checkHistory(true)
	})
}

// Calls on one server go one after the other: none takes the key of another away.
func TestRotateDropsOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.edit = func(o *keyring.Options) {
			o.Known = func(context.Context) error { time.Sleep(time.Minute); return nil }
		}
		r := h.open()
		keys := make(chan keyring.Key, 5)
		for range cap(keys) {
			go func() { keys <- rotate(t, r, true, true) }()
		}
		var last keyring.Key
		for range cap(keys) {
			if last = <-keys; last.State != keyring.Active {
				t.Errorf("got %+v, want an active key", last)
			}
		}
		if got := ids(r.Keys()); !slices.Equal(got, []string{last.ID}) {
			t.Errorf("known are %q, want %q alone", got, last.ID)
		}
		if n := h.checkHistory(true); n != 1+cap(keys) {
			t.Errorf("%d keys signed, want %d", n, 1+cap(keys))
		}
	})
}

// slowStore holds back what it listed until it is released.
type slowStore struct {
	store.Store
	slow    atomic.Bool
	release chan struct{}
}

func (s *slowStore) List(ctx context.Context, prefix string) ([]store.KV, int64, error) {
	kvs, rev, err := s.Store.List(ctx, prefix)
	if s.slow.Load() {
		<-s.release
	}
	return kvs, rev, err
}

// A reading that comes late does not bring back what was before it.
func TestLateReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		slow := &slowStore{Store: h.st, release: make(chan struct{})}
		other := h.open()
		h.edit = func(o *keyring.Options) { o.Store = slow }
		r := h.open()
		stop := run(t, r)
		synctest.Wait()
		slow.slow.Store(true)
		got := make(chan keyring.Key)
		go func() { got <- rotate(t, r, false, false) }()
		synctest.Wait() // it holds a list from before
		next := rotate(t, other, true, false)
		synctest.Wait()
		slow.release <- struct{}{} // and finds that it is old, and lists again
		synctest.Wait()
		if k, _ := r.Active(); k.ID != next.ID {
			t.Error("the key from before the rotation signs again")
		}
		slow.slow.Store(false)
		slow.release <- struct{}{}
		if k := <-got; k.ID == next.ID || k.State != keyring.Published {
			t.Errorf("got %+v, want one more key, published", k)
		}
		stop()
		h.checkHistory(false)
	})
}
