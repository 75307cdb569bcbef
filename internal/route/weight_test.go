package route

import (
	"math"
	"math/rand/v2"
	"testing"
)

// F11 and F12: every ref keeps its share of the sum, and a weight of 0 is never drawn.
func TestWeights(t *testing.T) {
	for _, c := range []struct {
		name    string
		weights []int
	}{
		{"F11", []int{1, 1}},
		{"F12", []int{0, 5}},
		{"F12 last", []int{5, 0}},
		{"uneven", []int{1, 0, 3, 6}},
		{"largest", []int{1_000_000, 1_000_000}},
	} {
		d, counts, sum := rand.New(rand.NewPCG(1, 1)), make([]int, len(c.weights)), 0
		rule := Rule{}
		for _, w := range c.weights {
			rule.Backends = append(rule.Backends, Backend{Weight: w})
			sum += w
		}
		a := &newCompiler().compileRoute(routeOf("r", rule), 0).actions[0]
		const draws = 20_000
		for range draws {
			counts[a.Choose(d.Uint64())]++
		}
		for _, edge := range []uint64{0, math.MaxUint64} {
			if i := a.Choose(edge); i < 0 || c.weights[i] == 0 {
				t.Errorf("%s: draw %d chooses %d", c.name, edge, i)
			}
		}
		for i, w := range c.weights {
			share, want := float64(counts[i])/draws, float64(w)/float64(sum)
			if math.Abs(share-want) > 0.02 || w == 0 && counts[i] > 0 {
				t.Errorf("%s: ref %d has %.3f of the draws, want %.3f", c.name, i, share, want)
			}
		}
	}
}

// Without a weight there is nothing to choose: 500.
func TestF12NoWeight(t *testing.T) {
	for _, weights := range [][]int{nil, {0}, {0, 0}, {-1}} {
		rule := Rule{}
		for _, w := range weights {
			rule.Backends = append(rule.Backends, Backend{Weight: w})
		}
		a := &newCompiler().compileRoute(routeOf("r", rule), 0).actions[0]
		for _, draw := range []uint64{0, 1 << 63, math.MaxUint64} {
			if got := a.Choose(draw); got != -1 {
				t.Errorf("weights %v: draw %d chooses %d", weights, draw, got)
			}
		}
	}
}
