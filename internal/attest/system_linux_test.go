//go:build system

package attest

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// These tests need root: other users, other namespaces.

const nobody = 65534

func as(uid uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
}

// identity.md 11.5 rule 1: whoever is in a user or network namespace that is not ours is of a
// run, whatever its chain of parents.
func TestSystemInRunForeignNamespace(t *testing.T) {
	for name, flags := range map[string]uintptr{"user": syscall.CLONE_NEWUSER, "network": syscall.CLONE_NEWNET} {
		attr := &syscall.SysProcAttr{Cloneflags: flags}
		if flags == syscall.CLONE_NEWUSER {
			attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
			attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
		}
		p, err := OpenPID(startChildAs(t, attr).pid())
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if got, err := InRun(p, nil); err != nil || !got {
			t.Errorf("%s namespace: InRun = %v, %v, want true", name, got, err)
		}
	}
}

// The ids of a process in a user namespace are those it has here.
func TestSystemFactsOfOtherUser(t *testing.T) {
	c := startChildAs(t, as(nobody))
	p, err := OpenPID(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, s := range []string{"unix:uid:65534", "unix:gid:65534", "unix:user:nobody"} {
		if !slices.Contains(p.Facts().Selectors, s) {
			t.Errorf("no %q in %q", s, p.Facts().Selectors)
		}
	}
}

// identity.md 24.7 A2: credentials that change after connect are believed no more, also when
// they are read anew.
func TestSystemCredentialsChange(t *testing.T) {
	c := startChild(t)
	p, err := FromConn(connected(t, c))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c.do("setuid %d", nobody)
	wantErr(t, "recheck", p.Recheck(), ErrChanged)
	wantErr(t, "attest", p.Attest(), ErrChanged)
}

func TestSystemTraced(t *testing.T) {
	c := startChild(t)
	p, err := FromConn(connected(t, c))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.PtraceAttach(c.pid()); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(c.pid(), nil, unix.WALL, nil); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "recheck", p.Recheck(), ErrChanged)
	if err := syscall.PtraceDetach(c.pid()); err != nil {
		t.Fatal(err)
	}
	if err := p.Recheck(); err != nil {
		t.Errorf("after the tracer left: %v", err)
	}
}

// sec-secret-other-uid and the program's port with real users: a process of another uid has
// neither the uid nor a place below the run.
func TestSystemRunOfOtherUser(t *testing.T) {
	l := tcpListener(t, "127.0.0.1:0")
	run := startChildAs(t, as(nobody))
	run.do("start")
	r := Run{UID: nobody, PID: run.pid()}
	run.do("dial tcp %s", l.Addr())
	c := acceptTCP(t, l)
	for _, err := range []error{r.Caller(c), r.CallerWithSecret(c), Run{UID: nobody, PID: 1 << 30}.CallerWithSecret(c)} {
		if err != nil {
			t.Errorf("the run's own: %v", err)
		}
	}
	wantErr(t, "held by another run", Run{UID: nobody, PID: 1 << 30}.Caller(c), ErrNotRun)
	dialTCP(t, l.Addr().String())
	c = acceptTCP(t, l)
	wantErr(t, "root, without secret", r.Caller(c), ErrNotRun)
	wantErr(t, "root, with secret", r.CallerWithSecret(c), ErrNotRun)
	wantErr(t, "root's port", r.Port(dialTCP(t, l.Addr().String())), ErrNotRun)
	if err := r.Port(dialTCP(t, run.do("listen 127.0.0.1:0"))); err != nil {
		t.Errorf("the run's own port: %v", err)
	}
}

// identity.md 24.7 A4: a bind mount in a mount namespace of its own makes /proc/<pid>/exe say
// what it likes; no unix:path comes of it.
func TestSystemBindMountedPath(t *testing.T) {
	genuine := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(genuine, []byte("not run"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := startChildAs(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS})
	c.do("cover %s", genuine)
	child := c.number("start " + genuine)
	p, err := OpenPID(child)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	f := p.Facts()
	if f.Exe != genuine {
		t.Fatalf("the mount did not work: exe is %q", f.Exe)
	}
	if slices.Contains(f.Selectors, "unix:path:"+genuine) {
		t.Errorf("the mount was believed: %q", f.Selectors)
	}
}
