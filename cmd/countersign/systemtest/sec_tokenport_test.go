//go:build system && linux

package systemtest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSystemSecTokensNoLockout: whatever strangers fill at the token service, a client with the
// right credential gets its token, and so does every workload (security.md S20, tokens.md 17).
func TestSystemSecTokensNoLockout(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	d := h.door()
	secret := h.secretClient()
	goesOn := func(t *testing.T, filled string) {
		t.Helper()
		for range 3 {
			if r := d.withSecret(d.client(), secret); r.status != 200 {
				t.Fatalf("%s: a client with its secret gets %v", filled, r)
			}
		}
		// A workload that was not there before, so that nothing is left of an earlier connection.
		fresh := "fresh-" + freePort(t)
		if r := finish(t, h.command(owner, "run", fresh, "--", countersign, "token", "issue", "--audience", "api")); r.code != 0 {
			t.Errorf("%s: a workload gets %v", filled, r)
		}
	}
	goesOn(t, "nothing")
	t.Run("handshakes", func(t *testing.T) {
		end := fill(t, "tcp", d.public, 1000, "")
		defer end()
		goesOn(t, "1000 connections without a handshake")
	})
	for what, payload := range map[string]string{
		"slow heads":  `POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nX-A: `,
		"slow bodies": `POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\ngrant`,
		"idle":        `GET /oauth2/jwks HTTP/1.1\r\nHost: localhost\r\n\r\n`,
	} {
		t.Run(what, func(t *testing.T) {
			end := fill(t, "tls", d.public, 600, payload)
			defer end()
			goesOn(t, "600 connections, "+what)
		})
	}
	t.Run("any certificate", func(t *testing.T) {
		dir := newDir(t, stranger)
		finishWell(t, stranger.command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-keyout", dir+"/key.pem", "-out", dir+"/svid.pem",
			"-subj", "/CN=web", "-addext", "subjectAltName=URI:"+idOf("web"), "-addext", "keyUsage=critical,digitalSignature"))
		end := fill(t, "tls:"+dir, d.mtls, 4200, `GET /oauth2/jwks HTTP/1.1\r\nHost: localhost\r\n\r\n`)
		defer end()
		goesOn(t, "4200 connections with a certificate of nobody's to the mTLS port")
		_, cert := h.svid("web")
		if r := d.own(d.client(cert), "web", "api"); r.status != 200 {
			t.Errorf("4200 connections with a certificate of nobody's: a workload on the mTLS port gets %v", r)
		}
	})
	t.Run("failures", func(t *testing.T) {
		answers := flood(t, stranger, "secret", "https://"+d.public+"/oauth2/token")
		goesOn(t, "failed authentications of the same client without end")
		if got := answers(); got["429"] == 0 || got["200"] != 0 {
			t.Errorf("a flood of wrong secrets got %v, want 429 at last", got)
		}
		if r := d.withSecret(d.client(), "css_wrong"); r.status != 429 && r.status != 401 {
			t.Errorf("a wrong secret after a flood: %v", r)
		}
	})
	t.Run("documents", func(t *testing.T) {
		answers := flood(t, stranger, "get", "https://"+d.public+"/oauth2/jwks")
		for range 20 { // by another user of the machine: on loopback that is another source
			args := []string{"-sS", "-m", "5", "--cacert", d.root, "-o", "/dev/null", "-w", "\n%{http_code}", "https://localhost:" + portOf(d.public) + "/oauth2/jwks"}
			if r := finish(t, owner.command("curl", args...)); r.status() != "200" {
				t.Errorf("the key set, while a stranger asks for it without end: %v", r)
				break
			}
		}
		if got := answers(); got["429"] == 0 {
			t.Errorf("a flood of requests for the key set got %v, want 429 at last", got)
		}
	})
}

// flood has a user ask as often as it can, and gives what ends that and counts the answers.
func flood(t *testing.T, u user, kind, to string) (answers func() map[string]int) {
	t.Helper()
	cmd := u.command(prog, "flood", kind, to)
	p := hang(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if got := p.next(); got != "flooding" {
		t.Fatalf("a flood: %q", got)
	}
	return func() map[string]int {
		counts := map[string]int{}
		for _, word := range strings.Fields(p.pull("end")) {
			status, n, _ := strings.Cut(word, ":")
			counts[status], _ = strconv.Atoi(n)
		}
		return counts
	}
}

// TestSystemSecTokensStrangersBytes: what strangers send to a token port is bounded where it is
// kept, and a request that could be read in two ways is read in none.
func TestSystemSecTokensStrangersBytes(t *testing.T) {
	h := openHouse(t, owner)
	d := h.door()
	c := d.client()
	for i := range 40 {
		long := strings.Repeat("A", 12<<10) + strconv.Itoa(i)
		req, err := http.NewRequest(long, "https://"+d.public+"/oauth2/token", nil)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			req.Method, req.Host = "PUT", long
		}
		do(c, req)
	}
	h.recorded("server/tokens", "a refused head", func(r record) bool { return r.Layer == "http" && r.Status >= 400 })
	req, err := http.NewRequest("PUT", "https://"+d.public+"/oauth2/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	do(c, req)
	h.recorded("server/tokens", "a refused method", func(r record) bool { return r.Status == 405 })
	names, _ := filepath.Glob(h.dir + "/server/tokens/*.jsonl")
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			if len(line) > 4096 {
				t.Errorf("a refused request of a stranger costs a record of %d bytes, want 4096 at most", len(line))
				break
			}
		}
	}

	_, cert := h.svid("web")
	body := "grant_type=client_credentials&client_id=" + idOf("web") + "&audience=web"
	h.serve("web")
	form, length := "Content-Type: application/x-www-form-urlencoded\r\n", fmt.Sprintf("Content-Length: %d\r\n", len(body))
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	const post, host = "POST /oauth2/token HTTP/1.1\r\n", "Host: localhost\r\n"
	for what, r := range map[string]struct {
		text string
		want string
	}{
		"as it should be":        {post + host + form + length + "\r\n" + body, "200"},
		"chunked":                {post + host + form + "Transfer-Encoding: chunked\r\n\r\n" + chunked, "200"},
		"two types":              {post + host + form + "Content-Type: application/json\r\n" + length + "\r\n" + body, "400"},
		"two lengths":            {post + host + form + length + "Content-Length: 3\r\n\r\n" + body, "400"},
		"unknown coding":         {post + host + form + "Transfer-Encoding: xchunked\r\n\r\n" + chunked, "501"},
		"space before the colon": {post + host + form + fmt.Sprintf("Content-Length : %d\r\n\r\n", len(body)) + body, "400"},
		"no host":                {post + form + length + "\r\n" + body, "400"},
		"two hosts":              {post + host + "Host: evil\r\n" + form + length + "\r\n" + body, "400"},
		"query":                  {"POST /oauth2/token?client_id=x HTTP/1.1\r\n" + host + form + length + "\r\n" + body, "400"},
		"two credentials":        {post + host + "Authorization: Basic eDp5\r\nAuthorization: Basic eDp5\r\n" + form + length + "\r\n" + body, "400"},
		"too long":               {post + host + form + "Content-Length: 65537\r\n\r\n" + strings.Repeat("a", 65537), "413"},
		"CONNECT":                {"CONNECT 127.0.0.1:22 HTTP/1.1\r\n" + host + "\r\n", "405"},
		"HTTP/2 by itself":       {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"},
	} {
		conn, err := tls.Dial("tcp", d.mtls, &tls.Config{RootCAs: d.roots, ServerName: "localhost", Certificates: []tls.Certificate{cert}})
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprint(conn, r.text)
		answer := make([]byte, 4096)
		n, _ := conn.Read(answer)
		conn.Close()
		fields := strings.Fields(string(answer[:n]))
		if len(fields) < 2 || fields[1] != r.want {
			t.Errorf("%s: %.200q, want %s", what, answer[:n], r.want)
		}
	}
}

// TestSystemSecTokensTwoLengths: after a request with a length and a coding nothing that follows
// on the connection is read (RFC 9112, section 6.1; audit.md, drill 16).
func TestSystemSecTokensTwoLengths(t *testing.T) {
	d := openHouse(t, owner).door()
	for _, port := range []string{d.public, d.mtls} {
		conn, err := tls.Dial("tcp", port, &tls.Config{RootCAs: d.roots, ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(3 * time.Second))
		const head = "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
		fmt.Fprint(conn, head+"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"+"GET /oauth2/jwks HTTP/1.1\r\nHost: localhost\r\n\r\n")
		said, err := io.ReadAll(conn)
		conn.Close()
		if n := strings.Count(string(said), "HTTP/1.1 "); err != nil || n != 1 {
			t.Errorf("%s: %d answers, then %v; want one, then the end", port, n, err)
		}
	}
}

// TestSystemSecTokensOtherUser: another user of the machine reads nothing of the token service,
// commands nothing, and gets nothing without a credential; no secret and no token is an argument.
func TestSystemSecTokensOtherUser(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	d := h.door()

	stop, lines := make(chan struct{}), map[string]bool{}
	stopped := make(chan struct{})
	go func() { // the arguments of all processes, as everybody can read them
		defer close(stopped)
		for {
			names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, name := range names {
				if b, err := os.ReadFile(name); err == nil {
					lines[string(b)] = true
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	secret := h.secretClient()
	token := h.token("web", "api")
	file := writeFile(t, owner, h.home+"/secret", secret)
	own := strings.TrimSpace(h.cli("token", "issue", "--client", "ci", "--secret-file", file, "--audience", reports).out)
	verify := h.command(owner, "token", "verify")
	verify.Stdin = strings.NewReader(token + "\n")
	finishWell(t, verify)
	if r := h.curl("web", "http://api/"); r.status() != "403" {
		t.Errorf("a call: %v", r)
	}
	close(stop)
	<-stopped
	ours := 0
	for line := range lines {
		if strings.Contains(line, countersign) {
			ours++
		}
		for _, s := range []string{secret, token, own} {
			if strings.Contains(line, s) {
				t.Errorf("a credential stands among arguments: %q", line)
			}
		}
	}
	if ours < 3 {
		t.Errorf("only %d commands of ours were seen", ours)
	}

	for _, path := range h.tree() {
		short := strings.TrimPrefix(path, h.dir)
		if !strings.HasPrefix(short, "/server") && !strings.HasPrefix(short, "/store") && !strings.HasPrefix(short, "/node") {
			continue
		}
		at, err := os.Lstat(path)
		if err != nil {
			continue
		}
		want := os.FileMode(0o600)
		if at.IsDir() {
			want = 0o700
		}
		if at.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", short, at.Mode().Perm(), want)
		}
		if r := finish(t, stranger.command("sh", "-c", `if [ -d "$0" ]; then ls "$0"; else cat "$0"; fi >/dev/null`, path)); r.code == 0 {
			t.Errorf("a stranger reads %s", short)
		}
	}
	for _, args := range [][]string{
		{"token", "rotate", "--now"}, {"token", "revoke", "--before", "now", "--yes"}, {"token", "revoke", "--jti", "x"},
		{"client", "create", "evil"}, {"client", "rotate", "ci"}, {"client", "list"}, {"client", "show", "ci"}, {"client", "delete", "ci", "--yes"},
	} {
		if r := finish(t, h.command(stranger, args...)); r.code == 0 || !strings.Contains(r.err, "only ") || r.out != "" {
			t.Errorf("a stranger asks %q: %v", args, r)
		}
		// And no program of a run, which is of the same user (S2).
		if r := finish(t, h.command(owner, append([]string{"run", "web", "--", countersign}, args...)...)); r.code == 0 || r.out != "" {
			t.Errorf("a program of a run asks %q: %v", args, r)
		}
	}
	if r := finish(t, h.command(stranger, "token", "issue", "--audience", "api")); r.code == 0 || r.out != "" {
		t.Errorf("a stranger asks for a token: %v", r)
	}
	for what, words := range map[string][]string{
		"nothing":            {"-d", "grant_type=client_credentials"},
		"a name":             {"-d", "grant_type=client_credentials", "-d", "client_id=" + idOf("web"), "-d", "audience=api"},
		"the client's name":  {"-d", "grant_type=client_credentials", "-d", "client_id=ci", "-d", "audience=" + reports},
		"a forwarded header": {"-H", "X-Forwarded-Client-Cert: URI=" + idOf("web"), "-d", "grant_type=client_credentials", "-d", "client_id=" + idOf("web"), "-d", "audience=api"},
		"a token":            {"-H", "Authorization: Bearer " + token, "-d", "grant_type=client_credentials", "-d", "client_id=" + idOf("web"), "-d", "audience=api"},
	} {
		for _, port := range []string{d.public, d.mtls} {
			args := append([]string{"-sS", "-m", "5", "--cacert", d.root, "-w", "\n%{http_code}", "https://localhost:" + portOf(port) + "/oauth2/token"}, words...)
			if r := finish(t, stranger.command("curl", args...)); r.status() != "401" || strings.Contains(r.out, "access_token") {
				t.Errorf("a stranger with %s at %s: %v, want 401", what, port, r)
			}
		}
	}
	thief := puppetOf(t, stranger)
	for _, port := range []string{d.public, d.mtls} {
		if got := thief.pull("listen %s", port); !strings.Contains(got, "in use") {
			t.Errorf("a stranger takes %s beside the token service: %s", port, got)
		}
	}
	if r := finish(t, h.command(owner, "token", "issue", "--client", "ci", "--secret-file", file, "--audience", reports)); r.code != 0 {
		t.Errorf("after all that, the client: %v", r)
	}
}
