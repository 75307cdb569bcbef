package attest

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// families are the ways a loopback connection can be spelled.
var families = []struct{ name, listen string }{
	{"IPv4", "127.0.0.1:0"},
	{"IPv4 on a dual-stack wildcard", "[::]:0"},
	{"IPv4 wildcard", "0.0.0.0:0"},
	{"IPv6", "[::1]:0"},
}

func dialable(l *net.TCPListener) string {
	a := l.Addr().(*net.TCPAddr).AddrPort()
	if a.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.Port()).String()
	}
	return a.String()
}

func TestSockets(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			l := tcpListener(t, f.listen)
			dialled := dialTCP(t, dialable(l))
			port := dialled.RemoteAddr().(*net.TCPAddr).AddrPort()

			s, err := PeerSocket(dialled)
			if err != nil || !s.Found || s.Inode != 0 {
				t.Errorf("not accepted yet: %+v, %v, want found without inode", s, err)
			}
			accepted := acceptTCP(t, l)
			client, err := PeerSocket(accepted)
			if err != nil || !client.Found || client.UID != uint32(os.Geteuid()) || client.Inode == 0 {
				t.Errorf("client's end: %+v, %v", client, err)
			}
			server, err := PeerSocket(dialled)
			if err != nil || !server.Found || server.UID != uint32(os.Geteuid()) || server.Inode == 0 || server.Inode == client.Inode {
				t.Errorf("accepted socket: %+v, %v", server, err)
			}
			listener, err := ListenSocket(port)
			if err != nil || !listener.Found || listener.UID != uint32(os.Geteuid()) || listener.Inode == 0 {
				t.Errorf("listener: %+v, %v", listener, err)
			}
			if pid, comm, ok := HolderOf(client.Inode); !ok || pid != os.Getpid() || comm == "" {
				t.Errorf("holder of the client's socket: %d %q %v", pid, comm, ok)
			}
			if !Established(accepted) {
				t.Error("not established")
			}
			// The client reset: its port is free for others, and our end must say so.
			if err := dialled.SetLinger(0); err != nil {
				t.Fatal(err)
			}
			dialled.Close()
			if _, err := accepted.Read(make([]byte, 1)); err == nil {
				t.Error("read after a reset")
			}
			if Established(accepted) {
				t.Error("established after a reset")
			}
			l.Close()
			if s, err := ListenSocket(port); err != nil || s.Found {
				t.Errorf("listener after its end: %+v, %v", s, err)
			}
		})
	}
}

// A closed client's place must not be filled by the listener on the same port.
func TestPeerIsNoListener(t *testing.T) {
	l := tcpListener(t, "127.0.0.1:0")
	other := tcpListener(t, "127.0.0.1:0")
	// Dialled from the port that is being listened on, closed, and asked again.
	d := net.Dialer{LocalAddr: other.Addr()}
	other.Close()
	c, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted := acceptTCP(t, l)
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
	tcpListener(t, other.Addr().String())
	if s, err := PeerSocket(accepted); err != nil || s.Found {
		t.Errorf("got %+v, %v: the listener was taken for the peer", s, err)
	}
}

// Most specific: a listener on the address comes before one on the wildcard.
func TestListenSocketMostSpecific(t *testing.T) {
	wide := tcpListener(t, "0.0.0.0:0")
	port := wide.Addr().(*net.TCPAddr).AddrPort().Port()
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), port)
	before, err := ListenSocket(at)
	if err != nil || !before.Found {
		t.Fatalf("wildcard: %+v, %v", before, err)
	}
	c := startChild(t) // the wildcard's owner may not bind it twice without SO_REUSEADDR; Go sets that
	c.send("listen %s", at)
	line, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	after, err := ListenSocket(at)
	if err != nil || !after.Found {
		t.Fatalf("after: %+v, %v", after, err)
	}
	// Linux refuses the second bind while the first listens; where it allows it, it wins.
	if taken := strings.HasPrefix(line, "ok"); taken != (after.Inode != before.Inode) {
		t.Errorf("second listener: %q, but inode %d then %d", line, before.Inode, after.Inode)
	}
}

func TestHeldBelow(t *testing.T) {
	l := tcpListener(t, "127.0.0.1:0")
	run := startChild(t)
	run.do("reap")
	for _, depth := range []string{"child", "grandchild", "daemon"} {
		command := "start"
		if depth == "daemon" {
			command = "orphan"
		}
		pid := run.number(command)
		if command == "orphan" {
			// The last "start"ed process ended; the daemon hangs below run.
			if below, err := Below(pid, run.pid()); err != nil || !below {
				t.Fatalf("daemon: %v, %v", below, err)
			}
		}
		run.do("dial tcp %s", l.Addr())
		s, err := PeerSocket(acceptTCP(t, l))
		if err != nil || s.Inode == 0 {
			t.Fatalf("%s: %+v, %v", depth, s, err)
		}
		for _, c := range []struct {
			ancestor int
			want     bool
		}{{run.pid(), true}, {os.Getpid(), true}, {pid, false}, {1 << 30, false}} {
			if held, err := HeldBelow(s.Inode, c.ancestor); err != nil || held != c.want {
				t.Errorf("%s %d: held below %d = %v, %v, want %v", depth, pid, c.ancestor, held, err, c.want)
			}
		}
		all, err := descendants(run.pid())
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 0 || all[len(all)-1] == run.pid() {
			t.Errorf("%s: descendants %v", depth, all)
		}
	}
	if held, err := HeldBelow(0, 1); held || err != nil {
		t.Errorf("inode 0 is held: %v, %v", held, err)
	}
}

// The four methods of Run against a program of the run, and against ourselves, who are not of
// it but have its uid.
func TestRun(t *testing.T) {
	run := startChild(t)
	run.do("start")
	r := Run{UID: uint32(os.Geteuid()), PID: run.pid()}
	foreign := Run{UID: r.UID + 1, PID: run.pid()} // the same run, had another user started it
	l := tcpListener(t, "127.0.0.1:0")

	t.Run("caller of the run", func(t *testing.T) {
		run.do("dial tcp %s", l.Addr())
		c := acceptTCP(t, l)
		for name, err := range map[string]error{
			"without secret": r.Caller(c), "with secret": r.CallerWithSecret(c),
			"held, other uid": foreign.Caller(c), "held, other uid, secret": foreign.CallerWithSecret(c),
		} {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		run.do("close")
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Fatal("not closed")
		}
		wantErr(t, "closed, without secret", r.Caller(c), ErrGone)
		wantErr(t, "closed, with secret", r.CallerWithSecret(c), ErrGone)
	})
	t.Run("another caller", func(t *testing.T) {
		dialTCP(t, l.Addr().String())
		c := acceptTCP(t, l)
		wantErr(t, "same uid, without secret", r.Caller(c), ErrNotRun)
		if err := r.CallerWithSecret(c); err != nil {
			t.Errorf("same uid, with secret: %v", err)
		}
		wantErr(t, "other uid, with secret", foreign.CallerWithSecret(c), ErrNotRun) // sec-secret-other-uid
	})
	t.Run("port of the run", func(t *testing.T) {
		c := dialTCP(t, run.do("listen 127.0.0.1:0"))
		for name, r := range map[string]Run{"uid": r, "held": foreign} {
			if err := r.Port(c); err != nil { // the listener decides
				t.Errorf("%s, not accepted: %v", name, err)
			}
		}
		run.do("accept")
		for name, r := range map[string]Run{"uid": r, "held": foreign} {
			if err := r.Port(c); err != nil {
				t.Errorf("%s, accepted: %v", name, err)
			}
		}
	})
	t.Run("port of another", func(t *testing.T) { // sec-unaccepted-port
		c := dialTCP(t, l.Addr().String())
		err := foreign.Port(c)
		wantErr(t, "listener only", err, ErrNotRun)
		if err == nil || !strings.Contains(err.Error(), "held by process ") {
			t.Errorf("the holder is not named: %v", err)
		}
		acceptTCP(t, l)
		wantErr(t, "accepted", foreign.Port(c), ErrNotRun)
	})
	t.Run("accepted by another, who left", func(t *testing.T) { // sec-unaccepted-port
		c := dialTCP(t, l.Addr().String())
		acceptTCP(t, l).Close()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Fatal("not closed")
		}
		wantErr(t, "closed", r.Port(c), ErrGone)
		wantErr(t, "closed, second look", r.stillQueued(c), ErrGone)
	})
	t.Run("accepted by another between the looks", func(t *testing.T) { // sec-unaccepted-port
		c := dialTCP(t, l.Addr().String())
		acceptTCP(t, l)
		wantErr(t, "second look", foreign.stillQueued(c), ErrNotRun)
	})
	t.Run("kept back until data comes", func(t *testing.T) {
		l := tcpListener(t, "127.0.0.1:0")
		deferAccept(t, l)
		if err := r.Port(dialTCP(t, l.Addr().String())); err != nil {
			t.Errorf("deferred: %v", err)
		}
	})
	t.Run("port that ended", func(t *testing.T) {
		l := tcpListener(t, "127.0.0.1:0")
		c := dialTCP(t, l.Addr().String())
		l.Close()
		wantErr(t, "nobody listens", r.Port(c), ErrGone)
	})
}

func BenchmarkPeerSocket(b *testing.B) {
	l := tcpListener(b, "127.0.0.1:0")
	dialTCP(b, l.Addr().String())
	c := acceptTCP(b, l)
	b.ReportAllocs()
	for b.Loop() {
		if s, err := PeerSocket(c); err != nil || !s.Found {
			b.Fatal(s, err)
		}
	}
}

func BenchmarkListenSocket(b *testing.B) {
	addr := tcpListener(b, "127.0.0.1:0").Addr().(*net.TCPAddr).AddrPort()
	b.ReportAllocs()
	for b.Loop() {
		if s, err := ListenSocket(addr); err != nil || !s.Found {
			b.Fatal(s, err)
		}
	}
}

// What a run listens on: the ports of its descendants, not its own, nor what is connected.
func TestListeningBelow(t *testing.T) {
	for _, f := range families {
		run := startChild(t)
		run.do("listen 127.0.0.1:0")
		run.number("start")
		at, err := netip.ParseAddrPort(run.do("listen %s", f.listen))
		if err != nil {
			t.Fatal(err)
		}
		if got := ListeningBelow(run.pid()); len(got) != 1 || got[0] != at.Port() {
			t.Errorf("%s: got %v, want %d", f.name, got, at.Port())
		}
	}
}

func BenchmarkHeldBelow(b *testing.B) {
	l := tcpListener(b, "127.0.0.1:0")
	dialTCP(b, l.Addr().String())
	s, err := PeerSocket(acceptTCP(b, l))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("child", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if held, err := HeldBelow(s.Inode, os.Getppid()); err != nil || !held {
				b.Fatal(held, err)
			}
		}
	})
	b.Run("nobody", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if held, err := HeldBelow(s.Inode, os.Getpid()); err != nil || held {
				b.Fatal(held, err)
			}
		}
	})
}

func BenchmarkRecheck(b *testing.B) {
	p, err := OpenPID(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Recheck(); err != nil {
			b.Fatal(err)
		}
	}
}

func deferAccept(t *testing.T, l *net.TCPListener) {
	t.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 10)
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}
