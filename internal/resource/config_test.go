package resource

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// Every fault of a role file is reported at once, each with its place and its mending.
func TestDecodeConfig(t *testing.T) {
	c, faults := DecodeConfig(File{Name: "up.yaml", Data: []byte("trustDomain: prod.example\nsvidTTL: 15m\nrootNamespace: mesh\noutboundTrafficPolicy: {mode: ALLOW_ANY}\n")})
	want := Config{
		TrustDomain: "prod.example", SVIDTTL: 15 * time.Minute, RootNamespace: "mesh", AllowAny: true,
		Token: TokenConfig{KeyPeriod: 24 * time.Hour},
	}
	if len(faults) > 0 || !reflect.DeepEqual(c, want) {
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
	text := `demo.yaml:1:1: unknown field "trust_domain" [E106]
	hint: did you mean "trustDomain"?
demo.yaml:2:10: svidTTL 3000h0m0s is outside 10s to 24h [E111]
	hint: 1h is the default
demo.yaml:3:16: rootNamespace "Istio_System" is not a namespace [E103]
	hint: a-z, 0-9 and -, at most 63 characters: istio-system
demo.yaml:4:31: outboundTrafficPolicy.mode: "ANY" is not a mode [E110]
	hint: ALLOW_ANY or REGISTRY_ONLY
demo.yaml:5:1: "svidTTL" stands twice [E101]
	hint: keep one of them`
	if g := strings.Join(got, "\n"); g != text {
		t.Errorf("got\n%s\nwant\n%s", g, text)
	}
}

func TestTokenConfig(t *testing.T) {
	c, faults := DecodeConfig(File{Name: "up.yaml", Data: []byte(`token:
  issuer: https://tokens.example.com
  listen: :7444
  mtlsListen: "[::1]:7445"
  tls: {cert: /etc/cert.pem, key: /etc/key.pem}
  keyPeriod: 7d12h
  implicitClients: false
  fetchAllow: [10.1.0.0/16, "fd00::/8"]
  fetchRoots: /etc/roots.pem
`)})
	want := TokenConfig{
		Issuer: "https://tokens.example.com", Listen: ":7444", MTLSListen: "[::1]:7445",
		Cert: "/etc/cert.pem", Key: "/etc/key.pem", KeyPeriod: 180 * time.Hour, NoImplicit: true,
		FetchAllow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")},
		FetchRoots: "/etc/roots.pem",
	}
	if len(faults) > 0 || !reflect.DeepEqual(c.Token, want) {
		t.Errorf("got %+v, %v", c.Token, faults)
	}
	for _, tt := range []struct{ in, want string }{
		{"token: yes", "1:8 E109"},
		{"token: {}", ""},
		{"token: {implicitClients: true}", ""},
		{"token: {isuer: x, tls: {crt: x}}", "1:9 E106, 1:25 E106"},
		{"token: {issuer: 'http://localhost:7444'}", "1:17 E218"},
		{"token: {issuer: 'https://a/'}", "1:17 E218"},
		{"token: {issuer: 'https://a?b'}", "1:17 E218"},
		{"token: {issuer: null}", "1:17 E107"},
		{"token: {listen: '7444'}", "1:17 E109"},
		{"token: {listen: 'a b:7444', mtlsListen: 'localhost:70000'}", "1:17 E109, 1:41 E109"},
		{"token: {listen: 'localhost:0', mtlsListen: '127.0.0.1:7445'}", ""},
		{"token: {tls: {cert: a}}", "1:14 E224"},
		{"token: {tls: a}", "1:14 E109"},
		{"token: {keyPeriod: 30m}", "1:20 E111"},
		{"token: {keyPeriod: 91d}", "1:20 E111"},
		{"token: {keyPeriod: 24}", "1:20 E111"},
		{"token: {implicitClients: 'false'}", "1:26 E109"},
		{"token: {fetchAllow: [10.0.0.1, 10.0.0.1/8, '::ffff:10.0.0.0/104', fe80::%1/64]}", "1:22 E208, 1:32 E208, 1:44 E208, 1:67 E208"},
		{"token: {fetchAllow: 10.0.0.0/8}", "1:21 E109"},
		{"token: {fetchRoots: ''}", "1:21 E206"},
		{"token: {issuer: 'https://a', issuer: 'https://b'}", "1:30 E101"},
		{"token: {federatedClients: [a], localUsers: true, idTokenRS256: true, trustedHops: [], dpopReplay: shared, reporters: [], streamMaxAge: 1h}",
			"1:9 E301, 1:32 E301, 1:50 E301, 1:70 E301, 1:87 E301, 1:107 E301, 1:122 E301"},
	} {
		if _, faults := DecodeConfig(File{Name: "x", Data: []byte(tt.in)}); codes(faults) != tt.want {
			t.Errorf("%s\n got %q\nwant %q\n%v", tt.in, codes(faults), tt.want, faults)
		}
	}
}

// FuzzDecodeConfig: no file, however broken, may panic the program or give a life out of bounds.
func FuzzDecodeConfig(f *testing.F) {
	f.Add([]byte("svidTTL: 1h\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("egress: {allow: ['127.0.0.1:9000', '[::1%a]:1', 10.0.0.0/8]}\n"))
	f.Add([]byte("? [x]\n: y\n"))
	f.Add([]byte("token: {issuer: 'https://t', tls: {cert: a, key: b}, keyPeriod: 7d, fetchAllow: ['::ffff:10.0.0.0/104']}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, faults := DecodeConfig(File{Name: "x", Data: b})
		if !Stops(faults) && (c.SVIDTTL < 10*time.Second || c.SVIDTTL > 24*time.Hour) {
			t.Errorf("%q gave a life of %s", b, c.SVIDTTL)
		}
		if d := c.Token.KeyPeriod; d < time.Hour || d > 90*24*time.Hour {
			t.Errorf("%q gave a key period of %s", b, d)
		}
		if !Stops(faults) && (c.Token.Cert == "") != (c.Token.Key == "") {
			t.Errorf("%q gave half a certificate", b)
		}
	})
}
