//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// The parts of -gateway.
var gatewayParts = []string{"calls", "apply", "load", "steps", "reload", "slow"}

// Gateway is the gateway beside its aims.
type Gateway struct {
	Calls  *Calls       `json:"calls,omitempty"`
	Rows   []GatewayRow `json:"rows,omitempty"`
	Reload *Reload      `json:"reload,omitempty"`
	Slow   []Slow       `json:"slow,omitempty"`
}

// GatewayRow is one quantity: the median of its readings, in the unit of its aim.
type GatewayRow struct {
	Name   string  `json:"name"`
	Result float64 `json:"result"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
	Aim    Aim     `json:"aim"`
}

func (g *Gateway) add(name string, results []float64, aim Aim) {
	g.Rows = append(g.Rows, GatewayRow{Name: name, Result: middle(results), Least: slices.Min(results), Most: slices.Max(results), Aim: aim})
}

func (g *Gateway) addOne(name string, result float64, aim Aim) { g.add(name, []float64{result}, aim) }

// grown is what memory has become since idle.
func (g *Gateway) grown(name string, idle, now Memory, aim Aim) {
	g.addOne("RSS of "+name+", above idle", float64(now.RSS-idle.RSS)/1024, aim)
	g.addOne("of it anonymous", float64(now.Anonymous-idle.Anonymous)/1024, noAim("MiB"))
}

// gateway measures what gateway.md 25 has aims for.
func (s *stand) gateway(ctx context.Context) (*Gateway, error) {
	g := &Gateway{}
	for _, part := range s.only {
		var err error
		switch part {
		case "calls":
			g.Calls, err = s.calls(ctx)
		case "apply":
			err = s.applying(ctx, g)
		case "load":
			err = s.loading(ctx, g)
		case "steps":
			err = s.steps(ctx, g)
		case "reload":
			g.Reload, err = s.reloading(ctx)
		case "slow":
			g.Slow, err = s.slow(ctx)
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part, err)
		}
	}
	return g, nil
}

func (g *Gateway) print(out io.Writer) {
	if g.Calls != nil {
		g.Calls.print(out)
	}
	if len(g.Rows) > 0 {
		fmt.Fprintln(out, "\ngateway beside its aims")
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "\tresult\tleast–most\taim\t\t")
		for _, r := range g.Rows {
			spread := ""
			if r.Least != r.Most {
				spread = number(r.Least) + "–" + number(r.Most)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t\n", r.Name, number(r.Result), spread, r.Aim, r.Aim.mark(r.Result))
		}
		w.Flush()
	}
	if r := g.Reload; r != nil {
		fmt.Fprintf(out, "\nreload: %d changes in %.1f s under %d requests, %d failed; of %d streams %d dropped\n", r.Changes, r.Seconds, r.Requests, r.Failed, r.Streams, r.Dropped)
	}
	for _, l := range g.Slow {
		fmt.Fprintf(out, "slow %s: of %d %d are left after %.0f s (first gone after %.0f s, last after %.0f s)\n", l.Kind, l.Made, l.Left, slowTime.Seconds(), l.First, l.Last)
	}
}

// failed is what must not be: a request or stream lost by a change, a slow client that stays.
func (g *Gateway) failed() error {
	if r := g.Reload; r != nil && r.Failed+int64(r.Dropped) > 0 {
		return fmt.Errorf("%d of %d requests failed, %d of %d streams were dropped: %s", r.Failed, r.Requests, r.Dropped, r.Streams, r.First)
	}
	for _, l := range g.Slow {
		if l.Left > 0 {
			return fmt.Errorf("%d of %d slow %s are left", l.Left, l.Made, l.Kind)
		}
	}
	return nil
}
