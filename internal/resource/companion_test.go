package resource

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign.dev/internal/route"
)

const secretText = "apiVersion: v1\nkind: Secret\nmetadata: {name: cert, namespace: shop}\ntype: kubernetes.io/tls\n"

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// selfSigned is a certificate of a key, and the key in PKCS #8.
func selfSigned(t testing.TB, key crypto.Signer) (chain, private string) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x.test"}, NotAfter: time.Unix(1<<33, 0), DNSNames: []string{"x.test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", secret)
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// secretOf is a Secret with its values in data, each in base64.
func secretOf(values map[string]string) string {
	out := secretText + "data:\n"
	for _, key := range slices.Sorted(maps.Keys(values)) {
		out += "  " + key + ": " + base64.StdEncoding.EncodeToString([]byte(values[key])) + "\n"
	}
	return out
}

// asString is a Secret with its values in stringData.
func asString(values map[string]string) string {
	text, _ := json.Marshal(values)
	return secretText + "stringData: " + string(text) + "\n"
}

func TestSecret(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256 := ecKey(t, elliptic.P256())
	for name, key := range map[string]crypto.Signer{"P-256": p256, "P-384": ecKey(t, elliptic.P384()), "Ed25519": edKey, "RSA 2048": rsaKey} {
		chain, private := selfSigned(t, key)
		values := map[string]string{certKey: chain, keyKey: private, caKey: chain}
		for _, text := range []string{secretOf(values), asString(values)} {
			o := gatewayObject(t, text)
			pair, err := Pair(o)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			signer, err := pair.Private.Signer()
			if err != nil || len(pair.Chain) != 1 || !pair.Chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(signer.Public()) {
				t.Errorf("%s: %v", name, err)
			}
			if string(pair.Private.PEM()) != private {
				t.Errorf("%s: another key", name)
			}
			want := fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"cert","namespace":"shop"},"data":{"ca.crt":%q,"tls.crt":%q,"tls.key":"<sealed>"},"type":"kubernetes.io/tls"}`,
				base64.StdEncoding.EncodeToString([]byte(chain)), base64.StdEncoding.EncodeToString([]byte(chain)))
			if diff := cmp.Diff(want, string(o.JSON)); diff != "" {
				t.Error(diff)
			}
		}
	}

	// What OpenSSL writes.
	der, err := x509.MarshalECPrivateKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	chain, _ := selfSigned(t, p256)
	gatewayObject(t, asString(map[string]string{certKey: chain, keyKey: pemOf("EC PARAMETERS", []byte{6, 8}) + pemOf("EC PRIVATE KEY", der)}))
	chain, _ = selfSigned(t, rsaKey)
	gatewayObject(t, asString(map[string]string{certKey: chain + "\n" + chain, keyKey: pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey))}))
}

// Row A18, and every other Secret that no listener could show: apply takes it and warns, as Kubernetes takes it, and
// the condition of the listener says why. Neither shows a byte of the key.
func TestSecSecretUnusable(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	chain, private := selfSigned(t, key)
	_, other := selfSigned(t, ecKey(t, elliptic.P256()))
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weakChain, weakKey := selfSigned(t, weak)
	oddChain, oddKey := selfSigned(t, ecKey(t, elliptic.P521()))
	inner := strings.Split(private, "\n")[1]
	for _, tt := range []struct{ name, chain, key, want string }{
		{"A18 another key", chain, other, "tls.key: not the key of the first certificate"},
		{"A18 RSA 1024", weakChain, weakKey, "tls.key: an RSA key of 1024 bits, 2048 to 8192 are taken"},
		{"A18 no PEM", chain, inner, "tls.key: no PEM"},
		{"no certificate", "Hello world", "Hello world", "tls.crt: no PEM"},
		{"P-521", oddChain, oddKey, "tls.key: a key on P-521, P-256 and P-384 are taken"},
		{"two keys", chain, private + private, "tls.key: more than one PEM block"},
		{"trailer", chain, private + inner, "tls.key: something behind the key that is no PEM"},
		{"garbage", chain, pemOf("PRIVATE KEY", []byte(inner)), "tls.key: a private key that cannot be parsed, or is too weak to be"},
		{"certificate trailer", chain + "more", private, "tls.crt: something behind the last certificate that is no PEM"},
		{"broken certificate", pemOf("CERTIFICATE", []byte("more")), private, "tls.crt: certificate 1 cannot be parsed"},
		{"many certificates", strings.Repeat(chain, maxCertificates+1), private, "tls.crt: more than 64 certificates"},
		{"certificate for a key", chain, chain, "tls.key: PEM of something else than a private key"},
	} {
		objects, faults := decodeGateway(asString(map[string]string{certKey: tt.chain, keyKey: tt.key}))
		field, text, _ := strings.Cut(tt.want, ": ")
		if len(objects) != 1 || len(faults) != 1 || faults[0].Severity != Warning || faults[0].Field != fmt.Sprintf("stringData[%q]", field) || !strings.HasPrefix(faults[0].Text, text) {
			t.Fatalf("%s: %v", tt.name, faults)
		}
		if _, err := Pair(objects[0]); err == nil || err.Error() != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
		for _, told := range []string{faults[0].String(), string(objects[0].JSON)} {
			if strings.Contains(told, inner[:16]) {
				t.Errorf("%s: shows the key: %s", tt.name, told)
			}
		}
	}
}

// What is no Secret of the type is refused, and what would put a key where it is shown. No refusal shows a byte of it.
func TestSecSecretRefusals(t *testing.T) {
	chain, private := selfSigned(t, ecKey(t, elliptic.P256()))
	both := func(chain, key string) string { return asString(map[string]string{certKey: chain, keyKey: key}) }
	inner := strings.Split(private, "\n")[1]
	for _, tt := range []struct{ name, in, want string }{
		{"swapped", both(private, chain), "E218 stringData[\"tls.crt\"]: a private key among certificates"},
		{"both in one", both(chain+private, private), "E218 stringData[\"tls.crt\"]: a private key among certificates"},
		{"both in ca.crt", asString(map[string]string{certKey: chain, keyKey: private, caKey: chain + private}), "E218 stringData[\"ca.crt\"]: a private key among certificates"},
		{"large certificate", both(chain+strings.Repeat("\n", maxPEM), private), fmt.Sprintf("E218 stringData[\"tls.crt\"]: %d bytes, at most 65536 are taken", len(chain)+maxPEM)},
		{"large key", both(chain, private+strings.Repeat("\n", maxPEM)), fmt.Sprintf("E218 stringData[\"tls.key\"]: %d bytes, at most 65536 are taken", len(private)+maxPEM)},
		{"no base64", secretText + "data: {tls.crt: aGk=, tls.key: '-" + inner + "'}", `E218 data["tls.key"]: not base64`},
		{"no key", asString(map[string]string{certKey: chain}), "E218 : tls.key is missing"},
		{"sealed", both(chain, Sealed), "E218 stringData[\"tls.key\"]: the key is not shown, and none is stored for this certificate"},
		{"no mapping", secretText + "stringData: '" + inner + "'", "E109 stringData: a mapping is needed"},
		{"no text", secretText + "stringData: {tls.crt: a, tls.key: ['" + inner + "']}", `E109 stringData["tls.key"]: text is needed`},
		{"more data", asString(map[string]string{certKey: chain, keyKey: private, "key.der": inner}), `E301 stringData["key.der"]: not read, and not kept`},
		{"opaque", strings.Replace(both(chain, private), "kubernetes.io/tls", "Opaque", 1), "E301 type: a Secret of another type than kubernetes.io/tls is not supported yet"},
		{"no type", strings.Replace(both(chain, private), "type: kubernetes.io/tls\n", "", 1), "E301 type: a Secret of another type than kubernetes.io/tls is not supported yet"},
		{"unknown field", both(chain, private) + "spec: {}\nstringDat: {}\n", "E106 : unknown field \"spec\"\nE106 : unknown field \"stringDat\""},
	} {
		objects, faults := decodeGateway(tt.in)
		if got := refusals(faults); got != tt.want || len(objects) > 0 {
			t.Errorf("%s: got  %s\nwant %s", tt.name, got, tt.want)
		}
		for _, f := range faults {
			if strings.Contains(f.String(), inner[:16]) {
				t.Errorf("%s: shows the key: %s", tt.name, f)
			}
		}
	}
}

// Nothing that prints an object or a key shows it; what get prints can be applied again.
func TestSecNoKeyIsPrinted(t *testing.T) {
	chain, private := selfSigned(t, ecKey(t, elliptic.P256()))
	text := strings.Replace(secretOf(map[string]string{certKey: chain, keyKey: private}), "namespace: shop}",
		"namespace: shop, annotations: {a: b, kubectl.kubernetes.io/last-applied-configuration: '"+base64.StdEncoding.EncodeToString([]byte(private))+"'}}", 1)
	o := gatewayObject(t, text)
	pair, err := Pair(o)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, v := range []any{o, &o, o.Private, &o.Private, pair, &pair, []PrivateKey{o.Private}, map[string]any{"k": o.Private}} {
		fmt.Fprintf(&out, "%v %+v %#v %s %x %q %d\n", v, v, v, v, v, v, v)
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
		slog.New(slog.NewTextHandler(&out, nil)).Info("a", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("a", "v", v)
	}
	if b, err := json.Marshal(Object{Kind: "Gateway"}); err != nil || strings.Contains(string(b), "Private") {
		t.Errorf("%s %v", b, err)
	}
	shown, err := YAML(o, time.Time{}, "")
	if err != nil {
		t.Fatal(err)
	}
	out.Write(shown)
	der, _ := pem.Decode([]byte(private))
	for _, secret := range []string{private, strings.Split(private, "\n")[1], base64.StdEncoding.EncodeToString([]byte(private))[:40],
		fmt.Sprintf("%x", private), fmt.Sprintf("%x", der.Bytes[40:60]), strings.Trim(fmt.Sprint([]byte(private)), "[]")} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("shows %.20s", secret)
		}
	}
	if !strings.Contains(string(shown), Sealed) || o.Annotations["a"] != "b" || len(o.Annotations) != 1 {
		t.Errorf("%s %v", shown, o.Annotations)
	}

	again, faults := Decode([]File{{"get.yaml", shown}}, Options{Gateway: true, Stored: func(kind, namespace, name string) (Object, bool) {
		return o, kind == "Secret" && namespace == "shop" && name == "cert"
	}})
	if len(again) != 1 || !again[0].Private.Equal(o.Private) || !bytes.Equal(again[0].JSON, o.JSON) {
		t.Errorf("%s: %v", shown, faults)
	}
	stored, err := Stored(o.JSON, o.Places)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Pair(stored); err == nil {
		t.Error("took a Secret without its key")
	}
	stored.Private = KeptKey(o.Private.PEM())
	if _, err := Pair(stored); err != nil {
		t.Error(err)
	}
}

func TestNamespaceAndConfigMap(t *testing.T) {
	o := gatewayObject(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a, kubernetes.io/metadata.name: other}}\nspec: {finalizers: [kubernetes]}\nstatus: {phase: Active}\n")
	labels, err := NamespaceLabels(o)
	if diff := cmp.Diff(map[string]string{"team": "a", "kubernetes.io/metadata.name": "shop"}, labels); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if o.ID() != "Namespace/shop" {
		t.Error(o.ID())
	}
	labels, err = NamespaceLabels(gatewayObject(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"))
	if diff := cmp.Diff(map[string]string{"kubernetes.io/metadata.name": "shop"}, labels); err != nil || diff != "" {
		t.Error(err, diff)
	}

	chain, private := selfSigned(t, ecKey(t, elliptic.P256()))
	config := func(values string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ca, namespace: shop}\n" + values
	}
	for values, want := range map[string]int{"": 0, "data: {other: x}": 0, fmt.Sprintf("data: {ca.crt: %q}", chain+chain): 2, "immutable: true\nbinaryData: {a: YQ==}": 0} {
		got, err := Anchors(gatewayObject(t, config(values)))
		if err != nil || len(got) != want {
			t.Errorf("%s: %d %v", values, len(got), err)
		}
	}
	for values, want := range map[string]string{
		"data: {ca.crt: x}": `E218 data["ca.crt"]: no certificates that are taken: no PEM`,
		fmt.Sprintf("data: {ca.crt: %q}", chain+private): `E218 data["ca.crt"]: no certificates that are taken: PEM of something else than a certificate`,
		"data: {a/b: x}":  `E103 data["a/b"]: "a/b" is not a key`,
		"data: {a: 5}":    "E109 data.a: 5 is a number, text is needed",
		"dat: {a: b}":     `E106 : unknown field "dat"`,
		"spec: {a: b}":    `E106 : unknown field "spec"`,
		"data: null":      "E107 data: no value (null)",
		"data: {a: null}": "E107 data.a: no value (null)",
	} {
		if _, faults := decodeGateway(config(values)); refusals(faults) != want {
			t.Errorf("%s: %v, want %s", values, faults, want)
		}
	}
}

func TestServiceAndEndpoints(t *testing.T) {
	got, err := Service(gatewayObject(t, `apiVersion: v1
kind: Service
metadata: {name: s, namespace: shop, annotations: {countersign.dev/plaintext: allow}}
spec:
  selector: {app: s}
  clusterIP: None
  type: ClusterIP
  ports:
  - {name: http, port: 80, targetPort: 8080, appProtocol: kubernetes.io/h2c}
  - {name: named, port: 81, targetPort: web, protocol: TCP, nodePort: 30000}
  - {name: same, port: 82}
  - {name: dns, port: 53, protocol: UDP}
status: {loadBalancer: {}}
`))
	want := route.Service{Name: route.Name{Namespace: "shop", Name: "s"}, Plaintext: true, Ports: []route.ServicePort{
		{Name: "http", Port: 80, AppProtocol: "kubernetes.io/h2c"}, {Name: "named", Port: 81}, {Name: "same", Port: 82},
	}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}

	slice := "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s-1, namespace: shop, labels: {kubernetes.io/service-name: s}}\n"
	points, err := EndpointSlice(gatewayObject(t, slice+`addressType: IPv4
endpoints:
- {addresses: [192.0.2.1], nodeName: a, zone: b, hints: {forZones: [{name: b}]}}
- {addresses: [192.0.2.2], conditions: {ready: true, serving: true, terminating: false}}
- {addresses: [192.0.2.3], conditions: {ready: false}}
- {addresses: [192.0.2.4], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [192.0.2.5], conditions: {ready: false, serving: false, terminating: true}}
ports: [{name: http, port: 8080, appProtocol: http}, {name: dns, port: 53, protocol: UDP}]
`))
	wantPoints := route.Endpoints{Name: route.Name{Namespace: "shop", Name: "s-1"}, Service: "s",
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}, Leaving: []netip.Addr{netip.MustParseAddr("192.0.2.4")},
		Ports: []route.EndpointPort{{Name: "http", Port: 8080}}}
	if diff := cmp.Diff(wantPoints, points, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err != nil || diff != "" {
		t.Error(err, diff)
	}

	service := "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\n"
	for in, want := range map[string]string{
		service + "spec: {ports: [{port: 0}]}":                                                                         "E109 ports[0].port: 0 is not a port",
		service + "spec: {ports: [{name: a}]}":                                                                         "E103 ports[0]: port is missing",
		service + "spec: {ports: [{port: 1}, {port: 2, name: a}]}":                                                     "E103 ports[0]: name is missing",
		service + "spec: {ports: [{port: 1, name: a}, {port: 2, name: a}]}":                                            `E109 ports[1].name: "a" stands twice`,
		service + "spec: {ports: [{port: 1, targetPort: [1]}]}":                                                        "E109 ports[0].targetPort: neither a port nor the name of one",
		service + "spec: {ports: [{port: 1, targetPort: 65536}]}":                                                      "E109 ports[0].targetPort: neither a port nor the name of one",
		strings.Replace(service, "name: s", "name: s.t", 1) + "spec: {}":                                               `E103 metadata.name: "s.t" is not a Service`,
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: a.b}\n":                                                     `E103 metadata.name: "a.b" is not a Namespace`,
		service + "spec: {type: ExternalName, externalName: db.example}":                                               `E301 type: "ExternalName" is not supported yet`,
		service + "spec: {port: []}":                                                                                   `E106 spec: unknown field "port"`,
		service + "spec: {ports: [{port: 1, protocol: tcp}]}":                                                          `E110 ports[0].protocol: "tcp" is not a protocol`,
		slice + "addressType: IPv4\nendpoints: [{addresses: [a]}]":                                                     `E208 endpoints[0].addresses[0]: "a" is not an address of IPv4`,
		slice + "addressType: IPv6\nendpoints: [{addresses: [192.0.2.1]}]":                                             `E208 endpoints[0].addresses[0]: "192.0.2.1" is not an address of IPv6`,
		slice + "addressType: IPv4\nendpoints: [{addresses: [169.254.169.254]}]":                                       "E208 endpoints[0].addresses[0]: 169.254.169.254 is not the address of an endpoint",
		slice + "addressType: IPv6\nendpoints: [{addresses: ['ff02::1']}]":                                             "E208 endpoints[0].addresses[0]: ff02::1 is not the address of an endpoint",
		slice + "addressType: IPv4\nendpoints: [{addresses: [0.0.0.0]}]":                                               "E208 endpoints[0].addresses[0]: 0.0.0.0 is not the address of an endpoint",
		slice + "addressType: FQDN\nendpoints: []":                                                                     `E301 addressType: "FQDN" is not supported yet`,
		slice + "endpoints: []":                                                                                        "E103 : addressType is missing",
		slice + "addressType: IPv4\nendpoints: null":                                                                   "", // as kubectl prints none
		slice + "addressType: IPv4\nendpoints: [{}]":                                                                   "E103 endpoints[0]: addresses are missing",
		slice + "addressType: IPv4\nendpoints: []\nports: [{name: a}]":                                                 "E103 ports[0]: port is missing",
		slice + "addressType: IPv4\nendpoints: [" + strings.Repeat("{addresses: [192.0.2.1]}, ", maxEndpoints+1) + "]": "E102 endpoints: 1001 values, at most 1000 are taken",
		slice + "addressType: IPv4\nendpoints: [{addresses: [" + strings.Repeat("192.0.2.1, ", maxPerPoint+1) + "]}]":  "E102 endpoints[0].addresses: 101 values, at most 100 are taken",
		slice + "addressType: IPv4\nendpoints: [{addresses: [192.0.2.1], ready: true}]":                                `E106 endpoints[0]: unknown field "ready"`,
		strings.Replace(slice, "v1\n", "v1beta1\n", 1) + "addressType: IPv4\nendpoints: []":                            `E104 : apiVersion "discovery.k8s.io/v1beta1" is not known for EndpointSlice`,
		strings.Replace(service, "apiVersion: v1", "apiVersion: serving.knative.dev/v1", 1) + "spec: {}":               `E105 : kind "Service" is not known`,
	} {
		if _, faults := decodeGateway(in); refusals(faults) != want {
			t.Errorf("%s: %v, want %s", in, faults, want)
		}
	}
	for in, want := range map[string]string{
		slice + "addressType: IPv4\nendpoints: [{addresses: [127.0.0.1]}]":                         "W-loopback",
		service + "spec: {ports: [{port: 1, appProtocol: kubernetes.io/H2C}]}":                     "W-appProtocol",
		strings.Replace(service, "}\n", ", annotations: {countersign.dev/plaintext: allow}}\n", 1): "W-plaintext",
	} {
		if _, faults := decodeGateway(in); len(faults) != 1 || faults[0].Code != want || faults[0].Severity != Warning {
			t.Error(in, faults)
		}
	}
}
