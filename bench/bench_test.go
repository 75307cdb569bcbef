//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// An answer counts only if it is whole and right.
func TestAnswer(t *testing.T) {
	body := strings.Repeat("x", 4)
	for _, test := range []struct {
		name, in string
		last, ok bool
	}{
		{"right", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body, false, true},
		{"the last of its connection", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\n" + body, true, true},
		{"refused", "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\n" + body, false, false},
		{"short", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nxx", false, false},
		{"of another length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxxx", false, false},
		{"without a length", "HTTP/1.1 200 OK\r\n\r\n" + body, false, false},
		{"cut in its head", "HTTP/1.1 200 OK\r\nConte", false, false},
	} {
		last, err := answer(bufio.NewReader(strings.NewReader(test.in)), make([]byte, 4))
		if last != test.last && test.ok || (err == nil) != test.ok {
			t.Errorf("%s: got %v, %v", test.name, last, err)
		}
	}
}

// The two children speak with each other, and the caller notices who it arrived as.
func TestLoad(t *testing.T) {
	addr, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serveProgram(ctx, addr[strings.LastIndexByte(addr, ':')+1:]) }()
	for ctx.Err() == nil {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			break
		}
		pause(ctx, time.Millisecond)
	}
	for _, test := range []struct {
		want string
		ok   bool
	}{{"xxxx", true}, {"spiffe://", false}} {
		var in, out bytes.Buffer
		o := order{Addr: addr, Want: test.want, Conns: 2, Post: true, Warm: 50 * time.Millisecond, Time: 100 * time.Millisecond, PIDs: []int{os.Getpid()}}
		if err := json.NewEncoder(&in).Encode(o); err != nil {
			t.Fatal(err)
		}
		if err := serveLoad(ctx, &in, &out); err != nil {
			t.Fatal(err)
		}
		var got tally
		if err := json.NewDecoder(&out).Decode(&got); err != nil {
			t.Fatal(err)
		}
		if test.ok != (got.Requests > 0 && got.P50 > 0) || test.ok == (got.First != "") {
			t.Errorf("want %q: got %+v", test.want, got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// An SVID is read out of a message as it is, or not at all.
func TestMembers(t *testing.T) {
	for _, test := range []struct {
		name, in string
		want     map[uint64][]byte
	}{
		{"two fields", "\x0a\x01a\x12\x02bc", map[uint64][]byte{1: []byte("a"), 2: []byte("bc")}},
		{"the first of each", "\x0a\x01a\x0a\x01b", map[uint64][]byte{1: []byte("a")}},
		{"none", "", map[uint64][]byte{}},
		{"cut", "\x0a\x02a", nil},
		{"without a length", "\x0a", nil},
		{"a number", "\x08\x01", nil},
		{"longer than can be", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", nil},
	} {
		got, err := members([]byte(test.in))
		if !reflect.DeepEqual(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("%s: got %v, %v", test.name, got, err)
		}
	}
}

// An aim is met at its very value, and missed on its other side.
func TestAim(t *testing.T) {
	for _, test := range []struct {
		aim    Aim
		result float64
		want   string
	}{
		{atMost(3, "x"), 2.9, "✓"},
		{atMost(3, "x"), 3, "✓"},
		{atMost(3, "x"), 3.1, "✗"},
		{atLeast(3, "x"), 3.1, "✓"},
		{atLeast(3, "x"), 3, "✓"},
		{atLeast(3, "x"), 2.9, "✗"},
		{noAim("x"), 2.9, ""},
	} {
		if got := test.aim.mark(test.result); got != test.want {
			t.Errorf("%v beside %s: got %q, want %q", test.result, test.aim, got, test.want)
		}
	}
}

// A token service that limits its client is no measurement, and no token is one either.
func TestAsk(t *testing.T) {
	for _, test := range []struct {
		name, answer, want string
		err                error
	}{
		{"token", "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"access_token\":\"x\"}", "x", nil},
		{"limited", "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", "", errLimited},
		{"busy", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "", errLimited},
		{"refused", "HTTP/1.1 400 Bad Request\r\nContent-Length: 20\r\n\r\n{\"access_token\":\"x\"}", "", errNoToken},
		{"empty", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "", errNoToken},
	} {
		got, err := readToken(bufio.NewReader(strings.NewReader(test.answer)))
		if got != test.want || !errors.Is(err, test.err) {
			t.Errorf("%s: got %q, %v", test.name, got, err)
		}
	}
}

// Whoever was started is ended, in time.
func TestCrewEnds(t *testing.T) {
	var c crew
	m, err := c.add("cat", exec.Command("cat", "/dev/zero"))
	if err != nil {
		t.Fatal(err)
	}
	if mem, err := memoryOf([]int{m.pid()}); err != nil || mem.RSS == 0 {
		t.Errorf("memory: got %+v, %v", mem, err)
	}
	c.end()
	select {
	case <-m.done:
	default:
		t.Error("cat goes on")
	}
	if _, err := cpuOf([]int{m.pid()}); err == nil {
		t.Error("CPU time of a process that has ended: got no error")
	}
}

// A door is called by TLS 1.3 with one cipher, over either protocol, and who shows another certificate is not called.
func TestEdge(t *testing.T) {
	dir := t.TempDir()
	if err := writeCertificates(dir, edgeHost, "other.test"); err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, edgeHost+".pem"), filepath.Join(dir, edgeHost+".key"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(bodySize))
		_, _ = w.Write(bytes.Repeat([]byte{'x'}, bodySize))
	}))
	s.EnableHTTP2, s.TLS = true, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	for _, host := range []string{edgeHost, "other.test"} {
		for _, h2 := range []bool{false, true} {
			o := order{
				Addr: s.Listener.Addr().String(), Want: "xxxx", Conns: 2, Warm: 50 * time.Millisecond, Time: 100 * time.Millisecond,
				PIDs: []int{os.Getpid()}, Edge: &edge{Host: host, Root: root, H2: h2},
			}
			got, err := drive(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if want := host == edgeHost; (got.Requests > 0) != want || (got.Failed > 0) == want {
				t.Errorf("%s, HTTP/2 %v: %+v", host, h2, got)
			}
		}
	}
}

// What must not happen is the end of a run.
func TestGatewayFailed(t *testing.T) {
	for _, test := range []struct {
		name string
		g    Gateway
		ok   bool
	}{
		{"nothing", Gateway{}, true},
		{"all well", Gateway{Reload: &Reload{Requests: 5, Streams: 1}, Slow: []Slow{{Made: 1}}}, true},
		{"a request", Gateway{Reload: &Reload{Requests: 5, Failed: 1}}, false},
		{"a stream", Gateway{Reload: &Reload{Requests: 5, Dropped: 1}}, false},
		{"a slow client", Gateway{Slow: []Slow{{Made: 1}, {Made: 1, Left: 1}}}, false},
	} {
		if err := test.g.failed(); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
