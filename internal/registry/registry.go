// Package registry knows who runs where, bound to identity: only the workload that proves
// "orders" can be found as "orders".
//
// Its words: a service is a name others call; an instance is one running copy of a workload;
// a claim is what a node reports, signed by the owner's key. Its promise: the owner of an
// instance comes from a verified SVID and a fresh signature, its address from the node's own
// record, and a name goes only to an identity that rules R1 to R3 map to it (registry.md 10).
package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"countersign.dev/internal/entry"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/snapshot"
	"countersign.dev/internal/store"
)

// Where the records lie in the store.
const (
	ServicePrefix  = "service/"
	InstancePrefix = "instance/"
	NodePrefix     = "node/"
)

// Refusal is a report that is not taken; Reason as audit.md 2.3, layer registry.
type Refusal struct{ Reason, Text, Hint string }

func (r *Refusal) Error() string { return r.Text }

// Node is the record of one machine.
type Node struct {
	V       int       `json:"v"`
	Name    string    `json:"name"`
	ID      string    `json:"spiffeId"`
	Inbound string    `json:"inbound"`
	Version string    `json:"version,omitempty"`
	Joined  time.Time `json:"joined"`
	// AutoRegister are the namespaces in which run may make a Workload that nobody has, for
	// this node; "*" is all of them (identity.md 12.5).
	AutoRegister []string `json:"autoRegister,omitempty"`
}

// MayRegister reports whether run on this node may make Workloads in a namespace.
func (n Node) MayRegister(namespace string) bool {
	return slices.Contains(n.AutoRegister, "*") || slices.Contains(n.AutoRegister, namespace)
}

type instanceRecord struct {
	V int `json:"v"`
	snapshot.Instance
}

type serviceRecord struct {
	V int `json:"v"`
	snapshot.Service
}

// Registry writes the records. It is safe for concurrent use.
type Registry struct{ st store.Store }

// New keeps records in st.
func New(st store.Store) *Registry { return &Registry{st: st} }

// DecodeService reads one service record.
func DecodeService(kv store.KV) (snapshot.Service, error) {
	var r serviceRecord
	if err := json.Unmarshal(kv.Value, &r); err != nil {
		return snapshot.Service{}, fmt.Errorf("reading %q: %w", kv.Key, err)
	}
	return r.Service, nil
}

// DecodeInstance reads one instance record.
func DecodeInstance(kv store.KV) (snapshot.Instance, error) {
	var r instanceRecord
	if err := json.Unmarshal(kv.Value, &r); err != nil {
		return snapshot.Instance{}, fmt.Errorf("reading %q: %w", kv.Key, err)
	}
	return r.Instance, nil
}

// DecodeNode reads one node record.
func DecodeNode(kv store.KV) (Node, error) {
	var n Node
	if err := json.Unmarshal(kv.Value, &n); err != nil {
		return Node{}, fmt.Errorf("reading %q: %w", kv.Key, err)
	}
	return n, nil
}

// SetNode writes the record of a node that joined and returns the revision that holds it.
func (r *Registry) SetNode(ctx context.Context, n Node) (int64, error) {
	n.V = 1
	b, err := json.Marshal(n)
	if err != nil {
		return 0, fmt.Errorf("encoding node %q: %w", n.Name, err)
	}
	res, err := r.st.Commit(ctx, store.Txn{Then: []store.Op{store.Put(NodePrefix+n.Name, b)}})
	if err != nil {
		return 0, fmt.Errorf("writing node %q: %w", n.Name, err)
	}
	return res.Rev, nil
}

// Claim is what a node reports of one instance.
type Claim struct {
	Node      Node
	ID        string // of the instance
	Entry     entry.Entry
	Selectors []string // of the node
	Ports     []snapshot.Port
	State     string
	Chain     []*x509.Certificate // the owner's SVID
	Signature []byte              // by the owner's key, over Signed
	Signed    []byte              // digest that ties the claim to this connection
}

// maxPorts bounds what one instance is called by: every service it serves takes them over.
const maxPorts = 64

// check judges what a node says before anything is made of it.
func (c Claim) check() error {
	if err := identity.CheckLabel(c.ID); err != nil {
		return &Refusal{Reason: "bad_report", Text: fmt.Sprintf("instance %q: %v", c.ID, err)}
	}
	if len(c.Ports) > maxPorts {
		return &Refusal{Reason: "bad_report", Text: fmt.Sprintf("instance %q has %d ports, at most %d are taken", c.ID, len(c.Ports), maxPorts)}
	}
	for _, p := range c.Ports {
		if p.Number == 0 || p.Target == 0 {
			return &Refusal{Reason: "bad_report", Text: fmt.Sprintf("instance %q: a port is 1 to 65535", c.ID)}
		}
	}
	return checkState(c.ID, c.State)
}

func checkState(id, state string) error {
	switch state {
	case snapshot.Starting, snapshot.Ready, snapshot.Unready, snapshot.Draining:
		return nil
	}
	return &Refusal{Reason: "bad_report", Text: fmt.Sprintf("instance %q: %q is no state", id, state)}
}

// Up registers an instance and the services it may serve, in one transaction. Said again it
// changes nothing and makes no new revision.
func (r *Registry) Up(ctx context.Context, c Claim, trust *identity.Trust, now time.Time) (int64, error) {
	if err := c.check(); err != nil {
		return 0, err
	}
	owner, err := c.prove(trust, now)
	if err != nil {
		return 0, err
	}
	inst := snapshot.Instance{
		ID: c.ID, Node: c.Node.Name, Owner: owner, Address: c.Node.Inbound,
		Ports: c.Ports, State: c.State, Since: now.Unix(),
	}
	for {
		t, rev, err := r.registration(ctx, c, inst)
		if err != nil || len(t.Then) == 0 {
			return rev, err
		}
		res, err := r.st.Commit(ctx, t)
		switch {
		case errors.Is(err, store.ErrConflict):
			continue // another copy changed the service meanwhile: read it again
		case err != nil:
			return 0, fmt.Errorf("registering instance %q: %w", c.ID, err)
		}
		return res.Rev, nil
	}
}

// prove checks the owner: its SVID, its signature over this very connection, and that the
// entry gives this identity on this node.
func (c Claim) prove(trust *identity.Trust, now time.Time) (owner string, err error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", &Refusal{Reason: "identity_mismatch", Text: fmt.Sprintf(format, args...)}
	}
	p, err := identity.Verify(c.Chain, trust, now)
	if err != nil {
		return refuse("the owner's SVID: %v", err)
	}
	key, ok := c.Chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, c.Signed, c.Signature) {
		return refuse("%q did not sign this registration", p.ID)
	}
	if !p.Canonical || p.ID.TrustDomain() != trust.Own() || p.Namespace != c.Entry.Namespace || p.ServiceAccount != c.Entry.ServiceAccount {
		return refuse("Workload %s/%s does not give %q", c.Entry.Namespace, c.Entry.Name, p.ID)
	}
	if !entry.Admits(c.Entry, c.Selectors) {
		return refuse("Workload %s/%s does not admit node %q", c.Entry.Namespace, c.Entry.Name, c.Node.Name)
	}
	return p.ID.String(), nil
}

// registration reads the services of the claim and builds the transaction: rules R1 to R3.
// When all is written already the transaction is empty, and rev is the revision that holds it.
func (r *Registry) registration(ctx context.Context, c Claim, inst snapshot.Instance) (t store.Txn, rev int64, err error) {
	names := append([]string{c.Entry.ServiceAccount}, c.Entry.Services...)
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names {
		key := ServicePrefix + c.Entry.Namespace + "/" + name
		kv, err := r.st.Get(ctx, key)
		svc := snapshot.Service{Namespace: c.Entry.Namespace, Name: name}
		switch {
		case err == nil:
			if svc, err = DecodeService(kv); err != nil {
				return t, 0, err
			}
		case !errors.Is(err, store.ErrNotFound):
			return t, 0, fmt.Errorf("reading service %q: %w", key, err)
		}
		if len(svc.Owners) > 0 && !slices.Contains(svc.Owners, inst.Owner) { // R3
			if name == c.Entry.ServiceAccount && len(names) > 1 {
				continue // its own name belongs to somebody else; it may still serve the others
			}
			return t, 0, &Refusal{
				Reason: "identity_mismatch", Text: fmt.Sprintf("%q may not serve %q", inst.Owner, svc.Namespace+"/"+name),
				Hint: fmt.Sprintf("add this ID to owners of service %s/%s", svc.Namespace, name),
			}
		}
		inst.Services = append(inst.Services, svc.Namespace+"/"+name)
		merged := merge(svc.Ports, c.Ports)
		if err == nil && slices.Equal(merged, svc.Ports) {
			t.If = append(t.If, store.ModIs(key, kv.Mod))
			continue
		}
		svc.Ports = merged
		b, err := json.Marshal(serviceRecord{V: 1, Service: svc})
		if err != nil {
			return t, 0, fmt.Errorf("encoding service %q: %w", key, err)
		}
		t.If = append(t.If, store.ModIs(key, kv.Mod))
		t.Then = append(t.Then, store.Put(key, b))
	}
	return r.withInstance(ctx, t, inst)
}

// withInstance adds the instance to the transaction, unless it stands there as it is.
func (r *Registry) withInstance(ctx context.Context, t store.Txn, inst snapshot.Instance) (store.Txn, int64, error) {
	key := InstancePrefix + inst.Node + "/" + inst.ID
	kv, err := r.st.Get(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return t, 0, fmt.Errorf("reading instance %q: %w", key, err)
	}
	if err == nil {
		if was, err := DecodeInstance(kv); err == nil && was.State == inst.State {
			inst.Since = was.Since // since when it is in this state, however often it is said
		}
	}
	b, err := json.Marshal(instanceRecord{V: 1, Instance: inst})
	if err != nil {
		return t, 0, fmt.Errorf("encoding instance %q: %w", key, err)
	}
	if !bytes.Equal(b, kv.Value) {
		t.Then = append(t.Then, store.Put(key, b))
	}
	return t, kv.Mod, nil
}

// merge gives the ports a service is called by: those it had, and what this copy brings.
// Where both speak of one number the newer copy counts.
func merge(had, brings []snapshot.Port) []snapshot.Port {
	byNumber := map[uint16]snapshot.Port{}
	for _, p := range had {
		byNumber[p.Number] = p
	}
	for _, p := range brings {
		byNumber[p.Number] = p
	}
	out := slices.Collect(maps.Values(byNumber))
	slices.SortFunc(out, func(a, b snapshot.Port) int { return int(a.Number) - int(b.Number) })
	return out
}

// State changes the state of an instance of node.
func (r *Registry) State(ctx context.Context, node, id, state string, now time.Time) (int64, error) {
	if err := checkState(id, state); err != nil {
		return 0, err
	}
	key := InstancePrefix + node + "/" + id
	for {
		kv, err := r.st.Get(ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			return 0, &Refusal{Reason: "stale", Text: fmt.Sprintf("no instance %q of node %q is registered", id, node)}
		}
		if err != nil {
			return 0, fmt.Errorf("reading instance %q: %w", key, err)
		}
		inst, err := DecodeInstance(kv)
		if err != nil {
			return 0, err
		}
		if inst.State == state {
			return kv.Mod, nil
		}
		inst.State, inst.Since = state, now.Unix()
		b, err := json.Marshal(instanceRecord{V: 1, Instance: inst})
		if err != nil {
			return 0, fmt.Errorf("encoding instance %q: %w", key, err)
		}
		res, err := r.st.Commit(ctx, store.Txn{If: []store.Cmp{store.ModIs(key, kv.Mod)}, Then: []store.Op{store.Put(key, b)}})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("writing instance %q: %w", key, err)
		}
		return res.Rev, nil
	}
}

// Gone takes an instance of node out, or every one when id is empty.
func (r *Registry) Gone(ctx context.Context, node, id string) (int64, error) {
	op := store.Delete(InstancePrefix + node + "/" + id)
	if id == "" {
		op = store.DeletePrefix(InstancePrefix + node + "/")
	}
	res, err := r.st.Commit(ctx, store.Txn{Then: []store.Op{op}})
	if err != nil {
		return 0, fmt.Errorf("removing instance %q of node %q: %w", id, node, err)
	}
	return res.Rev, nil
}
