package storetest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"

	"countersign.dev/internal/store"
)

// dumps: everything but leased keys, at one revision, with a checksum that fits.
func dumps(t *testing.T, st store.Store) {
	dumper, ok := st.(store.Dumper)
	if !ok {
		t.Fatal("the engine has no Dump")
	}
	const keys = 1200 // more than a page
	for i := 0; i < keys; i += 100 {
		var txn store.Txn
		for j := i; j < i+100; j++ {
			txn.Then = append(txn.Then, store.Put("d/"+strconv.Itoa(j), []byte{0, byte(j), 0xff}))
		}
		commit(t, st, txn)
	}
	l := lease(t, t.Context(), st)
	rev := commit(t, st, store.Txn{Then: []store.Op{store.PutLeased("server/1", nil, l.ID())}}).Rev

	var file bytes.Buffer
	if got, err := dumper.Dump(t.Context(), &file); err != nil || got != rev {
		t.Fatalf("dump at %d, %v; want revision %d", got, err, rev)
	}
	lines := strings.SplitAfter(strings.TrimSuffix(file.String(), "\n"), "\n")
	if len(lines) != keys+2 {
		t.Fatalf("dump has %d lines, want a header, %d keys and a checksum", len(lines), keys)
	}
	var head struct {
		Format, Rev int64
		Cluster     string
	}
	if err := json.Unmarshal([]byte(lines[0]), &head); err != nil || head.Rev != rev || head.Format != 1 || head.Cluster == "" {
		t.Errorf("header %q, %v", lines[0], err)
	}
	sum := sha256.Sum256([]byte(strings.Join(lines[:len(lines)-1], "")))
	if want := `{"sha256":"` + hex.EncodeToString(sum[:]) + `"}`; lines[len(lines)-1] != want {
		t.Errorf("checksum line %q, want %q", lines[len(lines)-1], want)
	}
	last := ""
	for _, line := range lines[1 : len(lines)-1] {
		var kv struct {
			Key         string
			Value       []byte
			Create, Mod int64
		}
		if err := json.Unmarshal([]byte(line), &kv); err != nil {
			t.Fatal(err)
		}
		now := get(t, st, kv.Key)
		if kv.Key <= last || !bytes.Equal(kv.Value, now.Value) || kv.Create != now.Create || kv.Mod != now.Mod {
			t.Fatalf("line %q after %q, the store has %v", line, last, now)
		}
		last = kv.Key
	}
	if err := l.End(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func sealedMoved(t *testing.T, st store.Store) {
	root := make([]byte, 32)
	_, _ = rand.Read(root)
	s, err := store.NewSealer(t.Context(), st, "default", root)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.Seal("ca/root/1", []byte("the private key"))
	if err != nil {
		t.Fatal(err)
	}
	commit(t, st, store.Txn{Then: []store.Op{store.Put("ca/root/1", sealed), store.Put("ca/root/2", sealed)}})

	again, err := store.NewSealer(t.Context(), st, "default", root) // as after a restart
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := again.Unseal("ca/root/1", get(t, st, "ca/root/1").Value); err != nil || string(plain) != "the private key" {
		t.Errorf("unseal: %q, %v", plain, err)
	}
	plain, err := again.Unseal("ca/root/2", get(t, st, "ca/root/2").Value)
	if !errors.Is(err, store.ErrSeal) || plain != nil {
		t.Errorf("unseal under another key: %q, %v; want ErrSeal", plain, err)
	}
	if err != nil && (!strings.Contains(err.Error(), `"ca/root/2"`) || !strings.Contains(err.Error(), "data key 1")) {
		t.Errorf("the error %q does not name path and key", err)
	}
	root[0] ^= 1
	if _, err := store.NewSealer(t.Context(), st, "default", root); !errors.Is(err, store.ErrSeal) {
		t.Errorf("another root sealing key: %v, want ErrSeal", err)
	}
}
