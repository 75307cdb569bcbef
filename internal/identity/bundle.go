package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// What a bundle document may hold, and how often it may ask to be read again.
const (
	maxBundleBytes = 1 << 20
	maxBundleKeys  = 256

	defaultHint = 5 * time.Minute
	minHint     = 30 * time.Second
	maxHint     = 24 * time.Hour
)

// The use of a key in a bundle (SPIFFE Trust Domain and Bundle, section 4.2.2): case-sensitive.
const (
	useX509 = "x509-svid"
	useJWT  = "jwt-svid"
)

// privateMembers of a JWK (RFC 7518, sections 6.2.2, 6.3.2, 6.4.1): a document with one of them
// publishes a secret.
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// ParseBundle reads a SPIFFE bundle document of the trust domain td. Keys of a kind not known
// here are left out, as the standard demands (Trust Domain and Bundle, section 4.1.3); what is
// left may be nothing: a valid bundle that trusts nobody. A document that could be read in two
// ways, or holds a secret, is refused whole.
func ParseBundle(td spiffeid.TrustDomain, spiffeJSON []byte) (Bundle, error) {
	b, err := parseBundle(td, spiffeJSON)
	if err != nil {
		return Bundle{}, fmt.Errorf("bundle of trust domain %q: %w", td, err)
	}
	return b, nil
}

func parseBundle(td spiffeid.TrustDomain, spiffeJSON []byte) (Bundle, error) {
	if td.IsZero() {
		return Bundle{}, errors.New("no trust domain was named")
	}
	if len(spiffeJSON) > maxBundleBytes {
		return Bundle{}, fmt.Errorf("%d bytes: at most %d are allowed", len(spiffeJSON), maxBundleBytes)
	}
	document, err := parseObject(spiffeJSON)
	if err != nil {
		return Bundle{}, err
	}
	b := Bundle{TrustDomain: td}
	if b.Sequence, err = sequence(document); err != nil {
		return Bundle{}, err
	}
	b.RefreshHint = refreshHint(document)
	keys, ok := document["keys"].([]any)
	if !ok {
		return Bundle{}, errors.New(`"keys" is missing or not a list`)
	}
	if len(keys) > maxBundleKeys {
		return Bundle{}, fmt.Errorf("%d keys: at most %d are allowed", len(keys), maxBundleKeys)
	}
	if err := refuseSecrets(keys); err != nil {
		return Bundle{}, err
	}
	if err := refuseTwins(keys); err != nil {
		return Bundle{}, err
	}
	for i, key := range keys {
		warn := func(format string, args ...any) {
			b.Warnings = append(b.Warnings, fmt.Sprintf("key %d: ", i)+fmt.Sprintf(format, args...))
		}
		if root := rootOf(td, key, warn); root != nil {
			b.Roots = append(b.Roots, root)
		}
	}
	return b, nil
}

// sequence reads spiffe_sequence (Trust Domain and Bundle, section 4.1.1): absent is zero.
func sequence(document map[string]any) (uint64, error) {
	value, ok := document["spiffe_sequence"]
	if !ok {
		return 0, nil
	}
	number, _ := value.(json.Number)
	n, err := number.Int64()
	if err != nil || n < 0 {
		return 0, errors.New(`"spiffe_sequence" is not a whole number from 0 to 2^63-1`)
	}
	return uint64(n), nil
}

// refreshHint reads spiffe_refresh_hint (section 4.1.2), in seconds, into sane bounds.
func refreshHint(document map[string]any) time.Duration {
	number, ok := document["spiffe_refresh_hint"].(json.Number)
	if !ok {
		return defaultHint
	}
	seconds, err := number.Float64()
	switch {
	case err != nil || seconds > maxHint.Seconds():
		return maxHint
	case seconds < minHint.Seconds():
		return minHint
	}
	return time.Duration(seconds * float64(time.Second))
}

// refuseSecrets refuses symmetric keys and private members: somebody published a secret, and
// nothing else in that document can be believed to be meant.
func refuseSecrets(keys []any) error {
	for i, value := range keys {
		key, _ := value.(map[string]any)
		if key["kty"] == "oct" {
			return fmt.Errorf("key %d is symmetric: a secret was published", i)
		}
		for _, member := range privateMembers {
			if _, ok := key[member]; ok {
				return fmt.Errorf("key %d has the private member %q: a secret was published", i, member)
			}
		}
	}
	return nil
}

// refuseTwins refuses two JWT keys of one kid (RFC 7517, section 4.5): unsafe to guess.
func refuseTwins(keys []any) error {
	seen := make(map[string]bool)
	for _, value := range keys {
		key, _ := value.(map[string]any)
		kid, _ := key["kid"].(string)
		if key["use"] != useJWT || kid == "" {
			continue
		}
		if seen[kid] {
			return fmt.Errorf("two %s keys have the kid %q", useJWT, clip([]byte(kid)))
		}
		seen[kid] = true
	}
	return nil
}

// rootOf is the authority in one key, or nil if the key is to be ignored.
func rootOf(td spiffeid.TrustDomain, value any, warn func(string, ...any)) *x509.Certificate {
	key, _ := value.(map[string]any)
	if key["use"] == useJWT && key["kid"] == nil {
		warn("ignored: a %s key without kid", useJWT)
	}
	if key["use"] != useX509 {
		return nil
	}
	switch key["kty"] {
	case "EC", "RSA", "OKP":
	default:
		return nil
	}
	certs, _ := key["x5c"].([]any)
	if len(certs) == 0 { // X509-SVID, section 6.2
		return nil
	}
	text, _ := certs[0].(string)
	root, err := parseRoot(text)
	if err == nil {
		err = checkRoot(td, root, key, warn)
	}
	if err != nil {
		warn("ignored: %v", err)
		return nil
	}
	if key["kid"] != nil { // X509-SVID, section 6.1
		warn("taken although it is an %s key with a kid", useX509)
	}
	return root
}

func parseRoot(text string) (*x509.Certificate, error) {
	if strings.ContainsAny(text, "\r\n") { // base64's Strict still skips them
		return nil, errors.New("x5c has line breaks")
	}
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("x5c is not base64")
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("x5c: %v", err)
	}
	return root, nil
}

// checkRoot judges a certificate as an authority of td (X509-SVID, sections 3.2 and 4.1 to 4.3).
func checkRoot(td spiffeid.TrustDomain, root *x509.Certificate, key map[string]any, warn func(string, ...any)) error {
	if !root.BasicConstraintsValid || !root.IsCA || root.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("certificate is not an authority")
	}
	if err := checkRootKey(root); err != nil {
		return err
	}
	if !sameKey(root, key) {
		return errors.New("its members name another key than its certificate")
	}
	uris, err := rawURIs(root)
	if err != nil {
		return err
	}
	for _, uri := range uris {
		if !bytes.HasPrefix(uri, []byte(scheme)) {
			continue
		}
		text, slash := bytes.CutSuffix(uri, []byte("/"))
		id, err := ParseID(text)
		switch {
		case err != nil:
			return err
		case id.Path() != "":
			return errors.New("the SPIFFE ID of an authority has no path")
		case slash:
			warn("taken although its SPIFFE ID ends in a slash")
		}
		if id.TrustDomain() != td {
			warn("taken for %q although its SPIFFE ID is of %q", td, id.TrustDomain())
		}
	}
	return nil
}

func checkRootKey(root *x509.Certificate) error {
	switch key := root.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA || bits > maxRSA {
			return fmt.Errorf("RSA key of %d bits: %d to %d are allowed", bits, minRSA, maxRSA)
		}
		if key.E < 3 || key.E%2 == 0 {
			return fmt.Errorf("RSA exponent %d is not allowed", key.E)
		}
		return nil
	default:
		if !allowedLeafKey(root.PublicKey) {
			return errors.New("key is none of P-256, P-384, P-521, Ed25519, RSA")
		}
		return nil
	}
}

// sameKey reports whether the members of a JWK spell the key of the certificate.
func sameKey(root *x509.Certificate, key map[string]any) bool {
	want := jwkOf(root)
	for name, value := range want {
		if key[name] != value {
			return false
		}
	}
	return want != nil
}

// jwkOf are the public members of a certificate's key (RFC 7518, section 6; RFC 8037, section 2).
func jwkOf(cert *x509.Certificate) map[string]string {
	text := base64.RawURLEncoding.EncodeToString
	switch key := cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		point, err := key.Bytes() // 0x04 ‖ x ‖ y, both of full length
		if err != nil || !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, key.Curve) {
			return nil
		}
		n := (len(point) - 1) / 2
		return map[string]string{
			"kty": "EC", "crv": key.Curve.Params().Name,
			"x": text(point[1 : 1+n]), "y": text(point[1+n:]),
		}
	case *rsa.PublicKey:
		return map[string]string{"kty": "RSA", "n": text(key.N.Bytes()), "e": text(big.NewInt(int64(key.E)).Bytes())}
	case ed25519.PublicKey:
		return map[string]string{"kty": "OKP", "crv": "Ed25519", "x": text(key)}
	}
	return nil
}

// JSON is the SPIFFE bundle document. Equal content gives equal bytes: the keys stand in the
// order of their key ids.
func (b Bundle) JSON() ([]byte, error) {
	type jwk struct {
		Kty string   `json:"kty"`
		Use string   `json:"use"`
		Crv string   `json:"crv,omitempty"`
		X   string   `json:"x,omitempty"`
		Y   string   `json:"y,omitempty"`
		N   string   `json:"n,omitempty"`
		E   string   `json:"e,omitempty"`
		X5C [][]byte `json:"x5c"` // one element (X509-SVID, section 6.1); []byte is standard base64
	}
	document := struct {
		Sequence uint64 `json:"spiffe_sequence"`
		Hint     int64  `json:"spiffe_refresh_hint"`
		Keys     []jwk  `json:"keys"`
	}{Sequence: b.Sequence, Hint: int64(b.RefreshHint / time.Second), Keys: []jwk{}}
	if document.Hint <= 0 {
		document.Hint = int64(defaultHint / time.Second)
	}
	roots := slices.Clone(b.Roots)
	slices.SortFunc(roots, func(a, b *x509.Certificate) int {
		if c := bytes.Compare(keyID(a), keyID(b)); c != 0 {
			return c
		}
		return bytes.Compare(a.Raw, b.Raw)
	})
	for _, root := range roots {
		m := jwkOf(root)
		if m == nil {
			return nil, fmt.Errorf("bundle of trust domain %q: key of root %q has no JWK form here", b.TrustDomain, nameOf(root))
		}
		document.Keys = append(document.Keys, jwk{
			Kty: m["kty"], Use: useX509, Crv: m["crv"], X: m["x"], Y: m["y"], N: m["n"], E: m["e"],
			X5C: [][]byte{root.Raw},
		})
	}
	out, err := json.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("bundle of trust domain %q: %v", b.TrustDomain, err)
	}
	return out, nil
}
