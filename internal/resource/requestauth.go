package resource

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	security "istio.io/api/security/v1beta1"

	"countersign.dev/internal/policy"
)

// requestAuthenticationShape is the descriptor of istio.io/api with our limits and checks:
// istio-semantics.md 2.4, 6.1.
var requestAuthenticationShape = sync.OnceValue(func() *shape {
	s := fromMessage((&security.RequestAuthentication{}).ProtoReflect().Descriptor())
	s.first("selector")
	selectorShape(s)
	targetShape(s)

	rules := s.at("jwtRules")
	rules.most, rules.empty = 4096, true
	rule := rules.elem
	// The API reference names both spellings.
	delete(rule.snake, "jwks_uri")
	rule.also = map[string]string{"jwks_uri": "jwksUri"}
	rule.at("jwksUri").check = checkKeysURL
	keys := rule.at("jwks")
	keys.check, keys.long = func(text string) *complaint { return checkKeys([]byte(text)) }, true
	keys.hint = "jwks is a string: put the JSON in quotes, or behind a |"
	rule.at("presence").values, rule.at("presence").laterValues = []string{"OPTIONAL"}, []string{"REQUIRED"}
	rule.at("presence").hint = `require the token with requestPrincipals: ["*"] in an AuthorizationPolicy`
	rule.at("spaceDelimitedClaims").most = 64

	rule.at("fromHeaders[].name").check = checkTokenHeader
	rule.at("fromHeaders[].prefix").check = anyText
	rule.at("fromParams[]").check = mustName("a parameter")
	rule.at("fromCookies[]").check = mustName("a cookie")
	rule.at("spaceDelimitedClaims[]").check = mustName("a claim")
	rule.at("outputPayloadToHeader").check = checkOutputHeader
	rule.at("outputClaimToHeaders[].header").check = checkOutputHeader
	rule.at("outputClaimToHeaders[].claim").check = mustName("a claim")
	return s
})

func mustName(what string) func(string) *complaint {
	return func(s string) *complaint {
		if s == "" {
			return complain("E219", what+" without a name", "name it, or remove the entry")
		}
		return nil
	}
}

// checkTokenHeader judges a header that tokens are looked for in.
func checkTokenHeader(name string) *complaint {
	switch {
	case !isToken(name):
		return complain("E219", quote(name)+" is not a header", "such as x-jwt")
	case reservedField(name):
		return complain("E219", "header "+clip(name)+" never holds a token", "it is taken out, or read by the proxy itself: name another")
	}
	return nil
}

var outputName = regexp.MustCompile(`^[-_A-Za-z0-9]+$`)

// checkOutputHeader judges a header that a claim is copied into: none that the proxy, or an
// application, takes for its word about something else.
func checkOutputHeader(name string) *complaint {
	folded := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	switch {
	case !outputName.MatchString(name):
		return complain("E219", quote(name)+" is not a header that can be written", "letters, digits, - and _")
	case reservedField(name), reservedField(folded), strings.HasPrefix(folded, "x-forwarded-"):
		return complain("E219", "header "+clip(name)+" is reserved", "name another, such as x-user")
	}
	return nil
}

// reservedField reports whether a field belongs to the message or to hygiene.
func reservedField(name string) bool {
	switch strings.ToLower(name) {
	case "host", "content-length", "upgrade":
		return true
	}
	return neverThere(name)
}

// checkTimeout judges a duration as protobuf JSON reads it, within what it is used for.
func checkTimeout(s string) *complaint {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil || strings.HasPrefix(s, "+"):
		return complain("E111", quote(s)+" is not a duration", "a number with its unit, such as 5s or 1m30s")
	case d < time.Millisecond || d%time.Millisecond != 0:
		return complain("E111", clip(s)+" is under 1ms, or no whole number of milliseconds", "5s is the default")
	}
	return nil
}

// checkRequestAuthentication holds what no single field can tell: istio-semantics.md 6.1.
func checkRequestAuthentication(o *object) {
	at := root.field("spec")
	spec := fieldsOf(o.value["spec"])
	o.checkTargets(spec, at)
	o.checkRefs(spec, at)
	o.checkKeysOption()
	o.checkSelector(spec, at)
	for i, v := range itemsOf(spec["jwtRules"]) {
		if rule, ok := v.(map[string]any); ok {
			o.checkTokenRule(rule, at.field("jwtRules").item(i))
		}
	}
}

func (o *object) checkTokenRule(rule map[string]any, at *path) {
	_, hasURI := rule["jwksUri"]
	if _, other := rule["jwks_uri"]; other {
		hasURI = true
	}
	_, hasKeys := rule["jwks"]
	issuer, hasIssuer := rule["issuer"]
	name, isText := issuer.(string)
	switch {
	case !hasIssuer && !hasURI:
		o.fault("E218", at, atValue, "neither issuer nor jwksUri", "name the issuer whose tokens are taken")
	case hasURI && hasKeys:
		o.fault("E218", at.field("jwks"), atKey, "together with jwksUri", "keep one of them")
	case !hasURI && !hasKeys && isText && name != "":
		// The keys are looked for at the issuer.
		if c := checkURL("E218", name, false); c != nil {
			o.fault(c.code, at.field("issuer"), atValue, c.text+", and no keys are named", "add jwksUri or jwks")
		}
	}
	if !hasIssuer && hasURI {
		o.warn("L30", at, atValue, "no issuer: any token that these keys signed is taken", "name the issuer")
	}
	if _, ok := rule["audiences"]; !ok {
		o.warn("L28", at, atValue, "no audiences: a token for any other service of this issuer is taken", "list what tokens for this service have in aud")
	}
	o.checkLocations(rule, at)
}

// checkLocations reports what is missing in a location or an output, and outputs that stand
// twice.
func (o *object) checkLocations(rule map[string]any, at *path) {
	for i, v := range itemsOf(rule["fromHeaders"]) {
		m, ok := v.(map[string]any)
		if _, has := m["name"]; ok && !has {
			o.fault("E219", at.field("fromHeaders").item(i), atValue, "a header without name", "such as name: x-jwt")
		}
	}
	seen := make(map[string]bool)
	once := func(name string, p *path) {
		if name = strings.ToLower(name); name != "" && seen[name] {
			o.fault("E219", p, atValue, "header "+clip(name)+" stands twice", "each output needs a header of its own")
		}
		seen[name] = true
	}
	once(textOf(rule["outputPayloadToHeader"]), at.field("outputPayloadToHeader"))
	for i, v := range itemsOf(rule["outputClaimToHeaders"]) {
		m, ok := v.(map[string]any)
		if !ok {
			continue
		}
		p := at.field("outputClaimToHeaders").item(i)
		for _, name := range []string{"header", "claim"} {
			if _, ok := m[name]; !ok {
				o.fault("E219", p, atValue, "an output without "+name, "such as {header: x-user, claim: sub}")
			}
		}
		once(textOf(m["header"]), p.field("header"))
	}
}

// RequestAuthentication is that of an accepted object; created is its first-applied order.
func RequestAuthentication(o Object, created int64) (policy.RequestAuthentication, error) {
	if o.Kind != "RequestAuthentication" {
		return policy.RequestAuthentication{}, fmt.Errorf("%s is no RequestAuthentication", o.ID())
	}
	var m security.RequestAuthentication
	if err := decodeSpec(o, &m); err != nil {
		return policy.RequestAuthentication{}, err
	}
	out := policy.RequestAuthentication{
		Namespace: o.Namespace, Name: o.Name,
		Selector: m.GetSelector().GetMatchLabels(), Gateways: gatewaysOf(m.GetTargetRefs()),
		APIKeys: keysTaken(o), Created: created, Pos: o.Places.Object(),
	}
	for i, r := range m.GetJwtRules() {
		if r.GetPresence() != security.JWTRule_OPTIONAL {
			return policy.RequestAuthentication{}, fmt.Errorf("%s: presence %s is not supported", o.ID(), r.GetPresence())
		}
		out.Rules = append(out.Rules, tokenRule(r, o.Places.Rule(i)))
	}
	return out, nil
}

func tokenRule(r *security.JWTRule, pos policy.Pos) policy.TokenRule {
	rule := policy.TokenRule{
		Issuer: r.GetIssuer(), Audiences: r.GetAudiences(), JWKSURI: r.GetJwksUri(),
		Params: r.GetFromParams(), Cookies: r.GetFromCookies(),
		PayloadHeader: r.GetOutputPayloadToHeader(), Forward: r.GetForwardOriginalToken(),
		Timeout: r.GetTimeout().AsDuration(), Split: r.GetSpaceDelimitedClaims(), Pos: pos,
	}
	if keys := r.GetJwks(); keys != "" {
		rule.JWKS = json.RawMessage(keys)
	}
	for _, h := range r.GetFromHeaders() {
		rule.Headers = append(rule.Headers, policy.TokenHeader{Name: h.GetName(), Prefix: h.GetPrefix()})
	}
	for _, c := range r.GetOutputClaimToHeaders() {
		rule.ClaimHeaders = append(rule.ClaimHeaders, policy.ClaimHeader{Header: c.GetHeader(), Claim: c.GetClaim()})
	}
	return rule
}

// checkKeysOption judges the annotation that says where API keys are taken, and which (tokens.md 14.2).
func (o *object) checkKeysOption() {
	value, ok := fieldsOf(fieldsOf(o.value["metadata"])["annotations"])[apiKeysOption]
	if !ok {
		return
	}
	if c := optionWord("live", "test", "off")(textOf(value)); c != nil {
		o.fault(c.code, root.field("metadata").field("annotations").field(apiKeysOption), atValue, c.text, c.hint)
	}
}

// keysTaken is the environment of the API keys that a RequestAuthentication lets in; "": none.
func keysTaken(o Object) string {
	if env := o.Annotations[apiKeysOption]; env == "live" || env == "test" {
		return env
	}
	return ""
}
