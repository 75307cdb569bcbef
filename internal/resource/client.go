package resource

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/identity"
)

// The grants by their wire names (tokens.md 7).
const (
	grantCredentials = "client_credentials"
	grantExchange    = "urn:ietf:params:oauth:grant-type:token-exchange"
)

const defaultTokenTTL = 5 * time.Minute

// clientShape is tokens.md 5.1. Fields of later releases are known, so that they are refused
// as such and not as unknown.
var clientShape = sync.OnceValue(func() *shape {
	flag := &shape{form: boolean}
	target := fieldsIn(
		named{"audience", textWith(checkReference)},
		named{"scopes", scopesShape()},
		named{"defaultScopes", scopesShape()},
		named{"exchange", flag},
		named{"attach", flag},
	)
	grants := oneOf("grant", grantCredentials, grantExchange).orLater("authorization_code", "refresh_token",
		"urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:jwt-bearer")
	uris := func() *shape { return laterField(listOf(0, &shape{form: str})) }
	return fieldsIn(
		named{"clientId", textWith(checkClientID)},
		named{"auth", oneOf("method", "spiffe", "private_key_jwt", "client_secret").orLater("tls_client_auth", "none")},
		named{"spiffeId", textWith(checkIdentityPattern)},
		named{"jwks", keySetShape()},
		named{"jwksUri", textWith(checkKeysURL)},
		named{"assertionAlgs", algorithmsShape()},
		named{"assertionAudience", oneOf("audience", "issuer", "tokenEndpoint")},
		named{"grants", listOf(0, grants)},
		named{"targets", listOf(maxTargets, target)},
		named{"claims", &shape{form: mapping, most: maxCarried, key: checkClaimName, elem: &shape{form: anything}}},
		named{"binding", oneOf("binding", "identity", "certificate", "none").orLater("dpop")},
		named{"ttl", span("5s", "1h", "5m is the default")},
		named{"mayAct", &shape{form: mapping, most: maxCarried, key: checkMember, elem: &shape{form: str}}},
		named{"introspect", oneOf("reach", "own", "any")},
		named{"disabled", flag},
		named{"secrets", &shape{form: anything, refuse: complain("E106", "secrets stand in no file", "countersign client rotate NAME makes one and prints it once")}},
		named{"tls", laterField(&shape{form: anything})},
		named{"redirectUris", uris()},
		named{"postLogoutRedirectUris", uris()},
		named{"origins", uris()},
		named{"requirePAR", laterField(&shape{form: boolean})},
		named{"refresh", laterField(&shape{form: anything})},
		named{"idTokenAlg", laterField(oneOf("algorithm", "ES256", "RS256"))},
		named{"consent", laterField(oneOf("consent", "skip", "ask"))},
		named{"profile", laterField(oneOf("profile", "fapi2"))},
		named{"gateway", laterField(&shape{form: boolean})},
	)
})

var clientIDText = regexp.MustCompile(`^[A-Za-z0-9._~:/-]+$`)

// reservedSubjects are what stands before the first colon of a sub that is no client's
// (tokens.md 5.1, 7.3).
var reservedSubjects = []string{"spiffe", "key", "cert"}

func checkClientID(s string) *complaint {
	if len(s) > maxURL {
		return complain("E102", fmt.Sprintf("a clientId of %d bytes, at most %d are taken", len(s), maxURL), "")
	}
	if _, err := identity.ParseID([]byte(s)); err == nil {
		return nil // checkClient holds it against spiffeId
	}
	if !clientIDText.MatchString(s) {
		return complain("E224", quote(s)+" is not a client id", "letters, digits and . _ ~ : / -")
	}
	before, _, colon := strings.Cut(s, ":")
	if colon && slices.ContainsFunc(reservedSubjects, func(r string) bool { return strings.EqualFold(r, before) }) {
		return complain("E224", quote(s)+" starts as the subject of somebody else", "spiffe:, key: and cert: are no clients'")
	}
	return nil
}

// checkMember judges the name of a member of may_act.
func checkMember(s string) *complaint {
	if s == "" || len(s) > maxClaim || !visible(s) {
		return complain("E224", quote(s)+" is not a claim of an actor", "such as sub or client_id")
	}
	return nil
}

// checkClient holds what no single field can tell: tokens.md 5.1.
func checkClient(o *object) {
	at := root.field("spec")
	spec, ok := o.value["spec"].(map[string]any)
	if !ok {
		return
	}
	o.checkClientAuth(spec, at)
	_, hasID := spec["spiffeId"]
	targets := at.field("targets")
	seen := make(map[string]bool)
	for i, v := range itemsOf(spec["targets"]) {
		t, ok := v.(map[string]any)
		if !ok {
			continue
		}
		p := targets.item(i)
		audience, has := t["audience"]
		if !has {
			o.fault("E224", p, atValue, "a target without audience", "such as audience: payments")
		}
		if name := textOf(audience); name != "" {
			if seen[name] {
				o.fault("E224", p.field("audience"), atValue, quote(name)+" stands twice", "put the scopes of one audience together")
			}
			seen[name] = true
		}
		if t["attach"] == true && !hasID {
			o.fault("E224", p.field("attach"), atKey, "without spiffeId", "a token is attached to the calls of a workload: name it")
		}
		o.checkTwice("E224", t["scopes"], p.field("scopes"))
		o.checkTwice("E224", t["defaultScopes"], p.field("defaultScopes"))
		o.within(t["defaultScopes"], textsOf(t["scopes"]), "the scopes of this target", p.field("defaultScopes"))
	}
	o.checkTwice("E224", spec["grants"], at.field("grants"))
	o.checkClaims(spec["claims"], at.field("claims"))
	if textOf(spec["assertionAudience"]) == "tokenEndpoint" {
		o.warn("W-aud", at.field("assertionAudience"), atValue, "an assertion for an endpoint can be shown at another server that names the same", "for a library that cannot be told otherwise")
	}
}

// checkClientAuth holds the method against what it needs, and what needs it.
func (o *object) checkClientAuth(spec map[string]any, at *path) {
	_, hasID := spec["spiffeId"]
	auth := textOf(spec["auth"])
	_, hasAuth := spec["auth"]
	switch {
	case !hasAuth && !hasID:
		o.faultOf("E224", "spec", at, atKey, "neither auth nor spiffeId", "auth: client_secret, auth: private_key_jwt, or spiffeId for a workload")
	case auth == "spiffe" && !hasID:
		o.fault("E224", at.field("auth"), atValue, "spiffe without spiffeId", "name the identity, such as spiffe://cluster.local/ns/shop/sa/web")
	case hasAuth && auth != "spiffe" && hasID:
		o.fault("E224", at.field("spiffeId"), atKey, "together with auth "+clip(auth), "an identity proves itself: leave auth out, or spiffeId")
	}
	if id := textOf(spec["clientId"]); id != "" && id != textOf(spec["spiffeId"]) {
		// Whoever else had it as sub would be taken for that workload.
		if _, err := identity.ParseID([]byte(id)); err == nil {
			o.fault("E224", at.field("clientId"), atValue, quote(id)+" is an identity that this client does not prove", "leave clientId out: it follows from spiffeId")
		}
	}
	_, hasKeys := spec["jwks"]
	_, hasURI := spec["jwksUri"]
	if auth == "private_key_jwt" {
		switch {
		case hasKeys && hasURI:
			o.fault("E218", at.field("jwks"), atKey, "together with jwksUri", "keep one of them")
		case !hasKeys && !hasURI:
			o.fault("E218", at.field("auth"), atValue, "private_key_jwt without keys", "add jwks or jwksUri")
		}
		o.judgeKeys(spec["jwks"], at.field("jwks"), textsOf(spec["assertionAlgs"]))
		return
	}
	for _, name := range []string{"jwks", "jwksUri", "assertionAlgs", "assertionAudience"} {
		if _, ok := spec[name]; ok {
			o.fault("E224", at.field(name), atKey, "without auth: private_key_jwt", "no other method uses it")
		}
	}
}

// checkClaims judges static claims under the rule of tokens.md 8.1.
func (o *object) checkClaims(v any, at *path) {
	claims, ok := v.(map[string]any)
	if !ok {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		p := at.field(name)
		switch c := claimValue(claims[name]); {
		case c != nil:
			o.fault(c.code, p, atValue, c.text, c.hint)
		case claims[name] == nil:
			o.fault("E107", p, atKey, "no value (null)", "give it one, or leave it out")
		}
	}
	if text, err := json.Marshal(claims); err == nil && len(text) > maxClaims {
		o.fault("E224", at, atKey, fmt.Sprintf("claims of %d bytes, at most %d are taken", len(text), maxClaims), "they stand in every token")
	}
}

func claimValue(v any) *complaint {
	wrong := complain("E224", "not a value that a token carries", "text, a list of texts, an integer, true or false")
	switch v := v.(type) {
	case nil, bool:
		return nil
	case string:
		if strings.ContainsRune(v, 0) {
			return wrong
		}
		return nil
	case json.Number:
		if n, err := v.Int64(); err != nil || n > maxExact || n < -maxExact {
			return wrong
		}
		return nil
	case []any:
		for _, item := range v {
			if s, ok := item.(string); !ok || strings.ContainsRune(s, 0) {
				return wrong
			}
		}
		return nil
	}
	return wrong
}

// clientSpec is the spec of an OAuthClient as stored; match has judged it.
type clientSpec struct {
	ClientID          string          `json:"clientId"`
	Auth              grant.Auth      `json:"auth"`
	SPIFFEID          string          `json:"spiffeId"`
	JWKS              json.RawMessage `json:"jwks"`
	JWKSURI           string          `json:"jwksUri"`
	AssertionAlgs     []string        `json:"assertionAlgs"`
	AssertionAudience string          `json:"assertionAudience"`
	Grants            []string        `json:"grants"`
	Targets           []grant.Target  `json:"targets"`
	Claims            map[string]any  `json:"claims"`
	Binding           grant.Binding   `json:"binding"`
	TTL               string          `json:"ttl"`
	MayAct            map[string]any  `json:"mayAct"`
	Introspect        string          `json:"introspect"`
	Disabled          bool            `json:"disabled"`
}

// Client is the OAuthClient of an accepted object, its defaults filled in. Values of Claims are
// text, []string, int64 or bool; those of MayAct are text.
func Client(o Object) (grant.Client, error) {
	spec, err := specOf[clientSpec](o, "OAuthClient")
	if err != nil {
		return grant.Client{}, err
	}
	out := grant.Client{
		Namespace: o.Namespace, Name: o.Name,
		ClientID: spec.ClientID, Auth: spec.Auth, SPIFFEID: spec.SPIFFEID,
		JWKS: bytes.Clone(spec.JWKS), JWKSURI: spec.JWKSURI,
		AssertionEndpoint: spec.AssertionAudience == "tokenEndpoint",
		Grants:            spec.Grants, Targets: spec.Targets, Binding: spec.Binding, MayAct: spec.MayAct,
		IntrospectAny: spec.Introspect == "any", Disabled: spec.Disabled,
	}
	if out.ClientID == "" {
		out.ClientID = o.Name
		if spec.SPIFFEID != "" && !strings.HasSuffix(spec.SPIFFEID, "/*") {
			out.ClientID = spec.SPIFFEID
		}
	}
	if spec.SPIFFEID != "" {
		out.Auth = cmp.Or(out.Auth, grant.AuthSPIFFE)
	}
	if out.Auth == "" {
		return grant.Client{}, fmt.Errorf("%s: no way to authenticate", o.ID())
	}
	if out.Grants == nil {
		out.Grants = []string{grantCredentials}
	}
	if out.Auth == grant.AuthPrivateKeyJWT {
		if out.AssertionAlgs = spec.AssertionAlgs; out.AssertionAlgs == nil {
			out.AssertionAlgs = []string{"ES256", "PS256", "EdDSA"}
		}
	}
	if out.TTL, err = durationOr(spec.TTL, defaultTokenTTL); err != nil {
		return grant.Client{}, fmt.Errorf("%s: ttl: %w", o.ID(), err)
	}
	if out.Claims, err = claimsOf(spec.Claims); err != nil {
		return grant.Client{}, fmt.Errorf("%s: claims: %w", o.ID(), err)
	}
	return out, nil
}

// claimsOf gives static claims the Go types that a token is written from.
func claimsOf(claims map[string]any) (map[string]any, error) {
	if claims == nil {
		return nil, nil
	}
	out := make(map[string]any, len(claims))
	for name, v := range claims {
		if c := claimValue(v); c != nil || v == nil {
			return nil, fmt.Errorf("%s holds no value that a token carries", quote(name))
		}
		switch v := v.(type) {
		case json.Number:
			n, err := v.Int64()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", quote(name), err)
			}
			out[name] = n
		case []any:
			out[name] = textsOf(v)
		default:
			out[name] = v
		}
	}
	return out, nil
}
