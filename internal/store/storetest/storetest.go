// Package storetest is the conformance suite of store.Store: the cases of registry.md 26.1, a
// random program compared against a model, and a scanner for secrets that reached a disk.
//
// Its promise: an engine that passes Run keeps the contract on store.Store, so whatever is
// tested on one engine holds on the others.
package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"countersign.dev/internal/store"
)

// patience bounds every wait for something that must come.
const patience = 20 * time.Second

// Run proves that the stores which open makes keep the contract. Each case gets an empty one,
// which open closes at the end of the test it is given.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, st store.Store)
	}{
		{"S01 create-only put twice", createOnly},
		{"S02 compare-and-set with an old Mod", oldMod},
		{"S03 one of several compares is false", elseBranch},
		{"S04 invalid transactions", invalid},
		{"S05 watch from a revision", watchAfter},
		{"S06 watch from a compacted revision", watchCompacted},
		{"S07 delete and create again", createAgain},
		{"S08 largest value", largest},
		{"S09 lease ends", leaseEnds},
		{"S09 lease is ended", leaseEnded},
		{"S09 lease of a put", leaseOfPut},
		{"S10 context ends during Commit", contextEnds},
		{"S11 list during writes", listOneRevision},
		{"S12 slow watcher", slowWatcher},
		{"S13 prefix is no path", prefixes},
		{"S14 dump", dumps},
		{"S16 sealed value moved", sealedMoved},
		{"results of a transaction", results},
		{"watch ends with its context", watchEnds},
		{"compaction", compaction},
		{"follow", follow},
		{"random program", func(t *testing.T, st store.Store) { program(t, st, 400) }},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// put commits one unconditional put and returns its revision.
func put(t testing.TB, st store.Store, key, value string) int64 {
	t.Helper()
	return commit(t, st, store.Txn{Then: []store.Op{store.Put(key, []byte(value))}}).Rev
}

func commit(t testing.TB, st store.Store, txn store.Txn) store.Result {
	t.Helper()
	r, err := st.Commit(t.Context(), txn)
	if err != nil {
		t.Fatalf("commit of %v: %v", txn, err)
	}
	return r
}

func get(t testing.TB, st store.Store, key string) store.KV {
	t.Helper()
	kv, err := st.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	return kv
}

func wantAbsent(t testing.TB, st store.Store, key string) {
	t.Helper()
	if kv, err := st.Get(t.Context(), key); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("get %q: %v, %v; want ErrNotFound", key, kv, err)
	}
}

func watch(t testing.TB, ctx context.Context, st store.Store, prefix string, after int64) <-chan store.Batch {
	t.Helper()
	batches, err := st.Watch(ctx, prefix, after)
	if err != nil {
		t.Fatalf("watch %q after %d: %v", prefix, after, err)
	}
	return batches
}

// next returns the next batch that is no progress mark; ok is false when the channel is closed.
func next(t testing.TB, batches <-chan store.Batch) (b store.Batch, ok bool) {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case b, ok := <-batches:
			if ok && b.Err == nil && len(b.Events) == 0 {
				continue
			}
			return b, ok
		case <-limit:
			t.Fatalf("no batch within %v", patience)
		}
	}
}

// wait fails the test when c does not close in time.
func wait(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("%s did not happen within %v", what, patience)
	}
}
