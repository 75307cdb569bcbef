package node

import (
	"testing"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/policy"
)

// why about what this node refused: the last one, one between two names, one by its id.
func TestWhyRefused(t *testing.T) {
	m := newMesh(t)
	ctx := t.Context()
	if _, err := m.n.why(ctx, admin.WhyRequest{}); code(err) != "nothing_refused" {
		t.Errorf("before any call: %v", err)
	}
	rec := &audit.Record{
		Kind: audit.KindRequest, Decision: audit.Deny, Layer: audit.LayerAuthz, Reason: policy.ReasonNoRule,
		PeerID: "spiffe://cluster.local/ns/shop/sa/web", DstID: "spiffe://cluster.local/ns/shop/sa/api", Method: "GET", Path: "/orders/17", Host: "api", Port: 8081,
	}
	m.n.recorder.Add(rec)
	for name, q := range map[string]admin.WhyRequest{
		"the last": {}, "by id": {ID: rec.ID}, "by prefix": {ID: rec.ID[:8]}, "between": {From: "web", To: "api", Namespace: "shop"}, "of a namespace": {From: "shop/*"},
	} {
		q.Namespace = "shop"
		w, err := m.n.why(ctx, q)
		if err != nil || w.ID != rec.ID || w.Decision != audit.Deny || w.Call.From != "web" || w.Call.To != "api" || w.Hint != "countersign allow web api 'GET /orders/{*}'" {
			t.Errorf("%s: got %+v, %v", name, w, err)
		}
	}
	for want, q := range map[string]admin.WhyRequest{
		"no_decision": {ID: "zzzzzzzzzz"}, "nothing_refused": {From: "other"}, "name_invalid": {From: "No"},
	} {
		if _, err := m.n.why(ctx, q); code(err) != want {
			t.Errorf("%+v: got %v, want %s", q, err, want)
		}
	}
	m.apply("api", "{selectors: ['run:shop/api'], nodes: any}")
	m.changed("the entry", func() bool { _, ok := m.n.entry("shop/api"); return ok })
	st, err := m.n.status(ctx, struct{}{})
	if err != nil || st.Node != "a" || !st.InTouch || st.LastMinute.Refused != 1 || len(st.Workloads) != 1 || st.Workloads[0].SPIFFEID != "spiffe://cluster.local/ns/shop/sa/api" {
		t.Errorf("status is %+v, %v", st, err)
	}
}
