package bearer

import (
	"sync"
	"sync/atomic"
	"time"
)

// The budget of failed signatures (tokens.md 17), and how many peers have one at a time: those
// whose signatures failed lately.
const (
	failedRate  = 100 // a second
	failedBurst = 200
	failedPeers = 4096
)

// failures counts signatures that did not hold, by peer. A peer that used its budget up has its
// tokens refused unchecked for the rest of the second; nobody else is touched.
type failures struct {
	last  atomic.Int64 // second of the last failure; nobody is out of budget in a later one
	mu    sync.Mutex   // guards peers, for a look-up or, when it is full, one sweep
	peers map[string]allowance
}

// allowance is what a peer had left in a second.
type allowance struct {
	left   int
	second int64
}

func (a allowance) at(second int64) allowance {
	if gone := second - a.second; gone > 0 {
		a.left = int(min(failedBurst, int64(a.left)+failedRate*min(gone, failedBurst)))
		a.second = second
	}
	return a
}

// spent reports whether the peer has no budget left.
func (f *failures) spent(peer string, now time.Time) bool {
	if now.Unix() > f.last.Load() {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a, known := f.peers[peer]
	return known && a.at(now.Unix()).left <= 0
}

// add counts one failure.
func (f *failures) add(peer string, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, known := f.peers[peer]
	if !known {
		if len(f.peers) >= failedPeers {
			f.sweep(now)
		}
		if f.peers == nil {
			f.peers = make(map[string]allowance)
		}
		a = allowance{left: failedBurst, second: now.Unix()}
	}
	a = a.at(now.Unix())
	a.left = max(0, a.left-1)
	f.peers[peer] = a
	f.last.Store(max(f.last.Load(), now.Unix()))
}

// sweep forgets who has a full budget again, and if that is nobody, anybody: peers are proven,
// so a stranger cannot make up thousands.
func (f *failures) sweep(now time.Time) {
	for peer, a := range f.peers {
		if a.at(now.Unix()).left >= failedBurst {
			delete(f.peers, peer)
		}
	}
	for peer := range f.peers {
		if len(f.peers) < failedPeers {
			return
		}
		delete(f.peers, peer)
	}
}
