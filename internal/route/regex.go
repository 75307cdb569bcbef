package route

import (
	"fmt"
	"regexp"
	"regexp/syntax"
)

// Bounds of regular expressions (gateway.md 6.1).
const (
	maxRegex       = 1024 // bytes of one
	maxHostRegexes = 64   // of paths, for one effective hostname
)

// pattern is an RE2 expression that must take the whole value. The zero pattern could not be read: it fits every
// value, so that its rule, which answers 500, does not make room for a wider one.
type pattern struct{ re *regexp.Regexp }

func compilePattern(expr string) (pattern, error) {
	if len(expr) > maxRegex {
		return pattern{}, fmt.Errorf("a regular expression is over %d bytes", maxRegex)
	}
	if _, err := syntax.Parse(expr, syntax.Perl); err != nil { // by itself: "a)|(b" must not reach out of the group
		return pattern{}, fmt.Errorf("reading a regular expression: %w", err)
	}
	re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err != nil {
		return pattern{}, fmt.Errorf("reading a regular expression: %w", err)
	}
	return pattern{re}, nil
}

func (p pattern) fits(value string) bool { return p.re == nil || p.re.MatchString(value) }
