package grant

import (
	"slices"
)

// Limits of scopes (tokens.md 6).
const (
	MaxScopes = 64
	MaxScope  = 128 // bytes of one
)

// reservedScope says "no application scope" in transaction tokens: nobody may ask for it.
const reservedScope = "mesh"

// ValidScope reports the syntax of one scope (RFC 6749, section 3.3) that may be asked for.
func ValidScope(s string) bool {
	if s == "" || len(s) > MaxScope || s == reservedScope {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < 0x21 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// Scopes are what a token of the client for that audience holds when requested were asked for,
// each once; none requested: the defaults of the target. An error is a *Refusal.
func (d *Directory) Scopes(c *Client, r Resolved, requested []string) ([]string, error) {
	allowed := grantable(c, r)
	if len(requested) == 0 && r.Target != nil {
		return both(r.Target.DefaultScopes, allowed), nil
	}
	return within(requested, allowed)
}

// grantable are the scopes that the client may hold for that audience: those of its record
// that the audience has and, in another namespace, grants it.
func grantable(c *Client, r Resolved) []string {
	if r.Target == nil || r.Record == nil {
		return nil
	}
	var out []string
	for _, s := range r.Target.Scopes {
		has := slices.ContainsFunc(r.Record.Scopes, func(of Scope) bool { return of.Name == s })
		if has && ValidScope(s) && r.Record.grants(c.Namespace, s) {
			out = append(out, s)
		}
	}
	return out
}

// grants reports whether clients of a namespace may hold a scope of the audience.
func (a *Audience) grants(ns, scope string) bool {
	return ns == a.Namespace || slices.ContainsFunc(a.GrantTo, func(g GrantTo) bool {
		return g.Namespace == ns && slices.Contains(g.Scopes, scope)
	})
}

// within are the requested scopes, each once, if all of them are allowed.
func within(requested, allowed []string) ([]string, error) {
	if len(requested) > MaxScopes {
		return nil, badScope()
	}
	var out []string
	for _, s := range requested {
		if !ValidScope(s) || !slices.Contains(allowed, s) {
			return nil, badScope()
		}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, nil
}

// both are the scopes of a, each once, that are in b.
func both(a, b []string) []string {
	var out []string
	for _, s := range a {
		if slices.Contains(b, s) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
