//go:build system && linux

package systemtest

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// peerAuthentication is applied as it stands in the manual, byte for byte.
const peerAuthentication = `apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
    name: default
    namespace: your-namespace
spec:
    mtls:
        mode: STRICT
`

// TestSystemSession is the first session of a new user, with the programs a person has.
func TestSystemSession(t *testing.T) {
	h := openHouse(t, owner)
	h.session(func() {})
	if code := h.end(syscall.SIGTERM); code != 0 {
		t.Errorf("up ends with %d on SIGTERM", code)
	}
	if log := h.logged(); !strings.HasSuffix(log, "stopped; nothing was lost\n") {
		t.Errorf("the last words of up: %s", log)
	}
}

// TestSystemSessionRoot is the same session as root.
func TestSystemSessionRoot(t *testing.T) {
	h := openHouse(t, root)
	h.session(func() {})
}

// TestSystemSessionKilled is the same session with a kill -9 of up between any two commands:
// nothing acknowledged is lost, and the running api is served by the next up.
func TestSystemSessionKilled(t *testing.T) {
	h := openHouse(t, owner)
	rootBefore := h.cli("ca", "root").out
	kills := 0
	h.session(func() {
		kills++
		h.kill()
		h.start()
		h.ready("api")
		if got := h.cli("ca", "root").out; got != rootBefore {
			t.Fatalf("after a kill the root is another: %s, before %s", got, rootBefore)
		}
	})
	if kills < 6 {
		t.Errorf("up was killed %d times", kills)
	}
	if !strings.Contains(h.cli("status").out, "api ") {
		t.Errorf("status: %v", h.cli("status"))
	}
}

// session types the commands; between is done between any two of them.
func (h *house) session(between func()) {
	t, port := h.t, freePort(h.t)
	t.Helper()
	api := h.run("api", "--port", port, "--", "python3", "-m", "http.server", port, "--bind", "127.0.0.1", "--directory", newDir(t, h.as))
	api.stopsWith(t)
	h.ready("api")
	between()

	r := h.curl("web", "-D", "-", "http://api/")
	id := regexp.MustCompile(`(?i)\nx-decision-id: ([0-9a-z]{26})\r\n`).FindStringSubmatch(r.out)
	if r.status() != "403" || id == nil || !strings.Contains(r.err, "no rule allows it") || !strings.Contains(r.err, "countersign why "+id[1][:8]) {
		t.Fatalf("the first call: %v\nwant 403 with a decision id", r)
	}
	between()

	for _, which := range [][]string{{"why"}, {"why", id[1][:8]}, {"why", id[1]}} {
		if len(which) == 2 && len(which[1]) == 8 && h.wasKilled() {
			continue // the short form is for what is in memory
		}
		if r := h.cli(which...); !strings.Contains(r.out, id[1]) || !strings.Contains(r.out, "no rule allows it") || !strings.Contains(r.out, "countersign allow web api") {
			t.Errorf("%q: %v\nwant what is missing, and the command that allows it", which, r)
		}
	}
	between()

	if r := h.cli("allow", "web", "api", "GET /**"); !strings.Contains(r.out, "created    AuthorizationPolicy/default/api-from-web") || !strings.Contains(r.err, "enforced everywhere") {
		t.Errorf("allow: %v", r)
	}
	between()

	if r := h.curl("web", "http://api/"); r.status() != "200" || !strings.Contains(r.out, "Directory listing") {
		t.Errorf("the allowed call: %v", r)
	}
	if r := h.curl("web", "-X", "POST", "http://api/"); r.status() != "403" {
		t.Errorf("a call by another method: %v, want 403", r)
	}
	if r := h.curl("other", "http://api/"); r.status() != "403" {
		t.Errorf("a call of another workload: %v, want 403", r)
	}
	between()

	h.cli("apply", "-f", writeFile(t, h.as, h.home+"/peer-authentication.yaml", peerAuthentication))
	between()

	if r := h.cli("get", "peerauthentications", "-A"); !regexp.MustCompile(`(?m)^your-namespace +default +STRICT `).MatchString(r.out) {
		t.Errorf("get peerauthentications -A: %v", r)
	}
	between()

	if r := h.curl("web", "http://api/"); r.status() != "200" {
		t.Errorf("the allowed call at the end: %v", r)
	}
	if got := h.cli("get", "ap", "-A", "-o", "name").out; strings.Count(got, "\n") != 2 || !strings.Contains(got, "api-from-web") || !strings.Contains(got, "allow-nothing") {
		t.Errorf("the policies at the end: %s", got)
	}
}

// wasKilled reports whether an up of this house ended without cleaning up.
func (h *house) wasKilled() bool {
	audits, _ := os.ReadDir(h.dir + "/node/audit")
	n := 0
	for _, f := range audits {
		if strings.HasPrefix(f.Name(), "audit-") {
			n++
		}
	}
	return n > 1
}

// stopsWith ends a run at the end of a test and looks at its status: what a signal gives.
func (r *running) stopsWith(t *testing.T) {
	t.Cleanup(func() {
		r.stop()
		if code := r.cmd.ProcessState.ExitCode(); code != 128+int(syscall.SIGTERM) {
			t.Errorf("run ended with %d on SIGTERM, want %d", code, 128+int(syscall.SIGTERM))
		}
	})
}

// TestSystemDown: SIGTERM, SIGINT and down end up cleanly: status 0, no socket, no note at the
// next start; a call under way is answered first; run and its program outlive it.
func TestSystemDown(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	h.cli("allow", "web", "api", "GET /**")
	for _, how := range []string{"SIGTERM", "SIGINT", "down"} {
		if how == "down" {
			h.cli("down")
			<-h.ended
			if code := h.up.ProcessState.ExitCode(); code != 0 {
				t.Errorf("down: up ends with %d", code)
			}
			h.up = nil
		} else if code := h.end(map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT}[how]); code != 0 {
			t.Errorf("%s: up ends with %d", how, code)
		}
		for _, name := range []string{"admin", "node", "workload"} {
			if _, err := os.Stat(h.socket(name)); err == nil {
				t.Errorf("%s: %s.sock is left", how, name)
			}
		}
		for _, addr := range []string{h.inbound, h.health} {
			if c, err := net.Dial("tcp", addr); err == nil {
				c.Close()
				t.Errorf("%s: %s still answers", how, addr)
			}
		}
		h.start()
		h.ready("api")
		if r := h.curl("web", "http://api/"); r.status() != "200" {
			t.Errorf("%s: afterwards a call gets %v", how, r)
		}
	}
	second := &house{t: t, as: owner, home: h.home, dir: h.dir, log: writeFile(t, owner, h.home+"/second.log", ""), inbound: localPort(t)}
	if ready, _ := second.try(); ready || !strings.Contains(second.logged(), "already_running") {
		t.Errorf("a second up in the same directory: ready %v: %s", ready, second.logged())
	}
}

// TestSystemPagesPortTaken: whoever holds the port of the pages keeps up away from it, but not
// from its work.
func TestSystemPagesPortTaken(t *testing.T) {
	h := newHouse(t, owner)
	puppetOf(t, stranger).must("listen %s", h.health)
	h.start()
	if log := h.logged(); !strings.Contains(log, h.health+" is in use") {
		t.Errorf("a stranger has %s, the port of the pages, and up says nothing of it: %s", h.health, log)
	}
	h.serve("api")
}

// TestSystemGoSPIFFE: an unmodified go-spiffe program gets its SVID under run, and nobody else.
func TestSystemGoSPIFFE(t *testing.T) {
	h := openHouse(t, owner)
	var got fetched
	if err := json.Unmarshal([]byte(h.cli("run", "web", "-n", "shop", "--", prog, "fetch").out), &got); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got.IDs) != "[spiffe://cluster.local/ns/shop/sa/web]" || got.X509 != "OK" || !got.Verified || got.JWT != "Unimplemented" {
		t.Errorf("under run a go-spiffe program gets %+v", got)
	}
	for _, u := range []user{stranger, owner, root} {
		cmd := u.command(prog, "fetch")
		cmd.Env = append(cmd.Env, "SPIFFE_ENDPOINT_SOCKET=unix://"+h.socket("workload"))
		got = fetched{}
		r := finish(t, cmd)
		json.Unmarshal([]byte(r.out), &got)
		if got.X509 != "PermissionDenied" || len(got.IDs)+len(got.Keys) != 0 {
			t.Errorf("uid %d outside of a run gets %v", u, r)
		}
		if log := h.logged(); !strings.Contains(log, fmt.Sprintf("unix:uid:%d", u)) {
			t.Errorf("the log does not say which selectors uid %d had: %s", u, log)
		}
	}
}

// TestSystemListen: a listener of its own takes mTLS alone, both or plaintext alone, as the
// PeerAuthentication of its namespace says.
func TestSystemListen(t *testing.T) {
	h := openHouse(t, owner)
	own := localPort(t)
	h.serve("svc", "-n", "your-namespace", "--listen", own)
	h.apply("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: anyone, namespace: your-namespace}, spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}}")
	dir := newDir(t, owner)
	h.cli("run", "web", "--", prog, "fetch", dir)

	for _, c := range []struct{ mode, plain, mtls, handshake string }{
		{"", "000", "200", "certificate required"},
		{"STRICT", "000", "200", "certificate required"},
		{"PERMISSIVE", "200", "200", "certificate required"},
		{"DISABLE", "200", "000", "wrong version number"},
		{"STRICT", "000", "200", "certificate required"},
	} {
		if c.mode != "" {
			h.apply(strings.Replace(peerAuthentication, "STRICT", c.mode, 1))
		}
		args := []string{"-skS", "-m", "5", "-o", "/dev/null", "-w", "\n%{http_code}"}
		plain := finish(t, stranger.command("curl", append(args, "http://"+own+"/")...))
		if plain.status() != c.plain {
			t.Errorf("mode %q, plaintext: %v, want %s", c.mode, plain, c.plain)
		}
		mtls := finish(t, owner.command("curl", append(args, "--cert", dir+"/svid.pem", "--key", dir+"/key.pem", "https://"+own+"/")...))
		if mtls.status() != c.mtls {
			t.Errorf("mode %q, mTLS: %v, want %s", c.mode, mtls, c.mtls)
		}
		bare := finish(t, stranger.command("sh", "-c", `echo | openssl s_client -quiet -connect "$0"`, own))
		if !strings.Contains(bare.err, c.handshake) || strings.Contains(bare.out, "HTTP/1.1 200") {
			t.Errorf("mode %q, TLS without certificate: %v, want %q", c.mode, bare, c.handshake)
		}
		if r := h.curl("web", "http://svc.your-namespace/"); r.status() != "200" {
			t.Errorf("mode %q, through the mesh: %v", c.mode, r)
		}
	}
	h.cli("delete", "ap", "anyone", "-n", "your-namespace", "--wait=10s")
	h.apply(strings.Replace(peerAuthentication, "STRICT", "PERMISSIVE", 1))
	if r := finish(t, stranger.command("curl", "-sS", "-m", "5", "-w", "\n%{http_code}", "http://"+own+"/")); r.status() != "403" {
		t.Errorf("an anonymous call that no policy allows: %v, want 403", r)
	}
}
