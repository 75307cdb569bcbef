package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strings"
)

// Limits on what an upstream may send besides its body (dataplane.md 4.3, 4.2).
const (
	maxResponseHead   = 64 << 10
	maxResponseFields = 128
	maxTrailer        = 8 << 10
	maxTrailerFields  = 32
	maxChunkLine      = 15 + 256 // hex digits, extension
	maxInterim        = 5        // 1xx responses before the final one
)

// errMalformed is what every fault in an upstream's message is: 502, and its connection ends.
var errMalformed = errors.New("malformed response")

func malformed(what string) error { return fmt.Errorf("%w: %s", errMalformed, what) }

// head is the parsed head of an upstream's HTTP/1 response.
type head struct {
	status  int
	header  http.Header
	length  int64 // of the body; -1: chunked or until close
	chunked bool
	last    bool // the connection ends with this response
}

// readHead takes one response head off r, which may hold 4 KiB only: the rare longer head is
// read through a larger buffer, returned in r's place.
func readHead(r *bufio.Reader, from io.Reader, method string) (head, *bufio.Reader, error) {
	seen := 0
	for {
		b, err := r.Peek(max(seen+1, r.Buffered()))
		if len(b) > seen {
			if end := bytes.Index(b[max(0, seen-3):], []byte("\r\n\r\n")); end >= 0 {
				n := max(0, seen-3) + end + 4
				h, err := parseHead(string(b[:n]), method)
				_, _ = r.Discard(n)
				return h, r, err
			}
			seen = len(b)
			if faulty(b) {
				return head{}, r, malformed("line end in the head")
			}
			if seen > maxResponseHead {
				return head{}, r, malformed("head over 64 KiB")
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, bufio.ErrBufferFull) && r.Size() < maxResponseHead:
			whole := bytes.Clone(b)
			r = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(whole), from), maxResponseHead+4)
			seen = 0
		case errors.Is(err, bufio.ErrBufferFull):
			return head{}, r, malformed("head over 64 KiB")
		case seen > 0 && errors.Is(err, io.EOF):
			return head{}, r, io.ErrUnexpectedEOF
		default:
			return head{}, r, err
		}
	}
}

// faulty reports a LF without CR in what has come so far: nobody should have to wait for
// the end of a head that can only be refused.
func faulty(b []byte) bool {
	for i := 0; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return false
		}
		if i+n == 0 || b[i+n-1] != '\r' {
			return true
		}
		i += n + 1
	}
}

// parseHead judges and takes apart a whole head (RFC 9112, sections 4 to 6). Strings of the
// result share raw.
func parseHead(raw, method string) (head, error) {
	line, rest, _ := strings.Cut(raw, "\r\n")
	h := head{length: -1}
	minor, err := h.statusLine(line)
	if err != nil {
		return head{}, err
	}
	if h.header, err = parseFields(rest, maxResponseFields); err != nil {
		return head{}, err
	}
	if err := h.frame(method, minor); err != nil {
		return head{}, err
	}
	h.last = h.last || ends(h.header, minor)
	return h, nil
}

// statusLine reads HTTP/1.x SP 3DIGIT [SP reason] and gives x.
func (h *head) statusLine(line string) (minor byte, err error) {
	if len(line) < 12 || line[:7] != "HTTP/1." || (line[7] != '0' && line[7] != '1') || line[8] != ' ' ||
		(len(line) > 12 && line[12] != ' ') {
		return 0, malformed("status line")
	}
	for _, c := range []byte(line[9:12]) {
		if c < '0' || c > '9' {
			return 0, malformed("status line")
		}
		h.status = h.status*10 + int(c-'0')
	}
	if h.status < 100 || h.status > 599 || !isValue(line[12:]) {
		return 0, malformed("status line")
	}
	return line[7], nil
}

// frame decides where the body ends (RFC 9112, section 6.3). What two parsers could read
// differently is refused.
func (h *head) frame(method string, minor byte) error {
	length, coding := h.header["Content-Length"], h.header["Transfer-Encoding"]
	switch {
	case len(length) > 1:
		return malformed("two Content-Length lines")
	case len(length) == 1 && len(coding) > 0:
		return malformed("Content-Length with Transfer-Encoding")
	case len(coding) > 1 || len(coding) == 1 && (minor == '0' || !strings.EqualFold(coding[0], "chunked")):
		return malformed("transfer coding other than chunked")
	}
	if len(length) == 1 {
		n, ok := parseLength(length[0])
		if !ok {
			return malformed("Content-Length")
		}
		h.length = n
	}
	h.chunked = len(coding) == 1
	switch {
	case method == http.MethodHead, h.status < 200, h.status == http.StatusNoContent, h.status == http.StatusNotModified:
		h.chunked, h.length = false, 0
	case !h.chunked && h.length < 0:
		h.last = true // until close
	}
	delete(h.header, "Transfer-Encoding")
	return nil
}

// parseLength takes 1 to 18 digits and nothing else.
func parseLength(s string) (n int64, ok bool) {
	if len(s) < 1 || len(s) > 18 {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// ends reports whether the sender closes after this message.
func ends(h http.Header, minor byte) bool {
	keep := false
	for _, v := range h["Connection"] {
		for option := range strings.SplitSeq(v, ",") {
			switch option = strings.Trim(option, " \t"); {
			case strings.EqualFold(option, "close"):
				return true
			case strings.EqualFold(option, "keep-alive"):
				keep = true
			}
		}
	}
	return minor == '0' && !keep
}

// parseFields reads field lines up to and with the empty one that ends s.
func parseFields(s string, most int) (http.Header, error) {
	n := strings.Count(s, "\r\n") - 1
	if n > most {
		return nil, malformed("too many fields")
	}
	h := make(http.Header, n)
	values := make([]string, max(n, 0)) // one allocation for all
	for {
		line, rest, ok := strings.Cut(s, "\r\n")
		if !ok {
			return nil, malformed("field line")
		}
		if line == "" {
			if rest != "" {
				return nil, malformed("field line")
			}
			return h, nil
		}
		colon := strings.IndexByte(line, ':')
		if colon < 1 {
			return nil, malformed("field line")
		}
		name, ok := canonical(line[:colon])
		value := strings.Trim(line[colon+1:], " \t")
		if !ok || !isValue(value) {
			return nil, malformed("field line")
		}
		if known, again := h[name]; again {
			h[name] = append(known, value)
		} else {
			values[0] = value
			h[name], values = values[:1:1], values[1:]
		}
		s = rest
	}
}

// canonical gives a field name as net/http spells it; false if it is no token.
func canonical(name string) (string, bool) {
	upper, asIs := true, true
	for i := range len(name) {
		c := name[i]
		if !tokenByte[c] {
			return "", false
		}
		if upper && 'a' <= c && c <= 'z' || !upper && 'A' <= c && c <= 'Z' {
			asIs = false
		}
		upper = c == '-'
	}
	if asIs {
		return name, true
	}
	return textproto.CanonicalMIMEHeaderKey(name), true
}

// isValue reports whether s is HTAB, 0x20–0x7E and 0x80–0xFF alone.
func isValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

var tokenByte = func() (t [256]bool) {
	for c := range 128 {
		t[c] = c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' ||
			strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
	}
	return t
}()
