package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/attest"
	"countersign.dev/internal/snapshot"
)

func withPort(port uint16) func(*admin.RunRequest) {
	return func(r *admin.RunRequest) { r.Ports = []admin.RunPort{{Number: port, Protocol: "http"}} }
}

// A program's life: identity, ready once its port answers, gone with it.
func TestRun(t *testing.T) {
	m := newMesh(t)
	port := freePort(m)
	s := m.start(request("web", withPort(port)))
	if i := m.instances(); len(i) != 0 {
		t.Fatalf("registered before it began: %+v", i)
	}
	program := child(t, listenVar+"="+strconv.Itoa(int(port)))
	s.tell(admin.RunMessage{Started: program.Process.Pid})
	s.tell(admin.RunMessage{Started: program.Process.Pid}) // said twice it is one program
	m.until("a ready instance", func() bool { i := m.instances(); return len(i) == 1 && i[0].State == snapshot.Ready })
	i := m.instances()[0]
	if i.Node != "a" || i.Owner != "spiffe://cluster.local/ns/shop/sa/web" || i.Services[0] != "shop/web" || i.Ports[0] != (snapshot.Port{Number: 80, Target: port, Protocol: "http"}) {
		t.Errorf("got %+v", i)
	}
	ended := 0
	s.tell(admin.RunMessage{Ended: &ended})
	m.until("no instance", func() bool { return len(m.instances()) == 0 })
	for {
		if last, err := s.next(); err != nil {
			break
		} else if last.Draining || last.Refused != nil {
			t.Errorf("an ordinary end says %+v", last)
		}
	}
	if m.n.Running() != 0 {
		t.Error("the run is still there")
	}
	// A run that is killed says nothing: its connection ends.
	s = m.start(request("web", withPort(port)))
	s.tell(admin.RunMessage{Started: program.Process.Pid})
	m.until("a ready instance", func() bool { i := m.instances(); return len(i) == 1 && i[0].State == snapshot.Ready })
	s.conn.Close()
	m.until("no instance", func() bool { return len(m.instances()) == 0 })
}

// offer starts a program with a port and waits until it can be called.
func (m *mesh) offer(name string) *session {
	m.t.Helper()
	port := freePort(m)
	s := m.start(request(name, withPort(port)))
	s.tell(admin.RunMessage{Started: child(m.t, listenVar+"="+strconv.Itoa(int(port))).Process.Pid})
	m.until(name+" ready", func() bool {
		return slices.ContainsFunc(m.instances(), func(i snapshot.Instance) bool {
			return i.Services[0] == "shop/"+name && i.State == snapshot.Ready
		})
	})
	return s
}

// A node that ends tells its runs, and the registry before it loses the server.
func TestNodeEnds(t *testing.T) {
	m := newMesh(t)
	s := m.offer("web")
	m.end()
	if got := s.read(); !got.Draining {
		t.Errorf("got %+v", got)
	}
	if got, err := s.next(); err == nil {
		t.Errorf("the session goes on with %+v", got)
	}
	if i := m.instances(); len(i) != 0 {
		t.Errorf("left in the registry: %+v", i)
	}
}

// A break of the stream changes nothing in the registry; what ended meanwhile goes with the
// next one (registry.md G13).
func TestReattach(t *testing.T) {
	m := newMesh(t)
	m.offer("web")
	other := m.offer("other")
	before := m.instances()
	revision := func() int64 {
		st, err := m.st.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.Revision
	}
	rev := revision()
	m.cut()
	for !m.dialled() || !m.n.InTouch() {
		runtime.Gosched()
	}
	m.start(request("job")).conn.Close() // comes after the report of the new stream
	if now := m.instances(); !reflect.DeepEqual(now, before) {
		t.Errorf("instances are %+v, were %+v", now, before)
	}
	for _, i := range before {
		kv, err := m.st.Get(t.Context(), "instance/a/"+i.ID)
		if err != nil || kv.Mod > rev {
			t.Errorf("instance of %s was written again at %d, after %d (%v)", i.Services[0], kv.Mod, rev, err)
		}
	}
	m.cut()
	other.conn.Close()
	m.until("one instance", func() bool { i := m.instances(); return len(i) == 1 && i[0].Services[0] == "shop/web" })
}

// What is no run of ours is refused before anything is granted.
func TestRunRefused(t *testing.T) {
	m := newMesh(t)
	m.apply("theirs", "{selectors: ['run:shop/theirs', 'unix:uid:4242'], nodes: [['node:name:a']]}")
	m.apply("daemon", "{selectors: ['unix:path:/no/such/program'], nodes: any}")
	m.apply("elsewhere", "{selectors: ['run:shop/elsewhere'], nodes: [['node:name:b']]}")
	for name, c := range map[string]struct {
		req  admin.RunRequest
		want string
	}{
		"a bad name":         {request("Web"), "name_invalid"},
		"a bad namespace":    {request("web", func(r *admin.RunRequest) { r.Namespace = "a/b" }), "name_invalid"},
		"the reserved one":   {request("web", func(r *admin.RunRequest) { r.Namespace = "countersign" }), "name_invalid"},
		"no secret":          {request("web", func(r *admin.RunRequest) { r.Secret = "x" }), "bad_request"},
		"too many listeners": {request("web", func(r *admin.RunRequest) { r.Listen = make([]string, maxListeners) }), "bad_request"},
		"port 0":             {request("web", withPort(0)), "bad_request"},
		"too many ports":     {request("web", func(r *admin.RunRequest) { r.Ports = make([]admin.RunPort, maxPorts+1) }), "bad_request"},
		"TestSecNameSquat":   {request("theirs"), "name_owned"},
		"no run of ours":     {request("daemon"), "no_entry"},
		"not here":           {request("elsewhere"), "node_not_admitted"},
	} {
		_, err := m.open(c.req)
		var p *admin.Problem
		if !errors.As(err, &p) || p.Code != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	if m.n.Running() != 0 {
		t.Error("something runs")
	}
}

// TestSecRunDescriptors: of what a descriptor can be, only listening TCP sockets are taken, the
// proxy's only on loopback, and exactly as many as were promised.
func TestSecRunDescriptors(t *testing.T) {
	m := newMesh(t)
	loopback := func() *os.File { return m.file(m.tcp("127.0.0.1:0")) }
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ln := m.tcp("127.0.0.1:0")
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	unixSocket := m.socket("other.sock")
	wide := m.file(m.tcp(":0"))
	listen := func(r *admin.RunRequest) { r.Listen = []string{"0.0.0.0:0"}; withPort(8081)(r) }
	for _, c := range []struct {
		name  string
		req   admin.RunRequest
		say   int
		files []*os.File
		ok    bool
	}{
		{"one on loopback", request("web"), 1, []*os.File{loopback()}, true},
		{"its own listener, open to all", request("web", listen), 2, []*os.File{loopback(), wide}, true},
		{"none", request("web"), 1, nil, false},
		{"none and none promised", request("web"), 0, nil, false},
		{"one too many", request("web"), 2, []*os.File{loopback(), loopback()}, false},
		{"one too few", request("web", listen), 1, []*os.File{loopback()}, false},
		{"fewer than said", request("web", listen), 2, []*os.File{loopback()}, false},
		{"many", request("web"), 1, append(make([]*os.File, 0), loopback(), loopback(), loopback(), loopback(), loopback(), loopback(), loopback(), loopback(), loopback(), loopback(), loopback(), loopback(), loopback(), loopback(), loopback(), loopback(), loopback()), false},
		{"UDP", request("web"), 1, []*os.File{m.file(udp.(*net.UDPConn))}, false},
		{"a connection", request("web"), 1, []*os.File{m.file(dialled.(*net.TCPConn))}, false},
		{"a unix listener", request("web"), 1, []*os.File{m.file(unixSocket)}, false},
		{"a file", request("web"), 1, []*os.File{file}, false},
		{"a proxy open to all", request("web"), 1, []*os.File{wide}, false},
	} {
		s, err := m.open(c.req)
		if err != nil {
			t.Fatal(err)
		}
		s.hand(admin.RunMessage{Listeners: c.say}, c.files...)
		got := s.read()
		if c.ok != got.Ready || !c.ok && (got.Refused == nil || got.Refused.Code != "listeners") {
			t.Errorf("%s: got %+v", c.name, got)
		}
		s.conn.Close()
	}
	s, err := m.open(request("web"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.conn.Write([]byte("}{ no json\n")); err != nil {
		t.Fatal(err)
	}
	if got := s.read(); got.Refused == nil {
		t.Errorf("no line at all: got %+v", got)
	}
}

// TestSecRunIsNotAdmin: what runs below a run is answered by no administrative socket; `run`
// itself and whoever typed it are.
func TestSecRunIsNotAdmin(t *testing.T) {
	m := newMesh(t)
	ask := func() string {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), askVar+"="+filepath.Join(m.run, "node.sock"))
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if got := ask(); got != "answered" {
		t.Fatalf("before a run: got %s", got)
	}
	s := m.start(request("web"))
	if got := ask(); got != "in_run" {
		t.Errorf("below a run: got %s", got)
	}
	if _, err := m.open(request("other")); err != nil {
		t.Errorf("beside a run: %v", err)
	}
	s.conn.Close()
}

// Deleting or narrowing a Workload takes the identity from what runs, at once.
func TestWorkloadGoes(t *testing.T) {
	m := newMesh(t)
	uid := strconv.Itoa(os.Getuid())
	for name, c := range map[string]struct {
		change func()
		want   string
	}{
		"deleted":       {func() { m.remove("web") }, "workload_deleted"},
		"narrowed":      {func() { m.apply("web", "{selectors: ['run:shop/web', 'unix:uid:4242'], nodes: [['node:name:a']]}") }, "workload_changed"},
		"moved":         {func() { m.apply("web", "{selectors: ['run:shop/web'], nodes: [['node:name:b']]}") }, "workload_deleted"},
		"another's now": {func() { m.apply("web", "{serviceAccount: other, selectors: ['run:shop/web'], nodes: any}") }, "workload_changed"},
	} {
		m.apply("web", "{selectors: ['run:shop/web', 'unix:uid:"+uid+"'], nodes: [['node:name:a']]}")
		s := m.start(request("web"))
		c.change()
		got := s.read()
		if got.Refused == nil || got.Refused.Code != c.want {
			t.Errorf("%s: got %+v, want %s", name, got, c.want)
		}
		if m, err := s.next(); err == nil {
			t.Errorf("%s: the session goes on with %+v", name, m)
		}
		if name == "deleted" && m.n.svids.current("shop/web") != nil {
			t.Error("the key of a deleted Workload is kept")
		}
	}
}

// Labels are facts that policy selects by: what runs is taken up anew with the new ones.
func TestLabelsChange(t *testing.T) {
	m := newMesh(t)
	m.apply("web", "{selectors: ['run:shop/web'], nodes: any}")
	s := m.start(request("web"))
	m.apply("web", "{selectors: ['run:shop/web'], nodes: any, ttl: 2h}") // nothing that a run is made of
	doc := "web, labels: {app: web, tier: front}"
	m.apply(doc, "{selectors: ['run:shop/web'], nodes: any}")
	if got, err := s.next(); err == nil && got.Refused != nil {
		t.Errorf("got %+v: it may come back", got)
	}
	again := m.start(request("web"))
	m.changed("every run has the labels of now", func() bool { // the one of before may still be on its way out
		return !slices.ContainsFunc(m.n.allRuns(), func(x *run) bool { return x.entry.Labels["tier"] != "front" })
	})
	again.conn.Close()
}

// What the Workload API says: nothing to a stranger, its identity to what runs below a run.
func TestState(t *testing.T) {
	m := newMesh(t)
	program := child(t, listenVar+"=0")
	proc, err := attest.OpenPID(program.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	state := func() []string {
		st, err := m.n.State(t.Context(), proc.Facts(), proc)
		if err != nil {
			t.Fatal(err)
		}
		if st.Refusal != nil {
			return []string{st.Refusal.Reason}
		}
		var ids []string
		for _, s := range st.SVIDs {
			if len(s.Key) == 0 || len(s.Chain) != 2 {
				t.Errorf("got an SVID of %d keys bytes, %d certificates", len(s.Key), len(s.Chain))
			}
			ids = append(ids, strings.TrimPrefix(s.ID, "spiffe://cluster.local/ns/shop/sa/"))
		}
		return ids
	}
	expect := func(when, want string) {
		t.Helper()
		if got := strings.Join(state(), " "); got != want {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
	}
	expect("a stranger", "no_entry")
	s := m.start(request("web"))
	expect("below a run", "web")
	own, err := attest.OpenPID(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if st, err := m.n.State(t.Context(), own.Facts(), own); err != nil || st.Refusal == nil {
		t.Errorf("run itself is of its run: %+v, %v", st.SVIDs, err)
	}
	m.apply("any", "{selectors: ['unix:uid:"+strconv.Itoa(os.Getuid())+"'], nodes: any}")
	m.changed("the entry", func() bool { _, ok := m.n.entry("shop/any"); return ok })
	expect("two", "web any")
	s.conn.Close()
	m.changed("the end of the run", func() bool { return m.n.Running() == 0 })
	expect("after the run", "any")
	m.apply("theirs", "{selectors: ['unix:uid:"+strconv.Itoa(os.Getuid())+"'], nodes: any, expires: '2020-01-01T00:00:00Z'}")
	m.remove("any")
	m.changed("its end", func() bool { _, ok := m.n.entry("shop/any"); return !ok })
	expect("an entry that ended", "entry_expired")
}

// A program that opened another port than it said hears which (cli.md 9.4).
func TestNotListening(t *testing.T) {
	m := newMesh(t)
	port, other := freePort(m), freePort(m)
	s := m.start(request("web", withPort(port)))
	x := m.n.allRuns()[0]
	if got := x.notListening(); got.Hints[0] != "countersign status" {
		t.Errorf("got %+v", got)
	}
	child(t, listenVar+"="+strconv.Itoa(int(other)))
	got := x.notListening()
	if want := fmt.Sprintf("nothing of web listens on %d yet; it listens on %d", port, other); got.Text != want {
		t.Errorf("got %q, want %q", got.Text, want)
	}
	if want := fmt.Sprintf("countersign run shop/web --port %d -- ", other); !strings.HasPrefix(got.Hints[0], want) {
		t.Errorf("got %q, want %q", got.Hints[0], want)
	}
	s.conn.Close()
}

// The node says at the end whether a call came to the proxy listener.
func TestCalled(t *testing.T) {
	m := newMesh(t)
	for _, calls := range []bool{false, true} {
		ln := m.tcp("127.0.0.1:0")
		s, err := m.open(request("web"))
		if err != nil {
			t.Fatal(err)
		}
		s.hand(admin.RunMessage{Listeners: 1}, m.file(ln))
		if got := s.read(); !got.Ready {
			t.Fatalf("got %+v", got)
		}
		if calls {
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			x := m.n.allRuns()[0]
			m.until("a call", x.called.Load)
		}
		status := 1
		s.tell(admin.RunMessage{Ended: &status})
		if got := s.read(); got.Called == nil || *got.Called != calls {
			t.Errorf("calls %v: got %+v", calls, got)
		}
		m.until("no run", func() bool { return m.n.Running() == 0 })
	}
}
