package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"countersign.dev/internal/admin"
	"golang.org/x/sys/unix"
)

// lock is one role's hold on a data directory: a flock, with pid and start time inside. It
// goes with its process, however that ends.
type lock struct {
	f     *os.File
	taken int // pid of a process that ended without cleaning up; 0: none
}

// takeLock holds <dir>/lock or says who does.
func takeLock(data, role string) (*lock, error) {
	path := filepath.Join(data, role, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	old, err := os.ReadFile(path)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	pid, since := parseLock(string(old))
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		return nil, &admin.Problem{
			Code: "already_running", Message: fmt.Sprintf("starting in %s: it is already running there", tilde(data)),
			Details: admin.Details{{Label: "pid", Value: fmt.Sprintf("%d, up %s", pid, age(time.Since(since)))}},
			Hints:   []string{"countersign status", "countersign up --dir " + tilde(data) + "-2"},
		}
	}
	l := &lock{f: f, taken: pid}
	text := fmt.Sprintf("%d\n%s\n", os.Getpid(), time.Now().UTC().Format(time.RFC3339))
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(text), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	return l, nil
}

func parseLock(s string) (pid int, since time.Time) {
	a, b, _ := strings.Cut(strings.TrimSpace(s), "\n")
	pid, _ = strconv.Atoi(a)
	since, _ = time.Parse(time.RFC3339, b)
	return pid, since
}

// release empties the file, so that the next start knows that this one ended well.
func (l *lock) release() {
	l.f.Truncate(0)
	l.f.Close()
}

// age is a duration with at most two units: 45s 4m12s 3h12m 31h 12d 2y.
func age(d time.Duration) string {
	d = max(d, 0)
	s := int64(d / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600 && s%60 != 0 && s < 600:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	case s < 3600:
		return fmt.Sprintf("%dm", s/60)
	case s < 24*3600 && s/60%60 != 0:
		return fmt.Sprintf("%dh%dm", s/3600, s/60%60)
	case s < 48*3600:
		return fmt.Sprintf("%dh", s/3600)
	case s < 730*24*3600:
		return fmt.Sprintf("%dd", s/(24*3600))
	default:
		return fmt.Sprintf("%dy", s/(365*24*3600))
	}
}
