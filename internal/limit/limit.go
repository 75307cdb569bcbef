// Package limit counts requests against rate limits and concurrency limits, exactly, in memory.
//
// Its words: a Rule has numbers and an id; an Ask is one rule applied to one request, with the
// parts of its key; a bucket is the state of one key, one number; the TAT of a bucket is the
// theoretical arrival time of the generic cell rate algorithm; a Decision names the rule that was
// violated, and how long to wait; what is Left of a bucket is what its client may be told.
//
// Its promise: any window W admits at most burst + requests × W/per from a bucket, whatever races
// and sweeps go on, and a key changes its bucket only while the store is crowded; rules are taken
// together or not at all; an error costs the client, never the limit; what strangers can make it
// hold has a bound; a hit does not allocate. Time comes in as now, read from one monotonic clock
// that starts with the process.
package limit

import (
	"math"
	"time"
)

// Never is the wait of a request whose cost is more than the burst.
const Never time.Duration = math.MaxInt64

// Result is what one rule said of one request: the label of its metric.
type Result uint8

const (
	Untaken  Result = iota // another rule refused the request: it cost nothing here
	Admitted               // and debited
	Refused                // by this rule; it may not be the only one
	Shadow                 // would have been refused; not debited
	Overflow               // admitted by the bucket that keys share when the store is full
)

var results = [...]string{Untaken: "untaken", Admitted: "admitted", Refused: "refused", Shadow: "shadow", Overflow: "overflow"}

func (r Result) String() string { return results[r] }

// Decision is what all rules together said.
type Decision struct {
	Violated *Rule         // nil: admitted. Of several the one with the longest wait
	Wait     time.Duration // until the violated rule could admit the request; a guess if its rule counts concurrency
}

// Admitted says whether the request may go on.
func (d Decision) Admitted() bool { return d.Violated == nil }

func (d *Decision) add(a *Ask, wait int64) {
	switch {
	case wait == 0:
	case a.rule.shadow:
		a.result = Shadow
	default:
		a.result = Refused
		if d.Violated == nil || time.Duration(wait) > d.Wait {
			d.Violated, d.Wait = a.rule, time.Duration(wait)
		}
	}
}

// Take takes what all asks cost, or nothing. Buckets are read before any is written, so a request
// that one rule refuses normally leaves no trace at the others; it debits and undoes only if it
// lost a race. Asks that were admitted are released, or begun anew, before they are taken again.
func (s *Store) Take(now time.Duration, asks []Ask) Decision {
	var d Decision
	for i := range asks {
		a := &asks[i]
		a.now, a.at, a.result = int64(now), 0, Untaken
		s.find(a)
		d.add(a, a.look())
	}
	if !d.Admitted() {
		return d
	}
	for i := range asks {
		a := &asks[i]
		if a.result == Shadow {
			continue
		}
		if d.add(a, s.take(a)); !d.Admitted() {
			undo(asks[:i])
			return d
		}
	}
	return d
}

// look is how long the request would wait, as the bucket stands.
func (a *Ask) look() (wait int64) {
	if a.bucket != nil {
		if v := a.bucket.Load(); v != evicted {
			a.at = v
		}
	}
	_, wait = a.rule.next(a.at, a.now)
	return wait
}

// take debits the bucket of an ask, which it makes if there is none. It gives the wait if the
// rule refuses.
func (s *Store) take(a *Ask) (wait int64) {
	for {
		if a.bucket == nil && !s.obtain(a) {
			a.at, wait = a.rule.empty(a.now)
			return wait
		}
		was := a.bucket.Load()
		if was == evicted {
			a.bucket = nil
			continue
		}
		next, wait := a.rule.next(was, a.now)
		if wait > 0 {
			a.at = was
			return wait
		}
		if !a.bucket.CompareAndSwap(was, next) {
			continue
		}
		a.was, a.at, a.holds, a.result = was, next, a.rule.slots > 0, Admitted
		if a.overflow {
			a.result = Overflow
		}
		return 0
	}
}

// undo gives back what was taken, the last first. A TAT goes back only if nobody moved it since:
// to subtract from what others made of it would credit the same time twice.
func undo(asks []Ask) {
	for i := len(asks) - 1; i >= 0; i-- {
		a := &asks[i]
		switch {
		case a.result != Admitted && a.result != Overflow:
			continue
		case a.holds:
			a.release()
			a.at = a.was
		case a.bucket.CompareAndSwap(a.at, a.was):
			a.at = a.was
		}
		a.result = Untaken
	}
}

// Release ends what the asks hold of rules that count concurrency: when the request is over,
// however it ended. A second time it does nothing.
func Release(asks []Ask) {
	for i := range asks {
		asks[i].release()
	}
}

func (a *Ask) release() {
	for a.holds {
		was := a.bucket.Load()
		next := was - 1
		if next == held {
			next = 0 // idle: may be evicted
		}
		a.holds = !a.bucket.CompareAndSwap(was, next)
	}
}
