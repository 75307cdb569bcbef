package policy

import "strings"

// reservedNamespace holds nodes, servers and the token service (istio-semantics 7.10, 4.1).
const reservedNamespace = "countersign"

// Destination is the workload that is called. Its labels are facts of the registry, never of
// the workload itself (istio-semantics 3).
type Destination struct {
	Namespace      string
	ServiceAccount string
	Labels         map[string]string
	Gateway        bool // it is the Gateway that its service account is named for, whatever its labels say
}

// Peer is the other end of a connection, as its verified certificate names it.
type Peer struct {
	Principal      string // the SPIFFE ID without spiffe://
	TrustDomain    string
	Namespace      string // "" unless Canonical
	ServiceAccount string // "" unless Canonical
	Canonical      bool   // the path is exactly /ns/<namespace>/sa/<service account>
	Foreign        bool   // of a federated trust domain
}

// ParsePeer reads the parts out of an ID that was verified before. IDs of any valid form have
// a principal and a trust domain; only canonical ones a namespace and a service account
// (istio-semantics 3).
func ParsePeer(id, ownTrustDomain string) Peer {
	principal := strings.TrimPrefix(id, "spiffe://")
	p := Peer{Principal: principal}
	parts := strings.Split(principal, "/")
	p.TrustDomain = parts[0]
	p.Foreign = p.TrustDomain != ownTrustDomain
	if len(parts) == 5 && parts[1] == "ns" && parts[3] == "sa" && parts[2] != "" && parts[4] != "" {
		p.Namespace, p.ServiceAccount, p.Canonical = parts[2], parts[4], true
	}
	return p
}

// Conn is what is fixed for the life of a connection.
type Conn struct {
	Peer *Peer  // nil: no verified certificate
	Port uint16 // the workload port, not the service port
	HTTP bool   // false: TCP, judged once
}

// Request is what policy looks at in one HTTP request.
type Request struct {
	Method string
	Host   string // as sent, with port; "" is absent (HTTP/1.0 without Host)
	Path   string // normalized, without query; "" is absent (CONNECT)
	Wide   string // the wide form of Path (istio-semantics 7.8.2); "" is the same as Path

	Token Token // what its verified token says; nil: it has none
	// Header is what policy may see: after hygiene, and after the effects of the token (6.4).
	// Its keys are spelled as in an http.Header.
	Header map[string][]string

	// What the keys request.headers[:path], [:scheme] and [x-request-id] are made of (7.5.1, 7.6).
	Query         string // behind the ?, as sent; of HTTP/1 and 2
	HasQuery      bool   // a ? was there
	QueryCut      bool   // a token was taken out of the query
	Scheme        string // of the connection: https or http
	ClaimedScheme string // HTTP/2: :scheme as sent; HTTP/1: that of an absolute-form target; "" if there is none
	HTTP2         bool
	WebSocket     bool // a complete upgrade: the one case in which upgrade exists
}

// Token is what policy reads in a verified token; *jose.Token is one. Nothing in it is copied
// or changed.
type Token interface {
	Issuer() string
	Subject() string
	// Upstream is the origin pair oiss, osub of an own token; empty in any other token.
	Upstream() (iss, sub string)
	Audience() []string
	// Presenter is azp; of own tokens client_id.
	Presenter() string
	// Actors are the subjects of act, outermost first; of own tokens alone.
	Actors() []string
	// Claim is the text, or the texts of a list, at a path of names; nil where there is none.
	// What else a claim may be (number, boolean, object) never matches.
	Claim(path []string) []string
}

// The layer of every verdict here, and its reasons (audit.md 2.3).
const (
	LayerAuthz        = "authz"
	ReasonDenyRule    = "deny_rule"
	ReasonAllowRule   = "allow_rule"
	ReasonNoRule      = "no_allow_rule"
	ReasonNoPolicy    = "no_allow_policy"
	ReasonNoSnapshot  = "no_snapshot"
	fieldPrincipal    = "principal"
	fieldNamespace    = "namespace"
	fieldAccount      = "service account"
	fieldHost         = "host"
	fieldPort         = "port"
	fieldMethod       = "method"
	fieldPath         = "path"
	fieldToken        = "request principal"
	fieldCondition    = "condition" // that nobody can judge
	absent            = "(absent)"
	defaultRoot       = "istio-system"
	defaultDomain     = "cluster.local" // in a five-part principal: our own (istio-semantics 7.10)
	sourceMeshDefault = "mesh default"
)

// Verdict is the answer to one request, or to one TCP connection.
type Verdict struct {
	Allow     bool
	Layer     string
	Reason    string
	Policy    string // "ns/name" of the deciding rule, "" for a default
	Rule      int    // its index in that policy, -1 for a default
	Pos       Pos
	WrittenBy string
}

// Verdicts that no rule decides.
var (
	noSnapshot = Verdict{Layer: LayerAuthz, Reason: ReasonNoSnapshot, Rule: -1}
	noRule     = Verdict{Layer: LayerAuthz, Reason: ReasonNoRule, Rule: -1}
	noPolicy   = Verdict{Allow: true, Layer: LayerAuthz, Reason: ReasonNoPolicy, Rule: -1}
)

// Fault is a part of the set that package resource should have refused. What carries it is
// enforced in its conservative form (istio-semantics 1, rule I).
type Fault struct {
	Pos    Pos
	Policy string // "ns/name"
	Field  string // "spec.rules[0].to[0].operation.paths[1]"
	Text   string
}
