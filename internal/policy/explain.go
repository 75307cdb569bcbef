package policy

import (
	"cmp"
	"slices"
)

// Ref names a rule.
type Ref struct {
	Policy    string // "ns/name"
	Rule      int
	Pos       Pos
	WrittenBy string
}

// Explanation says why a verdict is what it is (policy-engine 12). It is made after the fact
// by the same program, so it cannot disagree with what was enforced.
type Explanation struct {
	Verdict Verdict
	// WouldAllowWithout is, for a refusal by a DENY rule, the verdict without that rule, if it
	// is an allow. It is nil where taking the rule away would not be enough.
	WouldAllowWithout *Verdict
	ReadAs            string // a match in the wide reading only: "/v1%2fsecret read as /v1/secret"
	AlsoDeniedBy      []Ref
	AlsoAllowedBy     []Ref
	Nearest           []Miss // for no_allow_rule: at most three
}

// Miss is an ALLOW rule that did not match, with the fields that kept it from it, the most
// telling first.
type Miss struct {
	Policy    string
	Rule      int
	Pos       Pos
	WrittenBy string
	Cost      int
	Fields    []FieldMiss
}

// FieldMiss is one field of a miss.
type FieldMiss struct {
	Field  string   // "method", "path", "principal", "claim role", "header x-tenant", …
	Allows []string // at most three; of a negated list "not <value>"
	More   int      // how many there are beyond
	Got    string   // "(absent)" where there is nothing
}

// The weights of policy-engine 12: a wrong method is a likelier slip than a wrong identity.
const (
	weightName     = 2 // method, host, port
	weightPath     = 3
	weightToken    = 3 // request principal, and a condition on what it or a header says
	weightSpace    = 4 // namespace
	weightIdentity = 5 // principal, service account

	maxMisses = 3
	maxAllows = 3
)

// Explain decides c and r once more, and says how. r is nil for TCP.
func (p *Program) Explain(c Conn, r *Request) Explanation {
	b := p.Bind(c)
	e := Explanation{Verdict: b.Decide(r)}
	if b.program == nil || r == nil && c.HTTP {
		return e
	}
	var q question
	if r != nil {
		q = ask(r)
	}
	full := p.bind(c, true)
	denied, allowed := matching(full.deny, &q), matching(full.allow, &q)
	switch e.Verdict.Reason {
	case ReasonDenyRule:
		e.AlsoDeniedBy = refs(denied[1:])
		e.WouldAllowWithout = p.withoutDeny(denied[1:], allowed)
		e.ReadAs = p.readAs(denied[0], c, &q)
	case ReasonAllowRule:
		e.AlsoAllowedBy = refs(allowed[1:])
	case ReasonNoRule:
		e.Nearest = p.nearest(c, &q)
	}
	return e
}

// matching gives the rules that match, each once, in rule-number order.
func matching(rules []residue, q *question) []*rule {
	var out []*rule
	for i := range rules {
		if r := &rules[i]; r.matches(q) && (len(out) == 0 || out[len(out)-1] != r.rule) {
			out = append(out, r.rule)
		}
	}
	return out
}

func refs(rules []*rule) []Ref {
	var out []Ref
	for _, r := range rules {
		out = append(out, Ref{r.verdict.Policy, r.verdict.Rule, r.verdict.Pos, r.verdict.WrittenBy})
	}
	return out
}

func (p *Program) withoutDeny(others, allowed []*rule) *Verdict {
	switch {
	case len(others) > 0:
		return nil
	case !p.hasAllow:
		return &noPolicy
	case len(allowed) > 0:
		v := allowed[0].verdict
		return &v
	}
	return nil
}

// readAs says which second reading made a DENY rule match that the first alone would not
// have met. It takes the second readings away one at a time.
func (p *Program) readAs(r *rule, c Conn, q *question) string {
	who := newCaller(c.Peer, p.own)
	plain := *q
	plain.merged = q.path
	if !r.matchesAt(&who, c, &plain) {
		return q.path + " read as " + q.merged
	}
	plain = *q
	plain.bare = q.host
	if !r.matchesAt(&who, c, &plain) {
		return q.host + " read as " + q.bare
	}
	for i := range r.when {
		if text := r.when[i].readAs(q); text != "" {
			return text
		}
	}
	return r.readIdentity(&who)
}

func (r *rule) matchesAt(who *caller, c Conn, q *question) bool {
	left, _ := r.bind(nil, who, c)
	return len(matching(left, q)) > 0
}

// readIdentity is for an ID that only Istio's expressions find in a namespace or account.
func (r *rule) readIdentity(who *caller) string {
	for i := range r.from {
		s := &r.from[i]
		if !who.known || !s.matches(who, wide) {
			continue
		}
		for _, l := range []struct {
			field string
			list  *identities
		}{{fieldNamespace, &s.namespaces}, {fieldAccount, &s.accounts}} {
			for j := range l.list.any {
				v := &l.list.any[j]
				if v.kind != always && !l.list.has(who) && l.list.match(v, who, wide) {
					return who.principal + " read as " + l.field + " " + v.value
				}
			}
		}
	}
	return ""
}

// has says whether the parsed identity, foreign or not, is in the list.
func (l *identities) has(who *caller) bool {
	for i := range l.any {
		v := &l.any[i]
		if who.namespace == "" {
			return false
		}
		if v.pieces != nil && matchPieces(v.pieces, who.namespace) || v.sa != "" && v.ns == who.namespace && v.sa == who.account {
			return true
		}
	}
	return false
}

// nearest finds the ALLOW rules that came closest: by cost, then number of failing fields,
// then rule number.
func (p *Program) nearest(c Conn, q *question) []Miss {
	who := newCaller(c.Peer, p.own)
	var out []Miss
	for _, r := range p.allow {
		out = append(out, r.miss(&who, c, q))
		slices.SortStableFunc(out, func(x, y Miss) int {
			return cmp.Or(cmp.Compare(x.Cost, y.Cost), cmp.Compare(len(x.Fields), len(y.Fields)))
		})
		out = out[:min(len(out), maxMisses)]
	}
	return out
}

// miss takes the best source and the best operation of a rule; their costs add up, so each
// is found alone.
func (r *rule) miss(who *caller, c Conn, q *question) Miss {
	m := Miss{Policy: r.verdict.Policy, Rule: r.verdict.Rule, Pos: r.verdict.Pos, WrittenBy: r.verdict.WrittenBy}
	// On TCP a rule with an HTTP attribute anywhere is dropped: these attributes are why.
	dropped := !c.HTTP && r.http
	sources := make([][]FieldMiss, 0, len(r.from))
	for i := range r.from {
		if s := &r.from[i]; !dropped || s.token != nil {
			sources = append(sources, append(s.misses(who), s.token.misses(c, q)...))
		}
	}
	operations := make([][]FieldMiss, 0, len(r.to))
	for i := range r.to {
		if op := &r.to[i]; !dropped || op.http {
			operations = append(operations, op.misses(c, q))
		}
	}
	m.Fields = slices.Concat(least(sources), least(operations), r.conditionMisses(who, c, q))
	m.Cost = cost(m.Fields)
	slices.SortStableFunc(m.Fields, func(x, y FieldMiss) int { return cmp.Compare(weight(y.Field), weight(x.Field)) })
	return m
}

// least is the cheapest of several ways to fail; none at all is no failure.
func least(ways [][]FieldMiss) []FieldMiss {
	if len(ways) == 0 {
		return nil
	}
	return slices.MinFunc(ways, func(x, y []FieldMiss) int {
		return cmp.Or(cmp.Compare(cost(x), cost(y)), cmp.Compare(len(x), len(y)))
	})
}

func cost(fields []FieldMiss) (sum int) {
	for _, f := range fields {
		sum += weight(f.Field)
	}
	return sum
}

func weight(field string) int {
	switch field {
	case fieldMethod, fieldHost, fieldPort:
		return weightName
	case fieldPath:
		return weightPath
	case fieldNamespace:
		return weightSpace
	case fieldPrincipal, fieldAccount, fieldCondition:
		return weightIdentity
	}
	return weightToken
}

func (s *source) misses(who *caller) (out []FieldMiss) {
	namespace, account := who.namespace, ""
	if who.namespace != "" {
		account = who.namespace + "/" + who.account
	} else if who.known {
		namespace, account = who.principal, who.principal
	}
	if s.conservative {
		return []FieldMiss{{Field: fieldPrincipal, Allows: []string{"nothing: the source cannot be read"}, Got: or(who.principal)}}
	}
	add := func(field string, list, not *identities, got string) {
		if !holds(list, not, who, narrow) {
			positive := len(list.any) > 0 && !list.matches(who, narrow)
			out = append(out, fieldMiss(field, positive, identityTexts(list), identityTexts(not), got))
		}
	}
	add(fieldPrincipal, &s.principals, &s.notPrincipals, who.principal)
	add(fieldAccount, &s.accounts, &s.notAccounts, account)
	add(fieldNamespace, &s.namespaces, &s.notNamespaces, namespace)
	return out
}

func (o *operation) misses(c Conn, q *question) (out []FieldMiss) {
	add := func(field string, ok, positive bool, list, not []string, got string) {
		if !ok {
			out = append(out, fieldMiss(field, positive, list, not, got))
		}
	}
	port := decimal(c.Port)
	if o.conservative {
		return []FieldMiss{{Field: fieldPort, Allows: []string{"nothing: the operation cannot be read"}, Got: port}}
	}
	add(fieldPath, o.onWire(c, &o.paths, &o.notPaths) && o.matchesPath(q),
		len(o.paths.any) > 0 && !o.paths.path(q.path, q.merged), texts(&o.paths), texts(&o.notPaths), q.path)
	add(fieldMethod, o.onWire(c, &o.methods, &o.notMethods) && o.matchesMethod(q),
		len(o.methods.any) > 0 && !o.methods.method(q.method), texts(&o.methods), texts(&o.notMethods), q.method)
	add(fieldHost, o.onWire(c, &o.hosts, &o.notHosts) && o.matchesHost(q),
		len(o.hosts.any) > 0 && !o.hosts.host(q.host, q.bare), texts(&o.hosts), texts(&o.notHosts), q.host)
	add(fieldPort, o.matchesPort(c.Port, narrow),
		len(o.ports) > 0 && !o.ports.match(c.Port), portTexts(o.ports), portTexts(o.notPorts), port)
	return out
}

// onWire says whether an HTTP attribute can be judged at all: on TCP, one that a list asks
// for fails an ALLOW rule.
func (o *operation) onWire(c Conn, list, not *values) bool {
	return c.HTTP || len(list.any)+len(not.any) == 0
}

func fieldMiss(field string, positive bool, list, not []string, got string) FieldMiss {
	allows := list
	if !positive && len(not) > 0 {
		allows = make([]string, len(not))
		for i, v := range not {
			allows[i] = "not " + v
		}
	}
	n := min(len(allows), maxAllows)
	return FieldMiss{Field: field, Allows: allows[:n:n], More: len(allows) - n, Got: or(got)}
}

func or(got string) string { return cmp.Or(got, absent) }
