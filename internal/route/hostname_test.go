package route

import (
	"slices"
	"testing"
)

// The table of gateway.md 5, and what follows from it.
func TestEffectiveHostnames(t *testing.T) {
	for _, c := range []struct {
		listener    string
		route, want []string
	}{
		{"", []string{"a.x.test"}, []string{"a.x.test"}},
		{"", []string{"*.x.test"}, []string{"*.x.test"}},
		{"", nil, []string{""}},
		{"a.x.test", nil, []string{"a.x.test"}},
		{"a.x.test", []string{"a.x.test"}, []string{"a.x.test"}},
		{"a.x.test", []string{"*.x.test"}, []string{"a.x.test"}},
		{"a.x.test", []string{"*.x.test", "a.x.test"}, []string{"a.x.test"}},
		{"*.x.test", []string{"a.b.x.test", "x.test", "a.y.test"}, []string{"a.b.x.test"}},
		{"*.x.test", []string{"*.b.x.test"}, []string{"*.b.x.test"}},
		{"*.b.x.test", []string{"*.x.test"}, []string{"*.b.x.test"}},
		{"*.x.test", nil, []string{"*.x.test"}},
		{"x.test", []string{"*.x.test"}, nil},
		{"*.x.test", []string{"*.yx.test"}, nil},
		{"*.x.test", []string{"ax.test"}, nil},
		{"*.test", []string{"b.test", "a.b.test"}, []string{"b.test", "a.b.test"}},
		{"a.x.test", []string{"b.x.test", "*.a.x.test"}, nil},
	} {
		if got := effective(c.listener, c.route); !slices.Equal(got, c.want) {
			t.Errorf("effective(%q, %q) = %q, want %q", c.listener, c.route, got, c.want)
		}
	}
}

func TestAdmits(t *testing.T) {
	for _, c := range []struct {
		pattern, host string
		want          bool
	}{
		{"", "a.test", true},
		{"a.test", "a.test", true},
		{"a.test", "b.test", false},
		{"*.a.test", "b.a.test", true},
		{"*.a.test", "c.b.a.test", true},
		{"*.a.test", "a.test", false},
		{"*.a.test", ".a.test", false},
		{"*.a.test", "ba.test", false},
	} {
		if got := Admits(c.pattern, c.host); got != c.want {
			t.Errorf("Admits(%q, %q) = %t, want %t", c.pattern, c.host, got, c.want)
		}
	}
}

// FuzzIntersect: an intersection takes exactly the hosts that both take, in
// either order, and there is one whenever some host is taken by both.
func FuzzIntersect(f *testing.F) {
	for _, s := range [][3]string{
		{"*.x.test", "a.b.x.test", "a.b.x.test"},
		{"*.x.test", "*.b.x.test", "a.b.x.test"},
		{"", "*.x.test", "a.x.test"},
		{"x.test", "*.x.test", "x.test"},
		{"*.x.test", "*.y.test", "a.x.test"},
		{"*.", "*.a.", "b.a."},
		{"*.x", "*.x", "*.x"},
		{"", "", ""},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, a, b, host string) {
		both, ok := Intersect(a, b)
		reverse, okReverse := Intersect(b, a)
		if both != reverse || ok != okReverse {
			t.Fatalf("Intersect(%q, %q) = %q, %t; reversed %q, %t", a, b, both, ok, reverse, okReverse)
		}
		for _, h := range []string{host, a, b, "z" + a, "z" + b, "z." + host, "z" + trimStar(a), "z" + trimStar(b)} {
			if h == "" { // no request has it; as a pattern it is any host
				continue
			}
			if got, want := ok && Admits(both, h), Admits(a, h) && Admits(b, h); got != want {
				t.Fatalf("Intersect(%q, %q) = %q, %t: admits %q %t, want %t", a, b, both, ok, h, got, want)
			}
		}
	})
}

func trimStar(pattern string) string {
	if suffix, ok := wildcard(pattern); ok {
		return suffix
	}
	return pattern
}
