// Package grant decides which tokens may be issued to whom: clients, the audiences that tokens
// are for, the issuers that are believed, and who may act for whom.
//
// Its words: a Client may ask for tokens; an Audience is what a token is for, with its scopes;
// an Issuer is a foreign one that is believed; a Delegation allows actors towards audiences; a
// Directory is all of them at one revision, held against each other.
//
// Its promise: pure (no I/O, no clock, no logger), deterministic, deny by default. It says what
// may be issued; what may be done with a token is package policy's.
package grant

import (
	"encoding/json"
	"time"
)

// Auth is how a client authenticates itself (tokens.md 5).
type Auth string

// The methods built.
const (
	AuthSPIFFE        Auth = "spiffe"
	AuthPrivateKeyJWT Auth = "private_key_jwt"
	AuthSecret        Auth = "client_secret"
)

// Binding is to what the tokens of a client are bound (tokens.md 9.1).
type Binding string

// The bindings built. BindDefault is identity for SPIFFE clients, none for the others.
const (
	BindDefault     Binding = ""
	BindIdentity    Binding = "identity"
	BindCertificate Binding = "certificate"
	BindNone        Binding = "none"
)

// Client is one OAuthClient, validated by package resource; its defaults are filled in.
type Client struct {
	Namespace         string          `json:"namespace"`
	Name              string          `json:"name"`
	ClientID          string          `json:"clientId"`
	Auth              Auth            `json:"auth"`
	SPIFFEID          string          `json:"spiffeId,omitempty"` // exact, or a prefix ending in /*
	JWKS              json.RawMessage `json:"jwks,omitempty"`     // for private_key_jwt
	JWKSURI           string          `json:"jwksUri,omitempty"`
	AssertionAlgs     []string        `json:"assertionAlgs,omitempty"`
	AssertionEndpoint bool            `json:"assertionEndpoint,omitempty"` // assertionAudience: tokenEndpoint
	Grants            []string        `json:"grants,omitempty"`            // client_credentials, token exchange by its URN
	Targets           []Target        `json:"targets,omitempty"`
	Claims            map[string]any  `json:"claims,omitempty"` // static, of every token issued to it
	Binding           Binding         `json:"binding,omitempty"`
	TTL               time.Duration   `json:"ttl,omitempty"` // 0 is 300 s
	MayAct            map[string]any  `json:"mayAct,omitempty"`
	IntrospectAny     bool            `json:"introspectAny,omitempty"`
	Disabled          bool            `json:"disabled,omitempty"`
	Implicit          bool            `json:"-"`               // a workload without a record
	Since             int64           `json:"since,omitempty"` // see Objects
}

// Target is one audience of a client.
type Target struct {
	Audience      string   `json:"audience"` // as written: a canonical value or a registry name
	Scopes        []string `json:"scopes,omitempty"`
	DefaultScopes []string `json:"defaultScopes,omitempty"`
	Exchange      bool     `json:"exchange,omitempty"`
	Attach        bool     `json:"attach,omitempty"`
}

// Audience is one OAuthResource.
type Audience struct {
	Namespace    string        `json:"namespace"`
	Name         string        `json:"name"`
	URI          string        `json:"uri,omitempty"`     // spec.audience; or
	Service      string        `json:"service,omitempty"` // a service of its namespace
	Resources    []string      `json:"resources,omitempty"`
	Scopes       []Scope       `json:"scopes,omitempty"`
	TTLCap       time.Duration `json:"ttlCap,omitempty"` // 0 is 1 h
	AllowBearer  bool          `json:"allowBearer,omitempty"`
	TypJWT       bool          `json:"typJWT,omitempty"`
	RequireToken bool          `json:"requireToken,omitempty"`
	GrantTo      []GrantTo     `json:"grantTo,omitempty"`
	OnStale      string        `json:"onStale,omitempty"` // serve (""), deny
	Since        int64         `json:"since,omitempty"`   // see Objects
}

// Scope is one scope of an audience.
type Scope struct {
	Name   string `json:"name"`
	Public bool   `json:"public,omitempty"` // stands in the metadata
}

// GrantTo is what clients of another namespace may hold.
type GrantTo struct {
	Namespace string   `json:"namespace"`
	Scopes    []string `json:"scopes,omitempty"`
}

// Use is what a foreign issuer is believed for.
type Use string

// The uses built.
const (
	UseRequest Use = "request" // request identity in every proxy
	UseSubject Use = "subject" // subject tokens of exchanges
)

// Issuer is one TrustedIssuer.
type Issuer struct {
	Name           string          `json:"name"` // the alias
	Namespace      string          `json:"namespace"`
	Issuer         string          `json:"issuer"`
	JWKS           json.RawMessage `json:"jwks,omitempty"`
	JWKSURI        string          `json:"jwksUri,omitempty"` // neither: discovery
	Algs           []string        `json:"algs,omitempty"`
	Audiences      []string        `json:"audiences,omitempty"`
	Uses           []Use           `json:"uses,omitempty"`
	SubjectClaim   string          `json:"subjectClaim,omitempty"` // "" is sub
	Carry          []string        `json:"carry,omitempty"`
	ClockSkew      time.Duration   `json:"clockSkew,omitempty"`
	MaxLifetime    time.Duration   `json:"maxLifetime,omitempty"` // 0 is 24 h
	SingleAudience bool            `json:"singleAudience,omitempty"`
	IgnoreHeaders  []string        `json:"ignoreHeaders,omitempty"`
	Typ            string          `json:"typ,omitempty"`
	Since          int64           `json:"since,omitempty"` // see Objects
}

// Delegation is one DelegationPolicy: it allows when every field it has matches.
type Delegation struct {
	Namespace      string   `json:"namespace"`
	Name           string   `json:"name"`
	Actors         []string `json:"actors"`
	Audiences      []string `json:"audiences"`
	SubjectIssuers []string `json:"subjectIssuers,omitempty"`
	Subjects       []string `json:"subjects,omitempty"`
	Scopes         []string `json:"scopes,omitempty"`
	Origins        []string `json:"origins,omitempty"`  // nil: oidc, jwt, svid, mtls
	MaxDepth       int      `json:"maxDepth,omitempty"` // 0 is 8
	AllowCycles    bool     `json:"allowCycles,omitempty"`
}

// Service is a service of the registry, as far as it is an audience.
type Service struct {
	Namespace, Name string
	Owners          []string // SPIFFE IDs; the first is the canonical audience
}

// Objects are what a Directory is made of. Of two that claim one name the one with the lower
// Since keeps it, whatever its kind, then the first by namespace and name: Since is the
// revision at which an object was first applied, and the other one has the fault.
type Objects struct {
	TrustDomain   string
	RootNamespace string
	Issuer        string // our own
	NoImplicit    bool   // token.implicitClients: false
	Clients       []Client
	Audiences     []Audience
	Issuers       []Issuer
	Delegations   []Delegation
	Services      []Service
}

// Fault is what is wrong between objects.
type Fault struct {
	Kind, Namespace, Name string
	Code                  string // E308, E113 and others of istio-semantics.md 11; W-… of Warnings
	Field                 string // spec.targets[0].scopes
	Text, Hint            string
}
