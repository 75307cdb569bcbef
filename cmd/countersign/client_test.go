package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/files"
)

// answers serves one socket of a server that answers as it is told, and gives its address.
func answers(t *testing.T, calls map[string]func() any) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for path, answer := range calls {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			v := answer()
			if p, ok := v.(*admin.Problem); ok {
				w.WriteHeader(http.StatusUnprocessableEntity)
				v = p
			}
			json.NewEncoder(w).Encode(v)
		})
	}
	srv := &http.Server{Handler: mux}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return "unix://" + filepath.Join(dir, "admin.sock")
}

var written = admin.ApplyReply{Objects: []admin.Result{{Kind: "AuthorizationPolicy", Namespace: "default", Name: "a", Result: "created"}}, Revision: 8812}

func late() any {
	return admin.Enforcement{Nodes: 41, Of: 43, Laggards: []admin.Laggard{
		{Node: "b7", Revision: 8790, LastSeen: time.Now().Add(-40 * time.Second)},
		{Node: "c2", Revision: 8790, Refused: "policies/shop: bad CIDR"},
	}}
}

func TestLaggards(t *testing.T) {
	addr := answers(t, map[string]func() any{"/v1/allow": func() any { return written }, "/v1/enforced": late})
	const detail = "  node b7  at 8790, last seen 40s ago\n  node c2  refused 8812: policies/shop: bad CIDR\n"
	status, out, errs := call(t, "allow", "web", "a", "--server", addr, "--wait=10ms")
	if want := "error: waiting for revision 8812: 2 of 43 nodes do not enforce it\n" + detail + "hint: countersign status\n"; status != 1 || errs != want {
		t.Errorf("--wait: status %d\n%s", status, errs)
	}
	if want := "created    AuthorizationPolicy/default/a\n"; out != want {
		t.Errorf("stdout %q", out)
	}
	status, out, errs = call(t, "allow", "web", "a", "--server", addr, "--wait=10ms", "--json")
	if status != 1 || !strings.Contains(out, `"laggards":[{"node":"b7","revision":8790,`) || !strings.HasPrefix(errs, `{"error":{"code":"laggards",`) {
		t.Errorf("--json: status %d\n%s\n%s", status, out, errs)
	}
	status, _, errs = call(t, "allow", "web", "a", "--server", addr, "--wait=0")
	if status != 0 || errs != "" {
		t.Errorf("--wait=0: status %d\n%s", status, errs)
	}
	status, _, errs = call(t, "allow", "web", "a", "--server", addr)
	if want := "note: waiting for revision 8812: 2 of 43 nodes do not enforce it\n" + detail; status != 0 || !strings.HasSuffix(errs, want) {
		t.Errorf("without --wait: status %d\n%s", status, errs)
	}
}

// TestWaitingGivenUp holds that Ctrl-C while waiting says that the change was made.
func TestWaitingGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	addr := answers(t, map[string]func() any{"/v1/allow": func() any { return written }, "/v1/enforced": func() any {
		cancel()
		return late()
	}})
	var out, errs bytes.Buffer
	status := run(ctx, []string{"allow", "web", "a", "--server", addr, "--wait"}, strings.NewReader(""), &out, &errs)
	if want := "error: revision 8812: it was applied; waiting was given up\n"; status != 130 || errs.String() != want {
		t.Errorf("status %d\n%s", status, errs.String())
	}
}

func TestTimeout(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	addr := answers(t, map[string]func() any{"/v1/allow": func() any { <-stop; return written }, "/v1/objects": func() any { <-stop; return nil }})
	status, out, errs := call(t, "allow", "web", "a", "--server", addr, "--timeout", "50ms")
	if want := "error: allowing web to call a: no answer within 50 ms; it may have been done\nhint: countersign get ap -A\n"; status != 1 || out != "" || errs != want {
		t.Errorf("status %d, stdout %q\n%s", status, out, errs)
	}
	status, _, errs = call(t, "get", "ap", "--server", addr, "--timeout", "50ms")
	if want := fmt.Sprintf("error: asking pid %d: no answer within 50 ms\nhint: countersign status\n", os.Getpid()); status != 1 || errs != want {
		t.Errorf("status %d\n%s", status, errs)
	}
}

// TestRunNotAnswering holds that run gives a node that is silent up, and names it.
func TestRunNotAnswering(t *testing.T) {
	dir, err := os.MkdirTemp("", "cs")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ln, err := net.Listen("unix", filepath.Join(dir, "node.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // nobody accepts: what connects waits in its queue
	status, out, errs := call(t, "run", "x", "--server", "unix://"+dir+"/admin.sock", "--timeout", "50ms", "--", "true")
	if want := fmt.Sprintf("countersign: error: asking pid %d: no answer within 50 ms\ncountersign: hint: countersign status\n", os.Getpid()); status != exitCannot || out != "" || errs != want {
		t.Errorf("status %d, stdout %q\n%s", status, out, errs)
	}
}

// TestTurnAway holds that the listeners of a run that no node serves any more close what comes,
// until the run ends, and that nothing goes on after it.
func TestTurnAway(t *testing.T) {
	ln, err := listenTCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := &program{listeners: []*net.TCPListener{ln.(*net.TCPListener)}}
	f, err := p.listeners[0].File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Fd() // as for the node: the duplicate shares its mode
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.turnAway(ctx)
	}()
	for range 3 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %d, %v", n, err)
		}
		c.Close()
	}
	cancel()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("it goes on")
	}
}

// TestSocketOwner holds that the way out of socket_owner can be pasted, and keeps what was typed.
func TestSocketOwner(t *testing.T) {
	e := &env{cmd: &command{name: "get"}, rest: []string{"-n", "shop", "ap", "it's"}}
	err := e.trusts("/tmp/x/admin.sock", false)(uint32(os.Getuid()) + 1)
	var p *admin.Problem
	if !errors.As(err, &p) || p.Code != "socket_owner" || p.Hints[0] != `countersign get --server unix:///tmp/x/admin.sock -n shop ap 'it'\''s'` {
		t.Errorf("got %+v", err)
	}
}

// TestDirWords holds that what a directory error knows beside its first line is a detail.
func TestDirWords(t *testing.T) {
	var errs bytes.Buffer
	e := &env{err: &errs}
	e.report((&house{e: e}).words(&files.DirError{Code: "dir_permission", Path: "/x", Detail: "permission denied\n  owner    root; you are ada", Hint: "countersign up --dir ~/y"}))
	if want := "error: opening /x: permission denied\n  owner    root; you are ada\nhint: countersign up --dir ~/y\n"; errs.String() != want {
		t.Errorf("got %s", errs.String())
	}
}

func TestNearest(t *testing.T) {
	known := []string{"up", "run", "why", "get", "status", "delete", "namespace"}
	for word, want := range map[string]string{
		"key": "", "wyh": "why", "gte": "get", "rn": "", "runn": "run", "sttaus": "status", "stat": "", "delet": "delete", "namspce": "namespace", "": "",
	} {
		if got := nearest(word, known); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

func TestCommitOf(t *testing.T) {
	for version, want := range map[string]string{
		"(devel)": "", "v0.1.0": "", "": "", "v0.0.0-20261121201402-3f9a12c4d5e6": "3f9a12c", "v0.1.1-0.20261121201402-3f9a12c4d5e6+dirty": "3f9a12c",
	} {
		if got := commitOf(version); got != want {
			t.Errorf("%s: got %q", version, got)
		}
	}
}

// TestDemosKept holds that a demo removes old ones, three kept, and never one that runs.
func TestDemosKept(t *testing.T) {
	demos := t.TempDir()
	mkdir := func(name string) {
		if err := os.MkdirAll(filepath.Join(demos, name, "server"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 6 {
		mkdir(fmt.Sprintf("20261121-20140%d", i))
	}
	mkdir("mine")
	l, err := takeLock(filepath.Join(demos, "20261121-201401"), "server")
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	forgetDemos(demos)
	entries, err := os.ReadDir(demos)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, d := range entries {
		left = append(left, d.Name())
	}
	if want := []string{"20261121-201401", "20261121-201403", "20261121-201404", "20261121-201405", "mine"}; !slices.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
}

// TestPlaces holds where a server is looked for, in which order (cli.md 4.4).
func TestPlaces(t *testing.T) {
	home := t.TempDir()
	state := filepath.Join(home, ".local", "state", "countersign")
	demo := filepath.Join(state, "demo", "20261121-201402")
	if err := os.MkdirAll(filepath.Join(demo, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(demo, "run", "node.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	t.Setenv("XDG_STATE_HOME", "")
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	for _, test := range []struct {
		name         string
		dir, server  string
		envDir, envS string
		want         []string
	}{
		{"nothing named", "", "", "", "", []string{"/run/user/7/countersign", state + "/run", demo + "/run", "/run/countersign"}},
		{"--dir", "/a", "", "/b", "", []string{"/a/run"}},
		{"COUNTERSIGN_DIR", "", "", "/b", "", []string{"/b/run"}},
		{"--server", "/a", "unix:///s/admin.sock", "", "unix:///t/admin.sock", []string{"/s"}},
		{"COUNTERSIGN_SERVER", "/a", "", "", "unix:///t/admin.sock", []string{"/t"}},
	} {
		t.Setenv("COUNTERSIGN_DIR", test.envDir)
		t.Setenv("COUNTERSIGN_SERVER", test.envS)
		e := &env{dir: test.dir, server: test.server, told: map[string]bool{}}
		list, err := e.places()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range list {
			got = append(got, p.run)
		}
		want := test.want
		if len(want) > 1 && os.Getuid() == 0 { // root looks there first
			want = append([]string{systemRun}, want[:len(want)-1]...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", test.name, got, want)
		}
	}
}

// TestNotText holds that bytes which are no UTF-8 are a fault and never replaced on their way.
func TestNotText(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(file, []byte("kind: \xff\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := answers(t, map[string]func() any{"/v1/apply": func() any { t.Error("it was sent"); return written }})
	status, _, errs := call(t, "apply", "-f", file, "--server", addr)
	if status != 1 || !strings.HasPrefix(errs, file+":1:") || !strings.HasSuffix(errs, "nothing was changed\n") {
		t.Errorf("status %d\n%s", status, errs)
	}
}

// TestRevokeLaggards holds that a node that has not heard of a revocation is named, every one.
func TestRevokeLaggards(t *testing.T) {
	addr := answers(t, map[string]func() any{"/v1/token/revoke": func() any {
		return admin.TokenRevoked{Kind: "jti", Val: "abcdefgh", Enforced: late().(admin.Enforcement)}
	}})
	status, out, errs := call(t, "token", "revoke", "--jti", "abcdefgh", "--server", addr)
	if want := "note: 2 nodes of 43 have not heard of it yet\n  node b7  last seen 40s ago\n  node c2  never seen\n"; status != 0 || errs != want || out != "revoked  abcd…, and what was exchanged from it\n" {
		t.Errorf("status %d, stdout %q\n%s", status, out, errs)
	}
}

// TestRotateWaits holds that token rotate says what it waits for, longer than one question may
// take, and that giving up does not stop the rotation.
func TestRotateWaits(t *testing.T) {
	began := time.Now()
	addr := answers(t, map[string]func() any{"/v1/token/rotate": func() any {
		time.Sleep(1100 * time.Millisecond) // as a server whose nodes are late
		return admin.TokenRotated{Keys: []admin.TokenKey{{KeyID: "k1", State: "retire", Created: began}, {KeyID: "k2", State: "activate", Created: began}}}
	}})
	status, out, errs := call(t, "token", "rotate", "--now", "--server", addr)
	if status != 0 || !strings.Contains(out, "k1   retired  ") || !strings.Contains(out, "k2   signs    ") || !strings.HasPrefix(errs, "waiting until every node knows the new key  1 s\n") {
		t.Errorf("status %d, stdout %q\n%s", status, out, errs)
	}
	status, out, errs = call(t, "token", "rotate", "--now", "--server", addr, "--timeout", "50ms")
	if want := "error: rotating the key: no answer within 50 ms; the rotation goes on\nhint: countersign status\n"; status != 1 || out != "" || errs != want {
		t.Errorf("status %d, stdout %q\n%s", status, out, errs)
	}
}

// A secret that ends soon says when, and one that ended says so.
func TestEnding(t *testing.T) {
	now := time.Date(2026, 11, 21, 20, 14, 7, 0, time.UTC)
	for in, want := range map[time.Duration]string{
		365 * 24 * time.Hour: "ends 2027-11-21", 48 * time.Hour: "ends 2026-11-23", 24 * time.Hour: "ends 2026-11-22T20:14:07Z",
		-time.Hour: "ended 2026-11-21T19:14:07Z", -90 * 24 * time.Hour: "ended 2026-08-23",
	} {
		if got := ending(now.Add(in), now); got != want {
			t.Errorf("in %s: %q, want %q", in, got, want)
		}
	}
}
