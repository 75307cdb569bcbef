package policy

import "strings"

// What explanations and sentences say of tokens and conditions. A header's value is never
// told: it may be a secret.

// maxGot bounds what an explanation tells of claims, in bytes.
const maxGot = 200

const (
	there    = "(present)"
	unjudged = "nothing: it cannot be judged here"
)

func (p *pairLists) misses(c Conn, q *question) []FieldMiss {
	if p == nil || c.HTTP && p.hold(q.token()) {
		return nil
	}
	positive := len(p.list.any) > 0 && (!c.HTTP || !p.list.matches(q.token()))
	list, not := p.texts()
	return []FieldMiss{fieldMiss(fieldToken, positive, list, not, gotPrincipal(q.token()))}
}

func gotPrincipal(t Token) string {
	if t == nil {
		return ""
	}
	var out []string
	if iss, sub, ok := names(t); ok {
		out = append(out, iss+"/"+sub)
	}
	if iss, sub := t.Upstream(); iss != "" && sub != "" {
		out = append(out, iss+"/"+sub)
	}
	return clipped(strings.Join(out, ", "))
}

// conditionMisses are the conditions that keep an ALLOW rule from matching.
func (r *rule) conditionMisses(who *caller, c Conn, q *question) (out []FieldMiss) {
	if r.unread != nil {
		out = append(out, FieldMiss{Field: fieldCondition, Allows: []string{unjudged}, Got: or(r.unread.Key)})
	}
	for i := range r.peer {
		out = append(out, r.peer[i].misses(who)...)
	}
	for i := range r.ports {
		out = append(out, r.ports[i].misses(c, q)...)
	}
	for i := range r.when {
		w := &r.when[i]
		switch {
		case w.token != nil:
			out = append(out, w.token.misses(c, q)...)
		case !c.HTTP || !w.matches(q):
			positive := len(w.any.any) > 0 && (!c.HTTP || !w.finds(w.any.any, q, w.any.read))
			out = append(out, fieldMiss(w.field(), positive, texts(&w.any), texts(&w.not), w.got(q)))
		}
	}
	return out
}

func (c *condition) got(q *question) string {
	found := c.texts(q)
	switch {
	case len(found) == 0:
		return ""
	case c.of <= ofClaim:
		return clipped(strings.Join(found, ", "))
	case c.of == ofMethod, c.of == ofAuthority:
		return found[0]
	case c.of == ofTarget && (q.r.HasQuery || q.r.QueryCut):
		return q.path + "?…"
	case c.of == ofTarget:
		return q.path
	}
	return there
}

func clipped(s string) string {
	if len(s) <= maxGot {
		return s
	}
	return strings.ToValidUTF8(s[:maxGot], "") + "…"
}

// readAs says how a condition of a DENY rule matched that the narrow reading would not have met.
func (c *condition) readAs(q *question) string {
	if !c.finds(c.any.any, q, wide) || c.finds(c.any.any, q, narrow) {
		return ""
	}
	how := " read line by line and joined"
	switch c.of {
	case ofAudience, ofPresenter, ofActor, ofClaim:
		how = " read with its line feed"
	case ofScheme:
		how = " read from every place that tells it"
	case ofTarget:
		how = " read without the query's order, which the token left open"
	case ofRequestID:
		how = " read as any value: none was sent"
	}
	return c.field() + how
}

// terms are the conditions that a grant stands under: those of its sources, then those of
// its rule.
func (r *rule) terms(from []*source) []string {
	var out, sources []string
	for _, s := range from {
		list, not := s.token.texts()
		sources = append(sources, clause(fieldToken, list, not))
	}
	if len(sources) > 0 {
		out = append(out, anyOf(sources, true))
	}
	for i := range r.ports {
		out = append(out, clause(fieldPort, portTexts(r.ports[i].ports), portTexts(r.ports[i].notPorts)))
	}
	for i := range r.when {
		w := &r.when[i]
		list, not := texts(&w.any), texts(&w.not)
		if w.token != nil {
			list, not = w.token.texts()
		}
		out = append(out, clause(w.field(), list, not))
	}
	return out
}

// clause is one condition in words: "claim role is (admin or ops) and not guest".
func clause(field string, list, not []string) string {
	var parts []string
	for _, side := range []struct {
		values []string
		before string
	}{{list, ""}, {not, "not "}} {
		switch {
		case len(side.values) == 0:
		case len(side.values) == 1 && side.values[0] == "*":
			parts = append(parts, side.before+"there")
		default:
			parts = append(parts, side.before+anyOf(side.values, side.before != "" || len(list)*len(not) > 0))
		}
	}
	return field + " is " + strings.Join(parts, " and ")
}
