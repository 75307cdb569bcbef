package policy

import (
	"cmp"
	"slices"
)

// sortedTokens puts the oldest first: where issuers are the same, the order of the objects
// decides (istio-semantics 4.2, 6.1).
func sortedTokens(objects []RequestAuthentication) []RequestAuthentication {
	out := slices.Clone(objects)
	slices.SortStableFunc(out, func(x, y RequestAuthentication) int {
		return cmp.Or(cmp.Compare(x.Created, y.Created), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Namespace, y.Namespace))
	})
	return out
}

// Tokens gives the token rules of one destination: those of all objects attached, by issuer,
// then in the order of objects, then as written. They share memory with the set. Namespace
// countersign has none: Authorization is a client's credential there (istio-semantics 4.1).
func (c *Compiled) Tokens(d Destination) []TokenRule {
	if c == nil || d.Namespace == reservedNamespace {
		return nil
	}
	var out []TokenRule
	for i := range c.tokens {
		if c.attaches(&c.tokens[i], d) {
			out = append(out, c.tokens[i].Rules...)
		}
	}
	slices.SortStableFunc(out, func(x, y TokenRule) int { return cmp.Compare(x.Issuer, y.Issuer) })
	return out
}

func (c *Compiled) attaches(a *RequestAuthentication, d Destination) bool {
	return d.isGateway(a.Namespace, a.Gateways) ||
		len(a.Gateways) == 0 && (a.Namespace == d.Namespace || a.Namespace == c.set.RootNamespace) && selects(a.Selector, d.Labels)
}

// APIKeys is the environment of the API keys that a destination takes: live, test, or none. Only a Gateway takes any
// (tokens.md 14.2); of several objects that say so the oldest counts.
func (c *Compiled) APIKeys(d Destination) string {
	if c == nil || !d.Gateway {
		return ""
	}
	for i := range c.tokens {
		if a := &c.tokens[i]; a.APIKeys != "" && c.attaches(a, d) {
			return a.APIKeys
		}
	}
	return ""
}
