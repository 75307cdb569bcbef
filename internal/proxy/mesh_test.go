package proxy

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/telemetry"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	domain = "cluster.local"
	webID  = "spiffe://cluster.local/ns/default/sa/web"
	apiID  = "spiffe://cluster.local/ns/default/sa/api"
)

// facts is a Program whose answers a test sets; the zero facts say yes.
type facts struct{ caller, port atomic.Pointer[error] }

func (f *facts) Caller(*net.TCPConn) error { return load(&f.caller) }
func (f *facts) Port(*net.TCPConn) error   { return load(&f.port) }

func load(p *atomic.Pointer[error]) error {
	if err := p.Load(); err != nil {
		return *err
	}
	return nil
}

func no(text string) *error {
	err := errors.New(text)
	return &err
}

// node is one Proxy with its recorder and its inbound port.
type node struct {
	*Proxy
	t    testing.TB
	addr string
	log  *revocation.Log

	attach    func(*Run, Attach) (string, error) // set before calls
	rejected  func(Attach, string)               // set before calls
	pseudonym atomic.Pointer[func()]             // what happens when a token has been verified

	mu      sync.Mutex
	records []*audit.Record
	events  []Event
}

// mesh is a caller's node and a callee's node, real sockets and TLS between them, and the
// program api behind the second.
type mesh struct {
	t        testing.TB
	ca       *identitytest.Authority
	a, b     *node
	web, api *member
	program  *http.Server
	apiPort  uint16
	proxy    *url.URL

	mu    sync.Mutex
	state State
}

// member is one run and what a test may change about it.
type member struct {
	facts
	cfg  Run
	svid atomic.Pointer[SVID]
	stop func()
}

type setup struct {
	handler  http.Handler
	h2c      bool
	protocol string
	listen   bool
	mode     policy.Mode
	allow    []policy.Rule
}

func allowAll() []policy.Rule {
	return []policy.Rule{{From: []policy.Source{{Principals: []string{"cluster.local/ns/default/sa/web"}}}}}
}

func newNode(t testing.TB, name string) *node {
	t.Helper()
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	rec, err := audit.Open(audit.Options{
		Dir: dir, Node: "spiffe://cluster.local/ns/countersign/sa/node-" + name,
		DecisionKey: func() []byte { return []byte("0123456789abcdef") },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{t: t, log: revocation.NewLog()}
	n.Proxy = New(Options{
		Recorder: rec, Metrics: telemetry.NewMetrics("test"), Revoked: n.log,
		Attach:   func(_ context.Context, r *Run, a Attach) (string, error) { return n.attach(r, a) },
		Rejected: func(_ *Run, a Attach, token string) { n.rejected(a, token) },
		PseudonymKey: func() []byte {
			if f := n.pseudonym.Swap(nil); f != nil {
				(*f)()
			}
			return []byte("pseudonyms")
		},
	})
	var wait sync.WaitGroup
	wait.Go(func() { _ = rec.Run(ctx) })
	taps := rec.Tap(ctx, func(*audit.Record) bool { return true })
	wait.Go(func() {
		for tapped := range taps {
			n.mu.Lock()
			n.records = append(n.records, tapped.Record)
			n.mu.Unlock()
		}
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = ln.Addr().String()
	wait.Go(func() { _ = n.Serve(ctx, ln) })
	t.Cleanup(func() {
		cancel()
		wait.Wait()
		_ = rec.Close()
		_ = dir.Close()
	})
	return n
}

func newMesh(t testing.TB, s setup) *mesh {
	t.Helper()
	m := &mesh{t: t, ca: identitytest.New(t, domain, time.Now()), a: newNode(t, "a"), b: newNode(t, "b")}
	m.web, m.api = &member{}, &member{}
	m.startProgram(s)
	if s.protocol == "" {
		s.protocol = "http"
	}
	if s.allow == nil {
		s.allow = allowAll()
	}
	m.state = State{
		Trust: m.ca.Trust(), TrustDomain: domain, Namespaces: map[string]bool{"default": true, "shop": true},
		Services: map[ServiceKey]*Service{
			{"default", "api"}: {
				Namespace: "default", Name: "api", Owners: []string{apiID},
				Ports:     []ServicePort{{Number: 80, Target: m.apiPort, Protocol: s.protocol}, {Number: m.apiPort, Target: m.apiPort, Protocol: s.protocol}},
				Instances: []Instance{{ID: "api1", Owner: apiID, Addr: m.b.addr, State: "ready"}},
			},
			{"default", "other"}: {
				Namespace: "default", Name: "other", Owners: []string{"spiffe://cluster.local/ns/default/sa/other"},
				Ports: []ServicePort{{Number: 80, Target: 1, Protocol: "http"}},
			},
		},
	}
	m.policies(s.mode, s.allow)

	out, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.proxy = &url.URL{Scheme: "http", Host: out.Addr().String()}
	m.start(m.a, m.web, webID, "web", "web1", Run{Outbound: out, Secret: "s3cret"})
	own := Run{Ports: []Port{{Number: m.apiPort, Protocol: s.protocol}}}
	if s.listen {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		own.Listen = []net.Listener{ln}
	}
	m.start(m.b, m.api, apiID, "api", "api1", own)
	return m
}

func (m *mesh) startProgram(s setup) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	m.apiPort = uint16(ln.Addr().(*net.TCPAddr).Port)
	if s.handler == nil {
		s.handler = http.HandlerFunc(echo)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(s.h2c)
	m.program = &http.Server{Handler: s.handler, Protocols: &protocols, DisableGeneralOptionsHandler: true}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.program.Serve(ln)
	}()
	m.t.Cleanup(func() {
		_ = m.program.Close()
		<-done
	})
}

// echo answers with what arrived.
func echo(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("X-Countersign-Peer", "forged")
	w.Header().Set("X-Decision-Id", "forged")
	fmt.Fprintf(w, "%s %s %s\n", r.Method, r.RequestURI, r.Host)
	_ = r.Header.Write(w)
	fmt.Fprintf(w, "\n%s", b)
}

func (m *mesh) start(n *node, who *member, id, name, instance string, cfg Run) {
	m.t.Helper()
	m.renew(who, id, time.Hour)
	cfg.Namespace, cfg.Name, cfg.Instance, cfg.ID = "default", name, instance, spiffeid.RequireFromString(id)
	cfg.Labels = map[string]string{"app": name}
	cfg.Certificate = who.svid.Load
	if cfg.Facts == nil {
		cfg.Facts = &who.facts
	}
	cfg.Event = func(e Event) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.events = append(n.events, e)
	}
	stop, err := n.Start(context.Background(), cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	who.cfg, who.stop = cfg, stop
	m.t.Cleanup(stop)
}

// renew gives a member a new SVID.
func (m *mesh) renew(who *member, id string, life time.Duration) {
	now := time.Now()
	pair := m.ca.Leaf(m.t, id, func(c *x509.Certificate) { c.NotAfter = now.Add(life) })
	s := &SVID{TLS: pair, Serial: pair.Leaf.SerialNumber.Bytes(), NotAfter: now.Add(life), IssuedAt: now, Generation: 1}
	if was := who.svid.Load(); was != nil {
		s.Generation = was.Generation + 1
	}
	who.svid.Store(s)
}

// policies puts a new revision in force on both nodes.
func (m *mesh) policies(mode policy.Mode, allow []policy.Rule) {
	m.t.Helper()
	set := policy.Set{
		TrustDomain: domain, RootNamespace: "istio-system",
		Policies: []policy.Policy{
			{Namespace: "istio-system", Name: "allow-nothing", Action: policy.Allow},
			{Namespace: "default", Name: "web-api", Action: policy.Allow, Selector: map[string]string{"app": "api"}, Rules: allow},
		},
	}
	if mode != "" {
		set.PeerAuth = []policy.PeerAuthentication{{Namespace: "default", Name: "mode", Mode: mode}}
	}
	compiled, faults := policy.Compile(set)
	if len(faults) > 0 {
		m.t.Fatal(faults)
	}
	m.change(func(s *State) { s.Compiled = compiled })
}

func (m *mesh) change(edit func(*State)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	edit(&m.state)
	m.state.Revision++
	for _, n := range []*node{m.a, m.b} {
		s := m.state
		s.Node = n.addr
		n.Update(&s)
	}
}

// retarget moves the service to another port.
func (m *mesh) retarget(addr string) {
	_, digits, _ := net.SplitHostPort(addr)
	port, _ := parsePort(digits)
	m.change(func(s *State) {
		svc := *s.Services[ServiceKey{"default", "api"}]
		svc.Ports = []ServicePort{{Number: 80, Target: port, Protocol: "http"}}
		s.Services = map[ServiceKey]*Service{{"default", "api"}: &svc}
	})
}

// client calls as the program web does.
func (m *mesh) client() *http.Client {
	t := &http.Transport{Proxy: http.ProxyURL(m.proxy), DisableCompression: true}
	m.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: 20 * time.Second}
}

// get is one call with a client of its own.
func (m *mesh) get(target string) (int, string, http.Header) {
	m.t.Helper()
	resp, err := m.client().Get(target)
	if err != nil {
		m.t.Fatalf("GET %s: %v", target, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatalf("GET %s: reading: %v", target, err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// raw sends bytes to the proxy listener and gives a reader of the answers.
func (m *mesh) raw(request string) (net.Conn, *bufio.Reader) {
	m.t.Helper()
	return dialRaw(m.t, m.proxy.Host, request)
}

func dialRaw(t testing.TB, addr, request string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := io.WriteString(c, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

// answerOf reads one response.
func answerOf(t testing.TB, r *bufio.Reader) (int, string, http.Header) {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("reading a response: %v", err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading a body: %v", err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// record waits for a record that fits.
func (n *node) record(fits func(*audit.Record) bool) *audit.Record {
	n.t.Helper()
	var all []*audit.Record
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		n.mu.Lock()
		all = append(all[:0], n.records...)
		n.mu.Unlock()
		for _, rec := range all {
			if fits(rec) {
				return rec
			}
		}
	}
	for _, rec := range all[max(0, len(all)-5):] {
		line, _ := rec.MarshalJSON()
		n.t.Logf("record: %s", line)
	}
	n.t.Fatal("no such record")
	return nil
}

func (n *node) reason(reason string) *audit.Record {
	n.t.Helper()
	return n.record(func(r *audit.Record) bool { return r.Reason == reason })
}

// event waits for a note of that code.
func (n *node) event(code string) Event {
	n.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		n.mu.Lock()
		for _, e := range n.events {
			if e.Code == code {
				n.mu.Unlock()
				return e
			}
		}
		n.mu.Unlock()
	}
	n.t.Fatalf("no event %s", code)
	return Event{}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so: %s", what)
		}
	}
}
