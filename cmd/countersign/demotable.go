package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const intruder = "intruder"

// show draws the table until the show ends: in place on a terminal, once at the end elsewhere.
func (d *demo) show(ctx context.Context, over <-chan struct{}) error {
	began := time.Now()
	var timer <-chan time.Time
	if d.lasts > 0 {
		timer = time.After(d.lasts)
	}
	live := d.e.colour(d.e.out) && !d.e.json
	tick := time.NewTicker(demoRefresh)
	defer tick.Stop()
	drawn := 0
	for {
		if live {
			drawn = d.draw(ctx, drawn, true)
		}
		select {
		case <-tick.C:
			continue
		case <-timer:
			return d.finish(ctx, time.Since(began), drawn, true)
		case c := <-d.died:
			if ctx.Err() == nil {
				return c.problem()
			}
		case <-ctx.Done():
		case <-over:
		}
		return d.finish(ctx, time.Since(began), drawn, false)
	}
}

// draw prints the table over the last one, and gives the count of lines.
func (d *demo) draw(ctx context.Context, over int, live bool) int {
	var b strings.Builder
	rows := d.rows()
	t := demoTable(rows)
	t.cut = columns(d.e.out)
	if d.e.colour(d.e.out) {
		t.paint = paintRefused
	}
	t.write(&b)
	b.WriteString("\n" + everyCall(rows, d.certificatesEnd(ctx)))
	if live {
		fmt.Fprintf(&b, `try   countersign why                       why the intruder is refused
      countersign tap                       every decision as it is made
      countersign get ap -A                 the policies behind it
files %s      Ctrl-C ends it
`, tilde(d.dir))
	}
	text := b.String()
	if over > 0 {
		text = fmt.Sprintf("\x1b[%dA", over) + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
	}
	io.WriteString(d.e.out, text)
	return strings.Count(text, "\n")
}

// rows are those of the table, by caller: the customer first, the intruder last.
func (d *demo) rows() []audit.Row {
	rows := d.table.Rows()
	rank := func(r audit.Row) int {
		if i := slices.Index([]string{"web", "orders", intruder}, nameOf(r.From)); i >= 0 {
			return i
		}
		return 9
	}
	slices.SortStableFunc(rows, func(a, b audit.Row) int { return rank(a) - rank(b) })
	return rows
}

// certificatesEnd is when the first of the programs' certificates does.
func (d *demo) certificatesEnd(ctx context.Context) (ends time.Time) {
	ctx, cancel := context.WithTimeout(ctx, demoRefresh)
	defer cancel()
	s, err := admin.Ask[admin.LocalStatus](ctx, d.node, "POST /v1/status", nil)
	if err != nil {
		return ends
	}
	for _, w := range s.Workloads {
		if !w.SVIDNotAfter.IsZero() && (ends.IsZero() || w.SVIDNotAfter.Before(ends)) {
			ends = w.SVIDNotAfter
		}
	}
	return ends
}

func demoTable(rows []audit.Row) *table {
	head := []string{"CALLER", "CALLEE", "METHOD", "ROUTE", ">ALLOWED", ">REFUSED"}
	limited := false
	for _, r := range rows {
		limited = limited || r.Limited > 0
	}
	if limited {
		head = append(head, ">LIMITED")
	}
	t := newTable(append(head, ">P50", ">P99")...)
	for _, r := range rows {
		cells := []string{nameOf(r.From), nameOf(r.To), stranger(r.Method), stranger(r.Route), thousands(r.Allowed), thousands(r.Refused)}
		if limited {
			cells = append(cells, thousands(r.Limited))
		}
		t.add(append(cells, latency(r.P50), latency(r.P99))...)
	}
	return t
}

func paintRefused(row []string, at int) string {
	if at == 5 && row[at] != "0" {
		return red
	}
	return ""
}

// everyCall says what all calls had in common.
func everyCall(rows []audit.Row, ends time.Time) string {
	var version, group uint16
	for _, r := range rows {
		if r.TLSVersion == 0 {
			continue
		}
		if version != 0 && (version != r.TLSVersion || group != r.TLSGroup) {
			return ""
		}
		version, group = r.TLSVersion, r.TLSGroup
	}
	if version == 0 {
		return ""
	}
	line := "every call: " + tls.VersionName(version)
	if group != 0 {
		line += ", " + tls.CurveID(group).String()
	}
	if tls.CurveID(group) == tls.X25519MLKEM768 {
		line += " (post-quantum)"
	}
	if !ends.IsZero() {
		line += ", certificates end in " + age(time.Until(ends))
	}
	return line + "\n"
}

// finish prints what there is to see at the end, before the programs are stopped: what is cut
// by that is nobody's refusal. judged: the time of --for is over.
func (d *demo) finish(ctx context.Context, took time.Duration, drawn int, judged bool) error {
	rows := d.rows()
	wrong := misplayed(rows, judged)
	if d.e.json {
		if err := d.e.printJSON(demoJSON(rows, took, wrong == nil)); err != nil {
			return err
		}
	} else {
		d.draw(context.WithoutCancel(ctx), drawn, false)
	}
	switch {
	case !judged:
		return nil
	case wrong != nil:
		return wrong
	case !d.e.json:
		var allowed, refused uint64
		for _, r := range rows {
			allowed += r.Allowed
			refused += r.Refused + r.Limited
		}
		fmt.Fprintf(d.e.out, "%.1f s: %s allowed, %s refused, as intended %s\n", took.Seconds(), counted(allowed, "call"), thousands(refused), d.e.tint(d.e.out, green, mark("✓")))
	}
	return nil
}

// misplayed is what was not as intended: the intruder is always refused, nobody else ever.
func misplayed(rows []audit.Row, judged bool) error {
	var allowed, refused uint64
	for _, r := range rows {
		call := nameOf(r.From) + " " + mark("→") + " " + nameOf(r.To)
		bad, what := r.Refused+r.Limited, "were refused that should be allowed"
		if nameOf(r.From) == intruder {
			bad, what = r.Allowed, "were allowed that should be refused"
			refused += r.Refused
		} else {
			allowed += r.Allowed
		}
		if bad > 0 {
			p := &admin.Problem{Code: "not_intended", Message: fmt.Sprintf("%s of %s %s", counted(bad, "call"), call, what), Hints: []string{"countersign tap --from " + nameOf(r.From)}}
			if r.LastRefused != "" {
				p.Hints = []string{"countersign why " + r.LastRefused}
			}
			return p
		}
	}
	if judged && (allowed == 0 || refused == 0) {
		return &admin.Problem{Code: "not_intended", Message: fmt.Sprintf("%s allowed, %s refused: too few to tell", counted(allowed, "call"), thousands(refused)), Hints: []string{"countersign demo --for 5s"}}
	}
	return nil
}

func demoJSON(rows []audit.Row, took time.Duration, ok bool) any {
	type line struct {
		From    string  `json:"from,omitempty"`
		To      string  `json:"to"`
		Method  string  `json:"method,omitempty"`
		Route   string  `json:"route,omitempty"`
		Allowed uint64  `json:"allowed"`
		Refused uint64  `json:"refused"`
		Limited uint64  `json:"limited"`
		P50     float64 `json:"p50_ms"`
		P99     float64 `json:"p99_ms"`
	}
	lines := []line{}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	for _, r := range rows {
		lines = append(lines, line{r.From, r.To, r.Method, r.Route, r.Allowed, r.Refused, r.Limited, ms(r.P50), ms(r.P99)})
	}
	return map[string]any{"rows": lines, "seconds": took.Seconds(), "ok": ok}
}

// nameOf is the last word of an identity: the shop is one namespace. A caller that proved
// nothing is "?".
func nameOf(id string) string {
	if id == "" {
		return "?"
	}
	p, err := spiffeid.FromString(id)
	if err != nil {
		return stranger(id)
	}
	if _, name, ok := identity.Split(p); ok {
		return name
	}
	return id
}
