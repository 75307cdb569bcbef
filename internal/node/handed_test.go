package node

import (
	"net"
	"testing"
	"time"
)

// Who calls a socket that was handed over and that no Gateway wants is turned away at once; who calls it while one wants
// it is left to that.
func TestIdleSocketTurnsAway(t *testing.T) {
	under, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer under.Close()
	file, err := under.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	at := under.Addr().(*net.TCPAddr).AddrPort()
	all, want := []Inherited{{File: file, Addr: at.Addr(), Port: at.Port()}}, false
	wanted := func(port uint16) bool { return want && port == at.Port() }
	var s idleSockets
	defer s.close()
	hangs := func() bool {
		t.Helper()
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, err = c.Read(make([]byte, 1))
		nerr, ok := err.(net.Error)
		return ok && nerr.Timeout()
	}
	for range 2 {
		s.settle(t.Context(), all, wanted)
		if hangs() {
			t.Fatal("nobody answers, and the caller waits")
		}
		want = true
		s.settle(t.Context(), all, wanted)
		if !hangs() {
			t.Fatal("a connection for a Gateway was turned away")
		}
		c, err := under.Accept() // it is the Gateway's
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		want = false
	}
}
