package h1

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"countersign.dev/internal/h1/h1test"
)

// The tables of http-strictness 17.1 as the gate of an edge listener answers them: what only the pipeline refuses
// passes here (a strict host) or is served (OPTIONS *).
func TestEdgeRequests(t *testing.T) {
	pipeline := []string{"A24", "C9", "C10", "C11", "C12", "C12a", "C12b"}
	for _, table := range h1test.Edge() {
		for _, c := range table {
			if row, _, _ := strings.Cut(c.Name, " "); slices.Contains(pipeline, row) {
				c.Status, c.Reason = []int{200}, ""
			}
			for _, piece := range []int{1 << 20, 1, 3} {
				got, reason := statuses(Rules{Profile: Edge}, h1test.Wire(c.Bytes), piece)
				if !slices.Equal(got, c.Status) || reason != c.Reason {
					t.Errorf("%s in pieces of %d: got %v %q, want %v %q", c.Name, piece, got, reason, c.Status, c.Reason)
				}
			}
		}
	}
}

func TestEdgeMethod(t *testing.T) {
	for method, status := range map[string]int{
		"GET": 0, "M-SEARCH": 0, "X2": 0, "PURGE": 0, "get": 501, "Get": 501, "GEt": 501, "2X": 501, "-X": 501, "A_B": 501, "A.B": 501,
		"TRACE": 405, "TRACER": 0,
	} {
		if f := edgeMethod(method); f == nil && status != 0 || f != nil && f.Status != status {
			t.Errorf("%s: got %+v, want %d", method, f, status)
		}
	}
}

func TestEdgeHost(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 63)+".", 3) // 192
	for _, good := range []string{
		"shop.test", "shop.test.", "SHOP.test:1", "a_b.c-d:65535", "10.0.0.1", "[::1]", "[::1]:80", "a", "1.2",
		strings.Repeat("a", 63) + ".test", long + strings.Repeat("a", 61), long + strings.Repeat("a", 61) + ".",
	} {
		if f := Edge.CheckHost(good); f != nil {
			t.Errorf("%q: %v", good, f)
		}
	}
	for _, bad := range []string{
		"", ".", "..", ".a", "a..b", "a..", "a;b", "a,b", "a!b", "a~b", "a*b", "*.test", "shop.test:", "shop.test:0", "shop.test:00000", "[::1]:",
		"[::1]:0", "[fe80::1%25eth0]", strings.Repeat("a", 64), long + strings.Repeat("a", 62),
	} {
		if f := Edge.CheckHost(bad); f == nil || f.Reason != BadHeader {
			t.Errorf("%q: got %v, want bad_header", bad, f)
		}
	}
}

func TestEdgeNormalize(t *testing.T) {
	for _, c := range []struct{ target, path, query string }{
		{"/a//b///c/", "/a/b/c/", ""}, {"//shop.test/items", "/shop.test/items", ""}, {"/a//../b", "/a/b", ""},
		{"//", "//", ""}, {"///", "//", ""}, {"/a/..//", "//", ""}, {"//?x=1", "//", "x=1"}, {"/", "/", ""}, {"/a/..", "/", ""}, {"*", "*", ""},
		{"/caf\xc3\xa9", "/caf%C3%A9", ""}, {"/caf%c3%a9", "/caf%c3%a9", ""}, {"/%c3\xa9", "/%c3%A9", ""}, {"/\xf0\x9f\x98\x80", "/%F0%9F%98%80", ""},
		{"/a%2fb/../c", "/c", ""}, {"/...", "/...", ""}, {"/%252e%252e/b", "/%252e%252e/b", ""}, {"/a?q=/../..&%zz=\\", "/a", "q=/../..&%zz=\\"},
		{"/a/b/../../c", "/c", ""}, {"/a|b", "/a%7Cb", ""},
	} {
		path, query, _, f := Edge.Normalize(c.target)
		if f != nil || path != c.path || query != c.query {
			t.Errorf("%q: got %q, %q, %v; want %q", c.target, path, query, f, c.path)
		}
	}
	for _, target := range []string{
		"/a#b", "/a?b#c", "*#", `/a\b`, `\`, "/a%", "/a%4", "/a%zz", "/%00", "/%1f", "/%0A", "/%7F", // rules 1 to 3
		"/\xe9", "/%e9", "/%c0%af", "/%ed%a0%80", "/%c3", "/\xc3", "/%c3/%a9", "/%c3a", "/%f5%80%80%80", "/a%80", // rule 4
		"/..", "/../", "/a/../..", "/%2e%2E/x", "/.%2e", "/a/%2E%2E/%2e./etc", "/./..", "/a%2fb/../../x", // rule 5
		"/..;/x", "/a/..%2fb", "/a/..%5cb", "/a/%2e%2e;/b", // rule 7
	} {
		if path, _, _, f := Edge.Normalize(target); f == nil || f.Status != 400 || target[0] == '/' && f.Reason != BadPath {
			t.Errorf("%q: got %q, %v; want a fault", target, path, f)
		}
	}
}

func TestCheckStrict(t *testing.T) {
	for _, bad := range []string{"/a%2Fb", "/a%2f", "/%5c", "/%5C", "/%25", "/%3b", "/%3B", "/%23", "/%3F", "/%c3%a9%2f", "/%20%2F"} {
		if f := CheckStrict(bad); f == nil || f.Reason != BadPath {
			t.Errorf("%q: got %v, want bad_path", bad, f)
		}
	}
	for _, good := range []string{"/", "/a;b", "/%20", "/caf%c3%a9", "/a%7Cb", "*", ""} {
		if f := CheckStrict(good); f != nil {
			t.Errorf("%q: %v", good, f)
		}
	}
}

// Every class of http-strictness 7.1 that only the edge strips, in its spelling and as an alias.
func TestEdgeStrip(t *testing.T) {
	gone := header{}
	for _, name := range []string{
		"Remote-User", "X-Remote-User", "X-Remote-User-Email", "X-Auth-Request-User", "X-Authenticated-Userid", "X-Webauth-User",
		"X-Consumer-Id", "X-Credential-Identifier", "X-Goog-Authenticated-User-Email", "X-Goog-Iap-Jwt-Assertion", "X-Amzn-Oidc-Data",
		"X-Ms-Client-Principal", "X-Ms-Client-Principal-Name", "Cf-Access-Jwt-Assertion", "Tailscale-User-Login", "X-Tls-Client-Cert",
		"X-Client-Dn", "X-B3-Traceid", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "True-Client-Ip",
		"Cf-Connecting-Ip", "X-Cluster-Client-Ip", "X-Original-Url", "X-Rewrite-Url", "X-Host", "X-Http-Method-Override", "X-Http-Method",
		"X-Method-Override", "X.forwarded.for", "X_real_ip", "Remote_user", "X-Original.Url", "X-Countersign-Peer",
	} {
		gone[name] = []string{"1"}
		if _, f := Edge.Strip(header{"Connection": {name}}); !strings.ContainsAny(name, "._") && f == nil {
			t.Errorf("Connection may name %s", name)
		}
	}
	want := len(gone)
	gone["X-Hostname"], gone["X-Note"], gone["Forwarded-By"], gone["X-Tlsx"] = nil, nil, nil, nil
	trailer := maps.Clone(gone)
	names, f := Edge.Strip(gone)
	if f != nil || len(names) != want || len(gone) != 4 {
		t.Errorf("stripped %d of %d, left %v, %v", len(names), want, slices.Sorted(maps.Keys(gone)), f)
	}
	if Edge.StripTrailer(trailer); len(trailer) != 4 {
		t.Errorf("trailers left: %v", slices.Sorted(maps.Keys(trailer)))
	}
}

func TestStripEdgeResponse(t *testing.T) {
	for _, fromMesh := range []bool{false, true} {
		h := header{
			"Alt-Svc": {"x"}, "Proxy-Status": {"x"}, "Proxy-Authenticate": {"x"}, "Early-Data": {"1"}, "X-Envoy-Upstream-Service-Time": {"1"},
			"X-Countersign-Peer": {"y"}, "Connection": {"x-b"}, "X-B": {"1"}, "X-Decision-Id": {"1"}, "Server": {"x"},
		}
		StripEdgeResponse(h, fromMesh)
		want := []string{"Server"}
		if fromMesh {
			want = append(want, "X-Decision-Id")
		}
		if left := slices.Sorted(maps.Keys(h)); !slices.Equal(left, want) {
			t.Errorf("from the mesh %v: left %q, want %q", fromMesh, left, want)
		}
	}
}

// The rows of 17.2 that the edge adds.
func TestEdgeCheckMessage(t *testing.T) {
	for _, c := range []struct {
		name, method, authority string
		h2                      bool
		status                  int
	}{
		{"2M1", "get", "shop.test", true, 501}, {"2M3", "TRACE", "shop.test", true, 405}, {"2A7", "GET", "shop.test,pay.test", true, 400},
		{"plain", "GET", "shop.test", true, 0}, {"HTTP/1.0 without Host", "GET", "", false, 400},
	} {
		f := Edge.CheckMessage(c.method, "/", c.authority, nil, c.h2)
		if f == nil && c.status != 0 || f != nil && f.Status != c.status {
			t.Errorf("%s: got %+v, want %d", c.name, f, c.status)
		}
	}
}

func TestEdgeAllocatesNothing(t *testing.T) {
	head := browserHead()
	path := "/shop/items/4711/caf%c3%a9"
	if n := testing.AllocsPerRun(100, func() {
		if _, f := (Rules{Profile: Edge}).Check(head); f != nil {
			t.Fatal(f)
		}
		if _, _, _, f := Edge.Normalize(path); f != nil || CheckStrict(path) != nil {
			t.Fatal(f)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkEdgeCheckHead(b *testing.B) {
	head := browserHead()
	b.SetBytes(int64(len(head)))
	b.ReportAllocs()
	for b.Loop() {
		if _, f := (Rules{Profile: Edge}).Check(head); f != nil {
			b.Fatal(f)
		}
	}
}

func BenchmarkEdgeStrip(b *testing.B) {
	b.ReportAllocs()
	h := header{"Accept": {"*/*"}, "User-Agent": {"x"}, "Accept-Encoding": {"gzip"}, "Cookie": {"a=b"}, "X-Request-Id": {"1"}, "Traceparent": {"x"}}
	for b.Loop() {
		Edge.Strip(h)
	}
}

// What the edge takes the base takes too, and means the same: the paths differ by merged slashes alone. No path climbs,
// in whatever order an application decodes and resolves, and all are text.
func FuzzEdge(f *testing.F) {
	for _, table := range h1test.Edge() {
		for _, c := range table {
			if len(c.Bytes) < 400 {
				f.Add(h1test.Wire(c.Bytes))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, fault := Rules{TLS: true, Profile: Edge}.Parse(b)
		if fault != nil {
			return
		}
		base, fault := Rules{TLS: true}.Check(b)
		if fault != nil || base != h.Shape {
			t.Fatalf("%q: the edge reads %+v, the base %+v, %v", b, h.Shape, base, fault)
		}
		target := h.Target
		if target[0] != '/' && target != "*" {
			_, target, fault = Absolute(target, true)
			if fault != nil {
				t.Fatalf("%q: checked, but %v", b, fault)
			}
		}
		path, query, has, fault := Edge.Normalize(target)
		if fault != nil {
			t.Fatalf("%q: checked, but its target is refused: %v", b, fault)
		}
		basePath, baseQuery, baseHas, fault := Normalize(target)
		if fault != nil || mergeSlashes(basePath) != path || query != baseQuery || has != baseHas {
			t.Fatalf("%q: the edge reads %q %q, the base %q %q, %v", target, path, query, basePath, baseQuery, fault)
		}
		if again, _, _, fault := Edge.Normalize(path); fault != nil || again != path {
			t.Fatalf("%q became %q, then %q, %v", target, path, again, fault)
		}
		if path == "/" && strings.HasPrefix(target, "//") {
			t.Fatalf("%q became /", target)
		}
		raw, _, _ := strings.Cut(target, "?")
		decoded := decode(raw)
		if !utf8.ValidString(decoded) {
			t.Fatalf("%q is no text: %q", target, decoded)
		}
		depth := 0
		for s := range strings.SplitSeq(strings.TrimPrefix(decoded, "/"), "/") {
			switch s {
			case ".":
			case "..":
				depth--
			default:
				depth++
			}
			if depth < 0 {
				t.Fatalf("%q climbs", target)
			}
		}
		if CheckStrict(path) == nil && strings.ContainsAny(decode(path), `\%#?`) {
			t.Fatalf("%q hides a reserved byte", path)
		}
	})
}

// decode is what an application does to a whole path: url.PathUnescape without its judgement.
func decode(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if c, ok := byte(0), false; path[i] == '%' {
			if c, ok = unescape(path, i); ok {
				b.WriteByte(c)
				i += 2
				continue
			}
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// What sign-in proxies and clouds say of a caller, in their own words: a stranger says none of it.
func TestSecForeignIdentity(t *testing.T) {
	for _, name := range []string{
		"Remote-Groups", "Remote-Email", "Remote-Name", "X-Remote-Group", "X-Remote-Extra-Scopes", "X-Authentik-Username",
		"X-Vouch-User", "X-Pomerium-Jwt-Assertion", "X-Pomerium-Claim-Email", "X-Amzn-Mtls-Clientcert", "X-Appengine-User-Email",
		"X-Apigateway-Api-Userinfo", "X-Endpoint-Api-Userinfo",
	} {
		for _, spelled := range []string{name, strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", ".")} {
			h := header{spelled: {"root"}}
			if _, f := Edge.Strip(h); f != nil || len(h) != 0 {
				t.Errorf("%s goes on: %v", spelled, f)
			}
		}
		if got := Lets(name); got != Proxies {
			t.Errorf("%s: may be said by %d, want a trusted proxy", name, got)
		}
	}
}
