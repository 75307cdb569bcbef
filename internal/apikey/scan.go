package apikey

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Scan finds the keys in the files below a directory, or in one file, and with history in all
// that the git repository there holds (tokens.md 14.6). It follows no symbolic link below the
// directory, passes over the objects of git, which history reads, and takes binary files as any
// other. What cannot be read is told to unread and is no error: the rest is searched.
func Scan(ctx context.Context, name string, history bool, found func(Hit), unread func(file string, err error)) error {
	s := scan{found: found, unread: unread, buf: make([]byte, window)}
	dir, only, err := place(name)
	if err == nil {
		err = s.tree(ctx, dir, only)
	}
	if err != nil {
		return fmt.Errorf("scanning %s: %w", shorten(name), cause(err))
	}
	if !history {
		return nil
	}
	if err := s.history(ctx, dir); err != nil {
		return fmt.Errorf("scanning the history of %s: %w", shorten(name), cause(err))
	}
	return nil
}

// place is the directory that is meant, and what of it.
func place(name string) (dir, only string, err error) {
	name, err = filepath.EvalSymlinks(name)
	if err != nil {
		return "", "", err
	}
	info, err := os.Stat(name)
	if err != nil || info.IsDir() {
		return name, ".", err
	}
	return filepath.Dir(name), filepath.Base(name), nil
}

type scan struct {
	found  func(Hit)
	unread func(file string, err error)
	buf    []byte
}

func (s *scan) tree(ctx context.Context, dir, only string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), only, func(file string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			s.unread(shorten(file), cause(err))
			return nil
		}
		s.name(file, "")
		switch {
		case d.IsDir() && isObjects(file):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		f, err := root.Open(file)
		if err == nil {
			err = s.search(ctx, f, shorten(file), "")
			f.Close()
		}
		if err != nil && ctx.Err() == nil {
			s.unread(shorten(file), cause(err))
		}
		return nil
	})
}

// isObjects reports the compressed objects of a repository, or of a submodule.
func isObjects(dir string) bool {
	return path.Base(dir) == "objects" && strings.Contains("/"+dir, "/.git/")
}

// name reports the keys that the last part of a file's name holds.
func (s *scan) name(file, commit string) {
	base := path.Base(file)
	for i := range max(0, len(base)-Len+1) {
		if k, err := Parse([]byte(base[i : i+Len])); err == nil {
			s.found(Hit{ID: k.ID(), Env: k.Env(), File: shorten(file), Commit: commit})
		}
	}
}

func (s *scan) search(ctx context.Context, r io.Reader, file, commit string) error {
	return search(ctx, r, s.buf, func(k Key, line, column int) {
		s.found(Hit{k.ID(), k.Env(), file, commit, line, column})
	})
}
