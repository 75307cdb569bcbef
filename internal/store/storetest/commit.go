package storetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/store"
)

func createOnly(t *testing.T, st store.Store) {
	create := func(value string) store.Txn {
		return store.Txn{
			If:   []store.Cmp{store.Absent("a")},
			Then: []store.Op{store.Put("a", []byte(value))},
			Else: []store.Op{store.GetOp("a")},
		}
	}
	first := commit(t, st, create("one"))
	r, err := st.Commit(t.Context(), create("two"))
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("second create: %v, want ErrConflict", err)
	}
	if len(r.Else) != 1 || len(r.Else[0].KVs) != 1 || string(r.Else[0].KVs[0].Value) != "one" {
		t.Errorf("Else read %v, want the first value", r.Else)
	}
	if r.Rev != first.Rev {
		t.Errorf("a refused commit moved the revision from %d to %d", first.Rev, r.Rev)
	}
	if kv := get(t, st, "a"); string(kv.Value) != "one" || kv.Create != first.Rev || kv.Mod != first.Rev || kv.Key != "a" {
		t.Errorf("got %v, want the first put at revision %d", kv, first.Rev)
	}
}

func oldMod(t *testing.T, st store.Store) {
	old := put(t, st, "a", "one")
	now := put(t, st, "a", "two")
	for _, mod := range []int64{0, old, now + 1} {
		_, err := st.Commit(t.Context(), store.Txn{
			If:   []store.Cmp{store.ModIs("a", mod)},
			Then: []store.Op{store.Put("a", []byte("three"))},
		})
		if !errors.Is(err, store.ErrConflict) {
			t.Errorf("compare-and-set with Mod %d of %d: %v, want ErrConflict", mod, now, err)
		}
	}
	if kv := get(t, st, "a"); string(kv.Value) != "two" || kv.Mod != now || kv.Create != old {
		t.Errorf("got %v, want two, created %d, changed %d", kv, old, now)
	}
	r := commit(t, st, store.Txn{If: []store.Cmp{store.ModIs("a", now)}, Then: []store.Op{store.Put("a", []byte("three"))}})
	if r.Rev != now+1 {
		t.Errorf("compare-and-set is revision %d, want %d", r.Rev, now+1)
	}
}

func elseBranch(t *testing.T, st store.Store) {
	a := put(t, st, "a", "1")
	put(t, st, "b", "1")
	r, err := st.Commit(t.Context(), store.Txn{
		If:   []store.Cmp{store.ModIs("a", a), store.ModIs("b", a), store.Absent("c")},
		Then: []store.Op{store.Put("a", []byte("2")), store.Delete("b"), store.Put("c", []byte("2"))},
		Else: []store.Op{store.Put("d", []byte("else")), store.GetOp("a"), store.GetOp("c")},
	})
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("commit: %v, want ErrConflict", err)
	}
	if r.Then != nil || len(r.Else) != 3 || len(r.Else[1].KVs) != 1 || len(r.Else[2].KVs) != 0 {
		t.Errorf("results %+v, want three of Else alone", r)
	}
	if kv := get(t, st, "a"); string(kv.Value) != "1" {
		t.Errorf("a is %q: Then ran", kv.Value)
	}
	get(t, st, "b")
	wantAbsent(t, st, "c")
	if kv := get(t, st, "d"); string(kv.Value) != "else" || kv.Mod != r.Rev {
		t.Errorf("d is %v: Else did not run at revision %d", kv, r.Rev)
	}
}

func invalid(t *testing.T, st store.Store) {
	before := put(t, st, "a", "1")
	many := make([]store.Op, store.MaxOps+1)
	for i := range many {
		many[i] = store.GetOp("a")
	}
	x := []byte("x")
	for _, c := range []struct {
		name string
		txn  store.Txn
	}{
		{"one key put twice", store.Txn{Then: []store.Op{store.Put("k", x), store.Put("k", x)}}},
		{"one key put twice in Else", store.Txn{Else: []store.Op{store.Put("k", x), store.Put("k", x)}}},
		{"put and delete", store.Txn{Then: []store.Op{store.Put("k", x), store.Delete("k")}}},
		{"put below a deleted prefix", store.Txn{Then: []store.Op{store.DeletePrefix("k"), store.Put("k/1", x)}}},
		{"too many operations", store.Txn{Then: many}},
		{"no key", store.Txn{Then: []store.Op{store.Put("", x)}}},
		{"every key deleted", store.Txn{Then: []store.Op{store.DeletePrefix("")}}},
		{"absolute key", store.Txn{Then: []store.Op{store.Put("/k", x)}}},
		{"long key", store.Txn{Then: []store.Op{store.Put(strings.Repeat("k", store.MaxKey+1), x)}}},
		{"no verb", store.Txn{Then: []store.Op{{Key: "k"}}}},
		{"negative revision", store.Txn{If: []store.Cmp{store.ModIs("k", -1)}}},
		{"lease that never was", store.Txn{Then: []store.Op{store.PutLeased("k", x, 12345)}}},
	} {
		if _, err := st.Commit(t.Context(), c.txn); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", c.name, err)
		}
	}
	if _, err := st.Get(t.Context(), ""); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("get of no key: %v, want ErrInvalid", err)
	}
	if kvs, rev, err := st.List(t.Context(), ""); err != nil || len(kvs) != 1 || rev != before {
		t.Errorf("store is %v at %d, %v; want it untouched at %d", kvs, rev, err, before)
	}
}

func createAgain(t *testing.T, st store.Store) {
	first := put(t, st, "duty/a", "me")
	commit(t, st, store.Txn{Then: []store.Op{store.Delete("duty/a")}})
	wantAbsent(t, st, "duty/a")
	again := put(t, st, "duty/a", "you")
	put(t, st, "duty/a", "you still")
	if kv := get(t, st, "duty/a"); kv.Create != again || kv.Mod != again+1 {
		t.Errorf("got %v, want created at %d, changed at %d", kv, again, again+1)
	}
	fenced := func(create int64) error {
		_, err := st.Commit(t.Context(), store.Txn{
			If:   []store.Cmp{store.CreateIs("duty/a", create)},
			Then: []store.Op{store.Put("x", nil)},
		})
		return err
	}
	if err := fenced(first); !errors.Is(err, store.ErrConflict) {
		t.Errorf("write fenced by the former creation: %v, want ErrConflict", err)
	}
	if err := fenced(again); err != nil {
		t.Errorf("write fenced by the creation: %v", err)
	}
}

func largest(t *testing.T, st store.Store) {
	value := bytes.Repeat([]byte("v"), store.MaxValue)
	commit(t, st, store.Txn{Then: []store.Op{store.Put("a", value)}})
	if kv := get(t, st, "a"); !bytes.Equal(kv.Value, value) {
		t.Errorf("got %d bytes, want %d", len(kv.Value), len(value))
	}
	more := append(value, 'v')
	for _, ops := range [][]store.Op{
		{store.Put("b", more)},
		{store.Put("b", value), store.Put("c", value), store.Put("d", value)},
	} {
		if _, err := st.Commit(t.Context(), store.Txn{Then: ops}); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("%d operations: %v, want ErrTooLarge", len(ops), err)
		}
	}
	commit(t, st, store.Txn{Then: []store.Op{store.Put("b", value), store.Put("c", value)}})
	put(t, st, "empty", "")
	if kv := get(t, st, "empty"); len(kv.Value) != 0 || kv.Mod == 0 {
		t.Errorf("empty value is %v", kv)
	}
}

func contextEnds(t *testing.T, st store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := st.Commit(ctx, store.Txn{Then: []store.Op{store.Put("a", []byte("1"))}}); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("commit after the end: %v, want ErrUnavailable and the context's error", err)
	}
	wantAbsent(t, st, "a")
	for range 50 { // at any moment: what was acknowledged is there, what was not is whole or absent
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		_, err := st.Commit(ctx, store.Txn{
			If:   []store.Cmp{store.Absent("a")},
			Then: []store.Op{store.Put("a", []byte("1")), store.Put("b", []byte("1"))},
		})
		cancel()
		if err != nil && !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrConflict) {
			t.Fatalf("commit: %v", err)
		}
		kvs, _, lerr := st.List(t.Context(), "")
		if lerr != nil {
			t.Fatal(lerr)
		}
		if n := len(kvs); n == 1 || err == nil && n != 2 {
			t.Fatalf("commit said %v and left %v", err, kvs)
		}
		// An unacknowledged commit may land after the list: delete only what is whole.
		commit(t, st, store.Txn{Then: []store.Op{store.Delete("a"), store.Delete("b")}})
	}
}

func results(t *testing.T, st store.Store) {
	put(t, st, "p/1", "1")
	put(t, st, "p/2", "2")
	before := put(t, st, "q", "3")
	r := commit(t, st, store.Txn{Then: []store.Op{
		store.GetOp("q"), store.GetOp("none"), store.DeletePrefix("p/"), store.Delete("none"), store.GetOp("p/1"), store.Put("r", nil), store.GetOp("r"),
	}})
	var got []int
	for _, op := range r.Then {
		got = append(got, len(op.KVs)*10+int(op.Deleted))
	}
	if want := []int{10, 0, 2, 0, 0, 0, 10}; !slices.Equal(got, want) {
		t.Errorf("results %v (tens are keys read, units keys deleted), want %v", got, want)
	}
	if r.Rev != before+1 || r.Then[6].KVs[0].Mod != r.Rev {
		t.Errorf("revision %d and read %v, want both %d", r.Rev, r.Then[6].KVs, before+1)
	}
	if r := commit(t, st, store.Txn{Then: []store.Op{store.GetOp("q"), store.Delete("none")}}); r.Rev != before+1 {
		t.Errorf("a commit that changed nothing moved the revision to %d", r.Rev)
	}
	s, err := st.Status(t.Context())
	if err != nil || s.Revision != before+1 || s.Members != 1 || s.Size <= 0 {
		t.Errorf("status %+v, %v; want revision %d", s, err, before+1)
	}
}

func prefixes(t *testing.T, st store.Store) {
	for _, key := range []string{"a/1", "a/2", "ab", "a", "b", "a0"} {
		put(t, st, key, key)
	}
	for prefix, want := range map[string]string{
		"a/": "a/1 a/2", "a": "a a/1 a/2 a0 ab", "": "a a/1 a/2 a0 ab b", "c": "", "a/1": "a/1",
	} {
		kvs, _, err := st.List(t.Context(), prefix)
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, kv := range kvs {
			keys = append(keys, kv.Key)
		}
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("list %q: %q, want %q", prefix, got, want)
		}
	}
	commit(t, st, store.Txn{Then: []store.Op{store.DeletePrefix("a/")}})
	wantAbsent(t, st, "a/1")
	get(t, st, "ab")
	get(t, st, "a")
}
