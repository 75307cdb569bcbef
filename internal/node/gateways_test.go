package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"countersign.dev/internal/catalog"
	"countersign.dev/internal/resource"
)

// edge applies a Gateway with listeners on these ports.
func (m *mesh) edge(name string, ports ...uint16) {
	m.t.Helper()
	var listeners []string
	for _, p := range ports {
		listeners = append(listeners, fmt.Sprintf("{name: l%d, port: %d, protocol: HTTP}", p, p))
	}
	doc := "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: " + name + ", namespace: shop}\nspec: {gatewayClassName: countersign, listeners: [" +
		strings.Join(listeners, ", ") + "]}\n"
	objects, faults := resource.Decode([]resource.File{{Name: "x", Data: []byte(doc)}}, resource.Options{})
	if resource.Stops(faults) {
		m.t.Fatal(faults)
	}
	m.change(catalog.Change{Object: objects[0]})
}

// untilEdge asks the server for a Gateway until its conditions, "listener Type=Status: message", hold what is wanted.
func (m *mesh) untilEdge(name string, want ...string) {
	m.t.Helper()
	var got string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		got = m.conditions(name)
		if !slices.ContainsFunc(want, func(line string) bool { return !strings.Contains(got, line) }) {
			return
		}
	}
	m.t.Fatalf("Gateway %s says\n%swant\n%s", name, got, strings.Join(want, "\n"))
}

func (m *mesh) conditions(name string) (out string) {
	m.t.Helper()
	ask := exec.Command(os.Args[0]) // the server answers nobody of its own process
	ask.Env = append(os.Environ(), edgeVar+"="+filepath.Join(m.run, "admin.sock"))
	text, err := ask.Output()
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var o struct {
			Metadata struct{ Name string }
			Status   struct {
				Addresses  []struct{ Value string }
				Conditions []struct{ Type, Status, Reason string }
				Listeners  []struct {
					Name       string
					Conditions []struct{ Type, Status, Message string }
				}
			}
		}
		if err := json.Unmarshal(line, &o); err != nil {
			m.t.Fatal(err)
		}
		if o.Metadata.Name != name {
			continue
		}
		for _, a := range o.Status.Addresses {
			out += "at " + a.Value + "\n"
		}
		for _, c := range o.Status.Conditions {
			out += fmt.Sprintf("%s=%s: %s\n", c.Type, c.Status, c.Reason)
		}
		for _, l := range o.Status.Listeners {
			for _, c := range l.Conditions {
				out += fmt.Sprintf("%s %s=%s: %s\n", l.Name, c.Type, c.Status, c.Message)
			}
		}
	}
	return out
}

// inTouch waits until the node has its stream, or lost it.
func (m *mesh) inTouch(want bool) {
	for end := time.Now().Add(5 * time.Second); m.n.InTouch() != want && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
}

// A node says which ports of a Gateway are open and why another is not, again when that changes, and again to a
// server that it reaches anew.
func TestGatewayPortsReported(t *testing.T) {
	m := newMesh(t)
	taken := m.tcp("127.0.0.1:0")
	port, free := uint16(taken.Addr().(*net.TCPAddr).Port), freePort(m)
	m.edge("edge", free, port)
	inUse := fmt.Sprintf("l%d Accepted=False: port %d is in use by countersign itself; end that, or write another port", port, port)
	open := fmt.Sprintf("l%d Programmed=True", free)
	m.untilEdge("edge", open, inUse, "at 127.0.0.1\n")

	m.edge("second", free)
	m.untilEdge("second", "Programmed=False: AddressNotAssigned")

	m.cut()
	m.inTouch(false)
	m.inTouch(true) // and what the server had heard before is void
	m.untilEdge("edge", open, inUse)

	taken.Close()
	m.untilEdge("edge", open, fmt.Sprintf("l%d Programmed=True", port))
}

// Why a port cannot be bound goes on from "port 80", and names the way out.
func TestWhyUnbound(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{syscall.EADDRINUSE, "is in use by another program"},
		{syscall.EACCES, "ports below 1024 need a capability; sudo setcap cap_net_bind_service=+ep /"},
		{syscall.EMFILE, "cannot be opened: too many open files"},
		{net.ErrClosed, "cannot be opened"},
	} {
		wrapped := &net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", tt.err)}
		u := &unbound{80, whyUnbound(netip.MustParseAddrPort("192.0.2.1:80"), wrapped), wrapped}
		if !strings.HasPrefix(u.Error(), "port 80 ") || !strings.Contains(u.Error(), tt.want) {
			t.Errorf("%v: %q, want %q", tt.err, u.Error(), tt.want)
		}
	}
}
