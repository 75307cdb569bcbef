package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"countersign.dev/internal/files"
)

func TestSealKeyFile(t *testing.T) {
	dir := private(t)
	root, made, err := OpenSealKey(dir, nil)
	if err != nil || !made || len(root) != 32 || bytes.Equal(root, make([]byte, 32)) {
		t.Fatalf("first: %d bytes, made %v, %v", len(root), made, err)
	}
	again, made, err := OpenSealKey(dir, nil)
	if err != nil || made || !bytes.Equal(root, again) {
		t.Fatalf("again: made %v, equal %v, %v", made, bytes.Equal(root, again), err)
	}
	if st, err := dir.Stat("seal.key"); err != nil || st.Mode() != 0o600 || names(t, dir) != "seal.key" {
		t.Errorf("mode %v, %v; the directory holds %q", st.Mode(), err, names(t, dir))
	}
	if _, _, err := OpenSealKey(dir, []byte("phrase")); !errors.Is(err, ErrPassphraseUnused) {
		t.Errorf("with a passphrase: %v, want ErrPassphraseUnused", err)
	}

	if err := dir.Chmod("seal.key", 0o640); err != nil {
		t.Fatal(err)
	}
	_, _, err = OpenSealKey(dir, nil)
	if e := wantCode(t, err, "dir_open"); e.Detail != "others can read seal.key (0640)" || e.Path != dir.Name() {
		t.Errorf("readable key: %+v", e)
	}
	if err := files.WriteFile(dir, "seal.key", root[:31]); err != nil {
		t.Fatal(err)
	}
	_, _, err = OpenSealKey(dir, nil)
	wantCode(t, err, "data_damaged")
	if err := dir.Remove("seal.key"); err != nil {
		t.Fatal(err)
	}
	if err := dir.Symlink("/dev/zero", "seal.key"); err != nil {
		t.Fatal(err)
	}
	_, _, err = OpenSealKey(dir, nil)
	wantCode(t, err, "data_damaged")
}

// Of several that make the key at once, one does, and the others learn of it.
func TestSealKeyIsMadeOnce(t *testing.T) {
	dir := private(t)
	var mu sync.Mutex // guards made and failed
	var made, failed int
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, m, err := OpenSealKey(dir, nil)
			mu.Lock()
			defer mu.Unlock()
			if m {
				made++
			}
			if err != nil && !errors.Is(err, fs.ErrExist) {
				t.Error(err)
				failed++
			}
		})
	}
	wg.Wait()
	if made != 1 || failed != 0 {
		t.Errorf("made %d times, %d failed", made, failed)
	}
}

func TestSealKeyPassphrase(t *testing.T) {
	dir := private(t)
	root, made, err := OpenSealKey(dir, []byte("correct horse"))
	if err != nil || !made || len(root) != 32 {
		t.Fatalf("first: %d bytes, made %v, %v", len(root), made, err)
	}
	again, made, err := OpenSealKey(dir, []byte("correct horse"))
	if err != nil || made || !bytes.Equal(root, again) {
		t.Fatalf("again: made %v, equal %v, %v", made, bytes.Equal(root, again), err)
	}
	if _, _, err := OpenSealKey(dir, []byte("correct horsf")); !errors.Is(err, ErrPassphraseWrong) {
		t.Errorf("wrong: %v", err)
	}
	if _, _, err := OpenSealKey(dir, nil); !errors.Is(err, ErrPassphraseNeeded) {
		t.Errorf("none: %v", err)
	}
	text, err := files.ReadFile(dir, "seal.json", 4096)
	if err != nil || names(t, dir) != "seal.json" {
		t.Fatalf("%v; the directory holds %q", err, names(t, dir))
	}
	if bytes.Contains(text, root) || bytes.Contains(text, []byte("horse")) {
		t.Error("seal.json holds a secret")
	}
	for name, change := range map[string]func(p *sealParams){
		"weaker":          func(p *sealParams) { p.KiB = 8 },
		"one pass":        func(p *sealParams) { p.Passes = 1 },
		"all of memory":   func(p *sealParams) { p.KiB = 1 << 31 },
		"for ever":        func(p *sealParams) { p.Passes = 1 << 31 },
		"no lanes":        func(p *sealParams) { p.Lanes = 0 },
		"other function":  func(p *sealParams) { p.KDF = "scrypt" },
		"later version":   func(p *sealParams) { p.V = 2 },
		"short salt":      func(p *sealParams) { p.Salt = p.Salt[:8] },
		"no check value":  func(p *sealParams) { p.Check = nil },
		"cut check value": func(p *sealParams) { p.Check = p.Check[:31] },
	} {
		var p sealParams
		if err := json.Unmarshal(text, &p); err != nil {
			t.Fatal(err)
		}
		change(&p)
		changed, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := files.WriteFile(dir, "seal.json", changed); err != nil {
			t.Fatal(err)
		}
		_, _, err = OpenSealKey(dir, []byte("correct horse"))
		if e, ok := errors.AsType[*files.DirError](err); !ok || e.Code != "data_damaged" {
			t.Errorf("%s: %v, want data_damaged", name, err)
		}
	}
}

func TestSealer(t *testing.T) {
	m := Memory(MemoryOptions{})
	defer m.Close()
	root := bytes.Repeat([]byte{7}, 32)
	s, err := NewSealer(t.Context(), m, "default", root)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.Seal("ca/root", []byte("private"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Seal("ca/root", []byte("private")); err != nil || bytes.Equal(sealed, again) {
		t.Errorf("two sealings are equal, %v: a nonce came twice", err)
	}
	if sealed[0] != 1 || binary.BigEndian.Uint32(sealed[1:]) != 1 || len(sealed) != 1+4+12+len("private")+16 {
		t.Errorf("sealed value % x has another form", sealed)
	}
	for i := range sealed { // every byte counts
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x40
		plain, err := s.Unseal("ca/root", bad)
		if !errors.Is(err, ErrSeal) || plain != nil || strings.Contains(err.Error(), "private") {
			t.Fatalf("byte %d changed: %q, %v; want ErrSeal", i, plain, err)
		}
		if _, err := s.Unseal("ca/root", sealed[:i]); !errors.Is(err, ErrSeal) {
			t.Fatalf("cut to %d bytes: %v, want ErrSeal", i, err)
		}
	}
	if _, err := s.Seal("", nil); err == nil {
		t.Error("sealed for no path")
	}

	// The data keys of another cluster do not open, even with the same root.
	if _, err := NewSealer(t.Context(), m, "other", root); !errors.Is(err, ErrSeal) {
		t.Errorf("another cluster: %v, want ErrSeal", err)
	}
	// A data key opens under its own name alone, and only numbers are names.
	kv, err := m.Get(t.Context(), "seal/1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Commit(t.Context(), Txn{Then: []Op{Put("seal/2", kv.Value)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := NewSealer(t.Context(), m, "default", root); !errors.Is(err, ErrSeal) || !strings.Contains(err.Error(), "seal/2") {
		t.Errorf("a data key moved to another name: %v, want ErrSeal", err)
	}
	for _, name := range []string{"seal/0", "seal/x", "seal/4294967296", "seal/-1"} {
		for _, txn := range []Txn{{Then: []Op{DeletePrefix("seal/")}}, {Then: []Op{Put("seal/1", kv.Value), Put(name, kv.Value)}}} {
			if _, err := m.Commit(t.Context(), txn); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := NewSealer(t.Context(), m, "default", root); !errors.Is(err, ErrSeal) {
			t.Errorf("%s: %v, want ErrSeal", name, err)
		}
	}
}

// Two sealers that start at once on an empty store end with one data key, and read each other.
func TestSealersAtOnce(t *testing.T) {
	m := Memory(MemoryOptions{})
	defer m.Close()
	root := bytes.Repeat([]byte{7}, 32)
	sealers := make([]*Sealer, 8)
	var wg sync.WaitGroup
	for i := range sealers {
		wg.Go(func() {
			var err error
			if sealers[i], err = NewSealer(t.Context(), m, "default", root); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, a := range sealers {
		sealed, err := a.Seal("x", []byte("plain"))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range sealers {
			if plain, err := b.Unseal("x", sealed); err != nil || string(plain) != "plain" {
				t.Fatalf("%q, %v", plain, err)
			}
		}
	}
}

func TestSealerWithoutStore(t *testing.T) {
	m := Memory(MemoryOptions{Fault: func(Txn) Outcome { return Lost }})
	if _, err := NewSealer(t.Context(), m, "default", make([]byte, 32)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
	m.Close()
	if _, err := NewSealer(t.Context(), m, "default", make([]byte, 32)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
}

// FuzzUnseal: no value in the store, however broken, opens or panics.
func FuzzUnseal(f *testing.F) {
	m := Memory(MemoryOptions{})
	f.Cleanup(func() { m.Close() })
	s, err := NewSealer(f.Context(), m, "default", make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := s.Seal("other", []byte("plain"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(nil))
	f.Add([]byte{1, 0, 0, 0, 1})
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if plain, err := s.Unseal("ca/root", b); err == nil {
			t.Errorf("% x opened to %q", b, plain)
		}
	})
}

// FuzzSealParams: no seal.json may panic, or ask for less or far more work than ours.
func FuzzSealParams(f *testing.F) {
	f.Add([]byte(`{"v":1,"kdf":"argon2id","passes":3,"kib":65536,"lanes":4,"salt":"AAAAAAAAAAAAAAAAAAAAAA==","check":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`))
	f.Add([]byte(`{"v":1,"lanes":300}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseSealParams(b)
		if err == nil && (p.KiB < argonKiB || p.KiB > argonKiBMost || p.Passes < argonPasses || p.Passes > argonPassesMost || p.Lanes != argonLanes) {
			t.Errorf("took %+v", p)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	m := Memory(MemoryOptions{})
	defer m.Close()
	s, err := NewSealer(b.Context(), m, "default", make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	plain := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		sealed, _ := s.Seal("ca/root", plain)
		if _, err := s.Unseal("ca/root", sealed); err != nil {
			b.Fatal(err)
		}
	}
}

func private(t testing.TB) *os.Root {
	t.Helper()
	dir, err := files.PrivateDir(filepath.Join(t.TempDir(), "data", "server"), 0o700)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func names(t testing.TB, dir *os.Root) string {
	t.Helper()
	entries, err := os.ReadDir(dir.Name())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func wantCode(t testing.TB, err error, code string) *files.DirError {
	t.Helper()
	e, ok := errors.AsType[*files.DirError](err)
	if !ok || e.Code != code {
		t.Fatalf("%v, want a *files.DirError with %s", err, code)
	}
	return e
}
