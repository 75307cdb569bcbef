package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"golang.org/x/sys/unix"
)

// session is one connection to a node; a node that was started anew gets another.
type session struct {
	conn  *net.UnixConn
	lines *bufio.Reader
}

// attach opens the session: identity granted, listeners handed over, ready.
func (p *program) attach(ctx context.Context) (*session, error) {
	client, err := p.e.ask(ctx, "node.sock")
	if err != nil {
		return nil, err
	}
	p.client = client
	s, err := p.open(ctx)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = p.e.notAnswering(p.e.peer, err)
	}
	return s, err
}

func (p *program) open(ctx context.Context) (*session, error) {
	conn, err := p.client.Dial(ctx) // 2 s at most
	if err != nil {
		return nil, err
	}
	over := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer over()
	s, err := p.greet(conn)
	if err != nil {
		conn.Close()
	}
	return s, err
}

func (p *program) greet(conn *net.UnixConn) (*session, error) {
	conn.SetDeadline(time.Now().Add(p.e.timeout))
	body, err := json.Marshal(p.req)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest("POST", "http://countersign/v1/run", strings.NewReader(string(body)))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "countersign-run")
	if err := r.Write(conn); err != nil {
		return nil, err
	}
	s := &session{conn: conn, lines: bufio.NewReader(conn)}
	res, err := http.ReadResponse(s.lines, r)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer res.Body.Close()
		var pr admin.Problem
		if err := json.NewDecoder(res.Body).Decode(&pr); err != nil {
			return nil, fmt.Errorf("the node answers %s", res.Status)
		}
		return nil, &pr
	}
	first, err := s.read()
	if err != nil || first.Granted == nil {
		return nil, fmt.Errorf("the node granted nothing: %w", err)
	}
	p.granted = *first.Granted
	if err := p.hand(conn); err != nil {
		return nil, err
	}
	ready, err := s.read()
	switch {
	case err != nil:
		return nil, err
	case ready.Refused != nil:
		return nil, ready.Refused
	case !ready.Ready:
		return nil, errors.New("the node is not ready")
	}
	conn.SetDeadline(time.Time{})
	return s, nil
}

func (s *session) read() (admin.RunMessage, error) {
	var m admin.RunMessage
	line, err := s.lines.ReadBytes('\n')
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(line, &m)
}

// hand passes duplicates of the listeners to the node (SCM_RIGHTS).
func (p *program) hand(conn *net.UnixConn) error {
	var fds []int
	for _, l := range p.listeners {
		f, err := l.File()
		if err != nil {
			return err
		}
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	line, err := json.Marshal(admin.RunMessage{Listeners: len(fds)})
	if err != nil {
		return err
	}
	_, _, err = conn.WriteMsgUnix(append(line, '\n'), unix.UnixRights(fds...), nil)
	runtime.KeepAlive(p.listeners)
	return err
}

func (p *program) tell(s *session, m admin.RunMessage) {
	b, err := json.Marshal(m)
	if err != nil {
		return
	}
	p.outWrite.Lock()
	defer p.outWrite.Unlock()
	s.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	s.conn.Write(append(b, '\n'))
}
