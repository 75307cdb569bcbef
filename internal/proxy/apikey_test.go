package proxy

import (
	"crypto/rand"
	"crypto/tls"
	"maps"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// keyHouse is a house whose Gateway takes API keys.
type keyHouse struct {
	*house
	key    apikey.Key // of partner, which is for api
	record apikey.Record
	edge   *exchanger

	mu      sync.Mutex
	used    []string
	exposed []string
}

func newKeyHouse(t testing.TB, rules ...route.Rule) *keyHouse {
	t.Helper()
	h := &keyHouse{house: newHouse(t, setup{}, rules...), key: mint(t, apikey.Live)}
	h.record = apikey.Record{
		Namespace: "default", Name: "partner", Env: apikey.Live, Secrets: []apikey.Secret{h.key.Secret(nil)},
		Owner: "spiffe://cluster.local/ns/default/sa/billing", Scopes: []string{"orders:read"}, Audiences: []string{"api"},
		Expires: time.Now().Add(time.Hour), RevokeOnLeak: true,
	}
	h.a.keyUsed = func(id string) { h.mu.Lock(); defer h.mu.Unlock(); h.used = append(h.used, id) }
	h.a.keyExposed = func(id, gateway string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.exposed = append(h.exposed, id+"@"+gateway)
	}
	h.keys(h.record)
	h.takes("live")
	h.change(func(s *State) {
		services := maps.Clone(s.Services)
		for key, svc := range services {
			known := *svc
			known.Audience = "spiffe://cluster.local/ns/" + key.Namespace + "/sa/" + key.Name
			services[key] = &known
		}
		s.Services = services
	})
	h.edge = &exchanger{token: h.own.edge(claims{
		"sub": "key:default:partner", "oat": "api_key", "rti": "key:" + h.key.ID(), "scope": "orders:read", "oiss": nil, "osub": nil,
	})}
	h.a.exchange = h.edge.exchange
	return h
}

func mint(t testing.TB, env apikey.Env) apikey.Key {
	t.Helper()
	k, err := apikey.Mint(rand.Reader, env)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// keys puts these keys in force, and no others.
func (h *keyHouse) keys(records ...apikey.Record) {
	h.t.Helper()
	set, faults := apikey.Build(records, domain, nil)
	if len(faults) > 0 {
		h.t.Fatal(faults)
	}
	h.change(func(s *State) { s.Keys.Set = set })
}

// takes has the Gateway take keys of an environment, and let those of default in that may read orders.
func (h *keyHouse) takes(env string) {
	h.t.Helper()
	compiled, faults := policy.Compile(policy.Set{
		TrustDomain: domain, RootNamespace: "istio-system",
		Policies: []policy.Policy{
			{Namespace: "istio-system", Name: "allow-nothing", Action: policy.Allow},
			{Namespace: "default", Name: "api", Action: policy.Allow, Selector: map[string]string{"app": "api"}, Rules: h.allow},
			{Namespace: "default", Name: "edge", Action: policy.Allow, Selector: map[string]string{"app": "edge"}, Rules: []policy.Rule{{
				From: []policy.Source{{RequestPrincipals: []string{ourIssuer + "/key:default:*", foreignID + "/*"}}},
				When: []policy.Condition{{Key: "request.auth.claims[scope]", Values: []string{"orders:read"}}},
			}}},
		},
		RequestAuth: []policy.RequestAuthentication{{
			Namespace: "default", Name: "edge", Selector: map[string]string{"app": "edge"}, APIKeys: env, Rules: []policy.TokenRule{h.rule(nil)},
		}},
	})
	if len(faults) > 0 {
		h.t.Fatal(faults)
	}
	h.change(func(s *State) { s.Compiled = compiled })
}

// A key becomes the request principal, and is gone behind the door.
func TestDoorAPIKey(t *testing.T) {
	h := newKeyHouse(t, toAPI())
	secret := h.key.Reveal()
	for _, line := range []string{"X-API-Key: " + secret, "Authorization: Bearer " + secret, "authorization: bearer " + secret} {
		status, body, header := h.ask("GET /orders", line, "X-Other: kept")
		if status != 200 || !strings.Contains(body, "X-Other: kept") {
			t.Fatalf("%.9s: %d %s", line, status, body)
		}
		if strings.Contains(body, secret) || strings.Contains(body, "Api-Key") || !strings.Contains(body, "Authorization: Bearer "+h.edge.token+"\r\n") {
			t.Errorf("%.9s: the service does not see the edge token alone", line)
		}
		id := header.Get("X-Decision-Id")
		rec := h.a.record(func(r *audit.Record) bool { return r.DstID == edgeID && r.Status == 200 && (id == "" || r.ID == id) })
		if rec.Subject == nil || rec.Sub != "key:default:partner" || rec.Iss != ourIssuer || rec.Auth != "api_key" || rec.APIKeyID != h.key.ID() {
			t.Errorf("%.9s: %+v", line, rec.Subject)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.used) != 3 || h.used[0] != h.key.ID() || len(h.exposed) != 0 {
		t.Errorf("used %v, exposed %v", h.used, h.exposed)
	}
}

func TestDoorAPIKeyRefusals(t *testing.T) {
	h := newKeyHouse(t, toAPI(path(route.Prefix, "/orders")), toAPI(path(route.Prefix, "/both"), func(r *route.Rule) {
		second := r.Backends[0]
		second.Name.Name = "other"
		r.Backends = append(r.Backends, second)
	}), toAPI(path(route.Prefix, "/idle"), func(r *route.Rule) {
		second := r.Backends[0]
		second.Name.Name, second.Weight = "other", 0
		r.Backends = append(r.Backends, second)
	}))
	kinds := map[string]apikey.Key{}
	records := []apikey.Record{h.record}
	for name, edit := range map[string]func(*apikey.Record){
		"expired":   func(r *apikey.Record) { r.Expires = time.Now().Add(-time.Second) },
		"disabled":  func(r *apikey.Record) { r.Disabled = true },
		"rotated":   func(r *apikey.Record) { r.Secrets[0].Until = time.Now().Add(-time.Second) },
		"elsewhere": func(r *apikey.Record) { r.CIDRs = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")} },
		"test":      func(r *apikey.Record) { r.Env = apikey.Test },
		"routed":    func(r *apikey.Record) { r.Audiences, r.Routes = nil, []string{"default/nosuch"} },
		"unscoped":  func(r *apikey.Record) { r.Scopes = nil },
		"shop":      func(r *apikey.Record) { r.Audiences, r.Routes = nil, []string{"default/shop"} },
	} {
		k := mint(t, apikey.Live)
		if name == "test" {
			k = mint(t, apikey.Test)
		}
		r := h.record
		r.Name, r.Secrets = name, []apikey.Secret{k.Secret(nil)}
		edit(&r)
		kinds[name], records = k, append(records, r)
	}
	h.keys(records...)
	own, unknown := h.key.Reveal(), mint(t, apikey.Live).Reveal()
	other := forge(h.key, mint(t, apikey.Live)) // the id of one, the secret of another, a checksum that is right
	key := func(s string) []string { return []string{"X-API-Key: " + s} }
	const none, forbidden = "the API key is not valid", "the API key may not be used like that"
	for _, c := range []struct {
		name, line   string
		fields       []string
		status       int
		body, reason string
	}{
		{"K1 checksum", "GET /orders", key(own[:len(own)-1] + "_"), 401, none, "key_unknown"},
		{"K1 checksum", "GET /orders", key(own[:25] + swap(own[25]) + own[26:]), 401, none, "key_unknown"},
		{"K2 unknown id", "GET /orders", key(unknown), 401, none, "key_unknown"},
		{"K2 wrong secret", "GET /orders", key(other), 401, none, "key_unknown"},
		{"K2 expired", "GET /orders", key(kinds["expired"].Reveal()), 401, none, "key_expired"},
		{"K2 disabled", "GET /orders", key(kinds["disabled"].Reveal()), 401, none, "key_expired"},
		{"K5 after the overlap", "GET /orders", key(kinds["rotated"].Reveal()), 401, none, "key_expired"},
		{"malformed", "GET /orders", key("csk_live_"), 401, none, "key_unknown"},
		{"K4 CIDR", "GET /orders", append(key(kinds["elsewhere"].Reveal()), "X-Forwarded-For: 203.0.113.7"), 403, forbidden, "key_scope"},
		{"env", "GET /orders", key(kinds["test"].Reveal()), 403, forbidden, "key_scope"},
		{"K4 route", "GET /orders", key(kinds["routed"].Reveal()), 403, forbidden, "key_scope"},
		{"its route", "GET /orders", key(kinds["shop"].Reveal()), 200, "", ""},
		{"K4 scope, by policy", "GET /orders", key(kinds["unscoped"].Reveal()), 403, "RBAC: access denied", "no_allow_rule"},
		{"K5b two services, one not its", "GET /both", key(own), 403, forbidden, "key_scope"},
		{"a service of weight 0", "GET /idle", key(own), 200, "", ""},
		{"no rule", "GET /else", key(own), 404, "no route", "no_route"},
		{"K3 in both", "GET /orders", append(key(own), bearerLine(own)), 400, "malformed or more than one credential", "multiple"},
		{"K3 twice", "GET /orders", append(key(own), key(own)...), 400, "malformed or more than one credential", "multiple"},
		{"T9 token beside", "GET /orders", append(key(own), bearerLine(h.id.foreign())), 400, "malformed or more than one credential", "multiple"},
		{"token in the query", "GET /orders?access_token=" + h.id.foreign(), key(own), 400, "malformed or more than one credential", "multiple"},
		{"K3 in the URL, wrong", "GET /orders?k=" + other, nil, 400, "api key in url", "key_in_url"},
		{"K3 in the path, wrong, beside a key", "GET /orders/" + unknown, key(own), 400, "api key in url", "key_in_url"},
		{"K5b the application's", "GET /orders", append(key("abc"), bearerLine(h.id.foreign(claims{"scope": "orders:read"}))), 200, "", ""},
		{"nothing", "GET /orders", nil, 403, "RBAC: access denied", "no_allow_rule"},
	} {
		status, body, header := h.ask(c.line, c.fields...)
		if status != c.status || c.body != "" && strings.TrimSpace(body) != c.body {
			t.Errorf("%s: %d %q", c.name, status, body)
			continue
		}
		if c.status == 200 {
			if strings.Contains(body, own) || c.name == "K5b the application's" && !strings.Contains(body, "X-Api-Key: abc") {
				t.Errorf("%s: the service sees\n%s", c.name, body)
			}
			continue
		}
		id := header.Get("X-Decision-Id")
		rec := h.a.record(func(r *audit.Record) bool { return r.ID == id })
		if rec.Reason != c.reason {
			t.Errorf("%s: %s/%s", c.name, rec.Layer, rec.Reason)
		}
		line, _ := rec.MarshalJSON()
		for _, bad := range []string{own, unknown, other, own[20:62]} {
			if strings.Contains(string(line), bad) || strings.Contains(body, bad) {
				t.Errorf("%s: the key is told: %s %s", c.name, line, body)
			}
		}
		if challenge := header.Get("Www-Authenticate"); (c.status == 401) != strings.HasSuffix(challenge, `error="invalid_token"`) {
			t.Errorf("%s: challenge %q", c.name, challenge)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.exposed) != 0 {
		t.Errorf("exposed by an id, or by a secret that is wrong: %v", h.exposed)
	}
}

// forge is the id of one key with the secret of another, and the checksum that fits.
func forge(id, secret apikey.Key) string {
	text := []byte(id.Reveal()[:20] + secret.Reveal()[20:])
	return string(apikey.Seal(text))
}

func swap(c byte) string {
	if c == 'a' {
		return "b"
	}
	return "a"
}

// K3: a key in the URL is refused, once or twice encoded, and told to be ended where its secret is right.
func TestDoorKeyInURL(t *testing.T) {
	h := newKeyHouse(t, toAPI())
	secret := h.key.Reveal()
	encoded := strings.ReplaceAll(secret, "_", "%5f")
	for _, target := range []string{"/orders/" + secret, "/orders?key=" + secret, "/orders?key=" + encoded, "/o?a=b&" + strings.ReplaceAll(encoded, "%", "%25")} {
		if status, body, _ := h.ask("GET " + target); status != 400 || !strings.Contains(body, "api key in url") {
			t.Errorf("%.12s: %d %q", target, status, body)
		}
	}
	h.mu.Lock()
	if len(h.exposed) != 4 || h.exposed[0] != h.key.ID()+"@default/edge" {
		t.Errorf("exposed %v", h.exposed)
	}
	h.mu.Unlock()
	rec := h.a.record(func(r *audit.Record) bool { return r.Reason == "key_in_url" && r.Path != "" })
	if strings.Contains(rec.Path, secret) || rec.APIKeyID != h.key.ID() {
		t.Errorf("%+v", rec)
	}
}

// Where nothing says so, nobody is let in by a key, and X-API-Key is the application's. Inside the mesh, where the call
// goes on, a key of ours is still taken out.
func TestDoorTakesNoKeys(t *testing.T) {
	h := newKeyHouse(t, toAPI())
	h.takes("")
	line := "X-API-Key: " + h.key.Reveal()
	if status, _, _ := h.ask("GET /orders", line); status != 403 {
		t.Errorf("let in: %d", status)
	}
	for value, stays := range map[string]bool{h.key.Reveal(): false, "csk_live_of_another_product": true, "abc": true} {
		status, body, _ := h.ask("GET /orders", "X-API-Key: "+value, bearerLine(h.id.foreign(claims{"scope": "orders:read"})))
		if status != 200 || strings.Contains(body, value) != stays {
			t.Errorf("%.12s: %d, at the service %v", value, status, !stays)
		}
	}
}

// The Gateway may name the header; X-API-Key is the application's then.
func TestDoorKeyHeader(t *testing.T) {
	h := newKeyHouse(t, toAPI())
	h.change(func(s *State) {
		s.Keys.Header = map[KeyPlace]string{{ServiceKey{"default", "edge"}, ""}: "X-Partner", {ServiceKey{"default", "edge"}, "secure"}: "X-Else"}
	})
	if status, body, _ := h.ask("GET /orders", "x-partner: "+h.key.Reveal(), "X-API-Key: csk_of_another_product"); status != 200 || !strings.Contains(body, "csk_of_another_product") || strings.Contains(body, h.key.Reveal()) {
		t.Errorf("%d %s", status, body)
	}
	if status, _, _ := h.ask("GET /orders", "X-API-Key: "+h.key.Reveal()); status != 403 {
		t.Errorf("taken from another header: %d", status)
	}
}

// A key over clear text from elsewhere is refused before it is looked at (T9a).
func TestSecDoorKeyInCleartext(t *testing.T) {
	h := newKeyHouse(t, toAPI())
	v := h.a.view.Load()
	r := h.a.runs
	var edge *run
	for _, x := range r {
		if len(x.doors) > 0 {
			edge = x
		}
	}
	for from, want := range map[string]*refused{"127.0.0.1:1": nil, "[::1]:1": nil, "192.0.2.7:1": refuseCleartextKey} {
		for _, over := range []*tls.ConnectionState{nil, {}} {
			x := &exchange{
				p: h.a.Proxy, run: edge, v: v, now: time.Now(), link: &link{src: netip.MustParseAddrPort(from), front: over},
				r: &http.Request{RequestURI: "/", Header: http.Header{"X-Api-Key": {h.key.Reveal()}}},
			}
			rule := toAPI()
			x.hit.Action = &route.Action{Route: &route.HTTPRoute{}, Rule: &rule}
			got := x.apiKey()
			if over != nil && got != nil || over == nil && got != want || len(x.r.Header) != 0 {
				t.Errorf("from %s, TLS %v: %v, header %v", from, over != nil, got, x.r.Header)
			}
			if (got == nil) != (x.key != nil && x.shown.Text == h.key.Reveal()) {
				t.Errorf("from %s: key %v", from, x.key)
			}
		}
	}
	peer := policy.ParsePeer(webID, domain)
	x := &exchange{
		p: h.a.Proxy, run: edge, v: v, now: time.Now(), link: &link{peerID: webID, caller: &peer, peer: identity.Peer{}},
		r: &http.Request{RequestURI: "/", Header: http.Header{"X-Api-Key": {h.key.Reveal()}}},
	}
	if no := x.apiKey(); no != nil || x.key != nil || len(x.r.Header) != 0 || x.rec.Detail != keyBesideSVID {
		t.Errorf("from a workload: %v, key %v, %q", no, x.key, x.rec.Detail)
	}
}

// Inside the mesh a key is no credential: the service never sees it, and the record says so.
func TestSecKeyStaysOutOfTheMesh(t *testing.T) {
	w := newTokens(t, setup{})
	k := mint(t, apikey.Live).Reveal()
	status, body, _ := w.call("http://api/orders", "X-API-Key: "+k)
	if status != 200 || strings.Contains(body, k) {
		t.Fatalf("%d %s", status, body)
	}
	if rec := w.b.record(func(r *audit.Record) bool { return r.DstID == apiID && r.Status == 200 }); !strings.Contains(rec.Detail, keyBesideSVID) {
		t.Errorf("%q", rec.Detail)
	}
	if status, body, _ := w.call("http://api/orders", bearerLine(k)); status != 200 || strings.Contains(body, k) {
		t.Errorf("%d %s", status, body)
	}
	if _, body, _ := w.call("http://api/orders", "X-API-Key: csk_live_of_another_product"); !strings.Contains(body, "csk_live_of_another_product") {
		t.Error("a key of somebody else's is taken out")
	}
}

// A stream does not outlive the time of its key, though no object changes then.
func TestSecKeyEndsWithItsTime(t *testing.T) {
	h := newKeyHouse(t, toAPI())
	r := h.record
	r.Expires = time.Now().Add(400 * time.Millisecond)
	h.keys(r)
	c, _ := dialRaw(t, h.http, "POST /orders HTTP/1.1\nHost: shop.test\nX-API-Key: "+h.key.Reveal()+"\nContent-Length: 10\n\nhalf")
	eventually(t, "the call is under way", func() bool { return liveAtDoors(h.a) == 1 })
	h.a.endKeys()
	if liveAtDoors(h.a) != 1 {
		t.Fatal("it ended before its key")
	}
	eventually(t, "the call ended", func() bool { h.a.endKeys(); return liveAtDoors(h.a) == 0 })
	if time.Now().Before(r.Expires) {
		t.Error("it ended before its key")
	}
	_ = c.Close()
}

// What is under way with a key ends with it: revoked, disabled, or taken no more at that door (K5, K5a).
func TestDoorKeyEndsStreams(t *testing.T) {
	for name, end := range map[string]func(*keyHouse){
		"revoked": func(h *keyHouse) { h.keys() },
		"disabled": func(h *keyHouse) {
			r := h.record
			r.Disabled = true
			h.keys(r)
		},
		"taken no more": func(h *keyHouse) { h.takes("") },
	} {
		h := newKeyHouse(t, toAPI())
		c, r := dialRaw(t, h.http, "POST /orders HTTP/1.1\nHost: shop.test\nX-API-Key: "+h.key.Reveal()+"\nContent-Length: 10\n\nhalf")
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if n := liveAtDoors(h.a); n == 1 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the call is not under way", name)
			}
		}
		rotated := h.record
		fresh := mint(t, apikey.Live)
		rotated.Secrets = append([]apikey.Secret{fresh.Secret(nil)}, h.record.Secrets...)
		h.keys(rotated)
		if liveAtDoors(h.a) != 1 {
			t.Fatalf("%s: rotation ended what is under way", name)
		}
		end(h)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		resp, err := http.ReadResponse(r, nil)
		if err == nil && resp.StatusCode != 401 {
			t.Errorf("%s: answered %d", name, resp.StatusCode)
		}
		rec := h.a.record(func(r *audit.Record) bool { return r.DstID == edgeID && r.APIKeyID == h.key.ID() && r.Refused() })
		if rec.Layer != audit.LayerToken || rec.Reason != "revoked" {
			t.Errorf("%s: %s/%s", name, rec.Layer, rec.Reason)
		}
	}
}

func liveAtDoors(n *node) (out int) {
	for _, r := range n.all() {
		if len(r.doors) > 0 {
			out += r.live.count()
		}
	}
	return out
}

// Wrong keys are counted by source and answered 429 beyond the budget; a right one passes all the same
// (sec-limits-no-lockout).
func TestSecKeyLimitsNoLockout(t *testing.T) {
	h := newKeyHouse(t, toAPI())
	wrong := "X-API-Key: " + mint(t, apikey.Live).Reveal()
	limited := false
	for range 2 * wrongKeysBurst {
		status, _, header := h.ask("GET /", wrong)
		if limited = status == 429 && header.Get("Retry-After") != ""; limited {
			break
		}
		if status != 401 {
			t.Fatal(status)
		}
	}
	if !limited {
		t.Fatal("guesses have no end")
	}
	if status, _, _ := h.ask("GET /orders", "X-API-Key: "+h.key.Reveal()); status != 200 {
		t.Errorf("a right key is locked out: %d", status)
	}
}

// The key step of a door, with 100,000 keys: a right one, and one whose id nobody has, which costs no look beyond memory.
func BenchmarkDoorKey(b *testing.B) {
	h := newKeyHouse(b, toAPI())
	records := []apikey.Record{h.record}
	for i := range 100_000 {
		r := h.record
		r.Name, r.Secrets = "k"+strconv.Itoa(i), []apikey.Secret{mint(b, apikey.Live).Secret(nil)}
		records = append(records, r)
	}
	h.keys(records...)
	var edge *run
	for _, r := range h.a.all() {
		if len(r.doors) > 0 {
			edge = r
		}
	}
	rule := toAPI()
	for name, key := range map[string]string{"right": h.key.Reveal(), "unknown": mint(b, apikey.Live).Reveal()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			line := []string{key}
			header := http.Header{}
			r := &http.Request{RequestURI: "/orders/17", Header: header}
			for b.Loop() {
				header["X-Api-Key"] = line
				x := exchange{p: h.a.Proxy, run: edge, v: h.a.view.Load(), now: time.Now(), link: &link{src: netip.MustParseAddrPort("127.0.0.1:1")}, r: r}
				x.hit.Action = &route.Action{Route: &route.HTTPRoute{}, Rule: &rule}
				if no := x.apiKey(); (no == nil) != (name == "right") {
					b.Fatal(no)
				}
			}
		})
	}
}
