// Package server is the control plane of one process: it wires the authorities to the store,
// to the nodes and to the administrative socket, and owns no truth of its own.
//
// Its words: the house is this assembly; its world is what the store holds, decoded. Its
// promise: what it answers comes from the world alone, what it writes goes through an
// authority, and nothing in it reads a node's memory.
package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/attest"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/ca"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/control"
	"countersign.dev/internal/files"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/registry"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/route"
	"countersign.dev/internal/store"
	"countersign.dev/internal/telemetry"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
)

// Options are what a server is made of.
type Options struct {
	Dir           *os.Root // <data>/server
	Store         store.Engine
	Sealer        *store.Sealer
	Cluster       string
	TrustDomain   string // of a new mesh; empty: cluster.local
	RootNamespace string // empty: istio-system
	SVIDTTL       time.Duration
	AllowAny      bool
	Name          string // of this server
	Version       string
	Metrics       *telemetry.Metrics
	Log           *slog.Logger
	Tokens        TokenOptions
	Home          string // of the node that will join in this process: the one node of a Workload until then
	// What the node of this process does not serve: Refuses tells it of addresses; OwnPorts are those of the process,
	// with what they are for, where Gateways listen. Handed are ports below 1024 that it need not open.
	Refuses  func(*route.Gateway) route.Refusal
	OwnPorts map[uint16]string
	Handed   []uint16
	// Watch is a directory whose objects are applied, absolute; WatchConfirmed, that it may open the mesh.
	Watch          string
	WatchConfirmed bool
	// CertificateDirs are those of the node of this process, by which objects are judged when they are applied; nil: the default.
	CertificateDirs []string
	// InRun asks the node of this process whether a caller belongs to a run.
	InRun func(*attest.Process) (bool, error)
}

// Server is the house. Open makes it, Run keeps it.
type Server struct {
	o        Options
	td       spiffeid.TrustDomain
	meta     meta
	ca       *ca.Authority
	catalog  *catalog.Catalog
	registry *registry.Registry
	joins    *attest.Joins
	records  *os.Root // where they lie
	recorder *audit.Recorder
	compiler route.Compiler // of what is not in force yet; guarded by writing
	world    world
	nodes    nodes
	own      atomic.Pointer[tls.Certificate]
	home     atomic.Pointer[string] // name of the node in this process, once invited
	tokens   *tokens                // nil: no listeners for it
	apiKeys  apiKeys
	keyNotes keyNotes
	decision []byte // key of decision ids

	directory directory
	started   time.Time
	Made      bool // this start made the mesh

	writing sync.Mutex // one administrative write at a time: fewer conflicts, same answers
}

// meta is the record meta/cluster: written once, when the mesh is made.
type meta struct {
	V             int    `json:"v"`
	Cluster       string `json:"cluster"`
	Epoch         string `json:"epoch"` // 16 hex digits
	TrustDomain   string `json:"trustDomain"`
	RootNamespace string `json:"rootNamespace"`
}

const (
	metaKey       = "meta/cluster"
	decisionKey   = "secret/decision-id"
	pseudonymKey  = "secret/pseudonym" // of people in records (audit.md 3.1)
	sealedSecrets = "secret/"
)

// Open makes the mesh on first use, and opens it afterwards: same trust domain, same keys.
func Open(ctx context.Context, o Options) (*Server, error) {
	if o.TrustDomain == "" {
		o.TrustDomain = "cluster.local"
	}
	if o.RootNamespace == "" {
		o.RootNamespace = "istio-system"
	}
	s := &Server{o: o, started: time.Now(), catalog: catalog.New(o.Store, o.Sealer), registry: registry.New(o.Store), joins: attest.NewJoins(o.Store)}
	s.world.init()
	if err := s.openMesh(ctx); err != nil {
		return nil, err
	}
	td, err := spiffeid.TrustDomainFromString(s.meta.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("reading the trust domain: %w", err)
	}
	s.td = td
	id, err := identity.ForServer(td, o.Name)
	if err != nil {
		return nil, fmt.Errorf("naming this server: %w", err)
	}
	key, err := s.decisionKey(ctx)
	if err != nil {
		return nil, err
	}
	s.decision = key
	if err := s.ensurePseudonyms(ctx); err != nil {
		return nil, err
	}
	if s.records, err = files.PrivateSubdir(o.Dir, "audit"); err != nil {
		return nil, err
	}
	s.recorder, err = audit.Open(audit.Options{Dir: s.records, Node: id.String(), DecisionKey: func() []byte { return key }, Log: o.Log})
	if err != nil {
		return nil, fmt.Errorf("opening the server's records: %w", err)
	}
	return s, nil
}

// openMesh reads meta/cluster, or writes it with everything that a new mesh starts with.
func (s *Server) openMesh(ctx context.Context) error {
	kv, err := s.o.Store.Get(ctx, metaKey)
	if errors.Is(err, store.ErrNotFound) {
		s.Made = true
		if err := s.makeMesh(ctx); err != nil {
			return fmt.Errorf("making a new mesh: %w", err)
		}
		kv, err = s.o.Store.Get(ctx, metaKey)
	}
	if err != nil {
		return fmt.Errorf("reading the mesh: %w", err)
	}
	if err := json.Unmarshal(kv.Value, &s.meta); err != nil {
		return fmt.Errorf("reading %q: %w", metaKey, err)
	}
	return nil
}

// makeMesh writes, in one transaction: the mesh's name and epoch, the key of decision ids,
// and the visible, deletable allow-nothing (istio-semantics.md 4.3).
func (s *Server) makeMesh(ctx context.Context) error {
	if err := identity.CheckTrustDomain(s.o.TrustDomain); err != nil {
		return err
	}
	epoch := make([]byte, 8)
	key := make([]byte, 16)
	rand.Read(epoch)
	rand.Read(key)
	m, err := json.Marshal(meta{V: 1, Cluster: s.o.Cluster, Epoch: hex.EncodeToString(epoch), TrustDomain: s.o.TrustDomain, RootNamespace: s.o.RootNamespace})
	if err != nil {
		return err
	}
	sealed, err := s.o.Sealer.Seal(decisionKey, key)
	if err != nil {
		return err
	}
	secret, err := json.Marshal(map[string]any{"v": 1, "sealed": sealed})
	if err != nil {
		return err
	}
	objects, faults := resource.Decode([]resource.File{{Name: "built in", Data: []byte(allowNothing(s.o.RootNamespace))}}, resource.Options{RootNamespace: s.o.RootNamespace})
	if resource.Stops(faults) {
		return fmt.Errorf("%v", faults)
	}
	objects[0].Places = resource.Places{}
	plan, err := s.catalog.Prepare(nil, []catalog.Change{{Object: objects[0]}}, time.Now())
	if err != nil {
		return err
	}
	t := plan.Txn
	t.If = append(t.If, store.Absent(metaKey))
	t.Then = append(t.Then, store.Put(metaKey, m), store.Put(decisionKey, secret))
	_, err = s.o.Store.Commit(ctx, t)
	return err
}

func allowNothing(root string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: allow-nothing, namespace: " + root + "}\nspec: {}\n"
}

func (s *Server) decisionKey(ctx context.Context) ([]byte, error) {
	kv, err := s.o.Store.Get(ctx, decisionKey)
	if err != nil {
		return nil, fmt.Errorf("reading the key of decision ids: %w", err)
	}
	return s.openSecret(kv)
}

// ensurePseudonyms makes the key of pseudonyms, once.
func (s *Server) ensurePseudonyms(ctx context.Context) error {
	key := make([]byte, 32)
	rand.Read(key)
	sealed, err := s.o.Sealer.Seal(pseudonymKey, key)
	if err != nil {
		return err
	}
	value, err := json.Marshal(map[string]any{"v": 1, "sealed": sealed})
	if err != nil {
		return err
	}
	_, err = s.o.Store.Commit(ctx, store.Txn{If: []store.Cmp{store.Absent(pseudonymKey)}, Then: []store.Op{store.Put(pseudonymKey, value)}})
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("making the key of pseudonyms: %w", err)
	}
	return nil
}

func (s *Server) pseudonymKey() []byte {
	return s.world.load().Secrets[strings.TrimPrefix(pseudonymKey, sealedSecrets)]
}

func (s *Server) openSecret(kv store.KV) ([]byte, error) {
	var v struct {
		Sealed []byte `json:"sealed"`
	}
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return nil, fmt.Errorf("reading %q: %w", kv.Key, err)
	}
	plain, err := s.o.Sealer.Unseal(kv.Key, v.Sealed)
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", kv.Key, err)
	}
	return plain, nil
}

// Listeners are the sockets a server answers on.
type Listeners struct {
	Nodes      net.Listener      // the control protocol
	Admin      *net.UnixListener // <run>/admin.sock
	Tokens     net.Listener      // 7444; nil with TokensMTLS: no token service
	TokensMTLS net.Listener      // 7445
}

// Run serves until ctx ends. ready is called once everything answers.
func (s *Server) Run(ctx context.Context, l Listeners, ready func()) error {
	defer s.records.Close()
	defer s.recorder.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	// fail ends what was started before a step that failed.
	fail := func(err error) error {
		cancel()
		return cmp.Or(g.Wait(), err)
	}
	g.Go(func() error { return ended(ctx, s.recorder.Run(ctx)) })
	authority, err := ca.Open(ctx, ca.Options{
		Store: s.o.Store, Sealer: s.o.Sealer, Dir: s.o.Dir, TrustDomain: s.td, ServerName: s.o.Name,
		Recorder: s.recorder, Log: s.o.Log,
	})
	if err != nil {
		return fail(err)
	}
	s.ca = authority
	if err := s.renewOwn(ctx); err != nil {
		return fail(err)
	}
	if l.Tokens != nil {
		if s.tokens, err = s.openTokens(ctx, l); err != nil {
			return fail(err)
		}
		defer s.tokens.close()
		if err := s.tokens.renewCertificate(ctx); err != nil {
			return fail(err)
		}
	}
	if _, err := s.catalog.Finish(ctx); err != nil {
		return fail(err)
	}
	g.Go(func() error { return ended(ctx, s.ca.Run(ctx)) })
	g.Go(func() error { return s.keepOwn(ctx) })
	g.Go(func() error { return ended(ctx, s.follow(ctx)) })
	g.Go(func() error { return ended(ctx, store.Upkeep(ctx, s.o.Store, s.o.Log)) })
	g.Go(func() error { return s.watchStore(ctx) })
	if err := s.world.waitFor(ctx, 1); err != nil {
		return fail(err)
	}
	if s.o.Watch != "" { // before a node is told anything: a door opens with all of it
		tried, first := context.WithCancel(ctx)
		g.Go(func() error { return ended(ctx, s.followDirectory(ctx, first)) })
		<-tried.Done()
	}
	g.Go(func() error { return s.expire(ctx) })
	g.Go(func() error { return s.writeUses(ctx) })
	g.Go(func() error { return s.remindOfKeys(ctx) })
	if s.tokens != nil {
		g.Go(func() error { return s.tokens.run(ctx, l) })
	}
	g.Go(func() error {
		return control.Serve(ctx, l.Nodes, control.ServerOptions{
			House: house{s}, TrustDomain: s.td.Name(), Log: s.o.Log,
			Side: identity.Side{Own: s.certificate, Trust: s.trust, Now: time.Now},
		})
	})
	g.Go(func() error {
		return admin.Serve(ctx, l.Admin, s.routes(), admin.Guard{
			Socket: l.Admin.Addr().String(), Owner: uint32(os.Getuid()), InRun: s.o.InRun, Log: s.o.Log,
		})
	})
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

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	log := s.o.Log
	admin.Handle(mux, log, "POST /v1/apply", told(s.apply))
	admin.Handle(mux, log, "POST /v1/delete", told(s.remove))
	admin.Handle(mux, log, "POST /v1/allow", told(s.allow))
	admin.Handle(mux, log, "POST /v1/expose", told(s.expose))
	admin.Handle(mux, log, "POST /v1/objects", told(s.objects))
	admin.Handle(mux, log, "POST /v1/why", told(s.why))
	admin.Handle(mux, log, "POST /v1/enforced", told(s.enforced))
	admin.Handle(mux, log, "POST /v1/status", told(s.status))
	admin.Handle(mux, log, "POST /v1/ca", told(s.authorities))
	admin.Handle(mux, log, "POST /v1/roots", told(s.roots))
	admin.Handle(mux, log, "POST /v1/routes", told(s.routeList))
	admin.Handle(mux, log, "POST /v1/route/test", told(s.testRoute))
	s.tokenRoutes(mux)
	s.keyRoutes(mux)
	return mux
}

// certificate is this server's own SVID.
func (s *Server) certificate(string) (*tls.Certificate, error) {
	if c := s.own.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("this server has no SVID yet")
}

func (s *Server) trust() *identity.Trust { return identity.NewTrust(s.td, s.ca.Bundle()) }

// Root is the first 8 hex digits of the root's key id, and when it ends.
func (s *Server) Root() (keyID string, notAfter time.Time, made bool) {
	for _, a := range s.ca.Status() {
		if a.Kind == "root" {
			return a.KeyID, a.NotAfter, a.Made
		}
	}
	return "", time.Time{}, false
}

// RootNamespace is the mesh's.
func (s *Server) RootNamespace() string { return s.meta.RootNamespace }

// TrustDomain is the mesh's.
func (s *Server) TrustDomain() string { return s.td.Name() }

// Revision is the newest that this server knows.
func (s *Server) Revision() int64 { return s.world.load().Revision }

// Invite makes a join code for the node of this process, which takes the way of every machine
// (identity.md 10.2); what run starts on it may make Workloads in every namespace (12.5). A
// name that a machine lost its credential for is taken back this way.
func (s *Server) Invite(ctx context.Context, node string, ttl time.Duration) (attest.Code, error) {
	secret, err := s.joins.Invite(ctx, node, ttl)
	if err != nil {
		return attest.Code{}, err
	}
	b := s.ca.Bundle()
	if len(b.Roots) == 0 {
		return attest.Code{}, errors.New("inviting a node: no root yet")
	}
	s.home.Store(&node)
	return attest.Code{TrustDomain: s.td.Name(), Pin: control.Pin(b.Roots[0]), Secret: secret}, nil
}

// watchStore keeps the gauge of the store's health.
func (s *Server) watchStore(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		_, err := s.o.Store.Status(ctx)
		s.o.Metrics.StoreUp(err == nil)
		for _, a := range s.ca.Status() {
			s.o.Metrics.CertificateExpiry(a.Kind, a.KeyID, a.NotAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// told gives an error that people can mend its words.
func told[Q, A any](f func(context.Context, Q) (A, error)) func(context.Context, Q) (A, error) {
	return func(ctx context.Context, q Q) (A, error) {
		a, err := f(ctx, q)
		if errors.Is(err, store.ErrNoSpace) {
			err = &admin.Problem{Code: "disk_full", Message: "writing the store: no space left; nothing was changed", Hints: []string{"countersign status"}}
		}
		return a, err
	}
}
