// Package route holds the Gateway API as pure values and pure choice: which
// routes attach to which listeners, which rule takes a request, and what its
// filters make of it. It reads no file, opens no socket and knows no clock;
// package resource decodes the objects, package proxy acts on the answers.
//
// Words are those of the Gateway API v1.6: a Gateway has listeners, an
// HTTPRoute attaches to listeners through parentRefs and has rules, a rule has
// matches, filters and backendRefs. Every object is taken after defaulting and
// validation, and none is changed after it was given to this package.
package route

import (
	"strings"
	"time"
)

// Name names an object inside its namespace.
type Name struct{ Namespace, Name string }

// String is namespace/name, the form that breaks ties (HTTPRoute API).
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Compare orders names by that form.
func (n Name) Compare(o Name) int {
	if n.Namespace == o.Namespace {
		return strings.Compare(n.Name, o.Name)
	}
	return strings.Compare(n.String(), o.String())
}

// Meta is what every object has.
type Meta struct {
	Name
	Generation int64     // +1 with every change of the defaulted spec
	Revision   int64     // of the store, at the last change of anything in the object
	Created    time.Time // whole seconds; the older object wins ties
}

// Older reports whether m wins a tie against o: by age, then by
// namespace/name ascending.
func (m Meta) Older(o Meta) bool {
	if !m.Created.Equal(o.Created) {
		return m.Created.Before(o.Created)
	}
	return m.String() < o.String()
}

// At notes the revision of the last change.
func (m *Meta) At(revision int64) { m.Revision = revision }

// Protocol is the protocol of a listener, as spelled in the API.
type Protocol string

// Protocols of listeners that are served. Any other, TLS, TCP and UDP
// among them, is UnsupportedProtocol.
const (
	HTTP  Protocol = "HTTP"
	HTTPS Protocol = "HTTPS"
)

// Class is a GatewayClass.
type Class struct {
	Meta                    // without a namespace
	Controller       string // controllerName
	HasParametersRef bool   // no kind of parameters is known
}

// Gateway is a Gateway.
type Gateway struct {
	Meta
	Class            string
	Listeners        []Listener // 1–64, in the order written
	Addresses        []Address
	HasParametersRef bool
	Options          Options           `json:",omitempty"`
	KeyHeaders       map[string]string `json:",omitempty"` // where API keys stand, by listener; "": all of them
	Frontend         Frontend
}

// Address is one of Gateway.spec.addresses.
type Address struct{ Type, Value string }

// Listener is one listener of a Gateway.
type Listener struct {
	Name     string
	Hostname string // lower case; empty: any; "*.x.test": any depth below x.test
	Port     uint16
	Protocol Protocol

	Certificates []Ref  // tls.certificateRefs; none on HTTPS, and no Files: one of our own authority
	Files        *Files // instead of Certificates
	TLS13        bool   // no older version of TLS

	// allowedRoutes. From is Same, All, Selector or None.
	From     string
	Selector *Selector // with From Selector; nil admits nothing
	Kinds    []Kind    // nil: those of the protocol
}

// Kind is a group and a kind.
type Kind struct{ Group, Kind string }

// Ref is a reference to an object, its namespace filled in.
type Ref struct {
	Kind
	Name
}

// Selector is a label selector. All of it must hold; an empty one takes all.
type Selector struct {
	Labels map[string]string
	Terms  []Term
}

// Term is one of matchExpressions; Operator is In, NotIn, Exists or
// DoesNotExist.
type Term struct {
	Key, Operator string
	Values        []string
}

// Grant is a ReferenceGrant: any of From may refer to any of To in its
// namespace. The name of a To is empty for every name.
type Grant struct {
	Meta
	From []GrantFrom
	To   []GrantTo
}

// GrantFrom is one of ReferenceGrant.spec.from.
type GrantFrom struct {
	Kind
	Namespace string
}

// GrantTo is one of ReferenceGrant.spec.to.
type GrantTo struct {
	Kind
	Name string
}

// HTTPRoute is an HTTPRoute.
type HTTPRoute struct {
	Meta
	Parents   []Parent
	Hostnames []string // lower case; none: those of the listener
	Rules     []Rule   // 1–16
	Options   Options  `json:",omitempty"`
}

// Is reports whether two values are one reading of one route, and equal therefore: nobody changes what was read.
func (r *HTTPRoute) Is(o *HTTPRoute) bool {
	return len(r.Rules) > 0 && len(o.Rules) > 0 && &r.Rules[0] == &o.Rules[0]
}

// Parent is one of parentRefs. Section is a listener's name, Port its port;
// empty and zero leave the choice open.
type Parent struct {
	Ref
	Section string
	Port    uint16
}

// Rule is one rule of an HTTPRoute.
type Rule struct {
	Name     string // may be empty
	Matches  []Match
	Filters  []Filter
	Backends []Backend
	Timeouts Timeouts
}

// Timeouts of a rule. Zero means none was written; Request and Backend may
// be written as 0s, which means no bound.
type Timeouts struct{ Request, Backend *time.Duration }

// PathType says how the path of a match compares.
type PathType string

// Path types (HTTPRoute API, PathMatchType).
const (
	Exact  PathType = "Exact"
	Prefix PathType = "PathPrefix"
	Regex  PathType = "RegularExpression"
)

// Match is one match of a rule: all parts that are set must hold.
type Match struct {
	PathType PathType
	Path     string
	Method   string // empty: any
	Headers  []Pair // at most 16; the first of a repeated name counts
	Query    []Pair // at most 16
}

// Pair is a header or query match.
type Pair struct {
	Name, Value string
	Regex       bool // Value is RE2, and must take the whole value
}

// Filter is one filter of a rule or of a backendRef: exactly one field is set.
type Filter struct {
	RequestHeaders  *HeaderFilter
	ResponseHeaders *HeaderFilter
	Redirect        *Redirect
	Rewrite         *Rewrite
	CORS            *CORS
	Extension       *Ref   // ExtensionRef
	Unknown         string // the type of a filter that is not built: its rule answers 500
}

// HeaderFilter changes header fields: remove, then set, then add.
type HeaderFilter struct {
	Set, Add []Pair
	Remove   []string
}

// Redirect answers with a redirect.
type Redirect struct {
	Scheme, Hostname string       // empty: the listener's, the request's
	Port             uint16       // 0: by the scheme, else the listener's
	Path             *PathReplace // nil: the request's path
	Status           int          // 301, 302, 303, 307, 308
}

// Rewrite changes what the backend sees.
type Rewrite struct {
	Hostname string       // empty: as it is
	Path     *PathReplace // nil: as it is
}

// PathReplace replaces a path: the whole (Full), or the matched prefix.
type PathReplace struct {
	Full  bool
	Value string
}

// CORS is the CORS filter (GEP-1767).
type CORS struct {
	Origins          []string
	Credentials      bool
	Methods, Headers []string
	Expose           []string
	MaxAge           int // seconds
}

// Backend is one backendRef with its filters.
type Backend struct {
	Ref
	Port    uint16 // 0: none was written
	Weight  int    // 0–1,000,000
	Filters []Filter
}
