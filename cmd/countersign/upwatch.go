package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/watch"
)

// watched judges the directory of --watch: who can write there is an admin of the mesh (security.md 4). One that is
// away holds no start up once there is a mesh: what it held last is in force.
func (h *house) watched(dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", dir, err)
	}
	warnings, err := watch.Check(abs)
	_, fresh := os.Stat(filepath.Join(h.data, "store"))
	unsafe, isUnsafe := errors.AsType[*watch.Unsafe](err)
	switch {
	case isUnsafe:
		return "", &admin.Problem{Code: "dir_open", Message: fmt.Sprintf("watching %s: %s", tilde(abs), unsafe), Hints: []string{unsafe.Hint}}
	case errors.Is(err, fs.ErrNotExist) && fresh == nil:
		h.e.say("warning: %s does not exist; what it held before stays in force", tilde(abs))
	case err != nil:
		return "", unreadable(dir, err)
	}
	if st, err := os.Stat(abs); err == nil && !st.IsDir() {
		return "", &admin.Problem{Code: "failed", Message: fmt.Sprintf("watching %s: it is no directory", tilde(abs)), Hints: []string{"countersign up --watch " + word(filepath.Dir(dir))}}
	}
	for _, w := range warnings {
		h.e.say("warning: %s, and what they write there holds in the mesh", w)
		h.e.say("hint: chmod g-w %s", word(abs))
	}
	return abs, nil
}
