package resource

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// BadPattern says why a REQUEST cannot be taken (cli.md 2.5, 9.5 bad_pattern).
type BadPattern struct {
	Text    string
	Request string // what was meant, in a spelling that is taken; empty if nobody can know
	Hint    string // a sentence, where there is no Request
}

// Error is the text alone; the caller knows the command that Request belongs to.
func (b *BadPattern) Error() string { return b.Text }

// ianaMethods is the HTTP Method Registry of IANA, less the pseudo-methods PRI and *.
var ianaMethods = []string{
	"ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LABEL", "LINK",
	"LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "OPTIONS", "ORDERPATCH",
	"PATCH", "POST", "PROPFIND", "PROPPATCH", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "TRACE", "UNBIND", "UNCHECKOUT",
	"UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
}

// ParseRequest reads one REQUEST, 'GET,HEAD /orders/{*}', into the methods and paths of an
// operation; empty lists are all of them. Errors are *BadPattern.
func ParseRequest(s string) (methods, paths []string, err error) {
	words := strings.Fields(s)
	var method, path string
	switch {
	case len(words) == 0:
	case len(words) == 1 && isPath(words[0]):
		path = words[0]
	case len(words) == 1:
		method = words[0]
	case len(words) == 2:
		method, path = words[0], words[1]
	default:
		return nil, nil, &BadPattern{
			Text: fmt.Sprintf("request %s has more than a method and a path", quote(s)),
			Hint: "quote each request by itself: 'GET /a' 'POST /b'",
		}
	}
	if methods, err = parseMethods(method); err != nil {
		return nil, nil, err
	}
	if path == "" {
		return methods, nil, nil
	}
	path, bad := parsePath(path)
	if bad != nil {
		if bad.Request != "" && method != "" {
			bad.Request = method + " " + bad.Request
		}
		return nil, nil, bad
	}
	return methods, []string{path}, nil
}

// isPath tells a path from methods in a REQUEST of one word; * alone is every method.
func isPath(s string) bool {
	return strings.HasPrefix(s, "/") || strings.HasPrefix(s, "*") && len(s) > 1
}

func parseMethods(s string) ([]string, error) {
	if s == "" || s == "*" {
		return nil, nil
	}
	var out []string
	for m := range strings.SplitSeq(s, ",") {
		if !isToken(m) {
			return nil, &BadPattern{Text: fmt.Sprintf("%s is not a method", quote(m)), Hint: "GET, or GET,HEAD without a blank; a path starts with /"}
		}
		if upper := strings.ToUpper(m); slices.Contains(ianaMethods, upper) {
			m = upper
		}
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out, nil
}

// isToken is a token of RFC 9110, section 5.6.2, without the star that would be a pattern.
func isToken(s string) bool {
	return s != "" && len(s) <= maxValue && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("!#$%&'+-.^_`|~", r))
	})
}

// parsePath takes Istio's forms as they are, and ** at the end for Istio's prefix.
func parsePath(s string) (string, *BadPattern) {
	bad := func(text, instead string) (string, *BadPattern) {
		if instead == s || instead != "" && !accepted(instead) {
			instead = ""
		}
		return "", &BadPattern{Text: fmt.Sprintf("path %s: %s", quote(s), text), Request: instead}
	}
	switch {
	case strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }):
		return bad("characters that cannot be printed", "")
	case !isPath(s) && s != "*":
		return bad("it does not start with /", "/"+s)
	case len(s) > maxValue:
		return bad(fmt.Sprintf("%d bytes, at most %d are taken", len(s), maxValue), "")
	case strings.ContainsAny(s, "?#"):
		return bad("query and fragment are no part of a path", s[:strings.IndexAny(s, "?#")])
	case strings.ContainsAny(s, "{}"):
		if c := checkPath(s); c != nil {
			return bad(strings.TrimPrefix(c.text, quote(s)+" "), template(s))
		}
		return s, nil
	case s == "**" || s == "*" || s == "/**":
		return map[string]string{"**": "/*", "*": "*", "/**": "/*"}[s], nil
	}
	path := s
	if prefix, ok := strings.CutSuffix(s, "/**"); ok {
		path = prefix + "/*"
	}
	if c := lintStar(path); c == nil {
		return path, nil
	}
	if strings.Contains(strings.TrimSuffix(s, "/**"), "**") {
		return bad("** stands only at the end", template(s))
	}
	return bad("* stands only at the beginning or the end", template(s))
}

// accepted reports whether a suggestion would be taken.
func accepted(s string) bool {
	if strings.ContainsAny(s, "?#") || !isPath(s) || len(s) > maxValue {
		return false
	}
	if strings.ContainsAny(s, "{}") {
		return checkPath(s) == nil
	}
	return lintStar(s) == nil
}

// template writes stars that fill a segment, and {name} or :name, as {*} and {**}.
func template(s string) string {
	segments := strings.Split(s, "/")
	for i, seg := range segments {
		last := i == len(segments)-1
		switch {
		case seg == "**", seg == "*" && last:
			segments[i] = "{**}"
		case seg == "*", seg != "{**}" && strings.HasPrefix(seg, "{") && strings.HasSuffix(seg, "}"), len(seg) > 1 && seg[0] == ':':
			segments[i] = "{*}"
		}
	}
	return strings.Join(segments, "/")
}
