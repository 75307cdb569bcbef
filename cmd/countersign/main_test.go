package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts of testdata are the promises of the command line (cli.md 14): each command in
// them is a real process, this test binary under the name of countersign.

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") && strings.HasSuffix(filepath.Base(os.Args[0]), ".test") {
		// A process of ours started the test binary as if it were countersign: it must not run
		// the tests, which would start it again.
		fmt.Fprintln(os.Stderr, "this is the test binary, not countersign")
		os.Exit(2)
	}
	if len(os.TempDir()) > 20 { // the sockets of a script lie below it, 107 bytes are most
		os.Setenv("TMPDIR", "/tmp")
	}
	testscript.Main(m, map[string]func(){
		"countersign": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"httpserver":  httpServer,
		"get":         getURL,
		"raw":         rawRequest,
		"end":         endSo,
		"loses":       loseIdentity,
		"issuer":      foreignIssuer,
		"svidfiles":   svidFiles,
		"handover":    handOver,
		"pair":        certificatePair,
	})
}

func TestScripts(t *testing.T) {
	holdDefaults(t)
	testscript.Run(t, params("testdata"))
}

// holdDefaults takes the ports that up takes by default, until the test and what runs beside it
// end: a directory keeps its ports, and no other script may have them while it is down.
func holdDefaults(t *testing.T) {
	for _, addr := range []string{defaultTokens, defaultTokensMTLS, defaultHealth} {
		if ln, err := net.Listen("tcp", addr); err == nil { // else somebody else holds it
			t.Cleanup(func() { ln.Close() })
		}
	}
}

// params are the environment and the added commands of cli.md 14.
func params(dir string) testscript.Params {
	return testscript.Params{
		Dir: dir, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: setUp,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"up": cmdUp, "down": cmdDown, "crash": cmdCrash,
			"code": cmdCode, "eventually": cmdEventually,
			"want": cmdWant, "wanterr": cmdWantErr,
			"tapping": cmdTapping, "until": cmdUntil, "untap": cmdUntap,
			"big": cmdBig, "keep": cmdKeep, "same": cmdSame, "expand": cmdExpand, "example": cmdExample,
		},
	}
}

func setUp(env *testscript.Env) error {
	if n := len(env.WorkDir); n > 80 {
		return fmt.Errorf("%s has %d bytes: the sockets below it would have more than 107", env.WorkDir, n)
	}
	var vars []string
	for _, kv := range env.Vars {
		k, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(k, "XDG_") && !strings.HasPrefix(k, "COUNTERSIGN_") && !strings.HasSuffix(strings.ToLower(k), "_proxy") {
			vars = append(vars, kv)
		}
	}
	vars = append(vars,
		"HOME="+env.WorkDir+"/home", "COUNTERSIGN_DIR="+env.WorkDir+"/d",
		"LC_ALL=C.UTF-8", "COLUMNS=80", "NO_COLOR=1",
		"GORACE=atexit_sleep_ms=0", // under -race each process would sleep a second at its end
	)
	for i, port := range freePorts(5) {
		vars = append(vars, fmt.Sprintf("PORT%d=%d", i+1, port))
	}
	env.Vars = vars
	env.Values[upKey{}] = &upProcess{}
	env.Values[tapKey{}] = map[string]*exec.Cmd{}
	return os.MkdirAll(env.WorkDir+"/home", 0o700)
}

var nextPort atomic.Int64

// freePorts are ports below those that the kernel gives to callers, so that none of them is
// taken between now and the script's use of it.
func freePorts(n int) []int {
	nextPort.CompareAndSwap(0, int64(15000+os.Getpid()%1000*16))
	var out []int
	for len(out) < n {
		p := int(nextPort.Add(1))
		if ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p)); err == nil {
			ln.Close()
			out = append(out, p)
		}
	}
	return out
}

type upKey struct{}

// upProcess is the `up` of a script.
type upProcess struct {
	cmd    *exec.Cmd
	stderr string // file
	ended  chan error
}

// cmdUp starts countersign up --json in the background and returns when it is ready.
func cmdUp(ts *testscript.TestScript, neg bool, args []string) {
	u := ts.Value(upKey{}).(*upProcess)
	if neg || u.cmd != nil {
		ts.Fatalf("up runs already, or ! was given: use code 1 countersign up")
	}
	words := []string{"up", "--json"}
	if !strings.Contains(strings.Join(args, " "), "--inbound") {
		words = append(words, "--inbound", "127.0.0.1:"+ts.Getenv("PORT1"))
	}
	exe, err := exec.LookPath("countersign")
	ts.Check(err)
	cmd := exec.Command(exe, append(words, args...)...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), scriptEnv(ts)
	u.stderr = filepath.Join(ts.Getenv("WORK"), "up.stderr")
	errs, err := os.OpenFile(u.stderr, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	ts.Check(err)
	defer errs.Close()
	cmd.Stderr = errs
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	var ready struct {
		Ready bool `json:"ready"`
	}
	if err == nil {
		err = json.Unmarshal([]byte(line), &ready)
	}
	u.cmd, u.ended = cmd, make(chan error, 1)
	go func() { u.ended <- cmd.Wait() }()
	ts.Defer(func() { u.stop(syscall.SIGTERM) })
	if err != nil || !ready.Ready {
		<-u.ended
		u.cmd = nil
		ts.Fatalf("up is not ready: %v\n%s", err, ts.ReadFile(u.stderr))
	}
	fmt.Fprint(ts.Stdout(), line)
}

// scriptEnv is the environment of a script's processes.
func scriptEnv(ts *testscript.TestScript) (env []string) {
	for _, k := range []string{"HOME", "COUNTERSIGN_DIR", "LC_ALL", "COLUMNS", "NO_COLOR", "GORACE", "PATH", "TMPDIR", "GOCOVERDIR"} {
		if v := ts.Getenv(k); v != "" {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// stop sends a signal and waits; what does not end is killed, and that is an error.
func (u *upProcess) stop(sig os.Signal) error {
	if u.cmd == nil {
		return nil
	}
	u.cmd.Process.Signal(sig)
	defer func() { u.cmd = nil }()
	select {
	case err := <-u.ended:
		return err
	case <-time.After(20 * time.Second):
		u.cmd.Process.Kill()
		<-u.ended
		return errors.New("it did not end within 20 s and was killed")
	}
}

// cmdDown ends it by countersign down; wanterr then sees what up said.
func cmdDown(ts *testscript.TestScript, neg bool, args []string) {
	u := ts.Value(upKey{}).(*upProcess)
	if u.cmd == nil {
		ts.Fatalf("up does not run")
	}
	ts.Check(ts.Exec("countersign", append([]string{"down"}, args...)...))
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("down printed %q", out)
	}
	select {
	case err := <-u.ended:
		u.cmd = nil
		if err != nil {
			ts.Fatalf("up ended with %v\n%s", err, ts.ReadFile(u.stderr))
		}
	case <-time.After(5 * time.Second):
		ts.Fatalf("down returned, up did not end")
	}
	fmt.Fprint(ts.Stderr(), ts.ReadFile(u.stderr))
}

// cmdCrash is kill -9 of up.
func cmdCrash(ts *testscript.TestScript, neg bool, args []string) {
	ts.Value(upKey{}).(*upProcess).stop(syscall.SIGKILL)
}

// cmdCode runs a command that must end with this status.
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if args[1] == "exec" {
		args = args[1:]
	}
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		got = ended.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// cmdEventually runs a command again until it ends with 0, for what is asynchronous.
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	const most = 10 * time.Second
	var err error
	if args[0] == "exec" {
		args = args[1:]
	}
	for began := time.Now(); time.Since(began) < most; time.Sleep(20 * time.Millisecond) {
		if err = ts.Exec(args[0], args[1:]...); err == nil {
			return
		}
	}
	ts.Fatalf("not within %v: %v", most, err)
}

func cmdWant(ts *testscript.TestScript, neg bool, args []string)    { compare(ts, "stdout", args) }
func cmdWantErr(ts *testscript.TestScript, neg bool, args []string) { compare(ts, "stderr", args) }

// cmdBig writes a file of N MiB: big FILE N.
func cmdBig(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte("# "+strings.Repeat("x", n<<20-2)), 0o600))
}

// cmdKeep puts the part of stdout between two texts into a variable: keep VAR BEFORE AFTER.
func cmdKeep(ts *testscript.TestScript, neg bool, args []string) {
	_, rest, ok := strings.Cut(ts.ReadFile("stdout"), args[1])
	value, _, ok2 := strings.Cut(rest, strings.ReplaceAll(args[2], `\n`, "\n"))
	if !ok || !ok2 {
		ts.Fatalf("no text between %q and %q", args[1], args[2])
	}
	ts.Setenv(args[0], value)
}

// cmdSame compares two words.
func cmdSame(ts *testscript.TestScript, neg bool, args []string) {
	if (args[0] == args[1]) == neg {
		ts.Fatalf("%q and %q", args[0], args[1])
	}
}

// cmdExpand puts the script's variables into a file.
func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: expand FILE")
	}
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}
