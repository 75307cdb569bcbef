package h1

// maxList is the most a decoded field list may be, counted as HTTP/2 counts: name, value and 32 (rule M11).
const maxList = 36 << 10

// CheckMessage applies the tables of this package to a message that another parser has read: an HTTP/2 request, or
// one of net/http (http-strictness 8.1: M3, M4, M6, M7, M8, M10, M11). After it the message may be written as
// HTTP/1. The header is as net/http leaves it: canonical names, for HTTP/2 with "Host" where it was sent.
// Not in it: the normal form of the path, for which see Normalize, and Connection, for which see Strip.
func (p Profile) CheckMessage(method, target, authority string, header map[string][]string, h2 bool) *Fault {
	if len(method) > maxMethod || !is(method, classToken) {
		return faultMethod
	}
	if p == Edge {
		if f := edgeMethod(method); f != nil {
			return f
		}
	}
	if f := checkMessageTarget(method, target, h2); f != nil {
		return f
	}
	if f := p.checkAuthority(authority, header["Host"], h2); f != nil {
		return f
	}
	if f := checkFields(header, h2); f != nil {
		return f
	}
	if f := checkSingle(header); f != nil {
		return f
	}
	if h2 {
		return checkH2Fields(header)
	}
	return nil
}

// CheckMessage is that of the base profile.
func CheckMessage(method, target, authority string, header map[string][]string, h2 bool) *Fault {
	return Base.CheckMessage(method, target, authority, header, h2)
}

// checkMessageTarget is M3: net/http reads absolute URIs and blanks in :path without complaint.
func checkMessageTarget(method, target string, h2 bool) *Fault {
	switch {
	case h2 && method == "CONNECT":
		return faultConnect
	case len(target) > MaxTarget:
		return faultTargetLong
	case !is(target, classTarget):
		return faultTarget
	case target == "*" && method != "OPTIONS":
		return faultTarget
	case h2 && target != "*" && target[0] != '/':
		return faultTarget
	}
	return nil
}

// checkAuthority is M4. Only HTTP/1.0 may do without an authority, and its parser has judged that.
func (p Profile) checkAuthority(authority string, hosts []string, h2 bool) *Fault {
	switch {
	case len(hosts) > 1:
		return faultHostTwice
	case authority == "" && !h2 && len(hosts) == 0 && p != Edge:
		return nil
	case authority == "" && len(hosts) == 0:
		return faultHostAbsent
	}
	if f := checkHost(p, authority); f != nil {
		return f
	}
	if len(hosts) == 1 && !foldEqual(hosts[0], authority) {
		return faultAuthority
	}
	return nil
}

// checkFields is M6, M10 and M11.
func checkFields(header map[string][]string, h2 bool) *Fault {
	fields, size := 0, 0
	for name, values := range header {
		if !is(name, classToken) {
			return faultName
		}
		for _, v := range values {
			fields++
			size += len(name) + len(v) + 32
			if !isEmptyOr(v, classValue) {
				return faultValue
			}
			// Never trimmed: Envoy matches such a value as it is, so a trimmed one could meet an ALLOW that
			// Istio's does not.
			if h2 && v != "" && (blank(v[0]) || blank(v[len(v)-1])) {
				return faultBlankEdge
			}
		}
	}
	if fields > MaxFields {
		return faultFields
	}
	if size > maxList {
		return faultListLong
	}
	return nil
}

// checkSingle looks at the fields that may come once only: M8, H16.
func checkSingle(header map[string][]string) *Fault {
	if lengths := header["Content-Length"]; len(lengths) > 1 {
		return faultLengths
	} else if len(lengths) == 1 {
		if _, ok := parseLength(lengths[0]); !ok {
			return faultLength
		}
	}
	if expects := header["Expect"]; len(expects) > 1 || len(expects) == 1 && !equalFold(expects[0], "100-continue") {
		return faultExpect
	}
	return nil
}

// checkH2Fields is M7, RFC 9113 section 8.2.2.
func checkH2Fields(header map[string][]string) *Fault {
	for _, name := range [...]string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"} {
		if _, sent := header[name]; sent {
			return faultH2Field
		}
	}
	if te := header["Te"]; len(te) > 1 || len(te) == 1 && !equalFold(te[0], "trailers") {
		return faultH2Field
	}
	return nil
}

// CheckNoBody is the rest of M8: a message that ended with its header must not have announced a body. net/http does
// not look; for an HTTP/2 request of length 0 this does.
func CheckNoBody(header map[string][]string) *Fault {
	for _, v := range header["Content-Length"] {
		if n, ok := parseLength(v); !ok || n != 0 {
			return faultLengthBody
		}
	}
	return nil
}
