package bearer

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"countersign.dev/internal/jose"
)

// noRule accepted the tokens of a preflight.
const noRule = -1

// strip takes the tokens of a preflight out: nobody verified them (6.3).
func (r *Rules) strip(q *Request, out *Outcome) {
	var buf [4]found
	takeOut(q, out, r.find(q, buf[:0]), noRule)
}

// ClearOutputs removes what only rules may say, in every spelling that a program could take for
// it (http-strictness.md 7.2): from header and trailer alike, for some programs join them.
func (r *Rules) ClearOutputs(h http.Header) {
	if len(r.outputs) == 0 {
		return
	}
	for name := range h {
		for _, output := range r.outputs {
			if sameField(name, output) {
				delete(h, name)
			}
		}
	}
}

// sameField compares field names without case, and with - _ and . alike.
func sameField(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if folded(a[i]) != folded(b[i]) {
			return false
		}
	}
	return true
}

func folded(c byte) byte {
	switch {
	case c == '_' || c == '.':
		return '-'
	case c >= 'A' && c <= 'Z':
		return c | 0x20
	}
	return c
}

// effects is 6.4 for a request whose token a rule accepted.
func (r *Rules) effects(q *Request, out *Outcome, rule int, list []found) {
	n := &r.rules[rule]
	if !n.forward {
		takeOut(q, out, list, rule)
	}
	if n.payload != "" {
		q.Header[n.payload] = []string{out.Token.Payload()}
	}
	for _, c := range n.claims {
		if text, ok := claimText(out.Token, c.path); ok {
			q.Header[c.header] = []string{text}
		}
	}
}

// takeOut removes what the list found: at once where the rule that accepted the token found it,
// for so Istio's policies see the request; elsewhere behind policy.
func takeOut(q *Request, out *Outcome, list []found, rule int) {
	var now, later, drop, cookies []string
	for _, f := range list {
		p, mine := f.place, slices.Contains(f.place.rules, rule)
		switch p.kind {
		case inBuiltIn:
			if mine { // of others it may be the application's own
				delete(q.Header, p.name)
			}
		case inHeader, inBearer:
			if mine {
				delete(q.Header, p.name)
			} else if !slices.Contains(drop, p.name) {
				drop = append(drop, p.name)
			}
		case inParam:
			if mine {
				now = append(now, p.name)
			} else {
				later = append(later, p.name)
			}
		case inCookie:
			cookies = append(cookies, p.name)
		}
	}
	if len(now) > 0 {
		out.Query, out.HasQuery = cutParams(out.Query, now)
		out.QueryCut = true
	}
	drop = slices.DeleteFunc(drop, func(name string) bool { return len(q.Header[name]) == 0 })
	if len(later)+len(drop)+len(cookies) == 0 {
		return
	}
	rest := &Rest{Query: out.Query, HasQuery: out.HasQuery, Drop: drop}
	if len(later) > 0 {
		rest.Query, rest.HasQuery = cutParams(out.Query, later)
	}
	if len(cookies) > 0 {
		rest.Cookies, rest.Cookie = cutCookies(q.Header["Cookie"], cookies), true
	}
	out.Rest = rest
}

// claimText is a claim as the value of a header. Only strings, whole numbers and booleans are
// one, and nothing that would end the line or that HTTP forbids in it.
func claimText(t *jose.Token, path []string) (string, bool) {
	v, ok := t.Value(path[0])
	for _, name := range path[1:] {
		members, is := v.(map[string]any)
		if !is {
			return "", false
		}
		v, ok = members[name]
	}
	if !ok {
		return "", false
	}
	switch v := v.(type) {
	case string:
		return v, strings.IndexFunc(v, func(c rune) bool { return c < 0x20 && c != '\t' || c == 0x7F }) < 0
	case bool:
		return strconv.FormatBool(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<63 {
			return strconv.FormatInt(int64(v), 10), true
		}
	}
	return "", false
}
