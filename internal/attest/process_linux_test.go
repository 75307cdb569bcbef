package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A connection of this very process: every fact is known beforehand.
func TestFactsOfSelf(t *testing.T) {
	l, path := unixListener(t)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p, err := FromConn(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	f := p.Facts()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if p.PID() != os.Getpid() || f.PID != os.Getpid() || int(p.UID()) != os.Geteuid() || int(p.GID()) != os.Getegid() {
		t.Errorf("pid %d uid %d gid %d, facts %+v", p.PID(), p.UID(), p.GID(), f)
	}
	if f.UserNS == 0 || f.NetNS == 0 || f.StartTime == 0 || f.Cgroup == "" || f.ExeIno == 0 {
		t.Errorf("a fact is missing: %+v", f)
	}
	want := []string{fmt.Sprintf("unix:uid:%d", os.Geteuid()), fmt.Sprintf("unix:gid:%d", os.Getegid())}
	if f.Container == "" { // a test run in a container has no path of the host
		want = append(want, "unix:path:"+exe)
	}
	if f.UID == 0 {
		want = append(want, "unix:user:root", "unix:group:root")
	}
	for _, s := range want {
		if !slices.Contains(f.Selectors, s) {
			t.Errorf("no selector %q in %q (missing: %q)", s, f.Selectors, f.Missing)
		}
	}
	if !slices.IsSorted(f.Selectors) {
		t.Errorf("selectors are not sorted: %q", f.Selectors)
	}
	if err := p.Recheck(); err != nil {
		t.Errorf("recheck of an unchanged process: %v", err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	for range 2 {
		if got, err := p.SHA256(); err != nil || got != hex.EncodeToString(sum[:]) {
			t.Errorf("hash %q, %v, want %x", got, err, sum)
		}
	}
}

// identity.md 24.7 A1: connected, gone before anybody asked. Never the facts of a later process.
func TestGoneBeforeAccept(t *testing.T) {
	c := startChild(t)
	l, path := unixListener(t)
	c.do("dial unix %s", path)
	c.end()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p, err := FromConn(conn)
	if p != nil {
		t.Errorf("a process that is gone was attested: %+v", p.Facts())
	}
	wantErr(t, "FromConn", err, ErrGone)
}

// sec-stream-recheck: the connection outlives an exec; the facts do not.
func TestRecheckAfterExec(t *testing.T) {
	c := startChild(t)
	p, err := FromConn(connected(t, c))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Recheck(); err != nil {
		t.Fatalf("before exec: %v", err)
	}
	before := p.Facts()
	sleep, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	c.send("exec %s", sleep)
	for err = p.Recheck(); err == nil; err = p.Recheck() { // until the exec has happened
	}
	wantErr(t, "after exec", err, ErrChanged)
	if err := p.Attest(); err != nil {
		t.Fatalf("attesting the new program: %v", err)
	}
	real, err := filepath.EvalSymlinks(sleep)
	if err != nil {
		t.Fatal(err)
	}
	if after := p.Facts(); after.ExeIno == before.ExeIno || after.Exe != real {
		t.Errorf("facts after exec: %q, want %q", after.Exe, real)
	}
	if err := p.Recheck(); err != nil {
		t.Errorf("after attesting anew: %v", err)
	}
}

func TestDone(t *testing.T) {
	c := startChild(t)
	p, err := FromConn(connected(t, c))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	select {
	case <-p.Done():
		t.Fatal("done while the process lives")
	default:
	}
	if !p.Alive() {
		t.Error("not alive while the process lives")
	}
	// Killed and not waited for: a zombie is no living process.
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the end of the process was not noticed")
	}
	if p.Alive() {
		t.Error("alive after its end")
	}
	wantErr(t, "recheck", p.Recheck(), ErrGone)
	wantErr(t, "attest", p.Attest(), ErrGone)
}

// Close ends the goroutine of Done although the process lives on, and may come at any time.
func TestClose(t *testing.T) {
	p, err := OpenPID(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	done := p.Done()
	for range 2 {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	<-done
	<-p.Done()
	if err := p.Recheck(); err == nil {
		t.Error("recheck of a closed process succeeded")
	}
	if _, err := p.SHA256(); err == nil {
		t.Error("hash of a closed process")
	}
}

func TestOpenPIDOfNobody(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVar+"=1")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	_, err := OpenPID(cmd.Process.Pid)
	wantErr(t, "OpenPID", err, ErrGone)
}

// identity.md 24.7 A6: a program whose file was replaced loses its path, and says why.
func TestExeReplaced(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "program")
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, b, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied)
	cmd.Env = append(os.Environ(), helperVar+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	p, err := OpenPID(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if f := p.Facts(); f.ExeReplaced || f.Exe != copied {
		t.Errorf("before: %+v", f)
	}
	if err := os.Remove(copied); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := p.Recheck(); err != nil { // a running connection keeps its facts
		t.Errorf("recheck: %v", err)
	}
	if err := p.Attest(); err != nil {
		t.Fatal(err)
	}
	f := p.Facts()
	if !f.ExeReplaced || slices.ContainsFunc(f.Selectors, func(s string) bool { return len(s) > 10 && s[:10] == "unix:path:" }) {
		t.Errorf("after: %+v", f)
	}
	if _, err := p.SHA256(); err != nil { // of the running inode
		t.Errorf("hash of the replaced executable: %v", err)
	}
}

func TestBelow(t *testing.T) {
	run := startChild(t)
	run.do("reap")
	child := run.number("start")
	for _, c := range []struct {
		pid, ancestor int
		want          bool
	}{
		{child, run.pid(), true},
		{child, os.Getpid(), true},
		{run.pid(), run.pid(), false}, // run itself is not of its run
		{os.Getpid(), run.pid(), false},
		{run.pid(), child, false},
	} {
		if got, err := Below(c.pid, c.ancestor); err != nil || got != c.want {
			t.Errorf("Below(%d, %d) = %v, %v, want %v", c.pid, c.ancestor, got, err, c.want)
		}
	}
	if _, err := Below(1<<30, 1); err == nil {
		t.Error("a process that is not there has parents")
	}
}

// identity.md 11.5 rule 3: child, grandchild and daemon are of the run; run and we are not.
func TestInRun(t *testing.T) {
	run := startChild(t)
	run.do("reap")
	runs := []int{1 << 30, run.pid()}
	ask := func(name string, pid int, want bool) {
		t.Helper()
		p, err := OpenPID(pid)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if got, err := InRun(p, runs); err != nil || got != want {
			t.Errorf("%s: InRun = %v, %v, want %v", name, got, err, want)
		}
		if got, err := InRun(p, nil); err != nil || got {
			t.Errorf("%s: InRun of no run = %v, %v", name, got, err)
		}
	}
	ask("run", run.pid(), false)
	ask("shell", os.Getpid(), false)
	ask("child", run.number("start"), true)
	ask("grandchild", run.number("start"), true)
	ask("daemon", run.number("orphan"), true) // its parents ended: it is run's now
}
