package telemetry

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// gatewaySeries are the lines of /metrics that tell of Gateways, but those of the rules of RateLimits.
func gatewaySeries(t *testing.T, m *Metrics) (out []string) {
	t.Helper()
	for line := range strings.SplitSeq(scrape(m), "\n") {
		if strings.HasPrefix(line, "countersign_gateway_") && !strings.HasPrefix(line, "countersign_gateway_limit_total") {
			out = append(out, line)
		}
	}
	return out
}

// 5,000 routes on 60 listeners, all classes, every reason, and ports and certificates without number: the series stay
// below 600, and no count is lost.
func TestSecGatewaySeriesBounded(t *testing.T) {
	m := NewMetrics("t")
	m.Gateways(func() GatewayFacts {
		f := GatewayFacts{Routes: 5000, Bytes: 1 << 20}
		for i := range 100 {
			f.Connections = append(f.Connections, GatewayPort{fmt.Sprintf("ns/gw%d", i), uint16(i), 2})
		}
		return f
	})
	m.GatewayCertificates(func() (out []GatewayCertificate) {
		for i := range 100 {
			out = append(out, GatewayCertificate{"ns/gw", fmt.Sprintf("l%d", i), time.Unix(int64(1000-i), 0)})
		}
		return out
	})
	for _, result := range []string{"ok", "failed", "no_client_cert", "unknown_ca", "bad_chain", "expired", "not_yet_valid", "revoked", "bad_san", "wrong_trust_domain", "ca_leaf", "bad_usage", "unrecognized_name"} {
		m.GatewayHandshake(result)
	}
	want := 0
	for i := range 5000 {
		for j, class := range []string{"2xx", "3xx", "4xx", "5xx", "none"} {
			for _, by := range []string{"client", "gateway", "upstream"} {
				want++
				m.GatewayRequest(&GatewayRequest{
					Gateway: fmt.Sprintf("ns/gw%d", i%8), Listener: fmt.Sprintf("l%d", i%60), Route: fmt.Sprintf("ns/route%d", i),
					Class: class, By: by, Allowed: true, Took: time.Millisecond, Upstream: time.Millisecond,
				})
			}
			m.GatewayRefused(fmt.Sprintf("ns/gw%d", i%8), []string{"tls", "http", "token", "authz", "limit", "route", "upstream"}[i%7], fmt.Sprintf("reason%d", i%50))
			s := m.GatewayStream(fmt.Sprintf("ns/route%d", i))
			if j > 0 {
				s.End()
			}
		}
	}
	m.GatewayReload(time.Millisecond)
	series := gatewaySeries(t, m)
	if len(series) > 600 {
		t.Errorf("%d series, 600 are most", len(series))
	}
	t.Logf("%d series", len(series))
	got, streams := 0.0, 0.0
	for _, line := range series {
		var v float64
		name, value, _ := strings.Cut(line, "} ")
		fmt.Sscan(value, &v)
		switch {
		case strings.HasPrefix(name, "countersign_gateway_requests_total"):
			got += v
		case strings.HasPrefix(name, "countersign_gateway_active_streams"):
			streams += v
		}
	}
	if int(got) != want || streams != 5000 {
		t.Errorf("%g exchanges and %g streams are counted, want %d and 5000", got, streams, want)
	}
}

// A stranger who is refused everywhere opens no series, so that the routes with traffic have theirs; what is gone is
// forgotten.
func TestSecGatewaySeriesAreForTraffic(t *testing.T) {
	m := NewMetrics("t")
	for i := range 5000 {
		m.GatewayRequest(&GatewayRequest{Gateway: "ns/gw", Listener: "l", Route: fmt.Sprintf("ns/probed%d", i), Class: "4xx", By: "client"})
	}
	m.GatewayRequest(&GatewayRequest{Gateway: "ns/gw", Listener: "l", Route: "ns/shop", Class: "2xx", By: "upstream", Allowed: true})
	all := strings.Join(gatewaySeries(t, m), "\n")
	for _, want := range []string{
		`countersign_gateway_requests_total{code="4xx",gateway="ns/gw",listener="l",route="other",status_by="client"} 5000`,
		`countersign_gateway_requests_total{code="2xx",gateway="ns/gw",listener="l",route="ns/shop",status_by="upstream"} 1`,
		`countersign_gateway_request_seconds_count{gateway="ns/gw",route="ns/shop"} 1`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%s is missing in\n%s", want, all)
		}
	}
	if strings.Contains(all, "probed") {
		t.Error("a route that refused everybody has a series of its own")
	}
	m.KeepRoutes(func(string) bool { return false })
	if all := strings.Join(gatewaySeries(t, m), "\n"); strings.Contains(all, "ns/shop") || !strings.Contains(all, `route="other"`) {
		t.Errorf("after its route went:\n%s", all)
	}
}

func TestGatewayCountsAllocateNothing(t *testing.T) {
	m := NewMetrics("t")
	r := GatewayRequest{Gateway: "ns/gw", Listener: "l", Route: "ns/shop", Class: "2xx", By: "upstream", Allowed: true, Took: time.Millisecond, Upstream: time.Millisecond}
	one := func() {
		m.GatewayRequest(&GatewayRequest{Gateway: r.Gateway, Listener: r.Listener, Route: r.Route, Class: r.Class, By: r.By, Allowed: true, Took: r.Took, Upstream: r.Upstream})
		m.GatewayRefused("ns/gw", "authz", "deny_rule")
		m.GatewayStream(r.Route).End()
	}
	if n := testing.AllocsPerRun(1000, one); n != 0 {
		t.Errorf("%g allocations for one exchange, want none", n)
	}
	var none *Metrics
	none.GatewayRequest(&r)
	none.GatewayStream("x").End()
}

func BenchmarkGatewayRequest(b *testing.B) {
	m := NewMetrics("t")
	r := GatewayRequest{Gateway: "ns/gw", Listener: "l", Route: "ns/shop", Class: "2xx", By: "upstream", Allowed: true, Took: time.Millisecond, Upstream: time.Millisecond}
	b.ReportAllocs()
	for b.Loop() {
		m.GatewayRequest(&r)
		m.GatewayStream(r.Route).End()
	}
}
