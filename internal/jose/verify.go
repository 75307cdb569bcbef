package jose

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	defaultSkew = 10   // seconds that iat and nbf may be ahead
	maxOwnLife  = 3600 // seconds between iat and exp of an own token, signed or not
)

// Verify holds a token against the check, in the order of tokens.md 12.2: what costs little
// comes before the signature, so that garbage dies early. The error is an *Error.
func (c *Check) Verify(now time.Time, raw string) (*Token, error) {
	t, err := c.verify(now.Unix(), raw)
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (c *Check) verify(now int64, raw string) (*Token, *Error) {
	parts, err := gate(raw)
	if err != nil {
		return nil, err
	}
	h, err := readHeader(parts.header, c.Profile, c.IgnoreHeaders)
	if err != nil {
		return nil, err
	}
	if err := c.header(h); err != nil {
		return nil, err
	}
	p, err := readPayload(parts.payload, c.Profile.own)
	if err != nil {
		return nil, err
	}
	if c.Issuer != "" && (!p.hasIss || p.iss != c.Issuer) {
		return nil, refuse(Iss, fmt.Sprintf("the token is of issuer %q, not %q", clip(p.iss), c.Issuer))
	}
	key, err := c.Keys.find(h)
	if err != nil {
		return nil, err
	}
	if !c.AudienceLast {
		if err := c.audience(p); err != nil {
			return nil, err
		}
	}
	if err := c.times(now, p); err != nil {
		return nil, err
	}
	if !key.verify(parts.input, parts.sig) {
		return nil, refuse(Sig, "")
	}
	if c.AudienceLast {
		if err := c.audience(p); err != nil {
			return nil, err
		}
	}
	return newToken(c, h, key, p)
}

// header is the first half of step 8, and typ: no key is looked for before.
func (c *Check) header(h header) *Error {
	alg := Alg(h.alg)
	if !slices.Contains(c.Profile.algs, alg) || c.Algs != nil && !slices.Contains(c.Algs, alg) {
		return refuse(Algo, "an algorithm that is not accepted here")
	}
	if c.Profile.exact && !h.hasKid {
		return refuse(KeyID, "the token names no key")
	}
	if !c.Profile.accepts(h.typ, h.hasTyp) || c.Typ != "" && !strings.EqualFold(h.typ, c.Typ) {
		return refuse(Typ, fmt.Sprintf("the token is of typ %q", clip(h.typ)))
	}
	return nil
}

func (c *Check) audience(p *payload) *Error {
	if c.SingleAudience && len(p.aud) > 1 {
		return refuse(Aud, "the token is for several audiences")
	}
	if c.Audiences == nil && !c.Profile.own {
		return nil
	}
	if !p.hasAud {
		return refuse(Aud, "the token is for no audience")
	}
	if c.Audiences == nil || slices.ContainsFunc(p.aud, func(a string) bool { return slices.Contains(c.Audiences, a) }) {
		return nil
	}
	if len(c.Audiences) == 0 {
		return refuse(Aud, fmt.Sprintf("the token is for %s, and no audience of its issuer is here", list(p.aud)))
	}
	return refuse(Aud, fmt.Sprintf("the token is for %s, this is %s", list(p.aud), list(c.Audiences)))
}

// times is exp, nbf, iat and what lies between (tokens.md 12.3).
func (c *Check) times(now int64, p *payload) *Error {
	skew := int64(c.Skew / time.Second)
	if skew == 0 {
		skew = defaultSkew
	}
	end := p.exp + int64(c.ExpSkew/time.Second)
	switch {
	case !p.hasExp:
		return refuse(Exp, "the token has no end")
	case now >= end:
		return refuse(Exp, "the token ended "+span(now-p.exp)+" ago")
	case p.hasNbf && p.nbf > now+skew:
		return refuse(Nbf, "the token begins in "+span(p.nbf-now))
	case p.hasIat && p.iat > now+skew:
		return refuse(Iat, "the token was issued "+span(p.iat-now)+" ahead of this clock")
	case c.Profile.own && !p.hasIat:
		return refuse(Iat, "the token has no iat")
	}
	most := int64(c.MaxLife / time.Second)
	if c.Profile.own && (most == 0 || most > maxOwnLife) {
		most = maxOwnLife
	}
	start := p.iat
	if !p.hasIat {
		start = now // it was issued at some time before
	}
	if most > 0 && p.exp-start > most {
		return refuse(Lifetime, fmt.Sprintf("the token lives %d s, more than %d s", p.exp-start, most))
	}
	return nil
}

// span is a number of seconds for people: 12s, 5m12s, 40m, 3h20m, 40d, 2y.
func span(s int64) string {
	const hour, day = 3600, 24 * 3600
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 600 && s%60 != 0:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	case s < hour:
		return fmt.Sprintf("%dm", s/60)
	case s < day && s/60%60 != 0:
		return fmt.Sprintf("%dh%dm", s/hour, s/60%60)
	case s < 2*day:
		return fmt.Sprintf("%dh", s/hour)
	case s < 730*day:
		return fmt.Sprintf("%dd", s/day)
	}
	return fmt.Sprintf("%dy", s/(365*day))
}

// unread is the profile below all profiles.
var unread = &Profile{name: "signature only", algs: all}

// VerifySignature stops after step 10 of tokens.md 12.2 and reads no payload, which may be
// empty: for vectors of signatures. It says nothing about a token. The error is an *Error.
func VerifySignature(keys *Set, raw string) error {
	parts, err := gate(raw)
	if err != nil {
		return err
	}
	h, err := readHeader(parts.header, unread, nil)
	if err != nil {
		return err
	}
	if !slices.Contains(unread.algs, Alg(h.alg)) {
		return refuse(Algo, "an algorithm that is not accepted here")
	}
	key, err := keys.find(h)
	if err != nil {
		return err
	}
	if !key.verify(parts.input, parts.sig) {
		return refuse(Sig, "")
	}
	return nil
}

// maxShown is how much of a claim stands in an Error.
const maxShown = 200

// clip cuts what a stranger wrote.
func clip(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "…"
}

// list prints audiences for the operator, a few of them.
func list(of []string) string {
	const most = 3
	if len(of) == 0 {
		return "nobody"
	}
	var quoted []string
	for _, s := range of[:min(len(of), most)] {
		quoted = append(quoted, fmt.Sprintf("%q", clip(s)))
	}
	if len(of) > most {
		quoted = append(quoted, "…")
	}
	return strings.Join(quoted, ", ")
}
