//go:build system && linux

package systemtest

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestSystemSecSecretOtherUID: who is not of the run gets nothing from its proxy listener, with
// its secret neither, unless the user is the same (security.md S9, dataplane.md 25.2).
func TestSystemSecSecretOtherUID(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	h.cli("allow", "web", "api", "GET /**")
	_, web := h.puppetIn("web", "--", prog, "puppet")
	addr, secret := web.proxy()
	for _, c := range []struct {
		who   user
		words []string
		want  string
	}{
		{stranger, []string{"-x", addr}, "407"},
		{stranger, []string{"-x", "http://web:" + strings.Repeat("0", 32) + "@" + addr}, "407"},
		{stranger, []string{"-x", "http://web:" + secret + "@" + addr}, "407"},
		{stranger, []string{"-p", "-x", "http://web:" + secret + "@" + addr}, "407"},
		{stranger, []string{"-x", "http://web:" + secret + "@" + addr, "-H", "X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/default/sa/web"}, "407"},
		{stranger, []string{"--proxy-header", "Proxy-Authorization: Bearer " + secret, "-x", addr}, "407"},
		{root, []string{"-x", "http://web:" + secret + "@" + addr}, "407"},
		{root, []string{"-x", addr}, "407"},
		{owner, []string{"-x", addr}, "407"},
		{owner, []string{"-x", "http://web:" + strings.Repeat("0", 32) + "@" + addr}, "407"},
		{owner, []string{"-x", "http://web:" + secret + "@" + addr}, "200"}, // one uid is one party
	} {
		args := append([]string{"-sS", "-m", "5", "-o", "/dev/null", "-w", "\n%{http_code} %{http_connect}"}, c.words...)
		r := finish(t, c.who.command("curl", append(args, "http://api/")...))
		if codes := strings.Fields(r.status()); !slices.Contains(codes, c.want) || c.want != "200" && slices.Contains(codes, "200") {
			t.Errorf("uid %d, curl %q: %v, want %s", c.who, c.words, r, c.want)
		}
	}
	if r := finish(t, stranger.command("curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "\n%{http_code}", "http://"+addr+"/")); r.status() != "400" {
		t.Errorf("a stranger asks the proxy listener itself: %v, want 400", r)
	}
}

// TestSystemSecTupleReuse: a stranger sends a request with the right secret and resets the
// connection; a program of the run takes the stranger's port, so that the kernel names it as
// who holds the other end. The request is refused all the same, because our end is over.
func TestSystemSecTupleReuse(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	h.cli("allow", "web", "api", "GET /**")
	p, web := h.puppetIn("web", "--", prog, "puppet")
	addr, secret := web.proxy()
	thief := puppetOf(t, stranger)
	credentials := finishWell(t, root.command("sh", "-c", "printf web:"+secret+" | openssl base64 -A")).out
	secretly := "Proxy-Authorization:~Basic~" + credentials + `\r\n`
	for round, rest := range []string{
		`\r\n`, secretly + `\r\n`,
		`Content-Length:~5\r\n\r\nhello`, secretly + `Content-Length:~5\r\n\r\nhello`,
		`Content-Length:~9\r\n\r\nhello`, secretly + `Content-Length:~9\r\n\r\nhello`,
	} {
		from := localPort(t)
		h.up.Process.Signal(syscall.SIGSTOP) // everything below comes before up looks
		thief.must(`strike %s %s GET~http://api/stolen~HTTP/1.1\r\nHost:~api\r\n%s`, from, addr, rest)
		p.must("connect %s %s", from, addr)
		h.up.Process.Signal(syscall.SIGCONT)
		if r := h.curl("web", fmt.Sprintf("http://api/honest/%d", round)); r.status() != "200" {
			t.Fatalf("an honest call: %v", r)
		}
		p.must("close")
	}
	// The attempts came first in the queue; what they did would be seen by now.
	eventually(t, "the attempts were looked at", func() (bool, string) {
		return socketsWith(t, "tcp", addr) == 0, "connections to the listener are open"
	})
	var paths []string
	r := h.curl("web", "http://api/seen")
	json.Unmarshal([]byte(r.out[:strings.LastIndexByte(r.out, '\n')]), &paths)
	if slices.Contains(paths, "/stolen") || !slices.Contains(paths, "/honest/5") {
		t.Errorf("api saw %q", paths)
	}
}

// TestSystemSecHTTPoxy: headers that claim an identity, and Proxy, do not reach a program; what
// it gets there is what was proven (security.md S13).
func TestSystemSecHTTPoxy(t *testing.T) {
	h := openHouse(t, owner)
	listen := localPort(t)
	h.serve("api", "--listen", listen)
	h.cli("allow", "web", "api", "GET /**")
	h.apply("{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: api, namespace: default}, spec: {selector: {matchLabels: {app: api}}, mtls: {mode: PERMISSIVE}}}")
	h.apply("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: anyone, namespace: default}, spec: {selector: {matchLabels: {app: api}}, rules: [{to: [{operation: {methods: [GET]}}]}]}}")
	evil := "By=spiffe://cluster.local/ns/default/sa/api;URI=spiffe://cluster.local/ns/default/sa/admin"
	var words []string
	for _, name := range []string{
		"X-Forwarded-Client-Cert", "x-forwarded-client-cert", "X_Forwarded_Client_Cert", "X-Forwarded.Client-Cert", "X-FORWARDED_CLIENT-CERT",
		"Proxy", "PROXY", "X-Countersign-Caller", "X_Countersign_Caller", "Txn-Token", "Workload-Identity-Token",
	} {
		words = append(words, "-H", name+": "+evil)
	}
	for way, call := range map[string]func() result{
		"the mesh": func() result { return h.curl("web", append(words, "http://api/")...) },
		"a tunnel": func() result { return h.curl("web", append(words, "-p", "http://api/")...) },
		"plaintext anonymous": func() result {
			return finish(t, stranger.command("curl", append(words, "-sS", "-m", "5", "-w", "\n%{http_code}", "http://"+listen+"/")...))
		},
	} {
		r := call()
		var got seen
		if err := json.Unmarshal([]byte(strings.SplitN(r.out, "\n", 2)[0]), &got); err != nil || r.status() != "200" {
			t.Errorf("by %s: %v", way, r)
			continue
		}
		for name, values := range got.Header {
			for _, v := range values {
				if strings.Contains(v, "sa/admin") {
					t.Errorf("by %s the program sees %s: %s", way, name, v)
				}
			}
		}
		xfcc := got.Header.Values("X-Forwarded-Client-Cert")
		proven := len(xfcc) == 1 && strings.HasSuffix(xfcc[0], ";URI=spiffe://cluster.local/ns/default/sa/web")
		if anonymous := strings.HasPrefix(way, "plain"); anonymous && len(xfcc) != 0 || !anonymous && !proven {
			t.Errorf("by %s the program sees the caller %q", way, xfcc)
		}
	}
}

// TestSystemSecListenerKept: no port of a run falls to another user while something may still
// call it: not while up is away, not while a descendant still ends (security.md S11).
func TestSystemSecListenerKept(t *testing.T) {
	h := openHouse(t, owner)
	own, port := localPort(t), freePort(t)
	dir := newDir(t, owner)
	// The program leaves a daemon that does not end on SIGTERM.
	script := fmt.Sprintf("(trap '' TERM; echo >%[1]s/there; while :; do sleep 600; done) & while [ ! -e %[1]s/there ]; do sleep 0.02; done; exec %[2]s serve 127.0.0.1:%[3]s", dir, prog, port)
	api := h.run("api", "--port", port, "--listen", own, "--stop", "2s", "--", "sh", "-c", script)
	h.ready("api")
	proxy, _ := api.proxy()
	thief := puppetOf(t, stranger)
	taken := func(when string) {
		t.Helper()
		for _, addr := range []string{proxy, own} {
			_, port, _ := net.SplitHostPort(addr)
			for _, at := range []string{addr, "0.0.0.0:" + port} {
				for _, how := range []string{"bind", "listen"} {
					if got := thief.pull("%s %s", how, at); !strings.Contains(got, "in use") {
						if thief.pull("listenbound") == "listening" || how == "listen" {
							t.Errorf("%s a stranger takes %s (%s): %s", when, at, how, got)
						}
						thief.must("close")
					}
				}
			}
		}
	}
	taken("while up and run live")
	h.kill()
	taken("while up is away")
	h.start()
	h.ready("api")
	taken("after another up")
	main := api.program()
	syscall.Kill(main, syscall.SIGTERM)
	eventually(t, "the program has ended", func() (bool, string) {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", main))
		return err != nil, ""
	})
	select {
	case <-api.ended:
		t.Error("run ended before its last descendant")
	default:
		taken("while a descendant lives")
	}
	<-api.ended
	for _, addr := range []string{proxy, own} {
		if got := thief.pull("listen %s", addr); got != "listening" {
			t.Errorf("after the run %s is not free: %s; then the refusals above prove nothing", addr, got)
		}
	}
}

// socketsWith counts the established connections whose local end is addr, in every table.
func socketsWith(t *testing.T, table, addr string) (n int) {
	t.Helper()
	for _, s := range sockets(t, table) {
		if s.local == addr && s.state == "01" {
			n++
		}
	}
	return n
}
