package resource

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRequest(t *testing.T) {
	for _, tt := range []struct {
		in             string
		methods, paths []string
	}{
		{"GET /orders/{*}", []string{"GET"}, []string{"/orders/{*}"}},
		{"GET /orders/**", []string{"GET"}, []string{"/orders/*"}},
		{"GET /**", []string{"GET"}, []string{"/*"}},
		{"GET,HEAD /x", []string{"GET", "HEAD"}, []string{"/x"}},
		{"get,Head,GET /x", []string{"GET", "HEAD"}, []string{"/x"}},
		{"purge /x", []string{"purge"}, []string{"/x"}},
		{"/x", nil, []string{"/x"}},
		{"* /x", nil, []string{"/x"}},
		{"GET", []string{"GET"}, nil},
		{"", nil, nil},
		{"*", nil, nil},
		{"GET *", []string{"GET"}, []string{"*"}},
		{"*.png", nil, []string{"*.png"}},
		{"GET /a*", []string{"GET"}, []string{"/a*"}},
		{"GET /a/{**}/b", []string{"GET"}, []string{"/a/{**}/b"}},
	} {
		methods, paths, err := ParseRequest(tt.in)
		if err != nil || !cmp.Equal(methods, tt.methods) || !cmp.Equal(paths, tt.paths) {
			t.Errorf("%q: got %q %q %v, want %q %q", tt.in, methods, paths, err, tt.methods, tt.paths)
		}
	}
	for _, tt := range []struct{ in, text, request string }{
		{"GET /orders/**/items", `path "/orders/**/items": ** stands only at the end`, "GET /orders/{**}/items"},
		{"GET /a/*/b", `path "/a/*/b": * stands only at the beginning or the end`, "GET /a/{*}/b"},
		{"/a/*/b/**", `path "/a/*/b/**": * stands only at the beginning or the end`, "/a/{*}/b/{**}"},
		{"GET /a/{id}", `path "/a/{id}": has braces in it`, "GET /a/{*}"},
		{"GET /a/{*}/**", "", "GET /a/{*}/{**}"},
		{"GET /a*b", "", ""},
		{"GET *a*", "", ""},
		{"GET /a?b=c", "", "GET /a"},
		{"GET orders", "", "GET /orders"},
		{"GET /a /b", "", ""},
		{"GET,,PUT /a", "", ""},
		{"GET,* /a", "", ""},
		{"orders/17", "", ""},
	} {
		_, _, err := ParseRequest(tt.in)
		var bad *BadPattern
		if !errors.As(err, &bad) || bad.Request != tt.request || tt.text != "" && bad.Text != tt.text {
			t.Errorf("%q: got %+v, want %q and %q", tt.in, err, tt.text, tt.request)
		} else if bad.Request != "" {
			if _, _, err := ParseRequest(bad.Request); err != nil {
				t.Errorf("%q: what was suggested is refused too: %v", tt.in, err)
			}
		}
	}
}

func TestAllowNames(t *testing.T) {
	for _, tt := range []struct {
		a            Allow
		name, source string
	}{
		{Allow{FromNamespace: "default", From: "web", ToNamespace: "default", To: "api"}, "api-from-web", `{"principals":["cluster.local/ns/default/sa/web"]}`},
		{Allow{FromNamespace: "shop", From: "web", ToNamespace: "default", To: "api", TrustDomain: "prod.example"}, "api-from-web.shop", `{"principals":["prod.example/ns/shop/sa/web"]}`},
		{Allow{FromNamespace: "shop", From: "*", ToNamespace: "shop", To: "api"}, "api-from-all.shop", `{"namespaces":["shop"]}`},
		{Allow{FromNamespace: "*", From: "*", ToNamespace: "shop", To: "api"}, "api-from-all", `{"principals":["*"]}`},
	} {
		o, changed, err := BuildAllow(tt.a, nil, nil)
		if err != nil || !changed || o.Name != tt.name {
			t.Errorf("%+v: got %s, %v, want %s", tt.a, o.Name, err, tt.name)
		}
		want := `"spec":{"selector":{"matchLabels":{"app":"api"}},"rules":[{"from":[{"source":` + tt.source + `}]}]}}`
		if !strings.HasSuffix(string(o.JSON), want) {
			t.Errorf("got %s, want %s", o.JSON, want)
		}
		if back := one(t, string(o.JSON)); string(back.JSON) != string(o.JSON) {
			t.Errorf("apply makes %s of %s", back.JSON, o.JSON)
		}
	}
}

func TestAllowAgain(t *testing.T) {
	a := Allow{FromNamespace: "default", From: "web", ToNamespace: "default", To: "api", Requests: []string{"GET /orders/{*}"}}
	build := func(a Allow, old *Object) (Object, bool) {
		t.Helper()
		o, changed, err := BuildAllow(a, old, nil)
		if err != nil {
			t.Fatal(err)
		}
		return o, changed
	}
	first, _ := build(a, nil)
	if o, changed := build(a, &first); changed || string(o.JSON) != string(first.JSON) {
		t.Errorf("the same again: changed %v to %s", changed, o.JSON)
	}
	a.Requests = []string{"get /orders/{*}", "POST,PUT /orders"}
	second, changed := build(a, &first)
	if p, err := Policy(second); err != nil || !changed || len(p.Rules[0].To) != 2 {
		t.Errorf("more: changed %v, %v, %s", changed, err, second.JSON)
	}
	a.Requests = []string{"PUT,POST /orders"}
	if _, changed := build(a, &second); changed {
		t.Error("methods in another order are another request")
	}
	a.Requests, a.Ports = nil, []string{"5432"}
	if third, changed := build(a, &second); !changed || !strings.Contains(string(third.JSON), `{"operation":{"ports":["5432"]}}`) {
		t.Errorf("a port: %s", third.JSON)
	}
	a.Ports = nil
	all, changed := build(a, &second)
	if p, err := Policy(all); err != nil || !changed || len(p.Rules[0].To) != 0 {
		t.Errorf("everything: changed %v, %v, %s", changed, err, all.JSON)
	}
	a.Requests = []string{"GET /x"}
	if _, changed := build(a, &all); changed {
		t.Error("what everything covers narrowed it")
	}
	a.ToLabels = map[string]string{"app": "api", "v": "1"}
	if o, changed := build(a, &all); !changed || !strings.Contains(string(o.JSON), `"matchLabels":{"app":"api","v":"1"}`) {
		t.Errorf("the labels of TO: %s", o.JSON)
	}
}

func TestAllowNotMine(t *testing.T) {
	a := Allow{FromNamespace: "default", From: "web", ToNamespace: "default", To: "api"}
	mine, _, err := BuildAllow(a, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := a
	b.From = "worker"
	other, _, err := BuildAllow(b, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	head := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: api-from-web, annotations: {countersign.dev/written-by: allow}}\n"
	const from = "from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]"
	hand := []Object{
		one(t, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: api-from-web}\nspec: {}"),
		one(t, head+"spec: {}"),
		one(t, head+"spec: {rules: [{"+from+"}]}"),
		one(t, head+"spec: {selector: {matchLabels: {app: api}}, action: DENY, rules: [{"+from+"}]}"),
		one(t, head+"spec: {selector: {matchLabels: {app: api}}, rules: [{"+from+"}, {}]}"),
		one(t, head+"spec: {selector: {matchLabels: {app: api}}, rules: [{"+from+", to: [{operation: {notPaths: [/a]}}]}]}"),
		one(t, head+"spec: {selector: {matchLabels: {app: api}}, rules: [{from: [{source: {principals: [a], notNamespaces: [b]}}]}]}"),
		one(t, head+"spec: {selector: {matchLabels: {app: api}}, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/web], requestPrincipals: ['*']}}]}]}"),
		one(t, head+"spec: {selector: {matchLabels: {app: api}}, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/web], notRequestPrincipals: [a/b]}}]}]}"),
		one(t, head+"spec: {selector: {matchLabels: {app: api}}, rules: [{"+from+", when: [{key: 'request.auth.claims[a]', values: [b]}]}]}"),
	}
	for _, o := range hand {
		if _, _, err := BuildAllow(a, &o, nil); !errors.Is(err, ErrNotMine) {
			t.Errorf("%s: got %v", o.JSON, err)
		}
		find := func(name string) (Object, bool) { return o, name == "api-from-web" }
		if _, _, err := AllowName(a, find); !errors.Is(err, ErrNotMine) {
			t.Errorf("%s: AllowName: got %v", o.JSON, err)
		}
	}
	if _, _, err := BuildAllow(a, &other, nil); !errors.Is(err, ErrNotMine) {
		t.Errorf("another pair: got %v", err)
	}

	// A name that another pair took.
	other.Name = "api-from-web"
	set := map[string]Object{"api-from-web": other}
	find := func(name string) (Object, bool) { o, ok := set[name]; return o, ok }
	name, existing, err := AllowName(a, find)
	if name != "api-from-web-2" || existing != nil || err != nil {
		t.Errorf("got %s, %v, %v", name, existing, err)
	}
	set["api-from-web-2"] = mine
	if name, existing, err = AllowName(a, find); name != "api-from-web-2" || existing == nil || err != nil {
		t.Errorf("got %s, %v, %v", name, existing, err)
	}
	o, _, err := BuildAllow(a, nil, func(name string) bool { return name == "api-from-web" })
	if err != nil || o.Name != "api-from-web-2" {
		t.Errorf("got %s, %v", o.Name, err)
	}
}

func TestAllowBadNames(t *testing.T) {
	good := Allow{FromNamespace: "a", From: "b", ToNamespace: "c", To: "d"}
	for _, change := range []func(*Allow){
		func(a *Allow) { a.To = "*" },
		func(a *Allow) { a.To = "A" },
		func(a *Allow) { a.From = "" },
		func(a *Allow) { a.FromNamespace = "*" },
		func(a *Allow) { a.Ports = []string{"0"} },
		func(a *Allow) { a.Ports = []string{"http"} },
		func(a *Allow) { a.Hosts = []string{"https://a"} },
		func(a *Allow) { a.Requests = []string{"GET /a/*/b"} },
	} {
		a := good
		change(&a)
		if o, _, err := BuildAllow(a, nil, nil); err == nil {
			t.Errorf("%+v: got %s", a, o.JSON)
		}
	}
}
