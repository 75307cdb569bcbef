package h1

import "net/netip"

// CheckHost checks a Host field or authority: a host and at most a port (RFC 9110 section 7.2, http-strictness
// section 6). No userinfo, no escape outside an IPv6 literal, nothing a URL would end the host at.
func (p Profile) CheckHost(s string) *Fault { return checkHost(p, s) }

// CheckHost is that of the base profile.
func CheckHost(s string) *Fault { return checkHost(Base, s) }

func checkHost[T string | []byte](p Profile, s T) *Fault {
	host, port, ok := splitHost(s)
	if !ok || !goodPort(port) {
		return faultHost
	}
	if host[0] == '[' {
		if !goodLiteral(string(host[1 : len(host)-1])) {
			return faultHost
		}
	} else if !is(host, classHost) {
		return faultHost
	}
	if p == Edge {
		return edgeHost(host, port, len(host) < len(s))
	}
	return nil
}

// splitHost cuts at the colon of the port. It does not judge what it cut, but the host is not empty and a bracket
// is closed.
func splitHost[T string | []byte](s T) (host, port T, ok bool) {
	end := len(s)
	for i := range len(s) {
		if s[0] == '[' {
			if s[i] == ']' {
				end = i + 1
				break
			}
		} else if s[i] == ':' {
			end = i
			break
		}
	}
	host = s[:end]
	if len(host) == 0 || host[0] == '[' && host[len(host)-1] != ']' {
		return host, port, false
	}
	if end < len(s) {
		if s[end] != ':' {
			return host, port, false
		}
		port = s[end+1:]
	}
	return host, port, true
}

// goodPort allows the empty port: RFC 3986 section 3.2.3 does, and it means the default one.
func goodPort[T string | []byte](port T) bool {
	n, ok := parseLength(port)
	return len(port) == 0 || ok && len(port) <= 5 && n <= 65535
}

// goodLiteral is an IPv6 address, with a zone as RFC 6874 writes it.
func goodLiteral(s string) bool {
	for i := range len(s) {
		if s[i] != '%' {
			continue
		}
		zone := s[i+1:]
		if len(zone) < 3 || zone[:2] != "25" || !is(zone[2:], classUnreserved) {
			return false
		}
		s = s[:i]
		break
	}
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6()
}

// LookupHost gives the form of an authority in which names are looked up: lower case, without port, without one
// final dot. An IPv6 literal comes back without its brackets. The authority must have passed CheckHost.
func LookupHost(s string) (host, port string) {
	host, port, ok := splitHost(s)
	if !ok {
		return "", ""
	}
	host = lowerString(host)
	if host[0] == '[' {
		return host[1 : len(host)-1], port
	}
	if n := len(host); n > 1 && host[n-1] == '.' {
		host = host[:n-1]
	}
	return host, port
}

// Absolute splits an absolute-form target (RFC 9112 section 3.2.2) into its authority and the origin-form it is
// forwarded as. Whether the authority is that of Host is for SameAuthority to say.
func Absolute(target string, tls bool) (authority, origin string, f *Fault) {
	authority, origin, f = splitAbsolute(Base, target, tls)
	if f != nil {
		return "", "", f
	}
	if len(origin) == 0 || origin[0] != '/' {
		origin = "/" + origin
	}
	return authority, origin, nil
}

// splitAbsolute leaves an absent path absent: then the origin-form is empty or starts with the query.
func splitAbsolute[T string | []byte](p Profile, target T, tls bool) (authority, origin T, f *Fault) {
	rest := target
	switch {
	case len(target) >= 7 && equalFold(target[:7], "http://"):
		rest = target[7:]
	case tls && len(target) >= 8 && equalFold(target[:8], "https://"):
		rest = target[8:]
	default:
		return authority, origin, faultTarget
	}
	end := 0
	for end < len(rest) && rest[end] != '/' && rest[end] != '?' {
		end++
	}
	authority, origin = rest[:end], rest[end:]
	if checkHost(p, authority) != nil {
		return authority, origin, faultAuthority
	}
	return authority, origin, nil
}

// SameAuthority compares without case and without the default port of the scheme.
func SameAuthority(a, b, scheme string) bool { return sameAuthority(a, b, scheme) }

func sameAuthority[A, B string | []byte](a A, b B, scheme string) bool {
	hostA, portA, okA := splitHost(a)
	hostB, portB, okB := splitHost(b)
	if !okA || !okB || !foldEqual(hostA, hostB) {
		return false
	}
	return effectivePort(string(portA), scheme) == effectivePort(string(portB), scheme)
}

func effectivePort(port, scheme string) string {
	if scheme == "http" && port == "80" || scheme == "https" && port == "443" {
		return ""
	}
	return port
}

func foldEqual[A, B string | []byte](a A, b B) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}
