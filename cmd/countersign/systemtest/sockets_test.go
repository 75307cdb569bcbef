//go:build system && linux

package systemtest

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// socket is one line of /proc/net.
type socket struct {
	local string // address, or path
	state string // in hex, as the kernel numbers them
	inode string
}

// sockets reads a table of /proc/net.
func sockets(t *testing.T, table string) (list []socket) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/" + table)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n")[1:] {
		f := strings.Fields(line)
		switch {
		case table == "unix" && len(f) >= 7:
			s := socket{state: "-", inode: f[6]}
			if f[3] == "00010000" { // __SO_ACCEPTCON
				s.state = "0A"
			}
			if len(f) > 7 {
				s.local = f[7]
			}
			list = append(list, s)
		case table != "unix" && len(f) >= 10:
			list = append(list, socket{local: address(t, f[1]), state: f[3], inode: f[9]})
		}
	}
	return list
}

// address reads the kernel's form: words in the machine's order, port in hex.
func address(t *testing.T, s string) string {
	t.Helper()
	ip, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(ip)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil {
		t.Fatalf("address %q", s)
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a, uint16(n)).String()
}

// listeners is everything that a process can be reached by: sockets that listen, and those of
// UDP, raw and packet that take what comes.
func listeners(t *testing.T, pid int) (found []string) {
	t.Helper()
	held := map[string]bool{}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:[") {
			held[to[8:len(to)-1]] = true
		}
	}
	if len(held) == 0 {
		t.Fatalf("process %d has no socket", pid)
	}
	for _, table := range []string{"tcp", "tcp6", "unix", "udp", "udp6", "udplite", "udplite6", "raw", "raw6"} {
		if _, err := os.Stat("/proc/net/" + table); err != nil {
			continue // a kernel without it
		}
		stream := table == "tcp" || table == "tcp6" || table == "unix"
		for _, s := range sockets(t, table) {
			if held[s.inode] && (s.state == "0A" || !stream) {
				found = append(found, strings.TrimRight(table, "6")+" "+s.local)
			}
		}
	}
	slices.Sort(found)
	return found
}
