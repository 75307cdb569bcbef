package limit

import (
	"math"
	"testing"
	"time"
)

func TestRateNumbers(t *testing.T) {
	for _, tt := range []struct {
		rate       Rate
		unit, full int64
	}{
		{Rate{10, time.Second, 5}, 1e8, 5e8},
		{Rate{Requests: 10, Per: time.Second}, 1e8, 1e9}, // burst as requests
		{Rate{3, time.Second, 3}, 333_333_334, 1_000_000_002},
		{Rate{MaxRequests, MinPer, MaxRequests}, 1, 1e9},
		{Rate{MaxRequests, MinPer + 1, 1}, 2, 2}, // rounded up
		{Rate{1, MaxPer, 26_687}, 86_400e9, 26_687 * 86_400e9},
	} {
		unit, full, err := tt.rate.gcra()
		if err != nil || unit != tt.unit || full != tt.full {
			t.Errorf("%v: %d, %d, %v; want %d, %d", tt.rate, unit, full, err, tt.unit, tt.full)
		}
	}
}

func TestRuleRefused(t *testing.T) {
	ok := Rate{10, time.Second, 5}
	for _, s := range []Spec{
		{ID: "shop/api/burst"},
		{ID: "shop/api/burst", Rate: Rate{0, time.Second, 1}},
		{ID: "shop/api/burst", Rate: Rate{-1, time.Second, 1}},
		{ID: "shop/api/burst", Rate: Rate{MaxRequests + 1, time.Second, 1}},
		{ID: "shop/api/burst", Rate: Rate{1, MinPer - 1, 1}},
		{ID: "shop/api/burst", Rate: Rate{1, MaxPer + 1, 1}},
		{ID: "shop/api/burst", Rate: Rate{1, math.MinInt64, 1}},
		{ID: "shop/api/burst", Rate: Rate{1, time.Second, -1}},
		{ID: "shop/api/burst", Rate: Rate{1, time.Second, MaxRequests + 1}},
		{ID: "shop/api/burst", Rate: Rate{1, MaxPer, 26_688}}, // overflow
		{ID: "shop/api/burst", Rate: Rate{1, MaxPer, MaxRequests}},
		{ID: "shop/api/burst", Rate: ok, Cost: -1},
		{ID: "shop/api/burst", Rate: ok, Cost: MaxRequests + 1},
		{ID: "shop/api/burst", Rate: ok, Concurrent: 1},
		{ID: "shop/api/burst", Concurrent: -1},
		{ID: "shop/api/burst", Concurrent: MaxConcurrent + 1},
		{ID: "shop/api/burst", Concurrent: 1, Cost: 1},
		{ID: "", Rate: ok},
		{ID: "burst", Rate: ok},
		{ID: "shop/burst", Rate: ok},
		{ID: "/api/burst", Rate: ok},
		{ID: "shop//burst", Rate: ok},
		{ID: "shop/api/", Rate: ok},
		{ID: "shop/api/a/b", Rate: ok},
		{ID: "shop/api/Burst", Rate: ok},
		{ID: "shop/api/-burst", Rate: ok},
		{ID: `shop/api/a"b`, Rate: ok},
		{ID: "shop/api/a\r\nb", Rate: ok},
	} {
		if r, err := NewRule(s); err == nil || r != nil {
			t.Errorf("%+v: no error", s)
		}
	}
}

// At the largest numbers nothing overflows, late in a process's life as well.
func TestLargestNumbers(t *testing.T) {
	s, now := New(DefaultKeys), 100*365*24*time.Hour
	asks := []Ask{ask(rule(t, Spec{Rate: Rate{1, MaxPer, 26_687}, Cost: 26_687}), "alice")}
	if !s.Take(now, asks).Admitted() || asks[0].Left().Remaining != 0 {
		t.Fatal("the whole burst is refused")
	}
	d := s.Take(now, asks)
	if full := 26_687 * MaxPer; d.Wait != full || d.RetryAfter() != maxRetry || asks[0].Left() != (Left{0, MaxPer, full}) {
		t.Errorf("%+v, %+v", d, asks[0].Left())
	}
	huge := []Ask{ask(rule(t, Spec{Rate: Rate{1, MaxPer, 26_687}, Cost: MaxRequests}), "alice")}
	if d := s.Take(now, huge); d.Wait != Never {
		t.Errorf("a cost above the burst: %+v", d)
	}
	if !s.Take(2*now-1, []Ask{ask(rate(t, 1, time.Second, 1), "bob")}).Admitted() {
		t.Error("another key is refused")
	}
}
