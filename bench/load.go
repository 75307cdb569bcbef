//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The two children: the program that is called, and the one that calls.
const (
	programChild = "program"
	loadChild    = "load"
)

const bodySize = 1024

// peerField is where the last hop tells the program who called.
const peerField = "X-Forwarded-Client-Cert"

// serveProgram answers every request with 1 KiB that begins with who called.
func serveProgram(ctx context.Context, port string) error {
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return fmt.Errorf("serving: %w", err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer := odd[r.URL.Path]; answer != nil {
			answer(w, r)
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
		body := bytes.Repeat([]byte{'x'}, bodySize)
		copy(body, r.Header.Get(peerField))
		h := w.Header()
		h["Content-Type"] = []string{"text/plain"}
		h["Content-Length"] = []string{strconv.Itoa(bodySize)}
		_, _ = w.Write(body)
	})}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// order is one cell to be driven.
type order struct {
	Addr  string        // "": by HTTP_PROXY, to http://api/
	Want  string        // what every answer has to hold: the caller's identity
	Conns int           // each sends its next request when it has the answer
	Post  bool          // every second connection sends 1 KiB
	Warm  time.Duration // before anything is counted
	Time  time.Duration
	PIDs  []int  // whose CPU time is read when counting begins and ends
	Token string // Bearer of every request; "": none
	Edge  *edge  // how Addr is called, if it is a door for strangers
	// Revoke asks for something else: so many tokens for that audience, each called with and
	// revoked; p50 and p99 are how long it was then still taken.
	Revoke   int
	Audience string
}

// tally is what came of it.
type tally struct {
	All      int64 // with those before counting began
	Requests int64
	Failed   int64
	First    string // the first failure
	CPU      time.Duration
	P50, P99 time.Duration
}

// serveLoad drives what the lines on its input order, and answers each with a line.
func serveLoad(ctx context.Context, in io.Reader, out io.Writer) error {
	lines, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o order
		if err := lines.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading an order: %w", err)
		}
		do := drive
		if o.Revoke > 0 {
			do = revokeAll
		}
		t, err := do(ctx, o)
		if err != nil {
			return err
		}
		if err := enc.Encode(t); err != nil {
			return err
		}
	}
}

// drive keeps o.Conns connections busy. CPU time is read by this process itself, at the very
// moments at which counting begins and ends.
func drive(ctx context.Context, o order) (tally, error) {
	addr, target, field := o.Addr, "/orders/17", ""
	if addr == "" {
		proxy, err := url.Parse(os.Getenv("HTTP_PROXY"))
		if err != nil || proxy.Host == "" {
			return tally{}, errors.New("HTTP_PROXY is not set")
		}
		secret, _ := proxy.User.Password()
		addr, target = proxy.Host, "http://api/orders/17"
		field = "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(proxy.User.Username()+":"+secret)) + "\r\n"
	}
	if o.Token != "" {
		field += "Authorization: Bearer " + o.Token + "\r\n"
	}
	host := "api"
	l := &load{addr: addr, want: []byte(o.Want)}
	if o.Edge != nil {
		var err error
		if l.tls, err = o.Edge.config(); err != nil {
			return tally{}, err
		}
		host, l.edge, l.header = o.Edge.Host, o.Edge, callerHeader(o.Token)
	}
	head := target + " HTTP/1.1\r\nHost: " + host + "\r\n" + field +
		"User-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nX-Request-Id: 0123456789abcdef\r\nCookie: a=b; c=d\r\n"
	requests := [2]string{"GET " + head + "\r\n"}
	requests[1] = requests[0]
	if o.Post {
		requests[1] = "POST " + head + "Content-Length: " + strconv.Itoa(bodySize) + "\r\n\r\n" + strings.Repeat("y", bodySize)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	callers := make([]caller, o.Conns)
	var wait sync.WaitGroup
	for i := range callers {
		callers[i] = caller{load: l, request: []byte(requests[i%2])}
		wait.Go(func() { callers[i].call(ctx) })
	}
	pause(ctx, o.Warm)
	before, err := cpuOf(o.PIDs)
	if err != nil {
		return tally{}, err
	}
	l.counting.Store(true)
	began := l.all.Load()
	pause(ctx, o.Time)
	after, err := cpuOf(o.PIDs)
	if err != nil {
		return tally{}, err
	}
	t := tally{Requests: l.all.Load() - began, CPU: after - before}
	cancel()
	wait.Wait()
	t.All, t.Failed = l.all.Load(), l.failed.Load()
	if first := l.first.Load(); first != nil {
		t.First = *first
	}
	var took []time.Duration
	for i := range callers {
		took = append(took, callers[i].took...)
	}
	if slices.Sort(took); len(took) > 0 {
		t.P50, t.P99 = took[len(took)/2], took[len(took)*99/100]
	}
	return t, nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// load is what all callers of one cell share.
type load struct {
	addr     string
	want     []byte
	edge     *edge // nil: clear text
	tls      *tls.Config
	header   http.Header
	counting atomic.Bool
	all      atomic.Int64
	failed   atomic.Int64
	first    atomic.Pointer[string]
}

// caller is one closed loop over one connection.
type caller struct {
	*load
	request []byte
	took    []time.Duration
}

// call goes on until ctx ends, on a new connection after each failure.
func (c *caller) call(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.connect(ctx); err != nil && ctx.Err() == nil {
			text := err.Error()
			c.first.CompareAndSwap(nil, &text)
			c.failed.Add(1)
			pause(ctx, 5*time.Millisecond)
		}
	}
}

// connect is the life of one connection: nil when the other side announced its end.
func (c *caller) connect(ctx context.Context) error {
	if c.edge != nil && c.edge.H2 {
		return c.stream(ctx)
	}
	var d net.Dialer
	dial := d.DialContext
	if c.edge != nil {
		dial = func(ctx context.Context, _, addr string) (net.Conn, error) { return c.edge.dial(ctx, addr, c.tls) }
	}
	conn, err := dial(ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	var body [bodySize]byte
	for r := bufio.NewReader(conn); ctx.Err() == nil; {
		began := time.Now()
		_ = conn.SetDeadline(began.Add(10 * time.Second))
		if _, err := conn.Write(c.request); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		last, err := answer(r, body[:])
		if err != nil {
			return err
		}
		if !bytes.Contains(body[:], c.want) {
			return fmt.Errorf("the caller arrived as %.80q, not %q", body[:], c.want)
		}
		c.answered(began)
		if last {
			return nil
		}
	}
	return nil
}

// answered counts one right answer.
func (c *caller) answered(began time.Time) {
	c.all.Add(1)
	if c.counting.Load() {
		c.took = append(c.took, time.Since(began))
	}
}

// answer reads one response, which has to be 200 with a body of the right length, and
// whether it is the last one of its connection.
func answer(r *bufio.Reader, body []byte) (last bool, err error) {
	status, length := "", ""
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return false, fmt.Errorf("reading an answer: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case status == "":
			status = string(line)
			continue
		case len(line) == 0:
		default:
			name, value, _ := bytes.Cut(line, []byte(": "))
			switch {
			case bytes.EqualFold(name, []byte("Content-Length")):
				length = string(value)
			case bytes.EqualFold(name, []byte("Connection")):
				last = bytes.EqualFold(value, []byte("close"))
			}
			continue
		}
		break
	}
	if !strings.HasPrefix(status, "HTTP/1.1 200 ") || length != strconv.Itoa(len(body)) {
		return false, fmt.Errorf("answer is %q with length %q", status, length)
	}
	if _, err := io.ReadFull(r, body); err != nil {
		return false, fmt.Errorf("reading a body: %w", err)
	}
	return last, nil
}
