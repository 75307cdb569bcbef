// The race detector makes sync.Pool forget at random, so nothing can be counted under it.
//go:build !race

package token

import (
	"runtime"
	"testing"
)

// The budget of allocations: tokens.md 20.
func TestAllocations(t *testing.T) {
	d := newBed(t)
	d.unlimited()
	w := d.wire(d.ca.Leaf(t, webID), formOf("grant_type", "client_credentials", "client_id", webID), "")
	w.ask(t)
	const runs = 500
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		w.ask(t)
	}
	runtime.ReadMemStats(&after)
	if got := float64(after.Mallocs-before.Mallocs) / runs; got > 120 {
		t.Errorf("%.1f allocations for a token, 120 is most", got)
	} else {
		t.Logf("%.1f allocations for a token", got)
	}
}
