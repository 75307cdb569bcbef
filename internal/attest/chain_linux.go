package attest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// link is one process of a chain of parents. The start time tells it from a later process
// with its number.
type link struct {
	pid   int
	start uint64
}

const (
	maxChain   = 4096 // parents of one process; the kernel has no such bound, a sane machine does
	chainTries = 5    // readings until two in a row are equal
)

// parents reads the chain of pid once: pid itself, its parent, and so on up to the process
// top, or to the end of the chain where top is 0 or is not in it.
func parents(pid, top int) ([]link, error) {
	var chain []link
	for pid != 0 {
		if len(chain) == maxChain {
			return nil, fmt.Errorf("process %d has more than %d parents", chain[0].pid, maxChain)
		}
		s, err := readStat(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/stat")
		if err != nil {
			return nil, err
		}
		chain = append(chain, link{pid, s.start})
		if pid == top && len(chain) > 1 {
			return chain, nil
		}
		pid = s.ppid
	}
	return chain, nil
}

// steadyParents reads the chain until two readings in a row are equal: a parent that ends
// between two steps of one reading would otherwise splice two chains into one.
func steadyParents(pid, top int) ([]link, error) {
	var last []link
	var fault error
	for range chainTries {
		chain, err := parents(pid, top)
		if err != nil {
			last, fault = nil, err
			continue
		}
		if last != nil && slices.Equal(last, chain) {
			return chain, nil
		}
		last = chain
	}
	if fault == nil {
		fault = errors.New("the chain of parents changes faster than it can be read")
	}
	return nil, fmt.Errorf("parents of process %d: %w", pid, fault)
}

// passes reports whether the chain goes through pid above its first link.
func passes(chain []link, pid int) bool {
	return len(chain) > 1 && slices.ContainsFunc(chain[1:], func(l link) bool { return l.pid == pid })
}

// Below reports whether pid descends from ancestor and is not itself it (identity.md 11.5 rule
// 3). The caller must know that both still live: the numbers are taken as they are.
func Below(pid, ancestor int) (bool, error) {
	chain, err := steadyParents(pid, ancestor)
	if err != nil {
		return false, err
	}
	return passes(chain, ancestor), nil
}

// ownNamespaces are those of this process; it never changes them.
var ownNamespaces = sync.OnceValue(func() (own struct{ user, net uint64 }) {
	dir, err := os.Open("/proc/self")
	if err != nil {
		return own
	}
	defer dir.Close()
	own.user, own.net = namespace(int(dir.Fd()), "ns/user"), namespace(int(dir.Fd()), "ns/net")
	return own
})

// InRun reports whether p is of one of the live runs, given by the pids of their `run`
// processes (identity.md 11.5, rules 1 and 3; the caller holds these processes open and looks
// that they live after the answer). An answer with ErrNamespaces is by rule 3 alone: what to
// make of a false one is the asking socket's rule.
func InRun(p *Process, runs []int) (bool, error) {
	if p.pidfd == nil {
		return false, fmt.Errorf("process %d: %w", p.pid, ErrUnsupported)
	}
	user, net, err := p.namespaces()
	if err != nil {
		return false, err
	}
	chain, err := steadyParents(p.pid, 0)
	if !p.Alive() { // what was read may be about a later process
		return false, fmt.Errorf("process %d: %w", p.pid, ErrGone)
	}
	if err != nil {
		return false, err
	}
	own := ownNamespaces()
	known := user != 0 && net != 0 && own.user != 0 && own.net != 0
	if known && (user != own.user || net != own.net) {
		return true, nil
	}
	for _, run := range runs {
		if passes(chain, run) {
			return true, nil
		}
	}
	if !known {
		return false, fmt.Errorf("process %d: %w", p.pid, ErrNamespaces)
	}
	return false, nil
}

// namespaces reads them anew: a process can leave its own at any time.
func (p *Process) namespaces() (user, net uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, 0, fmt.Errorf("process %d: closed", p.pid)
	}
	dir := int(p.dir.Fd())
	return namespace(dir, "ns/user"), namespace(dir, "ns/net"), nil
}
