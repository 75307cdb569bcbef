package proxy

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/bearer"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/policy"
)

// The metadata of RFC 9728 are there without token and policy, for exactly the resources of a
// record; all else is the program's.
func TestResourceMetadata(t *testing.T) {
	var called atomic.Int32
	program := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		called.Add(1)
		echo(w, r)
	})
	w := newTokens(t, setup{handler: program}, func(w *tokens) {
		w.audiences = []grant.Audience{{
			Namespace: "default", Name: "api", Service: "api", RequireToken: true,
			Resources: []string{"https://api.example.com/orders", "https://example.org/"},
			Scopes:    []grant.Scope{{Name: "orders:write", Public: true}, {Name: "orders:admin"}, {Name: "orders:read", Public: true}},
		}}
		w.allow = nobody()
	})
	document := func(resource string) string {
		return `{"resource":"` + resource + `","authorization_servers":["` + ourIssuer + `"],"scopes_supported":["orders:read","orders:write"],` +
			`"bearer_methods_supported":["header"],"tls_client_certificate_bound_access_tokens":true,"resource_name":"default/api"}`
	}
	ask := func(method, host, path string) (int, string, http.Header) {
		t.Helper()
		c := w.connect("api:80")
		req, _ := http.NewRequest(method, "http://"+host+path, nil)
		if err := req.Write(c); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(newReader(c), req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode, readString(t, resp.Body), resp.Header
	}
	for _, c := range []struct{ method, host, path, want string }{
		{"GET", "api.default", "", document("http://api.default")},
		{"HEAD", "api.default", "", ""},
		{"GET", "API.default:80", "", document("http://api.default")},
		{"GET", "api.example.com", "/orders", document("https://api.example.com/orders")},
		{"GET", "api.example.com:443", "/orders", document("https://api.example.com/orders")},
		{"GET", "example.org", "", document("https://example.org/")},
	} {
		status, body, h := ask(c.method, c.host, bearer.MetadataPath+c.path)
		if status != 200 || body != c.want || h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "public, max-age=300" {
			t.Errorf("%v: got %d %q %v", c, status, body, h)
		}
	}
	rec := w.b.record(func(r *audit.Record) bool { return r.Decision == audit.Allow })
	if rec.Layer != audit.LayerRoute || rec.Route == "" || rec.Path != "" || rec.Status != 200 || rec.PeerID != webID || rec.RespBytes == 0 {
		t.Errorf("record %+v", rec)
	}
	w.audiences[0].RequireToken = false
	w.allow = allowAll()
	w.enforce()
	resp, err := w.http2().RoundTrip(httptest.NewRequest("GET", "http://api.default"+bearer.MetadataPath, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body := readString(t, resp.Body); body != document("http://api.default") || called.Load() != 0 {
		t.Errorf("HTTP/2: got %q, %d calls of the program", body, called.Load())
	}
	for _, c := range []struct{ method, host, path string }{
		{"POST", "api.default", ""}, {"GET", "api", ""}, {"GET", "api.default", "/x"}, {"GET", "api.default", "/"}, {"GET", "api.default", "?a=b"},
		{"GET", "api.defaul", "t"}, {"GET", "api.example.com", "/orders/"}, {"GET", "api.example.com:8443", "/orders"}, {"GET", "api.example.com", ""},
	} {
		want := c.method + " " + bearer.MetadataPath + c.path + " " + c.host + "\n"
		if status, body, _ := ask(c.method, c.host, bearer.MetadataPath+c.path); status != 200 || !strings.HasPrefix(body, want) {
			t.Errorf("%v: got %d %q", c, status, body)
		}
	}
	w.audiences = nil
	w.enforce()
	if _, body, _ := ask("GET", "api.default", bearer.MetadataPath); !strings.HasPrefix(body, "GET "+bearer.MetadataPath) {
		t.Errorf("without a record: got %q", body)
	}
}

// Every 401 of a service with a record says where its metadata are.
func TestChallengeNamesMetadata(t *testing.T) {
	w := newTokens(t, setup{}, func(w *tokens) {
		w.audiences = []grant.Audience{{Namespace: "default", Name: "api", Service: "api"}}
		w.rules = []policy.TokenRule{w.rule(func(r *policy.TokenRule) { r.Headers = []policy.TokenHeader{{Name: "x-jwt"}} })}
	})
	for _, line := range []string{bearerLine(w.own.ours(claims{"exp": 1})), "X-Jwt: " + w.id.foreign(claims{"exp": 1}), "X-Jwt: x"} {
		status, _, h := w.call("http://api/x", line)
		if status != 401 || !strings.HasSuffix(h.Get("Www-Authenticate"), `, resource_metadata="http://api.default`+bearer.MetadataPath+`"`) {
			t.Errorf("got %d %v", status, h)
		}
	}
}
