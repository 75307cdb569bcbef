package route

import (
	"cmp"
	"errors"
	"strings"

	"countersign.dev/internal/h1"
)

// ErrPath refuses a request whose path a replacement would make one that no listener accepts: 400.
var ErrPath = errors.New("the replaced path has no normal form")

// Path is the path that the backend sees, of a request in normal form whose first prefix bytes a match took.
func (e *Effects) Path(path string, prefix int) (string, error) {
	return replacePath(e.path, path, prefix)
}

// replacePath is gateway.md 7.3. Slashes where value and rest meet are one: the result never starts with two, which
// would be read as an authority.
func replacePath(p *PathReplace, path string, prefix int) (string, error) {
	if p == nil {
		return path, nil
	}
	result := p.Value
	if !p.Full {
		result = strings.TrimSuffix(p.Value, "/")
		if rest := path[min(prefix, len(path)):]; rest != "" {
			result += "/" + strings.TrimLeft(rest, "/")
		}
		if result == "" {
			result = "/"
		}
	}
	if h1.IsNormal(result) {
		return result, nil
	}
	result, _, hasQuery, fault := h1.Normalize(result)
	if fault != nil || hasQuery || !h1.IsNormal(result) {
		return "", ErrPath
	}
	return result, nil
}

// checkReplace refuses a value that no path can come of (F5).
func (a *Action) checkReplace(p *PathReplace) {
	if p == nil {
		return
	}
	if (p.Full || p.Value != "") && !possible(p.Value) {
		a.fault("path replacement %q is not a path: it starts with /, without //, dot segments, ? and #", p.Value)
	}
	for _, m := range a.Rule.Matches {
		if !p.Full && cmp.Or(m.PathType, Prefix) != Prefix {
			a.fault("replacing a prefix needs PathPrefix matches")
		}
	}
}

func possible(value string) bool {
	if !strings.HasPrefix(value, "/") || strings.ContainsAny(value, `?#\`) || strings.Contains(value, "//") {
		return false
	}
	if _, _, _, fault := h1.Normalize(value); fault != nil {
		return false
	}
	for element := range strings.SplitSeq(strings.NewReplacer("%2e", ".", "%2E", ".").Replace(value), "/") {
		if element == "." || element == ".." {
			return false
		}
	}
	return true
}
