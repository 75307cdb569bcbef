package policy

import (
	"errors"
	"strings"
)

const atCondition = "when[%d]"

var errEmptyValue = errors.New("an empty value")

// condition is one entry of when that looks at the request. Those on the peer and the port
// are a source and an operation with one field.
type condition struct {
	key
	header   string // canonical
	sep      string // between the lines of a header when they are one
	any, not values
	token    *pairLists // of request.auth.principal, in place of any and not
}

// condition puts one entry of when where it is decided. An entry that cannot be read closes
// an ALLOW rule; in a DENY rule it is true.
func (b *compiler) condition(r *rule, c *Condition) {
	pos := r.positive()
	neg := !pos
	if strings.HasPrefix(c.Key, "request.auth.") || strings.HasPrefix(c.Key, "request.txn[") {
		r.token = true
	}
	k, err := parseKey(c.Key)
	switch {
	case err != nil:
		b.fault(b.path(atCondition)+".key", "%q: %v", c.Key, err)
	case len(c.Values)+len(c.NotValues) == 0:
		b.fault(b.path(atCondition), "a condition without values")
		err = errEmptyValue
	}
	if err != nil {
		r.unread = c
		return
	}
	const values, notValues = atCondition + ".values", atCondition + ".notValues"
	switch k.of {
	case ofNamespace:
		r.peer = append(r.peer, source{namespaces: b.namespaces(values, pos, c.Values), notNamespaces: b.namespaces(notValues, neg, c.NotValues)})
	case ofAccount:
		r.peer = append(r.peer, source{accounts: b.accounts(values, pos, c.Values), notAccounts: b.accounts(notValues, neg, c.NotValues)})
	case ofPrincipal:
		r.peer = append(r.peer, source{principals: b.principals(c.Values), notPrincipals: b.principals(c.NotValues)})
	case ofPort:
		r.ports = append(r.ports, operation{ports: b.ports(values, pos, c.Values), notPorts: b.ports(notValues, neg, c.NotValues)})
	case ofRequestPrincipal:
		r.when = append(r.when, condition{key: k, token: b.requestPrincipals(values, notValues, pos, c.Values, c.NotValues)})
	default:
		out := condition{key: k, header: canonical(k.name), sep: ","}
		if k.name == "cookie" {
			out.sep = "; "
		}
		out.any = b.values(values, pos, c.Values, parseText)
		out.not = b.values(notValues, neg, c.NotValues, parseText)
		r.when = append(r.when, out)
	}
}

func parseText(v string, _ reading) (pattern, error) {
	if v == "" {
		return pattern{}, errEmptyValue
	}
	return parsePattern(v), nil
}

func (c *condition) matches(q *question) bool {
	if c.token != nil {
		return c.token.hold(q.token())
	}
	return (len(c.any.any) == 0 || c.finds(c.any.any, q, c.any.read)) && !c.finds(c.not.any, q, c.not.read)
}

// finds says whether a value meets what the request has. Nothing meets what is absent, but a
// value that nobody could read.
func (c *condition) finds(list []pattern, q *question, read reading) bool {
	if len(list) == 0 {
		return false
	}
	texts := c.texts(q)
	for i := range list {
		p := &list[i]
		if p.kind == always || len(texts) > 0 && p.kind != never && c.meets(p, texts, q, read) {
			return true
		}
	}
	return false
}

// texts is what the request has of the attribute; nil is absent.
func (c *condition) texts(q *question) []string {
	if q.r == nil {
		return nil
	}
	if c.of >= ofAudience && c.of <= ofClaim {
		return c.claims(q)
	}
	switch c.of {
	case ofMethod:
		return q.one(q.method)
	case ofAuthority:
		return q.one(q.host)
	case ofTarget:
		return q.one(q.path)
	case ofUpgrade:
		if q.r.WebSocket {
			return q.one("websocket")
		}
		return nil
	case ofScheme:
		return q.always(q.r.Scheme)
	}
	lines := q.r.Header[c.header]
	switch {
	case len(lines) > 0:
		return lines
	case c.of == ofForwardedProto: // there without being sent, as is the next (7.5.1)
		return q.always(q.r.Scheme)
	case c.of == ofRequestID:
		return q.always("")
	}
	return nil
}

func (c *condition) claims(q *question) []string {
	t := q.r.Token
	switch {
	case t == nil:
		return nil
	case c.of == ofAudience:
		return t.Audience()
	case c.of == ofActor:
		return t.Actors()
	case c.of == ofPresenter:
		return q.one(t.Presenter())
	}
	return t.Claim(c.path)
}

// meets is one value against what is there, in one of the readings of istio-semantics 7.6.
func (c *condition) meets(p *pattern, texts []string, q *question, read reading) bool {
	if c.of <= ofClaim {
		for _, s := range texts {
			if p.matchesText(s, read) {
				return true
			}
		}
		return false
	}
	if p.kind == present {
		return true // of headers the star is "there", and it may be empty (7.3)
	}
	switch c.of {
	case ofScheme:
		return meetsScheme(p, q.r, read)
	case ofTarget:
		return q.meetsTarget(p, read)
	case ofRequestID:
		if len(q.r.Header[c.header]) == 0 {
			return read == wide && (p.kind == prefix || p.kind == suffix)
		}
	case ofForwardedProto:
		if len(q.r.Header[c.header]) == 0 && q.r.Scheme == "" {
			return read == wide
		}
	}
	return meetsLines(p, texts, c.sep, read)
}

// meetsLines: narrow needs every line and the lines joined, wide is content with any of them.
func meetsLines(p *pattern, lines []string, sep string, read reading) bool {
	if len(lines) == 1 {
		return p.matches(lines[0])
	}
	settles := bool(read) // in the wide reading a match settles it, in the narrow one a failure
	j := joined{lines: lines, sep: sep}
	if j.matches(p) == settles {
		return settles
	}
	for _, s := range lines {
		if p.matches(s) == settles {
			return settles
		}
	}
	return !settles
}

// meetsScheme: HTTP/2 says its scheme. For HTTP/1, and for the CONNECT that has none, there are
// up to three sources.
func meetsScheme(p *pattern, r *Request, read reading) bool {
	if r.HTTP2 && r.ClaimedScheme != "" {
		return p.matches(r.ClaimedScheme)
	}
	settles := bool(read)
	switch {
	case r.Scheme == "": // whoever asks does not know it
		return settles
	case p.matches(r.Scheme) == settles, r.ClaimedScheme != "" && p.matches(r.ClaimedScheme) == settles:
		return settles
	}
	for _, s := range r.Header["X-Forwarded-Proto"] {
		if p.matches(s) == settles {
			return settles
		}
	}
	return !settles
}

// meetsTarget: the path and, behind a ?, the query. Out of which a token was taken, Istio
// writes anew.
func (q *question) meetsTarget(p *pattern, read reading) bool {
	switch {
	case q.r.QueryCut && read == wide:
		return true
	case q.r.QueryCut:
		return p.kind == prefix && strings.HasPrefix(q.path, p.text)
	case !q.r.HasQuery:
		return p.matches(q.path)
	}
	q.scratch = [2]string{q.path, q.r.Query}
	j := joined{lines: q.scratch[:], sep: "?", empty: true}
	return j.matches(p)
}

// joined is several lines read as one value, without making it.
type joined struct {
	lines []string
	sep   string
	empty bool // empty lines count
}

func (j *joined) matches(p *pattern) bool {
	switch p.kind {
	case exact:
		return j.length() == len(p.text) && j.hasPrefix(p.text)
	case prefix:
		return j.hasPrefix(p.text)
	case suffix:
		return j.hasSuffix(p.text)
	}
	return false
}

func (j *joined) length() int {
	n, count := 0, 0
	for _, line := range j.lines {
		if line != "" || j.empty {
			n, count = n+len(line), count+1
		}
	}
	return n + max(0, count-1)*len(j.sep)
}

func (j *joined) hasPrefix(text string) bool {
	sep := ""
	for _, line := range j.lines {
		if line == "" && !j.empty {
			continue
		}
		for _, piece := range [...]string{sep, line} {
			if len(text) <= len(piece) {
				return strings.HasPrefix(piece, text)
			}
			if !strings.HasPrefix(text, piece) {
				return false
			}
			text = text[len(piece):]
		}
		sep = j.sep
	}
	return text == ""
}

func (j *joined) hasSuffix(text string) bool {
	sep := ""
	for i := len(j.lines) - 1; i >= 0; i-- {
		line := j.lines[i]
		if line == "" && !j.empty {
			continue
		}
		for _, piece := range [...]string{sep, line} {
			if len(text) <= len(piece) {
				return strings.HasSuffix(piece, text)
			}
			if !strings.HasSuffix(text, piece) {
				return false
			}
			text = text[:len(text)-len(piece)]
		}
		sep = j.sep
	}
	return text == ""
}
