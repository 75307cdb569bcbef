package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"countersign.dev/internal/policy"
)

// origin notes every request that reaches it, whole or cut off.
type origin struct {
	mu   sync.Mutex
	seen []arrival
	cut  int
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.cut++
		panic(http.ErrAbortHandler)
	}
	o.seen = append(o.seen, arrival{r.Method, r.RequestURI, r.Host, string(body), r.ContentLength, r.Header.Clone(), r.Trailer})
}

func (o *origin) taken() []arrival {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := o.seen
	o.seen = nil
	return seen
}

// newStrangeHouse is a Gateway that lets everybody in, before an origin.
func newStrangeHouse(t testing.TB) (*house, *origin) {
	o := &origin{}
	h := newHouse(t, setup{handler: o}, toAPI())
	h.admit(policy.Rule{})
	return h, o
}

// strange makes requests that are nearly right.
type strange struct{ *rand.Rand }

func (g strange) one(of ...string) string { return of[g.IntN(len(of))] }

// often gives the first nine times of ten.
func (g strange) often(usual string, else_ ...string) string {
	if g.IntN(10) > 0 {
		return usual
	}
	return g.one(else_...)
}

// message is one or more requests as bytes.
func (g strange) message() []byte {
	var b strings.Builder
	for range 1 + g.IntN(3) {
		b.WriteString(g.request())
	}
	wire := []byte(b.String())
	for range g.IntN(3) * g.IntN(2) { // half of them are touched again, byte by byte
		i := g.IntN(len(wire))
		switch g.IntN(4) {
		case 0:
			wire = slices.Delete(wire, i, i+1)
		case 1:
			wire = slices.Insert(wire, i, g.one("\r", "\n", " ", "\t", ":", "\x00", ",", ";", "\x0b", "\x7f", "\x85", "\xff", "0", "/")[0])
		case 2:
			wire[i] = byte(g.IntN(256))
		case 3:
			wire = wire[:i+1]
		}
	}
	return wire
}

func (g strange) request() string {
	framing, body := g.framing()
	lines := []string{"Host" + g.colon() + g.often("shop.test", "SHOP.test:80", "shop.test.", "shop.test:0", "a b", "u@shop.test", "shop.test,x", "[::1]:8080", "[::1", "", "shop.test:99999", "sh%6fp.test", "..", "shop.test/x", "a#b", "192.0.2.1")}
	lines = append(lines, framing...)
	for range g.IntN(4) {
		lines = append(lines, g.field())
	}
	g.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	method := g.often(g.one("GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH"), "get", "PURGE", "CONNECT", "TRACE", "M-SEARCH", "G(T", "", "Post", strings.Repeat("M", 33), "PRI")
	target := g.target()
	if g.IntN(20) == 0 {
		method, target = "OPTIONS", "*"
	}
	var b strings.Builder
	b.WriteString(method + g.often(" ", "  ", "\t", " \x0b") + target + g.often(" ", "  ", "\t", "", "%20") + g.often("HTTP/1.1", "HTTP/1.0", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.1 ", "HTTP/11", "", "HTTP/01.1"))
	b.WriteString(g.eol())
	for _, line := range lines {
		b.WriteString(line + g.eol())
	}
	return b.String() + g.eol() + body
}

func (g strange) eol() string {
	if g.IntN(150) > 0 {
		return "\r\n"
	}
	return g.one("\n", "\r", "\r\r\n", "\n\r", "\r\n ", "\r\n\t", "\x00\r\n", "")
}

func (g strange) colon() string {
	return g.often(": ", ":", ":\t", " :", "\t: ", ":\x0b", ":  ", " ", "=")
}

func (g strange) target() string {
	return g.often(g.one("/", "/items", "/a/b?c=d", "/a%2Fb", "/caf%c3%a9", "/a|b", "/a//b", "/a/./b/../c", "/?q=100%", "/a;b=1"),
		"http://shop.test/x", "HTTP://shop.test:80", "http://evil.test/", "https://shop.test/", "http://shop.test?x", "http://shop.test#x", "http://u@shop.test/", "http:///x", "http:/x", "ftp://shop.test/",
		"//evil.test/x", "items", "*", "/../x", "/a/..;/b", "/..%2fx", "/a\\b", "/a#b", "/a%", "/a%00", "/caf\xe9", "/caf\xc3\xa9", "/a\x7fb", "/%c0%ae", "http://shop.test\\x", "/"+strings.Repeat("a", 8191), "/"+strings.Repeat("a", 8192), "shop.test:80", "?x")
}

func (g strange) field() string {
	name := g.often(g.one("X-A", "Accept", "Cookie", "X_B", "User-Agent"), "Content_Length", "Transfer.Encoding", "Content-Length ", " X-A", "X A", "", "X\xc3\xb6", "Transfer-Encoding\x00", "X-Countersign-Peer", "Host", "HOST", "X(", ":path")
	value := g.often(g.one("1", "a, b", "\xe4\xf6", "a\tb", "", " x "), "a\x01b", "a\x7f", "a\x00b", "chunked", strings.Repeat("b", 9000))
	switch g.IntN(12) {
	case 0:
		return "Connection" + g.colon() + g.one("close", "keep-alive", "Close, x", "x-a", "host", "content-length", ",,", "Transfer-Encoding", "a b", "te", strings.Repeat("a,", 17), "keep-alive, close", "\"close\"")
	case 1:
		return "Expect" + g.colon() + g.one("100-continue", "100-Continue", "200-ok", "100-continue, 100-continue", "")
	case 2:
		return "TE" + g.colon() + g.one("trailers", "gzip, chunked", "chunked")
	case 3:
		return "Trailer" + g.colon() + g.one("x-sum", "Content-Length", "transfer-encoding, x", "Trailer", "host")
	case 4:
		return "Upgrade" + g.colon() + g.one("h2c", "TLS/1.0", "HTTP/2.0")
	}
	return name + g.colon() + value
}

// framing gives the fields that say how long a body is, and a body.
func (g strange) framing() (fields []string, body string) {
	data := g.one("", "a", "hello", "GET /x HTTP/1.1\r\nHost: shop.test\r\n\r\n", strings.Repeat("z", 5000), "0\r\n\r\n")
	length := func() string {
		n := fmt.Sprint(len(data))
		value := g.often(n, "+"+n, "-"+n, "0x"+n, n+","+n, n+" ", "0"+n, n+".0", n+" "+n, "", "\""+n+"\"", fmt.Sprint(len(data)+1), "9223372036854775808", "18446744073709551616", "999999999999999999", strings.Repeat("0", 17)+"1", n+";", "\u0664", "1e1", n+"\x00", "Infinity")
		return g.often("Content-Length", "content-length", "CONTENT-LENGTH", "Content-Length\t", "Content-\r\n Length", "Content–Length") + g.colon() + value
	}
	coding := func() string {
		value := g.often("chunked", "Chunked", "chunked, chunked", "identity", "gzip, chunked", "chunked;q=1", "xchunked", "\"chunked\"", "chunked,", ",chunked", "\x0bchunked", "chunked\x00", "chunked ", "chu\r\n nked", "", "chunked, identity", "\r\n chunked", "cHuNkEd", "chunKed") // the last with a Kelvin sign
		return g.often("Transfer-Encoding", "transfer-encoding", "Transfer-Encoding ", "Transfer_Encoding", "Transfer-encoding", "TRANSFER-ENCODING") + g.colon() + value
	}
	switch g.IntN(10) {
	case 0, 1:
		return nil, ""
	case 2, 3, 4:
		return []string{length()}, data
	case 5, 6, 7:
		return []string{coding()}, g.chunks(data)
	case 8:
		return []string{length(), g.one(length(), coding())}, g.one(data, g.chunks(data))
	}
	return []string{coding(), g.one(length(), coding())}, g.chunks(data)
}

func (g strange) chunks(data string) string {
	var b strings.Builder
	for len(data) > 0 {
		n := 1 + g.IntN(len(data))
		size := g.often(fmt.Sprintf("%x", n), fmt.Sprintf("%X", n), fmt.Sprintf("%015x", n), fmt.Sprintf("%016x", n), fmt.Sprintf("0x%x", n), fmt.Sprintf("+%x", n), fmt.Sprintf("-%x", n), fmt.Sprintf(" %x", n), fmt.Sprintf("%x ", n), fmt.Sprintf("%x", n+1), fmt.Sprintf("%x_", n), "", "ffffffffffffffff", "fffffffffffffff", "8000000000000000")
		b.WriteString(size + g.often("", ";a=b", ";", " ;a", ";a\rb", ";a\nb", ";\"\r\n\"", ";"+strings.Repeat("x", 255), ";"+strings.Repeat("x", 256), "\x00", ";\xff") + g.eol() + data[:n] + g.eol())
		data = data[n:]
	}
	b.WriteString(g.often("0", "000", "00000000000000000", "-0", "0;x", "", "0 ") + g.eol())
	for range g.IntN(2) * g.IntN(3) {
		b.WriteString(g.one("X-Sum: 1", "Content-Length: 5", "Transfer-Encoding: chunked", "Host: evil.test", "X-B : 1", " X-C: 1", "X-D", "Authorization: Bearer x", "X-E: \x01", "X-F: "+strings.Repeat("f", 4000)) + g.eol())
	}
	return b.String() + g.eol()
}

// Whatever bytes a stranger sends, the origin gets the requests that the strictest reader finds in them, each once, in
// their order and with just that body; all else is refused, and what stands behind it is never read.
func FuzzDoorMessages(f *testing.F) {
	h, o := newStrangeHouse(f)
	for seed := range uint64(600) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		g := strange{rand.New(rand.NewPCG(seed, 1))}
		wire := g.message()
		checkStrange(t, h, o, wire, g.IntN(2) == 0)
	})
}

// FuzzDoorBytes is the same for bytes that a fuzzer finds.
func FuzzDoorBytes(f *testing.F) {
	h, o := newStrangeHouse(f)
	for seed := range uint64(50) {
		f.Add(strange{rand.New(rand.NewPCG(seed, 2))}.message())
	}
	f.Fuzz(func(t *testing.T, wire []byte) { checkStrange(t, h, o, wire, false) })
}

func checkStrange(t *testing.T, h *house, o *origin, wire []byte, pieces bool) {
	o.taken()
	want := readStrictly(wire)
	if bytes.HasPrefix(wire, []byte("PRI * HTTP/2.0\r\n\r\n")) || slices.ContainsFunc(want.requests, func(a arrival) bool {
		return strings.Contains(strings.ToLower(strings.Join(a.header["Upgrade"], ",")), "websocket")
	}) {
		return // another protocol, with rules of its own
	}
	conn, err := net.Dial("tcp", h.http)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for rest := wire; len(rest) > 0; {
			n := len(rest)
			if pieces {
				n = min(n, 1+len(wire)/7)
			}
			if _, err := conn.Write(rest[:n]); err != nil {
				return // refused, and no longer read
			}
			rest = rest[n:]
		}
	}()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s\nwire %q\nmeans %d requests, then %d", fmt.Sprintf(format, args...), wire, len(want.requests), want.end)
	}
	br := bufio.NewReader(conn)
	next := func(method string) (int, error) {
		for {
			res, err := http.ReadResponse(br, &http.Request{Method: method})
			if err != nil {
				return 0, err
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				return 0, err
			}
			if res.StatusCode != 100 {
				return res.StatusCode, nil
			}
		}
	}
	var forwarded []arrival
	for i, a := range want.requests {
		status, err := next(a.method)
		switch {
		case err != nil:
			fail("no answer to request %d: %v", i, err)
		case want.local[i] && status != 204, !want.local[i] && status != 200:
			fail("request %d: %d", i, status)
		case status == 200:
			forwarded = append(forwarded, a)
		}
	}
	<-sent
	if want.end == cutOff || want.end == ended {
		_ = conn.(*net.TCPConn).CloseWrite()
	}
	switch status, err := next("HEAD"); { // whatever follows the head of the last answer
	case err == nil && status == 204 && want.early: // and then the connection is closed
	case want.end == wrong && (err != nil || status < 400):
		fail("the malformed one: %d, %v", status, err)
	case want.end == cutOff && err == nil && status < 400, (want.end == ended || want.end == hangsUp) && err == nil:
		fail("more than was asked for: %d", status)
	}
	if rest, err := io.ReadAll(br); err != nil && !errors.Is(err, syscall.ECONNRESET) || bytes.Contains(rest, []byte("HTTP/1.1 ")) {
		fail("the connection lives: %q, %v", rest, err)
	}
	for _, a := range o.taken() {
		if len(forwarded) == 0 {
			fail("the origin got more than was sent: %+v", a)
		}
		sent := forwarded[0]
		forwarded = forwarded[1:]
		if sent.length < 0 || sent.length == 0 {
			sent.length = a.length // chunks may arrive as a length, and a length of 0 as none
			if a.length > 0 && int(a.length) != len(a.body) {
				fail("length %d and %d bytes", a.length, len(a.body))
			}
		}
		if a.method != sent.method || a.target != sent.target || a.host != sent.host || a.body != sent.body || a.length != sent.length {
			fail("got  %q %q %q %q %d\nsent %q %q %q %q %d", a.method, a.target, a.host, a.body, a.length, sent.method, sent.target, sent.host, sent.body, sent.length)
		}
		for _, name := range []string{"Content_length", "Transfer.encoding", "Transfer_encoding", "X-Countersign-Peer", "Upgrade", "Keep-Alive"} {
			if v, ok := a.header[name]; ok {
				fail("%s %q arrived", name, v)
			}
		}
		for _, name := range []string{"Content-Length", "Transfer-Encoding", "Host", "Authorization"} {
			if _, ok := a.trailer[name]; ok {
				fail("trailer %s arrived", name)
			}
		}
	}
	if len(forwarded) > 0 {
		fail("%d answered that never arrived", len(forwarded))
	}
}
