// Package files keeps private directories and files: made for their owner alone, refused when
// others could read or write them, and replaced so that a power loss leaves the old or the new.
//
// Its words: private is 0700 and 0600 of one's own user. Its promise: no link is followed, no
// file of somebody else is read, and what was written is on the disk before WriteFile returns.
package files

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"strconv"
	"syscall"
)

// DirError is a data directory that cannot be used as it is. Code is the word of cli.md 9.2:
// dir_owner, dir_open, dir_permission, data_damaged, socket_path, disk_full.
type DirError struct {
	Code   string
	Path   string // the directory that was opened
	Detail string // what is wrong, with the name of the entry inside Path when it is not Path itself
	Hint   string // a command to paste, or empty
}

// Error is the first line of cli.md 9.2, without the hint.
func (e *DirError) Error() string { return fmt.Sprintf("opening %s: %s", e.Path, e.Detail) }

// PrivateDir makes the directory name (0700, and its parents so) if it is absent, opens it, and
// refuses it when another user owns it or when its mode grants more than allowed: 0700, or 0711
// for a data directory that holds run/ (cli.md 4.3).
func PrivateDir(name string, allowed os.FileMode) (*os.Root, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, denied(abs, err)
	}
	dir, err := os.OpenRoot(abs)
	if err != nil {
		return nil, denied(abs, err)
	}
	st, err := dir.Stat(".")
	if err == nil {
		err = checkPrivate(abs, "", st, os.Geteuid(), allowed)
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// PrivateSubdir is PrivateDir for a directory inside dir, without following links.
func PrivateSubdir(dir *os.Root, name string) (*os.Root, error) {
	if err := dir.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, denied(filepath.Join(dir.Name(), name), err)
	}
	before, err := dir.Lstat(name)
	if err != nil {
		return nil, denied(filepath.Join(dir.Name(), name), err)
	}
	if !before.IsDir() {
		return nil, &DirError{Code: "data_damaged", Path: dir.Name(), Detail: name + " is not a directory"}
	}
	if err := checkPrivate(dir.Name(), name+"/", before, os.Geteuid(), 0o700); err != nil {
		return nil, err
	}
	sub, err := dir.OpenRoot(name)
	if err != nil {
		return nil, denied(filepath.Join(dir.Name(), name), err)
	}
	after, err := sub.Stat(".")
	if err != nil || !os.SameFile(before, after) {
		sub.Close()
		return nil, &DirError{Code: "data_damaged", Path: dir.Name(), Detail: name + " was replaced while it was opened"}
	}
	return sub, nil
}

// checkPrivate judges the owner and the mode of one entry of dir; the empty name is dir itself.
func checkPrivate(dir, name string, st fs.FileInfo, uid int, allowed os.FileMode) error {
	owner := uid
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		owner = int(sys.Uid)
	}
	if owner != uid {
		what := name
		if what == "" {
			what = "it"
		}
		return &DirError{
			Code: "dir_owner", Path: dir,
			Detail: fmt.Sprintf("%s is %s's, you are %s", what, userName(owner), userName(uid)),
			Hint:   fmt.Sprintf("sudo chown -R %s %s", userName(uid), quoteArg(dir)),
		}
	}
	if mode := st.Mode().Perm(); mode&^allowed != 0 {
		what, mend := name, "-R go="
		if name == "" {
			what, mend = "it", fmt.Sprintf("%o", allowed)
		}
		right := "enter"
		switch tooMuch := mode &^ allowed; {
		case tooMuch&0o222 != 0:
			right = "write"
		case tooMuch&0o444 != 0:
			right = "read"
		}
		return &DirError{
			Code: "dir_open", Path: dir,
			Detail: fmt.Sprintf("others can %s %s (%04o)", right, what, mode),
			Hint:   fmt.Sprintf("chmod %s %s", mend, quoteArg(dir)),
		}
	}
	return nil
}

// denied says of a refused path whose it is, by its nearest ancestor that can be looked at.
func denied(dir string, err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("opening %s: %w", dir, err)
	}
	detail := "permission denied"
	for at := dir; ; at = filepath.Dir(at) {
		if st, err := os.Stat(at); err == nil {
			if sys, ok := st.Sys().(*syscall.Stat_t); ok {
				detail += fmt.Sprintf("\n  owner    %s; you are %s", userName(int(sys.Uid)), userName(os.Geteuid()))
			}
			break
		}
		if at == filepath.Dir(at) {
			break
		}
	}
	return &DirError{Code: "dir_permission", Path: dir, Detail: detail, Hint: "countersign up --dir ~/.local/state/countersign"}
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil && u.Username != "" {
		return u.Username
	}
	return "user " + strconv.Itoa(uid)
}

// quoteArg makes s one word of a shell.
func quoteArg(s string) string {
	for _, r := range s {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '/' || r == '.' || r == '-' || r == '_' || r == '+' || r == '@' || r == ':') {
			return "'" + string(replaceQuotes(s)) + "'"
		}
	}
	return s
}

func replaceQuotes(s string) (out []byte) {
	for i := range len(s) {
		if s[i] == '\'' {
			out = append(out, `'\''`...)
			continue
		}
		out = append(out, s[i])
	}
	return out
}

// WriteFile replaces the file name in dir so that after a power loss it holds either what it
// held or all of data: temporary name, fsync, rename, fsync of the directory. Its mode is 0600.
func WriteFile(dir *os.Root, name string, data []byte) error {
	tmp, err := writeTemp(dir, name, data)
	if err != nil {
		return err
	}
	if err := dir.Rename(tmp, name); err != nil {
		_ = dir.Remove(tmp)
		return fmt.Errorf("writing %s: %w", filepath.Join(dir.Name(), name), err)
	}
	return syncDir(dir, path.Dir(name))
}

// CreateFile is WriteFile for a file that must not exist: fs.ErrExist if it does.
func CreateFile(dir *os.Root, name string, data []byte) error {
	tmp, err := writeTemp(dir, name, data)
	if err != nil {
		return err
	}
	err = dir.Link(tmp, name) // unlike a rename, a link never replaces
	_ = dir.Remove(tmp)
	if err != nil {
		return fmt.Errorf("creating %s: %w", filepath.Join(dir.Name(), name), err)
	}
	return syncDir(dir, path.Dir(name))
}

// writeTemp writes data, synced, to a new name beside name.
func writeTemp(dir *os.Root, name string, data []byte) (tmp string, err error) {
	var suffix [6]byte
	_, _ = rand.Read(suffix[:])
	tmp = name + ".tmp-" + hex.EncodeToString(suffix[:])
	f, err := dir.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("writing %s: %w", filepath.Join(dir.Name(), name), err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		_ = dir.Remove(tmp)
		return "", fmt.Errorf("writing %s: %w", filepath.Join(dir.Name(), name), err)
	}
	return tmp, nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir *os.Root, name string) error {
	f, err := dir.Open(name)
	if err == nil {
		err = f.Sync()
		if e := f.Close(); err == nil {
			err = e
		}
	}
	if err != nil {
		return fmt.Errorf("syncing %s: %w", filepath.Join(dir.Name(), name), err)
	}
	return nil
}

// ReadFile reads a file that only its owner may read: *DirError when it is not, or is no
// ordinary file (a link is not followed), or has more than limit bytes; fs.ErrNotExist when it
// is absent.
func ReadFile(dir *os.Root, name string, limit int64) ([]byte, error) {
	before, err := dir.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(dir.Name(), name), err)
	}
	damaged := func(detail string) error {
		return &DirError{Code: "data_damaged", Path: dir.Name(), Detail: name + detail}
	}
	if !before.Mode().IsRegular() {
		return nil, damaged(" is not an ordinary file")
	}
	if err := checkPrivate(dir.Name(), name, before, os.Geteuid(), 0o600); err != nil {
		return nil, err
	}
	f, err := dir.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(dir.Name(), name), err)
	}
	defer f.Close()
	if after, err := f.Stat(); err != nil || !os.SameFile(before, after) {
		return nil, damaged(" was replaced while it was opened")
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(dir.Name(), name), err)
	}
	if int64(len(data)) > limit {
		return nil, damaged(fmt.Sprintf(" has more than %d bytes", limit))
	}
	return data, nil
}
