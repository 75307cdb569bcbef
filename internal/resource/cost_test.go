package resource

import (
	"fmt"
	"strings"
	"testing"
)

// Long documents that are nothing but one trick: each ends, in a count of faults
// that is bounded.
func TestHostileDocuments(t *testing.T) {
	const long = MaxDocument / 4
	fill := func(head, unit, tail string) string {
		return head + strings.Repeat(unit, (long-len(head)-len(tail))/len(unit)) + tail
	}
	var keys strings.Builder
	for i := 0; keys.Len() < long; i++ {
		fmt.Fprintf(&keys, "k%d: ,", i)
	}
	var lists strings.Builder
	for range 100 {
		lists.WriteString("{from: [" + strings.Repeat("{a: },", 400) + "]},")
	}
	for name, text := range map[string]string{
		"brackets":     fill("", "[", ""),
		"braces":       fill("", "{", ""),
		"dashes":       fill("", "- ", ""),
		"questions":    fill("", "? ", ""),
		"nulls":        fill(authz+"spec: {rules: [", "~,", "]}"),
		"rules":        fill(authz+"spec: {rules: [", "{},", "]}"),
		"keys":         authz + "spec: {" + keys.String() + "}",
		"top keys":     "{" + keys.String() + "}",
		"labels":       strings.Replace(authz, "name: a", "name: a, labels: {"+keys.String()+"}", 1) + "spec: {}",
		"many wrong":   authz + "spec: {rules: [" + lists.String() + "]}",
		"anchors":      fill("- &a x\n", "- *a\n", ""),
		"merges":       fill("- &a {x: z}\n", "- <<: *a\n", ""),
		"self merge":   "&a {<<: *a}",
		"long value":   fill(authz+"spec: {rules: [{to: [{operation: {paths: ['/", "a", "']}}]}]}"),
		"one quote":    fill("a: '", "\n", ""),
		"block":        fill("a: |\n", " x\n", ""),
		"comments":     fill("", "# x\n", ""),
		"markers":      fill("", "---\n", ""),
		"colons":       fill("", "a: ", ""),
		"escapes":      fill(`"`, `\x00`, `"`),
		"keys of when": fill(authz+"spec: {rules: [{when: [", "{key: a, x: b},", "]}]}"),
		"long key":     fill(authz+"spec: {rules: [{when: [{values: [a], key: 'request.auth.claims", "[a]", "b'}]}]}"),
		"token rules":  fill(token+"spec: {jwtRules: [", "{jwks: '{}'},", "]}"),
		"deep keys":    fill(token+"spec: {jwtRules: [{issuer: a, jwks: '", "[", "'}]}"),
		"many keys":    fill(issuer+"spec: {jwks: {keys: [", publicKey+",", "]}}"),
		"scopes":       fill(client+"spec: {targets: [{scopes: [", "a,", "], defaultScopes: ["+strings.Repeat("b,", long/4)+"]}]}"),
		"scope names":  fill(audience+"spec: {scopes: [", "{name: a},", "], grantTo: [{scopes: ["+strings.Repeat("b,", long/4)+"]}]}"),
		"claims":       client + "spec: {claims: {" + keys.String() + "}}",
		"actors":       fill(delegation+"spec: {actors: [", "'*',", "]}"),
		"broken list":  fill("apiVersion: v1\nkind: List\nitems: [", "{},", "]"),
	} {
		objects, faults := decode(t, text)
		if len(objects) > 0 || len(faults) > 3*maxFaults+3 || len(faults) == 0 && name != "comments" && name != "markers" {
			t.Errorf("%s: %d objects, %d faults", name, len(objects), len(faults))
		}
	}
}
