package telemetry

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
)

func scrape(m *Metrics) string {
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// Rules beyond the bound are one series; those that went make room.
func TestLimits(t *testing.T) {
	m := NewMetrics("test")
	var rules []string
	for i := range maxLimits + 50 {
		rules = append(rules, fmt.Sprintf("shop/api#r%d", i))
	}
	for _, c := range m.Limits(rules) {
		c.Count(LimitRefused)
	}
	m.LimitKeys(func() int { return 7 })
	text := scrape(m)
	if n := strings.Count(text, "countersign_gateway_limit_total{"); n != (maxLimits+1)*len(limitResults) {
		t.Errorf("%d series", n)
	}
	for _, want := range []string{
		`countersign_gateway_limit_total{result="refused",rule="other"} 50`, `countersign_gateway_limit_total{result="refused",rule="shop/api#r99"} 1`,
		`countersign_gateway_limit_total{result="admitted",rule="shop/api#r0"} 0`, "countersign_gateway_limit_keys 7",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	m.Limits(rules[120:])[0].Count(LimitShadow)
	text = scrape(m)
	if !strings.Contains(text, `{result="shadow",rule="shop/api#r120"} 1`+"\n") || strings.Contains(text, "shop/api#r0") {
		t.Error("rules that went are kept")
	}
	var none *Metrics
	none.LimitKeys(nil)
	none.Limits(rules)[0].Count(LimitRefused)
}
