package attest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Process is one process that cannot be mistaken for a later one of the same number: all its
// facts are read through one directory descriptor and believed only if its pidfd says it is
// still alive afterwards. Safe for concurrent use; must be closed.
type Process struct {
	pid      int
	uid, gid uint32   // as of connect; for OpenPID as first read
	pidfd    *os.File // nil: the kernel has none, and only uid and gid are told

	mu     sync.Mutex // guards the rest; held while the files of one attestation are read
	dir    *os.File   // /proc/<pid>
	facts  Facts
	hash   string
	closed bool
	done   chan struct{}  // made by the first call of Done
	waiter sync.WaitGroup // of the goroutine that Done starts
}

// FromConn attests the process that connected c (identity.md 11.1). The step numbers are those
// of the section.
func FromConn(c *net.UnixConn) (*Process, error) {
	boot, err := bootTicks() // before anything is asked: see the fall-back of step 2
	if err != nil {
		return nil, err
	}
	cred, pidfd, err := peer(c) // steps 1 and 2
	if err != nil {
		return nil, fmt.Errorf("asking who connected: %w", err)
	}
	if cred.Pid <= 0 {
		closePidfd(pidfd)
		return nil, fmt.Errorf("caller is in a pid namespace that this node cannot see")
	}
	p := &Process{pid: int(cred.Pid), uid: cred.Uid, gid: cred.Gid}
	exact := pidfd >= 0
	if !exact {
		pidfd, err = unix.PidfdOpen(p.pid, unix.PIDFD_NONBLOCK)
		switch {
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
			p.facts = bareFacts(p.pid, p.uid, p.gid)
			return p, nil
		case err != nil:
			return nil, fmt.Errorf("process %d: %w: %v", p.pid, ErrGone, err)
		}
	}
	if err := p.open(pidfd); err != nil {
		return nil, err
	}
	if !exact && p.facts.StartTime > boot {
		p.Close()
		return nil, fmt.Errorf("process %d: %w: it started after the connection was accepted", p.pid, ErrGone)
	}
	return p, nil
}

// OpenPID attests a process by its number: a child of the caller, or one whose number came
// with proof. uid and gid are those it has now.
func OpenPID(pid int) (*Process, error) {
	pidfd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: pidfd_open: %w", pid, err)
	}
	p := &Process{pid: pid}
	if err := unix.Fstatat(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid), &unix.Stat_t{}, 0); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if p.uid, p.gid, err = credentials(pid); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	if err := p.open(pidfd); err != nil {
		return nil, err
	}
	return p, nil
}

// credentials reads the effective ids; open compares them again through the descriptor.
func credentials(pid int) (uid, gid uint32, err error) {
	err = readText(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/status", func(b []byte) error {
		st, err := parseStatus(b)
		uid, gid = st.uid, st.gid
		return err
	})
	return uid, gid, err
}

// peer asks the socket for the credentials as of connect, and for the pidfd (Linux 6.5), -1
// where the kernel is older.
func peer(c *net.UnixConn) (cred *unix.Ucred, pidfd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, -1, err
	}
	pidfd = -1
	var fault error
	err = raw.Control(func(fd uintptr) {
		if cred, fault = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); fault != nil {
			fault = fmt.Errorf("SO_PEERCRED: %w", fault)
			return
		}
		pidfd, fault = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		switch {
		case errors.Is(fault, unix.ENOPROTOOPT):
			pidfd, fault = -1, nil
		case fault != nil:
			pidfd, fault = -1, fmt.Errorf("%w: SO_PEERPIDFD: %v", ErrGone, fault)
		}
	})
	return cred, pidfd, errors.Join(err, fault)
}

func closePidfd(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

// bareFacts are those of a kernel without pidfd: credentials of connect, nothing of /proc.
func bareFacts(pid int, uid, gid uint32) Facts {
	f := Facts{PID: pid, UID: uid, GID: gid, Missing: []string{"all but unix:uid and unix:gid: this kernel gives no pidfd"}}
	f.Selectors = []string{fmt.Sprintf("unix:gid:%d", gid), fmt.Sprintf("unix:uid:%d", uid)}
	return f
}

// open takes the pidfd over, steps 3 to 5. On failure everything is closed.
func (p *Process) open(pidfd int) error {
	if err := unix.SetNonblock(pidfd, true); err != nil { // so that Done waits in Go's poller
		unix.Close(pidfd)
		return fmt.Errorf("process %d: pidfd: %w", p.pid, err)
	}
	p.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	dir, err := os.Open("/proc/" + strconv.Itoa(p.pid))
	if err == nil {
		p.dir = dir
		err = p.Attest()
	} else if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("process %d: %w", p.pid, ErrGone)
	}
	if err != nil {
		p.Close()
		return err
	}
	return nil
}

// Attest reads all facts again. A connection whose process changed is attested anew at its
// next RPC (identity.md 11.1); the uid and gid must still be those of connect.
func (p *Process) Attest() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return nil
	}
	f, err := p.readLocked(readFacts)
	if err != nil {
		return err
	}
	if f.ExeDev != p.facts.ExeDev || f.ExeIno != p.facts.ExeIno {
		p.hash = ""
	}
	p.facts = f
	return nil
}

// Recheck proves that the facts still stand: before each RPC and before each message of a
// stream (security.md S1). ErrChanged: they do not, ErrGone: the process ended.
func (p *Process) Recheck() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return nil
	}
	f, err := p.readLocked(readChecked)
	if err != nil {
		return err
	}
	if !p.facts.Same(f) {
		return fmt.Errorf("process %d: %w", p.pid, ErrChanged)
	}
	return nil
}

// readLocked reads, then proves that what was read is about the pidfd's process (steps 3 to 5).
func (p *Process) readLocked(read func(dir, pid int) (Facts, int, error)) (Facts, error) {
	if p.closed {
		return Facts{}, fmt.Errorf("process %d: closed", p.pid)
	}
	f, tracer, err := read(int(p.dir.Fd()), p.pid)
	if !p.Alive() {
		return Facts{}, fmt.Errorf("process %d: %w", p.pid, ErrGone)
	}
	switch {
	case err != nil:
		return Facts{}, fmt.Errorf("process %d: %w", p.pid, err)
	case f.UID != p.uid || f.GID != p.gid:
		return Facts{}, fmt.Errorf("process %d: %w: credentials changed from uid %d gid %d to uid %d gid %d",
			p.pid, ErrChanged, p.uid, p.gid, f.UID, f.GID)
	case tracer != 0:
		return Facts{}, fmt.Errorf("process %d: %w: traced by process %d", p.pid, ErrChanged, tracer)
	case len(f.Selectors) > maxSelectors:
		return Facts{}, fmt.Errorf("process %d: too many selectors: %d, at most %d", p.pid, len(f.Selectors), maxSelectors)
	}
	return f, nil
}

const maxSelectors = 512 // identity.md 11.2

// PID is the process's number.
func (p *Process) PID() int { return p.pid }

// UID is the effective user as of connect.
func (p *Process) UID() uint32 { return p.uid }

// GID is the effective group as of connect.
func (p *Process) GID() uint32 { return p.gid }

// Facts is what the last Attest read.
func (p *Process) Facts() Facts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.facts
}

// Alive reports whether the process has not ended. It polls the pidfd instead of sending
// signal 0: that also succeeds for a zombie, whose number is still taken but whose program is
// gone, and fails for other users' processes. Without a pidfd it cannot tell and says true.
func (p *Process) Alive() bool {
	if p.pidfd == nil {
		return true
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return false
	}
	alive := false
	err = raw.Control(func(fd uintptr) {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			if err == unix.EINTR {
				continue
			}
			alive = err == nil && n == 0
			return
		}
	})
	return err == nil && alive
}

// Done is closed when the process has ended, or when p is closed. It costs a goroutine that
// waits in Go's network poller, no thread; without a pidfd only Close closes it.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done != nil {
		return p.done
	}
	p.done = make(chan struct{})
	switch {
	case p.closed:
		close(p.done)
	case p.pidfd != nil:
		done := p.done
		p.waiter.Go(func() {
			defer close(done)
			p.wait()
		})
	}
	return p.done
}

// wait blocks until the pidfd is readable, which means that the process ended, or is closed.
func (p *Process) wait() {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(uintptr) bool { return !p.Alive() })
}

// Close gives the descriptors back and waits for the goroutine of Done.
func (p *Process) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	var errs []error
	if p.dir != nil {
		errs = append(errs, p.dir.Close())
	}
	if p.pidfd != nil {
		errs = append(errs, p.pidfd.Close())
	} else if p.done != nil {
		close(p.done)
	}
	p.mu.Unlock()
	p.waiter.Wait()
	return errors.Join(errs...)
}

// bootTicks is the time since boot in the unit of Facts.StartTime.
func bootTicks() (uint64, error) {
	const perSecond = 100 // USER_HZ on every port of Go
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, fmt.Errorf("reading the time since boot: %w", err)
	}
	sec, nsec := t.Unix()
	return uint64(sec)*perSecond + uint64(nsec)*perSecond/1e9, nil
}
