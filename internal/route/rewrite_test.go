package route

import (
	"strings"
	"testing"

	"countersign.dev/internal/h1"
)

// gateway.md 7.3, all rows; F4 asks for them as rewrite and as redirect.
func TestF4PathReplacement(t *testing.T) {
	for _, c := range []struct {
		path, prefix string
		replace      PathReplace
		want         string
	}{
		{"/foo/bar", "/foo", PathReplace{Value: "/xyz"}, "/xyz/bar"},
		{"/foo/bar", "/foo/", PathReplace{Value: "/xyz"}, "/xyz/bar"},
		{"/foo/bar", "/foo", PathReplace{Value: "/xyz/"}, "/xyz/bar"},
		{"/foo/bar", "/foo/", PathReplace{Value: "/xyz/"}, "/xyz/bar"},
		{"/foo", "/foo", PathReplace{Value: "/xyz"}, "/xyz"},
		{"/foo/", "/foo", PathReplace{Value: "/xyz"}, "/xyz/"},
		{"/foo/bar", "/foo", PathReplace{}, "/bar"},
		{"/foo/", "/foo", PathReplace{}, "/"},
		{"/foo", "/foo", PathReplace{}, "/"},
		{"/foo/", "/foo", PathReplace{Value: "/"}, "/"},
		{"/foo", "/foo", PathReplace{Value: "/"}, "/"},
		{"/foo/bar", "/foo", PathReplace{Value: "/"}, "/bar"},
		{"/foo/bar", "/", PathReplace{Value: "/xyz"}, "/xyz/foo/bar"},
		{"/foo//bar", "/foo", PathReplace{Value: "/xyz"}, "/xyz/bar"},
		{"/foo//bar", "/foo", PathReplace{}, "/bar"},
		{"/foo/a//b", "/foo", PathReplace{Value: "/xyz"}, "/xyz/a//b"},
		{"//", "/", PathReplace{Value: "/xyz"}, "/xyz/"},
		{"/caf%c3%a9/bar", "/caf%C3%A9", PathReplace{Value: "/xyz"}, "/xyz/bar"},
		{"/foo/b%2fc", "/foo", PathReplace{Value: "/caf\xc3\xa9"}, "/caf%C3%A9/b%2fc"},
		{"/foo/bar", "/foo", PathReplace{Full: true, Value: "/xyz"}, "/xyz"},
		{"/foo/bar", "/foo", PathReplace{Full: true, Value: "/"}, "/"},
	} {
		rewrite, redirect := ruleNamed("a", prefix(c.prefix)), Rule{Matches: []Match{prefix(c.prefix)}}
		rewrite.Filters = []Filter{{Rewrite: &Rewrite{Path: &c.replace}}}
		redirect.Filters = []Filter{{Redirect: &Redirect{Hostname: "y.test", Path: &c.replace, Status: 302}}}
		hit := hitOn(t, rewrite, c.path)
		if got, err := hit.Effects(0).Path(c.path, hit.Prefix); got != c.want || err != nil {
			t.Errorf("rewriting %+v of %q below %q: %q, %v; want %q", c.replace, c.path, c.prefix, got, err, c.want)
		}
		hit = hitOn(t, redirect, c.path)
		got, err := hit.Redirect.Location(URL{Scheme: "http", Port: 80, Authority: "x.test", Path: c.path}, hit.Prefix)
		if got != "http://y.test"+c.want || err != nil {
			t.Errorf("redirecting %+v of %q below %q: %q, %v; want %q", c.replace, c.path, c.prefix, got, err, c.want)
		}
	}
}

// hitOn is what a sound rule makes of a path.
func hitOn(t *testing.T, rule Rule, path string) Hit {
	t.Helper()
	p := onPort(Attached{Routes: []Effective{on(routeOf("r", rule), "")}})
	hit, ok := p.Router("x.test").Lookup("x.test", &Request{Method: "GET", Path: path})
	if !ok || hit.Bad != "" {
		t.Fatalf("%s: taken %v, bad %q", path, ok, hit.Bad)
	}
	return hit
}

// F5, and every other value that no path can come of.
func TestF5ImpossibleReplacement(t *testing.T) {
	for _, value := range []string{
		"/..", "//", "/x?y",
		"x", "/x#y", `/x\y`, "/a/./b", "/a/%2e%2e/b", "/a/.", "/%2E", "/a//b", "/a/..%2f", "/..;x", "/%zz", "/%00", "/a\nb", "//evil.test/",
	} {
		for _, full := range []bool{false, true} {
			r := &PathReplace{Full: full, Value: value}
			rewrite, redirect := ruleNamed("", prefix("/a")), Rule{Matches: []Match{prefix("/a")}}
			rewrite.Filters = []Filter{{Rewrite: &Rewrite{Path: r}}}
			redirect.Filters = []Filter{{Redirect: &Redirect{Hostname: "y.test", Path: r, Status: 302}}}
			if faults := Check(routeOf("r", rewrite, redirect)); len(faults) != 2 {
				t.Errorf("%+v: faults %v, want two", *r, faults)
			}
		}
	}
	for name, rule := range map[string]Rule{
		"full and empty": {Filters: []Filter{{Rewrite: &Rewrite{Path: &PathReplace{Full: true}}}}},
		"prefix of an exact match": {Matches: []Match{prefix("/"), exactly("/a")},
			Filters: []Filter{{Rewrite: &Rewrite{Path: &PathReplace{Value: "/b"}}}}},
		"hostname": {Filters: []Filter{{Rewrite: &Rewrite{Hostname: "a/b"}}}},
	} {
		if faults := Check(routeOf("r", rule)); len(faults) != 1 {
			t.Errorf("%s: faults %v", name, faults)
		}
	}
}

// A replacement that came past the check is stopped at request time.
func TestSecHiddenDotsAfterReplacement(t *testing.T) {
	for _, value := range []string{"/a/..%2f", "/..;x", "x", "/a?b", ""} {
		if got, err := replacePath(&PathReplace{Full: true, Value: value}, "/", 0); err != ErrPath {
			t.Errorf("%q becomes %q, %v", value, got, err)
		}
	}
	r := Redirect{Path: &PathReplace{Value: "/a/..%2f"}}
	if got, err := r.Location(URL{Scheme: "http", Port: 80, Authority: "x.test", Path: "/b/c"}, 2); err != ErrPath {
		t.Errorf("redirected to %q, %v", got, err)
	}
}

// FuzzReplacePath: whatever is sent and configured, the result is one path in normal form, or an error.
func FuzzReplacePath(f *testing.F) {
	f.Add("/foo/bar", "/foo", "/xyz", false)
	f.Add("/foo//bar", "/foo/", "", false)
	f.Add("//", "/", "/a/..%2f", false)
	f.Add("/%2e%2e/a;..;/", "/a", "/..", true)
	f.Add("/", "0", "*", false)
	f.Fuzz(func(t *testing.T, target, value, replacement string, full bool) {
		path, _, _, fault := h1.Normalize(target)
		rule := ruleNamed("", prefix(value))
		rule.Filters = []Filter{{Rewrite: &Rewrite{Path: &PathReplace{Full: full, Value: replacement}}}}
		table, faults := Compile([]Attached{{Routes: []Effective{on(routeOf("r", rule), "")}}})
		if fault != nil {
			return
		}
		hit, ok := table.Port(Name{}, 0).Router("x").Lookup("x", &Request{Path: path})
		if !ok {
			return
		}
		got, err := hit.Effects(0).Path(path, hit.Prefix)
		if err != nil {
			if len(faults) == 0 {
				t.Errorf("%q below %q by %q: %v, and no fault", path, value, replacement, err)
			}
			return
		}
		if !h1.IsNormal(got) {
			t.Errorf("%q below %q by %q becomes %q", path, value, replacement, got)
		}
		if len(faults) == 0 && strings.HasPrefix(got, "//") {
			t.Errorf("%q below %q by %q becomes %q", path, value, replacement, got)
		}
	})
}
