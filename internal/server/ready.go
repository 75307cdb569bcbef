package server

import (
	"slices"
	"time"

	"countersign.dev/internal/catalog"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/jwks"
)

// ready is the column READY of an object of the token service: "True", or "False: " and why
// nothing comes of it as things are now. ok is false for kinds that have no such column.
func (s *Server) ready(v *view, r catalog.Record) (word string, ok bool) {
	switch r.Kind {
	case "APIKey":
		why := "not in force yet"
		if v.records[catalog.Key(r.Kind, r.Namespace, r.Name)].Last == r.Last {
			key, err := s.apiKeys.of(r)
			if err != nil {
				return "False: it cannot be read", true
			}
			why = s.unreadyKey(v, &key, time.Now())
		}
		if why != "" {
			return "False: " + why, true
		}
		return "True", true
	case "OAuthClient", "OAuthResource", "TrustedIssuer", "DelegationPolicy":
	default:
		return "", false
	}
	if why := v.unready(r); why != "" {
		return "False: " + why, true
	}
	return "True", true
}

func (v *view) unready(r catalog.Record) string {
	if v.records[catalog.Key(r.Kind, r.Namespace, r.Name)].Last != r.Last {
		return "not in force yet"
	}
	for _, f := range v.faults() {
		if f.Kind == r.Kind && f.Namespace == r.Namespace && f.Name == r.Name {
			return f.Text
		}
	}
	switch r.Kind {
	case "TrustedIssuer":
		i := slices.IndexFunc(v.Issuers, func(i grant.Issuer) bool { return i.Namespace == r.Namespace && i.Name == r.Name })
		if i < 0 {
			return "not in force yet"
		}
		issuer := v.Issuers[i]
		if v.keySet(issuer.JWKS, issuer.Issuer, issuer.JWKSURI, time.Now(), algs(issuer.Algs)...) == nil {
			return v.unfetchedFor(jwks.Source{Issuer: issuer.Issuer, URI: issuer.JWKSURI})
		}
	case "OAuthClient":
		i := slices.IndexFunc(v.clients, func(c grant.Client) bool { return c.Namespace == r.Namespace && c.Name == r.Name })
		if i < 0 {
			return "not in force yet"
		}
		if uri := v.clients[i].JWKSURI; uri != "" && v.keySet(nil, "", uri, time.Now()) == nil {
			return v.unfetchedFor(jwks.Source{URI: uri})
		}
	}
	return ""
}

// unfetchedFor says why there are no keys of a source.
func (v *view) unfetchedFor(from jwks.Source) string {
	if why := v.unfetched[from.Key()]; why != "" {
		return "no keys: " + why
	}
	return "no keys: not retrieved yet"
}
