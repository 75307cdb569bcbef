package jose

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	json2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Limits of a key set (tokens.md 10.3).
const (
	maxSet  = 1 << 20 // bytes
	maxKeys = 64
)

// Set is the keys of one issuer. It never changes.
type Set struct {
	keys []*Key
	by   map[keyName]*Key
}

type keyName struct {
	id  string
	alg Alg
}

// NewSet makes a set of keys, no two of one kid and algorithm.
func NewSet(keys ...*Key) (*Set, error) {
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("more than %d keys", maxKeys)
	}
	s := &Set{keys: slices.Clone(keys), by: make(map[keyName]*Key, len(keys))}
	for _, k := range keys {
		n := keyName{k.id, k.alg}
		if s.by[n] != nil {
			return nil, fmt.Errorf("two keys of kid %q and alg %s", clip(k.id), k.alg)
		}
		s.by[n] = k
	}
	return s, nil
}

// Keys are the keys in the order of the set. The slice is the caller's.
func (s *Set) Keys() []*Key {
	if s == nil {
		return nil
	}
	return slices.Clone(s.keys)
}

// Len is how many keys there are: 0 of a nil set, and of one whose keys are all for other uses.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.keys)
}

// MarshalJSON prints the set as JWK Set (RFC 7517 section 5).
func (s *Set) MarshalJSON() ([]byte, error) {
	keys := s.Keys()
	if keys == nil {
		keys = []*Key{}
	}
	return json.Marshal(struct {
		Keys []*Key `json:"keys"`
	}{keys})
}

// find is step 8: the key that kid and alg name, and alg is the key's. Without kid only a set
// with one key of that algorithm says which key is meant.
func (s *Set) find(h header) (*Key, *Error) {
	if s.Len() == 0 {
		return nil, refuse(KeyID, "no keys of the issuer are known")
	}
	if !h.hasKid {
		var one *Key
		for _, k := range s.keys {
			if k.alg != Alg(h.alg) {
				continue
			}
			if one != nil {
				return nil, refuse(KeyID, "the token names no key and the issuer has several")
			}
			one = k
		}
		if one == nil {
			return nil, refuse(KeyID, "the issuer has no key of this algorithm")
		}
		return one, nil
	}
	if h.kid == "" || len(h.kid) > maxKeyID {
		return nil, refuse(KeyID, "kid is empty or too long")
	}
	if k := s.by[keyName{h.kid, Alg(h.alg)}]; k != nil {
		return k, nil
	}
	if slices.ContainsFunc(s.keys, func(k *Key) bool { return k.id == h.kid }) {
		return nil, refuse(Algo, "the key is of another algorithm")
	}
	return nil, refuse(KeyID, "the issuer has no such key")
}

// secret are the members that no public key has. k makes a symmetric key.
var secret = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}

// rawSet is what stands in a JWK Set, its keys as they came.
type rawSet struct{ Keys *[]jsontext.Value }

// UnmarshalJSONFrom reads keys and steps over the rest.
func (r *rawSet) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return members(dec, func(name string, v jsontext.Value) error {
		if name != "keys" {
			return nil
		}
		return json2.Unmarshal(v, &r.Keys)
	})
}

// rawKey is the members of one key.
type rawKey map[string]jsontext.Value

// UnmarshalJSONFrom reads all of them.
func (r *rawKey) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	*r = rawKey{}
	return members(dec, func(name string, v jsontext.Value) error {
		(*r)[name] = v.Clone()
		return nil
	})
}

// text is a member that must be a text if it is there.
func (r rawKey) text(name string) (string, error) {
	v, ok := r[name]
	if !ok {
		return "", nil
	}
	if v.Kind() != '"' {
		return "", fmt.Errorf("%s is not a text", name)
	}
	return unquote(v), nil
}

// ReadSet reads a JWK Set by the rules of tokens.md 10.3: keys for other uses are passed over,
// one bad key refuses the set. rsa names the algorithm of RSA keys that name none; else RS256.
func ReadSet(data []byte, rsa ...Alg) (*Set, error) {
	implied := RS256
	if i := slices.IndexFunc(rsa, func(a Alg) bool { return a != "" && (a[0] == 'R' || a[0] == 'P') }); i >= 0 {
		implied = rsa[i]
	}
	if len(data) > maxSet {
		return nil, fmt.Errorf("a key set of more than %d bytes", maxSet)
	}
	if tooDeep(data) {
		return nil, errors.New("the key set is nested too deep")
	}
	var raw rawSet
	if err := json2.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("the key set is not valid JSON (%s)", fault(data, err))
	}
	if raw.Keys == nil {
		return nil, errors.New("the key set has no list of keys")
	}
	var keys []*Key
	for i, v := range *raw.Keys {
		k, err := readKey(v, implied)
		if err != nil {
			return nil, fmt.Errorf("key %d of the set: %w", i+1, err)
		}
		if k != nil {
			keys = append(keys, k)
		}
		if len(keys) > maxKeys {
			return nil, fmt.Errorf("more than %d keys", maxKeys)
		}
	}
	return NewSet(keys...)
}

// readKey gives nil for a key that is passed over.
func readKey(v jsontext.Value, implied Alg) (*Key, error) {
	var raw rawKey
	if err := json2.Unmarshal(v, &raw); err != nil {
		return nil, errors.New("not an object")
	}
	for _, name := range secret {
		if _, ok := raw[name]; ok {
			return nil, fmt.Errorf("it holds the private member %s: only public keys belong here", name)
		}
	}
	var j jwk
	var alg string
	var err error
	for _, m := range []struct {
		name string
		to   *string
	}{{"kty", &j.Kty}, {"crv", &j.Crv}, {"alg", &alg}, {"use", &j.Use}, {"kid", &j.Kid}, {"x", &j.X}, {"y", &j.Y}, {"n", &j.N}, {"e", &j.E}} {
		if *m.to, err = raw.text(m.name); err != nil {
			return nil, err
		}
	}
	if j.Kty == "oct" {
		return nil, errors.New("it is symmetric: who can check with it can sign with it")
	}
	verifies, err := raw.verifies()
	if err != nil {
		return nil, err
	}
	if j.Kty == "" {
		return nil, errors.New("it has no kty")
	}
	if !verifies || j.foreign(alg) {
		return nil, nil
	}
	j.Alg = Alg(alg)
	return j.build(implied)
}

// verifies reads use and key_ops: what they mean, if they are there, must be signatures.
func (r rawKey) verifies() (bool, error) {
	use, err := r.text("use")
	if err != nil {
		return false, err
	}
	if _, ok := r["use"]; ok && use != "sig" {
		return false, nil
	}
	v, ok := r["key_ops"]
	if !ok {
		return true, nil
	}
	var ops []string
	if err := json2.Unmarshal(v, &ops); err != nil {
		return false, errors.New("key_ops is not a list of texts")
	}
	return slices.Contains(ops, "verify"), nil
}

// foreign reports a kty, crv or alg that is not known here.
func (j jwk) foreign(alg string) bool {
	if alg != "" && !slices.Contains(all, Alg(alg)) {
		return true
	}
	switch j.Kty {
	case "RSA":
		return false
	case "EC", "OKP":
		return !slices.ContainsFunc(curves, func(c curve) bool { return c.name == j.Crv })
	}
	return true
}
