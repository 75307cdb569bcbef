package resource

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// This file judges single values of AuthorizationPolicy: errors of istio-semantics.md 11,
// lints of 14 that a value alone can show.

func checkPort(s string) *complaint {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return complain("E209", quote(s)+" is not a port", `a number from 0 to 65535, such as "8080"`)
	}
	return nil
}

func lintPort(s string) *complaint {
	if s == "0" {
		return complain("L38", "port 0 never matches", "")
	}
	return nil
}

// templateLiteral is the alphabet of a literal segment: istio-semantics.md 7.8.3.
var templateLiteral = regexp.MustCompile(`^[A-Za-z0-9\-._~%!$&'()+,;:@=]+$`)

// checkPath judges a value of paths: plain, or a template (E210).
func checkPath(s string) *complaint {
	if s == "" {
		return notEmpty(s)
	}
	if !strings.ContainsAny(s, "{}") {
		return nil
	}
	if !strings.Contains(s, "{*}") && !strings.Contains(s, "{**}") {
		return complain("E210", quote(s)+" has braces in it", "{*} stands for one segment, {**} for any number; a name in braces is not taken")
	}
	rest, ok := strings.CutPrefix(s, "/")
	if !ok {
		return complain("E210", quote(s)+" is not a path template", "it starts with /")
	}
	segments := strings.Split(rest, "/")
	open := false
	for i, seg := range segments {
		switch {
		case seg == "" && i == len(segments)-1:
		case open && (seg == "{*}" || seg == "{**}"):
			return complain("E210", quote(s)+" has "+seg+" behind {**}", "{**} is the last of its kind in a path")
		case seg == "{**}":
			open = true
		case seg == "{*}", templateLiteral.MatchString(seg):
		case seg == "":
			return complain("E210", quote(s)+" has an empty segment", "")
		default:
			return complain("E210", quote(s)+" is not a path template: "+quote(seg), "{*} and {**} fill a segment alone, and no other * stands beside them")
		}
	}
	return nil
}

func lintPath(s string) *complaint {
	switch {
	case !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "*"):
		return complain("L04", quote(s)+" never matches", "a path starts with /, a suffix with *")
	case strings.ContainsAny(s, "?#"):
		return complain("L35", quote(s)+" never matches", "query and fragment are no part of the path")
	case strings.HasSuffix(s, "/**"):
		return complain("L09", fmt.Sprintf("%s is the prefix %s with a literal star", quote(s), quote(strings.TrimSuffix(s, "*"))),
			"write "+strings.TrimSuffix(s, "*")+", or "+strings.TrimSuffix(s, "**")+"{**}")
	}
	return lintStar(s)
}

// lintStar finds stars that are taken literally: only one at either end is a wildcard.
func lintStar(s string) *complaint {
	if strings.Contains(s, "{*") {
		return nil
	}
	inner := s
	if strings.HasPrefix(s, "*") {
		inner = s[1:]
	} else {
		inner = strings.TrimSuffix(s, "*")
	}
	if strings.Contains(inner, "*") {
		return complain("L09", quote(s)+" has a star that is taken literally", "one star, at the beginning or the end, is a wildcard")
	}
	return nil
}

func lintPrincipal(s string) *complaint {
	if rest, ok := strings.CutPrefix(s, "spiffe://"); ok {
		return complain("L01", quote(s)+" never matches", "leave out spiffe://: "+clip(rest))
	}
	return lintStar(s)
}

func lintHost(s string) *complaint {
	if strings.Contains(s, "/") {
		return complain("L34", quote(s)+" never matches", "a host has no scheme and no path")
	}
	return lintStar(s)
}

func lintMethod(s string) *complaint {
	if s != strings.ToUpper(s) {
		return complain("L03", quote(s)+" does not match "+strings.ToUpper(clip(s)), "methods are compared with case: write "+strings.ToUpper(clip(s)))
	}
	return nil
}
