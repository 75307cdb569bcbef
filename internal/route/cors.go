package route

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Sharing is a CORS filter, its origins read (GEP-1767, Fetch standard; gateway.md 7.6).
type Sharing struct {
	filter  *CORS
	origins []origin
	any     bool // a lone *
}

// Field is one field of an answer.
type Field struct{ Name, Value string }

// origin is an origin, or a pattern of the filter's.
type origin struct {
	scheme, host string // in lower case
	port         uint16
	wild         bool // any host that ends in host, which starts with a dot or is empty
}

// IsPreflight reports whether a request is a CORS preflight, by its method and two fields; an absent one is "".
func IsPreflight(method, origin, requestMethod string) bool {
	return method == "OPTIONS" && origin != "" && isToken(requestMethod)
}

func (a *Action) compileCORS(f *CORS) *Sharing {
	s := &Sharing{filter: f}
	for _, text := range f.Origins {
		if text == "*" {
			s.any = true
			continue
		}
		o, ok := parsePattern(text)
		if !ok {
			a.fault("CORS origin %q is none", text)
			continue
		}
		s.origins = append(s.origins, o)
	}
	for _, name := range slices.Concat(f.Methods, f.Headers, f.Expose) {
		if !isToken(name) {
			a.fault("CORS method or header name %q is none", name)
		}
	}
	return s
}

// Preflight answers a preflight: 204, or 403 without any CORS field. Vary is to be added to what the answer has.
func (s *Sharing) Preflight(origin, method, headers string) (status int, fields []Field) {
	vary := Field{"Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
	if !s.allows(origin) {
		return 403, []Field{vary}
	}
	f := s.filter
	fields = append(s.granted(origin), Field{"Access-Control-Allow-Methods", listed(f.Methods, method, "GET, HEAD, POST")})
	if !isTokenList(headers) {
		headers = ""
	}
	if list := listed(f.Headers, headers, ""); list != "" {
		fields = append(fields, Field{"Access-Control-Allow-Headers", list})
	}
	return 204, append(fields, Field{"Access-Control-Max-Age", strconv.Itoa(f.MaxAge)}, vary)
}

// Answer is the fields of every other answer, those that we make ourselves among them: they replace all
// Access-Control fields of the upstream, and Vary is added to what it has. A mismatch gets Vary alone.
func (s *Sharing) Answer(origin string) []Field {
	vary := Field{"Vary", "Origin"}
	if origin == "" || !s.allows(origin) {
		return []Field{vary}
	}
	return append(s.granted(origin), vary)
}

// granted is what an origin that is allowed gets in every answer.
func (s *Sharing) granted(origin string) []Field {
	f := s.filter
	if s.any && !f.Credentials {
		origin = "*"
	}
	fields := []Field{{"Access-Control-Allow-Origin", origin}}
	expose := f.Expose
	if f.Credentials {
		fields = append(fields, Field{"Access-Control-Allow-Credentials", "true"})
		expose = slices.DeleteFunc(slices.Clone(expose), isStar) // Fetch reads it as a name there
	}
	if list := listed(expose, "*", ""); list != "" {
		fields = append(fields, Field{"Access-Control-Expose-Headers", list})
	}
	return fields
}

// listed is a list of the filter's: a * in it stands for what was asked.
func listed(list []string, asked, none string) string {
	switch {
	case len(list) == 0:
		return none
	case slices.ContainsFunc(list, isStar):
		return asked
	}
	return strings.Join(list, ", ")
}

func isStar(s string) bool { return s == "*" }

func isTokenList(s string) bool {
	for name := range strings.SplitSeq(s, ",") {
		if !isToken(strings.Trim(name, " \t")) {
			return false
		}
	}
	return true
}

func (s *Sharing) allows(text string) bool {
	if s.any {
		return true
	}
	o, ok := parseOrigin(text)
	return ok && slices.ContainsFunc(s.origins, func(p origin) bool {
		return p.scheme == o.scheme && p.port == o.port &&
			(p.host == o.host || p.wild && len(o.host) > len(p.host) && strings.HasSuffix(o.host, p.host))
	})
}

// parsePattern reads an origin of the filter, in whose host * or *. may come first.
func parsePattern(text string) (o origin, ok bool) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return origin{}, false
	}
	after, wild := strings.CutPrefix(rest, "*")
	switch {
	case !wild:
		return parseOrigin(text)
	case strings.HasPrefix(after, "."):
		o, ok = parseOrigin(scheme + "://" + after[1:])
		o.host = "." + o.host
	case after == "" || after[0] == ':':
		o, ok = parseOrigin(scheme + "://any" + after)
		o.host = ""
	default:
		return origin{}, false
	}
	o.wild = true
	return o, ok
}

// parseOrigin reads a serialised origin (RFC 6454 section 6.2): scheme, host and at most a port. "null" is none.
func parseOrigin(text string) (origin, bool) {
	scheme, rest, ok := strings.Cut(strings.ToLower(text), "://")
	if !ok || !isScheme(scheme) {
		return origin{}, false
	}
	o := origin{scheme: scheme, host: rest, port: defaultPort(scheme)}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		n, err := strconv.ParseUint(rest[i+1:], 10, 16)
		if err != nil || n == 0 {
			return origin{}, false
		}
		o.host, o.port = rest[:i], uint16(n)
	}
	return o, isOriginHost(o.host)
}

func isScheme(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return s != ""
}

func isOriginHost(s string) bool {
	if literal, ok := strings.CutPrefix(s, "["); ok {
		literal, ok = strings.CutSuffix(literal, "]")
		a, err := netip.ParseAddr(literal)
		return ok && err == nil && a.Is6() && a.Zone() == ""
	}
	for label := range strings.SplitSeq(s, ".") {
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
		if label == "" {
			return false
		}
	}
	return true
}
