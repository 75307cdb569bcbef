package server

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/jwks"
	"countersign.dev/internal/keyring"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/registry"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/route"
	"countersign.dev/internal/snapshot"
	"countersign.dev/internal/store"
	"countersign.dev/internal/token"
)

// world publishes what the store holds, decoded, one immutable value a revision.
type world struct {
	mu     sync.Mutex // guards the next five; held for a pointer swap
	now    *view
	newer  chan struct{}       // closed when now is replaced
	seen   int64               // revision of the store that was read; what it changed may not concern now
	moved  chan struct{}       // closed when seen grows
	broken *unreadable         // what came after now, if it cannot be read
	values map[string]store.KV // owned by the one goroutine that follows the store

	parsed  map[route.Name]certificate // owned by it too, as what follows
	records map[string]catalog.Record  // those of values that were read; Value is gone there
}

// view is one revision: what nodes are told, and what only the server needs.
type view struct {
	*snapshot.World
	records  map[string]catalog.Record // by store key
	order    []string                  // of what the store held, sorted
	nodes    map[string]registry.Node
	compiled *policy.Compiled
	// What ready says: why a key set was not retrieved, by store key, and what is wrong with objects.
	unfetched map[string]string
	faults    func() []grant.Fault
	foreign   func() map[route.Name]*route.Foreign

	clients     []grant.Client
	delegations []grant.Delegation
	signing     []keyring.Key // of tokens
	keys        *jose.Set     // their public parts
	directory   *grant.Directory
	tokens      *token.World
	apiKeys     *apikey.Set

	certificates map[route.Name]certificate // that listeners refer to
}

func newView(w *snapshot.World) *view {
	return &view{World: w, foreign: sync.OnceValue(w.Edge.Foreign)}
}

func (w *world) init() {
	w.now = newView(&snapshot.World{})
	w.newer, w.moved = make(chan struct{}), make(chan struct{})
	w.values, w.records = map[string]store.KV{}, map[string]catalog.Record{}
}

func (w *world) load() *view {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// watch gives the newest revision and what closes when there is a newer one.
func (w *world) watch() (*view, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now, w.newer
}

// unreadable is a revision that cannot be decoded, and why.
type unreadable struct {
	rev int64
	err error
}

func (w *world) unread() *unreadable {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken
}

func (w *world) publish(rev int64, v *view, broken *unreadable) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v != nil {
		w.now = v
	}
	w.broken = broken
	close(w.newer)
	w.newer = make(chan struct{})
	w.reachLocked(rev)
}

// reach notes a revision that changes nothing here.
func (w *world) reach(rev int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reachLocked(rev)
}

func (w *world) reachLocked(rev int64) {
	w.seen = rev
	close(w.moved)
	w.moved = make(chan struct{})
}

func (w *world) reached() (int64, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen, w.moved
}

// waitFor returns once revision rev is known here: a caller sees its own write, or hears that
// it is written but nothing can come of it.
func (w *world) waitFor(ctx context.Context, rev int64) error {
	for {
		seen, moved := w.reached()
		if b := w.unread(); b != nil && b.rev >= rev {
			return fmt.Errorf("revision %d is stored but not in force: %w", rev, b.err)
		}
		if seen >= rev {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for revision %d: %w", rev, context.Cause(ctx))
		case <-moved:
		}
	}
}

// follow keeps the world up to date until ctx ends.
func (s *Server) follow(ctx context.Context) error {
	reset := func(kvs []store.KV, rev int64) error {
		clear(s.world.values)
		clear(s.world.records)
		for _, kv := range kvs {
			if concerns(kv.Key) {
				s.world.values[kv.Key] = kv
			}
		}
		s.keyNotes.reset(kvs)
		if s.moving() {
			return nil
		}
		return s.rebuild(rev)
	}
	apply := func(b store.Batch) error {
		if len(b.Events) == 0 {
			return nil
		}
		s.keyNotes.follow(b.Events)
		if !slices.ContainsFunc(b.Events, func(e store.Event) bool { return concerns(e.KV.Key) }) {
			s.world.reach(b.Rev)
			return nil
		}
		for _, e := range b.Events {
			if !concerns(e.KV.Key) {
				continue
			}
			delete(s.world.records, e.KV.Key)
			if e.Deleted {
				delete(s.world.values, e.KV.Key)
			} else {
				s.world.values[e.KV.Key] = e.KV
			}
		}
		if s.moving() {
			return nil
		}
		return s.rebuild(b.Rev)
	}
	return store.Follow(ctx, s.o.Store, "", reset, apply)
}

// concerns says whether a key is of the world. What the token service writes for each request
// is not: it would be decoded anew for every assertion that comes in.
func concerns(key string) bool {
	return (!strings.HasPrefix(key, "token/") || strings.HasPrefix(key, tokenKeys)) && !catalog.Staged(key) && !strings.HasPrefix(key, besideKeys)
}

// moving: the objects are half of one set and half of another, which is no state of the mesh.
func (s *Server) moving() bool {
	_, ok := s.world.values[catalog.Moving]
	return ok
}

// rebuild decodes what the store holds. What cannot be read keeps the last good world: an
// error here must never make access wider (rule I). Without a last good one it ends the server.
func (s *Server) rebuild(rev int64) error {
	v, err := s.view(rev)
	switch {
	case err == nil:
		s.world.publish(rev, v, nil)
		return nil
	case s.world.load().Revision == 0:
		return fmt.Errorf("reading what the store holds at revision %d: %w", rev, err)
	}
	s.o.Log.Error("the store holds what this server cannot read; the last good state stays in force", "revision", rev, "error", err)
	s.world.publish(rev, nil, &unreadable{rev, err})
	return nil
}

func (s *Server) view(rev int64) (*view, error) {
	w := &snapshot.World{
		Revision: rev, Epoch: s.meta.Epoch,
		Bundles: map[string][]byte{}, Nodes: map[string][]string{}, Secrets: map[string][]byte{},
	}
	v := newView(w)
	v.records, v.nodes, v.unfetched = make(map[string]catalog.Record, len(s.world.values)), map[string]registry.Node{}, map[string]string{}
	v.faults = sync.OnceValue(func() []grant.Fault { return s.grantFaults(v) })
	v.order = ordered(s.world.values, s.world.load().order)
	for _, key := range v.order {
		if err := s.take(v, s.world.values[key]); err != nil {
			return nil, err
		}
	}
	bundle, err := s.ca.Bundle().JSON()
	if err != nil {
		return nil, err
	}
	w.Bundles[s.td.Name()] = bundle
	var decisive []resource.Object
	for _, r := range v.records {
		decisive = append(decisive, r.Object)
	}
	hash := resource.Revision(decisive, s.td.Name(), s.meta.RootNamespace)
	w.Mesh = snapshot.Mesh{
		TrustDomain: s.td.Name(), RootNamespace: s.meta.RootNamespace, SVIDTTL: s.o.SVIDTTL,
		AllowAny: s.o.AllowAny, PolicyRevision: hex.EncodeToString(hash[:]),
	}
	set := policy.Set{
		TrustDomain: s.td.Name(), RootNamespace: s.meta.RootNamespace, DefaultMode: policy.Strict,
		Policies: w.Policies, PeerAuth: w.PeerAuth, RequestAuth: w.ReqAuth, Revision: hash,
	}
	compiled, faults := policy.Compile(set)
	if len(faults) > 0 {
		return nil, fmt.Errorf("compiling the policies: %v", faults[0])
	}
	v.compiled = compiled
	s.certificates(v)
	if err := s.apiKeys.settle(v, s.td.Name()); err != nil {
		return nil, err
	}
	if err := s.readTokens(v); err != nil {
		return nil, err
	}
	sortWorld(w)
	return v, nil
}

// take decodes one value of the store into the view.
func (s *Server) take(v *view, kv store.KV) error {
	switch {
	case strings.HasPrefix(kv.Key, keyPrefix):
		r, err := s.apiKeys.decode(kv, s.o.Sealer)
		if err != nil {
			return err
		}
		v.records[kv.Key] = r
	case strings.HasPrefix(kv.Key, catalog.Prefix):
		r, err := s.record(kv)
		if err != nil {
			return err
		}
		v.records[kv.Key] = r
		return addObject(v, r)
	case strings.HasPrefix(kv.Key, registry.ServicePrefix):
		svc, err := registry.DecodeService(kv)
		if err != nil {
			return err
		}
		v.Services = append(v.Services, svc)
	case strings.HasPrefix(kv.Key, registry.InstancePrefix):
		inst, err := registry.DecodeInstance(kv)
		if err != nil {
			return err
		}
		v.Instances = append(v.Instances, inst)
	case strings.HasPrefix(kv.Key, registry.NodePrefix):
		n, err := registry.DecodeNode(kv)
		if err != nil {
			return err
		}
		v.nodes[n.Name] = n
		v.World.Nodes[n.Name] = []string{"node:name:" + n.Name}
	case strings.HasPrefix(kv.Key, tokenKeys):
		k, err := keyring.Decode(keyring.Options{Sealer: s.o.Sealer, Prefix: tokenKeys, Name: nameOf}, kv)
		if err != nil {
			return err
		}
		v.signing = append(v.signing, k)
	case strings.HasPrefix(kv.Key, jwks.Prefix):
		k, err := jwks.Decode(kv)
		if err != nil {
			s.o.Log.Error("a foreign key set cannot be read: its tokens are refused", "error", err)
			return nil
		}
		set := snapshot.KeySet{Issuer: k.Source.Issuer, URI: k.Source.URI}
		if time.Now().Before(k.Until) { // a set that is too old goes: no key, no token
			set.Keys, set.Until = k.JWKS, k.Until.Unix()
		}
		v.Keys = append(v.Keys, set)
		v.unfetched[kv.Key] = k.Error
	case strings.HasPrefix(kv.Key, sealedSecrets):
		b, err := s.openSecret(kv)
		if err != nil {
			return err
		}
		v.Secrets[strings.TrimPrefix(kv.Key, sealedSecrets)] = b
	}
	return nil
}

func addObject(v *view, r catalog.Record) error {
	w := v.World
	switch r.Kind {
	case "AuthorizationPolicy":
		return addTo(&w.Policies, r, resource.Policy)
	case "PeerAuthentication":
		return addTo(&w.PeerAuth, r, func(o resource.Object) (policy.PeerAuthentication, error) {
			return resource.PeerAuthentication(o, r.First)
		})
	case "Workload":
		return addTo(&w.Entries, r, func(o resource.Object) (entry.Entry, error) { return resource.Entry(o, r.First, r.Last) })
	case "RequestAuthentication":
		return addTo(&w.ReqAuth, r, func(o resource.Object) (policy.RequestAuthentication, error) {
			return resource.RequestAuthentication(o, r.First)
		})
	case "OAuthClient":
		return addTo(&v.clients, r, aged(r, resource.Client, func(c *grant.Client) *int64 { return &c.Since }))
	case "OAuthResource":
		return addTo(&w.Audiences, r, aged(r, resource.Audience, func(a *grant.Audience) *int64 { return &a.Since }))
	case "TrustedIssuer":
		return addTo(&w.Issuers, r, aged(r, resource.Issuer, func(i *grant.Issuer) *int64 { return &i.Since }))
	case "DelegationPolicy":
		return addTo(&v.delegations, r, resource.Delegation)
	case "APIKey": // all of them together: see apiKeys
	case "GatewayClass":
		return addTo(&w.Edge.Classes, r, dated(r, resource.GatewayClass))
	case "Gateway":
		return addTo(&w.Edge.Gateways, r, dated(r, resource.Gateway))
	case "HTTPRoute":
		return addTo(&w.Edge.Routes, r, dated(r, resource.HTTPRoute))
	case "RateLimit":
		return addTo(&w.Edge.Limits, r, dated(r, resource.RateLimit))
	case "ReferenceGrant":
		return addTo(&w.Edge.Grants, r, dated(r, resource.ReferenceGrant))
	case "Service":
		return addTo(&w.Edge.Services, r, resource.Service)
	case "EndpointSlice":
		return addTo(&w.Edge.Endpoints, r, resource.EndpointSlice)
	case "ConfigMap": // nothing that is built reads it
	case "Secret": // see certificates
	case "Namespace":
		labels, err := resource.NamespaceLabels(r.Object)
		if err != nil {
			return fmt.Errorf("reading %s: %w", r.ID(), err)
		}
		if w.Edge.Namespaces == nil {
			w.Edge.Namespaces = map[string]map[string]string{}
		}
		w.Edge.Namespaces[r.Name] = labels
	default:
		return fmt.Errorf("%s is of a kind that this server does not know", r.ID())
	}
	return nil
}

// aged reads an object and notes when it was first applied: what two claim the older one keeps.
func aged[T any](r catalog.Record, read func(resource.Object) (T, error), since func(*T) *int64) func(resource.Object) (T, error) {
	return func(o resource.Object) (T, error) {
		x, err := read(o)
		*since(&x) = r.First
		return x, err
	}
}

// dated reads an object of the Gateway API, where age decides ties.
func dated[T any](r catalog.Record, read func(resource.Object, time.Time, int64) (T, error)) func(resource.Object) (T, error) {
	return func(o resource.Object) (T, error) {
		x, err := read(o, r.Created.Truncate(time.Second), r.Generation)
		if m, ok := any(&x).(interface{ At(revision int64) }); ok {
			m.At(r.Last)
		}
		return x, err
	}
}

// sortWorld puts everything in the order that package snapshot promises.
func sortWorld(w *snapshot.World) {
	// Keys are ordered by their bytes, which is not by namespace and name: "a-b/" is before "a/".
	byName := func(ns1, n1, ns2, n2 string) int { return cmp.Or(strings.Compare(ns1, ns2), strings.Compare(n1, n2)) }
	slices.SortFunc(w.Entries, func(a, b entry.Entry) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(w.Policies, func(a, b policy.Policy) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(w.PeerAuth, func(a, b policy.PeerAuthentication) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(w.Services, func(a, b snapshot.Service) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(w.ReqAuth, func(a, b policy.RequestAuthentication) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(w.Audiences, func(a, b grant.Audience) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(w.Issuers, func(a, b grant.Issuer) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(w.Keys, func(a, b snapshot.KeySet) int { return byName(a.Issuer, a.URI, b.Issuer, b.URI) })
	slices.SortFunc(w.Attach, func(a, b snapshot.Attach) int { return byName(a.ID, a.Service, b.ID, b.Service) })
	byMeta := func(a, b route.Meta) int { return byName(a.Namespace, a.Name.Name, b.Namespace, b.Name.Name) }
	slices.SortFunc(w.Edge.Classes, func(a, b route.Class) int { return byMeta(a.Meta, b.Meta) })
	slices.SortFunc(w.Edge.Gateways, func(a, b route.Gateway) int { return byMeta(a.Meta, b.Meta) })
	slices.SortFunc(w.Edge.Routes, func(a, b route.HTTPRoute) int { return byMeta(a.Meta, b.Meta) })
	slices.SortFunc(w.Edge.Grants, func(a, b route.Grant) int { return byMeta(a.Meta, b.Meta) })
	slices.SortFunc(w.Edge.Services, func(a, b route.Service) int { return byName(a.Namespace, a.Name.Name, b.Namespace, b.Name.Name) })
	slices.SortFunc(w.Edge.Endpoints, func(a, b route.Endpoints) int { return byName(a.Namespace, a.Name.Name, b.Namespace, b.Name.Name) })
	slices.SortFunc(w.Edge.Limits, func(a, b route.RateLimit) int { return byMeta(a.Meta, b.Meta) })
	slices.SortFunc(w.Instances, func(a, b snapshot.Instance) int { return byName(a.Node, a.ID, b.Node, b.ID) })
}
