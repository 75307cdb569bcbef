package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/h1"
)

// h2Client says HTTP/2 as its test wants it, rules or not.
type h2Client struct {
	*http2.Framer
	conn  net.Conn
	block bytes.Buffer
	enc   *hpack.Encoder
}

func newH2Client(c net.Conn) *h2Client {
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	_, _ = io.WriteString(c, http2.ClientPreface)
	h := &h2Client{Framer: http2.NewFramer(c, c), conn: c}
	h.AllowIllegalWrites = true
	h.SetMaxReadFrameSize(1 << 20)
	h.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.enc = hpack.NewEncoder(&h.block)
	_ = h.WriteSettings()
	return h
}

// encode gives the fields as a header block.
func (h *h2Client) encode(fields ...[2]string) []byte {
	h.block.Reset()
	for _, f := range fields {
		_ = h.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return slices.Clone(h.block.Bytes())
}

// headers sends a header block in as many frames as it needs.
func (h *h2Client) headers(id uint32, end bool, block []byte) {
	first := block[:min(len(block), 16<<10)]
	rest := block[len(first):]
	_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndStream: end, EndHeaders: len(rest) == 0})
	for len(rest) > 0 {
		n := min(len(rest), 16<<10)
		_ = h.WriteContinuation(id, n == len(rest), rest[:n])
		rest = rest[n:]
	}
}

// open opens a stream with a GET and more fields.
func (h *h2Client) open(id uint32, end bool, more ...[2]string) {
	h.headers(id, end, h.encode(h2Fields(more...)...))
}

// outcome is what becomes of a stream: a status, RST and its code, GOAWAY and its code, or closed.
func (h *h2Client) outcome(id uint32) string {
	for {
		frame, err := h.ReadFrame()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "reset") {
				return "closed"
			}
			return err.Error()
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if frame.StreamID == id && frame.PseudoValue("status") != "100" {
				return frame.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == id {
				return "RST " + frame.ErrCode.String()
			}
		case *http2.GoAwayFrame:
			return "GOAWAY " + frame.ErrCode.String()
		}
	}
}

// h2Fields are the usual pseudo-fields, changed and added to: a pseudo-field replaces its like, "-" in place of its
// value takes it out; any other field is added.
func h2Fields(more ...[2]string) [][2]string {
	fields := [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {":authority", "shop.test"}}
	for _, f := range more {
		i := slices.IndexFunc(fields, func(g [2]string) bool { return g[0] == f[0] })
		switch {
		case !strings.HasPrefix(f[0], ":") || i < 0:
			fields = append(fields, f)
		case f[1] == "-":
			fields = slices.Delete(fields, i, i+1)
		default:
			fields[i] = f
		}
	}
	return fields
}

const (
	rst    = "RST PROTOCOL_ERROR"
	goAway = "GOAWAY PROTOCOL_ERROR"
	tooBig = "GOAWAY FRAME_SIZE_ERROR"
)

type field = [2]string

// h2Messages are the rows of http-strictness 17.2 that are one message, as the safe engine answers them: fields, what is
// sent behind them, and what may come of it.
var h2Messages = []struct {
	name   string
	fields []field
	raw    []field // instead of fields: all of them
	send   func(*h2Client)
	want   []string
	target string // that arrives; with a want of "200" only
	check  func(arrival) string
}{
	{name: "2P1 plain", fields: []field{{":path", "/items"}}, want: []string{"200"}, target: "/items"},
	{name: "2P2 empty path", fields: []field{{":path", ""}}, want: []string{rst}},
	{name: "2P3 asterisk, GET", fields: []field{{":path", "*"}}, want: []string{"400"}},
	{name: "2P4 asterisk, OPTIONS", fields: []field{{":method", "OPTIONS"}, {":path", "*"}}, want: []string{"204"}},
	{name: "2P5 relative", fields: []field{{":path", "items"}}, want: []string{rst}},
	{name: "2P6 absolute", fields: []field{{":path", "https://shop.test/items"}}, want: []string{"400"}},
	{name: "2P7 fragment", fields: []field{{":path", "/items#x"}}, want: []string{"400"}},
	{name: "2P8 blank", fields: []field{{":path", "/it ems"}}, want: []string{"400"}},
	{name: "2P9 DEL", fields: []field{{":path", "/it\x7fems"}}, want: []string{rst}},
	{name: "2P10 dots", fields: []field{{":path", "/a/./../b"}}, want: []string{"200"}, target: "/b"},
	{name: "2P11 escaped slash", fields: []field{{":path", "/a%2fb"}}, want: []string{"400"}},
	{name: "2P11 escaped slash, lax", fields: []field{{":path", "/a%2fb"}, {":authority", "lax.test"}}, want: []string{"200"}, target: "/a%2fb"},
	{name: "2P12 short triplet", fields: []field{{":path", "/a%"}}, want: []string{rst}},
	{name: "2P13 two slashes", fields: []field{{":path", "//items"}}, want: []string{"200"}, target: "/items"},
	{name: "2P14 CRLF in path", fields: []field{{":path", "/it\r\nems"}}, want: []string{rst}},
	{name: "2M1 lower case", fields: []field{{":method", "get"}}, want: []string{"501"}},
	{name: "2M2 blank", fields: []field{{":method", "GE T"}}, want: []string{"400"}},
	{name: "2M3 TRACE", fields: []field{{":method", "TRACE"}}, want: []string{"405"}},
	{name: "2M4 no method", fields: []field{{":method", "-"}}, want: []string{rst}},
	{name: "2M5 two methods", raw: []field{{":method", "GET"}, {":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {":authority", "shop.test"}}, want: []string{rst}},
	{name: "2M6 CONNECT", raw: []field{{":method", "CONNECT"}, {":authority", "shop.test:80"}}, want: []string{"405"}},
	{name: "2M7 CONNECT with path", fields: []field{{":method", "CONNECT"}}, want: []string{rst}},
	{name: "2M8 extended CONNECT", fields: []field{{":method", "CONNECT"}, {":protocol", "websocket"}}, want: []string{rst}},
	{name: "2S1 scheme", fields: []field{{":scheme", "ftp"}}, want: []string{rst}},
	{name: "2S2 no scheme", fields: []field{{":scheme", "-"}}, want: []string{rst}},
	{name: "2S3 http over TLS", fields: []field{{":scheme", "http"}}, want: []string{"200"}},
	{name: "2A1 host alone", fields: []field{{":authority", "-"}, {"host", "shop.test"}}, want: []string{"200"}},
	{name: "2A2 empty host", fields: []field{{":authority", "-"}, {"host", ""}}, want: []string{"400"}},
	{name: "2A3 two names", fields: []field{{"host", "pay.test"}}, want: []string{"400"}},
	{name: "2A4 same name", fields: []field{{"host", "SHOP.test"}}, want: []string{"200"}},
	{name: "2A5 two hosts", fields: []field{{"host", "shop.test"}, {"host", "shop.test"}}, want: []string{"400"}},
	{name: "2A6 userinfo", fields: []field{{":authority", "me@shop.test"}}, want: []string{rst}},
	{name: "2A7 list", fields: []field{{":authority", "shop.test,pay.test"}}, want: []string{"400"}},
	{name: "2A8 slash", fields: []field{{":authority", "shop.test/x"}}, want: []string{"400"}},
	{name: "2A9 port", fields: []field{{":authority", "shop.test:99999"}}, want: []string{"400"}},
	{name: "2F1 capitals", fields: []field{{"Cookie", "a=b"}}, want: []string{rst}},
	{name: "2F2 blank in name", fields: []field{{"x y", "1"}}, want: []string{rst}},
	{name: "2F3 empty name", fields: []field{{"", "1"}}, want: []string{rst}},
	{name: "2F4 CR in value", fields: []field{{"x-a", "1\r"}}, want: []string{rst}},
	{name: "2F5 starts with a blank", fields: []field{{"x-a", " 1"}}, want: []string{"400"}},
	{name: "2F5 ends with a blank", fields: []field{{"x-a", "1 "}}, want: []string{"400"}},
	{name: "2F5 ends with a tab", fields: []field{{"x-a", "1\t"}}, want: []string{"400"}},
	{name: "2F6 late pseudo-field", raw: []field{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {"x-a", "1"}, {":authority", "shop.test"}}, want: []string{rst}},
	{name: "2F7 status", fields: []field{{":status", "200"}}, want: []string{rst}},
	{name: "2F8 unknown pseudo-field", fields: []field{{":version", "2"}}, want: []string{rst}},
	{name: "2F9 keep-alive", fields: []field{{"keep-alive", "5"}}, want: []string{"400"}},
	{name: "2F10 proxy-connection", fields: []field{{"proxy-connection", "close"}}, want: []string{"400"}},
	{name: "2F11 upgrade", fields: []field{{"upgrade", "websocket"}}, want: []string{"400"}},
	{name: "2F12 transfer-encoding", fields: []field{{"transfer-encoding", "identity"}}, want: []string{"400"}},
	{name: "2F13 te", fields: []field{{"te", "trailers"}}, want: []string{"200"}},
	{name: "2F14 te and more", fields: []field{{"te", "trailers, deflate"}}, want: []string{"400"}},
	{name: "2F15 two cookies", fields: []field{{"cookie", "a=b"}, {"cookie", "c=d"}}, want: []string{"200"},
		check: func(a arrival) string { return differs(a.header["Cookie"], "a=b; c=d") }},
	{name: "2F16 alias", fields: []field{{"content_length", "5"}}, want: []string{"200"},
		check: func(a arrival) string { return differs(a.header["Content_length"]) }},
	{name: "2F17 identity", fields: []field{{"x-countersign-subject", "admin"}}, want: []string{"200"},
		check: func(a arrival) string { return differs(a.header["X-Countersign-Subject"]) }},
	{name: "2F18 expect", fields: []field{{"expect", "200-ok"}}, want: []string{"417"}},
	{name: "2F19 list over 36 KiB", fields: slices.Repeat([]field{{"x-big", strings.Repeat("b", 3500)}}, 12), want: []string{"431"}},
	{name: "2F20 97 fields", fields: slices.Repeat([]field{{"x-n", "1"}}, 97), want: []string{"431"}},
	{name: "2F20 96 fields", fields: slices.Repeat([]field{{"x-n", "1"}}, 96), want: []string{"200"}},
	{name: "2F21 te twice", fields: []field{{"te", "trailers"}, {"te", "trailers"}}, want: []string{"400"}},
	{name: "2F22 connection", fields: []field{{"traceparent", "x"}, {"connection", "traceparent"}}, want: []string{"400"}},
	{name: "2F23 45 KiB", fields: []field{{"x-a", incompressible(15)}, {"x-b", incompressible(15)}, {"x-c", incompressible(15)}}, want: []string{"431", goAway}},
	{name: "2L1 longer", fields: post("3"), send: data("hello"), want: []string{rst}},
	{name: "2L2 shorter", fields: post("7"), send: data("hello"), want: []string{"400"}},
	{name: "2L3 twice", fields: append(post("4"), field{"content-length", "4"}), send: data("abcd"), want: []string{"400"}},
	{name: "2L4 sign", fields: post("+5"), send: data("hello"), want: []string{"400", rst}},
	{name: "2L5 list", fields: post("5,5"), send: data("hello"), want: []string{"400", rst}},
	{name: "2L6 empty", fields: post(""), send: data("hello"), want: []string{"400", rst}},
	{name: "2L7 no body", fields: post("5"), want: []string{"400"}},
	{name: "2L8 nothing", fields: post("0"), send: data(""), want: []string{"200"}},
	{name: "2T1 pseudo-field in trailers", fields: []field{{":method", "POST"}}, send: trailers(field{":path", "/x"}), want: []string{rst}},
	{name: "2T2 content-length in trailers", fields: post("", "content-length"), send: trailers(field{"content-length", "9"}), want: []string{"200"},
		check: func(a arrival) string { return differs(a.trailer["Content-Length"]) }},
	{name: "2T3 trailer", fields: post("", "x-sum"), send: trailers(field{"x-sum", "1"}), want: []string{"200"},
		check: func(a arrival) string { return differs(a.trailer["X-Sum"], "1") }},
	{name: "2T4 authorization in trailers", fields: post("", "authorization"), send: trailers(field{"authorization", "Bearer x"}), want: []string{rst}},
}

// post are the fields of a POST: of a length, or with trailers.
func post(length string, trailer ...string) []field {
	fields := []field{{":method", "POST"}, {"content-length", length}}
	if trailer != nil {
		fields = []field{{":method", "POST"}, {"trailer", trailer[0]}}
	}
	return fields
}

func data(text string) func(*h2Client) {
	return func(h *h2Client) { _ = h.WriteData(1, true, []byte(text)) }
}

func trailers(fields ...field) func(*h2Client) {
	return func(h *h2Client) {
		_ = h.WriteData(1, false, []byte("ab"))
		h.headers(1, true, h.encode(fields...))
	}
}

// incompressible is so many KiB that Huffman codes make no shorter.
func incompressible(kib int) string { return strings.Repeat("\xff", kib<<10) }

func differs(got []string, want ...string) string {
	if slices.Equal(got, want) {
		return ""
	}
	return fmt.Sprintf("got %q, want %q", got, want)
}

// h2Base are the targets that reach a program over a mesh listener where the edge has another, or refuses.
var h2Base = map[string]string{
	"2A7": "/", "2P4": "*", "2P7": "/items", "2P11": "/a%2fb", "2P13": "//items", "2M1": "/", "2M3": "/",
}

func TestFrontageHTTP2Messages(t *testing.T) {
	t.Run("edge", func(t *testing.T) { frontageHTTP2Messages(t, newFrontage(t, strictShop(), nil)) })
	t.Run("base", func(t *testing.T) { frontageHTTP2Messages(t, newFrontage(t, nil, nil)) })
}

func frontageHTTP2Messages(t *testing.T, f *frontage) {
	for _, c := range h2Messages {
		row, _, _ := strings.Cut(c.name, " ")
		if target, differs := h2Base[row]; differs && f.edge == nil {
			c.want, c.target = []string{"200"}, target
		}
		t.Run(c.name, func(t *testing.T) {
			conn, _ := f.dial(t, "h2")
			h := newH2Client(conn)
			fields := c.raw
			if fields == nil {
				fields = h2Fields(c.fields...)
			}
			h.headers(1, c.send == nil, h.encode(fields...))
			if c.send != nil {
				c.send(h)
			}
			if got := h.outcome(1); !slices.Contains(c.want, got) {
				t.Fatalf("got %s, want %q", got, c.want)
			}
			arrived := f.arrived()
			if c.want[0] != "200" {
				if len(arrived) > 0 {
					t.Errorf("%v arrived", arrived)
				}
				return
			}
			if len(arrived) != 1 {
				t.Fatalf("%d requests arrived", len(arrived))
			}
			if c.target != "" && arrived[0].target != c.target {
				t.Errorf("target %q arrived, want %q", arrived[0].target, c.target)
			}
			if c.check != nil {
				if wrong := c.check(arrived[0]); wrong != "" {
					t.Error(wrong)
				}
			}
		})
	}
}

// The rows of 17.2 that break rules of the connection. stream is the one whose fate is asked for.
func TestFrontageHTTP2Connections(t *testing.T) {
	t.Run("edge", func(t *testing.T) { frontageHTTP2Connections(t, newFrontage(t, strictShop(), nil)) })
	t.Run("base", func(t *testing.T) { frontageHTTP2Connections(t, newFrontage(t, nil, nil)) })
}

func frontageHTTP2Connections(t *testing.T, f *frontage) {
	for _, c := range []struct {
		name   string
		send   func(*h2Client)
		stream uint32
		want   []string
	}{
		{"2R1 DATA on stream 0", func(h *h2Client) { _ = h.WriteRawFrame(http2.FrameData, 0, 0, []byte("a")) }, 1, []string{goAway}},
		{"2R2 even stream", func(h *h2Client) { h.open(2, true) }, 2, []string{goAway}},
		{"2R3 streams fall", func(h *h2Client) { h.open(5, false); h.open(3, true) }, 3, []string{goAway}},
		{"2R4 big frame", func(h *h2Client) {
			h.open(1, false, field{":method", "POST"})
			_ = h.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 16<<10+1))
		}, 1, []string{tooBig}},
		{"2R5 PUSH_PROMISE", func(h *h2Client) {
			h.open(1, false, field{":method", "POST"})
			_ = h.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: h.encode(h2Fields()...), EndHeaders: true})
		}, 1, []string{goAway}},
		{"2R6 ENABLE_PUSH 2", func(h *h2Client) { _ = h.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 2}) }, 1, []string{goAway}},
		{"2R7 WINDOW_UPDATE 0", func(h *h2Client) {
			h.open(1, false, field{":method", "POST"})
			_ = h.WriteRawFrame(http2.FrameWindowUpdate, 0, 1, make([]byte, 4))
		}, 1, []string{rst}},
		{"2R8 padding", func(h *h2Client) {
			h.open(1, false, field{":method", "POST"})
			_ = h.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, []byte{9, 'a'})
		}, 1, []string{goAway}},
		{"2R9 DATA inside a header block", func(h *h2Client) {
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.encode(h2Fields()...)})
			_ = h.WriteData(1, true, []byte("a"))
		}, 1, []string{goAway}},
		{"2R10 HPACK index 0", func(h *h2Client) { h.headers(1, true, []byte{0x80}) }, 1, []string{"GOAWAY COMPRESSION_ERROR"}},
		{"2R11 second HEADERS without end", func(h *h2Client) {
			h.open(1, false, field{":method", "POST"})
			h.headers(1, false, h.encode(field{"x-a", "1"}))
		}, 1, []string{rst}},
		{"2R15 PRIORITY on itself", func(h *h2Client) {
			h.open(1, false, field{":method", "POST"})
			_ = h.WritePriority(1, http2.PriorityParam{StreamDep: 1})
		}, 1, []string{rst}},
		{"2R16 PING of 7", func(h *h2Client) { _ = h.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, 7)) }, 1, []string{tooBig}},
		{"2R17 unknown frame", func(h *h2Client) { _ = h.WriteRawFrame(0xee, 0, 0, []byte("a")); h.open(1, true) }, 1, []string{"200"}},
		{"2R18 200 CONTINUATION", func(h *h2Client) {
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.encode(h2Fields()...)})
			for range 200 {
				_ = h.WriteContinuation(1, false, h.encode(field{"x-a", strings.Repeat("\xff", 300)}))
			}
		}, 1, []string{goAway}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, _ := f.dial(t, "h2")
			h := newH2Client(conn)
			c.send(h)
			if got := h.outcome(c.stream); !slices.Contains(c.want, got) {
				t.Fatalf("got %s, want %q", got, c.want)
			}
			complete := 0
			if c.want[0] == "200" {
				complete = 1
			}
			if arrived := f.arrived(); len(arrived) != complete {
				t.Errorf("%d complete requests arrived, want %d", len(arrived), complete)
			}
		})
	}
}

// 2R12: what comes behind the end of a request leaves its answer alone.
func TestFrontageHTTP2DataAfterEnd(t *testing.T) {
	release := make(chan struct{})
	f := newFrontage(t, strictShop(), func(http.ResponseWriter, *http.Request) { <-release })
	conn, _ := f.dial(t, "h2")
	h := newH2Client(conn)
	h.open(1, true)
	_ = h.WriteData(1, false, []byte("more"))
	got := h.outcome(1)
	close(release)
	if got != "RST STREAM_CLOSED" {
		t.Errorf("got %s", got)
	}
}

// 2R13: more streams than are allowed.
func TestFrontageHTTP2Streams(t *testing.T) {
	release := make(chan struct{})
	f := newFrontage(t, strictShop(), func(http.ResponseWriter, *http.Request) { <-release })
	conn, _ := f.dial(t, "h2")
	h := newH2Client(conn)
	const n = 200
	for i := range uint32(n) {
		h.open(2*i+1, true)
	}
	statuses, resets := map[string]int{}, map[string]int{}
	for seen := map[uint32]bool{}; len(seen) < n; {
		frame, err := h.ReadFrame()
		if err != nil {
			t.Fatalf("%d served, %v refused: %v", statuses["200"], resets, err)
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			seen[frame.StreamID] = true
			statuses[frame.PseudoValue("status")]++
		case *http2.RSTStreamFrame:
			seen[frame.StreamID] = true
			resets[frame.ErrCode.String()]++
			if len(seen) == n-edgeStreams {
				close(release)
			}
		}
	}
	if statuses["200"] != edgeStreams || resets["REFUSED_STREAM"]+resets["PROTOCOL_ERROR"] != n-edgeStreams {
		t.Errorf("statuses %v, resets %v", statuses, resets)
	}
}

// 2R14: streams opened and reset, over and over.
func TestFrontageHTTP2RapidReset(t *testing.T) {
	f := newFrontage(t, strictShop(), func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	conn, l := f.dial(t, "h2")
	h := newH2Client(conn)
	go func() {
		for i := range uint32(10_000) {
			h.open(2*i+1, true)
			if h.WriteRSTStream(2*i+1, http2.ErrCodeCancel) != nil {
				return
			}
		}
	}()
	if got := h.outcome(0); got != "GOAWAY ENHANCE_YOUR_CALM" && got != "closed" {
		t.Errorf("got %s", got)
	}
	f.m.b.record(func(r *audit.Record) bool { return r.Conn == l.number })
}

// The cancel budget of 8.3: who waits between resets stays below what net/http minds, and is stopped all the same.
func TestFrontageHTTP2CancelBudget(t *testing.T) {
	began := make(chan struct{}, 1)
	f := newFrontage(t, strictShop(), func(_ http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-r.Context().Done()
	})
	conn, l := f.dial(t, "h2")
	h := newH2Client(conn)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		for {
			if _, err := h.ReadFrame(); err != nil {
				return
			}
		}
	}()
	for i := range uint32(10 * edgeResets) {
		h.open(2*i+1, true)
		select {
		case <-began:
			_ = h.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		case <-closed:
			if i < edgeResets {
				t.Errorf("closed after %d resets", i)
			}
			f.m.b.record(func(r *audit.Record) bool {
				return r.Conn == l.number && r.Reason == h1.H2Abuse && r.Proto == audit.ProtoHTTP2
			})
			return
		}
	}
	t.Error("the connection lives")
}

// The settings of http-strictness 8.2.
func TestFrontageHTTP2Settings(t *testing.T) {
	f := newFrontage(t, strictShop(), nil)
	conn, _ := f.dial(t, "h2")
	h := newH2Client(conn)
	frame, err := h.ReadFrame()
	settings, ok := frame.(*http2.SettingsFrame)
	if !ok {
		t.Fatalf("got %v, %v", frame, err)
	}
	for id, want := range map[http2.SettingID]uint32{
		http2.SettingMaxConcurrentStreams: 128, http2.SettingInitialWindowSize: 64 << 10, http2.SettingMaxFrameSize: 16_384,
		http2.SettingMaxHeaderListSize: 36_864,
	} {
		if got, _ := settings.Value(id); got != want {
			t.Errorf("%v: got %d, want %d", id, got, want)
		}
	}
	if size, sent := settings.Value(http2.SettingHeaderTableSize); sent && size != 4096 {
		t.Errorf("table of %d", size)
	}
}
