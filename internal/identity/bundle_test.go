package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
)

// jwk is a key of a bundle document, with some members replaced or, by null, removed.
func jwk(t *testing.T, cert *x509.Certificate, edits ...string) string {
	t.Helper()
	point, err := cert.PublicKey.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	n := (len(point) - 1) / 2
	members := [][2]string{
		{"kty", `"EC"`}, {"use", `"x509-svid"`}, {"crv", `"P-256"`},
		{"x", quote(base64.RawURLEncoding, point[1:1+n])}, {"y", quote(base64.RawURLEncoding, point[1+n:])},
		{"x5c", "[" + quote(base64.StdEncoding, cert.Raw) + "]"},
	}
	for i := 0; i < len(edits); i += 2 {
		replaced := false
		for j := range members {
			if members[j][0] == edits[i] {
				members[j][1], replaced = edits[i+1], true
			}
		}
		if !replaced {
			members = append(members, [2]string{edits[i], edits[i+1]})
		}
	}
	var parts []string
	for _, m := range members {
		if m[1] != "-" {
			parts = append(parts, fmt.Sprintf("%q:%s", m[0], m[1]))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func quote(enc *base64.Encoding, b []byte) string { return `"` + enc.EncodeToString(b) + `"` }

func document(keys ...string) string {
	return `{"spiffe_sequence":42,"spiffe_refresh_hint":600,"keys":[` + strings.Join(keys, ",") + `]}`
}

var home = spiffeid.RequireTrustDomainFromString("home.test")

// One bad key never spoils a good one beside it (Trust Domain and Bundle, section 4.1.3).
func TestParseBundleKeys(t *testing.T) {
	a, other := identitytest.New(t, "home.test", now), identitytest.New(t, "other.test", now)
	good := jwk(t, a.Root)
	edited := func(edit func(*x509.Certificate)) *x509.Certificate {
		template := a.CATemplate("edited")
		edit(template)
		return identitytest.Sign(t, template, template, a.RootKey.Public(), a.RootKey)
	}
	uri := func(text string) *x509.Certificate {
		return edited(func(c *x509.Certificate) {
			c.URIs, c.ExtraExtensions = nil, []pkix.Extension{identitytest.URISAN(text)}
		})
	}
	der := base64.StdEncoding.EncodeToString(a.Root.Raw)
	leaf := a.Leaf(t, identitytest.WorkloadID).Leaf
	for _, tt := range []struct {
		name, key string
		taken     bool
		warned    bool
	}{
		{"good", good, true, false},
		{"unknown kty", jwk(t, a.Root, "kty", `"AKP"`), false, false},
		{"no kty", jwk(t, a.Root, "kty", "-"), false, false},
		{"unknown use", jwk(t, a.Root, "use", `"X509-SVID"`), false, false},
		{"no use", jwk(t, a.Root, "use", "-"), false, false},
		{"no crv", jwk(t, a.Root, "crv", "-"), false, true},
		{"unknown crv", jwk(t, a.Root, "crv", `"P-999"`), false, true},
		{"no x5c", jwk(t, a.Root, "x5c", "-"), false, false},
		{"empty x5c", jwk(t, a.Root, "x5c", "[]"), false, false},
		{"several x5c: the first", jwk(t, a.Root, "x5c", `["`+der+`","AAAA"]`), true, false},
		{"x5c not base64", jwk(t, a.Root, "x5c", `["???"]`), false, true},
		{"x5c with a line break", jwk(t, a.Root, "x5c", `["`+der[:8]+`\n`+der[8:]+`"]`), false, true},
		{"x5c not DER", jwk(t, a.Root, "x5c", `["AAAA"]`), false, true},
		{"x5c a number", jwk(t, a.Root, "x5c", `[1]`), false, true},
		{"a leaf", jwk(t, leaf), false, true},
		{"other key than the certificate's", jwk(t, a.Root, "x5c", `["`+base64.StdEncoding.EncodeToString(other.Root.Raw)+`"]`), false, true},
		{"no keyCertSign", jwk(t, edited(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })), false, true},
		{"ID with a path", jwk(t, uri("spiffe://home.test/a")), false, true},
		{"ID with a lone slash", jwk(t, uri("spiffe://home.test/")), true, true},
		{"ID of another domain", jwk(t, other.Root), true, true},
		{"no ID", jwk(t, edited(func(c *x509.Certificate) { c.URIs = nil })), true, false},
		{"with kid", jwk(t, a.Root, "kid", `"k"`), true, true},
		{"expired", jwk(t, edited(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })), true, false},
		{"jwt key", `{"kty":"EC","use":"jwt-svid","kid":"k","crv":"P-256","x":"","y":""}`, false, false},
		{"jwt key without kid", `{"kty":"EC","use":"jwt-svid","crv":"P-256","x":"","y":""}`, false, true},
		{"unknown members", jwk(t, a.Root, "extra", `{"a":[1]}`), true, false},
		{"not an object", `"a string"`, false, false},
		{"null", `null`, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := identity.ParseBundle(home, []byte(document(tt.key)))
			if err != nil {
				t.Fatal(err)
			}
			if got := len(b.Roots) == 1; got != tt.taken {
				t.Errorf("taken %v, want %v (%q)", got, tt.taken, b.Warnings)
			}
			if got := len(b.Warnings) > 0; got != tt.warned {
				t.Errorf("warnings %q, want some: %v", b.Warnings, tt.warned)
			}
			with, err := identity.ParseBundle(home, []byte(document(tt.key, good)))
			if err != nil || len(with.Roots) < 1 {
				t.Errorf("beside a good key: got %d roots, %v", len(with.Roots), err)
			}
		})
	}
}

func TestParseBundleRefused(t *testing.T) {
	a := identitytest.New(t, "home.test", now)
	good := jwk(t, a.Root)
	jwt := `{"kty":"EC","use":"jwt-svid","kid":"k","crv":"P-256"}`
	for name, text := range map[string]string{
		"empty":                      "",
		"no keys":                    `{"spiffe_sequence":1}`,
		"keys null":                  `{"keys":null}`,
		"keys an object":             `{"keys":{}}`,
		"keys in capitals":           `{"KEYS":[]}`,
		"a list":                     `[]`,
		"something after it":         document(good) + "x",
		"a second document":          document(good) + document(good),
		"keys twice":                 `{"keys":[],"keys":[` + good + `]}`,
		"keys twice, one escaped":    `{"keys":[],"k\u0065ys":[` + good + `]}`,
		"member twice in a key":      document(`{"kty":"EC","kty":"RSA"}`),
		"member twice deep inside":   `{"keys":[],"x":{"a":{"b":1,"b":2}}}`,
		"too deep":                   `{"keys":[],"x":` + strings.Repeat("[", 9) + strings.Repeat("]", 9) + `}`,
		"not UTF-8":                  "{\"keys\":[],\"\xff\":1}",
		"too large":                  `{"keys":[],"x":"` + strings.Repeat("a", 1<<20) + `"}`,
		"too many keys":              document(strings.Repeat("{},", 256) + "{}"),
		"symmetric key":              document(good, `{"kty":"oct","use":"jwt-svid","kid":"k"}`),
		"private member":             document(jwk(t, a.Root, "d", `"AAAA"`)),
		"private member, unknown":    document(`{"kty":"AKP","k":"AAAA"}`),
		"two jwt keys of one kid":    document(jwt, jwt),
		"sequence negative":          `{"spiffe_sequence":-1,"keys":[]}`,
		"sequence fractional":        `{"spiffe_sequence":1.5,"keys":[]}`,
		"sequence with an exponent":  `{"spiffe_sequence":1e3,"keys":[]}`,
		"sequence a string":          `{"spiffe_sequence":"1","keys":[]}`,
		"sequence null":              `{"spiffe_sequence":null,"keys":[]}`,
		"sequence above 2^63-1":      `{"spiffe_sequence":9223372036854775808,"keys":[]}`,
		"comma at the end of a list": `{"keys":[` + good + `,]}`,
	} {
		if b, err := identity.ParseBundle(home, []byte(text)); err == nil {
			t.Errorf("%s: accepted with %d roots", name, len(b.Roots))
		}
	}
	if _, err := identity.ParseBundle(spiffeid.TrustDomain{}, []byte(document(good))); err == nil {
		t.Error("no trust domain: accepted")
	}
}

func TestParseBundleNumbers(t *testing.T) {
	for text, want := range map[string]time.Duration{
		`{"keys":[]}`:                             5 * time.Minute,
		`{"spiffe_refresh_hint":1,"keys":[]}`:     30 * time.Second,
		`{"spiffe_refresh_hint":-5,"keys":[]}`:    30 * time.Second,
		`{"spiffe_refresh_hint":0,"keys":[]}`:     30 * time.Second,
		`{"spiffe_refresh_hint":600,"keys":[]}`:   10 * time.Minute,
		`{"spiffe_refresh_hint":1e9,"keys":[]}`:   24 * time.Hour,
		`{"spiffe_refresh_hint":1e999,"keys":[]}`: 24 * time.Hour,
		`{"spiffe_refresh_hint":"x","keys":[]}`:   5 * time.Minute,
	} {
		b, err := identity.ParseBundle(home, []byte(text))
		if err != nil || b.RefreshHint != want {
			t.Errorf("%s: got %v, %v, want %v", text, b.RefreshHint, err, want)
		}
	}
	b, err := identity.ParseBundle(home, []byte(`{"spiffe_sequence":9223372036854775807,"keys":[]}`))
	if err != nil || b.Sequence != 1<<63-1 {
		t.Errorf("got sequence %d, %v", b.Sequence, err)
	}
}

// What we publish reads back, is stable, and go-spiffe takes it.
func TestBundleJSON(t *testing.T) {
	a, second := identitytest.New(t, "home.test", now), identitytest.New(t, "home.test", now)
	b := a.Bundle()
	b.Sequence = 7
	b.Roots = append(b.Roots, second.Root)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := a.CATemplate("other keys")
	b.Roots = append(b.Roots,
		identitytest.Sign(t, template, template, rsaKey.Public(), rsaKey),
		identitytest.Sign(t, template, template, p384.Public(), p384))
	text, err := b.JSON()
	if err != nil {
		t.Fatal(err)
	}
	reversed := b
	reversed.Roots = []*x509.Certificate{b.Roots[3], b.Roots[2], b.Roots[1], b.Roots[0]}
	if again, err := reversed.JSON(); err != nil || !bytes.Equal(text, again) {
		t.Errorf("other order, other bytes: %v\n%s\n%s", err, text, again)
	}
	back, err := identity.ParseBundle(home, text)
	if err != nil || len(back.Roots) != 4 || back.Sequence != 7 || len(back.Warnings) != 0 {
		t.Errorf("read back: %d roots, sequence %d, warnings %q, %v", len(back.Roots), back.Sequence, back.Warnings, err)
	}
	oracle, err := spiffebundle.Parse(home, text)
	if err != nil || len(oracle.X509Authorities()) != 4 {
		t.Fatalf("go-spiffe: %v", err)
	}
	if hint, ok := oracle.RefreshHint(); !ok || hint != 5*time.Minute {
		t.Errorf("go-spiffe reads hint %v", hint)
	}
	theirs, err := oracle.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := identity.ParseBundle(home, theirs); err != nil || len(back.Roots) != 4 {
		t.Errorf("go-spiffe's own document: %d roots, %v", len(back.Roots), err)
	}
	empty, err := identity.Bundle{TrustDomain: home}.JSON()
	if want := `{"spiffe_sequence":0,"spiffe_refresh_hint":300,"keys":[]}`; err != nil || string(empty) != want {
		t.Errorf("empty: got %s, %v, want %s", empty, err, want)
	}
}

func TestBundlePinned(t *testing.T) {
	a, liar := identitytest.New(t, "home.test", now), identitytest.New(t, "home.test", now)
	b := a.Bundle()
	b.Roots = append(b.Roots, liar.Root)
	got := b.Pinned(sha256.Sum256(a.Root.RawSubjectPublicKeyInfo))
	if len(got.Roots) != 1 || !got.Roots[0].Equal(a.Root) || len(b.Roots) != 2 {
		t.Errorf("got %d roots, original now %d", len(got.Roots), len(b.Roots))
	}
	if none := b.Pinned([32]byte{}); len(none.Roots) != 0 {
		t.Errorf("unknown pin: got %d roots", len(none.Roots))
	}
}

// Two bundles of one domain are never united, and nobody can change a Trust from outside.
func TestTrustNeverPools(t *testing.T) {
	a, b := identitytest.New(t, "home.test", now), identitytest.New(t, "home.test", now)
	trust := identity.NewTrust(a.TrustDomain, a.Bundle(), b.Bundle())
	got, ok := trust.Bundle(a.TrustDomain)
	if !ok || len(got.Roots) != 1 || !got.Roots[0].Equal(b.Root) {
		t.Fatalf("got %d roots, want the later bundle whole", len(got.Roots))
	}
	got.Roots[0] = a.Root
	leaf := a.Leaf(t, identitytest.WorkloadID)
	if _, err := identity.Verify([]*x509.Certificate{leaf.Leaf, a.Issuer}, trust, now); reasonOf(err) != identity.UnknownCA {
		t.Errorf("got %v, want %s", err, identity.UnknownCA)
	}
}

// FuzzParseBundle: no document may panic the reader, and what is read can be published and
// read back the same.
func FuzzParseBundle(f *testing.F) {
	for _, text := range []string{`{"keys":[]}`, `{"keys":null}`, `{"keys":[{"kty":"EC","use":"x509-svid","x5c":["AAAA"]}]}`, `{"spiffe_sequence":1e3}`, `{"keys":[],"keys":[]}`, `[[[[[[[[[`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := identity.ParseBundle(home, text)
		if err != nil {
			return
		}
		out, err := b.JSON()
		if err != nil {
			t.Fatalf("cannot publish what was read: %v", err)
		}
		back, err := identity.ParseBundle(home, out)
		if err != nil || len(back.Roots) != len(b.Roots) || back.Sequence != b.Sequence {
			t.Fatalf("published %s: read back %d roots, sequence %d, %v", out, len(back.Roots), back.Sequence, err)
		}
	})
}
