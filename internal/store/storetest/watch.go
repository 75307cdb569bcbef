package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"countersign.dev/internal/store"
)

func watchAfter(t *testing.T, st store.Store) {
	var revs []int64
	for i := range 100 {
		r := commit(t, st, store.Txn{Then: []store.Op{
			store.Put("w/"+strconv.Itoa(i), []byte("a")), store.Put("other/"+strconv.Itoa(i), nil), store.Put("w/last", []byte(strconv.Itoa(i))),
		}})
		revs = append(revs, r.Rev)
	}
	batches := watch(t, t.Context(), st, "w/", revs[39])
	for i := 40; i < 100; i++ {
		b, ok := next(t, batches)
		if !ok || b.Err != nil || b.Rev != revs[i] || len(b.Events) != 2 {
			t.Fatalf("batch %d is %+v, want revision %d with two events", i, b, revs[i])
		}
		first, last := b.Events[0].KV, b.Events[1].KV
		if first.Key != "w/"+strconv.Itoa(i) || first.Create != revs[i] || last.Key != "w/last" || string(last.Value) != strconv.Itoa(i) || last.Create != revs[0] {
			t.Fatalf("events of batch %d are %+v", i, b.Events)
		}
	}
	live := put(t, st, "w/live", "x")
	if b, ok := next(t, batches); !ok || b.Rev != live {
		t.Fatalf("live batch is %+v, want revision %d", b, live)
	}
	gone := commit(t, st, store.Txn{Then: []store.Op{store.DeletePrefix("w/1"), store.Delete("other/1")}}).Rev
	b, ok := next(t, batches)
	if !ok || b.Rev != gone || len(b.Events) != 11 { // 1 and 10 … 19
		t.Fatalf("deletion is %+v, want 11 events at %d", b, gone)
	}
	for _, e := range b.Events {
		if !e.Deleted || e.KV.Mod != gone || e.KV.Create != 0 || e.KV.Value != nil {
			t.Errorf("event of a deletion is %+v", e)
		}
	}
}

func watchCompacted(t *testing.T, st store.Store) {
	keeper, ok := st.(store.Keeper)
	if !ok {
		return
	}
	var revs []int64
	for i := range 10 {
		revs = append(revs, put(t, st, "w", strconv.Itoa(i)))
	}
	if err := keeper.Compact(t.Context(), revs[5]); err != nil {
		t.Fatal(err)
	}
	batches := watch(t, t.Context(), st, "w", revs[2])
	b, ok := next(t, batches)
	if !ok || !errors.Is(b.Err, store.ErrCompacted) || b.Rev != revs[5] {
		t.Fatalf("got %+v, want ErrCompacted with the horizon %d", b, revs[5])
	}
	if b, ok := next(t, batches); ok {
		t.Errorf("%+v came after the last batch", b)
	}
	batches = watch(t, t.Context(), st, "w", revs[5])
	for i := 6; i < 10; i++ {
		if b, ok := next(t, batches); !ok || b.Err != nil || b.Rev != revs[i] {
			t.Fatalf("after the horizon came %+v, want revision %d", b, revs[i])
		}
	}
}

func compaction(t *testing.T, st store.Store) {
	keeper, ok := st.(store.Keeper)
	if !ok {
		return
	}
	put(t, st, "old", "never changed")
	for range 10 {
		put(t, st, "new", "x")
	}
	rev := put(t, st, "new", "y")
	if err := keeper.Compact(t.Context(), rev+1); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("compacting the future: %v, want ErrInvalid", err)
	}
	if err := keeper.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	if err := keeper.Compact(t.Context(), rev-1); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("compacting the past: %v, want ErrCompacted", err)
	}
	if err := keeper.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	if string(get(t, st, "old").Value) != "never changed" || string(get(t, st, "new").Value) != "y" {
		t.Error("compaction or defragmentation changed a current value")
	}
	if next := put(t, st, "new", "z"); next != rev+1 {
		t.Errorf("the revision after a compaction is %d, want %d", next, rev+1)
	}
}

// slowWatcher writes until the watcher, which reads nothing, is cut; what it then reads has no
// gap before ErrSlow.
func slowWatcher(t *testing.T, st store.Store) {
	start := put(t, st, "w", "0")
	batches := watch(t, t.Context(), st, "w", start)
	for i := 0; len(batches) <= store.WatchBuffer; i++ {
		if i > 20*store.WatchBuffer {
			t.Fatalf("%d batches wait after %d writes: the watcher was not cut", len(batches), i)
		}
		put(t, st, "w", "x")
	}
	for want := start + 1; ; want++ {
		b, ok := next(t, batches)
		if !ok {
			t.Fatal("the channel closed without ErrSlow")
		}
		if errors.Is(b.Err, store.ErrSlow) {
			break
		}
		if b.Err != nil || b.Rev != want {
			t.Fatalf("got %+v, want revision %d", b, want)
		}
	}
	if b, ok := next(t, batches); ok {
		t.Errorf("%+v came after the last batch", b)
	}
}

func watchEnds(t *testing.T, st store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	batches := watch(t, ctx, st, "w", 0)
	put(t, st, "w", "1")
	if b, ok := next(t, batches); !ok || len(b.Events) != 1 {
		t.Fatalf("got %+v", b)
	}
	cancel()
	if b, ok := next(t, batches); ok {
		t.Errorf("%+v came after the end of the context", b)
	}
	if _, err := st.Watch(t.Context(), "w", -1); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("watch after revision -1: %v, want ErrInvalid", err)
	}
	if _, err := st.Watch(ctx, "w", 0); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("watch with an ended context: %v, want ErrUnavailable", err)
	}
}

// listOneRevision lists while pairs of keys are written together.
func listOneRevision(t *testing.T, st store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			value := []byte(strconv.Itoa(i))
			_, err := st.Commit(ctx, store.Txn{Then: []store.Op{store.Put("l/x", value), store.Put("l/y", value)}})
			if err != nil && ctx.Err() == nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	var last int64
	for range 200 {
		kvs, rev, err := st.List(t.Context(), "l/")
		if err != nil {
			t.Fatal(err)
		}
		if len(kvs) == 1 || len(kvs) == 2 && (string(kvs[0].Value) != string(kvs[1].Value) || kvs[0].Mod != kvs[1].Mod || kvs[0].Mod > rev) || rev < last {
			t.Fatalf("list at %d after %d is torn: %v", rev, last, kvs)
		}
		last = rev
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// follow keeps a map equal to a prefix.
func follow(t *testing.T, st store.Store) {
	put(t, st, "f/a", "1")
	put(t, st, "g/a", "1")
	ctx, cancel := context.WithCancel(t.Context())
	seen, done := make(chan string, 100), make(chan error, 1)
	go func() {
		done <- store.Follow(ctx, st, "f/", func(kvs []store.KV, rev int64) error {
			seen <- fmt.Sprint("reset ", len(kvs))
			return nil
		}, func(b store.Batch) error {
			for _, e := range b.Events {
				seen <- fmt.Sprint(e.KV.Key, " ", string(e.KV.Value), e.Deleted)
			}
			return nil
		})
	}()
	want := func(text string) {
		t.Helper()
		if got := <-seen; got != text {
			t.Fatalf("followed %q, want %q", got, text)
		}
	}
	want("reset 1")
	put(t, st, "f/b", "2")
	put(t, st, "g/b", "2")
	commit(t, st, store.Txn{Then: []store.Op{store.Delete("f/a")}})
	want("f/b 2false")
	want("f/a true")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("follow ended with %v, want the context's error", err)
	}
}
