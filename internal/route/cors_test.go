package route

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func sharing(t *testing.T, f CORS) *Sharing {
	t.Helper()
	r := filtered(Filter{CORS: &f})
	return hitOn(t, r.Rules[0], "/").CORS
}

// F22, and the attacks of gateway.md 28: null, a suffix that is no label, another scheme or port.
func TestF22Origins(t *testing.T) {
	for _, c := range []struct {
		patterns string
		yes, no  string
	}{
		{"https://*.x.test", "https://a.b.x.test https://A.X.TEST https://a.x.test:443",
			"https://x.test http://a.x.test https://a.x.test:444 null https://evilx.test https://.x.test https://a..x.test https://a.x.test.evil.test https://a.x.test/ https://u@a.x.test https://a.x.test? https://a.x.test:"},
		{"https://a.test", "https://a.test https://a.test:443", "http://a.test https://b.a.test https://a.test:8443 https://a.test. https://a.test,https://b.test"},
		{"http://a.test:8080", "http://a.test:8080", "http://a.test http://a.test:80"},
		{"http://a.test", "http://a.test:80", "http://a.test:443"},
		{"https://*", "https://any.test https://127.0.0.1 https://[::1]", "http://any.test https://any.test:8443 null https:// https://*"},
		{"https://*:8443", "https://any.test:8443", "https://any.test"},
		{"*", "https://any.test null nonsense", ""},
		{"", "", "https://a.test null *"},
		{"https://a.test http://b.test", "https://a.test http://b.test", "http://a.test https://b.test"},
		{"app://local", "app://local", "app://local:80 https://local 1app://local a_p://local ://local"},
	} {
		s := sharing(t, CORS{Origins: strings.Fields(c.patterns)})
		for _, o := range strings.Fields(c.yes) {
			if !s.allows(o) {
				t.Errorf("%q does not allow %q", c.patterns, o)
			}
		}
		for _, o := range strings.Fields(c.no) {
			if s.allows(o) {
				t.Errorf("%q allows %q", c.patterns, o)
			}
		}
		if s.allows("") && c.patterns != "*" {
			t.Errorf("%q allows no origin", c.patterns)
		}
	}
}

func TestCORSFaults(t *testing.T) {
	for _, f := range []CORS{
		{Origins: []string{"x.test"}}, {Origins: []string{"https://"}}, {Origins: []string{"https://a*.test"}}, {Origins: []string{"https://*x.test"}},
		{Origins: []string{"https://a.*.test"}}, {Origins: []string{"https://a.test/"}}, {Origins: []string{"null"}}, {Origins: []string{"https://a.test:0"}},
		{Methods: []string{"GET, PUT"}}, {Headers: []string{"a\r\nb"}}, {Expose: []string{""}},
	} {
		if faults := Check(filtered(Filter{CORS: &f})); len(faults) != 1 {
			t.Errorf("%+v: faults %v", f, faults)
		}
	}
}

const (
	varyOrigin    = "Vary: Origin"
	varyPreflight = "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
)

func lines(fields []Field) (out []string) {
	for _, f := range fields {
		out = append(out, strings.TrimPrefix(f.Name, "Access-Control-")+": "+f.Value)
	}
	slices.Sort(out)
	return out
}

// F23: what a preflight is answered, row by row of gateway.md 7.6.
func TestF23Preflight(t *testing.T) {
	for _, c := range []struct {
		name            string
		f               CORS
		origin, headers string
		status          int
		want            []string
	}{
		{"lists", CORS{Origins: []string{"https://*.x.test"}, Methods: []string{"PUT", "DELETE"}, Headers: []string{"X-A", "X-B"}, Expose: []string{"X-C", "X-D"}, MaxAge: 5, Credentials: true},
			"https://a.x.test", "x-a", 204,
			[]string{"Allow-Credentials: true", "Allow-Headers: X-A, X-B", "Allow-Methods: PUT, DELETE", "Allow-Origin: https://a.x.test", "Expose-Headers: X-C, X-D", "Max-Age: 5", varyPreflight}},
		{"nothing listed", CORS{Origins: []string{"https://a.test"}}, "https://a.test", "x-a", 204,
			[]string{"Allow-Methods: GET, HEAD, POST", "Allow-Origin: https://a.test", "Max-Age: 0", varyPreflight}},
		{"stars", CORS{Origins: []string{"*"}, Methods: []string{"*"}, Headers: []string{"*"}, Expose: []string{"*"}}, "https://a.test", "x-a, x-b", 204,
			[]string{"Allow-Headers: x-a, x-b", "Allow-Methods: PUT", "Allow-Origin: *", "Expose-Headers: *", "Max-Age: 0", varyPreflight}},
		{"stars, nothing asked", CORS{Origins: []string{"*"}, Headers: []string{"*"}}, "https://a.test", "", 204,
			[]string{"Allow-Methods: GET, HEAD, POST", "Allow-Origin: *", "Max-Age: 0", varyPreflight}},
		{"stars, nonsense asked", CORS{Origins: []string{"*"}, Headers: []string{"*"}}, "https://a.test", "x-a: b", 204,
			[]string{"Allow-Methods: GET, HEAD, POST", "Allow-Origin: *", "Max-Age: 0", varyPreflight}},
		{"stars with credentials", CORS{Origins: []string{"*"}, Methods: []string{"*"}, Headers: []string{"*"}, Expose: []string{"*"}, Credentials: true}, "https://a.test", "x-a", 204,
			[]string{"Allow-Credentials: true", "Allow-Headers: x-a", "Allow-Methods: PUT", "Allow-Origin: https://a.test", "Max-Age: 0", varyPreflight}},
		{"mismatch", CORS{Origins: []string{"https://a.test"}, Credentials: true}, "https://b.test", "x-a", 403, []string{varyPreflight}},
		{"null", CORS{Origins: []string{"https://*"}}, "null", "", 403, []string{varyPreflight}},
	} {
		status, fields := sharing(t, c.f).Preflight(c.origin, "PUT", c.headers)
		if got := lines(fields); status != c.status || !slices.Equal(got, c.want) {
			t.Errorf("%s: %d %q, want %d %q", c.name, status, got, c.status, c.want)
		}
	}
}

// F24: what is no preflight, and a rule without CORS, is an ordinary request.
func TestF24NoPreflight(t *testing.T) {
	for _, c := range []struct {
		method, origin, asked string
		want                  bool
	}{
		{"OPTIONS", "https://a.test", "PUT", true},
		{"GET", "https://a.test", "PUT", false},
		{"OPTIONS", "", "PUT", false},
		{"OPTIONS", "https://a.test", "", false},
		{"OPTIONS", "https://a.test", "PUT, GET", false},
	} {
		if got := IsPreflight(c.method, c.origin, c.asked); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	p := onPort(Attached{Routes: []Effective{on(routeOf("r", ruleNamed("a", prefix("/").by("PUT"))), "")}})
	if _, ok := p.Router("x.test").Preflight("x.test", asked("OPTIONS /"), "PUT"); ok {
		t.Error("a rule without CORS answers a preflight")
	}
}

// F25 and F26: the fields of every other answer, whoever made it.
func TestF25F26Answer(t *testing.T) {
	f := CORS{Origins: []string{"https://a.test"}, Credentials: true, Expose: []string{"X-A", "*"}, Methods: []string{"PUT"}, MaxAge: 5}
	for origin, want := range map[string][]string{
		"https://a.test": {"Allow-Credentials: true", "Allow-Origin: https://a.test", "Expose-Headers: X-A", varyOrigin},
		"https://b.test": {varyOrigin},
		"":               {varyOrigin},
	} {
		if got := lines(sharing(t, f).Answer(origin)); !slices.Equal(got, want) {
			t.Errorf("origin %q: %q, want %q", origin, got, want)
		}
	}
	if got := lines(sharing(t, CORS{Origins: []string{"*"}}).Answer("")); !slices.Equal(got, []string{varyOrigin}) {
		t.Errorf("any origin, none sent: %q", got)
	}
}

// FuzzOrigin: an origin that is read is one that net/url reads the same way, and no pattern lets its neighbour in.
func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"https://a.x.test", "null", "https://[::1]:443", "https://a.x.test@evil.test", "http://x.test:08", "https://evilx.test", "a+b://c_d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o, ok := parseOrigin(text)
		parsePattern(text)
		s := &Sharing{origins: []origin{{scheme: "https", host: ".x.test", port: 443, wild: true}}, filter: &CORS{}}
		if s.allows(text) && (!ok || !strings.HasSuffix(strings.TrimSuffix(strings.ToLower(text), ":443"), ".x.test") && !strings.Contains(text, ":0")) {
			t.Errorf("%q is allowed", text)
		}
		if !ok {
			return
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != o.scheme || !strings.EqualFold(strings.Trim(o.host, "[]"), u.Hostname()) || u.User != nil || u.Path != "" || u.RawQuery != "" {
			t.Errorf("%q is read as %+v, by net/url as %+v, %v", text, o, u, err)
		}
	})
}
