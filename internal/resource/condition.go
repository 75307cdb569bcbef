package resource

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"countersign.dev/internal/policy"
)

// This file judges the conditions of when: istio-semantics.md 7.5.

// attribute says how the values of one key are judged.
type attribute struct {
	check, lint func(string) *complaint
	most        int // values in a list; 0: as in every list
}

// plainKeys are those without brackets; the values of each are those of the field it mirrors.
var plainKeys = map[string]attribute{
	"source.namespace":       {},
	"source.serviceAccount":  {check: checkServiceAccount, most: maxAccounts},
	"source.principal":       {lint: lintPrincipal},
	"destination.port":       {check: checkPort, lint: lintPort},
	"request.auth.principal": {lint: lintRequestPrincipal},
	"request.auth.audiences": {},
	"request.auth.presenter": {},
	"request.auth.actors":    {},
}

// insteadOf names what takes the place of a key that Istio retired.
var insteadOf = map[string]string{
	"destination.labels":    "the selector of the policy says it",
	"destination.name":      "the selector of the policy says it",
	"destination.namespace": "metadata.namespace of the policy says it",
	"destination.user":      "the selector of the policy says it, by label",
}

// findKey judges a key, and says how its values are judged. What a key is, is package policy's
// word: it is the one that decides by it.
func findKey(key string) (attribute, *complaint) {
	err := policy.CheckKey(key)
	stem, _, brackets := strings.Cut(key, "[")
	switch {
	case err == nil && stem == "request.auth.claims":
		return attribute{lint: lintClaim(key)}, nil
	case err == nil:
		return plainKeys[key], nil
	case errors.Is(err, policy.ErrNoFact):
		return attribute{}, complain("E301", clip(key)+" is not supported yet", waitHint)
	case errors.Is(err, policy.ErrNeverThere):
		hint := "it is taken out of every request before policy"
		if strings.Contains(strings.ToLower(key), "client") {
			hint += ": use source.principal"
		}
		return attribute{}, complain("E307", "header "+clip(headerOf(key))+" never reaches policy", hint)
	case key == "":
		return attribute{}, complain("E213", "an empty key", "such as request.auth.claims[role]")
	case strings.HasPrefix(key, "experimental.envoy.filters."):
		return attribute{}, complain("E303", quote(key)+" speaks of an Envoy filter", "there is none: remove the condition")
	case insteadOf[stem] != "":
		return attribute{}, complain("E212", quote(key)+" was retired", insteadOf[stem])
	case stem == "request.auth.claims":
		return attribute{}, complain("E212", quote(key)+" has brackets that cannot be read", "a pair for each level, nothing between and behind: request.auth.claims[a][b]")
	case stem == "request.headers":
		return attribute{}, complain("E212", quote(key)+" does not name a header", "one name in one pair of brackets: request.headers[x-tenant]")
	}
	hint := "such as request.auth.claims[role] or request.headers[x-tenant]"
	if near := nearest(stem, knownStems); near != "" {
		if hint = "did you mean " + near + "?"; brackets {
			hint = "did you mean " + near + "[…]?"
		}
	}
	return attribute{}, complain("E212", quote(key)+" is not a key", hint)
}

// knownStems are what an unknown key may have meant, without brackets.
var knownStems = append(slices.Sorted(maps.Keys(plainKeys)), "request.headers", "request.auth.claims")

func checkKey(key string) *complaint {
	_, c := findKey(key)
	return c
}

// headerOf is the name in request.headers[name]; empty if the key is another.
func headerOf(key string) string {
	rest, ok := strings.CutPrefix(key, "request.headers[")
	if !ok {
		return ""
	}
	return strings.TrimSuffix(rest, "]")
}

// neverThere reports whether a field is gone before policy looks (istio-semantics.md 7.5.1).
func neverThere(name string) bool {
	return errors.Is(policy.CheckKey("request.headers["+name+"]"), policy.ErrNeverThere)
}

// betterFields are the operation fields to use in place of a pseudo-header.
var betterFields = map[string]string{":method": "methods", ":path": "paths", ":authority": "hosts", "host": "hosts"}

func lintKey(key string) *complaint {
	if field := betterFields[strings.ToLower(headerOf(key))]; field != "" {
		return complain("L13", clip(key)+" is compared with case, and as sent", "use "+field+" of an operation")
	}
	return nil
}

// lintClaim finds values that a claim never has: lists of words are split, and what is no text
// never matches.
func lintClaim(key string) func(string) *complaint {
	split := key == "request.auth.claims[scope]" || key == "request.auth.claims[permission]"
	return func(s string) *complaint {
		_, err := strconv.ParseFloat(s, 64)
		switch {
		case split && strings.Contains(s, " "):
			return complain("L31", quote(s)+" never matches", "the claim is split at blanks: one value for each word")
		case err == nil || s == "true" || s == "false":
			return complain("L32", quote(s)+" matches a text only", "numbers and booleans in a token never match")
		}
		return nil
	}
}

// lintRequestPrincipal finds values that do not mean what they seem to: istio-semantics.md
// 7.4.1 splits at the last slash.
func lintRequestPrincipal(s string) *complaint {
	const instead = "write issuer/subject, or issuer/*"
	switch {
	case s == "*":
		return nil
	case s == "*/*":
		return complain("L16", quote(s)+" is a subject named *", "write * for every token")
	case !strings.Contains(s, "/"):
		return complain("L16", quote(s)+" has no slash", instead)
	case strings.Contains(s, "/spiffe://"):
		return complain("L16", quote(s)+" never matches: it is split at the last slash", "use source.principal, or request.auth.claims[sub]")
	case strings.HasPrefix(s, "*/"):
		return complain("L15", quote(s)+" takes that subject from any issuer", instead)
	}
	return nil
}

// checkCondition holds what the shape of a condition cannot tell: its values hang on its key.
func (o *object) checkCondition(c map[string]any, at *path) {
	lists := []string{"values", "notValues"}
	has := func(name string) bool { _, ok := c[name]; return ok }
	switch {
	case !has("key"):
		o.fault("E213", at, atValue, "a condition without key", "such as key: request.auth.claims[role]")
		return
	case !has("values") && !has("notValues") && !has("not_values"):
		o.fault("E213", at, atValue, "a condition without values", "write values, notValues, or both")
		return
	}
	a, wrong := findKey(textOf(c["key"]))
	if wrong != nil {
		return // the shape reports it
	}
	for _, name := range lists {
		items := itemsOf(c[name])
		p := at.field(name)
		if a.most > 0 && len(items) > a.most {
			o.fault("E102", p, atKey, fmt.Sprintf("%d values, at most %d are taken", len(items), a.most), "")
			continue
		}
		for i, item := range items {
			if s, ok := item.(string); ok && s != "" && len(s) <= maxValue {
				o.judgeValue(a, s, p.item(i))
			}
		}
	}
}

func (o *object) judgeValue(a attribute, s string, p *path) {
	if a.check != nil {
		if c := a.check(s); c != nil {
			o.fault(c.code, p, atValue, c.text, c.hint)
			return
		}
	}
	if a.lint != nil {
		if c := a.lint(s); c != nil {
			o.warn(c.code, p, atValue, c.text, c.hint)
		}
	}
}
