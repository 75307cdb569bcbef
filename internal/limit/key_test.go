package limit

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// read is what a key is made of: if it can be read back, no two lists of parts make one key.
func read(t *testing.T, key []byte) (parts []string) {
	for rest := key[prefixSize:]; len(rest) > 0; {
		size := 1
		switch rest[0] {
		case tagAbsent:
			parts = append(parts, "absent")
		case tagValue:
			length, n := binary.Uvarint(rest[1:])
			size = 1 + n + int(length)
			parts = append(parts, "value "+string(rest[1+n:size]))
		case tagV4, tagV6:
			size = 6
			if rest[0] == tagV6 {
				size = 18
			}
			ip, ok := netip.AddrFromSlice(rest[2:size])
			if !ok {
				t.Fatalf("key %q has no address", key)
			}
			parts = append(parts, "ip "+netip.PrefixFrom(ip, int(rest[1])).String())
		default:
			t.Fatalf("key %q has tag %q", key, rest[0])
		}
		rest = rest[size:]
	}
	return parts
}

// build makes an ask of what a fuzzer wrote, and says what its key must read as.
func build(r *Rule, in []byte) (a Ask, want, widened []string) {
	a.Begin(r)
	next := func(n int) []byte {
		n = min(n, len(in))
		out := in[:n]
		in = in[n:]
		return out
	}
	for len(in) > 0 {
		part := "absent"
		wider := part
		switch kind := next(1)[0]; kind % 4 {
		case 0:
			a.Absent()
		case 1:
			v := string(next(int(kind / 4)))
			a.Value(v)
			part = "value " + v
			wider = part
		default:
			size, most, bits := 4, wideV4, int(kind/4)
			if kind%4 == 3 {
				size, most = 16, wideV6
				bits *= 2
			}
			ip, ok := netip.AddrFromSlice(next(size))
			a.IP(ip, bits, bits)
			if ip = ip.Unmap(); ip.Is4() {
				most = wideV4
			}
			if p, err := ip.Prefix(bits); ok && err == nil {
				part = "ip " + p.String()
				p, _ = ip.Prefix(min(bits, most))
				wider = "ip " + p.String()
			}
		}
		want, widened = append(want, part), append(widened, wider)
	}
	return a, want, widened
}

// FuzzKey: what a stranger sends never makes the key of another list of parts, and a wide key
// differs in its addresses alone.
func FuzzKey(f *testing.F) {
	for _, s := range []string{
		"", "\x00", "\x01", "\x01\x00", "\x05a\x05b", "\x09ab", "\x09v\x00\x00", "\x05\x00\x00", "\x11a\x00v\x01b",
		"\x82\xc0\x00\x02\x01", "\x62\xc0\x00\x02\xff", "\x22\xc0", "\x83 \x01\r\xb8\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01",
		"\x43\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01", "\xfdlong\x82\x0a\x00\x00\x01\x00",
	} {
		f.Add([]byte(s), []byte(s+"\x00"))
		f.Add([]byte(s), []byte(s))
	}
	r := rate(f, 10, time.Second, 5)
	f.Fuzz(func(t *testing.T, x, y []byte) {
		a, parts, widened := build(r, x)
		b, others, _ := build(r, y)
		if got := read(t, a.key); !slices.Equal(got, parts) {
			t.Fatalf("reads %q, want %q", got, parts)
		}
		if slices.Equal(parts, others) != bytes.Equal(a.key, b.key) {
			t.Fatalf("%q and %q: keys %q and %q", parts, others, a.key, b.key)
		}
		w := wide(a.key)
		if got := read(t, w); !slices.Equal(got, widened) || a.widens == slices.Equal(parts, widened) {
			t.Fatalf("wide reads %q, want %q; widens %v", got, widened, a.widens)
		}
		var short hashed
		if k := bounded(a.key, &short); len(k) > MaxKey || (len(a.key) <= MaxKey) != bytes.Equal(k, a.key) || !bytes.HasPrefix(k, r.prefix[:]) {
			t.Fatalf("%d bytes kept as %q", len(a.key), k)
		}
	})
}

func TestAddressesOfKeys(t *testing.T) {
	r := rate(t, 10, time.Second, 5)
	for _, tt := range []struct{ ip, want, wide string }{
		{"192.0.2.77", "ip 192.0.2.77/32", "ip 192.0.2.0/24"},
		{"::ffff:192.0.2.77", "ip 192.0.2.77/32", "ip 192.0.2.0/24"},
		{"2001:db8:1:2:3:4:5:6", "ip 2001:db8:1:2::/64", "ip 2001:db8:1::/48"},
		{"fe80::1%eth0", "ip fe80::/64", "ip fe80::/48"},
	} {
		a := askIP(r, netip.MustParseAddr(tt.ip))
		if got := read(t, a.key); got[0] != tt.want {
			t.Errorf("%s: %q, want %q", tt.ip, got, tt.want)
		}
		if got := read(t, wide(a.key)); got[0] != tt.wide {
			t.Errorf("%s widened: %q, want %q", tt.ip, got, tt.wide)
		}
	}
	if a := askIP(r, netip.Addr{}); !slices.Equal(read(t, a.key), []string{"absent"}) {
		t.Errorf("no address: %q", a.key)
	}
}

// A long key is one key, and another than its neighbours; the store keeps at most MaxKey of it.
func TestLongKeys(t *testing.T) {
	s, r := New(DefaultKeys), rate(t, 10, time.Second, 5)
	for _, size := range []int{MaxKey - prefixSize - 3, MaxKey - prefixSize - 2, 16 << 10} {
		for _, last := range []string{"x", "y"} {
			a := ask(r, strings.Repeat("k", size-1)+last)
			if n := admitted(s, 0, 20, a); n != 5 {
				t.Errorf("%d bytes: %d admitted, want 5", len(a.key), n)
			}
		}
	}
	lengths := map[int]int{}
	for i := range s.shards {
		for key := range s.shards[i].buckets {
			lengths[len(key)]++
		}
	}
	if got, want := fmt.Sprint(lengths), fmt.Sprint(map[int]int{MaxKey: 2, len(hashed{}): 4}); got != want {
		t.Errorf("lengths of keys %v, want %v", got, want)
	}
}

// A long key with an address widens as a short one does: a long header is no way round it.
func TestLongKeysWiden(t *testing.T) {
	s, r := New(4), rate(t, 10, time.Second, 5)
	for i := range 4 {
		admitted(s, 0, 1, ask(r, fmt.Sprint(i)))
	}
	long, n := strings.Repeat("k", 1000), 0
	s.most = 6
	for i := range 20 {
		a := askIP(r, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
		a.Value(long)
		n += admitted(s, 0, 1, a)
	}
	if !s.Crowded() || s.Keys() > 6 {
		t.Fatalf("%d of %d buckets", s.Keys(), s.most)
	}
	if n > 2*5 {
		t.Errorf("%d admitted of one network", n)
	}
}
