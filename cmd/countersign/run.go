package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/identity"
	"golang.org/x/sys/unix"
)

// runOptions are the flags of run.
type runOptions struct {
	ports   []string
	listen  []string
	labels  []string
	account string
	health  string
	stop    time.Duration
}

func runCommand() *command {
	var o runOptions
	return &command{
		name:    "run",
		summary: "Run a program with an identity of its own; from elsewhere only mTLS reaches it.",
		examples: []string{
			"countersign run api --port 8081 -- ./api",
			"countersign run web -- curl -sS http://api/",
			"countersign run api --port 8081 --listen 0.0.0.0:9081 -- ./api",
		},
		usage: "NAME [flags] -- COMMAND [ARGUMENT ...]",
		about: `The program keeps its terminal, its signals and its exit status. Calls it makes
through HTTP_PROXY carry its identity; calls to NAME arrive at 127.0.0.1:PORT
after they were proven and allowed. When run ends, so does the program.`,
		flags: func(f *flags) {
			f.list(&o.ports, "port", "PORT[/PROTO]", "where the program listens; may be repeated. PROTO is\nhttp, http2, grpc                           [http]\nthe first port is also called as port 80")
			f.list(&o.listen, "listen", "ADDR:PORT", "a listener of its own, for callers outside the mesh")
			f.list(&o.labels, "label", "KEY=VALUE", "for selectors; may be repeated         [app=NAME]")
			f.text(&o.account, "service-account", "SA", "identity, if not NAME                      [NAME]")
			f.text(&o.health, "health", "KIND", "tcp: ready once the port answers            [tcp]")
			f.duration(&o.stop, "stop", "D", "time between SIGTERM and SIGKILL            [10s]")
		},
		see: "countersign allow, countersign why, countersign status",
		run: func(ctx context.Context, e *env, args []string) error { return e.runProgram(ctx, o, args) },
	}
}

// program is one run: what was asked, its listeners, its child.
type program struct {
	e         *env
	o         runOptions
	req       admin.RunRequest
	path      string // of the executable
	listeners []*net.TCPListener
	client    *admin.Client
	granted   admin.RunGranted
	cmd       *exec.Cmd
	began     time.Time
	status    chan int // of the program, once
	quiet     bool     // no port, or no terminal: nothing is said before it ended
	notes     *noteBook
	uncalled  bool       // the node said at the end that no call came through the proxy
	outWrite  sync.Mutex // guards writes to the session
}

func (e *env) runProgram(ctx context.Context, o runOptions, args []string) error {
	p, err := e.prepareRun(ctx, o, args)
	if err != nil {
		return err
	}
	defer p.closeListeners()
	// Descendants that detach stay below this process, so that they are known as the run's
	// and end with it (identity.md 11.2).
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return cannot("starting %s: keeping its descendants: %v", p.req.Name, err)
	}
	session, err := p.attach(ctx)
	if err != nil {
		return p.problem(err)
	}
	if err := p.start(); err != nil {
		session.conn.Close()
		return err
	}
	status := p.supervise(ctx, session)
	if status != 0 && p.uncalled && len(p.req.Ports) == 0 {
		p.notes.add(p.noCallSeen(), p.quiet)
	}
	p.notes.flush(p.quiet)
	if status != 0 {
		return exit(status)
	}
	return nil
}

func cannot(format string, args ...any) error {
	return &admin.Problem{Code: "cannot_run", Exit: exitCannot, Message: fmt.Sprintf(format, args...)}
}

// problem makes an error of reaching the node run's own status.
func (p *program) problem(err error) error {
	var pr *admin.Problem
	if errors.As(err, &pr) {
		if pr.Exit == 0 {
			pr.Exit = exitCannot
		}
		return pr
	}
	return cannot("starting %s: %v", p.req.Name, err)
}

// prepareRun checks everything that can be checked before anything is opened, then opens the
// listeners with the rights of whoever typed the command.
func (e *env) prepareRun(ctx context.Context, o runOptions, args []string) (*program, error) {
	switch {
	case len(args) == 0:
		return nil, usage("run needs a NAME", "countersign run api --port 8081 -- ./api")
	case len(args) > 1:
		return nil, usage(fmt.Sprintf("run takes one NAME; what follows %q belongs behind --", args[0]), "countersign run "+args[0]+" -- "+strings.Join(args[1:], " "))
	case len(e.after) == 0:
		return nil, usage("run needs a command after --", "countersign run "+args[0]+" --port 8081 -- ./api")
	}
	if o.health != "" && o.health != "tcp" {
		return nil, usage(fmt.Sprintf("--health %q: only tcp is checked in this release", o.health), "countersign run "+args[0]+" --health tcp -- "+e.after[0])
	}
	if o.stop == 0 {
		o.stop = 10 * time.Second
	}
	ns := e.namespace
	if ns == "" {
		ns = "default"
	}
	name := args[0]
	if space, bare, ok := strings.Cut(name, "/"); ok {
		if e.named && space != ns {
			return nil, usage(fmt.Sprintf("name %q is of namespace %s, -n says %s", name, space, ns), "countersign run "+bare+" -n "+ns+" -- "+e.after[0])
		}
		ns, name = space, bare
	}
	for what, s := range map[string]string{"name": name, "namespace": ns, "service account": o.account} {
		if s != "" && identity.CheckLabel(s) != nil || what == "name" && s == "" {
			return nil, &admin.Problem{Code: "name_invalid", Exit: exitUsage, Message: fmt.Sprintf("%s %q: a name is a-z, 0-9 and -, at most 63 bytes", what, s),
				Hints: []string{"countersign run " + labelOf(s) + " -- " + e.after[0]}}
		}
	}
	var b [16]byte
	rand.Read(b[:])
	p := &program{
		e: e, o: o, status: make(chan int, 1), notes: newNoteBook(e),
		req: admin.RunRequest{Namespace: ns, Name: name, ServiceAccount: o.account, Command: e.after, Secret: hex.EncodeToString(b[:]), Listen: o.listen},
	}
	var err error
	if p.req.Ports, err = parsePorts(o.ports); err != nil {
		return nil, err
	}
	if p.req.Labels, err = parseLabels(o.labels); err != nil {
		return nil, err
	}
	if p.path, err = findProgram(name, e.after); err != nil {
		return nil, err
	}
	p.quiet = len(p.req.Ports) == 0
	if err := p.openListeners(ctx); err != nil {
		p.closeListeners()
		return nil, err
	}
	return p, p.portsFree(ctx)
}

func labelOf(s string) string {
	out := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, s)
	if out = strings.Trim(out, "-"); out == "" {
		return "api"
	}
	return out
}

var protocols = []string{"http", "http2", "grpc"}

func parsePorts(in []string) ([]admin.RunPort, error) {
	var out []admin.RunPort
	for _, s := range in {
		number, proto, _ := strings.Cut(s, "/")
		if proto == "" {
			proto = "http"
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 {
			return nil, usage(fmt.Sprintf("--port %q: a port is 1 to 65535", s), "countersign run api --port 8081 -- ./api")
		}
		if !slices.Contains(protocols, proto) {
			return nil, usage(fmt.Sprintf("--port %q: protocol is one of %s", s, strings.Join(protocols, ", ")), fmt.Sprintf("countersign run api --port %d/http -- ./api", n))
		}
		p := admin.RunPort{Number: uint16(n), Protocol: proto}
		if slices.ContainsFunc(out, func(o admin.RunPort) bool { return o.Number == p.Number }) {
			return nil, usage(fmt.Sprintf("--port %d is given twice", n), fmt.Sprintf("countersign run api --port %d --port %d -- ./api", n, n%65535+1))
		}
		out = append(out, p)
	}
	return out, nil
}

func parseLabels(in []string) (map[string]string, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, s := range in {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, usage(fmt.Sprintf("--label %q is not KEY=VALUE", s), "countersign run api --label tier=backend -- ./api")
		}
		if _, twice := out[k]; twice {
			return nil, usage(fmt.Sprintf("--label %s is given twice", k), "countersign run api --label tier=backend --label zone=a -- ./api")
		}
		out[k] = v
	}
	return out, nil
}

// findProgram looks the command up, as a shell would.
func findProgram(name string, command []string) (string, error) {
	path, err := exec.LookPath(command[0])
	if errors.Is(err, exec.ErrDot) {
		err = nil
	}
	if err == nil {
		return path, nil
	}
	if st, statErr := os.Stat(command[0]); statErr == nil && strings.Contains(command[0], "/") {
		hint := "chmod +x " + command[0]
		if strings.HasSuffix(command[0], ".py") {
			hint = "countersign run " + name + " -- python3 " + strings.Join(command, " ")
		}
		what := "is not executable"
		if st.IsDir() {
			what, hint = "is a directory", "countersign run "+name+" -- COMMAND"
		}
		return "", &admin.Problem{Code: "program_not_executable", Exit: exitNotExec, Message: fmt.Sprintf("starting %s: %q %s", name, command[0], what), Hints: []string{hint}}
	}
	p := &admin.Problem{Code: "program_not_found", Exit: exitNotFound, Message: fmt.Sprintf("starting %s: %q does not exist", name, command[0])}
	near := similarFile(command[0])
	if _, err := os.Stat(command[0]); err == nil { // here, but not in PATH
		near = "./" + command[0]
	}
	if near != "" {
		p.Hints = []string{"countersign run " + name + " -- " + strings.Join(append([]string{near}, command[1:]...), " ")}
	} else {
		p.Hints = []string{"name a program of PATH, or a file such as ./" + filepath.Base(command[0])}
	}
	return "", p
}

// similarFile finds a file beside path that was probably meant.
func similarFile(path string) string {
	if !strings.Contains(path, "/") {
		return ""
	}
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if n := nearest(base, names); n != "" {
		return dir + n
	}
	return ""
}

// openListeners opens the proxy listener and those of --listen; the node gets duplicates and
// this process keeps its own until the last descendant has ended, so that no port of the run
// falls to another user while something may still call it (sec-listener-kept).
func (p *program) openListeners(ctx context.Context) error {
	for i, addr := range append([]string{"127.0.0.1:0"}, p.o.listen...) {
		if i > 0 {
			if !isAddrPort(addr) {
				return usage(fmt.Sprintf("--listen %q is not ADDR:PORT", addr), "countersign run "+p.req.Name+" --port 8081 --listen 0.0.0.0:9081 -- ./api")
			}
			if len(p.req.Ports) == 0 {
				return usage("--listen needs --port: where the program listens", "countersign run "+p.req.Name+" --port 8081 --listen "+addr+" -- ./api")
			}
		}
		ln, err := listenTCP(ctx, addr)
		if err != nil {
			pr := portProblem(addr, err)
			pr.Exit = exitCannot
			if pr.Code != "port_privileged" {
				pr.Hints = []string{"countersign run " + p.req.Name + " --port 8081 --listen 0.0.0.0:9081 -- " + p.req.Command[0]}
			}
			return pr
		}
		p.listeners = append(p.listeners, ln.(*net.TCPListener))
	}
	return nil
}

func (p *program) closeListeners() {
	for _, l := range p.listeners {
		l.Close()
	}
}

// portsFree refuses a program's port that somebody else holds: the node would refuse to call it.
func (p *program) portsFree(ctx context.Context) error {
	for _, port := range p.req.Ports {
		addr := fmt.Sprintf("127.0.0.1:%d", port.Number)
		ln, err := listenTCP(ctx, addr)
		if err == nil {
			ln.Close()
			continue
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			continue // no right to that port: the program will say so itself
		}
		p.closeListeners()
		message := fmt.Sprintf("starting %s: %s is in use", p.req.Name, addr)
		if holder := holderOf(addr); holder != "" {
			message += " by " + holder
		}
		return &admin.Problem{Code: "program_port_in_use", Exit: exitCannot, Message: message,
			Hints: []string{fmt.Sprintf("countersign run %s --port %d -- %s", p.req.Name, port.Number+1, strings.Join(p.req.Command, " "))}}
	}
	return nil
}

// session is one connection to a node; a node that was started anew gets another.
type session struct {
	conn  *net.UnixConn
	lines *bufio.Reader
}

// attach opens the session: identity granted, listeners handed over, ready.
func (p *program) attach(ctx context.Context) (*session, error) {
	client, err := p.e.ask(ctx, "node.sock")
	if err != nil {
		return nil, err
	}
	p.client = client
	s, err := p.open(ctx)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = p.e.notAnswering(p.e.peer, err)
	}
	return s, err
}

func (p *program) open(ctx context.Context) (*session, error) {
	conn, err := p.client.Dial(ctx) // 2 s at most
	if err != nil {
		return nil, err
	}
	over := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer over()
	s, err := p.greet(conn)
	if err != nil {
		conn.Close()
	}
	return s, err
}

func (p *program) greet(conn *net.UnixConn) (*session, error) {
	conn.SetDeadline(time.Now().Add(p.e.timeout))
	body, err := json.Marshal(p.req)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest("POST", "http://countersign/v1/run", strings.NewReader(string(body)))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "countersign-run")
	if err := r.Write(conn); err != nil {
		return nil, err
	}
	s := &session{conn: conn, lines: bufio.NewReader(conn)}
	res, err := http.ReadResponse(s.lines, r)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer res.Body.Close()
		var pr admin.Problem
		if err := json.NewDecoder(res.Body).Decode(&pr); err != nil {
			return nil, fmt.Errorf("the node answers %s", res.Status)
		}
		return nil, &pr
	}
	first, err := s.read()
	if err != nil || first.Granted == nil {
		return nil, fmt.Errorf("the node granted nothing: %w", err)
	}
	p.granted = *first.Granted
	if err := p.hand(conn); err != nil {
		return nil, err
	}
	ready, err := s.read()
	switch {
	case err != nil:
		return nil, err
	case ready.Refused != nil:
		return nil, ready.Refused
	case !ready.Ready:
		return nil, errors.New("the node is not ready")
	}
	conn.SetDeadline(time.Time{})
	return s, nil
}

func (s *session) read() (admin.RunMessage, error) {
	var m admin.RunMessage
	line, err := s.lines.ReadBytes('\n')
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(line, &m)
}

// hand passes duplicates of the listeners to the node (SCM_RIGHTS).
func (p *program) hand(conn *net.UnixConn) error {
	var fds []int
	for _, l := range p.listeners {
		f, err := l.File()
		if err != nil {
			return err
		}
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	line, err := json.Marshal(admin.RunMessage{Listeners: len(fds)})
	if err != nil {
		return err
	}
	_, _, err = conn.WriteMsgUnix(append(line, '\n'), unix.UnixRights(fds...), nil)
	runtime.KeepAlive(p.listeners)
	return err
}

func (p *program) tell(s *session, m admin.RunMessage) {
	b, err := json.Marshal(m)
	if err != nil {
		return
	}
	p.outWrite.Lock()
	defer p.outWrite.Unlock()
	s.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	s.conn.Write(append(b, '\n'))
}

// environment is what run sets for its program, and nothing else (cli.md 4.2, dataplane.md 25.4).
func (p *program) environment() []string {
	proxy := fmt.Sprintf("http://%s:%s@%s", p.req.Name, p.req.Secret, p.listeners[0].Addr())
	host, port, _ := net.SplitHostPort(p.listeners[0].Addr().String())
	direct := "localhost,127.0.0.1,::1"
	set := map[string]string{
		"HTTP_PROXY": proxy, "http_proxy": proxy, "HTTPS_PROXY": proxy, "https_proxy": proxy,
		"NO_PROXY": direct, "no_proxy": direct, "NODE_USE_ENV_PROXY": "1",
		"SPIFFE_ENDPOINT_SOCKET": "unix://" + p.granted.WorkloadAPI,
	}
	java := fmt.Sprintf("-Dhttp.proxyHost=%s -Dhttp.proxyPort=%s -Dhttps.proxyHost=%s -Dhttps.proxyPort=%s", host, port, host, port)
	if old := os.Getenv("JAVA_TOOL_OPTIONS"); old != "" {
		java = old + " " + java
	}
	set["JAVA_TOOL_OPTIONS"] = java
	if dir, ok := strings.CutSuffix(filepath.Dir(p.granted.WorkloadAPI), "/run"); ok && dir != "" {
		set["COUNTERSIGN_DIR"] = dir
	}
	var out []string
	for _, kv := range os.Environ() {
		k, _, _ := strings.Cut(kv, "=")
		if _, replaced := set[k]; !replaced {
			out = append(out, kv)
		}
	}
	for k, v := range set {
		out = append(out, k+"="+v)
	}
	return out
}

// start starts the program as a child of this process, on a thread that stays: the kernel's
// parent-death signal follows the thread that forked (identity.md 27).
func (p *program) start() error {
	p.cmd = &exec.Cmd{
		Path: p.path, Args: p.req.Command, Env: p.environment(),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the program
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.status <- p.wait()
		}
	}()
	if err := <-started; err != nil {
		return &admin.Problem{Code: "program_not_executable", Exit: exitNotExec, Message: fmt.Sprintf("starting %s: %s", p.req.Name, reason(err))}
	}
	p.began = time.Now()
	return nil
}

// wait gives the program's status: its own, or 128 and the signal that ended it.
func (p *program) wait() int {
	err := p.cmd.Wait()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		if ws, ok := ended.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return exitSignal + int(ws.Signal())
		}
		return ended.ExitCode()
	}
	if err != nil {
		return exitCannot
	}
	return 0
}

// supervise passes signals on, keeps the session, and ends what is left of the run.
func (p *program) supervise(ctx context.Context, s *session) int {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGWINCH)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(ctx)
	var sessions sync.WaitGroup
	sessions.Go(func() { p.keepSession(ctx, s) })
	if !p.quiet && isTerminal(p.e.err) {
		p.e.say("countersign: %s is %s; call it http://%s", p.req.Name, p.granted.SPIFFEID, p.called())
	}
	var kill <-chan time.Time
	for {
		select {
		case status := <-p.status:
			p.endedEarly(status)
			p.reap()
			p.notes.ended = &status
			cancel()
			sessions.Wait()
			return status
		case sig := <-signals:
			if p.pass(sig) && sig == syscall.SIGTERM && kill == nil {
				kill = time.After(p.o.stop)
			}
		case <-kill:
			p.cmd.Process.Kill()
		}
	}
}

func (p *program) called() string {
	return admin.Bare(p.req.Namespace, p.req.Name, "default")
}

// pass hands a signal to the program. What a terminal sends it gives to the program itself:
// passed on it would arrive twice.
func (p *program) pass(sig os.Signal) bool {
	switch sig {
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGWINCH:
		if isTerminal(os.Stdin) || isTerminal(os.Stdout) || isTerminal(os.Stderr) {
			return false
		}
	}
	return p.cmd.Process.Signal(sig) == nil
}

// endedEarly says so when a program ended within 2 s, before its port opened.
func (p *program) endedEarly(status int) {
	took := time.Since(p.began)
	if len(p.req.Ports) > 0 && took < 2*time.Second && status != 0 {
		p.e.say("countersign: %s ended after %.1f s with status %d, before it listened on %d", p.req.Name, took.Seconds(), status, p.req.Ports[0].Number)
	}
}

// reap ends the descendants that detached: this process is their parent now.
func (p *program) reap() {
	deadline := time.Now().Add(p.o.stop)
	sig := syscall.SIGTERM
	for {
		pids := childrenOf(os.Getpid())
		if len(pids) == 0 {
			return
		}
		if time.Now().After(deadline) {
			sig = syscall.SIGKILL
		}
		for _, pid := range pids {
			syscall.Kill(pid, sig)
		}
		for range 10 {
			var ws syscall.WaitStatus
			if pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
		<-time.After(5 * time.Millisecond)
	}
}

// childrenOf lists the children of a process, by the kernel's own list of each thread.
func childrenOf(pid int) []int {
	var out []int
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	for _, t := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if err != nil {
			continue
		}
		for _, word := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(word); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}
