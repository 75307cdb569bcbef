package resource

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// pair and ordered are a JSON object whose keys keep their order.
type pair struct {
	key   string
	value any
}

type ordered []pair

func (o ordered) field(key string) any {
	for _, p := range o {
		if p.key == key {
			return p.value
		}
	}
	return nil
}

// arrange puts the fields of a value in the order of its shape, and every other key in
// alphabetical order.
func arrange(s *shape, v any) any {
	switch v := v.(type) {
	case map[string]any:
		v = respelled(s, v)
		out := make(ordered, 0, len(v))
		var rest []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if s == nil || s.form != record || s.fields[key] == nil {
				rest = append(rest, key)
			}
		}
		if s != nil && s.form == record {
			for _, key := range s.order {
				if child, ok := v[key]; ok {
					out = append(out, pair{key, arrange(s.fields[key], child)})
				}
			}
		}
		for _, key := range rest {
			out = append(out, pair{key, arrange(elemOf(s), v[key])})
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = arrange(elemOf(s), item)
		}
		return out
	}
	return v
}

// respelled gives each field the spelling that is stored.
func respelled(s *shape, v map[string]any) map[string]any {
	if s == nil || len(s.also) == 0 {
		return v
	}
	out := maps.Clone(v)
	for other, name := range s.also {
		if child, ok := v[other]; ok {
			delete(out, other)
			out[name] = child
		}
	}
	return out
}

func elemOf(s *shape) *shape {
	if s == nil {
		return nil
	}
	return s.elem
}

// parseOrdered reads JSON with its objects in the order they have. A key that stands twice
// is an error.
func parseOrdered(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	v, err := readValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("more than one JSON value")
	}
	return v, nil
}

func readValue(dec *json.Decoder, depth int) (any, error) {
	if depth > 2*maxNesting {
		return nil, fmt.Errorf("JSON nested too deep")
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok {
	case json.Delim('{'):
		return readObject(dec, depth)
	case json.Delim('['):
		items := []any{}
		for dec.More() {
			item, err := readValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			items = append(items, item)
		}
		_, err := dec.Token()
		return items, err
	}
	return tok, nil
}

func readObject(dec *json.Decoder, depth int) (any, error) {
	out := ordered{}
	seen := make(map[string]bool)
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, _ := tok.(string)
		if seen[key] {
			return nil, fmt.Errorf("key %s stands twice", quote(key))
		}
		seen[key] = true
		value, err := readValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, pair{key, value})
	}
	_, err := dec.Token()
	return out, err
}

// Canonical is the JSON Canonicalization Scheme, RFC 8785: one spelling of one value, to be
// hashed.
func Canonical(text []byte) ([]byte, error) {
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("canonical JSON: not UTF-8")
	}
	v, err := parseOrdered(text)
	if err != nil {
		return nil, fmt.Errorf("canonical JSON: %w", err)
	}
	var b bytes.Buffer
	if err := writeJSON(&b, v, true); err != nil {
		return nil, fmt.Errorf("canonical JSON: %w", err)
	}
	return b.Bytes(), nil
}

// writeJSON writes a value; canonical sorts the keys and gives numbers their one spelling.
func writeJSON(b *bytes.Buffer, v any, canonical bool) error {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case string:
		appendText(b, v)
	case json.Number:
		if canonical {
			return appendNumber(b, v)
		}
		b.WriteString(string(v))
	case []any:
		b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeJSON(b, item, canonical); err != nil {
				return err
			}
		}
		b.WriteByte(']')
	case ordered:
		if canonical { // RFC 8785, section 3.2.3: sorted by UTF-16 code units
			v = slices.Clone(v)
			slices.SortFunc(v, func(x, y pair) int {
				return slices.Compare(utf16.Encode([]rune(x.key)), utf16.Encode([]rune(y.key)))
			})
		}
		b.WriteByte('{')
		for i, p := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			appendText(b, p.key)
			b.WriteByte(':')
			if err := writeJSON(b, p.value, canonical); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	default:
		return fmt.Errorf("writing JSON: a %T has no form here", v)
	}
	return nil
}

// appendText escapes what must be escaped and nothing else: RFC 8785, section 3.2.2.2.
func appendText(b *bytes.Buffer, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case '\b':
			b.WriteString(`\b`)
		case '\t':
			b.WriteString(`\t`)
		case '\n':
			b.WriteString(`\n`)
		case '\f':
			b.WriteString(`\f`)
		case '\r':
			b.WriteString(`\r`)
		default:
			if r < 0x20 {
				fmt.Fprintf(b, `\u%04x`, r)
				continue
			}
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}

// appendNumber writes a number as ECMAScript does: RFC 8785, section 3.2.2.3.
func appendNumber(b *bytes.Buffer, n json.Number) error {
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil {
		return fmt.Errorf("number %s: %w", quote(string(n)), err)
	}
	if f == 0 {
		b.WriteByte('0') // also for -0
		return nil
	}
	if a := math.Abs(f); a >= 1e-6 && a < 1e21 {
		b.WriteString(strconv.FormatFloat(f, 'f', -1, 64))
		return nil
	}
	text := strconv.AppendFloat(nil, f, 'e', -1, 64) // Go writes e-07, ECMAScript e-7
	if i := len(text) - 2; text[i] == '0' && (text[i-1] == '-' || text[i-1] == '+') {
		text = slices.Delete(text, i, i+1)
	}
	b.Write(text)
	return nil
}

// decisive are the kinds that a decision of a proxy hangs on: what it allows, whose tokens it
// believes, and for which audiences. What a token may be issued for (OAuthClient,
// DelegationPolicy) is decided before it.
var decisive = []string{"AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication", "TrustedIssuer", "OAuthResource"}

// Revision is the name of everything that decides: policy-engine.md 9. Order and places of
// the objects, apiVersion and labels do not count, and of annotations the one that lets API keys in alone.
func Revision(set []Object, trustDomain, rootNamespace string) [32]byte {
	var deciding []Object
	for _, o := range set {
		if slices.Contains(decisive, o.Kind) {
			deciding = append(deciding, o)
		}
	}
	slices.SortFunc(deciding, func(a, b Object) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	h := sha256.New()
	_, _ = io.WriteString(h, "countersign/policy-revision/v1\n")
	add := func(v any) {
		var b bytes.Buffer
		// The values come from text that was canonical JSON already: they can be written.
		if err := writeJSON(&b, v, true); err != nil {
			b.Reset()
			fmt.Fprint(&b, err)
		}
		_, _ = h.Write(binary.AppendUvarint(nil, uint64(b.Len())))
		_, _ = h.Write(b.Bytes())
	}
	add(ordered{{"kind", "Mesh"}, {"rootNamespace", rootNamespace}, {"trustDomain", trustDomain}})
	for _, o := range deciding {
		var spec any
		if v, err := parseOrdered(o.JSON); err == nil {
			if top, ok := v.(ordered); ok {
				spec = top.field("spec")
			}
		}
		what := ordered{{"kind", o.Kind}, {"name", o.Name}, {"namespace", o.Namespace}, {"spec", spec}}
		if env := keysTaken(o); o.Kind == "RequestAuthentication" && env != "" {
			what = append(what, pair{"annotations", ordered{{apiKeysOption, env}}})
		}
		add(what)
	}
	return [32]byte(h.Sum(nil))
}
