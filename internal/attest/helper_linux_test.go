package attest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests need processes that are not themselves: this binary, started again, plays them.
// A helper obeys the lines on its standard input and ends when that is closed.
const helperVar = "ATTEST_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperVar) != "" {
		helper()
		return
	}
	os.Exit(m.Run())
}

// helper obeys these lines; each is answered by one line but for "exec" and "exit".
//
//	dial NETWORK ADDR   connect
//	listen ADDR         listen with TCP
//	accept              take one connection from there
//	close               close the newest connection
//	exec PROGRAM        become it, with the newest connection left open
//	reap                be the reaper of all descendants
//	start [PROGRAM]     start a child that takes over the rest of the input
//	orphan              the same, and end
//	cover PATH          mount this binary over it
//	setuid UID          become another user
//	exit                end
func helper() {
	signal.Ignore(syscall.SIGPIPE)
	in := bufio.NewReader(os.Stdin)
	var conns []any
	var ln *net.TCPListener
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			os.Exit(0)
		}
		f := strings.Fields(line)
		switch f[0] {
		case "dial":
			c, err := net.Dial(f[1], f[2])
			check(err)
			conns = append(conns, c)
			fmt.Println("ok", c.LocalAddr())
		case "listen":
			l, err := net.Listen("tcp", f[1])
			check(err)
			ln = l.(*net.TCPListener)
			fmt.Println("ok", ln.Addr())
		case "accept":
			c, err := ln.Accept()
			check(err)
			conns = append(conns, c)
			fmt.Println("ok")
		case "close":
			check(conns[len(conns)-1].(io.Closer).Close())
			fmt.Println("ok")
		case "exec":
			// The connection lives on in the new program: a duplicate without close-on-exec.
			file, err := conns[len(conns)-1].(interface{ File() (*os.File, error) }).File()
			check(err)
			_, err = unix.FcntlInt(file.Fd(), unix.F_SETFD, 0)
			check(err)
			check(syscall.Exec(f[1], f[1:], os.Environ()))
		case "reap":
			check(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
			fmt.Println("ok")
		case "start", "orphan":
			program := "/proc/self/exe"
			if len(f) > 1 {
				program = f[1]
			}
			cmd := exec.Command(program)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
			check(cmd.Start())
			fmt.Println("ok", cmd.Process.Pid)
			if f[0] == "orphan" {
				os.Exit(0)
			}
			_, _ = cmd.Process.Wait()
			for { // a reaper stays until its last descendant has ended
				if _, err := syscall.Wait4(-1, nil, 0, nil); err == syscall.ECHILD {
					os.Exit(0)
				}
			}
		case "setuid":
			var uid int
			_, err := fmt.Sscan(f[1], &uid)
			check(err)
			check(syscall.Setreuid(uid, uid))
			fmt.Println("ok")
		case "cover":
			check(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
			exe, err := os.Executable()
			check(err)
			check(unix.Mount(exe, f[1], "", unix.MS_BIND, ""))
			fmt.Println("ok")
		case "exit":
			os.Exit(0)
		default:
			check(fmt.Errorf("unknown command %q", line))
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

// child is a helper that runs.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(t *testing.T) *child { return startChildAs(t, nil) }

// startChildAs starts a helper of another user or in other namespaces. The path is one that it
// can follow whatever it may read.
func startChildAs(t *testing.T, as *syscall.SysProcAttr) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command("/proc/self/exe")}
	c.cmd.Env = append(os.Environ(), helperVar+"=1")
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = as
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.end() })
	return c
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// end kills the child; its own children see the end of their input.
func (c *child) end() {
	c.in.Close()
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// send gives a command that answers nothing.
func (c *child) send(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		c.t.Fatal(err)
	}
}

// do gives a command and returns what stands after "ok".
func (c *child) do(format string, args ...any) string {
	c.t.Helper()
	c.send(format, args...)
	line, err := c.out.ReadString('\n')
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil || word != "ok" {
		c.t.Fatalf("helper: %s: %q, %v", fmt.Sprintf(format, args...), line, err)
	}
	return rest
}

// number is do for commands that answer a pid.
func (c *child) number(command string) (pid int) {
	c.t.Helper()
	if _, err := fmt.Sscan(c.do("%s", command), &pid); err != nil {
		c.t.Fatal(err)
	}
	return pid
}

// unixListener listens on a socket in a directory of its own.
func unixListener(t *testing.T) (*net.UnixListener, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "attest") // t.TempDir can be longer than a socket's path may be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, path
}

// connected has a helper connect to us and returns our end.
func connected(t *testing.T, c *child) *net.UnixConn {
	t.Helper()
	l, path := unixListener(t)
	c.do("dial unix %s", path)
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func tcpListener(t testing.TB, addr string) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func acceptTCP(t testing.TB, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}
