package route

import "testing"

func TestSelector(t *testing.T) {
	labels := map[string]string{"team": "pay", "empty": "", nameLabel: "forged"}
	for _, c := range []struct {
		name string
		s    Selector
		want bool
	}{
		{"empty takes all", Selector{}, true},
		{"label", Selector{Labels: map[string]string{"team": "pay"}}, true},
		{"label of another value", Selector{Labels: map[string]string{"team": "ops"}}, false},
		{"label that is absent", Selector{Labels: map[string]string{"tier": ""}}, false},
		{"empty label", Selector{Labels: map[string]string{"empty": ""}}, true},
		{"two labels, one holds", Selector{Labels: map[string]string{"team": "pay", "tier": "1"}}, false},
		{"name without a document", Selector{Labels: map[string]string{nameLabel: "shop"}}, true},
		{"a document does not forge the name", Selector{Labels: map[string]string{nameLabel: "forged"}}, false},
		{"In", Selector{Terms: []Term{{"team", "In", []string{"ops", "pay"}}}}, true},
		{"In of other values", Selector{Terms: []Term{{"team", "In", []string{"ops"}}}}, false},
		{"In, absent", Selector{Terms: []Term{{"tier", "In", []string{""}}}}, false},
		{"In, the name", Selector{Terms: []Term{{nameLabel, "In", []string{"shop"}}}}, true},
		{"NotIn", Selector{Terms: []Term{{"team", "NotIn", []string{"ops"}}}}, true},
		{"NotIn of its value", Selector{Terms: []Term{{"team", "NotIn", []string{"pay"}}}}, false},
		{"NotIn, absent", Selector{Terms: []Term{{"tier", "NotIn", []string{"1"}}}}, true},
		{"Exists", Selector{Terms: []Term{{"empty", "Exists", nil}}}, true},
		{"Exists, absent", Selector{Terms: []Term{{"tier", "Exists", nil}}}, false},
		{"DoesNotExist", Selector{Terms: []Term{{"tier", "DoesNotExist", nil}}}, true},
		{"DoesNotExist, there", Selector{Terms: []Term{{"team", "DoesNotExist", nil}}}, false},
		{"all terms must hold", Selector{Terms: []Term{{"team", "Exists", nil}, {"tier", "Exists", nil}}}, false},
		{"unknown operator", Selector{Terms: []Term{{"team", "in", []string{"pay"}}}}, false},
	} {
		if got := c.s.namespaceAdmits("shop", labels); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}
