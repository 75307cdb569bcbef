//go:build system && linux

package systemtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// user is a user of this machine. Nobody of that number needs to be in the list of accounts.
type user uint32

const (
	root     user = 0
	owner    user = 1000
	stranger user = 2000
)

// command is a program of that user, with nothing of our own environment. It dies with us.
func (u user) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + programPath, "HOME=/nonexistent", "LC_ALL=C.UTF-8", "NO_COLOR=1", "COLUMNS=80"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(u), Gid: uint32(u)},
		Pdeathsig:  syscall.SIGKILL,
	}
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// result is how a command ended.
type result struct {
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("status %d\nstdout: %s\nstderr: %s", r.code, r.out, r.err)
}

// finish runs a command to its end, 30 s at most.
func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %q: %v", cmd.Args, err)
	}
	late := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	defer late.Stop()
	err := cmd.Wait()
	r := result{out: out.String(), err: errs.String(), code: cmd.ProcessState.ExitCode()}
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatalf("running %q: %v\n%v", cmd.Args, err, r)
	}
	return r
}

// finishWell is finish for what must end with status 0.
func finishWell(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	r := finish(t, cmd)
	if r.code != 0 {
		t.Fatalf("%q: %v", cmd.Args, r)
	}
	return r
}

// newDir is a directory of that user, in a place that all users can reach.
func newDir(t *testing.T, u user) string {
	t.Helper()
	dir, err := os.MkdirTemp(base, "")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = os.Chown(dir, int(u), int(u))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func writeFile(t *testing.T, u user, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, int(u), int(u)); err != nil {
		t.Fatal(err)
	}
	return path
}

// house is one data directory and the `up` that serves it.
type house struct {
	t       *testing.T
	as      user
	home    string // of the owner; the data directory is below it
	dir     string // --dir
	log     string // what every up of this house said on stderr
	inbound string
	health  string
	flags   []string // of up
	files   int      // RLIMIT_NOFILE of up; 0: ours

	up    *exec.Cmd
	ended chan struct{}
}

// newHouse has a directory that nothing was started in yet, and ports of its own.
func newHouse(t *testing.T, u user, flags ...string) *house {
	t.Helper()
	home := newDir(t, u)
	h := &house{
		t: t, as: u, home: home, dir: home + "/d", log: home + "/up.log",
		inbound: localPort(t), health: localPort(t), flags: flags,
	}
	// The port of the pages is not chosen by hand: a directory keeps the one it has.
	for _, dir := range []string{h.dir, h.dir + "/node"} {
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, int(u), int(u))); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, u, h.dir+"/node/ports.json", fmt.Sprintf(`{"health":%q}`, h.health))
	writeFile(t, u, h.log, "")
	t.Cleanup(h.kill)
	return h
}

// openHouse is a house whose up is ready.
func openHouse(t *testing.T, u user, flags ...string) *house {
	t.Helper()
	h := newHouse(t, u, flags...)
	h.start()
	return h
}

// command is countersign as anybody, asking this house.
func (h *house) command(u user, args ...string) *exec.Cmd {
	cmd := u.command(countersign, args...)
	cmd.Env = append(cmd.Env, "COUNTERSIGN_DIR="+h.dir)
	return cmd
}

// cli runs countersign as the owner, which must succeed.
func (h *house) cli(args ...string) result {
	h.t.Helper()
	return finishWell(h.t, h.command(h.as, args...))
}

// try starts up and returns when it is ready, or has ended.
func (h *house) try() (ready bool, stdout string) {
	h.t.Helper()
	args := append([]string{"up", "--json", "--inbound", h.inbound}, h.flags...)
	cmd := h.command(h.as, args...)
	if h.files > 0 {
		script := fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, h.files)
		cmd = h.as.command("sh", append([]string{"-c", script, countersign}, args...)...)
		cmd.Env = append(cmd.Env, "COUNTERSIGN_DIR="+h.dir)
	}
	log, err := os.OpenFile(h.log, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		lines <- line
		io.Copy(io.Discard, out)
	}()
	var line string
	select {
	case line = <-lines:
	case <-time.After(20 * time.Second):
	}
	h.up, h.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		cmd.Wait()
		close(ended)
	}(h.ended)
	var said struct{ Ready bool }
	json.Unmarshal([]byte(line), &said)
	if !said.Ready {
		h.kill()
	}
	return said.Ready, line
}

func (h *house) start() {
	h.t.Helper()
	if ready, said := h.try(); !ready {
		h.t.Fatalf("up is not ready: %s\n%s", said, h.logged())
	}
}

// kill is kill -9 of up.
func (h *house) kill() {
	if h.up != nil {
		h.up.Process.Kill()
		<-h.ended
	}
	h.up = nil
}

// end asks up to end and returns its status.
func (h *house) end(sig syscall.Signal) int {
	h.t.Helper()
	h.up.Process.Signal(sig)
	select {
	case <-h.ended:
	case <-time.After(15 * time.Second):
		h.t.Fatalf("up does not end on %v", sig)
	}
	code := h.up.ProcessState.ExitCode()
	h.up = nil
	return code
}

func (h *house) pid() int { return h.up.Process.Pid }

func (h *house) logged() string {
	b, err := os.ReadFile(h.log)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

func (h *house) socket(name string) string { return h.dir + "/run/" + name + ".sock" }

// running is one `countersign run`.
type running struct {
	h         *house
	cmd       *exec.Cmd
	out, errs string // files
	ended     chan struct{}
}

// run starts countersign run with everything behind it; words are flags, --, the program.
func (h *house) run(name string, words ...string) *running { return h.runAs(h.as, name, words...) }

func (h *house) runAs(u user, name string, words ...string) *running {
	h.t.Helper()
	return h.startRun(h.command(u, append([]string{"run", name}, words...)...), name)
}

func (h *house) startRun(cmd *exec.Cmd, name string) *running {
	h.t.Helper()
	dir := newDir(h.t, h.as)
	r := &running{h: h, cmd: cmd, out: dir + "/out", errs: dir + "/err", ended: make(chan struct{})}
	for file, to := range map[string]*io.Writer{r.out: &cmd.Stdout, r.errs: &cmd.Stderr} {
		if *to != nil {
			continue
		}
		f, err := os.Create(file)
		if err != nil {
			h.t.Fatal(err)
		}
		defer f.Close()
		*to = f
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatalf("starting %s: %v", name, err)
	}
	go func() {
		cmd.Wait()
		close(r.ended)
	}()
	h.t.Cleanup(r.stop)
	return r
}

// stop ends a run as a person would, and as a last resort otherwise.
func (r *running) stop() {
	r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.ended:
	case <-time.After(12 * time.Second):
		r.cmd.Process.Kill()
		<-r.ended
	}
}

// program is the pid of what run started: its oldest child, the others are adopted.
func (r *running) program() int {
	r.h.t.Helper()
	pid := 0
	eventually(r.h.t, "a program below run", func() (bool, string) {
		oldest := ^uint64(0)
		for _, child := range childrenOf(r.cmd.Process.Pid) {
			exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", child))
			if began := startTime(child); err == nil && exe != countersign && (began < oldest || began == oldest && child < pid) {
				pid, oldest = child, began
			}
		}
		return pid != 0, r.said()
	})
	return pid
}

// startTime is field 22 of /proc/PID/stat.
func startTime(pid int) (ticks uint64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) > 19 {
		fmt.Sscan(fields[19], &ticks)
	}
	return ticks
}

func (r *running) said() string {
	out, _ := os.ReadFile(r.out)
	errs, _ := os.ReadFile(r.errs)
	return string(out) + string(errs)
}

// proxy reads where the proxy listener of a run is, and its secret, as only root and the owner can.
func (r *running) proxy() (addr, secret string) {
	r.h.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", r.program()))
	if err != nil {
		r.h.t.Fatal(err)
	}
	for kv := range strings.SplitSeq(string(b), "\x00") {
		if url, ok := strings.CutPrefix(kv, "http_proxy=http://"); ok {
			credentials, addr, _ := strings.Cut(url, "@")
			_, secret, _ := strings.Cut(credentials, ":")
			return addr, secret
		}
	}
	r.h.t.Fatalf("no http_proxy in the environment of %d", r.program())
	return "", ""
}

// ready waits until an instance of a workload can be called.
func (h *house) ready(name string) {
	h.t.Helper()
	h.is(name, "ready")
}

// is waits until a workload has that state.
func (h *house) is(name, state string) {
	h.t.Helper()
	eventually(h.t, name+" is "+state, func() (bool, string) {
		r := finish(h.t, h.command(h.as, "status", "--json"))
		var st struct {
			Workloads []struct{ Namespace, Name, State string }
		}
		json.Unmarshal([]byte(r.out), &st)
		for _, w := range st.Workloads {
			if (w.Name == name || w.Namespace+"/"+w.Name == name) && w.State == state {
				return true, ""
			}
		}
		return false, r.String()
	})
}

// serve starts a workload that answers what it was asked, and waits until it is ready.
func (h *house) serve(name string, flags ...string) *running {
	h.t.Helper()
	port := freePort(h.t)
	r := h.run(name, append(append([]string{"--port", port}, flags...), "--", prog, "serve", "127.0.0.1:"+port)...)
	h.ready(name)
	return r
}

// curl calls from within a run of that name, as any program does.
func (h *house) curl(name string, words ...string) result {
	h.t.Helper()
	args := []string{"run", name, "--", "curl", "-sS", "-m", "10", "-w", "\n%{http_code}"}
	return finish(h.t, h.command(h.as, append(args, words...)...))
}

// status is the last line that curl was told to print.
func (r result) status() string { return r.out[strings.LastIndexByte(r.out, '\n')+1:] }

// apply applies a document and waits until it is enforced.
func (h *house) apply(text string) {
	h.t.Helper()
	cmd := h.command(h.as, "apply", "-f", "-", "--wait=10s")
	cmd.Stdin = strings.NewReader(text)
	finishWell(h.t, cmd)
}

// tree lists every file below the data directory, as root.
func (h *house) tree() (paths []string) {
	h.t.Helper()
	err := filepath.WalkDir(h.dir, func(path string, _ os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // the store tidies up meanwhile
		}
		paths = append(paths, path)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return paths
}
