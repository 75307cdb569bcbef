package resource

import (
	"fmt"
	"strings"
	"testing"
)

func TestGatewayConfig(t *testing.T) {
	for _, tt := range []struct{ in, got, faults string }{
		{"svidTTL: 1h", "[] [] []", ""},
		{"bind: ['0.0.0.0', '::', '::ffff:192.0.2.1']", "[0.0.0.0 :: 192.0.2.1] [] []", ""},
		{"addressPool: [192.0.2.9, 10.0.0.0/30, 10.0.0.2, '2001:db8::/127']", "[] [192.0.2.9 10.0.0.0 10.0.0.1 10.0.0.2 10.0.0.3 2001:db8:: 2001:db8::1] []", ""},
		{"certificateDirs: [/etc/a, /b]", "[] [] [/etc/a /b]", ""},
		{"bind: 0.0.0.0", "[] [] []", "1:7 E109"},
		{"bind: ['192.0.2.1:80', a.test, 'fe80::1%lo', null, 192.0.2.1, '::ffff:192.0.2.1']", "[192.0.2.1] [] []", "1:8 E109, 1:24 E109, 1:32 E109, 1:46 E107, 1:63 E109"},
		{"bind: [" + strings.Repeat("'::1',", maxBind) + "'::1']", "[] [] []", "1:7 E102"},
		{"addressPool: [10.0.0.1/30, '::', ff02::1, x, 10.0.0.1/8]", "[] [] []", "1:15 E109, 1:28 E109, 1:34 E109, 1:43 E109, 1:46 E109"},
		{"certificateDirs: [certs, /a/../b, /a/]", "[] [] []", "1:19 E109, 1:26 E109, 1:35 E109"},
		{"bnd: []", "[] [] []", "1:1 E106"},
	} {
		c, faults := DecodeConfig(File{Name: "x", Data: []byte(tt.in)})
		if got := fmt.Sprint(c.Bind, c.AddressPool, c.CertificateDirs); got != tt.got || codes(faults) != tt.faults {
			t.Errorf("%s\n got %s, %s\nwant %s, %s", tt.in, got, codes(faults), tt.got, tt.faults)
		}
	}
	c, faults := DecodeConfig(File{Name: "x", Data: []byte("addressPool: ['::1/128', '2001:db8::/64']")})
	if len(c.AddressPool) != maxPool || codes(faults) != "1:26 E102" {
		t.Errorf("%d addresses, %s", len(c.AddressPool), codes(faults))
	}
}
