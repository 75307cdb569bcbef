package resource

import (
	"fmt"
	"net/netip"

	"go.yaml.in/yaml/v3"
)

// Egress is an address with a port, or a network with every port.
type Egress struct {
	Network netip.Prefix
	Port    uint16 // 0: every one
}

const maxEgress = 256

// egress reads {allow: [ADDRESS:PORT, NETWORK]} (dataplane.md 25.3).
func (r *configReader) egress(v *yaml.Node) {
	if v.Kind != yaml.MappingNode {
		r.fault(v.Line, v.Column, "E109", "egress is no map", "write {allow: [\"127.0.0.1:9000\"]}")
		return
	}
	r.each(v, func(key, value *yaml.Node) {
		switch {
		case key.Value != "allow":
			r.unknown("egress: ", key, []string{"allow"})
			return
		case value.Kind != yaml.SequenceNode:
			r.fault(value.Line, value.Column, "E109", "egress.allow is no list", "write [\"127.0.0.1:9000\"]")
			return
		case len(value.Content) > maxEgress:
			r.fault(value.Line, value.Column, "E102", fmt.Sprintf("egress.allow: %d values, at most %d are taken", len(value.Content), maxEgress), "")
			return
		}
		for _, item := range value.Content {
			text, ok := r.scalar("egress.allow", item)
			if !ok {
				continue
			}
			e, ok := parseEgress(text)
			if !ok {
				r.fault(item.Line, item.Column, "E208", "egress.allow: "+quote(text)+" is neither an address with a port nor a network", "such as 127.0.0.1:9000, [::1]:9000 or 10.244.0.0/16")
				continue
			}
			r.c.Egress = append(r.c.Egress, e)
		}
	})
}

func parseEgress(s string) (Egress, bool) {
	if at, err := netip.ParseAddrPort(s); err == nil {
		a := at.Addr()
		return Egress{netip.PrefixFrom(a, a.BitLen()), at.Port()}, at.Port() > 0 && a.Zone() == "" && !a.Is4In6()
	}
	n, err := netip.ParsePrefix(s)
	return Egress{Network: n}, err == nil && n == n.Masked() && !n.Addr().Is4In6()
}
