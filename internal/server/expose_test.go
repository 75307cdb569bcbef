package server

import (
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/resource"
)

func exposing(host, service string, requests ...string) admin.ExposeRequest {
	return admin.ExposeRequest{Host: host, Service: service, Requests: requests}
}

// said is an exposure with how it may be entered.
func with(r admin.ExposeRequest, edit func(*admin.ExposeRequest)) admin.ExposeRequest {
	edit(&r)
	return r
}

func public(r *admin.ExposeRequest) { r.Public = true }

func results(r admin.ApplyReply) string {
	var out []string
	for _, o := range r.Objects {
		out = append(out, o.Result+" "+o.Kind+"/"+o.Namespace+"/"+o.Name)
	}
	return strings.Join(out, ", ")
}

// One sentence opens a door; said again it adds, and --remove leaves nothing behind (cli.md 10.8a).
func TestExpose(t *testing.T) {
	r := newPlace(t).run()
	ctx := t.Context()
	before, err := r.objects(ctx, admin.Query{})
	if err != nil {
		t.Fatal(err)
	}
	say := func(q admin.ExposeRequest) admin.ApplyReply {
		t.Helper()
		reply, err := r.expose(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	door := with(exposing("API.localhost", "api", "GET /orders/**"), public)
	first := say(door)
	if got, want := results(first), "created Gateway/default/edge, created HTTPRoute/default/api-at-api.localhost, created RequestAuthentication/default/edge, created AuthorizationPolicy/default/api-at-api.localhost, created AuthorizationPolicy/default/api-from-edge"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := first.Sentence, "everybody may GET /orders/** at https://api.localhost:8443"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := strings.Join(first.Next, "|"), "try: curl --cacert <(countersign ca root) https://api.localhost:8443/orders/17"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if first.Undo != "countersign expose api.localhost api --remove" || len(first.Notes) != 1 {
		t.Errorf("undo %q, notes %q", first.Undo, first.Notes)
	}
	if again := say(door); again.Revision != first.Revision || strings.Count(results(again), "unchanged ") != 5 {
		t.Errorf("said again: %+v", again)
	}
	other := say(with(exposing("x.test", "shop/web", "POST /v1/{*}"), func(q *admin.ExposeRequest) {
		q.JWT, q.Audience, q.Port = []string{"https://id.example", "https://other.example"}, "shop", 9443
	}))
	if got, want := other.Sentence, "whoever has a token of https://id.example for shop or a token of https://other.example for shop may POST /v1/{*} at https://x.test:9443, and nobody else"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := strings.Join(other.Next, "|"), `try: curl --cacert <(countersign ca root) --resolve x.test:9443:127.0.0.1 -X POST -H "Authorization: Bearer $TOKEN" https://x.test:9443/v1/17`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	closed := say(exposing("*.shop.test", "closed"))
	if closed.Sentence != "" || len(closed.Next) != 0 || !slices.Contains(closed.Notes, "nobody may pass until --jwt, --key or --public") {
		t.Errorf("a door that is closed: %+v", closed)
	}
	remove := func(host, service string) {
		say(with(exposing(host, service), func(q *admin.ExposeRequest) { q.Remove = true }))
	}
	remove("*.shop.test", "closed")
	remove("x.test", "shop/web")
	remove("api.localhost", "api")
	after, err := r.objects(ctx, admin.Query{})
	if err != nil || len(after.Objects) != len(before.Objects) {
		t.Errorf("%d objects before, %d after: %v", len(before.Objects), len(after.Objects), err)
	}
	dry := say(with(door, func(q *admin.ExposeRequest) { q.DryRun = true }))
	if strings.Count(dry.YAML, "---\n") != 4 || !dry.DryRun {
		t.Errorf("--dry-run: %s", dry.YAML)
	}
	if _, err := r.apply(ctx, admin.ApplyRequest{Files: []admin.File{{Name: "-", Data: dry.YAML}}, DryRun: true}); err != nil {
		t.Errorf("apply of what --dry-run printed: %v", err)
	}
}

func TestExposeProblems(t *testing.T) {
	r := newPlace(t).run()
	ctx := t.Context()
	if _, err := r.expose(ctx, with(exposing("shop.test", "web", "/orders"), public)); err != nil {
		t.Fatal(err)
	}
	const host = "a.test"
	for name, c := range map[string]struct {
		ask              admin.ExposeRequest
		code, text, hint string
		exit             int
	}{
		"scheme":         {exposing("https://shop.test/", "api"), "bad_host", `"https://shop.test/" is not a host name`, "countersign expose shop.test api", 2},
		"path":           {exposing("a/b", "api"), "bad_host", `"a/b" is not a host name`, "countersign expose a api", 2},
		"address":        {exposing("127.0.0.1", "api"), "bad_host", `"127.0.0.1" is not a host name`, "countersign expose shop.test api", 2},
		"port":           {exposing("x:443", "api"), "bad_host", `"x:443" is not a host name`, "countersign expose x api", 2},
		"unicode":        {exposing("münchen.example", "api"), "bad_host", `"münchen.example" is not a host name`, "write it as DNS does: xn--...", 2},
		"a mesh name":    {exposing("web.shop.svc", "api"), "bad_host", `"web.shop.svc" is a name of the mesh: strangers get no certificate for it`, "countersign expose api.localhost api", 2},
		"no audience":    {with(exposing(host, "api"), func(q *admin.ExposeRequest) { q.JWT = []string{"https://id.example/x"} }), "needs_audience", "--jwt https://id.example/x takes tokens meant for anybody", "add --audience, the name id.example knows you by", 2},
		"public and jwt": {with(exposing(host, "api"), func(q *admin.ExposeRequest) { q.Public, q.JWT = true, []string{"own"} }), "public_and_more", "--public lets everybody in; --jwt would ask for nothing", "leave one of them out", 2},
		"public and key": {with(exposing(host, "api"), func(q *admin.ExposeRequest) { q.Public, q.Key = true, true }), "public_and_more", "--public lets everybody in; --key would ask for nothing", "leave one of them out", 2},
		"audience alone": {with(exposing(host, "api"), func(q *admin.ExposeRequest) { q.Public, q.Audience = true, "a" }), "usage", "--audience goes with --jwt ISSUER", "leave it out: our own tokens and keys are for api", 2},
		"a path taken":   {exposing("shop.test", "api", "GET /orders/{*}"), "host_taken", "shop.test/orders goes to web: HTTPRoute/default/web-at-shop.test", "countersign route show shop.test", 0},
		"a host taken":   {exposing("shop.test", "team/api"), "host_taken", "shop.test is open to namespace default only: Gateway/default/edge", "countersign route show shop.test", 0},
		"a pattern":      {exposing(host, "api", "GET /a/**/b"), "bad_pattern", `path "/a/**/b": ** stands only at the end`, "countersign expose a.test api 'GET /a/{**}/b'", 2},
		"a name":         {exposing(host, "Api"), "name_invalid", `name "Api": a name is a-z, 0-9 and -, at most 63 bytes`, "api, shop/api, api.shop or a SPIFFE ID", 2},
		"not there":      {with(exposing(host, "api"), func(q *admin.ExposeRequest) { q.Remove = true }), "not_found", "api is not exposed at a.test", "countersign route list", 0},
		"an issuer":      {with(exposing(host, "api"), func(q *admin.ExposeRequest) { q.JWT, q.Audience = []string{"id.example"}, "a" }), "not_supported", "RequestAuthentication/default/edge: spec.jwtRules[0].issuer: \"id.example\" is not a URL, and no keys are named [E218]", "", 0},
	} {
		before := r.revision()
		_, err := r.expose(ctx, c.ask)
		p, ok := err.(*admin.Problem)
		switch {
		case !ok:
			t.Errorf("%s: %v", name, err)
		case p.Code != c.code || p.Message != c.text || p.Exit != c.exit || c.hint != "" && (len(p.Hints) == 0 || p.Hints[0] != c.hint):
			t.Errorf("%s: %+v", name, p)
		case r.revision() != before:
			t.Errorf("%s: something was changed", name)
		}
	}
	r = newPlace(t).run()
	r.applied(workloadDoc("edge", "default", "{selectors: ['run:default/edge'], nodes: any}"))
	if _, err := r.expose(ctx, with(exposing("shop.test", "web", "/more"), public)); code(err) != "faults" {
		t.Errorf("a program has the name of the Gateway: %v", err)
	}
}

// A HOST belongs to one namespace: no route of a stranger attaches to its listener, however special its match, and no
// wildcard of another takes its requests (gateway.md 5).
func TestSecEdgeHostOwner(t *testing.T) {
	r := newPlace(t).run()
	ctx := t.Context()
	for _, q := range []admin.ExposeRequest{with(exposing("shop.test", "web"), public), with(exposing("*.test", "evil/all"), public)} {
		if _, err := r.expose(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	thief := strings.ReplaceAll(edgeDoc("HTTPRoute", "thief", "{parentRefs: [{name: edge, namespace: default}], hostnames: [shop.test], rules: [{matches: [{path: {type: Exact, value: /pay}}], backendRefs: [{name: thief, port: 80}]}]}"), "namespace: default}\nspec", "namespace: evil}\nspec")
	r.applied(thief)
	for row := range r.world.load().routing().table.Routers() {
		if row.Hostname == "shop.test" {
			for at := range row.Rows() {
				if at.Route.Namespace != "default" {
					t.Errorf("%s has %s", row.Hostname, at.Route)
				}
			}
		}
	}
	got := r.tested(admin.RouteTest{Method: "GET", URL: "https://shop.test:8443/pay"})
	if got.Route != "default/web-at-shop.test" {
		t.Errorf("/pay goes to %+v", got)
	}
	if _, err := r.expose(ctx, with(exposing("shop.test", "evil/thief", "/pay"), public)); code(err) != "host_taken" {
		t.Errorf("the HOST of another namespace: %v", err)
	}
}

func TestExposeSays(t *testing.T) {
	for request, want := range map[string][3]string{
		"":             {"make every call", "", "/"},
		"GET":          {"GET", "", "/"},
		"GET,HEAD /x":  {"GET, HEAD /x", "", "/x"},
		"/orders/*":    {"call /orders/**", "", "/orders/17"},
		"POST /a/{*}":  {"POST /a/{*}", "POST", "/a/17"},
		"PUT /a/{**}":  {"PUT /a/{**}", "PUT", "/a/17"},
		"*.png":        {"call *.png", "", "/17.png"},
		"GET /*":       {"GET /**", "", "/"},
		"GET /a*":      {"GET /a*", "", "/a"},
		"HEAD,OPTIONS": {"HEAD, OPTIONS", "HEAD", "/"},
	} {
		method, path := sample([]string{request})
		if said := sayRequests([]string{request}); said != want[0] || method != want[1] || path != want[2] {
			t.Errorf("%q: %q, %q, %q", request, said, method, path)
		}
	}
	x := exposed{
		asked: exposing("a.test", "api"), door: resource.Door{Host: "*.a.test", Port: 443, Certificate: "c.pem,k.pem"}, issuer: "https://own",
		opened: []resource.Opening{{Way: resource.Way{Issuer: "https://own", Audience: "x"}, Requests: []string{"GET /a"}}, {Way: resource.Way{Issuer: "https://own", Keys: true}, Requests: []string{"GET /b&c"}}},
	}
	if got, want := x.sentence(false), "whoever has a token for api may GET /a at https://*.a.test; whoever has an API key for api may GET /b&c at https://*.a.test, and nobody else"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := x.next(), []string{"key: KEY=$(countersign key create partner --audience api)", `try: curl --resolve www.a.test:443:127.0.0.1 -H "X-API-Key: $KEY" 'https://www.a.test/b&c'`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := x.undo(), "countersign expose '*.a.test' api --remove"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
