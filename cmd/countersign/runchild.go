package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"countersign.dev/internal/admin"
)

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
