// Package bearer is the token step of a proxy: it finds tokens in a request, verifies them by
// the rules that count at a workload, and says what of them policy and the program see.
//
// Its words: a place is where a token may stand; a rule says where tokens of one issuer stand
// and how they are checked; a Book is all that a node knows of issuers and keys at one
// revision; Rules are what of it counts at one workload; an Outcome is the answer for one
// request.
//
// Its promise: no I/O; a request has one identity, none, or is refused; a token that is there
// and not good is refused, never ignored (istio-semantics.md 6); nothing of a token is in an
// answer or a record but the claims that name it.
package bearer

import (
	"net/http"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/revocation"
)

// Facts are what a Book is made of.
type Facts struct {
	TrustDomain string
	Issuer      string           // our own; "" while there is none
	Own         *jose.Set        // our own keys
	Directory   *grant.Directory // audiences and issuers; nil: none are known
	// Foreign gives the keys that a server has of a source, nil if it has none, and their end: a
	// node that hears nothing newer believes them no longer.
	Foreign func(source Source) (keys *jose.Set, until time.Time)
}

// Source names a key set that a server retrieves: by URI, or by discovery of the issuer. Equal
// Issuer and URI are one source.
type Source struct {
	Issuer, URI string
	Timeout     time.Duration
}

// Workload is who the rules are for.
type Workload struct {
	ID       string             // SPIFFE ID
	Service  string             // "ns/name", the realm of challenges
	Services []string           // all it serves, "ns/name"
	Rules    []policy.TokenRule // attached, in the order of istio-semantics.md 6.1
	Gateway  bool               // what comes in by it goes on without the token that proved it (gateway.md 14)
}

// Request is one request on its way through the step. Header is changed in place: what policy
// must not see any more is taken out, outputs are put in.
type Request struct {
	Now       time.Time
	Method    string
	Path      string // normal form
	Query     string
	HasQuery  bool
	Host      string
	Scheme    string // of the connection, for the realm
	Header    http.Header
	Presenter jose.Presenter
	Reached   []string        // at a Gateway: the services that it may go to, "ns/name"
	Cache     *jose.Cache     // nil: nothing is kept
	Revoked   *revocation.Log // nil is a log that never came
}

// Outcome is the answer for one request.
type Outcome struct {
	Token    *jose.Token // nil: no identity
	Raw      string      // its text, for who exchanges it
	Kept     bool        // it goes on in Authorization, where its rule found it
	Own      bool        // it, or the one in Refused, is of our own issuer
	Query    string      // what is left of it for policy
	HasQuery bool
	QueryCut bool // something was taken out of the query
	Refused  *Refusal
	// Rest is what is taken out between policy and program; nil: nothing.
	Rest *Rest
	// Missed is a source whose keys did not know the token's kid, to be told to a server; nil: none.
	Missed *Source
	// Detail is for the record: token_elsewhere where an own token stood in query or cookie and
	// was not used (tokens.md 18.3).
	Detail string
}

// Refusal is an answer to the caller, and for the record why.
type Refusal struct {
	Status    int    // 400, 401, 403
	Text      string // body, one of the fixed texts
	Challenge string // WWW-Authenticate
	Reason    string // tokens.md 12.1, or missing, multiple
	Detail    string // for the operator, at most 200 bytes
	// Token is what was refused though its signature holds (revoked, bound to another): for the
	// record alone; nil: nothing of it is believed.
	Token *jose.Token
}

// Rest is what leaves a request behind policy.
type Rest struct {
	Query    string // the whole, as it goes on
	HasQuery bool
	Drop     []string // header lines: canonical names
	Cookies  []string // the Cookie lines as they go on; none left: no such field
	Cookie   bool     // Cookies counts
}
