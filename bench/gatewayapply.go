//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"countersign.dev/internal/admin"
)

const (
	atOnce      = 100 // objects that one apply may change
	applyRounds = 20
)

// routeText is route i: 50 of them share a host. What it answers says which edit of it is in force.
func routeText(i, edit int) string {
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r%[1]d}
spec:
  parentRefs: [{name: edge}]
  hostnames: [h%[2]d.test]
  rules:
  - matches: [{path: {type: PathPrefix, value: /orders/%[1]d}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Edit, value: "%[3]d"}]}}]
    backendRefs: [{name: legacy, port: 80}]
`, i, i/50, edit)
}

// prober asks for one route over one kept connection.
type prober struct {
	tr   *http.Transport
	port string
}

func (f *front) prober() (*prober, error) {
	cfg, err := (&edge{Host: edgeHost, Root: f.root}).config()
	if err != nil {
		return nil, err
	}
	return &prober{port: f.port, tr: &http.Transport{TLSClientConfig: cfg}}, nil
}

// edit is which edit of a route is in force; -1: none.
func (p *prober) edit(ctx context.Context, i int) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%s/orders/%d", p.port, i), nil)
	if err != nil {
		return 0, err
	}
	req.Host = fmt.Sprintf("h%d.test", i/50)
	res, err := p.tr.RoundTrip(req)
	if err != nil {
		return 0, fmt.Errorf("asking the Gateway: %w", err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, fmt.Errorf("asking the Gateway: %w", err)
	}
	n := -1
	if res.StatusCode == http.StatusOK {
		_, err = fmt.Sscan(res.Header.Get("X-Edit"), &n)
	}
	return n, err
}

// until waits for an edit of a route to be in force.
func (p *prober) until(ctx context.Context, i, edit int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		n, err := p.edit(ctx, i)
		if err != nil {
			return err
		}
		if n == edit {
			return nil
		}
		pause(ctx, 500*time.Microsecond)
	}
}

// changes measures how long a changed route takes to be in force, among n routes that are there.
func (f *front) changes(ctx context.Context, g *Gateway, n int, aim float64) error {
	p, err := f.prober()
	if err != nil {
		return err
	}
	defer p.tr.CloseIdleConnections()
	i := n / 2
	p.tr.TLSClientConfig.ServerName = fmt.Sprintf("h%d.test", i/50)
	var took, cpu []float64
	for edit := 1; edit <= applyRounds+3; edit++ {
		before, err := cpuOf([]int{f.pid()})
		if err != nil {
			return err
		}
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- f.apply(ctx, routeText(i, edit)) }()
		if err := p.until(ctx, i, edit); err != nil {
			return err
		}
		ms := time.Since(began).Seconds() * 1000
		if err := <-done; err != nil {
			return err
		}
		pause(ctx, 50*time.Millisecond) // what comes after it too
		after, err := cpuOf([]int{f.pid()})
		if err != nil {
			return err
		}
		if edit > 3 { // the first warm up
			took, cpu = append(took, ms), append(cpu, (after-before).Seconds()*1000)
		}
	}
	name := fmt.Sprintf("apply → in effect, %d routes", n)
	g.add(name, took, atMost(aim, "ms"))
	g.add(name+", CPU of up", cpu, noAim("ms"))
	return nil
}

// fill applies routes from first to last, as many at once as may be.
func (f *front) fill(ctx context.Context, first, last int) error {
	for first < last {
		var b strings.Builder
		end := min(first+atOnce, last)
		for i := first; i < end; i++ {
			b.WriteString(routeText(i, 0))
		}
		if err := f.apply(ctx, b.String()); err != nil {
			return err
		}
		first = end
	}
	return nil
}

// applying measures changes among 1,000 and 5,000 routes, and what the 5,000 hold.
func (s *stand) applying(ctx context.Context, g *Gateway) error {
	f, err := s.front(ctx)
	if err != nil {
		return err
	}
	pause(ctx, s.idle)
	idle, err := memoryOf([]int{f.pid()})
	if err != nil {
		return err
	}
	for _, step := range []struct {
		first, last int
		aim         float64
	}{{0, 1000, 10}, {1000, 5000, 20}} {
		s.say("applying routes %d to %d", step.first, step.last)
		if err := f.fill(ctx, step.first, step.last); err != nil {
			return err
		}
		s.say("changing one of %d routes, %d times", step.last, applyRounds)
		if err := f.changes(ctx, g, step.last, step.aim); err != nil {
			return err
		}
	}
	pause(ctx, s.idle)
	full, err := memoryOf([]int{f.pid()})
	if err != nil {
		return err
	}
	g.grown("5,000 routes applied and changed", idle, full, noAim("MiB"))
	s.crew.end()
	return nil
}

// loading measures a directory of 5,000 routes that comes into a running `up --watch`: from the moment it is complete
// to the first answer by its last route, and from the start of `up` on the same objects, stored.
func (s *stand) loading(ctx context.Context, g *Gateway) error {
	dir, err := s.fresh("watched")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "none.yaml"), nil, 0o600); err != nil {
		return fmt.Errorf("writing the watched directory: %w", err)
	}
	f, err := s.front(ctx, "--watch", dir)
	if err != nil {
		return err
	}
	pause(ctx, s.idle)
	idle, err := memoryOf([]int{f.pid()})
	if err != nil {
		return err
	}
	const n = 5000
	var b strings.Builder
	for i := range n {
		b.WriteString(routeText(i, 0))
	}
	p, err := f.prober()
	if err != nil {
		return err
	}
	p.tr.TLSClientConfig.ServerName = fmt.Sprintf("h%d.test", (n-1)/50)
	s.say("a watched directory gets %d routes", n)
	if err := os.WriteFile(filepath.Join(dir, ".routes"), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("writing the watched directory: %w", err)
	}
	before, err := cpuOf([]int{f.pid()})
	if err != nil {
		return err
	}
	began := time.Now()
	if err := os.Rename(filepath.Join(dir, ".routes"), filepath.Join(dir, "routes.yaml")); err != nil {
		return fmt.Errorf("writing the watched directory: %w", err)
	}
	if err := p.until(ctx, n-1, 0); err != nil {
		return err
	}
	g.addOne("5,000 routes by --watch, in force", time.Since(began).Seconds(), atMost(1, "s"))
	after, err := cpuOf([]int{f.pid()})
	if err != nil {
		return err
	}
	g.addOne("5,000 routes by --watch, CPU of up", (after - before).Seconds(), noAim("s"))
	p.tr.CloseIdleConnections()
	pause(ctx, s.idle)
	full, err := memoryOf([]int{f.pid()})
	if err != nil {
		return err
	}
	g.grown("5,000 routes by --watch", idle, full, noAim("MiB"))
	old, args := f.dir, []string{"--config", filepath.Join(s.dir, "edge.yaml"), "--watch", dir}
	s.crew.dismiss(f.member)
	u, err := s.up(ctx, old, args...)
	if err != nil {
		return err
	}
	g.addOne("the same up started anew, ready", u.took.Seconds(), noAim("s"))
	pause(ctx, s.idle)
	if full, err = memoryOf([]int{u.pid()}); err != nil {
		return err
	}
	g.grown("5,000 routes after that start", idle, full, atMost(64, "MiB"))
	s.crew.end()
	return nil
}

// remove deletes routes by name.
func (f *front) remove(ctx context.Context, i int) error {
	_, err := admin.Ask[admin.ApplyReply](ctx, f.admin, "POST /v1/delete", admin.DeleteRequest{
		Refs: []admin.Ref{{Kind: "HTTPRoute", Namespace: "default", Name: fmt.Sprintf("r%d", i)}}, Confirmed: true,
	})
	if err != nil {
		return fmt.Errorf("deleting a route: %w", err)
	}
	return nil
}
