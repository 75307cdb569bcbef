package policy

import (
	"fmt"
	"regexp"
	"strings"
)

// caller is a peer as source lists see it. The zero caller has no identity.
type caller struct {
	known     bool
	principal string // without spiffe://
	id        string // with spiffe://, for Istio's expressions
	domain    string
	namespace string // "" unless canonical
	account   string
	foreign   bool
}

func newCaller(p *Peer, own string) caller {
	if p == nil || p.Principal == "" {
		return caller{}
	}
	c := caller{known: true, principal: p.Principal, id: "spiffe://" + p.Principal, domain: p.TrustDomain}
	if c.domain == "" {
		c.domain, _, _ = strings.Cut(p.Principal, "/")
	}
	// No aliases in this version: whatever is not our own trust domain is foreign, also if
	// whoever filled in the peer forgot to say so.
	c.foreign = p.Foreign || c.domain != own
	if p.Canonical {
		c.namespace, c.account = p.Namespace, p.ServiceAccount
	}
	return c
}

// identityValue is one value of principals, namespaces or serviceAccounts.
type identityValue struct {
	pattern            // principals: the pattern over the ID without spiffe://
	pieces  []string   // namespaces: the value split at its stars
	ns, sa  string     // serviceAccounts
	expr    expression // namespaces, serviceAccounts: Istio's, for the wide reading
}

// identities is one list of a source, with the function that reads its values.
type identities struct {
	any   []identityValue
	match func(v *identityValue, c *caller, read reading) bool
}

func (l *identities) matches(c *caller, read reading) bool {
	for i := range l.any {
		v := &l.any[i]
		if v.kind == always && read == wide || c.known && v.kind != never && l.match(v, c, read) {
			return true
		}
	}
	return false
}

// matchPrincipal: narrow adds the two conditions of istio-semantics 7.10: a foreign peer
// must be named by its trust domain, and one of the reserved namespace by that namespace.
func matchPrincipal(v *identityValue, c *caller, read reading) bool {
	if !v.matches(c.principal) {
		return false
	}
	if read == wide {
		return true
	}
	if c.foreign && !strings.HasPrefix(v.value, c.domain+"/") { // a leading star names nobody
		return false
	}
	return c.namespace != reservedNamespace || strings.Contains(v.value, "/ns/"+reservedNamespace+"/")
}

// matchNamespace: narrow takes the parsed namespace of a canonical identity of our own; wide
// also Istio's expression, which runs over the whole ID.
func matchNamespace(v *identityValue, c *caller, read reading) bool {
	parsed := c.namespace != "" && matchPieces(v.pieces, c.namespace)
	if read == wide {
		return parsed || v.expr.matches(c.id)
	}
	return parsed && !c.foreign && (c.namespace != reservedNamespace || v.value == reservedNamespace)
}

// matchAccount: as matchNamespace; a value names the namespace in full, so the reserved one
// is always spelled out.
func matchAccount(v *identityValue, c *caller, read reading) bool {
	parsed := c.namespace != "" && c.namespace == v.ns && c.account == v.sa
	if read == wide {
		return parsed || v.expr.matches(c.id)
	}
	return parsed && !c.foreign
}

// matchPieces is a glob: the pieces stand in s in their order, the first at its start and
// the last at its end.
func matchPieces(pieces []string, s string) bool {
	last := len(pieces) - 1
	if last == 0 {
		return s == pieces[0]
	}
	s, ok := strings.CutPrefix(s, pieces[0])
	if !ok {
		return false
	}
	for _, piece := range pieces[1:last] {
		i := strings.Index(s, piece)
		if i < 0 {
			return false
		}
		s = s[i+len(piece):]
	}
	return strings.HasSuffix(s, pieces[last])
}

// expression is what Istio makes of a namespace or service account: a regular expression
// over the whole ID in which the value stands unquoted. Values of ordinary characters need
// no regular expression, or only after their literals were found.
type expression struct {
	needs []string
	re    *regexp.Regexp
}

func (e *expression) matches(id string) bool {
	for _, s := range e.needs {
		if !strings.Contains(id, s) {
			return false
		}
	}
	return e.re == nil || e.re.MatchString(id)
}

// namespaceExpression is .*/ns/<value>/.* with each * of the value as .* (istio-semantics 7.6).
func namespaceExpression(v string) (expression, error) {
	if ordinary(v) {
		return expression{needs: []string{"/ns/" + v + "/"}}, nil
	}
	re, err := anchored(".*/ns/" + strings.ReplaceAll(v, "*", ".*") + "/.*")
	return expression{re: re}, err
}

func accountExpression(ns, sa string) (expression, error) {
	re, err := anchored("spiffe://.+/ns/" + ns + "/(.+/|)sa/" + sa + "(/.+)?")
	e := expression{re: re}
	if ordinary(ns) && ordinary(sa) {
		e.needs = []string{"/ns/" + ns + "/", "sa/" + sa}
	}
	return e, err
}

// anchored compiles s to match a whole ID. It is compiled as it is first: "a)|(b" is an
// error, though it would not be one inside the group.
func anchored(s string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(s); err != nil {
		return nil, fmt.Errorf("reading it as Istio's expression over the whole ID: %w", err)
	}
	return regexp.Compile(`\A(?:` + s + `)\z`)
}

// ordinary says that v means itself in a regular expression.
func ordinary(v string) bool {
	for i := range len(v) {
		c := v[i]
		if (lowerByte(c) < 'a' || lowerByte(c) > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return v != ""
}

// localDomain rewrites a principal of five parts to our own trust domain where its own is
// cluster.local, ours, or one that overlaps ours by a wildcard (istio-semantics 7.10).
// Without aliases there is one local name, hence one value; an overlap by a leading star
// keeps the value as it is.
func localDomain(v, own string) string {
	domain, rest, ok := strings.Cut(v, "/")
	if !ok || strings.Count(v, "/") != 4 || domain == "*" {
		return v
	}
	head, open := strings.CutSuffix(domain, "*")
	if domain == defaultDomain || domain == own || open && strings.HasPrefix(own, head) {
		return own + "/" + rest
	}
	return v
}
