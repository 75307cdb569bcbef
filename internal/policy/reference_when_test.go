package policy

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"countersign.dev/internal/h1"
)

// The part of the reference evaluator that reads tokens and headers: istio-semantics 7.4.1,
// 7.5, 7.6. With istio set it is Envoy's reading under Istio's translation (7.5.1).

func usesToken(s Source) bool { return len(s.RequestPrincipals)+len(s.NotRequestPrincipals) > 0 }

func usesIdentity(r Rule) bool {
	return slices.ContainsFunc(r.From, usesToken) || slices.ContainsFunc(r.When, func(w Condition) bool {
		return strings.HasPrefix(w.Key, "request.auth.") || strings.HasPrefix(w.Key, "request.txn[")
	})
}

// plus is Istio's .+ for what a token says; wide is non-empty.
func (n naive) plus(s string, wide bool) bool {
	if wide && !n.istio {
		return s != ""
	}
	ok, _ := full(".+", s)
	return ok
}

func (n naive) requestPrincipal(v string, wide bool, q Request) bool {
	if v == "" {
		return wide
	}
	if q.Token == nil {
		return false
	}
	claims := q.Token.(*card).Claims
	pair := func(issuer, subject string) bool {
		iss, ok1 := claims[issuer].(string)
		sub, ok2 := claims[subject].(string)
		if !ok1 || !ok2 {
			return false
		}
		i, s := v, ""
		slash := strings.LastIndex(v, "/")
		if slash >= 0 {
			i, s = v[:slash], v[slash+1:]
		}
		switch {
		case v == "*":
			return n.plus(iss, wide) && n.plus(sub, wide)
		case v[0] == '*' && slash >= 0 && i == "*":
			return n.plus(iss, wide) && sub == s
		case v[0] == '*' && slash >= 0:
			return strings.HasSuffix(iss, i[1:]) && sub == s
		case v[0] == '*':
			return n.plus(iss, wide) && strings.HasSuffix(sub, v[1:])
		case v[len(v)-1] == '*' && slash >= 0 && s == "*":
			return iss == i && n.plus(sub, wide)
		case v[len(v)-1] == '*' && slash >= 0:
			return iss == i && strings.HasPrefix(sub, strings.TrimSuffix(s, "*"))
		case v[len(v)-1] == '*':
			return strings.HasPrefix(iss, strings.TrimSuffix(v, "*")) && n.plus(sub, wide)
		}
		return iss == i && sub == s
	}
	// The origin pair is ours, not Istio's: the literal reading takes it along, or it could
	// not be compared.
	exchanged := q.Token.(*card).Own && claims["oiss"] != "" && claims["osub"] != ""
	return pair("iss", "sub") || exchanged && pair("oiss", "osub")
}

var (
	claimKey   = regexp.MustCompile(`^request\.auth\.claims(\[[^\[\]]+\])+$`)
	headerKey1 = regexp.MustCompile(`^request\.headers\[(:method|:path|:authority|:scheme|[!#$%&'*+.^_|~0-9A-Za-z` + "`" + `-]+)\]$`)
	bracketed  = regexp.MustCompile(`\[([^\[\]]+)\]`)
)

func (n naive) condition(w Condition, ns string, deny bool, c Conn, q Request) bool {
	if len(w.Values)+len(w.NotValues) == 0 {
		return deny
	}
	var match func(v string, wide bool) bool
	switch {
	case w.Key == "source.namespace":
		match = func(v string, wide bool) bool { return n.namespace(v, wide, c.Peer) }
	case w.Key == "source.serviceAccount":
		match = func(v string, wide bool) bool { return n.account(v, ns, wide, c.Peer) }
	case w.Key == "source.principal":
		match = func(v string, wide bool) bool { return n.principal(v, wide, c.Peer) }
	case w.Key == "destination.port":
		match = func(v string, wide bool) bool { return port(v, wide, c) }
	case !strings.HasPrefix(w.Key, "request."):
		return deny
	case !c.HTTP:
		return true // in DENY; an ALLOW rule was dropped
	case w.Key == "request.auth.principal":
		match = func(v string, wide bool) bool { return n.requestPrincipal(v, wide, q) }
	case w.Key == "request.auth.audiences":
		match = n.claim(q, false, "aud")
	case w.Key == "request.auth.presenter" && q.Token != nil && q.Token.(*card).Own:
		match = n.claim(q, true, "client_id")
	case w.Key == "request.auth.presenter":
		match = n.claim(q, true, "azp")
	case w.Key == "request.auth.actors":
		match = n.actors(q)
	case claimKey.MatchString(w.Key):
		var path []string
		for _, b := range bracketed.FindAllStringSubmatch(w.Key, -1) {
			path = append(path, b[1])
		}
		match = n.claim(q, false, path...)
	case headerKey1.MatchString(w.Key):
		name := strings.ToLower(headerKey1.FindStringSubmatch(w.Key)[1])
		if gone(name) {
			return deny
		}
		match = func(v string, wide bool) bool { return n.header(name, v, wide, q) }
	default:
		return deny
	}
	return listed(w.Values, w.NotValues, deny, func(v string, wide bool) bool {
		if v == "" && strings.HasPrefix(w.Key, "request.") {
			return wide
		}
		return match(v, wide)
	})
}

// gone asks the hygiene itself.
func gone(name string) bool {
	switch name {
	case ":method", ":path", ":authority", ":scheme", "host", "upgrade":
		return false
	case "expect", "content-length": // the message layer keeps these to itself
		return true
	}
	key := strings.ToUpper(name[:1]) + name[1:]
	for i := 1; i < len(name); i++ {
		if name[i-1] == '-' {
			key = key[:i] + strings.ToUpper(key[i:i+1]) + key[i+1:]
		}
	}
	header := map[string][]string{key: {"x"}}
	_, _ = h1.Strip(header)
	return len(header) == 0
}

func (n naive) claim(q Request, textOnly bool, path ...string) func(string, bool) bool {
	return func(v string, wide bool) bool {
		if q.Token == nil {
			return false
		}
		var at any = q.Token.(*card).Claims
		for _, name := range path {
			m, ok := at.(map[string]any)
			if !ok {
				return false
			}
			at = m[name]
		}
		list, isList := at.([]any)
		if !isList {
			list = []any{at}
		} else if textOnly {
			return false
		}
		return slices.ContainsFunc(list, func(e any) bool {
			s, ok := e.(string)
			return ok && n.text(v, s, wide)
		})
	}
}

func (n naive) text(v, s string, wide bool) bool {
	if v == "*" {
		return n.plus(s, wide)
	}
	return star(v, s)
}

func (n naive) actors(q Request) func(string, bool) bool {
	return func(v string, wide bool) bool {
		if q.Token == nil || !q.Token.(*card).Own {
			return false
		}
		act := q.Token.(*card).Claims["act"]
		for {
			m, ok := act.(map[string]any)
			if !ok {
				return false
			}
			if s, ok := m["sub"].(string); ok && n.text(v, s, wide) {
				return true
			}
			act = m["act"]
		}
	}
}

// one is a pattern on a header that exists: the star is "there".
func one1(v, s string) bool { return v == "*" || star(v, s) }

func (n naive) header(name, v string, wide bool, q Request) bool {
	var lines []string
	for k, l := range q.Header {
		if strings.EqualFold(k, name) {
			lines = append(lines, l...)
		}
	}
	any := func(list []string) bool { return slices.ContainsFunc(list, func(s string) bool { return one1(v, s) }) }
	all := func(list []string) bool {
		return !slices.ContainsFunc(list, func(s string) bool { return !one1(v, s) })
	}
	either := func(list []string) bool {
		if wide {
			return any(list)
		}
		return all(list)
	}
	single := func(s string) bool { return s != "" && one1(v, s) }
	switch name {
	case ":method":
		return single(q.Method)
	case ":authority", "host":
		return single(q.Host)
	case ":path":
		return q.Path != "" && n.target(v, wide, q)
	case ":scheme":
		return n.scheme(v, wide, q, either)
	case "upgrade":
		return q.WebSocket && one1(v, "websocket")
	case "x-request-id":
		if len(lines) == 0 && n.istio {
			return one1(v, "5e1f0b7c-2222-4333-8444-555566667777")
		}
		if len(lines) == 0 && wide {
			return strings.HasPrefix(v, "*") || strings.HasSuffix(v, "*")
		}
		if len(lines) == 0 {
			return v == "*"
		}
	case "x-forwarded-proto":
		if len(lines) == 0 {
			lines = []string{q.Scheme}
		}
	}
	if len(lines) == 0 {
		return false
	}
	sep := ","
	if name == "cookie" {
		sep = "; "
	}
	whole := strings.Join(slices.DeleteFunc(slices.Clone(lines), func(s string) bool { return s == "" }), sep)
	if n.istio {
		kept := []string{"accept", "authorization", "content-type", "user-agent", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"}
		if slices.Contains(kept, name) || name == "cookie" && q.HTTP2 {
			return one1(v, whole)
		}
		return any(lines)
	}
	return either(append([]string{whole}, lines...))
}

func (n naive) target(v string, wide bool, q Request) bool {
	if !q.QueryCut {
		s := q.Path
		if q.HasQuery {
			s += "?" + q.Query
		}
		return one1(v, s)
	}
	if n.istio {
		// Envoy sorts and decodes what is left of a query.
		s := q.Path
		if q.HasQuery {
			params := strings.Split(q.Query, "&")
			slices.Sort(params)
			s += "?" + strings.Join(params, "&")
			if plain, err := url.PathUnescape(s); err == nil {
				s = plain
			}
		}
		return one1(v, s)
	}
	if wide {
		return true
	}
	return v == "*" || !strings.HasPrefix(v, "*") && strings.HasSuffix(v, "*") && strings.HasPrefix(q.Path, strings.TrimSuffix(v, "*"))
}

func (n naive) scheme(v string, wide bool, q Request, either func([]string) bool) bool {
	sent := q.Header["X-Forwarded-Proto"]
	if n.istio {
		s := q.ClaimedScheme
		if !q.HTTP2 && s == "" && len(sent) == 1 && (sent[0] == "http" || sent[0] == "https") {
			s = sent[0]
		}
		return one1(v, cmp.Or(s, q.Scheme))
	}
	if q.HTTP2 && q.ClaimedScheme != "" {
		return one1(v, q.ClaimedScheme)
	}
	candidates := append([]string{q.Scheme}, sent...)
	if q.ClaimedScheme != "" {
		candidates = append(candidates, q.ClaimedScheme)
	}
	return either(candidates)
}
