package h1

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"countersign.dev/internal/h1/h1test"
)

// statuses reads a connection's bytes as the gate does, in pieces of the given size.
func statuses(rules Rules, b []byte, piece int) (got []int, reason string) {
	for {
		var s Scanner
		end := 0
		for n := 0; end == 0; {
			if n == len(b) {
				if n > 0 {
					got = append(got, 0)
				}
				return got, ""
			}
			n = min(n+piece, len(b))
			var f *Fault
			if end, f = s.Scan(b[:n]); f != nil {
				return append(got, f.Status), f.Reason
			}
		}
		shape, f := rules.Check(b[:end])
		if f != nil {
			return append(got, f.Status), f.Reason
		}
		b = b[end:]
		switch shape.Framing {
		case Length:
			if int64(len(b)) < shape.Length {
				return append(got, 0), ""
			}
			b = b[shape.Length:]
		case Chunked:
			var c Chunks
			for done := false; !done; {
				if len(b) == 0 {
					return append(got, 0), ""
				}
				var n int
				n, done, f = c.Check(b[:min(piece, len(b))])
				if f != nil {
					return append(got, f.Status), f.Reason
				}
				b = b[n:]
			}
		}
		got = append(got, 200)
	}
}

// The tables of http-strictness 17.1, in one piece and byte by byte.
func TestRequests(t *testing.T) {
	for _, table := range h1test.Requests {
		for _, c := range table {
			for _, piece := range []int{1 << 20, 1, 3} {
				got, reason := statuses(Rules{}, h1test.Wire(c.Bytes), piece)
				if !slices.Equal(got, c.Status) || reason != c.Reason {
					t.Errorf("%s in pieces of %d: got %v %q, want %v %q", c.Name, piece, got, reason, c.Status, c.Reason)
				}
			}
		}
	}
}

func TestParseHead(t *testing.T) {
	h, f := ParseHead(h1test.Wire("POST http://Shop.test/x?q HTTP/1.1⏎Host: Shop.test:80⏎X-A: ␉ b: c ␉⏎Empty:⏎Content-Length: 007⏎Expect: 100-Continue⏎Connection: close⏎⏎"))
	if f != nil {
		t.Fatal(f)
	}
	if h.Method != "POST" || h.Target != "http://Shop.test/x?q" || h.Host != "Shop.test:80" {
		t.Errorf("got method %q, target %q, host %q", h.Method, h.Target, h.Host)
	}
	want := Shape{Major: 1, Minor: 1, Framing: Length, Length: 7, Close: true, Expect100: true}
	if h.Shape != want {
		t.Errorf("shape: got %+v, want %+v", h.Shape, want)
	}
	fields := []Field{{"Host", "Shop.test:80"}, {"X-A", "b: c"}, {"Empty", ""}, {"Content-Length", "007"}, {"Expect", "100-Continue"}, {"Connection", "close"}}
	if !slices.Equal(h.Fields, fields) {
		t.Errorf("fields: got %q, want %q", h.Fields, fields)
	}
}

func TestClose(t *testing.T) {
	for _, c := range []struct {
		head  string
		close bool
	}{
		{"[G]⏎", false},
		{"[G]Connection: keep-alive, Close⏎⏎", true},
		{"GET / HTTP/1.0⏎⏎", true},
		{"GET / HTTP/1.0⏎Connection: Keep-Alive⏎⏎", false},
		{"GET / HTTP/1.0⏎Connection: Keep-Alive⏎Connection: close⏎⏎", true},
	} {
		s, f := CheckHead(h1test.Wire(c.head))
		if f != nil || s.Close != c.close {
			t.Errorf("%s: got close %v, fault %v; want %v", c.head, s.Close, f, c.close)
		}
	}
}

// What a listener takes depends on what it is for.
func TestRules(t *testing.T) {
	proxy := Rules{Connect: true, Proxy: true}
	for _, c := range []struct {
		rules  Rules
		head   string
		status int
	}{
		{Rules{TLS: true}, "GET https://shop.test:443/ HTTP/1.1⏎[H]⏎", 0},
		{Rules{TLS: true}, "GET https://shop.test:80/ HTTP/1.1⏎[H]⏎", 400},
		{Rules{TLS: true}, "GET http://shop.test/ HTTP/1.1⏎[H]⏎", 0},
		{proxy, "GET http://shop.test/ HTTP/1.1⏎[H]⏎", 0},
		{proxy, "[G]⏎", 400},
		{proxy, "OPTIONS * HTTP/1.1⏎[H]⏎", 400},
		{proxy, "CONNECT shop.test:80 HTTP/1.1⏎[H]⏎", 0},
		{proxy, "CONNECT shop.test:80 HTTP/1.1⏎Host: SHOP.test:80⏎⏎", 0},
		{proxy, "CONNECT shop.test:80 HTTP/1.0⏎⏎", 0},
		{proxy, "CONNECT [::1]:80 HTTP/1.1⏎Host: [::1]:80⏎⏎", 0},
		{proxy, "CONNECT shop.test:80 HTTP/1.1⏎Host: shop.test:81⏎⏎", 400},
		{proxy, "CONNECT shop.test:80 HTTP/1.1⏎Host: pay.test:80⏎⏎", 400},
		{proxy, "CONNECT shop.test HTTP/1.1⏎[H]⏎", 400},
		{proxy, "CONNECT shop.test:99999 HTTP/1.1⏎[H]⏎", 400},
		{proxy, "CONNECT u@shop.test:80 HTTP/1.1⏎[H]⏎", 400},
		{proxy, "CONNECT /x HTTP/1.1⏎[H]⏎", 400},
		{proxy, "CONNECT http://shop.test/ HTTP/1.1⏎[H]⏎", 400},
		{Rules{}, "CONNECT shop.test:80 HTTP/1.1⏎[H]⏎", 405},
	} {
		_, f := c.rules.Check(h1test.Wire(c.head))
		if f == nil && c.status != 0 || f != nil && f.Status != c.status {
			t.Errorf("%+v, %s: got %v, want %d", c.rules, c.head, f, c.status)
		}
	}
}

// A head that drips in costs no more than one that comes whole: each byte is looked at once, and a fault is found
// with the byte that makes it one.
func TestScannerFaultsAtOnce(t *testing.T) {
	for _, c := range []struct{ good, bad, reason string }{
		{"GET / HTTP/1.1", "␊", BadHeader},
		{"GET / HTTP/1.1␍", "x", BadHeader},
		{"[G]X: ␍", "␍", BadHeader},
		{"[G]X: a", "␀", BadHeader},
		{"␍", "␊", BadRequestLine},
		{"[G]X: 1⏎␠␍", "␊", BadHeader},
	} {
		var s Scanner
		good := h1test.Wire(c.good)
		for i := range good {
			if end, f := s.Scan(good[:i+1]); end != 0 || f != nil {
				t.Fatalf("%q: got %d, %v after %d bytes", c.good, end, f, i+1)
			}
		}
		if _, f := s.Scan(append(good, h1test.Wire(c.bad)...)); f == nil || f.Reason != c.reason {
			t.Errorf("%q then %q: got %v, want %s", c.good, c.bad, f, c.reason)
		}
	}
}

// browserHead is 773 bytes, the size the goal was set for.
func browserHead() []byte {
	head := "GET /shop/items/4711?sort=price HTTP/1.1⏎Host: shop.test⏎Connection: keep-alive⏎" +
		"sec-ch-ua: \"Chromium\";v=\"124\", \"Not-A.Brand\";v=\"99\"⏎sec-ch-ua-mobile: ?0⏎sec-ch-ua-platform: \"Linux\"⏎" +
		"Upgrade-Insecure-Requests: 1⏎" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36⏎" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8⏎" +
		"Sec-Fetch-Site: same-origin⏎Sec-Fetch-Mode: navigate⏎Sec-Fetch-Dest: document⏎Referer: http://shop.test/shop⏎" +
		"Accept-Encoding: gzip, deflate, br⏎Accept-Language: en-GB,en;q=0.9⏎Cookie: session="
	b := h1test.Wire(head)
	return append(append(b, bytes.Repeat([]byte{'c'}, 773-4-len(b))...), "\r\n\r\n"...)
}

func TestCheckAllocatesNothing(t *testing.T) {
	head := browserHead()
	if n := testing.AllocsPerRun(100, func() {
		var s Scanner
		if end, f := s.Scan(head); end != len(head) || f != nil {
			t.Fatal(end, f)
		}
		if _, f := CheckHead(head); f != nil {
			t.Fatal(f)
		}
	}); n != 0 {
		t.Errorf("checking a head: %v allocations, want 0", n)
	}
	path := "/shop/items/4711/reviews"
	if n := testing.AllocsPerRun(100, func() { IsNormal(path) }); n != 0 {
		t.Errorf("IsNormal: %v allocations, want 0", n)
	}
}

func BenchmarkCheckHead(b *testing.B) {
	head := browserHead()
	b.SetBytes(int64(len(head)))
	b.ReportAllocs()
	for b.Loop() {
		if _, f := CheckHead(head); f != nil {
			b.Fatal(f)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	head := browserHead()
	b.ReportAllocs()
	for b.Loop() {
		var s Scanner
		s.Scan(head)
	}
}

func BenchmarkChunk16K(b *testing.B) {
	chunk := append(h1test.Wire("4000⏎"), bytes.Repeat([]byte("x"), 16<<10)...)
	chunk = append(chunk, "\r\n"...)
	b.ReportAllocs()
	var c Chunks
	for b.Loop() {
		if n, _, f := c.Check(chunk); n != len(chunk) || f != nil {
			b.Fatal(n, f)
		}
	}
}

func BenchmarkIsNormal(b *testing.B) {
	path := "/shop/items/4711/reviews/9"
	b.ReportAllocs()
	for b.Loop() {
		if !IsNormal(path) {
			b.Fatal(path)
		}
	}
}

func FuzzHead(f *testing.F) {
	for _, table := range h1test.Requests {
		for _, c := range table {
			if len(c.Bytes) < 400 {
				f.Add(h1test.Wire(c.Bytes), uint8(1))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, piece uint8) {
		whole, reason := statuses(Rules{}, b, 1<<20)
		pieces, reason2 := statuses(Rules{}, b, int(piece)+1)
		// Of two faults in one head, the one that is seen first may depend on the pieces.
		long := reason == TooLarge || reason2 == TooLarge
		if !long && (!slices.Equal(whole, pieces) || reason != reason2) {
			t.Fatalf("%q: whole %v %s, in pieces of %d %v %s", b, whole, reason, piece+1, pieces, reason2)
		}
		h, fault := Rules{TLS: true, Connect: true}.Parse(b)
		if fault != nil {
			return
		}
		var again strings.Builder
		again.WriteString(h.Method + " " + h.Target + " HTTP/1." + string('0'+byte(h.Minor)) + "\r\n")
		for _, field := range h.Fields {
			again.WriteString(field.Name + ": " + field.Value + "\r\n")
		}
		again.WriteString("\r\n")
		if again.Len() > MaxHead {
			return // blanks were added
		}
		h2, fault := Rules{TLS: true, Connect: true}.Parse([]byte(again.String()))
		if fault != nil || h2.Shape != h.Shape || !slices.Equal(h2.Fields, h.Fields) {
			t.Fatalf("%q is read as %+v, written again as %+v (%v)", b, h, h2, fault)
		}
	})
}
