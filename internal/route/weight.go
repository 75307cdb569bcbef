package route

import "math/bits"

// Choose is the index in Rule.Backends that a uniform draw of 64 bits falls on, in the sum of all weights: a ref
// that cannot be served keeps its share (gateway.md 8.1). It is -1 where nothing has a weight: 500.
func (a *Action) Choose(draw uint64) int {
	at, _ := bits.Mul64(draw, a.weights) // uniform in 0 … weights-1
	for i := range a.Rule.Backends {
		w := uint64(max(a.Rule.Backends[i].Weight, 0))
		if at < w {
			return i
		}
		at -= w
	}
	return -1
}
