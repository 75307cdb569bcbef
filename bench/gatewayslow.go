//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	slowEach = 100
	slowTime = 75 * time.Second // in which all have to be gone
)

// Slow is what became of one kind of slow clients.
type Slow struct {
	Kind        string  `json:"kind"`
	Made        int     `json:"made"`
	Left        int     `json:"left"`
	First, Last float64 // seconds until they were gone
}

// slow has clients that send their heads and bodies a byte a second, or do not read, all at once.
func (s *stand) slow(ctx context.Context) ([]Slow, error) {
	f, err := s.front(ctx)
	if err != nil {
		return nil, err
	}
	kinds := []struct {
		name string
		do   func(context.Context) error
	}{
		{"heads, HTTP", f.slowly("GET / HTTP/1.1\r\nHost: open.test\r\nX-Slow: ")},
		{"bodies, HTTP", f.slowly("POST /orders/1 HTTP/1.1\r\nHost: open.test\r\nContent-Length: 100000\r\n\r\n")},
		{"readers, HTTP", f.unread},
		{"heads, HTTPS and HTTP/2", f.slowly2(slowHead)},
		{"bodies, HTTPS and HTTP/2", f.slowly2(slowBody)},
		{"readers, HTTPS and HTTP/2", f.slowly2(slowRead)},
	}
	s.say("%d slow clients, %v", slowEach*len(kinds), slowTime)
	ctx, cancel := context.WithTimeout(ctx, slowTime)
	defer cancel()
	out := make([]Slow, len(kinds))
	var mu sync.Mutex // guards out and failed
	var failed error
	var wait sync.WaitGroup
	began := time.Now()
	for i, k := range kinds {
		out[i] = Slow{Kind: k.name, Made: slowEach}
		for range slowEach {
			wait.Go(func() {
				err := k.do(ctx)
				at := time.Since(began).Seconds()
				mu.Lock()
				defer mu.Unlock()
				switch o := &out[i]; {
				case err != nil:
					failed = err
				case ctx.Err() != nil:
					o.Left++
				default:
					o.Last = max(o.Last, at)
					if o.First == 0 {
						o.First = at
					}
				}
			})
		}
	}
	wait.Wait()
	s.crew.end()
	return out, failed
}

// slowly sends the beginning of a request, and from then on a byte a second. It returns when the connection is gone,
// or when ctx has ended.
func (f *front) slowly(begin string) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := net.Dial("tcp", "127.0.0.1:"+f.plain)
		if err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
		defer context.AfterFunc(ctx, func() { c.Close() })()
		defer c.Close()
		gone, end := context.WithCancel(ctx)
		go func() {
			defer end()
			_, _ = io.Copy(io.Discard, c)
		}()
		for _, err := io.WriteString(c, begin); err == nil && gone.Err() == nil; _, err = io.WriteString(c, "x") {
			pause(gone, time.Second)
		}
		<-gone.Done()
		return nil
	}
}

// unread asks for a great deal and reads nothing of it, so it cannot hear of an end.
func (f *front) unread(ctx context.Context) error {
	c, err := net.Dial("tcp", "127.0.0.1:"+f.plain)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /big HTTP/1.1\r\nHost: open.test\r\n\r\n"); err != nil {
		return fmt.Errorf("asking: %w", err)
	}
	for ctx.Err() == nil {
		pause(ctx, 2*time.Second)
		if there, err := held(c); err != nil || !there {
			return err
		}
	}
	return nil
}

// The ways to be slow on HTTP/2.
type slowWay uint8

const (
	slowHead slowWay = iota
	slowBody
	slowRead
)

func (f *front) slowly2(way slowWay) func(context.Context) error {
	return func(ctx context.Context) error {
		e := &edge{Host: "open.test", Root: f.root, H2: true}
		cfg, err := e.config()
		if err != nil {
			return err
		}
		conn, err := tls.Dial("tcp", "127.0.0.1:"+f.port, cfg)
		if err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		defer conn.Close()
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			return fmt.Errorf("asking: %w", err)
		}
		fr := http2.NewFramer(conn, conn)
		var head bytes.Buffer
		enc := hpack.NewEncoder(&head)
		method, path := "GET", "/big"
		if way == slowBody {
			method, path = "POST", "/orders/1"
		}
		for _, h := range []hpack.HeaderField{{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "open.test"}, {Name: ":path", Value: path}} {
			_ = enc.WriteField(h)
		}
		if err := fr.WriteSettings(); err != nil {
			return fmt.Errorf("asking: %w", err)
		}
		if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: way != slowHead, EndStream: way != slowBody}); err != nil {
			return fmt.Errorf("asking: %w", err)
		}
		gone, end := context.WithCancel(ctx)
		go func() { // reads, but grants no window
			defer end()
			for {
				got, err := fr.ReadFrame()
				if err != nil {
					return
				}
				if r, ok := got.(*http2.RSTStreamFrame); ok && r.StreamID == 1 {
					return
				}
			}
		}()
		for err = nil; err == nil && gone.Err() == nil; {
			pause(gone, time.Second)
			switch way {
			case slowHead:
				err = fr.WriteContinuation(1, false, nil)
			case slowBody:
				err = fr.WriteData(1, false, []byte("x"))
			}
		}
		<-gone.Done()
		return nil
	}
}

// held reports whether a process still has the other end of a connection: the kernel's table has its inode, which is 0
// once nobody has it, though there may be bytes left that nobody reads.
func held(c net.Conn) (bool, error) {
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return false, fmt.Errorf("reading the connections: %w", err)
	}
	near, far := c.LocalAddr().(*net.TCPAddr).Port, c.RemoteAddr().(*net.TCPAddr).Port
	ends := fmt.Sprintf(" 0100007F:%04X 0100007F:%04X ", far, near)
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, ends) {
			f := strings.Fields(line)
			return len(f) > 9 && f[9] != "0", nil
		}
	}
	return false, nil
}
