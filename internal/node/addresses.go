package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"countersign.dev/internal/files"
	"countersign.dev/internal/route"
)

// Addresses are where the Gateways of a node listen (gateway.md 4.2).
type Addresses struct {
	Bind      []netip.Addr // of Gateways that name none; empty: loopback
	Pool      []netip.Addr // of those that find their ports taken there
	Inherited []Inherited  // in the place of Bind, for their ports
}

// Everywhere is where a Gateway listens that names no address.
func (a *Addresses) Everywhere() []netip.Addr {
	if len(a.Bind) == 0 {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	return a.Bind
}

// site is where a Gateway listens, or why it does not.
type site struct {
	addrs   []netip.Addr
	bound   bool // those of bind, which inherited sockets stand in for
	refusal route.Refusal
	taken   map[uint16]route.Name // ports that an older Gateway has there
}

// addresses gives each Gateway its own, older ones first. kept is which address of the pool each had; it is changed to
// what each has now.
func (a *Addresses) addresses(gateways []*route.Gateway, ports map[route.Name][]uint16, kept map[string]netip.Addr, here func(netip.Addr) bool) map[route.Name]*site {
	sites := map[route.Name]*site{}
	claims := map[uint16][]claim{}
	pooled := a.pooled(gateways, kept)
	for _, g := range gateways {
		s := &site{taken: map[uint16]route.Name{}}
		sites[g.Name] = s
		switch {
		case len(g.Addresses) > 0:
			s.refusal = a.named(s, g, pooled, here)
		case !claimed(claims, a.Everywhere(), ports[g.Name]):
			s.addrs, s.bound = a.Everywhere(), true
		default:
			s.refusal = pooled.take(s, g, "a port of it is that of an older Gateway on the addresses of all; give it addresses, or another port")
		}
		for _, port := range ports[g.Name] {
			for _, c := range claims[port] {
				if _, told := s.taken[port]; !told && slices.ContainsFunc(s.addrs, c.overlaps) {
					s.taken[port] = c.gateway
				}
			}
			if _, taken := s.taken[port]; taken {
				continue
			}
			for _, addr := range s.addrs {
				claims[port] = append(claims[port], claim{addr, g.Name})
			}
		}
	}
	return sites
}

// Refuses says of the addresses that a Gateway asks for whether they could be served at all.
func (a *Addresses) Refuses(g *route.Gateway) route.Refusal {
	return a.named(&site{}, g, a.pooled(nil, map[string]netip.Addr{}), onHost())
}

// named are the addresses that a Gateway asks for.
func (a *Addresses) named(s *site, g *route.Gateway, pooled *pool, here func(netip.Addr) bool) route.Refusal {
	for _, want := range g.Addresses {
		if want.Value == "" {
			if refusal := pooled.take(s, g, ""); refusal != (route.Refusal{}) {
				return refusal
			}
			continue
		}
		ip, err := netip.ParseAddr(want.Value)
		ip = ip.Unmap()
		if err != nil || ip.Zone() != "" || !here(ip) && !slices.Contains(a.Pool, ip) && !slices.Contains(a.Everywhere(), ip) {
			s.addrs = nil
			return route.Refusal{Reason: "AddressNotUsable", Text: fmt.Sprintf("address %q is not on this host, nor in addressPool; write another, or none", want.Value)}
		}
		if !slices.Contains(s.addrs, ip) {
			s.addrs = append(s.addrs, ip)
		}
	}
	return route.Refusal{}
}

// claim is an address and a port that a Gateway has.
type claim struct {
	addr    netip.Addr
	gateway route.Name
}

// overlaps: one of all addresses of a family is each of them.
func (c claim) overlaps(addr netip.Addr) bool {
	return c.addr == addr || c.addr.Is4() == addr.Is4() && (c.addr.IsUnspecified() || addr.IsUnspecified())
}

func claimed(claims map[uint16][]claim, addrs []netip.Addr, ports []uint16) bool {
	return slices.ContainsFunc(ports, func(port uint16) bool {
		return slices.ContainsFunc(claims[port], func(c claim) bool { return slices.ContainsFunc(addrs, c.overlaps) })
	})
}

// pool hands out addresses, to each name the one that it had.
type pool struct {
	free []netip.Addr
	kept map[string]netip.Addr
}

// pooled leaves out what Gateways ask for by name, and what others had as long as there is something else.
func (a *Addresses) pooled(gateways []*route.Gateway, kept map[string]netip.Addr) *pool {
	used, live := map[netip.Addr]bool{}, map[string]bool{}
	for _, g := range gateways {
		live[g.String()] = true
		for _, want := range g.Addresses {
			if ip, err := netip.ParseAddr(want.Value); err == nil {
				used[ip.Unmap()] = true
			}
		}
	}
	had := map[netip.Addr]bool{} // by a Gateway that is gone: it may come back
	for name, addr := range kept {
		switch {
		case !slices.Contains(a.Pool, addr) || used[addr] && live[name]:
			delete(kept, name)
		case live[name]:
			used[addr] = true
		default:
			had[addr] = true
		}
	}
	p := &pool{kept: kept}
	for _, last := range []bool{false, true} {
		for _, addr := range a.Pool {
			if !used[addr] && had[addr] == last {
				p.free = append(p.free, addr)
			}
		}
	}
	return p
}

// take gives a Gateway its address of the pool.
func (p *pool) take(s *site, g *route.Gateway, why string) route.Refusal {
	addr, had := p.kept[g.String()]
	switch {
	case had:
	case len(p.free) == 0:
		s.addrs = nil
		if why == "" {
			why = "no address of addressPool is free; write one, or none"
		}
		return route.Refusal{Reason: "AddressNotAssigned", Text: why}
	default:
		addr, p.free = p.free[0], p.free[1:]
		for name, old := range p.kept {
			if old == addr {
				delete(p.kept, name)
			}
		}
		p.kept[g.String()] = addr
	}
	if !slices.Contains(s.addrs, addr) {
		s.addrs = append(s.addrs, addr)
	}
	return route.Refusal{}
}

// onHost reports whether an address is one of this machine now.
func onHost() func(netip.Addr) bool {
	list, _ := net.InterfaceAddrs()
	return func(addr netip.Addr) bool {
		return addr.IsLoopback() && addr.Is4() || slices.ContainsFunc(list, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			if !ok {
				return false
			}
			ip, ok := netip.AddrFromSlice(n.IP)
			return ok && ip.Unmap() == addr
		})
	}
}

const keptAddresses = "addresses.json"

// loadKept reads which address of the pool each Gateway had; without it they are handed out anew.
func loadKept(dir *os.Root) map[string]netip.Addr {
	kept := map[string]netip.Addr{}
	if b, err := files.ReadFile(dir, keptAddresses, 1<<20); err == nil && json.Unmarshal(b, &kept) != nil {
		clear(kept)
	}
	return kept
}

func saveKept(dir *os.Root, kept map[string]netip.Addr) error {
	b, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	return files.WriteFile(dir, keptAddresses, b)
}

// listen opens a port where a Gateway listens: the sockets that were handed over for it, or its own. An IPv6 address of
// bind is left out where the machine has none.
func (a *Addresses) listen(s *site, port uint16) (out []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range out {
				_ = l.Close()
			}
			out = nil
		}
	}()
	handed := false
	for i := range a.Inherited {
		h := &a.Inherited[i]
		if h.Port != port || !s.bound && !slices.Contains(s.addrs, h.Addr) {
			continue
		}
		l, err := net.FileListener(h.File)
		if err != nil {
			return out, &unbound{port, "cannot be taken from the socket that was handed over", err}
		}
		out, handed = append(out, l), true
	}
	if handed {
		return out, nil
	}
	for i, addr := range s.addrs {
		network := "tcp4"
		if addr.Is6() {
			network = "tcp6"
		}
		at := netip.AddrPortFrom(addr, port)
		l, err := net.Listen(network, at.String())
		if s.bound && addr.Is6() && (len(out) > 0 || i < len(s.addrs)-1) && absent(err) {
			continue
		}
		if err != nil {
			return out, &unbound{port, whyUnbound(at, err), err}
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return out, &unbound{port, "has no address to be opened on", errors.New("no address")}
	}
	return out, nil
}

// addressesOf are those that listeners are bound to.
func addressesOf(listeners []net.Listener) (out []string) {
	for _, l := range listeners {
		if a, ok := l.Addr().(*net.TCPAddr); ok {
			out = append(out, a.AddrPort().Addr().Unmap().String())
		}
	}
	return out
}

// Inherited is a socket that listens already and was handed to this process for a port of Gateways.
type Inherited struct {
	File *os.File
	Addr netip.Addr
	Port uint16
}

// hostOf is how people reach an address: localhost for loopback.
func hostOf(addrs []string, port uint16) string {
	if len(addrs) == 0 {
		return ":" + strconv.Itoa(int(port))
	}
	if ip, err := netip.ParseAddr(addrs[0]); err == nil && ip.IsLoopback() {
		return net.JoinHostPort("localhost", strconv.Itoa(int(port)))
	}
	return net.JoinHostPort(addrs[0], strconv.Itoa(int(port)))
}
