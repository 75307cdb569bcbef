package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"countersign.dev/internal/attest"
	"countersign.dev/internal/ca"
	"countersign.dev/internal/control"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/snapshot"
	"countersign.dev/internal/store"
)

// machine is a node's key with its SVID, as join gives them.
type machine struct {
	r    *running
	name string
	cert *tls.Certificate
}

func newCSR(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key := identitytest.NewKey(t).(*ecdsa.PrivateKey)
	csr, err := ca.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

func (r *running) try(code attest.Code, name string, csr []byte) (control.Joined, error) {
	return control.Join(r.t.Context(), r.nodes.Dial, r.td, code.Pin, control.Joining{Name: name, Secret: code.Secret, CSR: csr, Inbound: "127.0.0.1:7443"})
}

// join lets a node in; home says whether it is the one of this process.
func (r *running) join(name string, home bool) *machine {
	r.t.Helper()
	key, csr := newCSR(r.t)
	code, err := r.Invite(r.t.Context(), name, time.Minute)
	if err != nil {
		r.t.Fatal(err)
	}
	if !home {
		other := "somebody-else"
		r.home.Store(&other)
	}
	j, err := r.try(code, name, csr)
	if err != nil {
		r.t.Fatal(err)
	}
	return &machine{r: r, name: name, cert: pair(r.t, key, j.Chain)}
}

func pair(t *testing.T, key *ecdsa.PrivateKey, chain [][]byte) *tls.Certificate {
	t.Helper()
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: identitytest.Parse(t, chain[0])}
}

// attach keeps a stream until the test ends, or cut is called.
func (m *machine) attach() (c *control.Client, cut func()) {
	t := m.r.t
	t.Helper()
	attached := make(chan struct{}, 16)
	c, err := control.NewClient(control.ClientOptions{
		Dial: m.r.nodes.Dial, Node: m.name, TrustDomain: m.r.TrustDomain(), Log: slog.New(slog.DiscardHandler),
		Side: identity.Side{
			Own: func(string) (*tls.Certificate, error) { return m.cert, nil }, Trust: m.r.trust, Now: time.Now,
		},
		Apply:    func(*snapshot.Node) error { return nil },
		Attached: func(context.Context) { attached <- struct{}{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	cut = func() {
		if !stopped {
			stopped = true
			cancel()
			<-done
		}
	}
	t.Cleanup(cut)
	select {
	case <-attached:
	case <-time.After(10 * time.Second):
		t.Fatal("not attached")
	}
	return c, cut
}

func ensure(ns, name, account string, uid uint32) *control.ReportRequest {
	return &control.ReportRequest{What: &control.ReportRequest_Ensure{Ensure: &control.Ensure{Namespace: ns, Name: name, ServiceAccount: account, Uid: uid}}}
}

func (m *machine) svid(c *control.Client, entry string) (*tls.Certificate, error) {
	key, csr := newCSR(m.r.t)
	chain, err := c.Issue(m.r.t.Context(), &control.Want{Entry: entry, Csr: csr})
	if err != nil {
		return nil, err
	}
	return pair(m.r.t, key, chain), nil
}

func upOf(t *testing.T, c *control.Client, id, entry string, svid *tls.Certificate) *control.ReportRequest {
	t.Helper()
	exporter, err := c.Exporter()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := ecdsa.SignASN1(rand.Reader, svid.PrivateKey.(*ecdsa.PrivateKey), control.Registration(id, exporter))
	if err != nil {
		t.Fatal(err)
	}
	return &control.ReportRequest{What: &control.ReportRequest_Up{Up: &control.Up{
		Id: id, Entry: entry, State: snapshot.Ready, Chain: svid.Certificate, Signature: sig,
		Ports: []*control.Port{{Number: 80, Target: 8081, Protocol: "http"}},
	}}}
}

// A code lets one key in: again with the same one, never with another, not for another name.
func TestJoin(t *testing.T) {
	r := newPlace(t).run()
	_, csr := newCSR(t)
	_, another := newCSR(t)
	made, err := r.Invite(t.Context(), "a", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, secret, name string
		csr                []byte
		want               string
	}{
		{"a bad request", made.Secret, "a", []byte("x"), "bad_csr"},
		{"another name", made.Secret, "b", csr, "node_name"},
		{"good", made.Secret, "a", csr, ""},
		{"a lost reply", made.Secret, "a", csr, ""},
		{"another key", made.Secret, "a", another, "token_spent"},
		{"unknown", strings.Repeat("A", 43), "a", csr, "token_unknown"},
	} {
		j, err := r.try(attest.Code{Pin: made.Pin, Secret: c.secret}, c.name, c.csr)
		if code(err) != c.want {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
			continue
		}
		if c.want != "" {
			continue
		}
		id, err := identity.IDFromLeaf(identitytest.Parse(t, j.Chain[0]))
		if err != nil || id.String() != "spiffe://cluster.local/ns/countersign/sa/node-a" {
			t.Errorf("%s: got %v, %v", c.what, id, err)
		}
		if _, ok := r.world.load().nodes["a"]; !ok {
			t.Errorf("%s: joined before the server knows it", c.what)
		}
	}
}

// TestSecNodeEnsure, TestSecNameSquat: who may make a Workload by run (identity.md 12.5), and
// that an existing one never changes hands.
func TestSecNodeEnsure(t *testing.T) {
	r := newPlace(t).run()
	home := r.join("home", true)
	c, _ := home.attach()
	guest := r.join("guest", false)
	g, _ := guest.attach()
	ctx := t.Context()
	rev, err := c.Report(ctx, ensure("shop", "web", "", 1000))
	if err != nil {
		t.Fatal(err)
	}
	e, ok := r.world.load().entry("shop/web")
	if !ok || e.Revision != rev || !slices.Equal(e.Sets[0], []string{"run:shop/web", "unix:uid:1000"}) || e.AnyNode || !slices.Equal(e.Nodes[0], []string{"node:name:home"}) {
		t.Fatalf("got %+v at %d", e, rev)
	}
	r.applied(workloadDoc("mine", "shop", "{selectors: ['run:shop/mine', 'unix:uid:1000'], nodes: [['node:name:home']]}"))
	kept := r.revision()
	for _, k := range []struct {
		what string
		c    *control.Client
		ask  *control.ReportRequest
		want string
	}{
		{"again", c, ensure("shop", "web", "", 1000), ""},
		{"another user", c, ensure("shop", "web", "", 1001), "name_owned"},
		{"root, over a user's", c, ensure("shop", "web", "", 0), "name_owned"},
		{"another account", c, ensure("shop", "web", "payments", 1000), "name_owned"},
		{"a hand-written one", c, ensure("shop", "mine", "", 1000), ""},
		{"another user's hand-written one", c, ensure("shop", "mine", "", 1001), "name_owned"},
		{"an existing one, on another node", g, ensure("shop", "web", "", 1000), "node_not_admitted"},
		{"a node without the right", g, ensure("shop", "new", "", 1000), "not_permitted"},
		{"without the right, in default", g, ensure("default", "new", "", 1000), "not_permitted"},
		{"the reserved namespace", c, ensure("countersign", "node-x", "", 1000), "name_invalid"},
		{"no name", c, ensure("shop", "", "", 1000), "name_invalid"},
		{"a bad account", c, ensure("shop", "new", "A/../b", 1000), "name_invalid"},
	} {
		if _, err := k.c.Report(ctx, k.ask); code(err) != k.want {
			t.Errorf("%s: got %v, want %q", k.what, err, k.want)
		}
	}
	if now := r.revision(); now != kept {
		t.Errorf("something was written: revision %d, was %d", now, kept)
	}
	if e, _ := r.world.load().entry("shop/web"); e.Revision != rev {
		t.Errorf("the existing one was changed: %+v", e)
	}
}

// TestSecNodeNotAdmitted: an entry is worth nothing on a node that it does not name.
func TestSecNodeNotAdmitted(t *testing.T) {
	r := newPlace(t).run()
	a, b := r.join("a", true), r.join("b", true)
	ca, _ := a.attach()
	cb, _ := b.attach()
	r.applied(
		workloadDoc("web", "shop", "{selectors: ['run:shop/web'], nodes: [['node:name:a']]}"),
		workloadDoc("old", "shop", "{selectors: ['run:shop/old'], nodes: any, expires: '2020-01-01T00:00:00Z'}"),
	)
	svid, err := a.svid(ca, "shop/web")
	if err != nil {
		t.Fatal(err)
	}
	if id, err := identity.IDFromLeaf(svid.Leaf); err != nil || id.String() != "spiffe://cluster.local/ns/shop/sa/web" {
		t.Errorf("got %v, %v", id, err)
	}
	for entry, want := range map[string]string{"shop/web": "node_not_admitted", "shop/none": "no_entry", "shop/old": "entry_expired"} {
		if _, err := b.svid(cb, entry); code(err) != want {
			t.Errorf("%s on b: got %v, want %s", entry, err, want)
		}
	}
	// Even with the SVID and its key in hand, b cannot register it; a can, over its own connection only.
	if _, err := cb.Report(t.Context(), upOf(t, cb, "i1", "shop/web", svid)); code(err) != "identity_mismatch" {
		t.Errorf("registered on b: %v", err)
	}
	good := upOf(t, ca, "i1", "shop/web", svid)
	if _, err := cb.Report(t.Context(), good); code(err) != "identity_mismatch" {
		t.Errorf("replayed on b: %v", err)
	}
	rev, err := ca.Report(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.world.waitFor(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	i := slices.DeleteFunc(slices.Clone(r.world.load().Instances), func(i snapshot.Instance) bool { return strings.HasPrefix(i.ID, tokensInstance) })
	if len(i) != 1 || i[0].Node != "a" || i[0].Address != "127.0.0.1:7443" {
		t.Errorf("instances are %+v", i)
	}
	wide := upOf(t, ca, "i2", "shop/web", svid)
	wide.GetUp().Ports[0].Number = 65536 + 80
	if _, err := ca.Report(t.Context(), wide); code(err) != "bad_report" {
		t.Errorf("a port beyond 65535: %v", err)
	}
	// A node that is no longer of the mesh gets nothing, not for itself either.
	if _, err := r.o.Store.Commit(t.Context(), store.Txn{Then: []store.Op{store.Delete("node/b")}}); err != nil {
		t.Fatal(err)
	}
	if err := r.world.waitFor(t.Context(), r.revision()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.svid(cb, ""); code(err) != "node_unknown" {
		t.Errorf("own SVID of a removed node: %v", err)
	}
}

// Enforced: a node in touch counts, one that is not is named.
func TestEnforced(t *testing.T) {
	r := newPlace(t).run()
	a := r.join("a", true)
	r.join("b", true)
	_, cut := a.attach()
	rev := r.applied(policyDoc("p", "shop", "{}")).Revision
	e := r.wait(t.Context(), rev, 200*time.Millisecond)
	if e.Nodes != 1 || e.Of != 2 || len(e.Laggards) != 1 || e.Laggards[0].Node != "b" {
		t.Errorf("got %+v", e)
	}
	cut()
	for r.inTouch("a") {
		<-r.Server.nodes.changed()
	}
	if e := r.wait(t.Context(), rev, 0); e.Nodes != 0 || len(e.Laggards) != 2 || e.Laggards[0].Revision < rev {
		t.Errorf("after a left: got %+v", e)
	}
}

func (r *running) inTouch(name string) bool { return r.Server.nodes.state(name).streams > 0 }

// The same store is the same mesh: trust domain, root, policies, nodes (also under another setting).
func TestRestart(t *testing.T) {
	p := newPlace(t)
	r := p.run(func(o *Options) { o.TrustDomain = "prod.example" })
	if !r.Made || r.TrustDomain() != "prod.example" || !r.ClosedByDefault() {
		t.Fatalf("made %v, %s", r.Made, r.TrustDomain())
	}
	r.applied(policyDoc("p", "shop", "{}"))
	m := r.join("a", true)
	root, _, _ := r.Root()
	revision, before := r.PolicyRevision(), r.Revision()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = p.run(func(o *Options) { o.TrustDomain = "cluster.local" })
	again, _, _ := r.Root()
	if r.Made || r.TrustDomain() != "prod.example" || again != root || r.PolicyRevision() != revision || r.Revision() < before {
		t.Errorf("made %v, %s, root %s (was %s), revision %d (was %d)", r.Made, r.TrustDomain(), again, root, r.Revision(), before)
	}
	if _, ok := r.world.load().nodes["a"]; !ok || !r.world.load().nodes["a"].MayRegister("shop") {
		t.Error("the node is forgotten")
	}
	m.r = r
	m.attach() // with the SVID it has
}

// A server that cannot open its keys ends and says why; it does not hang.
func TestStartFails(t *testing.T) {
	p := newPlace(t)
	r := p.run()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	s, err := p.open()
	if err != nil {
		t.Fatal(err)
	}
	kvs, _, err := p.st.List(t.Context(), "ca/")
	if err != nil || len(kvs) == 0 {
		t.Fatalf("%v, %v", kvs, err)
	}
	for _, kv := range kvs {
		if _, err := p.st.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put(kv.Key, []byte("{"))}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.serve(s); err == nil {
		t.Error("started")
	}
}

// Killed between the intent and the signature: the next start shows no half certificate and works.
func TestKilledWhileIssuing(t *testing.T) {
	p := newPlace(t)
	r := p.run()
	id, err := identity.ForNode(r.td, "a")
	if err != nil {
		t.Fatal(err)
	}
	_, csr := newCSR(t)
	token, err := r.ca.Prepare(ca.Request{Profile: ca.Node, ID: id, CSR: csr, TTL: nodeTTL, Node: "a"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.recorder.Record(t.Context(), token.Intent()); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = p.run()
	r.join("a", true).attach()
}

// A node that stays away for 30 s loses its instances; one that comes back in time, or that a
// restarted server has not heard of yet, keeps them (registry.md 11.2).
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := store.Memory(store.MemoryOptions{})
		defer st.Close()
		p := &place{t: t, st: st, dir: t.TempDir()}
		s, err := p.open()
		if err != nil {
			t.Fatal(err)
		}
		defer s.recorder.Close()
		ctx, cancel := context.WithCancel(t.Context())
		if s.ca, err = ca.Open(ctx, ca.Options{Store: st, Sealer: s.o.Sealer, Dir: s.o.Dir, TrustDomain: s.td, ServerName: "s", Recorder: s.recorder, Log: s.o.Log}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 2)
		go func() { done <- ended(ctx, s.follow(ctx)) }()
		go func() { done <- s.expire(ctx) }()
		defer func() { cancel(); <-done; <-done }()
		register := func() {
			t.Helper()
			rec := `{"v":1,"id":"i1","node":"a","owner":"o","services":["shop/web"],"address":"127.0.0.1:1","state":"ready","since":1}`
			if _, err := st.Commit(ctx, store.Txn{Then: []store.Op{store.Put("instance/a/i1", []byte(rec))}}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		has := func() bool { synctest.Wait(); return len(s.world.load().Instances) == 1 }
		h := house{s}
		register()

		time.Sleep(grace - 2*time.Second) // a restarted server: the node may be on its way
		if !has() {
			t.Fatal("a node that is on its way lost its instances")
		}
		h.Watch("a", control.Event{Attached: true})
		time.Sleep(time.Hour)
		if !has() {
			t.Fatal("a node in touch lost its instances")
		}
		h.Watch("a", control.Event{})
		time.Sleep(grace - 2*time.Second)
		h.Watch("a", control.Event{Attached: true})
		h.Watch("a", control.Event{Attached: true, Enforced: 7})
		time.Sleep(time.Minute)
		if !has() {
			t.Fatal("a node that came back in time lost its instances")
		}
		h.Watch("a", control.Event{Attached: true}) // a second stream, while the first is not yet known to be dead
		h.Watch("a", control.Event{})
		time.Sleep(time.Hour)
		if !has() {
			t.Fatal("a node with a stream left lost its instances")
		}
		h.Watch("a", control.Event{})
		time.Sleep(grace - 2*time.Second)
		if !has() {
			t.Fatal("the grace was too short")
		}
		time.Sleep(4 * time.Second)
		if has() {
			t.Fatal("the instances of a lost node stayed")
		}
	})
}
