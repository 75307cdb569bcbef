package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/entry"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/memnet"
	"countersign.dev/internal/snapshot"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	serverID = "spiffe://cluster.local/ns/countersign/sa/server-s"
	nodeID   = "spiffe://cluster.local/ns/countersign/sa/node-a"
)

// mesh is a served control protocol over memnet, with a house that keeps what it heard.
type mesh struct {
	t          *testing.T
	ca, others *identitytest.Authority
	ln         *memnet.Listener

	mu     sync.Mutex // guards the rest, for a look-up
	world  *snapshot.World
	newer  chan struct{}
	events []Event
	told   chan struct{} // closed and replaced at each event
	log    *Revoked
	heard  []int64
}

func newMesh(t *testing.T, cert *tls.Certificate) *mesh {
	t.Helper()
	m := &mesh{
		t: t, ca: identitytest.New(t, "cluster.local", time.Now()), others: identitytest.New(t, "other.example", time.Now()),
		ln: memnet.Listen("server"), newer: make(chan struct{}), told: make(chan struct{}), world: worldAt(1),
	}
	if cert == nil {
		cert = m.ca.Leaf(t, serverID)
	}
	// The federated bundle is given too: that it is not believed here is the control plane's own rule.
	side := identity.Side{
		Own:   func(string) (*tls.Certificate, error) { return cert, nil },
		Trust: func() *identity.Trust { return m.ca.Trust(m.others) }, Now: time.Now,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, m.ln, ServerOptions{House: m, Side: side, TrustDomain: "cluster.local", Log: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		m.ln.Close()
	})
	return m
}

func (m *mesh) Roots() ([]byte, error) { return m.ca.Bundle().JSON() }

func (m *mesh) Join(_ context.Context, j Joining) (Joined, error) {
	if j.Secret != "right" {
		return Joined{}, &Refused{Code: "token_unknown", Text: "the join code is not known here", Hint: "ask for another"}
	}
	return Joined{Name: j.Name, Chain: [][]byte{j.CSR}}, nil
}

func (m *mesh) World() (*snapshot.World, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.world, m.newer
}

func (m *mesh) Issue(_ context.Context, node string, w *Want) ([][]byte, error) {
	if w.Entry == "broken" {
		return nil, errors.New("the key is at /secret/place")
	}
	return [][]byte{[]byte(node + " " + w.Entry)}, nil
}

func (m *mesh) Report(_ context.Context, _ string, r *ReportRequest, exporter []byte) (int64, error) {
	if len(exporter) != 32 {
		return 0, errors.New("no exporter")
	}
	if up := r.GetUp(); up != nil && !bytes.Equal(up.Signature, Registration(up.Id, exporter)) {
		return 0, &Refused{Code: "identity_mismatch", Text: "not signed for this connection"}
	}
	return 9, nil
}

func (m *mesh) Watch(_ string, e Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, e)
	close(m.told)
	m.told = make(chan struct{})
}

// publish makes w the newest revision.
func (m *mesh) Revoked(context.Context) *Revoked {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log
}

func (m *mesh) Heard(_ string, epoch int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = append(m.heard, epoch)
}

func (m *mesh) publish(w *snapshot.World) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.world = w
	close(m.newer)
	m.newer = make(chan struct{})
}

// until waits for an event that ok accepts, and forgets those up to it.
func (m *mesh) until(what string, ok func(Event) bool) Event {
	m.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		m.mu.Lock()
		for i, e := range m.events {
			if ok(e) {
				m.events = m.events[i+1:]
				m.mu.Unlock()
				return e
			}
		}
		told, events := m.told, m.events
		m.mu.Unlock()
		select {
		case <-told:
		case <-timeout:
			m.t.Fatalf("waiting for %s: heard %+v", what, events)
		}
	}
}

func (m *mesh) enforced(rev int64) {
	m.t.Helper()
	m.until(fmt.Sprintf("revision %d enforced", rev), func(e Event) bool { return e.Enforced == rev && e.Refused == "" })
}

func worldAt(rev int64, edits ...func(*snapshot.World)) *snapshot.World {
	w := &snapshot.World{
		Revision: rev, Epoch: "e1", Nodes: map[string][]string{"a": {"node:name:a"}},
		Mesh: snapshot.Mesh{TrustDomain: "cluster.local", RootNamespace: "istio-system", PolicyRevision: strings.Repeat("0", 64)},
	}
	for _, edit := range edits {
		edit(w)
	}
	return w
}

// agent is a node's half that keeps what it enforces.
type agent struct {
	*Client
	mu      sync.Mutex // guards the rest, for a look-up
	applied []*snapshot.Node
	refuse  error
}

func (a *agent) last() *snapshot.Node {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.applied) == 0 {
		return nil
	}
	return a.applied[len(a.applied)-1]
}

func (a *agent) set(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = err
}

func (m *mesh) attach(cert *tls.Certificate, edits ...func(*ClientOptions)) *agent {
	m.t.Helper()
	a := &agent{}
	o := ClientOptions{
		Dial: m.ln.Dial, Node: "a", TrustDomain: "cluster.local", Log: slog.New(slog.DiscardHandler),
		Side: identity.Side{
			Own:   func(string) (*tls.Certificate, error) { return cert, nil },
			Trust: func() *identity.Trust { return m.ca.Trust(m.others) }, Now: time.Now,
		},
		Apply: func(n *snapshot.Node) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.refuse != nil {
				return a.refuse
			}
			a.applied = append(a.applied, n)
			return nil
		},
	}
	for _, edit := range edits {
		edit(&o)
	}
	var err error
	if a.Client, err = NewClient(o); err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	m.t.Cleanup(func() { cancel(); <-done })
	return a
}

// The pin of the join code decides whom a machine believes (identity.md 10.1).
func TestJoin(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	m := newMesh(t, nil)
	good := Pin(m.ca.Root)
	for _, c := range []struct{ name, pin, secret, want string }{
		{"right", good, "right", ""},
		{"wrong secret", good, "wrong", "token_unknown"},
		{"pin of another mesh", Pin(m.others.Root), "right", "server_untrusted"},
		{"pin of the issuer", Pin(m.ca.Issuer), "right", "server_untrusted"},
		{"no pin", "", "right", "bad_code"},
		{"half a pin", good[:32], "right", "bad_code"},
		{"more than a pin", good + "00", "right", "bad_code"},
	} {
		j, err := Join(t.Context(), m.ln.Dial, td, c.pin, Joining{Name: "a", Secret: c.secret, CSR: []byte("csr")})
		if c.want == "" {
			if err != nil || j.Name != "a" || string(j.Chain[0]) != "csr" {
				t.Errorf("%s: got %+v, %v", c.name, j, err)
			}
			continue
		}
		var r *Refused
		if !errors.As(err, &r) || r.Code != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

// Who has the right root but is no server gets no secret: a workload, a node, another mesh.
func TestJoinServerProven(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	for _, id := range []string{"spiffe://cluster.local/ns/shop/sa/server-s", nodeID, "spiffe://cluster.local/ns/countersign/sa/server-", "spiffe://cluster.local/server-s"} {
		ca := identitytest.New(t, "cluster.local", time.Now())
		m := newMesh(t, ca.Leaf(t, id))
		m.ca = ca
		_, err := Join(t.Context(), m.ln.Dial, td, Pin(ca.Root), Joining{Name: "a", Secret: "right"})
		if err == nil || !strings.Contains(err.Error(), "is no") {
			t.Errorf("%s: got %v", id, err)
		}
	}
}

// TestSecFederatedControl: on a control connection only the own mesh's nodes count, whatever
// the federated one calls its own.
func TestSecFederatedControl(t *testing.T) {
	m := newMesh(t, nil)
	for _, cert := range []*tls.Certificate{
		m.others.Leaf(t, "spiffe://other.example/ns/countersign/sa/node-a"),
		m.ca.Leaf(t, "spiffe://cluster.local/ns/shop/sa/node-a"),
		m.ca.Leaf(t, "spiffe://cluster.local/ns/countersign/sa/nodea"),
		m.ca.Leaf(t, serverID),
		m.ca.Leaf(t, "spiffe://cluster.local/node-a"),
		{}, // no certificate: only Roots and Join are answered
	} {
		a := m.attach(cert)
		if _, err := a.Issue(t.Context(), &Want{Entry: "shop/web"}); err == nil {
			t.Errorf("Issue answered %v", cert.Leaf)
		}
		if _, err := a.Report(t.Context(), &ReportRequest{}); err == nil {
			t.Errorf("Report answered %v", cert.Leaf)
		}
		stream, err := a.rpc.DeltaAggregatedResources(t.Context())
		if err == nil {
			_ = stream.Send(&DeltaRequest{Node: &Node{Id: "a"}, TypeUrl: typeURL})
			_, err = stream.Recv()
		}
		if err == nil {
			t.Errorf("the stream answered %v", cert.Leaf)
		}
		if a.last() != nil {
			t.Errorf("%v got a snapshot", cert.Leaf)
		}
	}
	foreign := newMesh(t, m.others.Leaf(t, "spiffe://other.example/ns/countersign/sa/server-s"))
	foreign.ca, foreign.others = m.ca, m.others
	a := foreign.attach(m.ca.Leaf(t, nodeID))
	if _, err := a.Issue(t.Context(), &Want{}); err == nil {
		t.Error("a federated server was believed")
	}
}

// A node asks in its own name alone.
func TestStreamOfAnother(t *testing.T) {
	m := newMesh(t, nil)
	a := m.attach(m.ca.Leaf(t, nodeID))
	stream, err := a.rpc.DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&DeltaRequest{Node: &Node{Id: "b"}, TypeUrl: typeURL}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil || !strings.Contains(err.Error(), `asked as "b"`) {
		t.Errorf("got %v", err)
	}
}

// Full frame, difference, one of many parts; each is enforced whole before it is acknowledged.
func TestFrames(t *testing.T) {
	m := newMesh(t, nil)
	attached := make(chan struct{}, 8)
	a := m.attach(m.ca.Leaf(t, nodeID), func(o *ClientOptions) { o.Attached = func(context.Context) { attached <- struct{}{} } })
	m.enforced(1)
	<-attached
	if n := a.last(); n.Revision != 1 || n.Selectors[0] != "node:name:a" || !a.InTouch() {
		t.Fatalf("got %+v", n)
	}
	m.publish(worldAt(5, func(w *snapshot.World) {
		w.Entries = []entry.Entry{{Namespace: "shop", Name: "web", AnyNode: true}, {Namespace: "shop", Name: "theirs", Nodes: [][]string{{"node:name:b"}}}}
	}))
	m.enforced(5)
	if n := a.last(); n.Revision != 5 || len(n.Entries) != 1 || n.Entries[0].Name != "web" {
		t.Fatalf("got %+v", n)
	}
	m.publish(worldAt(6, func(w *snapshot.World) { // over 1 MiB, so in parts; one piece over it alone
		w.Entries = []entry.Entry{{Namespace: "shop", Name: "web", AnyNode: true, Hint: strings.Repeat("h", 3<<20/2)}}
		for i := range 4000 {
			w.Services = append(w.Services, snapshot.Service{Namespace: "shop", Name: fmt.Sprintf("s%d", i), Owners: []string{strings.Repeat("o", 1000)}})
		}
	}))
	m.enforced(6)
	if n := a.last(); n.Revision != 6 || len(n.Services) != 4000 || len(n.Entries[0].Hint) != 3<<20/2 {
		t.Fatalf("got revision %d, %d services", n.Revision, len(n.Services))
	}
	m.publish(worldAt(7))
	m.enforced(7)
	if n := a.last(); n.Revision != 7 || len(n.Services)+len(n.Entries) != 0 {
		t.Fatalf("what was removed is still there: %d services", len(n.Services))
	}
	before := len(a.applied)
	m.publish(worldAt(8)) // nothing of it concerns the node: enforced without traffic
	m.enforced(8)
	if len(a.applied) != before || a.last().Revision != 7 {
		t.Errorf("an empty difference was sent")
	}
}

// A resource larger than any part still arrives: a namespace's policies are one piece.
func TestLargeResource(t *testing.T) {
	m := newMesh(t, nil)
	a := m.attach(m.ca.Leaf(t, nodeID))
	m.enforced(1)
	m.publish(worldAt(2, func(w *snapshot.World) {
		w.Entries = []entry.Entry{{Namespace: "shop", Name: "web", AnyNode: true, Hint: strings.Repeat("h", 6<<20)}}
	}))
	m.enforced(2)
	if n := a.last(); len(n.Entries) != 1 {
		t.Errorf("got %+v", n)
	}
}

// A refusal keeps the last good revision; the server says so, and the next attempt starts from
// what is held.
func TestNack(t *testing.T) {
	m := newMesh(t, nil)
	a := m.attach(m.ca.Leaf(t, nodeID))
	m.enforced(1)
	a.set(errors.New("does not compile: " + strings.Repeat("é", 2000)))
	m.publish(worldAt(2, func(w *snapshot.World) { w.Services = []snapshot.Service{{Namespace: "shop", Name: "bad"}} }))
	e := m.until("a refusal", func(e Event) bool { return e.Refused != "" })
	if !e.Attached || e.Enforced != 1 || !strings.HasPrefix(e.Refused, "refused 2: does not compile") || len(e.Refused) > maxReason {
		t.Errorf("got %+v", e)
	}
	if a.last().Revision != 1 || !a.InTouch() {
		t.Errorf("enforced is %+v", a.last())
	}
	a.set(nil)
	m.publish(worldAt(3, func(w *snapshot.World) { w.Services = []snapshot.Service{{Namespace: "shop", Name: "good"}} }))
	m.enforced(3)
	if n := a.last(); len(n.Services) != 1 || n.Services["shop/good"].Name != "good" {
		t.Errorf("got %+v", n.Services)
	}
}

// A stream that breaks is made anew and starts with everything; an older world is refused.
func TestReconnect(t *testing.T) {
	m := newMesh(t, nil)
	var mu sync.Mutex
	var conns []interface{ Close() error }
	attached := make(chan struct{}, 8)
	a := m.attach(m.ca.Leaf(t, nodeID), func(o *ClientOptions) {
		dial := o.Dial
		o.Dial = func(ctx context.Context) (c net.Conn, err error) {
			c, err = dial(ctx)
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, c)
			return c, err
		}
		o.Attached = func(context.Context) { attached <- struct{}{} }
	})
	m.enforced(1)
	<-attached
	first, err := a.Exporter()
	if err != nil {
		t.Fatal(err)
	}
	m.publish(worldAt(4))
	m.enforced(4)
	cut := func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		conns = nil
	}
	cut()
	m.until("the end of the stream", func(e Event) bool { return !e.Attached })
	m.enforced(4)
	<-attached
	second, err := a.Exporter()
	if err != nil || bytes.Equal(first, second) {
		t.Errorf("the exporter of a new connection is the old one's (%v)", err)
	}
	m.publish(worldAt(2)) // a server that is behind
	cut()
	e := m.until("a refusal", func(e Event) bool { return e.Refused != "" })
	if !strings.Contains(e.Refused, "older") || a.last().Revision != 4 {
		t.Errorf("an older world: got %+v, enforced %d", e, a.last().Revision)
	}
	m.publish(worldAt(3, func(w *snapshot.World) { w.Epoch = "e2" })) // a restored store
	m.enforced(3)
	if n := a.last(); n.Epoch != "e2" || n.Revision != 3 {
		t.Errorf("a new epoch: got %+v", n)
	}
}

// Requests are answered one by one, refusals with their words, faults without.
func TestIssueAndReport(t *testing.T) {
	m := newMesh(t, nil)
	a := m.attach(m.ca.Leaf(t, nodeID))
	m.enforced(1)
	chain, err := a.Issue(t.Context(), &Want{Entry: "shop/web"})
	if err != nil || string(chain[0]) != "a shop/web" {
		t.Errorf("got %q, %v", chain, err)
	}
	var r *Refused
	if _, err := a.Issue(t.Context(), &Want{Entry: "broken"}); !errors.As(err, &r) || r.Code != "internal" || strings.Contains(r.Text, "secret") {
		t.Errorf("got %v", err)
	}
	exporter, err := a.Exporter()
	if err != nil {
		t.Fatal(err)
	}
	up := &Up{Id: "i1", Signature: Registration("i1", exporter)}
	if rev, err := a.Report(t.Context(), &ReportRequest{What: &ReportRequest_Up{Up: up}}); err != nil || rev != 9 {
		t.Errorf("got %d, %v", rev, err)
	}
	b := m.attach(m.ca.Leaf(t, nodeID)) // the same report over another connection proves nothing
	if _, err := b.Report(t.Context(), &ReportRequest{What: &ReportRequest_Up{Up: up}}); !errors.As(err, &r) || r.Code != "identity_mismatch" {
		t.Errorf("replayed: got %v", err)
	}
}

// What one message may hold.
func TestLimits(t *testing.T) {
	m := newMesh(t, nil)
	a := m.attach(m.ca.Leaf(t, nodeID))
	m.enforced(1)
	wants := make([]*Want, maxWants+1)
	for i := range wants {
		wants[i] = &Want{Entry: "shop/web"}
	}
	if r, err := a.rpc.Issue(t.Context(), &IssueRequest{Wants: wants[1:]}); err != nil || len(r.Gots) != maxWants {
		t.Errorf("%d requests: %v", maxWants, err)
	}
	if _, err := a.rpc.Issue(t.Context(), &IssueRequest{Wants: wants}); err == nil {
		t.Errorf("%d requests were taken", len(wants))
	}
	if _, err := a.Report(t.Context(), &ReportRequest{What: &ReportRequest_Up{Up: &Up{Signature: make([]byte, maxMessage+1)}}}); err == nil {
		t.Error("a message over the limit was taken")
	}
	if _, err := a.Report(t.Context(), &ReportRequest{What: &ReportRequest_Gone{Gone: &Gone{}}}); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// A server that does not answer is said to be away.
func TestServerAway(t *testing.T) {
	m := newMesh(t, nil)
	a := m.attach(m.ca.Leaf(t, nodeID), func(o *ClientOptions) {
		o.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("connection refused") }
	})
	var r *Refused
	if _, err := a.Issue(t.Context(), &Want{}); !errors.As(err, &r) || r.Code != "server_away" || r.Hint == "" {
		t.Errorf("got %v", err)
	}
	if a.InTouch() {
		t.Error("in touch")
	}
}

// offline is a node's half without a connection, at revision 7 of epoch e1.
func offline(apply func(*snapshot.Node) error) (*Client, snapshot.Resources) {
	c := &Client{o: ClientOptions{Node: "a", Apply: apply}, epoch: "e1", enforced: 7}
	held, err := snapshot.Of(worldAt(7), "a")
	if err != nil {
		panic(err)
	}
	return c, held
}

// Only one spelling of a version is taken, and only from where the node stands.
func TestEnforce(t *testing.T) {
	for version, ok := range map[string]bool{
		"e1/7-9": true, "e1/7-7": true, "e1/0-9": true, "e2/0-3": true,
		"e1/0-6": false, "e1/6-9": false, "e1/8-9": false, "e1/7-6": false, "e2/7-9": false,
		"": false, "e1": false, "e1/": false, "e1/7": false, "e1/-7": false, "/7-9": false, "e1/07-9": false, "e1/+7-9": false,
		"e1/7-9+": false, "e1/7-9-9": false, "e1/ 7-9": false, "e1/7-99999999999999999999": false, "e1/-1-9": false, "e1/0-0": false,
	} {
		applied := 0
		c, held := offline(func(*snapshot.Node) error { applied++; return nil })
		put := snapshot.Resources{}
		if strings.Contains(version, "/0-") {
			put = maps.Clone(held)
		}
		_, rev, err := c.enforce(version, put, nil, held, 7)
		if ok != (err == nil) || ok != (applied == 1) {
			t.Errorf("%q: got revision %d, %v, applied %d times", version, rev, err, applied)
		}
		if !ok && (c.epoch != "e1" || c.enforced != 7) {
			t.Errorf("%q moved the node to %s, %d", version, c.epoch, c.enforced)
		}
	}
}

// FuzzEnforce: no frame, however broken, panics or moves a node by half.
func FuzzEnforce(f *testing.F) {
	f.Add("e1/7-9", "mesh", []byte(`{"trustDomain":"cluster.local"}`), "node/a")
	f.Add("e1/0-9", "node/a", []byte(`{"selectors":["x"]}`), "")
	f.Add("e1/7-9", "policies/shop", []byte(`{"policies":[{"Namespace":"shop"}]}`), "mesh")
	f.Add("e1/7-9", "secret/x", []byte(`"AA=="`), "bundle/cluster.local")
	f.Fuzz(func(t *testing.T, version, name string, content []byte, removed string) {
		applied := 0
		c, held := offline(func(n *snapshot.Node) error {
			applied++
			if n.Mesh.TrustDomain == "" {
				t.Errorf("%q applied without a mesh", version)
			}
			return nil
		})
		before := maps.Clone(held)
		_, rev, err := c.enforce(version, snapshot.Resources{name: content}, []string{removed}, held, 7)
		if (err == nil) != (applied == 1) || err == nil && (rev != c.enforced || rev < 1) {
			t.Errorf("%q: %d, %v, applied %d times, at %d", version, rev, err, applied, c.enforced)
		}
		if !maps.EqualFunc(before, held, bytes.Equal) {
			t.Errorf("%q changed what was held", version)
		}
	})
}

// There is no TLS below 1.3.
func TestTLS13Only(t *testing.T) {
	m := newMesh(t, nil)
	raw, err := m.ln.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	if err := c.HandshakeContext(t.Context()); err == nil {
		t.Error("TLS 1.2 was taken")
	}
}
