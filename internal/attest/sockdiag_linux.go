package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// sock_diag(7) over netlink: one question, one answer, asked and answered within one system
// call each. The kernel looks the tuple up in the table that packets are matched against.

// States of TCP as the kernel numbers them.
const (
	tcpEstablished = 1
	tcpSynRecv     = 3
	tcpListen      = 10
)

const (
	diagRequestSize = unix.SizeofNlMsghdr + 56 // struct inet_diag_req_v2
	diagAnswerSize  = 72                       // struct inet_diag_msg
)

// diagAnswer is what we use of struct inet_diag_msg.
type diagAnswer struct {
	state         byte
	local, remote netip.AddrPort
	uid           uint32
	inode         uint32
}

// lookUp asks for the socket that a packet from remote to local would reach: a connection, or
// where there is none, the listener that would take it. False: the kernel knows none.
func lookUp(local, remote netip.AddrPort, device uint32) (diagAnswer, bool, error) {
	local, remote = unmapped(local), unmapped(remote)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return diagAnswer{}, false, fmt.Errorf("sock_diag: %w", err)
	}
	defer unix.Close(fd)
	req := diagRequest(local, remote, device)
	if err := unix.Sendto(fd, req[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return diagAnswer{}, false, fmt.Errorf("sock_diag: %w", err)
	}
	var buf [4096]byte
	for {
		// The answer is queued before sendto returns: there is nothing to wait for.
		n, from, err := unix.Recvfrom(fd, buf[:], unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return diagAnswer{}, false, fmt.Errorf("sock_diag: %w", err)
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue // any process may write to a netlink socket; only the kernel is 0
		}
		return parseDiag(buf[:n])
	}
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// diagRequest lays out struct nlmsghdr and struct inet_diag_req_v2. "Source" is the side whose
// socket is asked for.
func diagRequest(local, remote netip.AddrPort, device uint32) (b [diagRequestSize]byte) {
	ne, be := binary.NativeEndian, binary.BigEndian
	ne.PutUint32(b[0:], diagRequestSize)
	ne.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[unix.SizeofNlMsghdr:]
	r[0] = unix.AF_INET
	if !local.Addr().Is4() {
		r[0] = unix.AF_INET6
	}
	r[1] = unix.IPPROTO_TCP
	ne.PutUint32(r[4:], ^uint32(0)) // every state
	be.PutUint16(r[8:], local.Port())
	be.PutUint16(r[10:], remote.Port())
	copy(r[12:28], local.Addr().AsSlice())
	copy(r[28:44], remote.Addr().AsSlice())
	ne.PutUint32(r[44:], device)
	ne.PutUint32(r[48:], ^uint32(0)) // no cookie
	ne.PutUint32(r[52:], ^uint32(0))
	return b
}

// parseDiag reads the kernel's answer: a socket, or an error of which ENOENT means none.
func parseDiag(b []byte) (diagAnswer, bool, error) {
	var a diagAnswer
	ne, be := binary.NativeEndian, binary.BigEndian
	if len(b) < unix.SizeofNlMsghdr {
		return a, false, errors.New("sock_diag: short answer")
	}
	kind, body := ne.Uint16(b[4:]), b[unix.SizeofNlMsghdr:]
	switch {
	case kind == unix.NLMSG_ERROR && len(body) >= 4:
		errno := unix.Errno(-int32(ne.Uint32(body)))
		if errno == unix.ENOENT {
			return a, false, nil
		}
		return a, false, fmt.Errorf("sock_diag: %w", errno)
	case kind != unix.SOCK_DIAG_BY_FAMILY || len(body) < diagAnswerSize:
		return a, false, fmt.Errorf("sock_diag: answer of type %d, %d bytes", kind, len(b))
	}
	size := 4
	if body[0] == unix.AF_INET6 {
		size = 16
	}
	local, _ := netip.AddrFromSlice(body[8 : 8+size])
	remote, _ := netip.AddrFromSlice(body[24 : 24+size])
	a.state = body[1]
	a.local = unmapped(netip.AddrPortFrom(local, be.Uint16(body[4:])))
	a.remote = unmapped(netip.AddrPortFrom(remote, be.Uint16(body[6:])))
	a.uid, a.inode = ne.Uint32(body[64:]), ne.Uint32(body[68:])
	return a, true, nil
}

// PeerSocket finds the other end of a connection that stays on this machine, whoever dialled
// it: the client of an accepted connection, the accepted socket of a dialled one.
func PeerSocket(c *net.TCPConn) (Socket, error) {
	ours, theirs, err := ends(c)
	if err != nil {
		return Socket{}, err
	}
	device, err := deviceOf(theirs.Addr())
	if err != nil {
		return Socket{}, err
	}
	theirs, ours = netip.AddrPortFrom(theirs.Addr().WithZone(""), theirs.Port()), netip.AddrPortFrom(ours.Addr().WithZone(""), ours.Port())
	a, ok, err := lookUp(theirs, ours, device)
	if err != nil || !ok {
		return Socket{}, err
	}
	// With no such connection the kernel answers with a listener on the port: not the peer.
	if a.state == tcpListen || a.local != unmapped(theirs) || a.remote != unmapped(ours) {
		return Socket{}, nil
	}
	// What was closed has no inode either, but is in none of these states any more.
	queued := a.inode == 0 && (a.state == tcpEstablished || a.state == tcpSynRecv)
	return Socket{UID: a.uid, Inode: uint64(a.inode), Found: true, Queued: queued}, nil
}

func ends(c *net.TCPConn) (ours, theirs netip.AddrPort, err error) {
	l, ok := c.LocalAddr().(*net.TCPAddr)
	r, ok2 := c.RemoteAddr().(*net.TCPAddr)
	if !ok || !ok2 {
		return ours, theirs, fmt.Errorf("connection has no addresses: %w", ErrGone)
	}
	return l.AddrPort(), r.AddrPort(), nil
}

// ListenSocket finds the listener that takes connections to addr: the kernel itself chooses,
// by the rules it uses for a first packet, so the most specific one wins.
func ListenSocket(addr netip.AddrPort) (Socket, error) {
	device, err := deviceOf(addr.Addr())
	if err != nil {
		return Socket{}, err
	}
	none := netip.IPv4Unspecified()
	if !addr.Addr().Unmap().Is4() {
		none = netip.IPv6Unspecified()
	}
	// Port 0 belongs to no connection, so nothing but a listener can match.
	a, ok, err := lookUp(netip.AddrPortFrom(addr.Addr().WithZone(""), addr.Port()), netip.AddrPortFrom(none, 0), device)
	if err != nil || !ok || a.state != tcpListen || a.local.Port() != addr.Port() {
		return Socket{}, err
	}
	return Socket{UID: a.uid, Inode: uint64(a.inode), Found: true}, nil
}

// deviceOf names the interface a packet to addr comes in by, where the answer may depend on
// it: listeners bound to the loopback device, and addresses with a zone.
func deviceOf(addr netip.Addr) (uint32, error) {
	const loopback = 1 // the first interface of every network namespace
	switch zone := addr.Zone(); {
	case zone != "":
		i, err := net.InterfaceByName(zone)
		if err != nil {
			return 0, fmt.Errorf("zone %q: %w", zone, err)
		}
		return uint32(i.Index), nil
	case addr.Unmap().IsLoopback():
		return loopback, nil
	}
	return 0, nil
}

// Established reports whether our end of c is in the state ESTABLISHED (TCP_INFO).
func Established(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = raw.Control(func(fd uintptr) {
		i, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		ok = err == nil && i.State == tcpEstablished
	})
	return err == nil && ok
}
