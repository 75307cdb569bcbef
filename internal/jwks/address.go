package jwks

import (
	"net/netip"
	"slices"
)

// blocked are addresses that a name must not lead us to: this machine, its link, the metadata
// services of clouds, and everything that is no single host. Private networks are not blocked:
// identity providers live there.
var blocked = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),          // unspecified, "this network"
	netip.MustParsePrefix("127.0.0.0/8"),        // loopback
	netip.MustParsePrefix("169.254.0.0/16"),     // link-local; metadata of most clouds
	netip.MustParsePrefix("100.100.100.200/32"), // metadata, Alibaba
	netip.MustParsePrefix("168.63.129.16/32"),   // metadata, Azure
	netip.MustParsePrefix("224.0.0.0/3"),        // multicast, reserved, broadcast
	netip.MustParsePrefix("::/96"),              // unspecified, loopback, IPv4-compatible
	netip.MustParsePrefix("fe80::/10"),          // link-local
	netip.MustParsePrefix("fec0::/10"),          // site-local
	netip.MustParsePrefix("ff00::/8"),           // multicast
	netip.MustParsePrefix("fd00:ec2::/32"),      // metadata, AWS
	netip.MustParsePrefix("fd20:ce::254/128"),   // metadata, Google
	netip.MustParsePrefix("fd00:c1::/32"),       // metadata, Oracle
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
}

// plain is the address without the forms that hide it: IPv4 in IPv6, and a zone.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// within says whether a is in one of the networks.
func within(a netip.Addr, nets []netip.Prefix) bool {
	a = plain(a)
	return slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Contains(a) })
}

// open says whether a may be dialled: it is not blocked, itself or what it carries, or the
// operator allows it.
func open(a netip.Addr, allow []netip.Prefix) bool {
	a = plain(a)
	if within(a, allow) {
		return true
	}
	if !a.IsValid() || within(a, blocked) {
		return false
	}
	for _, c := range carriers {
		if c.net.Contains(a) {
			b := a.As16()
			return open(netip.AddrFrom4([4]byte(b[c.from:c.from+4])), nil)
		}
	}
	return true
}
