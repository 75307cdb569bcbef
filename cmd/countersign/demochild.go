package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"countersign.dev/internal/admin"
)

const childGrace = 5 * time.Second // between SIGTERM and SIGKILL

// child is one program of the shop: `countersign run NAME -- countersign shop ROLE`, or
// `countersign shop ROLE` alone, which is outside the mesh.
type child struct {
	name   string
	log    string
	cmd    *exec.Cmd
	ended  chan struct{}
	status string
}

func (c *child) problem() error {
	return &admin.Problem{Code: "demo", Message: fmt.Sprintf("playing the demo: %s ended: %s", c.name, c.status), Hints: []string{"less " + tilde(c.log)}}
}

// environment is this process's, pointed at the demo's directory.
func (d *demo) environment() []string {
	env := []string{"COUNTERSIGN_DIR=" + d.dir}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "COUNTERSIGN_") {
			env = append(env, kv)
		}
	}
	return env
}

// startServer starts one program of the shop as a workload, on a free port.
func (d *demo) startServer(ctx context.Context, name string, role ...string) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	args := []string{"run", name, "--port", fmt.Sprint(port), "--", executable(), "shop", name, "--listen", fmt.Sprintf("127.0.0.1:%d", port)}
	return d.startChild(name, append(args, role...)...)
}

// startChild starts a command of this program, in a process group of its own: Ctrl-C is for
// the demo, which ends its programs itself. Should the demo be killed, the kernel ends them.
func (d *demo) startChild(name string, args ...string) error {
	c := &child{name: name, log: filepath.Join(d.dir, name+".log"), ended: make(chan struct{})}
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", name, err)
	}
	defer out.Close()
	c.cmd = exec.Command(executable(), args...)
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = d.environment(), out, out
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the parent-death signal follows the thread; this one ends with the child
		err := c.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		c.status = "status 0"
		if err := c.cmd.Wait(); err != nil {
			c.status = err.Error()
		}
		close(c.ended)
		d.died <- c
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	d.children = append(d.children, c)
	return nil
}

// closeShop ends the programs one after the other, callers first, so that nobody calls what
// has ended, and waits for each.
func (d *demo) closeShop() {
	deadline := time.After(childGrace)
	for i := len(d.children) - 1; i >= 0; i-- {
		c := d.children[i]
		c.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-c.ended:
		case <-deadline:
			for _, c := range d.children {
				c.cmd.Process.Kill()
			}
			<-c.ended
		}
	}
}

// client runs a command of this program in the demo's directory, as a person would, and gives
// what it printed.
func (d *demo) client(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, executable(), args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = d.dir, d.environment(), &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, &admin.Problem{Code: "demo", Message: fmt.Sprintf("starting the demo: %s: %v", args[0], err),
			Details: admin.Details{{Label: "it said", Value: strings.TrimSpace(errs.String())}}}
	}
	return out.Bytes(), nil
}

// until asks again and again, and gives up when ctx ends or a program has died.
func (d *demo) until(ctx context.Context, what string, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return &admin.Problem{Code: "demo", Message: fmt.Sprintf("starting the demo: waiting for %s took too long", what), Hints: []string{"less " + tilde(filepath.Join(d.dir, "demo.log"))}}
		case c := <-d.died:
			return c.problem()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ready reports whether all of names are in the registry as ready and the node knows it.
func (d *demo) ready(ctx context.Context, names []string) (bool, error) {
	out, err := d.client(ctx, "status", "--json")
	if err != nil {
		return false, err
	}
	var s admin.ServerStatus
	if err := json.Unmarshal(out, &s); err != nil {
		return false, fmt.Errorf("reading the status: %w", err)
	}
	ready := 0
	for _, w := range s.Workloads {
		if w.State == "ready" && slices.Contains(names, w.Name) {
			ready++
		}
	}
	return ready == len(names) && len(s.Nodes) == 1 && s.Nodes[0].EnforcedRevision >= s.Revision, nil
}

// freePort is a port that nobody listens on now.
func freePort(ctx context.Context) (int, error) {
	ln, err := listenTCP(ctx, "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}
