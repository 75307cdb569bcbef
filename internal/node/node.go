// Package node is one host's agent: it proves the programs that run here, holds their keys,
// carries their calls, and knows of the mesh only what the last snapshot said.
//
// Its words: a run is one program started by `countersign run`; an SVID is held once per
// registration entry and shared by all its runs; the snapshot is what the server sent last.
//
// Its promise: nothing here reads the store or the server's memory, a key never leaves this
// process but to the program it belongs to, and a node that loses its server goes on with what
// it knows, never with an SVID that has ended.
package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/attest"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/bearer"
	"countersign.dev/internal/ca"
	"countersign.dev/internal/control"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/files"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/proxy"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/route"
	"countersign.dev/internal/snapshot"
	"countersign.dev/internal/telemetry"
	"countersign.dev/internal/workloadapi"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
)

// Options are what a node is made of.
type Options struct {
	Dir     *os.Root // <data>/node
	Lineage *Lineage // of the runs, open as long as the node
	Code    attest.Code
	Name    string
	Dial    control.Dial
	Version string
	Metrics *telemetry.Metrics
	Log     *slog.Logger
	Down    func()          // ends the process, as SIGTERM does
	Event   func(Happening) // something a person who watches would like to see; never blocks; may be nil

	Egress    []proxy.Egress // what Gateways may call though no object can name it
	OwnPorts  []uint16       // of this process, which no Gateway calls
	Addresses Addresses      // of Gateways

	CertificateDirs []string // where certificate files of Gateways may lie; nil: route.CertificateDir
}

// Happening is one line of what `up` tells a terminal.
type Happening struct {
	Kind string // started, ended, refused
	Text string
	Hint string
}

// Listeners are the sockets a node answers on.
type Listeners struct {
	Inbound     net.Listener      // 7443
	Node        *net.UnixListener // <run>/node.sock
	Workload    *net.UnixListener // <run>/workload.sock
	WorkloadAPI string            // path of workload.sock, for programs
}

// Node is the agent. New makes it, Run keeps it.
type Node struct {
	o         Options
	td        spiffeid.TrustDomain
	id        spiffeid.ID
	own       atomic.Pointer[ownSVID]
	records   *os.Root // where they lie
	recorder  *audit.Recorder
	proxy     *proxy.Proxy
	client    *control.Client
	svids     *svids
	revoked   *revocation.Log // tokens
	tokens    *attachedTokens
	edge      *edgeTokens
	gateways  *gateways
	keys      *keyReport
	misses    misses
	clockSaid atomic.Int64 // when it was last said that the clock is off, Unix ns
	staleSaid atomic.Bool
	started   time.Time
	listen    Listeners
	first     chan struct{}  // closed when the first snapshot is in force
	once      sync.Once      // guards first
	sessions  sync.WaitGroup // of runs: their connections are hijacked, nobody else waits for them

	snap     atomic.Pointer[held]
	compiler route.Compiler // of apply alone

	mu      sync.Mutex // guards the rest; held for a look-up
	runs    map[string]*run
	gone    []string // instances that a server out of reach must still hear of; at first every one
	changed chan struct{}
}

// ownSVID is the node's own.
type ownSVID struct {
	cert             *tls.Certificate
	serial           []byte
	issued, notAfter time.Time
}

// held is a snapshot with what this node made of it.
type held struct {
	*snapshot.Node
	trust    *identity.Trust
	index    *entry.Index
	compiled *policy.Compiled
	book     *bearer.Book
	keys     *keySet

	pairs map[route.Name]*keyPair
	faces map[listenerKey]*face
}

// New prepares a node; Join lets it in.
func New(o Options) (*Node, error) {
	td, err := spiffeid.TrustDomainFromString(o.Code.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("reading the trust domain of the join code: %w", err)
	}
	id, err := identity.ForNode(td, o.Name)
	if err != nil {
		return nil, fmt.Errorf("naming this node: %w", err)
	}
	n := &Node{o: o, td: td, id: id, runs: map[string]*run{}, gone: []string{""}, changed: make(chan struct{}), first: make(chan struct{}), started: time.Now()}
	n.svids, n.gateways, n.keys = newSVIDs(n), newGateways(n), newKeyReport()
	n.revoked, n.misses.at = revocation.NewLog(), map[bearer.Source]time.Time{}
	n.tokens, n.edge = newAttachedTokens(n), newEdgeTokens(n)
	n.client, err = control.NewClient(control.ClientOptions{
		Dial: o.Dial, Node: o.Name, TrustDomain: td.Name(), Log: o.Log,
		Side:  identity.Side{Own: n.certificate, Trust: n.trust, Now: time.Now},
		Apply: n.apply, Attached: n.attached, Revoked: n.revokedTokens,
	})
	if err != nil {
		return nil, err
	}
	if n.records, err = files.PrivateSubdir(o.Dir, "audit"); err != nil {
		return nil, err
	}
	n.recorder, err = audit.Open(audit.Options{Dir: n.records, Node: id.String(), DecisionKey: n.decisionKey, Log: o.Log})
	if err != nil {
		return nil, fmt.Errorf("opening the node's records: %w", err)
	}
	n.proxy = proxy.New(proxy.Options{
		Recorder: n.recorder, Metrics: o.Metrics, Log: o.Log, Now: time.Now,
		Revoked: n.revoked, Missed: n.missedKey, PseudonymKey: n.pseudonymKey, Attach: n.tokens.get, Rejected: n.tokens.rejected,
		Exchange: n.edge.get, KeyUsed: n.keys.use, KeyExposed: n.keys.expose,
		Strangers: strangers(), Egress: o.Egress, OwnPorts: o.OwnPorts,
	})
	return n, nil
}

func (n *Node) decisionKey() []byte {
	if s := n.snap.Load(); s != nil {
		return s.Secrets["decision-id"]
	}
	return nil
}

func (n *Node) pseudonymKey() []byte {
	if s := n.snap.Load(); s != nil {
		return s.Secrets["pseudonym"]
	}
	return nil
}

// Run joins the mesh and serves until ctx ends. ready is called once a program can be run.
func (n *Node) Run(ctx context.Context, l Listeners, ready func()) error {
	defer n.records.Close()
	defer n.recorder.Close()
	n.listen = l
	if err := n.join(ctx, l.Inbound.Addr().String()); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	defer n.svids.working.Wait()
	n.tokens.life, n.edge.life = ctx, ctx
	defer n.tokens.working.Wait()
	defer n.edge.hangUp()
	defer n.edge.working.Wait()
	touch, leave := context.WithCancel(context.WithoutCancel(ctx)) // the last words of runs still reach the server
	defer leave()
	g.Go(func() error { return ended(ctx, n.recorder.Run(ctx)) })
	g.Go(func() error { return n.client.Run(touch) })
	select {
	case <-ctx.Done():
		leave()
		return g.Wait()
	case <-n.first:
	}
	g.Go(func() error { return n.keepOwn(ctx) })
	g.Go(func() error { return n.svids.run(ctx) })
	g.Go(func() error { return ended(ctx, n.proxy.Serve(ctx, l.Inbound)) })
	g.Go(func() error {
		return ended(ctx, workloadapi.NewServer(n, n.o.Log).Serve(ctx, l.Workload))
	})
	g.Go(func() error {
		defer leave()
		defer n.sessions.Wait()
		return admin.Serve(ctx, l.Node, n.routes(ctx), admin.Guard{
			Socket: l.Node.Addr().String(), Owner: uint32(os.Getuid()), InRun: n.o.Lineage.InRun, Node: true, Log: n.o.Log,
		})
	})
	g.Go(func() error { return n.gateways.run(ctx) })
	g.Go(func() error { return n.reportKeys(ctx) })
	g.Go(func() error { return n.gauges(ctx) })
	ready()
	return g.Wait()
}

// ended forgets the error of a loop that was told to end.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (n *Node) routes(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	log := n.o.Log
	admin.Handle(mux, log, "POST /v1/status", n.status)
	admin.Handle(mux, log, "POST /v1/why", n.why)
	admin.Handle(mux, log, "POST /v1/down", n.down)
	mux.HandleFunc("POST /v1/tap", n.tap)
	mux.HandleFunc("POST /v1/run", func(w http.ResponseWriter, r *http.Request) { n.serveRun(ctx, w, r) })
	return mux
}

func (n *Node) down(context.Context, struct{}) (struct{}, error) {
	n.o.Log.Info("asked to end")
	n.o.Down()
	return struct{}{}, nil
}

// join takes the path of identity.md 10.1, in `up` as on a machine of its own.
func (n *Node) join(ctx context.Context, inbound string) error {
	key, csr, err := newKey()
	if err != nil {
		return err
	}
	j, err := control.Join(ctx, n.o.Dial, n.td, n.o.Code.Pin, control.Joining{
		Name: n.o.Name, Secret: n.o.Code.Secret, Inbound: inbound, Version: n.o.Version, CSR: csr,
	})
	if err != nil {
		return err
	}
	b, err := identity.ParseBundle(n.td, j.Bundle)
	if err != nil {
		return fmt.Errorf("reading the trust bundle: %w", err)
	}
	n.snap.Store(&held{Node: &snapshot.Node{}, trust: identity.NewTrust(n.td, b), index: entry.NewIndex(nil)})
	return n.takeOwn(key, j.Chain)
}

func (n *Node) takeOwn(key *ecdsa.PrivateKey, chain [][]byte) error {
	cert, leaf, err := credential(key, chain)
	if err != nil {
		return fmt.Errorf("reading this node's SVID: %w", err)
	}
	serial := leaf.SerialNumber.Bytes()
	issued, _ := identity.IssuedAt(serial)
	n.own.Store(&ownSVID{cert: cert, serial: serial, issued: issued, notAfter: leaf.NotAfter})
	return nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return key, csr, nil
}

func credential(key *ecdsa.PrivateKey, chain [][]byte) (*tls.Certificate, *x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, nil, errors.New("no certificate in the answer")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, nil, err
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, nil, errors.New("the certificate is for another key")
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, leaf, nil
}

// keepOwn renews the node's own SVID at half its life (identity.md 16.1).
func (n *Node) keepOwn(ctx context.Context) error {
	for {
		own := n.own.Load()
		at := identity.RenewAt(own.serial, own.issued, own.notAfter)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(max(time.Until(at), 30*time.Second), 5*time.Minute)):
		}
		if time.Now().Before(at) {
			continue
		}
		key, csr, err := newKey()
		if err == nil {
			var chain [][]byte
			chain, err = n.client.Issue(ctx, &control.Want{Csr: csr, Replaces: own.serial})
			if err == nil {
				err = n.takeOwn(key, chain)
			}
		}
		if err != nil && ctx.Err() == nil {
			n.o.Log.Error("this node's SVID was not renewed", "ends", own.notAfter, "error", err)
		}
	}
}

func (n *Node) certificate(string) (*tls.Certificate, error) {
	if own := n.own.Load(); own != nil && time.Now().Before(own.notAfter) {
		return own.cert, nil
	}
	return nil, errors.New("this node has no SVID")
}

func (n *Node) trust() *identity.Trust { return n.snap.Load().trust }

// apply puts a snapshot in force: compiled first, swapped whole, and open connections decided
// anew before it returns.
func (n *Node) apply(s *snapshot.Node) error {
	before, began := n.snap.Load(), time.Now()
	h, state, err := n.prepare(s, before)
	if err != nil {
		return err
	}
	n.snap.Store(h)
	if !reflect.DeepEqual(before.Attach, s.Attach) || !reflect.DeepEqual(before.Audiences, s.Audiences) || withdrawn(before.book, h.book) {
		n.tokens.forget() // before a call is decided anew: it carries a token of now
		n.edge.forget()
	}
	if before.Mesh.PolicyRevision != s.Mesh.PolicyRevision { // what is kept by it nobody asks for any more
		n.edge.forget()
	}
	if !reflect.DeepEqual(before.Bundles, s.Bundles) {
		n.edge.hangUp()
	}
	n.proxy.Update(state)
	if state.Routes != nil {
		n.o.Metrics.GatewayReload(time.Since(began))
	}
	n.svids.keepOnly(s.Entries)
	n.endRunsWithout(h)
	n.gateways.changed()
	n.notify()
	return nil
}

// attached follows each time that the stream stands and its first snapshot is in force.
func (n *Node) attached(ctx context.Context) {
	n.svids.again()
	n.reportAll(ctx)
	n.gateways.reached()
	n.once.Do(func() { close(n.first) })
}

// Changed closes at the next change of what the Workload API would say.
func (n *Node) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

func (n *Node) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *Node) gauges(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		n.o.Metrics.StreamUp(n.client.InTouch())
		stale := n.revoked.Stale(time.Now())
		n.o.Metrics.RevocationsStale(stale)
		old := stale && time.Since(n.started) > revocation.StaleAfter // before, there was none
		if old != n.staleSaid.Swap(old) && old {
			n.o.Log.Warn("nothing was heard of revoked tokens for 30 seconds: a token revoked since is still taken here")
		}
		n.o.Metrics.CertificateExpiry("node", n.o.Name, n.own.Load().notAfter)
		for name, s := range n.svids.all() {
			n.o.Metrics.CertificateExpiry("workload", name, s.NotAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (n *Node) happened(kind, text, hint string) {
	if n.o.Event != nil {
		n.o.Event(Happening{Kind: kind, Text: text, Hint: hint})
	}
}

// InTouch reports whether the stream to the server stands.
func (n *Node) InTouch() bool { return n.client.InTouch() }

// Running counts the programs that run here.
func (n *Node) Running() int { return len(n.allRuns()) }

// Drain lets calls under way end and takes no new ones.
func (n *Node) Drain(ctx context.Context) error { return n.proxy.Drain(ctx) }

// Recorder is this node's record, for the demo's table.
func (n *Node) Recorder() *audit.Recorder { return n.recorder }
