//go:build system && linux

package systemtest

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestSystemSecRunIsNotAdmin: whatever a program of a run does, and in whatever moment, the
// administrative sockets refuse it (security.md S2, identity.md 11.5).
func TestSystemSecRunIsNotAdmin(t *testing.T) {
	ways := map[string][]string{ // what stands between run and the program that asks
		"child":      {"--", prog, "puppet"},
		"grandchild": {"--", "sh", "-c", prog + " puppet; true"},
		"session":    {"--", "sh", "-c", "exec setsid -w " + prog + " puppet"},
		"daemon":     {"--", "sh", "-c", "(setsid " + prog + " puppet <&3 &) 3<&0; exec sleep 600"},
	}
	for _, u := range []user{owner, root} {
		h := openHouse(t, u)
		for way, words := range ways {
			t.Run(fmt.Sprintf("uid %d/%s", u, way), func(t *testing.T) {
				h.in(t)
				p, _ := h.puppetIn(way, words...)
				for _, name := range []string{"admin", "node"} {
					if got := p.pull("ask %s", h.socket(name)); got != "403" {
						t.Errorf("%s.sock answers a %s of a run with %q, want 403", name, way, got)
					}
				}
			})
		}
		t.Run(fmt.Sprintf("uid %d/shell", u), func(t *testing.T) {
			for _, asks := range []user{u, root} {
				p := puppetOf(t, asks)
				for _, name := range []string{"admin", "node"} {
					if got := p.pull("ask %s", h.socket(name)); got != "200" {
						t.Errorf("%s.sock answers uid %d outside of every run with %q, want 200", name, asks, got)
					}
				}
			}
		})
	}
}

// TestSystemSecRunIsNotAdminCommands: run within run, and every command of the command line.
func TestSystemSecRunIsNotAdminCommands(t *testing.T) {
	h := openHouse(t, owner)
	for _, args := range [][]string{
		{"run", "inner", "--", "true"}, {"allow", "a", "b", "GET /"}, {"status"}, {"get", "ap", "-A"}, {"why"}, {"down"},
		{"delete", "ap", "allow-nothing", "-n", "istio-system", "--yes"}, {"ca", "status"}, {"tap", "--json"},
	} {
		r := finish(t, h.command(owner, append([]string{"run", "outer", "--", countersign}, args...)...))
		if r.code == 0 || !strings.Contains(r.err, "inside a workload") {
			t.Errorf("%q within a run: %v", args, r)
		}
	}
	if out := h.cli("get", "ap", "-A", "-o", "name").out; !strings.Contains(out, "allow-nothing") {
		t.Errorf("after the refusals the policies are %q", out)
	}
}

// TestSystemSecRunIsNotAdminDeleted: a program whose Workload was deleted has no identity any
// more, but it is still of a run.
func TestSystemSecRunIsNotAdminDeleted(t *testing.T) {
	h := openHouse(t, owner)
	p, _ := h.puppetIn("gone", "--", prog, "puppet")
	h.stays(p, func() { h.cli("delete", "workload", "gone", "--wait=10s") })
}

// TestSystemSecRunIsNotAdminRelabelled: a run whose Workload changes opens a new session; its
// program is of a run between the two as well.
func TestSystemSecRunIsNotAdminRelabelled(t *testing.T) {
	h := openHouse(t, owner)
	p, _ := h.puppetIn("moved", "--", prog, "puppet")
	h.stays(p, func() {
		h.apply(`{apiVersion: countersign.dev/v1, kind: Workload, metadata: {name: moved, labels: {tier: other}},
  spec: {selectors: ["run:default/moved", "unix:uid:1000"], nodes: any}}`)
		h.back("moved")
	})
}

// TestSystemSecRunIsNotAdminRestarted: an up that was just started knows the runs of the one
// before it, also until these have come back to it.
func TestSystemSecRunIsNotAdminRestarted(t *testing.T) {
	h := openHouse(t, owner)
	p, r := h.puppetIn("kept", "--", prog, "puppet")
	h.stays(p, func() {
		h.kill()
		r.cmd.Process.Signal(syscall.SIGSTOP) // it is late
		h.start()
	})
	r.cmd.Process.Signal(syscall.SIGCONT)
	h.back("kept")
	h.stays(p, func() {})
}

// stays proves that a program of a run is refused before, during and after what happens.
func (h *house) stays(p *puppet, happens func()) {
	h.t.Helper()
	p.must("asking %s %s", h.socket("admin"), h.socket("node"))
	happens()
	got := p.pull("enough")
	if strings.Contains(got, "200:") || !strings.Contains(got, "403:") {
		h.t.Errorf("the sockets answered a program of a run: %s, want 403 alone", got)
	}
}

// back waits until the run of a name has opened its second session.
func (h *house) back(name string) {
	h.t.Helper()
	eventually(h.t, name+" is back", func() (bool, string) {
		log := h.logged()
		return strings.Count(log, "msg=\"program started\" workload=default/"+name) == 2, log
	})
}

// in makes a subtest the one that fails.
func (h *house) in(t *testing.T) {
	before := h.t
	h.t = t
	t.Cleanup(func() { h.t = before })
}

// TestSystemSecDescendants: what a program leaves behind ends with its run; after a SIGKILL of
// run it may live, as nobody: no SVID, no call.
func TestSystemSecDescendants(t *testing.T) {
	h := openHouse(t, owner)
	h.serve("api")
	h.cli("allow", "web", "api", "GET /**")
	script := fmt.Sprintf(`(setsid sh -c 'echo $$ >%[1]s/pid; while [ ! -e %[1]s/go ]; do sleep 0.02; done
		%[2]s fetch >%[1]s/svid; curl -sS -m 5 -o /dev/null -w "%%{http_code}" http://api/ >%[1]s/call 2>&1; echo done >%[1]s/done; exec sleep 600' &); `, "$D", prog)
	start := func(t *testing.T, main string) (*running, string, int) {
		dir := newDir(t, owner)
		cmd := h.command(owner, "run", "web", "--stop", "1s", "--", "sh", "-c", script+main)
		cmd.Env = append(cmd.Env, "D="+dir)
		r := h.startRun(cmd, "web")
		pid := 0
		eventually(t, "a daemon", func() (bool, string) {
			b, err := os.ReadFile(dir + "/pid")
			fmt.Sscan(string(b), &pid)
			return err == nil && pid != 0, r.said()
		})
		t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
		return r, dir, pid
	}
	saw := func(t *testing.T, dir string) (svid fetched, call string) {
		writeFile(t, owner, dir+"/go", "")
		eventually(t, "what the daemon got", func() (bool, string) {
			_, err := os.Stat(dir + "/done")
			return err == nil, fmt.Sprint(err)
		})
		b, _ := os.ReadFile(dir + "/svid")
		json.Unmarshal(b, &svid)
		b, _ = os.ReadFile(dir + "/call")
		return svid, string(b)
	}
	t.Run("of a living run", func(t *testing.T) {
		h.in(t)
		r, dir, pid := start(t, "exec sleep 600")
		if svid, call := saw(t, dir); svid.X509 != "OK" || call != "200" {
			t.Errorf("a daemon below a living run: SVID %q, call %q; want OK, 200", svid.X509, call)
		}
		r.cmd.Process.Signal(syscall.SIGTERM)
		<-r.ended
		if syscall.Kill(pid, 0) == nil {
			t.Error("run has ended, its daemon lives")
		}
	})
	t.Run("of a run that ended", func(t *testing.T) {
		h.in(t)
		r, _, pid := start(t, "while [ ! -s $D/pid ]; do sleep 0.02; done; exit 7")
		<-r.ended
		if code := r.cmd.ProcessState.ExitCode(); code != 7 {
			t.Errorf("run ended with %d, want its program's 7", code)
		}
		if syscall.Kill(pid, 0) == nil {
			t.Error("run has ended, its daemon lives")
		}
	})
	t.Run("of a run that was killed", func(t *testing.T) {
		h.in(t)
		r, dir, _ := start(t, "exec sleep 600")
		main := r.program()
		r.cmd.Process.Kill()
		<-r.ended
		eventually(t, "the program itself dies with run", func() (bool, string) {
			state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", main))
			return len(state) == 0 || strings.Contains(string(state), ") Z "), string(state)
		})
		svid, call := saw(t, dir)
		if svid.X509 != "PermissionDenied" || len(svid.Keys) != 0 {
			t.Errorf("a daemon of a killed run gets %q and %d keys, want PermissionDenied", svid.X509, len(svid.Keys))
		}
		if !strings.Contains(call, "000") && !strings.Contains(call, "407") {
			t.Errorf("a daemon of a killed run calls: %q, want no connection, or 407", call)
		}
	})
}

// TestSystemSecStreamRecheck: a stream gives no further key to a process that is not any more
// what it was when it asked (security.md S1, identity.md 6.3).
func TestSystemSecStreamRecheck(t *testing.T) {
	h := openHouse(t, root)
	news := 0
	tell := func() { // everything of root earns another identity: a new message for every stream
		news++
		h.apply(fmt.Sprintf("{apiVersion: countersign.dev/v1, kind: Workload, metadata: {name: news-%d}, spec: {selectors: [\"unix:uid:0\"], nodes: any}}", news))
	}
	for _, c := range []struct{ change, want string }{{"", "svid"}, {"exec " + prog2, "end"}, {fmt.Sprintf("setuid %d", stranger), "end 7"}} {
		t.Run(strings.Fields(c.change + " same")[0], func(t *testing.T) {
			h.in(t)
			cmd := h.command(root, "run", "web", "--", prog, "stream", h.socket("workload"))
			p := hang(t, cmd)
			h.startRun(cmd, "web")
			if got := p.next(); got != "svid" {
				t.Fatalf("the first message is %q", got)
			}
			if c.change != "" {
				if got := p.pull("%s", c.change); got != "carrying" && !strings.HasPrefix(got, "uid ") {
					t.Fatalf("%s: %q", c.change, got)
				}
			}
			tell()
			if got := p.next(); !strings.HasPrefix(got, c.want) {
				t.Errorf("after %q the next message is %q, want %q", c.change, got, c.want)
			}
		})
	}
}

// TestSystemSecNameSquat: a stranger cannot run a name, and no user the name of another.
func TestSystemSecNameSquat(t *testing.T) {
	h := openHouse(t, owner)
	h.cli("run", "api", "--", "true")
	for _, name := range []string{"api", "free"} {
		if r := finish(t, h.command(stranger, "run", name, "--", "true")); r.code != 125 || !strings.Contains(r.err, "only ") {
			t.Errorf("a stranger runs %s: %v", name, r)
		}
	}
	if r := finish(t, h.command(root, "run", "api", "--", "true")); r.code != 125 || !strings.Contains(r.err, "belongs to another user") {
		t.Errorf("root runs the owner's api: %v", r)
	}
	before := h.cli("get", "workloads", "-A", "-o", "name").out
	if !strings.Contains(before, "api") || strings.Contains(before, "free") {
		t.Errorf("after the refusals there are %q", before)
	}
	for _, args := range [][]string{{"status"}, {"get", "ap"}, {"allow", "a", "b", "GET /"}, {"apply", "-f", "/etc/passwd"}, {"down"}, {"why"}, {"tap"}, {"ca", "status"}} {
		if r := finish(t, h.command(stranger, args...)); r.code == 0 || !strings.Contains(r.err, "only ") {
			t.Errorf("a stranger asks %q: %v", args, r)
		}
	}
}
