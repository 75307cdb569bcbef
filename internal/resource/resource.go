// Package resource reads the YAML kinds that people write: AuthorizationPolicy,
// PeerAuthentication and RequestAuthentication of Istio; Workload, OAuthClient,
// OAuthResource, TrustedIssuer, DelegationPolicy, RateLimit and APIKey of ours. It decodes them strictly, finds
// every fault with its place and its mending, and turns what is left into policy, entry and
// grant values.
//
// Its words: a document is one YAML document of a file; a fault is one thing wrong with it;
// an Object is an accepted document in canonical form; a shape is what a kind may hold.
//
// Its promise: nothing is accepted whose meaning a second reader could take otherwise
// (istio-semantics.md 2.3), nothing is dropped silently, and no bytes, however broken, cost
// more than a bounded amount of work. Pure: no I/O, no clock, no logger.
package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/entry"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// Limits of istio-semantics.md 2.4.
const (
	MaxDocument = 1 << 20 // bytes, also after alias expansion
	MaxObjects  = 10_000  // objects per batch
	maxNesting  = 64
	maxValues   = 4096 // values per list, and keys per map
	maxValue    = 4096 // bytes of one value
	maxFaults   = 200  // printed before "and 37 more"
	maxNotes    = 256 << 10
)

// Annotations that mean something here.
const (
	writtenBy = "countersign.dev/written-by" // allow: the sentence may add to the object
	dryRun    = "istio.io/dry-run"
)

// File is one file, read by the caller. Name is what faults print; stdin is "-".
type File struct {
	Name string
	Data []byte
}

// Options are the facts of the mesh that decoding needs.
type Options struct {
	Namespace          string // of objects that name none; empty: "default"
	RootNamespace      string // empty: "istio-system"
	IgnoreUnknownKinds bool   // a notice instead of E105; security kinds are never skipped
	OneNode            string // the only node of the mesh, written into a Workload without nodes; empty: several or none

	// CertificateDirs are the directories that certificate files of Gateways may lie in; nil: route.CertificateDir.
	CertificateDirs []string

	// Gateway turns on the companions of the Gateway API that nothing serves yet: ConfigMap,
	// Service, EndpointSlice. It is the seam of their wiring: without it they are not known.
	Gateway bool

	// Stored finds what is applied now, so that a Workload which leaves out its nodes keeps
	// the stored ones (identity.md 12.2). Nil: nothing is applied.
	Stored func(kind, namespace, name string) (Object, bool)
}

func (o Options) withDefaults() Options {
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	if o.RootNamespace == "" {
		o.RootNamespace = "istio-system"
	}
	if o.CertificateDirs == nil {
		o.CertificateDirs = []string{route.CertificateDir}
	}
	return o
}

// Object is one accepted document.
type Object struct {
	Kind, APIVersion, Namespace, Name string

	JSON        []byte // canonical: apiVersion, kind, metadata, spec; server-side fields gone, defaults not filled in
	Labels      map[string]string
	Annotations map[string]string
	Places      Places

	Private PrivateKey `json:",omitzero"` // of a Secret; JSON has <sealed> in its place
}

// ID is the object as people write it: AuthorizationPolicy/shop/orders, GatewayClass/countersign.
func (o Object) ID() string {
	if o.Namespace == "" {
		return o.Kind + "/" + o.Name
	}
	return o.Kind + "/" + o.Namespace + "/" + o.Name
}

// Places says where somebody wrote an object and its rules; it is stored beside the object.
type Places struct {
	File  string   `json:"file,omitempty"`
	Line  int      `json:"line,omitempty"`
	Col   int      `json:"col,omitempty"`
	Rules [][2]int `json:"rules,omitempty"` // line and column of each rule
}

// Object is the place of the object itself.
func (p Places) Object() policy.Pos { return policy.Pos{File: p.File, Line: p.Line, Col: p.Col} }

// Rule is the place of rule i; the zero Pos if it is not known.
func (p Places) Rule(i int) policy.Pos {
	if i < 0 || i >= len(p.Rules) {
		return policy.Pos{}
	}
	return policy.Pos{File: p.File, Line: p.Rules[i][0], Col: p.Rules[i][1]}
}

// Stored makes an Object of what a store kept: the canonical JSON and the places.
func Stored(canonical []byte, places Places) (Object, error) {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name        string            `json:"name"`
			Namespace   string            `json:"namespace"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(canonical, &head); err != nil {
		return Object{}, fmt.Errorf("reading a stored object: %w", err)
	}
	if head.Kind == "" || head.Metadata.Name == "" || head.Metadata.Namespace == "" && !clusterKind(head.Kind) {
		return Object{}, fmt.Errorf("reading a stored object: kind, namespace or name is missing")
	}
	return Object{
		Kind: head.Kind, APIVersion: head.APIVersion,
		Namespace: head.Metadata.Namespace, Name: head.Metadata.Name,
		JSON: bytes.Clone(canonical), Labels: head.Metadata.Labels, Annotations: head.Metadata.Annotations,
		Places: places,
	}, nil
}

// Kind is one kind that can be applied, with the names it goes by on the command line.
type Kind struct {
	Name, Plural, Singular, Short string // Short is Singular where people have none shorter
	APIVersion                    string // the one written by us; others may be accepted
}

// kind is all that is known of a Kind.
type kind struct {
	Kind
	group    string
	versions []string
	spec     func() *shape
	check    func(*object)
	read     func(Object) error // into the value that the rest of the program takes
}

// reads makes a read of a function that gives a value.
func reads[T any](value func(Object) (T, error)) func(Object) error {
	return func(o Object) error {
		_, err := value(o)
		return err
	}
}

const (
	istioGroup = "security.istio.io"
	ownGroup   = "countersign.dev"
)

// built lists the kinds of this release, in the order they are shown. It is a function
// because the checks of a kind look names up here in turn.
func built() []kind {
	istio := []string{"v1", "v1beta1"}
	own := []string{"v1"}
	return []kind{
		{Kind{"AuthorizationPolicy", "authorizationpolicies", "authorizationpolicy", "ap", istioGroup + "/v1"},
			istioGroup, istio, authorizationPolicyShape, checkAuthorizationPolicy, reads(Policy)},
		{Kind{"PeerAuthentication", "peerauthentications", "peerauthentication", "pa", istioGroup + "/v1"},
			istioGroup, istio, peerAuthenticationShape, checkPeerAuthentication,
			reads(func(o Object) (policy.PeerAuthentication, error) { return PeerAuthentication(o, 0) })},
		{Kind{"RequestAuthentication", "requestauthentications", "requestauthentication", "ra", istioGroup + "/v1"},
			istioGroup, istio, requestAuthenticationShape, checkRequestAuthentication,
			reads(func(o Object) (policy.RequestAuthentication, error) { return RequestAuthentication(o, 0) })},
		{Kind{"Workload", "workloads", "workload", "wl", ownGroup + "/v1"},
			ownGroup, own, workloadShape, checkWorkload,
			reads(func(o Object) (entry.Entry, error) { return Entry(o, 0, 0) })},
		{Kind{"OAuthClient", "oauthclients", "oauthclient", "oauthclient", ownGroup + "/v1"},
			ownGroup, own, clientShape, checkClient, reads(Client)},
		{Kind{"OAuthResource", "oauthresources", "oauthresource", "oauthresource", ownGroup + "/v1"},
			ownGroup, own, audienceShape, checkAudience, reads(Audience)},
		{Kind{"TrustedIssuer", "trustedissuers", "trustedissuer", "trustedissuer", ownGroup + "/v1"},
			ownGroup, own, issuerShape, checkIssuer, reads(Issuer)},
		{Kind{"DelegationPolicy", "delegationpolicies", "delegationpolicy", "delegationpolicy", ownGroup + "/v1"},
			ownGroup, own, delegationShape, checkDelegation, reads(Delegation)},
		{Kind{"RateLimit", "ratelimits", "ratelimit", "ratelimit", ownGroup + "/v1"},
			ownGroup, own, rateLimitShape, checkRateLimit,
			reads(func(o Object) (route.RateLimit, error) { return RateLimit(o, time.Time{}, 0) })},
		{Kind{"APIKey", "apikeys", "apikey", "apikey", ownGroup + "/v1"},
			ownGroup, own, apiKeyShape, checkAPIKey, reads(APIKey)},
	}
}

func builtKind(name string) (kind, bool) {
	for _, k := range built() {
		if k.Name == name {
			return k, true
		}
	}
	return kind{}, false
}

// Kinds lists the kinds that can be applied.
func Kinds() []Kind {
	var out []Kind
	for _, k := range built() {
		out = append(out, k.Kind)
	}
	for _, k := range gatewayKinds() {
		if servedKind(k.Name) {
			out = append(out, k.Kind)
		}
	}
	return out
}

// ClusterScoped reports whether objects of a kind have no namespace.
func ClusterScoped(kind string) bool { return clusterKind(kind) }

// LookupKind finds a kind by its name, plural or short name, in any case.
func LookupKind(s string) (Kind, bool) {
	for _, k := range Kinds() {
		if slices.Contains(k.names(), strings.ToLower(s)) {
			return k, true
		}
	}
	return Kind{}, false
}

func (k Kind) names() []string { return []string{k.Plural, k.Singular, k.Short} }

// Suggest is the plural that s may have meant; empty if none is near. Part of a name
// (peerauth) is taken for the whole.
func Suggest(s string) string {
	s = strings.ToLower(s)
	if s == "" {
		return ""
	}
	var plurals, all []string
	for _, k := range Kinds() {
		plurals = append(plurals, k.Plural)
		all = append(all, k.Plural, k.Singular)
	}
	if near := nearest(s, all); near != "" {
		k, _ := LookupKind(near)
		return k.Plural
	}
	for _, p := range plurals {
		if len(s) >= 3 && strings.HasPrefix(p, s) {
			return p
		}
	}
	return ""
}
