package limit

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// together runs n goroutines that start at once.
func together(n int, do func(i int)) {
	var start, end sync.WaitGroup
	start.Add(1)
	for i := range n {
		end.Go(func() {
			start.Wait()
			do(i)
		})
	}
	start.Done()
	end.Wait()
}

func TestL11ExactlyTheBurst(t *testing.T) {
	for _, tt := range []struct {
		takers, takes, most int
		spec                Spec
	}{
		{2000, 1, 100, Spec{Rate: Rate{1, time.Second, 100}}},
		{2000, 1, 100, Spec{Concurrent: 100}},
		{4, 500_000, 1_000_000, Spec{Rate: Rate{1, time.Second, 1_000_000}}}, // long enough that takers collide
	} {
		s, r := New(DefaultKeys), rule(t, tt.spec)
		var count atomic.Int64
		together(tt.takers, func(int) { count.Add(int64(admitted(s, time.Second, tt.takes, ask(r, "alice")))) })
		if count.Load() != int64(tt.most) {
			t.Errorf("%d takers of %+v: %d admitted, want %d", tt.takers, tt.spec, count.Load(), tt.most)
		}
	}
}

// Slots go back one by one: never more requests run than may, and in the end none does. It goes
// on until the goroutines met often, which takes longer where cores are scarce.
func TestReleaseRace(t *testing.T) {
	const slots = 2
	s, r := New(DefaultKeys), rule(t, Spec{Concurrent: slots})
	var running, met atomic.Int64
	together(4, func(int) {
		a, last := []Ask{ask(r, "alice")}, int64(0)
		for i := 0; i < 50_000 || met.Load() < 5000 && i < 2_000_000; i++ {
			n := int64(slots + 1)
			if s.Take(0, a).Admitted() {
				if n = running.Add(1); n > slots {
					t.Errorf("%d run at once", n)
				}
				running.Add(-1)
				Release(a)
			}
			if n != last { // not the same as a moment ago: others run beside this one
				last = n
				met.Add(1)
			}
		}
	})
	if s.Sweep(0); s.Keys() != 0 {
		t.Error("a slot is held by nobody")
	}
}

// Each round starts with a bucket that is full, which sweeps take away under 64 takers.
func TestEvictionRace(t *testing.T) {
	const rounds, burst, unit = 200, 100, time.Millisecond
	s, r := New(DefaultKeys), rate(t, 1000, time.Second, burst)
	for round := range rounds {
		now := time.Duration(round) * burst * unit
		var count atomic.Int64
		together(66, func(i int) {
			a := ask(r, "alice")
			a.now = int64(now)
			for range 5 {
				if i >= 64 {
					s.sweep(&a, now)
					continue
				}
				s.find(&a)
				if i%2 == 0 {
					runtime.Gosched() // with a bucket in hand that may be evicted
				}
				if s.take(&a) == 0 {
					count.Add(1)
				}
			}
		})
		if count.Load() != burst {
			t.Fatalf("round %d: %d admitted, want %d", round, count.Load(), burst)
		}
	}
	check(t, s)
}

// sweep is a sweep of the one shard that an ask is in.
func (s *Store) sweep(a *Ask, now time.Duration) {
	sh := s.shard(a.key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.size.Add(int64(-sh.sweepLocked(int64(now), sweptOnInsert)))
}

// A taker that holds a bucket while it is evicted looks again, and finds what others left.
func TestTakeFromEvictedBucket(t *testing.T) {
	s, r := New(DefaultKeys), rate(t, 10, time.Second, 5)
	const full = 500 * time.Millisecond
	admitted(s, 0, 5, ask(r, "alice"))
	late := ask(r, "alice")
	late.now = int64(full)
	s.find(&late)
	s.Sweep(full)
	if wait := late.look(); wait != 0 || late.Left().Remaining != 5 {
		t.Errorf("an evicted bucket reads as %+v, wait %d; want full", late.Left(), wait)
	}
	if n := admitted(s, full, 4, ask(r, "alice")); n != 4 {
		t.Fatalf("%d of 4 admitted", n)
	}
	if wait := s.take(&late); wait != 0 || late.Left().Remaining != 0 {
		t.Errorf("the fifth: wait %d, %+v", wait, late.Left())
	}
	if n := admitted(s, full, 20, ask(r, "alice")); n != 0 {
		t.Errorf("%d more admitted", n)
	}
	if a, b := s.insert(late.key, 0), s.insert(late.key, 0); a != b || a != late.bucket {
		t.Error("a key that two insert at once has two buckets")
	}
	check(t, s)
}

// A clock that goes on while takers hold an older reading and sweeps a newer. With a burst of one
// a bucket may be evicted whenever it may be taken from, and each tick admits one.
func TestEvictionRaceMovingClock(t *testing.T) {
	const unit, ticks = 1000, 50_000
	s, r := New(DefaultKeys), rate(t, 1_000_000, time.Second, 1)
	var clock atomic.Int64
	var perTick [ticks + 1]atomic.Int32
	together(4, func(i int) {
		a := []Ask{ask(r, "alice")}
		for n := 0; clock.Load() < ticks; n++ {
			if i == 0 {
				s.sweep(&a[0], time.Duration(clock.Add(1)*unit))
				if n%50 == 0 {
					runtime.Gosched()
				}
				continue
			}
			tick := clock.Load()
			a[0].now = tick * unit
			s.find(&a[0])
			for range n % 64 {
				clock.Load() // a moment in which the bucket may go
			}
			if s.take(&a[0]) == 0 && perTick[tick].Add(1) > 1 {
				t.Errorf("tick %d admits more than one", tick)
			}
		}
	})
}

// Rules taken together, in both orders: nothing is admitted twice, and what is undone is not
// credited twice.
func TestSeveralRulesRace(t *testing.T) {
	s := New(DefaultKeys)
	a, b := rate(t, 1, time.Hour, 50), rule(t, Spec{ID: "shop/api/b", Rate: Rate{1, time.Hour, 60}})
	slots := rule(t, Spec{ID: "shop/api/parallel", Concurrent: 1000})
	var count atomic.Int64
	together(500, func(i int) {
		asks := []Ask{ask(a), ask(slots), ask(b)}
		if i%2 == 1 {
			asks[0], asks[2] = asks[2], asks[0]
		}
		count.Add(int64(admitted(s, 0, 1, asks...)))
		Release(asks)
	})
	left := []Ask{ask(a), ask(b), ask(slots)}
	for i := range left {
		s.find(&left[i])
		left[i].look()
	}
	n := count.Load()
	if n > 50 || left[0].Left().Remaining > 50-n || left[1].Left().Remaining > 60-n {
		t.Errorf("%d admitted, %d and %d left of 50 and 60", n, left[0].Left().Remaining, left[1].Left().Remaining)
	}
	if left[2].Left().Remaining != 1000 {
		t.Errorf("%d slots left of 1000", left[2].Left().Remaining)
	}
}

// What was taken goes back if nobody came between; else the debit stays.
func TestUndoOnlyIfUnchanged(t *testing.T) {
	for _, between := range []int{0, 1} {
		s, r := New(DefaultKeys), rate(t, 1, time.Hour, 10)
		asks := []Ask{ask(r, "alice"), ask(r, "bob")}
		for i := range asks {
			if wait := s.take(&asks[i]); wait != 0 {
				t.Fatal(wait)
			}
		}
		admitted(s, 0, between, ask(r, "alice"))
		undo(asks)
		if n := admitted(s, 0, 20, ask(r, "bob")); n != 10 {
			t.Errorf("bob has %d, want all 10 back", n)
		}
		want := 10 - 2*between
		if got := asks[0].Left().Remaining; asks[0].Result() != Untaken || between == 0 && got != 10 {
			t.Errorf("%v, %d left", asks[0].Result(), got)
		}
		if n := admitted(s, 0, 20, ask(r, "alice")); n != want {
			t.Errorf("%d between: alice has %d, want %d", between, n, want)
		}
	}
}

// The same bucket twice in a request: the last goes back first, and so both do.
func TestUndoOfOneBucketTwice(t *testing.T) {
	s, r := New(DefaultKeys), rate(t, 1, time.Hour, 10)
	asks := []Ask{ask(r, "alice"), ask(r, "alice")}
	for i := range asks {
		s.take(&asks[i])
	}
	undo(asks)
	if n := admitted(s, 0, 20, ask(r, "alice")); n != 10 {
		t.Errorf("%d left, want 10", n)
	}
}

// A request that lost a race at its last rule pays at none, and says what is left after that.
func TestLostRaceIsUndone(t *testing.T) {
	s := New(1)
	first, slots := rate(t, 1, time.Hour, 10), rule(t, Spec{ID: "shop/api/parallel", Concurrent: 2, Refuse: true})
	asks := []Ask{ask(first), ask(slots)} // the second finds no room: that shows only when it is taken
	if d := s.Take(0, asks); d.Violated != slots {
		t.Fatalf("%+v", d)
	}
	if asks[0].Result() != Untaken || asks[0].Left().Remaining != 10 || asks[1].Result() != Refused {
		t.Errorf("%v with %d left, %v", asks[0].Result(), asks[0].Left().Remaining, asks[1].Result())
	}
	if n := admitted(s, 0, 20, ask(first)); n != 10 {
		t.Errorf("%d units left, want 10", n)
	}
}
