//lint:file-ignore SA1019 only its fields can make a key that is on no curve

package jose

import (
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"strings"
	"testing"
)

// thumbprint is RFC 7638 with SHA-256 of an EC key, written out: what go-jose computes is held
// against it.
func (j jwk) thumbprint() string {
	sum := sha256.Sum256([]byte(`{"crv":"` + j.Crv + `","kty":"EC","x":"` + j.X + `","y":"` + j.Y + `"}`))
	return alphabet.EncodeToString(sum[:])
}

// Every number has one spelling. Each key stands alone, so that nothing else refuses the set.
func TestSecNumbersHaveOneSpelling(t *testing.T) {
	for name, pub := range publicKeys(t) {
		good, err := numbers(pub)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := ReadSet([]byte(`{"keys":[` + string(mustMarshal(t, good)) + `]}`)); err != nil || s.Len() != 1 {
			t.Fatalf("%s as it should be: %v", name, err)
		}
		for member, number := range map[string]func(*jwk) *string{
			"x": func(j *jwk) *string { return &j.X }, "y": func(j *jwk) *string { return &j.Y },
			"n": func(j *jwk) *string { return &j.N }, "e": func(j *jwk) *string { return &j.E },
		} {
			v := *number(&good)
			if v == "" {
				continue
			}
			bad := map[string]string{
				"absent": "", "padded": v + "=", "LF inside": v[:2] + "\n" + v[2:], "CR LF behind": v + "\r\n", "LF before": "\n" + v,
				"a blank": v[:2] + " " + v[2:], "the other alphabet": "+/" + v[2:], "a length of no octets": v + strings.Repeat("A", 5-len(v)%4),
			}
			if len(v)%4 != 0 {
				bad["unused bits"] = loosen(t, v)
			}
			if member == "x" || member == "y" {
				b, err := alphabet.DecodeString(v)
				if err != nil {
					t.Fatal(err)
				}
				bad["short"], bad["a zero before"] = b64(string(b[1:])), b64("\x00"+string(b))
			}
			for what, text := range bad {
				j := good
				*number(&j) = text
				if s, err := ReadSet([]byte(`{"keys":[` + string(mustMarshal(t, j)) + `]}`)); err == nil {
					t.Errorf("%s, %s %s: a set of %d keys", name, member, what, s.Len())
				}
			}
		}
	}
}

// Members that mean nothing for the kind of key, or to others than us, do not reach go-jose.
func TestMembersOfOtherKinds(t *testing.T) {
	for name, pub := range publicKeys(t) {
		j, err := numbers(pub)
		if err != nil {
			t.Fatal(err)
		}
		for _, more := range []string{`"x5c":["!"]`, `"x5u":":"`, `"x5t":"!"`, `"x5t#S256":7`, `"pub":7`, `"D":"AAAA"`, `"n":"!"`, `"y":"!"`} {
			if member, _, _ := strings.Cut(more, ":"); strings.Contains(string(mustMarshal(t, j)), member+":") {
				continue
			}
			text := strings.Replace(string(mustMarshal(t, j)), "{", "{"+more+",", 1)
			s, err := ReadSet([]byte(`{"keys":[` + text + `]}`))
			if err != nil || s.Len() != 1 {
				t.Errorf("%s with %s: %v", name, more, err)
				continue
			}
			if again, err := numbers(s.Keys()[0].Public()); err != nil || again != j {
				t.Errorf("%s with %s: %+v, %v", name, more, again, err)
			}
		}
	}
}

// The longest RSA key is read, and its set printed and read again.
func TestLongestRSA(t *testing.T) {
	n := new(big.Int).Lsh(big.NewInt(1), maxRSA-1)
	s, err := ReadSet([]byte(`{"keys":[` + rsaJWK(n.SetBit(n, 0, 1), "") + `]}`))
	if err != nil || s.Keys()[0].Public().(*rsa.PublicKey).N.Cmp(n) != 0 {
		t.Fatal(err)
	}
	if again, err := ReadSet(mustMarshal(t, s)); err != nil || again.Len() != 1 {
		t.Fatal(err)
	}
}

// A point that is not on the curve gets no name.
func TestSecNewKeyOffCurve(t *testing.T) {
	good := newKey(t, elliptic.P256()).PublicKey
	for what, x := range map[string]*big.Int{"another x": new(big.Int).Add(good.X, big.NewInt(1)), "minus x": new(big.Int).Neg(good.X), "no x": new(big.Int)} {
		bad := good
		bad.X = x
		if k, err := NewKey(&bad); err == nil {
			t.Errorf("%s: kid %s", what, k.ID())
		}
	}
}

// kid comes back as it was, whatever JSON has to escape in it.
func TestKidIsKept(t *testing.T) {
	pub := &newKey(t, elliptic.P256()).PublicKey
	for _, kid := range []string{"", `"\`, "<&>", "\u2028", "é", "\x00"} {
		text := mustMarshal(t, &Key{id: kid, alg: ES256, pub: pub})
		s, err := ReadSet([]byte(`{"keys":[` + string(text) + `]}`))
		if err != nil || s.Keys()[0].ID() != kid {
			t.Errorf("%q: %s, %v", kid, text, err)
		}
		if again := mustMarshal(t, s.Keys()[0]); string(again) != string(text) {
			t.Errorf("%s, then %s", text, again)
		}
	}
}
