package resource

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/identity"
	"countersign.dev/internal/jose"
)

// This file judges what the kinds of the token service have in common. E224 is what tokens.md
// refuses of them, E218 keys and the places that keys come from.

// Limits of tokens.md 5.1, 6, 8.1.
const (
	maxURL      = 2048
	maxKeySet   = 256 << 10 // bytes, inline
	maxKeys     = 64        // in one set
	maxTargets  = 256
	maxScopes   = 64
	maxScope    = 128
	maxCarried  = 16
	maxClaims   = 1 << 10 // bytes of all static claims as JSON
	maxClaim    = 128     // bytes of a name
	maxExact    = 1<<53 - 1
	maxAudience = 256 // values in a list of audiences or grants
)

// checkURL judges the address of an issuer or of keys: https, or http on this machine.
func checkURL(code, s string, query bool) *complaint {
	u, err := url.Parse(s)
	switch {
	case len(s) > maxURL:
		return complain("E102", fmt.Sprintf("a URL of %d bytes, at most %d are taken", len(s), maxURL), "")
	case err != nil || !visible(s) || u.Opaque != "" || u.Hostname() == "" || u.User != nil:
		return complain(code, quote(s)+" is not a URL", "such as https://login.example.com, without user and password")
	case strings.Contains(s, "#") || !query && strings.Contains(s, "?"):
		return complain(code, quote(s)+" has a query or a fragment", "leave it out")
	case u.Scheme == "https" || u.Scheme == "http" && onThisMachine(u.Hostname()):
		return nil
	}
	return complain(code, quote(s)+" is not of scheme https", "https, or http on loopback: http://127.0.0.1, http://localhost. token.fetchAllow opens no other http")
}

func onThisMachine(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback() && a.Zone() == ""
}

// visible reports whether a text is made of printable ASCII without blanks and what a URI
// never holds.
func visible(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"<>\\^`{|}", r) })
}

// checkKeysURL judges where keys are retrieved from.
func checkKeysURL(s string) *complaint {
	if u, err := url.Parse(s); err == nil && u.Scheme == "http" && strings.HasSuffix(u.Hostname(), ".svc.cluster.local") {
		return complain("E301", "keys from a service of the mesh are not supported yet", waitHint)
	}
	if s == "" {
		return notEmpty(s)
	}
	return checkURL("E218", s, true)
}

func checkIssuerURL(s string) *complaint { return checkURL("E218", s, false) }

// checkKeys judges an inline key set; algs are those that an RSA key without alg may be for.
// No text of it is shown: it may hold what should never have been there.
func checkKeys(data []byte, algs ...jose.Alg) *complaint {
	if len(data) > maxKeySet {
		return complain("E102", fmt.Sprintf("a key set of %d bytes, at most 256 KiB are taken", len(data)), "")
	}
	const hint = `public keys alone: {"keys": [{"kty": "EC", ...}]}`
	set, err := jose.ReadSet(data, algs...)
	switch {
	case err != nil:
		return complain("E218", "not a key set that is taken: "+clip(err.Error()), hint)
	case set.Len() == 0:
		return complain("E218", "no key that can be used", hint)
	}
	return nil
}

// keySetShape is a JWK Set written as YAML; package jose judges what is in it.
func keySetShape() *shape {
	return fieldsIn(named{"keys", listOf(maxKeys, &shape{form: mapping, elem: &shape{form: anything}})})
}

// judgeKeys checks a key set that stands in a document as YAML.
func (o *object) judgeKeys(v any, p *path, algs []string) {
	set, ok := v.(map[string]any)
	if keys, has := set["keys"]; !ok || has && len(itemsOf(keys)) == 0 {
		return // the shape reports it
	}
	text, err := json.Marshal(v)
	if err != nil {
		return // what came from JSON can be written as such
	}
	if c := checkKeys(text, rsaOf(algs)...); c != nil {
		o.fault(c.code, p, atKey, c.text, c.hint)
	}
}

// rsaOf are the algorithms that an RSA key may be for, of those that a record lists.
func rsaOf(algs []string) []jose.Alg {
	var out []jose.Alg
	for _, a := range algs {
		if strings.HasPrefix(a, "RS") || strings.HasPrefix(a, "PS") {
			out = append(out, jose.Alg(a))
		}
	}
	return out
}

// algorithms are those that may be verified, in the order of tokens.md 7.3.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func algorithmsShape() *shape { return listOf(0, oneOf("algorithm", algorithms...)) }

// checkScope is RFC 6749, section 3.3, less the values that have a meaning of their own.
func checkScope(s string) *complaint {
	switch {
	case s == "":
		return notEmpty(s)
	case len(s) > maxScope:
		return complain("E224", fmt.Sprintf("a scope of %d bytes, at most %d are taken", len(s), maxScope), "")
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }):
		return complain("E224", quote(s)+" is not a scope", `printable ASCII without blanks, " and \: orders:read`)
	case s == "mesh":
		return complain("E224", "scope mesh is reserved", "it says that a transaction has no scope")
	case slices.Contains([]string{"openid", "profile", "email", "groups", "offline_access"}, s):
		return complain("E224", "scope "+s+" belongs to the issuer", "name scopes of the audience, such as orders:read")
	}
	return nil
}

func scopesShape() *shape { return listOf(maxScopes, textWith(checkScope)) }

// within reports every scope that is not one of those known. Lists that are too long are left
// to the shape, which refuses them.
func (o *object) within(v any, known []string, what string, p *path) {
	if len(known) > maxScopes || len(itemsOf(v)) > maxScopes {
		return
	}
	for i, item := range itemsOf(v) {
		if s, ok := item.(string); ok && s != "" && !slices.Contains(known, s) {
			o.fault("E224", p.item(i), atValue, quote(s)+" is not among "+what, didYouMean(s, known))
		}
	}
}

// ownClaims are the names of tokens.md 8.1, 8.3 and 8.5, and nbf: what a token says by them is
// our word.
var ownClaims = []string{
	"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id", "scope", "cnf", "act", "may_act", "sid", "rti", "anc",
	"oat", "ocid", "oiss", "osub", "own", "auth_time", "acr", "amr", "groups",
	"txn", "req_wl", "tctx", "rctx", "tst", "rpl",
	"nonce", "at_hash", "azp",
}

// checkClaimName judges the name of a claim that travels with our tokens. Case does not save
// one: some readers do not look at it.
func checkClaimName(s string) *complaint {
	switch {
	case s == "":
		return notEmpty(s)
	case len(s) > maxClaim:
		return complain("E224", fmt.Sprintf("a claim name of %d bytes, at most %d are taken", len(s), maxClaim), "")
	case !visible(s):
		return complain("E224", quote(s)+" is not the name of a claim", "printable ASCII without blanks, such as tenant")
	case slices.ContainsFunc(ownClaims, func(own string) bool { return strings.EqualFold(own, s) }):
		return complain("E224", "claim "+s+" is our own word", "name another, such as tenant")
	}
	return nil
}

// checkReference judges what names an audience: a URI, or a service of the registry.
func checkReference(s string) *complaint {
	if strings.Contains(s, ":") {
		return checkURI(s)
	}
	if len(s) > 253 || !dnsSubdomain.MatchString(s) {
		return complain("E224", quote(s)+" is not an audience", "a service, such as payments, or a URI, such as https://ledger.example.com")
	}
	return nil
}

// checkURI judges an audience: an absolute URI without fragment (RFC 8707, section 2).
func checkURI(s string) *complaint {
	u, err := url.Parse(s)
	switch {
	case len(s) > maxURL:
		return complain("E102", fmt.Sprintf("a URI of %d bytes, at most %d are taken", len(s), maxURL), "")
	case strings.HasPrefix(s, "spiffe:"):
		if _, err := identity.ParseID([]byte(s)); err != nil {
			return complain("E224", quote(s)+" is not a SPIFFE ID", "such as spiffe://cluster.local/ns/shop/sa/payments")
		}
	case err != nil || !visible(s) || !u.IsAbs() || strings.Contains(s, "#") || u.Opaque == "" && u.Host == "" || u.User != nil:
		return complain("E224", quote(s)+" is not an absolute URI", "such as https://ledger.example.com, without fragment")
	}
	return nil
}

// checkOwnURI judges a URI that an OAuthResource claims for itself.
func checkOwnURI(s string) *complaint {
	if scheme, _, _ := strings.Cut(s, ":"); strings.EqualFold(scheme, "spiffe") {
		return complain("E224", quote(s)+" is the audience of a service", "write service: NAME; its owner's ID is the audience")
	}
	return checkURI(s)
}

// checkIdentityPattern judges an exact SPIFFE ID, or a prefix of whole segments (draft
// spiffe-client-auth, section 5.1).
func checkIdentityPattern(s string) *complaint {
	base, prefix := strings.CutSuffix(s, "/*")
	id, err := identity.ParseID([]byte(base))
	switch {
	case err != nil, !prefix && id.Path() == "":
		return complain("E224", quote(s)+" is not a SPIFFE ID", "spiffe://cluster.local/ns/shop/sa/web, or a prefix of whole segments: spiffe://cluster.local/ns/shop/*")
	}
	return nil
}

// parseDuration takes what Go takes, and days before it: 30d, 1d12h.
func parseDuration(s string) (time.Duration, bool) {
	const day = 24 * time.Hour
	var days uint64
	rest := s
	if n, after, ok := strings.Cut(s, "d"); ok {
		var err error
		if days, err = strconv.ParseUint(n, 10, 12); err != nil {
			return 0, false
		}
		if rest = after; rest == "" {
			return time.Duration(days) * day, true
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || rest == "0" || strings.ContainsAny(rest[:1], "+-") {
		return 0, false
	}
	sum := time.Duration(days)*day + d
	return sum, sum >= d
}

// span is a duration between two others, which are written as people write them.
func span(least, most, hint string) *shape {
	low, _ := parseDuration(least)
	high, _ := parseDuration(most)
	return &shape{form: duration, check: func(s string) *complaint {
		d, ok := parseDuration(s)
		switch {
		case !ok:
			return complain("E111", quote(s)+" is not a duration", "a number with its unit, such as 5m, 1h or 30d")
		case d < low || d > high:
			return complain("E111", clip(s)+" is outside "+least+" to "+most, hint)
		case d%time.Millisecond != 0:
			return complain("E111", clip(s)+" is no whole number of milliseconds", "")
		}
		return nil
	}}
}

// durationOr is a stored duration, or what holds where none is written.
func durationOr(s string, absent time.Duration) (time.Duration, error) {
	if s == "" {
		return absent, nil
	}
	d, ok := parseDuration(s)
	if !ok {
		return 0, fmt.Errorf("%s is not a duration", quote(s))
	}
	return d, nil
}

// missing reports fields that a kind cannot do without.
func (o *object) missing(spec map[string]any, hints ...[2]string) {
	for _, h := range hints {
		if _, ok := spec[h[0]]; !ok {
			o.faultOf("E224", "spec", root.field("spec"), atKey, h[0]+" is missing", h[1])
		}
	}
}
