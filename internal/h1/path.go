package h1

import "strings"

// Normalize cuts an origin-form target at its query and brings the path into normal form (istio-semantics 7.8.1,
// mode BASE, at the edge MERGE_SLASHES). The result is what policy, log and application see. A fragment is dropped, but
// at the edge refused; * stays.
func (p Profile) Normalize(target string) (path, query string, hasQuery bool, f *Fault) {
	if p == Edge {
		if f := edgeTarget(target); f != nil {
			return "", "", false, f
		}
	}
	path = target
	if i := strings.IndexAny(target, "?#"); i >= 0 {
		path = target[:i]
		if target[i] == '?' {
			query, _, _ = strings.Cut(target[i+1:], "#")
			hasQuery = true
		}
	}
	if !isEmptyOr(query, classTarget) {
		return "", "", false, faultTarget
	}
	if target == "*" || isNormal(path) && (p != Edge || !unmerged(path)) {
		return path, query, hasQuery, nil
	}
	path, f = normalPath(p, path)
	if f != nil {
		return "", "", false, f
	}
	return path, query, hasQuery, nil
}

// Normalize is that of the base profile.
func Normalize(target string) (path, query string, hasQuery bool, f *Fault) {
	return Base.Normalize(target)
}

func isEmptyOr(s string, class uint8) bool { return len(s) == 0 || is(s, class) }

// IsNormal reports in one pass, without allocation, whether a path is its own normal form.
func IsNormal(path string) bool { return isNormal(path) }

// isNormal follows the pieces that rule 7 of 7.8.1 looks at: they end at /, %2F, %5C and, but for what comes after
// it, at the first ; of each. No piece may be . or .. ; that covers plain dot segments too.
func isNormal[T string | []byte](p T) bool {
	if len(p) == 0 || p[0] != '/' {
		return false
	}
	dots := 0 // bytes of the piece as long as it is dots alone, else -1
	for i := 1; i < len(p); i++ {
		switch c := p[i]; {
		case c == '/':
			if dots == 1 || dots == 2 {
				return false
			}
			dots = 0
		case c == '.':
			if dots >= 0 {
				dots++
			}
		case c == ';':
			if dots == 1 || dots == 2 {
				return false
			}
			dots = -1
		case c == '%':
			escaped, ok := unescape(p, i)
			if !ok || classes[escaped]&classUnreserved != 0 {
				return false
			}
			i += 2
			if escaped != '/' && escaped != '\\' {
				dots = -1
				continue
			}
			if dots == 1 || dots == 2 {
				return false
			}
			dots = 0
		case classes[c]&classPath != 0:
			dots = -1
		default:
			return false
		}
	}
	return dots != 1 && dots != 2
}

// unescape reads the escape at i; NUL is none.
func unescape[T string | []byte](p T, i int) (c byte, ok bool) {
	if i+2 >= len(p) {
		return 0, false
	}
	hi, lo := unhex(p[i+1]), unhex(p[i+2])
	if hi < 0 || lo < 0 || hi|lo == 0 {
		return 0, false
	}
	return byte(hi<<4 | lo), true
}

// normalPath is steps 1 to 7 of 7.8.1 for a path that has something to do.
func normalPath(profile Profile, p string) (string, *Fault) {
	if p == "" || p[0] != '/' {
		return "", faultTarget
	}
	b, ok := recode(p)
	if !ok {
		return "", faultPath
	}
	p = removeDots(string(b))
	if profile == Edge {
		p = mergeSlashes(p)
	}
	if hidesDots(p) {
		return "", faultPath
	}
	return p, nil
}

// recode is steps 2 and 4: one pass, so that %252e stays an escaped percent.
func recode(p string) ([]byte, bool) {
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, len(p)+16)
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case c <= 0x20 || c == 0x7F:
			return nil, false
		case c == '\\':
			b = append(b, '/')
		case c == '%':
			escaped, ok := unescape(p, i)
			if !ok {
				return nil, false
			}
			if classes[escaped]&classUnreserved != 0 {
				b = append(b, escaped)
			} else {
				b = append(b, p[i:i+3]...)
			}
			i += 2
		case classes[c]&classEncode != 0:
			b = append(b, '%', digits[c>>4], digits[c&15])
		default:
			b = append(b, c)
		}
	}
	return b, true
}

// removeDots is step 5, RFC 3986 section 5.2.4: an empty segment counts as one, and a final dot segment leaves a
// slash behind.
func removeDots(p string) string {
	var out []string
	segments := strings.Split(p[1:], "/")
	for i, s := range segments {
		last := i == len(segments)-1
		switch s {
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		case ".":
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}

// hidesDots is step 7: parsers disagree on ..%2f, ..%5c and ..;x, so none of them goes on.
func hidesDots(p string) bool {
	for piece := range strings.SplitSeq(foldSlashes(p), "/") {
		piece, _, _ = strings.Cut(piece, ";")
		if piece == "." || piece == ".." {
			return true
		}
	}
	return false
}

// foldSlashes turns %2F and %5C into slashes.
func foldSlashes(p string) string {
	if !strings.Contains(p, "%") {
		return p
	}
	b := make([]byte, 0, len(p))
	for i := 0; i < len(p); i++ {
		if c, ok := byte(0), false; p[i] == '%' {
			if c, ok = unescape(p, i); ok && (c == '/' || c == '\\') {
				b = append(b, '/')
				i += 2
				continue
			}
		}
		b = append(b, p[i])
	}
	return string(b)
}

// Wide is W(P) of 7.8.2, the widest reading an application could give a normal path: escaped slashes are slashes,
// parameters are cut, slashes merged. It is "" where that is the path itself, as it nearly always is.
func Wide(path string) string {
	if !strings.Contains(path, "//") && !strings.Contains(path, ";") && !strings.Contains(path, "%2") && !strings.Contains(path, "%5") {
		return ""
	}
	folded := foldSlashes(path)
	b := make([]byte, 0, len(folded))
	cut := false
	for i := range len(folded) {
		switch c := folded[i]; {
		case c == '/':
			cut = false
			if n := len(b); n == 0 || b[n-1] != '/' {
				b = append(b, c)
			}
		case c == ';':
			cut = true
		case !cut:
			b = append(b, c)
		}
	}
	if string(b) == path {
		return ""
	}
	return string(b)
}
