package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Client asks one socket.
type Client struct {
	path  string
	trust func(uid uint32) error
	http  *http.Client
}

// NewClient asks the socket at path. trust judges the uid of who listens there, before
// anything is sent.
func NewClient(path string, trust func(uid uint32) error) *Client {
	c := &Client{path: path, trust: trust}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx) },
		DisableKeepAlives: true,
	}}
	return c
}

// Path is the socket's.
func (c *Client) Path() string { return c.path }

// Dial connects and asks the kernel who is on the other side.
func (c *Client) Dial(ctx context.Context) (*net.UnixConn, error) {
	d := net.Dialer{Timeout: 2 * time.Second}
	conn, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return nil, err
	}
	u := conn.(*net.UnixConn)
	uid, err := peerUID(u)
	if err == nil {
		err = c.trust(uid)
	}
	if err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
}

func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, fmt.Errorf("asking the kernel who listens: %w", credErr)
	}
	return cred.Uid, nil
}

// Ask sends req as JSON ("GET /path", "POST /path") and reads the reply. An answer of no
// is a *Problem.
func Ask[Reply any](ctx context.Context, c *Client, call string, req any) (Reply, error) {
	var reply Reply
	body, err := c.Open(ctx, call, req)
	if err != nil {
		return reply, err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(&reply); err != nil {
		return reply, fmt.Errorf("reading the answer of %s: %w", c.path, err)
	}
	return reply, nil
}

// Open sends req and gives the body of the answer, for streams.
func (c *Client) Open(ctx context.Context, call string, req any) (io.ReadCloser, error) {
	method, path, _ := strings.Cut(call, " ")
	var body io.Reader
	if req != nil {
		b, err := json.Marshal(req)
		if err != nil {
			return nil, fmt.Errorf("encoding a request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://countersign"+path, body)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(r)
	if err != nil {
		var p *Problem
		if errors.As(err, &p) {
			return nil, p
		}
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		defer res.Body.Close()
		return nil, readProblem(res)
	}
	return res.Body, nil
}

func readProblem(res *http.Response) error {
	var p Problem
	if err := json.NewDecoder(io.LimitReader(res.Body, 8<<20)).Decode(&p); err != nil {
		return fmt.Errorf("the answer is %s", res.Status)
	}
	return &p
}
