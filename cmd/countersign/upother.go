package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/admin"
)

// otherUp finds the up of this user whose inbound port is that of addr, and its directory. What
// is found is asked: a lock and a name are not proof of who holds a port.
func (h *house) otherUp(ctx context.Context, addr string) (pid int, dir string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, port, _ := net.SplitHostPort(addr)
	for _, pid := range namesakes() {
		for _, dir := range dirsOf(pid) {
			for _, run := range []string{filepath.Join(dir, "run"), userRun(dir)} {
				path := filepath.Join(run, "node.sock")
				s, err := admin.Ask[admin.LocalStatus](ctx, admin.NewClient(path, h.e.trusts(path, false)), "POST /v1/status", nil)
				if err != nil || s.PID != pid {
					continue
				}
				if _, theirs, _ := net.SplitHostPort(s.Inbound); theirs == port {
					return pid, dir
				}
			}
		}
	}
	return 0, ""
}

// namesakes are the other processes of this program's name.
func namesakes() []int {
	own, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		return nil
	}
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if comm, readErr := os.ReadFile(name); err == nil && readErr == nil && pid != os.Getpid() && string(comm) == string(own) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// dirsOf are the data directories whose lock says that pid holds it. Root sees the lock among
// its descriptors; to its own user an up shows none (hide), but --dir stands in its command
// line, and without it there is the standard one.
func dirsOf(pid int) []string {
	var found []string
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if path, err := os.Readlink(fd); err == nil {
			if dir, ok := strings.CutSuffix(path, "/server/lock"); ok {
				found = append(found, dir)
			}
		}
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil {
		words := strings.Split(string(b), "\x00")
		for i, w := range words {
			name, value, joined := strings.Cut(strings.TrimLeft(w, "-"), "=")
			if name == "dir" && !joined && i+1 < len(words) {
				value = words[i+1]
			}
			if name == "dir" && w != name && filepath.IsAbs(value) {
				found = append(found, filepath.Clean(value))
			}
		}
	}
	if dir, err := userData(); err == nil {
		found = append(found, dir)
	}
	return slices.DeleteFunc(found, func(dir string) bool {
		b, err := os.ReadFile(filepath.Join(dir, "server", "lock"))
		holder, _ := parseLock(string(b))
		return err != nil || holder != pid
	})
}
