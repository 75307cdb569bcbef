package resource

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/route"
)

// tlsListener is a Gateway of namespace shop with one HTTPS listener.
func tlsListener(tls string) string {
	return gatewayText + "spec: {gatewayClassName: c, listeners: [{name: a, port: 443, protocol: HTTPS, tls: {" + tls + "}}]}"
}

// The TLS options say what a listener shows, in one way (gateway.md 11.2, 12.1).
func TestTLSOptions(t *testing.T) {
	for tls, want := range map[string]route.Listener{
		"options: {countersign.dev/min-version: '1.3'}":                                   {TLS13: true},
		"options: {countersign.dev/certificate: own, countersign.dev/min-version: '1.2'}": {},
		"options: {countersign.dev/certificate: files, countersign.dev/certificate-files: '/etc/countersign/certs/shop/c.pem, /etc/countersign/certs/shop/d/k.pem'}": {Files: &route.Files{Chain: "/etc/countersign/certs/shop/c.pem", Key: "/etc/countersign/certs/shop/d/k.pem"}},
		"options: {countersign.dev/certificate-files: '/etc/countersign/certs/team/c.pem,/etc/countersign/certs/team/k.pem'}":                                        {Files: &route.Files{Chain: "/etc/countersign/certs/team/c.pem", Key: "/etc/countersign/certs/team/k.pem"}},
	} {
		objects, faults := decodeGateway(tlsListener(tls))
		if len(objects) != 1 {
			t.Errorf("%s: %v", tls, faults)
			continue
		}
		g, err := Gateway(objects[0], time.Time{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		l := g.Listeners[0]
		if l.TLS13 != want.TLS13 || !reflect.DeepEqual(l.Files, want.Files) {
			t.Errorf("%s: got %+v", tls, l)
		}
	}
}

// Row of gateway.md 28: a file outside certificateDirs is refused where it is written, whatever the spelling.
func TestSecCertificateFilesRefused(t *testing.T) {
	const option = `listeners[0].tls.options["countersign.dev/certificate-files"]: `
	files := func(value string) string {
		return tlsListener(fmt.Sprintf("options: {countersign.dev/certificate-files: %q}", value))
	}
	pair := func(chain string) string { return files(chain + ",/etc/countersign/certs/shop/k.pem") }
	for _, tt := range []struct{ name, in, want string }{
		{"outside", pair("/etc/shadow"), `E402 ` + option + `"/etc/shadow" is outside /etc/countersign/certs`},
		{"key outside", files("/etc/countersign/certs/shop/c.pem,/root/k.pem"), `E402 ` + option + `"/root/k.pem" is outside /etc/countersign/certs`},
		{"beside", pair("/etc/countersign/certs-of-others/shop/c.pem"), `E402 ` + option + `"/etc/countersign/certs-of-others/shop/c.pem" is outside /etc/countersign/certs`},
		{"of no namespace", pair("/etc/countersign/certs/c.pem"), `E402 ` + option + `"/etc/countersign/certs/c.pem" is outside /etc/countersign/certs`},
		{"dots", pair("/etc/countersign/certs/shop/../../../shadow"), `E402 ` + option + `"/etc/countersign/certs/shop/../../../shadow" is no absolute path in its shortest form`},
		{"relative", pair("shop/c.pem"), `E402 ` + option + `"shop/c.pem" is no absolute path in its shortest form`},
		{"a line", pair("/etc/countersign/certs/shop/c\n.pem"), `E402 ` + option + `"/etc/countersign/certs/shop/c\n.pem" is no absolute path in its shortest form`},
		{"one", files("/etc/countersign/certs/shop/c.pem"), `E402 ` + option + `"/etc/countersign/certs/shop/c.pem" is not the names of two files`},
		{"three", pair("/etc/countersign/certs/shop/c.pem,/etc/countersign/certs/shop/c.pem"), `E402 ` + option + `"/etc/countersign/certs/shop/c.pem,/etc/countersign/certs/shop/c.pem,/etc/counter…" is not the names of two files`},
		{"none", tlsListener("options: {countersign.dev/certificate: files}"), `E402 listeners[0].tls.options["countersign.dev/certificate"]: files, and none is named`},
		{"own and files", tlsListener("options: {countersign.dev/certificate: own, countersign.dev/certificate-files: '/a,/b'}"), `E402 ` + option + `beside countersign.dev/certificate: "own"`},
		{"refs and files", tlsListener("certificateRefs: [{name: s}], options: {countersign.dev/certificate-files: '/a,/b'}"), `E402 ` + option + `beside certificateRefs, which say what is shown`},
		{"refs and own", tlsListener("certificateRefs: [{name: s}], options: {countersign.dev/certificate: own}"), `E402 listeners[0].tls.options["countersign.dev/certificate"]: beside certificateRefs, which say what is shown`},
		{"acme", tlsListener("options: {countersign.dev/certificate: acme}"), `E301 listeners[0].tls.options["countersign.dev/certificate"]: countersign.dev/certificate: "acme" is not supported yet`},
	} {
		objects, faults := decodeGateway(tt.in)
		if got := refusals(faults); got != tt.want || len(objects) > 0 {
			t.Errorf("%s: got  %s\nwant %s", tt.name, got, tt.want)
		}
	}
	in := strings.ReplaceAll(pair("/etc/countersign/certs/shop/c.pem"), "/etc/countersign/certs", "/srv/certs")
	for dir, ok := range map[string]bool{"/srv/certs": true, "/srv": true, "/etc/countersign/certs": false} {
		if objects, _ := Decode([]File{{"in.yaml", []byte(in)}}, Options{CertificateDirs: []string{"/nowhere", dir}}); (len(objects) == 1) != ok {
			t.Errorf("%s with %s: got %d objects", in, dir, len(objects))
		}
	}
}
