package watch

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Unsafe is a path that somebody else can change, so that what is below it may be anybody's word.
type Unsafe struct {
	Path, Text string
	Hint       string // a command to paste
}

func (u *Unsafe) Error() string { return u.Path + " " + u.Text }

// Check judges the directory and every directory above it: each belongs to root or to the user of this process, and
// nobody else can write to it; a sticky one above may be written (security.md 4). Warnings tell of groups that can.
func Check(dir string) (warnings []string, err error) {
	real, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(real)
	if err != nil {
		return nil, err
	}
	if err := own(dir, st); err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o020 != 0 {
		warnings = append(warnings, fmt.Sprintf("its group can write to %s (%04o)", dir, st.Mode().Perm()))
	}
	return warnings, nil
}

// maxLinks is how many links a path may lead through, as the kernel has it.
const maxLinks = 40

// resolve gives where path leads to, step by step, and judges every directory and every link on the way: who may point a
// link somewhere else decides what is read.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	at, rest := string(filepath.Separator), parts(path)
	for links := 0; ; {
		st, err := os.Lstat(at)
		if err != nil {
			return "", err
		}
		switch {
		case st.Mode()&fs.ModeSymlink != 0:
			if err := owner(at, st); err != nil {
				return "", err
			}
			if links++; links > maxLinks {
				return "", &fs.PathError{Op: "resolve", Path: path, Err: syscall.ELOOP}
			}
			to, err := os.Readlink(at)
			if err != nil {
				return "", err
			}
			if rest = append(parts(to), rest...); filepath.IsAbs(to) {
				at = string(filepath.Separator)
			} else {
				at = filepath.Dir(at)
			}
			continue
		case len(rest) == 0:
			return at, nil
		case st.Mode()&fs.ModeSticky != 0:
			err = owner(at, st)
		default:
			err = own(at, st)
		}
		if err != nil {
			return "", err
		}
		at, rest = filepath.Join(at, rest[0]), rest[1:]
	}
}

func parts(path string) []string {
	return slices.DeleteFunc(strings.Split(path, string(filepath.Separator)), func(s string) bool { return s == "" })
}

// checkTarget judges where a link leads.
func checkTarget(path string) error {
	st, err := os.Lstat(path)
	if err == nil && st.Mode()&fs.ModeSymlink != 0 {
		_, err = resolve(path)
	}
	return err
}

func owner(path string, st fs.FileInfo) error {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Uid != 0 && int(sys.Uid) != os.Geteuid() {
		return &Unsafe{path, fmt.Sprintf("belongs to user %d, who could change what holds in the mesh", sys.Uid), fmt.Sprintf("sudo chown -h %d %s", os.Geteuid(), path)}
	}
	return nil
}

// own judges the owner and the mode.
func own(path string, st fs.FileInfo) error {
	if err := owner(path, st); err != nil {
		return err
	}
	if st.Mode().Perm()&0o002 != 0 {
		return &Unsafe{path, fmt.Sprintf("can be written by everybody (%04o)", st.Mode().Perm()), "chmod o-w " + path}
	}
	return nil
}
