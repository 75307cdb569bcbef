package jose

import (
	"slices"
	"strings"
)

// Profile is what one kind of token must look like: a row of tokens.md 12.1.
type Profile struct {
	name    string
	typs    []string // "" is an absent typ
	anyCase bool     // typ is compared without case
	exact   bool     // the header is alg, kid and typ, written as our signer writes it
	closed  bool     // the header holds no other names than these three
	permits []string // forbidden header names that it may hold
	algs    []Alg
	own     bool // claims of tokens.md 8.1, aud one text, times integers
}

var (
	all   = []Alg{ES256, ES384, ES512, EdDSA, RS256, RS384, RS512, PS256, PS384, PS512}
	ecRSA = []Alg{ES256, ES384, ES512, RS256, RS384, RS512, PS256, PS384, PS512}
)

// The rows. Own and OwnJWT are access tokens of a token service like this one, External those
// of anyone else, Assertion what a client signs to name itself. The rest is what another row
// owns, so that External and Own refuse it; of those, header, typ and times are checked.
var (
	Own           = &Profile{name: "own", typs: []string{"at+jwt"}, exact: true, algs: []Alg{ES256}, own: true}
	OwnJWT        = &Profile{name: "own-jwt", typs: []string{"JWT"}, exact: true, algs: []Alg{ES256}, own: true}
	External      = &Profile{name: "external", typs: []string{"", "JWT", "at+jwt", "application/at+jwt"}, anyCase: true, algs: all}
	Assertion     = &Profile{name: "assertion", typs: []string{"", "JWT", "client-authentication+jwt"}, algs: all}
	Txn           = &Profile{name: "txn", typs: []string{"txntoken+jwt"}, exact: true, algs: []Alg{ES256}}
	SVID          = &Profile{name: "jwt-svid", typs: []string{"", "JWT", "JOSE"}, closed: true, algs: ecRSA}
	Proof         = &Profile{name: "dpop", typs: []string{"dpop+jwt"}, permits: []string{"jwk"}, algs: []Alg{ES256, PS256, EdDSA}}
	Logout        = &Profile{name: "logout", typs: []string{"logout+jwt"}, algs: all}
	Introspection = &Profile{name: "introspection", typs: []string{"token-introspection+jwt"}, exact: true, algs: []Alg{ES256}}
)

// ProfileFor is the profile that owns a typ: External for none and for JWT, which many share,
// and nil for a typ that no profile accepts.
func ProfileFor(typ string) *Profile {
	for _, p := range []*Profile{Own, Txn, Proof, Logout, Introspection, External, Assertion, SVID} {
		if p.accepts(typ, typ != "") {
			return p
		}
	}
	return nil
}

func (p *Profile) String() string { return p.name }

func (p *Profile) accepts(typ string, there bool) bool {
	if !there {
		return slices.Contains(p.typs, "")
	}
	return typ != "" && slices.ContainsFunc(p.typs, func(s string) bool {
		return s == typ || p.anyCase && strings.EqualFold(s, typ)
	})
}
