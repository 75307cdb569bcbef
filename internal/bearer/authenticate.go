package bearer

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"countersign.dev/internal/jose"
)

// Authenticate is the step (istio-semantics.md 6, tokens.md 15.2). It does not change the maps
// behind what it was given but Header.
func (r *Rules) Authenticate(q *Request) Outcome {
	out := Outcome{Query: q.Query, HasQuery: q.HasQuery}
	r.ClearOutputs(q.Header)
	if isPreflight(q) {
		r.strip(q, &out)
	} else if out.Refused = r.identify(q, &out); out.Refused != nil {
		return out
	}
	if out.Token == nil {
		r.elsewhere(q, &out)
		if r.require {
			no := r.missing
			no.Detail = out.Detail
			out.Refused = &no
		}
	}
	return out
}

// verdict is what the rules of a place say of one token.
type verdict struct {
	token *jose.Token // nil: it was not verified
	rule  int
	why   *jose.Error // nil: valid
	alien bool        // no rule has its issuer
}

// identify is 6.3: every token at a place must be good, and all must be one.
func (r *Rules) identify(q *Request, out *Outcome) *Refusal {
	if r.reads && len(q.Header[authorization]) > 1 {
		return r.twice(q)
	}
	var (
		buf      [4]found
		list     = r.find(q, buf[:0])
		chosen   verdict
		raw      string
		several  bool
		audience *Refusal // of the first token for another audience
	)
	for i, f := range list {
		if f.bad && f.place.kind == inBuiltIn {
			if no := r.behindTab(q, f); no != nil {
				return no
			}
			continue
		}
		if f.bad {
			return r.attachedRefusal(q, 401, codeToken, textForm, jose.Format, "")
		}
		if slices.Contains(list[:i], f) {
			continue
		}
		v := r.judge(q, f.place, f.raw)
		switch {
		case !v.alien && v.why == nil:
			several = several || chosen.token != nil && raw != f.raw
			if chosen.token == nil || v.rule < chosen.rule {
				chosen = v
			}
			raw = f.raw
		case v.alien && f.place.kind == inBuiltIn: // the application's own affair
		case v.alien:
			return r.attachedRefusal(q, 401, codeToken, textIssuer, jose.Iss, "")
		default:
			n := &r.rules[v.rule]
			no := r.refusal(q, n, f.raw, v.why)
			if no.Status == 403 {
				audience = cmp.Or(audience, no)
				continue
			}
			if v.why.Reason == jose.KeyID && !n.keyless(q.Now) {
				out.Missed = n.source
			}
			if no.Token = v.token; v.token != nil {
				out.Own = n.own
			}
			return no
		}
	}
	switch {
	case audience != nil:
		return audience
	case several:
		return r.attachedRefusal(q, 401, codeToken, textMultiple, reasonMultiple, "")
	}
	if no := r.otherSchemes(q); no != nil || chosen.token == nil {
		return no
	}
	n := &r.rules[chosen.rule]
	if n.builtIn && n.own && r.doubled(q) {
		no := r.ambiguous
		return &no
	}
	out.Token, out.Raw, out.Own = chosen.token, raw, n.own
	out.Kept = n.forward && slices.ContainsFunc(list, func(f found) bool {
		return f.place.name == authorization && f.raw == raw && slices.Contains(f.place.rules, chosen.rule)
	})
	r.effects(q, out, chosen.rule, list)
	return nil
}

// judge asks the rules of a place in their order; the first that says valid counts. If none
// does it is the first that has the token's issuer that says why.
func (r *Rules) judge(q *Request, p *place, raw string) verdict {
	if v, hit := r.kept(q, p, raw); hit {
		return v
	}
	of := issuerOf{raw: raw}
	first := verdict{alien: true}
	for at, i := range p.rules {
		n := &r.rules[i]
		if at > 0 && !of.is(n) { // the first rule is asked unseen: a look costs more than finding a token in the cache
			continue
		}
		t, why := r.verify(q, n, raw)
		if why == nil {
			return verdict{token: t, rule: i}
		}
		if first.alien && (at > 0 || of.is(n)) {
			first = verdict{token: t, rule: i, why: why}
		}
	}
	return first
}

// issuerOf is the issuer that a token claims, read once it is asked for.
type issuerOf struct {
	raw, iss         string
	looked, readable bool
}

// is reports whether a token is the rule's to judge. One that cannot be read is any attached
// rule's, as in Istio; a built-in one has it if anything in it names the issuer.
func (of *issuerOf) is(n *rule) bool {
	if n.issuer == "" {
		return true
	}
	if !of.looked {
		of.iss, of.readable = jose.Peek(of.raw)
		of.looked = true
	}
	switch {
	case of.readable:
		return of.iss == n.issuer
	case n.builtIn:
		return names(of.raw, n.issuer)
	}
	return true
}

// kept is the verdict on a token that was verified before, unless a rule ahead of the one that
// did could say valid too.
func (r *Rules) kept(q *Request, p *place, raw string) (verdict, bool) {
	for at, i := range p.rules {
		n := &r.rules[i]
		t := cached(q, n, raw)
		if t == nil {
			continue
		}
		for _, ahead := range p.rules[:at] {
			if iss := r.rules[ahead].issuer; iss == "" || iss == t.Issuer() {
				return verdict{}, false
			}
		}
		return verdict{token: t, rule: i}, r.holds(q, n, t) == nil
	}
	return verdict{}, false
}

// verify is one rule and one token. A signature that does not hold is charged to who showed it.
func (r *Rules) verify(q *Request, n *rule, raw string) (*jose.Token, *jose.Error) {
	if n.ended(q.Now) {
		return nil, &jose.Error{Reason: jose.KeyID, Text: "the keys of the issuer are too old to be believed"}
	}
	who := cmp.Or(q.Presenter.ID, r.nobody)
	if r.failures.spent(who, q.Now) {
		if t := cached(q, n, raw); t != nil {
			return t, r.holds(q, n, t)
		}
		return nil, &jose.Error{Reason: jose.Sig, Text: "too many failed signatures"}
	}
	var t *jose.Token
	var err error
	if q.Cache != nil {
		t, err = q.Cache.Verify(q.Now, raw, n.check)
	} else {
		t, err = n.check.Verify(q.Now, raw)
	}
	if err == nil {
		return t, r.holds(q, n, t)
	}
	why := asError(err, jose.Sig)
	if why.Reason == jose.Sig {
		r.failures.add(who, q.Now)
	}
	return nil, why
}

// cached is a token that was verified before: it passes whatever else its peer sent, and costs
// no look at who issued it.
func cached(q *Request, n *rule, raw string) *jose.Token {
	if q.Cache == nil || n.ended(q.Now) {
		return nil
	}
	return q.Cache.Cached(q.Now, raw, n.check)
}

// asError is what jose says of a refused token, as it says all.
func asError(err error, otherwise jose.Reason) *jose.Error {
	if why, ok := errors.AsType[*jose.Error](err); ok {
		return why
	}
	return &jose.Error{Reason: otherwise}
}

// holds is what is asked of a verified token on every request, whatever is kept of it.
func (r *Rules) holds(q *Request, n *rule, t *jose.Token) *jose.Error {
	if n.byRoute && !r.reaches(q, n, t) {
		return &jose.Error{Reason: jose.Aud, Text: "the token is for no service that this request may go to"}
	}
	if !n.own {
		return nil
	}
	if q.Revoked == nil || !q.Revoked.Ready() {
		return &jose.Error{Reason: jose.Stale, Text: "no revocation list has come yet"}
	}
	if r.denyStale && q.Revoked.Stale(q.Now) {
		return &jose.Error{Reason: jose.Stale, Text: "the revocation list is old, and the audience asks to refuse then"}
	}
	if e, revoked := q.Revoked.Revoked(t); revoked {
		return &jose.Error{Reason: jose.Revoked, Text: "by its " + e.Kind + " at " + time.Unix(e.At, 0).UTC().Format(time.RFC3339)}
	}
	if kind, _ := t.Binding(); kind == "" && !r.allowsBearer(t) {
		return &jose.Error{Reason: jose.Binding, Text: "the token is bound to nobody, and its audience wants it to be"}
	}
	if err := t.Bound(q.Presenter); err != nil {
		return asError(err, jose.Binding)
	}
	return nil
}

// reaches reports whether a token is for a service that the request may go to, or for the Gateway itself.
func (r *Rules) reaches(q *Request, n *rule, t *jose.Token) bool {
	if n.trusted != nil && len(n.trusted.Audiences) > 0 {
		accepted := r.directory.Accepts(n.trusted, r.id, q.Reached)
		return slices.ContainsFunc(t.Audience(), func(a string) bool { return slices.Contains(accepted, a) })
	}
	return slices.ContainsFunc(t.Audience(), func(a string) bool {
		return a == r.id || slices.ContainsFunc(q.Reached, func(s string) bool { return r.directory != nil && r.directory.ServiceAudience(s) == a })
	})
}

// allowsBearer reports whether the record of the token's audience takes tokens without binding.
func (r *Rules) allowsBearer(t *jose.Token) bool {
	if r.directory == nil {
		return false
	}
	for _, audience := range t.Audience() {
		if a := r.directory.Audience(audience); a != nil && a.AllowBearer {
			return true
		}
	}
	return false
}
