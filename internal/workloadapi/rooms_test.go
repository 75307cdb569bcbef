package workloadapi

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/attest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// sec-limits-no-lockout: a user who fills the strangers' room pushes out himself alone.
func TestStrangersRoom(t *testing.T) {
	r := newRooms()
	next := 0
	enter := func(uid uint32) *caller {
		next++
		c := &caller{UnixConn: &net.UnixConn{}, pid: next, uid: uid, since: time.Unix(int64(next), 0), rooms: r}
		if err := r.enter(c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	quiet := enter(1)
	worker := enter(2)
	r.known(worker)
	greedy := enter(2)
	for range 2 * maxStrangers {
		enter(2)
	}
	if quiet.place != amongStrangers || worker.place != amongKnown {
		t.Errorf("the flood of user 2 moved others: %v, %v", quiet.place, worker.place)
	}
	if greedy.place != outside || r.waiting != maxStrangers || r.total != maxStrangers+1 {
		t.Errorf("oldest of the flood is %v, %d strangers, %d in all", greedy.place, r.waiting, r.total)
	}
	r.stranger(worker)
	if worker.place != amongKnown {
		t.Error("a full room took one more")
	}
	quiet.Close()
	r.stranger(worker)
	if worker.place != amongStrangers {
		t.Error("a known one who lost its identity is no stranger")
	}
	worker.Close()
	r.stranger(worker)
	r.known(worker)
	if worker.place != outside || r.waiting != maxStrangers-1 || r.byUID[1] != 0 {
		t.Errorf("after leaving: %v, %d strangers", worker.place, r.waiting)
	}
}

func TestConnectionBounds(t *testing.T) {
	r := newRooms()
	fill := func(n int, ids func(i int) (int, uint32)) (refused error) {
		for i := range n {
			pid, uid := ids(i)
			c := &caller{UnixConn: &net.UnixConn{}, pid: pid, uid: uid, rooms: r}
			if err := r.enter(c); err != nil {
				return err
			}
			r.known(c)
		}
		return nil
	}
	if err := fill(maxPerPID, func(int) (int, uint32) { return 1, 1 }); err != nil {
		t.Error(err)
	}
	if err := fill(1, func(int) (int, uint32) { return 1, 1 }); err == nil {
		t.Error("one process has more than its bound")
	}
	if err := fill(maxPerUID-maxPerPID, func(i int) (int, uint32) { return 10 + i, 1 }); err != nil {
		t.Error(err)
	}
	if err := fill(1, func(int) (int, uint32) { return 9, 1 }); err == nil {
		t.Error("one user has more than its bound")
	}
	if err := fill(maxConns-maxPerUID, func(i int) (int, uint32) { return 10_000 + i, uint32(2 + i/1000) }); err != nil {
		t.Error(err)
	}
	if err := fill(1, func(int) (int, uint32) { return 8, 9 }); err == nil {
		t.Error("all have more than their bound")
	}
}

func TestRefusalText(t *testing.T) {
	f := attest.Facts{Selectors: []string{"unix:gid:1", "unix:path:/opt/p", "unix:uid:1", "unix:user:p"}}
	for _, c := range []struct {
		r    Refusal
		want string
		code codes.Code
	}{
		{Refusal{Reason: "no_entry", Text: "no Workload matches this process"}, "no identity issued: no Workload matches this process (unix:uid:1 unix:user:p unix:path:/opt/p unix:gid:1)", codes.PermissionDenied},
		{Refusal{Reason: "banned", Text: "x", Selectors: []string{"run:a/b"}}, "no identity issued: x (run:a/b)", codes.PermissionDenied},
		{Refusal{Reason: "unissuable", Text: "x", Selectors: []string{}}, "no identity issued: x", codes.Unavailable},
		{Refusal{Text: "x", Selectors: []string{"a:" + strings.Repeat("b", 599), "c:d"}}, "no identity issued: x (… 2 selectors)", codes.PermissionDenied},
		{Refusal{Text: strings.Repeat("é", 2000), Selectors: []string{"a:b"}}, "no identity issued: " + strings.Repeat("é", 497) + "… (a:b)", codes.PermissionDenied},
	} {
		got := status.Convert(refusalStatus(f, c.r))
		if got.Message() != c.want || got.Code() != c.code || len(got.Message()) > maxText {
			t.Errorf("got %v %q,\nwant %v %q", got.Code(), got.Message(), c.code, c.want)
		}
	}
}

func TestListen(t *testing.T) {
	dir, err := os.MkdirTemp("", "wl")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o666 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("a socket that answers was taken over")
	}
	l.SetUnlinkOnClose(false) // as after SIGKILL
	l.Close()
	if l, err = Listen(path); err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("a file was removed")
	}
	if _, err := Listen(filepath.Join(dir, strings.Repeat("x", 107))); err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("a path that does not fit: %v", err)
	}
}
