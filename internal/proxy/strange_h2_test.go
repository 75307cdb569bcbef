package proxy

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"countersign.dev/internal/h1"
)

// h2Strange is one request over HTTP/2: what is sent, and what the strictest reader makes of it.
type h2Strange struct {
	fields, trailer []field
	data            []string
}

func (g strange) h2() (s h2Strange) {
	pseudo := []field{
		{":method", g.often(g.one("GET", "POST", "PUT", "HEAD", "DELETE"), "get", "PURGE", "TRACE", "CONNECT", "GE T", "", "G\x00T", "POST\r\nX: y")},
		{":scheme", g.often("https", "http", "ftp", "")},
		{":path", g.often(g.one("/", "/items", "/a/b?c=d", "/a//b", "/a/./b/../c", "/?q=100%", "/a%2Fb"), "", "*", "items", "https://shop.test/x", "/it ems", "/a#b", "/a\\b", "/..", "/a%", "/a%00", "/a\x7f", "/a\r\nX: y", "//evil.test/x", "/a HTTP/1.1\r\nHost: evil.test\r\n\r\n", "/caf\xe9")},
		{":authority", g.often("shop.test", "SHOP.test:443", "u@shop.test", "shop.test,pay.test", "shop.test/x", "shop.test:0", "", "shop.test\r\nX: y", "a b", "pay.test")},
	}
	switch g.IntN(12) {
	case 0:
		pseudo = append(pseudo, pseudo[g.IntN(4)])
	case 1:
		pseudo = slices.Delete(pseudo, g.IntN(4), len(pseudo))
	case 2:
		pseudo = append(pseudo, field{g.one(":status", ":version", ":protocol", ":", ":Path"), g.one("200", "websocket", "/")})
	}
	var fields []field
	for range g.IntN(4) {
		fields = append(fields, field{
			g.often(g.one("x-a", "accept", "user-agent"), "X-A", "x a", "", "x-a:", "x\x00a", "x\r\nhost", "content_length", "transfer.encoding", "x-countersign-peer", "x\xc3\xb6"),
			g.often(g.one("1", "a, b", "a\tb", "\xe4", ""), " 1", "1 ", "1\t", "1\r\nx: y", "1\n", "a\x00b", "a\x01b", "a\x7f"),
		})
	}
	length := 0
	for range g.IntN(3) {
		s.data = append(s.data, g.one("", "a", "hello", "0\r\n\r\n", strings.Repeat("z", 5000), "GET /x HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
		length += len(s.data[len(s.data)-1])
	}
	n := fmt.Sprint(length)
	for range g.IntN(3) {
		switch g.IntN(8) {
		case 0, 1, 2:
			fields = append(fields, field{"content-length", g.often(n, "+"+n, n+","+n, "", n+" ", "0"+n, fmt.Sprint(length+1), fmt.Sprint(length-1), "18446744073709551616", "0x"+n, "-1")})
		case 3:
			fields = append(fields, field{g.one("connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection", "http2-settings"), g.one("close", "chunked", "identity", "h2c", "")})
		case 4:
			fields = append(fields, field{"te", g.one("trailers", "trailers, deflate", "chunked", "")})
		case 5:
			fields = append(fields, field{"host", g.often("shop.test", "evil.test", "", "shop.test:443")})
		case 6:
			fields = append(fields, field{"expect", g.one("200-ok", "100-continue")})
		case 7:
			fields = append(fields, field{"trailer", g.one("x-sum", "content-length", "authorization")})
		}
	}
	s.fields = append(pseudo, fields...)
	if g.IntN(10) == 0 {
		g.Shuffle(len(s.fields), func(i, j int) { s.fields[i], s.fields[j] = s.fields[j], s.fields[i] })
	}
	if g.IntN(4) == 0 {
		s.trailer = []field{{g.one("x-sum", "X-Sum", ":path", "content-length", "authorization", "connection", "transfer-encoding"), g.one("1", "a\r\nb", "chunked")}}
	}
	return s
}

var (
	h2Name  = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9a-z-]+$")
	h2Value = regexp.MustCompile(`^[\t\x20-\x7e\x{80}-\x{ff}]*$`)
)

// means gives the request that a message is, if it is one. Where sure is false, it may be refused as well: also when
// its length has come, the origin has it whole, and the trailers turn out to be wrong.
func (s h2Strange) means() (a arrival, ok, sure bool) {
	seen, regular := map[string]int{}, false
	first := map[string]string{}
	for _, f := range s.fields {
		name, value := f[0], f[1]
		if strings.HasPrefix(name, ":") {
			if regular || value == "" && name != ":authority" || !slices.Contains([]string{":method", ":scheme", ":path", ":authority"}, name) {
				return a, false, true
			}
		} else {
			regular = true
			if !h2Name.MatchString(latin([]byte(name))) {
				return a, false, true
			}
		}
		if !h2Value.MatchString(latin([]byte(value))) || strings.Trim(value, " \t") != value {
			return a, false, true
		}
		if seen[name]++; seen[name] > 1 && slices.Contains([]string{":method", ":scheme", ":path", ":authority", "host", "content-length", "te", "expect"}, name) {
			return a, false, true
		}
		first[name] = value
		switch name {
		case "connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection":
			return a, false, true
		case ":scheme":
			ok = value == "http" || value == "https"
		case "te":
			ok = value == "trailers" || value == ""
		case "expect":
			ok = value == "100-continue"
		case "content-length":
			ok = strictLength.MatchString(value)
		default:
			ok = true
		}
		if !ok {
			return a, false, true
		}
	}
	body := strings.Join(s.data, "")
	length := strings.TrimLeft(first["content-length"], "0")
	if seen["content-length"] > 0 && length != strings.TrimLeft(fmt.Sprint(len(body)), "0") {
		return a, false, true
	}
	if seen[":method"] == 0 || seen[":scheme"] == 0 || seen[":path"] == 0 || seen[":authority"]+seen["host"] == 0 {
		return a, false, true
	}
	authority := first[":authority"]
	switch host := first["host"]; {
	case authority == "": // or absent: net/http does not tell
		authority = host
	case seen["host"] > 0 && !strings.EqualFold(host, authority):
		return a, false, true
	}
	path := first[":path"]
	if path[0] != '/' || !strictLine.MatchString(latin([]byte(first[":method"]+" "+path+" HTTP/1.1"))) {
		return a, false, true
	}
	target, ok := strictTarget(first[":method"], path, []string{authority}, true)
	sure = seen["trailer"] == 0 && seen["te"] == 0 || s.trailer == nil && first["te"] != "" // net/http minds declared trailers
	for _, f := range s.trailer {
		if !h2Name.MatchString(f[0]) || !h2Value.MatchString(latin([]byte(f[1]))) {
			ok = ok && seen["content-length"] > 0
		}
		sure = sure && f[0] == "x-sum"
	}
	return arrival{method: first[":method"], target: target, host: authority, body: body}, ok, sure
}

// The same over HTTP/2: the origin gets what the message means, once, or nothing.
func FuzzDoorHTTP2(f *testing.F) {
	h, o := newStrangeHouse(f)
	var cases atomic.Int64
	for seed := range uint64(400) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		s := strange{rand.New(rand.NewPCG(seed, 3))}.h2()
		want, ok, sure := s.means()
		number := fmt.Sprint(cases.Add(1)) // the origin may have one before still, whose client is gone
		s.fields = append(s.fields, field{"x-case", number})
		conn, err := tls.Dial("tcp", h.https, &tls.Config{InsecureSkipVerify: true, ServerName: "shop.test", NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		c := newH2Client(conn)
		c.headers(1, len(s.data) == 0 && s.trailer == nil, c.encode(s.fields...))
		for i, data := range s.data {
			_ = c.WriteData(1, i == len(s.data)-1 && s.trailer == nil, []byte(data))
		}
		if s.trailer != nil {
			c.headers(1, true, c.encode(s.trailer...))
		}
		got := c.outcome(1)
		arrived := slices.DeleteFunc(o.taken(), func(a arrival) bool { return a.header.Get("X-Case") != number })
		fail := func(what string) {
			t.Helper()
			t.Fatalf("%s: %s, %d arrived %+v\nsent %q, %q, %q\nmeans %+v, %v, sure %v", what, got, len(arrived), arrived, s.fields, s.data, s.trailer, want, ok, sure)
		}
		host, _ := h1.LookupHost(want.host)
		switch {
		case got != "200" && len(arrived) > 0 && (!ok || sure):
			fail("refused and forwarded")
		case got != "200" && (got == "closed" || strings.HasPrefix(got, "RST ") || strings.HasPrefix(got, "GOAWAY ") || len(got) == 3 && got >= "400"):
			if ok && sure && (host == "shop.test" || got != "421" && got != "404") {
				fail("refused")
			}
		case got != "200":
			fail("answered neither way")
		case !ok || len(arrived) != 1:
			fail("accepted")
		default:
			a := arrived[0]
			if a.method != want.method || a.target != want.target || a.host != want.host || a.body != want.body || a.length >= 0 && int(a.length) != len(a.body) {
				fail("changed")
			}
			for _, name := range []string{"Content_length", "Transfer.encoding", "X-Countersign-Peer", "Http2-Settings"} {
				if _, sent := a.header[http.CanonicalHeaderKey(name)]; sent {
					fail(name)
				}
			}
		}
	})
}
