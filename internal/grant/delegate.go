package grant

import (
	"fmt"
	"slices"
	"strings"

	"countersign.dev/internal/identity"
)

// MaxDepth is how many actors a chain holds at most (tokens.md 7.2 step 8).
const MaxDepth = 8

// Exchange is what a DelegationPolicy is asked.
type Exchange struct {
	Client        *Client
	Actor         string   // its SPIFFE ID or client_id
	Subject       string   // sub, as ours: <alias>:<sub> for foreign ones
	SubjectIssuer string   // oiss of the token, or our own issuer
	Origin        string   // oat: svid, jwt, oidc, mtls, api_key
	Chain         []string // act subjects of the subject token, outermost first
	Target        Resolved
	SubjectScopes []string // of the subject token; nil: it has none, so the new one has none
	Scopes        []string // requested; none: all that may be had
	// MayAct says that the subject token has a may_act and that the actor was found to be the
	// one it names: no DelegationPolicy is needed then. A may_act that names another ends the
	// exchange before Delegate.
	MayAct bool
}

// Acts are the act subjects of the token that is issued when Delegate allows it, outermost
// first. The chain stays as it is where the actor is the subject or acted last.
func (e Exchange) Acts() []string {
	if e.narrows() || len(e.Chain) > 0 && e.Chain[0] == e.Actor {
		return e.Chain
	}
	return append([]string{e.Actor}, e.Chain...)
}

// narrows reports an exchange by the subject itself, under either of its names.
func (e Exchange) narrows() bool {
	return e.Subject == e.Actor || e.Client != nil && e.Subject == e.Client.ClientID
}

// cycles reports an actor that is in the chain already, but did not act last.
func (e Exchange) cycles() bool { return !e.narrows() && slices.Index(e.Chain, e.Actor) > 0 }

// Delegate says which scopes a token exchanged by the actor for the subject may hold: steps 7
// to 9 of tokens.md 7.2, after types, tokens, presenter and may_act were checked. An error is
// a *Refusal.
func (d *Directory) Delegate(e Exchange) (scopes []string, err error) {
	switch {
	case e.Client == nil || e.Client.Implicit || !e.Client.May(GrantTokenExchange):
		return nil, badGrant()
	case e.Target.Target == nil || !e.Target.Target.Exchange:
		return nil, badTarget()
	case e.Actor == "" || e.Subject == "" || e.Origin == originKey: // step 4
		return nil, notPermitted()
	}
	limits, err := d.permit(e) // step 7
	switch {
	case err != nil:
		return nil, err
	case len(e.Acts()) > MaxDepth: // step 8
		return nil, tooDeep()
	}
	return e.scopes(limits) // step 9
}

// originKey is the oat of API keys: they become transaction tokens alone (tokens.md 15.3).
const originKey = "api_key"

// permit finds what allows the actor: the scopes that each DelegationPolicy leaves, nil for
// any. The subject itself, and an actor that may_act names, need none.
func (d *Directory) permit(e Exchange) (limits [][]string, err error) {
	switch {
	case e.narrows():
		return [][]string{nil}, nil
	case e.MayAct && e.cycles():
		return nil, alreadyActs()
	case e.MayAct:
		return [][]string{nil}, nil
	}
	err = notPermitted()
	for _, p := range d.delegations[e.Target.Canonical] {
		switch {
		case !p.names(e):
		case e.cycles() && !p.cycles:
			err = alreadyActs()
		case len(e.Acts()) > p.depth:
			err = tooDeep()
		default:
			limits = append(limits, p.scopes)
		}
	}
	if len(limits) == 0 {
		return nil, err
	}
	return limits, nil
}

// scopes are those requested, if one of the limits leaves them all; none requested: the most
// that one of them leaves.
func (e Exchange) scopes(limits [][]string) ([]string, error) {
	allowed := both(e.SubjectScopes, grantable(e.Client, e.Target))
	var most []string
	for _, limit := range limits {
		left := allowed
		if limit != nil {
			left = both(allowed, limit)
		}
		if len(e.Scopes) > 0 {
			if scopes, err := within(e.Scopes, left); err == nil {
				return scopes, nil
			}
		} else if len(left) > len(most) {
			most = left
		}
	}
	if len(e.Scopes) > 0 {
		return nil, badScope()
	}
	return most, nil
}

// delegation is one DelegationPolicy, made ready to be asked. A nil list is any.
type delegation struct {
	actors   []string // SPIFFE IDs, exact or ending in /*
	issuers  []string
	subjects []string
	scopes   []string
	origins  []string
	depth    int
	cycles   bool
}

func (d *Directory) addDelegations(f *faults, list []Delegation) {
	for _, p := range inOrder(list, func(p *Delegation) (int64, string, string) { return 0, p.Namespace, p.Name }) {
		made := &delegation{
			issuers: p.SubjectIssuers, subjects: p.Subjects,
			scopes: p.Scopes, origins: p.Origins, depth: MaxDepth, cycles: p.AllowCycles,
		}
		if p.MaxDepth > 0 {
			made.depth = min(p.MaxDepth, MaxDepth)
		}
		if made.origins == nil {
			made.origins = []string{"oidc", "jwt", "svid", "mtls"}
		}
		for _, a := range p.Actors {
			if identity.CheckLabel(a) == nil { // a service account of its namespace
				a = d.domain + "ns/" + p.Namespace + "/sa/" + a
			}
			if validPattern(a) {
				made.actors = append(made.actors, a)
			}
		}
		for i, a := range p.Audiences {
			at, field := place{"DelegationPolicy", p.Namespace, p.Name}, fmt.Sprintf("spec.audiences[%d]", i)
			canonical, known := d.find(a, p.Namespace)
			switch owner, _ := d.speaker(a, p.Namespace); {
			case owner != "" && owner != p.Namespace:
				f.add(at, foreign, field, fmt.Sprintf("who is acted upon consents: a DelegationPolicy in namespace %s is missing", owner), "")
			case known && d.namespaceOf(canonical) != p.Namespace:
				f.add(at, foreign, field, "the audience is an identity of another trust domain: nobody here can open it", "")
			case known:
				d.delegations[canonical] = append(d.delegations[canonical], made)
			}
		}
	}
}

// names reports whether a policy for the audience speaks of this exchange, scopes and chain left aside.
func (p *delegation) names(e Exchange) bool {
	return slices.ContainsFunc(p.actors, func(a string) bool { return matchesID(a, e.Actor) }) &&
		slices.Contains(p.origins, e.Origin) &&
		(p.issuers == nil || slices.Contains(p.issuers, e.SubjectIssuer)) &&
		(p.subjects == nil || slices.ContainsFunc(p.subjects, func(s string) bool { return matchesSubject(s, e.Subject) }))
}

// matchesSubject compares a sub to a pattern: exact, or ending in *.
func matchesSubject(pattern, sub string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(sub, prefix)
	}
	return pattern == sub
}
