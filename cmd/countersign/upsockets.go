package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/node"
	"golang.org/x/sys/unix"
)

const (
	firstHanded = 3 // sd_listen_fds(3)
	maxHanded   = 64
)

// inherited takes the sockets that whoever started this process listens on for Gateways (sd_listen_fds(3)): each is
// named for its port, http, https or port-443. From here on no program that this process starts gets them.
func inherited() (out []node.Inherited, err error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		os.Unsetenv(name)
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil // they are another's
	}
	bad := func(format string, args ...any) error {
		return &admin.Problem{
			Code: "sockets", Message: "taking the sockets that were handed over: " + fmt.Sprintf(format, args...),
			Hints: []string{"in the socket unit: FileDescriptorName=https"},
		}
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || n > maxHanded {
		return nil, bad("LISTEN_FDS is %q, 1 to %d are taken", count, maxHanded)
	}
	for fd := firstHanded; fd < firstHanded+n; fd++ {
		unix.CloseOnExec(fd) // all of them, before any is judged
	}
	list := strings.Split(names, ":")
	if len(list) != n {
		return nil, bad("LISTEN_FDNAMES has %d names for %d sockets", len(list), n)
	}
	for i, name := range list {
		port, ok := portNamed(name)
		if !ok {
			return nil, bad("the name %q is not http, https or port-443", name)
		}
		at, err := listening(firstHanded + i)
		if err != nil {
			return nil, bad("%q: %v", name, err)
		}
		if at.Port() != port {
			return nil, bad("%q listens on %s", name, at)
		}
		out = append(out, node.Inherited{File: os.NewFile(uintptr(firstHanded+i), name), Addr: at.Addr(), Port: port})
	}
	return out, nil
}

func portNamed(name string) (uint16, bool) {
	switch name {
	case "http":
		return 80, true
	case "https":
		return 443, true
	}
	digits, ok := strings.CutPrefix(name, "port-")
	port, err := strconv.ParseUint(digits, 10, 16)
	return uint16(port), ok && err == nil && port != 0 && strconv.FormatUint(port, 10) == digits
}

// listening judges that a descriptor is a TCP socket that listens, and gives its address.
func listening(fd int) (netip.AddrPort, error) {
	is := func(option int, values ...int) bool {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
		return err == nil && slices.Contains(values, got)
	}
	switch {
	case !is(unix.SO_TYPE, unix.SOCK_STREAM), !is(unix.SO_PROTOCOL, unix.IPPROTO_TCP, unix.IPPROTO_MPTCP):
		return netip.AddrPort{}, errors.New("it is no socket of TCP")
	case !is(unix.SO_ACCEPTCONN, 1):
		return netip.AddrPort{}, errors.New("it does not listen")
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("its address cannot be read: %w", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, errors.New("it is no IP socket")
}

// gatewayAddresses are where Gateways listen: bind of the configuration, else loopback, and --address.
func (h *house) gatewayAddresses() (node.Addresses, error) {
	a := node.Addresses{Bind: slices.Clone(h.config.Bind), Pool: h.config.AddressPool}
	if len(a.Bind) == 0 && len(h.o.addresses) > 0 {
		a.Bind = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	for _, text := range h.o.addresses {
		ip := netip.MustParseAddr(text).Unmap() // check has parsed it
		if ip.IsUnspecified() {                 // it is every address of its family
			a.Bind = slices.DeleteFunc(a.Bind, func(other netip.Addr) bool { return other.Is4() == ip.Is4() })
		}
		if !slices.Contains(a.Bind, ip) {
			a.Bind = append(a.Bind, ip)
		}
	}
	var err error
	a.Inherited, err = inherited()
	return a, err
}

// inTheWay are the ports of this process in the way of Gateways which name no address.
func (h *house) inTheWay() map[uint16]string {
	out := map[uint16]string{}
	for name, ln := range map[string]net.Listener{"inbound": h.local.Inbound, "health": h.pages, "tokens": h.tokens, "tokens-mtls": h.tokensMTLS} {
		if ln == nil {
			continue
		}
		own, ok := ln.Addr().(*net.TCPAddr)
		if ok && slices.ContainsFunc(h.gateways.Everywhere(), func(ip netip.Addr) bool {
			at := own.AddrPort().Addr().Unmap()
			return at == ip || at.IsUnspecified() || ip.IsUnspecified()
		}) {
			out[uint16(own.Port)] = name
		}
	}
	return out
}

// handed are the ports of the sockets that were handed over.
func (h *house) handed() (out []uint16) {
	for _, s := range h.gateways.Inherited {
		out = append(out, s.Port)
	}
	return out
}
