package jose

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Token is a verified token. It never changes. Of a token that is not an own one, only what
// any JWT has is there: the claims of tokens.md 8.1 name nobody in it.
type Token struct {
	alg       Alg
	kid, typ  string
	own       bool
	p         *payload
	claims    []claim
	scopes    []string
	clientID  string
	presenter string
	actors    []string
	chain     chain
	bound     binding
}

// newToken reads the claims that only a verified token has a right to have read.
func newToken(c *Check, h header, key *Key, p *payload) (*Token, *Error) {
	t := &Token{alg: key.alg, kid: h.kid, typ: h.typ, own: c.Profile.own, p: p, claims: make([]claim, 0, len(p.members))}
	for _, m := range p.members {
		split := m.name == "scope" || m.name == "permission" || slices.Contains(c.Split, m.name)
		k := parse(m.value, split)
		if k.name = m.name; k.nul || strings.IndexByte(m.name, 0) >= 0 {
			return nil, refuse(Claims, holdsNUL)
		}
		if k.kind != 'n' {
			t.claims = append(t.claims, k)
		}
	}
	t.scopes = t.texts("scope")
	var err *Error
	if t.own {
		err = t.readOwn(c)
	} else {
		err = t.readForeign()
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// claim is a top-level claim, nil if it is absent or null.
func (t *Token) claim(name string) *claim {
	for i := range t.claims {
		if t.claims[i].name == name {
			return &t.claims[i]
		}
	}
	return nil
}

func (t *Token) texts(name string) []string {
	if c := t.claim(name); c != nil {
		return c.texts
	}
	return nil
}

// ID is jti.
func (t *Token) ID() string { return t.p.jti }

// KeyID is the kid of the header, "" if it had none.
func (t *Token) KeyID() string { return t.kid }

// Typ is the typ of the header as it was written, "" if it had none.
func (t *Token) Typ() string { return t.typ }

// Alg is the algorithm of the key that verified the token.
func (t *Token) Alg() Alg { return t.alg }

// Issuer is iss.
func (t *Token) Issuer() string { return t.p.iss }

// Subject is sub.
func (t *Token) Subject() string { return t.p.sub }

// Audience is aud as a list. Callers do not change it.
func (t *Token) Audience() []string { return t.p.aud }

// Expires is exp in Unix seconds.
func (t *Token) Expires() int64 { return t.p.exp }

// Issued is iat in Unix seconds, 0 if the token has none.
func (t *Token) Issued() int64 { return t.p.iat }

// ClientID is client_id of an own token: the client that asked for it.
func (t *Token) ClientID() string { return t.clientID }

// Scopes are the parts of scope. Callers do not change them.
func (t *Token) Scopes() []string { return t.scopes }

// SessionID is sid of an own token.
func (t *Token) SessionID() string { return t.chain.sid }

// Root is rti of an own token: the first token or grant of its chain.
func (t *Token) Root() string { return t.chain.rti }

// Ancestors is anc of an own token: the tokens it descends from, nearest first.
func (t *Token) Ancestors() []string { return t.chain.anc }

// Origin is ocid of an own token: the client of the first token.
func (t *Token) Origin() string { return t.chain.ocid }

// OriginKind is oat of an own token: what kind of credential began the chain.
func (t *Token) OriginKind() string { return t.chain.oat }

// Actors are the subjects of act of an own token, outermost first.
func (t *Token) Actors() []string { return t.actors }

// Upstream is the origin pair oiss and osub of an own token.
func (t *Token) Upstream() (iss, sub string) { return t.chain.oiss, t.chain.osub }

// Presenter is azp; of own tokens client_id.
func (t *Token) Presenter() string { return t.presenter }

// Claim is the text at a path of names, or the texts of the list there; nil if it is
// something else or not there. Callers do not change it.
func (t *Token) Claim(path []string) []string {
	in := t.claims
	for i, name := range path {
		j := 0
		for j < len(in) && in[j].name != name {
			j++
		}
		if j == len(in) {
			return nil
		}
		if i == len(path)-1 {
			return in[j].texts
		}
		in = in[j].inner
	}
	return nil
}

// Value is a top-level claim decoded: string, bool, int64, float64 (a number that is no
// int64), []any or map[string]any. What it gives is the caller's. A claim that is null is absent.
func (t *Token) Value(name string) (any, bool) {
	value := t.p.value(name)
	if value == "" || value == "null" {
		return nil, false
	}
	return decoded(value), true
}

// Values are all claims, decoded like Value; null ones are absent.
func (t *Token) Values() map[string]any {
	out := make(map[string]any, len(t.p.members))
	for _, m := range t.p.members {
		if m.value != "null" {
			out[m.name] = decoded(m.value)
		}
	}
	return out
}

// Payload is the second part of the token as it came: there is one spelling of it.
func (t *Token) Payload() string { return alphabet.EncodeToString([]byte(t.p.text)) }

// decoded is a value that the decoder has passed.
func decoded(value string) any {
	var v any
	_ = json.Unmarshal([]byte(value), &v, json.WithUnmarshalers(whole))
	return v
}

// whole keeps whole numbers whole, so that they are written again as they came.
var whole = json.UnmarshalFromFunc(func(dec *jsontext.Decoder, v *any) error {
	if dec.PeekKind() != '0' {
		return errors.ErrUnsupported
	}
	t, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if n, err := strconv.ParseInt(t.String(), 10, 64); err == nil {
		*v = n
		return nil
	}
	f, _ := strconv.ParseFloat(t.String(), 64)
	*v = min(max(f, -math.MaxFloat64), math.MaxFloat64) // JSON has no infinity to write again
	return nil
})
