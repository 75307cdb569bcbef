package audit

import "strings"

// masked stands where a path held a credential.
const masked = "{credential}"

// Mask takes out of a path what looks like a credential of ours: a JWT, a client secret, an API
// key (audit.md 3.4). It says whether there was one.
func Mask(path string) (string, bool) {
	if !strings.Contains(path, "eyJ") && !strings.Contains(path, "css_") && !strings.Contains(path, "csk_") {
		return path, false
	}
	var out []byte // nil while nothing was replaced
	done := 0
	for at := 0; at < len(path); {
		n := credential(path[at:])
		if n == 0 {
			at++
			continue
		}
		out = append(append(out, path[done:at]...), masked...)
		at += n
		done = at
	}
	if out == nil {
		return path, false
	}
	return string(append(out, path[done:]...)), true
}

// credential is the length of the one that s begins with, or 0.
func credential(s string) int {
	switch {
	case strings.HasPrefix(s, "eyJ"): // {" in base64url
		n := run(s, true)
		if n >= 16 && strings.Contains(s[:n], ".") {
			return n
		}
	case strings.HasPrefix(s, "css_"), strings.HasPrefix(s, "csk_"):
		if n := run(s, false); n >= 24 {
			return n
		}
	}
	return 0
}

// run is how far s goes on with the characters of a credential.
func run(s string, dots bool) int {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c == '-', dots && c == '.':
		default:
			return i
		}
	}
	return len(s)
}
