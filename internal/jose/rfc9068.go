package jose

import (
	"fmt"
	"slices"
	"strings"
)

// Limits of own tokens (tokens.md 8.1).
const (
	maxSubject   = 2048
	maxID        = 64
	maxScopes    = 64
	maxActors    = 8
	maxAncestors = 8
)

// chain is where an own token comes from.
type chain struct {
	sid, rti, ocid, oat, oiss, osub string
	anc                             []string
}

// readOwn holds the claims against tokens.md 8.1.
func (t *Token) readOwn(c *Check) *Error {
	if !t.p.hasIss || t.p.iss == "" {
		return refuse(Claims, "the token has no issuer")
	}
	if t.p.sub == "" || len(t.p.sub) > maxSubject {
		return refuse(Claims, "sub is missing, empty or too long")
	}
	if t.p.jti == "" || len(t.p.jti) > maxID {
		return refuse(Claims, "jti is missing, empty or too long")
	}
	var own string
	for _, m := range []struct {
		name string
		to   *string
	}{
		{"client_id", &t.clientID}, {"sid", &t.chain.sid}, {"rti", &t.chain.rti}, {"ocid", &t.chain.ocid},
		{"oat", &t.chain.oat}, {"oiss", &t.chain.oiss}, {"osub", &t.chain.osub}, {"own", &own},
	} {
		if k := t.claim(m.name); k != nil {
			if k.kind != '"' || k.texts[0] == "" {
				return refuse(Claims, m.name+" is not a text, or is empty")
			}
			*m.to = k.texts[0]
		}
	}
	if t.presenter = t.clientID; t.clientID == "" {
		return refuse(Claims, "the token has no client_id")
	}
	if k := t.claim("may_act"); k != nil && k.kind != '{' {
		return refuse(Claims, "may_act is not an object")
	}
	for _, step := range []func() *Error{t.readScope, t.readActors, t.readAncestors, t.readBinding} {
		if err := step(); err != nil {
			return err
		}
	}
	for _, id := range append([]string{t.p.sub, t.clientID}, t.actors...) {
		if c.TrustDomain != "" && !domestic(id, c.TrustDomain) {
			return refuse(Claims, fmt.Sprintf("it speaks for %q, its issuer only for trust domain %q", clip(id), c.TrustDomain))
		}
	}
	return nil
}

// readForeign holds what of those claims anyone may send to the same shape (T59); they name
// nobody.
func (t *Token) readForeign() *Error {
	if k := t.claim("azp"); k != nil && k.kind == '"' {
		t.presenter = k.texts[0]
	}
	depth := 0
	for k := t.claim("act"); k != nil; k = k.member("act") {
		if depth++; depth > maxActors {
			return refuse(Claims, "act is too deep")
		}
	}
	return t.readBinding()
}

// domestic reports that an ID of scheme spiffe is of the trust domain; other names pass.
func domestic(id, domain string) bool {
	const scheme = "spiffe:"
	if len(id) < len(scheme) || !strings.EqualFold(id[:len(scheme)], scheme) {
		return true
	}
	rest, ok := strings.CutPrefix(id, "spiffe://"+domain)
	return ok && (rest == "" || rest[0] == '/')
}

// member is a member of an object, nil if it is absent or null.
func (c *claim) member(name string) *claim {
	for i := range c.inner {
		if k := &c.inner[i]; k.name == name && k.kind != 'n' {
			return k
		}
	}
	return nil
}

// readScope is RFC 6749 section 3.3: one blank between tokens of visible ASCII without " and \.
func (t *Token) readScope() *Error {
	k := t.claim("scope")
	if k == nil {
		return nil
	}
	if k.kind != '"' || len(k.texts) > maxScopes {
		return refuse(Claims, "scope is not a text, or has too many parts")
	}
	size := len(k.texts) - 1
	for _, s := range k.texts {
		size += len(s)
		for i := range len(s) {
			if b := s[i]; b < 0x21 || b > 0x7e || b == '"' || b == '\\' {
				return refuse(Claims, "scope holds a character that it cannot hold")
			}
		}
	}
	if whole := plain(t.p.value("scope")); whole == "" || len(whole) != size {
		return refuse(Claims, "scope is empty or has blanks beside each other")
	}
	return nil
}

// readActors is act: {sub, iss?, act?}, nested (RFC 8693 section 4.1).
func (t *Token) readActors() *Error {
	for k := t.claim("act"); k != nil; k = k.member("act") {
		if len(t.actors) == maxActors {
			return refuse(Claims, "act is too deep")
		}
		sub, iss := k.member("sub"), k.member("iss")
		if k.kind != '{' || sub == nil || sub.kind != '"' || sub.texts[0] == "" || iss != nil && iss.kind != '"' {
			return refuse(Claims, "act is not an actor")
		}
		if slices.ContainsFunc(k.inner, func(m claim) bool { return m.name != "sub" && m.name != "iss" && m.name != "act" }) {
			return refuse(Claims, "act holds more than sub, iss and act")
		}
		t.actors = append(t.actors, sub.texts[0])
	}
	return nil
}

func (t *Token) readAncestors() *Error {
	k := t.claim("anc")
	if k == nil {
		return nil
	}
	if k.kind != '[' || k.items != len(k.texts) || k.items > maxAncestors ||
		slices.ContainsFunc(k.texts, func(s string) bool { return s == "" || len(s) > maxID }) {
		return refuse(Claims, "anc is not a short list of token ids")
	}
	t.chain.anc = k.texts
	return nil
}
