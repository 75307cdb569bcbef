package grant

import "slices"

// Edge is the built-in rule for Gateways: which scopes the token holds that one of them gets for a service of its
// routes, with a credential that it took from a caller (tokens.md 8.2). They are the credential's. An error is a
// *Refusal.
func (e Exchange) Edge() (scopes []string, err error) {
	switch {
	case e.Actor == "" || e.Subject == "":
		return nil, notPermitted()
	case e.cycles():
		return nil, alreadyActs()
	case len(e.Acts()) > MaxDepth:
		return nil, tooDeep()
	}
	var all []string
	for _, s := range e.SubjectScopes {
		if ValidScope(s) && !slices.Contains(all, s) && len(all) < MaxScopes {
			all = append(all, s)
		}
	}
	if len(e.Scopes) == 0 {
		return all, nil
	}
	return within(e.Scopes, all)
}

// ForKey says whether an API key of namespace ns is for an audience, and which of its scopes are. Its own audiences
// are named as in every object of its namespace; none are named: its routes say what it is for.
func (d *Directory) ForKey(ns string, audiences, scopes []string, canonical string) ([]string, bool) {
	named := slices.ContainsFunc(audiences, func(a string) bool { found, ok := d.find(a, ns); return ok && found == canonical })
	record := d.records[canonical]
	switch {
	case len(audiences) > 0 && !named:
		return nil, false
	case d.namespaceOf(canonical) == ns:
		return scopes, true
	case record == nil || !slices.ContainsFunc(record.GrantTo, func(g GrantTo) bool { return g.Namespace == ns }):
		return nil, len(audiences) == 0 // who leads a route there answers for it, but nobody granted a scope
	}
	return slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return !record.grants(ns, s) }), true
}

// ServiceAudience is the audience of a service, "ns/name"; empty: there is no such service.
func (d *Directory) ServiceAudience(service string) string { return d.services[service] }
