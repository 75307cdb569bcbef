// Package h1test holds the cases of HTTP/1 strictness (http-strictness 17.1, dataplane 23.1) as the base profile
// answers them, for the tests of the grammar and of the gate. The same bytes run against both.
//
// Its words: the wire notation of the references, so that a row can be compared with its source. ⏎ is CRLF, ␊ LF,
// ␍ CR, ␉ tab, ␀ NUL, ␠ a blank that would be overlooked, ‹hh› a byte, and [H] [G] [P] [C] [W] the usual lines.
package h1test

import (
	"regexp"
	"strconv"
	"strings"
)

// Case is what a client sends on one connection and the statuses it gets, in order. Any status but 200 ends the
// connection. Status 0 is a connection that closes without an answer, because the client has gone.
type Case struct {
	Name   string
	Bytes  string // in wire notation
	Status []int
	Reason string // of the fault
}

var lines = strings.NewReplacer(
	"[G]", "GET /items HTTP/1.1⏎Host: shop.test⏎",
	"[P]", "POST /up HTTP/1.1⏎Host: shop.test⏎",
	"[H]", "Host: shop.test⏎",
	"[C]", "Transfer-Encoding: chunked⏎",
	"[W]", "Connection: Upgrade⏎Upgrade: websocket⏎Sec-WebSocket-Version: 13⏎Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==⏎",
)

var marks = strings.NewReplacer("⏎", "\r\n", "␊", "\n", "␍", "\r", "␉", "\t", "␀", "\x00", "␠", " ")

var byteMark = regexp.MustCompile(`‹[0-9A-Fa-f]{2}›`)

// Wire turns the notation into bytes.
func Wire(s string) []byte {
	s = marks.Replace(lines.Replace(s))
	s = byteMark.ReplaceAllStringFunc(s, func(m string) string {
		v, _ := strconv.ParseUint(strings.Trim(m, "‹›"), 16, 8) // the pattern allows nothing else
		return string([]byte{byte(v)})
	})
	return []byte(s)
}

func fields(n int) string { return strings.Repeat("X-N: 1⏎", n) }

func x(c string, n int) string { return strings.Repeat(c, n) }

var (
	ok     = []int{200}
	bad    = []int{400}
	okBad  = []int{200, 400}
	twice  = []int{200, 200}
	gone   = []int{0}
	large  = []int{431}
	refuse = []int{417}
)

const (
	requestLine = "bad_request_line"
	header      = "bad_header"
	framing     = "ambiguous_framing"
	path        = "bad_path"
	authority   = "authority_mismatch"
	tooLarge    = "too_large"
	upgrade     = "upgrade_refused"
)

// Requests are all cases, by their numbers in http-strictness 17.1.
var Requests = [][]Case{requestLines, targets, paths, hosts, fieldLines, lengths, codings, chunks, connections, upgrades, pipelines}

var requestLines = []Case{
	{"A1 plain", "GET /items?id=7 HTTP/1.1⏎[H]⏎", ok, ""},
	{"A2 empty lines before", "⏎⏎[G]⏎", bad, requestLine},
	{"A3 LF before", "␊[G]⏎", bad, header},
	{"A4 double space", "GET  /items HTTP/1.1⏎[H]⏎", bad, requestLine},
	{"A5 double space before version", "GET /items  HTTP/1.1⏎[H]⏎", bad, requestLine},
	{"A6 trailing space", "GET /items HTTP/1.1␠⏎[H]⏎", bad, requestLine},
	{"A7 leading space", "␠[G]⏎", bad, requestLine},
	{"A8 tab as separator", "GET␉/items HTTP/1.1⏎[H]⏎", bad, requestLine},
	{"A9 no version", "GET /items⏎[H]⏎", bad, requestLine},
	{"A10 bare LF", "GET /items HTTP/1.1␊[H]⏎", bad, header},
	{"A11 bare CR", "GET /items HTTP/1.1␍[H]⏎", bad, header},
	{"A12 minor version", "GET /items HTTP/1.3⏎[H]⏎", bad, requestLine},
	{"A13 HTTP/2.0", "GET /items HTTP/2.0⏎[H]⏎", []int{505}, requestLine},
	{"A14 HTTP/0.9", "GET /items HTTP/0.9⏎[H]⏎", []int{505}, requestLine},
	{"A15 HTTP/1.10", "GET /items HTTP/1.10⏎[H]⏎", bad, requestLine},
	{"A16 HTTPS/1.1", "GET /items HTTPS/1.1⏎[H]⏎", bad, requestLine},
	{"A17 Http/1.1", "GET /items Http/1.1⏎[H]⏎", bad, requestLine},
	{"A18 lower-case method, base", "get /items HTTP/1.1⏎[H]⏎", ok, ""},
	{"A19 method not a token", "G(T /items HTTP/1.1⏎[H]⏎", bad, requestLine},
	{"A20 unregistered method", "PURGE /items HTTP/1.1⏎[H]⏎", ok, ""},
	{"A21 method of 33", x("M", 33) + " /items HTTP/1.1⏎[H]⏎", bad, requestLine},
	{"A21a method of 32", x("M", 32) + " /items HTTP/1.1⏎[H]⏎", ok, ""},
	{"A22 CONNECT", "CONNECT db.test:5432 HTTP/1.1⏎Host: db.test:5432⏎⏎", []int{405}, requestLine},
	{"A23 TRACE, base", "TRACE /items HTTP/1.1⏎[H]⏎", ok, ""},
	{"A24 OPTIONS *", "OPTIONS * HTTP/1.1⏎[H]⏎", ok, ""},
	{"A25 GET *", "GET * HTTP/1.1⏎[H]⏎", bad, requestLine},
	{"A26 broken preface", "PRI * HTTP/2.0⏎⏎XX⏎⏎", []int{505}, requestLine},
	{"A27 control in method", "GE‹01›T /items HTTP/1.1⏎[H]⏎", bad, requestLine},
}

var targets = []Case{
	{"B1 relative", "GET items HTTP/1.1⏎[H]⏎", bad, requestLine},
	{"B2 absolute-form", "GET http://shop.test/items HTTP/1.1⏎[H]⏎", ok, ""},
	{"B3 case and default port", "GET HTTP://SHOP.test:80/items HTTP/1.1⏎[H]⏎", ok, ""},
	{"B4 no path", "GET http://shop.test HTTP/1.1⏎[H]⏎", ok, ""},
	{"B4a no path, query", "GET http://shop.test?a=1 HTTP/1.1⏎[H]⏎", ok, ""},
	{"B5 other authority", "GET http://shop.test.evil.example/items HTTP/1.1⏎[H]⏎", bad, authority},
	{"B5a other port", "GET http://shop.test:8080/items HTTP/1.1⏎[H]⏎", bad, authority},
	{"B6 empty authority", "GET http:///items HTTP/1.1⏎[H]⏎", bad, authority},
	{"B7 userinfo", "GET http://u@shop.test/items HTTP/1.1⏎[H]⏎", bad, authority},
	{"B7a fragment after authority", "GET http://shop.test#x HTTP/1.1⏎[H]⏎", bad, authority},
	{"B8 other scheme", "GET ftp://shop.test/items HTTP/1.1⏎[H]⏎", bad, requestLine},
	{"B8a https on cleartext", "GET https://shop.test/items HTTP/1.1⏎[H]⏎", bad, requestLine},
	{"B9 network-path form", "GET //shop.test/items HTTP/1.1⏎[H]⏎", ok, ""},
	{"B10 fragment, base", "GET /items#top HTTP/1.1⏎[H]⏎", ok, ""},
	{"B11 Latin-1 byte, base", "GET /caf‹E9› HTTP/1.1⏎[H]⏎", ok, ""},
	{"B12 raw UTF-8", "GET /caf‹C3›‹A9› HTTP/1.1⏎[H]⏎", ok, ""},
	{"B13 short triplet", "GET /a%2 HTTP/1.1⏎[H]⏎", bad, path},
	{"B14 bad triplet", "GET /a%zz HTTP/1.1⏎[H]⏎", bad, path},
	{"B14a bad triplet, absolute-form", "GET http://shop.test/a%zz HTTP/1.1⏎[H]⏎", bad, path},
	{"B15 8193 bytes", "GET /" + x("a", 8192) + " HTTP/1.1⏎[H]⏎", []int{414}, tooLarge},
	{"B15a 8192 bytes", "GET /" + x("a", 8191) + " HTTP/1.1⏎[H]⏎", ok, ""},
	{"B15b no end", "GET /" + x("a", 20000), []int{414}, tooLarge},
	{"B16 query not decoded", "GET /items?q=100% HTTP/1.1⏎[H]⏎", ok, ""},
	{"B17 space in query", "GET /items?q=a b HTTP/1.1⏎[H]⏎", bad, requestLine},
	{"B18 backslash, base", "GET /x\\items HTTP/1.1⏎[H]⏎", ok, ""},
	{"B19 JSON in query", `GET /items?f={"a":1} HTTP/1.1⏎[H]⏎`, ok, ""},
}

var paths = []Case{
	{"C1 dot", "GET /a/./b HTTP/1.1⏎[H]⏎", ok, ""},
	{"C2 two dots", "GET /a/b/../c HTTP/1.1⏎[H]⏎", ok, ""},
	{"C3 up to the root", "GET /a/.. HTTP/1.1⏎[H]⏎", ok, ""},
	{"C4 climbs, base", "GET /../etc HTTP/1.1⏎[H]⏎", ok, ""},
	{"C5 climbs, encoded, base", "GET /a/%2E%2E/%2e./etc HTTP/1.1⏎[H]⏎", ok, ""},
	{"C6 encoded dots", "GET /a/%2e%2E/b HTTP/1.1⏎[H]⏎", ok, ""},
	{"C7 slashes", "GET /a//b///c/ HTTP/1.1⏎[H]⏎", ok, ""},
	{"C8 unreserved", "GET /%61dmin HTTP/1.1⏎[H]⏎", ok, ""},
	{"C9 escaped slash, base", "GET /a%2Fb HTTP/1.1⏎[H]⏎", ok, ""},
	{"C10 escaped backslash, base", "GET /a%5cb HTTP/1.1⏎[H]⏎", ok, ""},
	{"C11 escaped percent, base", "GET /a/%252e%252e/b HTTP/1.1⏎[H]⏎", ok, ""},
	{"C12 escaped semicolon, base", "GET /a%3bx HTTP/1.1⏎[H]⏎", ok, ""},
	{"C12a escaped number sign, base", "GET /a%23x HTTP/1.1⏎[H]⏎", ok, ""},
	{"C12b escaped question mark, base", "GET /a%3Fx HTTP/1.1⏎[H]⏎", ok, ""},
	{"C13 escaped control, base", "GET /a%0d%0aX-Y:1 HTTP/1.1⏎[H]⏎", ok, ""},
	{"C14 dots with parameter", "GET /..;/admin HTTP/1.1⏎[H]⏎", bad, path},
	{"C14 one dot", "GET /a/.;x/b HTTP/1.1⏎[H]⏎", bad, path},
	{"C14 at the end", "GET /a/..; HTTP/1.1⏎[H]⏎", bad, path},
	{"C14a encoded", "GET /a/%2e%2e;/b HTTP/1.1⏎[H]⏎", bad, path},
	{"C14b three dots", "GET /a/...;v/b HTTP/1.1⏎[H]⏎", ok, ""},
	{"C15 parameter", "GET /a;v=1/b HTTP/1.1⏎[H]⏎", ok, ""},
	{"C16 overlong UTF-8, base", "GET /a%c0%af HTTP/1.1⏎[H]⏎", ok, ""},
	{"C17 UTF-8", "GET /caf%c3%a9 HTTP/1.1⏎[H]⏎", ok, ""},
	{"C18 bar", "GET /a|b HTTP/1.1⏎[H]⏎", ok, ""},
	{"C19 escaped slash, lax", "GET /a%2fb HTTP/1.1⏎Host: lax.test⏎⏎", ok, ""},
	{"C20 braces", "GET /a{b}\" HTTP/1.1⏎[H]⏎", ok, ""},
	{"C21 dot at the end", "GET /a/b/. HTTP/1.1⏎[H]⏎", ok, ""},
	{"C22 hidden dot segment", "GET /a/..%2fb HTTP/1.1⏎[H]⏎", bad, path},
	{"C23 hidden dot segment, lax", "GET /a/..%2fb HTTP/1.1⏎Host: lax.test⏎⏎", bad, path},
	{"C24 NUL", "GET /a%00b HTTP/1.1⏎Host: lax.test⏎⏎", bad, path},
	{"C25 two slashes", "GET // HTTP/1.1⏎[H]⏎", ok, ""},
	{"C25a three slashes", "GET /// HTTP/1.1⏎[H]⏎", ok, ""},
	{"C25b dots and slashes", "GET /a/..// HTTP/1.1⏎[H]⏎", ok, ""},
	{"C26 query kept", "GET //?x=1 HTTP/1.1⏎[H]⏎", ok, ""},
	{"C27 empty query", "GET /a? HTTP/1.1⏎[H]⏎", ok, ""},
}

var hosts = []Case{
	{"D1 no Host", "GET /items HTTP/1.1⏎Accept: */*⏎⏎", bad, header},
	{"D2 none in 1.0, base", "GET /items HTTP/1.0⏎⏎", ok, ""},
	{"D3 1.0 with Host", "GET /items HTTP/1.0⏎[H]⏎", ok, ""},
	{"D4 empty", "GET /items HTTP/1.1⏎Host:␠⏎⏎", bad, header},
	{"D5 twice, equal", "[G][H]⏎", bad, header},
	{"D5a twice in 1.0", "GET /items HTTP/1.0⏎[H][H]⏎", bad, header},
	{"D6 semicolon, base", "GET /items HTTP/1.1⏎Host: shop.test;x⏎⏎", ok, ""},
	{"D7 empty label, base", "GET /items HTTP/1.1⏎Host: shop..test⏎⏎", ok, ""},
	{"D8 port 0, base", "GET /items HTTP/1.1⏎Host: shop.test:0⏎⏎", ok, ""},
	{"D9 port", "GET /items HTTP/1.1⏎Host: shop.test:65536⏎⏎", bad, header},
	{"D10 port", "GET /items HTTP/1.1⏎Host: shop.test:8x⏎⏎", bad, header},
	{"D11 empty port, base", "GET /items HTTP/1.1⏎Host: shop.test:⏎⏎", ok, ""},
	{"D12 any port", "GET /items HTTP/1.1⏎Host: shop.test:8443⏎⏎", ok, ""},
	{"D13 IPv6", "GET /items HTTP/1.1⏎Host: [::1]:80⏎⏎", ok, ""},
	{"D14 open bracket", "GET /items HTTP/1.1⏎Host: [::1⏎⏎", bad, header},
	{"D14a after bracket", "GET /items HTTP/1.1⏎Host: [::1]x⏎⏎", bad, header},
	{"D15 zone, base", "GET /items HTTP/1.1⏎Host: [fe80::1%25eth0]⏎⏎", ok, ""},
	{"D16 final dot", "GET /items HTTP/1.1⏎Host: SHOP.TEST.⏎⏎", ok, ""},
	{"D17 percent", "GET /items HTTP/1.1⏎Host: shop%2etest⏎⏎", bad, header},
	{"D18 not ASCII", "GET /items HTTP/1.1⏎Host: sh‹C3›‹B6›p.test⏎⏎", bad, header},
	{"D19 question mark", "GET /items HTTP/1.1⏎Host: shop.test?x⏎⏎", bad, header},
	{"D19a userinfo", "GET /items HTTP/1.1⏎Host: a@b⏎⏎", bad, header},
	{"D19b slash", "GET /items HTTP/1.1⏎Host: a/b⏎⏎", bad, header},
	{"D20 space before colon", "GET /items HTTP/1.1⏎Host : shop.test⏎⏎", bad, header},
	{"D21 first line starts with tab", "GET /items HTTP/1.1⏎␉[H]⏎", bad, header},
	{"D22 label of 64, base", "GET /items HTTP/1.1⏎Host: " + x("a", 64) + ".test⏎⏎", ok, ""},
	{"D22a label of 63", "GET /items HTTP/1.1⏎Host: " + x("a", 63) + ".test⏎⏎", ok, ""},
}

var fieldLines = []Case{
	{"E1 folded", "[G]X-Note: a⏎␉b⏎⏎", bad, header},
	{"E2 space before colon", "[G]X-Note : a⏎⏎", bad, header},
	{"E3 space in name", "[G]X Note: a⏎⏎", bad, header},
	{"E4 no colon", "[G]X-Note=1⏎⏎", bad, header},
	{"E5 pseudo-field", "[G]:scheme: https⏎⏎", bad, header},
	{"E6 name not a token", "[G]X-N‹C3›‹B6›te: a⏎⏎", bad, header},
	{"E7 control", "[G]X-Note: a‹1B›b⏎⏎", bad, header},
	{"E8 DEL", "[G]X-Note: a‹7F›⏎⏎", bad, header},
	{"E9 bare CR", "[G]X-Note: a␍b⏎⏎", bad, header},
	{"E9a NUL", "[G]X-Note: a␀b⏎⏎", bad, header},
	{"E10 bare LF", "[G]X-Note: a␊X-Two: b⏎⏎", bad, header},
	{"E10a last line in LF", "[G]␊", bad, header},
	{"E11 obs-text", "[G]X-Note: ‹E4›‹F6›⏎⏎", ok, ""},
	{"E12 empty, tab inside", "[G]X-Note:⏎X-Two: a␉b and more than eight bytes⏎⏎", ok, ""},
	{"E13 97 fields", "[G]" + fields(96) + "⏎", large, tooLarge},
	{"E13a 97 fields and no end", "[G]" + fields(96), large, tooLarge},
	{"E14 96 fields", "[G]" + fields(95) + "⏎", ok, ""},
	{"E15 big field", "[G]X-Big: " + x("b", 16400) + "⏎⏎", ok, ""},
	{"E16 over 32 KiB", "[G]X-A: " + x("b", 16000) + "⏎X-B: " + x("b", 17000) + "⏎⏎", large, tooLarge},
	{"E16a over 32 KiB and no end", "[G]X-A: " + x("b", 33000), large, tooLarge},
	{"E17 alias", "[G]Content.Length: 5⏎⏎", ok, ""},
	{"E18 alias", "[G]Transfer_Encoding: chunked⏎⏎", ok, ""},
	{"E19 alias", "[G]X.Forwarded.For: 9.9.9.9⏎⏎", ok, ""},
	{"E20 alias", "[G]X_Countersign_Subject: admin⏎⏎", ok, ""},
	{"E21 identity", "[G]X-Countersign-Subject: admin⏎X-Forwarded-Client-Cert: By=x⏎Txn-Token: abc⏎⏎", ok, ""},
	{"E21a foreign identity", "[G]Remote-User: admin⏎X-Auth-Request-Email: a@b⏎X-Real-IP: 9.9.9.9⏎X-Original-URL: /admin⏎X-HTTP-Method-Override: DELETE⏎⏎", ok, ""},
	{"E22 rest is a new request", "[G]⏎⏎X-Two: b⏎⏎", okBad, requestLine},
}

var lengths = []Case{
	{"F1 twice, equal", "[P]Content-Length: 4⏎Content-Length: 4⏎⏎abcd", bad, framing},
	{"F2 twice", "[P]Content-Length: 4⏎content-length: 5⏎⏎abcde", bad, framing},
	{"F3 list", "[P]Content-Length: 4,4⏎⏎abcd", bad, framing},
	{"F4 sign", "[P]Content-Length: +4⏎⏎abcd", bad, framing},
	{"F5 fraction", "[P]Content-Length: 4.0⏎⏎abcd", bad, framing},
	{"F6 two numbers", "[P]Content-Length: 4 4⏎⏎abcd", bad, framing},
	{"F7 semicolon", "[P]Content-Length: 4;⏎⏎abcd", bad, framing},
	{"F8 hex", "[P]Content-Length: 0x4⏎⏎abcd", bad, framing},
	{"F9 exponent", "[P]Content-Length: 4e0⏎⏎abcd", bad, framing},
	{"F10 Arabic digit", "[P]Content-Length: ‹D9›‹A4›⏎⏎abcd", bad, framing},
	{"F11 empty", "[P]Content-Length:␠⏎⏎abcd", bad, framing},
	{"F12 white space after", "[P]Content-Length: 4␉␠⏎⏎abcd", ok, ""},
	{"F13 leading zeros", "[P]Content-Length: 0004⏎⏎abcd", ok, ""},
	{"F14 19 digits", "[P]Content-Length: 9223372036854775808⏎⏎abcd", bad, framing},
	{"F14a zeros, 19 digits", "[P]Content-Length: 0000000000000000004⏎⏎abcd", bad, framing},
	{"F15 gone inside the body", "[P]Content-Length: 4⏎⏎ab", gone, ""},
	{"F16 surplus bytes", "[P]Content-Length: 4⏎⏎abcdGET /⏎⏎", okBad, requestLine},
	{"F17 GET with content", "[G]Content-Length: 4⏎⏎abcd", ok, ""},
	{"F18 zero", "[G]Content-Length: 0⏎⏎", ok, ""},
}

var codings = []Case{
	{"G1 both", "[P][C]Content-Length: 0⏎⏎0⏎⏎", bad, framing},
	{"G2 both, other order", "[P]Content-Length: 12⏎[C]⏎2⏎ab⏎0⏎⏎", bad, framing},
	{"G2a both, other coding", "[P]Content-Length: 12⏎Transfer-Encoding: gzip⏎⏎2⏎ab⏎0⏎⏎", bad, framing},
	{"G3 case", "[P]Transfer-Encoding: CHUNKED⏎⏎2⏎ab⏎0⏎⏎", ok, ""},
	{"G4 list", "[P]Transfer-Encoding: chunked, identity⏎⏎0⏎⏎", []int{501}, framing},
	{"G5 list", "[P]Transfer-Encoding: identity, chunked⏎⏎0⏎⏎", []int{501}, framing},
	{"G6 gzip", "[P]Transfer-Encoding: gzip⏎⏎0⏎⏎", []int{501}, framing},
	{"G7 list", "[P]Transfer-Encoding: deflate, chunked⏎⏎0⏎⏎", []int{501}, framing},
	{"G8 two lines", "[P][C][C]⏎0⏎⏎", bad, framing},
	{"G9 empty element", "[P]Transfer-Encoding: chunked,⏎⏎0⏎⏎", bad, framing},
	{"G10 parameter", "[P]Transfer-Encoding: chunked;q=0⏎⏎0⏎⏎", bad, framing},
	{"G11 quotes are token bytes", "[P]Transfer-Encoding: 'chunked'⏎⏎0⏎⏎", []int{501}, framing},
	{"G12 twice", "[P]Transfer-Encoding: Chunked,CHUNKED⏎⏎0⏎⏎", []int{501}, framing},
	{"G13 not a list", `[P]Transfer-Encoding: "chunked"; x⏎⏎0⏎⏎`, bad, framing},
	{"G14 form feed", "[P]Transfer-Encoding: ‹0C›chunked⏎⏎0⏎⏎", bad, header},
	{"G15 folded", "[P]Transfer-Encoding:␠⏎␉chunked⏎⏎0⏎⏎", bad, header},
	{"G16 HTTP/1.0", "POST /up HTTP/1.0⏎[H]Connection: keep-alive⏎[C]⏎0⏎⏎", bad, framing},
	{"G17 empty", "[P]Transfer-Encoding:␠⏎⏎0⏎⏎", bad, framing},
	{"G18 TE", "[G]TE: gzip, trailers⏎Connection: TE⏎⏎", ok, ""},
	{"G19 Trailer names framing", "[P][C]Trailer: X-A, Content-Length⏎⏎0⏎⏎", bad, header},
}

var chunks = []Case{
	{"H1 extension", `[P][C]⏎5;name="v"⏎hello⏎0⏎⏎`, ok, ""},
	{"H2 LF after data", "[P][C]⏎5⏎hello␊0⏎⏎", bad, framing},
	{"H3 LF after size", "[P][C]⏎5␊hello⏎0⏎⏎", bad, framing},
	{"H4 leading space", "[P][C]⏎␠5⏎hello⏎0⏎⏎", bad, framing},
	{"H5 trailing tab", "[P][C]⏎5␉⏎hello⏎0⏎⏎", bad, framing},
	{"H6 space before extension", "[P][C]⏎5 ;x⏎hello⏎0⏎⏎", bad, framing},
	{"H7 not hex", "[P][C]⏎5h⏎hello⏎0⏎⏎", bad, framing},
	{"H7a 0x", "[P][C]⏎0x5⏎hello⏎0⏎⏎", bad, framing},
	{"H7b underscore", "[P][C]⏎1_0⏎hello⏎0⏎⏎", bad, framing},
	{"H8 sign", "[P][C]⏎-5⏎hello⏎0⏎⏎", bad, framing},
	{"H9 empty size", "[P][C]⏎⏎hello⏎0⏎⏎", bad, framing},
	{"H10 16 digits", "[P][C]⏎0000000000000005⏎hello⏎0⏎⏎", bad, framing},
	{"H11 15 digits", "[P][C]⏎000000000000005⏎hello⏎0⏎⏎", ok, ""},
	{"H12 long extension", "[P][C]⏎5;" + x("x", 300) + "⏎hello⏎0⏎⏎", bad, framing},
	{"H12a extensions of 20 KiB", "[P][C]⏎" + x("5;"+x("x", 200)+"⏎hello⏎", 100) + "0⏎⏎", bad, framing},
	{"H13 bare CR in extension", "[P][C]⏎5;a␍b⏎hello⏎0⏎⏎", bad, framing},
	{"H14 control in extension", "[P][C]⏎5;‹01›⏎hello⏎0⏎⏎", bad, framing},
	{"H15 data longer than size", "[P][C]⏎3⏎hello⏎0⏎⏎", bad, framing},
	{"H16 gone before the last chunk", "[P][C]⏎5⏎hello⏎", gone, ""},
	{"H17 last chunk 000", "[P][C]⏎5⏎hello⏎000⏎⏎", ok, ""},
	{"H18 trailer", "[P][C]⏎2⏎ab⏎0⏎X-Sum: 1⏎⏎", ok, ""},
	{"H19 forbidden trailers", "[P][C]⏎2⏎ab⏎0⏎Authorization: Bearer x⏎Content-Length: 9⏎⏎", ok, ""},
	{"H20 alias", "[P][C]⏎2⏎ab⏎0⏎Transfer_Encoding: x⏎⏎", ok, ""},
	{"H21 LF in trailers", "[P][C]⏎2⏎ab⏎0⏎X-Sum: 1␊⏎", bad, header},
	{"H22 folded trailer", "[P][C]⏎2⏎ab⏎0⏎X-Sum: 1⏎␠␠2⏎⏎", bad, header},
	{"H23 trailers over 4000 bytes", "[P][C]⏎2⏎ab⏎0⏎X-Sum: " + x("s", 4100) + "⏎⏎", bad, header},
	{"H23a trailers of 3900 bytes", "[P][C]⏎2⏎ab⏎0⏎X-Sum: " + x("s", 3900) + "⏎⏎", ok, ""},
	{"H23b 33 trailers", "[P][C]⏎2⏎ab⏎0⏎" + fields(33) + "⏎", bad, header},
	{"H24 pipelined", "[P][C]⏎2⏎ab⏎0⏎⏎GET /two HTTP/1.1⏎[H]⏎", twice, ""},
	{"H25 junk after the body", "[P][C]⏎2⏎ab⏎0⏎⏎GARBAGE⏎⏎", okBad, requestLine},
}

var connections = []Case{
	{"I1 names a field", "[G]Connection: X-Debug⏎X-Debug: 1⏎⏎", ok, ""},
	{"I2 authorization", "[G]Connection: close, Authorization⏎Authorization: Bearer x⏎⏎", bad, header},
	{"I3 host", "[G]Connection: Host⏎⏎", bad, header},
	{"I4 x-forwarded-proto", "[G]Connection: x-forwarded-proto⏎⏎", bad, header},
	{"I4a x-countersign-x", "[G]Connection: X-Countersign-X⏎⏎", bad, header},
	{"I4b remote-user, base", "[G]Connection: Remote-User⏎⏎", ok, ""},
	{"I5 content-length", "[P]Connection: Content-Length⏎Content-Length: 2⏎⏎ab", bad, header},
	{"I6 not a token", "[G]Connection: a@b⏎⏎", bad, header},
	{"I7 empty element", "[G]Connection: keep-alive, , TE⏎⏎", ok, ""},
	{"I8 17 options", "[G]Connection: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q⏎⏎", bad, header},
	{"I8a 16 options", "[G]Connection: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p⏎⏎", ok, ""},
	{"I9 257 bytes", "[G]Connection: " + x("a", 257) + "⏎⏎", bad, header},
	{"I10 lines are joined", "[G]Connection: x-a⏎Connection: traceparent⏎⏎", bad, header},
	{"I11 hop fields", "[G]Keep-Alive: timeout=600⏎Proxy-Connection: keep-alive⏎Proxy-Authorization: Basic eA==⏎⏎", ok, ""},
	{"I13 other expectation", "[P]Expect: 100-continue;q=1⏎Content-Length: 2⏎⏎ab", refuse, header},
	{"I13a two expectations", "[P]Expect: 100-continue⏎Expect: 100-continue⏎Content-Length: 2⏎⏎ab", refuse, header},
	{"I14 ignored in 1.0", "POST /up HTTP/1.0⏎[H]Expect: 100-continue⏎Content-Length: 2⏎⏎ab", ok, ""},
	{"I14a not ignored", "POST /up HTTP/1.0⏎[H]Expect: 200-ok⏎Content-Length: 2⏎⏎ab", refuse, header},
}

var upgrades = []Case{
	{"J1 h2c", "[G]Connection: Upgrade, HTTP2-Settings⏎Upgrade: h2c, websocket⏎HTTP2-Settings: AAMAAABk⏎⏎", ok, ""},
	{"J2 TLS", "[G]Connection: Upgrade⏎Upgrade: TLS/1.0⏎⏎", ok, ""},
	{"J3 version 8", "[G]Connection: Upgrade⏎Upgrade: websocket⏎Sec-WebSocket-Version: 8⏎Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==⏎⏎", bad, upgrade},
	{"J4 short key", "[G]Connection: Upgrade⏎Upgrade: websocket⏎Sec-WebSocket-Version: 13⏎Sec-WebSocket-Key: c2hvcnQ=⏎⏎", bad, upgrade},
	{"J4a key not canonical", "[G]Connection: Upgrade⏎Upgrade: websocket⏎Sec-WebSocket-Version: 13⏎Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==⏎⏎", bad, upgrade},
	{"J4b two keys", "[G][W]Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==⏎⏎", bad, upgrade},
	{"J5 POST", "POST /items HTTP/1.1⏎[H][W]⏎", bad, upgrade},
	{"J6 content", "[G][W]Content-Length: 5⏎⏎hello", bad, upgrade},
	{"J6a chunked content", "[G][W][C]⏎0⏎⏎", bad, upgrade},
	{"J7 no Connection", "[G]Upgrade: websocket⏎Sec-WebSocket-Version: 13⏎Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==⏎⏎", bad, upgrade},
	{"J8 HTTP/1.0", "GET /items HTTP/1.0⏎[H][W]⏎", bad, upgrade},
	{"L9 two keys", "[G][W]Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==⏎⏎", bad, upgrade},
	{"L9a key of 15 bytes", "[G]Connection: Upgrade⏎Upgrade: websocket⏎Sec-WebSocket-Version: 13⏎Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j⏎⏎", bad, upgrade},
	{"L9b key of 17 bytes", "[G]Connection: Upgrade⏎Upgrade: websocket⏎Sec-WebSocket-Version: 13⏎Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE=⏎⏎", bad, upgrade},
	{"J9 complete", "[G][W]⏎", ok, ""},
}

var pipelines = []Case{
	{"K1 pipelining", "GET /one HTTP/1.1⏎[H]⏎GET /two HTTP/1.1⏎[H]⏎", twice, ""},
	{"K2 nothing behind a fault", "GET /one HTTP/1.1⏎Host: a b⏎⏎GET /two HTTP/1.1⏎[H]⏎", bad, header},
	{"K4 gone inside the head", "GET /items HTTP/1.1⏎Host: sh", gone, ""},
	{"K5 TLS hello", "‹16›‹03›‹01›‹02›␀‹01›␀‹01›‹FC›‹03›‹03›", bad, header},
	{"K6 second is bad", "GET /one HTTP/1.1⏎[H]⏎GET /two HTTP/1.1⏎Host: x␀⏎⏎", okBad, header},
}
