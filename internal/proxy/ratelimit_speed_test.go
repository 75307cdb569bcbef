//go:build !race

package proxy

import (
	"net/http"
	"net/netip"
	"testing"
	"time"

	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// stepped is an exchange that stands before the late limits, with the rules that hold for it.
func stepped(t testing.TB, rules ...route.LimitRule) *exchange {
	t.Helper()
	h := newLimited(t, onGateway(rules...))
	v := h.a.view.Load()
	x := &exchange{p: h.a.Proxy, v: v, r: &http.Request{Method: "GET", Header: http.Header{"X-Id": {"7"}}}, now: time.Now(), host: "shop.test", path: "/orders/17"}
	x.link = &link{run: h.a.all()[0], src: netip.MustParseAddrPort("192.0.2.7:1"), port: plainPort}
	x.ask = policy.Request{Method: "GET", Host: "shop.test", Path: "/orders/17"}
	for at := range v.Routes.Routers() {
		if at.Listener != "plain" {
			continue
		}
		for row := range at.Rows() {
			x.counted = row.Action
			x.limits = v.Limits.find(at, row.Action)
		}
	}
	if x.limits == nil {
		t.Fatal("no limits")
	}
	return x
}

// wide is a rate that no run here meets.
func wide(name string, key ...string) route.LimitRule {
	return route.LimitRule{Name: name, Requests: 1_000_000_000, Per: time.Second, Key: parts(key...)}
}

func rich() []route.LimitRule {
	post := wide("read", "principal", "route", "method", "service")
	post.When = policy.Rule{To: []policy.Operation{{Methods: []string{"GET"}, Paths: []string{"/orders/*"}}}}
	return []route.LimitRule{
		wide("burst", "ip", "path", "host", "header.x-id"), post,
		{Name: "parallel", Concurrent: 10, Key: parts("claim.tenant", "apiKey", "client", "peer")},
	}
}

func TestLimitStepDoesNotAllocate(t *testing.T) {
	x := stepped(t, rich()...)
	step := func() {
		if no := x.limitLate(); no != nil {
			t.Fatal(no)
		}
		x.endLimits()
	}
	step()
	if n := testing.AllocsPerRun(1000, step); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLimitStep(b *testing.B) {
	for name, rules := range map[string][]route.LimitRule{
		"one rule": {wide("burst", "ip")}, "three rules": rich(),
	} {
		b.Run(name, func(b *testing.B) {
			x := stepped(b, rules...)
			b.ReportAllocs()
			for b.Loop() {
				if x.limitLate() != nil {
					b.Fatal("refused")
				}
				x.endLimits()
			}
		})
	}
}
