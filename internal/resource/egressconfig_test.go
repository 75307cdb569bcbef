package resource

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestEgressConfig(t *testing.T) {
	c, faults := DecodeConfig(File{Name: "up.yaml", Data: []byte("egress: {allow: [\"127.0.0.1:9000\", \"[::1]:80\", 10.244.0.0/16]}\n")})
	want := []Egress{
		{netip.MustParsePrefix("127.0.0.1/32"), 9000}, {netip.MustParsePrefix("::1/128"), 80}, {Network: netip.MustParsePrefix("10.244.0.0/16")},
	}
	if len(faults) > 0 || !slices.Equal(c.Egress, want) {
		t.Errorf("got %v, %v", c.Egress, faults)
	}
	for in, want := range map[string]string{
		"egress: {}": "", "egress: {allow: []}": "", "egress: yes": "1:9 E109", "egress: {alow: []}": "1:10 E106", "egress: {allow: x}": "1:17 E109",
		"egress: {allow: [127.0.0.1, 'localhost:80', '127.0.0.1:0', 10.0.0.1/8, '[fe80::1%1]:80', '[::ffff:127.0.0.1]:80', null]}": "1:18 E208, 1:29 E208, 1:45 E208, 1:60 E208, 1:72 E208, 1:90 E208, 1:115 E107",
		"egress: {allow: [" + strings.Repeat("10.0.0.0/8, ", maxEgress+1) + "]}":                                                   "1:17 E102",
	} {
		if _, faults := DecodeConfig(File{Name: "x", Data: []byte(in)}); codes(faults) != want {
			t.Errorf("%s\n got %q\nwant %q\n%v", in, codes(faults), want, faults)
		}
	}
}
