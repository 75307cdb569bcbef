package grant

import (
	"slices"
	"strings"
)

// Reach is the audience that an API key of namespace ns names, if the key may be for it: it speaks for that namespace
// itself, or its OAuthResource grants the namespace all scopes of the key (tokens.md 14.2). Consent is missing where
// owner is another namespace; canonical is empty while the audience does not exist.
func (d *Directory) Reach(value, ns string, scopes []string) (canonical, owner string, consent bool) {
	canonical, _ = d.find(value, ns)
	owner, record := d.speaker(value, ns)
	if owner == ns {
		return canonical, owner, true
	}
	consent = record != nil && slices.ContainsFunc(record.GrantTo, func(g GrantTo) bool {
		return g.Namespace == ns && !slices.ContainsFunc(scopes, func(s string) bool { return !slices.Contains(g.Scopes, s) })
	})
	return canonical, owner, consent
}

// Reaches reports whether an API key of namespace ns with these audiences is for a service, which is namespace/name.
// It does not allocate for audiences that are plain names of the key's namespace.
func (d *Directory) Reaches(ns string, audiences, scopes []string, service string) bool {
	if d == nil {
		return false
	}
	canonical := d.services[service]
	if canonical == "" {
		return false
	}
	for _, a := range audiences {
		if in, name, _ := strings.Cut(service, "/"); in == ns && name == a {
			return true
		}
		if got, _, consent := d.Reach(a, ns, scopes); consent && got == canonical {
			return true
		}
	}
	return false
}
