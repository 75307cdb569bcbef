package policy

import (
	"errors"
	"strings"
)

// template is a path with operators (istio-semantics 7.8.3): {*} is one non-empty segment,
// {**} is zero or more bytes with slashes; each fills its segment alone.
type template struct {
	heads []string // literals in front of each {*}, then the last literal before the end or {**}
	open  bool     // a {**} follows the heads
	tail  string   // the literal behind {**}
}

var (
	errTemplateStart    = errors.New("a path template starts with /")
	errTemplateEmpty    = errors.New("a path template has no empty segment")
	errTemplateOperator = errors.New("{*} and {**} fill a segment alone, and nothing but literals may follow {**}")
	errTemplateLiteral  = errors.New("a character that a path template cannot hold")
)

// isTemplate tells a template from a plain path, as Istio does: by its operators.
func isTemplate(v string) bool {
	return strings.Contains(v, "{*}") || strings.Contains(v, "{**}")
}

func parseTemplate(v string) (template, error) {
	if !strings.HasPrefix(v, "/") {
		return template{}, errTemplateStart
	}
	var t template
	var literal strings.Builder
	segments := strings.Split(v[1:], "/")
	for i, seg := range segments {
		literal.WriteByte('/')
		switch {
		case seg == "{*}" && !t.open:
			t.heads = append(t.heads, literal.String())
			literal.Reset()
		case seg == "{**}" && !t.open:
			t.heads = append(t.heads, literal.String())
			literal.Reset()
			t.open = true
		case strings.ContainsAny(seg, "{}*"):
			return template{}, errTemplateOperator
		case seg == "" && i < len(segments)-1:
			return template{}, errTemplateEmpty
		case !inAlphabet(seg):
			return template{}, errTemplateLiteral
		default:
			literal.WriteString(seg)
		}
	}
	if t.open {
		t.tail = literal.String()
	} else {
		t.heads = append(t.heads, literal.String())
	}
	return t, nil
}

func (t *template) matches(s string, read reading) bool {
	last := len(t.heads) - 1
	for i, head := range t.heads {
		rest, ok := strings.CutPrefix(s, head)
		if !ok {
			return false
		}
		s = rest
		if i == last {
			break
		}
		end := strings.IndexByte(s, '/')
		if end < 0 {
			end = len(s)
		}
		if end == 0 || read == narrow && !inOperator(s[:end], false) {
			return false
		}
		s = s[end:]
	}
	if !t.open {
		return s == ""
	}
	middle, ok := strings.CutSuffix(s, t.tail)
	return ok && (read == wide || inOperator(middle, true))
}

// inOperator says whether an operator may stand for s in the narrow reading: the literal
// class and *, and slashes for {**}. Of a normalized path that leaves out [ and ].
func inOperator(s string, slashes bool) bool {
	for i := range len(s) {
		if c := s[i]; !literalByte(c) && c != '*' && (c != '/' || !slashes) {
			return false
		}
	}
	return true
}

func inAlphabet(s string) bool {
	for i := range len(s) {
		if !literalByte(s[i]) {
			return false
		}
	}
	return true
}

func literalByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("-._~%!$&'()+,;:@=", c) >= 0
}
