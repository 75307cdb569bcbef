package jwks

import (
	"net/netip"
	"testing"
)

func TestOpen(t *testing.T) {
	for _, s := range []string{"1.1.1.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "2606:4700::1111", "fd12::1", "64:ff9b::101:101", "2002:101:101::1"} {
		if !open(netip.MustParseAddr(s), nil) {
			t.Errorf("%s is blocked", s)
		}
	}
	for _, s := range []string{
		"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "169.254.0.1", "169.254.169.254", "100.100.100.200", "168.63.129.16",
		"224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::127.0.0.1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe",
		"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe",
		"2002:7f00:1::", "2002:a9fe:a9fe::1",
	} {
		if open(netip.MustParseAddr(s), nil) {
			t.Errorf("%s is open", s)
		}
	}
	if open(netip.Addr{}, nil) || open(netip.Addr{}, loopback) {
		t.Error("no address is open")
	}
	for s, want := range map[string]bool{"127.0.0.1": true, "::ffff:127.9.9.9": true, "::1": true, "169.254.169.254": false, "fe80::1": false} {
		if open(netip.MustParseAddr(s), loopback) != want {
			t.Errorf("%s with loopback allowed: %v", s, !want)
		}
	}
}
