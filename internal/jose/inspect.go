package jose

import (
	"encoding/base64"
	"strings"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Peek is the iss that a token claims, for choosing who checks it: nothing of it is verified.
// It is "" if there is none; ok is false if the token cannot be read, or iss is no text.
func Peek(raw string) (iss string, ok bool) {
	dot1, dot2, err := cut(raw)
	if err != nil {
		return "", false
	}
	data, bad := alphabet.DecodeString(raw[dot1+1 : dot2])
	if bad != nil || tooDeep(data) {
		return "", false
	}
	var p peek
	if json.Unmarshal(data, &p) != nil || p.other {
		return "", false
	}
	return p.iss, true
}

type peek struct {
	iss   string
	other bool // iss is there and no text
}

// UnmarshalJSONFrom reads iss and steps over the rest, which must be JSON as well.
func (p *peek) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return members(dec, func(name string, v jsontext.Value) error {
		if name != "iss" {
			return nil
		}
		if p.other = v.Kind() != '"'; !p.other {
			p.iss = unquote(v)
		}
		return nil
	})
}

// Member is one member of a header or of claims; Value is JSON as it came.
type Member struct{ Name, Value string }

// Unchecked is what a token says of itself, in its order, twice what it says twice. Nothing of
// it is verified, and it may be what no check lets pass.
type Unchecked struct {
	Typ, Alg, KeyID string // "" if absent or no text
	Header, Claims  []Member
	Signature       int // bytes
}

// Inspect decodes a token and judges nothing but its size and that it can be decoded. The error
// is an *Error.
func Inspect(raw string) (*Unchecked, error) {
	if len(raw) == 0 || len(raw) > MaxToken {
		return nil, refuse(Size, "")
	}
	head, rest, ok1 := strings.Cut(raw, ".")
	body, sig, ok2 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || strings.Contains(sig, ".") {
		return nil, refuse(Format, "a compact token has three parts")
	}
	var parts [3][]byte
	for i, s := range []string{head, body, sig} {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
		if err != nil {
			return nil, refuse(Base64, "")
		}
		parts[i] = b
	}
	if len(parts[0]) > maxHeader {
		return nil, refuse(Size, "the header is too long")
	}
	u := &Unchecked{Signature: len(parts[2])}
	for i, to := range []*[]Member{&u.Header, &u.Claims} {
		var all allMembers
		if tooDeep(parts[i]) {
			return nil, refuse(Depth, "")
		}
		if err := json.Unmarshal(parts[i], &all, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
			return nil, refuse(JSON, [2]string{"the header is not an object", "the payload is not an object"}[i])
		}
		*to = all
	}
	for _, m := range u.Header {
		if m.Value[0] != '"' {
			continue
		}
		switch m.Name {
		case "typ":
			u.Typ = plain(m.Value)
		case "alg":
			u.Alg = plain(m.Value)
		case "kid":
			u.KeyID = plain(m.Value)
		}
	}
	return u, nil
}

type allMembers []Member

// UnmarshalJSONFrom keeps the members in their order.
func (a *allMembers) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return members(dec, func(name string, v jsontext.Value) error {
		*a = append(*a, Member{name, string(v)})
		return nil
	})
}
