package watch

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	for _, path := range []string{dir, real} {
		if err := checkAbove(path); err != nil {
			return nil, err
		}
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

// checkAbove judges the directories above path, and the links on the way.
func checkAbove(path string) error {
	for at := filepath.Dir(path); ; at = filepath.Dir(at) {
		st, err := os.Lstat(at)
		if err != nil {
			return err
		}
		switch sticky := st.Mode()&fs.ModeSticky != 0; {
		case st.Mode()&fs.ModeSymlink != 0:
			err = owner(at, st)
		case sticky:
			err = owner(at, st)
		default:
			err = own(at, st)
		}
		if err != nil {
			return err
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// checkTarget judges where a link leads; safe remembers the directories that were.
func checkTarget(path string, safe map[string]bool) error {
	st, err := os.Lstat(path)
	if err != nil || st.Mode()&fs.ModeSymlink == 0 {
		return err
	}
	if err := owner(path, st); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil || safe[filepath.Dir(real)] {
		return err
	}
	if err := checkAbove(real); err != nil {
		return err
	}
	safe[filepath.Dir(real)] = true
	return nil
}

func owner(path string, st fs.FileInfo) error {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Uid != 0 && int(sys.Uid) != os.Geteuid() {
		return &Unsafe{path, fmt.Sprintf("belongs to user %d, who could change what holds in the mesh", sys.Uid), fmt.Sprintf("sudo chown %d %s", os.Geteuid(), path)}
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
