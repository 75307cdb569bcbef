package node

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/catalog"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/route"
)

// certs is the one certificateDirs of the node.
func (m *mesh) certs() string { return filepath.Join(m.run, "certs") }

// pairFor is a self-signed pair in PEM.
func pairFor(t *testing.T, names ...string) (chain, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: names}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

// write applies documents.
func (m *mesh) write(docs ...string) {
	m.t.Helper()
	objects, faults := resource.Decode([]resource.File{{Name: "x", Data: []byte(strings.Join(docs, "\n---\n"))}}, resource.Options{Namespace: "shop", CertificateDirs: []string{m.certs()}})
	if resource.Stops(faults) {
		m.t.Fatal(faults)
	}
	for _, o := range objects {
		m.change(catalog.Change{Object: o})
	}
}

func secretDoc(namespace, name, chain, key string) string {
	values, _ := json.Marshal(map[string]string{"tls.crt": chain, "tls.key": key})
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\ntype: kubernetes.io/tls\nstringData: %s", name, namespace, values)
}

func edgeDoc(listeners ...string) string {
	return "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec: {gatewayClassName: countersign, listeners: [" + strings.Join(listeners, ", ") + "]}"
}

func httpsDoc(name, hostname string, port uint16, tls string) string {
	if hostname != "" {
		hostname = fmt.Sprintf("hostname: %q, ", hostname)
	}
	return fmt.Sprintf("{name: %s, port: %d, protocol: HTTPS, %stls: {%s}}", name, port, hostname, tls)
}

func refDoc(refs ...string) string { return "certificateRefs: [" + strings.Join(refs, ", ") + "]" }

// shake is the serial number and the names that a server name is shown, or the alert.
func shake(port uint16, server string, most uint16) (*tls.Conn, string) {
	c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{ServerName: server, InsecureSkipVerify: true, MaxVersion: most})
	if err != nil {
		return nil, err.Error()
	}
	return c, strings.Join(c.ConnectionState().PeerCertificates[0].DNSNames, " ")
}

// untilShown waits until a server name is shown what is wanted.
func untilShown(t *testing.T, port uint16, server, want string) {
	t.Helper()
	var got string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var c *tls.Conn
		if c, got = shake(port, server, 0); c != nil {
			c.Close()
		}
		if strings.Contains(got, want) {
			return
		}
	}
	t.Fatalf("%s is shown %q, want %q", server, got, want)
}

// Rows T1 and T2, with certificates of Secrets: each server name has its listener, and a request for the host of
// another is told so.
func TestSecCertificatesByName(t *testing.T) {
	m := newMesh(t)
	port, strict := freePort(m), freePort(m)
	var docs []string
	for _, name := range []string{"any.test", "b.test", "*.w.test", "d.w.test"} {
		chain, key := pairFor(t, name)
		docs = append(docs, secretDoc("shop", "s-"+strings.TrimPrefix(name, "*."), chain, key))
	}
	ref := func(name string) string { return refDoc("{name: s-" + name + "}") }
	docs = append(docs,
		edgeDoc(httpsDoc("none", "", port, ref("any.test")), httpsDoc("b", "b.test", port, ref("b.test")), httpsDoc("w", "*.w.test", port, ref("w.test")),
			httpsDoc("d", "d.w.test", port, ref("d.w.test")), httpsDoc("strict", "b.test", strict, ref("b.test"))),
		`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: edge, sectionName: b}, {name: edge, sectionName: w}, {name: edge, sectionName: d}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: to.test}}]}]`,
		`apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: edge}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], rules: [{}]}`)
	m.write(docs...)
	untilShown(t, strict, "b.test", "b.test")
	untilShown(t, port, "b.test", "b.test")
	for _, tt := range []struct {
		server, host, shown string
		status              int
	}{
		{"b.test", "b.test", "b.test", 302},
		{"b.test", "x.test", "b.test", 421},
		{"a.test", "b.test", "any.test", 421},
		{"c.w.test", "d.w.test", "*.w.test", 421},
		{"d.w.test", "c.w.test", "d.w.test", 421},
		{"c.w.test", "e.w.test", "*.w.test", 302},
		{"unknown.test", "unknown.test", "any.test", 404},
		{"", "unknown.test", "any.test", 404},
	} {
		c, shown := shake(port, tt.server, 0)
		if shown != tt.shown {
			t.Errorf("%q is shown %q, want %q", tt.server, shown, tt.shown)
		}
		if c == nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", tt.host)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != tt.status {
			t.Errorf("server name %q, host %s: %v, %v, want %d", tt.server, tt.host, resp, err, tt.status)
		}
		c.Close()
	}
	for _, server := range []string{"", "foreign.test"} {
		if c, got := shake(strict, server, 0); c != nil || !strings.Contains(got, "unrecognized name") {
			t.Errorf("T2: %q is shown %q", server, got)
		}
	}
}

// Rows A17 and A18 on the wire, and what becomes of a pair: a bad one leaves the one before, a deleted Secret nothing;
// of several the one that fits is shown.
func TestSecCertificateOfASecret(t *testing.T) {
	m := newMesh(t)
	port := freePort(m)
	chain, key := pairFor(t, "a.test")
	_, other := pairFor(t, "a.test")
	m.write(secretDoc("team", "s", chain, other), edgeDoc(httpsDoc("https", "", port, refDoc("{name: s, namespace: team}"))))
	m.untilEdge("edge", "https Programmed=False", "https ResolvedRefs=False: Secret \"team/s\" is in another namespace")
	grant := "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: team}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}], to: [{group: '', kind: Secret}]}"
	m.write(grant)
	m.untilEdge("edge", "https Programmed=False", `https ResolvedRefs=False: Secret "team/s" holds no pair that can be shown: tls.key: not the key of the first certificate; apply it anew`)
	if c, got := shake(port, "a.test", 0); c != nil {
		t.Fatalf("a port without a certificate is open, and shows %q", got)
	}
	m.write(secretDoc("team", "s", chain, key))
	m.untilEdge("edge", "https Programmed=True", "https ResolvedRefs=True")
	untilShown(t, port, "a.test", "a.test")

	m.write(secretDoc("team", "s", "Hello world", "Hello world"))
	m.untilEdge("edge", "https Programmed=True", `https ResolvedRefs=False: Secret "team/s" holds no pair that can be shown: tls.crt: no PEM; apply it anew, the pair of before is shown till then`)
	untilShown(t, port, "a.test", "a.test")

	again, newKey := pairFor(t, "a.test", "b.test")
	m.write(secretDoc("team", "s", again, newKey))
	untilShown(t, port, "a.test", "a.test b.test")
	m.untilEdge("edge", "https ResolvedRefs=True")

	wild, wildKey := pairFor(t, "*.test")
	exact, exactKey := pairFor(t, "c.test")
	m.write(secretDoc("shop", "wild", wild, wildKey), secretDoc("shop", "exact", exact, exactKey),
		edgeDoc(httpsDoc("https", "", port, refDoc("{name: s, namespace: team}", "{name: wild}", "{name: nothing}", "{name: exact}")+", options: {countersign.dev/min-version: '1.3'}")))
	untilShown(t, port, "c.test", "c.test")
	for server, want := range map[string]string{"d.test": "*.test", "a.test": "a.test b.test", "d.else": "a.test b.test", "": "a.test b.test"} {
		c, got := shake(port, server, 0)
		if got != want {
			t.Errorf("%q is shown %q, want %q", server, got, want)
		}
		if c != nil {
			c.Close()
		}
	}
	if c, got := shake(port, "c.test", tls.VersionTLS12); c != nil || !strings.Contains(got, "protocol version") {
		t.Errorf("TLS 1.2 is taken: %s", got)
	}
	m.untilEdge("edge", "https Programmed=True", `https ResolvedRefs=False: Secret "shop/nothing" does not exist`)

	for _, o := range [][2]string{{"team", "s"}, {"shop", "wild"}, {"shop", "exact"}} {
		m.change(catalog.Change{Object: resource.Object{Kind: "Secret", Namespace: o[0], Name: o[1]}, Remove: true})
	}
	m.untilEdge("edge", "https Programmed=False")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, got := shake(port, "c.test", 0); c == nil {
			break
		} else if c.Close(); time.Now().After(end) {
			t.Fatalf("after all Secrets went it shows %q", got)
		}
	}
}

// What a node is sent: the pair of a Gateway that may run there and nothing of other Secrets; and no key lies in the
// store.
func TestSecKeysReachTheirGatewayAlone(t *testing.T) {
	m := newMesh(t)
	port := freePort(m)
	chain, key := pairFor(t, "a.test")
	otherChain, otherKey := pairFor(t, "b.test")
	m.write(secretDoc("shop", "s", chain, key), secretDoc("shop", "unused", otherChain, otherKey),
		edgeDoc(httpsDoc("https", "", port, refDoc("{name: s}"))))
	untilShown(t, port, "a.test", "a.test")
	h := m.n.snap.Load()
	if len(h.KeyPairs) != 1 || len(h.Certificates) != 1 || !bytes.Equal(h.KeyPairs[route.Name{Namespace: "shop", Name: "s"}].Key, []byte(key)) {
		t.Errorf("%d pairs, %d certificates", len(h.KeyPairs), len(h.Certificates))
	}
	kvs, _, err := m.st.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	inner := strings.Split(key, "\n")[1]
	der, _ := pem.Decode([]byte(key))
	for _, kv := range kvs {
		for _, secret := range [][]byte{[]byte(inner), der.Bytes[30:50]} {
			if bytes.Contains(kv.Value, secret) {
				t.Errorf("%s holds the key", kv.Key)
			}
		}
	}
	// A Gateway whose Workload admits another node has its door, and its key, elsewhere.
	m.apply("edge", "{selectors: ['gateway:shop/edge'], nodes: [['node:name:else']]}")
	for end := time.Now().Add(10 * time.Second); len(m.n.snap.Load().KeyPairs) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the key stays where the Gateway may not run")
		}
	}
}

// Row T7 and gateway.md 28: files of the namespace's directory are shown, a bad new one leaves the one before, and
// nothing else is read: no link, no pipe, no other namespace.
func TestSecCertificateFiles(t *testing.T) {
	m := newMesh(t)
	dir := filepath.Join(m.certs(), "shop")
	if err := os.MkdirAll(filepath.Join(m.certs(), "team"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	chainFile, keyFile := filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")
	chain, key := pairFor(t, "a.test")
	put(filepath.Join(m.certs(), "team", "chain.pem"), chain)
	put(filepath.Join(m.certs(), "team", "key.pem"), key)
	files := func(chain, key string) string {
		return fmt.Sprintf("options: {countersign.dev/certificate: files, countersign.dev/certificate-files: '%s,%s'}", chain, key)
	}
	port, foreign := freePort(m), freePort(m)
	m.write(edgeDoc(httpsDoc("own", "", port, files(chainFile, keyFile)),
		httpsDoc("theirs", "", foreign, files(filepath.Join(m.certs(), "team", "chain.pem"), filepath.Join(m.certs(), "team", "key.pem")))))
	m.untilEdge("edge", "own Programmed=False", "own ResolvedRefs=False: listener \"own\": certificate files "+chainFile+" does not exist; put a good pair there",
		"theirs Programmed=False", `chain.pem belongs to namespace "team", the Gateway to "shop"`)
	if c, got := shake(foreign, "a.test", 0); c != nil {
		t.Errorf("what another namespace has is shown: %q", got)
	}

	put(chainFile, chain)
	put(keyFile, key)
	m.n.gateways.changed() // it looks by itself every few seconds
	m.untilEdge("edge", "own Programmed=True", "own ResolvedRefs=True")
	untilShown(t, port, "a.test", "a.test")
	for _, bad := range []string{"garbage", chain + key, ""} {
		put(keyFile, bad)
		m.n.gateways.changed()
		m.untilEdge("edge", "own Programmed=True", "own ResolvedRefs=False: listener \"own\": certificate files "+keyFile, "the one of before is shown till then")
		untilShown(t, port, "a.test", "a.test")
	}
	chain, key = pairFor(t, "a.test", "b.test")
	put(chainFile, chain)
	put(keyFile, key)
	m.n.gateways.changed()
	untilShown(t, port, "a.test", "a.test b.test")
	m.untilEdge("edge", "own ResolvedRefs=True")
}
