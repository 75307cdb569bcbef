package resource

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/policy"
)

var exposeMesh = Mesh{TrustDomain: "cluster.local"}

// exposeWays are those of the tests. Keys are refused as long as nothing serves them.
var exposeWays = []Way{{Public: true}, {Issuer: "https://id.example", Audience: "shop"}, {Issuer: "https://id.example", Audience: "till"}, {Issuer: "https://localhost:7444", Audience: "spiffe://cluster.local/ns/default/sa/api"}}

// becomes is what the objects are after an exposure.
func (e Exposure) becomes(objects []Object) []Object {
	changed := slices.Concat(e.Put, e.Removed)
	out := slices.DeleteFunc(slices.Clone(objects), func(o Object) bool {
		return slices.ContainsFunc(changed, func(c Object) bool { return c.ID() == o.ID() })
	})
	return append(out, e.Put...)
}

func allOf(objects []Object) string {
	var out []string
	for _, o := range objects {
		out = append(out, string(o.JSON))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func mustExpose(t *testing.T, objects []Object, d Door) []Object {
	t.Helper()
	e, err := Expose(exposeMesh, d, objects)
	if err != nil {
		t.Fatalf("%+v: %v", d, err)
	}
	return e.becomes(objects)
}

func mustUnexpose(t *testing.T, objects []Object, d Door) []Object {
	t.Helper()
	e, err := Unexpose(exposeMesh, d, objects)
	if err != nil {
		t.Fatalf("%+v: %v", d, err)
	}
	return e.becomes(objects)
}

func written(t *testing.T, text string) []Object {
	t.Helper()
	objects, faults := Decode([]File{{Name: "hand", Data: []byte(text)}}, Options{})
	if Stops(faults) {
		t.Fatal(faults)
	}
	return objects
}

func jsonOf(t *testing.T, objects []Object, id string) string {
	t.Helper()
	for _, o := range objects {
		if o.ID() == id {
			return string(o.JSON)
		}
	}
	t.Fatalf("no %s", id)
	return ""
}

func TestParseHost(t *testing.T) {
	for typed, want := range map[string]string{
		"shop.test": "shop.test", "Shop.TEST": "shop.test", "*.shop.test": "*.shop.test", "api": "api", "api.localhost": "api.localhost",
		"xn--mnchen-3ya.example": "xn--mnchen-3ya.example", strings.Repeat("a", 63) + ".test": strings.Repeat("a", 63) + ".test",
		"https://shop.test/": "", "a/b": "", "127.0.0.1": "", "x:443": "", "[::1]": "", "::1": "", "": "", ".": "", "a..b": "", "shop.test.": "",
		"*": "", "*.": "", "a.*.test": "", "*shop.test": "", "-a.test": "", "a-.test": "", "a_b.test": "", "münchen.example": "",
		"1.2.3": "", "10": "", "1.2.3.0x4": "", strings.Repeat("a", 64) + ".test": "", strings.Repeat("a.", 126) + "ab": "", "a b.test": "", "shop.test\x00": "",
	} {
		if got, ok := ParseHost(typed); ok != (want != "") || ok && got != want {
			t.Errorf("%q: got %q, %v", typed, got, ok)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	f.Add("*.Shop.test")
	f.Fuzz(func(t *testing.T, s string) {
		host, ok := ParseHost(s)
		if !ok {
			return
		}
		if again, ok := ParseHost(host); !ok || again != host {
			t.Fatalf("%q gives %q, which gives %q, %v", s, host, again, ok)
		}
		mustExpose(t, nil, Door{Host: host, Namespace: "default", Service: "api", Ways: []Way{{Public: true}}})
	})
}

// The route has the whole segments before the first wildcard; what Gateways take otherwise than policy is refused.
func TestExposeRequests(t *testing.T) {
	for typed, want := range map[string][2]string{
		"GET /orders/{*}": {"GET /orders/{*}", "/orders"}, "GET /orders/**": {"GET /orders/*", "/orders"}, "head,get /x": {"GET,HEAD /x", "/x"},
		"/x": {"/x", "/x"}, "GET": {"GET", "/"}, "": {"", "/"}, "*": {"", "/"}, "* /x": {"/x", "/x"}, "GET /**": {"GET /*", "/"},
		"/a/b*": {"/a/b*", "/a"}, "*.png": {"*.png", "/"}, "GET *": {"GET", "/"}, "/a/{**}/c": {"/a/{**}/c", "/a"}, "/orders/": {"/orders/", "/orders"}, "/": {"/", "/"},
		"/a//b": {}, "/a/../b": {}, "/a/./b": {}, "/a%2Fb": {}, "/ä": {}, "/a/**/b": {}, "/a?b": {}, "/" + strings.Repeat("a", 1024): {},
	} {
		request, prefix, err := doorRequest(typed)
		var bad *BadPattern
		switch {
		case want == [2]string{}:
			if !errors.As(err, &bad) {
				t.Errorf("%q: %q, %q, %v", typed, request, prefix, err)
			}
		case err != nil || request != want[0] || prefix != want[1]:
			t.Errorf("%q: %q, %q, %v", typed, request, prefix, err)
		}
	}
}

func TestExposeObjects(t *testing.T) {
	objects := mustExpose(t, nil, Door{
		Host: "*.shop.test", Namespace: "shop", Service: "web", Port: 9443, ServicePort: 8080, Labels: map[string]string{"tier": "front"},
		Requests: []string{"GET /orders/**", "POST /orders"}, Ways: exposeWays[:2],
	})
	for id, want := range map[string]string{
		"Gateway/default/edge": `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"name":"edge","namespace":"default","annotations":{"countersign.dev/written-by":"expose"}},` +
			`"spec":{"gatewayClassName":"countersign","listeners":[{"allowedRoutes":{"namespaces":{"from":"Selector","selector":{"matchLabels":{"kubernetes.io/metadata.name":"shop"}}}},"hostname":"*.shop.test","name":"any.shop.test-9443","port":9443,"protocol":"HTTPS"}]}}`,
		"HTTPRoute/shop/web-at-any.shop.test": `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"web-at-any.shop.test","namespace":"shop","annotations":{"countersign.dev/written-by":"expose"}},` +
			`"spec":{"hostnames":["*.shop.test"],"parentRefs":[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"edge","namespace":"default","sectionName":"any.shop.test-9443"}],` +
			`"rules":[{"backendRefs":[{"group":"","kind":"Service","name":"web","port":8080,"weight":1}],"matches":[{"path":{"type":"PathPrefix","value":"/orders"}}]}]}}`,
		"RequestAuthentication/default/edge": `{"apiVersion":"security.istio.io/v1","kind":"RequestAuthentication","metadata":{"name":"edge","namespace":"default","annotations":{"countersign.dev/written-by":"expose"}},` +
			`"spec":{"targetRefs":[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"edge"}],"jwtRules":[{"issuer":"https://id.example","audiences":["shop"]}]}}`,
		"AuthorizationPolicy/default/web.shop-at-any.shop.test": `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"web.shop-at-any.shop.test","namespace":"default",` +
			`"annotations":{"countersign.dev/exposes":"*.shop.test shop/web","countersign.dev/written-by":"expose"}},"spec":{"targetRefs":[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"edge"}],"rules":[` +
			`{"from":[{"source":{"requestPrincipals":["https://id.example/*"]}}],"to":[{"operation":{"hosts":["*.shop.test","*.shop.test:9443"],"methods":["GET"],"paths":["/orders/*"]}},{"operation":{"hosts":["*.shop.test","*.shop.test:9443"],"methods":["POST"],"paths":["/orders"]}}],` +
			`"when":[{"key":"request.auth.audiences","values":["shop"]},{"key":"request.auth.claims[iss]","values":["https://id.example"]}]},` +
			`{"to":[{"operation":{"hosts":["*.shop.test","*.shop.test:9443"],"methods":["GET"],"paths":["/orders/*"]}},{"operation":{"hosts":["*.shop.test","*.shop.test:9443"],"methods":["POST"],"paths":["/orders"]}}]}]}}`,
		"AuthorizationPolicy/shop/web-from-edge.default": `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"web-from-edge.default","namespace":"shop",` +
			`"annotations":{"countersign.dev/exposes":"shop/web","countersign.dev/written-by":"expose"}},"spec":{"selector":{"matchLabels":{"tier":"front"}},"rules":[{"from":[{"source":{"principals":["cluster.local/ns/default/sa/edge"]}}],` +
			`"to":[{"operation":{"methods":["GET"],"paths":["/orders/*"]}},{"operation":{"methods":["POST"],"paths":["/orders"]}}]}]}}`,
	} {
		if got := jsonOf(t, objects, id); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", id, got, want)
		}
	}
	if len(objects) != 5 {
		t.Errorf("%d objects", len(objects))
	}
}

// Requests are for the ways that are said with them; without one for all there are, and while there is none they wait.
func TestExposeAdds(t *testing.T) {
	door := Door{Host: "a.test", Namespace: "default", Service: "api"}
	say := func(objects []Object, way []Way, requests ...string) ([]Object, []Opening) {
		d := door
		d.Ways, d.Requests = way, requests
		e, err := Expose(exposeMesh, d, objects)
		if err != nil {
			t.Fatal(err)
		}
		return e.becomes(objects), e.Opened
	}
	public, token := exposeWays[0], exposeWays[1]
	objects, opened := say(nil, nil, "GET /a")
	if policy := jsonOf(t, objects, "AuthorizationPolicy/default/api-at-a.test"); len(opened) != 0 || strings.Contains(policy, "rules") {
		t.Errorf("closed: %v %s", opened, policy)
	}
	objects, _ = say(objects, nil, "GET /b")
	objects, opened = say(objects, []Way{token}, "GET /c")
	if len(opened) != 1 || !slices.Equal(opened[0].Requests, []string{"GET /a", "GET /b", "GET /c"}) {
		t.Errorf("the first way: %v", opened)
	}
	objects, opened = say(objects, []Way{public}, "GET /open")
	if len(opened) != 2 || opened[0].Way != token || slices.Contains(opened[0].Requests, "GET /open") || !slices.Equal(opened[1].Requests, []string{"GET /open"}) {
		t.Errorf("a way of its own: %v", opened)
	}
	objects, opened = say(objects, nil, "GET /all")
	if !slices.Contains(opened[0].Requests, "GET /all") || !slices.Contains(opened[1].Requests, "GET /all") {
		t.Errorf("for all: %v", opened)
	}
	if everything, _ := say(nil, nil); allOf(mustUnexpose(t, everything, door)) != "" {
		t.Error("a closed door to everything leaves something behind")
	}
	again, _ := say(objects, []Way{token}, "GET /all", "GET /a")
	if allOf(again) != allOf(objects) {
		t.Error("said again it changes something")
	}
	_, opened = say(objects, []Way{token})
	if !slices.Equal(opened[0].Requests, []string{""}) || len(opened[1].Requests) != 2 {
		t.Errorf("everything: %v", opened)
	}
}

// A policy judges by host and path, not by route: what leads to another door is not let in by this one's.
func TestSecExposeOtherDoors(t *testing.T) {
	public := []Way{{Public: true}}
	objects := mustExpose(t, nil, Door{Host: "a.test", Namespace: "default", Service: "web", Ways: public})
	objects = mustExpose(t, objects, Door{Host: "a.test", Namespace: "default", Service: "api", Requests: []string{"/api/**"}, Ways: exposeWays[1:2]})
	objects = mustExpose(t, objects, Door{Host: "*.test", Namespace: "shop", Service: "all", Ways: public})
	if got := jsonOf(t, objects, "AuthorizationPolicy/default/web-at-a.test"); !strings.Contains(got, `"notPaths":["/api","/api/*"]`) {
		t.Errorf("web lets into api: %s", got)
	}
	if got := jsonOf(t, objects, "AuthorizationPolicy/default/api-at-a.test"); strings.Contains(got, "notPaths") {
		t.Errorf("api: %s", got)
	}
	if got := jsonOf(t, objects, "AuthorizationPolicy/default/all.shop-at-any.test"); !strings.Contains(got, `"notHosts":["a.test"]`) {
		t.Errorf("a wildcard lets into another host: %s", got)
	}
}

// What pretends to be a door of somebody's HOST changes nothing of his: no path is taken out, nothing is written for it.
func TestSecExposeForged(t *testing.T) {
	public := []Way{{Public: true}}
	mine := Door{Host: "a.test", Namespace: "default", Service: "web", Ways: public}
	objects := mustExpose(t, nil, mine)
	forged := mustExpose(t, nil, Door{Host: "a.test", Namespace: "evil", Service: "thief", Requests: []string{"/pay"}, Ways: exposeWays[1:2]})
	for _, o := range forged {
		if o.Name != "edge" {
			objects = append(objects, o)
		}
	}
	mine.Requests = []string{"GET /more"}
	e, err := Expose(exposeMesh, mine, objects)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range e.Put {
		if strings.Contains(string(o.JSON), "pay") || strings.Contains(string(o.JSON), "evil") || strings.Contains(string(o.JSON), "id.example") {
			t.Errorf("%s", o.JSON)
		}
	}
	if len(e.Put) != 5 || len(e.Removed) != 0 {
		t.Errorf("%d written, %d removed", len(e.Put), len(e.Removed))
	}
	if e, err = Unexpose(exposeMesh, mine, objects); err != nil || len(e.Put) != 0 || len(e.Removed) != 5 {
		t.Errorf("--remove: %d written, %d removed, %v", len(e.Put), len(e.Removed), err)
	}
}

// Where the Gateway was deleted by hand, the sentence writes it anew.
func TestExposeAgainWithoutGateway(t *testing.T) {
	door := Door{Host: "a.test", Namespace: "default", Service: "api", Ways: []Way{{Public: true}}}
	objects := mustExpose(t, nil, door)
	left := slices.DeleteFunc(slices.Clone(objects), func(o Object) bool { return o.Kind == "Gateway" })
	if got := mustExpose(t, left, door); allOf(got) != allOf(objects) {
		t.Errorf("got %s", allOf(got))
	}
}

func TestExposeRefused(t *testing.T) {
	public := []Way{{Public: true}}
	door := Door{Host: "a.test", Namespace: "default", Service: "api", Ways: public}
	code := func(err error) string {
		var r *Refusal
		switch {
		case errors.As(err, &r):
			return r.Code + ": " + r.Text
		case errors.Is(err, ErrNotMine):
			return "not_mine: " + err.Error()
		case err != nil:
			return err.Error()
		}
		return ""
	}
	const meta = "apiVersion: gateway.networking.k8s.io/v1\n"
	gateway := meta + "kind: Gateway\nmetadata: {name: edge}\nspec: {gatewayClassName: countersign, listeners: [{name: a, port: 80, protocol: HTTP}]}"
	mine := func(more string) []Object {
		return mustExpose(t, written(t, more), Door{Host: "a.test", Namespace: "default", Service: "web", Requests: []string{"/orders"}, Ways: public})
	}
	const other = "apiVersion: v1\nkind: Namespace\nmetadata: {name: other}"
	var listeners []string
	for i := range maxFrontHosts {
		listeners = append(listeners, fmt.Sprintf(`{name: h%d.test, hostname: h%[1]d.test, port: 8443, protocol: HTTPS, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: default}}}}}`, i))
	}
	full := written(t, meta+"kind: Gateway\nmetadata: {name: edge, annotations: {countersign.dev/written-by: expose}}\nspec: {gatewayClassName: countersign, listeners: ["+strings.Join(listeners, ", ")+"]}")
	var paths []string
	for i := range maxFrontPaths + 1 {
		paths = append(paths, fmt.Sprintf("/p%d", i))
	}
	edited := mine(other)
	for i, o := range edited {
		if o.Kind == "HTTPRoute" {
			edited[i] = written(t, strings.Replace(string(o.JSON), `"weight":1`, `"weight":2`, 1))[0]
		}
	}
	for name, c := range map[string]struct {
		door    func(*Door)
		objects []Object
		want    string
	}{
		"a Gateway by hand":   {nil, written(t, gateway), "not_mine: Gateway/default/edge was not written by expose"},
		"a route by hand":     {nil, written(t, meta+"kind: HTTPRoute\nmetadata: {name: api-at-a.test}\nspec: {}"), "not_mine: HTTPRoute/default/api-at-a.test was not written by expose"},
		"another namespace":   {func(d *Door) { d.Namespace = "shop" }, mine(other), "host_taken: a.test is open to namespace default only: Gateway/default/edge"},
		"a path of another":   {func(d *Door) { d.Requests = []string{"GET /orders/{*}"} }, mine(other), "host_taken: a.test/orders goes to web: HTTPRoute/default/web-at-a.test"},
		"below a path of one": {func(d *Door) { d.Requests = []string{"/orders/x"} }, mine(other), ""},
		"too many hosts":      {nil, full, "too_large: Gateway/default/edge has 64 hosts, at most 64 are taken"},
		"too many paths":      {func(d *Door) { d.Requests = paths }, nil, "too_large: a.test would lead to api by 65 paths, at most 64 are taken"},
		"as many paths":       {func(d *Door) { d.Requests = paths[1:] }, nil, ""},
		"one of them again":   {func(d *Door) { d.Host = "h1.test" }, full, ""},
		"edited, to change":   {func(d *Door) { d.Service, d.Requests = "web", []string{"/more"} }, edited, "not_mine: HTTPRoute/default/web-at-a.test was changed by hand since expose wrote it"},
		"edited, and said so": {func(d *Door) { d.Service, d.Requests = "web", []string{"/orders"} }, edited, ""},
	} {
		d := door
		if c.door != nil {
			c.door(&d)
		}
		if _, err := Expose(exposeMesh, d, c.objects); code(err) != c.want {
			t.Errorf("%s: got %q, want %q", name, code(err), c.want)
		}
	}
	if _, err := Unexpose(exposeMesh, Door{Host: "a.test", Namespace: "default", Service: "web"}, edited); !errors.Is(err, ErrNotMine) {
		t.Errorf("what was edited is removed: %v", err)
	}
	if _, err := Unexpose(exposeMesh, door, nil); !errors.Is(err, ErrNoDoor) {
		t.Errorf("nothing is removed: %v", err)
	}
}

// Names are cut where they must be, and numbered where two mean the same.
func TestExposeNames(t *testing.T) {
	public := []Way{{Public: true}}
	long := strings.Repeat(strings.Repeat("a", 62)+".", 4)[:251]
	var objects []Object
	for _, host := range []string{"*." + long, long, long[1:], "any.x.test", "*.x.test", "x.test"} {
		objects = mustExpose(t, objects, Door{Host: host, Namespace: "default", Service: strings.Repeat("s", 63), Ways: public})
	}
	objects = mustExpose(t, objects, Door{Host: "x.test", Namespace: "default", Service: strings.Repeat("s", 63), Port: 9443})
	if len(objects) != 2+6*2+1 {
		t.Errorf("%d objects", len(objects))
	}
	again := mustExpose(t, objects, Door{Host: "*.x.test", Namespace: "default", Service: strings.Repeat("s", 63), Ways: public})
	if allOf(again) != allOf(objects) {
		t.Error("said again it changes something")
	}
	jsonOf(t, objects, "HTTPRoute/default/"+strings.Repeat("s", 63)+"-at-any.x.test-2")
}

// allow and expose each have a policy of their own for one pair.
func TestExposeBesideAllow(t *testing.T) {
	a := Allow{FromNamespace: "default", From: "edge", ToNamespace: "default", To: "api", Requests: []string{"GET /x"}}
	allowedFirst, _, err := BuildAllow(a, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	objects := mustExpose(t, []Object{allowedFirst}, Door{Host: "a.test", Namespace: "default", Service: "api", Ways: []Way{{Public: true}}})
	if jsonOf(t, objects, "AuthorizationPolicy/default/api-from-edge") != string(allowedFirst.JSON) {
		t.Error("what allow wrote has changed")
	}
	jsonOf(t, objects, "AuthorizationPolicy/default/api-from-edge-2")

	exposedFirst := mustExpose(t, nil, Door{Host: "a.test", Namespace: "default", Service: "api", Ways: []Way{{Public: true}}})
	name, existing, err := AllowName(a, func(name string) (Object, bool) {
		i := slices.IndexFunc(exposedFirst, func(o Object) bool { return o.ID() == "AuthorizationPolicy/default/"+name })
		if i < 0 {
			return Object{}, false
		}
		return exposedFirst[i], true
	})
	if name != "api-from-edge-2" || existing != nil || err != nil {
		t.Errorf("allow after expose: %q, %v, %v", name, existing, err)
	}
}

// Random sentences: in either order they give equal objects; said again nothing; taken back what was before; and what
// others wrote is never touched.
func TestExposeRandom(t *testing.T) {
	for seed := range uint64(12) {
		random := rand.New(rand.NewPCG(seed, 1))
		pick := func(list ...string) string { return list[random.IntN(len(list))] }
		sentence := func() Door {
			d := Door{Host: pick("a.test", "b.test", "*.test", "c.a.test"), Namespace: "default", Service: pick("api", "web"), Ways: []Way{exposeWays[random.IntN(len(exposeWays))]}}
			d.Requests = []string{pick("GET", "POST", "GET,PUT", "*") + " /" + d.Service + pick("", "/**", "/x/{*}", "/y")}
			if random.IntN(3) == 0 {
				d.Port = 9443
			}
			if random.IntN(5) == 0 {
				d.Requests = append(d.Requests, pick("GET", "HEAD")+" /"+d.Service+"/more/**")
			}
			return d
		}
		hand := written(t, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: mine}\nspec: {}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: other}\nspec: {gatewayClassName: countersign, listeners: [{name: a, port: 80, protocol: HTTP}]}")
		var said []Door
		objects := hand
		for range 1 + random.IntN(8) {
			d := sentence()
			if d.Port == 0 {
				d.Port = 8443 // a port that is not said follows the one that is there
			}
			said = append(said, d)
			objects = mustExpose(t, objects, d)
		}
		mixed := hand
		for _, i := range random.Perm(len(said)) {
			mixed = mustExpose(t, mixed, said[i])
		}
		if allOf(mixed) != allOf(objects) {
			t.Fatalf("seed %d: another order gives others:\n%s\n\n%s", seed, allOf(objects), allOf(mixed))
		}
		// A door that was not there comes and goes without a trace.
		extra := sentence()
		extra.Host, extra.Service = "new.test", "extra"
		if got := mustUnexpose(t, mustExpose(t, objects, extra), extra); allOf(got) != allOf(objects) {
			t.Fatalf("seed %d: a door leaves a trace:\n%s\n\n%s", seed, allOf(objects), allOf(got))
		}
		for _, d := range said {
			if allOf(mustExpose(t, objects, d)) != allOf(objects) {
				t.Fatalf("seed %d: said again: %+v", seed, d)
			}
		}
		for _, i := range random.Perm(len(said)) {
			if e, err := Unexpose(exposeMesh, said[i], objects); err == nil {
				objects = e.becomes(objects)
			} else if !errors.Is(err, ErrNoDoor) {
				t.Fatal(err)
			}
		}
		if allOf(objects) != allOf(hand) {
			t.Fatalf("seed %d: left behind:\n%s", seed, allOf(objects))
		}
	}
}

// A door for keys has a rule of its own, and says where they are taken.
func TestExposeKeys(t *testing.T) {
	k := doorKey{"a.test", "default", "api"}
	keys, tokens := Way{Issuer: "https://own", Keys: true}, Way{Issuer: "https://own", Audience: "api"}
	f := &front{mesh: exposeMesh, listeners: []listener{{name: "a.test", host: "a.test", namespace: "default", port: 8443}}, doors: map[doorKey]*door{k: {ways: map[Way][]string{keys: {""}, tokens: {""}}}}}
	if got := f.tokens().annotations[apiKeysOption]; got != "live" {
		t.Errorf("annotation %q", got)
	}
	text := fmt.Sprint(f.enter(k, f.doors[k]).spec["rules"])
	if !strings.Contains(text, "https://own/key:*") || !strings.Contains(text, "https://own/*") {
		t.Errorf("rules %s", text)
	}
	for _, w := range []Way{keys, tokens, {Public: true}} {
		rule := policy.Rule{}
		switch {
		case w.Keys:
			rule.From = []policy.Source{{RequestPrincipals: []string{w.Issuer + keyPrincipals}}}
		case !w.Public:
			rule.From = []policy.Source{{RequestPrincipals: []string{w.Issuer + tokenPrincipals}}}
			rule.When = []policy.Condition{{Key: issuerKey, Values: []string{w.Issuer}}, {Key: audienceKey, Values: []string{w.Audience}}}
		}
		if got := wayOf(rule); got != w {
			t.Errorf("got %+v, want %+v", got, w)
		}
	}
	delete(f.doors[k].ways, keys)
	if got, said := f.tokens().annotations[apiKeysOption]; got != "" || !said {
		t.Errorf("without keys the annotation is %q, %v", got, said)
	}
}
