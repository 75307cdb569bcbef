package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What lives is some 10 MiB, and what a request leaves behind would start the collector every few hundred of them: room
// for twice of it halves that work. Where thousands of routes live, that room would be memory that nobody needs.
const (
	heapRoom       = 32 << 20
	collectAtMost  = 200 // GOGC
	collectAtLeast = 100
	heapEvery      = 2 * time.Second
)

// collectLess sets how much may be left behind, as a share of what lives. GOGC in the environment decides otherwise.
func collectLess(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// followHeap keeps that share right as what lives grows, and gives back what a large change of objects took.
func followHeap(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	last := collectAtMost
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(heapEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		metrics.Read(live)
		percent := collectAtMost
		if n := live[0].Value.Uint64(); n > 0 {
			percent = int(min(max(heapRoom*100/n, collectAtLeast), collectAtMost))
		}
		switch {
		case percent*4 < last*3:
			debug.SetGCPercent(percent)
			debug.FreeOSMemory()
			last = percent
		case percent*3 > last*4:
			debug.SetGCPercent(percent)
			last = percent
		}
	}
}
