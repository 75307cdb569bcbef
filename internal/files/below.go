package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// ReadBelow reads the file name, of at most most bytes, in the directory sub of dir, which others than this user and
// root must not be able to change. No link leads out of dir/sub, and sub itself is none. Errors say what is wrong with
// which path, and nothing of what is in the file. mode is that of the file.
func ReadBelow(dir, sub, name string, most int64) (b []byte, mode fs.FileMode, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, 0, unread(dir, err)
	}
	defer root.Close()
	below := path.Join(dir, sub)
	st, err := root.Lstat(sub)
	switch {
	case err != nil:
		return nil, 0, unread(below, err)
	case !st.IsDir():
		return nil, 0, fmt.Errorf("%s is no directory", below)
	}
	in, err := root.OpenRoot(sub)
	if err != nil {
		return nil, 0, unread(below, err)
	}
	defer in.Close()
	file := path.Join(below, name)
	f, err := in.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not hold us
	if err != nil {
		return nil, 0, unread(file, err)
	}
	defer f.Close()
	opened, err := in.Stat(".")
	if err != nil || !os.SameFile(st, opened) {
		return nil, 0, fmt.Errorf("%s changed while it was opened", below)
	}
	top, err := root.Stat(".")
	if err != nil {
		return nil, 0, unread(dir, err)
	}
	is, err := f.Stat()
	if err != nil {
		return nil, 0, unread(file, err)
	}
	if !is.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is no regular file", file)
	}
	for _, at := range []struct {
		path string
		st   fs.FileInfo
	}{{dir, top}, {below, opened}, {file, is}} {
		if err := ownAlone(at.path, at.st); err != nil {
			return nil, 0, err
		}
	}
	if is.Size() > most {
		return nil, 0, fmt.Errorf("%s has %d bytes, at most %d are read", file, is.Size(), most)
	}
	b, err = io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, 0, unread(file, err)
	}
	return b, is.Mode(), nil
}

// ownAlone refuses what another user could change.
func ownAlone(path string, st fs.FileInfo) error {
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || sys.Uid != 0 && int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user", path)
	}
	if perm := st.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("others can write %s (%04o)", path, perm)
	}
	return nil
}

func unread(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s does not exist", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may not be read by this process", path)
	}
	if cause, ok := errors.AsType[*fs.PathError](err); ok {
		err = cause.Err
	}
	return fmt.Errorf("%s cannot be read: %w", path, err)
}
