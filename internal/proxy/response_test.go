package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// readWhole reads a response as a wire does.
func readWhole(r io.Reader, method string) (head, []byte, *body, *bufio.Reader, error) {
	br := bufio.NewReader(r)
	h, br, err := readHead(br, r, method)
	if err != nil {
		return h, nil, nil, br, err
	}
	w := &wire{r: br, under: &socket{}}
	w.conn = w.under
	b := new(body)
	b.reset(w, h)
	text, err := io.ReadAll(b)
	return h, text, b, br, err
}

func TestReadResponse(t *testing.T) {
	for _, tc := range []struct {
		name, raw, method, body string
		last, chunked           bool
		trailer                 string
		rest                    int
	}{
		{name: "length", raw: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore", body: "ok", rest: 4},
		{name: "chunks", raw: "HTTP/1.1 200 \r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x\r\n0123456789\r\n000\r\nX: y\r\n\r\nmore", body: "abc0123456789", chunked: true, trailer: "y", rest: 4},
		{name: "until close", raw: "HTTP/1.1 200\r\n\r\nall", body: "all", last: true},
		{name: "HTTP/1.0", raw: "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", last: true},
		{name: "HTTP/1.0 kept", raw: "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n"},
		{name: "close", raw: "HTTP/1.1 200 OK\r\nConnection: a, close\r\nContent-Length: 0\r\n\r\n", last: true},
		{name: "HEAD", method: "HEAD", raw: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"},
		{name: "304", raw: "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"},
	} {
		for _, slow := range []bool{false, true} {
			t.Run(tc.name, func(t *testing.T) {
				var r io.Reader = strings.NewReader(tc.raw)
				if slow {
					r = iotest.OneByteReader(r)
				}
				h, text, b, br, err := readWhole(r, tc.method)
				if err != nil || string(text) != tc.body || h.last != tc.last || h.chunked != tc.chunked || !b.whole {
					t.Fatalf("got %+v %q %v", h, text, err)
				}
				if b.trailer.Get("X") != tc.trailer {
					t.Errorf("trailer %v", b.trailer)
				}
				if rest, _ := io.ReadAll(br); len(rest) != tc.rest {
					t.Errorf("%q is left", rest)
				}
			})
		}
	}
}

// FuzzResponseHead: what net/http refuses we refuse, and what both take they read alike.
func FuzzResponseHead(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 204\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "HTTP/1.1 200 OK\nA: b\n\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, text, _, _, err := readWhole(bytes.NewReader(raw), "GET")
		if errors.Is(err, errMalformed) || h.status == 0 || h.status < 200 {
			return
		}
		resp, theirs := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), &http.Request{Method: "GET"})
		if theirs != nil {
			t.Fatalf("net/http refuses: %v", theirs)
		}
		want, bodyErr := io.ReadAll(resp.Body)
		if resp.StatusCode != h.status || err == nil && bodyErr == nil && !bytes.Equal(text, want) {
			t.Fatalf("status %d and %d, body %q and %q", h.status, resp.StatusCode, text, want)
		}
		if err == nil && bodyErr != nil {
			t.Fatalf("we took a body that net/http refuses: %v", bodyErr)
		}
		delete(resp.Header, "Transfer-Encoding")
		for name, values := range h.header {
			if name != "Connection" && name != "Trailer" && !reflect.DeepEqual(values, resp.Header[name]) {
				t.Fatalf("field %s: %q and %q", name, values, resp.Header[name])
			}
		}
	})
}

// FuzzChunkedBody: what we take as a whole body net/http takes too, byte for byte.
func FuzzChunkedBody(f *testing.F) {
	for _, s := range []string{"1\r\nx\r\n0\r\n\r\n", "a;b\r\n0123456789\r\n0\r\nX: y\r\n\r\n", "0x1\r\nx\r\n0\r\n\r\n", "1\nx\n0\n\n", "+1\r\nx\r\n0\r\n\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, text, b, _, err := readWhole(io.MultiReader(strings.NewReader("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.NewReader(raw)), "GET")
		if err != nil {
			if b != nil && b.whole {
				t.Fatalf("whole, and yet %v", err)
			}
			return
		}
		want, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw)))
		if err != nil || !bytes.Equal(text, want) {
			t.Fatalf("got %q, net/http %q, %v", text, want, err)
		}
	})
}
