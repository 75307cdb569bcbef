//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	reloads     = 1000
	openStreams = 100
)

// Reload is what came of changing routes one by one under load.
type Reload struct {
	Changes  int     `json:"changes"`
	Seconds  float64 `json:"seconds"`
	Requests int64   `json:"requests"`
	Failed   int64   `json:"failed"`
	First    string  `json:"first_failure,omitempty"`
	Streams  int     `json:"streams"`
	Dropped  int     `json:"dropped"`
}

// reloading adds, edits and removes routes one by one while 64 connections call and 100 streams are open.
func (s *stand) reloading(ctx context.Context) (*Reload, error) {
	f, err := s.front(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.fill(ctx, 0, 100); err != nil {
		return nil, err
	}
	ended := make(chan error, openStreams)
	streams, stop := context.WithCancel(ctx)
	defer stop()
	for i := range openStreams {
		first := make(chan error, 1)
		go func() { ended <- f.follow(streams, i%2 == 1, first) }()
		if err := <-first; err != nil {
			return nil, fmt.Errorf("opening a stream: %w", err)
		}
	}
	s.say("%d changes of routes one by one, 64 connections calling, %d streams open", reloads, openStreams)
	calls, finish := context.WithCancel(ctx)
	defer finish()
	called := make(chan tally, 1)
	callErr := make(chan error, 1)
	go func() {
		o := f.order(edgeHost, "xxxx", false, 64, 0, 24*time.Hour)
		t, err := drive(calls, o)
		called <- t
		callErr <- err
	}()
	began := time.Now()
	for i := range reloads {
		switch n := 100 + i/3; i % 3 {
		case 0:
			err = f.apply(ctx, routeText(n, 0))
		case 1:
			err = f.apply(ctx, routeText(n, 1))
		case 2:
			err = f.remove(ctx, n)
		}
		if err != nil {
			return nil, err
		}
	}
	res := &Reload{Changes: reloads, Seconds: time.Since(began).Seconds(), Streams: openStreams}
	finish()
	t := <-called
	if err := <-callErr; err != nil {
		return nil, err
	}
	res.Requests, res.Failed, res.First = t.All, t.Failed, t.First
	res.Dropped = len(ended)
	stop()
	if res.Requests == 0 {
		return nil, errors.New("nobody called: nothing was proven")
	}
	s.crew.end()
	return res, nil
}

// follow reads an event stream until it ends; first hears of its first event. A stream that is silent for 5 s has
// been dropped too.
func (f *front) follow(ctx context.Context, h2 bool, first chan<- error) error {
	e := &edge{Host: "open.test", Root: f.root, H2: h2}
	cfg, err := e.config()
	if err != nil {
		first <- err
		return err
	}
	p := new(http.Protocols)
	p.SetHTTP1(!h2)
	p.SetHTTP2(h2)
	tr := &http.Transport{TLSClientConfig: cfg, Protocols: p}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(10*time.Second, cancel)
	defer silent.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:"+f.port+"/events", nil)
	if err != nil {
		first <- err
		return err
	}
	req.Host = e.Host
	res, err := tr.RoundTrip(req)
	if err != nil {
		first <- err
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		err = fmt.Errorf("the answer is %s", res.Status)
		first <- err
		return err
	}
	for r, told := bufio.NewReader(res.Body), false; ; {
		if _, err := r.ReadString('\n'); err != nil {
			return err
		}
		silent.Reset(5 * time.Second)
		if !told {
			first <- nil
			told = true
		}
	}
}

// odd are the answers of our program that take their time.
var odd = map[string]http.HandlerFunc{
	"/events": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, "data: x\n\n"); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			pause(r.Context(), 500*time.Millisecond)
		}
	},
	"/big": func(w http.ResponseWriter, r *http.Request) {
		block := make([]byte, 64<<10)
		for range bigSize / len(block) {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	},
}

const bigSize = 256 << 20
