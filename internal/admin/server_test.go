package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/attest"
)

// askVar makes this test binary a caller of its own: it asks the socket named there and prints
// the code of the answer.
const askVar = "COUNTERSIGN_TEST_ASK"

func TestMain(m *testing.M) {
	if path := os.Getenv(askVar); path != "" {
		fmt.Print(ask(context.Background(), path))
		return
	}
	os.Exit(m.Run())
}

func ask(ctx context.Context, path string) string {
	c := NewClient(path, func(uint32) error { return nil })
	reply, err := Ask[map[string]string](ctx, c, "POST /v1/echo", map[string]string{"say": "hello"})
	var p *Problem
	switch {
	case errors.As(err, &p):
		return p.Code
	case err != nil:
		return err.Error()
	}
	return reply["say"]
}

func askFromChild(t *testing.T, path string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), askVar+"="+path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// serve answers echo under g on a real socket, and waits for the end of Serve.
func serve(t *testing.T, g Guard) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cs") // a short path: sun_path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "a.sock")
	ln, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	g.Socket, g.Log = path, slog.New(slog.DiscardHandler)
	mux := http.NewServeMux()
	Handle(mux, g.Log, "POST /v1/echo", func(ctx context.Context, in struct {
		Say string `json:"say"`
	}) (map[string]string, error) {
		switch in.Say {
		case "fail":
			return nil, errors.New("secret-of-the-house: it broke")
		case "wrapped":
			return nil, fmt.Errorf("doing: %w", &Problem{Code: "conflict", Message: "no", Status: http.StatusConflict})
		}
		if ProcessOf(ctx) == nil {
			return nil, errors.New("no process")
		}
		return map[string]string{"say": in.Say}, nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, mux, g) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

// Who may ask (security.md S2, identity.md 11.5), with real processes.
func TestGuard(t *testing.T) {
	me := uint32(os.Getuid())
	none := func(*attest.Process) (bool, error) { return false, nil }
	runs := func(pids ...int) func(*attest.Process) (bool, error) {
		return func(p *attest.Process) (bool, error) { return attest.InRun(p, pids) }
	}
	unread := func(*attest.Process) (bool, error) { return false, attest.ErrNamespaces }
	noPidfd := func(*attest.Process) (bool, error) { return false, attest.ErrUnsupported }
	broken := func(*attest.Process) (bool, error) { return false, errors.New("something else") }
	stranger := "hello" // root may always ask
	namespaces := "hello"
	if me != 0 {
		stranger, namespaces = "not_yours", "not_yours"
	}
	for _, c := range []struct {
		name       string
		guard      Guard
		own, child string
	}{
		{"the owner", Guard{Owner: me}, "not_yours", "hello"},
		{"the owner, of the node", Guard{Owner: me, Node: true}, "hello", "hello"},
		{"another owner's", Guard{Owner: me + 1, Node: true}, stranger, stranger},
		{"no run lives", Guard{Owner: me, InRun: none}, "not_yours", "hello"},
		{"TestSecRunIsNotAdmin", Guard{Owner: me, Node: true, InRun: runs(os.Getpid())}, "hello", "in_run"},
		{"another run", Guard{Owner: me, InRun: runs(1 << 30)}, "not_yours", "hello"},
		{"namespaces unread, server", Guard{Owner: me, InRun: unread}, "not_yours", namespaces},
		{"namespaces unread, node", Guard{Owner: me, Node: true, InRun: unread}, "hello", "hello"},
		{"no pidfd", Guard{Owner: me, InRun: noPidfd}, "not_yours", "hello"},
		{"unknown", Guard{Owner: me, Node: true, InRun: broken}, "not_yours", "not_yours"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := serve(t, c.guard)
			if got := ask(t.Context(), path); got != c.own {
				t.Errorf("own process: got %q, want %q", got, c.own)
			}
			if got := askFromChild(t, path); got != c.child {
				t.Errorf("child: got %q, want %q", got, c.child)
			}
		})
	}
}

// What is wrong inside stays inside; what is meant for the caller arrives whole.
func TestErrors(t *testing.T) {
	path := serve(t, Guard{Owner: uint32(os.Getuid()), Node: true})
	c := NewClient(path, func(uint32) error { return nil })
	for _, k := range []struct {
		body any
		code string
		http int
	}{
		{map[string]string{"say": "fail"}, "internal", http.StatusInternalServerError},
		{map[string]string{"say": "wrapped"}, "conflict", http.StatusConflict},
		{map[string]string{"sya": "x"}, "bad_request", http.StatusBadRequest},
		{[]int{1}, "bad_request", http.StatusBadRequest},
	} {
		_, err := Ask[map[string]string](t.Context(), c, "POST /v1/echo", k.body)
		var p *Problem
		if !errors.As(err, &p) || p.Code != k.code || p.Status != k.http || strings.Contains(p.Message, "secret") {
			t.Errorf("%v: got %+v (%v), want %s, %d", k.body, p, err, k.code, k.http)
		}
	}
	if _, err := Ask[map[string]string](t.Context(), c, "POST /v1/none", nil); err == nil {
		t.Error("an unknown call was answered")
	}
	wrong := NewClient(path, func(uid uint32) error { return &Problem{Code: "socket_owner", Message: fmt.Sprint(uid)} })
	_, err := Ask[map[string]string](t.Context(), wrong, "POST /v1/echo", nil)
	var p *Problem
	if !errors.As(err, &p) || p.Code != "socket_owner" || p.Message != fmt.Sprint(os.Getuid()) {
		t.Errorf("a socket of somebody else: got %v", err)
	}
}

// A socket is taken over only from nobody, and only if it is one.
func TestListen(t *testing.T) {
	dir, err := os.MkdirTemp("", "cs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "a.sock")
	ln, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if at, err := os.Stat(path); err != nil || at.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", at.Mode(), err)
	}
	if _, err := Listen(path, 0o600); err == nil {
		t.Error("a socket that answers was taken over")
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	if ln, err = Listen(path, 0o600); err != nil {
		t.Errorf("one that nobody answers was not taken over: %v", err)
	} else {
		ln.Close()
	}
	file := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, 0o600); err == nil {
		t.Error("a file was taken for a socket")
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
		t.Errorf("the file is %q, %v", b, err)
	}
	var p *Problem
	if _, err := Listen("/tmp/"+strings.Repeat("x", 120), 0o600); !errors.As(err, &p) || p.Code != "socket_path" || len(p.Hints) == 0 {
		t.Errorf("a long path: %v", err)
	}
}

// A caller that connects and says nothing holds nobody up at the end.
func TestServeEnds(t *testing.T) {
	path := serve(t, Guard{Owner: uint32(os.Getuid()), Node: true})
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() }) // before the end of Serve
}
