package limit

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// tokens is a bucket as the textbook has it: it fills with time, up to full. In ns, so that it is
// exact.
type tokens struct{ level, full, at int64 }

func (b *tokens) fill(now int64) {
	b.level, b.at = min(b.full, b.level+now-b.at), now
}

// model is the naive twin of a store of rates.
type model map[string]*tokens

func (m model) bucket(r *Rule, key string, now int64) *tokens {
	b := m[r.name+"/"+key]
	if b == nil {
		b = &tokens{r.full, r.full, now}
		m[r.name+"/"+key] = b
	}
	b.fill(now)
	b.level, b.full = b.level+r.full-b.full, r.full // a burst that changed
	return b
}

// 300 random schedules of one to three rules, step by step, with sweeps and changes of the burst
// in between: the same verdicts, the same waits, the same remainders.
func TestSameAsTokenBuckets(t *testing.T) {
	var verdicts [2]int // admitted, refused
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 18))
		s, m, now := New(DefaultKeys), model{}, rnd.Int64N(1e12)
		specs := make([]Spec, 1+rnd.IntN(3))
		for i := range specs {
			specs[i] = Spec{
				ID:     fmt.Sprintf("shop/api/r%d", i),
				Rate:   Rate{1 + rnd.Int64N(100), time.Second + time.Duration(rnd.Int64N(1e10)), 1 + rnd.Int64N(20)},
				Cost:   1 + rnd.Int64N(3),
				Shadow: rnd.IntN(5) == 0,
			}
		}
		for step := range 200 {
			if rnd.IntN(3) == 0 {
				now += rnd.Int64N(1 << (10 + rnd.IntN(25)))
			}
			if rnd.IntN(10) == 0 {
				s.Sweep(time.Duration(now))
			}
			if rnd.IntN(50) == 0 {
				specs[rnd.IntN(len(specs))].Rate.Burst = 1 + rnd.Int64N(20)
			}
			asks, wait, buckets := []Ask{}, time.Duration(0), []*tokens{}
			for i, spec := range specs {
				r, key := rule(t, spec), fmt.Sprint(rnd.IntN(2+i))
				b := m.bucket(r, key, now)
				asks, buckets = append(asks, ask(r, key)), append(buckets, b)
				if short := r.cost - b.level; r.cost > r.full && !r.shadow {
					wait = Never
				} else if short > 0 && !r.shadow {
					wait = max(wait, time.Duration(short))
				}
			}
			for i, b := range buckets {
				if r := asks[i].rule; wait == 0 && b.level >= r.cost && r.cost <= r.full {
					b.level -= r.cost
				}
			}
			d := s.Take(time.Duration(now), asks)
			if d.Admitted() != (wait == 0) || d.Wait != wait {
				t.Fatalf("seed %d step %d: %+v, want a wait of %v", seed, step, d, wait)
			}
			for i, b := range buckets {
				left, r := asks[i].Left(), asks[i].rule
				if want := max(0, b.level/r.unit); left.Remaining != want || int64(left.Full) != r.full-b.level ||
					b.level < r.full && int64(left.Next) != (want+1)*r.unit-b.level {
					t.Fatalf("seed %d step %d rule %d: %+v, want %d of level %d", seed, step, i, left, want, b.level)
				}
			}
			verdicts[min(1, wait)]++
		}
		check(t, s)
	}
	if verdicts[0] < 10_000 || verdicts[1] < 10_000 {
		t.Errorf("%d admitted, %d refused: the schedules say little", verdicts[0], verdicts[1])
	}
}
