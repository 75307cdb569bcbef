package attest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// HeldBelow reports whether some process below ancestor, not ancestor itself, has the socket
// among its descriptors. Processes whose descriptors we may not read hold nothing.
//
// A connection is mostly asked about by who has it, so the descendants that the kernel lists
// as children come first: quick, but the list may lack some while others end. Only when none
// of them has it are all processes of the machine read for their parents.
func HeldBelow(inode uint64, ancestor int) (bool, error) {
	if inode == 0 {
		return false, nil
	}
	seen := map[int]bool{}
	for pid := range children(ancestor) {
		seen[pid] = true
		if heldBy(pid, inode, ancestor) {
			return true, nil
		}
	}
	all, err := descendants(ancestor)
	if err != nil {
		return false, err
	}
	for _, pid := range all {
		if seen[pid] {
			continue
		}
		if heldBy(pid, inode, ancestor) {
			return true, nil
		}
	}
	return false, nil
}

// heldBy reports whether pid holds the socket and is below ancestor. The chain is read before
// and after the descriptors: only if it is the same both times were they that process's. One
// that ends meanwhile holds nothing for us.
func heldBy(pid int, inode uint64, ancestor int) bool {
	for range chainTries {
		before, err := parents(pid, ancestor)
		if err != nil || !holds(pid, inode) {
			return false
		}
		after, err := parents(pid, ancestor)
		if err != nil {
			return false
		}
		if slices.Equal(before, after) {
			return passes(before, ancestor)
		}
	}
	return false
}

// holds reports whether the socket is among the descriptors of pid.
func holds(pid int, inode uint64) bool {
	dir, err := os.Open("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		return false
	}
	defer dir.Close()
	want := "socket:[" + strconv.FormatUint(inode, 10) + "]"
	var buf [64]byte // longer links are no sockets
	for {
		fds, err := dir.Readdirnames(256)
		for _, fd := range fds {
			n, err := unix.Readlinkat(int(dir.Fd()), fd, buf[:])
			if err == nil && string(buf[:n]) == want {
				return true
			}
		}
		if err != nil || len(fds) == 0 {
			return false
		}
	}
}

// children yields the processes below ancestor that /proc/<pid>/task/<tid>/children lists.
func children(ancestor int) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		seen := map[int]bool{ancestor: true}
		for todo := []int{ancestor}; len(todo) > 0; todo = todo[1:] {
			for _, pid := range childrenOf(todo[0]) {
				if seen[pid] {
					continue
				}
				seen[pid] = true
				if !yield(pid) {
					return
				}
				todo = append(todo, pid)
			}
		}
	}
}

func childrenOf(pid int) (pids []int) {
	dir, err := os.Open("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		return nil
	}
	defer dir.Close()
	tids, _ := dir.Readdirnames(-1)
	for _, tid := range tids {
		_ = readText(int(dir.Fd()), tid+"/children", func(b []byte) error {
			n, digits := 0, false
			for _, c := range b {
				if c >= '0' && c <= '9' {
					n, digits = n*10+int(c-'0'), true
				} else if digits {
					pids = append(pids, n)
					n, digits = 0, false
				}
			}
			return nil
		})
	}
	return pids
}

// descendants reads the parent of every process once and gives those below ancestor.
func descendants(ancestor int) ([]int, error) {
	below := map[int][]int{}
	err := eachProcess(func(proc *os.File, pid int) bool {
		if s, err := readStat(int(proc.Fd()), strconv.Itoa(pid)+"/stat"); err == nil {
			below[s.ppid] = append(below[s.ppid], pid)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	var all []int
	for todo := []int{ancestor}; len(todo) > 0; todo = todo[1:] {
		all = append(all, below[todo[0]]...)
		todo = append(todo, below[todo[0]]...)
		delete(below, todo[0]) // two readings at two moments can form a ring
	}
	return all, nil
}

// eachProcess calls visit for every process that /proc shows, until it returns false.
func eachProcess(visit func(proc *os.File, pid int) bool) error {
	proc, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer proc.Close()
	entries, err := proc.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range entries {
		pid, err := strconv.Atoi(name)
		if err == nil && !visit(proc, pid) {
			return nil
		}
	}
	return nil
}

// ListeningBelow lists the TCP ports that processes below ancestor listen on, sorted, for the
// text of a warning: what it says can be over already.
func ListeningBelow(ancestor int) []uint16 {
	ports := map[uint64]uint16{}
	for _, table := range []string{"tcp", "tcp6"} {
		listeners(fmt.Sprintf("/proc/%d/net/%s", ancestor, table), ports)
	}
	var found []uint16
	for pid := range children(ancestor) {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		fds, _ := os.ReadDir(dir)
		for _, fd := range fds {
			link, _ := os.Readlink(dir + "/" + fd.Name())
			inode, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]"), 10, 64)
			if port, ok := ports[inode]; err == nil && ok && !slices.Contains(found, port) {
				found = append(found, port)
			}
		}
	}
	slices.Sort(found)
	return found
}

const maxTable = 1 << 20 // bytes of a table of sockets that are read

// listeners reads which inode listens on which port from a table of proc_pid_net(5).
func listeners(table string, ports map[uint64]uint16) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxTable))
	for lines.Scan() {
		// sl local_address rem_address st tx_queue:rx_queue tr:when retrnsmt uid timeout inode
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != "0A" {
			continue
		}
		_, hex, _ := strings.Cut(fields[1], ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		inode, err2 := strconv.ParseUint(fields[9], 10, 64)
		if err == nil && err2 == nil {
			ports[inode] = uint16(port)
		}
	}
}

// HolderOf finds a process that has the socket, for the text of an error: it reads the
// descriptors of every process that we may see, and what it says can be over already.
func HolderOf(inode uint64) (pid int, comm string, ok bool) {
	if inode == 0 {
		return 0, "", false
	}
	_ = eachProcess(func(proc *os.File, p int) bool {
		if !holds(p, inode) {
			return true
		}
		if s, err := readStat(int(proc.Fd()), strconv.Itoa(p)+"/stat"); err == nil {
			pid, comm, ok = p, s.comm, true
		}
		return false
	})
	return pid, comm, ok
}
