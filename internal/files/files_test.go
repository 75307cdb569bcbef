package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func private(t testing.TB) *os.Root {
	t.Helper()
	dir, err := PrivateDir(filepath.Join(t.TempDir(), "data", "server"), 0o700)
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

func wantCode(t testing.TB, err error, code string) *DirError {
	t.Helper()
	e, ok := errors.AsType[*DirError](err)
	if !ok || e.Code != code {
		t.Fatalf("%v, want a *DirError with %s", err, code)
	}
	return e
}

func TestPrivateDir(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a", "b")
	dir, err := PrivateDir(name, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	dir.Close()
	for _, at := range []string{name, filepath.Dir(name)} {
		if st, err := os.Stat(at); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want mode 0700", at, st.Mode(), err)
		}
	}
	for _, c := range []struct {
		mode, allowed os.FileMode
		detail        string
	}{
		{0o700, 0o700, ""},
		{0o500, 0o700, ""},
		{0o711, 0o711, ""},
		{0o700, 0o711, ""},
		{0o711, 0o700, "others can enter it (0711)"},
		{0o755, 0o711, "others can read it (0755)"},
		{0o750, 0o700, "others can read it (0750)"},
		{0o777, 0o700, "others can write it (0777)"},
	} {
		if err := os.Chmod(name, c.mode); err != nil {
			t.Fatal(err)
		}
		dir, err := PrivateDir(name, c.allowed)
		if c.detail == "" {
			if err != nil {
				t.Errorf("mode %04o where %04o is allowed: %v", c.mode, c.allowed, err)
				continue
			}
			dir.Close()
			continue
		}
		e := wantCode(t, err, "dir_open")
		if e.Path != name || e.Detail != c.detail || !strings.HasPrefix(e.Hint, "chmod 7") || !strings.HasSuffix(e.Hint, name) {
			t.Errorf("mode %04o: %+v, want %q", c.mode, e, c.detail)
		}
		if want := "opening " + name + ": " + c.detail; e.Error() != want {
			t.Errorf("error is %q, want %q", e, want)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := PrivateDir(file, 0o700); err == nil {
		t.Error("a file was opened as a directory")
	}
}

func TestOwner(t *testing.T) {
	dir := private(t)
	st, err := dir.Stat(".")
	if err != nil {
		t.Fatal(err)
	}
	e := wantCode(t, checkPrivate("/data", "server/", st, os.Geteuid()+77_000, 0o700), "dir_owner")
	if me := userName(os.Geteuid()); !strings.HasPrefix(e.Detail, "server/ is "+me+"'s, you are user ") {
		t.Errorf("detail %q", e.Detail)
	}
	if !strings.HasPrefix(e.Hint, "sudo chown -R ") || !strings.HasSuffix(e.Hint, " /data") {
		t.Errorf("hint %q", e.Hint)
	}
}

func TestPrivateSubdir(t *testing.T) {
	dir := private(t)
	for range 2 { // made, then found
		sub, err := PrivateSubdir(dir, "keys")
		if err != nil {
			t.Fatal(err)
		}
		sub.Close()
	}
	if err := dir.Symlink("keys", "link"); err != nil {
		t.Fatal(err)
	}
	_, err := PrivateSubdir(dir, "link")
	wantCode(t, err, "data_damaged")
	if err := dir.Chmod("keys", 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = PrivateSubdir(dir, "keys")
	if e := wantCode(t, err, "dir_open"); e.Detail != "others can read keys/ (0755)" || e.Path != dir.Name() {
		t.Errorf("%+v", e)
	}
}

func TestWriteFile(t *testing.T) {
	dir := private(t)
	for _, text := range []string{"one", "", strings.Repeat("long", 10_000)} {
		if err := WriteFile(dir, "f", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadFile(dir, "f", 1<<20); err != nil || string(got) != text {
			t.Errorf("read %d bytes, %v; want %d", len(got), err, len(text))
		}
	}
	if st, err := dir.Stat("f"); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", st.Mode(), err)
	}
	if err := dir.Mkdir("taken", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(dir, "taken", []byte("x")); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if err := CreateFile(dir, "f", []byte("x")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating what exists: %v, want fs.ErrExist", err)
	}
	if err := WriteFile(dir, "../outside", []byte("x")); err == nil {
		t.Error("a file was written outside the directory")
	}
	if err := WriteFile(dir, "taken/f", []byte("x")); err != nil {
		t.Error(err)
	}
	if got := names(t, dir); got != "f taken" {
		t.Errorf("the directory holds %q: a temporary file was left", got)
	}
}

func TestReadFile(t *testing.T) {
	dir := private(t)
	if _, err := ReadFile(dir, "none", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v, want fs.ErrNotExist", err)
	}
	if err := WriteFile(dir, "f", []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(dir, "f", 10); err != nil {
		t.Error(err)
	}
	_, err := ReadFile(dir, "f", 9)
	wantCode(t, err, "data_damaged")
	if err := dir.Symlink("f", "link"); err != nil {
		t.Fatal(err)
	}
	_, err = ReadFile(dir, "link", 10)
	wantCode(t, err, "data_damaged")
	if err := dir.Chmod("f", 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = ReadFile(dir, "f", 10)
	if e := wantCode(t, err, "dir_open"); e.Detail != "others can read f (0644)" || e.Hint != "chmod -R go= "+dir.Name() {
		t.Errorf("%+v", e)
	}
}

func TestQuoteArg(t *testing.T) {
	for in, want := range map[string]string{
		"/var/lib/x-1_2.3": "/var/lib/x-1_2.3", "/a b": "'/a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "/ä": "'/ä'",
	} {
		if got := quoteArg(in); got != want {
			t.Errorf("quoteArg(%q) = %s, want %s", in, got, want)
		}
	}
}
