package storetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/store"
)

// model is what a store should hold, in the plainest form.
type model struct {
	rev    int64
	keys   map[string]store.KV
	events []store.Batch // every revision, whole
}

// program runs random transactions on a store and on the model and compares all that shows:
// results, errors, lists, and in the end the watch.
func program(t *testing.T, st store.Store, steps int) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s, err := st.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := &model{rev: s.Revision, keys: map[string]store.KV{}}
	batches := watch(t, t.Context(), st, "a/", s.Revision)
	for step := range steps {
		txn := m.random(rng)
		want, conflict := m.commit(txn)
		got, err := st.Commit(t.Context(), txn)
		if err != nil && !errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrConflict) != conflict {
			t.Fatalf("step %d, %+v: %v, want conflict %v", step, txn, err, conflict)
		}
		if d := diff(want, got); d != "" {
			t.Fatalf("step %d, %+v: results\n%s", step, txn, d)
		}
		if step%10 != 0 {
			continue
		}
		for _, prefix := range []string{"", "a/", "b"} {
			kvs, rev, err := st.List(t.Context(), prefix)
			if err != nil || rev != m.rev {
				t.Fatalf("step %d: list at %d, %v; want revision %d", step, rev, err, m.rev)
			}
			if d := diff(m.list(prefix), kvs); d != "" {
				t.Fatalf("step %d: list %q\n%s", step, prefix, d)
			}
		}
	}
	for _, whole := range m.events {
		want := store.Batch{Rev: whole.Rev}
		for _, e := range whole.Events {
			if strings.HasPrefix(e.KV.Key, "a/") {
				want.Events = append(want.Events, e)
			}
		}
		if len(want.Events) == 0 {
			continue
		}
		got, _ := next(t, batches)
		if d := diff(want, got); d != "" {
			t.Fatalf("watch\n%s", d)
		}
	}
}

// diff shows both values when they differ; an empty list is as good as none.
func diff(want, got any) string {
	w, g := fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got)
	if w == g {
		return ""
	}
	return "want " + w + "\ngot  " + g
}

// random is a transaction over few keys, about half of whose comparisons hold.
func (m *model) random(rng *rand.Rand) (t store.Txn) {
	key := func() string { return fmt.Sprintf("%c/%d", "ab"[rng.IntN(2)], rng.IntN(6)) }
	for range rng.IntN(3) {
		k := key()
		c := store.ModIs(k, m.keys[k].Mod)
		if rng.IntN(2) == 0 {
			c = store.CreateIs(k, m.keys[k].Create)
		}
		if rng.IntN(4) == 0 {
			c.N = rng.Int64N(m.rev + 2)
		}
		t.If = append(t.If, c)
	}
	for _, branch := range []*[]store.Op{&t.Then, &t.Else} {
		used := map[string]bool{}
		for range rng.IntN(5) {
			k := key()
			switch n := rng.IntN(10); {
			case n < 5 && !used[k]:
				*branch = append(*branch, store.Put(k, fmt.Appendf(nil, "%d", rng.IntN(1000))))
			case n < 7 && !used[k]:
				*branch = append(*branch, store.Delete(k))
			case n < 8 && len(*branch) == 0 && rng.IntN(4) == 0:
				*branch = append(*branch, store.DeletePrefix(k[:2]))
				for i := range 6 {
					used[fmt.Sprintf("%s%d", k[:2], i)] = true
				}
			default:
				*branch = append(*branch, store.GetOp(k))
			}
			used[k] = used[k] || (*branch)[len(*branch)-1].Verb != store.VerbGet
		}
	}
	return t
}

func (m *model) commit(t store.Txn) (r store.Result, conflict bool) {
	for _, c := range t.If {
		n := m.keys[c.Key].Mod
		if c.Field == store.Create {
			n = m.keys[c.Key].Create
		}
		conflict = conflict || n != c.N
	}
	ops := t.Then
	if conflict {
		ops = t.Else
	}
	rev := m.rev + 1
	var events []store.Event
	remove := func(keys ...string) (n int64) {
		for _, key := range keys {
			if _, ok := m.keys[key]; ok {
				delete(m.keys, key)
				events = append(events, store.Event{Deleted: true, KV: store.KV{Key: key, Mod: rev}})
				n++
			}
		}
		return n
	}
	var out []store.OpResult
	for _, op := range ops {
		var one store.OpResult
		switch op.Verb {
		case store.VerbPut:
			kv := store.KV{Key: op.Key, Value: op.Value, Create: m.keys[op.Key].Create, Mod: rev}
			if kv.Create == 0 {
				kv.Create = rev
			}
			m.keys[op.Key] = kv
			events = append(events, store.Event{KV: kv})
		case store.VerbDelete:
			one.Deleted = remove(op.Key)
		case store.VerbDeletePrefix:
			for _, kv := range m.list(op.Key) {
				one.Deleted += remove(kv.Key)
			}
		case store.VerbGet:
			if kv, ok := m.keys[op.Key]; ok {
				one.KVs = []store.KV{kv}
			}
		}
		out = append(out, one)
	}
	if len(events) > 0 {
		m.rev = rev
		m.events = append(m.events, store.Batch{Rev: rev, Events: events})
	}
	if conflict {
		return store.Result{Rev: m.rev, Else: out}, true
	}
	return store.Result{Rev: m.rev, Then: out}, false
}

func (m *model) list(prefix string) (kvs []store.KV) {
	for _, key := range slices.Sorted(maps.Keys(m.keys)) {
		if strings.HasPrefix(key, prefix) {
			kvs = append(kvs, m.keys[key])
		}
	}
	return kvs
}
