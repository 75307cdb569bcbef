package identity_test

import (
	"crypto/x509"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/identity/identitytest"
)

// The rows of the reference, section 3.2.
var (
	longDomain   = strings.Repeat("d", 255)
	acceptedURIs = []string{
		"spiffe://example.org/ns/a/sa/b",
		"spiffe://1.2.3.4/a",
		"spiffe://exa_mple-1.org/A.b_c-D/...",
		"spiffe://x/.a/..b/a..",
		"spiffe://-x/a",
		"spiffe://_/a",
		"spiffe://x/" + strings.Repeat("a", 2048-11),
		"spiffe://x/" + strings.Repeat("a", 2047-11),
		"spiffe://" + longDomain + "/a",
		"spiffe://" + longDomain[1:] + "/a",
	}
	// valid as text; no certificate that Go's parser takes can hold them
	onlyText = []string{"spiffe://.x/a", "spiffe://x./a", "spiffe://a..b/a"}
	// valid as the ID of a trust domain or authority, not as that of a leaf
	withoutPath = []string{"spiffe://example.org", "spiffe://x"}
	refusedURIs = []string{
		"", "spiffe://", "spiffe:///a", "spiffe:/example.org/a", "example.org/a",
		"SPIFFE://x/a", "Spiffe://x/a", "https://x/a",
		"spiffe://x/" + strings.Repeat("a", 2049-11),
		"spiffe://" + longDomain + "d/a",
		"spiffe://X/a", "spiffe://x.ORG/a",
		"spiffe://u@x/a", "spiffe://@x/a", "spiffe://:@x/a",
		"spiffe://x:443/a", "spiffe://x:/a", "spiffe://[::1]/a",
		"spiffe://x/%41", "spiffe://x/a%2Fb", "spiffe://x/%2e%2e",
		"spiffe://x/", "spiffe://x/a/", "spiffe://x//a", "spiffe://x/a//b",
		"spiffe://x/.", "spiffe://x/..", "spiffe://x/a/../b",
		"spiffe://x/a?", "spiffe://x/a?q", "spiffe://x/a#", "spiffe://x/a#f",
		"spiffe://x/é", "spiffe://x/a b", "spiffe://x/a\x00", "spiffe://x/a~b",
		"spiffe://x/a:b", "spiffe://x/a@b", "spiffe://x/a+b",
	}
)

func TestParseID(t *testing.T) {
	for _, text := range append(append(append([]string{}, acceptedURIs...), onlyText...), withoutPath...) {
		id, err := identity.ParseID([]byte(text))
		if err != nil || id.String() != text {
			t.Errorf("ParseID(%.40q): got %q, %v, want it back", text, id, err)
		}
	}
	for _, text := range refusedURIs {
		if id, err := identity.ParseID([]byte(text)); err == nil || !id.IsZero() {
			t.Errorf("ParseID(%.40q): got %q, want an error", text, id)
		}
	}
}

// The same rows through a certificate: its raw bytes decide.
func TestIDFromLeaf(t *testing.T) {
	a := identitytest.New(t, "x", now)
	key := identitytest.NewKey(t)
	read := func(text string) (string, error) {
		der := identitytest.SignRaw(t, a.LeafTemplate(text), a.Issuer, key.Public(), a.IssuerKey)
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return "", err // Go's parser already refuses some
		}
		id, err := identity.IDFromLeaf(cert)
		return id.String(), err
	}
	for _, text := range acceptedURIs {
		if got, err := read(text); err != nil || got != text {
			t.Errorf("leaf with %.40q: got %q, %v, want it back", text, got, err)
		}
	}
	for _, text := range append(append(append([]string{}, refusedURIs...), onlyText...), withoutPath...) {
		if got, err := read(text); err == nil {
			t.Errorf("leaf with %.40q: got %q, want an error", text, got)
		}
	}
}

// Every byte value in the first, a middle and the last place of trust domain and segment.
func TestParseIDEveryByte(t *testing.T) {
	const lower, both = "abcdefghijklmnopqrstuvwxyz0123456789.-_", "abcdefghijklmnopqrstuvwxyz0123456789.-_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for b := range 256 {
		c := string([]byte{byte(b)})
		inDomain, inSegment := strings.Contains(lower, c), strings.Contains(both, c)
		for _, tt := range []struct {
			text string
			want bool
		}{
			{"spiffe://" + c + "xx/seg", inDomain},
			{"spiffe://x" + c + "x/seg", inDomain || c == "/"},
			{"spiffe://xx" + c + "/seg", inDomain},
			{"spiffe://x/" + c + "ab", inSegment},
			{"spiffe://x/a" + c + "b", inSegment || c == "/"},
			{"spiffe://x/ab" + c, inSegment},
		} {
			_, err := identity.ParseID([]byte(tt.text))
			if got := err == nil; got != tt.want {
				t.Errorf("ParseID(%q): accepted %v, want %v", tt.text, got, tt.want)
			}
			if _, oracle := spiffeid.FromString(tt.text); (oracle == nil) != (err == nil) {
				t.Errorf("ParseID(%q): %v, go-spiffe says %v", tt.text, err, oracle)
			}
		}
	}
}

// The tag spiffeid_charset_backcompat of go-spiffe would widen every identity of the mesh.
func TestNoBackcompatCharset(t *testing.T) {
	if _, err := spiffeid.FromString("spiffe://x/a~b"); err == nil {
		t.Fatal("built with the tag spiffeid_charset_backcompat")
	}
}

func TestIDsAreCaseSensitive(t *testing.T) {
	a, _ := identity.ParseID([]byte("spiffe://x/ns/a/sa/b"))
	b, _ := identity.ParseID([]byte("spiffe://x/ns/a/sa/B"))
	if a == b {
		t.Error("two IDs that differ in case are equal")
	}
}

func TestCheckTrustDomain(t *testing.T) {
	for _, good := range []string{"cluster.local", "1.2.3.4", "a_b", "x", strings.Repeat("d", 255)} {
		if err := identity.CheckTrustDomain(good); err != nil {
			t.Errorf("CheckTrustDomain(%.40q): %v", good, err)
		}
		// what is allowed must be issuable: Go's parser takes it in a certificate
		identitytest.New(t, good, now)
	}
	for _, bad := range []string{"", "a..b", ".a", "a.", "A", "a/b", "a:1", "a b", "é", strings.Repeat("d", 256), "spiffe://a"} {
		if err := identity.CheckTrustDomain(bad); err == nil {
			t.Errorf("CheckTrustDomain(%.40q): accepted", bad)
		}
	}
}

func TestOwnIDs(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	for _, tt := range []struct {
		name string
		make func() (spiffeid.ID, error)
		want string // empty: refused
	}{
		{"workload", func() (spiffeid.ID, error) { return identity.ForWorkload(td, "shop", "api") }, "spiffe://cluster.local/ns/shop/sa/api"},
		{"workload in the reserved namespace", func() (spiffeid.ID, error) { return identity.ForWorkload(td, "countersign", "api") }, ""},
		{"namespace with a capital", func() (spiffeid.ID, error) { return identity.ForWorkload(td, "Shop", "api") }, ""},
		{"account with a slash", func() (spiffeid.ID, error) { return identity.ForWorkload(td, "shop", "a/b") }, ""},
		{"account of dots", func() (spiffeid.ID, error) { return identity.ForWorkload(td, "shop", "..") }, ""},
		{"account too long", func() (spiffeid.ID, error) { return identity.ForWorkload(td, "shop", strings.Repeat("a", 64)) }, ""},
		{"account ends in a dash", func() (spiffeid.ID, error) { return identity.ForWorkload(td, "shop", "a-") }, ""},
		{"no domain", func() (spiffeid.ID, error) { return identity.ForWorkload(spiffeid.TrustDomain{}, "shop", "api") }, ""},
		{"node", func() (spiffeid.ID, error) { return identity.ForNode(td, "web-1") }, "spiffe://cluster.local/ns/countersign/sa/node-web-1"},
		{"server", func() (spiffeid.ID, error) { return identity.ForServer(td, "s1") }, "spiffe://cluster.local/ns/countersign/sa/server-s1"},
		{"node of 56", func() (spiffeid.ID, error) { return identity.ForNode(td, strings.Repeat("a", 56)) }, "spiffe://cluster.local/ns/countersign/sa/node-" + strings.Repeat("a", 56)},
		{"node of 57", func() (spiffeid.ID, error) { return identity.ForNode(td, strings.Repeat("a", 57)) }, ""},
	} {
		got, err := tt.make()
		if got.String() != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestSplit(t *testing.T) {
	for _, tt := range []struct {
		id, ns, sa string
	}{
		{"spiffe://x/ns/shop/sa/api", "shop", "api"},
		{"spiffe://x/ns/Shop/sa/a.b", "Shop", "a.b"},
		{"spiffe://x", "", ""},
		{"spiffe://x/ns/shop", "", ""},
		{"spiffe://x/ns/shop/sa", "", ""},
		{"spiffe://x/ns/shop/sa/api/more", "", ""},
		{"spiffe://x/NS/shop/sa/api", "", ""},
		{"spiffe://x/ns/shop/SA/api", "", ""},
		{"spiffe://x/ns/sa/sa", "", ""},
		{"spiffe://x/a/ns/shop/sa/api", "", ""},
		{"spiffe://x/ns/sa/sa/sa", "sa", "sa"},
	} {
		ns, sa, ok := identity.Split(spiffeid.RequireFromString(tt.id))
		if ns != tt.ns || sa != tt.sa || ok != (tt.ns != "") {
			t.Errorf("Split(%q): got %q %q %v, want %q %q", tt.id, ns, sa, ok, tt.ns, tt.sa)
		}
	}
	if _, _, ok := identity.Split(spiffeid.ID{}); ok {
		t.Error("Split of the zero ID: ok")
	}
}

// FuzzParseID: the verdict equals go-spiffe's plus the lengths, and what is read prints the same.
func FuzzParseID(f *testing.F) {
	for _, text := range []string{"spiffe://x/a", "spiffe://x", "", "SPIFFE://x/a", "spiffe://x/a/../b", "spiffe://x/%41", "spiffe://é/a"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		id, err := identity.ParseID(text)
		oracle, oracleErr := spiffeid.FromString(string(text))
		want := oracleErr == nil && len(text) <= 2048 && len(oracle.TrustDomain().Name()) <= 255
		if (err == nil) != want {
			t.Fatalf("ParseID(%q): %v, go-spiffe says %v", text, err, oracleErr)
		}
		if err == nil && id.String() != string(text) {
			t.Fatalf("ParseID(%q): prints %q", text, id)
		}
		identity.Split(id)
	})
}
