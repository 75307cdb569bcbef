package resource

import (
	"fmt"
	"net/url"
	"regexp/syntax"
	"slices"
	"strings"
)

// checkFilter is E403, gateway.md 7.1 to 7.3: filters that a cluster takes and that would break a
// message, speak in our name, or never end.
func (o *object) checkFilter(rule, f any, p *path) {
	for field, never := range map[string]func(string) bool{"requestHeaderModifier": neverInRequest, "responseHeaderModifier": neverInResponse} {
		if m := at(f, field); m != nil {
			o.checkHeaderFilter(m, never, p.field(field))
		}
	}
	for _, field := range []string{"requestRedirect", "urlRewrite"} {
		o.checkReplacement(rule, at(f, field, "path"), p.field(field).field("path"))
	}
	if r := at(f, "requestRedirect"); r != nil && endless(rule, r) {
		o.warn("W-loop", p.field("requestRedirect"), atKey, "the request is redirected to itself", "name a scheme, hostname, port or path that differs")
	}
}

func (o *object) checkHeaderFilter(m any, never func(string) bool, p *path) {
	list := make(map[string]string) // folded name → list it stands in
	judge := func(name, in string, p *path) {
		folded := strings.ToLower(name)
		if never(folded) || never(strings.NewReplacer("_", "-", ".", "-").Replace(folded)) {
			o.fault("E403", p, atValue, "header "+clip(name)+" is not a filter's to change", neverHint[folded])
			return
		}
		if before := list[folded]; before != "" && before != in {
			o.fault("E403", p, atValue, fmt.Sprintf("header %s stands in %s and in %s", clip(name), before, in), "keep one of them; names are compared without case")
			return
		}
		list[folded] = in
	}
	for _, in := range []string{"set", "add"} {
		for i, h := range itemsOf(at(m, in)) {
			judge(word(h, "name"), in, p.field(in).item(i).field("name"))
		}
	}
	for i, name := range itemsOf(at(m, "remove")) {
		judge(textOf(name), "remove", p.field("remove").item(i))
	}
}

var neverHint = map[string]string{"host": "use hostname of a URLRewrite"}

// neverInMessage are framing, hop-by-hop fields (RFC 9110 section 7.6.1) and what we say of
// ourselves. Names are in lower case here and below.
func neverInMessage(name string) bool {
	switch name {
	case "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "proxy-authenticate",
		"proxy-authorization", "te", "trailer", "upgrade", "http2-settings", "date", "via", "x-decision-id", "early-data":
		return true
	}
	return strings.HasPrefix(name, "x-countersign-") || strings.HasPrefix(name, "x-envoy-")
}

// neverInRequest adds http-strictness.md 7.1: identity, foreign identity and forwarding, and
// the fields that tokens, and handles to them, travel in.
func neverInRequest(name string) bool {
	switch name {
	case "host", "expect", "proxy", "authorization", "dpop", "txn-token", "workload-identity-token", "workload-proof-token",
		"client-cert", "client-cert-chain", "remote-user", "x-client-dn", "forwarded", "x-real-ip", "true-client-ip",
		"cf-connecting-ip", "x-cluster-client-ip", "x-rewrite-url", "x-host", "x-http-method-override", "x-http-method",
		"x-method-override", "tracestate":
		return true
	}
	return neverInMessage(name) || slices.ContainsFunc(spokenFor, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

var spokenFor = []string{
	"ssl-client-", "x-ssl-", "x-client-cert", "x-forwarded-", "x-original-", "x-remote-user", "x-auth-request-",
	"x-authenticated-", "x-webauth-", "x-consumer-", "x-credential-", "x-goog-authenticated-", "x-goog-iap-",
	"x-amzn-oidc-", "x-ms-client-principal", "cf-access-", "tailscale-", "x-tls-",
}

func neverInResponse(name string) bool {
	switch name {
	case "www-authenticate", "ratelimit", "ratelimit-policy", "host":
		return true
	}
	return neverInMessage(name) || strings.HasPrefix(name, "x-ratelimit-")
}

// checkReplacement judges what a path is replaced with: gateway.md 7.3.
func (o *object) checkReplacement(rule, replace any, p *path) {
	field := map[string]string{"ReplaceFullPath": "replaceFullPath", "ReplacePrefixMatch": "replacePrefixMatch"}[word(replace, "type")]
	if field == "" || !has(replace, field) {
		return
	}
	if field == "replacePrefixMatch" && !onePrefix(rule) { // two refs with it escape the rules of the CRD
		o.fault("E403", p.field(field), atKey, "needs exactly one PathPrefix match in its rule", "")
	}
	value := word(replace, field)
	if why := brokenPath(value, field == "replacePrefixMatch"); why != "" {
		o.fault("E403", p.field(field), atValue, quote(value)+" "+why, "a normal path, such as /v2")
	}
}

// brokenPath says why a value cannot become part of a path; empty: it can.
func brokenPath(s string, mayBeEmpty bool) string {
	switch {
	case s == "" && mayBeEmpty:
		return ""
	case !strings.HasPrefix(s, "/"):
		return "does not start with /"
	case strings.ContainsAny(s, "?#"):
		return "has a query or a fragment"
	case !celPath.MatchString(s):
		return "is no path"
	case strings.Contains(s, "//"):
		return "has an empty segment"
	}
	for segment := range strings.SplitSeq(s[1:], "/") {
		plain, err := url.PathUnescape(segment)
		if err != nil || strings.ContainsFunc(plain, func(r rune) bool { return r < ' ' || r == 0x7f || r == '/' || r == '\\' }) {
			return "has an escape that stands for no character of a segment"
		}
		if name, _, _ := strings.Cut(plain, ";"); name == "." || name == ".." {
			return "has a dot segment"
		}
	}
	return ""
}

// endless reports whether a redirect provably leads to the request's own URL: it changes
// nothing, or only the path, to the path matched.
func endless(rule, redirect any) bool {
	if has(redirect, "scheme") || has(redirect, "hostname") || has(redirect, "port") {
		return false
	}
	if !has(redirect, "path") {
		return true
	}
	path := at(redirect, "path")
	return slices.ContainsFunc(itemsOf(at(rule, "matches")), func(m any) bool {
		value := word(m, "path", "value")
		switch word(m, "path", "type") + " " + word(path, "type") {
		case "Exact ReplaceFullPath":
			return word(path, "replaceFullPath") == value
		case "PathPrefix ReplacePrefixMatch":
			return strings.TrimSuffix(word(path, "replacePrefixMatch"), "/") == strings.TrimSuffix(value, "/")
		}
		return false
	})
}

// maxProgram bounds what a regular expression becomes: repetitions make much of few bytes.
const maxProgram = 10_000 // instructions, about

func checkRegexp(s string) *complaint {
	re, err := syntax.Parse(s, syntax.Perl)
	switch {
	case err != nil:
		return complain("E403", quote(s)+" is not a regular expression", "the syntax of RE2: github.com/google/re2/wiki/Syntax")
	case program(re) > maxProgram:
		return complain("E403", quote(s)+" is too large once its repetitions are written out", "repeat less: {1,1000} stands for a thousand copies")
	}
	return nil
}

// program is about the number of instructions of an expression.
func program(re *syntax.Regexp) int {
	n := 1
	if re.Op == syntax.OpLiteral {
		n = len(re.Rune)
	}
	for _, sub := range re.Sub {
		n += program(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, 2*maxProgram)
}
