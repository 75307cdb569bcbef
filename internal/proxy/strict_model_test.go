package proxy

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"countersign.dev/internal/h1"
)

// The strictest reader of HTTP/1 there could be, written from RFC 9112 and the rules of http-strictness 3 to 7 with
// regular expressions: slow, and nothing of it is the grammar that is tested. Only the normal form of a path is taken
// from there, which has a model of its own.

// reading is what the bytes of a connection mean: requests, and what ends them.
type reading struct {
	requests []arrival
	local    []bool // it is answered at the edge and never forwarded
	end      ending
	early    bool // the one it ended in may be answered before its body
}

type ending int

const (
	ended   ending = iota // between two requests
	hangsUp               // the client asked for it
	cutOff                // inside a request
	wrong                 // a request that must not be forwarded
)

const tchar = "[!#$%&'*+.^_`|~0-9A-Za-z-]"

var (
	strictLine   = regexp.MustCompile("^(" + tchar + `{1,32}) ([\x21-\x7e\x{80}-\x{ff}]+) HTTP/1\.([01])$`)
	strictField  = regexp.MustCompile("^(" + tchar + `+):([\t\x20-\x7e\x{80}-\x{ff}]*)$`)
	strictMethod = regexp.MustCompile(`^[A-Z][A-Z0-9-]*$`)
	strictLength = regexp.MustCompile(`^[0-9]{1,18}$`)
	strictName   = regexp.MustCompile(`^([0-9A-Za-z_-]{1,63}\.)*[0-9A-Za-z_-]{1,63}\.?$`)
	strictPort   = regexp.MustCompile(`^[0-9]{1,5}$`)
	strictChunk  = regexp.MustCompile(`^([0-9A-Fa-f]{1,15})(;[\x20-\x7e\x{80}-\x{ff}]{0,255})?$`)
	strictToken  = regexp.MustCompile("^" + tchar + "+$")
	endToEnd     = regexp.MustCompile(`^(host|content-length|transfer-encoding|content-type|authorization|cookie|via|forwarded|x-forwarded-.*|x-real-ip|traceparent|tracestate|connection|x-countersign-.*|proxy|txn-token|remote-user)$`)
)

// latin makes every byte a character, so that expressions speak of bytes.
func latin(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

func bytesOf(s string) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}

// readStrictly reads all that came on a connection without TLS.
func readStrictly(wire []byte) (r reading) {
	rest := latin(wire)
	for rest != "" {
		a, local, last, left, end := readRequest(rest)
		if end != ended {
			r.end, r.early = end, local
			return r
		}
		r.requests, r.local, rest = append(r.requests, a), append(r.local, local), left
		if last {
			r.end = hangsUp
			return r
		}
	}
	return r
}

// nextLine cuts at CRLF. A CR or LF of its own is wrong at once.
func nextLine(s string) (line, rest string, end ending) {
	i := strings.IndexAny(s, "\r\n")
	switch {
	case i < 0 || s[i] == '\r' && i+1 == len(s):
		return "", "", cutOff
	case s[i] == '\n' || s[i+1] != '\n':
		return "", "", wrong
	}
	return s[:i], s[i+2:], ended
}

func readRequest(s string) (a arrival, local, last bool, rest string, end ending) {
	if !strings.Contains(s, "\r\n\r\n") { // refused now or in a while
		for end = ended; end == ended; {
			_, s, end = nextLine(s)
		}
		return a, false, false, "", end
	}
	line, rest, end := nextLine(s)
	if end != ended {
		return a, false, false, "", end
	}
	m := strictLine.FindStringSubmatch(line)
	if m == nil || len([]rune(m[2])) > 8192 {
		return a, false, false, "", wrong
	}
	fields, rest, end := readFields(rest)
	if end != ended {
		return a, false, false, "", end
	}
	if len([]rune(s))-len([]rune(rest)) > 32<<10 || fields.n > 96 {
		return a, false, false, "", wrong
	}
	a.method, a.header = m[1], map[string][]string{"Upgrade": fields.all["upgrade"]} // all that its tests ask of it
	minor := m[3]
	var ok bool
	if a.target, ok = strictTarget(m[1], bytesOf(m[2]), fields.all["host"], false); !ok {
		return a, false, false, "", wrong
	}
	if a.host = fields.all["host"][0]; m[2][0] != '/' && m[2] != "*" { // RFC 9112 section 3.2.2
		_, a.host, _ = strings.Cut(m[2], "://")
		a.host, _, _ = strings.Cut(a.host, "/")
		a.host, _, _ = strings.Cut(a.host, "?")
	}
	if last, ok = strictConnection(fields.all["connection"], minor); !ok {
		return a, false, false, "", wrong
	}
	if e := fields.all["expect"]; len(e) > 1 || len(e) == 1 && !strings.EqualFold(e[0], "100-continue") {
		return a, false, false, "", wrong
	}
	local = m[2] == "*"
	length, coding := fields.all["content-length"], fields.all["transfer-encoding"]
	switch {
	case len(length)+len(coding) > 1, len(coding) == 1 && (minor == "0" || !strings.EqualFold(coding[0], "chunked")):
		return a, false, false, "", wrong
	case len(coding) == 1:
		for _, name := range strings.Split(strings.Join(fields.all["trailer"], ","), ",") {
			switch strings.ToLower(strings.Trim(name, " \t")) {
			case "content-length", "transfer-encoding", "trailer":
				return a, false, false, "", wrong
			}
		}
		a.length = -1
		a.body, rest, end = readChunks(rest)
	case len(length) == 1:
		if !strictLength.MatchString(length[0]) {
			return a, false, false, "", wrong
		}
		n, _ := strconv.ParseInt(length[0], 10, 64) // 18 digits always fit
		if n > edgeBody {
			return a, false, false, "", wrong
		}
		a.length = n
		r := []rune(rest)
		if int64(len(r)) < n {
			return a, local, false, "", cutOff
		}
		a.body, rest = bytesOf(string(r[:n])), string(r[n:])
	}
	return a, local, last, rest, end
}

type strictFields struct {
	all map[string][]string // by name in lower case
	n   int
}

func readFields(s string) (f strictFields, rest string, end ending) {
	f.all = map[string][]string{}
	for {
		line, left, end := nextLine(s)
		if end != ended {
			return f, "", end
		}
		if s = left; line == "" {
			return f, s, ended
		}
		m := strictField.FindStringSubmatch(line)
		if m == nil {
			return f, "", wrong
		}
		name := strings.ToLower(m[1])
		f.all[name] = append(f.all[name], strings.Trim(m[2], " \t"))
		f.n++
	}
}

func readChunks(s string) (body, rest string, end ending) {
	extensions := 0
	for {
		line, left, end := nextLine(s)
		if end != ended {
			return "", "", end
		}
		m := strictChunk.FindStringSubmatch(line)
		if m == nil {
			return "", "", wrong
		}
		if extensions += len([]rune(m[2])); extensions > 16<<10 {
			return "", "", wrong
		}
		n, _ := strconv.ParseInt(m[1], 16, 64) // 15 digits always fit
		if n == 0 {
			f, rest, end := readFields(left)
			if end == ended && (f.n > 32 || len([]rune(left))-len([]rune(rest)) > 4000) {
				end = wrong
			}
			return body, rest, end
		}
		r := []rune(left)
		if int64(len(r)) < n {
			return "", "", cutOff
		}
		data, after := string(r[:n]), string(r[n:])
		switch {
		case len(after) > 0 && after[0] != '\r', len(after) > 1 && after[1] != '\n':
			return "", "", wrong
		case len(after) < 2:
			return "", "", cutOff
		}
		body, s = body+bytesOf(data), after[2:]
	}
}

func strictTarget(method, target string, hosts []string, tls bool) (string, bool) {
	if !strictMethod.MatchString(method) || method == "CONNECT" || method == "TRACE" || len(hosts) != 1 || !strictAuthority(hosts[0]) {
		return "", false
	}
	if target == "*" {
		return "*", method == "OPTIONS"
	}
	if target[0] != '/' {
		scheme, after, ok := strings.Cut(target, "://")
		scheme = strings.ToLower(scheme)
		if !ok || scheme != "http" && (scheme != "https" || !tls) {
			return "", false
		}
		end := len(after)
		if i := strings.IndexAny(after, "/?#\\"); i >= 0 {
			end = i
		}
		port := map[string]string{"http": ":80", "https": ":443"}[scheme]
		plain := func(s string) string { return strings.TrimSuffix(strings.ToLower(s), port) }
		if !strictAuthority(after[:end]) || plain(after[:end]) != plain(hosts[0]) {
			return "", false
		}
		if target = after[end:]; target == "" || target[0] == '?' {
			target = "/" + target
		}
		if target[0] != '/' {
			return "", false
		}
	}
	path, query, hasQuery, fault := h1.Edge.Normalize(target)
	if hasQuery {
		path += "?" + query
	}
	return path, fault == nil
}

func strictAuthority(s string) bool {
	host, port, hasPort := s, "", false
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return false
		}
		a, err := netip.ParseAddr(s[1:end])
		if err != nil || !a.Is6() || a.Zone() != "" {
			return false
		}
		if s = s[end+1:]; s != "" && s[0] != ':' {
			return false
		}
		_, port, hasPort = strings.Cut(s, ":")
	} else {
		host, port, hasPort = strings.Cut(s, ":")
		if !strictName.MatchString(host) || len(strings.TrimSuffix(host, ".")) > 253 {
			return false
		}
	}
	n, _ := strconv.Atoi(port)
	return !hasPort || strictPort.MatchString(port) && n > 0 && n < 65536
}

func strictConnection(lines []string, minor string) (last, ok bool) {
	all := strings.Join(lines, ",")
	if len([]rune(all)) > 256 {
		return false, false
	}
	n, keep := 0, false
	for _, option := range strings.Split(all, ",") {
		option = strings.ToLower(strings.Trim(option, " \t"))
		if option == "" {
			continue
		}
		if n++; n > 16 || !strictToken.MatchString(option) || endToEnd.MatchString(option) {
			return false, false
		}
		last = last || option == "close"
		keep = keep || option == "keep-alive"
	}
	return last || minor == "0" && !keep, true
}
