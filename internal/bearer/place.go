package bearer

import (
	"net/http"
	"strings"
)

// Kinds of places.
type kind uint8

const (
	inHeader  kind = iota // behind a prefix, which may be empty
	inBearer              // Authorization, prefix "Bearer "
	inBuiltIn             // Authorization where no attached rule reads it: tokens.md 15.2
	inParam
	inCookie
)

const (
	authorization = "Authorization"
	bearerPrefix  = "Bearer "
	defaultParam  = "access_token"
)

// place is where tokens may stand, and the rules that name it, in the order of 6.1.
type place struct {
	kind   kind
	name   string // header names in canonical form
	prefix string
	rules  []int
}

// found is a token at a place. bad is one in a spelling that parsers disagree on: it is refused
// unread.
type found struct {
	place *place
	raw   string
	bad   bool
}

// find lists the tokens at all places, as istio-semantics.md 6.2 reads them.
func (r *Rules) find(q *Request, list []found) []found {
	for i := range r.places {
		switch p := &r.places[i]; p.kind {
		case inParam:
			list = p.findParam(q, list)
		case inCookie:
			list = p.findCookie(q.Header["Cookie"], list)
		default:
			for _, line := range q.Header[p.name] {
				if raw, there, bad := p.read(line); there {
					list = append(list, found{p, raw, bad})
				}
			}
		}
	}
	return list
}

// read looks at one header line.
func (p *place) read(line string) (raw string, there, bad bool) {
	switch p.kind {
	case inBearer:
		return readBearer(line)
	case inBuiltIn:
		name, rest := scheme(line)
		gap := line[len(name) : len(line)-len(rest)]
		return rest, strings.EqualFold(name, "bearer") && rest != "" && !strings.Contains(rest, ","), strings.Contains(gap, "\t")
	}
	raw, is := strings.CutPrefix(line, p.prefix)
	switch {
	case is:
		return raw, true, raw == ""
	case strings.Contains(line, p.prefix): // Envoy takes the prefix anywhere
		return "", true, true
	}
	return "", false, false
}

// readBearer is the scheme as Istio spells it. Where Envoy and RFC 9110 disagree on what a
// value is, it is bad.
func readBearer(line string) (raw string, there, bad bool) {
	if rest, is := strings.CutPrefix(line, bearerPrefix); is {
		raw = strings.TrimLeft(rest, " ")
		return raw, true, raw == ""
	}
	name, _ := scheme(line)
	if strings.EqualFold(name, "bearer") || strings.Contains(line, bearerPrefix) {
		return "", true, true
	}
	return "", false, false
}

// scheme cuts the value of Authorization behind its scheme, RFC 9110 section 11.4.
func scheme(line string) (name, rest string) {
	i := 0
	for i < len(line) && (line[i]|0x20 >= 'a' && line[i]|0x20 <= 'z' || line[i] >= '0' && line[i] <= '9' || line[i] == '-') {
		i++
	}
	return line[:i], strings.TrimLeft(line[i:], " \t")
}

func (p *place) findParam(q *Request, list []found) []found {
	if !q.HasQuery {
		return list
	}
	for pair := range strings.SplitSeq(q.Query, "&") {
		name, value, valued := strings.Cut(pair, "=")
		if isParam(name, p.name) {
			raw := unescape(value)
			list = append(list, found{p, raw, !valued || raw == ""})
		}
	}
	return list
}

func (p *place) findCookie(lines []string, list []found) []found {
	for _, line := range lines {
		for piece := range strings.SplitSeq(line, ";") {
			if name, value, exact := cookie(piece); name == p.name {
				list = append(list, found{p, value, !exact || value == ""})
			}
		}
	}
	return list
}

// isPreflight is a CORS preflight as Envoy knows one (6.3). It carries no credentials.
func isPreflight(q *Request) bool {
	return q.Method == http.MethodOptions &&
		anyLine(q.Header["Origin"]) && anyLine(q.Header["Access-Control-Request-Method"])
}

func anyLine(lines []string) bool {
	for _, line := range lines {
		if line != "" {
			return true
		}
	}
	return false
}
