// Package policy decides which calls are allowed: Istio's AuthorizationPolicy and
// PeerAuthentication as plain values, compiled once per revision, bound once per
// connection, decided once per request. Of RequestAuthentication it says which rules a
// workload has; tokens are verified elsewhere.
//
// Its words: a Set is everything applied at one revision; Compile turns it into a
// Compiled; For picks the Program of one destination workload; Bind fixes what the
// handshake proved and gives a Bound; Decide answers one request.
//
// Its promise: pure (no I/O, no clock, no logger), deterministic (the deciding rule is the
// smallest rule number that matches, whatever the order of files), never wider than
// Istio, and no allocation per decision.
package policy

import (
	"encoding/json"
	"time"
)

// Pos is a place in a file somebody wrote. The zero Pos is unknown.
type Pos struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	Col  int    `json:"col,omitempty"`
}

// Action says what a matching rule of a policy does.
type Action string

// The actions enforced; AUDIT and CUSTOM are refused when decoded.
const (
	Allow Action = "ALLOW"
	Deny  Action = "DENY"
)

// Policy is one AuthorizationPolicy, validated by package resource.
// A nil Rules with action ALLOW matches nothing and still counts as attached.
type Policy struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Action    Action            `json:"action"`
	Selector  map[string]string `json:"selector,omitempty"` // every label must be equal; empty selects all
	Gateways  []string          `json:"gateways,omitempty"` // targetRefs: of its namespace; empty: Selector says
	Rules     []Rule            `json:"rules,omitempty"`
	WrittenBy string            `json:"writtenBy,omitempty"` // annotation countersign.dev/written-by
	Pos       Pos               `json:"pos"`
}

// Rule matches when one of From, one of To and all of When match; an empty list is true.
type Rule struct {
	From []Source    `json:"from,omitempty"`
	To   []Operation `json:"to,omitempty"`
	When []Condition `json:"when,omitempty"` // every one must hold
	Pos  Pos         `json:"pos"`
}

// Condition restricts one attribute (istio-semantics 7.5): one of Values, and none of NotValues.
type Condition struct {
	Key       string   `json:"key"`
	Values    []string `json:"values,omitempty"`
	NotValues []string `json:"notValues,omitempty"`
}

// Source restricts the peer: fields are joined by AND, the values of one by OR.
type Source struct {
	Principals         []string `json:"principals,omitempty"`
	NotPrincipals      []string `json:"notPrincipals,omitempty"`
	Namespaces         []string `json:"namespaces,omitempty"`
	NotNamespaces      []string `json:"notNamespaces,omitempty"`
	ServiceAccounts    []string `json:"serviceAccounts,omitempty"`
	NotServiceAccounts []string `json:"notServiceAccounts,omitempty"`

	RequestPrincipals    []string `json:"requestPrincipals,omitempty"`
	NotRequestPrincipals []string `json:"notRequestPrincipals,omitempty"`
}

// Operation restricts the request: fields are joined by AND, the values of one by OR.
type Operation struct {
	Hosts      []string `json:"hosts,omitempty"`
	NotHosts   []string `json:"notHosts,omitempty"`
	Ports      []string `json:"ports,omitempty"`
	NotPorts   []string `json:"notPorts,omitempty"`
	Methods    []string `json:"methods,omitempty"`
	NotMethods []string `json:"notMethods,omitempty"`
	Paths      []string `json:"paths,omitempty"`
	NotPaths   []string `json:"notPaths,omitempty"`
}

// Mode is what an inbound port of a workload takes.
type Mode string

// The modes of PeerAuthentication. Unset inherits.
const (
	Unset      Mode = ""
	Strict     Mode = "STRICT"
	Permissive Mode = "PERMISSIVE"
	Disable    Mode = "DISABLE"
)

// PeerAuthentication says which transport the inbound ports of workloads take.
type PeerAuthentication struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Selector  map[string]string `json:"selector,omitempty"`
	Mode      Mode              `json:"mode,omitempty"`
	Ports     map[uint16]Mode   `json:"ports,omitempty"` // portLevelMtls, by workload port
	Created   int64             `json:"created"`         // first-applied order: the older object counts
	Pos       Pos               `json:"pos"`
}

// RequestAuthentication says which tokens the workloads it selects take (istio-semantics 6).
type RequestAuthentication struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Selector  map[string]string `json:"selector,omitempty"`
	Gateways  []string          `json:"gateways,omitempty"` // as those of Policy
	Rules     []TokenRule       `json:"rules,omitempty"`
	APIKeys   string            `json:"apiKeys,omitempty"` // of a Gateway: live or test, the API keys it takes; empty: none
	Created   int64             `json:"created"`           // first-applied order, which orders its rules among others
	Pos       Pos               `json:"pos"`
}

// TokenRule is one of its jwtRules.
type TokenRule struct {
	Issuer        string          `json:"issuer,omitempty"` // empty: any
	Audiences     []string        `json:"audiences,omitempty"`
	JWKSURI       string          `json:"jwksUri,omitempty"`
	JWKS          json.RawMessage `json:"jwks,omitempty"` // neither: discovery
	Headers       []TokenHeader   `json:"fromHeaders,omitempty"`
	Params        []string        `json:"fromParams,omitempty"`
	Cookies       []string        `json:"fromCookies,omitempty"`
	PayloadHeader string          `json:"outputPayloadToHeader,omitempty"`
	ClaimHeaders  []ClaimHeader   `json:"outputClaimToHeaders,omitempty"`
	Forward       bool            `json:"forwardOriginalToken,omitempty"`
	Timeout       time.Duration   `json:"timeout,omitempty"` // of a retrieval; 0 is 5 s
	Split         []string        `json:"spaceDelimitedClaims,omitempty"`
	Pos           Pos             `json:"pos"`
}

// TokenHeader is a header that a token may stand in, behind a prefix.
type TokenHeader struct {
	Name   string `json:"name"`
	Prefix string `json:"prefix,omitempty"`
}

// ClaimHeader is a header that a claim is copied into; Claim is split at dots.
type ClaimHeader struct {
	Header string `json:"header"`
	Claim  string `json:"claim"`
}

// Set is everything that decides at one revision.
type Set struct {
	TrustDomain   string                  `json:"trustDomain"`
	RootNamespace string                  `json:"rootNamespace"`
	DefaultMode   Mode                    `json:"defaultMode"` // Unset means STRICT
	Policies      []Policy                `json:"policies"`
	PeerAuth      []PeerAuthentication    `json:"peerAuth"`
	RequestAuth   []RequestAuthentication `json:"requestAuth"`
	Revision      [32]byte                `json:"-"` // SHA-256 of what decides, see package resource
}
