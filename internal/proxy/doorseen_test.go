package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/route"
)

// Every exchange at a door says in its record at which listener it came in, which rule took it, and whose its status
// is; the metrics count the same, and nothing that a stranger sent is in them.
func TestDoorSeen(t *testing.T) {
	h := newHouse(t, setup{},
		toAPI(path(route.Prefix, "/orders")),
		toAPI(path(route.Exact, "/away"), func(r *route.Rule) { r.Name = "away"; r.Backends[0].Port = 9 }),
		toAPI(path(route.Exact, "/moved"), func(r *route.Rule) { r.Backends = nil }, filter(route.Filter{Redirect: &route.Redirect{Status: 301, Hostname: "new.test"}})),
	)
	token := bearerLine(h.id.foreign())
	for _, tc := range []struct {
		line     string
		fields   []string
		status   int
		listener string
		rule, by string
	}{
		{"GET /orders/1", []string{token}, 200, "plain", "default/shop#0", audit.ByUpstream},
		{"GET /orders/2", nil, 403, "plain", "default/shop#0", audit.ByClient},
		{"GET /orders/3", []string{"Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.e30.AA"}, 401, "plain", "default/shop#0", audit.ByClient},
		{"GET /away", []string{token}, 500, "plain", "default/shop#away", audit.ByGateway},
		{"GET /moved", []string{token}, 301, "plain", "default/shop#2", audit.ByGateway},
		{"GET /secret-4711", []string{token}, 404, "plain", "", audit.ByClient},
		{"GET /orders/%2f5", []string{token}, 400, "plain", "default/shop#0", audit.ByClient},
		{"BREW /orders/6", []string{"Bad Field: x"}, 400, "", "", audit.ByClient},
	} {
		if status, body, _ := h.ask(tc.line, tc.fields...); status != tc.status {
			t.Errorf("%s: %d %s, want %d", tc.line, status, body, tc.status)
			continue
		}
		rec := h.a.record(func(r *audit.Record) bool {
			return r.Kind == audit.KindRequest && r.Gateway != "" && r.Status == tc.status && r.Listener == tc.listener
		})
		if rec.Gateway != "default/edge" || rec.Listener != tc.listener || rec.RouteRule != tc.rule || rec.StatusBy != tc.by {
			t.Errorf("%s: gateway %q, listener %q, rule %q, status by %q", tc.line, rec.Gateway, rec.Listener, rec.RouteRule, rec.StatusBy)
		}
	}
	w := httptest.NewRecorder()
	h.a.metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	page, _ := io.ReadAll(w.Body)
	for _, want := range []string{
		`requests_total{code="2xx",gateway="default/edge",listener="plain",route="default/shop",status_by="upstream"} 1`,
		`requests_total{code="5xx",gateway="default/edge",listener="plain",route="default/shop",status_by="gateway"} 1`,
		`requests_total{code="4xx",gateway="default/edge",listener="plain",route="none",status_by="client"} 1`,
		`requests_total{code="3xx",gateway="default/edge",listener="plain",route="default/shop",status_by="gateway"} 1`,
		`requests_total{code="4xx",gateway="default/edge",listener="",route="none",status_by="client"} 1`,
		`refused_total{gateway="default/edge",layer="route",reason="no_route"} 1`,
		`refused_total{gateway="default/edge",layer="http",reason="bad_header"} 1`,
		`upstream_seconds_count{gateway="default/edge",route="default/shop"} 1`,
		`active_streams{route="default/shop"} 0`,
		`table_routes 1`,
	} {
		if !bytes.Contains(page, []byte("countersign_gateway_"+want+"\n")) {
			t.Errorf("no %s", want)
		}
	}
	for _, never := range []string{"4711", "shop.test", "new.test", "/orders", "BREW"} {
		for line := range strings.SplitSeq(string(page), "\n") {
			if strings.HasPrefix(line, "countersign_gateway_") && strings.Contains(line, never) {
				t.Errorf("a stranger's %q is in %s", never, line)
			}
		}
	}
}

// A client that asks for a name which no listener shows a certificate for leaves a record, and is counted.
func TestDoorSeenHandshake(t *testing.T) {
	h := newHouse(t, setup{}, toAPI())
	if _, err := tls.Dial("tcp", h.https, &tls.Config{InsecureSkipVerify: true, ServerName: "nowhere.test"}); err == nil {
		t.Fatal("a handshake for a name of no listener ended well")
	}
	rec := h.a.record(func(r *audit.Record) bool { return r.Kind == audit.KindConnection })
	if rec.Layer != audit.LayerTLS || rec.Reason != unrecognizedName || rec.SNI != "nowhere.test" || rec.Gateway != "default/edge" {
		t.Errorf("got %+v", rec)
	}
}
