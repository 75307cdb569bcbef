package files

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A file of a directory is read, and no other by whatever link; nor what others could change, nor what is no file.
func TestSecReadBelow(t *testing.T) {
	dir := t.TempDir()
	in := func(name ...string) string { return filepath.Join(append([]string{dir, "certs"}, name...)...) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(mode os.FileMode, name ...string) {
		t.Helper()
		must(os.MkdirAll(filepath.Dir(in(name...)), 0o755))
		must(os.WriteFile(in(name...), []byte(strings.Join(name, "/")), 0o600))
		must(os.Chmod(in(name...), mode))
	}
	put(0o600, "shop", "a.pem")
	put(0o644, "shop", "deep", "b.pem")
	put(0o600, "team", "a.pem")
	put(0o622, "shop", "loose.pem")
	put(0o600, "open", "a.pem")
	must(os.Chmod(in("open"), 0o777))
	must(os.WriteFile(filepath.Join(dir, "outside.pem"), nil, 0o600))
	must(os.WriteFile(in("shop", "large.pem"), make([]byte, 65), 0o600))
	must(os.Symlink("deep/b.pem", in("shop", "within.pem")))
	must(os.Symlink("../team/a.pem", in("shop", "across.pem")))
	must(os.Symlink(filepath.Join(dir, "outside.pem"), in("shop", "out.pem")))
	must(os.Symlink("../team", in("shop", "dir")))
	must(os.Symlink("team", in("link")))
	must(os.Symlink("loop.pem", in("shop", "loop.pem")))
	must(syscall.Mkfifo(in("shop", "pipe.pem"), 0o600))
	for _, tt := range []struct{ sub, name, want, fault string }{
		{"shop", "a.pem", "shop/a.pem", ""},
		{"shop", "deep/b.pem", "shop/deep/b.pem", ""},
		{"shop", "within.pem", "shop/deep/b.pem", ""},
		{"shop", "across.pem", "", "cannot be read: path escapes"},
		{"shop", "out.pem", "", "cannot be read: path escapes"},
		{"shop", "dir/a.pem", "", "cannot be read: path escapes"},
		{"shop", "../team/a.pem", "", "cannot be read: path escapes"},
		{"link", "a.pem", "", "link is no directory"},
		{"shop", "loop.pem", "", "cannot be read"},
		{"shop", "pipe.pem", "", "pipe.pem is no regular file"},
		{"shop", "deep", "", "deep is no regular file"},
		{"shop", "none.pem", "", "none.pem does not exist"},
		{"none", "a.pem", "", "none does not exist"},
		{"shop", "large.pem", "", "large.pem has 65 bytes, at most 64 are read"},
		{"shop", "loose.pem", "", "others can write " + in("shop", "loose.pem") + " (0622)"},
		{"open", "a.pem", "", "others can write " + in("open") + " (0777)"},
	} {
		b, mode, err := ReadBelow(in(), tt.sub, tt.name, 64)
		switch {
		case tt.fault == "" && (err != nil || string(b) != tt.want || !mode.IsRegular()):
			t.Errorf("%s/%s: %q, %v", tt.sub, tt.name, b, err)
		case tt.fault != "" && (err == nil || !strings.Contains(err.Error(), tt.fault) || b != nil):
			t.Errorf("%s/%s: %q, %v, want %q", tt.sub, tt.name, b, err, tt.fault)
		}
	}
	if os.Geteuid() == 0 { // only root can make a file another user's
		must(os.Chown(in("shop", "a.pem"), 12345, 12345))
		if _, _, err := ReadBelow(in(), "shop", "a.pem", 64); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
			t.Errorf("of another user: %v", err)
		}
	}
	if _, _, err := ReadBelow(filepath.Join(dir, "none"), "shop", "a.pem", 64); err == nil {
		t.Error("read below a directory that is not there")
	}
}
