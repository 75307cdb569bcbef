package jose

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

func matrixTokens(f *testing.F) {
	for _, v := range readMatrix(f) {
		if v.Times == 0 {
			f.Add(v.Token)
		}
	}
	f.Add("")
	f.Add("...")
	f.Add("e30.e30.")
}

// What comes through the gate can be spelled in one way only, and the signed part is a part of it.
func FuzzGate(f *testing.F) {
	matrixTokens(f)
	f.Fuzz(func(t *testing.T, raw string) {
		start := time.Now()
		p, err := gate(raw)
		if took := time.Since(start); took > time.Second { // the goal is 1 ms, on a machine of one's own
			t.Fatalf("took %s", took)
		}
		if err != nil {
			return
		}
		back := alphabet.EncodeToString(p.header) + "." + alphabet.EncodeToString(p.payload)
		if string(p.input) != back || raw != back+"."+alphabet.EncodeToString(p.sig) {
			t.Fatalf("%q comes back as %q", raw, back)
		}
		if len(raw) > MaxToken || len(p.header) > maxHeader {
			t.Fatal("too long")
		}
		_, _ = Peek(raw)
		_, _ = Inspect(raw)
	})
}

// A header that is accepted is JSON without two equal names, and says what encoding/json says.
func FuzzHeader(f *testing.F) {
	for _, v := range readMatrix(f) {
		if b, err := alphabet.DecodeString(strings.Split(v.Token, ".")[0]); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		exact, errExact := readHeader(data, Own, nil)
		h, err := readHeader(data, External, nil)
		if errExact == nil && (err != nil || h != exact) {
			t.Fatalf("%q: exact says %+v, else %+v, %v", data, exact, h, err)
		}
		if err != nil {
			return
		}
		var m map[string]any
		if json.Unmarshal(data, &m) != nil {
			t.Fatalf("%q is no JSON", data)
		}
		for name, got := range map[string]string{"alg": h.alg, "kid": h.kid, "typ": h.typ} {
			if s, _ := m[name].(string); s != got {
				t.Fatalf("%q: %s is %q, want %q", data, name, got, s)
			}
		}
		for name := range m {
			if among(forbidden, name) {
				t.Fatalf("%q: %s is accepted", data, name)
			}
		}
	})
}

// Claims that are accepted are JSON, and say what encoding/json says; reading them on as a
// verified token panics never, whatever they are.
func FuzzClaims(f *testing.F) {
	for _, v := range readMatrix(f) {
		if p := strings.Split(v.Token, "."); len(p) == 3 {
			if b, err := alphabet.DecodeString(p[1]); err == nil {
				f.Add(b, true)
				f.Add(b, false)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, own bool) {
		p, err := readPayload(data, own)
		if err != nil {
			return
		}
		var m map[string]json.RawMessage
		if json.Unmarshal(data, &m) != nil || len(m) != len(p.members) {
			t.Fatalf("%q: %d members, want %d", data, len(p.members), len(m))
		}
		var text struct {
			Iss string `json:"-"`
		}
		for name, got := range map[string]string{"iss": p.iss, "sub": p.sub, "jti": p.jti} {
			text.Iss = ""
			if v, ok := m[name]; ok && json.Unmarshal(v, &text.Iss) != nil || text.Iss != got {
				t.Fatalf("%q: %s is %q, want %q", data, name, got, text.Iss)
			}
		}
		for _, at := range []int64{p.exp, p.nbf, p.iat} {
			if at < 0 || at >= beyond {
				t.Fatalf("%q: a time of %d", data, at)
			}
		}
		c := &Check{Profile: External, Split: []string{"x"}, TrustDomain: domain}
		if own {
			c.Profile = Own
		}
		tok, err := newToken(c, header{alg: "ES256"}, &Key{alg: ES256}, p)
		if err != nil {
			return
		}
		if own && (tok.Subject() == "" || tok.ClientID() == "" || tok.ID() == "" || len(tok.Actors()) > maxActors || len(tok.Ancestors()) > maxAncestors) {
			t.Fatalf("%q is an own token", data)
		}
		for _, c := range tok.claims {
			var v any
			d := json.NewDecoder(bytes.NewReader(m[c.name]))
			d.UseNumber() // of any size: what it is does not matter to policy
			if err := d.Decode(&v); err != nil || !agrees(c, v, c.name == "x" || c.name == "scope" || c.name == "permission") {
				t.Fatalf("%q: %s is read as %+v", data, c.name, c)
			}
		}
		values := tok.Values()
		for name, v := range m {
			if got, ok := values[name]; ok != (string(v) != "null") {
				t.Fatalf("%q: %s is %v", data, name, got)
			}
		}
		if _, err := json.Marshal(values); err != nil {
			t.Fatal(err)
		}
		_ = tok.Bound(Presenter{ID: web})
	})
}

// agrees reports that a claim is what encoding/json read, as far as policy reads it.
func agrees(c claim, v any, split bool) bool {
	switch v := v.(type) {
	case string:
		return c.kind == '"' && (split && slices.Equal(c.texts, strings.FieldsFunc(v, func(r rune) bool { return r == ' ' })) || slices.Equal(c.texts, []string{v}))
	case []any:
		var texts []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				texts = append(texts, s)
			}
		}
		return c.kind == '[' && c.items == len(v) && slices.Equal(c.texts, texts) && c.inner == nil
	case map[string]any:
		for _, in := range c.inner {
			e, ok := v[in.name]
			if !ok || !agrees(in, e, false) {
				return false
			}
		}
		return c.kind == '{' && len(c.inner) == len(v) && c.texts == nil
	}
	return c.texts == nil && c.inner == nil
}

// A set that is read is written again and read as the same set.
func FuzzReadSet(f *testing.F) {
	for _, v := range readMatrix(f) {
		f.Add([]byte(v.Keys))
	}
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ReadSet(data)
		if err != nil {
			return
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ReadSet(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if s.Len() > maxKeys || again.Len() != s.Len() {
			t.Fatalf("%d keys, then %d", s.Len(), again.Len())
		}
		for i, k := range s.Keys() {
			if b := again.Keys()[i]; b.ID() != k.ID() || b.Alg() != k.Alg() {
				t.Fatalf("key %d: %s %s, then %s %s", i, k.ID(), k.Alg(), b.ID(), b.Alg())
			}
		}
	})
}
