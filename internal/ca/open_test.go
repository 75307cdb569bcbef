package ca_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/ca"
	"countersign.dev/internal/files"
	"countersign.dev/internal/store"
)

// issuerFile is the name of the one issuing key in the state directory.
func (h *house) issuerFile() string {
	h.t.Helper()
	names, err := fs.Glob(h.dir.FS(), "issuer-*.json")
	if err != nil || len(names) != 1 {
		h.t.Fatalf("issuing keys in the state directory: %q, %v, want one", names, err)
	}
	return names[0]
}

func (h *house) keys(prefix string) []string {
	h.t.Helper()
	kvs, _, err := h.st.List(h.t.Context(), prefix)
	if err != nil {
		h.t.Fatal(err)
	}
	var keys []string
	for _, kv := range kvs {
		keys = append(keys, kv.Key)
	}
	return keys
}

// edit changes a JSON value of the store.
func (h *house) edit(key string, change func(map[string]any)) {
	h.t.Helper()
	kv, err := h.st.Get(h.t.Context(), key)
	if err != nil {
		h.t.Fatal(err)
	}
	var value map[string]any
	if err := json.Unmarshal(kv.Value, &value); err != nil {
		h.t.Fatal(err)
	}
	change(value)
	text, err := json.Marshal(value)
	if err != nil {
		h.t.Fatal(err)
	}
	h.put(key, text)
}

func (h *house) put(key string, value []byte) {
	h.t.Helper()
	if _, err := h.st.Commit(h.t.Context(), store.Txn{Then: []store.Op{store.Put(key, value)}}); err != nil {
		h.t.Fatal(err)
	}
}

func TestOpenAgain(t *testing.T) {
	h := newHouse(t)
	first := h.open()
	issued, err := first.Issue(t.Context(), workload(t))
	if err != nil {
		t.Fatal(err)
	}
	second := h.open()
	a, b := first.Status(), second.Status()
	for i := range a {
		if a[i].KeyID != b[i].KeyID || !a[i].NotAfter.Equal(b[i].NotAfter) {
			t.Errorf("%s: got %+v, want %+v", a[i].Kind, b[i], a[i])
		}
		if !a[i].Made || b[i].Made {
			t.Errorf("%s: made %v then %v, want true then false", a[i].Kind, a[i].Made, b[i].Made)
		}
	}
	if first.Bundle().Sequence != 1 || second.Bundle().Sequence != 1 {
		t.Errorf("sequences %d and %d, want 1", first.Bundle().Sequence, second.Bundle().Sequence)
	}
	checkGood(t, second, issued, workload(t).ID, time.Now())
	if again, err := second.Issue(t.Context(), workload(t)); err != nil || !bytes.Equal(again.Chain[1], issued.Chain[1]) {
		t.Errorf("another issuing authority after the restart: %v", err)
	}
	if st, err := h.dir.Stat(h.issuerFile()); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("issuing key has mode %v, %v, want 0600", st.Mode(), err)
	}
}

// Two servers that start at one moment in an empty store have one root, and an issuing
// authority each; each one's leaves are good at the other.
func TestTwoServers(t *testing.T) {
	h := newHouse(t)
	other := *h
	other.name, other.dir = "s2", openDir(t)
	var wg sync.WaitGroup
	authorities := make([]*ca.Authority, 2)
	for i, house := range []*house{h, &other} {
		wg.Go(func() {
			var err error
			if authorities[i], err = house.try(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if a, b := authorities[0].Status(), authorities[1].Status(); a[0].KeyID != b[0].KeyID || a[1].KeyID == b[1].KeyID || a[0].Made == b[0].Made {
		t.Errorf("got %+v and %+v", a, b)
	}
	if n := len(h.keys("ca/root/")); n != 1 {
		t.Errorf("%d roots, want 1", n)
	}
	issued, err := authorities[0].Issue(t.Context(), workload(t))
	if err != nil {
		t.Fatal(err)
	}
	checkGood(t, authorities[1], issued, workload(t).ID, time.Now())
}

// What exists and does not open is an error that names it; nothing is made in its place.
func TestOpenFaults(t *testing.T) {
	otherSeal := func(h *house) {
		st := store.Memory(store.MemoryOptions{})
		h.t.Cleanup(func() { st.Close() })
		seal, err := store.NewSealer(h.t.Context(), st, "default", bytes.Repeat([]byte{8}, 32))
		if err != nil {
			h.t.Fatal(err)
		}
		h.seal = seal
	}
	rewrite := func(change func(map[string]any)) func(h *house) {
		return func(h *house) {
			name := h.issuerFile()
			text, err := h.dir.ReadFile(name)
			if err != nil {
				h.t.Fatal(err)
			}
			var value map[string]any
			if err := json.Unmarshal(text, &value); err != nil {
				h.t.Fatal(err)
			}
			change(value)
			if text, err = json.Marshal(value); err == nil {
				err = files.WriteFile(h.dir, name, text)
			}
			if err != nil {
				h.t.Fatal(err)
			}
		}
	}
	flip := func(value map[string]any) {
		key := []byte(value["key"].(string))
		if key[20] != 'A' {
			key[20] = 'A'
		} else {
			key[20] = 'B'
		}
		value["key"] = string(key)
	}
	for _, tt := range []struct {
		name   string
		damage func(h *house)
		want   string // in the error
	}{
		{"another seal key", otherSeal, "does not open"},
		{"root: sealed key changed", func(h *house) { h.edit(h.keys("ca/root/")[0], flip) }, "does not open"},
		{"root: no sealed key", func(h *house) {
			h.edit(h.keys("ca/root/")[0], func(v map[string]any) { delete(v, "key") })
		}, "not a sealed value"},
		{"root: not JSON", func(h *house) { h.put(h.keys("ca/root/")[0], []byte("{")) }, "ca/root/"},
		{"root: another root's value", func(h *house) {
			other := newHouse(h.t)
			other.open()
			kv, err := other.st.Get(h.t.Context(), other.keys("ca/root/")[0])
			if err != nil {
				h.t.Fatal(err)
			}
			h.put(h.keys("ca/root/")[0], kv.Value)
		}, "certificate of another key"},
		{"root: gone", func(h *house) {
			if _, err := h.st.Commit(h.t.Context(), store.Txn{Then: []store.Op{store.Delete(h.keys("ca/root/")[0])}}); err != nil {
				h.t.Fatal(err)
			}
		}, "no active root"},
		{"bundle: gone", func(h *house) {
			if _, err := h.st.Commit(h.t.Context(), store.Txn{Then: []store.Op{store.Delete("ca/bundle")}}); err != nil {
				h.t.Fatal(err)
			}
		}, "no ca/bundle"},
		{"bundle: without the root", func(h *house) {
			h.edit("ca/bundle", func(v map[string]any) { v["bundle"] = map[string]any{"keys": []any{}} })
		}, "does not hold the active root"},
		{"store: empty, directory not", func(h *house) {
			if _, err := h.st.Commit(h.t.Context(), store.Txn{Then: []store.Op{store.DeletePrefix("ca/")}}); err != nil {
				h.t.Fatal(err)
			}
		}, "do not belong together"},
		{"directory: empty", func(h *house) { h.dir = openDir(h.t) }, `is this the directory of server "s1"?`},
		{"directory: of another server", func(h *house) {
			other := *h
			other.name, other.dir = "s2", openDir(h.t)
			other.open()
			h.dir = other.dir
		}, `it is the key of server "s2", this is server "s1"`},
		{"directory: of another installation", func(h *house) {
			other := newHouse(h.t)
			other.open()
			h.dir = other.dir
		}, "did not sign it"},
		{"issuing key: changed", rewrite(flip), "does not open"},
		{"issuing key: passed off as this server's", func(h *house) {
			other := *h
			other.name, other.dir = "s2", openDir(h.t)
			other.open()
			h.dir = other.dir
			rewrite(func(v map[string]any) { v["server"] = "s1" })(h)
		}, "does not open"},
		{"issuing key: readable by others", func(h *house) {
			if err := h.dir.Chmod(h.issuerFile(), 0o644); err != nil {
				h.t.Fatal(err)
			}
		}, "others can read"},
		{"issuing key: a link", func(h *house) {
			name := h.issuerFile()
			if err := h.dir.Rename(name, "elsewhere"); err != nil {
				h.t.Fatal(err)
			}
			if err := h.dir.Symlink("elsewhere", name); err != nil {
				h.t.Fatal(err)
			}
		}, "not an ordinary file"},
		{"issuing key: another name", func(h *house) {
			if err := h.dir.Rename(h.issuerFile(), "issuer-"+strings.Repeat("0", 40)+".json"); err != nil {
				h.t.Fatal(err)
			}
		}, "certificate of another key"},
		{"issuing key: empty", func(h *house) {
			if err := files.WriteFile(h.dir, h.issuerFile(), nil); err != nil {
				h.t.Fatal(err)
			}
		}, "unexpected end"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			h.open()
			tt.damage(h)
			before, files, records := h.keys(""), dirNames(t, h.dir), len(h.log.last(1000))
			a, err := h.try()
			if err == nil || a != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			if after := h.keys(""); !slices.Equal(before, after) {
				t.Errorf("store was changed:\n%q\n%q", before, after)
			}
			if after := dirNames(t, h.dir); !slices.Equal(files, after) {
				t.Errorf("directory was changed:\n%q\n%q", files, after)
			}
			if after := len(h.log.last(1000)); after != records {
				t.Error("something was signed")
			}
		})
	}
}

func dirNames(t *testing.T, dir *os.Root) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir.Name(), "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestOpenOptions(t *testing.T) {
	h := newHouse(t)
	h.name = "Server 1"
	if _, err := h.try(); err == nil {
		t.Error("server name that is no label: opened")
	}
	good := ca.Options{Store: h.st, Sealer: h.seal, Dir: h.dir, ServerName: "s1", Recorder: h.log}
	if _, err := ca.Open(t.Context(), good); err == nil {
		t.Error("no trust domain: opened")
	}
	good.TrustDomain = td
	if _, err := ca.Open(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	good.TrustDomain = spiffeid.RequireTrustDomainFromString("other.test")
	if _, err := ca.Open(t.Context(), good); err == nil || !strings.Contains(err.Error(), "not of trust domain") || !errors.Is(err, ca.ErrKey) {
		t.Errorf("store of another trust domain: got %v", err)
	}
}

// A crash after the key was written and before the store knew: the next start goes on with it.
func TestCrashBetweenKeyAndStore(t *testing.T) {
	for _, outcome := range []store.Outcome{store.Lost, store.Applied} {
		h := newHouse(t)
		faulty := store.Memory(store.MemoryOptions{Fault: func(txn store.Txn) store.Outcome {
			if len(txn.Then) > 0 && strings.HasPrefix(txn.Then[0].Key, "ca/issuer/") {
				return outcome
			}
			return store.Normal
		}})
		t.Cleanup(func() { faulty.Close() })
		seal, err := store.NewSealer(t.Context(), faulty, "default", bytes.Repeat([]byte{7}, 32))
		if err != nil {
			t.Fatal(err)
		}
		h.st, h.seal = faulty, seal
		if _, err := h.try(); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("got %v, want ErrUnavailable", err)
		}
		name := h.issuerFile()
		healed := store.Memory(store.MemoryOptions{})
		t.Cleanup(func() { healed.Close() })
		h.st = healed
		copyStore(t, faulty, healed)
		a := h.open()
		if got := h.issuerFile(); got != name {
			t.Errorf("outcome %v: key %s, want the one from before the crash, %s", outcome, got, name)
		}
		if n := len(h.keys("ca/issuer/")); n != 1 {
			t.Errorf("outcome %v: %d issuing authorities stored, want 1", outcome, n)
		}
		if _, err := a.Issue(t.Context(), workload(t)); err != nil {
			t.Error(err)
		}
	}
}

func copyStore(t *testing.T, from, to store.Store) {
	t.Helper()
	kvs, _, err := from.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		if _, err := to.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put(kv.Key, kv.Value)}}); err != nil {
			t.Fatal(err)
		}
	}
}
