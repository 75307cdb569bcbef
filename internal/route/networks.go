package route

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Networks is a set of addresses. The zero value is empty.
type Networks struct {
	list []netip.Prefix // in order, none within another
}

// ParseNetworks reads addresses and networks with a comma between them: 192.0.2.0/24, 2001:db8::1.
func ParseNetworks(s string) (Networks, error) {
	var all []netip.Prefix
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		p, _ := netip.ParsePrefix(part)
		if a, err := netip.ParseAddr(part); err == nil && a.Zone() == "" {
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			return Networks{}, fmt.Errorf("%q is no address and no network", part)
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var n Networks
	for _, p := range all {
		if len(n.list) == 0 || !n.list[len(n.list)-1].Contains(p.Addr()) {
			n.list = append(n.list, p)
		}
	}
	return n, nil
}

// Contains reports whether an address is in the set. An IPv4 address mapped into IPv6 is one of IPv4.
func (n *Networks) Contains(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	i, exact := slices.BinarySearchFunc(n.list, a, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	return exact || i > 0 && n.list[i-1].Contains(a)
}

// Empty reports the empty set.
func (n *Networks) Empty() bool { return len(n.list) == 0 }

// Guard are the addresses that an object keeps out: those of ip-deny, and all but those of ip-allow. nil lets everybody in.
type Guard struct {
	Object      string // whose annotations they are: Gateway/shop/edge
	deny, allow Networks
	only        bool // ip-allow is set
}

// Admits reports whether the address may come in.
func (g *Guard) Admits(a netip.Addr) bool {
	return g == nil || !g.deny.Contains(a) && (!g.only || g.allow.Contains(a))
}
