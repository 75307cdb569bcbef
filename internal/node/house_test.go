package node

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/memnet"
	"countersign.dev/internal/registry"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/server"
	"countersign.dev/internal/snapshot"
	"countersign.dev/internal/store"
	"countersign.dev/internal/telemetry"
)

// What this test binary does when it is started as a program of its own.
const (
	listenVar = "COUNTERSIGN_TEST_LISTEN" // listen on this port until stdin ends
	askVar    = "COUNTERSIGN_TEST_ASK"    // ask this node.sock for its status, print the code
	edgeVar   = "COUNTERSIGN_TEST_EDGE"   // ask this admin.sock for the Gateways, print them
	routeVar  = "COUNTERSIGN_TEST_ROUTE"  // ask this admin.sock about each request on stdin, print the verdicts
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(listenVar) != "":
		ln, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv(listenVar))
		if err != nil {
			fmt.Println(err)
			return
		}
		defer ln.Close()
		fmt.Println("listening")
		bufio.NewReader(os.Stdin).ReadByte()
	case os.Getenv(askVar) != "":
		c := admin.NewClient(os.Getenv(askVar), func(uint32) error { return nil })
		_, err := admin.Ask[admin.LocalStatus](context.Background(), c, "POST /v1/status", struct{}{})
		fmt.Print(code(err))
	case os.Getenv(routeVar) != "":
		c := admin.NewClient(os.Getenv(routeVar), func(uint32) error { return nil })
		for in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout); ; {
			var q admin.RouteTest
			if in.Decode(&q) != nil {
				return
			}
			v, err := admin.Ask[admin.RouteVerdict](context.Background(), c, "POST /v1/route/test", q)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			out.Encode(v)
		}
	case os.Getenv(edgeVar) != "":
		c := admin.NewClient(os.Getenv(edgeVar), func(uint32) error { return nil })
		list, err := admin.Ask[admin.Objects](context.Background(), c, "POST /v1/objects", admin.Query{Kind: "Gateway"})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for _, o := range list.Objects {
			fmt.Println(o.JSON)
		}
	default:
		os.Exit(m.Run())
	}
}

func code(err error) string {
	var p *admin.Problem
	switch {
	case err == nil:
		return "answered"
	case errors.As(err, &p):
		return p.Code
	}
	return err.Error()
}

// child starts this binary as a program and waits for its first line.
func child(t *testing.T, env string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "listening\n" {
		t.Fatalf("the program says %q, %v", line, err)
	}
	return cmd
}

// mesh is a server and one node, wired as `up` wires them, over a store that tests may write.
type mesh struct {
	t   *testing.T
	st  *store.Mem
	n   *Node
	run string // the run directory
	end func() // of the node

	mu    sync.Mutex // guards conns, for an append
	conns []net.Conn // of the node with its server

	sealer *store.Sealer
}

func newMesh(t *testing.T, edits ...func(*mesh, *Options)) *mesh {
	t.Helper()
	dir, err := os.MkdirTemp("", "cs") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &mesh{t: t, run: dir, st: store.Memory(store.MemoryOptions{})}
	t.Cleanup(func() { m.st.Close() })
	sealer, err := store.NewSealer(t.Context(), m.st, "default", bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	m.sealer = sealer
	log := slog.New(slog.DiscardHandler)
	metrics := telemetry.NewMetrics("test")
	srv, err := server.Open(t.Context(), server.Options{
		Dir: m.root("server"), Store: m.st, Sealer: sealer, Cluster: "default", Name: "s", SVIDTTL: time.Hour, Metrics: metrics, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	memory := memnet.Listen("server")
	m.serve(func(ctx context.Context, ready func()) error {
		return srv.Run(ctx, server.Listeners{Nodes: memory, Admin: m.socket("admin.sock")}, ready)
	})
	joinCode, err := srv.Invite(t.Context(), "a", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	nodeDir := m.root("node")
	lineage, err := OpenLineage(nodeDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lineage.Close)
	o := Options{Dir: nodeDir, Lineage: lineage, Code: joinCode, Name: "a", Dial: m.dial(memory), Metrics: metrics, Log: log, Down: func() {}, CertificateDirs: []string{m.certs()}}
	for _, edit := range edits {
		edit(m, &o)
	}
	if m.n, err = New(o); err != nil {
		t.Fatal(err)
	}
	m.end = m.serve(func(ctx context.Context, ready func()) error {
		return m.n.Run(ctx, Listeners{
			Inbound: m.tcp("127.0.0.1:0"), Node: m.socket("node.sock"), Workload: m.socket("workload.sock"), WorkloadAPI: filepath.Join(m.run, "workload.sock"),
		}, ready)
	})
	return m
}

func (m *mesh) dial(memory *memnet.Listener) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		c, err := memory.Dial(ctx)
		if err == nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.conns = append(m.conns, c)
		}
		return c, err
	}
}

func (m *mesh) dialled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.conns) > 0
}

// cut breaks the node's connection with its server.
func (m *mesh) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		c.Close()
	}
	m.conns = nil
}

// serve runs a part until the test or stop ends it, and waits for it both times.
func (m *mesh) serve(run func(context.Context, func()) error) (stop func()) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		m.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				m.t.Error(err)
			}
		case <-time.After(20 * time.Second):
			m.t.Error("a part does not end")
		}
	})
	m.t.Cleanup(stop)
	return stop
}

func (m *mesh) root(name string) *os.Root {
	m.t.Helper()
	path := filepath.Join(m.run, name)
	if err := os.MkdirAll(path, 0o700); err != nil {
		m.t.Fatal(err)
	}
	r, err := os.OpenRoot(path)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { r.Close() })
	return r
}

func (m *mesh) socket(name string) *net.UnixListener {
	m.t.Helper()
	ln, err := admin.Listen(filepath.Join(m.run, name), 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { ln.Close() })
	return ln
}

func (m *mesh) tcp(addr string) *net.TCPListener {
	m.t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// apply writes a Workload the way the server does.
func (m *mesh) apply(name, spec string) {
	m.t.Helper()
	doc := "apiVersion: countersign.dev/v1\nkind: Workload\nmetadata: {name: " + name + ", namespace: shop}\nspec: " + spec + "\n"
	objects, faults := resource.Decode([]resource.File{{Name: "x", Data: []byte(doc)}}, resource.Options{})
	if resource.Stops(faults) {
		m.t.Fatal(faults)
	}
	m.change(catalog.Change{Object: objects[0]})
}

func (m *mesh) change(ch catalog.Change) {
	m.t.Helper()
	c := catalog.New(m.st, m.sealer)
	known, _, err := c.All(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	if ch.Remove {
		ch.Object = known[catalog.Key(cmp.Or(ch.Object.Kind, "Workload"), cmp.Or(ch.Object.Namespace, "shop"), ch.Object.Name)].Object
	}
	p, err := c.Prepare(known, []catalog.Change{ch}, time.Now())
	if err != nil {
		m.t.Fatal(err)
	}
	if _, err := c.Commit(m.t.Context(), p); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) remove(name string) {
	m.t.Helper()
	m.change(catalog.Change{Object: resource.Object{Name: name}, Remove: true})
}

// instances are those in the registry, "state service …".
func (m *mesh) instances() (out []snapshot.Instance) {
	m.t.Helper()
	kvs, _, err := m.st.List(context.Background(), registry.InstancePrefix)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, kv := range kvs {
		i, err := registry.DecodeInstance(kv)
		if err != nil {
			m.t.Fatal(err)
		}
		out = append(out, i)
	}
	return out
}

// until waits for something that comes by itself, seen in the store.
func (m *mesh) until(what string, ok func() bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
	defer cancel()
	batches, err := m.st.Watch(ctx, "", 1)
	if err != nil {
		m.t.Fatal(err)
	}
	for {
		if ok() {
			return
		}
		if _, open := <-batches; !open {
			m.t.Fatalf("waiting for %s", what)
		}
	}
}

// changed waits for something that the node comes to know or to be.
func (m *mesh) changed(what string, ok func() bool) {
	m.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		changed := m.n.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			m.t.Fatalf("waiting for %s", what)
		}
	}
}

// session is the half of `run`.
type session struct {
	t     *testing.T
	conn  *net.UnixConn
	lines *bufio.Reader
}

func request(name string, edits ...func(*admin.RunRequest)) admin.RunRequest {
	r := admin.RunRequest{Namespace: "shop", Name: name, Command: []string{"./" + name}, Secret: strings.Repeat("5", 32)}
	for _, edit := range edits {
		edit(&r)
	}
	return r
}

// open asks for a session, up to the identity.
func (m *mesh) open(req admin.RunRequest) (*session, error) {
	m.t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(m.run, "node.sock"), Net: "unix"})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	body, err := json.Marshal(req)
	if err != nil {
		m.t.Fatal(err)
	}
	r, err := http.NewRequest("POST", "http://countersign/v1/run", bytes.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	if err := r.Write(conn); err != nil {
		m.t.Fatal(err)
	}
	s := &session{t: m.t, conn: conn, lines: bufio.NewReader(conn)}
	res, err := http.ReadResponse(s.lines, r)
	if err != nil {
		m.t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		var p admin.Problem
		if err := json.NewDecoder(res.Body).Decode(&p); err != nil {
			m.t.Fatal(err)
		}
		return nil, &p
	}
	if g := s.read().Granted; g == nil || !strings.HasPrefix(g.SPIFFEID, "spiffe://cluster.local/ns/shop/sa/") {
		m.t.Fatalf("granted %+v", g)
	}
	return s, nil
}

// start opens a session that is ready.
func (m *mesh) start(req admin.RunRequest) *session {
	m.t.Helper()
	s, err := m.open(req)
	if err != nil {
		m.t.Fatal(err)
	}
	s.hand(admin.RunMessage{Listeners: 1}, m.file(m.tcp("127.0.0.1:0")))
	if got := s.read(); !got.Ready {
		m.t.Fatalf("got %+v, want ready", got)
	}
	return s
}

func (s *session) read() admin.RunMessage {
	s.t.Helper()
	m, err := s.next()
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

func (s *session) next() (m admin.RunMessage, err error) {
	line, err := s.lines.ReadBytes('\n')
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(line, &m)
}

func (s *session) tell(m admin.RunMessage) {
	s.t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.conn.Write(append(b, '\n')); err != nil {
		s.t.Fatal(err)
	}
}

// hand sends a line with descriptors.
func (s *session) hand(m admin.RunMessage, files ...*os.File) {
	s.t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	if _, _, err := s.conn.WriteMsgUnix(append(b, '\n'), rights, nil); err != nil {
		s.t.Fatal(err)
	}
}

// file is a duplicate of a listener or connection.
func (m *mesh) file(c interface{ File() (*os.File, error) }) *os.File {
	m.t.Helper()
	f, err := c.File()
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { f.Close() })
	return f
}

func freePort(m *mesh) uint16 {
	ln := m.tcp("127.0.0.1:0")
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		m.t.Fatal(err)
	}
	return uint16(n)
}
