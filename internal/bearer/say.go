package bearer

import (
	"encoding/base64"
	"strconv"
	"strings"

	"countersign.dev/internal/jose"
)

// Reasons of this layer besides those of jose (tokens.md 18.1).
const (
	reasonMissing  = "missing"
	reasonMultiple = "multiple"
)

// Texts of the built-in rules (tokens.md 18.3).
const (
	textInvalid = "the access token is not valid"
	textMissing = "an access token is required"
	textRequest = "malformed request"
)

// Texts of attached rules, known to Istio users (istio-semantics.md 7.14).
const (
	textAudience = "Audiences in Jwt are not allowed"
	textFails    = "Jwt verification fails"
	textForm     = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
	textIssuer   = "Jwt issuer is not configured"
	textKeys     = "Jwks remote fetch is failed"
	textMultiple = "Found multiple Jwt tokens"
	textExpired  = "Jwt is expired"
	textNoExpiry = "Jwt has no expiry"
	textEarly    = "Jwt not yet valid"
	textAlg      = "Jwt header [alg] is not supported"
	textKey      = "Jwks doesn't have key to match kid or alg from Jwt"
	textPayload  = "Jwt payload is an invalid JSON"
	textBase64   = "Jwt payload is an invalid Base64url encoded"
)

const (
	codeToken   = "invalid_token" // RFC 6750 section 3.1
	codeRequest = "invalid_request"

	maxRealm  = 256 // bytes
	maxDetail = 200 // bytes
)

// challenges makes what the built-in rules answer. A service with a record says where its
// metadata are (RFC 9728, section 5.1).
func (r *Rules) challenges(service, metadata string) {
	realm := `Bearer realm="` + quotable(service) + `"`
	if metadata != "" {
		r.where = `, resource_metadata="` + metadata + `"`
	}
	failed := func(code, text string) string {
		return realm + `, error="` + code + `", error_description="` + text + `"` + r.where
	}
	r.invalid = Refusal{Status: 401, Text: textInvalid, Challenge: failed(codeToken, textInvalid)}
	r.ambiguous = Refusal{Status: 400, Text: textRequest, Challenge: failed(codeRequest, textRequest), Reason: reasonMultiple}
	r.missing = Refusal{Status: 401, Text: textMissing, Challenge: realm + r.where, Reason: reasonMissing}
}

// quotable is s without what ends a quoted-string.
func quotable(s string) string { return strings.NewReplacer(`"`, "", `\`, "").Replace(s) }

// attachedRefusal is the answer under an attached rule. The realm never holds the query: the
// token may be in it.
func (r *Rules) attachedRefusal(q *Request, status int, code, text string, reason jose.Reason, detail string) *Refusal {
	realm := quotable(q.Scheme + "://" + q.Host + q.Path)
	no := &Refusal{
		Status: status, Text: text, Reason: string(reason), Detail: clip(detail),
		Challenge: `Bearer realm="` + realm[:min(len(realm), maxRealm)] + `", error="` + code + `"`,
	}
	if status == 401 {
		no.Challenge += r.where
	}
	return no
}

// clip bounds what a record tells of a token that nobody believes. A claim that looks like a
// token is not told at all.
func clip(detail string) string {
	if strings.Contains(detail, jwtStart) {
		return ""
	}
	return strings.ToValidUTF8(detail[:min(len(detail), maxDetail)], "")
}

// Revoked is the answer to a request whose token was revoked while it was on its way.
func (r *Rules) Revoked() *Refusal { return r.refuse(jose.Revoked, "") }

// refuse is the answer of the built-in rules.
func (r *Rules) refuse(reason jose.Reason, detail string) *Refusal {
	no := r.invalid
	no.Reason, no.Detail = string(reason), clip(detail)
	return &no
}

// refusal is the answer to a token that a rule refused.
func (r *Rules) refusal(q *Request, n *rule, raw string, why *jose.Error) *Refusal {
	status, text := 401, ""
	switch {
	case n.builtIn && n.own:
		return r.refuse(why.Reason, why.Text)
	case n.builtIn:
		return r.refuse(why.Reason, by(why.Text, "TrustedIssuer"))
	case why.Reason == jose.Aud:
		status, text = 403, textAudience
	case n.keyless(q.Now) && why.Reason != jose.Iss:
		text = textKeys
	default:
		text = textOf(raw, why.Reason)
	}
	return r.attachedRefusal(q, status, codeToken, text, why.Reason, by(why.Text, "RequestAuthentication"))
}

// by says which kind of object asked for what a foreign token does not have.
func by(detail, kind string) string { return strings.TrimSpace(clip(detail) + " (" + kind + ")") }

// textOf is the text of 7.14.
func textOf(raw string, why jose.Reason) string {
	switch why {
	case jose.Size, jose.Format:
		return textForm
	case jose.Charset, jose.Base64:
		if badPayload(raw) {
			return textBase64
		}
		return textForm
	case jose.Algo:
		return textAlg
	case jose.KeyID:
		return textKey
	case jose.JSON:
		return textOfClaims(raw)
	case jose.Dup, jose.UTF8, jose.Depth:
		return textPayload
	case jose.Iss:
		return textIssuer
	case jose.Exp:
		if claimOf(raw, "exp") == "" {
			return textNoExpiry
		}
		return textExpired
	case jose.Nbf, jose.Iat:
		return textEarly
	}
	return textFails
}

// badPayload reports whether it is the second of three parts that is no base64url.
func badPayload(raw string) bool {
	head, rest, _ := strings.Cut(raw, ".")
	body, sig, whole := strings.Cut(rest, ".")
	return whole && isBase64(head) && !isBase64(body) && isBase64(sig)
}

func isBase64(s string) bool {
	_, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil
}

// textOfClaims is the text for a payload of which one claim, or the whole, is of a wrong type.
func textOfClaims(raw string) string {
	for _, name := range [...]string{"iss", "sub", "jti"} {
		if v := claimOf(raw, name); v != "" && v[0] != '"' {
			return "Jwt payload [" + name + "] field is not a string"
		}
	}
	for _, name := range [...]string{"exp", "nbf", "iat"} {
		v := claimOf(raw, name)
		number := v != "" && (v[0] == '-' || v[0] >= '0' && v[0] <= '9')
		switch {
		case v != "" && !number:
			return "Jwt payload [" + name + "] field is not an integer"
		case number && !isTime(v):
			return "Jwt payload [" + name + "] field is not a positive 64 bit integer"
		}
	}
	if v := claimOf(raw, "aud"); v != "" && v[0] != '"' {
		return "Jwt payload [aud] field is not a string or string list"
	}
	return textPayload
}

// isTime reports whether a number can be a time: beyond 2^53 it is no longer exact.
func isTime(number string) bool {
	f, err := strconv.ParseFloat(number, 64)
	return err == nil && f >= 0 && f < 1<<53
}

// claimOf is the JSON of a claim in a token that was refused; "" if there is none to be read.
func claimOf(raw, name string) string {
	u, err := jose.Inspect(raw)
	if err != nil {
		return ""
	}
	for _, m := range u.Claims {
		if m.Name == name {
			return m.Value
		}
	}
	return ""
}
