//go:build system && linux

package systemtest

import (
	"fmt"
	"io"
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

	"golang.org/x/sys/unix"
)

// What every test uses: one binary, and this test binary under the name of prog, for the
// programs and the attacks that no ordinary tool does. Both lie where every user may read.
var (
	base        string // of everything a test leaves for a moment
	countersign string
	prog        string
	prog2       string // the same program in another file
)

// programPath is where users who are not root find curl, python3 and openssl.
const programPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "prog" {
		os.Exit(program(os.Args[1:]))
	}
	os.Exit(suite(m))
}

// suite prepares, tests, and looks that nothing is left.
func suite(m *testing.M) int {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "system tests:", err)
		os.RemoveAll(base)
		return 1
	}
	code := m.Run()
	if left := leftProcesses(); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "system tests: processes are left:", left)
		code = max(code, 1)
	}
	if err := os.RemoveAll(base); err != nil {
		fmt.Fprintln(os.Stderr, "system tests:", err)
		code = max(code, 1)
	}
	return code
}

func prepare() error {
	if os.Getuid() != 0 {
		return fmt.Errorf("they need root, to be two other users; this is uid %d", os.Getuid())
	}
	goCommand, err := exec.LookPath("go")
	if err != nil {
		return err
	}
	os.Setenv("PATH", programPath)
	for _, name := range []string{"curl", "python3", "openssl", "setsid", "sh", "sleep"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("they need %s: %w", name, err)
		}
	}
	if base, err = os.MkdirTemp("/tmp", "cs-system-"); err != nil {
		return err
	}
	if err := os.Chmod(base, 0o755); err != nil {
		return err
	}
	countersign, prog, prog2 = base+"/countersign", base+"/prog", base+"/other/prog"
	build := exec.Command(goCommand, "build", "-o", countersign, "countersign.dev/cmd/countersign")
	build.Env = append(os.Environ(), "PATH="+filepath.Dir(goCommand)+":"+programPath)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building: %w\n%s", err, out)
	}
	if err := os.Mkdir(filepath.Dir(prog2), 0o755); err != nil {
		return err
	}
	for _, to := range []string{prog, prog2} {
		if err := copyFile("/proc/self/exe", to); err != nil {
			return err
		}
	}
	// What outlives its parent comes to us, so that we can end it.
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// leftProcesses ends the processes that tests have left, and names them.
func leftProcesses() (left []string) {
	for deadline := time.Now().Add(5 * time.Second); ; {
		pids := childrenOf(os.Getpid())
		if len(pids) == 0 || time.Now().After(deadline) {
			return left
		}
		for _, pid := range pids {
			var ended syscall.WaitStatus
			if got, _ := syscall.Wait4(pid, &ended, syscall.WNOHANG, nil); got == pid {
				continue // an orphan that had ended by itself
			}
			cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			left = append(left, fmt.Sprintf("%d %q", pid, strings.ReplaceAll(string(cmdline), "\x00", " ")))
			syscall.Kill(pid, syscall.SIGKILL)
			syscall.Wait4(pid, &ended, 0, nil)
		}
	}
}

// childrenOf lists the children of a process by the kernel's own list.
func childrenOf(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		b, _ := os.ReadFile(list)
		for _, word := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(word); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

var nextPort atomic.Int64

// freePort is a port below those that the kernel gives to callers, so that none of them takes
// it between now and its use.
func freePort(t *testing.T) string {
	t.Helper()
	nextPort.CompareAndSwap(0, int64(10000+os.Getpid()%150*30))
	for range 1000 {
		port := strconv.FormatInt(nextPort.Add(1), 10)
		ln, err := net.Listen("tcp", ":"+port)
		if err != nil {
			continue
		}
		ln.Close()
		return port
	}
	t.Fatal("no port is free")
	return ""
}

func localPort(t *testing.T) string { return "127.0.0.1:" + freePort(t) }

// eventually waits for a fact. It asks often and gives up late: no test goes by how long
// something takes.
func eventually(t *testing.T, what string, holds func() (bool, string)) {
	t.Helper()
	last := ""
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		ok, seen := holds()
		if ok {
			return
		}
		last = seen
	}
	t.Fatalf("%s: never; last seen: %s", what, last)
}
