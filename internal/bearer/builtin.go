package bearer

import (
	"bytes"
	"encoding/base64"
	"strings"

	"countersign.dev/internal/jose"
)

const (
	tokenElsewhere = "token_elsewhere"
	// jwtStart is how every token begins: {" in base64url.
	jwtStart = "eyJ"
	// maxPeeks bounds how many values of one request are looked at for what is no credential.
	maxPeeks = 8
)

// ours reports whether a token names us as its issuer. Nothing of it is verified.
func (r *Rules) ours(raw string) bool {
	if r.issuer == "" {
		return false
	}
	if iss, ok := jose.Peek(raw); ok {
		return iss == r.issuer
	}
	return names(raw, r.issuer)
}

// names reports whether a token that cannot be read mentions the issuer all the same: then it is
// no affair of the application's, but one of that issuer's tokens in a spelling that is refused.
func names(raw, issuer string) bool {
	_, rest, _ := strings.Cut(raw, ".")
	body, _, _ := strings.Cut(rest, ".")
	claims, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(body, "="))
	return err == nil && bytes.Contains(claims, []byte(`"`+issuer+`"`))
}

// holdsOurs reports whether a value is one of our tokens, or has one among other bytes.
func (r *Rules) holdsOurs(value string) bool {
	peeks := 0
	for piece := range strings.FieldsFuncSeq(value, notOfToken) {
		if !strings.HasPrefix(piece, jwtStart) {
			continue
		}
		if r.ours(piece) {
			return true
		}
		if peeks++; peeks == maxPeeks {
			break
		}
	}
	return false
}

func notOfToken(c rune) bool {
	return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
}

// behindTab is the answer to a token that a tab, which RFC 9110 does not allow there, parts from
// its scheme: the program may read it as Bearer all the same. What is of none of our issuers is
// the application's own affair.
func (r *Rules) behindTab(q *Request, f found) *Refusal {
	of := issuerOf{raw: f.raw}
	for _, i := range f.place.rules {
		if n := &r.rules[i]; of.is(n) {
			return r.refusal(q, n, f.raw, &jose.Error{Reason: jose.Format, Text: "a tab behind the scheme"})
		}
	}
	return nil
}

// otherSchemes looks at what in Authorization no rule took: one of our tokens under DPoP, whose
// proof nobody checks here, or joined with something by a comma, is refused (tokens.md 18.3).
// All else is the application's own affair (15.2).
func (r *Rules) otherSchemes(q *Request) *Refusal {
	for _, line := range q.Header[authorization] {
		if !strings.Contains(line, jwtStart) {
			continue
		}
		name, _ := scheme(line)
		switch {
		case strings.Contains(line, ",") && joined(line) && r.holdsOurs(line):
			no := r.ambiguous
			return &no
		case strings.EqualFold(name, "dpop") && r.holdsOurs(line):
			return r.refuse(jose.Binding, "scheme DPoP is not taken")
		}
	}
	return nil
}

// joined reports whether one of the values between commas shows a token.
func joined(line string) bool {
	for part := range strings.SplitSeq(line, ",") {
		name, _ := scheme(strings.TrimLeft(part, " \t"))
		if strings.EqualFold(name, "bearer") || strings.EqualFold(name, "dpop") {
			return true
		}
	}
	return false
}

// twice is the answer to two Authorization lines (6.2, tokens.md 18.3).
func (r *Rules) twice(q *Request) *Refusal {
	for i := range r.places {
		if p := &r.places[i]; p.name == authorization && (p.kind == inBearer || p.kind == inHeader) {
			return r.attachedRefusal(q, 400, codeRequest, textRequest, reasonMultiple, "two Authorization lines")
		}
	}
	no := r.ambiguous
	no.Detail = "two Authorization lines"
	return &no
}

// doubled reports whether one of our tokens stands in the query too, RFC 6750 section 2.
func (r *Rules) doubled(q *Request) bool {
	if !q.HasQuery || !strings.Contains(q.Query, jwtStart) {
		return false
	}
	for pair := range strings.SplitSeq(q.Query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if isParam(name, defaultParam) && r.ours(unescape(value)) {
			return true
		}
	}
	return false
}

// elsewhere notes one of our tokens in the query or in a cookie, where it is no credential
// (tokens.md 18.3).
func (r *Rules) elsewhere(q *Request, out *Outcome) {
	if strings.Contains(q.Query, jwtStart) && r.holdsOurs(q.Query) {
		out.Detail = tokenElsewhere
		return
	}
	for _, line := range q.Header["Cookie"] {
		if strings.Contains(line, jwtStart) && r.holdsOurs(line) {
			out.Detail = tokenElsewhere
			return
		}
	}
}
