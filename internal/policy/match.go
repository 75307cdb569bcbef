package policy

import "strings"

// reading is how a list of values is taken where one request can be read in two ways
// (istio-semantics 7.6). Narrow is contained in Istio's own match, wide contains it.
type reading bool

const (
	narrow reading = false
	wide   reading = true
)

type kind uint8

const (
	exact        kind = iota
	prefix            // abc*
	suffix            // *abc
	present           // *: non-empty
	pathTemplate      // /v1/{*}/items
	never             // unreadable in the narrow reading
	always            // unreadable in the wide reading; holds for an absent attribute too
)

// pattern is one value of one list, compiled for the reading of that list.
type pattern struct {
	kind  kind
	text  string // what is compared: without its star; lower case for hosts
	tmpl  template
	value string // as it decides, for explanations
}

// parsePattern reads the string forms of istio-semantics 7.3. The first character decides
// before the last: *abc* is the suffix "abc*".
func parsePattern(v string) pattern {
	switch {
	case v == "*":
		return pattern{kind: present, value: v}
	case strings.HasPrefix(v, "*"):
		return pattern{kind: suffix, text: v[1:], value: v}
	case strings.HasSuffix(v, "*"):
		return pattern{kind: prefix, text: v[:len(v)-1], value: v}
	}
	return pattern{kind: exact, text: v, value: v}
}

// unreadable is the conservative form of a value (istio-semantics 1, rule I): it opens
// nothing and excludes everything.
func unreadable(v string, read reading) pattern {
	if read == wide {
		return pattern{kind: always, value: v}
	}
	return pattern{kind: never, value: v}
}

func (p *pattern) matches(s string) bool {
	switch p.kind {
	case exact:
		return s == p.text
	case prefix:
		return strings.HasPrefix(s, p.text)
	case suffix:
		return strings.HasSuffix(s, p.text)
	case present:
		return s != ""
	case always:
		return true
	}
	return false
}

// matchesText is matches for what a token says: narrow, the star stops at a line feed, since
// Istio's is .+ (istio-semantics 7.3, 7.6).
func (p *pattern) matchesText(s string, read reading) bool {
	return p.matches(s) && (p.kind != present || read == wide || strings.IndexByte(s, '\n') < 0)
}

// matchesFold is matches for hosts: p.text is lower case, and case is folded in ASCII only,
// as Envoy folds it (strings.EqualFold would take U+212A for a k).
func (p *pattern) matchesFold(s string) bool {
	switch n := len(p.text); p.kind {
	case exact:
		return len(s) == n && equalLower(s, p.text)
	case prefix:
		return len(s) >= n && equalLower(s[:n], p.text)
	case suffix:
		return len(s) >= n && equalLower(s[len(s)-n:], p.text)
	}
	return p.matches(s)
}

// equalLower compares s, lower-cased, to lower; both are of one length.
func equalLower(s, lower string) bool {
	for i := range len(s) {
		if lowerByte(s[i]) != lower[i] {
			return false
		}
	}
	return true
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func lowerASCII(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] = lowerByte(b[i])
	}
	return string(b)
}

// withoutPort is the second reading of a host: no port and not one trailing dot.
func withoutPort(host string) string {
	digits := len(host)
	for digits > 0 && '0' <= host[digits-1] && host[digits-1] <= '9' {
		digits--
	}
	if digits > 0 && host[digits-1] == ':' {
		host = host[:digits-1]
	}
	return strings.TrimSuffix(host, ".")
}

// values is one list of an operation. The zero value is a list that was not written.
type values struct {
	read reading
	any  []pattern
}

func (v *values) method(m string) bool {
	for i := range v.any {
		if v.any[i].matches(m) {
			return true
		}
	}
	return false
}

// host takes the host as sent and, in the wide reading, also without port and dot.
func (v *values) host(sent, bare string) bool {
	for i := range v.any {
		p := &v.any[i]
		if p.matchesFold(sent) || v.read == wide && p.matchesFold(bare) {
			return true
		}
	}
	return false
}

// path takes P and, in the wide reading, also W(P). An absent path matches nothing but a
// value that nobody could read.
func (v *values) path(sent, merged string) bool {
	for i := range v.any {
		p := &v.any[i]
		if p.kind == always {
			return true
		}
		if sent == "" {
			continue
		}
		if p.matchesPath(sent, v.read) || v.read == wide && p.matchesPath(merged, wide) {
			return true
		}
	}
	return false
}

func (p *pattern) matchesPath(s string, read reading) bool {
	if p.kind == pathTemplate {
		return p.tmpl.matches(s, read)
	}
	return p.matches(s)
}

// portValue is compared with the workload port; its decimal was parsed when compiled.
type portValue struct {
	pattern
	number uint16
}

type portValues []portValue

func (v portValues) match(port uint16) bool {
	for i := range v {
		if v[i].kind == always || v[i].kind == exact && v[i].number == port {
			return true
		}
	}
	return false
}
