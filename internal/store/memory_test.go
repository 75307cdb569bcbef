package store_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"countersign.dev/internal/store"
)

func mem(t *testing.T, o store.MemoryOptions) *store.Mem {
	t.Helper()
	m := store.Memory(o)
	t.Cleanup(func() { m.Close() })
	return m
}

func putOp(key, value string) store.Txn {
	return store.Txn{Then: []store.Op{store.Put(key, []byte(value))}}
}

func TestInjectedOutcomes(t *testing.T) {
	outcome := store.Normal
	m := mem(t, store.MemoryOptions{Fault: func(store.Txn) store.Outcome { return outcome }})
	for _, c := range []struct {
		outcome store.Outcome
		key     string
		there   bool
	}{{store.Lost, "lost", false}, {store.Applied, "applied", true}} {
		outcome = c.outcome
		if _, err := m.Commit(t.Context(), putOp(c.key, "x")); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", c.key, err)
		}
		if _, err := m.Get(t.Context(), c.key); (err == nil) != c.there {
			t.Errorf("%s: %v, want it there: %v", c.key, err, c.there)
		}
	}
}

func TestMemoryTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mem(t, store.MemoryOptions{Delay: time.Second})
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		l, err := m.Lease(ctx, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Commit(t.Context(), store.Txn{Then: []store.Op{store.PutLeased("a", nil, l.ID())}}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d != time.Second {
			t.Errorf("a commit took %v, want the delay of 1s", d)
		}
		r, err := m.Watch(t.Context(), "a", 2)
		if err != nil {
			t.Fatal(err)
		}
		if b := <-r; b.Rev != 2 || len(b.Events) != 0 || b.Err != nil {
			t.Errorf("idle watch gave %+v, want a progress mark", b)
		}
		time.Sleep(time.Hour) // kept alive: nothing happens
		if _, err := m.Get(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		cancel()
		<-l.Done()
		ended := time.Now()
		for b := range r {
			if len(b.Events) > 0 {
				if d := time.Since(ended); d != time.Minute || !b.Events[0].Deleted {
					t.Errorf("%+v came after %v, want the deletion after a ttl", b, d)
				}
				break
			}
		}
		late, stop := context.WithTimeout(t.Context(), time.Millisecond)
		defer stop()
		if _, err := m.Commit(late, putOp("late", "")); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("commit over its deadline: %v", err)
		}
	})
}

func TestMemoryExpireAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mem(t, store.MemoryOptions{})
		one, err := m.Lease(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		m.Expire(one.ID())
		<-one.Done()
		two, err := m.Lease(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		batches, err := m.Watch(t.Context(), "", 0)
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		<-two.Done()
		if b := <-batches; !errors.Is(b.Err, store.ErrUnavailable) {
			t.Errorf("a watch ended with %+v at Close", b)
		}
		if _, ok := <-batches; ok {
			t.Error("the channel is open after its last batch")
		}
		if _, err := m.Commit(t.Context(), putOp("a", "")); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("commit after Close: %v", err)
		}
		if _, err := m.Dump(t.Context(), io.Discard); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("dump after Close: %v", err)
		}
	})
}

// breaking gives watches that end as the test says, and lists that fail.
type breaking struct {
	store.Store
	lists []error
	ends  []error
}

func (b *breaking) List(ctx context.Context, prefix string) ([]store.KV, int64, error) {
	if len(b.lists) > 0 {
		err := b.lists[0]
		if b.lists = b.lists[1:]; err != nil {
			return nil, 0, err
		}
	}
	return b.Store.List(ctx, prefix)
}

func (b *breaking) Watch(ctx context.Context, prefix string, after int64) (<-chan store.Batch, error) {
	if len(b.ends) == 0 {
		return b.Store.Watch(ctx, prefix, after)
	}
	out := make(chan store.Batch, 1)
	if b.ends[0] != nil {
		out <- store.Batch{Err: b.ends[0]}
	}
	b.ends = b.ends[1:]
	close(out)
	return out, nil
}

func TestFollowListsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mem(t, store.MemoryOptions{})
		st := &breaking{
			Store: m,
			lists: []error{store.ErrUnavailable, store.ErrUnavailable, nil},
			ends:  []error{store.ErrCompacted, store.ErrSlow, store.ErrUnavailable, nil},
		}
		resets, enough := 0, errors.New("enough")
		err := store.Follow(t.Context(), st, "a/", func(kvs []store.KV, rev int64) error {
			if resets++; resets == 5 {
				_, err := m.Commit(t.Context(), putOp("a/1", "after the list"))
				return err
			}
			return nil
		}, func(b store.Batch) error {
			if len(b.Events) == 1 && string(b.Events[0].KV.Value) == "after the list" {
				return enough
			}
			return nil
		})
		if err != enough || resets != 5 {
			t.Errorf("follow ended with %v after %d resets, want apply's error after 5", err, resets)
		}

		err = store.Follow(t.Context(), m, "", func([]store.KV, int64) error { return enough }, nil)
		if err != enough {
			t.Errorf("follow ended with %v, want reset's error", err)
		}
		// A wrapped store error of the caller's own is the caller's, not the store's.
		err = store.Follow(t.Context(), m, "", func([]store.KV, int64) error { return store.ErrUnavailable }, nil)
		if err != store.ErrUnavailable {
			t.Errorf("follow ended with %v, want reset's error", err)
		}
		st.lists = []error{store.ErrInvalid}
		if err := store.Follow(t.Context(), st, "", nil, nil); err != store.ErrInvalid {
			t.Errorf("follow ended with %v, want the store's ErrInvalid: a bug is not retried", err)
		}
	})
}

func TestFollowWaitsLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mem(t, store.MemoryOptions{})
		m.Close()
		st := &breaking{Store: m}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, io.EOF)
		defer cancel()
		for range 1000 {
			st.lists = append(st.lists, store.ErrUnavailable)
		}
		if err := store.Follow(ctx, st, "", nil, nil); err != io.EOF {
			t.Errorf("follow ended with %v, want the cause", err)
		}
		if n := 1000 - len(st.lists); n < 10 || n > 40 {
			t.Errorf("%d lists in a minute without a store", n)
		}
	})
}

// Upkeep keeps five to ten minutes of history.
func TestUpkeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mem(t, store.MemoryOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- store.Upkeep(ctx, m, slog.New(slog.DiscardHandler)) }()
		var revs []int64
		for range 30 { // revs[i] is the state i minutes after the start
			r, err := m.Commit(t.Context(), putOp("a", "x"))
			if err != nil {
				t.Fatal(err)
			}
			revs = append(revs, r.Rev)
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		for minute, compacted := range map[int]bool{10: true, 18: true, 26: false, 29: false} {
			ctx, stop := context.WithCancel(t.Context())
			batches, err := m.Watch(ctx, "a", revs[minute]-1)
			if err != nil {
				t.Fatal(err)
			}
			if b := <-batches; errors.Is(b.Err, store.ErrCompacted) != compacted {
				t.Errorf("watch from minute %d of 30: %+v, want compacted: %v", minute, b, compacted)
			}
			stop()
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("upkeep ended with %v", err)
		}
	})
}

// The memory engine bounds its history by itself.
func TestMemoryHistoryIsBounded(t *testing.T) {
	m := mem(t, store.MemoryOptions{})
	for range 25_000 {
		if _, err := m.Commit(t.Context(), putOp("a", "x")); err != nil {
			t.Fatal(err)
		}
	}
	batches, err := m.Watch(t.Context(), "", 1)
	if err != nil {
		t.Fatal(err)
	}
	if b := <-batches; !errors.Is(b.Err, store.ErrCompacted) || b.Rev < 10_000 {
		t.Errorf("got %+v, want ErrCompacted", b)
	}
}
