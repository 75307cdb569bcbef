package h1

import "testing"

func TestCheckHost(t *testing.T) {
	for _, good := range []string{
		"shop.test", "shop.test:8080", "shop.test:", "SHOP.TEST.", "a_b", "10.0.0.1:65535", "[::1]", "[::1]:80",
		"[fe80::1%25eth0]:80", "[::ffff:10.0.0.1]", "a!$&'()*+,;=~b",
	} {
		if f := CheckHost(good); f != nil {
			t.Errorf("CheckHost(%q): %v", good, f)
		}
	}
	for _, bad := range []string{
		"", ":80", "a b", "a@b", "a/b", "a?b", "a#b", `a\b`, "a%41", "a:65536", "a:99999999999", "a:-1", "a:8x",
		"a:80:80", "[", "[]", "[::1", "::1", "[::1]x", "[::1]]", "[10.0.0.1]", "[fe80::1%eth0]", "[fe80::1%25]",
		"[v1.x]", "a[b]", "a\x00", "caf\xc3\xa9", "a\t",
	} {
		if f := CheckHost(bad); f == nil || f.Reason != BadHeader {
			t.Errorf("CheckHost(%q): %v, want bad_header", bad, f)
		}
	}
}

func TestLookupHost(t *testing.T) {
	for _, c := range []struct{ in, host, port string }{
		{"Shop.Test.:8443", "shop.test", "8443"}, {"api", "api", ""}, {"api:", "api", ""}, {"api..", "api.", ""},
		{"[::1]:80", "::1", "80"}, {"[FE80::1%25eth0]", "fe80::1%25eth0", ""}, {".", ".", ""}, {"", "", ""}, {"[", "", ""},
	} {
		if host, port := LookupHost(c.in); host != c.host || port != c.port {
			t.Errorf("LookupHost(%q) = %q, %q; want %q, %q", c.in, host, port, c.host, c.port)
		}
	}
}

func TestAbsolute(t *testing.T) {
	for _, c := range []struct {
		target            string
		tls               bool
		authority, origin string
		reason            string
	}{
		{"http://api/x/../y", false, "api", "/x/../y", ""},
		{"http://api", false, "api", "/", ""},
		{"HtTp://API:80?q=/", false, "API:80", "/?q=/", ""},
		{"https://api/", true, "api", "/", ""},
		{"https://api/", false, "", "", BadRequestLine},
		{"ftp://api/", true, "", "", BadRequestLine},
		{"http:/api", false, "", "", BadRequestLine},
		{"http:", false, "", "", BadRequestLine},
		{"/x", false, "", "", BadRequestLine},
		{"http:///x", false, "", "", AuthorityMismatch},
		{"http://a@b/x", false, "", "", AuthorityMismatch},
		{"http://a#b", false, "", "", AuthorityMismatch},
	} {
		authority, origin, f := Absolute(c.target, c.tls)
		reason := ""
		if f != nil {
			reason = f.Reason
		}
		if authority != c.authority || origin != c.origin || reason != c.reason {
			t.Errorf("Absolute(%q, %v) = %q, %q, %v", c.target, c.tls, authority, origin, f)
		}
	}
}

func TestSameAuthority(t *testing.T) {
	for _, c := range []struct {
		a, b, scheme string
		same         bool
	}{
		{"a", "A:80", "http", true}, {"a:443", "a", "https", true}, {"a:443", "a", "http", false}, {"a:", "a", "http", true},
		{"a", "a.", "http", false}, {"a:81", "a:81", "http", true}, {"a:81", "a:82", "http", false}, {"a", "b", "http", false},
		{"[::1]:80", "[::1]", "http", true}, {"", "", "http", false},
	} {
		if got := SameAuthority(c.a, c.b, c.scheme); got != c.same {
			t.Errorf("SameAuthority(%q, %q, %q) = %v", c.a, c.b, c.scheme, got)
		}
	}
}
