package h1

import (
	"strings"
	"testing"
)

// istio-semantics 13.2, the rows of mode BASE. wide "" means: the same as the path.
func TestNormalize(t *testing.T) {
	for _, c := range []struct{ name, target, path, wide string }{
		{"N1", "/a/./b", "/a/b", ""},
		{"N2", "/a/b/..", "/a/", ""},
		{"N3", "/a/b/.", "/a/b/", ""},
		{"N4", "/../../x", "/x", ""},
		{"N5", "/a/%2e%2e/b", "/b", ""},
		{"N6", `/a\..\b`, "/b", ""},
		{"N7", "//a///b", "//a///b", "/a/b"},
		{"N9", "/a//../b", "/a/b", ""},
		{"N10", "/a%2f%2Fb", "/a%2f%2Fb", "/a/b"},
		{"N16b", "/a/..%3b/b", "/a/..%3b/b", ""},
		{"N16c", "/a/...;/b", "/a/...;/b", "/a/.../b"},
		{"N18", "/a;..;/b", "/a;..;/b", "/a/b"},
		{"N19", "/...", "/...", ""},
		{"N20", "/a/%252e%252e/b", "/a/%252e%252e/b", ""},
		{"N21", "/%7Euser/%2D%5F", "/~user/-_", ""},
		{"N22", "/caf%c3%a9", "/caf%c3%a9", ""},
		{"N23", "/caf\xc3\xa9", "/caf%C3%A9", ""},
		{"N24", "/{x}", "/%7Bx%7D", ""},
		{"N24a", "/a|b^c\"<d>`e", "/a%7Cb%5Ec%22%3Cd%3E%60e", ""},
		{"N24b", "/a[b]!$&'()*+,;=:@", "/a[b]!$&'()*+,;=:@", "/a[b]!$&'()*+,"},
		{"N30", "/%2f", "/%2f", "/"},
		{"root", "/", "/", ""},
		{"C3", "/a/..", "/", ""},
		{"C8", "/%61dmin", "/admin", ""},
		{"C15", "/a;v=1/b", "/a;v=1/b", "/a/b"},
		{"escaped backslash", "/a%5Cb", "/a%5Cb", "/a/b"},
		{"slashes only", "///", "///", "/"},
		{"dots under an empty segment", "//..", "/", ""},
	} {
		path, _, _, f := Normalize(c.target)
		if f != nil || path != c.path {
			t.Errorf("%s: Normalize(%q) = %q, %v; want %q", c.name, c.target, path, f, c.path)
		}
		if got := Wide(path); got != c.wide {
			t.Errorf("%s: Wide(%q) = %q, want %q", c.name, path, got, c.wide)
		}
		if IsNormal(c.target) != (c.target == c.path) {
			t.Errorf("%s: IsNormal(%q) = %v", c.name, c.target, IsNormal(c.target))
		}
	}
}

func TestNormalizeCuts(t *testing.T) {
	for _, c := range []struct {
		name, target, path, query string
		has                       bool
	}{
		{"N27", "/a#b?c", "/a", "", false},
		{"N28", "/a?b#c", "/a", "b", true},
		{"N28a", "/a?", "/a", "", true},
		{"N29", "*", "*", "", false},
		{"no decoding", "/a?%zz=1&x=/../..", "/a", "%zz=1&x=/../..", true},
		{"second question mark", "/./a?b?c", "/a", "b?c", true},
	} {
		path, query, has, f := Normalize(c.target)
		if f != nil || path != c.path || query != c.query || has != c.has {
			t.Errorf("%s: Normalize(%q) = %q, %q, %v, %v", c.name, c.target, path, query, has, f)
		}
	}
}

func TestNormalizeRefuses(t *testing.T) {
	for _, c := range []struct{ name, target string }{
		{"N13", "/a/..%5cb"}, {"N14", "/a/%2E%2e%2Fb"}, {"N15", "/a/..;x=1/b"}, {"N15", "/a/..;"},
		{"N16", "/a/.;/b"}, {"N16a", "/a/%2e%2e;/b"}, {"N17", "/.%2fx"},
		{"N25", "/a%zz"}, {"N25", "/a%2"}, {"N25", "/a%"}, {"N25a", "/a b"}, {"N25a", "/a\x7f"}, {"N25a", "/a\tb"},
		{"N26", "/a%00b"}, {"relative", "a/b"}, {"empty", ""}, {"query only", "?a"}, {"asterisk and more", "*?a"},
		{"asterisk and more", "*/a"}, {"blank in query", "/a?b c"},
		{"behind an escaped slash", "/a%2f..%2fb"}, {"last piece", "/a%2F.."}, {"literal then escaped", "/x/..%5c"},
	} {
		if path, _, _, f := Normalize(c.target); f == nil || f.Status != 400 {
			t.Errorf("%s: Normalize(%q) = %q, %v; want a 400", c.name, c.target, path, f)
		}
	}
}

func BenchmarkWide(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if Wide("/shop/items/4711/reviews/9") != "" {
			b.Fatal()
		}
	}
}

// A normal path is a fixed point, and in no reading of it is there a dot segment.
func FuzzNormalize(f *testing.F) {
	for _, s := range []string{
		"/", "/a/../b", "/a/%2e%2e/b", "/a%2f..%2fb", "/..;x/b", "/a?b#c", "/%252e", "//a//..", `/a\..\b`, "*",
		"/caf\xe9", "/a|b", "/;/..", "/.%5C.", "/%41%", "/a/.%2e",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path, query, has, fault := Normalize(target)
		if fault != nil {
			if IsNormal(target) {
				t.Fatalf("%q is normal but refused: %v", target, fault)
			}
			return
		}
		if path == "*" {
			return
		}
		if has != strings.Contains(strings.SplitN(target, "#", 2)[0], "?") {
			t.Fatalf("%q: query %q, %v", target, query, has)
		}
		if !IsNormal(path) {
			t.Fatalf("%q became %q, which is not normal", target, path)
		}
		if again, _, _, fault := Normalize(path); fault != nil || again != path {
			t.Fatalf("%q became %q, then %q, %v", target, path, again, fault)
		}
		slow, fault := normalPath(Base, path)
		if fault != nil || slow != path {
			t.Fatalf("%q is normal, the long way makes it %q, %v", path, slow, fault)
		}
		readings := []string{path, foldSlashes(path), Wide(path)}
		for _, r := range readings {
			for s := range strings.SplitSeq(r, "/") {
				s, _, _ = strings.Cut(s, ";")
				if s == "." || s == ".." {
					t.Fatalf("%q became %q, which can be read as %q", target, path, r)
				}
			}
		}
		wide := Wide(path)
		if wide == path {
			t.Fatalf("Wide(%q) is the same", path)
		}
		if wide != "" && (strings.Contains(wide, "//") || strings.Contains(wide, ";") || Wide(wide) != "") {
			t.Fatalf("Wide(%q) = %q", path, wide)
		}
	})
}
