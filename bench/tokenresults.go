//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// Tokens is the token service beside its aims.
type Tokens struct {
	Rounds int        `json:"rounds"`
	Sign   float64    `json:"sign_us"` // raw P-256, median of all rounds
	Verify float64    `json:"verify_us"`
	Rows   []TokenRow `json:"rows"`
	sign   []float64
	verify []float64
}

// TokenRow is one quantity: the median of its rounds, in the unit of its aim.
type TokenRow struct {
	Name   string  `json:"name"`
	CPU    float64 `json:"cpu_us,omitempty"`
	Result float64 `json:"result"`
	Least  float64 `json:"least,omitempty"`
	Most   float64 `json:"most,omitempty"`
	Aim    Aim     `json:"aim"`
}

// Aim is what a quantity should be, at most or at least; 0 is none, the quantity is told beside others.
type Aim struct {
	Value float64 `json:"value,omitempty"`
	Unit  string  `json:"unit"`
	Least bool    `json:"at_least,omitempty"`
}

func noAim(unit string) Aim              { return Aim{Unit: unit} }
func atMost(v float64, unit string) Aim  { return Aim{Value: v, Unit: unit} }
func atLeast(v float64, unit string) Aim { return Aim{Value: v, Unit: unit, Least: true} }

// mark says whether the aim is met.
func (a Aim) mark(result float64) string {
	if a.Value == 0 {
		return ""
	}
	if a.Least == (result >= a.Value) || result == a.Value {
		return "✓"
	}
	return "✗"
}

func (a Aim) String() string {
	switch {
	case a.Value == 0:
		return a.Unit
	case a.Least:
		return fmt.Sprintf("≥ %g %s", a.Value, a.Unit)
	}
	return fmt.Sprintf("≤ %g %s", a.Value, a.Unit)
}

// inUnit are rounds in the unit of an aim.
func inUnit(costs []cost, in func(cost) float64) (out []float64) {
	for _, c := range costs {
		out = append(out, in(c))
	}
	return out
}

// add takes the rounds of a quantity: what they cost, and the results in the unit of the aim.
func (t *Tokens) add(name string, costs []cost, results []float64, aim Aim) {
	var each []float64
	for _, c := range costs {
		each = append(each, c.each/1000)
		if c.sign > 0 {
			t.sign, t.verify = append(t.sign, c.sign/1000), append(t.verify, c.verify/1000)
		}
	}
	t.Sign, t.Verify = middle(t.sign), middle(t.verify)
	t.Rows = append(t.Rows, TokenRow{
		Name: name, CPU: middle(each), Result: middle(results), Least: slices.Min(results), Most: slices.Max(results), Aim: aim,
	})
}

// middle is the median; 0 of nothing.
func middle(of []float64) float64 {
	if len(of) == 0 {
		return 0
	}
	of = slices.Sorted(slices.Values(of))
	return of[len(of)/2]
}

func (t *Tokens) print(out io.Writer) {
	fmt.Fprintf(out, "\ntokens, medians of %d rounds; raw P-256 on busy CPUs: signature %.1f µs, verification %.1f µs\n", t.Rounds, t.Sign, t.Verify)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tCPU µs\tresult\tleast–most\taim\t\t")
	for _, r := range t.Rows {
		cpu, spread := "", ""
		if r.CPU > 0 {
			cpu = fmt.Sprintf("%.4g", r.CPU)
			spread = number(r.Least) + "–" + number(r.Most)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", r.Name, cpu, number(r.Result), spread, r.Aim, r.Aim.mark(r.Result))
	}
	w.Flush()
}

func number(v float64) string {
	if v >= 100 || v <= -100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
