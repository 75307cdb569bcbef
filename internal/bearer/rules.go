package bearer

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
)

// Clock tolerances (tokens.md 12.3).
const (
	istioSkew = 60 * time.Second // of a rule whose issuer has no record
	leastSkew = 10 * time.Second // that iat and nbf may be ahead, at least
)

// dayLife is the longest life of a foreign token where the issuer's record says nothing.
const dayLife = 24 * time.Hour

// Rules are what counts at one workload. They never change.
type Rules struct {
	rules   []rule // attached in the order of 6.1, then built in
	places  []place
	outputs []string // headers that rules write, canonical: nobody else may

	metadata map[string][]byte // by host and path of the resource (RFC 9728)

	id        string // of the workload
	issuer    string // our own
	nobody    string // who shows tokens without being proven: all of them at this workload
	directory *grant.Directory
	failures  *failures

	reads     bool // Authorization
	require   bool // a request without identity is refused
	denyStale bool

	invalid, ambiguous, missing Refusal // the answers of built-in rules (tokens.md 18.3)
	where                       string  // what of a challenge says where the metadata are
}

// rule is one issuer, and what becomes of its tokens.
type rule struct {
	issuer  string
	check   *jose.Check
	own     bool // our own issuer's: bound and revoked are asked of every request
	builtIn bool // 401 for all faults, and the token goes on to the program
	byRoute bool // of a Gateway: the audience is asked of every request, by where it may go
	trusted *grant.Issuer
	source  *Source   // where a server gets its keys; nil: they are given
	until   time.Time // end of keys that a server got
	forward bool
	payload string // header
	claims  []output
}

// output is a header that a claim is copied into.
type output struct {
	header string
	path   []string
}

// For gives the rules of a workload.
func (b *Book) For(w Workload) *Rules {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &Rules{
		id: w.ID, issuer: b.facts.Issuer, nobody: "at " + w.ID, directory: b.facts.Directory, failures: b.failures,
	}
	for i := range w.Rules {
		r.attach(b.attached(&w.Rules[i]), &w.Rules[i])
	}
	r.builtIn(b, w)
	r.record(w)
	r.reads = slices.ContainsFunc(r.places, func(p place) bool { return p.name == authorization && p.kind < inParam })
	return r
}

// attached is a rule of a RequestAuthentication. Of our own issuer its verification is ours.
func (b *Book) attached(t *policy.TokenRule) rule {
	c := jose.Check{
		Profile: jose.External, Issuer: t.Issuer, AudienceLast: true, ExpSkew: istioSkew, Skew: istioSkew, Split: t.Split,
	}
	if len(t.Audiences) > 0 {
		c.Audiences = t.Audiences
	}
	if t.Issuer != "" && t.Issuer == b.facts.Issuer {
		c.Profile, c.ExpSkew, c.Skew, c.TrustDomain = jose.Own, 0, 0, b.facts.TrustDomain
		return rule{issuer: t.Issuer, own: true, check: b.ownCheck(c)}
	}
	for i := range b.issuers {
		if known := &b.issuers[i]; t.Issuer != "" && known.Issuer == t.Issuer {
			c.ExpSkew, c.Skew = known.ClockSkew, max(known.ClockSkew, leastSkew)
			c.IgnoreHeaders = known.IgnoreHeaders
		}
	}
	return b.foreignRule(c, t.JWKS, nil, Source{t.Issuer, t.JWKSURI, t.Timeout})
}

// trusted is the built-in rule of a TrustedIssuer with use request.
func (b *Book) trusted(i *grant.Issuer, w Workload) rule {
	c := jose.Check{
		Profile: jose.External, Issuer: i.Issuer, Audiences: b.facts.Directory.Accepts(i, w.ID, w.Services),
		SingleAudience: i.SingleAudience, ExpSkew: i.ClockSkew, Skew: max(i.ClockSkew, leastSkew),
		MaxLife: cmp.Or(i.MaxLifetime, dayLife), Typ: i.Typ, IgnoreHeaders: i.IgnoreHeaders,
	}
	if len(c.Audiences) == 0 {
		c.Audiences = []string{} // not nil, which would not ask at all
	}
	if w.Gateway {
		c.Audiences = nil
	}
	var rsa []jose.Alg
	for _, name := range i.Algs {
		c.Algs = append(c.Algs, jose.Alg(name))
		if strings.HasPrefix(name, "RS") || strings.HasPrefix(name, "PS") {
			rsa = append(rsa, jose.Alg(name))
		}
	}
	t := b.foreignRule(c, i.JWKS, rsa, Source{Issuer: i.Issuer, URI: i.JWKSURI})
	t.builtIn, t.forward, t.byRoute, t.trusted = true, !w.Gateway, w.Gateway, i
	return t
}

func (b *Book) foreignRule(c jose.Check, jwks json.RawMessage, rsa []jose.Alg, s Source) rule {
	if len(jwks) > 0 {
		p, read := inline(jwks, rsa)
		return rule{issuer: c.Issuer, check: b.check(c, p, read)}
	}
	k := b.retrieved(s)
	c.Keys = k.set
	return rule{issuer: c.Issuer, check: b.check(c, k.digest, nil), source: &s, until: k.until}
}

func (b *Book) ownCheck(c jose.Check) *jose.Check {
	c.Keys = b.own.set
	return b.check(c, b.own.digest, nil)
}

// attach adds a rule and the places that it names, or the default ones (6.2).
func (r *Rules) attach(n rule, t *policy.TokenRule) {
	index := len(r.rules)
	n.forward = t.Forward
	if t.PayloadHeader != "" {
		n.payload = r.output(t.PayloadHeader)
	}
	for _, c := range t.ClaimHeaders {
		n.claims = append(n.claims, output{r.output(c.Header), strings.Split(c.Claim, ".")})
	}
	if len(t.Headers)+len(t.Params)+len(t.Cookies) == 0 {
		r.name(index, inBearer, authorization, bearerPrefix)
		r.name(index, inParam, defaultParam, "")
	}
	for _, h := range t.Headers {
		name, where := http.CanonicalHeaderKey(h.Name), inHeader
		if name == authorization && h.Prefix == bearerPrefix {
			where = inBearer
		}
		r.name(index, where, name, h.Prefix)
	}
	for _, p := range t.Params {
		r.name(index, inParam, p, "")
	}
	for _, c := range t.Cookies {
		r.name(index, inCookie, c, "")
	}
	r.rules = append(r.rules, n)
}

func (r *Rules) output(header string) string {
	name := http.CanonicalHeaderKey(header)
	if !slices.Contains(r.outputs, name) {
		r.outputs = append(r.outputs, name)
	}
	return name
}

// name says that the rule names a place.
func (r *Rules) name(index int, where kind, name, prefix string) {
	for i := range r.places {
		if p := &r.places[i]; p.kind == where && p.name == name && p.prefix == prefix {
			if !slices.Contains(p.rules, index) {
				p.rules = append(p.rules, index)
			}
			return
		}
	}
	r.places = append(r.places, place{where, name, prefix, []int{index}})
}

// builtIn adds the rules of tokens.md 15.2. Where an attached rule names an issuer it counts
// instead; at Authorization they are rules among the attached ones.
func (r *Rules) builtIn(b *Book, w Workload) {
	attached := r.rules
	named := func(issuer string) bool {
		return slices.ContainsFunc(attached, func(n rule) bool { return n.issuer == issuer })
	}
	where, prefix := inBuiltIn, ""
	if slices.ContainsFunc(r.places, func(p place) bool { return p.kind == inBearer }) {
		where, prefix = inBearer, bearerPrefix
	}
	add := func(n rule) {
		r.name(len(r.rules), where, authorization, prefix)
		r.rules = append(r.rules, n)
	}
	if r.issuer != "" && !named(r.issuer) {
		c := jose.Check{Profile: jose.Own, Issuer: r.issuer, TrustDomain: b.facts.TrustDomain}
		if !w.Gateway {
			c.Audiences = r.audiences(w)
		}
		add(rule{issuer: r.issuer, own: true, builtIn: true, forward: !w.Gateway, byRoute: w.Gateway, check: b.ownCheck(c)})
	}
	for i := range b.issuers {
		if t := &b.issuers[i]; slices.Contains(t.Uses, grant.UseRequest) && t.Issuer != r.issuer && !named(t.Issuer) {
			add(b.trusted(t, w))
		}
	}
}

// audiences are the workload's own.
func (r *Rules) audiences(w Workload) []string {
	if r.directory == nil {
		return []string{w.ID}
	}
	return r.directory.OwnAudiences(w.ID, w.Services)
}

// record reads what the records of the workload's audiences ask, and makes the challenges. Of
// several records the stricter counts.
func (r *Rules) record(w Workload) {
	if r.directory != nil {
		for _, audience := range r.audiences(w) {
			if a := r.directory.Audience(audience); a != nil {
				r.require = r.require || a.RequireToken
				r.denyStale = r.denyStale || a.OnStale == "deny"
			}
		}
	}
	r.challenges(w.Service, r.describe(w))
}

// keyless reports whether nothing can be verified by the rule: there are no keys, or nobody has
// retrieved them for so long that one of them may have been withdrawn.
func (n *rule) keyless(now time.Time) bool { return n.check.Keys.Len() == 0 || n.ended(now) }

func (n *rule) ended(now time.Time) bool { return n.source != nil && !now.Before(n.until) }
