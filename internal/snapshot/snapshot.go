// Package snapshot is all that one node must know, as one immutable versioned value, and
// the differences between two such values.
//
// Its words: the World is everything the control plane holds at one revision; a Node is the
// part of it that one node may know; a resource is one named piece of a Node, the unit that
// travels; a Frame carries a node from one complete revision to another.
//
// Its promise: Of(world, node) is a pure function, a Frame either applies whole or not at
// all, and nothing between two revisions is ever visible.
package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// Mesh holds the settings that count for everybody.
type Mesh struct {
	TrustDomain    string        `json:"trustDomain"`
	RootNamespace  string        `json:"rootNamespace"`
	SVIDTTL        time.Duration `json:"svidTTL"`
	AllowAny       bool          `json:"allowAny,omitempty"` // outboundTrafficPolicy ALLOW_ANY
	PolicyRevision string        `json:"policyRevision"`     // 64 hex digits, policy-engine.md 9
}

// Port is one port of a service.
type Port struct {
	Number   uint16 `json:"number"`
	Target   uint16 `json:"target"`
	Protocol string `json:"protocol"` // http, http2, grpc
}

// Service is a name others call (registry.md 9.1).
type Service struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Ports     []Port   `json:"ports,omitempty"`
	Owners    []string `json:"owners,omitempty"`   // SPIFFE IDs that may serve it; empty: R1 and R2 decide
	Audience  string   `json:"audience,omitempty"` // aud of tokens for it: the SPIFFE ID of its first owner
}

// Instance is one running copy of a workload (registry.md 9.3).
type Instance struct {
	ID       string   `json:"id"`
	Node     string   `json:"node"`
	Owner    string   `json:"owner"`    // SPIFFE ID, from the node's proof, never from a request's words
	Services []string `json:"services"` // "ns/name"
	Address  string   `json:"address"`  // host:port of its node's inbound listener
	Ports    []Port   `json:"ports,omitempty"`
	State    string   `json:"state"` // starting, ready, unready, draining
	Since    int64    `json:"since"` // Unix seconds
}

// States of an instance (registry.md 11.1).
const (
	Starting = "starting"
	Ready    = "ready"
	Unready  = "unready"
	Draining = "draining"
)

// World is everything the control plane holds at one revision. It is immutable.
type World struct {
	Revision  int64
	Epoch     string
	Mesh      Mesh
	Entries   []entry.Entry                  // sorted by namespace, name
	Policies  []policy.Policy                // sorted by namespace, name
	PeerAuth  []policy.PeerAuthentication    // sorted by namespace, name
	ReqAuth   []policy.RequestAuthentication // sorted by namespace, name
	Tokens    *Tokens                        // nil: there is no token service
	Audiences []grant.Audience               // sorted by namespace, name
	Issuers   []grant.Issuer                 // sorted by name
	Keys      []KeySet                       // sorted by issuer, URI
	Attach    []Attach                       // sorted by ID, audience
	Edge      route.Objects                  // each kind sorted by namespace, name
	APIKeys   apikey.Blocks                  // for nodes that serve Gateways alone
	Bundles   map[string][]byte              // trust domain → SPIFFE bundle JSON
	Services  []Service                      // sorted by namespace, name
	Instances []Instance                     // sorted by node, id
	Nodes     map[string][]string            // node → its selectors, "node:name:…" first
	Secrets   map[string][]byte              // kind → value, opened

	Certificates []Certificate // Secrets that Gateways may show
}

// Tokens are the token service as verifiers know it.
type Tokens struct {
	Issuer string          `json:"issuer"`
	Keys   json.RawMessage `json:"keys"` // JWKS: the next, the active and the previous key
}

// KeySet is a foreign key set that a server retrieved. Without Keys none was to be had, and
// every token of it is refused.
type KeySet struct {
	Issuer string          `json:"issuer,omitempty"`
	URI    string          `json:"uri,omitempty"` // empty: found by discovery of the issuer
	Keys   json.RawMessage `json:"keys,omitempty"`
	Until  int64           `json:"until,omitempty"` // Unix seconds: used no longer
}

// Attach is a token that a workload's calls to a service carry (tokens.md 15.4).
type Attach struct {
	ID       string   `json:"id"`               // SPIFFE ID of the caller, or a prefix ending in /*
	Client   string   `json:"client,omitempty"` // "ns/name" of the OAuthClient that asks for it
	Service  string   `json:"service"`          // "ns/name"
	Audience string   `json:"audience"`
	Scopes   []string `json:"scopes,omitempty"`
}

// Matches reports whether id is the caller that a means.
func (a Attach) Matches(id string) bool {
	prefix, ok := strings.CutSuffix(a.ID, "*")
	return a.ID == id || ok && strings.HasSuffix(prefix, "/") && strings.HasPrefix(id, prefix)
}

// Node is what one node must know, and no more.
type Node struct {
	Name      string
	Revision  int64
	Epoch     string
	Mesh      Mesh
	Selectors []string // of this node
	Entries   []entry.Entry
	Set       policy.Set
	Tokens    *Tokens
	Audiences []grant.Audience
	Issuers   []grant.Issuer
	Keys      []KeySet
	Attach    []Attach
	Edge      route.Objects
	APIKeys   apikey.Blocks
	Bundles   map[string][]byte
	Services  map[string]Service // by "ns/name"
	Instances map[string]Instance
	Secrets   map[string][]byte

	Certificates map[route.Name]route.Certificate
	KeyPairs     map[route.Name]KeyPair // those of Gateways that may run here
}

// Resources are the named pieces of what a node must know: name → content (JSON).
// Equal content means equal bytes, so that a difference is a comparison.
type Resources map[string][]byte

type nodeRecord struct {
	Selectors []string      `json:"selectors"`
	Entries   []entry.Entry `json:"entries,omitempty"`
}

type policies struct {
	Policies []policy.Policy                `json:"policies,omitempty"`
	PeerAuth []policy.PeerAuthentication    `json:"peerAuth,omitempty"`
	ReqAuth  []policy.RequestAuthentication `json:"requestAuth,omitempty"`
}

// Of gives the resources that node may know of w. It is a pure function.
func Of(w *World, node string) (Resources, error) { return since(w, node, nil, nil) }

// since is Of where what an earlier world came to is at hand: the routes that both have are not written anew.
func since(w *World, node string, before *World, had Resources) (Resources, error) {
	r := make(Resources, len(had))
	put := func(name string, v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encoding resource %q: %w", name, err)
		}
		r[name] = b
		return nil
	}
	if err := put("mesh", w.Mesh); err != nil {
		return nil, err
	}
	selectors := w.Nodes[node]
	own := nodeRecord{Selectors: selectors}
	for _, e := range w.Entries {
		if entry.Admits(e, selectors) {
			own.Entries = append(own.Entries, e)
		}
	}
	if err := put("node/"+node, own); err != nil {
		return nil, err
	}
	byNS := map[string]*policies{}
	in := func(ns string) *policies {
		if byNS[ns] == nil {
			byNS[ns] = &policies{}
		}
		return byNS[ns]
	}
	for _, p := range w.Policies {
		in(p.Namespace).Policies = append(in(p.Namespace).Policies, p)
	}
	for _, p := range w.PeerAuth {
		in(p.Namespace).PeerAuth = append(in(p.Namespace).PeerAuth, p)
	}
	for _, p := range w.ReqAuth {
		in(p.Namespace).ReqAuth = append(in(p.Namespace).ReqAuth, p)
	}
	for ns, set := range byNS {
		if err := put("policies/"+ns, set); err != nil {
			return nil, err
		}
	}
	for _, s := range w.Services {
		if err := put("service/"+s.Namespace+"/"+s.Name, s); err != nil {
			return nil, err
		}
	}
	for _, i := range w.Instances {
		if err := put("instance/"+i.Node+"/"+i.ID, i); err != nil {
			return nil, err
		}
	}
	if err := putTokens(w, own.Entries, put); err != nil {
		return nil, err
	}
	kept := keepRoutes(before, had, r)
	if err := putEdge(&w.Edge, put, kept); err != nil {
		return nil, err
	}
	if err := putCertificates(w, own.Entries, put); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(own.Entries, entry.Entry.OfGateway) {
		for block, b := range w.APIKeys {
			r["apikeys/"+block] = b
		}
	}
	for td, b := range w.Bundles {
		r["bundle/"+td] = b
	}
	for kind, b := range w.Secrets {
		if err := put("secret/"+kind, b); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// putTokens gives what verifiers must know of tokens, and the tokens that callers on this node
// carry.
func putTokens(w *World, entries []entry.Entry, put func(string, any) error) error {
	if w.Tokens != nil {
		if err := put("tokens", w.Tokens); err != nil {
			return err
		}
	}
	for _, a := range w.Audiences {
		if err := put("audience/"+a.Namespace+"/"+a.Name, a); err != nil {
			return err
		}
	}
	for _, i := range w.Issuers {
		if err := put("issuer/"+i.Name, i); err != nil {
			return err
		}
	}
	for i, k := range w.Keys {
		if err := put("keys/"+strconv.Itoa(i), k); err != nil {
			return err
		}
	}
	ids := map[string]bool{}
	for _, e := range entries {
		ids["spiffe://"+w.Mesh.TrustDomain+"/ns/"+e.Namespace+"/sa/"+e.ServiceAccount] = true
	}
	for i, a := range w.Attach {
		for id := range ids {
			if !a.Matches(id) {
				continue
			}
			if err := put("attach/"+strconv.Itoa(i), a); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// putEdge gives what serves Gateways, an object a resource: a change of one route is one.
func putEdge(o *route.Objects, put func(string, any) error, kept func(string, *route.HTTPRoute) bool) error {
	for _, c := range o.Classes {
		if err := put("gatewayclass/"+c.Name.Name, c); err != nil {
			return err
		}
	}
	for i := range o.Routes {
		r := &o.Routes[i]
		name := "httproute/" + r.String()
		if kept(name, r) {
			continue
		}
		if err := put(name, r); err != nil {
			return err
		}
	}
	for name, labels := range o.Namespaces {
		if err := put("namespace/"+name, labels); err != nil {
			return err
		}
	}
	return errors.Join(
		putAll("gateway/", o.Gateways, put), putAll("referencegrant/", o.Grants, put), putAll("foreign/", o.Services, put),
		putAll("endpointslice/", o.Endpoints, put), putAll("ratelimit/", o.Limits, put),
	)
}

func putAll[T fmt.Stringer](kind string, list []T, put func(string, any) error) error {
	for _, o := range list {
		if err := put(kind+o.String(), o); err != nil {
			return err
		}
	}
	return nil
}

// Frame carries a node from revision From to revision To. From 0 means "this is all of it".
type Frame struct {
	Epoch    string
	From, To int64
	Put      Resources
	Removed  []string
}

// Diff is the frame from one set of resources to another.
func Diff(epoch string, from, to int64, old, now Resources) Frame {
	f := Frame{Epoch: epoch, From: from, To: to, Put: Resources{}}
	for name, b := range now {
		if was, ok := old[name]; !ok || string(was) != string(b) {
			f.Put[name] = b
		}
	}
	for name := range old {
		if _, ok := now[name]; !ok {
			f.Removed = append(f.Removed, name)
		}
	}
	slices.Sort(f.Removed)
	return f
}

// Empty reports whether the frame changes nothing but the revision.
func (f Frame) Empty() bool { return len(f.Put) == 0 && len(f.Removed) == 0 }

// Apply gives the resources after f; old is not changed. A frame that does not start where
// the node stands is refused: nothing between two revisions may be enforced.
func (f Frame) Apply(old Resources, revision int64) (Resources, error) {
	if f.From == 0 {
		return maps.Clone(f.Put), nil
	}
	if f.From != revision {
		return nil, fmt.Errorf("frame starts at revision %d, this node holds %d", f.From, revision)
	}
	if f.To < f.From {
		return nil, fmt.Errorf("frame goes back from revision %d to %d", f.From, f.To)
	}
	now := maps.Clone(old)
	if now == nil {
		now = Resources{}
	}
	for _, name := range f.Removed {
		delete(now, name)
	}
	maps.Copy(now, f.Put)
	return now, nil
}

// Decode turns the resources a node holds into its snapshot. Unknown kinds of resource are
// an error: a node that does not understand a rule must not pretend to enforce it.
func Decode(name, epoch string, revision int64, r Resources) (*Node, error) {
	return new(Decoder).Decode(name, epoch, revision, r)
}

// Decode is Decode.
func (d *Decoder) Decode(name, epoch string, revision int64, r Resources) (*Node, error) {
	n := &Node{
		Name: name, Revision: revision, Epoch: epoch,
		Bundles: map[string][]byte{}, Services: map[string]Service{},
		Instances: map[string]Instance{}, Secrets: map[string][]byte{},
		Edge: route.Objects{Namespaces: map[string]map[string]string{}}, APIKeys: apikey.Blocks{},
		Certificates: map[route.Name]route.Certificate{}, KeyPairs: map[route.Name]KeyPair{},
	}
	for _, key := range d.order(r) {
		if err := d.take(n, key, r[key]); err != nil {
			return nil, fmt.Errorf("reading resource %q: %w", key, err)
		}
	}
	if n.Mesh.TrustDomain == "" {
		return nil, fmt.Errorf("reading resources at revision %d: no mesh settings", revision)
	}
	n.Set.TrustDomain, n.Set.RootNamespace = n.Mesh.TrustDomain, n.Mesh.RootNamespace
	n.Set.DefaultMode = policy.Strict
	if err := decodeHex(n.Set.Revision[:], n.Mesh.PolicyRevision); err != nil {
		return nil, fmt.Errorf("reading the policy revision: %w", err)
	}
	return n, nil
}

func (n *Node) take(key string, b []byte) error {
	kind, rest, _ := strings.Cut(key, "/")
	switch kind {
	case "mesh":
		return json.Unmarshal(b, &n.Mesh)
	case "node":
		if rest != n.Name {
			return fmt.Errorf("it is of another node than %q", n.Name)
		}
		var own nodeRecord
		if err := json.Unmarshal(b, &own); err != nil {
			return err
		}
		n.Selectors, n.Entries = own.Selectors, own.Entries
	case "policies":
		var set policies
		if err := json.Unmarshal(b, &set); err != nil {
			return err
		}
		n.Set.Policies = append(n.Set.Policies, set.Policies...)
		n.Set.PeerAuth = append(n.Set.PeerAuth, set.PeerAuth...)
		n.Set.RequestAuth = append(n.Set.RequestAuth, set.ReqAuth...)
	case "tokens":
		n.Tokens = &Tokens{}
		return json.Unmarshal(b, n.Tokens)
	case "audience":
		return add(&n.Audiences, b)
	case "issuer":
		return add(&n.Issuers, b)
	case "keys":
		return add(&n.Keys, b)
	case "attach":
		return add(&n.Attach, b)
	case "service":
		var s Service
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		n.Services[rest] = s
	case "instance":
		var i Instance
		if err := json.Unmarshal(b, &i); err != nil {
			return err
		}
		n.Instances[rest] = i
	case "gatewayclass":
		return add(&n.Edge.Classes, b)
	case "gateway":
		return add(&n.Edge.Gateways, b)
	case "httproute":
		return add(&n.Edge.Routes, b)
	case "referencegrant":
		return add(&n.Edge.Grants, b)
	case "foreign":
		return add(&n.Edge.Services, b)
	case "endpointslice":
		return add(&n.Edge.Endpoints, b)
	case "ratelimit":
		return add(&n.Edge.Limits, b)
	case "namespace":
		var labels map[string]string
		if err := json.Unmarshal(b, &labels); err != nil {
			return err
		}
		n.Edge.Namespaces[rest] = labels
	case "certificate":
		return n.takeCertificate(rest, b)
	case "keypair":
		return n.takeKeyPair(rest, b)
	case "apikeys":
		n.APIKeys[rest] = b
	case "bundle":
		n.Bundles[rest] = b
	case "secret":
		var v []byte
		if err := json.Unmarshal(b, &v); err != nil {
			return err
		}
		n.Secrets[rest] = v
	default:
		return fmt.Errorf("unknown kind %q", kind)
	}
	return nil
}

// add decodes one more element of a list.
func add[T any](list *[]T, b []byte) error {
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	*list = append(*list, v)
	return nil
}
