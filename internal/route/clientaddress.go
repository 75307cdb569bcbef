package route

import (
	"net/netip"
	"strings"
)

// Proxies are those in front of a listener that are believed about the client's address (gateway.md section 20).
type Proxies struct {
	Count int      // how many add to X-Forwarded-For
	From  Networks // their addresses; empty: whoever calls is one
}

// trusts reports whether a direct peer is believed.
func (p *Proxies) trusts(peer netip.Addr) bool { return p.From.Empty() || p.From.Contains(peer) }

// Client finds the address of who began a request, as the proxies in front say by the lines of X-Forwarded-For: the
// address at the Count-th place from the right. It is the direct peer's where there are fewer places, or something
// else stands there. How many places from the right are to be believed is said too.
func (p *Proxies) Client(peer netip.Addr, lines []string) (client netip.Addr, believed int) {
	if p.Count > 0 && p.trusts(peer) {
		place := 0
		for element := range fromRight(lines) {
			if place++; place == p.Count {
				if a, ok := forwardedAddress(element); ok {
					return a, place
				}
				break
			}
		}
	}
	return peer, 0
}

// Chain is the X-Forwarded-For that goes on: what is believed of the one that came, and the direct peer. What is no
// address in it is said to be unknown.
func (p *Proxies) Chain(peer netip.Addr, lines []string, believed int) string {
	own := peer.WithZone("").String()
	if believed == 0 {
		return own
	}
	chain := make([]string, believed, believed+1)
	for element := range fromRight(lines) {
		believed--
		chain[believed] = "unknown"
		if a, ok := forwardedAddress(element); ok {
			chain[believed] = a.String()
		}
		if believed == 0 {
			break
		}
	}
	return strings.Join(append(chain, own), ", ")
}

// fromRight are the elements of a list, the last one of the last line first. Empty ones are none (RFC 9110 section
// 5.6.1).
func fromRight(lines []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := len(lines) - 1; i >= 0; i-- {
			for rest := lines[i]; rest != ""; {
				at := strings.LastIndexByte(rest, ',')
				element := strings.Trim(rest[at+1:], " \t")
				if element != "" && !yield(element) {
					return
				}
				rest = rest[:max(at, 0)]
			}
		}
	}
}

// forwardedAddress reads an element: an address, with a port or without. IPv6 may stand in brackets.
func forwardedAddress(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap(), a.Zone() == ""
	}
	if p, err := netip.ParseAddrPort(s); err == nil {
		return p.Addr().Unmap(), p.Addr().Zone() == ""
	}
	if in, ok := strings.CutPrefix(s, "["); ok {
		if in, ok = strings.CutSuffix(in, "]"); ok {
			a, err := netip.ParseAddr(in)
			return a.Unmap(), err == nil && a.Is6() && a.Zone() == ""
		}
	}
	return netip.Addr{}, false
}
