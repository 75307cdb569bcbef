//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The connections of the cells, and what ours may cost at each, as a multiple of nginx.
var (
	connections = []int{1, 16, 64}
	aims        = []float64{2, 3.5, 3.5}
)

// hops measures both subjects at each number of connections, round by round.
func (s *stand) hops(ctx context.Context) (*Hops, error) {
	dir, err := s.fresh("up")
	if err != nil {
		return nil, err
	}
	u, err := s.up(ctx, dir)
	if err != nil {
		return nil, err
	}
	w, app, err := u.shop(ctx)
	if err != nil {
		return nil, err
	}
	subjects := []*subject{{name: "ours", order: order{Want: webID, PIDs: []int{u.pid()}}, up: u}}
	res := &Hops{}
	path, version, err := findNginx(s.nginx)
	switch {
	case errors.Is(err, errNoNginx):
		res.Note = err.Error() + ": no ratios"
	case err != nil:
		return nil, err
	default:
		n, err := s.pair(ctx, path, app)
		if err != nil {
			return nil, err
		}
		res.Nginx = version
		subjects = append(subjects, &subject{name: "nginx", order: order{Addr: n.addr, Want: nginxPeer, PIDs: n.pids}})
	}
	for i, conns := range connections {
		row := Row{Connections: conns, Aim: aims[i]}
		var got [2][]Cell
		for round := range s.rounds {
			for j, sub := range subjects {
				s.say("%d connections, round %d of %d: %s", conns, round+1, s.rounds, sub.name)
				c, err := sub.cell(ctx, s, w, conns)
				if err != nil {
					return nil, err
				}
				got[j] = append(got[j], c)
			}
		}
		row.Ours, row.Nginx = median(got[0]), median(got[1])
		if row.Nginx != nil {
			row.Ratio = row.Ours.CPU / row.Nginx.CPU
		}
		res.Rows = append(res.Rows, row)
	}
	for j, sub := range subjects {
		m, err := memoryOf(sub.order.PIDs)
		if err != nil {
			return nil, err
		}
		*[]**Memory{&res.OursMemory, &res.NginxMemory}[j] = &m
	}
	s.crew.end()
	return res, nil
}

// subject is who is measured.
type subject struct {
	name  string
	order order
	up    *up // nil: nginx
}

// The counters of the Go runtime, if the program shows them.
const (
	allocs     = "go_gc_heap_allocs_objects_total"
	allocBytes = "go_gc_heap_allocs_bytes_total"
)

// cell measures one subject once.
func (sub *subject) cell(ctx context.Context, s *stand, w *web, conns int) (Cell, error) {
	o := sub.order
	o.Conns, o.Warm, o.Time = conns, s.warm, s.time
	var objects, bytes float64
	shown := false
	if sub.up != nil {
		objects, shown = sub.up.metric(ctx, allocs)
		bytes, _ = sub.up.metric(ctx, allocBytes)
	}
	t, err := w.drive(o)
	if err != nil {
		return Cell{}, err
	}
	switch {
	case ctx.Err() != nil:
		return Cell{}, context.Cause(ctx)
	case t.Failed > 0:
		return Cell{}, fmt.Errorf("%s at %d connections: %d of %d requests failed: %s", sub.name, conns, t.Failed, t.All, t.First)
	case t.Requests == 0:
		return Cell{}, fmt.Errorf("%s at %d connections: no request was answered", sub.name, conns)
	}
	c := Cell{
		CPU: float64(t.CPU.Microseconds()) / float64(t.Requests), Rate: float64(t.Requests) / s.time.Seconds(),
		P50: micros(t.P50), P99: micros(t.P99),
	}
	if shown {
		after, _ := sub.up.metric(ctx, allocs)
		afterBytes, _ := sub.up.metric(ctx, allocBytes)
		c.Allocs = (after - objects) / float64(t.All)
		c.AllocBytes = (afterBytes - bytes) / float64(t.All)
	}
	return c, nil
}

func micros(d time.Duration) float64 { return float64(d.Microseconds()) }

// median is the cell of the median CPU time; nil if there is none.
func median(cells []Cell) *Cell {
	if len(cells) == 0 {
		return nil
	}
	slices.SortFunc(cells, func(a, b Cell) int {
		switch {
		case a.CPU < b.CPU:
			return -1
		case a.CPU > b.CPU:
			return 1
		}
		return 0
	})
	c := cells[len(cells)/2]
	c.Least, c.Most = cells[0].CPU, cells[len(cells)-1].CPU
	return &c
}

// start measures the time from exec to ready.
func (s *stand) start(ctx context.Context) (*Starts, error) {
	res := &Starts{}
	one := func(dir string) (float64, error) {
		u, err := s.up(ctx, dir)
		if err != nil {
			return 0, err
		}
		s.crew.dismiss(u.member)
		return u.took.Seconds() * 1000, nil
	}
	s.say("%d starts on fresh directories, %d on one that exists", s.starts, s.starts)
	var dir string
	for range s.starts {
		var err error
		if dir, err = s.fresh("up"); err != nil {
			return nil, err
		}
		ms, err := one(dir)
		if err != nil {
			return nil, err
		}
		res.Fresh.all = append(res.Fresh.all, ms)
	}
	for range s.starts {
		ms, err := one(dir)
		if err != nil {
			return nil, err
		}
		res.Existing.all = append(res.Existing.all, ms)
	}
	res.Fresh.sum()
	res.Existing.sum()
	return res, nil
}

// atRest measures what up holds when nothing happens.
func (s *stand) atRest(ctx context.Context) (*Memory, error) {
	dir, err := s.fresh("up")
	if err != nil {
		return nil, err
	}
	u, err := s.up(ctx, dir)
	if err != nil {
		return nil, err
	}
	s.say("%v at rest", s.idle)
	pause(ctx, s.idle)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	m, err := memoryOf([]int{u.pid()})
	if err != nil {
		return nil, err
	}
	s.crew.dismiss(u.member)
	return &m, nil
}

// rotate calls all the time over certificates that live 10 s: no renewal may be noticed.
func (s *stand) rotate(ctx context.Context) (*Soak, error) {
	dir, err := s.fresh("up")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(s.dir, "soak.yaml")
	if err := os.WriteFile(config, []byte("svidTTL: 10s\n"), 0o600); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	u, err := s.up(ctx, dir, "--config", config)
	if err != nil {
		return nil, err
	}
	w, _, err := u.shop(ctx)
	if err != nil {
		return nil, err
	}
	s.say("calling for %v over 64 connections", s.soak)
	counting, end := context.WithCancel(ctx)
	renewals := make(chan int)
	go func() { renewals <- u.renewals(counting) }()
	t, err := w.drive(order{Want: webID, Conns: 64, Post: true, Time: s.soak})
	end()
	res := &Soak{Connections: 64, Seconds: s.soak.Seconds(), Requests: t.All, Failed: t.Failed, First: t.First, Renewals: <-renewals}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	m, err := memoryOf([]int{u.pid()})
	if err != nil {
		return nil, err
	}
	res.Memory = m
	s.crew.end()
	if res.Renewals == 0 {
		return nil, errors.New("no certificate was renewed: nothing was proven")
	}
	return res, nil
}

// renewals counts how often the certificates of web and api change, as /metrics tells.
func (u *up) renewals(ctx context.Context) (n int) {
	last := map[string]float64{}
	for ctx.Err() == nil {
		for _, name := range []string{"default/web", "default/api"} {
			end, ok := u.metric(ctx, `countersign_certificate_expiry_seconds{kind="workload",name="`+name+`"}`)
			if was := last[name]; ok && end != was {
				last[name] = end
				if was != 0 {
					n++
				}
			}
		}
		pause(ctx, 500*time.Millisecond)
	}
	return n
}
