package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// place is a directory that is followed, and what comes of it.
type place struct {
	t   *testing.T
	dir string
	got chan string
}

// follow gives each tree as "a.yaml=text b.yaml=text", or the error.
func follow(t *testing.T, dir string) *place {
	p := &place{t, dir, make(chan string, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Follow(ctx, dir, slog.New(slog.DiscardHandler), func(_ context.Context, files []File, err error) time.Duration {
			p.got <- said(dir, files, err)
			return 0
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

func said(dir string, files []File, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	var words []string
	for _, f := range files {
		name, _ := filepath.Rel(dir, f.Name)
		words = append(words, name+"="+string(f.Data))
	}
	return strings.Join(words, " ")
}

// next waits for one tree and no other.
func (p *place) next(want string) {
	p.t.Helper()
	select {
	case got := <-p.got:
		if got != want && !(strings.HasSuffix(want, "*") && strings.HasPrefix(got, strings.TrimSuffix(want, "*"))) {
			p.t.Fatalf("got %q, want %q", got, want)
		}
	case <-time.After(10 * time.Second):
		p.t.Fatalf("nothing came, want %q", want)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A directory in all the ways that people and programs change it: each change is one tree.
func TestFollow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mesh")
	must(t, os.Mkdir(dir, 0o700))
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, at("a.yaml"), "1")
	write(t, at("notes.txt"), "no document")
	write(t, at(".hidden.yaml"), "nor this")
	p := follow(t, dir)
	p.next("a.yaml=1")

	write(t, at("b.tmp"), "2")
	must(t, os.Rename(at("b.tmp"), at("b.yml")))
	p.next("a.yaml=1 b.yml=2")

	must(t, os.MkdirAll(at("team/deep"), 0o700))
	write(t, at("team/deep/c.json"), "3")
	p.next("a.yaml=1 b.yml=2 team/deep/c.json=3")

	f, err := os.Create(at("b.yml")) // written in pieces, with pauses longer than the quiet
	must(t, err)
	for _, piece := range []string{"x", "y", "z"} {
		_, err := f.WriteString(piece)
		must(t, err)
		time.Sleep(5 * quiet)
	}
	must(t, f.Close())
	p.next("a.yaml=1 b.yml=xyz team/deep/c.json=3")

	must(t, os.RemoveAll(at("team")))
	p.next("a.yaml=1 b.yml=xyz")
	must(t, os.Rename(dir, dir+"-away"))
	p.next("error: *")
	must(t, os.Rename(dir+"-away", dir))
	p.next("a.yaml=1 b.yml=xyz")
}

// ConfigMap and git-sync: links that are swapped at once.
func TestFollowLinks(t *testing.T) {
	base := t.TempDir()
	for _, version := range []string{"1", "2"} {
		must(t, os.MkdirAll(filepath.Join(base, "mesh", "..v"+version), 0o755))
		write(t, filepath.Join(base, "mesh", "..v"+version, "a.yaml"), version)
	}
	dir := filepath.Join(base, "mesh")
	swap := func(target, link string) {
		t.Helper()
		must(t, os.Symlink(target, link+"_tmp"))
		must(t, os.Rename(link+"_tmp", link))
	}
	swap("..v1", filepath.Join(dir, "..data"))
	must(t, os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")))
	p := follow(t, dir)
	p.next("a.yaml=1")
	swap("..v2", filepath.Join(dir, "..data"))
	p.next("a.yaml=2")

	link := filepath.Join(base, "current")
	swap(filepath.Join(dir, "..v1"), link)
	q := follow(t, link)
	q.next("a.yaml=1")
	swap(filepath.Join(dir, "..v2"), link)
	q.next("a.yaml=2")
}

// A directory that another user can change is not read: he would be the mesh's admin (security.md 4, S23).
func TestSecWatchOwner(t *testing.T) {
	for _, tt := range []struct {
		what string
		do   func(dir string) error
		want string // in the error; empty: it is read
	}{
		{"its own", func(string) error { return nil }, ""},
		{"the group writes", func(dir string) error { return os.Chmod(dir, 0o770) }, ""},
		{"everybody writes", func(dir string) error { return os.Chmod(dir, 0o777) }, "mesh can be written by everybody (0777)"},
		{"sticky, but everybody's", func(dir string) error { return os.Chmod(dir, 0o777|fs.ModeSticky) }, "mesh can be written by everybody"},
		{"everybody writes above", func(dir string) error { return os.Chmod(filepath.Dir(dir), 0o777) }, "above can be written by everybody"},
		{"sticky above", func(dir string) error { return os.Chmod(filepath.Dir(dir), 0o777|fs.ModeSticky) }, ""},
		{"everybody writes below", func(dir string) error { return os.Chmod(filepath.Join(dir, "team"), 0o777) }, "team can be written by everybody"},
		{"everybody writes a file", func(dir string) error { return os.Chmod(filepath.Join(dir, "team", "a.yaml"), 0o666) }, "a.yaml can be written by everybody (0666)"},
		{"a link to what everybody writes", func(dir string) error {
			open := filepath.Join(filepath.Dir(filepath.Dir(dir)), "open")
			return errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777), os.WriteFile(filepath.Join(open, "b.yaml"), nil, 0o600),
				os.Symlink(filepath.Join(open, "b.yaml"), filepath.Join(dir, "b.yaml")))
		}, "open can be written by everybody"},
		{"by way of what everybody writes", func(dir string) error {
			open := filepath.Join(filepath.Dir(filepath.Dir(dir)), "open")
			return errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777), os.Symlink(filepath.Join(dir, "team", "a.yaml"), filepath.Join(open, "hop")),
				os.Symlink(filepath.Join(open, "hop"), filepath.Join(dir, "b.yaml")))
		}, "open can be written by everybody"},
		{"by way of another's link", func(dir string) error {
			hop := filepath.Join(filepath.Dir(dir), "hop")
			return errors.Join(os.Symlink(filepath.Join(dir, "team", "a.yaml"), hop), os.Symlink(hop, filepath.Join(dir, "b.yaml")), os.Lchown(hop, 65534, -1))
		}, "hop belongs to user 65534"},
		{"itself another's link", func(dir string) error {
			return errors.Join(os.Rename(dir, dir+"-real"), os.Symlink("mesh-real", dir), os.Lchown(dir, 65534, -1))
		}, "mesh belongs to user 65534"},
		{"itself a link", func(dir string) error {
			return errors.Join(os.Rename(dir, dir+"-real"), os.Symlink("mesh-real", dir))
		}, ""},
		{"links in a circle", func(dir string) error {
			return errors.Join(os.Symlink("c.yaml", filepath.Join(dir, "b.yaml")), os.Symlink("b.yaml", filepath.Join(dir, "c.yaml")))
		}, "too many"},
		{"another's", func(dir string) error { return os.Chown(dir, 65534, -1) }, "mesh belongs to user 65534"},
		{"another's file", func(dir string) error { return os.Chown(filepath.Join(dir, "team", "a.yaml"), 65534, -1) }, "a.yaml belongs to user 65534"},
		{"another's above", func(dir string) error { return os.Chown(filepath.Dir(dir), 65534, -1) }, "above belongs to user 65534"},
		{"a pipe", func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "team", "a.yaml")), syscall.Mkfifo(filepath.Join(dir, "team", "a.yaml"), 0o600))
		}, "a.yaml is no ordinary file"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "above", "mesh")
			must(t, os.MkdirAll(filepath.Join(dir, "team"), 0o700))
			write(t, filepath.Join(dir, "team", "a.yaml"), "1")
			if err := tt.do(dir); errors.Is(err, fs.ErrPermission) {
				return // only root gives files away
			} else if err != nil {
				t.Fatal(err)
			}
			files, err := read(dir)
			if tt.want == "" && (err != nil || len(files) != 1) {
				t.Errorf("%d files, %v", len(files), err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || files != nil) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o770))
	if warnings, err := Check(dir); err != nil || !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, "its group can write") }) {
		t.Errorf("%q, %v", warnings, err)
	}
}

// A tree has bounds.
func TestTreeLimits(t *testing.T) {
	deep := t.TempDir()
	must(t, os.MkdirAll(deep+strings.Repeat("/d", maxDepth+2), 0o700))
	if _, err := read(deep); err == nil || !strings.Contains(err.Error(), "directories deep") {
		t.Errorf("too deep: %v", err)
	}
	large := t.TempDir()
	f, err := os.Create(filepath.Join(large, "a.yaml"))
	must(t, err)
	must(t, errors.Join(f.Truncate(MaxBytes+1), f.Close()))
	if _, err := read(large); err == nil || !strings.Contains(err.Error(), "64 MiB") {
		t.Errorf("too large: %v", err)
	}
	many := t.TempDir()
	for i := range MaxFiles + 1 {
		write(t, filepath.Join(many, fmt.Sprintf("%d.yaml", i)), "")
	}
	if _, err := read(many); err == nil || !strings.Contains(err.Error(), "more than 10000 files") {
		t.Errorf("too many: %v", err)
	}
}
