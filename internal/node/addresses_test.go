package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/route"
)

// asking is a Gateway of the shop that asks for addresses ("" for one of the pool), with its ports.
type asking struct {
	name  string
	ports []uint16
	wants []string
}

// Who gets which address: gateway.md 4.2.
func TestAddresses(t *testing.T) {
	pool := []string{"192.0.2.1", "192.0.2.2"}
	for _, tt := range []struct {
		what string
		bind []string
		pool []string
		kept string // "name=address …"
		old  []asking
		want string // "name: addresses [port-of-other] | reason", older first
		now  string // kept afterwards
	}{
		{"loopback is the default", nil, nil, "", []asking{{"a", []uint16{80}, nil}}, "a: 127.0.0.1 ::1", ""},
		{"bind instead", []string{"0.0.0.0"}, nil, "", []asking{{"a", []uint16{80}, nil}}, "a: 0.0.0.0", ""},
		{"other ports share an address", nil, nil, "", []asking{{"a", []uint16{80}, nil}, {"b", []uint16{81}, nil}}, "a: 127.0.0.1 ::1, b: 127.0.0.1 ::1", ""},
		{"a port of an older one", nil, nil, "", []asking{{"a", []uint16{80}, nil}, {"b", []uint16{80, 81}, nil}}, "a: 127.0.0.1 ::1, b: | AddressNotAssigned", ""},
		{"then the pool", nil, pool, "", []asking{{"a", []uint16{80}, nil}, {"b", []uint16{80}, nil}, {"c", []uint16{80}, nil}, {"d", []uint16{80}, nil}},
			"a: 127.0.0.1 ::1, b: 192.0.2.1, c: 192.0.2.2, d: | AddressNotAssigned", "b=192.0.2.1 c=192.0.2.2"},
		{"the one it had", nil, pool, "c=192.0.2.1", []asking{{"a", []uint16{80}, nil}, {"b", []uint16{80}, nil}, {"c", []uint16{80}, nil}},
			"a: 127.0.0.1 ::1, b: 192.0.2.2, c: 192.0.2.1", "b=192.0.2.2 c=192.0.2.1"},
		{"not that of one who may come back", nil, pool, "gone=192.0.2.1", []asking{{"a", []uint16{80}, []string{""}}}, "a: 192.0.2.2", "a=192.0.2.2 gone=192.0.2.1"},
		{"but for want of another", nil, pool[:1], "gone=192.0.2.1", []asking{{"a", []uint16{80}, []string{""}}}, "a: 192.0.2.1", "a=192.0.2.1"},
		{"not one that is asked for by name", nil, pool, "", []asking{{"a", []uint16{80}, []string{""}}, {"b", []uint16{80}, []string{"192.0.2.1"}}},
			"a: 192.0.2.2, b: 192.0.2.1", "a=192.0.2.2"},
		{"what left the pool", nil, pool[1:], "a=192.0.2.1", []asking{{"a", []uint16{80}, []string{""}}}, "a: 192.0.2.2", "a=192.0.2.2"},
		{"an empty pool", nil, nil, "", []asking{{"a", []uint16{80}, []string{""}}}, "a: | AddressNotAssigned", ""},
		{"of this host", nil, nil, "", []asking{{"a", []uint16{80}, []string{"198.51.100.7"}}}, "a: 198.51.100.7", ""},
		{"mapped", nil, nil, "", []asking{{"a", []uint16{80}, []string{"::ffff:198.51.100.7"}}}, "a: 198.51.100.7", ""},
		{"of another host", nil, pool, "", []asking{{"a", []uint16{80}, []string{"192.0.2.1", "203.0.113.9"}}}, "a: | AddressNotUsable", ""},
		{"all of the host, unasked", nil, nil, "", []asking{{"a", []uint16{80}, []string{"0.0.0.0"}}}, "a: | AddressNotUsable", ""},
		{"all of the host, by bind", []string{"::"}, nil, "", []asking{{"a", []uint16{80}, []string{"::"}}}, "a: ::", ""},
		{"no address", nil, nil, "", []asking{{"a", []uint16{80}, []string{"x"}}}, "a: | AddressNotUsable", ""},
		{"one port of two is taken", nil, nil, "", []asking{{"a", []uint16{80}, []string{"198.51.100.7"}}, {"b", []uint16{80, 81}, []string{"198.51.100.7"}}},
			"a: 198.51.100.7, b: 198.51.100.7 80-of-a", ""},
		{"every address includes one", []string{"0.0.0.0"}, nil, "", []asking{{"a", []uint16{80}, nil}, {"b", []uint16{80}, []string{"198.51.100.7"}}},
			"a: 0.0.0.0, b: 198.51.100.7 80-of-a", ""},
		{"nor the reverse", []string{"0.0.0.0"}, nil, "", []asking{{"a", []uint16{80}, []string{"198.51.100.7"}}, {"b", []uint16{80}, nil}},
			"a: 198.51.100.7, b: | AddressNotAssigned", ""},
	} {
		t.Run(tt.what, func(t *testing.T) {
			addrs := func(list []string) (out []netip.Addr) {
				for _, s := range list {
					out = append(out, netip.MustParseAddr(s))
				}
				return out
			}
			kept := map[string]netip.Addr{}
			for _, pair := range strings.Fields(tt.kept) {
				name, addr, _ := strings.Cut(pair, "=")
				kept["shop/"+name] = netip.MustParseAddr(addr)
			}
			var gateways []*route.Gateway
			ports := map[route.Name][]uint16{}
			for i, a := range tt.old {
				g := &route.Gateway{Meta: route.Meta{Name: route.Name{Namespace: "shop", Name: a.name}, Created: time.Unix(int64(i), 0)}}
				for _, w := range a.wants {
					g.Addresses = append(g.Addresses, route.Address{Type: "IPAddress", Value: w})
				}
				gateways, ports[g.Name] = append(gateways, g), a.ports
			}
			a := Addresses{Bind: addrs(tt.bind), Pool: addrs(tt.pool)}
			sites := a.addresses(gateways, ports, kept, func(addr netip.Addr) bool { return addr == netip.MustParseAddr("198.51.100.7") })
			var got []string
			for _, g := range gateways {
				s := sites[g.Name]
				line := g.Name.Name + ":"
				for _, addr := range s.addrs {
					line += " " + addr.String()
				}
				for _, port := range slices.Sorted(maps.Keys(s.taken)) {
					line += fmt.Sprintf(" %d-of-%s", port, s.taken[port].Name)
				}
				if s.refusal != (route.Refusal{}) {
					line += " | " + s.refusal.Reason
				}
				got = append(got, line)
			}
			if text := strings.Join(got, ", "); text != tt.want {
				t.Errorf("got  %s\nwant %s", text, tt.want)
			}
			var now []string
			for _, name := range slices.Sorted(maps.Keys(kept)) {
				now = append(now, strings.TrimPrefix(name, "shop/")+"="+kept[name].String())
			}
			if text := strings.Join(now, " "); text != tt.now {
				t.Errorf("kept %q, want %q", text, tt.now)
			}
		})
	}
}
