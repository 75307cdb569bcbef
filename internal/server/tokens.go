package server

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/control"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/files"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/jwks"
	"countersign.dev/internal/keyring"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/snapshot"
	"countersign.dev/internal/telemetry"
	"countersign.dev/internal/token"
	"golang.org/x/sync/errgroup"
)

// TokenOptions are the settings of the token service (tokens.md 16).
type TokenOptions struct {
	Issuer     string           // https URL; empty: https://localhost:<port of the public listener>
	Cert       *tls.Certificate // of the public ports; nil: one of our own authority
	KeyPeriod  time.Duration    // how long a key signs; 0 is 24 h
	NoImplicit bool             // workloads without a record are no clients
	FetchAllow []netip.Prefix   // addresses of foreign key sets beyond public ones
	FetchRoots *x509.CertPool   // nil: the system's
}

// The service that callers in the mesh know, http://tokens.countersign.
const (
	tokensService  = "tokens"
	tokensInstance = "tokens-"
	tokenKeys      = "token/keys/"
)

// knownWithin is how long a change of keys waits for nodes that are away (tokens.md 10.2).
const knownWithin = 10 * time.Minute

// tokens is the token service of this server.
type tokens struct {
	s        *Server
	o        TokenOptions
	issuer   string
	host     string // of the issuer, without port
	mtls     net.Addr
	mtlsURL  string
	ring     *keyring.Ring
	ledger   *token.Ledger
	keeper   *jwks.Keeper
	records  *os.Root
	recorder *audit.Recorder
	service  *token.Service
	cert     atomic.Pointer[tls.Certificate] // of the public ports, if it is of our own authority
	signer   atomic.Pointer[signer]
}

// signer is the active key made ready to sign tokens.
type signer struct {
	key crypto.Signer
	*jose.Signer
}

// nameOf is the kid of a signing key (tokens.md 10.1).
func nameOf(pub crypto.PublicKey) (string, error) {
	k, err := jose.NewKey(pub)
	if err != nil {
		return "", err
	}
	return k.ID(), nil
}

// openTokens opens the keys, the log and the records, before the world is read for the first time.
func (s *Server) openTokens(ctx context.Context, l Listeners) (*tokens, error) {
	t := &tokens{s: s, o: s.o.Tokens, issuer: s.o.Tokens.Issuer, mtls: l.TokensMTLS.Addr()}
	if t.issuer == "" {
		_, port, err := net.SplitHostPort(l.Tokens.Addr().String())
		if err != nil {
			return nil, fmt.Errorf("naming the issuer: %w", err)
		}
		t.issuer = "https://localhost:" + port
	}
	u, err := url.Parse(t.issuer)
	if err != nil {
		return nil, fmt.Errorf("reading the issuer: %w", err)
	}
	t.host = u.Hostname()
	if t.records, err = files.PrivateSubdir(s.o.Dir, "tokens"); err != nil {
		return nil, err
	}
	id, err := identity.ForServer(s.td, s.o.Name)
	if err != nil {
		return nil, fmt.Errorf("naming this server: %w", err)
	}
	key := s.decision
	t.recorder, err = audit.Open(audit.Options{Dir: t.records, Node: id.String(), DecisionKey: func() []byte { return key }, Log: s.o.Log})
	if err != nil {
		return nil, fmt.Errorf("opening the records of issued tokens: %w", err)
	}
	t.ring, err = keyring.Open(ctx, keyring.Options{
		Store: s.o.Store, Sealer: s.o.Sealer, Prefix: tokenKeys, Name: nameOf, Period: t.o.KeyPeriod,
		Known: t.known, Record: t.recordKey, Now: time.Now, Log: s.o.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the keys of tokens: %w", err)
	}
	t.ledger = token.NewLedger(s.o.Store, s.o.Log)
	t.keeper = jwks.NewKeeper(jwks.Options{Store: s.o.Store, Allow: t.o.FetchAllow, Roots: t.o.FetchRoots, Now: time.Now, Log: s.o.Log})
	_, port, err := net.SplitHostPort(t.mtls.String())
	if err != nil {
		return nil, fmt.Errorf("naming the mTLS port: %w", err)
	}
	t.mtlsURL = "https://" + net.JoinHostPort(t.host, port)
	t.service, err = token.New(token.Options{
		Issuer: t.issuer, MTLS: t.mtlsURL, TrustDomain: s.td,
		World: func() *token.World { return s.world.load().tokens }, Signer: t.active, Keys: t.publicKeys,
		Revoked: t.ledger.Log(), Store: s.o.Store, Records: counted{t.recorder, s.o.Metrics}, Now: time.Now, Log: s.o.Log,
		Pseudonyms: s.pseudonymKey, PeerOf: sourceOf, Missed: func(issuer, uri string) { t.keeper.Miss(jwks.Source{Issuer: issuer, URI: uri}) },
	})
	if err != nil {
		return nil, fmt.Errorf("opening the token service: %w", err)
	}
	return t, nil
}

func (t *tokens) close() {
	if t.recorder != nil {
		t.recorder.Close()
	}
	if t.records != nil {
		t.records.Close()
	}
}

// active is the key that signs now; nil if there is none.
func (t *tokens) active() *jose.Signer {
	_, key := t.ring.Active()
	if at := t.signer.Load(); at != nil && at.key == key {
		return at.Signer
	}
	if key == nil {
		return nil
	}
	s, err := jose.NewSigner(key)
	if err != nil {
		return nil
	}
	t.signer.Store(&signer{key, s})
	return s
}

// publicKeys are those of the world in force, so that what is said of them and what nodes
// verify by is the same.
func (t *tokens) publicKeys() *jose.Set { return t.s.world.load().keys }

// known waits until every node that is in touch enforces what is stored, or ten minutes are over.
func (t *tokens) known(ctx context.Context) error {
	_, rev, err := t.s.o.Store.List(ctx, tokenKeys)
	if err != nil {
		return fmt.Errorf("asking for the revision: %w", err)
	}
	if err := t.s.world.waitFor(ctx, rev); err != nil {
		return err
	}
	t.s.wait(ctx, t.s.world.load().Revision, knownWithin)
	return ctx.Err()
}

func (t *tokens) recordKey(ctx context.Context, k keyring.Key, to keyring.State) error {
	return t.s.recorder.Record(ctx, &audit.Record{
		Kind: audit.KindKey, Action: string(to), Object: "token/" + k.ID, KID: k.ID, Decision: audit.Allow, Layer: audit.LayerIssue, Result: audit.ResultOK,
	})
}

// run keeps the service until ctx ends.
func (t *tokens) run(ctx context.Context, l Listeners) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ended(ctx, t.recorder.Run(ctx)) })
	g.Go(func() error { return ended(ctx, t.ring.Run(ctx)) })
	g.Go(func() error { return ended(ctx, t.ledger.Run(ctx)) })
	g.Go(func() error { return ended(ctx, t.keeper.Run(ctx)) })
	g.Go(func() error { return t.keepCertificate(ctx) })
	g.Go(func() error { return t.wanted(ctx) })
	handler := t.service.Handler()
	g.Go(func() error {
		return ended(ctx, serveTLS(ctx, l.Tokens, t.publicTLS(), handler, t.recorder, t.s.o.Log))
	})
	g.Go(func() error {
		return ended(ctx, serveTLS(ctx, l.TokensMTLS, t.mtlsTLS(), handler, t.recorder, t.s.o.Log))
	})
	return g.Wait()
}

// wanted tells the keeper which key sets the objects in force need.
func (t *tokens) wanted(ctx context.Context) error {
	var last []jwks.Source
	for {
		v, newer := t.s.world.watch()
		if now := v.sources(); !slices.Equal(last, now) {
			t.keeper.Want(now)
			last = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-newer:
		}
	}
}

// sources are the key sets that a server has to retrieve.
func (v *view) sources() []jwks.Source {
	set := map[jwks.Source]bool{}
	for _, i := range v.Issuers {
		if len(i.JWKS) == 0 {
			set[jwks.Source{Issuer: i.Issuer, URI: i.JWKSURI}] = true
		}
	}
	for _, ra := range v.ReqAuth {
		for _, r := range ra.Rules {
			if len(r.JWKS) == 0 && (v.Tokens == nil || r.Issuer != v.Tokens.Issuer) {
				set[jwks.Source{Issuer: r.Issuer, URI: r.JWKSURI, Timeout: r.Timeout}] = true
			}
		}
	}
	for _, c := range v.clients {
		if c.JWKSURI != "" {
			set[jwks.Source{URI: c.JWKSURI}] = true
		}
	}
	return slices.SortedFunc(maps.Keys(set), func(a, b jwks.Source) int {
		return strings.Compare(a.Issuer+"\x00"+a.URI+"\x00"+a.Timeout.String(), b.Issuer+"\x00"+b.URI+"\x00"+b.Timeout.String())
	})
}

// readTokens works out what the view means for tokens, once everything is decoded.
func (s *Server) readTokens(v *view) error {
	o := grant.Objects{
		TrustDomain: s.td.Name(), RootNamespace: s.meta.RootNamespace, NoImplicit: s.o.Tokens.NoImplicit,
		Clients: v.clients, Audiences: v.Audiences, Issuers: v.Issuers, Delegations: v.delegations,
	}
	if t := s.tokens; t != nil {
		o.Issuer = t.issuer
		if err := s.ownKeys(v); err != nil {
			return err
		}
		s.addTokenService(v)
	}
	s.nameAudiences(v)
	o.Services = v.services()
	v.directory, _ = grant.New(o) // faults were told when the objects came; what remains gives nothing
	w := &token.World{Directory: v.directory, Trust: s.trust(), Foreign: map[string]*jose.Set{}, ClientKeys: map[string]*jose.Set{}, Allow: s.allowAtTokens(v), Gateway: s.leads(v), APIKeys: v.apiKeys}
	now := time.Now()
	for _, i := range v.Issuers {
		if set := v.keySet(i.JWKS, i.Issuer, i.JWKSURI, now, algs(i.Algs)...); set != nil {
			w.Foreign[i.Issuer] = set
		}
	}
	for _, c := range v.clients {
		if len(c.JWKS) > 0 || c.JWKSURI != "" {
			if set := v.keySet(c.JWKS, "", c.JWKSURI, now); set != nil {
				w.ClientKeys[c.ClientID] = set
			}
		}
	}
	w.Services = s.served(v)
	v.tokens = w
	v.attach()
	return nil
}

// served are the services that an identity may serve: what is sent to them it receives.
func (s *Server) served(v *view) map[string][]string {
	out := map[string][]string{}
	add := func(id, name string) {
		if id != "" && !slices.Contains(out[id], name) {
			out[id] = append(out[id], name)
		}
	}
	for _, svc := range v.Services {
		name := svc.Namespace + "/" + svc.Name
		add(svc.Audience, name)
		for _, id := range svc.Owners {
			add(id, name)
		}
		if len(svc.Owners) > 0 { // then R1 and R2 do not apply (registry.md 9)
			continue
		}
		for _, e := range v.Entries {
			if e.Namespace == svc.Namespace && slices.Contains(e.Services, svc.Name) {
				add(workloadID(s.td, e), name)
			}
		}
	}
	return out
}

// nameAudiences gives each service the identity that tokens for it name: of its first owner, or
// of who may serve it by R1 and R2 (registry.md 9).
func (s *Server) nameAudiences(v *view) {
	for i := range v.Services {
		svc := &v.Services[i]
		if len(svc.Owners) > 0 {
			svc.Audience = svc.Owners[0]
			continue
		}
		account := svc.Name
		if !slices.ContainsFunc(v.Entries, func(e entry.Entry) bool { return e.Namespace == svc.Namespace && e.ServiceAccount == account }) {
			for _, e := range v.Entries {
				if e.Namespace == svc.Namespace && slices.Contains(e.Services, svc.Name) {
					account = e.ServiceAccount
					break
				}
			}
		}
		if id, err := identity.ForWorkload(s.td, svc.Namespace, account); err == nil {
			svc.Audience = id.String()
		}
	}
}

// services are those of the registry as audiences.
func (v *view) services() []grant.Service {
	var out []grant.Service
	for _, svc := range v.Services {
		owners := append([]string{svc.Audience}, slices.DeleteFunc(slices.Clone(svc.Owners), func(id string) bool { return id == svc.Audience })...)
		out = append(out, grant.Service{Namespace: svc.Namespace, Name: svc.Name, Owners: owners})
	}
	return out
}

func algs(names []string) []jose.Alg {
	var out []jose.Alg
	for _, n := range names {
		out = append(out, jose.Alg(n))
	}
	return out
}

// keySet reads an inline set, or the retrieved one of a source; nil: none to be had.
func (v *view) keySet(inline json.RawMessage, issuer, uri string, now time.Time, rsa ...jose.Alg) *jose.Set {
	if len(inline) == 0 {
		for _, k := range v.Keys {
			if k.URI == uri && (uri != "" || k.Issuer == issuer) && k.Until > now.Unix() {
				inline = k.Keys
			}
		}
	}
	if len(inline) == 0 {
		return nil
	}
	set, err := jose.ReadSet(inline, rsa...)
	if err != nil {
		return nil
	}
	return set
}

// ownKeys is the key set of our own issuer: published, active and retired keys.
func (s *Server) ownKeys(v *view) error {
	var keys []*jose.Key
	for _, k := range v.signing {
		if k.State == keyring.Prepared {
			continue
		}
		key, err := jose.NewKey(k.Public)
		if err != nil {
			return fmt.Errorf("reading key %q: %w", k.ID, err)
		}
		keys = append(keys, key)
	}
	set, err := jose.NewSet(keys...)
	if err != nil {
		return fmt.Errorf("reading the keys of tokens: %w", err)
	}
	b, err := set.MarshalJSON()
	if err != nil {
		return err
	}
	v.keys = set
	v.World.Tokens = &snapshot.Tokens{Issuer: s.tokens.issuer, Keys: b}
	return nil
}

// addTokenService puts http://tokens.countersign into the registry: its owners and instances are
// the servers (tokens.md 3).
func (s *Server) addTokenService(v *view) {
	id, err := identity.ForServer(s.td, s.o.Name)
	if err != nil {
		return
	}
	_, port, err := net.SplitHostPort(s.tokens.mtls.String())
	if err != nil {
		return
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return
	}
	name := identity.ReservedNamespace + "/" + tokensService
	v.Services = append(v.Services, snapshot.Service{
		Namespace: identity.ReservedNamespace, Name: tokensService, Owners: []string{id.String()},
		Ports: []snapshot.Port{{Number: 80, Target: uint16(number), Protocol: "http"}},
	})
	v.Instances = append(v.Instances, snapshot.Instance{
		ID: tokensInstance + s.o.Name, Node: "server-" + s.o.Name, Owner: id.String(), Services: []string{name},
		Address: s.tokens.mtls.String(), State: snapshot.Ready, Since: s.started.Unix(),
	})
}

// attach works out which calls carry a token (tokens.md 15.4).
func (v *view) attach() {
	for i := range v.clients {
		c := &v.clients[i]
		if c.SPIFFEID == "" { // a disabled one stays: it gets no token, and its calls do not go without
			continue
		}
		for _, target := range c.Targets {
			if !target.Attach {
				continue
			}
			canonical, ok := v.directory.Find(target.Audience, c.Namespace)
			if !ok {
				continue
			}
			for _, svc := range v.Services {
				if svc.Audience != canonical {
					continue
				}
				v.World.Attach = append(v.World.Attach, snapshot.Attach{ID: c.SPIFFEID, Service: svc.Namespace + "/" + svc.Name, Audience: canonical, Scopes: target.DefaultScopes, Client: c.Namespace + "/" + c.Name})
			}
		}
	}
}

// allowAtTokens asks the policies that hold at the token service (tokens.md 6).
func (s *Server) allowAtTokens(v *view) func(identity.Peer, *http.Request) policy.Verdict {
	program := v.compiled.For(policy.Destination{
		Namespace: identity.ReservedNamespace, ServiceAccount: "server-" + s.o.Name, Labels: map[string]string{"app": tokensService},
	})
	var port uint16
	if t := s.tokens; t != nil {
		if addr, err := netip.ParseAddrPort(t.mtls.String()); err == nil {
			port = addr.Port()
		}
	}
	return func(peer identity.Peer, r *http.Request) policy.Verdict {
		who := policy.ParsePeer(peer.ID.String(), s.td.Name())
		bound := program.Bind(policy.Conn{Peer: &who, Port: port, HTTP: true})
		q := policy.Request{Method: r.Method, Host: r.Host, Scheme: "https"}
		if r.URL.Path != "" { // of CONNECT there is none
			var fault *h1.Fault
			q.Path, _, _, fault = h1.Normalize(r.URL.EscapedPath())
			if fault != nil { // a path with two meanings has none here
				return policy.Verdict{Layer: policy.LayerAuthz, Reason: policy.ReasonNoRule, Rule: -1}
			}
			q.Wide, q.Query, q.HasQuery = h1.Wide(q.Path), r.URL.RawQuery, r.URL.RawQuery != "" || r.URL.ForceQuery
		}
		if bound.ReadsHeader() {
			h := r.Header.Clone()
			if _, fault := h1.Strip(h); fault != nil {
				return policy.Verdict{Layer: policy.LayerAuthz, Reason: policy.ReasonNoRule, Rule: -1}
			}
			q.Header = h
		}
		return bound.Decide(&q)
	}
}

// Revoked is the log as nodes follow it.
func (h house) Revoked(ctx context.Context) *control.Revoked {
	if h.s.tokens == nil {
		return nil
	}
	f := h.s.tokens.ledger.Follow(ctx)
	if f == nil {
		return nil
	}
	return &control.Revoked{All: f.All, Epoch: f.Epoch, More: f.More}
}

// Heard notes up to where a node enforces the log.
func (h house) Heard(node string, epoch int64) { h.s.nodes.heard(node, epoch, time.Now()) }

// keepCertificate renews the certificate of the public ports at half its life.
func (t *tokens) keepCertificate(ctx context.Context) error {
	for {
		wait := time.Minute
		if c := t.cert.Load(); c != nil {
			wait = max(time.Until(renewal(c.Leaf)), time.Minute)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(wait, 5*time.Minute)):
		}
		if c := t.cert.Load(); t.o.Cert != nil || c != nil && time.Now().Before(renewal(c.Leaf)) {
			continue
		}
		if err := t.renewCertificate(ctx); err != nil && ctx.Err() == nil {
			t.s.o.Log.Error("the certificate of the token ports was not renewed", "error", err)
		}
	}
}

func (t *tokens) renewCertificate(ctx context.Context) error {
	if t.o.Cert != nil {
		return nil
	}
	names := []string{t.host}
	if t.host != "localhost" {
		names = append(names, "localhost")
	}
	c, err := t.s.issueOwn(ctx, names)
	if err != nil {
		return err
	}
	t.cert.Store(c)
	return nil
}

// certificate is what the public ports show.
func (t *tokens) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if t.o.Cert != nil {
		return t.o.Cert, nil
	}
	if c := t.cert.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("no certificate yet")
}

// publicTLS never asks for a client certificate, so that browsers show no prompt.
func (t *tokens) publicTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: t.certificate, NextProtos: []string{"http/1.1"}}
}

// mtlsTLS asks for one: under the service's name in the mesh as every workload does, else as
// RFC 8705 wants it, where the client alone says which authorities count. Tickets are off, so
// that every connection proves itself.
func (t *tokens) mtlsTLS() *tls.Config {
	s := t.s
	mesh := identity.ServerConfig(identity.Side{
		Own: s.certificate, Trust: s.trust, Now: time.Now, NextProtos: []string{"http/1.1"},
	}, tls.RequireAnyClientCert)
	outside := &tls.Config{
		MinVersion: tls.VersionTLS13, GetCertificate: t.certificate, NextProtos: []string{"http/1.1"},
		ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true,
	}
	suffix := "." + tokensService + "." + identity.ReservedNamespace + ".svc." + s.td.Name()
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if name := "." + strings.ToLower(hello.ServerName); strings.HasSuffix(name, suffix) {
				return mesh, nil
			}
			return outside, nil
		},
	}
}

// Issuer is the URL of the token service, empty if there is none.
func (s *Server) Issuer() string {
	if s.tokens == nil {
		return ""
	}
	return s.tokens.issuer
}

// counted counts what the token service writes down.
type counted struct {
	*audit.Recorder
	metrics *telemetry.Metrics
}

func (c counted) Add(rec *audit.Record) {
	c.Recorder.Add(rec)
	c.metrics.TokenRequest(rec.Grant, rec.Decision)
}

func (c counted) Write(ctx context.Context, rec *audit.Record) error {
	err := c.Recorder.Write(ctx, rec)
	if err == nil {
		c.metrics.TokenRequest(rec.Grant, rec.Decision)
	}
	return err
}

// TokenMTLS is the base URL of its port for clients with a certificate.
func (s *Server) TokenMTLS() string {
	if s.tokens == nil {
		return ""
	}
	return s.tokens.mtlsURL
}
