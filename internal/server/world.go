package server

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"countersign.dev/internal/catalog"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/registry"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/snapshot"
	"countersign.dev/internal/store"
)

// world publishes what the store holds, decoded, one immutable value a revision.
type world struct {
	mu     sync.Mutex // guards the next three; held for a pointer swap
	now    *view
	newer  chan struct{}
	broken *unreadable         // what came after now, if it cannot be read
	values map[string]store.KV // owned by the one goroutine that follows the store
}

// view is one revision: what nodes are told, and what only the server needs.
type view struct {
	*snapshot.World
	records  map[string]catalog.Record // by store key
	nodes    map[string]registry.Node
	compiled *policy.Compiled
}

func (w *world) init() {
	w.now = &view{World: &snapshot.World{}}
	w.newer = make(chan struct{})
	w.values = map[string]store.KV{}
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

func (w *world) publish(v *view, broken *unreadable) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v != nil {
		w.now = v
	}
	w.broken = broken
	close(w.newer)
	w.newer = make(chan struct{})
}

// waitFor returns once revision rev is known here: a caller sees its own write, or hears that
// it is written but nothing can come of it.
func (w *world) waitFor(ctx context.Context, rev int64) error {
	for {
		v, newer := w.watch()
		if v.Revision >= rev {
			return nil
		}
		if b := w.unread(); b != nil && b.rev >= rev {
			return fmt.Errorf("revision %d is stored but not in force: %w", rev, b.err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for revision %d: %w", rev, context.Cause(ctx))
		case <-newer:
		}
	}
}

// follow keeps the world up to date until ctx ends.
func (s *Server) follow(ctx context.Context) error {
	reset := func(kvs []store.KV, rev int64) error {
		clear(s.world.values)
		for _, kv := range kvs {
			s.world.values[kv.Key] = kv
		}
		return s.rebuild(rev)
	}
	apply := func(b store.Batch) error {
		if len(b.Events) == 0 {
			return nil
		}
		for _, e := range b.Events {
			if e.Deleted {
				delete(s.world.values, e.KV.Key)
			} else {
				s.world.values[e.KV.Key] = e.KV
			}
		}
		return s.rebuild(b.Rev)
	}
	return store.Follow(ctx, s.o.Store, "", reset, apply)
}

// rebuild decodes what the store holds. What cannot be read keeps the last good world: an
// error here must never make access wider (rule I). Without a last good one it ends the server.
func (s *Server) rebuild(rev int64) error {
	v, err := s.view(rev)
	switch {
	case err == nil:
		s.world.publish(v, nil)
		return nil
	case s.world.load().Revision == 0:
		return fmt.Errorf("reading what the store holds at revision %d: %w", rev, err)
	}
	s.o.Log.Error("the store holds what this server cannot read; the last good state stays in force", "revision", rev, "error", err)
	s.world.publish(nil, &unreadable{rev, err})
	return nil
}

func (s *Server) view(rev int64) (*view, error) {
	w := &snapshot.World{
		Revision: rev, Epoch: s.meta.Epoch,
		Bundles: map[string][]byte{}, Nodes: map[string][]string{}, Secrets: map[string][]byte{},
	}
	v := &view{World: w, records: map[string]catalog.Record{}, nodes: map[string]registry.Node{}}
	for _, key := range slices.Sorted(maps.Keys(s.world.values)) {
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
	sortWorld(w)
	set := policy.Set{
		TrustDomain: s.td.Name(), RootNamespace: s.meta.RootNamespace, DefaultMode: policy.Strict,
		Policies: w.Policies, PeerAuth: w.PeerAuth, Revision: hash,
	}
	compiled, faults := policy.Compile(set)
	if len(faults) > 0 {
		return nil, fmt.Errorf("compiling the policies: %v", faults[0])
	}
	v.compiled = compiled
	return v, nil
}

// take decodes one value of the store into the view.
func (s *Server) take(v *view, kv store.KV) error {
	switch {
	case strings.HasPrefix(kv.Key, catalog.Prefix):
		r, err := catalog.Decode(kv)
		if err != nil {
			return err
		}
		v.records[kv.Key] = r
		return addObject(v.World, r)
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
	case strings.HasPrefix(kv.Key, sealedSecrets):
		b, err := s.openSecret(kv)
		if err != nil {
			return err
		}
		v.Secrets[strings.TrimPrefix(kv.Key, sealedSecrets)] = b
	}
	return nil
}

func addObject(w *snapshot.World, r catalog.Record) error {
	switch r.Kind {
	case "AuthorizationPolicy":
		p, err := resource.Policy(r.Object)
		if err != nil {
			return fmt.Errorf("reading %s: %w", r.ID(), err)
		}
		w.Policies = append(w.Policies, p)
	case "PeerAuthentication":
		p, err := resource.PeerAuthentication(r.Object, r.First)
		if err != nil {
			return fmt.Errorf("reading %s: %w", r.ID(), err)
		}
		w.PeerAuth = append(w.PeerAuth, p)
	case "Workload":
		e, err := resource.Entry(r.Object, r.First, r.Last)
		if err != nil {
			return fmt.Errorf("reading %s: %w", r.ID(), err)
		}
		w.Entries = append(w.Entries, e)
	default:
		return fmt.Errorf("%s is of a kind that this server does not know", r.ID())
	}
	return nil
}

// sortWorld puts everything in the order that package snapshot promises.
func sortWorld(w *snapshot.World) {
	// Keys are ordered by their bytes, which is not by namespace and name: "a-b/" is before "a/".
	byName := func(ns1, n1, ns2, n2 string) int { return cmp.Or(strings.Compare(ns1, ns2), strings.Compare(n1, n2)) }
	slices.SortFunc(w.Entries, func(a, b entry.Entry) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(w.Policies, func(a, b policy.Policy) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(w.PeerAuth, func(a, b policy.PeerAuthentication) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(w.Services, func(a, b snapshot.Service) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(w.Instances, func(a, b snapshot.Instance) int { return byName(a.Node, a.ID, b.Node, b.ID) })
}
