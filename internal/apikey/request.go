package apikey

import (
	"errors"
	"strings"
)

// DefaultHeader is where a key stands if not in Authorization; a Gateway may name another.
const DefaultHeader = "X-Api-Key"

// What a request is answered 400 for.
var (
	ErrCredentials = errors.New("malformed or more than one credential")
	ErrInURL       = errors.New("api key in url")
)

// Find is the first half of step 1 of tokens.md 14.3: the key that a request shows, "" for none.
// authorization and header are the lines of those two fields; it is asked only where keys are
// taken. What begins like a key is one, and Check judges it. Beside a key its field has no other
// value, and there is no bearer or DPoP token; what nobody here takes (Basic, an X-API-Key of
// the application's) is left alone. The error is ErrCredentials.
func Find(authorization, header []string) (string, error) {
	bearer, tokens, err := find(authorization, func(v string) (string, bool, bool) {
		name, gap, rest := scheme(v)
		is := strings.EqualFold(name, "bearer")
		if !is || !strings.HasPrefix(rest, Prefix) {
			return "", is || strings.EqualFold(name, "dpop"), false
		}
		return rest, false, strings.Contains(gap, "\t") // RFC 9110, section 11.4: blanks alone
	})
	if err != nil {
		return "", err
	}
	own, _, err := find(header, func(v string) (string, bool, bool) {
		if !strings.HasPrefix(v, Prefix) {
			return "", false, false
		}
		return v, false, false
	})
	switch {
	case err != nil:
		return "", err
	case own == "":
		return bearer, nil
	case bearer != "" || tokens:
		return "", ErrCredentials
	}
	return own, nil
}

// find reads the lines of one field. A field that an intermediary joined with commas reads as
// its lines would.
func find(lines []string, read func(value string) (key string, token, bad bool)) (key string, tokens bool, err error) {
	values := 0
	for _, line := range lines {
		for v := range strings.SplitSeq(line, ",") {
			values++
			k, token, bad := read(strings.Trim(v, " \t"))
			if bad {
				return "", false, ErrCredentials
			}
			key, tokens = key+k, tokens || token
		}
	}
	if key != "" && values > 1 {
		return "", false, ErrCredentials
	}
	return key, tokens, nil
}

// scheme cuts a value of Authorization.
func scheme(v string) (name, gap, rest string) {
	i := strings.IndexAny(v, " \t")
	if i < 0 {
		return v, "", ""
	}
	rest = strings.TrimLeft(v[i:], " \t")
	return v[:i], v[i : len(v)-len(rest)], rest
}

// InURL lists what has the shape of a key in a request target, be it percent-encoded, once or
// several times: each is a reason to refuse the request with ErrInURL, whether Proves knows it
// or not. It does not allocate where there is none.
func InURL(target string) []string {
	var found []string
	for i := range len(target) {
		if text, ok := keyAt(target[i:]); ok {
			found = append(found, string(text[:]))
		}
	}
	return found
}

// keyAt reads a key that s begins with, as far as it is one.
func keyAt(s string) (text [Len]byte, ok bool) {
	for i := range text {
		if s == "" {
			return text, false
		}
		c, size := unescape(s)
		if !fits(i, c) {
			return text, false
		}
		text[i], s = c, s[size:]
	}
	return text, shaped(text[:])
}

// unescape reads one character, and how long it is. A percent sign that is encoded itself
// (%2563) is taken as often as it stands there; one that escapes nothing is itself.
func unescape(s string) (c byte, size int) {
	if s[0] != '%' {
		return s[0], 1
	}
	n := 1
	for strings.HasPrefix(s[n:], "25") {
		n += 2
	}
	if len(s) < n+2 {
		return '%', 1
	}
	hi, lo := unhex(s[n]), unhex(s[n+1])
	if hi < 0 || lo < 0 {
		return '%', 1
	}
	return byte(hi<<4 | lo), n + 2
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
