// Package revocation is a verifier's copy of the revocation log of tokens, and the question
// whether a token stands in it.
//
// Its words: an Entry revokes tokens by one of their claims; the Log is the copy, whole or not
// yet there; it is stale when nothing was heard of its source for 30 seconds.
//
// Its promise: a token is known by its claims, never by its text; without a full list every
// own token is refused; a look-up takes no lock that a writer holds over work, and does not
// allocate.
package revocation

import "time"

// The kinds of an Entry (tokens.md 13).
const (
	ByJTI    = "jti"
	ByRTI    = "rti"
	BySID    = "sid"
	BySub    = "sub"
	ByClient = "client"
	ByKID    = "kid"
	ByBefore = "before"
)

// StaleAfter is how long a log counts as current after the last heartbeat.
const StaleAfter = 30 * time.Second

// Ahead is how many seconds the iat of a token may lie in the future: as far an entry may reach.
const Ahead = 10

// Entry is one line of the log. Times are Unix seconds.
type Entry struct {
	Seq    int64  `json:"seq"` // store revision; 0 until it is stored
	Kind   string `json:"kind"`
	Val    string `json:"val,omitempty"`
	Before int64  `json:"before,omitempty"` // of sub, client, before: tokens issued until then
	Until  int64  `json:"until"`            // dropped everywhere after
	At     int64  `json:"at"`
	Why    string `json:"why,omitempty"`
}

// Subject is what the log looks at in a token; *jose.Token is one.
type Subject interface {
	ID() string
	KeyID() string
	Root() string        // rti
	SessionID() string   // sid
	Subject() string     // sub
	ClientID() string    // client_id
	Origin() string      // ocid
	Ancestors() []string // anc
	Actors() []string    // act subjects, outermost first
	Issued() int64       // iat
}
