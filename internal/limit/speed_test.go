package limit

import (
	"fmt"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// hit is what a request costs: its keys are built and taken.
func hit(s *Store, now time.Duration, asks []Ask, rules []*Rule, ip netip.Addr) Decision {
	for i, r := range rules {
		asks[i].Begin(r)
		asks[i].Value("spiffe://example.com/ns/shop/sa/checkout")
		asks[i].IP(ip, 32, 64)
		asks[i].Absent()
	}
	d := s.Take(now, asks)
	Release(asks)
	return d
}

func hitRules(t testing.TB) []*Rule {
	return []*Rule{
		rule(t, Spec{ID: "shop/api/a", Rate: Rate{1000, time.Second, 1000}, Expose: true}),
		rule(t, Spec{ID: "shop/api/b", Concurrent: 10}),
		rule(t, Spec{ID: "shop/api/c", Rate: Rate{1, time.Hour, 1}, Shadow: true}),
		rule(t, Spec{ID: "shop/api/d", Rate: Rate{1, time.Hour, 1}}),
	}
}

func TestTakeDoesNotAllocate(t *testing.T) {
	s, rules, ip := New(DefaultKeys), hitRules(t), netip.MustParseAddr("192.0.2.7")
	var buffer [4]Ask
	for _, n := range []int{1, 3, 4} { // the fourth refuses
		hit(s, 0, buffer[:n], rules[:n], ip)
		fields := make([]byte, 0, 512)
		allocs := testing.AllocsPerRun(100, func() {
			d := hit(s, 0, buffer[:n], rules[:n], ip)
			if d.Admitted() != (n < 4) {
				t.Fatal(d)
			}
			fields = d.AppendLimit(d.AppendPolicy(fields[:0], buffer[:n]), buffer[:n])
		})
		if allocs != 0 {
			t.Errorf("%d rules: %v allocations", n, allocs)
		}
	}
}

// cpuTime is that of this process: other users of the machine do not change it much.
func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func BenchmarkTake(b *testing.B) {
	ip := netip.MustParseAddr("192.0.2.7")
	for _, n := range []int{1, 3} {
		b.Run(fmt.Sprintf("%d rules", n), func(b *testing.B) {
			s, rules, now := New(DefaultKeys), hitRules(b)[:n], time.Duration(0)
			asks := make([]Ask, n)
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				now += time.Millisecond
				hit(s, now, asks, rules, ip)
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
		b.Run(fmt.Sprintf("%d rules, keys built", n), func(b *testing.B) {
			s, rules, now := New(DefaultKeys), hitRules(b)[:n], time.Duration(0)
			asks := make([]Ask, n)
			hit(s, now, asks, rules, ip)
			b.ReportAllocs()
			for b.Loop() {
				now += time.Millisecond
				s.Take(now, asks)
				Release(asks)
			}
		})
	}
	b.Run("many keys", func(b *testing.B) {
		s, r, now := New(DefaultKeys), hitRules(b)[0], time.Duration(0)
		asks := make([]Ask, DefaultKeys*3/4)
		for i := range asks {
			asks[i] = ask(r, "key"+strconv.Itoa(i*7919))
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			now += time.Microsecond
			j := i * 7919 % len(asks)
			s.Take(now, asks[j:j+1])
		}
	})
	b.Run("full store, new keys", func(b *testing.B) {
		s, r := New(1<<12), rule(b, Spec{Rate: Rate{1, time.Hour, 100}})
		asks := make([]Ask, 1)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			asks[0].Begin(r)
			asks[0].Value("key" + strconv.Itoa(i))
			s.Take(0, asks)
		}
	})
	b.Run("parallel, one key", func(b *testing.B) {
		s, r := New(DefaultKeys), hitRules(b)[0]
		b.RunParallel(func(pb *testing.PB) {
			asks := []Ask{ask(r, "alice")}
			for pb.Next() {
				s.Take(0, asks)
			}
		})
	})
}
