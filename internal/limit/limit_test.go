package limit

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func rule(t testing.TB, s Spec) *Rule {
	t.Helper()
	if s.ID == "" {
		s.ID = "shop/api/burst"
	}
	r, err := NewRule(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func rate(t testing.TB, requests int64, per time.Duration, burst int64) *Rule {
	t.Helper()
	return rule(t, Spec{Rate: Rate{requests, per, burst}})
}

// ask is a rule applied to one key of plain values.
func ask(r *Rule, values ...string) Ask {
	var a Ask
	a.Begin(r)
	for _, v := range values {
		a.Value(v)
	}
	return a
}

func askIP(r *Rule, ip netip.Addr) Ask {
	var a Ask
	a.Begin(r)
	a.IP(ip, 32, 64)
	return a
}

// admitted takes n times, and counts.
func admitted(s *Store, now time.Duration, n int, asks ...Ask) (count int) {
	for range n {
		if s.Take(now, asks).Admitted() {
			count++
		}
	}
	return count
}

func TestL1BurstThenRefused(t *testing.T) {
	s, asks := New(DefaultKeys), []Ask{ask(rate(t, 10, time.Second, 5), "alice")}
	if n := admitted(s, time.Hour, 5, asks...); n != 5 {
		t.Fatalf("%d of 5 admitted", n)
	}
	d := s.Take(time.Hour, asks)
	if d.Admitted() || d.Violated != asks[0].Rule() || d.Wait != 100*time.Millisecond || d.RetryAfter() != 1 {
		t.Errorf("the sixth: %+v, Retry-After %d", d, d.RetryAfter())
	}
	if got, want := asks[0].Left(), (Left{0, 100 * time.Millisecond, 500 * time.Millisecond}); got != want {
		t.Errorf("left %+v, want %+v", got, want)
	}
	if got, want := string(d.AppendLimit(nil, asks)), `"burst";r=0;t=1`; got != want {
		t.Errorf("%s: %s, want %s", LimitField, got, want)
	}
	var body struct {
		Type     string   `json:"type"`
		Status   int      `json:"status"`
		Violated []string `json:"violated-policies"`
	}
	if err := json.Unmarshal(d.Problem(), &body); err != nil || body.Status != Status || !slices.Equal(body.Violated, []string{"burst"}) ||
		body.Type != "https://iana.org/assignments/http-problem-types#quota-exceeded" {
		t.Errorf("body %s: %v", d.Problem(), err)
	}
}

func TestL2WaitIsExact(t *testing.T) {
	for _, r := range []Rate{{10, time.Second, 5}, {3, time.Second, 2}, {7, time.Minute, 1}, {1_000_000_000, time.Second, 1}, {1, 24 * time.Hour, 3}} {
		s, a := New(DefaultKeys), ask(rate(t, r.Requests, r.Per, r.Burst), "alice")
		now := 17 * time.Second
		admitted(s, now, int(r.Burst), a)
		wait := s.Take(now, []Ask{a}).Wait
		if s.Take(now+wait-1, []Ask{a}).Admitted() {
			t.Errorf("%v: admitted 1 ns before its wait of %v ended", r, wait)
		}
		if !s.Take(now+wait, []Ask{a}).Admitted() {
			t.Errorf("%v: refused when its wait of %v had ended", r, wait)
		}
	}
}

func TestL3RefusalCostsNothingElsewhere(t *testing.T) {
	s := New(DefaultKeys)
	wide, narrow := rule(t, Spec{ID: "shop/api/wide", Rate: Rate{10, time.Second, 10}}), rule(t, Spec{ID: "shop/api/narrow", Rate: Rate{1, time.Second, 1}})
	slots := rule(t, Spec{ID: "shop/api/parallel", Concurrent: 5})
	for i, order := range [][]*Rule{{wide, slots, narrow}, {narrow, wide, slots}} {
		key := fmt.Sprint("key", i)
		asks := []Ask{ask(order[0], key), ask(order[1], key), ask(order[2], key)}
		if !s.Take(0, asks).Admitted() {
			t.Fatal("the first is refused")
		}
		Release(asks)
		for range 20 {
			if d := s.Take(0, asks); d.Violated != narrow {
				t.Fatalf("violated %v, want narrow", d.Violated)
			}
		}
		for j := range asks {
			a := &asks[j]
			want := map[*Rule]struct {
				left   int64
				result Result
			}{wide: {9, Untaken}, narrow: {0, Refused}, slots: {5, Untaken}}[a.rule]
			if a.Left().Remaining != want.left || a.Result() != want.result {
				t.Errorf("%s: %d left, %v; want %d, %v", a.rule.Name(), a.Left().Remaining, a.Result(), want.left, want.result)
			}
		}
		if n := admitted(s, 0, 20, ask(wide, key)); n != 9 {
			t.Errorf("%d units left, want 9", n)
		}
	}
}

// A refused request makes no bucket for a rule that would have admitted it: else keys that cost
// nothing fill the store.
func TestRefusedRequestMakesNoBucket(t *testing.T) {
	s := New(DefaultKeys)
	narrow, byPath := rate(t, 1, time.Second, 1), rule(t, Spec{ID: "shop/api/path", Rate: Rate{1, time.Second, 1}})
	for i := range 100 {
		s.Take(0, []Ask{ask(byPath, fmt.Sprint("/", i)), ask(narrow, "alice")})
	}
	for _, shadow := range []bool{false, true} {
		never := rule(t, Spec{ID: "shop/api/never", Rate: Rate{1, time.Second, 1}, Cost: 2, Shadow: shadow})
		s.Take(0, []Ask{ask(never, "alice")})
	}
	if s.Keys() != 2 {
		t.Errorf("%d buckets, want 2", s.Keys())
	}
}

func TestL4EvictedComesBackWithTheBurst(t *testing.T) {
	s, a := New(DefaultKeys), ask(rate(t, 10, time.Second, 5), "alice")
	const full = 500 * time.Millisecond
	admitted(s, 0, 5, a)
	if s.Sweep(full - 1); s.Keys() != 1 {
		t.Fatal("evicted before it was full")
	}
	if s.Sweep(full); s.Keys() != 0 {
		t.Fatal("not evicted when full")
	}
	if n := admitted(s, full, 20, a); n != 5 {
		t.Errorf("%d admitted after eviction, want 5", n)
	}
	if n := admitted(s, full+100*time.Millisecond, 20, a); n != 1 {
		t.Errorf("%d admitted one unit later, want 1", n)
	}
}

// Who read the clock before the sweep and takes after it must not find time that was spent.
func TestEvictionAndAnEarlierClock(t *testing.T) {
	s, a := New(DefaultKeys), ask(rate(t, 10, time.Second, 5), "alice")
	const full = 500 * time.Millisecond
	n := admitted(s, 0, 5, a)
	s.Sweep(full)
	n += admitted(s, 0, 20, a)
	if n += admitted(s, full, 20, a); n != 10 {
		t.Errorf("%d admitted in the time of one burst, want 10", n)
	}
}

func TestL5ManyAddressesOfOneNetwork(t *testing.T) {
	const most, addresses = 1 << 14, 1_000_000
	s, r := New(most), rate(t, 10, time.Second, 5)
	other := askIP(r, netip.MustParseAddr("2001:db8:1::1"))
	if !s.Take(0, []Ask{other}).Admitted() {
		t.Fatal("an empty store refuses")
	}
	ip := netip.MustParseAddr("2001:db8:6666::").As16() // the last 80 bits vary
	asks, overflow := []Ask{{}}, 0
	for i := range addresses {
		ip[6], ip[7], ip[8], ip[9] = byte(i>>8), byte(i), byte(i>>16), byte(i>>24)
		asks[0].Begin(r)
		asks[0].IP(netip.AddrFrom16(ip), 32, 64)
		s.Take(0, asks)
		if asks[0].Result() == Overflow {
			overflow++
		}
	}
	if s.Keys() > most*4/5+2 || overflow > 0 || !s.Crowded() || s.Full() {
		t.Errorf("%d buckets of %d, %d took the shared one", s.Keys(), most, overflow)
	}
	check(t, s)
	if n := admitted(s, 0, 20, other); n != 4 {
		t.Errorf("a known address: %d admitted, want the 4 it had left", n)
	}
	near := askIP(r, netip.MustParseAddr("2001:db8:6666:ffff::99"))
	if s.find(&near); near.look() == 0 {
		t.Error("a wide bucket that is empty reads as full")
	}
	if s.take(&other) == 0 {
		t.Error("an address that has a bucket took from a wider one")
	}
	for _, ip := range []string{"192.0.2.1", "2001:db8:7777::1"} {
		if n := admitted(s, 0, 20, askIP(r, netip.MustParseAddr(ip))); n != 5 {
			t.Errorf("%s: %d admitted, want 5", ip, n)
		}
	}
	for _, ip := range []string{"192.0.2.255", "2001:db8:7777:ffff::1", "2001:db8:6666:ffff::99"} { // of the same /24 and /48
		if n := admitted(s, 0, 20, askIP(r, netip.MustParseAddr(ip))); n != 0 {
			t.Errorf("%s: %d admitted, want none: its network spent them", ip, n)
		}
	}
	if s.Sweep(time.Hour); s.Keys() != 0 || s.Crowded() {
		t.Errorf("%d buckets an hour later", s.Keys())
	}
}

// check holds what is true of a store at rest: it counts its buckets.
func check(t *testing.T, s *Store) {
	t.Helper()
	n := 0
	for i := range s.shards {
		n += len(s.shards[i].buckets)
	}
	if n != s.Keys() || int64(n) > s.most {
		t.Errorf("%d buckets, counted as %d, at most %d", n, s.Keys(), s.most)
	}
}

func TestFullStore(t *testing.T) {
	for _, tt := range []struct {
		spec     Spec
		admitted int // of 20 new keys
		result   Result
		wait     time.Duration
	}{
		{Spec{Rate: Rate{10, time.Second, 5}}, 5, Overflow, 100 * time.Millisecond},
		{Spec{Rate: Rate{10, time.Second, 5}, Refuse: true}, 0, Untaken, 100 * time.Millisecond},
		{Spec{Concurrent: 3}, 3, Overflow, time.Second},
		{Spec{Concurrent: 3, Refuse: true}, 0, Untaken, time.Second},
	} {
		s, r := New(2048), rule(t, tt.spec)
		var known [2048]Ask
		for i := range known {
			known[i] = ask(r, fmt.Sprint("known", i))
			if s.Take(0, known[i:i+1]); known[i].Result() != Admitted {
				t.Fatalf("%v: key %d: %v", tt.spec, i, known[i].Result())
			}
		}
		n, strangers := 0, [20]Ask{}
		for i := range strangers {
			strangers[i] = ask(r, fmt.Sprint("new", i))
			d, result := s.Take(0, strangers[i:i+1]), strangers[i].Result()
			switch {
			case d.Admitted() && result == tt.result:
				n++
			case d.Violated != r || d.Wait != tt.wait || result != Refused || strangers[i].Left().Remaining != 0:
				t.Errorf("%v: %+v, %v, %+v", tt.spec, d, result, strangers[i].Left())
			}
		}
		if n != tt.admitted {
			t.Errorf("%v: %d new keys admitted, want %d", tt.spec, n, tt.admitted)
		}
		if again := ask(r, "known0"); !s.Take(0, []Ask{again}).Admitted() {
			t.Errorf("%v: a known key is refused", tt.spec)
		}
		if check(t, s); !s.Full() {
			t.Errorf("%v: not full", tt.spec)
		}
		Release(known[1:])
		Release(strangers[:])
		next := []Ask{ask(r, "next")} // an hour later its insert sweeps out those that are idle
		if s.Take(time.Hour, next); next[0].Result() != Admitted || s.Full() {
			t.Errorf("%v: %v, %d buckets after an insert", tt.spec, next[0].Result(), s.Keys())
		}
		if s.Sweep(2 * time.Hour); len(s.shared.buckets) != 0 {
			t.Errorf("%v: the shared bucket stays", tt.spec)
		}
		if s.Take(2*time.Hour, strangers[:1]); strangers[0].Result() != Admitted {
			t.Errorf("%v: %v when there is room again", tt.spec, strangers[0].Result())
		}
	}
}

func TestL6AbsentShares(t *testing.T) {
	s, r := New(DefaultKeys), rate(t, 10, time.Second, 5)
	without := func() Ask {
		var a Ask
		a.Begin(r)
		a.Absent()
		return a
	}
	if n := admitted(s, 0, 4, without()) + admitted(s, 0, 4, without()); n != 5 {
		t.Errorf("%d admitted without a tenant, want 5 for all", n)
	}
	for _, v := range []string{"", "absent", "a"} {
		if n := admitted(s, 0, 9, ask(r, v)); n != 5 {
			t.Errorf("tenant %q: %d admitted, want its own 5", v, n)
		}
	}
}

func TestL8NumbersChangeTATStays(t *testing.T) {
	s := New(DefaultKeys)
	wide, narrow := rate(t, 100, time.Minute, 100), rate(t, 100, time.Minute, 50)
	if n := admitted(s, 0, 100, ask(wide, "alice")); n != 100 {
		t.Fatalf("%d of 100", n)
	}
	a := []Ask{ask(narrow, "alice")}
	d := s.Take(0, a)
	if unit := 600 * time.Millisecond; d.Admitted() || d.Wait != 51*unit || a[0].Left() != (Left{0, 51 * unit, 100 * unit}) {
		t.Errorf("burst lowered: %+v, %+v", d, a[0].Left())
	}
	if n := admitted(s, 0, 20, ask(rate(t, 100, time.Minute, 103), "alice")); n != 3 {
		t.Errorf("burst raised by 3: %d admitted", n)
	}
	if n := admitted(s, 0, 200, ask(rule(t, Spec{ID: "shop/api/other", Rate: Rate{100, time.Minute, 50}}), "alice")); n != 50 {
		t.Errorf("another rule: %d admitted, want its own 50", n)
	}
}

// A count of requests is not a time: a rule that was of concurrency starts anew.
func TestKindChanges(t *testing.T) {
	s := New(DefaultKeys)
	running := []Ask{ask(rule(t, Spec{Concurrent: 1}), "alice")}
	s.Take(0, running)
	if n := admitted(s, 0, 20, ask(rate(t, 10, time.Second, 5), "alice")); n != 5 {
		t.Errorf("%d admitted, want 5", n)
	}
	if s.Take(0, []Ask{ask(running[0].rule, "alice")}).Admitted() {
		t.Error("the request that runs is forgotten")
	}
}

func TestL13ShadowCountsAndNeverRefuses(t *testing.T) {
	s := New(DefaultKeys)
	shadow := rule(t, Spec{ID: "shop/api/shadow", Rate: Rate{10, time.Second, 5}, Shadow: true, Expose: true})
	slots := rule(t, Spec{ID: "shop/api/parallel", Concurrent: 5, Shadow: true})
	enforced := rule(t, Spec{ID: "shop/api/enforced", Rate: Rate{10, time.Second, 15}})
	asks, counts := []Ask{ask(shadow, "alice"), ask(slots, "alice"), ask(enforced, "alice")}, [3]map[Result]int{{}, {}, {}}
	for i := range 20 {
		if d := s.Take(0, asks); d.Admitted() != (i < 15) {
			t.Fatalf("request %d: %+v", i, d)
		} else if f := d.AppendPolicy(d.AppendLimit(nil, asks), asks); d.Admitted() && len(f) != 0 {
			t.Errorf("fields tell of a shadow: %s", f)
		}
		for j := range asks {
			counts[j][asks[j].Result()]++
		}
	}
	for j, want := range []map[Result]int{{Admitted: 5, Shadow: 15}, {Admitted: 5, Shadow: 15}, {Admitted: 15, Refused: 5}} {
		if fmt.Sprint(counts[j]) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", asks[j].rule.Name(), counts[j], want)
		}
	}
}

func TestL16Concurrency(t *testing.T) {
	s, r := New(DefaultKeys), rule(t, Spec{Concurrent: 10})
	var running [11]Ask
	for i := range running {
		running[i] = ask(r, "alice")
	}
	for i := range 10 {
		if !s.Take(0, running[i:i+1]).Admitted() || running[i].Left() != (Left{Remaining: int64(9 - i)}) {
			t.Fatalf("request %d: left %+v", i, running[i].Left())
		}
	}
	if s.Sweep(1 << 60); s.Keys() != 1 {
		t.Fatal("a counter in use was evicted")
	}
	if d := s.Take(0, running[10:]); d.Admitted() || d.RetryAfter() != 1 || running[10].Left().Remaining != 0 {
		t.Errorf("the eleventh: %+v", d)
	}
	Release(running[10:]) // held nothing
	if s.Take(0, running[10:]).Admitted() {
		t.Error("releasing what is not held made room")
	}
	for range 3 {
		Release(running[:1]) // one, however often
	}
	var more [2]Ask
	more[0], more[1] = ask(r, "alice"), ask(r, "alice")
	if !s.Take(0, more[:1]).Admitted() || s.Take(0, more[1:]).Admitted() {
		t.Error("one ended: exactly one more must be admitted")
	}
	more[0].Begin(r) // an ask used again holds nothing
	running[0].Begin(r)
	running[0].Value("alice")
	if !s.Take(0, running[:1]).Admitted() {
		t.Error("an ask that began anew still holds its slot")
	}
	Release(running[:])
	if s.Sweep(0); s.Keys() != 0 {
		t.Error("an idle counter stays")
	}
}

func TestSeveralViolated(t *testing.T) {
	s := New(DefaultKeys)
	rules := []*Rule{rate(t, 1, time.Second, 1), rule(t, Spec{ID: "shop/api/daily", Rate: Rate{1, time.Hour, 1}}), rule(t, Spec{ID: "shop/api/parallel", Concurrent: 1})}
	asks := []Ask{ask(rules[0]), ask(rules[1]), ask(rules[2])}
	s.Take(0, asks)
	again := []Ask{ask(rules[0]), ask(rules[1]), ask(rules[2])}
	if d := s.Take(0, again); d.Violated != rules[1] || d.Wait != time.Hour || again[0].Result() != Refused || again[2].Result() != Refused {
		t.Errorf("%s for %v, want daily for an hour", d.Violated.Name(), d.Wait)
	}
	never := rule(t, Spec{ID: "shop/api/costly", Rate: Rate{1, time.Second, 5}, Cost: 6})
	if d := s.Take(time.Minute, append(again, ask(never))); d.Violated != never || d.Wait != Never || d.RetryAfter() != 0 {
		t.Errorf("%+v, want that it never fits", d)
	}
}
