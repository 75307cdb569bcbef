package main

import (
	"cmp"
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

const (
	intruder = "intruder"
	demoWide = 96 // columns from which on the table has latencies
)

// intended are the refusals that the shop is there to show, each by its layer. At the door: a
// caller with nothing, one with an API key who asks for more than the stock, one that asks too often. In the
// mesh: a call without a customer, one with a stolen token, one that nobody allowed.
var intended = []intention{
	{"?", "edge", "GET", "/orders/{*}", audit.LayerAuthz},
	{"key:" + partner, "edge", "GET", "/orders/{*}", audit.LayerAuthz},
	{"key:" + scraper, "edge", "GET", "/stock/{*}", audit.LayerLimit},
	{intruder, "orders", "GET", "/orders/{*}", audit.LayerToken},
	{intruder, "payments", "POST", "/payments", audit.LayerAuthz},
	{"web", "orders", "GET", "/orders", audit.LayerAuthz},
}

type intention struct{ from, to, method, route, layer string }

// intends gives which of the intentions a row is of, -1 if of none.
func intends(r audit.Row) int {
	return slices.IndexFunc(intended, func(i intention) bool {
		return i.from == nameOf(r.From) && i.to == nameOf(r.To) && i.method == r.Method && i.route == r.Route
	})
}

// opened says that a call for a customer went through, and that all was refused that does not
// come of web's own accord.
func opened(rows []audit.Row) bool {
	served, refused := false, 0
	for _, r := range rows {
		switch from := nameOf(r.From); {
		case from != "web":
			if intends(r) >= 0 && r.Refused+r.Limited > 0 {
				refused++
			}
		case nameOf(r.To) == "orders":
			served = served || r.Allowed > 0
		}
	}
	return served && refused == len(intended)-1
}

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
		if err := d.login.renew(time.Now()); err != nil {
			return err
		}
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
	cut := columns(d.e.out)
	t := demoTable(rows, cut == 0 || cut >= demoWide)
	t.cut = cut
	if d.e.colour(d.e.out) {
		t.paint = paintRefused
	}
	t.write(&b)
	b.WriteString("\n" + everyCall(rows, d.certificatesEnd(ctx)))
	if live {
		b.WriteString(d.tries(lines(d.e.out) - 1 - strings.Count(b.String(), "\n")))
	}
	text := b.String()
	if over > 0 {
		text = fmt.Sprintf("\x1b[%dA", over) + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
	}
	io.WriteString(d.e.out, text)
	return strings.Count(text, "\n")
}

// tries are commands to go on with, as many as there is room for: what is redrawn in place must
// fit the terminal.
func (d *demo) tries(room int) string {
	try := []string{
		"try   countersign why --from web                    refused without a customer\n",
		"      countersign why --from intruder --to orders   refused with a stolen token\n",
		"      countersign tap                               every decision as it is made\n",
		"      countersign get ap -A                         the policies behind it\n",
	}
	there := []string{
		"files " + tilde(d.dir) + "      Ctrl-C ends it\n",
		"there curl --cacert ca.pem " + d.doorURL() + "/orders/1\n",
		"      curl --cacert ca.pem -H @" + partner + headerFile + " " + d.doorURL() + "/stock/1\n",
	}
	return strings.Join(append(try[:min(len(try), max(1, room-len(there)))], there...), "")
}

// rows are those of the table, by caller and whom he calls: those from outside first, the intruder last.
func (d *demo) rows() []audit.Row {
	rows := d.table.Rows()
	rank := func(r audit.Row) int {
		switch {
		case strings.HasPrefix(r.From, "p1:"):
			return -3
		case strings.HasPrefix(r.From, "key:"):
			return -2
		case !strings.HasPrefix(r.From, "spiffe://"):
			return -1
		}
		if i := slices.Index([]string{"edge", "web", "orders", intruder}, nameOf(r.From)); i >= 0 {
			return i
		}
		return 9
	}
	slices.SortStableFunc(rows, func(a, b audit.Row) int {
		return cmp.Or(rank(a)-rank(b), strings.Compare(a.From, b.From), strings.Compare(a.To, b.To))
	})
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

func demoTable(rows []audit.Row, latencies bool) *table {
	head := []string{"CALLER", "CALLEE", "REQUEST", ">ALLOWED", ">REFUSED"}
	limited := false
	for _, r := range rows {
		limited = limited || r.Limited > 0
	}
	if limited {
		head = append(head, ">LIMITED")
	}
	head = append(head, "BY")
	if latencies {
		head = append(head, ">P50", ">P99")
	}
	t := newTable(head...)
	for _, r := range rows {
		cells := []string{nameOf(r.From), nameOf(r.To), stranger(strings.TrimSpace(r.Method + " " + r.Route)), thousands(r.Allowed), thousands(r.Refused)}
		if limited {
			cells = append(cells, thousands(r.Limited))
		}
		cells = append(cells, refuser[r.RefusedBy])
		if latencies {
			cells = append(cells, latency(r.P50), latency(r.P99))
		}
		t.add(cells...)
	}
	return t
}

// refuser is what refused, in a word.
var refuser = map[string]string{
	audit.LayerTLS: "connection", audit.LayerHTTP: "message", audit.LayerToken: "token",
	audit.LayerAuthz: "policy", audit.LayerLimit: "limit", audit.LayerRoute: "route",
}

func paintRefused(row []string, at int) string {
	if at == 4 && row[at] != "0" {
		return red
	}
	return ""
}

// everyCall says what all calls in the mesh had in common.
func everyCall(rows []audit.Row, ends time.Time) string {
	var version, group uint16
	for _, r := range rows {
		if r.TLSVersion == 0 || !strings.HasPrefix(r.From, "spiffe://") { // refused before it left, or from outside
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
	line := "every call in the mesh: " + tls.VersionName(version)
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

// misplayed is what was not as intended: what is intended to be refused always is, by its own
// layer, as is all else of the intruder, and nothing else ever. judged: the time was enough for
// each of them to be seen.
func misplayed(rows []audit.Row, judged bool) error {
	var allowed, refused uint64
	seen := make([]bool, len(intended))
	for _, r := range rows {
		allowed += r.Allowed
		refused += r.Refused + r.Limited
		from, to := nameOf(r.From), nameOf(r.To)
		what := from + " " + mark("→") + " " + to
		at := intends(r)
		switch {
		case at < 0 && from != intruder:
			if bad := r.Refused + r.Limited; bad > 0 {
				return notIntended(r, fmt.Sprintf("%s of %s were refused that should be allowed", counted(bad, "call"), what))
			}
			continue
		case at >= 0 && intended[at].layer == audit.LayerLimit:
			if r.Refused > 0 {
				return byAnother(r, r.Refused, r.RefusedBy, at)
			}
			seen[at] = r.Limited > 0
		case r.Allowed > 0:
			r.LastRefused = "" // explains another call
			return notIntended(r, fmt.Sprintf("%s of %s were allowed that should be refused", counted(r.Allowed, "call"), what))
		case at < 0:
		case r.Limited > 0:
			return byAnother(r, r.Limited, audit.LayerLimit, at)
		case r.RefusedBy != intended[at].layer:
			return byAnother(r, r.Refused, r.RefusedBy, at)
		default:
			seen[at] = true
		}
	}
	if judged && (allowed == 0 || slices.Contains(seen, false)) {
		return notIntended(audit.Row{}, fmt.Sprintf("%s allowed, %s refused: too few to tell", counted(allowed, "call"), thousands(refused)))
	}
	return nil
}

func byAnother(r audit.Row, n uint64, layer string, at int) error {
	return notIntended(r, fmt.Sprintf("%s of %s %s %s were refused by %s, not by %s",
		counted(n, "call"), nameOf(r.From), mark("→"), nameOf(r.To), refuser[layer], refuser[intended[at].layer]))
}

func notIntended(r audit.Row, message string) error {
	hint := "countersign demo --for 5s"
	switch {
	case r.LastRefused != "":
		hint = "countersign why " + r.LastRefused
	case r.From != "":
		hint = "countersign tap --from " + nameOf(r.From)
	}
	return &admin.Problem{Code: "not_intended", Message: message, Hints: []string{hint}}
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
		By      string  `json:"refused_by,omitempty"`
		P50     float64 `json:"p50_ms"`
		P99     float64 `json:"p99_ms"`
	}
	lines := []line{}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	for _, r := range rows {
		lines = append(lines, line{r.From, r.To, r.Method, r.Route, r.Allowed, r.Refused, r.Limited, r.RefusedBy, ms(r.P50), ms(r.P99)})
	}
	return map[string]any{"rows": lines, "seconds": took.Seconds(), "ok": ok}
}

// nameOf is the last word of an identity: the shop is one namespace. A caller from outside is
// the subject of its token or key, people by the beginning of their pseudonym; one that proved
// nothing is "?".
func nameOf(id string) string {
	const pseudonym = len("p1:") + 4
	if id == "" {
		return "?"
	}
	if strings.HasPrefix(id, "p1:") && len(id) > pseudonym {
		return id[:pseudonym] + mark("…")
	}
	if name, ok := strings.CutPrefix(id, "key:default:"); ok {
		id = "key:" + name
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
