package apikey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// scanned is what Scan says, a line a hit, each file's in its order.
func scanned(t *testing.T, name string, history bool) (hits, unread []string) {
	t.Helper()
	err := Scan(t.Context(), name, history,
		func(h Hit) {
			hits = append(hits, fmt.Sprintf("%s:%d:%d %s %s %s", h.File, h.Line, h.Column, h.ID, h.Env, h.Commit))
		},
		func(file string, err error) { unread = append(unread, fmt.Sprintf("%s: %v", file, err)) })
	if err != nil {
		t.Fatal(err)
	}
	return hits, unread
}

// want holds hits against lines that end in no commit unless they say one.
func want(t *testing.T, got []string, lines ...string) {
	t.Helper()
	if !slices.Equal(got, lines) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(lines, "\n\t"))
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestScanFiles(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	live, test := minted(t, Live), minted(t, Test)
	write(t, dir, "ci/deploy.sh", strings.Repeat("echo\n", 13)+"  k='abc"+live.Reveal()+"' "+test.Reveal()+"\n")
	write(t, dir, "adjacent", live.Reveal()+test.Reveal())
	write(t, dir, "binary", "\x00\xff\n\x00"+live.Reveal()+"\x00")
	write(t, dir, "windows.txt", "a\r\n"+live.Reveal()+"\r\n")
	write(t, dir, "long", strings.Repeat("x", 3*window-30)+live.Reveal()+"\n"+test.Reveal())
	write(t, dir, "checksum", live.Reveal()[:crcAt]+"zzzzzz "+live.Reveal()[:Len-1])
	write(t, dir, "public", live.String())
	write(t, dir, "empty", "")
	write(t, dir, ".git/config", "url = https://"+live.Reveal()+"@shop.test\n")
	write(t, dir, ".git/objects/ab/cd", live.Reveal())
	write(t, dir, ".git/modules/sub/objects/ab/cd", live.Reveal())
	write(t, dir, "src/objects/a", live.Reveal())
	write(t, dir, "names/"+live.Reveal()+".txt", "")
	write(t, elsewhere, "secret", live.Reveal())
	for _, link := range [][2]string{{filepath.Join(elsewhere, "secret"), "link"}, {elsewhere, "linked"}, {".", "loop"}, {"adjacent", "inside"}} {
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	l, x := live.ID()+" live ", test.ID()+" test "
	hits, unread := scanned(t, dir, false)
	want(t, hits,
		".git/config:1:15 "+l,
		"adjacent:1:1 "+l, "adjacent:1:70 "+x,
		"binary:2:2 "+l,
		"ci/deploy.sh:14:9 "+l, "ci/deploy.sh:14:80 "+x,
		fmt.Sprintf("long:1:%d %s", 3*window-29, l), "long:2:1 "+x,
		"names/"+live.String()+".txt:0:0 "+l,
		"src/objects/a:1:1 "+l,
		"windows.txt:2:1 "+l,
	)
	if len(unread) > 0 {
		t.Errorf("not read: %v", unread)
	}
	hits, _ = scanned(t, filepath.Join(dir, "adjacent"), false)
	want(t, hits, "adjacent:1:1 "+l, "adjacent:1:70 "+x)
	hits, _ = scanned(t, filepath.Join(dir, "linked"), false) // who names a link means where it leads
	want(t, hits, "secret:1:1 "+l)
	hits, _ = scanned(t, filepath.Join(dir, "link"), false)
	want(t, hits, "secret:1:1 "+l)
}

// What cannot be read is told, the rest is searched. The superuser may read all files but
// /proc/self/mem, which has nothing at 0.
func TestScanGoesOnBehindUnreadable(t *testing.T) {
	dir, k := t.TempDir(), minted(t, Live)
	write(t, dir, "a", k.Reveal())
	write(t, dir, "b/c", k.Reveal())
	write(t, dir, "d", k.Reveal())
	if os.Geteuid() != 0 {
		for _, name := range []string{"a", "b"} {
			if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Chmod(filepath.Join(dir, name), 0o755) })
		}
		hits, unread := scanned(t, dir, false)
		want(t, hits, "d:1:1 "+k.ID()+" live ")
		if len(unread) != 2 || !strings.HasPrefix(unread[0], "a: ") || !strings.HasPrefix(unread[1], "b: ") {
			t.Errorf("not read: %v", unread)
		}
	}
	if runtime.GOOS == "linux" {
		hits, unread := scanned(t, "/proc/self/mem", false)
		if len(hits) != 0 || len(unread) != 1 || !strings.HasPrefix(unread[0], "mem: ") {
			t.Errorf("got %v, not read: %v", hits, unread)
		}
	}
}

func TestScanErrors(t *testing.T) {
	none := func(Hit) { t.Error("a hit") }
	if err := Scan(t.Context(), filepath.Join(t.TempDir(), "none"), false, none, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	dir := t.TempDir()
	write(t, dir, "a", minted(t, Live).Reveal())
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	if err := Scan(ctx, dir, false, none, nil); !errors.Is(err, stopped) {
		t.Errorf("got %v", err)
	}
}

func TestSearchStopsInAFile(t *testing.T) {
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	endless := iotest.DataErrReader(endlessKeys{[]byte(vector)})
	err := search(ctx, endless, make([]byte, window), func(Key, int, int) { cancel(stopped) })
	if !errors.Is(err, stopped) {
		t.Errorf("got %v", err)
	}
}

type endlessKeys struct{ text []byte }

func (e endlessKeys) Read(p []byte) (int, error) { return copy(p, e.text), nil }

// found is what search finds, and naive what the pattern and the checksum say.
func found(t *testing.T, text []byte, buf int, one bool) (out []string) {
	t.Helper()
	var r = bytes.NewReader(text)
	report := func(k Key, line, column int) { out = append(out, fmt.Sprint(k.Reveal(), line, column)) }
	err := search(t.Context(), r, make([]byte, buf), report)
	if one {
		out = nil
		r.Reset(text)
		err = search(t.Context(), iotest.OneByteReader(r), make([]byte, buf), report)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func naive(text []byte) (out []string) {
	for i := range text {
		if at := pattern.FindIndex(text[i:min(len(text), i+Len)]); at == nil || at[0] != 0 {
			continue
		}
		if k, err := Parse(text[i : i+Len]); err == nil {
			before := text[:i]
			out = append(out, fmt.Sprint(k.Reveal(), 1+bytes.Count(before, []byte("\n")), i-bytes.LastIndexByte(before, '\n')))
		}
	}
	return out
}

func FuzzSearch(f *testing.F) {
	f.Add([]byte("a\n"+vector), uint8(3), false)
	f.Add([]byte("csk_csk_live_"+vector+vector[:20]), uint8(0), true)
	f.Add([]byte(vector[:crcAt]+"000csk"), uint8(9), false) // its end is the beginning of the next
	f.Add([]byte(vector+vector+"\n\n"+vector[1:]), uint8(60), false)
	f.Fuzz(func(t *testing.T, text []byte, more uint8, one bool) {
		for _, text := range [][]byte{text, slices.Concat(text, []byte(vector), text)} {
			if got, want := found(t, text, 2*Len+int(more), one), naive(text); !slices.Equal(got, want) {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
	})
}

// Wherever a key lies over the end of what is read at once, it is found in its place.
func TestSearchAtEveryEdge(t *testing.T) {
	for before := range 3 * Len {
		text := slices.Concat(bytes.Repeat([]byte("ab\n"), before)[:before], []byte(vector+"\n"+vector))
		for _, buf := range []int{2 * Len, 2*Len + 1, window} {
			if got, want := found(t, text, buf, false), naive(text); len(want) != 2 || !slices.Equal(got, want) {
				t.Fatalf("%d before: got %q, want %q", before, got, want)
			}
		}
	}
}

func TestShorten(t *testing.T) {
	short := "csk_live_" + vectorID + "…"
	for text, want := range map[string]string{
		"a/b": "a/b", vector: short, "a" + vector + "/" + vector + ".txt": "a" + short + "/" + short + ".txt",
		vector[:crcAt] + "zzzcsk" + vector[3:]: short + short,
		vector[:crcAt] + "zzzzzz":              short, vector[:Len-1]: vector[:Len-1],
	} {
		if got := shorten(text); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
