package audit

import "strings"

// Route is the path with {*} where a segment is a number, a UUID or 16 hex digits or more
// (cli.md 10.9): the template of a call for which no route is written.
func Route(path string) string {
	if !strings.HasPrefix(path, "/") {
		return path
	}
	var out []byte // nil while nothing was replaced
	done := 0
	for start := 1; start <= len(path); {
		end := start + strings.IndexByte(path[start:], '/')
		if end < start {
			end = len(path)
		}
		if variable(path[start:end]) {
			out = append(append(out, path[done:start]...), "{*}"...)
			done = end
		}
		start = end + 1
	}
	if out == nil {
		return path
	}
	return string(append(out, path[done:]...))
}

// variable says whether a segment looks like a value and not like a name.
func variable(s string) bool {
	digits, hex := 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
			hex++
		case c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
			hex++
		case c != '-':
			return false
		}
	}
	switch {
	case len(s) == 0:
		return false
	case digits == len(s):
		return true
	case hex == len(s):
		return len(s) >= 16
	}
	return len(s) == 36 && hex == 32 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-'
}
