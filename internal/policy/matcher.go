package policy

// Matcher says which requests a rule is about that allows and denies nothing: one of a limit. It reads as a DENY does,
// since being counted costs the caller: what can be read in two ways is counted.
type Matcher struct{ program *Program }

// NewMatcher compiles the conditions of an object of a namespace. An empty rule matches everything.
func NewMatcher(trustDomain, namespace string, r Rule) (*Matcher, error) {
	if trustDomain == "" {
		trustDomain = defaultDomain
	}
	b := &compiler{own: trustDomain, policy: &Policy{Namespace: namespace}, pos: r.Pos}
	m := &Matcher{&Program{own: trustDomain, deny: []*rule{b.compile(true, &r)}, mode: Strict}}
	if len(b.faults) > 0 {
		f := b.faults[0]
		return nil, &MatcherError{f.Field, f.Text}
	}
	return m, nil
}

// MatcherError is a condition that cannot be read.
type MatcherError struct{ Field, Text string }

func (e *MatcherError) Error() string { return e.Field + ": " + e.Text }

// Bind decides what one connection fixes. The Bound answers Matches.
func (m *Matcher) Bind(c Conn) Bound { return m.program.Bind(c) }

// Matches reports whether the rule of a Matcher is about a request. It does not allocate.
func (b *Bound) Matches(r *Request) bool {
	q := ask(r)
	return first(b.deny, &q) != nil
}
