//go:build linux

package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"text/tabwriter"
)

// Results are what a run found.
type Results struct {
	CPUs   int     `json:"cpus"`
	Go     string  `json:"go"`
	Pinned bool    `json:"pinned"`
	Hops   *Hops   `json:"hops,omitempty"`
	Start  *Starts `json:"start,omitempty"`
	Idle   *Memory `json:"idle,omitempty"`
	Soak   *Soak   `json:"soak,omitempty"`
	Tokens *Tokens `json:"tokens,omitempty"`

	Gateway *Gateway `json:"gateway,omitempty"`
}

// Hops is two hops beside a pair of nginx.
type Hops struct {
	Nginx       string  `json:"nginx,omitempty"` // version
	Note        string  `json:"note,omitempty"`
	Rows        []Row   `json:"rows"`
	OursMemory  *Memory `json:"ours_memory"`
	NginxMemory *Memory `json:"nginx_memory,omitempty"`
}

// Row is one number of connections.
type Row struct {
	Connections int     `json:"connections"`
	Ours        *Cell   `json:"ours"`
	Nginx       *Cell   `json:"nginx,omitempty"`
	Ratio       float64 `json:"ratio,omitempty"`
	Aim         float64 `json:"aim"`
}

// Cell is the median round of one subject.
type Cell struct {
	CPU        float64 `json:"cpu_us"` // of both hops, per request
	Least      float64 `json:"cpu_us_least"`
	Most       float64 `json:"cpu_us_most"`
	Rate       float64 `json:"requests_per_second"`
	P50        float64 `json:"p50_us"`
	P99        float64 `json:"p99_us"`
	Allocs     float64 `json:"allocs,omitempty"`
	AllocBytes float64 `json:"alloc_bytes,omitempty"`
}

// Starts are times from exec to ready.
type Starts struct {
	Fresh    Times `json:"fresh"`
	Existing Times `json:"existing"`
}

// Times are in milliseconds.
type Times struct {
	Median float64 `json:"median_ms"`
	Worst  float64 `json:"worst_ms"`
	all    []float64
}

func (t *Times) sum() {
	slices.Sort(t.all)
	if n := len(t.all); n > 0 {
		t.Median, t.Worst = t.all[n/2], t.all[n-1]
	}
}

// Soak is what came of calling across renewals.
type Soak struct {
	Connections int     `json:"connections"`
	Seconds     float64 `json:"seconds"`
	Requests    int64   `json:"requests"`
	Failed      int64   `json:"failed"`
	First       string  `json:"first_failure,omitempty"`
	Renewals    int     `json:"renewals"`
	Memory      Memory  `json:"memory"`
}

func newResults(o options) *Results {
	return &Results{CPUs: runtime.NumCPU(), Go: runtime.Version(), Pinned: o.pin >= 0}
}

// print writes the tables.
func (r *Results) print(out io.Writer) {
	pinned := ""
	if r.Pinned {
		pinned = ", pinned to one"
	}
	fmt.Fprintf(out, "%d CPUs%s, %s\n", r.CPUs, pinned, r.Go)
	if r.Hops != nil {
		r.Hops.print(out)
	}
	if s := r.Start; s != nil {
		fmt.Fprintf(out, "\nup, from exec to ready (ms)\n")
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "\tmedian\tworst\t")
		fmt.Fprintf(w, "fresh directory\t%.0f\t%.0f\t\n", s.Fresh.Median, s.Fresh.Worst)
		fmt.Fprintf(w, "existing\t%.0f\t%.0f\t\n", s.Existing.Median, s.Existing.Worst)
		w.Flush()
	}
	if m := r.Idle; m != nil {
		fmt.Fprintf(out, "\nup at rest: RSS %s\n", m)
	}
	if t := r.Tokens; t != nil {
		t.print(out)
	}
	if g := r.Gateway; g != nil {
		g.print(out)
	}
	if s := r.Soak; s != nil {
		fmt.Fprintf(out, "\nrotation: %d requests over %d connections in %.0f s, %d certificates renewed, %d failed; RSS %s\n",
			s.Requests, s.Connections, s.Seconds, s.Renewals, s.Failed, &s.Memory)
	}
}

func (m *Memory) String() string {
	return fmt.Sprintf("%.1f MiB, of it anonymous %.1f MiB", float64(m.RSS)/1024, float64(m.Anonymous)/1024)
}

func (h *Hops) print(out io.Writer) {
	fmt.Fprintf(out, "\ntwo hops with mutual TLS between them, CPU µs per request (median, least and most of the rounds)\n")
	if h.Note != "" {
		fmt.Fprintln(out, h.Note)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "connections\tours\t\tnginx "+h.Nginx+"\t\tratio\taim\tallocs\tbytes\tp50 ours\tnginx\t")
	for _, r := range h.Rows {
		fmt.Fprintf(w, "%d\t%s\t", r.Connections, r.Ours)
		if r.Nginx != nil {
			fmt.Fprintf(w, "%s\t%.2f\t≤ %.1f\t", r.Nginx, r.Ratio, r.Aim)
		} else {
			fmt.Fprintf(w, "–\t\t–\t≤ %.1f\t", r.Aim)
		}
		if r.Ours.Allocs > 0 {
			fmt.Fprintf(w, "%.0f\t%.0f\t", r.Ours.Allocs, r.Ours.AllocBytes)
		} else {
			fmt.Fprint(w, "not shown\t\t")
		}
		fmt.Fprintf(w, "%.0f\t", r.Ours.P50)
		if r.Nginx != nil {
			fmt.Fprintf(w, "%.0f\t", r.Nginx.P50)
		} else {
			fmt.Fprint(w, "–\t")
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	fmt.Fprintf(out, "after it: ours RSS %s\n", h.OursMemory)
	if h.NginxMemory != nil {
		fmt.Fprintf(out, "          nginx, two masters and two workers, RSS %s\n", h.NginxMemory)
	}
}

func (c *Cell) String() string {
	if c == nil {
		return "–\t"
	}
	return fmt.Sprintf("%.1f\t%.1f–%.1f", c.CPU, c.Least, c.Most)
}
