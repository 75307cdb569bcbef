package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Compiled is a Set made ready to decide. It never changes; all its methods are safe for
// concurrent use.
type Compiled struct {
	set      Set
	policies []attachable
	tokens   []RequestAuthentication // in the order of their objects
	modes    []PeerAuthentication    // in the order of istio-semantics 4.2

	mu       sync.Mutex          // guards programs, for a look-up or an insert
	programs map[string]*Program // by the list of what applies; at most maxPrograms
}

// maxPrograms bounds the shared programs. Labels come from the registry, not from strangers;
// beyond the bound a program is made for each call and shared with nobody.
const maxPrograms = 10_000

// attachable is one policy, compiled once for all destinations it attaches to.
type attachable struct {
	policy *Policy
	deny   bool
	rules  []*rule
}

// rule is one rule in the reading its action asks for (istio-semantics 7.6).
type rule struct {
	verdict Verdict     // what it answers when it decides
	from    []source    // empty: anybody
	to      []operation // empty: anything

	// The conditions, every one of which must hold: on the peer, the port and the request.
	peer  []source
	ports []operation
	when  []condition

	conn   bool       // a connection decides one of its conditions
	http   bool       // something in it looks at an HTTP attribute
	token  bool       // something in it speaks of the request identity
	unread *Condition // one that nobody can judge
}

func (r *rule) positive() reading { return reading(!r.verdict.Allow) }

// The places of lists in a rule, for faults.
const (
	atSource    = "from[%d].source"
	atOperation = "to[%d].operation"
)

// source is AND over its lists.
type source struct {
	principals, notPrincipals identities
	namespaces, notNamespaces identities
	accounts, notAccounts     identities
	token                     *pairLists // requestPrincipals, the one part that a connection does not decide; nil: not written
	conservative              bool       // nothing in it could be read: true in DENY, false in ALLOW
}

// operation is AND over its lists.
type operation struct {
	ports, notPorts     portValues
	methods, notMethods values
	hosts, notHosts     values
	paths, notPaths     values
	http                bool // some list but ports is there
	conservative        bool // as in source
}

// Compile turns a set into what decides. It reports every part that package resource should
// have refused; such a part never matches in ALLOW and matches in DENY, so that a fault
// takes access and never gives it (istio-semantics 1, rule I).
func Compile(set Set) (*Compiled, []Fault) {
	if set.RootNamespace == "" {
		set.RootNamespace = defaultRoot
	}
	if set.TrustDomain == "" {
		set.TrustDomain = defaultDomain
	}
	c := &Compiled{set: set, programs: map[string]*Program{}}
	b := &compiler{own: set.TrustDomain}
	b.sortedPolicies(c)
	c.tokens = sortedTokens(set.RequestAuth)
	b.sortedModes(c)
	return c, b.faults
}

// Revision names the set: SHA-256 of what decides.
func (c *Compiled) Revision() [32]byte {
	if c == nil {
		return [32]byte{}
	}
	return c.set.Revision
}

// compiler is where one Compile is: in which object, in which entry of which rule.
type compiler struct {
	own         string
	faults      []Fault
	policy      *Policy
	pos         Pos
	rule, entry int
}

// faultIn reports value i of a list of the source or operation at hand; its path is put
// together only here, since most policies have no fault.
func (b *compiler) faultIn(list string, i int, format string, args ...any) {
	b.fault(fmt.Sprintf("%s[%d]", b.path(list), i), format, args...)
}

func (b *compiler) path(list string) string {
	return fmt.Sprintf("spec.rules[%d]."+list, b.rule, b.entry)
}

func (b *compiler) fault(field, format string, args ...any) {
	f := Fault{Pos: b.pos, Field: field, Text: fmt.Sprintf(format, args...)}
	if b.policy != nil {
		f.Policy = b.policy.Namespace + "/" + b.policy.Name
	}
	b.faults = append(b.faults, f)
}

// sortedPolicies numbers the rules: by namespace, name and index, never by the order of
// files (policy-engine 7).
func (b *compiler) sortedPolicies(c *Compiled) {
	policies := slices.Clone(c.set.Policies)
	slices.SortStableFunc(policies, func(x, y Policy) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	for i := range policies {
		b.policy, b.pos = &policies[i], policies[i].Pos
		c.policies = append(c.policies, b.attachable(b.policy))
	}
	b.policy = nil
}

func (b *compiler) attachable(p *Policy) attachable {
	a := attachable{policy: p, deny: p.Action == Deny}
	rules := p.Rules
	switch p.Action {
	case Allow, Deny, "": // Istio's default is ALLOW
	default:
		// What it meant to do is unknown, so all that it selects is closed.
		b.fault("spec.action", "%q is not an action that is enforced; everything is denied", p.Action)
		a.deny, rules = true, []Rule{{Pos: p.Pos}}
	}
	for i := range rules {
		b.pos = cmp.Or(rules[i].Pos, p.Pos)
		b.rule = i
		a.rules = append(a.rules, b.compile(a.deny, &rules[i]))
	}
	return a
}

func (b *compiler) compile(deny bool, r *Rule) *rule {
	out := &rule{verdict: Verdict{
		Allow:     !deny,
		Layer:     LayerAuthz,
		Reason:    ReasonAllowRule,
		Policy:    b.policy.Namespace + "/" + b.policy.Name,
		Rule:      b.rule,
		Pos:       b.pos,
		WrittenBy: b.policy.WrittenBy,
	}}
	if deny {
		out.verdict.Reason = ReasonDenyRule
	}
	for i := range r.From {
		b.entry = i
		s := b.source(out.positive(), &r.From[i])
		out.from = append(out.from, s)
		out.token = out.token || s.token != nil
	}
	out.http = out.token
	for i := range r.To {
		b.entry = i
		op := b.operation(out.positive(), &r.To[i])
		out.to = append(out.to, op)
		out.http = out.http || op.http
	}
	for i := range r.When {
		b.entry = i
		b.condition(out, &r.When[i])
	}
	out.http = out.http || len(out.when) > 0
	out.conn = out.unread != nil || len(out.peer)+len(out.ports) > 0
	return out
}

func (b *compiler) source(pos reading, s *Source) source {
	neg := !pos
	out := source{
		principals:    b.principals(s.Principals),
		notPrincipals: b.principals(s.NotPrincipals),
		namespaces:    b.namespaces(atSource+".namespaces", pos, s.Namespaces),
		notNamespaces: b.namespaces(atSource+".notNamespaces", neg, s.NotNamespaces),
		accounts:      b.accounts(atSource+".serviceAccounts", pos, s.ServiceAccounts),
		notAccounts:   b.accounts(atSource+".notServiceAccounts", neg, s.NotServiceAccounts),
		token:         b.requestPrincipals(atSource+".requestPrincipals", atSource+".notRequestPrincipals", pos, s.RequestPrincipals, s.NotRequestPrincipals),
	}
	if !out.restricts() {
		b.fault(b.path(atSource), "an empty source")
		out.conservative = true
	}
	return out
}

func (s *source) restricts() bool {
	return len(s.principals.any)+len(s.notPrincipals.any)+len(s.namespaces.any)+
		len(s.notNamespaces.any)+len(s.accounts.any)+len(s.notAccounts.any) > 0 || s.token != nil
}

func (b *compiler) principals(list []string) identities {
	out := identities{match: matchPrincipal}
	for _, v := range list {
		out.any = append(out.any, identityValue{pattern: parsePattern(localDomain(v, b.own))})
	}
	return out
}

func (b *compiler) namespaces(at string, read reading, list []string) identities {
	out := identities{match: matchNamespace}
	for i, v := range list {
		value := identityValue{pattern: pattern{kind: exact, value: v}, pieces: strings.Split(v, "*")}
		var err error
		if value.expr, err = namespaceExpression(v); err != nil {
			b.faultIn(at, i, "namespace %q: %v", v, err)
			value.pattern = unreadable(v, read)
		}
		out.any = append(out.any, value)
	}
	return out
}

func (b *compiler) accounts(at string, read reading, list []string) identities {
	out := identities{match: matchAccount}
	for i, v := range list {
		value := identityValue{pattern: pattern{kind: exact, value: v}}
		ns, sa, ok := strings.Cut(v, "/")
		if !ok {
			ns, sa = b.policy.Namespace, v // istio-semantics 7.4
		}
		value.ns, value.sa, value.value = ns, sa, ns+"/"+sa
		var err error
		if value.expr, err = accountExpression(ns, sa); err != nil || ns == "" || sa == "" {
			b.faultIn(at, i, "service account %q is not ns/sa or sa", v)
			value.pattern = unreadable(v, read)
		}
		out.any = append(out.any, value)
	}
	return out
}

func (b *compiler) operation(pos reading, o *Operation) operation {
	neg := !pos
	out := operation{
		ports:      b.ports(atOperation+".ports", pos, o.Ports),
		notPorts:   b.ports(atOperation+".notPorts", neg, o.NotPorts),
		methods:    b.values(atOperation+".methods", pos, o.Methods, parseMethod),
		notMethods: b.values(atOperation+".notMethods", neg, o.NotMethods, parseMethod),
		hosts:      b.values(atOperation+".hosts", pos, o.Hosts, parseHost),
		notHosts:   b.values(atOperation+".notHosts", neg, o.NotHosts, parseHost),
		paths:      b.values(atOperation+".paths", pos, o.Paths, parsePath),
		notPaths:   b.values(atOperation+".notPaths", neg, o.NotPaths, parsePath),
	}
	out.http = len(out.methods.any)+len(out.notMethods.any)+len(out.hosts.any)+
		len(out.notHosts.any)+len(out.paths.any)+len(out.notPaths.any) > 0
	if !out.http && len(out.ports)+len(out.notPorts) == 0 {
		b.fault(b.path(atOperation), "an empty operation")
		out.conservative = true
	}
	return out
}

func (b *compiler) values(at string, read reading, list []string, parse func(string, reading) (pattern, error)) values {
	out := values{read: read}
	for i, v := range list {
		p, err := parse(v, read)
		if err != nil {
			b.faultIn(at, i, "%q: %v", v, err)
			p = unreadable(v, read)
		}
		out.any = append(out.any, p)
	}
	return out
}

func parseMethod(v string, _ reading) (pattern, error) { return parsePattern(v), nil }

// parseHost: the star is "present" (istio-semantics 7.3), which is the same as non-empty
// here, since an empty Host is refused before policy (http-strictness 6).
func parseHost(v string, _ reading) (pattern, error) {
	p := parsePattern(v)
	p.text = lowerASCII(p.text)
	return p, nil
}

func parsePath(v string, _ reading) (pattern, error) {
	if isTemplate(v) {
		t, err := parseTemplate(v)
		return pattern{kind: pathTemplate, tmpl: t, value: v}, err
	}
	if strings.ContainsAny(v, "{}") {
		return pattern{}, errTemplateOperator
	}
	return parsePattern(v), nil
}

func (b *compiler) ports(at string, read reading, list []string) portValues {
	var out portValues
	for i, v := range list {
		p := portValue{pattern: pattern{kind: exact, value: v}}
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil {
			b.faultIn(at, i, "%q is not a port from 0 to 65535", v)
			p.pattern = unreadable(v, read)
		}
		p.number = uint16(n)
		out = append(out, p)
	}
	return out
}
