//go:build system && linux

package systemtest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// policyOf is an AuthorizationPolicy with one line that may be wrong.
func policyOf(name, line string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: " + name + "\nspec:\n" + line + "\n"
}

// TestSystemBadYAML: each fault of a file is told with its place, all at once, and nothing is
// changed by the file.
func TestSystemBadYAML(t *testing.T) {
	h := openHouse(t, owner)
	before := h.world()
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	for _, c := range []struct {
		name, text string
		want       []string // line:column code
	}{
		{"unknown field", policyOf("x", "  acton: ALLOW"), []string{"6:3 E106"}},
		{"unknown field deep", policyOf("x", "  rules:\n  - to:\n    - operation:\n        metods: [GET]"), []string{"9:9 E106"}},
		{"wrong type", policyOf("x", "  rules: all"), []string{"6:10 E109"}},
		{"wrong type of an item", policyOf("x", "  rules: [{to: [{operation: {methods: GET}}]}]"), []string{"6:39 E109"}},
		{"bad enum", policyOf("x", "  action: PERMIT"), []string{"6:11 E110"}},
		{"tab", policyOf("x", "\taction: ALLOW"), []string{"6:1 E101"}},
		{"second document is broken", policyOf("good", "  action: ALLOW") + "---\n" + policyOf("x", "  acton: ALLOW"), []string{"13:3 E106"}},
		{"second document is no YAML", policyOf("good", "  action: ALLOW") + "---\n{{{", []string{"8:"}},
		{"10 MB", policyOf("x", "  action: ALLOW") + strings.Repeat("# and so on and so on and so on\n", 10<<20/32), []string{"E102"}},
		{"unknown kind", strings.Replace(policyOf("x", "  action: ALLOW"), "AuthorizationPolicy", "AuthorisationPolicy", 1), []string{"2:7 E105"}},
		{"kind of a later release", "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\nspec: {}\n", []string{"2:7 E302"}},
		{"unknown version", strings.Replace(policyOf("x", "  action: ALLOW"), "istio.io/v1", "istio.io/v9", 1), []string{"1:13 E104"}},
		{"missing name", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {}\nspec: {}\n", []string{"E103"}},
		{"no metadata", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nspec: {}\n", []string{"E103"}},
		{"invalid namespace", policyOf("x\n  namespace: Shop_1", "  action: ALLOW"), []string{"5:14 E103"}},
		{"null in a list", policyOf("x", "  rules: [{to: [{operation: {methods: [GET, null]}}]}]"), []string{"6:45 E107"}},
		{"null for a list", policyOf("x", "  rules:"), []string{"E107"}},
		{"alias bomb", bomb + policyOf("x", "  rules: *a9"), []string{""}},
		{"three faults", policyOf("x", "  action: PERMIT\n  acton: ALLOW\n  rules: all"), []string{"6:11 E110", "7:3 E106", "8:10 E109"}},
		{"supported later", policyOf("x", "  action: AUDIT"), []string{"6:11 E301"}},
		{"not UTF-8", policyOf("x", "  action: \xff\xfe"), []string{"E101"}},
		{"a key twice", policyOf("x", "  action: ALLOW\n  action: DENY"), []string{"7:3 E101"}},
		{"nothing but a word", "hello\n", []string{"1:1 E109"}},
	} {
		file := writeFile(t, owner, h.home+"/bad.yaml", c.text)
		r := finish(t, h.command(owner, "apply", "-f", file, "--json"))
		var said struct {
			Error struct {
				Faults []struct {
					File, Code   string
					Line, Column int
				}
			}
		}
		if err := json.Unmarshal([]byte(r.err), &said); err != nil || r.code != 1 || r.out != "" {
			t.Errorf("%s: %v: %v", c.name, err, r)
			continue
		}
		var got []string
		for _, f := range said.Error.Faults {
			if f.File != file || f.Line == 0 || f.Column == 0 {
				t.Errorf("%s: a fault without its place: %+v", c.name, f)
			}
			got = append(got, fmt.Sprintf("%d:%d %s", f.Line, f.Column, f.Code))
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: faults %q, want %q", c.name, got, c.want)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(got[i], want) {
				t.Errorf("%s: fault %d is %q, want %q", c.name, i+1, got[i], want)
			}
		}
		for _, more := range [][]string{nil, {"--dry-run"}} {
			text := finish(t, h.command(owner, append([]string{"apply", "-f", file}, more...)...))
			if n := strings.Count(text.err, file+":"); text.code != 1 || n < len(c.want) || !strings.Contains(text.err, "nothing was changed") {
				t.Errorf("%s, as text %q: %v", c.name, more, text)
			}
		}
		if after := h.world(); after != before {
			t.Fatalf("%s: after the refusal the world is\n%s\nbefore it was\n%s", c.name, after, before)
		}
	}
	h.apply(policyOf("good", "  action: ALLOW")) // the good one alone is taken
	if h.world() == before {
		t.Error("after a good document the world is the same; then the others prove nothing")
	}
}

// world is everything that can be applied, with the revisions.
func (h *house) world() string {
	h.t.Helper()
	var all strings.Builder
	for _, kind := range []string{"ap", "peerauthentications", "workloads"} {
		all.WriteString(h.cli("get", kind, "-A", "-o", "yaml").out)
	}
	return all.String()
}
