package h1

import (
	"strings"
	"unicode/utf8"
)

// Profile is how strict a listener is. An accepted message means the same under every profile: Edge only refuses
// more, and believes less of what the header says.
type Profile uint8

const (
	Base Profile = iota // between workloads: the peer is known, the habits of applications are respected
	Edge                // where strangers call
)

// Allow is the Allow field of an answer to OPTIONS * and of a 405.
const Allow = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// edgeMethod is rule H5e: methods have case (RFC 9110 section 9.1), so get must not pass a policy that denies GET.
func edgeMethod[T string | []byte](method T) *Fault {
	for i := range len(method) {
		if c := method[i]; (c < 'A' || c > 'Z') && (i == 0 || !digit(c) && c != '-') {
			return faultMethodCase
		}
	}
	if string(method) == "TRACE" {
		return faultTrace // it would echo credentials
	}
	return nil
}

// Limits of host names (RFC 1035 section 2.3.4).
const (
	maxLabel = 63
	maxName  = 253
)

// edgeHost is http-strictness section 6: a host name, an IPv4 address or an IPv6 literal without zone, because nothing
// else can match the hostname of a listener; and a colon has its port. The base rules have been met.
func edgeHost[T string | []byte](host, port T, colon bool) *Fault {
	if n, _ := parseLength(port); colon && n == 0 {
		return faultHost
	}
	if host[0] == '[' {
		for i := range len(host) {
			if host[i] == '%' {
				return faultHost
			}
		}
		return nil
	}
	if n := len(host); host[n-1] == '.' {
		host = host[:n-1]
	}
	if len(host) > maxName {
		return faultHost
	}
	label := 0
	for i := range len(host) {
		switch c := lower(host[i]); {
		case c == '.' && label > 0:
			label = 0
		case (c >= 'a' && c <= 'z' || digit(c) || c == '-' || c == '_') && label < maxLabel:
			label++
		default:
			return faultHost
		}
	}
	if label == 0 {
		return faultHost
	}
	return nil
}

// edgeTarget is http-strictness 5.3, rules 1 to 5: no fragment; and a path without backslash, bad escape or escaped
// control, in UTF-8, that does not climb above the root.
func edgeTarget[T string | []byte](target T) *Fault {
	end := len(target)
	for i := range len(target) {
		switch target[i] {
		case '#':
			return faultPath
		case '?':
			end = min(end, i)
		}
	}
	path := target[:end]
	if len(path) == 0 || path[0] != '/' {
		return nil // for the forms to judge
	}
	var text utf8Check
	depth, dots := 0, 0 // dots: bytes of the segment as long as it is dots alone, else -1
	for i := 1; i < len(path); i++ {
		c, slash := path[i], false
		switch c {
		case '/':
			slash = true
		case '\\':
			return faultPath
		case '%':
			var ok bool
			if c, ok = unescape(path, i); !ok || c < 0x20 || c == 0x7F {
				return faultPath
			}
			i += 2
		}
		if !text.next(c) {
			return faultPath
		}
		switch {
		case slash:
			if depth = descend(depth, dots); depth < 0 {
				return faultPath
			}
			dots = 0
		case c == '.' && dots >= 0:
			dots++
		default:
			dots = -1
		}
	}
	if descend(depth, dots) < 0 || text.n > 0 {
		return faultPath
	}
	return nil
}

// descend counts a segment: an empty one is one too (RFC 3986 section 5.2.4). An escaped slash ends none, so what is
// counted is the least deep of all readings; dots beside an escaped slash are refused anyway.
func descend(depth, dots int) int {
	switch dots {
	case 1:
		return depth
	case 2:
		return depth - 1
	}
	return depth + 1
}

// utf8Check is told the bytes of a text one by one. A character is under way while n is not 0.
type utf8Check struct {
	buf [utf8.UTFMax]byte
	n   int
}

func (u *utf8Check) next(c byte) bool {
	if u.n == 0 && c < utf8.RuneSelf {
		return true
	}
	u.buf[u.n] = c
	u.n++
	if !utf8.FullRune(u.buf[:u.n]) {
		return true
	}
	_, size := utf8.DecodeRune(u.buf[:u.n])
	whole := size == u.n && size > 1
	u.n = 0
	return whole
}

// CheckStrict is http-strictness 5.3, rule 6, for a path in normal form: on a host with a rule for paths, no reserved
// byte may be escaped, because an application that decodes it would see another path than the rule did.
func CheckStrict(path string) *Fault {
	for i := strings.IndexByte(path, '%'); i >= 0 && i < len(path); i++ {
		if path[i] != '%' {
			continue
		}
		switch c, _ := unescape(path, i); c {
		case '/', '\\', '%', ';', '#', '?':
			return faultPath
		}
	}
	return nil
}

// mergeSlashes is 7.8.1 step 6, for a path without dot segments: a path of slashes alone becomes //, never /, or a rule
// for / would match more than it does in Istio.
func mergeSlashes(path string) string {
	if !unmerged(path) {
		return path
	}
	b := make([]byte, 0, len(path))
	for i := range len(path) {
		if path[i] != '/' || i == 0 || path[i-1] != '/' {
			b = append(b, path[i])
		}
	}
	if len(b) == 1 {
		return "//"
	}
	return string(b)
}

func unmerged(path string) bool { return len(path) > 2 && strings.Contains(path, "//") }

// outside are the fields that a stranger sends to be taken for somebody else (http-strictness 7.1, the rows of the
// edge): what applications take for a proxy's word about the caller, or about his address and his request.
func outside(b []byte, long bool) bool { return foreignIdentity(b, long) || forwarding(b, long) }

func foreignIdentity(b []byte, long bool) bool {
	if !long {
		switch string(b) {
		case "remote-user", "remote-groups", "remote-email", "remote-name", "x-client-dn", "x-arr-clientcert",
			"x-apigateway-api-userinfo", "x-endpoint-api-userinfo":
			return true
		}
	}
	return begins(b, foreignPrefixes[:])
}

// forwarding are the names that proxies, clouds and content networks give the client's address and the request that
// came to them.
func forwarding(b []byte, long bool) bool {
	if !long {
		switch string(b) {
		case "forwarded", "x-forwarded", "forwarded-for", "x-forward-for", "x-real-ip", "x-real-port",
			"true-client-ip", "x-true-client-ip", "client-ip", "http-client-ip", "x-client-ip", "x-client-port", "x-clientip",
			"x-cluster-client-ip", "x-remote-ip", "x-remote-addr", "remote-addr", "x-originating-ip", "x-proxyuser-ip",
			"proxy-client-ip", "wl-proxy-client-ip", "x-connecting-ip", "do-connecting-ip", "cf-pseudo-ipv4",
			"fastly-client-ip", "fly-client-ip", "incap-client-ip", "x-sucuri-clientip", "x-nf-client-connection-ip",
			"x-appengine-user-ip", "x-azure-clientip", "x-azure-socketip", "ali-cdn-real-ip", "cdn-src-ip", "cdn-real-ip",
			"x-rewrite-url", "x-host", "x-http-host-override", "x-http-method-override", "x-http-method", "x-method-override":
			return true
		}
	}
	return begins(b, forwardingPrefixes[:])
}

func begins(b []byte, prefixes []string) bool {
	if len(b) < 2 {
		return false
	}
	for _, prefix := range prefixes {
		if prefix[0] == b[0] && prefix[1] == b[1] && hasPrefix(b, prefix) {
			return true
		}
	}
	return false
}

var (
	foreignPrefixes = [...]string{
		"x-remote-user", "x-remote-group", "x-remote-extra-", "x-auth-request-", "x-authenticated-", "x-authentik-",
		"x-webauth-", "x-vouch-", "x-pomerium-", "x-consumer-", "x-credential-", "x-goog-authenticated-", "x-goog-iap-",
		"x-amzn-oidc-", "x-amzn-mtls-", "x-ms-client-principal", "x-appengine-user-", "x-tls-", "x-b3-", "cf-access-", "tailscale-",
	}
	forwardingPrefixes = [...]string{"x-forwarded-", "x-original-", "x-vercel-", "cf-connecting-"}
)

// Letting is who may say a field that the edge strips, where its rule names it (allow-client-headers).
type Letting uint8

const (
	Nobody  Letting = iota // identity, decisions, framing; and what we say ourselves
	Proxies                // what applications believe of a proxy: one that is trusted
	Anybody
)

// Lets says who may say a field.
func Lets(name string) Letting {
	var f folded
	b := fold(&f, name)
	switch {
	case ours(b, f.long), spoken(b, f.long), f.aliased && outside(b, f.long):
		return Nobody
	case foreignIdentity(b, f.long):
		return Proxies
	}
	switch string(b) {
	case "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "traceparent", "tracestate", "via":
		return Nobody
	}
	if hasPrefix(b, "x-forwarded-") {
		return Proxies
	}
	return Anybody
}

// reserved reports whether a field is not the sender's to say.
func (p Profile) reserved(b []byte, long bool) bool {
	return ours(b, long) || p == Edge && outside(b, long)
}

// StripEdgeResponse cleans what leaves at the edge (http-strictness section 11). The decision id of a mesh hop stays:
// the caller of a refused request needs it.
func StripEdgeResponse(header map[string][]string, fromMesh bool) {
	StripHop(header)
	for name := range header {
		switch {
		case name == "X-Decision-Id" && fromMesh:
		case name == "X-Decision-Id", name == "Alt-Svc", name == "Early-Data", strings.HasPrefix(name, "Proxy-"),
			strings.HasPrefix(name, "X-Countersign-"), strings.HasPrefix(name, "X-Envoy-"):
			delete(header, name)
		}
	}
}
