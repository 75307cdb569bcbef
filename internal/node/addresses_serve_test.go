package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"countersign.dev/internal/catalog"
	"countersign.dev/internal/resource"
)

// edgeAt applies a Gateway with one listener and addresses as in YAML.
func (m *mesh) edgeAt(name, addresses string, port uint16) {
	m.t.Helper()
	doc := fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: %s, namespace: shop}\nspec: {gatewayClassName: countersign, addresses: [%s], listeners: [{name: http, port: %d, protocol: HTTP}]}\n", name, addresses, port)
	objects, faults := resource.Decode([]resource.File{{Name: "x", Data: []byte(doc)}}, resource.Options{})
	if resource.Stops(faults) {
		m.t.Fatal(faults)
	}
	m.change(catalog.Change{Object: objects[0]})
}

// Gateways on addresses of their own share a port; of two on one address the older has it, and the younger as soon as
// it is free.
func TestGatewayAddresses(t *testing.T) {
	m := newMesh(t)
	port := freePort(m)
	m.edgeAt("one", "{value: 127.0.0.2}", port)
	m.untilEdge("one", "at 127.0.0.2\n", "http Programmed=True")
	m.edgeAt("two", "{value: 127.0.0.3}", port)
	m.untilEdge("two", "at 127.0.0.3\n", "http Programmed=True")
	m.edgeAt("zlate", "{value: 127.0.0.3}", port)
	m.untilEdge("zlate", fmt.Sprintf("http Accepted=False: port %d is that of Gateway shop/two; write another port", port))
	m.edgeAt("lost", "{value: 203.0.113.9}", port)
	m.untilEdge("lost", "Programmed=False: AddressNotUsable")
	m.edgeAt("named", "{type: Hostname, value: a.test}", port)
	m.untilEdge("named", "Accepted=False: UnsupportedAddress")

	m.edgeAt("two", "{value: 127.0.0.4}", port)
	m.untilEdge("two", "at 127.0.0.4\n", "http Programmed=True")
	m.untilEdge("zlate", "at 127.0.0.3\n", "http Programmed=True")
}

// A port that was handed over is used in the place of bind, and by nobody else than the Gateway that has it there.
func TestGatewayInherits(t *testing.T) {
	var at netip.AddrPort
	m := newMesh(t, func(m *mesh, o *Options) {
		ln := m.tcp("127.0.0.9:0")
		at = ln.Addr().(*net.TCPAddr).AddrPort()
		o.Addresses.Inherited = []Inherited{{File: m.file(ln), Addr: at.Addr(), Port: at.Port()}}
	})
	m.edge("edge", at.Port())
	m.untilEdge("edge", "at 127.0.0.9\n", "Programmed=True")
}

// A listener that is taken away takes nothing new, and who is idle there goes.
func TestGatewayCloses(t *testing.T) {
	m := newMesh(t)
	port := freePort(m)
	m.edge("edge", port, freePort(m))
	m.untilEdge("edge", fmt.Sprintf("l%d Programmed=True", port))
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m.edge("edge", freePort(m))
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection lives on: %v", err)
	}
	if other, err := net.Dial("tcp", c.RemoteAddr().String()); err == nil {
		other.Close()
		t.Error("the port is open")
	}
}
