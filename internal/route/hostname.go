package route

import (
	"slices"
	"strings"
)

// A hostname pattern is a name, "*." before a suffix, or empty for any host.
// The wildcard stands for one label or more (ParentReference, Hostname).

// Admits reports whether the pattern takes the host, which is lower case,
// without port and final dot.
func Admits(pattern, host string) bool {
	if suffix, ok := wildcard(pattern); ok {
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}
	return pattern == "" || pattern == host
}

// Intersect is the pattern that takes what both take, if there is a host that
// both take (gateway.md 5, effective hostnames).
func Intersect(a, b string) (string, bool) {
	switch {
	case a == b || b == "":
		return a, true
	case a == "":
		return b, true
	}
	suffixA, wildA := wildcard(a)
	suffixB, wildB := wildcard(b)
	switch {
	case wildA && wildB && strings.HasSuffix(suffixA, suffixB), !wildA && Admits(b, a):
		return a, true
	case wildA && wildB && strings.HasSuffix(suffixB, suffixA), !wildB && Admits(a, b):
		return b, true
	}
	return "", false
}

// effective is what the listener serves of the route: nil if nothing.
func effective(listener string, route []string) []string {
	if len(route) == 0 {
		return []string{listener}
	}
	if len(route) == 1 { // most have one, of which all is left
		if e, ok := Intersect(listener, route[0]); ok && e == route[0] {
			return route[:1:1]
		}
	}
	var out []string
	for _, h := range route {
		if e, ok := Intersect(listener, h); ok && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// wildcard is the suffix that a wildcard asks for, with its dot.
func wildcard(pattern string) (string, bool) {
	if strings.HasPrefix(pattern, "*.") {
		return pattern[1:], true
	}
	return "", false
}
