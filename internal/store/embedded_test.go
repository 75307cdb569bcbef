package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/files"
	"countersign.dev/internal/store"
	"countersign.dev/internal/store/storetest"
)

// childDir, in the environment of the test binary, makes it the writer of TestKill.
const childDir = "STORE_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(writeForEver(dir))
	}
	os.Exit(m.Run())
}

// writeForEver commits from four goroutines and prints each key when it is acknowledged.
func writeForEver(dir string) int {
	st, err := store.Embedded(context.Background(), store.EmbeddedOptions{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var mu sync.Mutex // guards stdout, for one line
	var wg sync.WaitGroup
	run := strconv.FormatInt(time.Now().UnixNano(), 10)
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("kill/%s/%d/%d", run, w, i)
				_, err := st.Commit(context.Background(), store.Txn{If: []store.Cmp{store.Absent(key)}, Then: []store.Op{store.Put(key, []byte(key))}})
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				mu.Lock()
				os.Stdout.WriteString(key + "\n")
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return 1
}

// What was acknowledged before a kill -9 is there afterwards, over several kills.
func TestKill(t *testing.T) {
	dir := filepath.Join(shortDir(t), "store")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var acknowledged []string
	for round := range 3 {
		child := exec.CommandContext(t.Context(), exe)
		child.Env = append(os.Environ(), childDir+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines, want := bufio.NewScanner(out), 150+97*round
		for n := 0; lines.Scan(); n++ {
			acknowledged = append(acknowledged, lines.Text())
			if n == want { // what is still in the pipe was acknowledged too: read on until it ends
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := child.Wait(); err == nil || len(acknowledged) < want {
			t.Fatalf("the child ended with %v after %d lines", err, len(acknowledged))
		}
	}
	st := open(t, dir)
	kvs, _, err := st.List(t.Context(), "kill/")
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]bool, len(kvs))
	for _, kv := range kvs {
		have[kv.Key] = string(kv.Value) == kv.Key
	}
	for _, key := range acknowledged {
		if !have[key] {
			t.Errorf("%s was acknowledged and is lost", key)
		}
	}
	t.Logf("%d acknowledged, %d present", len(acknowledged), len(kvs))
}

func TestReopen(t *testing.T) {
	dir := filepath.Join(shortDir(t), "deep", "store")
	one, err := store.Embedded(t.Context(), store.EmbeddedOptions{Dir: dir, Cluster: "one"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := one.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("a", []byte("kept"))}})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := one.Watch(t.Context(), "", r.Rev)
	if err != nil {
		t.Fatal(err)
	}
	l, err := one.Lease(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if b := <-watch; !errors.Is(b.Err, store.ErrUnavailable) {
		t.Errorf("a watch ends with %+v at Close, want ErrUnavailable", b)
	}
	<-l.Done()
	if _, err := one.Get(t.Context(), "a"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("get after Close: %v, want ErrUnavailable", err)
	}
	if _, err := one.Status(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("status after Close: %v, want ErrUnavailable", err)
	}

	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err == nil && st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, st.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	two, err := store.Embedded(t.Context(), store.EmbeddedOptions{Dir: dir, Cluster: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	if kv, err := two.Get(t.Context(), "a"); err != nil || string(kv.Value) != "kept" || kv.Mod != r.Rev {
		t.Errorf("after reopening: %v, %v", kv, err)
	}
	socket, err := os.Stat(filepath.Join(dir, "c.sock"))
	if err != nil || socket.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v; want mode 0600", socket, err)
	}
}

// TestSecStoreNoAbstractSocket: the default store can be reached by nobody but its owner. An
// etcd peer URL of unix:///… would bind an abstract socket (registry.md 4.1).
func TestSecStoreNoAbstractSocket(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // only Linux has abstract sockets
	}
	dir := shortDir(t)
	before := listeners(t)
	open(t, filepath.Join(dir, "store"))
	var opened []string
	for _, l := range listeners(t) {
		if !slices.Contains(before, l) {
			opened = append(opened, l)
		}
	}
	// Other processes may open sockets meanwhile: only what is ours counts.
	own := ownSockets(t)
	for _, l := range opened {
		kind, rest, _ := strings.Cut(l, " ")
		inode, where, _ := strings.Cut(rest, " ")
		if own[inode] && (kind != "unix" || where != filepath.Join(dir, "store", "c.sock")) {
			t.Errorf("opening the store added the socket %q", l)
		}
	}
	if !slices.ContainsFunc(opened, func(l string) bool { return strings.HasSuffix(l, "/store/c.sock") }) {
		t.Errorf("the test is blind: it did not see c.sock among %q", opened)
	}
}

// listeners lists "unix INODE PATH" (abstract paths begin with @) and "tcp INODE ADDRESS".
func listeners(t *testing.T) (all []string) {
	t.Helper()
	for _, table := range []struct {
		file, kind          string
		state, inode, where int
		listening           string
	}{
		{"/proc/self/net/unix", "unix", 3, 6, 7, "00010000"},
		{"/proc/self/net/tcp", "tcp", 3, 9, 1, "0A"},
		{"/proc/self/net/tcp6", "tcp", 3, 9, 1, "0A"},
		{"/proc/self/net/udp", "udp", 3, 9, 1, ""},
	} {
		text, err := os.ReadFile(table.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(text), "\n")[1:] {
			f := strings.Fields(line)
			if len(f) > max(table.inode, table.where) && (table.listening == "" || f[table.state] == table.listening) {
				all = append(all, table.kind+" "+f[table.inode]+" "+f[table.where])
			}
		}
	}
	return all
}

func ownSockets(t *testing.T) map[string]bool {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	own := map[string]bool{}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "socket:[") {
			own[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	return own
}

// A secret that was sealed is in no file of the data directory; one that was not is.
func TestSealedMarkersStayOffTheDisk(t *testing.T) {
	dir := filepath.Join(shortDir(t), "store")
	st := open(t, dir)
	s, err := store.NewSealer(t.Context(), st, "default", []byte("root-marker-0a9f3b7c5d21e86f4802"))
	if err != nil {
		t.Fatal(err)
	}
	root, secret, control := []byte("root-marker-0a9f3b7c5d21e86f4802"), []byte("secret-marker-6b1d09c7f3"), []byte("control-marker-2e8a70d4b5")
	sealed, err := s.Seal("ca/root/1", secret)
	if err != nil {
		t.Fatal(err)
	}
	inJSON := fmt.Appendf(nil, `{"v":1,"key":%q}`, "Y29udHJvbC1tYXJrZXItMmU4YTcwZDRiNQ") // the control in base64
	_, err = st.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("ca/root/1", sealed), store.Put("plain", control), store.Put("json", inJSON)}})
	if err != nil {
		t.Fatal(err)
	}
	dump, err := os.Create(filepath.Join(dir, "dump"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Dump(t.Context(), dump); err != nil {
		t.Fatal(err)
	}
	dump.Close()
	seen := map[string]bool{}
	for _, f := range storetest.Scan(t, dir, root, secret, control) {
		if string(f.Marker) != string(control) {
			t.Errorf("%q lies in %s, %s", f.Marker, f.File, f.Form)
		}
		seen[filepath.Base(filepath.Dir(f.File))+" "+f.Form] = true
	}
	for _, want := range []string{"wal plain", "wal base64", ". base64"} {
		if !seen[want] {
			t.Errorf("the scan is blind: the control was not found in %q, only in %v", want, seen)
		}
	}
}

// The lease lives on after its ttl, because it is kept alive.
func TestLeaseIsKeptAlive(t *testing.T) {
	t.Parallel()
	st := open(t, filepath.Join(shortDir(t), "store"))
	l, err := st.Lease(t.Context(), 10*time.Millisecond) // raised to a second
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Commit(t.Context(), store.Txn{Then: []store.Op{store.PutLeased("a", nil, l.ID())}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.Done():
		t.Error("the lease ended while it was kept alive")
	case <-time.After(2500 * time.Millisecond):
	}
	if _, err := st.Get(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

// Damaged files end the start with an error that names the directory, never the process.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"database is text": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "member/snap/db"), []byte(strings.Repeat("no database ", 4000)), 0o600)
		},
		"database is cut":    func(dir string) error { return os.Truncate(filepath.Join(dir, "member/snap/db"), 12000) },
		"log is overwritten": overwriteLog,
		"log is gone, not the database": func(dir string) error {
			files, err := filepath.Glob(filepath.Join(dir, "member/wal/*.wal"))
			for _, f := range files {
				err = errors.Join(err, os.Truncate(f, 0))
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(shortDir(t), "store")
			st, err := store.Embedded(t.Context(), store.EmbeddedOptions{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				if _, err := st.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put(strconv.Itoa(i), make([]byte, 1000))}}); err != nil {
					t.Fatal(err)
				}
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			st, err = store.Embedded(t.Context(), store.EmbeddedOptions{Dir: dir})
			if err == nil {
				st.Close()
				t.Fatal("opened")
			}
			if e, ok := errors.AsType[*files.DirError](err); !ok || e.Code != "data_damaged" || e.Path != dir {
				t.Errorf("%v, want a *files.DirError with data_damaged", err)
			}
			t.Log(err)
		})
	}
}

// overwriteLog flips bytes in the middle of what was written.
func overwriteLog(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "member/wal/*.wal"))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(files[0], os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(strings.Repeat("\xff", 64)), 30_000)
	return errors.Join(err, f.Close())
}

func TestSocketPathTooLong(t *testing.T) {
	dir := filepath.Join(shortDir(t), strings.Repeat("long", 26))
	_, err := store.Embedded(t.Context(), store.EmbeddedOptions{Dir: dir})
	if e, ok := errors.AsType[*files.DirError](err); !ok || e.Code != "socket_path" {
		t.Errorf("%v, want socket_path", err)
	}
}

func BenchmarkOpen(b *testing.B) {
	dir := filepath.Join(shortDir(b), "store")
	for b.Loop() {
		st, err := store.Embedded(b.Context(), store.EmbeddedOptions{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := st.Commit(b.Context(), store.Txn{Then: []store.Op{store.Put("a", nil)}}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		st.Close()
		b.StartTimer()
	}
}
