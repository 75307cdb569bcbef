package proxy

import (
	"strings"
	"testing"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/policy"
)

func TestCallAllowed(t *testing.T) {
	m := newMesh(t, setup{})
	for _, target := range []string{
		"http://api/orders/17?x=1", "http://api.default/orders/17?x=1", "http://api.default.svc:80/orders/17?x=1",
		"http://API.default.svc.cluster.local./orders/17?x=1",
	} {
		status, body, h := m.get(target)
		if status != 200 || !strings.HasPrefix(body, "GET /orders/17?x=1 ") {
			t.Fatalf("%s: got %d %q", target, status, body)
		}
		if h.Get("X-Decision-Id") != "" || h.Get("X-Countersign-Peer") != "" {
			t.Errorf("%s: the program spoke for us: %v", target, h)
		}
	}
	rec := m.b.record(func(r *audit.Record) bool { return r.Kind == audit.KindRequest })
	if rec.Side != audit.SideServer || rec.PeerID != webID || rec.DstID != apiID || rec.DstInstance != "api1" ||
		rec.Service != "default/api" || rec.Method != "GET" || rec.Status != 200 || rec.Decision != audit.Allow ||
		rec.Reason != "allow_rule" || rec.Policy != "default/web-api" || rec.Rule != 1 || rec.Route != "/orders/{*}" || rec.Path != "" ||
		rec.Port != m.apiPort || rec.TLSVersion == 0 || rec.TLSGroup == 0 || len(rec.PeerSerial) == 0 || rec.RespBytes == 0 ||
		!strings.HasPrefix(rec.SNI, "api1.api.default.svc.") || rec.ALPN != "http/1.1" {
		t.Errorf("record %+v", rec)
	}
	m.a.mu.Lock()
	defer m.a.mu.Unlock()
	for _, rec := range m.a.records {
		if rec.Kind == audit.KindRequest {
			t.Errorf("the caller's side recorded what the callee's did: %+v", rec)
		}
	}
}

func TestCallRefused(t *testing.T) {
	m := newMesh(t, setup{allow: []policy.Rule{{To: []policy.Operation{{Paths: []string{"/ok"}}}}}})
	if status, _, _ := m.get("http://api/ok"); status != 200 {
		t.Fatalf("got %d", status)
	}
	status, body, h := m.get("http://api/orders/17?secret=1")
	if status != 403 || body != "RBAC: access denied" || h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "text/plain" {
		t.Fatalf("got %d %q %v", status, body, h)
	}
	rec := m.b.reason("no_allow_rule")
	if rec.ID != h.Get("X-Decision-Id") || rec.Path != "/orders/17" || rec.Decision != audit.Deny || rec.Layer != audit.LayerAuthz {
		t.Errorf("id %q, record %+v", h.Get("X-Decision-Id"), rec)
	}
	if e := m.a.event("call_refused"); e.From != "web" || e.To != "api" || e.Method != "GET" || e.Path != "/orders/17" || e.Decision != rec.ID {
		t.Errorf("event %+v", e)
	}
}
