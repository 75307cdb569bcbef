package policy

import "strings"

// pair is one value of requestPrincipals: a pattern for the issuer and one for the subject
// (istio-semantics 7.4.1), never one for both joined.
type pair struct {
	iss, sub pattern
	value    string
}

func parsePair(v string, read reading) (pair, error) {
	if v == "" {
		p := unreadable(v, read)
		return pair{iss: p, sub: p, value: v}, errEmptyValue
	}
	out := pair{value: v, iss: pattern{kind: present}, sub: pattern{kind: present}}
	at := strings.LastIndexByte(v, '/')
	star := strings.HasPrefix(v, "*")
	switch {
	case v == "*":
	case star && at >= 0:
		out.iss, out.sub = parsePattern(v[:at]), pattern{text: v[at+1:]}
	case star:
		out.sub = parsePattern(v)
	case strings.HasSuffix(v, "*") && at >= 0:
		out.iss, out.sub = pattern{text: v[:at]}, parseEnd(v[at+1:])
	case strings.HasSuffix(v, "*"):
		out.iss = parseEnd(v)
	case at >= 0:
		out.iss, out.sub = pattern{text: v[:at]}, pattern{text: v[at+1:]}
	default:
		out.iss, out.sub = pattern{text: v}, pattern{}
	}
	return out, nil
}

// parseEnd reads a value that ends with a star; a star in front of it is none.
func parseEnd(v string) pattern {
	if v == "*" {
		return pattern{kind: present}
	}
	return pattern{kind: prefix, text: v[:len(v)-1]}
}

// pairs is one list of requestPrincipals.
type pairs struct {
	read reading
	any  []pair
}

// Where a token says who it names: an empty claim is there, and a missing one is not.
var issuerClaim, subjectClaim = []string{"iss"}, []string{"sub"}

// names gives the principal of t, which exists only if iss and sub are both there
// (istio-semantics 6.4).
func names(t Token) (iss, sub string, ok bool) {
	iss, sub = t.Issuer(), t.Subject()
	return iss, sub, (iss != "" || t.Claim(issuerClaim) != nil) && (sub != "" || t.Claim(subjectClaim) != nil)
}

// matches says whether either pair of t, its own or the origin of an exchanged token, meets a
// value.
func (l *pairs) matches(t Token) bool {
	if len(l.any) == 0 {
		return false
	}
	var iss, sub, oiss, osub string
	var own, origin bool
	if t != nil {
		iss, sub, own = names(t)
		oiss, osub = t.Upstream()
		origin = oiss != "" && osub != ""
	}
	for i := range l.any {
		p := &l.any[i]
		if p.iss.kind == always || own && p.matches(iss, sub, l.read) || origin && p.matches(oiss, osub, l.read) {
			return true
		}
	}
	return false
}

func (p *pair) matches(iss, sub string, read reading) bool {
	return p.iss.matchesText(iss, read) && p.sub.matchesText(sub, read)
}

// pairLists is such a list and its negated twin, of a source or of request.auth.principal.
type pairLists struct {
	list, not pairs
}

func (p *pairLists) hold(t Token) bool {
	return (len(p.list.any) == 0 || p.list.matches(t)) && !p.not.matches(t)
}

func (p *pairLists) texts() (list, not []string) { return p.list.texts(), p.not.texts() }

func (l *pairs) texts() []string {
	var out []string
	for i := range l.any {
		out = append(out, l.any[i].value)
	}
	return out
}

// requestPrincipals gives nil where nothing is written.
func (b *compiler) requestPrincipals(at, notAt string, pos reading, list, not []string) *pairLists {
	if len(list)+len(not) == 0 {
		return nil
	}
	return &pairLists{b.pairs(at, pos, list), b.pairs(notAt, !pos, not)}
}

func (b *compiler) pairs(at string, read reading, list []string) pairs {
	out := pairs{read: read}
	for i, v := range list {
		p, err := parsePair(v, read)
		if err != nil {
			b.faultIn(at, i, "%q: %v", v, err)
		}
		out.any = append(out.any, p)
	}
	return out
}
