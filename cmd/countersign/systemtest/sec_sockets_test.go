//go:build system && linux

package systemtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestSystemSecNothingElseListens compares security.md 5 with the kernel: what up and run can
// be reached by, and nothing else, the whole life through.
func TestSystemSecNothingElseListens(t *testing.T) {
	for _, u := range []user{owner, root} {
		h := openHouse(t, u)
		own := localPort(t)
		api := h.serve("api", "--listen", own)
		h.cli("allow", "web", "api", "GET /**")
		proxy, _ := api.proxy()
		if r := h.curl("web", "http://api/"); r.status() != "200" {
			t.Fatalf("a call: %v", r)
		}
		d := h.door()
		want := []string{
			"tcp " + h.inbound, "tcp " + h.health, "tcp " + proxy, "tcp " + own, "tcp " + d.public, "tcp " + d.mtls,
			"unix " + h.socket("admin"), "unix " + h.socket("node"), "unix " + h.socket("workload"), "unix " + h.dir + "/store/c.sock",
		}
		slices.Sort(want)
		eventually(t, "the sockets of up, the second run having ended", func() (bool, string) {
			got := listeners(t, h.pid())
			return slices.Equal(got, want), fmt.Sprintf("%q, want %q", got, want)
		})
		kept := []string{"tcp " + proxy, "tcp " + own}
		slices.Sort(kept)
		if got := listeners(t, api.cmd.Process.Pid); !slices.Equal(got, kept) {
			t.Errorf("uid %d: run can be reached by %q, want %q", u, got, kept)
		}
		without := finishWell(t, u.command("sh", "-c", "ls /proc/self/fd"))
		if got := h.cli("run", "bare", "--", "sh", "-c", "ls /proc/self/fd"); got.out != without.out {
			t.Errorf("uid %d: a program inherits the descriptors %q, without run %q", u, got.out, without.out)
		}
	}
}

// TestSystemSecStoreNoAbstractSocket: every file and socket of the data directory has the mode
// of security.md 5, whatever the umask; none is abstract, and a stranger opens none but the
// Workload API (security.md S22).
func TestSystemSecStoreNoAbstractSocket(t *testing.T) {
	for _, umask := range []int{0o022, 0, 0o077} {
		old := syscall.Umask(umask)
		h := openHouse(t, owner)
		syscall.Umask(old)
		h.serve("api")
		h.curl("api", "http://api/")
		for _, path := range h.tree() {
			at, err := os.Lstat(path)
			if err != nil {
				continue // the store tidies up
			}
			short := strings.TrimPrefix(strings.TrimPrefix(path, h.dir), "/")
			want := os.FileMode(0o600)
			switch {
			case short == "":
				want = 0o711
			case short == "run":
				want = 0o755
			case short == "run/workload.sock":
				want = 0o666
			case at.IsDir():
				want = 0o700
			}
			if got := at.Mode().Perm(); got != want || at.Sys().(*syscall.Stat_t).Uid != uint32(owner) {
				t.Errorf("umask %03o: %s has mode %04o of uid %d, want %04o of %d", umask, short, got, at.Sys().(*syscall.Stat_t).Uid, want, owner)
			}
			r := finish(t, stranger.command("sh", "-c", `if [ -d "$0" ]; then ls "$0"; else cat "$0"; fi >/dev/null`, path))
			if open := r.code == 0; open != (short == "run") {
				t.Errorf("umask %03o: a stranger reads %q: %v", umask, short, r)
			}
		}
		for _, s := range sockets(t, "unix") {
			if strings.Contains(s.local, h.dir) && strings.HasPrefix(s.local, "@") {
				t.Errorf("an abstract socket: %s", s.local)
			}
		}
		thief := puppetOf(t, stranger)
		for _, path := range []string{h.socket("admin"), h.socket("node"), h.dir + "/store/c.sock"} {
			if got := thief.pull("ask %s", path); !strings.Contains(got, "permission denied") {
				t.Errorf("umask %03o: a stranger connects to %s: %s", umask, path, got)
			}
		}
		for _, name := range []string{"admin", "node"} { // the mode is not all there is
			if err := os.Chmod(h.socket(name), 0o666); err != nil {
				t.Fatal(err)
			}
			if got := thief.pull("ask %s", h.socket(name)); got != "403" {
				t.Errorf("a stranger who gets at %s.sock is answered with %q, want 403", name, got)
			}
		}
		h.kill()
	}
}

// TestSystemSecForeignDirectory: up keeps its keys in no directory that is another's, or that
// others can read.
func TestSystemSecForeignDirectory(t *testing.T) {
	for name, c := range map[string]struct {
		of   user
		mode os.FileMode
		want string
	}{"a stranger's": {stranger, 0o755, "dir_owner"}, "closed": {stranger, 0o700, "dir_permission"}, "readable": {owner, 0o755, "dir_open"}, "writable": {owner, 0o777, "dir_open"}} {
		h := newHouse(t, owner)
		if err := os.RemoveAll(h.dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(h.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(h.dir, int(c.of), int(c.of)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(h.dir, c.mode); err != nil {
			t.Fatal(err)
		}
		ready, _ := h.try()
		if log := h.logged(); ready || !strings.Contains(log, c.want) {
			t.Errorf("up in a directory that is %s: ready %v, %s; want %s", name, ready, log, c.want)
		}
		if left := h.tree(); len(left) != 1 {
			t.Errorf("up in a directory that is %s leaves %q", name, left)
		}
	}
}

// TestSystemSecLoopbackHost: the pages on loopback answer loopback names only, so that no web
// page gets at them by a name of its own (security.md S21).
func TestSystemSecLoopbackHost(t *testing.T) {
	h := openHouse(t, owner)
	_, port, _ := strings.Cut(h.health, ":")
	for host, want := range map[string]string{
		"localhost": "200", "LOCALHOST:" + port: "200", "127.0.0.1:" + port: "200", "127.9.8.7": "200", "[::1]:" + port: "200",
		"evil.example": "421", "evil.example:" + port: "421", "localhost.evil.example": "421", "127.0.0.1.nip.io": "421", "0.0.0.0": "421",
		"2130706433": "421", "0x7f000001": "421", "[::]": "421", "10.0.0.1": "421", "xlocalhost": "421",
	} {
		for _, page := range []string{"/metrics", "/livez", "/readyz"} {
			r := finish(t, stranger.command("curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "\n%{http_code}", "-H", "Host: "+host, "http://"+h.health+page))
			if r.status() != want {
				t.Errorf("%s with Host %q: %v, want %s", page, host, r, want)
			}
		}
	}
	for _, words := range [][]string{{"-X", "POST", "/metrics"}, {"/debug/pprof/"}, {"/"}, {"/v1/status"}} {
		words[len(words)-1] = "http://" + h.health + words[len(words)-1]
		args := append([]string{"-sS", "-m", "5", "-o", "/dev/null", "-w", "\n%{http_code}"}, words...)
		if r := finish(t, stranger.command("curl", args...)); !strings.HasPrefix(r.status(), "4") {
			t.Errorf("curl %q: %v, want a refusal", words, r)
		}
	}
}

// TestSystemSecSocketOwner: a client asks the kernel who is on the other side before it says
// anything, and tells a stranger nothing (security.md S21, cli.md 4.4).
func TestSystemSecSocketOwner(t *testing.T) {
	for where, below := range map[string]string{"HOME": ".local/state/countersign/run", "XDG_RUNTIME_DIR": "countersign"} {
		home := newDir(t, owner)
		run := filepath.Join(home, below)
		if err := os.MkdirAll(run, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(run, 0o777); err != nil {
			t.Fatal(err)
		}
		thief := puppetOf(t, stranger)
		for _, name := range []string{"admin", "node"} {
			thief.must("listen %s", filepath.Join(run, name+".sock"))
			if err := os.Chmod(filepath.Join(run, name+".sock"), 0o777); err != nil {
				t.Fatal(err)
			}
		}
		var hint []string
		for _, args := range [][]string{{"status"}, {"get", "ap"}, {"allow", "web", "api", "GET /"}, {"down"}, {"run", "web", "--", "true"}} {
			cmd := owner.command(countersign, args...)
			cmd.Env = append(cmd.Env, "HOME=/nonexistent", where+"="+home)
			r := finish(t, cmd)
			if r.code == 0 || !strings.Contains(r.err, "it is uid 2000's, you are ") {
				t.Errorf("%s: %q with a stranger on the socket: %v", where, args, r)
			}
			if _, after, _ := strings.Cut(r.err, "hint: countersign "); args[0] == "status" {
				hint = strings.Fields(after)
			}
		}
		select {
		case said := <-thief.lines:
			t.Errorf("%s: the stranger %s", where, said)
		default:
		}
		// For whoever means that socket the hint is a command to paste.
		if r := finish(t, owner.command(countersign, hint...)); len(hint) == 0 || r.code == 2 {
			t.Errorf("%s: the hint %q cannot be pasted: %v", where, hint, r)
		}
	}
}

// TestSystemSecInbound: the shared port gives nothing to whoever has no certificate, one of
// another authority, or no TLS, and everything to whom policy lets in.
func TestSystemSecInbound(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	h.cli("allow", "web", "api", "GET /**")
	name := "api.default.svc.cluster.local"

	mine := newDir(t, owner)
	h.cli("run", "web", "--", prog, "fetch", mine)
	theirs := newDir(t, stranger) // an up of the stranger's own, of the same trust domain and names
	other := openHouse(t, stranger)
	other.cli("run", "web", "--", prog, "fetch", theirs)
	forged := newDir(t, stranger)
	finishWell(t, stranger.command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-keyout", forged+"/key.pem", "-out", forged+"/svid.pem", "-subj", "/CN=web",
		"-addext", "subjectAltName=URI:spiffe://cluster.local/ns/default/sa/web", "-addext", "keyUsage=critical,digitalSignature"))

	talk := func(u user, dir string, more ...string) result {
		args := append([]string{"s_client", "-connect", h.inbound, "-servername", name, "-quiet"}, more...)
		if dir != "" {
			args = append(args, "-cert", dir+"/svid.pem", "-key", dir+"/key.pem", "-cert_chain", dir+"/svid.pem")
		}
		// With -quiet openssl stays until the other side closes.
		script := `printf 'GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n' | openssl "$@"`
		return finish(t, u.command("sh", append([]string{"-c", script, "sh"}, args...)...))
	}
	if r := talk(owner, mine); !strings.Contains(r.out, "HTTP/1.1 200 OK") {
		t.Errorf("with the SVID of a caller whom policy lets in: %v", r)
	}
	for what, r := range map[string]result{
		"certificate required":   talk(stranger, ""),
		"unknown ca, own mesh":   talk(stranger, theirs),
		"unknown ca, forged":     talk(stranger, forged),
		"protocol version":       talk(owner, mine, "-tls1_2"),
		"unrecognized name, own": talk(owner, mine, "-servername", "nobody.default.svc.cluster.local"),
	} {
		if strings.Contains(r.out, "HTTP/") || strings.Contains(r.out, "Method") || !strings.Contains(r.err, "alert") {
			t.Errorf("%s: %v, want an alert alone", what, r)
		}
	}
	for _, scheme := range []string{"http://", "https://"} {
		r := finish(t, stranger.command("curl", "-skS", "-m", "5", "-o", "/dev/null", "-w", "\n%{http_code}", scheme+h.inbound+"/"))
		if r.status() != "000" {
			t.Errorf("curl %s: %v, want nothing", scheme, r)
		}
	}
}
