package h1

import (
	"slices"
	"strings"
)

// Limits of the Connection field (http-strictness 7.3).
const (
	maxConnection = 256
	maxOptions    = 16
)

// options is what the Connection lines of a message say, all lines joined.
type options struct {
	bytes, count, lines       int
	close, keepAlive, upgrade bool
}

// addOptions is http-strictness 7.3, RFC 9110 section 7.6.1: a request must not have us remove what we rely on or
// are about to add.
func addOptions[T string | []byte](p Profile, o *options, value T) *Fault {
	if o.lines++; o.lines > 1 {
		o.bytes++ // the comma that joins
	}
	if o.bytes += len(value); o.bytes > maxConnection {
		return faultConnection
	}
	for more := true; more; {
		var name T
		name, value, more = element(value)
		if len(name) == 0 {
			continue
		}
		if o.count++; o.count > maxOptions || !is(name, classToken) || kept(p, name) {
			return faultConnection
		}
		switch {
		case equalFold(name, "close"):
			o.close = true
		case equalFold(name, "keep-alive"):
			o.keepAlive = true
		case equalFold(name, "upgrade"):
			o.upgrade = true
		}
	}
	return nil
}

// longestName is more than any name in the lists below needs: what is longer can only match one of the prefixes.
const longestName = 48

// folded is a field name in lower case with _ and . turned into -, as an application that maps names to variables
// would see it.
type folded struct {
	buf     [longestName]byte
	n       int
	long    bool // the name went on
	aliased bool // the name was not spelled so
}

func fold[T string | []byte](f *folded, name T) []byte {
	for i := range len(name) {
		if i == longestName {
			f.long = true
			break
		}
		c := lower(name[i])
		if c == '_' || c == '.' {
			c, f.aliased = '-', true
		}
		f.buf[i] = c
		f.n++
	}
	return f.buf[:f.n]
}

// kept reports whether Connection must not name a field. A name of the list is kept in its own spelling only:
// removing an alias does no harm.
func kept[T string | []byte](p Profile, name T) bool {
	var f folded
	b := fold(&f, name)
	if f.aliased {
		return false
	}
	switch string(b) {
	case "content-type", "via", "forwarded", "x-real-ip", "traceparent", "tracestate":
		return !f.long
	case "te", "trailer", "upgrade": // reserved against aliases, but what Connection is for
		return false
	}
	return hasPrefix(b, "x-forwarded-") || spoken(b, f.long) || p.reserved(b, f.long)
}

// ours are the fields whose value is our word alone: identity, decisions, hops (http-strictness 7.1, base). Nobody
// outside may say them.
func ours(b []byte, long bool) bool {
	if !long {
		switch string(b) {
		case "proxy", // httpoxy: CGI programs read it as HTTP_PROXY
			"x-forwarded-client-cert", "client-cert", "client-cert-chain",
			"txn-token", "workload-identity-token", "workload-proof-token",
			"x-decision-id", "early-data":
			return true
		}
	}
	return hasPrefix(b, "x-countersign-") || hasPrefix(b, "x-envoy-") || hasPrefix(b, "x-client-cert") ||
		hasPrefix(b, "x-ssl-") || hasPrefix(b, "ssl-client-")
}

// spoken are the other reserved fields: the sender may say them, but in their own spelling only (7.2).
func spoken(b []byte, long bool) bool {
	if long {
		return false
	}
	switch string(b) {
	case "content-length", "transfer-encoding", "host", "connection", "te", "trailer", "upgrade", "expect",
		"authorization", "cookie", "x-api-key", "dpop":
		return true
	}
	return false
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

// stripped reports whether a field is dropped on entry: what is ours, and every alias of a reserved name.
func (p Profile) stripped(name string) bool {
	var f folded
	b := fold(&f, name)
	return p.reserved(b, f.long) || f.aliased && spoken(b, f.long)
}

// hopByHop are the fields that are always removed: they speak of one connection (RFC 9110 section 7.6.1). TE is
// treated on its own.
var hopByHop = [...]string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
	"Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
}

// Strip cleans the header of a request, in the order of http-strictness section 7: fields that only we may set,
// aliases, then Connection and the fields of the hop. "Te: trailers" stays. A Host field, which net/http leaves in
// HTTP/2 headers, is removed: the authority is elsewhere. Returned are the dropped names of the first two steps,
// for the record, in lower case and in order.
func (p Profile) Strip(header map[string][]string) (names []string, f *Fault) {
	for name := range header {
		if p.stripped(name) {
			names = append(names, lowerString(name))
			delete(header, name)
		}
	}
	slices.Sort(names)
	if f := p.removeNamed(header); f != nil {
		return names, f
	}
	te := takesTrailers(header["Te"])
	for _, name := range hopByHop {
		delete(header, name)
	}
	delete(header, "Te")
	delete(header, "Host")
	if te {
		header["Te"] = []string{"trailers"}
	}
	return names, nil
}

// Strip is that of the base profile.
func Strip(header map[string][]string) (names []string, f *Fault) { return Base.Strip(header) }

// removeNamed removes the fields that Connection names. TE is kept for the step after it.
func (p Profile) removeNamed(header map[string][]string) *Fault {
	var o options
	for _, line := range header["Connection"] {
		if f := addOptions(p, &o, trim(line)); f != nil {
			return f
		}
	}
	for _, line := range header["Connection"] {
		for more := true; more; {
			var name string
			name, line, more = element(line)
			if name != "" && !equalFold(name, "te") {
				delete(header, canonical(name))
			}
		}
	}
	return nil
}

func takesTrailers(te []string) bool {
	for _, line := range te {
		for more := true; more; {
			var coding string
			coding, line, more = element(line)
			if equalFold(coding, "trailers") {
				return true
			}
		}
	}
	return false
}

// StripTrailer drops from trailers what must be known before the body, or is not the sender's to say, in every
// spelling (http-strictness B5, RFC 9110 section 6.5.1).
func (p Profile) StripTrailer(trailer map[string][]string) {
	for name := range trailer {
		var f folded
		b := fold(&f, name)
		if p.reserved(b, f.long) || spoken(b, f.long) || !f.long && early(string(b)) || hasPrefix(b, "if-") {
			delete(trailer, name)
		}
	}
}

// StripTrailer is that of the base profile.
func StripTrailer(trailer map[string][]string) { Base.StripTrailer(trailer) }

// early are the fields that only count before a body.
func early(name string) bool {
	switch name {
	case "cache-control", "max-forwards", "pragma", "range",
		"proxy-authorization", "set-cookie", "content-type", "content-encoding", "content-range",
		"keep-alive", "proxy-connection", "proxy-authenticate", "http2-settings":
		return true
	}
	return false
}

// StripHop removes from a response what speaks of one connection: always the fields of the hop, and those its
// Connection names.
func StripHop(header map[string][]string) {
	for _, line := range header["Connection"] {
		for more := true; more; {
			var name string
			name, line, more = element(line)
			delete(header, canonical(name))
		}
	}
	for _, name := range hopByHop {
		delete(header, name)
	}
	delete(header, "Te")
}

// StripResponse cleans what an application answers (http-strictness section 11): the hop's fields, and those that
// are ours to say.
func StripResponse(header map[string][]string) {
	StripHop(header)
	for name := range header {
		if name == "X-Decision-Id" || strings.HasPrefix(name, "X-Countersign-") {
			delete(header, name)
		}
	}
}
