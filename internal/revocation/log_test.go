package revocation

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// token is what a log looks at; the fields are those of tokens.md 8.1.
type token struct {
	jti, kid, rti, sid, sub, client, origin string
	anc, act                                []string
	iat                                     int64
}

func (t *token) ID() string          { return t.jti }
func (t *token) KeyID() string       { return t.kid }
func (t *token) Root() string        { return t.rti }
func (t *token) SessionID() string   { return t.sid }
func (t *token) Subject() string     { return t.sub }
func (t *token) ClientID() string    { return t.client }
func (t *token) Origin() string      { return t.origin }
func (t *token) Ancestors() []string { return t.anc }
func (t *token) Actors() []string    { return t.act }
func (t *token) Issued() int64       { return t.iat }

const at = 1_790_000_000

var now = time.Unix(at, 0)

// good is a token that nothing revokes, with every claim.
func good() *token {
	return &token{jti: "j", kid: "k", rti: "r", sid: "s", sub: "u", client: "c", origin: "o",
		anc: []string{"a1", "a2"}, act: []string{"x1", "x2"}, iat: at - 10}
}

func entry(kind, val string, before int64) Entry {
	return Entry{Kind: kind, Val: val, Before: before, At: at, Until: Until(now, 0)}
}

// whole is a log that had a full list of these entries.
func whole(t testing.TB, entries ...Entry) *Log {
	t.Helper()
	l := NewLog()
	if err := l.Reset(entries, now); err != nil {
		t.Fatal(err)
	}
	return l
}

// Each kind revokes by the claims of tokens.md 13, and by no other.
func TestR16Kinds(t *testing.T) {
	vals := []string{"j", "k", "r", "s", "u", "c", "o", "a1", "a2", "x1", "x2", "other"}
	for kind, hits := range map[string][]string{
		ByJTI: {"j", "a1", "a2"}, ByRTI: {"r", "j"}, BySID: {"s"}, BySub: {"u"}, ByClient: {"c", "o", "x1", "x2"}, ByKID: {"k"},
	} {
		timed := kind == BySub || kind == ByClient
		for _, val := range vals {
			var before int64
			if timed {
				before = at
			}
			e, got := whole(t, entry(kind, val, before)).Revoked(good())
			want := false
			for _, h := range hits {
				want = want || h == val
			}
			if got != want || got && (e.Kind != kind || e.Val != val) {
				t.Errorf("%s %s: got %+v, %v", kind, val, e, got)
			}
		}
	}
	if e, got := whole(t, entry(ByBefore, "", at)).Revoked(good()); !got || e.Kind != ByBefore {
		t.Errorf("before: got %+v, %v", e, got)
	}
	if e, got := whole(t).Revoked(good()); got {
		t.Errorf("an empty log revokes by %+v", e)
	}
}

// Entries with before hold for tokens issued until then, that second included.
func TestR16Before(t *testing.T) {
	for _, e := range []Entry{entry(BySub, "u", at-10), entry(ByClient, "c", at-10), entry(ByClient, "o", at-10), entry(ByClient, "x2", at-10), entry(ByBefore, "", at-10)} {
		for iat, want := range map[int64]bool{at - 11: true, at - 10: true, at - 9: false, 0: true} {
			s := good()
			s.iat = iat
			if _, got := whole(t, e).Revoked(s); got != want {
				t.Errorf("%s %s, iat %d of before %d: got %v", e.Kind, e.Val, iat, e.Before, got)
			}
		}
	}
}

// A token without a claim is not revoked by the lack of it.
func TestEmptyClaims(t *testing.T) {
	l := whole(t, entry(ByJTI, "j", 0), entry(ByRTI, "r", 0), entry(BySID, "s", 0), entry(BySub, "u", at), entry(ByClient, "c", at), entry(ByKID, "k", 0))
	if e, got := l.Revoked(&token{}); got {
		t.Errorf("revoked by %+v", e)
	}
}

// Without a full list every token is refused; increments do not make one.
func TestG9NotWhole(t *testing.T) {
	l := NewLog()
	if _, got := l.Revoked(good()); !got || l.Ready() {
		t.Error("a log without a list lets a token pass")
	}
	if err := l.Add([]Entry{entry(ByJTI, "x", 0)}, now); err != nil {
		t.Fatal(err)
	}
	if _, got := l.Revoked(good()); !got || l.Ready() {
		t.Error("an increment made the log whole")
	}
	if err := l.Reset(nil, now); err != nil {
		t.Fatal(err)
	}
	if _, got := l.Revoked(good()); got || !l.Ready() {
		t.Error("an empty full list refuses")
	}
	if _, got := l.Revoked(&token{jti: "x"}); !got {
		t.Error("what came before the full list is forgotten")
	}
}

// An entry that cannot be honoured leaves a log that lets nothing pass, until a good full list.
func TestSecUnknownEntryFailsClosed(t *testing.T) {
	bad := Entry{Kind: "jkt", Val: "x", At: at, Until: at + 1}
	l := whole(t)
	if err := l.Add([]Entry{bad, entry(ByJTI, "y", 0)}, now); err == nil {
		t.Error("no error")
	}
	if _, got := l.Revoked(good()); !got || l.Ready() {
		t.Error("tokens pass beside an entry that nobody understood")
	}
	if err := l.Reset([]Entry{bad}, now); err == nil || l.Ready() {
		t.Error("a full list with a bad entry is whole")
	}
	if err := l.Reset(nil, now); err != nil || !l.Ready() {
		t.Error("a good list does not mend it")
	}
	if _, got := l.Revoked(&token{jti: "y"}); !got {
		t.Error("the good entry beside the bad one is lost")
	}
}

// A full list that lags takes nothing back.
func TestSecResetRevivesNothing(t *testing.T) {
	l := whole(t, entry(ByJTI, "j", 0))
	if err := l.Reset(nil, now); err != nil {
		t.Fatal(err)
	}
	if _, got := l.Revoked(good()); !got {
		t.Error("a revoked token lives again")
	}
	if err := l.Add([]Entry{entry(BySub, "u", at-20)}, now); err != nil {
		t.Fatal(err)
	}
	s := &token{sub: "u", iat: at - 15}
	if err := l.Add([]Entry{entry(BySub, "u", at-12)}, now); err != nil {
		t.Fatal(err)
	}
	if err := l.Add([]Entry{entry(BySub, "u", at-20)}, now); err != nil {
		t.Fatal(err)
	}
	if e, got := l.Revoked(s); !got || e.Before != at-12 {
		t.Errorf("an older entry weakened a newer one: %+v, %v", e, got)
	}
}

// Of two entries for one value each time counts at its furthest.
func TestMerge(t *testing.T) {
	for _, c := range []struct{ a, b, want [2]int64 }{ // before, until
		{[2]int64{10, 100}, [2]int64{20, 200}, [2]int64{20, 200}},
		{[2]int64{20, 100}, [2]int64{10, 200}, [2]int64{20, 200}},
		{[2]int64{10, 200}, [2]int64{20, 100}, [2]int64{20, 200}},
		{[2]int64{0, 100}, [2]int64{0, 200}, [2]int64{0, 200}},
		{[2]int64{10, 100}, [2]int64{10, 100}, [2]int64{10, 100}},
	} {
		for _, swap := range []bool{false, true} {
			a, b := c.a, c.b
			if swap {
				a, b = b, a
			}
			x, y := Entry{Before: a[0], Until: a[1]}, Entry{Before: b[0], Until: b[1]}
			if got := merge(&x, &y); got.Before != c.want[0] || got.Until != c.want[1] {
				t.Errorf("%v and %v: got %+v", a, b, got)
			}
			if x.Before != a[0] || x.Until != a[1] || y.Before != b[0] || y.Until != b[1] {
				t.Error("an entry was changed")
			}
		}
	}
}

func TestEpoch(t *testing.T) {
	l := NewLog()
	steps := []struct {
		name  string
		do    func() error
		moves bool
	}{
		{"full list", func() error { return l.Reset([]Entry{entry(ByJTI, "a", 0)}, now) }, true},
		{"new entry", func() error { return l.Add([]Entry{entry(ByJTI, "b", 0)}, now) }, true},
		{"the same again", func() error { return l.Add([]Entry{entry(ByJTI, "b", 0)}, now) }, false},
		{"nothing", func() error { return l.Add(nil, now) }, false},
		{"ended", func() error { return l.Add([]Entry{entry(ByJTI, "c", 0)}, now.Add(2*time.Hour)) }, false},
		{"sweep", func() error { l.Sweep(now.Add(2 * time.Hour)); return nil }, false},
	}
	for _, s := range steps {
		before := l.Epoch()
		if err := s.do(); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		if moved := l.Epoch() != before; moved != s.moves {
			t.Errorf("%s: epoch %d after %d", s.name, l.Epoch(), before)
		}
	}
	if n := len(l.Entries()); n != 0 {
		t.Errorf("%d entries after the sweep", n)
	}
}

// Entries live until they end, and not a second longer than told.
func TestSweep(t *testing.T) {
	short, long := entry(ByJTI, "j", 0), entry(BySub, "u", at)
	long.Until = Until(now, 24*time.Hour)
	l := whole(t, short, long)
	l.Sweep(time.Unix(short.Until, 0))
	if _, got := l.Revoked(good()); !got || len(l.Entries()) != 2 {
		t.Errorf("dropped at its end: %+v", l.Entries())
	}
	l.Sweep(time.Unix(short.Until+1, 0))
	if e, got := l.Revoked(good()); !got || e.Kind != BySub {
		t.Errorf("got %+v, %v, want the one by sub", e, got)
	}
	l.Sweep(time.Unix(long.Until+1, 0))
	if _, got := l.Revoked(good()); got || !l.Ready() {
		t.Error("an ended entry revokes")
	}
}

func TestEntries(t *testing.T) {
	a, b, c := entry(ByJTI, "a", 0), entry(BySub, "b", at), entry(ByBefore, "", at)
	a.Seq, b.Seq, c.Seq = 3, 1, 2
	got := whole(t, a, b, c).Entries()
	if len(got) != 3 || got[0] != b || got[1] != c || got[2] != a {
		t.Errorf("got %+v", got)
	}
	again := whole(t, got...)
	if len(again.Entries()) != 3 {
		t.Error("what was saved does not come back")
	}
}

func TestG9Stale(t *testing.T) {
	l := whole(t)
	if !l.Stale(now) {
		t.Error("a saved list counts as heard")
	}
	l.Beat(now)
	for after, want := range map[time.Duration]bool{0: false, StaleAfter: false, StaleAfter + time.Nanosecond: true, -time.Hour: false} {
		if got := l.Stale(now.Add(after)); got != want {
			t.Errorf("%v after the heartbeat: got %v", after, got)
		}
	}
	heard := time.Now() // with the clock that runs, as a node has it
	l.Beat(heard)
	if l.Stale(heard.Add(StaleAfter)) || !l.Stale(heard.Add(StaleAfter+time.Nanosecond)) {
		t.Error("another limit by the clock that runs")
	}
}

// Readers and writers at once: who read an epoch finds what that epoch brought.
func TestReadersSeeWhatTheEpochSays(t *testing.T) {
	l := whole(t)
	const n = 300
	var group sync.WaitGroup
	start := l.Epoch()
	group.Go(func() {
		for i := range n {
			if err := l.Add([]Entry{entry(ByJTI, fmt.Sprint(i), 0)}, now); err != nil {
				t.Error(err)
			}
			l.Beat(now)
			l.Sweep(now)
		}
	})
	for range 2 {
		group.Go(func() {
			for {
				seen := int(l.Epoch() - start)
				for i := range seen {
					if _, got := l.Revoked(&token{jti: fmt.Sprint(i)}); !got {
						t.Errorf("epoch %d, entry %d not found", seen, i)
						return
					}
				}
				if l.Stale(now.Add(time.Hour)); seen == n {
					return
				}
			}
		})
	}
	group.Wait()
	if got := len(l.Entries()); got != n {
		t.Errorf("%d entries", got)
	}
}
