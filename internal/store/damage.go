package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"countersign.dev/internal/files"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// databasePath is where etcd keeps its database, below the store's directory.
func databasePath(dir string) string { return filepath.Join(dir, "member", "snap", "db") }

// checkDatabase reads the whole database once before etcd does. A damaged page makes bbolt
// panic, and etcd opens it in goroutines of its own, where nobody can recover: the process, and
// in `up` the data plane, would end with a stack trace instead of an error.
func checkDatabase(dir string) (err error) {
	path := databasePath(dir)
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a new store
	}
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	damaged := func(reason any) error {
		return &files.DirError{Code: "data_damaged", Path: dir, Detail: fmt.Sprintf("member/snap/db: %v", reason)}
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a page beyond the end of the file
	defer func() {
		if p := recover(); p != nil {
			err = damaged(p)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("opening the store: %w: another process has %s open", ErrUnavailable, path)
	case err != nil:
		return damaged(err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		if tx.Size() > st.Size() {
			return fmt.Errorf("it has %d bytes, its first page says %d", st.Size(), tx.Size())
		}
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	})
	if err != nil {
		return damaged(err)
	}
	return nil
}
