package store_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"countersign.dev/internal/store"
	"countersign.dev/internal/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		m := store.Memory(store.MemoryOptions{})
		t.Cleanup(func() { m.Close() })
		return m
	})
}

func TestEmbedded(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, filepath.Join(shortDir(t), "store")) })
}

// shortDir is a directory whose sockets have short paths, wherever TMPDIR is.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "cs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// open opens an embedded engine and closes it at the end of the test.
func open(t testing.TB, dir string) *store.Etcd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e, err := store.Embedded(ctx, store.EmbeddedOptions{Dir: dir, Cluster: "default"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}
