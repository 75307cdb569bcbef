package route

import "testing"

// F1 to F3, and the rest of gateway.md 7.2.
func TestLocation(t *testing.T) {
	on := func(scheme string, port uint16, authority string) URL {
		return URL{Scheme: scheme, Port: port, Authority: authority, Path: "/a"}
	}
	query := on("http", 80, "x.test")
	query.Query, query.HasQuery = "a=%2F&b", true
	empty := on("http", 80, "x.test")
	empty.HasQuery = true
	for _, c := range []struct {
		name string
		r    Redirect
		u    URL
		want string
	}{
		{"F1", Redirect{Scheme: "https"}, on("http", 8080, "x.test:8080"), "https://x.test/a"},
		{"F2 neither", Redirect{Hostname: "y.test"}, on("http", 8080, "x.test:8080"), "http://y.test:8080/a"},
		{"F2 80", Redirect{Port: 80}, on("http", 8080, "x.test:8080"), "http://x.test/a"},
		{"F2 8443", Redirect{Port: 8443}, on("https", 443, "x.test"), "https://x.test:8443/a"},
		{"F3", Redirect{Scheme: "https"}, query, "https://x.test/a?a=%2F&b"},
		{"empty query", Redirect{Scheme: "https"}, empty, "https://x.test/a?"},
		{"http on https", Redirect{Scheme: "http"}, on("https", 8443, "x.test:8443"), "http://x.test/a"},
		{"443 on http", Redirect{Port: 443}, on("http", 80, "x.test"), "http://x.test:443/a"},
		{"scheme and port", Redirect{Scheme: "https", Port: 8443}, on("http", 80, "x.test"), "https://x.test:8443/a"},
		{"IPv6", Redirect{Scheme: "https"}, on("http", 80, "[2001:db8::1]:80"), "https://[2001:db8::1]/a"},
		{"host as sent", Redirect{Scheme: "https"}, on("http", 80, "X.test."), "https://X.test./a"},
		{"empty port", Redirect{Scheme: "https"}, on("http", 80, "x.test:"), "https://x.test/a"},
		{"mapped port", Redirect{Path: &PathReplace{Full: true, Value: "/b"}}, on("http", 8080, "x.test"), "http://x.test:8080/b"},
	} {
		if got, err := c.r.Location(c.u, 0); got != c.want || err != nil {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

// A redirect to what was asked for is 508; where that can be seen before, it is a fault.
func TestRedirectFaults(t *testing.T) {
	for name, r := range map[string]Redirect{
		"status":   {Scheme: "https", Status: 200},
		"scheme":   {Scheme: "ftp", Status: 302},
		"hostname": {Hostname: "a/b", Status: 302},
	} {
		if faults := Check(routeOf("r", Rule{Matches: []Match{prefix("/")}, Filters: []Filter{{Redirect: &r}}})); len(faults) != 1 {
			t.Errorf("%s: faults %v", name, faults)
		}
	}
}
