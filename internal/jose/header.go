package jose

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// header is what is known of a token's header. No value of it ever causes I/O.
type header struct {
	alg, kid, typ  string
	hasKid, hasTyp bool // an empty alg is none, an empty kid or typ is a fault
}

// field is one member of a header; other is set if its value is no text.
type field struct {
	name, value string
	other       bool
}

// known are the names that mean something here; forbidden change how a token is read, or
// bring a key of the sender's choice (step 6).
var (
	known     = []string{"alg", "kid", "typ"}
	forbidden = []string{"crit", "b64", "zip", "enc", "jku", "x5u", "x5c", "jwk"}
)

func among(names []string, name string) bool {
	return slices.ContainsFunc(names, func(s string) bool { return strings.EqualFold(s, name) })
}

// readHeader is steps 5 and 6.
func readHeader(data []byte, p *Profile, ignore []string) (header, *Error) {
	var h header
	var fixed [maxHeaderMembers]field
	fields, plain := flat(string(data), fixed[:0])
	if !plain {
		if p.exact {
			return h, refuse(Header, "the header is not the plain object that this issuer writes")
		}
		var err *Error
		if fields, err = loose(data); err != nil {
			return h, err
		}
	}
	for i, f := range fields {
		for _, g := range fields[:i] {
			if f.name == g.name {
				return h, refuse(Dup, "a header name occurs twice")
			}
		}
	}
	for _, f := range fields {
		switch f.name {
		case "alg":
			h.alg = f.value
		case "kid":
			h.kid, h.hasKid = f.value, true
		case "typ":
			h.typ, h.hasTyp = f.value, true
		default:
			switch {
			case among(known, f.name):
				return h, refuse(Header, "a known header name in another case")
			case among(forbidden, f.name) && !slices.Contains(p.permits, f.name) && !ignorable(ignore, f.name):
				return h, refuse(Header, "a forbidden header name")
			case p.exact || p.closed:
				return h, refuse(Header, "an unknown header name")
			}
			continue
		}
		if f.other {
			return h, refuse(Header, "alg, kid or typ is not a text")
		}
	}
	return h, nil
}

// ignorable are the names that an issuer's record may have passed over, never used.
func ignorable(ignore []string, name string) bool {
	return (name == "jku" || name == "x5u" || name == "x5c") && slices.Contains(ignore, name)
}

// flat reads an object of texts without blanks and escapes, which is what most issuers write.
func flat(s string, to []field) ([]field, bool) {
	text := func() (string, bool) {
		if s == "" || s[0] != '"' {
			return "", false
		}
		for i := 1; i < len(s); i++ {
			switch c := s[i]; {
			case c == '"':
				t := s[1:i]
				s = s[i+1:]
				return t, true
			case c < 0x20 || c > 0x7e || c == '\\':
				return "", false
			}
		}
		return "", false
	}
	sep := byte('{')
	for len(to) < maxHeaderMembers {
		if s == "" || s[0] != sep {
			return nil, false
		}
		s = s[1:]
		name, ok := text()
		if !ok || s == "" || s[0] != ':' {
			return nil, false
		}
		s = s[1:]
		value, ok := text()
		if !ok {
			return nil, false
		}
		to = append(to, field{name: name, value: value})
		if s == "}" {
			return to, true
		}
		sep = ','
	}
	return nil, false
}

// fields is a header in any spelling of JSON.
type fields []field

// UnmarshalJSONFrom reads the members; what is no text is only stepped over.
func (f *fields) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return members(dec, func(name string, value jsontext.Value) error {
		g := field{name: name, other: value.Kind() != '"'}
		if !g.other {
			g.value = unquote(value)
		}
		*f = append(*f, g)
		return nil
	})
}

func loose(data []byte) ([]field, *Error) {
	var f fields
	if tooDeep(data) {
		return nil, refuse(Depth, "the header is nested too deep")
	}
	if err := json.Unmarshal(data, &f); err != nil {
		if r := fault(data, err); r != JSON {
			return nil, refuse(r, "in the header")
		}
		return nil, refuse(Header, "the header is not an object of JSON")
	}
	return f, nil
}

var errShape = errors.New("not an object")

// members hands out the members of the object that comes next.
func members(dec *jsontext.Decoder, each func(name string, value jsontext.Value) error) error {
	if dec.PeekKind() != '{' {
		if err := dec.SkipValue(); err != nil {
			return err
		}
		return errShape
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != '}' {
		t, err := dec.ReadToken()
		if err != nil {
			return err
		}
		name := t.String()
		value, err := dec.ReadValue()
		if err != nil {
			return err
		}
		if err := each(name, value); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return err
}

// unquote is the text of a JSON string that a decoder has passed.
func unquote(v jsontext.Value) string {
	if !slices.Contains(v, '\\') {
		return string(v[1 : len(v)-1])
	}
	b, _ := jsontext.AppendUnquote(nil, v)
	return string(b)
}

// fault sorts what the JSON decoder found. It does not say itself that UTF-8 or a surrogate
// was at fault: then the same text is good once those are let pass.
func fault(data []byte, err error) Reason {
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return Dup
	}
	if again := jsontext.Value(data); again.IsValid(jsontext.AllowInvalidUTF8(true)) && !again.IsValid() {
		return UTF8
	}
	return JSON
}

// tooDeep counts brackets outside of texts, if there are enough of them at all.
func tooDeep(data []byte) bool {
	if bytes.Count(data, []byte{'{'})+bytes.Count(data, []byte{'['}) <= maxDepth {
		return false
	}
	depth, text := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			text = !text
		case text:
			if c == '\\' {
				i++
			}
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
