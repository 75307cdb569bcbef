//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const endTime = 15 * time.Second // `run` gives its program 10 s

// crew are the processes that were started, the newest last.
type crew struct{ members []*member }

// member is one of them.
type member struct {
	name string
	cmd  *exec.Cmd
	said tail
	done chan struct{} // closed when it has been waited for
}

// tail keeps the last of what a process said, for the error it may end with.
type tail struct {
	mu sync.Mutex // guards b; held for a copy
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-2048):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}

// add starts a process in a group of its own: a Ctrl-C of the terminal goes to the bench
// alone, which ends the crew in its order.
func (c *crew) add(name string, cmd *exec.Cmd) (*member, error) {
	m := &member{name: name, cmd: cmd, done: make(chan struct{})}
	if cmd.Stderr == nil {
		cmd.Stderr = &m.said
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		defer close(m.done)
		_ = cmd.Wait()
	}()
	c.members = append(c.members, m)
	return m, nil
}

// end ends all that is left, the newest first.
func (c *crew) end() {
	for len(c.members) > 0 {
		c.dismiss(c.members[len(c.members)-1])
	}
}

// dismiss asks one process to end, waits for it, and kills it if it does not.
func (c *crew) dismiss(m *member) {
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-m.done:
	case <-time.After(endTime):
		for _, pid := range childrenOf(m.pid()) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = m.cmd.Process.Kill()
		<-m.done
	}
	c.members = slices.DeleteFunc(c.members, func(o *member) bool { return o == m })
}

func (m *member) pid() int { return m.cmd.Process.Pid }

// failed says how a process that should still be there ended.
func (m *member) failed(what string) error {
	return fmt.Errorf("%s: %s: %s", m.name, what, m.said.String())
}

// until asks ok again and again until it is so, the process has ended or ctx has.
func (m *member) until(ctx context.Context, what string, ok func() bool) error {
	late := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.done:
			return m.failed("ended before " + what)
		case <-late:
			return m.failed("not in 20 s: " + what)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// pipes gives a command's stdin and stdout, before it is started.
func pipes(cmd *exec.Cmd) (io.WriteCloser, io.ReadCloser, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	return in, out, err
}

// cpuOf is the CPU time, user and system, of all threads of some processes, by the clock that
// the kernel keeps of each: /proc has it in units of 10 ms.
func cpuOf(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		var t unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil { // clock_getcpuclockid(3)
			return 0, fmt.Errorf("reading CPU time of %d: %w", pid, err)
		}
		sum += time.Duration(t.Nano())
	}
	return sum, nil
}

// Memory is what processes hold in RAM, in KiB. Pages that several share count for each.
type Memory struct {
	RSS       int `json:"rss_kib"`
	Anonymous int `json:"anonymous_kib"`
}

func memoryOf(pids []int) (Memory, error) {
	var m Memory
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return m, fmt.Errorf("reading memory: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			var n int
			if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &n); err == nil {
				m.RSS += n
			}
			if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &n); err == nil {
				m.Anonymous += n
			}
		}
	}
	return m, nil
}

// childrenOf lists the children of a process, by the kernel's own list of each thread.
func childrenOf(pid int) []int {
	var out []int
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	for _, t := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if err != nil {
			continue
		}
		for _, word := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(word); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}
