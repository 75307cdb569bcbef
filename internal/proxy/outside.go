package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/gate"
)

// Calls to hosts outside the mesh, which ALLOW_ANY permits. A node dials much that a program
// may not: its own loopback, its machine, the cloud's metadata. None of it is dialled for
// anybody, whatever the setting (dataplane.md 25.3).

// metadata are the addresses at which clouds tell a machine its secrets.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.169.254/32"),
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
	netip.MustParsePrefix("fd00:ec2::/32"),      // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("fd00:c1::/32"),       // Oracle
}

// forbiddenName refuses by the name alone.
func forbiddenName(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && forbiddenAddr(ip)
}

// carriers are IPv6 networks that lead to the IPv4 address within, which begins at the byte named.
var carriers = []struct {
	net  netip.Prefix
	from int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},    // NAT64 (RFC 6052)
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12},  // NAT64, local use (RFC 8215)
	{netip.MustParsePrefix("2002::/16"), 2},        // 6to4
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12}, // IPv4-translated (RFC 7915)
	{netip.MustParsePrefix("::/96"), 12},           // IPv4-compatible
}

// neverDialled reports an address that means something else on each machine.
func neverDialled(ip netip.Addr) bool {
	ip = plainAddr(ip)
	return ip.IsLoopback() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip.IsInterfaceLocalMulticast() ||
		slices.ContainsFunc(metadata, func(n netip.Prefix) bool { return n.Contains(ip) }) ||
		ip.Is4() && (ip.As4()[0] == 0 || ip.As4() == [4]byte{255, 255, 255, 255})
}

// plainAddr is where an address leads to.
func plainAddr(ip netip.Addr) netip.Addr {
	ip = ip.Unmap().WithZone("")
	if ip.IsLoopback() || ip.IsUnspecified() {
		return ip
	}
	for _, c := range carriers {
		if c.net.Contains(ip) {
			b := ip.As16()
			return netip.AddrFrom4([4]byte(b[c.from : c.from+4]))
		}
	}
	return ip
}

// forbiddenAddr reports an address that is never dialled for a call.
func forbiddenAddr(ip netip.Addr) bool {
	if neverDialled(ip) {
		return true
	}
	ip = plainAddr(ip)
	own, err := net.InterfaceAddrs()
	if err != nil {
		return true // not knowing ourselves, we dial nobody
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok {
			if mine, ok := netip.AddrFromSlice(n.IP); ok && mine.Unmap() == ip {
				return true
			}
		}
	}
	return false
}

var errForbidden = errors.New("address is never dialled for a call")

// dialOutside resolves and connects. The names are checked again after they were resolved:
// what DNS says is a stranger's word.
func dialOutside(ctx context.Context, host string, port uint16) (*socket, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	err = errForbidden
	for _, ip := range ips {
		if forbiddenAddr(ip) {
			continue
		}
		c, dialErr := d.DialContext(ctx, "tcp", net.JoinHostPort(ip.Unmap().String(), strconv.Itoa(int(port))))
		if dialErr != nil {
			err = dialErr
			continue
		}
		return &socket{Conn: c}, nil
	}
	return nil, err
}

func (x *exchange) outsideSocket(authority string, fallback uint16) (*socket, *refused) {
	host, port, ok := splitAuthority(authority, fallback)
	if !ok || port == 0 {
		return nil, refuseForm
	}
	s, err := dialOutside(x.context(), host, port)
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case err == nil:
		return s, nil
	case errors.Is(err, errForbidden):
		return nil, refuseEgress
	case x.r.Context().Err() != nil && x.cut.Load() == nil:
		x.clientGone()
	case isNet && timeout.Timeout():
		return nil, refuseConnectTime
	}
	no := *refuseAway
	no.event = ""
	return nil, &no
}

// callOutside sends one plain request, over a connection of its own.
func (x *exchange) callOutside() {
	if no := x.register(); no != nil {
		x.refuse(no)
		return
	}
	s, no := x.outsideSocket(x.host, 80)
	if no != nil {
		x.refuse(no)
		return
	}
	x.receiveBody(nil)
	w := newWire(s, s)
	a, err := x.over(w, x.outgoing())
	if err != nil {
		w.close()
		x.refuse(x.blame(err))
		return
	}
	a.last = true
	switch {
	case a.status != http.StatusSwitchingProtocols:
		x.relay(a, nil)
	case goodUpgrade(a.header, x.wantsKey):
		x.openWebSocket(a)
	default:
		a.end(x, nil, false)
		x.refuse(refuseUpgrade)
	}
}

// relayOutside opens a raw tunnel for CONNECT.
func (x *exchange) relayOutside() {
	if no := x.register(); no != nil {
		x.refuse(no)
		return
	}
	s, no := x.outsideSocket(x.r.RequestURI, 0)
	if no != nil {
		x.refuse(no)
		return
	}
	l, g := x.link, gate.From(x.r.Context())
	if g == nil {
		_ = s.Close()
		x.refuse(refuseForm)
		return
	}
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		_ = s.Close()
		x.clientGone()
	}
	defer x.run.open.remove(l)
	x.begun.Store(true)
	g.Raw()
	t := &tunnel{
		down: side{r: conn, conn: g.NetConn(), base: l.conn},
		up:   side{r: s, conn: s, base: s},
	}
	x.rec.Proto = audit.ProtoTCP
	x.run.live.attach(x, t.snap)
	x.openRecord(http.StatusOK)
	if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")); err != nil {
		t.snap()
	}
	x.finishTunnel(t, http.StatusOK)
}
