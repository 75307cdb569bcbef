//go:build system && linux

package systemtest

import (
	"strconv"
	"strings"
	"testing"
)

// TestSystemSecLimitsNoLockout: whatever a stranger fills, calls of the mesh go on as before,
// and so do runs, SVIDs and commands (security.md S20).
func TestSystemSecLimitsNoLockout(t *testing.T) {
	t.Run("inbound", func(t *testing.T) {
		h := openHouse(t, owner)
		h.serve("api")
		h.cli("allow", "web", "api", "GET /**")
		fill(t, "tcp", h.inbound, 1100, "")
		h.goesOn("1100 silent connections to the shared port")
	})
	t.Run("own listener", func(t *testing.T) {
		h := openHouse(t, owner)
		own := localPort(t)
		h.serve("api", "--listen", own)
		h.apply("{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: api, namespace: default}, spec: {selector: {matchLabels: {app: api}}, mtls: {mode: PERMISSIVE}}}")
		h.apply("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: anyone, namespace: default}, spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}}")
		fill(t, "tcp", own, 1100, "")
		for range 5 {
			r := finish(t, owner.command("curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "\n%{http_code}", "http://"+own+"/"))
			if r.status() != "200" {
				t.Fatalf("1100 silent connections to a listener of its own: another caller gets %v", r)
			}
		}
		h.goesOn("1100 silent connections to a listener of its own")
	})
	t.Run("pages", func(t *testing.T) {
		h := newHouse(t, owner)
		h.files = 1024 // what an ordinary login gives
		h.start()
		h.serve("api")
		h.cli("allow", "web", "api", "GET /**")
		fill(t, "tcp", h.health, 1200, `GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n`)
		h.goesOn("1200 connections to the pages")
	})
	t.Run("workload", func(t *testing.T) {
		h := openHouse(t, owner)
		h.serve("api")
		h.cli("allow", "web", "api", "GET /**")
		for range 12 { // one process alone has 64
			fill(t, "unix", h.socket("workload"), 60, "")
		}
		h.goesOn("720 silent connections to the Workload API")
	})
	t.Run("proxy", func(t *testing.T) {
		h := openHouse(t, owner)
		h.serve("api")
		h.cli("allow", "web", "api", "GET /**")
		p, web := h.puppetIn("web", "--", "sh", "-c", `while read url; do curl -sS -m 5 -o /dev/null -w '%{http_code}\n' "$url" 2>&1; done`)
		addr, _ := web.proxy()
		for what, payload := range map[string]string{
			"silent": "", "half": "GET http://api/ HT", "without secret": `GET http://api/ HTTP/1.1\r\nHost: api\r\n\r\n`,
			"with a wrong one": `GET http://api/ HTTP/1.1\r\nHost: api\r\nProxy-Authorization: Basic ` + strings.Repeat("A", 40) + `\r\n\r\n`,
		} {
			end := fill(t, "tcp", addr, 200, payload)
			for range 10 {
				if got := p.pull("http://api/"); got != "200" {
					t.Errorf("200 connections to the proxy listener, %s: the program's call gets %s", what, got)
				}
			}
			end()
		}
	})
}

// fill has a stranger hold connections, and gives what ends that.
func fill(t *testing.T, network, addr string, n int, payload string) (end func()) {
	t.Helper()
	cmd := stranger.command(prog, "hold", network, addr, strconv.Itoa(n), payload)
	p := hang(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(end)
	if got := p.next(); got != "held" {
		t.Fatalf("holding %d connections to %s: %q", n, addr, got)
	}
	return end
}

// goesOn proves that what is honest works while something is filled.
func (h *house) goesOn(filled string) {
	h.t.Helper()
	for range 5 {
		if r := h.curl("web", "-m", "5", "http://api/"); r.status() != "200" {
			h.t.Fatalf("%s: a call gets %v", filled, r)
		}
	}
	if r := finish(h.t, h.command(h.as, "run", "web", "--", prog, "fetch")); !strings.Contains(r.out, `"X509":"OK"`) {
		h.t.Errorf("%s: a program gets no SVID: %v", filled, r)
	}
	if r := finish(h.t, h.command(h.as, "status", "--timeout", "5s")); r.code != 0 {
		h.t.Errorf("%s: status: %v", filled, r)
	}
}
