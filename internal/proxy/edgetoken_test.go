package proxy

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/bearer"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/route"
)

// exchanger is the token service of a Gateway in these tests: it counts, and gives or refuses.
type exchanger struct {
	mu    sync.Mutex // guards the rest
	calls []EdgeCall
	token string
	err   error
}

func (e *exchanger) exchange(_ context.Context, _ *Run, c EdgeCall) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = append(e.calls, c)
	return e.token, e.err
}

func (e *exchanger) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.calls)
}

// newEdge is a house whose Gateway exchanges what the foreign issuer signed, and whose service wants to know of whom
// a call is.
func newEdge(t testing.TB, s setup, uses []grant.Use, rules ...route.Rule) (*house, *exchanger) {
	t.Helper()
	s.allow = []policy.Rule{{From: []policy.Source{{Principals: []string{"cluster.local/ns/default/sa/edge"}, RequestPrincipals: []string{foreignID + "/alice"}}}}}
	h := newHouse(t, s, rules...)
	d, wrong := grant.New(grant.Objects{
		TrustDomain: domain, RootNamespace: "istio-system", Issuer: ourIssuer,
		Services: []grant.Service{{Namespace: "default", Name: "api", Owners: []string{apiID}}, {Namespace: "default", Name: "other", Owners: []string{otherID}}},
		Issuers:  []grant.Issuer{{Name: "id", Namespace: "default", Issuer: foreignID, Audiences: []string{"https://shop"}, Uses: uses}},
	})
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	book := bearer.NewBook(bearer.Facts{TrustDomain: domain, Issuer: ourIssuer, Own: h.own.set(), Directory: d}, nil)
	h.change(func(s *State) {
		svc := *s.Services[ServiceKey{"default", "api"}]
		svc.Audience = apiID
		s.Services = map[ServiceKey]*Service{{"default", "api"}: &svc}
		s.Tokens = book
	})
	e := &exchanger{token: h.own.edge()}
	h.a.Proxy.exchange = e.exchange
	return h, e
}

// edge is an edge token of alice for api, as the Gateway gets it.
func (k *key) edge(more ...claims) string {
	return k.ours(append([]claims{{
		"sub": "id:alice", "client_id": edgeID, "cnf": claims{"spiffe": edgeID}, "act": claims{"sub": edgeID},
		"oiss": foreignID, "osub": "alice", "oat": "jwt", "rti": "root-of-alice", "jti": "edge-token",
	}}, more...)...)
}

var subjects = []grant.Use{grant.UseSubject}

// The service gets the edge token in place of the caller's, knows the caller by it, and both records name the same person.
func TestDoorEdgeToken(t *testing.T) {
	h, e := newEdge(t, setup{}, subjects, toAPI())
	shown := h.id.foreign()
	status, body, _ := h.ask("GET /orders", bearerLine(shown))
	if status != 200 || !strings.Contains(body, "Authorization: Bearer "+e.token+"\r\n") || strings.Contains(body, shown) {
		t.Fatalf("%d %s", status, body)
	}
	want := EdgeCall{Credential: Credential{Kind: ForeignToken, Text: shown}, Audience: apiID}
	if len(e.calls) != 1 || e.calls[0].Kind != want.Kind || e.calls[0].Text != shown || e.calls[0].Audience != apiID {
		t.Errorf("asked for %+v", e.calls)
	}
	door := h.a.record(func(r *audit.Record) bool { return r.DstID == edgeID && r.Status == 200 })
	inside := h.b.record(func(r *audit.Record) bool { return r.DstID == apiID && r.Status == 200 })
	if door.Subject == nil || inside.Subject == nil || door.Sub != inside.Sub || inside.JTI != "edge-token" {
		t.Errorf("door %+v, inside %+v", door.Subject, inside.Subject)
	}

	// One of our own tokens for that service is exchanged too; it needs no RequestAuthentication.
	h.admit(policy.Rule{})
	own := h.own.ours(claims{"cnf": nil, "sub": "ci", "client_id": "ci"})
	if status, body, _ := h.ask("GET /orders", bearerLine(own)); status != 401 || body != invalidToken {
		t.Errorf("a token that is bound to nobody, for a service that wants it bound: %d %q", status, body)
	}
}

// What is not exchanged: what ends at the door, what nobody was taken for, and what goes on as it came.
func TestDoorEdgeTokenNot(t *testing.T) {
	h, e := newEdge(t, setup{}, subjects, toAPI(path(route.Prefix, "/orders"), filter(route.Filter{CORS: &route.CORS{Origins: []string{"https://a.test"}, Methods: []string{"GET"}}})),
		route.Rule{Matches: []route.Match{{PathType: route.Prefix, Path: "/old"}}, Filters: []route.Filter{{Redirect: &route.Redirect{Status: 301, Path: &route.PathReplace{Value: "/new"}}}}},
		toAPI(path(route.Exact, "/gone"), func(r *route.Rule) { r.Backends[0].Name.Name = "nobody" }))
	h.admit(policy.Rule{From: []policy.Source{{RequestPrincipals: []string{foreignID + "/alice"}}}})
	token := bearerLine(h.id.foreign())
	for name, c := range map[string]struct {
		line   string
		fields []string
		status int
	}{
		"redirect":          {"GET /old/x", []string{token}, 301},
		"preflight":         {"OPTIONS /orders", []string{token, "Origin: https://a.test", "Access-Control-Request-Method: GET"}, 204},
		"no rule":           {"GET /else", []string{token}, 404},
		"no backend":        {"GET /gone", []string{token}, 500},
		"a bad token":       {"GET /orders", []string{token + "x"}, 401},
		"another issuer":    {"GET /orders", []string{bearerLine(h.id.foreign(claims{"iss": "https://id2"}))}, 401},
		"refused by policy": {"GET /orders", []string{bearerLine(h.id.foreign(claims{"sub": "bob"}))}, 403},
		"two tokens":        {"GET /orders", []string{token, token}, 400},
		"nothing shown":     {"GET /orders", nil, 403},
	} {
		if status, body, _ := h.ask(c.line, c.fields...); status != c.status {
			t.Errorf("%s: %d %q, want %d", name, status, body, c.status)
		}
	}
	if n := e.count(); n != 0 {
		t.Errorf("the token service was asked %d times: %+v", n, e.calls)
	}

	// An issuer that no TrustedIssuer gives as a subject: the service sees the Gateway alone.
	h, e = newEdge(t, setup{}, []grant.Use{grant.UseRequest}, toAPI())
	if status, body, _ := h.ask("GET /orders", bearerLine(h.id.foreign())); status != 403 || e.count() != 0 {
		t.Errorf("%d %q, asked %d times", status, body, e.count())
	}
}

// What goes on by forwardOriginalToken in Authorization is the service's to judge; beside another header the edge token is there.
func TestDoorEdgeTokenForwarded(t *testing.T) {
	for name, c := range map[string]struct {
		edit  func(*policy.TokenRule)
		line  string
		calls int
	}{
		"in Authorization": {func(r *policy.TokenRule) { r.Forward = true }, "Authorization: Bearer ", 0},
		"elsewhere": {func(r *policy.TokenRule) {
			r.Forward, r.Headers = true, []policy.TokenHeader{{Name: "X-Token"}}
		}, "X-Token: ", 1},
	} {
		h, e := newEdge(t, setup{}, subjects, toAPI())
		compiled, faults := policy.Compile(policy.Set{TrustDomain: domain, RootNamespace: "istio-system", RequestAuth: []policy.RequestAuthentication{{
			Namespace: "default", Name: "edge", Selector: map[string]string{"app": "edge"}, Rules: []policy.TokenRule{h.rule(c.edit)},
		}}})
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		h.change(func(s *State) { s.Compiled = compiled })
		shown := h.id.foreign()
		status, body, _ := h.ask("GET /orders", c.line+shown)
		if status != 200 || !strings.Contains(body, c.line+shown) || strings.Contains(body, e.token) != (c.calls == 1) || e.count() != c.calls {
			t.Errorf("%s: %d, asked %d times\n%s", name, status, e.count(), body)
		}
	}
}

// The token service says no, or nothing: the request ends, and what was said stands in the record alone (sec: fails closed).
func TestSecDoorEdgeTokenFailsClosed(t *testing.T) {
	reached := false
	h, e := newEdge(t, setup{handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true })}, subjects, toAPI())
	h.admit(policy.Rule{})
	token := bearerLine(h.id.foreign())
	for name, c := range map[string]struct {
		err     error
		status  int
		text    string
		reason  string
		retry   string
		outcome string
	}{
		"refused":  {&NoToken{Detail: "the token service answered 400: invalid_request", Refused: true}, 403, "the credential is not good for this service", "exchange", "", audit.Deny},
		"away":     {&NoToken{Detail: "the token service cannot be reached"}, 503, "no access token", "missing", "5", audit.Failed},
		"an error": {io.ErrUnexpectedEOF, 503, "no access token", "missing", "5", audit.Failed},
	} {
		e.token, e.err = "", c.err
		status, body, header := h.ask("GET /orders", token)
		if status != c.status || body != c.text || header.Get("Retry-After") != c.retry {
			t.Errorf("%s: %d %q %v", name, status, body, header)
		}
		id := header.Get("X-Decision-Id")
		rec := h.a.record(func(r *audit.Record) bool { return r.ID == id })
		if rec.Reason != c.reason || rec.Decision != c.outcome || c.err != io.ErrUnexpectedEOF && !strings.Contains(rec.Detail, c.err.Error()) {
			t.Errorf("%s: record %+v", name, rec)
		}
		if strings.Contains(rec.Detail, "eyJ") {
			t.Errorf("%s: the record has a token", name)
		}
	}
	if reached {
		t.Error("the service was called all the same")
	}
}

// Of a credential in one place and an Authorization in another neither gives way (T9).
func TestSecDoorTwoCredentials(t *testing.T) {
	h, e := newEdge(t, setup{}, subjects, toAPI())
	token := h.id.foreign()
	for _, line := range []string{"Authorization: Basic eDp5", "Authorization: Other " + token} { // that would pass for one that is forwarded
		status, body, header := h.ask("GET /orders?access_token="+token, line)
		if status != 400 || body != "two credentials" || e.count() != 0 {
			t.Errorf("%s: %d %q, asked %d times", line, status, body, e.count())
		}
		id := header.Get("X-Decision-Id")
		if rec := h.a.record(func(r *audit.Record) bool { return r.ID == id }); rec.Reason != "multiple" || strings.Contains(rec.Path, "eyJ") {
			t.Errorf("record %+v", rec)
		}
	}
}

// The service's side ends what is under way when the root of an edge token is revoked, though the Gateway knows nothing to revoke.
func TestSecDoorEdgeTokenCut(t *testing.T) {
	h, _ := newEdge(t, setup{handler: ticking()}, subjects, toAPI())
	req, _ := http.NewRequest("GET", "http://"+h.http+"/stream", nil)
	req.Host = "shop.test"
	req.Header.Set("Authorization", "Bearer "+h.id.foreign())
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	defer resp.Body.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, resp.Body)
	}()
	h.revoke(revocation.Entry{Kind: revocation.ByRTI, Val: "root-of-alice"})
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the stream goes on")
	}
}

// Only what a request may reach is what its own token may be for.
func TestReached(t *testing.T) {
	h, _ := newEdge(t, setup{}, subjects)
	rule := toAPI(func(r *route.Rule) {
		none, idle, gone := r.Backends[0], r.Backends[0], r.Backends[0]
		idle.Weight, none.Port, gone.Name.Name = 0, 81, "nobody"
		r.Backends = append(r.Backends, none, idle, gone, r.Backends[0])
	})
	x := &exchange{v: h.a.view.Load()}
	if got := x.reached(&rule); !slices.Equal(got, []string{"default/api", "default/api"}) {
		t.Errorf("%v", got)
	}
	v := *x.v.State
	v.Refused = map[*route.Backend]route.Refusal{&rule.Backends[0]: {Reason: "x"}, &rule.Backends[4]: {Reason: "x"}}
	x.v = newView(&v)
	if got := x.reached(&rule); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

// An API key that was taken goes on as an edge token like any credential, kept by the id of its secret.
func TestDoorEdgeTokenOfKey(t *testing.T) {
	h, e := newEdge(t, setup{}, subjects)
	x := &exchange{p: h.a.Proxy, v: h.a.view.Load(), run: &run{}, link: &link{}, r: httptest.NewRequest("GET", "/", nil)}
	x.place = x.v.place(ServiceKey{"default", "api"}, 80)
	x.shown = Credential{Kind: APIKey, Text: "csk_live_x", KeyID: "7Kq2m9XbTa", Scopes: []string{"orders:read"}}
	if no := x.edgeToken(); no != nil {
		t.Fatalf("%+v", no)
	}
	if got := x.r.Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+e.token {
		t.Errorf("%v", got)
	}
	if len(e.calls) != 1 || e.calls[0].KeyID != "7Kq2m9XbTa" || e.calls[0].Audience != apiID {
		t.Errorf("asked for %+v", e.calls)
	}
}

// What is outside the mesh gets no token of ours, whatever was taken at the door.
func TestSecDoorEdgeTokenStaysInside(t *testing.T) {
	h, e := newEdge(t, setup{}, subjects)
	x := &exchange{p: h.a.Proxy, v: h.a.view.Load(), run: &run{}, link: &link{}, r: httptest.NewRequest("GET", "/", nil), place: &place{foreign: true}}
	x.shown = Credential{Kind: OwnToken, Text: "eyJ"}
	if no := x.edgeToken(); no != nil || len(x.r.Header) != 0 || e.count() != 0 {
		t.Errorf("%+v, %v, asked %d times", no, x.r.Header, e.count())
	}
}
