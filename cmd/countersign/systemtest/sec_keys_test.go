//go:build system && linux

package systemtest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestSystemSecNotDumpable: nobody but root looks into the process that has the keys, its own
// user neither, and no core file of it is written (identity.md 19).
func TestSystemSecNotDumpable(t *testing.T) {
	h := openHouse(t, owner)
	for _, u := range []user{owner, stranger} {
		if got := puppetOf(t, u).must("intrude %d", h.pid()); got != "" {
			t.Errorf("uid %d gets into up by: %s", u, got)
		}
	}
	api := h.serve("api")
	if got := puppetOf(t, owner).must("intrude %d", api.program()); !strings.Contains(got, "environ") {
		t.Errorf("into its own program the owner gets by %q; then the refusals above prove nothing", got)
	}
	if got := puppetOf(t, stranger).must("intrude %d", api.cmd.Process.Pid); got != "" {
		t.Errorf("a stranger gets into run by: %s", got)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", h.pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok && strings.Join(strings.Fields(rest), " ") != "0 0 bytes" {
			t.Errorf("up may write core files: %s", line)
		}
	}
}

// TestSystemSecNothingInClear: no key and no secret of a run is in a file, in a log of the
// finest level, in what commands print or in anybody's arguments (security.md S8, S22).
func TestSystemSecNothingInClear(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		h := newHouse(t, owner, "--log", "debug")
		if sealed {
			h.flags = append(h.flags, "--passphrase-file", writeFile(t, owner, h.home+"/words", "a passphrase of some words\n"))
		}
		h.start()
		api := h.serve("api")
		_, secret := api.proxy()
		dir := newDir(t, owner)
		h.cli("allow", "web", "api", "GET /open")
		var said strings.Builder // of the command line, but for the program that prints its key
		hear := func(r result) { said.WriteString(r.out + r.err) }
		hear(h.curl("web", "http://api/open"))
		hear(h.curl("web", "http://api/closed?q=1"))
		hear(h.curl("web", "http://nowhere/"))
		addr, _ := api.proxy()
		finish(t, stranger.command("curl", "-s", "-x", "http://api:"+secret+"@"+addr, "http://api/")) // refused, and logged
		var got fetched
		if err := json.Unmarshal([]byte(h.cli("run", "web", "--", prog, "fetch", dir).out), &got); err != nil || len(got.Keys) == 0 {
			t.Fatalf("no SVID: %v", err)
		}
		for _, args := range [][]string{{"why"}, {"status", "--json"}, {"get", "workloads", "-A", "-o", "yaml"}, {"ca", "status", "--json"}, {"ca", "root"}} {
			hear(h.cli(args...))
		}
		marks := markers(t, secret, got.Keys[0])
		for _, cmdline := range glob(t, "/proc/[0-9]*/cmdline") {
			scan(t, cmdline, marks, false)
		}
		for _, path := range append(h.tree(), h.log, api.out, api.errs) {
			if filepath.Base(path) == "seal.key" {
				continue // which is what seals the rest
			}
			scan(t, path, marks, false)
		}
		for what := range found([]byte(said.String()), marks) {
			t.Errorf("what commands print contains %s", what)
		}
		// The markers are the right ones: here they are found.
		scan(t, fmt.Sprintf("/proc/%d/environ", api.program()), marks, true)
		scan(t, dir+"/key.pem", marks, true)
		if _, err := os.Stat(h.dir + "/server/seal.key"); sealed == (err == nil) {
			t.Errorf("with passphrase %v: seal.key: %v", sealed, err)
		}
	}
}

// markers are what a key or a secret looks like in a file.
func markers(t *testing.T, secret, pkcs8 string) map[string][]byte {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(pkcs8)
	if err != nil {
		t.Fatal(err)
	}
	// A P-256 key in PKCS #8: 27+9 bytes of frame, then the 32 of the number itself.
	at := bytes.Index(key, []byte{0x02, 0x01, 0x01, 0x04, 0x20})
	if at < 0 {
		t.Fatal("the key is no P-256 key in PKCS #8")
	}
	number := key[at+5 : at+37]
	marks := map[string][]byte{
		"the secret of a run": []byte(secret),
		"a PEM key":           []byte("PRIVATE KEY-----"),
		"a SEC 1 key":         {0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20},
		"a PKCS #8 key":       {0x30, 0x6d, 0x02, 0x01, 0x01, 0x04, 0x20},
		"a JWK's number":      []byte(`"d":"`),
		"the number of a key": number,
		"its hex":             []byte(hex.EncodeToString(number)),
	}
	for name, plain := range map[string]string{"the secret": "x:" + secret, "the key": string(number), "a key's frame": "\x30\x6d\x02\x01\x01\x04\x20"} {
		for shift := range 3 { // base64 has three ways to write what stands within something
			text := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat(" ", shift) + plain))
			text = text[(shift*8+5)/6 : len(text)-2]
			marks[fmt.Sprintf("%s in base64, shifted by %d", name, shift)] = []byte(text)
			marks[fmt.Sprintf("%s in base64url, shifted by %d", name, shift)] = []byte(strings.NewReplacer("+", "-", "/", "_").Replace(text))
		}
	}
	return marks
}

func found(b []byte, marks map[string][]byte) map[string]int {
	hits := map[string]int{}
	for what, mark := range marks {
		if n := bytes.Count(b, mark); n > 0 {
			hits[what] = n
		}
	}
	return hits
}

// scan looks for the markers in a file, where they are wanted or not.
func scan(t *testing.T, path string, marks map[string][]byte, wanted bool) {
	t.Helper()
	at, err := os.Stat(path)
	if err != nil || !at.Mode().IsRegular() {
		return // ended meanwhile, or a socket
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return
	}
	hits := found(b, marks)
	if wanted && len(hits) == 0 {
		t.Errorf("%s contains no marker; then the others prove nothing", path)
	}
	for what := range hits {
		if !wanted {
			t.Errorf("%s contains %s", path, what)
		}
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(paths), err)
	}
	return paths
}

// TestSystemPassphrase: a sealed directory opens with its passphrase alone; a wrong one, or
// none, changes nothing.
func TestSystemPassphrase(t *testing.T) {
	h := newHouse(t, owner)
	words := writeFile(t, owner, h.home+"/words", "correct horse\n")
	h.flags = []string{"--passphrase-file", words}
	h.start()
	before := h.cli("ca", "root").out
	h.cli("allow", "web", "api", "GET /**")
	policies := h.cli("get", "ap", "-A", "-o", "name").out
	if code := h.end(syscall.SIGTERM); code != 0 {
		t.Fatalf("up ends with %d", code)
	}
	for what, flags := range map[string][]string{
		"a wrong passphrase": {"--passphrase-file", writeFile(t, owner, h.home+"/wrong", "correct mule\n")},
		"an empty one":       {"--passphrase-file", writeFile(t, owner, h.home+"/empty", "\n")},
		"none":               nil,
	} {
		h.flags = flags
		writeFile(t, owner, h.log, "")
		ready, _ := h.try()
		if log := h.logged(); ready || !strings.Contains(log, `"passphrase"`) || strings.Contains(log, "horse") || strings.Contains(log, "mule") {
			t.Errorf("up with %s: ready %v: %s", what, ready, log)
		}
	}
	if _, err := os.Stat(h.dir + "/server/seal.key"); err == nil {
		t.Error("beside the passphrase there is a sealing key in clear")
	}
	h.flags = []string{"--passphrase-file", words}
	h.start()
	if after := h.cli("ca", "root").out; after != before {
		t.Errorf("the root after the refused starts is %s, before it was %s", after, before)
	}
	if got := h.cli("get", "ap", "-A", "-o", "name").out; got != policies {
		t.Errorf("the policies are %s, before they were %s", got, policies)
	}
	other := openHouse(t, owner)
	other.end(syscall.SIGTERM)
	other.flags = h.flags
	if ready, _ := other.try(); ready || !strings.Contains(other.logged(), `"passphrase"`) {
		t.Errorf("a directory without passphrase starts with one: ready %v: %s", ready, other.logged())
	}
}
