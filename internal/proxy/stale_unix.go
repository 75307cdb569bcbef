//go:build unix

package proxy

import (
	"net"

	"golang.org/x/sys/unix"
)

// stale reports that something came on an idle connection: its end, or a byte nobody asked
// for. Either way it must not carry another request (dataplane.md 4.4). It looks without waiting
// and takes nothing.
func stale(c net.Conn) bool {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		look := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(look[:], 0)
		quiet = n == 0 && err == nil
	})
	return err != nil || !quiet
}
