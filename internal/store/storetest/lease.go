package storetest

import (
	"context"
	"testing"
	"time"

	"countersign.dev/internal/store"
)

func lease(t testing.TB, ctx context.Context, st store.Store) store.Lease {
	t.Helper()
	l, err := st.Lease(ctx, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if l.ID() == 0 {
		t.Fatal("a lease with the id of no lease")
	}
	return l
}

// leaseEnds lets a lease run out: its holder stops, as one that died.
func leaseEnds(t *testing.T, st store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	l := lease(t, ctx, st)
	put(t, st, "free", "x")
	rev := commit(t, st, store.Txn{Then: []store.Op{
		store.PutLeased("l/1", []byte("x"), l.ID()), store.PutLeased("l/2", []byte("x"), l.ID()),
	}}).Rev
	batches := watch(t, t.Context(), st, "l/", rev)
	select {
	case <-l.Done():
		t.Fatal("Done closed while the lease is kept alive")
	default:
	}
	cancel()
	for gone := 0; gone < 2; {
		b, ok := next(t, batches)
		if !ok || b.Err != nil {
			t.Fatalf("got %+v, want deletions", b)
		}
		for _, e := range b.Events {
			if !e.Deleted {
				t.Fatalf("got %+v, want deletions", b)
			}
			gone++
		}
	}
	select {
	case <-l.Done():
	default:
		t.Error("keys went before Done closed")
	}
	wantAbsent(t, st, "l/1")
	get(t, st, "free")
}

func leaseEnded(t *testing.T, st store.Store) {
	l := lease(t, t.Context(), st)
	commit(t, st, store.Txn{Then: []store.Op{store.PutLeased("l/1", []byte("x"), l.ID())}})
	if err := l.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, st, "l/1")
	wait(t, "Done of an ended lease", l.Done())
	if err := l.End(t.Context()); err != nil {
		t.Errorf("ending it again: %v", err)
	}
	if _, err := st.Commit(t.Context(), store.Txn{Then: []store.Op{store.PutLeased("l/1", nil, l.ID())}}); err == nil {
		t.Error("a put under an ended lease was taken")
	}
}

// leaseOfPut: the last put says which lease a key dies with.
func leaseOfPut(t *testing.T, st store.Store) {
	one, two := lease(t, t.Context(), st), lease(t, t.Context(), st)
	commit(t, st, store.Txn{Then: []store.Op{
		store.PutLeased("freed", nil, one.ID()), store.PutLeased("moved", nil, one.ID()), store.PutLeased("stays", nil, one.ID()),
	}})
	put(t, st, "freed", "x")
	commit(t, st, store.Txn{Then: []store.Op{store.PutLeased("moved", nil, two.ID())}})
	if kv := get(t, st, "stays"); kv.Lease != one.ID() {
		t.Errorf("lease of a key is %d, want %d", kv.Lease, one.ID())
	}
	if err := one.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, st, "stays")
	if kv := get(t, st, "freed"); kv.Lease != 0 {
		t.Errorf("a freed key has lease %d", kv.Lease)
	}
	get(t, st, "moved")
	if err := two.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, st, "moved")
}
