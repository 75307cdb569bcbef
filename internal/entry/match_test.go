package entry_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign.dev/internal/entry"
)

var now = time.Date(2026, 11, 21, 20, 0, 0, 0, time.UTC)

// work is an entry for any node with one set a text, blank-separated.
func work(name string, sets ...string) entry.Entry {
	ns, name, _ := strings.Cut(name, "/")
	e := entry.Entry{Namespace: ns, Name: name, ServiceAccount: name, AnyNode: true}
	for _, text := range sets {
		set := strings.Fields(text)
		slices.Sort(set)
		e.Sets = append(e.Sets, set)
	}
	return e
}

func with(e entry.Entry, edits ...func(*entry.Entry)) entry.Entry {
	for _, edit := range edits {
		edit(&e)
	}
	return e
}

func names(grants []entry.Grant) []string {
	out := []string{}
	for _, g := range grants {
		out = append(out, g.Entry.Namespace+"/"+g.Entry.Name)
	}
	return out
}

// both asks Match and an Index, which must agree.
func both(t *testing.T, entries []entry.Entry, found, node []string) []entry.Grant {
	t.Helper()
	got := entry.Match(entries, found, node, now)
	indexed := entry.NewIndex(entries).Match(found, node, now)
	if d := cmp.Diff(got, indexed); d != "" {
		t.Errorf("Match and Index.Match differ (-Match +Index):\n%s", d)
	}
	return got
}

func TestMatch(t *testing.T) {
	isDefault := func(e *entry.Entry) { e.Default = true }
	fallback := func(e *entry.Entry) { e.Fallback = true }
	created := func(rev int64) func(*entry.Entry) { return func(e *entry.Entry) { e.Created = rev } }
	expires := func(at time.Time) func(*entry.Entry) { return func(e *entry.Entry) { e.Expires = at } }
	nodes := func(sets ...string) func(*entry.Entry) {
		return func(e *entry.Entry) {
			e.AnyNode, e.Nodes = false, nil
			for _, text := range sets {
				e.Nodes = append(e.Nodes, strings.Fields(text))
			}
		}
	}
	const found = "unix:uid:1001 unix:user:payments unix:path:/opt/pay unix:gid:7 run:shop/api unix:sha256:aa"
	for _, tt := range []struct {
		name    string
		entries []entry.Entry
		found   string
		node    string
		want    []string
	}{
		{"superset", []entry.Entry{work("shop/a", "unix:uid:1001")}, found, "", []string{"shop/a"}},
		{"equal", []entry.Entry{work("shop/a", "unix:uid:1001")}, "unix:uid:1001", "", []string{"shop/a"}},
		{"subset", []entry.Entry{work("shop/a", "unix:uid:1001 unix:gid:8")}, found, "", []string{}},
		{"order of found", []entry.Entry{work("shop/a", "unix:uid:1001 unix:gid:7")}, "unix:gid:7 run:x unix:uid:1001", "", []string{"shop/a"}},
		{"found twice", []entry.Entry{work("shop/a", "unix:uid:1001")}, "unix:uid:1001 unix:uid:1001", "", []string{"shop/a"}},
		{"case", []entry.Entry{work("shop/a", "unix:user:Payments")}, found, "", []string{}},
		{"prefix", []entry.Entry{work("shop/a", "unix:uid:100")}, found, "", []string{}},
		{"no wildcard", []entry.Entry{work("shop/a", "unix:uid:*")}, found, "", []string{}},
		{"nothing found", []entry.Entry{work("shop/a", "unix:uid:1001")}, "", "", []string{}},
		{"no set", []entry.Entry{work("shop/a")}, found, "", []string{}},
		{"empty set", []entry.Entry{with(work("shop/a"), func(e *entry.Entry) { e.Sets = [][]string{{}} })}, found, "", []string{}},
		{"second alternative", []entry.Entry{work("shop/a", "unix:uid:1", "unix:path:/opt/pay")}, found, "", []string{"shop/a"}},
		{"both alternatives: once", []entry.Entry{work("shop/a", "unix:uid:1001", "unix:path:/opt/pay")}, found, "", []string{"shop/a"}},

		{"node admitted by second set", []entry.Entry{with(work("shop/a", "unix:uid:1001"), nodes("node:name:x", "node:label:zone:eu node:name:web-1"))}, found, "node:name:web-1 node:label:zone:eu", []string{"shop/a"}},
		{"node not admitted", []entry.Entry{with(work("shop/a", "unix:uid:1001"), nodes("node:name:x"))}, found, "node:name:web-1", []string{}},
		{"no nodes at all", []entry.Entry{with(work("shop/a", "unix:uid:1001"), nodes())}, found, "node:name:web-1", []string{}},
		{"empty node set", []entry.Entry{with(work("shop/a", "unix:uid:1001"), nodes(""))}, found, "node:name:web-1", []string{}},
		{"node selectors do not prove a process", []entry.Entry{work("shop/a", "node:name:web-1")}, found, "node:name:web-1", []string{}},

		{"ended now", []entry.Entry{with(work("shop/a", "unix:uid:1001"), expires(now))}, found, "", []string{}},
		{"ends in a moment", []entry.Entry{with(work("shop/a", "unix:uid:1001"), expires(now.Add(1)))}, found, "", []string{"shop/a"}},

		{"by rank", []entry.Entry{
			work("a/gid", "unix:gid:7"), work("b/uid", "unix:uid:1001"), work("c/path", "unix:path:/opt/pay"), work("d/hash", "unix:sha256:aa"), work("e/run", "run:shop/api unix:uid:1001"),
		}, found, "", []string{"d/hash", "e/run", "c/path", "b/uid", "a/gid"}},
		{"one higher beats many lower", []entry.Entry{work("a/many", "unix:uid:1001 unix:user:payments unix:gid:7"), work("b/one", "unix:path:/opt/pay")}, found, "", []string{"b/one", "a/many"}},
		{"best alternative counts", []entry.Entry{work("a/x", "unix:uid:1001", "unix:sha256:aa"), work("b/y", "unix:path:/opt/pay")}, found, "", []string{"a/x", "b/y"}},
		{"older first", []entry.Entry{with(work("a/new", "unix:uid:1001"), created(9)), with(work("b/old", "unix:uid:1001"), created(3))}, found, "", []string{"b/old", "a/new"}},
		{"then by name", []entry.Entry{work("b/x", "unix:uid:1001"), work("a/y", "unix:uid:1001"), work("a/x", "unix:uid:1001")}, found, "", []string{"a/x", "a/y", "b/x"}},
		{"namespaces stand together", []entry.Entry{work("a/low", "unix:gid:7"), work("b/mid", "unix:uid:1001"), work("a/high", "unix:path:/opt/pay")}, found, "", []string{"a/high", "a/low", "b/mid"}},
		{"default within its namespace", []entry.Entry{with(work("a/low", "unix:gid:7"), isDefault), work("a/high", "unix:path:/opt/pay"), work("b/mid", "unix:uid:1001")}, found, "", []string{"a/low", "a/high", "b/mid"}},
		{"default does not step before another namespace", []entry.Entry{with(work("evil/low", "unix:gid:7"), isDefault), work("shop/high", "unix:path:/opt/pay")}, found, "", []string{"shop/high", "evil/low"}},
		{"fallback alone", []entry.Entry{with(work("a/fb", "unix:uid:1001"), fallback)}, found, "", []string{"a/fb"}},
		{"fallback with another", []entry.Entry{with(work("a/fb", "unix:sha256:aa"), fallback), work("b/x", "unix:gid:7")}, found, "", []string{"b/x"}},
		{"fallback with an ended one", []entry.Entry{with(work("a/fb", "unix:sha256:aa"), fallback), with(work("b/x", "unix:gid:7"), expires(now))}, found, "", []string{"a/fb"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := names(both(t, tt.entries, strings.Fields(tt.found), strings.Fields(tt.node)))
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestGrantSet(t *testing.T) {
	entries := []entry.Entry{work("a/x", "unix:uid:1", "unix:gid:7", "unix:path:/a unix:uid:1")}
	got := both(t, entries, []string{"unix:gid:7", "unix:path:/a", "unix:uid:1"}, nil)
	if len(got) != 1 || strings.Join(got[0].Set, " ") != "unix:path:/a unix:uid:1" || got[0].Entry != &entries[0] {
		t.Errorf("got %+v, want the most specific set of the entry itself", got)
	}
}

func TestMatchIsBounded(t *testing.T) {
	var entries []entry.Entry
	for i := range 100 {
		entries = append(entries, work(fmt.Sprintf("a/x%03d", i), "unix:uid:1"), work(fmt.Sprintf("a/x%03d", i), "unix:gid:1"))
	}
	got := both(t, entries, []string{"unix:uid:1", "unix:gid:1"}, nil)
	ids := make(map[string]bool)
	for _, g := range got {
		ids[g.Entry.ServiceAccount] = true
	}
	if len(ids) != 64 {
		t.Errorf("got %d identities, want 64", len(ids))
	}
}

func TestMatchLeavesItsInputsAlone(t *testing.T) {
	found := []string{"unix:uid:1", "run:a/b"}
	both(t, []entry.Entry{work("a/x", "unix:uid:1")}, found, nil)
	if found[0] != "unix:uid:1" {
		t.Errorf("found was sorted in place: %q", found)
	}
}

func TestAdmits(t *testing.T) {
	e := work("a/x", "unix:uid:1")
	e.AnyNode, e.Nodes = false, [][]string{{"node:name:web-1"}}
	if !entry.Admits(e, []string{"node:zone:eu", "node:name:web-1"}) || entry.Admits(e, []string{"node:name:web-2"}) || entry.Admits(e, nil) {
		t.Error("wrong node admitted, or the right one refused")
	}
}

// The index must find exactly what a walk over all entries finds.
func TestIndexAgainstWalk(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(n int) []string {
		var out []string
		for range n {
			kinds := []string{"unix:uid:", "unix:gid:", "run:", "unix:path:", "unix:sha256:"}
			out = append(out, kinds[r.IntN(len(kinds))]+string(rune('a'+r.IntN(4))))
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	for range 300 {
		var entries []entry.Entry
		for i := range 30 {
			e := entry.Entry{Namespace: string(rune('a' + r.IntN(3))), Name: fmt.Sprint(i), ServiceAccount: fmt.Sprint(i), AnyNode: true, Default: r.IntN(5) == 0, Fallback: r.IntN(5) == 0, Created: int64(r.IntN(3))}
			for range 1 + r.IntN(3) {
				e.Sets = append(e.Sets, pick(1+r.IntN(3)))
			}
			entries = append(entries, e)
		}
		both(t, entries, pick(8), nil)
	}
}

func TestExplain(t *testing.T) {
	other := work("shop/other", "unix:uid:1 unix:user:x unix:path:/a")
	elsewhere := with(work("shop/elsewhere", "unix:user:payments"), func(e *entry.Entry) { e.AnyNode, e.Nodes = false, [][]string{{"node:name:x"}} })
	ended := with(work("shop/ended", "unix:uid:1001"), func(e *entry.Entry) { e.Expires = now.Add(-time.Hour) })
	near := work("shop/payments", "unix:user:payments unix:uid:1001 unix:path:/opt/pay/bin", "unix:gid:9 unix:sha256:aa")
	granted := work("shop/granted", "unix:user:payments")
	found := []string{"unix:user:payments", "unix:uid:1001", "unix:path:/opt/payments/bin"}
	got := entry.NewIndex([]entry.Entry{other, near, ended, elsewhere, granted}).Explain(found, []string{"node:name:web-1"}, now)
	type line struct {
		Name, Reason   string
		Found, Missing []string
	}
	var lines []line
	for _, n := range got {
		lines = append(lines, line{n.Entry.Name, n.Reason, n.Found, n.Missing})
	}
	want := []line{
		{"elsewhere", entry.NodeNotAdmitted, []string{"unix:user:payments"}, nil},
		{"ended", entry.EntryExpired, []string{"unix:uid:1001"}, nil},
		{"payments", entry.NoEntry, []string{"unix:uid:1001", "unix:user:payments"}, []string{"unix:path:/opt/pay/bin"}},
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if same := entry.SameKind(found, "unix:path:/opt/pay/bin"); len(same) != 1 || same[0] != "unix:path:/opt/payments/bin" {
		t.Errorf("SameKind: got %q", same)
	}
	if same := entry.SameKind([]string{"run:a/b", "unix:uid:1"}, "run:c/d"); len(same) != 1 || same[0] != "run:a/b" {
		t.Errorf("SameKind of run: got %q", same)
	}
	if got := entry.Explain(nil, found, nil, now); len(got) != 0 {
		t.Errorf("no entries: got %v", got)
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		entries := make([]entry.Entry, 0, n)
		for i := range n {
			entries = append(entries, work(fmt.Sprintf("shop/w%d", i), fmt.Sprintf("run:shop/w%d unix:uid:1001", i)))
		}
		ix := entry.NewIndex(entries)
		found := []string{"run:shop/w7", "unix:uid:1001"}
		for i := range 198 {
			found = append(found, fmt.Sprintf("unix:supplementary_gid:%d", i))
		}
		slices.Sort(found)
		b.Run(fmt.Sprintf("%d entries 200 selectors", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if len(ix.Match(found, nil, now)) != 1 {
					b.Fatal("no match")
				}
			}
		})
	}
}
