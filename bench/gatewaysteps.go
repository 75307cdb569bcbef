//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// steps runs the benchmarks of the packages whose steps have an aim of their own.
func (s *stand) steps(ctx context.Context, g *Gateway) error {
	lookup, err := s.benchmark(ctx, "route", "^BenchmarkLookup$/^hosts$")
	if err != nil {
		return err
	}
	small, large := lookup["Lookup/hosts/10"], lookup["Lookup/hosts/5000"]
	g.add("look-up, 5,000 routes, 8 candidates a leaf", large.values, atMost(400, "ns"))
	g.addOne("the same, allocations", large.allocs, Aim{Unit: "allocations, aim 0"})
	g.addOne("growth from 10 routes", middle(large.values)/middle(small.values), atMost(2, "×"))
	take, err := s.benchmark(ctx, "limit", "^BenchmarkTake$/^1_rules$")
	if err != nil {
		return err
	}
	g.add("limiter step, one rule, its key made", take["Take/1_rules"].values, atMost(150, "ns"))
	check, err := s.benchmark(ctx, "apikey", "^BenchmarkCheck$/^plain$")
	if err != nil {
		return err
	}
	for _, of := range []struct{ name, text string }{{"hit", "right"}, {"unknown", "unknown"}, {"checksum", "mistyped"}} {
		r := check["Check/plain/"+of.name]
		g.add("key check, 100,000 keys, "+of.text, r.values, atMost(1000, "ns"))
	}
	return nil
}

// readings of one benchmark.
type readings struct {
	values []float64
	allocs float64
}

// unit is the CPU time that benchmarks report beside the clock.
const unit = "cpu-ns/op"

// benchmark runs a benchmark of a package once a round.
func (s *stand) benchmark(ctx context.Context, pkg, pattern string) (map[string]*readings, error) {
	s.say("benchmark %s of package %s", pattern, pkg)
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", pattern, "-benchmem", "-count", strconv.Itoa(s.rounds), "-cpu", "1", "countersign.dev/internal/"+pkg)
	b, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("running the benchmarks of %s: %w: %s", pkg, err, bytes.TrimSpace(b))
	}
	out := map[string]*readings{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(f[0], "Benchmark")
		if out[name] == nil {
			out[name] = &readings{}
		}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return nil, fmt.Errorf("reading a benchmark of %s: %w", pkg, err)
			}
			switch f[i+1] {
			case unit:
				out[name].values = append(out[name].values, v)
			case "allocs/op":
				out[name].allocs = max(out[name].allocs, v)
			}
		}
	}
	for name, r := range out {
		if len(r.values) == 0 {
			return nil, fmt.Errorf("the benchmark %s of %s says nothing in %s", name, pkg, unit)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("package %s has no benchmark %s", pkg, pattern)
	}
	return out, nil
}
