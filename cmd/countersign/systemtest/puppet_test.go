//go:build system && linux

package systemtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// puppet is a test's end of a puppet.
type puppet struct {
	t     *testing.T
	in    io.Writer
	lines chan string
}

// hang gives cmd the input of a puppet, before it starts.
func hang(t *testing.T, cmd *exec.Cmd) *puppet {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	p := &puppet{t: t, in: in, lines: make(chan string, 16)}
	go func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() { in.Close(); w.Close(); out.Close() })
	return p
}

// next is the next line that it says.
func (p *puppet) next() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.t.Fatal("the program has ended")
		}
		if answer, err := strconv.Unquote(line); err == nil {
			return answer
		}
		return line
	case <-time.After(20 * time.Second):
		p.t.Fatal("the program does not answer")
	}
	return ""
}

// pull tells it something and waits for the answer.
func (p *puppet) pull(format string, args ...any) string {
	p.t.Helper()
	p.tell(format, args...)
	return p.next()
}

// must is pull for what may not fail.
func (p *puppet) must(format string, args ...any) string {
	p.t.Helper()
	answer := p.pull(format, args...)
	if strings.HasPrefix(answer, "error: ") {
		p.t.Fatalf("puppet, %s: %s", fmt.Sprintf(format, args...), answer)
	}
	return answer
}

func (p *puppet) tell(format string, args ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.t.Fatalf("telling the program: %v", err)
	}
}

// puppetOf starts a puppet of that user, outside of any run.
func puppetOf(t *testing.T, u user, kind ...string) *puppet {
	t.Helper()
	if len(kind) == 0 {
		kind = []string{"puppet"}
	}
	cmd := u.command(prog, kind...)
	p := hang(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return p
}

// puppetIn starts a puppet as the program of a run; words are flags of run and --, and what
// stands between that and the puppet.
func (h *house) puppetIn(name string, words ...string) (*puppet, *running) {
	h.t.Helper()
	cmd := h.command(h.as, append([]string{"run", name}, words...)...)
	p := hang(h.t, cmd)
	return p, h.startRun(cmd, name)
}

// hands is the puppet's side: what it holds.
type hands struct {
	bound     int // a socket that does not listen yet
	listeners []net.Listener
	conns     []net.Conn
	enough    chan struct{}
	asked     chan string
}

func (p *hands) pull(line string) (string, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", errors.New("nothing was said")
	}
	switch arg := words[1:]; words[0] {
	case "listen": // listen ADDR: answer every connection with "stolen"
		return "listening", p.listen(arg[0])
	case "close":
		p.close()
		return "closed", nil
	case "bind": // bind ADDR: take the address, with SO_REUSEADDR, without listening
		var err error
		p.bound, err = bind(arg[0])
		return "bound", err
	case "listenbound":
		return "listening", p.listenBound()
	case "connect": // connect FROM TO: hold a connection from that very port
		return "connected", p.connect(arg[0], arg[1])
	case "strike": // strike FROM TO PAYLOAD: from that port, send and reset
		return "struck", strike(arg[0], arg[1], arg[2])
	case "ask": // ask SOCKET: the status of an administrative call
		return ask(arg[0])
	case "asking": // asking SOCKET...: ask them without a pause, until told that it is enough
		p.asked, p.enough = make(chan string, 1), make(chan struct{})
		go func() { p.asked <- asking(arg, p.enough) }()
		return "asking", nil
	case "enough":
		close(p.enough)
		return <-p.asked, nil
	case "intrude": // intrude PID: everything that reads another process's memory
		return intrude(arg[0])
	}
	return "", fmt.Errorf("what is %q", words[0])
}

// listen answers whoever connects, and notes at the first byte what was told to it.
func (p *hands) listen(addr string) error {
	network := "tcp"
	if addr[0] == '/' {
		network = "unix"
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return err
	}
	p.answer(ln)
	return nil
}

func (p *hands) answer(ln net.Listener) {
	p.listeners = append(p.listeners, ln)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 4096)
				n, _ := c.Read(b)
				if n > 0 {
					fmt.Println(strconv.Quote("heard " + string(b[:n])))
				}
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nstolen")
			}()
		}
	}()
}

func (p *hands) close() {
	for _, ln := range p.listeners {
		ln.Close()
	}
	for _, c := range p.conns {
		c.Close()
	}
	if p.bound != 0 {
		unix.Close(p.bound)
	}
	*p = hands{}
}

func bind(addr string) (int, error) {
	at, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return 0, err
	}
	var sa unix.Sockaddr
	family := unix.AF_INET
	if ip := at.IP.To4(); ip != nil {
		sa = &unix.SockaddrInet4{Port: at.Port, Addr: [4]byte(ip)}
	} else {
		family = unix.AF_INET6
		sa = &unix.SockaddrInet6{Port: at.Port, Addr: [16]byte(at.IP.To16())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	if err := unix.Bind(fd, sa); err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

func (p *hands) listenBound() error {
	if err := unix.Listen(p.bound, 16); err != nil {
		return err
	}
	f := os.NewFile(uintptr(p.bound), "listener")
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return err
	}
	p.bound = 0
	p.answer(ln)
	return nil
}

func dialFrom(from, to string) (net.Conn, error) {
	local, err := net.ResolveTCPAddr("tcp", from)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{LocalAddr: local, Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	}}
	d.SetMultipathTCP(false)
	return d.Dial("tcp", to)
}

func (p *hands) connect(from, to string) error {
	c, err := dialFrom(from, to)
	if err == nil {
		p.conns = append(p.conns, c)
	}
	return err
}

func strike(from, to, payload string) error {
	text, err := strconv.Unquote(`"` + payload + `"`)
	if err != nil {
		return err
	}
	c, err := dialFrom(from, to)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(c, strings.ReplaceAll(text, "~", " ")); err != nil {
		return err
	}
	c.(*net.TCPConn).SetLinger(0) // which makes a reset of the close
	return c.Close()
}

const statusCall = "POST /v1/status HTTP/1.1\r\nHost: countersign\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

func ask(socket string) (string, error) {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, statusCall); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if len(line) < 12 {
		return "", fmt.Errorf("answered with %q: %v", line, err)
	}
	return line[9:12], nil
}

// asking asks without a pause, so that no moment in which the answer is another can pass by
// unseen, and a hundred times more when it is enough. It says how often each status came, and
// how often nobody answered.
func asking(sockets []string, enough chan struct{}) string {
	count := map[string]int{}
	for more := 0; more < 100; {
		select {
		case <-enough:
			more++
		default:
		}
		for _, socket := range sockets {
			code, err := ask(socket)
			if err != nil {
				code = "silence"
				time.Sleep(time.Millisecond)
			}
			count[code]++
		}
	}
	return fmt.Sprint(count)
}

// intrude tries what the kernel offers to look into another process. It says what succeeded.
func intrude(who string) (string, error) {
	pid, err := strconv.Atoi(who)
	if err != nil {
		return "", err
	}
	var open []string
	for _, name := range []string{"mem", "environ", "maps", "auxv", "fd/0", "fdinfo/0", "map_files", "stack", "exe", "cwd"} {
		path := "/proc/" + who + "/" + name
		if f, err := os.Open(path); err == nil {
			if n, _ := f.Read(make([]byte, 1)); n > 0 || name == "mem" || name == "map_files" {
				open = append(open, name)
			}
			f.Close()
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.PtraceSeize(pid) == nil {
		open = append(open, "ptrace")
		unix.PtraceDetach(pid)
	}
	var here, there [8]byte
	local := []unix.Iovec{{Base: &here[0], Len: 8}}
	remote := []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&there[0])), Len: 8}}
	if _, err := unix.ProcessVMReadv(pid, local, remote, 0); err == nil || errors.Is(err, unix.EFAULT) {
		open = append(open, "process_vm_readv")
	}
	if pidfd, err := unix.PidfdOpen(pid, 0); err == nil {
		if fd, err := unix.PidfdGetfd(pidfd, 0, 0); err == nil {
			open = append(open, "pidfd_getfd")
			unix.Close(fd)
		}
		unix.Close(pidfd)
	}
	return strings.Join(open, " "), nil
}
