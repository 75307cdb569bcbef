package resource

import (
	"strings"
	"testing"
	"time"
)

// Every fault of a role file is reported at once, each with its place and its mending.
func TestDecodeConfig(t *testing.T) {
	c, faults := DecodeConfig(File{Name: "up.yaml", Data: []byte("trustDomain: prod.example\nsvidTTL: 15m\nrootNamespace: mesh\noutboundTrafficPolicy: {mode: ALLOW_ANY}\n")})
	if len(faults) > 0 || c != (Config{"prod.example", 15 * time.Minute, "mesh", true}) {
		t.Fatalf("good file: got %+v, %v", c, faults)
	}
	if c, faults := DecodeConfig(File{Name: "empty.yaml"}); len(faults) > 0 || c.SVIDTTL != time.Hour {
		t.Errorf("empty file: got %+v, %v", c, faults)
	}
	bad := "trust_domain: x\nsvidTTL: 3000h\nrootNamespace: Istio_System\noutboundTrafficPolicy: {mode: ANY}\nsvidTTL: 1h\n"
	_, faults = DecodeConfig(File{Name: "demo.yaml", Data: []byte(bad)})
	var got []string
	for _, f := range faults {
		got = append(got, f.String())
	}
	want := `demo.yaml:1:1: unknown field "trust_domain" [E106]
	hint: did you mean "trustDomain"?
demo.yaml:2:10: svidTTL 3000h0m0s is outside 10s to 24h [E111]
	hint: 1h is the default
demo.yaml:3:16: rootNamespace "Istio_System" is not a namespace [E103]
	hint: a-z, 0-9 and -, at most 63 characters: istio-system
demo.yaml:4:31: outboundTrafficPolicy.mode: "ANY" is not a mode [E110]
	hint: ALLOW_ANY or REGISTRY_ONLY
demo.yaml:5:1: "svidTTL" stands twice [E101]
	hint: keep one of them`
	if g := strings.Join(got, "\n"); g != want {
		t.Errorf("got\n%s\nwant\n%s", g, want)
	}
}

// FuzzDecodeConfig: no file, however broken, may panic the program or give a life out of bounds.
func FuzzDecodeConfig(f *testing.F) {
	f.Add([]byte("svidTTL: 1h\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("? [x]\n: y\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, faults := DecodeConfig(File{Name: "x", Data: b})
		if !Stops(faults) && (c.SVIDTTL < 10*time.Second || c.SVIDTTL > 24*time.Hour) {
			t.Errorf("%q gave a life of %s", b, c.SVIDTTL)
		}
	})
}
