package keyring_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/store"
)

// The same on the engine that servers have: a race, rotations, a restart.
func TestEmbedded(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "cs") // the paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	open := func() *store.Etcd {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		e, err := store.Embedded(ctx, store.EmbeddedOptions{Dir: filepath.Join(dir, "store"), Cluster: "default"})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := open()
	h := &house{t: t, st: e, seal: newSealer(t, e, 7)}
	a, b := h.open(), h.open()
	first, _ := a.Active()
	if k, _ := b.Active(); k.ID != first.ID {
		t.Fatalf("%s and %s are active", first.ID, k.ID)
	}
	stop := run(t, b)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := a.Rotate(t.Context(), i%2 > 0, i == 7); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	active, _ := a.Active()
	deadline := time.Now().Add(10 * time.Second)
	for k, _ := b.Active(); k.ID != active.ID; k, _ = b.Active() {
		if time.Now().After(deadline) {
			t.Fatal("the other server does not follow")
		}
		time.Sleep(time.Millisecond)
	}
	checkSigns(t, b)
	known := ids(a.Keys())
	stop()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open()
	defer e.Close()
	h.st, h.seal = e, newSealer(t, e, 7)
	again := h.open()
	if k, _ := again.Active(); k.ID != active.ID || !slices.Equal(ids(again.Keys()), known) {
		t.Errorf("after the restart %s is active of %q, want %s of %q", k.ID, ids(again.Keys()), active.ID, known)
	}
	checkSigns(t, again)
	if n := slices.Index(h.states(), "activate"); n < 0 || slices.Contains(h.states()[n+1:], "activate") {
		t.Errorf("states %q, want one active", h.states())
	}
}
