package h1

import "bytes"

// Limits of a head (http-strictness, H5, H6, H10).
const (
	MaxHead   = 32 << 10 // request line, fields and the empty line
	MaxFields = 96
	MaxTarget = 8 << 10
	maxMethod = 32
	// maxLine is the longest request line that can be right: longer ones are refused while they arrive.
	maxLine = maxMethod + 1 + MaxTarget + 1 + len("HTTP/1.1")
)

// Framing is how the end of a body is known.
type Framing uint8

const (
	NoBody Framing = iota
	Length
	Chunked
)

// Field is one field line, its value without the white space around it.
type Field struct{ Name, Value string }

// Shape is what a checked head means for the connection it came on.
type Shape struct {
	Major, Minor int
	Framing      Framing
	Length       int64 // of the body, where Framing is Length
	Close        bool  // the client wants no further exchange on this connection
	WebSocket    bool  // a complete upgrade to websocket
	Expect100    bool  // the client waits for a 100; never in HTTP/1.0, where the field is dropped
}

// Head is a checked head, copied out of the bytes it came in.
type Head struct {
	Method, Target string // as sent
	Host           string // as sent; "" only in HTTP/1.0
	Fields         []Field
	Shape
}

// Rules is what a listener takes. The zero Rules is those of a cleartext mesh listener.
type Rules struct {
	TLS     bool // the connection is TLS: absolute-form may say https
	Connect bool // CONNECT is served
	Proxy   bool // nothing but CONNECT and absolute-form is served
	Profile Profile
}

// CheckHead checks a whole head, its empty line included, with the zero Rules.
func CheckHead(b []byte) (Shape, *Fault) { return Rules{}.Check(b) }

// ParseHead checks a whole head with the zero Rules and copies it.
func ParseHead(b []byte) (Head, *Fault) { return Rules{}.Parse(b) }

// Parse checks a head and copies it.
func (r Rules) Parse(b []byte) (Head, *Fault) {
	var c check
	if f := c.head(r, b); f != nil {
		return Head{}, f
	}
	h := Head{Method: string(c.method), Target: string(c.target), Host: string(c.host), Shape: c.Shape}
	h.Fields = make([]Field, 0, c.fields)
	for rest := c.lines; len(rest) > 2; {
		end := bytes.IndexByte(rest, '\r')
		colon := bytes.IndexByte(rest, ':')
		h.Fields = append(h.Fields, Field{string(rest[:colon]), string(trim(rest[colon+1 : end]))})
		rest = rest[end+2:]
	}
	return h, nil
}

// Check is one pass over a head, without allocation unless its path is not in normal form.
func (r Rules) Check(b []byte) (Shape, *Fault) {
	var c check
	if f := c.head(r, b); f != nil {
		return Shape{}, f
	}
	return c.Shape, nil
}

// check holds what a pass over a head has found: slices of the head, nothing copied.
type check struct {
	Shape
	method, target []byte
	lines          []byte // from the first field to the end
	fields         int

	host, length, coding, upgrade, key []byte
	hosts, upgrades, keys, versions    int
	expects                            int
	goodVersion, goodExpect            bool
	badTrailer                         bool
	hasLength, hasCoding               bool
	connection                         options
	profile                            Profile
}

// head is http-strictness section 3, RFC 9112 sections 2 to 6.
func (c *check) head(r Rules, b []byte) *Fault {
	if len(b) > MaxHead {
		return faultHeadLong
	}
	c.profile = r.Profile
	rest, f := c.requestLine(b)
	if f != nil {
		return f
	}
	c.lines = rest
	if f := c.fieldLines(rest); f != nil {
		return f
	}
	if f := c.checkHost(); f != nil {
		return f
	}
	if f := c.framing(); f != nil {
		return f
	}
	if f := c.form(r); f != nil {
		return f
	}
	if f := c.expect(); f != nil {
		return f
	}
	c.Close = c.connection.close || c.Minor == 0 && !c.connection.keepAlive
	return c.websocket()
}

// requestLine is RFC 9112 section 3: rules H1 to H6.
func (c *check) requestLine(b []byte) (rest []byte, f *Fault) {
	lf := bytes.IndexByte(b, '\n')
	if lf < 0 {
		return nil, faultRequestLine
	}
	if lf == 0 || b[lf-1] != '\r' {
		return nil, faultBareLF
	}
	line := b[:lf-1]
	if len(line) == 0 {
		return nil, faultEmptyFirst
	}
	if bytes.IndexByte(line, '\r') >= 0 {
		return nil, faultBareCR
	}
	if bytes.IndexByte(line, 0) >= 0 {
		return nil, faultControl
	}
	first, last := bytes.IndexByte(line, ' '), bytes.LastIndexByte(line, ' ')
	if first < 0 {
		return nil, faultRequestLine
	}
	c.method = line[:first]
	if len(c.method) > maxMethod || !is(c.method, classToken) {
		return nil, faultMethod
	}
	if first == last {
		return nil, faultRequestLine // one blank: no version
	}
	if f := c.version(line[last+1:]); f != nil {
		return nil, f
	}
	c.target = line[first+1 : last]
	if len(c.target) > MaxTarget {
		return nil, faultTargetLong
	}
	if !is(c.target, classTarget) {
		return nil, faultRequestLine
	}
	return b[lf+1:], nil
}

func (c *check) version(v []byte) *Fault {
	if len(v) != 8 || string(v[:5]) != "HTTP/" || v[6] != '.' || !digit(v[5]) || !digit(v[7]) {
		return faultVersion
	}
	if v[5] != '1' {
		return faultMajor
	}
	if v[7] > '1' {
		return faultVersion
	}
	c.Major, c.Minor = 1, int(v[7]-'0')
	return nil
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// fieldLines is RFC 9112 section 5, RFC 9110 section 5.5: rules H7 to H10.
func (c *check) fieldLines(b []byte) *Fault {
	for {
		if len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
			if len(b) > 2 {
				return faultRequestLine // more than one head: the caller cut it wrongly
			}
			return nil
		}
		i := 0
		for i < len(b) && classes[b[i]]&classToken != 0 {
			i++
		}
		if i == 0 || i == len(b) || b[i] != ':' {
			return nameFault(b, i)
		}
		start := i + 1
		end := start + valueLength(b[start:])
		if f := lineEnd(b, end); f != nil {
			return f
		}
		c.fields++
		if c.fields > MaxFields {
			return faultFields
		}
		if f := c.field(b[:i], trim(b[start:end])); f != nil {
			return f
		}
		b = b[end+2:]
	}
}

// nameFault names what is wrong with a line whose name ended at i without a colon.
func nameFault(b []byte, i int) *Fault {
	if i == 0 && len(b) > 0 && blank(b[0]) {
		return faultFolded
	}
	if i < len(b) && b[i] == '\n' {
		return faultBareLF
	}
	return faultName
}

// lineEnd checks that what ended a value at i is CRLF.
func lineEnd(b []byte, i int) *Fault {
	switch {
	case i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n':
		return nil
	case i < len(b) && b[i] == '\n':
		return faultBareLF
	case i < len(b) && b[i] == '\r':
		return faultBareCR
	}
	return faultValue
}

// field looks at the few fields that say what the message is. The length of the name decides which can be meant,
// so an ordinary field costs one jump.
func (c *check) field(name, value []byte) *Fault {
	switch len(name) {
	case 4:
		if equalFold(name, "host") {
			c.host = value
			c.hosts++
			if c.hosts > 1 {
				return faultHostTwice
			}
		}
	case 6:
		if equalFold(name, "expect") {
			c.expects++
			c.goodExpect = equalFold(value, "100-continue")
		}
	case 7:
		if equalFold(name, "upgrade") {
			c.upgrades++
			c.upgrade = value
		} else if equalFold(name, "trailer") {
			c.badTrailer = c.badTrailer || namesFraming(value)
		}
	case 10:
		if equalFold(name, "connection") {
			return addOptions(c.profile, &c.connection, value)
		}
	case 14:
		if equalFold(name, "content-length") {
			if c.hasLength {
				return faultLengths
			}
			c.hasLength, c.length = true, value
		}
	case 17:
		if equalFold(name, "transfer-encoding") {
			if c.hasCoding {
				return faultCodings
			}
			c.hasCoding, c.coding = true, value
		} else if equalFold(name, "sec-websocket-key") {
			c.keys++
			c.key = value
		}
	case 21:
		if equalFold(name, "sec-websocket-version") {
			c.versions++
			c.goodVersion = string(value) == "13"
		}
	}
	return nil
}

// checkHost is RFC 9110 section 7.2: rule H11.
func (c *check) checkHost() *Fault {
	if c.hosts == 0 {
		if c.Minor == 0 && c.profile != Edge {
			return nil
		}
		return faultHostAbsent
	}
	return checkHost(c.profile, c.host)
}

// framing is RFC 9112 section 6: rules H12 to H15.
func (c *check) framing() *Fault {
	switch {
	case c.hasLength && c.hasCoding:
		return faultBoth
	case c.hasCoding && c.Minor == 0:
		return faultCoding10
	case c.hasCoding:
		if f := checkCoding(c.coding); f != nil {
			return f
		}
		if c.badTrailer {
			return faultTrailer // net/http refuses it too, with an answer of its own
		}
		c.Framing = Chunked
	case c.hasLength:
		n, ok := parseLength(c.length)
		if !ok {
			return faultLength
		}
		c.Framing, c.Length = Length, n
	}
	return nil
}

// parseLength is 1 to 18 digits: nothing that could overflow, no sign, no list.
func parseLength[T string | []byte](s T) (n int64, ok bool) {
	if len(s) == 0 || len(s) > 18 {
		return 0, false
	}
	for i := range len(s) {
		if !digit(s[i]) {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// checkCoding is rule H13: chunked alone; a well-formed list of anything else is not supported.
func checkCoding(v []byte) *Fault {
	if equalFold(v, "chunked") {
		return nil
	}
	for more := true; more; {
		var coding []byte
		coding, v, more = element(v)
		if !is(coding, classToken) {
			return faultCoding
		}
	}
	return faultCodingList
}

func namesFraming(list []byte) bool {
	for more := true; more; {
		var name []byte
		name, list, more = element(list)
		if equalFold(name, "content-length") || equalFold(name, "transfer-encoding") || equalFold(name, "trailer") {
			return true
		}
	}
	return false
}

// form is RFC 9112 section 3.2: which target goes with which method and listener.
func (c *check) form(r Rules) *Fault {
	if r.Profile == Edge {
		if f := edgeMethod(c.method); f != nil {
			return f
		}
	}
	switch {
	case string(c.method) == "CONNECT":
		if !r.Connect {
			return faultConnect
		}
		return c.connectTarget()
	case c.target[0] == '/' || string(c.target) == "*":
		if r.Proxy {
			return faultProxyForm
		}
		if c.target[0] == '*' && string(c.method) != "OPTIONS" {
			return faultTarget
		}
		return checkTarget(r.Profile, c.target)
	}
	authority, origin, f := splitAbsolute(r.Profile, c.target, r.TLS)
	if f != nil {
		return f
	}
	scheme := "http"
	if len(c.target) > 5 && c.target[4]|0x20 == 's' {
		scheme = "https"
	}
	if c.hosts == 1 && !sameAuthority(authority, c.host, scheme) {
		return faultAuthority
	}
	return checkTarget(r.Profile, origin)
}

// connectTarget is the authority-form: a host and a port. Host must name the same; some clients leave its port out.
func (c *check) connectTarget() *Fault {
	host, port, _ := splitHost(c.target)
	if checkHost(Base, c.target) != nil || len(port) == 0 {
		return faultTarget
	}
	if c.hosts == 0 {
		return nil
	}
	sent, sentPort, _ := splitHost(c.host)
	if !foldEqual(host, sent) || len(sentPort) > 0 && string(sentPort) != string(port) {
		return faultAuthority
	}
	return nil
}

// checkTarget refuses what has no normal form: bad escapes, hidden dot segments.
func checkTarget(p Profile, target []byte) *Fault {
	if p == Edge {
		if f := edgeTarget(target); f != nil {
			return f
		}
	}
	path := target
	for i, b := range target {
		if b == '?' || b == '#' {
			path = target[:i]
			break
		}
	}
	if len(path) == 0 || isNormal(path) || string(path) == "*" {
		return nil // an absolute-form without path means /
	}
	_, _, _, f := p.Normalize(string(target))
	return f
}

// expect is rule H16.
func (c *check) expect() *Fault {
	if c.expects == 0 {
		return nil
	}
	if c.expects > 1 || !c.goodExpect {
		return faultExpect
	}
	c.Expect100 = c.Minor == 1
	return nil
}
