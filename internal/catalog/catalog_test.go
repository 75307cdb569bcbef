package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"countersign.dev/internal/resource"
	"countersign.dev/internal/store"
)

func object(t *testing.T, name, spec string) resource.Object {
	t.Helper()
	doc := fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: shop}\nspec: %s\n", name, spec)
	objects, faults := resource.Decode([]resource.File{{Name: name + ".yaml", Data: []byte(doc)}}, resource.Options{})
	if resource.Stops(faults) || len(objects) != 1 {
		t.Fatalf("%s: %v", doc, faults)
	}
	return objects[0]
}

func puts(objects ...resource.Object) (out []Change) {
	for _, o := range objects {
		out = append(out, Change{Object: o})
	}
	return out
}

func sealer(t *testing.T, st store.Store) *store.Sealer {
	t.Helper()
	s, err := store.NewSealer(t.Context(), st, "default", bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t *testing.T) (*Catalog, *store.Mem) {
	t.Helper()
	st := store.Memory(store.MemoryOptions{})
	t.Cleanup(func() { st.Close() })
	return New(st, sealer(t, st)), st
}

// commit judges changes by what is stored now and writes them.
func commit(t *testing.T, c *Catalog, now time.Time, changes ...Change) ([]string, int64) {
	t.Helper()
	known, rev, err := c.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Prepare(known, changes, now)
	if err != nil {
		t.Fatal(err)
	}
	if p.Changes() {
		if rev, err = c.Commit(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	return p.Results, rev
}

// One object's life: created, unchanged at the same revision, changed with its age, deleted.
func TestLife(t *testing.T) {
	c, _ := open(t)
	born := time.Date(2026, 11, 21, 20, 14, 7, 0, time.UTC)
	one, two := object(t, "p", "{}"), object(t, "p", "{action: DENY, rules: [{}]}")
	results, first := commit(t, c, born, puts(one)...)
	if !slices.Equal(results, []string{Created}) {
		t.Fatalf("got %v", results)
	}
	moved := one
	moved.Places = resource.Places{File: "elsewhere.yaml"}
	results, rev := commit(t, c, born.Add(time.Hour), puts(moved)...)
	if !slices.Equal(results, []string{Unchanged}) || rev != first {
		t.Errorf("the same from another file: %v at %d, want unchanged at %d", results, rev, first)
	}
	results, rev = commit(t, c, born.Add(time.Hour), puts(two)...)
	if !slices.Equal(results, []string{Changed}) || rev <= first {
		t.Errorf("got %v at %d", results, rev)
	}
	known, _, err := c.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := known[Key("AuthorizationPolicy", "shop", "p")]
	if !r.Created.Equal(born) || r.First != first || r.Last != rev || string(r.JSON) != string(two.JSON) {
		t.Errorf("record is %+v, want born %v, revisions %d and %d", r, born, first, rev)
	}
	results, _ = commit(t, c, born, Change{Object: two, Remove: true})
	if known, _, _ := c.All(t.Context()); !slices.Equal(results, []string{Deleted}) || len(known) != 0 {
		t.Errorf("got %v, left %v", results, known)
	}
}

// Two batches judged against the same objects: the first is written, the second changes nothing.
func TestAllOrNothing(t *testing.T) {
	c, _ := open(t)
	now := time.Now()
	commit(t, c, now, puts(object(t, "a", "{}"), object(t, "b", "{}"))...)
	known, _, err := c.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first, err1 := c.Prepare(known, puts(object(t, "a", "{rules: [{}]}")), now)
	second, err2 := c.Prepare(known, puts(object(t, "b", "{rules: [{}]}"), object(t, "c", "{}"), object(t, "a", "{action: DENY, rules: [{}]}")), now)
	gone, err3 := c.Prepare(known, []Change{{Object: object(t, "a", "{}"), Remove: true}}, now)
	made, err4 := c.Prepare(nil, puts(object(t, "b", "{}")), now)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Commit(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]Plan{"changed meanwhile": second, "deleted what changed": gone, "made what exists": made} {
		if _, err := c.Commit(t.Context(), p); !errors.Is(err, ErrConflict) {
			t.Errorf("%s: got %v, want a conflict", name, err)
		}
	}
	known, _, err = c.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(known) != 2 || string(known[Key("AuthorizationPolicy", "shop", "b")].JSON) != string(object(t, "b", "{}").JSON) {
		t.Errorf("a refused batch left its mark: %v", known)
	}
}

// A batch is one transaction: 100 changes go, one more is refused, unchanged ones do not count.
func TestTooMany(t *testing.T) {
	c, _ := open(t)
	var batch []resource.Object
	for i := range MaxChanges {
		batch = append(batch, object(t, fmt.Sprintf("p%d", i), "{}"))
	}
	commit(t, c, time.Now(), puts(batch...)...)
	commit(t, c, time.Now(), puts(append(batch, object(t, "one-more", "{}"))...)...)
	known, _, err := c.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var many TooMany
	_, err = c.Prepare(nil, puts(append(batch, object(t, "one-more", "{}"))...), time.Now())
	if !errors.As(err, &many) || many.Changes != MaxChanges+1 {
		t.Errorf("got %v, want %d refused", err, MaxChanges+1)
	}
	if len(known) != MaxChanges+1 {
		t.Errorf("%d objects, want %d", len(known), MaxChanges+1)
	}
}

// What lies under a key that is not its own is never believed.
func TestDecodeRefuses(t *testing.T) {
	c, st := open(t)
	commit(t, c, time.Now(), puts(object(t, "p", "{}"))...)
	kv, err := st.Get(t.Context(), Key("AuthorizationPolicy", "shop", "p"))
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string]store.KV{
		"another key": {Key: Key("AuthorizationPolicy", "istio-system", "p"), Value: kv.Value},
		"cut off":     {Key: kv.Key, Value: kv.Value[:len(kv.Value)/2]},
		"empty":       {Key: kv.Key, Value: []byte("{}")},
	} {
		if r, err := Decode(broken, nil); err == nil {
			t.Errorf("%s: read as %+v", name, r)
		}
	}
}
