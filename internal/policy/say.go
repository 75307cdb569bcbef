package policy

import (
	"slices"
	"strings"
)

// Say puts a policy into one sentence with its AND and OR spelled out, so that a rule that
// says something else than was meant is seen (istio-semantics 14): "web may GET /orders/{*}".
// Workloads of the policy's namespace are called by their name, others ns/name.
func Say(p Policy) string { return SayIn(p, defaultDomain) }

// SayIn is Say for a mesh with a trust domain of its own, whose workloads have short names too.
func SayIn(p Policy, trustDomain string) string {
	s := speaker{namespace: p.Namespace, domain: trustDomain, deny: p.Action == Deny}
	if len(p.Rules) == 0 {
		if s.deny {
			return "nothing is denied"
		}
		return "nothing is allowed"
	}
	sentences := make([]string, len(p.Rules))
	for i := range p.Rules {
		sentences[i] = s.rule(&p.Rules[i])
	}
	return strings.Join(sentences, "; ")
}

const anyIdentity = "any identity"

type speaker struct {
	namespace, domain string
	deny              bool
}

// rule puts its conditions first, so that they are seen to govern all that follows.
func (s *speaker) rule(r *Rule) string {
	if len(r.When) == 0 {
		return s.act(r)
	}
	conditions := make([]string, len(r.When))
	for i := range r.When {
		conditions[i] = s.condition(&r.When[i])
	}
	return "if " + strings.Join(conditions, " and ") + ", " + s.act(r)
}

// condition names attribute and values as explanations do; of an unknown key it says what is
// written.
func (s *speaker) condition(c *Condition) string {
	k, err := parseKey(c.Key)
	if err != nil {
		return clause(c.Key, c.Values, c.NotValues)
	}
	short := func(list []string) []string {
		out := slices.Clone(list)
		for i, v := range out {
			switch {
			case v == "*":
			case k.of == ofPrincipal:
				out[i] = s.principal(v)
			case k.of == ofAccount:
				out[i] = s.account(v)
			}
		}
		return out
	}
	return clause(k.field(), short(c.Values), short(c.NotValues))
}

func (s *speaker) act(r *Rule) string {
	if len(r.From) == 0 && len(r.To) == 0 {
		if s.deny {
			return "everything is denied"
		}
		return "everything is allowed"
	}
	who, can := "anybody", " may "
	switch {
	case s.deny && len(r.From) == 0:
		who = "nobody"
	case s.deny:
		can = " may not "
	}
	if len(r.From) > 0 {
		entries := make([]string, len(r.From))
		for i := range r.From {
			entries[i] = s.source(&r.From[i], len(r.From) > 1)
		}
		who = strings.Join(entries, " or ")
	}
	what := "do anything"
	if len(r.To) > 0 {
		entries := make([]string, len(r.To))
		for i := range r.To {
			entries[i] = s.operation(&r.To[i])
		}
		what = strings.Join(entries, ", or ")
	}
	return who + can + what
}

func (s *speaker) source(src *Source, several bool) string {
	var parts []string
	lists := []struct {
		values []string
		name   func(string) string
		not    bool
	}{
		{src.Principals, s.principal, false},
		{src.ServiceAccounts, s.account, false},
		{src.Namespaces, namespaceName, false},
		{src.NotPrincipals, s.principal, true},
		{src.NotServiceAccounts, s.account, true},
		{src.NotNamespaces, namespaceName, true},
	}
	fields := 0
	for _, l := range lists {
		if len(l.values) > 0 {
			fields++
		}
	}
	for _, l := range lists {
		if len(l.values) == 0 {
			continue
		}
		names := make([]string, len(l.values))
		for i, v := range l.values {
			names[i] = l.name(v)
		}
		text := anyOf(names, fields+len(src.RequestPrincipals)+len(src.NotRequestPrincipals) > 1 || l.not)
		switch {
		case l.not && len(parts) == 0 && text == anyIdentity:
			text = "anybody without an identity"
		case l.not && len(parts) == 0:
			text = "anybody but " + text
		case l.not:
			text = "not " + text
		}
		parts = append(parts, text)
	}
	text := strings.Join(parts, " and ")
	if text == "" {
		text = "anybody"
	}
	without := " without a token"
	if len(src.RequestPrincipals) > 0 {
		without = " but not one"
	}
	token := tokenWords(" with a token", src.RequestPrincipals) + tokenWords(without, src.NotRequestPrincipals)
	text += token
	if several && (len(parts) > 1 || token != "") {
		return "(" + text + ")"
	}
	return text
}

func tokenWords(words string, list []string) string {
	switch {
	case len(list) == 0:
		return ""
	case len(list) == 1 && list[0] == "*":
		return words
	}
	return words + " of " + anyOf(list, true)
}

// principal shortens exact names of our own workloads only.
func (s *speaker) principal(v string) string {
	if v == "*" {
		return anyIdentity
	}
	parts := strings.Split(v, "/")
	own := parts[0] == s.domain || parts[0] == defaultDomain
	if len(parts) != 5 || !own || parts[1] != "ns" || parts[3] != "sa" || strings.Contains(v, "*") {
		return v
	}
	return s.account(parts[2] + "/" + parts[4])
}

func (s *speaker) account(v string) string { return strings.TrimPrefix(v, s.namespace+"/") }

func namespaceName(v string) string {
	if v == "*" {
		return "any namespace"
	}
	return "namespace " + v
}

func (s *speaker) operation(o *Operation) string {
	text := "call"
	if len(o.Methods) > 0 {
		text = anyOf(o.Methods, len(o.Paths) > 0)
		if len(o.Methods) == 1 && o.Methods[0] == "*" {
			text = "call"
		}
	}
	if len(o.NotMethods) > 0 {
		text += " with a method that is not " + anyOf(o.NotMethods, false)
	}
	part := func(before string, list []string) {
		if len(list) > 0 {
			text += before + anyOf(list, true)
		}
	}
	part(" ", o.Paths)
	part(" except ", o.NotPaths)
	part(" at host ", o.Hosts)
	part(" at any host but ", o.NotHosts)
	part(" on port ", o.Ports)
	part(" on any port but ", o.NotPorts)
	return text
}

// anyOf joins values by or; in company of others it puts several into brackets.
func anyOf(list []string, bracket bool) string {
	text := strings.Join(list, " or ")
	if bracket && len(list) > 1 {
		return "(" + text + ")"
	}
	return text
}
