package audit

import (
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func TestRoute(t *testing.T) {
	for in, want := range map[string]string{
		"/":                     "/",
		"":                      "",
		"*":                     "*",
		"/orders":               "/orders",
		"/orders/17":            "/orders/{*}",
		"/orders/17/":           "/orders/{*}/",
		"/17/a/18":              "/{*}/a/{*}",
		"//17":                  "//{*}",
		"/orders/17a":           "/orders/17a",
		"/orders/-17":           "/orders/-17",
		"/deadbeef":             "/deadbeef",
		"/deadbeefdeadbee":      "/deadbeefdeadbee",
		"/deadbeefdeadbeef":     "/{*}",
		"/DEADBEEF00000000ff/x": "/{*}/x",
		"/deadbeefdeadbeeg":     "/deadbeefdeadbeeg",
		"/u/6ba7b810-9dad-11d1-80b4-00c04fd430c8": "/u/{*}",
		"/u/6ba7b8109-dad-11d1-80b4-00c04fd430c8": "/u/6ba7b8109-dad-11d1-80b4-00c04fd430c8",
		"/u/-":           "/u/-",
		"/v1/2026-11-21": "/v1/2026-11-21",
		"/1%32":          "/1%32",
		"/٣":             "/٣",
	} {
		if got := Route(in); got != want {
			t.Errorf("Route(%q) = %q, want %q", in, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { Route("/orders/of/nobody") }); n != 0 {
		t.Errorf("Route of a fixed path allocates %v times", n)
	}
}

func TestTable(t *testing.T) {
	var table Table
	if rows := table.Rows(); len(rows) != 0 {
		t.Errorf("rows of the zero Table: %v", rows)
	}
	feed := func(rec Record) { table.Feed(&rec) }
	ends := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 100 {
		feed(Record{Kind: KindRequest, PeerID: "web", DstID: "orders", Method: "GET", Path: fmt.Sprintf("/orders/%d", i),
			Decision: Allow, Dur: time.Duration(i+1) * time.Millisecond, TLSVersion: 0x304, TLSGroup: 0x11ec, NotAfter: ends})
	}
	feed(Record{Kind: KindRequest, PeerID: "web", DstID: "orders", Method: "GET", Route: "/orders/{*}", Decision: Limited})
	feed(Record{Kind: KindRequest, PeerID: "intruder", Service: "payments", Method: "POST", Path: "/payments", Decision: Deny, Layer: LayerAuthz, ID: "q7d3"})
	feed(Record{Kind: KindRequest, PeerID: "intruder", Service: "payments", Method: "POST", Path: "/payments", Decision: Failed, Layer: LayerRoute, ID: "q7d4"})
	feed(Record{Kind: KindConnection, DstID: "payments", Decision: Deny, Layer: LayerTLS, Repeat: 9})
	feed(Record{Kind: KindConnection, DstID: "payments", Decision: Allow})
	feed(Record{Kind: KindRequest, PeerID: "web", Decision: Allow, Phase: PhaseClosing})
	feed(Record{Kind: KindRequest, DstID: "web", Method: "GET", Path: "/", Decision: Allow, Subject: &Subject{Iss: "https://login", Sub: "p1:7kq2"}})
	feed(Record{Kind: KindRequest, PeerID: "web", DstID: "orders", Method: "GET", Path: "/orders/1", Decision: Allow, Subject: &Subject{Sub: "p1:7kq2"}})
	feed(Record{Kind: KindIssue, Decision: Deny})
	feed(Record{Kind: KindBoot})

	got := table.Rows()
	for i := range got {
		if i == 0 && (off(got[i].P50, 50*time.Millisecond) || off(got[i].P99, 99*time.Millisecond)) {
			t.Errorf("p50 %v, p99 %v", got[i].P50, got[i].P99)
		}
		got[i].P50, got[i].P99 = 0, 0
	}
	want := []Row{
		{From: "web", To: "orders", Method: "GET", Route: "/orders/{*}", Allowed: 101, Limited: 1, TLSVersion: 0x304, TLSGroup: 0x11ec, NotAfter: ends},
		{From: "intruder", To: "payments", Method: "POST", Route: "/payments", Refused: 2, LastRefused: "q7d4", RefusedBy: LayerRoute},
		{To: "payments", Refused: 9, RefusedBy: LayerTLS},
		{From: "p1:7kq2", To: "web", Method: "GET", Route: "/", Allowed: 1},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("rows (-want +got):\n%s", d)
	}
}

// off says whether got is more than 7 % away from want.
func off(got, want time.Duration) bool {
	return (got - want).Abs() > want*7/100
}

func TestTableBound(t *testing.T) {
	var table Table
	for i := range 3 * maxRows {
		table.Feed(&Record{Kind: KindRequest, Method: fmt.Sprint("M", i), Decision: Allow})
	}
	rows := table.Rows()
	if len(rows) != maxRows+1 {
		t.Fatalf("%d rows", len(rows))
	}
	if last := rows[maxRows]; last.From != Other || last.Allowed != 2*maxRows {
		t.Errorf("the last row is %+v", last)
	}
}

func TestLatencies(t *testing.T) {
	for _, d := range []time.Duration{2 * time.Microsecond, 200 * time.Microsecond, 3 * time.Millisecond, time.Second, time.Hour} {
		var l latencies
		l.add(d)
		if got := l.quantile(0.99); off(got, d) {
			t.Errorf("quantile of %v = %v", d, got)
		}
	}
	var l latencies
	if got := l.quantile(0.5); got != 0 {
		t.Errorf("quantile of nothing = %v", got)
	}
	l.add(-1)
	l.add(1000 * time.Hour)
	if l.total != 2 {
		t.Errorf("total %d", l.total)
	}
}
