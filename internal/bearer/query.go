package bearer

import "strings"

// isParam reports whether a name as sent is the name sought.
func isParam(sent, name string) bool {
	return sent == name || strings.IndexByte(sent, '%') >= 0 && unescape(sent) == name
}

// cutParams takes every occurrence of the parameters out and leaves the other bytes alone
// (istio-semantics.md 6.4). If nothing is left the question mark goes too.
func cutParams(query string, names []string) (rest string, left bool) {
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if !anyParam(name, names) {
			kept = append(kept, pair)
		}
	}
	rest = strings.Join(kept, "&")
	return rest, rest != ""
}

func anyParam(sent string, names []string) bool {
	for _, name := range names {
		if isParam(sent, name) {
			return true
		}
	}
	return false
}

// unescape decodes percent escapes. What is no escape stays as it is: no token holds a percent
// sign, so it is refused as one.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if hi, lo := unhex(s[i+1]), unhex(s[i+2]); hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
