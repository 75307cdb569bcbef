package h1

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

type header = map[string][]string

// http-strictness 17.2, the rows that net/http leaves to its handler.
func TestCheckMessage(t *testing.T) {
	many, big := header{}, header{}
	for i := range 97 {
		many["X-"+strconv.Itoa(i)] = []string{"1"}
	}
	for i := range 12 {
		big["X-"+strconv.Itoa(i)] = []string{strings.Repeat("b", 3500)}
	}
	for _, c := range []struct {
		name, method, target, authority string
		header                          header
		h1                              bool
		status                          int
		reason                          string
	}{
		{"2P1", "GET", "/items", "shop.test", nil, false, 0, ""},
		{"2P3", "GET", "*", "shop.test", nil, false, 400, BadRequestLine},
		{"2P4", "OPTIONS", "*", "shop.test", nil, false, 0, ""},
		{"2P6", "GET", "https://shop.test/items", "shop.test", nil, false, 400, BadRequestLine},
		{"2P8", "GET", "/it ems", "shop.test", nil, false, 400, BadRequestLine},
		{"2P9", "GET", "/it\x7fems", "shop.test", nil, false, 400, BadRequestLine},
		{"no path", "GET", "", "shop.test", nil, false, 400, BadRequestLine},
		{"long path", "GET", "/" + strings.Repeat("a", 8192), "shop.test", nil, false, 414, TooLarge},
		{"2M1, base", "get", "/", "shop.test", nil, false, 0, ""},
		{"2M2", "GE T", "/", "shop.test", nil, false, 400, BadRequestLine},
		{"2M6", "CONNECT", "", "shop.test:80", nil, false, 405, BadRequestLine},
		{"2A1", "GET", "/", "shop.test", header{"Host": {"shop.test"}}, false, 0, ""},
		{"2A2", "GET", "/", "", header{"Host": {""}}, false, 400, BadHeader},
		{"no authority", "GET", "/", "", nil, false, 400, BadHeader},
		{"2A3", "GET", "/", "shop.test", header{"Host": {"pay.test"}}, false, 400, AuthorityMismatch},
		{"2A4", "GET", "/", "shop.test", header{"Host": {"SHOP.test"}}, false, 0, ""},
		{"2A5", "GET", "/", "shop.test", header{"Host": {"shop.test", "shop.test"}}, false, 400, BadHeader},
		{"2A6", "GET", "/", "me@shop.test", nil, false, 400, BadHeader},
		{"2A8", "GET", "/", "shop.test/x", nil, false, 400, BadHeader},
		{"2A9", "GET", "/", "shop.test:99999", nil, false, 400, BadHeader},
		{"2F2", "GET", "/", "shop.test", header{"X Y": {"1"}}, false, 400, BadHeader},
		{"2F3", "GET", "/", "shop.test", header{"": {"1"}}, false, 400, BadHeader},
		{"2F4", "GET", "/", "shop.test", header{"X": {"1\r"}}, false, 400, BadHeader},
		{"2F5 first", "GET", "/", "shop.test", header{"X": {" 1"}}, false, 400, BadHeader},
		{"2F5 last", "GET", "/", "shop.test", header{"X": {"1 "}}, false, 400, BadHeader},
		{"2F5 tab", "GET", "/", "shop.test", header{"X": {"ok", "1\t"}}, false, 400, BadHeader},
		{"empty value", "GET", "/", "shop.test", header{"X": {""}}, false, 0, ""},
		{"2F9", "GET", "/", "shop.test", header{"Keep-Alive": {"5"}}, false, 400, BadHeader},
		{"2F10", "GET", "/", "shop.test", header{"Proxy-Connection": {"close"}}, false, 400, BadHeader},
		{"2F11", "GET", "/", "shop.test", header{"Upgrade": {"websocket"}}, false, 400, BadHeader},
		{"2F12", "GET", "/", "shop.test", header{"Transfer-Encoding": {"identity"}}, false, 400, BadHeader},
		{"2F13", "GET", "/", "shop.test", header{"Te": {"trailers"}}, false, 0, ""},
		{"2F14", "GET", "/", "shop.test", header{"Te": {"trailers, deflate"}}, false, 400, BadHeader},
		{"2F18", "GET", "/", "shop.test", header{"Expect": {"200-ok"}}, false, 417, BadHeader},
		{"2F19", "GET", "/", "shop.test", big, false, 431, TooLarge},
		{"2F20", "GET", "/", "shop.test", many, false, 431, TooLarge},
		{"2F21", "GET", "/", "shop.test", header{"Te": {"trailers", "trailers"}}, false, 400, BadHeader},
		{"2F22", "GET", "/", "shop.test", header{"Connection": {"traceparent"}}, false, 400, BadHeader},
		{"2L3", "GET", "/", "shop.test", header{"Content-Length": {"4", "4"}}, false, 400, AmbiguousFraming},
		{"2L4", "GET", "/", "shop.test", header{"Content-Length": {"+5"}}, false, 400, AmbiguousFraming},
		{"2L5", "GET", "/", "shop.test", header{"Content-Length": {"5,5"}}, false, 400, AmbiguousFraming},
		{"2L6", "GET", "/", "shop.test", header{"Content-Length": {""}}, false, 400, AmbiguousFraming},
		{"HTTP/1", "GET", "http://shop.test/", "shop.test", header{"Connection": {"close"}, "X": {"1"}}, true, 0, ""},
		{"HTTP/1.0 without Host", "GET", "/", "", nil, true, 0, ""},
		{"HTTP/1 control", "GET", "/", "a", header{"X": {"\x01"}}, true, 400, BadHeader},
	} {
		f := CheckMessage(c.method, c.target, c.authority, c.header, !c.h1)
		if f == nil && c.status != 0 || f != nil && (f.Status != c.status || f.Reason != c.reason) {
			t.Errorf("%s: got %+v, want %d %s", c.name, f, c.status, c.reason)
		}
	}
}

func TestCheckNoBody(t *testing.T) {
	for length, ok := range map[string]bool{"0": true, "00": true, "5": false, "x": false} {
		if f := CheckNoBody(header{"Content-Length": {length}}); (f == nil) != ok {
			t.Errorf("2L7: length %q: %v", length, f)
		}
	}
	if f := CheckNoBody(nil); f != nil {
		t.Error(f)
	}
}

func TestStrip(t *testing.T) {
	h := header{
		"X-Countersign-Subject": {"admin"}, "X-Forwarded-Client-Cert": {"By=x"}, "Txn-Token": {"abc"}, "Proxy": {"x"},
		"X-Decision-Id": {"1"}, "X-Envoy-Original-Path": {"/"}, "X-Ssl-Cert": {"1"}, "X-Client-Certificate": {"1"},
		"Content.length": {"5"}, "Transfer_encoding": {"chunked"}, "X_countersign_subject": {"admin"},
		"X.countersign.peer": {"x"}, "Authorization_": {"kept: no alias"}, "X_note": {"kept"},
		"Http_Proxy": {"kept"}, "Cookie": {"a=1"}, "COOKIE_": {"kept"}, "Proxy_": {"kept"},
		"Authorization": {"Bearer x"}, "X-Forwarded-For": {"10.0.0.1"}, "X_forwarded_for": {"kept in base"},
		"X-B3-Traceid": {"1"}, "X-Request-Id": {"r"}, "Content-Length": {"5"},
		"Connection": {"X-Debug, close", "te,, x-two"}, "X-Debug": {"1"}, "X-Two": {"2"}, "Te": {"gzip, Trailers"},
		"Keep-Alive": {"timeout=600"}, "Proxy-Connection": {"keep-alive"}, "Proxy-Authorization": {"Basic eA=="},
		"Proxy-Authenticate": {"x"}, "Trailer": {"X-Sum"}, "Transfer-Encoding": {"chunked"}, "Upgrade": {"h2c"},
		"Http2-Settings": {"AAMAAABk"}, "Host": {"shop.test"},
	}
	stripped, f := Strip(h)
	if f != nil {
		t.Fatal(f)
	}
	want := []string{
		"content.length", "proxy", "transfer_encoding", "txn-token", "x-client-certificate", "x-countersign-subject",
		"x-decision-id", "x-envoy-original-path", "x-forwarded-client-cert", "x-ssl-cert", "x.countersign.peer",
		"x_countersign_subject",
	}
	if !slices.Equal(stripped, want) {
		t.Errorf("stripped: got %q, want %q", stripped, want)
	}
	left := slices.Sorted(maps.Keys(h))
	kept := []string{
		"Authorization", "Authorization_", "COOKIE_", "Content-Length", "Cookie", "Http_Proxy", "Proxy_", "Te",
		"X-B3-Traceid", "X-Forwarded-For", "X-Request-Id", "X_forwarded_for", "X_note",
	}
	if !slices.Equal(left, kept) {
		t.Errorf("left: got %q, want %q", left, kept)
	}
	if !slices.Equal(h["Te"], []string{"trailers"}) {
		t.Errorf("Te: got %q", h["Te"])
	}
}

func TestStripRefusesConnection(t *testing.T) {
	for _, name := range []string{
		"Host", "content-length", "Transfer-Encoding", "content-type", "Authorization", "cookie", "via", "Forwarded",
		"x-forwarded-for", "X-Forwarded-Anything", "x-real-ip", "Traceparent", "tracestate", "connection", "expect",
		"x-countersign-peer", "x-forwarded-client-cert", "proxy", "txn-token", "x-decision-id", "early-data", "a b", "a@b",
		strings.Repeat("a", 257),
	} {
		if _, f := Strip(header{"Connection": {"close, " + name}}); f == nil || f.Reason != BadHeader {
			t.Errorf("Connection: close, %s: got %v, want bad_header", name, f)
		}
	}
	for _, name := range []string{"te", "upgrade", "trailer", "keep-alive", "http2-settings", "x-debug", "proxy-connection", ""} {
		if _, f := Strip(header{"Connection": {"close, " + name}}); f != nil {
			t.Errorf("Connection: close, %s: %v", name, f)
		}
	}
}

func TestStripTrailer(t *testing.T) {
	h := header{}
	for _, name := range []string{
		"Content-Length", "Transfer-Encoding", "Trailer", "Host", "Cache-Control", "Expect", "Max-Forwards", "Pragma",
		"Range", "Te", "If-Match", "If-None-Match", "Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "Dpop",
		"X-Api-Key", "Content-Type", "Content-Encoding", "Content-Range", "Connection", "Keep-Alive", "Upgrade",
		"X-Countersign-Peer", "X-Forwarded-Client-Cert", "Transfer_encoding", "Content.type", "X_countersign_peer",
	} {
		h[name] = []string{"1"}
	}
	h["X-Sum"], h["Grpc-Status"] = []string{"1"}, []string{"0"}
	StripTrailer(h)
	if left := slices.Sorted(maps.Keys(h)); !slices.Equal(left, []string{"Grpc-Status", "X-Sum"}) {
		t.Errorf("left: %q", left)
	}
}

func TestStripResponse(t *testing.T) {
	h := header{
		"Connection": {"x-b, close"}, "X-B": {"1"}, "X-Countersign-Peer": {"y"}, "X-Decision-Id": {"1"}, "Proxy-Authenticate": {"x"},
		"Transfer-Encoding": {"chunked"}, "Trailer": {"X"}, "Content-Type": {"text/plain"}, "Server": {"x"},
	}
	StripResponse(h)
	if left := slices.Sorted(maps.Keys(h)); !slices.Equal(left, []string{"Content-Type", "Server"}) {
		t.Errorf("left: %q", left)
	}
	h = header{"X-Decision-Id": {"1"}, "Connection": {"close"}}
	StripHop(h)
	if left := slices.Sorted(maps.Keys(h)); !slices.Equal(left, []string{"X-Decision-Id"}) {
		t.Errorf("a hop's answer: left %q", left)
	}
}

func TestWebSocket(t *testing.T) {
	good := func() header {
		return header{
			"Connection": {"keep-alive, Upgrade"}, "Upgrade": {"WebSocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		}
	}
	for _, c := range []struct {
		name   string
		change func(header)
		wanted bool
		reason string
	}{
		{"complete", func(header) {}, true, ""},
		{"other kind", func(h header) { h["Upgrade"] = []string{"h2c"} }, false, ""},
		{"list", func(h header) { h["Upgrade"] = []string{"h2c, websocket"} }, false, ""},
		{"two lines", func(h header) { h["Upgrade"] = []string{"websocket", "websocket"} }, false, ""},
		{"none", func(h header) { delete(h, "Upgrade") }, false, ""},
		{"version", func(h header) { h["Sec-Websocket-Version"] = []string{"8"} }, true, UpgradeRefused},
		{"two versions", func(h header) { h["Sec-Websocket-Version"] = []string{"13", "13"} }, true, UpgradeRefused},
		{"short key", func(h header) { h["Sec-Websocket-Key"] = []string{"c2hvcnQ="} }, true, UpgradeRefused},
		{"key of 15", func(h header) { h["Sec-Websocket-Key"] = []string{"dGhlIHNhbXBsZSBub25j"} }, true, UpgradeRefused},
		{"key of 17", func(h header) { h["Sec-Websocket-Key"] = []string{"dGhlIHNhbXBsZSBub25jZSE="} }, true, UpgradeRefused},
		{"key not canonical", func(h header) { h["Sec-Websocket-Key"] = []string{"dGhlIHNhbXBsZSBub25jZR=="} }, true, UpgradeRefused},
		{"no option", func(h header) { h["Connection"] = []string{"close"} }, true, UpgradeRefused},
		{"content", func(h header) { h["Content-Length"] = []string{"5"} }, true, UpgradeRefused},
		{"no content", func(h header) { h["Content-Length"] = []string{"0"} }, true, ""},
	} {
		h := good()
		c.change(h)
		wanted, f := WebSocket("GET", 1, 1, h)
		if wanted != c.wanted || f == nil && c.reason != "" || f != nil && f.Reason != c.reason {
			t.Errorf("%s: got %v, %v", c.name, wanted, f)
		}
	}
	if _, f := WebSocket("POST", 1, 1, good()); f == nil {
		t.Error("POST was let through")
	}
	if _, f := WebSocket("GET", 1, 0, good()); f == nil {
		t.Error("HTTP/1.0 was let through")
	}
	// RFC 6455, section 1.3.
	if got := Accept("dGhlIHNhbXBsZSBub25jZQ=="); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Errorf("Accept: got %q", got)
	}
}

func BenchmarkStrip(b *testing.B) {
	b.ReportAllocs()
	h := header{"Accept": {"*/*"}, "User-Agent": {"x"}, "Accept-Encoding": {"gzip"}, "Cookie": {"a=b"}, "X-Request-Id": {"1"}, "Traceparent": {"x"}}
	for b.Loop() {
		Strip(h)
	}
}

// Whatever the header, nothing reserved is left in any spelling an application might map to the same variable.
func FuzzStrip(f *testing.F) {
	for _, s := range []string{"X-Countersign-Peer", "X_countersign.peer", "Proxy", "Content_Length", "Te", "X-Debug", "Cookie.", "Transfer.Encoding"} {
		f.Add(s, "x", s)
	}
	f.Fuzz(func(t *testing.T, name, value, connection string) {
		h := header{canonical(name): {value}, "Connection": {connection}, "X-Other": {value}}
		edge := maps.Clone(h)
		if _, fault := Edge.Strip(edge); fault == nil {
			for left := range edge {
				plain := strings.NewReplacer("_", "-", ".", "-").Replace(lowerString(left))
				if plain == "forwarded" || plain == "remote-user" || plain == "x-real-ip" || strings.HasPrefix(plain, "x-forwarded-") {
					t.Fatalf("%q is left at the edge", left)
				}
			}
		}
		if _, fault := Strip(h); fault != nil {
			return
		}
		for left := range h {
			plain := strings.NewReplacer("_", "-", ".", "-").Replace(lowerString(left))
			aliased := plain != lowerString(left)
			switch plain {
			case "proxy", "txn-token", "x-decision-id", "x-forwarded-client-cert", "connection", "keep-alive", "upgrade",
				"transfer-encoding", "proxy-authorization", "trailer", "host":
				if !aliased || plain != "keep-alive" && plain != "proxy-authorization" {
					t.Fatalf("%q is left", left)
				}
			case "content-length", "authorization", "cookie", "expect", "te":
				if aliased {
					t.Fatalf("alias %q is left", left)
				}
			}
			if strings.HasPrefix(plain, "x-countersign-") || strings.HasPrefix(plain, "x-envoy-") {
				t.Fatalf("%q is left", left)
			}
		}
	})
}
