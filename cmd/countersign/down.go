package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"countersign.dev/internal/admin"
	"golang.org/x/sys/unix"
)

const (
	downWait = 35 * time.Second // draining takes up to 30
	downStep = 200 * time.Millisecond
)

func downCommand() *command {
	return &command{
		name:     "down",
		summary:  "End the countersign up that runs here, as SIGTERM does.",
		examples: []string{"countersign down", "countersign down --dir /var/tmp/cs"},
		usage:    "[flags]",
		about: `Calls under way may end, for 30 s at most; programs keep running and have an
identity again once countersign up is back. Returns when the process has ended.`,
		see: "countersign up, countersign status",
		run: func(ctx context.Context, e *env, args []string) error {
			if err := noArgs(e.cmd, args); err != nil {
				return err
			}
			return e.down(ctx)
		},
	}
}

func (e *env) down(ctx context.Context) error {
	client, err := e.ask(ctx, "node.sock")
	if err != nil {
		return err
	}
	// Who listens is known before it is told to end: its pid could be another's afterwards.
	conn, err := client.Dial(ctx)
	if err != nil {
		return fmt.Errorf("asking %s: %w", client.Path(), err)
	}
	pid, pidfd, err := listenerOf(conn)
	conn.Close()
	if err != nil {
		return fmt.Errorf("asking the kernel who listens on %s: %w", client.Path(), err)
	}
	defer unix.Close(pidfd)
	asking, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	if _, err := admin.Ask[struct{}](asking, client, "POST /v1/down", struct{}{}); err != nil {
		return err
	}
	return e.untilEnded(ctx, pid, pidfd)
}

// listenerOf gives the process on the other side of a socket, as a descriptor that stays with
// it.
func listenerOf(conn *net.UnixConn) (pid, pidfd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, -1, err
	}
	var cred *unix.Ucred
	if ctlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); ctlErr != nil {
		return 0, -1, ctlErr
	}
	if err != nil {
		return 0, -1, err
	}
	pidfd, err = unix.PidfdOpen(int(cred.Pid), 0)
	return int(cred.Pid), pidfd, err
}

// untilEnded waits until the process is gone; then its sockets and locks are too.
func (e *env) untilEnded(ctx context.Context, pid, pidfd int) error {
	began := time.Now()
	p := e.progress()
	defer p.end()
	for {
		poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(downStep.Milliseconds()))
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("waiting for pid %d: %w", pid, err)
		case n > 0:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		took := time.Since(began)
		if took > downWait {
			return &admin.Problem{
				Code: "not_ended", Message: fmt.Sprintf("ending pid %d: it still runs after %s", pid, spoken(downWait)),
				Hints: []string{"countersign status", fmt.Sprintf("kill -9 %d", pid)},
			}
		}
		if took > time.Second {
			p.say("waiting for pid %d to end  %s", pid, spoken(took))
		}
	}
}
