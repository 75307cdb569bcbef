package catalog

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"countersign.dev/internal/store"
)

// many is a set of n objects with a spec.
func many(t *testing.T, n int, spec string) (out []Change) {
	for i := range n {
		out = append(out, Change{Object: object(t, fmt.Sprintf("p%04d", i), spec), Source: "/etc/mesh"})
	}
	return out
}

func set(t *testing.T, c *Catalog, changes []Change) (int64, error) {
	t.Helper()
	known, _, err := c.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.PrepareSet(known, changes, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c.CommitSet(t.Context(), p)
}

// holds fails unless there are n objects, all of one generation, and nothing is staged.
func holds(t *testing.T, c *Catalog, st *store.Mem, n int, generation int64) {
	t.Helper()
	known, _, err := c.All(t.Context())
	if err != nil || len(known) != n {
		t.Fatalf("%d objects, want %d: %v", len(known), n, err)
	}
	for _, r := range known {
		if r.Generation != generation || r.Source != "/etc/mesh" {
			t.Fatalf("%s has generation %d and source %q", r.ID(), r.Generation, r.Source)
		}
	}
	if kvs, _, err := st.List(t.Context(), staged); err != nil || len(kvs) != 0 {
		t.Fatalf("%d keys are still staged: %v", len(kvs), err)
	}
}

// A set beyond one transaction is written, changed and taken away.
func TestCommitSet(t *testing.T) {
	c, st := open(t)
	const n = 3*partOps + 7
	rev, err := set(t, c, many(t, n, "{}"))
	if kv, getErr := st.Get(t.Context(), Key("AuthorizationPolicy", "shop", fmt.Sprintf("p%04d", n-1))); err != nil || getErr != nil || kv.Mod != rev {
		t.Fatalf("revision %d, the last object is of %d: %v, %v", rev, kv.Mod, err, getErr)
	}
	holds(t, c, st, n, 1)
	if _, err := set(t, c, many(t, n, "{rules: [{}]}")); err != nil {
		t.Fatal(err)
	}
	holds(t, c, st, n, 2)
	gone := many(t, n, "{}")
	for i := range gone {
		gone[i].Remove = true
	}
	if _, err := set(t, c, gone); err != nil {
		t.Fatal(err)
	}
	holds(t, c, st, 0, 0)
	if _, err := c.PrepareSet(nil, slices.Repeat(many(t, 1, "{}"), MaxSet+1), time.Now()); !errors.As(err, &TooMany{}) {
		t.Errorf("%d changes: %v", MaxSet+1, err)
	}
}

// Wherever the store fails on the way: the old objects or the new ones, in one who reads them and in one who starts
// over, and never some of each.
func TestCommitSetFails(t *testing.T) {
	const n = 2*partOps + 1
	for _, outcome := range []store.Outcome{store.Lost, store.Applied} {
		for at := 1; ; at++ {
			armed, left := false, at
			st := store.Memory(store.MemoryOptions{Fault: func(store.Txn) store.Outcome {
				if armed {
					left--
				}
				if armed && left == 0 {
					return outcome
				}
				return store.Normal
			}})
			c := New(st, nil)
			if _, err := set(t, c, many(t, n, "{}")); err != nil {
				t.Fatal(err)
			}
			known, _, _ := c.All(t.Context())
			p, err := c.PrepareSet(known, many(t, n, "{rules: [{}]}"), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			armed = true
			_, err = c.CommitSet(t.Context(), p)
			armed = false
			if err == nil {
				st.Close()
				if at < 5 { // parts, Moving, moves
					t.Fatalf("only %d commits", at-1)
				}
				break
			}
			_, getErr := st.Get(t.Context(), Moving)
			want := int64(1)
			if getErr == nil || at > 4 { // the last move takes Moving along
				want = 2
			}
			if at%2 == 0 {
				c = New(st, nil) // a new start
				if _, err := c.Finish(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			known, _, err = c.All(t.Context())
			if err != nil || len(known) != n {
				t.Fatal(len(known), err)
			}
			for _, r := range known {
				if r.Generation != want {
					t.Fatalf("failing at commit %d (%v): %s is of generation %d, want %d", at, outcome, r.ID(), r.Generation, want)
				}
			}
			st.Close()
		}
	}
}

// Parts of a set that was never staged whole are no part of the next.
func TestCommitSetForgetsLeftovers(t *testing.T) {
	armed := 0
	st := store.Memory(store.MemoryOptions{Fault: func(store.Txn) store.Outcome {
		if armed--; armed == 0 {
			return store.Lost
		}
		return store.Normal
	}})
	t.Cleanup(func() { st.Close() })
	c := New(st, nil)
	armed = 4 // three parts, and then it fails
	if _, err := set(t, c, many(t, 3*partOps, "{}")); err == nil {
		t.Fatal("the store did not fail")
	}
	const n = partOps + 10
	if _, err := set(t, c, many(t, n, "{rules: [{}]}")); err != nil {
		t.Fatal(err)
	}
	holds(t, c, st, n, 1)
}
