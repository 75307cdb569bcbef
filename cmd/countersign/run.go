package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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
			pr := portProblem("", addr, err)
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
