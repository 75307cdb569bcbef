package watch

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Limits of a tree.
const (
	MaxFiles = 10_000
	MaxBytes = 64 << 20
	maxDepth = 16
)

// print tells two trees apart without reading their files. The zero print is of none.
type print [sha256.Size]byte

func isDocument(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !strings.HasPrefix(name, ".")
	}
	return false
}

// document is a file of a tree, or a directory of it.
type document struct {
	path string
	dir  bool
	st   fs.FileInfo // of what a link leads to
}

// walk lists the directories and the documents below dir, sorted. Names that begin with a dot are left out, as what
// editors and Kubernetes keep beside (..data); a link to a file is followed, one to a directory is not.
func walk(dir string) (out []document, err error) {
	st, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: dir, Err: syscall.ENOTDIR}
	}
	out = append(out, document{dir, true, st})
	for i := 0; i < len(out); i++ {
		at := out[i]
		if !at.dir {
			continue
		}
		if strings.Count(strings.TrimPrefix(at.path, dir), string(filepath.Separator)) > maxDepth {
			return nil, fmt.Errorf("%s is more than %d directories deep", at.path, maxDepth)
		}
		entries, err := os.ReadDir(at.path)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name := e.Name()
			path := filepath.Join(at.path, name)
			wanted := isDocument(name)
			if strings.HasPrefix(name, ".") || !e.IsDir() && !wanted {
				continue
			}
			st, err := os.Stat(path)
			switch {
			case errors.Is(err, fs.ErrNotExist) && e.Type()&fs.ModeSymlink == 0:
				continue // it went meanwhile
			case err != nil:
				return nil, err
			case st.IsDir() && e.IsDir(), !st.IsDir() && wanted:
				out = append(out, document{path, st.IsDir(), st})
			}
			if len(out) > 2*MaxFiles {
				return nil, fmt.Errorf("more than %d files and directories are below it", 2*MaxFiles)
			}
		}
	}
	slices.SortFunc(out, func(a, b document) int { return strings.Compare(a.path, b.path) })
	return out, nil
}

// look gives the print of what is below dir now. What cannot be read has a print of its own, so that a directory which
// vanished is news once.
func look(dir string) print {
	h := sha256.New()
	list, err := walk(dir)
	if err != nil {
		io.WriteString(h, "error "+err.Error())
	}
	for _, d := range list {
		io.WriteString(h, d.path+"\x00")
		sys, ok := d.st.Sys().(*syscall.Stat_t)
		if !ok {
			continue
		}
		fields := []uint64{uint64(d.st.Mode()), uint64(sys.Uid), uint64(sys.Ino)}
		if !d.dir { // a directory changes with files that are none of ours
			fields = append(fields, uint64(d.st.Size()), uint64(d.st.ModTime().UnixNano()), uint64(changed(d.st)))
		}
		for _, f := range fields {
			h.Write(binary.LittleEndian.AppendUint64(nil, f))
		}
	}
	return print(h.Sum(nil))
}

// read reads every document below dir, if nobody else can change any.
func read(dir string) ([]File, error) {
	if _, err := Check(dir); err != nil {
		return nil, err
	}
	list, err := walk(dir)
	if err != nil {
		return nil, err
	}
	var files []File
	left := int64(MaxBytes)
	for _, d := range list {
		if err := own(d.path, d.st); err != nil {
			return nil, err
		}
		if d.dir {
			continue
		}
		if len(files) == MaxFiles {
			return nil, fmt.Errorf("more than %d files are below it", MaxFiles)
		}
		if err := checkTarget(d.path); err != nil {
			return nil, err
		}
		b, err := readOne(d.path, left)
		if err != nil {
			return nil, err
		}
		left -= int64(len(b))
		files = append(files, File{d.path, b})
	}
	return files, nil
}

// readOne never waits for a pipe, and judges the file that it opened.
func readOne(path string, left int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no ordinary file", path)
	}
	if err := own(path, st); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, left+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > left {
		return nil, fmt.Errorf("its files have more than %d MiB", MaxBytes>>20)
	}
	return b, nil
}
