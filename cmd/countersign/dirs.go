package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"countersign.dev/internal/admin"
	"golang.org/x/sys/unix"
)

const (
	systemData = "/var/lib/countersign"
	systemRun  = "/run/countersign"
)

// dataDir is where `up` keeps its data (cli.md 4.3).
func (e *env) dataDir() (string, error) {
	dir := e.dir
	if dir == "" {
		dir = os.Getenv("COUNTERSIGN_DIR")
	}
	switch {
	case dir != "":
	case os.Getuid() == 0:
		dir = systemData
	default:
		var err error
		if dir, err = userData(); err != nil {
			return "", err
		}
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("choosing a data directory: %w", err)
	}
	return abs, nil
}

func userData() (string, error) {
	if x := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(x) {
		return filepath.Join(x, "countersign"), nil
	}
	if home := os.Getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "countersign"), nil
	}
	return "", &admin.Problem{
		Code: "no_home", Message: "choosing a data directory: neither HOME nor XDG_STATE_HOME is set",
		Hints: []string{"countersign up --dir /var/tmp/countersign"},
	}
}

// runDir is where the sockets of a data directory lie.
func (e *env) runDir(data string) string {
	if e.dir != "" || os.Getenv("COUNTERSIGN_DIR") != "" {
		return filepath.Join(data, "run")
	}
	if os.Getuid() == 0 {
		return systemRun
	}
	return userRun(data)
}

func userRun(data string) string {
	if x := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(x) {
		return filepath.Join(x, "countersign")
	}
	return filepath.Join(data, "run")
}

// place is one directory that sockets may lie in.
type place struct {
	run   string
	said  string // told on stderr when it is used
	named bool   // somebody named it: whoever listens there is meant
}

// places lists where to look, first match wins (cli.md 4.4).
func (e *env) places() ([]place, error) {
	for _, s := range []string{e.server, os.Getenv("COUNTERSIGN_SERVER")} {
		if s == "" {
			continue
		}
		path, ok := strings.CutPrefix(s, "unix://")
		if !ok || !filepath.IsAbs(path) {
			return nil, usage(fmt.Sprintf("--server %q: only unix:///path is served in this release", s), "countersign --server unix:///run/countersign/admin.sock status")
		}
		return []place{{run: filepath.Dir(path), named: true}}, nil
	}
	for _, d := range []string{e.dir, os.Getenv("COUNTERSIGN_DIR")} {
		if d == "" {
			continue
		}
		abs, err := filepath.Abs(d)
		if err != nil {
			return nil, err
		}
		return []place{{run: filepath.Join(abs, "run"), named: true}}, nil
	}
	var list []place
	if data, err := userData(); err == nil {
		list = append(list, place{run: userRun(data)})
		if own := filepath.Join(data, "run"); own != list[0].run {
			list = append(list, place{run: own})
		}
		if demo := newestDemo(data); demo != "" {
			list = append(list, place{run: filepath.Join(demo, "run"), said: "using the demo in " + tilde(demo)})
		}
	}
	if os.Getuid() == 0 {
		list = append([]place{{run: systemRun}}, list...)
		if demo := newestDemo(systemData); demo != "" {
			list = append(list, place{run: filepath.Join(demo, "run"), said: "using the demo in " + demo})
		}
	} else {
		list = append(list, place{run: systemRun})
	}
	return list, nil
}

// newestDemo is the demo directory of the newest demo, if it has sockets.
func newestDemo(data string) string {
	entries, err := os.ReadDir(filepath.Join(data, "demo"))
	if err != nil {
		return ""
	}
	for _, d := range slices.Backward(entries) {
		dir := filepath.Join(data, "demo", d.Name())
		if _, err := os.Stat(filepath.Join(dir, "run", "node.sock")); err == nil {
			return dir
		}
	}
	return ""
}

// ask finds the socket ("admin.sock" for the server, "node.sock" for the node) that answers.
func (e *env) ask(ctx context.Context, socket string) (*admin.Client, error) {
	list, err := e.places()
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		path := filepath.Join(p.run, socket)
		client := admin.NewClient(path, e.trusts(path, p.named))
		probe, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		conn, err := client.Dial(probe)
		cancel()
		if err == nil {
			e.peer = peerPID(conn)
			conn.Close()
			if p.said != "" && !e.told[p.said] {
				e.told[p.said] = true
				e.say("%s", p.said)
			}
			return client, nil
		}
		var refused *admin.Problem
		if errors.As(err, &refused) {
			return nil, refused
		}
		if errors.Is(err, syscall.EACCES) {
			return nil, &admin.Problem{Code: "not_yours", Message: fmt.Sprintf("asking %s: only %s may", path, ownerOf(filepath.Dir(path))), Hints: []string{"sudo countersign " + e.cmd.name}}
		}
	}
	return nil, e.notRunning(list)
}

func (e *env) notRunning(list []place) error {
	p := &admin.Problem{Code: "not_running", Message: "countersign is not running here", Hints: []string{"countersign up"}}
	if len(list) == 1 && list[0].named {
		dir := strings.TrimSuffix(list[0].run, "/run")
		p.Message = "countersign is not running in " + dir
		p.Hints = []string{"countersign up --dir " + dir}
		if !e.json { // people read it in the message
			return p
		}
	}
	var looked []string
	for _, l := range list {
		looked = append(looked, tilde(l.run))
	}
	p.Details = admin.Details{{Label: "looked in", Value: looked}}
	return p
}

// trusts says whose socket may be spoken to: root's, one's own, and in /run/countersign the
// owner's of that directory, which only root can make; a named one is meant as it is.
func (e *env) trusts(path string, named bool) func(uint32) error {
	return func(uid uint32) error {
		if uid == 0 || int(uid) == os.Getuid() || named {
			return nil
		}
		if dir := filepath.Dir(path); dir == systemRun {
			if st, err := os.Stat(dir); err == nil && st.Sys().(*syscall.Stat_t).Uid == uid {
				return nil
			}
		}
		return &admin.Problem{
			Code: "socket_owner", Message: fmt.Sprintf("asking %s: it is %s's, you are %s", path, userName(uid), userName(uint32(os.Getuid()))),
			Hints: []string{typed("countersign "+e.cmd.name+" --server", append([]string{"unix://" + path}, e.rest...))},
		}
	}
}

func ownerOf(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return "its owner"
	}
	return userName(st.Sys().(*syscall.Stat_t).Uid)
}

func userName(uid uint32) string {
	if u, err := user.LookupId(fmt.Sprint(uid)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", uid)
}

// tilde shortens one's home.
func tilde(path string) string {
	home := os.Getenv("HOME")
	if rest, ok := strings.CutPrefix(path, home+"/"); ok && home != "" && home != "/" {
		return "~/" + rest
	}
	return path
}

// askServer and askNode ask one question of their socket within the time limit.
func askServer[Reply any](ctx context.Context, e *env, call string, req any) (Reply, error) {
	return question[Reply](ctx, e, "admin.sock", call, req)
}

func askNode[Reply any](ctx context.Context, e *env, call string, req any) (Reply, error) {
	return question[Reply](ctx, e, "node.sock", call, req)
}

func question[Reply any](ctx context.Context, e *env, socket, call string, req any) (Reply, error) {
	var none Reply
	client, err := e.ask(ctx, socket)
	if err != nil {
		return none, err
	}
	limited, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	reply, err := admin.Ask[Reply](limited, client, "POST "+call, req)
	var opErr *net.OpError
	switch {
	case errors.As(err, &opErr) && errors.Is(err, syscall.ECONNREFUSED):
		return none, e.notRunning([]place{{run: filepath.Dir(client.Path())}})
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return none, e.notAnswering(e.peer, err)
	}
	return reply, err
}

// notAnswering names the process that took the question and is silent. It stays the error that
// it was for those who know what may have been done meanwhile.
func (e *env) notAnswering(pid int, err error) error {
	if pid == 0 {
		return err
	}
	return fmt.Errorf("%w: %w", &admin.Problem{
		Code: "not_answering", Message: fmt.Sprintf("asking pid %d: no answer within %s", pid, spoken(e.timeout)),
		Hints: []string{"countersign status"},
	}, err)
}

// peerPID asks the kernel who listens on the other side of conn; 0 where it does not say.
func peerPID(conn *net.UnixConn) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}
