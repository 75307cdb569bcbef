package limit

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

// The bounds of a rule's numbers (gateway.md 16).
const (
	MaxRequests   = 1_000_000_000 // of Requests, Burst and Cost
	MinPer        = time.Second
	MaxPer        = 24 * time.Hour
	MaxConcurrent = 1_000_000

	// maxFull is the longest that a bucket may take to fill, 73 years in ns: a TAT and one cost
	// more do not overflow.
	maxFull = 1 << 61
)

// held marks a bucket that counts concurrency: it is held + n while n requests run, which is
// above every now, so that it is never idle, and below held while none does.
const held = 1 << 62

// slotWait is the guess when a running request may end.
const slotWait = int64(time.Second)

// Rate is a number of requests in a time.
type Rate struct {
	Requests int64
	Per      time.Duration
	Burst    int64 // 0: as Requests
}

// gcra gives the time that one unit takes, rounded up and so never laxer, and the time that the
// whole burst takes.
func (r Rate) gcra() (unit, full int64, err error) {
	burst := cmp.Or(r.Burst, r.Requests)
	switch {
	case r.Requests < 1 || r.Requests > MaxRequests:
		return 0, 0, fmt.Errorf("%d requests are outside 1 to %d", r.Requests, MaxRequests)
	case r.Per < MinPer || r.Per > MaxPer:
		return 0, 0, fmt.Errorf("per %v is outside %v to %v", r.Per, MinPer, MaxPer)
	case burst < 1 || burst > MaxRequests:
		return 0, 0, fmt.Errorf("burst %d is outside 1 to %d", burst, MaxRequests)
	}
	unit = (int64(r.Per) + r.Requests - 1) / r.Requests
	if burst > maxFull/unit {
		return 0, 0, fmt.Errorf("burst %d at %d per %v takes more than %d years to fill", burst, r.Requests, r.Per, maxFull/int64(365*24*time.Hour))
	}
	return unit, unit * burst, nil
}

// Spec is a rule as it was written.
type Spec struct {
	ID         string // namespace/name/rule: what buckets belong to. Numbers may change under it
	Rate       Rate
	Concurrent int64 // instead of Rate: how many may run at once
	Cost       int64 // of a request; 0: one. Concurrency has none
	Shadow     bool  // counts, never refuses
	Refuse     bool  // new keys when the store is full; else they share one bucket
	Expose     bool  // in the fields of answers
}

// Rule is a Spec that holds. It never changes.
type Rule struct {
	name   string
	prefix [prefixSize]byte // of every key
	rate   Rate
	unit   int64 // ns
	full   int64
	cost   int64 // ns; above full: never fits
	slots  int64 // of concurrency; else 0

	shadow, refuse, expose bool
}

// NewRule checks a rule.
func NewRule(s Spec) (*Rule, error) {
	namespace, rest, _ := strings.Cut(s.ID, "/")
	object, name, _ := strings.Cut(rest, "/")
	if namespace == "" || object == "" || !isLabel(name) {
		return nil, fmt.Errorf("rule id %q is not namespace/name/rule", s.ID)
	}
	r := &Rule{name: name, rate: s.Rate, shadow: s.Shadow, refuse: s.Refuse, expose: s.Expose}
	kind := "rate"
	switch {
	case s.Concurrent != 0 && s.Rate != Rate{}:
		return nil, fmt.Errorf("rule %q has a rate and a concurrency: it takes one", s.ID)
	case s.Concurrent != 0:
		if s.Concurrent < 1 || s.Concurrent > MaxConcurrent {
			return nil, fmt.Errorf("rule %q: concurrency %d is outside 1 to %d", s.ID, s.Concurrent, MaxConcurrent)
		}
		if s.Cost != 0 {
			return nil, fmt.Errorf("rule %q: concurrency has no cost", s.ID)
		}
		r.slots, kind = s.Concurrent, "concurrent"
	default:
		if err := r.setRate(s.Cost); err != nil {
			return nil, fmt.Errorf("rule %q: %w", s.ID, err)
		}
	}
	// A rule that turns from rate to concurrency starts anew: its numbers mean something else.
	sum := sha256.Sum256([]byte(kind + "\x00" + s.ID))
	copy(r.prefix[:], sum[:])
	return r, nil
}

func (r *Rule) setRate(cost int64) (err error) {
	if r.unit, r.full, err = r.rate.gcra(); err != nil {
		return err
	}
	cost = cmp.Or(cost, 1)
	if cost < 1 || cost > MaxRequests {
		return fmt.Errorf("cost %d is outside 1 to %d", cost, MaxRequests)
	}
	r.cost = r.full + 1
	if cost <= r.full/r.unit {
		r.cost = cost * r.unit
	}
	return nil
}

// isLabel says whether a name is a DNS label, which needs no escape in any field or body.
func isLabel(s string) bool {
	return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-' && s[len(s)-1] != '-'
}

// Name is the last part of the rule's id.
func (r *Rule) Name() string { return r.name }

// Concurrent says whether the rule counts running requests, and must be released.
func (r *Rule) Concurrent() bool { return r.slots > 0 }

// next is the bucket after one more request, or how long that has to wait (gateway.md 18).
func (r *Rule) next(v, now int64) (next, wait int64) {
	if r.slots > 0 {
		if v = max(v, held); v-held >= r.slots {
			return v, slotWait
		}
		return v + 1, 0
	}
	if r.cost > r.full {
		return v, int64(Never)
	}
	next = max(v, now) + r.cost
	return next, max(0, next-now-r.full)
}

// empty is a bucket with nothing in it, and the wait there: what a key meets for which there is
// no room.
func (r *Rule) empty(now int64) (v, wait int64) {
	if r.slots > 0 {
		return held + r.slots, slotWait
	}
	_, wait = r.next(now+r.full, now)
	return now + r.full, wait
}

// Left is what a bucket holds for its client.
type Left struct {
	Remaining int64         // whole units
	Next      time.Duration // until one more; 0 at the burst, and of concurrency
	Full      time.Duration // until the burst
}

// Left is what the ask's bucket holds after the decision.
func (a *Ask) Left() Left {
	r := a.rule
	if r.slots > 0 {
		return Left{Remaining: max(0, r.slots-max(0, a.at-held))}
	}
	ahead := max(0, a.at-a.now)
	if ahead == 0 {
		return Left{Remaining: r.full / r.unit}
	}
	have := r.full - ahead // below 0 after the burst was lowered
	n := max(0, have/r.unit)
	return Left{Remaining: n, Next: time.Duration((n+1)*r.unit - have), Full: time.Duration(ahead)}
}
