package node

import (
	"slices"
	"testing"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/proxy"
	"countersign.dev/internal/snapshot"
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

// why about a call that had no token to carry names the cause and the client.
func TestWhyNoTokenToAttach(t *testing.T) {
	aloneInBubble(t, func(t *testing.T, c *caller) {
		const cause = "the token service answered 401: invalid_client: client authentication failed"
		rec := &audit.Record{
			Kind: audit.KindRequest, Side: audit.SideClient, Decision: audit.Failed, Layer: audit.LayerToken, Reason: "missing", Detail: cause,
			PeerID: shopWeb, Service: "shop/api", Method: "GET", Path: "/orders/17", Host: "api",
		}
		other := snapshot.Attach{ID: shopWeb, Service: "shop/other", Client: "shop/x"}
		for _, tc := range []struct {
			attach []snapshot.Attach
			hint   string
		}{
			{nil, "countersign client list -A"},
			{[]snapshot.Attach{other, {ID: shopWeb, Service: "shop/api"}}, "countersign client list -A"},
			{[]snapshot.Attach{other, {ID: "spiffe://cluster.local/ns/shop/*", Service: "shop/api", Client: "ops/web-api"}}, "countersign client show web-api -n ops"},
		} {
			c.n.snap.Load().Attach = tc.attach
			w := c.n.explain(rec, "shop")
			if !slices.Equal(w.Lines, []string{"no token: " + cause}) || w.Hint != tc.hint {
				t.Errorf("got %q, hint %q; want hint %q", w.Lines, w.Hint, tc.hint)
			}
		}
		x := &run{n: c.n}
		x.event(proxy.Event{Code: "no_token", From: "web", To: "api", Decision: "0123456789", Text: cause})
		if note := <-x.notes.wait(); note.Text != "web → api: no access token to attach: "+cause || !slices.Equal(note.Hints, []string{"countersign why 01234567"}) {
			t.Errorf("the terminal says %+v", note)
		}
	})
}
