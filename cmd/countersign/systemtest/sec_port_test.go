//go:build system && linux

package systemtest

import (
	"net"
	"strings"
	"testing"
)

// TestSystemSecUnacceptedPort: a program's port gets a call only while listener and accepted
// socket are the run's; whoever takes the port before, beside or after the program hears
// nothing and answers nobody (security.md S10).
func TestSystemSecUnacceptedPort(t *testing.T) {
	h := openHouse(t, owner)
	h.cli("run", "web", "--", "true") // its Workload, for the policy
	h.apply("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: web, namespace: default}, spec: {rules: [{from: [{source: {serviceAccounts: [web]}}]}]}}")

	t.Run("taken when run starts", func(t *testing.T) {
		h.in(t)
		addr := localPort(t)
		thief := puppetOf(t, stranger)
		thief.must("listen %s", addr)
		r := finish(t, h.command(owner, "run", "api", "--port", portOf(addr), "--", "true"))
		if r.code != 125 || !strings.Contains(r.err, addr+" is in use") {
			t.Errorf("run with a port that a stranger holds: %v", r)
		}
	})
	t.Run("taken before the program", func(t *testing.T) {
		x := h.contest(t, "before")
		x.thief.must("listen %s", x.addr)
		x.refused("while a stranger has the port")
		eventually(t, "an alarm that names the stranger", func() (bool, string) {
			log := h.logged()
			return strings.Contains(log, "held by somebody else") && strings.Contains(log, "uid 2000"), log
		})
		x.thief.must("close")
		x.program.must("listen %s", x.addr)
		h.ready("before")
		x.answered("once the program has it")
	})
	t.Run("taken beside it", func(t *testing.T) {
		x := h.contest(t, "beside")
		six := "[::1]:" + portOf(x.addr)
		x.thief.must("listen %s", x.addr)
		x.program.must("listen %s", six)
		h.ready("beside")
		x.answered("program on ::1, stranger on 127.0.0.1")
		x.thief.must("close")
		x.program.must("close")
		x.thief.must("listen %s", six)
		x.program.must("listen %s", x.addr)
		x.answered("program on 127.0.0.1, stranger on ::1")
		x.program.must("close")
		x.refused("nobody on 127.0.0.1, stranger on ::1")
	})
	t.Run("taken by a better address", func(t *testing.T) {
		x := h.contest(t, "better")
		// Bound first, but not listening, so that the program can have its own wider address.
		x.thief.must("bind %s", x.addr)
		wide := x.program.pull("listen 0.0.0.0:%s", portOf(x.addr))
		better := x.thief.pull("listenbound")
		switch {
		case wide == "listening" && better == "listening":
			x.refused("both listen, the stranger at the better address")
		case wide == "listening":
			h.ready("better")
			x.answered("the stranger's socket cannot listen: " + better)
		default:
			x.refused("the program's socket cannot listen: " + wide)
		}
	})
	t.Run("taken after it", func(t *testing.T) {
		x := h.contest(t, "after")
		x.program.must("listen %s", x.addr)
		h.ready("after")
		x.answered("the program has it")
		for _, at := range []string{x.addr, "0.0.0.0:" + portOf(x.addr)} {
			if got := x.thief.pull("listen %s", at); !strings.Contains(got, "in use") {
				t.Errorf("beside the program a stranger listens on %s: %s", at, got)
			}
		}
		x.program.must("close") // the run goes on
		x.thief.must("listen %s", x.addr)
		x.refused("the program gave it up and a stranger took it")
		x.thief.must("close")
		x.thief.must("listen [::]:%s", portOf(x.addr)) // which takes IPv4 as well
		x.refused("a stranger listens on all addresses of both families")
		x.thief.must("close")
		x.program.must("listen %s", x.addr)
		x.answered("the program has it back")
	})
}

// contest is a run whose program has no port yet, and a stranger who wants it.
type contest struct {
	h              *house
	t              *testing.T
	name, addr     string
	program, thief *puppet
}

func (h *house) contest(t *testing.T, name string) *contest {
	t.Helper()
	h.in(t)
	x := &contest{h: h, t: t, name: name, addr: localPort(t), thief: puppetOf(t, stranger)}
	x.program, _ = h.puppetIn(name, "--port", portOf(x.addr), "--", prog, "puppet")
	h.is(name, "starting")
	return x
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// refused proves that a call gets an error of the mesh and that the stranger hears none of it.
// The program's own puppet answers with "stolen" as well, but then its test end hears it.
func (x *contest) refused(when string) {
	x.t.Helper()
	r := x.h.curl("web", "-H", "X-Word: for-"+x.name, "http://"+x.name+"/")
	if r.status() != "503" && r.status() != "502" || strings.Contains(r.out, "stolen") {
		x.t.Errorf("%s: a call gets %v, want 502 or 503", when, r)
	}
	select {
	case said := <-x.thief.lines:
		x.t.Errorf("%s: the stranger %s", when, said)
	default:
	}
}

// answered proves that a call reaches the program and nobody else.
func (x *contest) answered(when string) {
	x.t.Helper()
	r := x.h.curl("web", "http://"+x.name+"/")
	if r.status() != "200" {
		x.t.Errorf("%s: a call gets %v, want 200", when, r)
		return
	}
	if said := x.program.next(); !strings.HasPrefix(said, "heard GET / ") {
		x.t.Errorf("%s: the program says %q", when, said)
	}
	select {
	case said := <-x.thief.lines:
		x.t.Errorf("%s: the stranger %s", when, said)
	default:
	}
}
