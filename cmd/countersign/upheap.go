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
	heapQuiet      = 4 << 20  // allocated meanwhile, at most, where nothing happens
	heapWaste      = 16 << 20 // that is worth a collection then
)

// collectLess sets how much may be left behind, as a share of what lives. GOGC in the environment decides otherwise.
func collectLess(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// followHeap keeps that share right as what lives grows, and gives back what a burst took once it is quiet.
func followHeap(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	now := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/allocs:bytes"},
	}
	last, allocated := collectAtMost, uint64(0)
	tick := time.NewTicker(heapEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		metrics.Read(now)
		live, objects, free, all := now[0].Value.Uint64(), now[1].Value.Uint64(), now[2].Value.Uint64(), now[3].Value.Uint64()
		quiet := all-allocated < heapQuiet
		allocated = all
		if percent := roomFor(live); percent != last {
			debug.SetGCPercent(percent)
			last = percent
		}
		if quiet && objects+free > live+heapWaste {
			debug.FreeOSMemory()
		}
	}
}

// roomFor is GOGC for what lives, in coarse steps: to set it stops the world for a moment.
func roomFor(live uint64) int {
	if live == 0 {
		return collectAtMost
	}
	percent := min(max(heapRoom*100/live, collectAtLeast), collectAtMost)
	return int(percent / 25 * 25)
}
