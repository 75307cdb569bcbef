package admin

import (
	"strings"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/resource"
)

// Asked is one call as policy sees it, with the names people know the parties by.
type Asked struct {
	Set      policy.Set // in force
	Compiled *policy.Compiled
	Dest     policy.Destination
	Conn     policy.Conn
	Request  policy.Request
	From, To string // as cli.md 2.4 prints them; From empty: nobody was proven
}

// Explain puts into w why policy answers a call as it does, and the smallest change that would
// allow exactly it (policy-engine.md 12).
func Explain(w *Why, a Asked) {
	program := a.Compiled.For(a.Dest)
	e := program.Explain(a.Conn, &a.Request)
	w.Layer, w.Reason, w.Decision = e.Verdict.Layer, e.Verdict.Reason, audit.Deny
	if e.Verdict.Allow {
		w.Decision = audit.Allow
	}
	w.Nearest = []Miss{}
	if e.Verdict.Rule >= 0 && e.Verdict.Policy != "" {
		rule := e.Verdict.Rule
		w.Policy, w.Rule, w.Place = e.Verdict.Policy, &rule, place(e.Verdict.Pos)
	}
	switch e.Verdict.Reason {
	case policy.ReasonDenyRule:
		w.Lines = append(w.Lines, "DENY "+ruleName(e.Verdict.Policy, e.Verdict.Rule)+" matched"+placeText(w.Place))
		if e.ReadAs != "" {
			w.Lines = append(w.Lines, e.ReadAs)
		}
		if without := e.WouldAllowWithout; without != nil {
			w.WouldAllowWithout = "allowed"
			if without.Rule >= 0 && without.Policy != "" {
				w.WouldAllowWithout = "allowed by " + ruleName(without.Policy, without.Rule)
			}
			w.Lines = append(w.Lines, "without it: "+w.WouldAllowWithout)
		}
	case policy.ReasonNoRule:
		for _, m := range e.Nearest {
			w.Nearest = append(w.Nearest, missOf(m))
		}
		if len(e.Nearest) == 0 {
			w.Lines = append(w.Lines, "no rule allows it: no ALLOW policy names "+a.To)
		} else {
			w.Lines = append(w.Lines, "no rule allows it. nearest:")
		}
		w.Hint = suggest(a)
		if wantsToken(e.Nearest) { // allowing it without would be more than was meant
			w.Hint = tokenFor(a, e.Nearest[0].Fields)
		}
	case policy.ReasonAllowRule:
		w.Lines = append(w.Lines, "allowed by "+ruleName(e.Verdict.Policy, e.Verdict.Rule)+placeText(w.Place))
	default:
		if e.Verdict.Allow {
			w.Lines = append(w.Lines, "allowed: no ALLOW policy selects "+a.To)
		}
	}
}

// wantsToken reports that the nearest rule misses nothing but what a token would say.
func wantsToken(nearest []policy.Miss) bool {
	if len(nearest) == 0 || len(nearest[0].Fields) == 0 {
		return false
	}
	for _, f := range nearest[0].Fields {
		if !strings.HasPrefix(f.Field, "claim ") && !strings.HasPrefix(f.Field, "request ") && f.Field != "actor" && f.Field != "audience" {
			return false
		}
	}
	return true
}

// absent is what package policy says of a claim that is not there.
const absent = "(absent)"

// tokenFor is how the caller comes by a token that says what the rule asks for. A token that was
// there and says otherwise is its issuer's affair.
func tokenFor(a Asked, misses []policy.FieldMiss) string {
	if a.From == "" {
		return ""
	}
	to := a.To
	if ns, name, ok := strings.Cut(to, "/"); ok {
		to = name + "." + ns
	}
	run := "countersign run " + a.From + " -- countersign token "
	for _, f := range misses {
		claim, ok := strings.CutPrefix(f.Field, "claim ")
		switch {
		case ok && claim == "scope" && len(f.Allows) > 0:
			return run + "issue --audience " + to + " --scope " + ShellQuote(f.Allows[0]) + " --header"
		case ok && f.Got != "" && f.Got != absent:
			return "the token of the call must say " + claim + " " + strings.Join(f.Allows, " or ")
		}
	}
	return run + "exchange --audience " + to + " --header < TOKEN"
}

func missOf(m policy.Miss) Miss {
	out := Miss{Policy: m.Policy, Rule: m.Rule, Place: place(m.Pos), WrittenBy: m.WrittenBy, Cost: m.Cost, Misses: []FieldMiss{}}
	for _, f := range m.Fields {
		out.Misses = append(out.Misses, FieldMiss{Field: f.Field, Allows: f.Allows, More: f.More, Got: f.Got})
	}
	return out
}

func place(p policy.Pos) *Place {
	if p.File == "" {
		return nil
	}
	return &Place{File: p.File, Line: p.Line}
}

func placeText(p *Place) string {
	if p == nil {
		return ""
	}
	return "   " + p.String()
}

// String is FILE:LINE.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + itoa(p.Line)
}

// suggest gives the command that would allow exactly this call, once the engine has judged
// the set with that rule added and allowed it.
func suggest(a Asked) string {
	if a.From == "" || a.Conn.Peer == nil || !a.Conn.Peer.Canonical || a.Conn.Peer.Foreign {
		return ""
	}
	if strings.ContainsAny(a.Request.Path, "*{}") || a.Request.Path == "" {
		return ""
	}
	request := a.Request.Method + " " + audit.Route(a.Request.Path)
	methods, paths, err := resource.ParseRequest(request) // what allow will read
	if err != nil || len(methods) == 0 || len(paths) == 0 {
		return ""
	}
	added := policy.Policy{
		Namespace: a.Dest.Namespace, Name: "suggested", Action: policy.Allow, Selector: a.Dest.Labels,
		Rules: []policy.Rule{{
			From: []policy.Source{{Principals: []string{a.Conn.Peer.Principal}}},
			To:   []policy.Operation{{Methods: methods, Paths: paths}},
		}},
	}
	set := a.Set
	set.Policies = append(append([]policy.Policy(nil), set.Policies...), added)
	compiled, faults := policy.Compile(set)
	if len(faults) > 0 {
		return ""
	}
	bound := compiled.For(a.Dest).Bind(a.Conn)
	if !bound.Decide(&a.Request).Allow {
		return ""
	}
	return "countersign allow " + a.From + " " + a.To + " " + ShellQuote(request)
}

// ShellQuote makes one word of a shell of s.
func ShellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func ruleName(p string, rule int) string { return p + "#" + itoa(rule) }

// Bare is how a name is printed: alone when its namespace is the one in force.
func Bare(namespace, name, inForce string) string {
	if namespace == inForce {
		return name
	}
	return namespace + "/" + name
}
