package server

import (
	"strings"
	"testing"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/snapshot"
)

// allow writes one sentence, says what it comes to, and how to take it back (cli.md 10.8).
func TestAllow(t *testing.T) {
	r := newPlace(t).run()
	ctx := t.Context()
	say := func(from, to, ns string, requests ...string) (admin.ApplyReply, error) {
		return r.allow(ctx, admin.AllowRequest{From: from, To: to, Namespace: ns, Requests: requests})
	}
	reply, err := say("web", "api", "", "GET /orders/{*}")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := reply.Sentence, "web may GET /orders/{*} at api, and nothing else"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if o := reply.Objects[0]; o.Result != "created" || o.Namespace != "default" || o.Name != "api-from-web" {
		t.Errorf("got %+v", o)
	}
	if reply.Undo != "countersign delete ap api-from-web" || len(reply.Notes) != 2 {
		t.Errorf("undo %q, notes %v", reply.Undo, reply.Notes)
	}
	again, err := say("web", "api", "", "GET /orders/{*}")
	if err != nil || again.Objects[0].Result != "unchanged" || again.Revision != reply.Revision {
		t.Errorf("said again: %+v, %v", again, err)
	}
	more, err := say("web", "api", "", "POST /orders")
	if err != nil || more.Objects[0].Result != "changed" || more.Sentence != "web may GET /orders/{*}, POST /orders at api, and nothing else" {
		t.Errorf("another request: %+v, %v", more, err)
	}
	all, err := say("shop/*", "api", "", "GET /")
	if err != nil || all.Objects[0].Name != "api-from-all.shop" {
		t.Errorf("a namespace: %+v, %v", all, err)
	}
	everybody, err := say("*", "shop/api", "", "GET /health")
	if err != nil || everybody.Objects[0].Namespace != "shop" || everybody.Objects[0].Name != "api-from-all" || everybody.Undo != "countersign delete ap api-from-all -n shop" {
		t.Errorf("everybody: %+v, %v", everybody, err)
	}
	r.applied(policyDoc("api-from-cart", "default", "{}"))
	if _, err := say("cart", "api", "", "GET /"); code(err) != "not_mine" {
		t.Errorf("a hand-written object: %v", err)
	}
	if _, err := say("web", "api", "", "GET /a/*/b"); code(err) != "bad_pattern" {
		t.Errorf("a pattern: %v", err)
	}
	if _, err := say("*", "*", "", "GET /"); code(err) != "name_invalid" {
		t.Errorf("to everybody: %v", err)
	}
	if _, err := say("spiffe://other.example/ns/default/sa/web", "api", "", "GET /"); code(err) != "trust_domain" {
		t.Errorf("somebody of another mesh: %v", err)
	}
}

// FROM is a workload, whose account may have another name; a SPIFFE ID is what it says.
func TestAllowAccounts(t *testing.T) {
	r := newPlace(t).run()
	r.applied(
		workloadDoc("web", "default", "{serviceAccount: frontend, selectors: ['run:default/web'], nodes: any}"),
		workloadDoc("api", "default", "{selectors: ['run:default/api'], nodes: any}"),
	)
	for from, want := range map[string]string{
		"web": "cluster.local/ns/default/sa/frontend",
		"spiffe://cluster.local/ns/default/sa/frontend": "cluster.local/ns/default/sa/frontend",
		"spiffe://cluster.local/ns/default/sa/web":      "cluster.local/ns/default/sa/web",
		"job": "cluster.local/ns/default/sa/job",
	} {
		reply, err := r.allow(t.Context(), admin.AllowRequest{From: from, To: "api", Requests: []string{"GET /"}, DryRun: true})
		if err != nil || !strings.Contains(reply.YAML, want+`"`) || !strings.Contains(reply.YAML, "app: api") {
			t.Errorf("%s: %v\n%s", from, err, reply.YAML)
		}
	}
	if r.revision() != r.Revision() {
		t.Error("a dry run wrote something")
	}
}

// why answers for calls that never were, and its hint is true.
func TestWhy(t *testing.T) {
	r := newPlace(t).run()
	ctx := t.Context()
	ask := func(from, to, request string) (admin.Why, error) {
		return r.why(ctx, admin.WhyRequest{From: from, To: to, Request: request})
	}
	w, err := ask("web", "api", "DELETE /orders/17")
	if err != nil || w.Decision != audit.Deny || w.Hint != "countersign allow web api 'DELETE /orders/{*}'" || w.PolicyRevision != r.PolicyRevision() {
		t.Fatalf("got %+v, %v", w, err)
	}
	if _, err := r.allow(ctx, admin.AllowRequest{From: "web", To: "api", Requests: []string{"DELETE /orders/{*}"}}); err != nil {
		t.Fatal(err)
	}
	if w, err = ask("web", "api", "DELETE /orders/17"); err != nil || w.Decision != audit.Allow || w.Hint != "" {
		t.Errorf("after the hint: got %+v, %v", w, err)
	}
	if w, err = ask("web", "api", "GET /orders/17"); err != nil || w.Decision != audit.Deny || len(w.Nearest) == 0 {
		t.Errorf("another method: got %+v, %v", w, err)
	}
	if w, err = ask("web", "api", "GET /../x"); err != nil || w.Decision != audit.Deny && w.Call.Path != "/x" {
		t.Errorf("a path that climbs: got %+v, %v", w, err)
	}
	for request, want := range map[string]string{"": "bad_request", "GET": "bad_request", "GET /orders/{*}": "bad_request", "GET /a*": "bad_request", "GET orders": "bad_request"} {
		if _, err := ask("web", "api", request); code(err) != want {
			t.Errorf("%q: got %v, want %s", request, err, want)
		}
	}
	if _, err := ask("*", "api", "GET /"); code(err) != "name_invalid" {
		t.Errorf("everybody: %v", err)
	}
	if _, err := ask("spiffe://other.example/ns/default/sa/web", "api", "GET /"); code(err) != "trust_domain" {
		t.Errorf("another mesh: %v", err)
	}
}

// status and roots, over the socket as the command line asks.
func TestStatusAndRoots(t *testing.T) {
	r := newPlace(t).run()
	r.applied(workloadDoc("web", "shop", "{selectors: ['run:shop/web'], nodes: any}"))
	st, err := r.status(t.Context(), struct{}{})
	if err != nil || st.TrustDomain != "cluster.local" || len(st.Authorities) < 2 || len(st.Workloads) != 1 || st.Workloads[0].SPIFFEID != "spiffe://cluster.local/ns/shop/sa/web" || st.Revision != r.Revision() {
		t.Errorf("got %+v, %v", st, err)
	}
	pem, err := r.roots(t.Context(), rootsRequest{Format: "pem"})
	if err != nil || strings.Count(pem.Text, "BEGIN CERTIFICATE") != 1 || strings.Contains(pem.Text, "PRIVATE") {
		t.Errorf("got %q, %v", pem.Text, err)
	}
	spiffe, err := r.roots(t.Context(), rootsRequest{Format: "spiffe"})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := identity.ParseBundle(r.td, []byte(spiffe.Text)); err != nil || len(b.Roots) != 1 {
		t.Errorf("bundle: %v", err)
	}
	if _, err := r.roots(t.Context(), rootsRequest{Format: "der"}); code(err) != "usage" {
		t.Errorf("another format: %v", err)
	}
	// The server's own process is not answered by its socket (security.md S2).
	if _, err := admin.Ask[admin.ServerStatus](t.Context(), r.admin, "POST /v1/status", struct{}{}); code(err) != "not_yours" {
		t.Errorf("asked by itself: %v", err)
	}
}

// A name that nobody has yet is noted, with the one that was probably meant (cli.md 9.5).
func TestUnknownParties(t *testing.T) {
	v := &view{World: &snapshot.World{Entries: []entry.Entry{{Namespace: "default", Name: "web"}, {Namespace: "shop", Name: "orders"}}}}
	for name, want := range map[string]string{
		"wbe": `no workload "wbe" is known yet; did you mean "web"?`, "webb": `no workload "webb" is known yet; did you mean "web"?`,
		"we": `no workload "we" is known yet; did you mean "web"?`, "wub": `no workload "wub" is known yet; did you mean "web"?`,
		"bew": `no workload "bew" is known yet`, "order": `no workload "order" is known yet`,
		"shop/order": `no workload "shop/order" is known yet; did you mean "shop/orders"?`,
	} {
		n, err := admin.ParseName(name, "", true)
		if err != nil {
			t.Fatal(err)
		}
		if got := unknownParties(v, n); len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %q", name, got)
		}
	}
}
