// Package jose reads and makes JSON Web Tokens: a strict gate before any cryptography, keys
// and key sets, minting, verification, and the cache of what was verified.
//
// Its words: the gate is what every token passes before a key is looked for; a Profile is what
// one kind of token must look like; a Check is all that one verifier asks of a token; a Set is
// the keys of one issuer; a Reason is why a token was refused.
//
// Its promise: pure (no I/O, no clock, no logger); a token has one meaning or none; what
// Verify returns is verified and never changes; a Reason is for the operator, never for the
// one who sent the token.
package jose

import "time"

// Alg is a signature algorithm by its JOSE name.
type Alg string

// The algorithms that may be verified. ES256 alone is minted.
const (
	ES256 Alg = "ES256"
	ES384 Alg = "ES384"
	ES512 Alg = "ES512"
	EdDSA Alg = "EdDSA"
	RS256 Alg = "RS256"
	RS384 Alg = "RS384"
	RS512 Alg = "RS512"
	PS256 Alg = "PS256"
	PS384 Alg = "PS384"
	PS512 Alg = "PS512"
)

// MaxToken is the longest token that is read, in bytes.
const MaxToken = 8192

// Reason is why a token was refused (tokens.md 12.1).
type Reason string

// The reasons.
const (
	Size     Reason = "size"
	Charset  Reason = "charset"
	Format   Reason = "format"
	Base64   Reason = "base64"
	Header   Reason = "header"
	Algo     Reason = "alg"
	KeyID    Reason = "kid"
	Typ      Reason = "typ"
	JSON     Reason = "json"
	Dup      Reason = "dup"
	UTF8     Reason = "utf8"
	Depth    Reason = "depth"
	Sig      Reason = "sig"
	Iss      Reason = "iss"
	Aud      Reason = "aud"
	Exp      Reason = "exp"
	Nbf      Reason = "nbf"
	Iat      Reason = "iat"
	Lifetime Reason = "lifetime"
	Claims   Reason = "claims"
	Revoked  Reason = "revoked"
	Binding  Reason = "binding"
	Stale    Reason = "stale"
)

// Error is a refused token. Text says more to the operator: `the token is for "orders", this
// is "payments"`; it holds claim values at most, never a part of the encoded token.
type Error struct {
	Reason Reason
	Text   string
}

func (e *Error) Error() string {
	if e.Text == "" {
		return string(e.Reason)
	}
	return string(e.Reason) + ": " + e.Text
}

// Check is all that one verifier asks of a token. It is made once and never changed; a cached
// token counts only for the very Check that it was verified by.
type Check struct {
	Profile   *Profile
	Issuer    string   // iss, byte for byte; empty takes any (RequestAuthentication without issuer)
	Keys      *Set     // nil or empty refuses every token
	Audiences []string // one of them must be in aud; nil does not ask
	// AudienceLast reports a wrong audience only once the signature was verified, as
	// istio-semantics.md 6.3 wants it.
	AudienceLast   bool
	SingleAudience bool          // an array of several is refused
	Algs           []Alg         // nil: those of the profile
	ExpSkew        time.Duration // after exp a token still counts this long
	Skew           time.Duration // that iat and nbf may be ahead; 0 is 10 s
	MaxLife        time.Duration // longest exp − iat; 0 does not ask. Of own tokens it is an hour at most
	Split          []string      // top-level claims whose text is split at blanks, besides scope and permission
	Typ            string        // the one typ that is accepted; "" asks the profile alone
	IgnoreHeaders  []string      // of jku, x5u and x5c: passed over instead of refused, never used
	// TrustDomain is where a sub, act.sub or client_id of scheme spiffe in an own token must be
	// from; "" does not ask.
	TrustDomain string
}

// Presenter is who shows a token, as the connection proved it.
type Presenter struct {
	ID          string   // SPIFFE ID of the verified peer, its certificate unexpired now; "" if nobody is proven
	Fingerprint [32]byte // SHA-256 of its leaf; zero if it showed none
}
