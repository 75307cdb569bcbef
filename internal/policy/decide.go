package policy

// Bound is a program with all decided that one connection fixes: who the peer is and which
// port it came to. The zero Bound denies everything.
type Bound struct {
	program     *Program
	http        bool
	deny, allow []residue // in rule-number order
}

// residue is what is left of a rule at a connection: one operation whose ports matched, and
// what else only a request decides. Where both are nil, every request matches.
type residue struct {
	rule *rule
	op   *operation
	rest *rest
}

// rest is one of the sources whose other parts the peer has met, if there are any, and all
// the conditions on the request.
type rest struct {
	from []*source
	when []condition
}

// Bind decides the connection-level parts of every rule, once per handshake (policy-engine 5).
func (p *Program) Bind(c Conn) Bound {
	if p == nil {
		return Bound{}
	}
	return p.bind(c, false)
}

// bind stops behind a rule that matches every request, since later rules cannot decide; all
// keeps them for explanations.
func (p *Program) bind(c Conn, all bool) Bound {
	if p == sealed {
		return Bound{}
	}
	who := newCaller(c.Peer, p.own)
	return Bound{
		program: p,
		http:    c.HTTP,
		deny:    residues(p.deny, &who, c, all),
		allow:   residues(p.allow, &who, c, all),
	}
}

func residues(rules []*rule, who *caller, c Conn, all bool) []residue {
	var out []residue
	for _, r := range rules {
		var certain bool
		if out, certain = r.bind(out, who, c); certain && !all {
			break
		}
	}
	return out
}

// bind appends what is left of r, and says whether every request will match it.
func (r *rule) bind(out []residue, who *caller, c Conn) (_ []residue, certain bool) {
	// TCP, istio-semantics 7.9.1: an ALLOW rule that uses an HTTP attribute anywhere is
	// dropped; in DENY these attributes are taken as matching.
	if !c.HTTP && r.http && r.verdict.Allow || r.conn && !r.matchesConn(who, c.Port) {
		return out, false
	}
	from, ok := r.matchesPeer(who)
	if !ok {
		return out, false
	}
	var left *rest
	if c.HTTP && len(from)+len(r.when) > 0 {
		left = &rest{from, r.when}
	}
	if len(r.to) == 0 {
		return append(out, residue{rule: r, rest: left}), left == nil
	}
	start := len(out)
	for i := range r.to {
		op := &r.to[i]
		switch {
		case !op.matchesPort(c.Port, r.positive()):
		case !op.http || !c.HTTP:
			return append(out[:start], residue{rule: r, rest: left}), left == nil
		default:
			out = append(out, residue{r, op, left})
		}
	}
	return out, false
}

// matchesConn is the conditions that a connection decides. One that cannot be read closes an
// ALLOW rule (istio-semantics 1, rule I).
func (r *rule) matchesConn(who *caller, port uint16) bool {
	return r.matchesCaller(who) && r.matchesPort(port)
}

func (r *rule) matchesCaller(who *caller) bool {
	if r.unread != nil && r.verdict.Allow {
		return false
	}
	for i := range r.peer {
		if !r.peer[i].matches(who, r.positive()) {
			return false
		}
	}
	return true
}

func (r *rule) matchesPort(port uint16) bool {
	for i := range r.ports {
		if !r.ports[i].matchesPort(port, r.positive()) {
			return false
		}
	}
	return true
}

// matchesPeer says whether the peer meets a source. Where every one that it meets asks for a
// token too, they are left for the request.
func (r *rule) matchesPeer(who *caller) (left []*source, ok bool) {
	for i := range r.from {
		switch s := &r.from[i]; {
		case !s.matches(who, r.positive()):
		case s.token == nil:
			return nil, true
		default:
			left = append(left, s)
		}
	}
	return left, len(left) > 0 || len(r.from) == 0
}

// matches is AND over the lists that a connection decides; pos is the reading of the positive ones, the negated ones
// have the other (istio-semantics 7.6).
func (s *source) matches(who *caller, pos reading) bool {
	if s.conservative {
		return pos == wide
	}
	return holds(&s.principals, &s.notPrincipals, who, pos) &&
		holds(&s.namespaces, &s.notNamespaces, who, pos) &&
		holds(&s.accounts, &s.notAccounts, who, pos)
}

func holds(list, not *identities, who *caller, pos reading) bool {
	return (len(list.any) == 0 || list.matches(who, pos)) && !not.matches(who, !pos)
}

func (o *operation) matchesPort(port uint16, pos reading) bool {
	if o.conservative {
		return pos == wide
	}
	return (len(o.ports) == 0 || o.ports.match(port)) && !o.notPorts.match(port)
}

// question is one request with its second readings.
type question struct {
	method       string
	host, bare   string
	path, merged string
	r            *Request  // nil on TCP
	scratch      [2]string // for facts that are no list: a decision does not allocate
}

func ask(r *Request) question {
	q := question{method: r.Method, host: r.Host, bare: withoutPort(r.Host), path: r.Path, merged: r.Wide, r: r}
	if q.merged == "" {
		q.merged = q.path
	}
	return q
}

func (q *question) token() Token {
	if q.r == nil {
		return nil
	}
	return q.r.Token
}

// one is a list of s; an empty s is absent.
func (q *question) one(s string) []string {
	if s == "" {
		return nil
	}
	return q.always(s)
}

func (q *question) always(s string) []string {
	q.scratch[0] = s
	return q.scratch[:1]
}

func (r *residue) matches(q *question) bool {
	return (r.op == nil || r.op.matches(q)) && (r.rest == nil || r.rest.matches(q))
}

func (l *rest) matches(q *question) bool {
	met := len(l.from) == 0
	for i := 0; i < len(l.from) && !met; i++ {
		met = l.from[i].token.hold(q.token())
	}
	for i := 0; i < len(l.when) && met; i++ {
		met = l.when[i].matches(q)
	}
	return met
}

func (o *operation) matches(q *question) bool {
	return o.matchesMethod(q) && o.matchesHost(q) && o.matchesPath(q)
}

func (o *operation) matchesMethod(q *question) bool {
	return (len(o.methods.any) == 0 || o.methods.method(q.method)) && !o.notMethods.method(q.method)
}

func (o *operation) matchesHost(q *question) bool {
	return (len(o.hosts.any) == 0 || o.hosts.host(q.host, q.bare)) && !o.notHosts.host(q.host, q.bare)
}

func (o *operation) matchesPath(q *question) bool {
	return (len(o.paths.any) == 0 || o.paths.path(q.path, q.merged)) && !o.notPaths.path(q.path, q.merged)
}

// Decide answers one request, or with any r a TCP connection, in the order of
// istio-semantics 7.1. It does not allocate.
func (b *Bound) Decide(r *Request) Verdict {
	if b.program == nil {
		return noSnapshot
	}
	var q question
	switch {
	case r != nil:
		q = ask(r)
	case b.http: // an HTTP connection is judged by its requests only
		return noRule
	}
	if hit := first(b.deny, &q); hit != nil {
		return hit.verdict
	}
	if !b.program.hasAllow {
		return noPolicy
	}
	if hit := first(b.allow, &q); hit != nil {
		return hit.verdict
	}
	return noRule
}

func first(rules []residue, q *question) *rule {
	for i := range rules {
		if rules[i].matches(q) {
			return rules[i].rule
		}
	}
	return nil
}
