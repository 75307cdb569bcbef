package node

import (
	"os"
	"os/exec"
	"testing"

	"countersign.dev/internal/attest"
	"countersign.dev/internal/files"
)

// A run is known as long as its process lives, also to a node that was started anew; a number
// that another process has now is not it.
func TestSecRunIsNotAdminAfterRestart(t *testing.T) {
	dir, err := files.PrivateDir(t.TempDir()+"/node", 0o700)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	run := exec.Command("sh", "-c", "sleep 1000 & wait")
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { run.Process.Kill(); run.Wait() }()
	open := func(pid int) *attest.Process {
		p, err := attest.OpenPID(pid)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	first, err := OpenLineage(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.add(open(run.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if err := first.add(open(run.Process.Pid)); err != nil || len(first.kept) != 1 {
		t.Errorf("attached again: %d kept, %v", len(first.kept), err)
	}
	first.Close()

	again, err := OpenLineage(dir)
	if err != nil || len(again.kept) != 1 || again.kept[0].PID() != run.Process.Pid {
		t.Fatalf("recalled %d, %v", len(again.kept), err)
	}
	if in, err := again.InRun(open(os.Getpid())); in || err != nil {
		t.Errorf("who typed it: %t, %v", in, err)
	}
	run.Process.Kill()
	run.Wait()
	again.InRun(open(os.Getpid()))
	if len(again.kept) != 0 {
		t.Error("a run that has ended is kept")
	}

	if err := files.WriteFile(dir, lineageFile, []byte(`[{"pid":1,"start":999999999}]`)); err != nil {
		t.Fatal(err)
	}
	if reused, err := OpenLineage(dir); err != nil || len(reused.kept) != 0 {
		t.Errorf("another process with the number: %d kept, %v", len(reused.kept), err)
	}
	if err := files.WriteFile(dir, lineageFile, []byte("no list")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLineage(dir); err == nil {
		t.Error("a file that cannot be read opened the admin socket to everybody")
	}
}
