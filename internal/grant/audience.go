package grant

import (
	"maps"
	"slices"
	"strings"
)

// OwnAudiences are the audiences that a workload takes own tokens for: its SPIFFE ID, and the
// canonical one of each service ("ns/name") that it serves.
func (d *Directory) OwnAudiences(spiffeID string, services []string) []string {
	out := []string{spiffeID}
	for _, s := range services {
		if canonical, ok := d.services[s]; ok && !slices.Contains(out, canonical) {
			out = append(out, canonical)
		}
	}
	return out
}

// Accepts are the audiences for which a workload takes tokens of a foreign issuer as request
// identity (tokens.md 7.3): those the issuer's record names, each only at a service whose
// OAuthResource lists it; the workload's own where the record names none. None: the workload
// takes no token of it.
func (d *Directory) Accepts(i *Issuer, spiffeID string, services []string) []string {
	switch {
	case i == nil || !slices.Contains(i.Uses, UseRequest):
		return nil
	case len(i.Audiences) == 0:
		return d.OwnAudiences(spiffeID, services)
	}
	var out []string
	for _, s := range services {
		if a := d.byService[s]; a != nil {
			out = append(out, both(i.Audiences, a.Resources)...)
		}
	}
	return out
}

// PublicScopes are the scopes that stand in the metadata.
func (d *Directory) PublicScopes() []string {
	out := make(map[string]bool)
	for _, a := range d.records {
		for _, s := range a.Scopes {
			if s.Public {
				out[s.Name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(out))
}

// Resources are the resource identifiers that stand in the metadata (RFC 9728, section 4):
// the https URLs of records. Identities of the mesh are told to nobody outside it.
func (d *Directory) Resources() []string {
	var out []string
	for v := range d.resources {
		if strings.HasPrefix(v, "https://") {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out
}
