//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"sync"
	"time"
)

// asker is one client of the token service over mutual TLS, with its request made ready.
type asker struct {
	addr    string
	cfg     *tls.Config
	request []byte
	conn    *tls.Conn // nil: the next request makes one
	reader  *bufio.Reader
}

func newAsker(addr string, s *svid, form url.Values) (*asker, error) {
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	form.Set("client_id", s.ID)
	body := form.Encode()
	head := "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: "
	return &asker{addr: addr, cfg: cfg, request: fmt.Appendf(nil, "%s%d\r\n\r\n%s", head, len(body), body)}, nil
}

// connect makes a connection, which has to be by a whole handshake with hybrid key exchange.
func (a *asker) connect(ctx context.Context) error {
	d := tls.Dialer{Config: a.cfg}
	c, err := d.DialContext(ctx, "tcp", a.addr)
	if err != nil {
		return fmt.Errorf("connecting to the token service: %w", err)
	}
	a.conn = c.(*tls.Conn)
	a.reader = bufio.NewReader(a.conn)
	if s := a.conn.ConnectionState(); s.DidResume || s.CurveID != tls.X25519MLKEM768 {
		return errors.New("the handshake was not a whole one with X25519MLKEM768")
	}
	return nil
}

func (a *asker) close() {
	if a.conn != nil {
		a.conn.Close()
		a.conn = nil
	}
}

var errLimited = errors.New("a limit of the token service was reached: what was measured says nothing")

// ask gets one token.
func (a *asker) ask(ctx context.Context) (string, error) {
	if a.conn == nil {
		if err := a.connect(ctx); err != nil {
			return "", err
		}
	}
	_ = a.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := a.conn.Write(a.request); err != nil {
		return "", fmt.Errorf("asking for a token: %w", err)
	}
	return readToken(a.reader)
}

// readToken reads an answer with a token.
func readToken(r *bufio.Reader) (string, error) {
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return "", fmt.Errorf("reading the answer of the token service: %w", err)
	}
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the answer of the token service: %w", err)
	case res.StatusCode == http.StatusTooManyRequests, res.StatusCode == http.StatusServiceUnavailable:
		return "", errLimited
	}
	return tokenIn(res.StatusCode, body)
}

var errNoToken = errors.New("the token service gave no token")

// tokenIn is the token of an answer (RFC 6749, section 5.1).
func tokenIn(status int, body []byte) (string, error) {
	var said struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &said); err != nil || said.Token == "" || status != http.StatusOK {
		return "", fmt.Errorf("%w: %d %.200q", errNoToken, status, body)
	}
	return said.Token, nil
}

// way is how a cell asks.
type way struct {
	fresh bool          // a connection for each token
	turns bool          // one request at a time, not one of each asker
	every time.Duration // the least time from one token of an asker to the next
}

// inFlight is how many ask at once: as many as the service signs for (tokens.md 17).
var inFlight = 4 * runtime.NumCPU()

// askAll has each asker get that many tokens.
func askAll(ctx context.Context, askers []*asker, each int, w way) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	one := func(a *asker) error {
		if w.fresh {
			a.close()
			defer a.close()
		}
		_, err := a.ask(ctx)
		return err
	}
	if w.turns {
		for range each {
			for _, a := range askers {
				if err := one(a); err != nil {
					return err
				}
			}
		}
		return nil
	}
	var wait sync.WaitGroup
	places := make(chan struct{}, inFlight)
	for _, a := range askers {
		wait.Go(func() {
			next := time.Now()
			for range each {
				if w.every > 0 {
					pause(ctx, time.Until(next))
					next = next.Add(w.every)
				}
				if ctx.Err() != nil {
					return
				}
				places <- struct{}{}
				err := one(a)
				<-places
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}
