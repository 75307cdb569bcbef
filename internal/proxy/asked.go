package proxy

import (
	"sync"

	"countersign.dev/internal/policy"
)

// askedKept is how many refused requests are kept as policy saw them, for explanations.
const askedKept = 256

// asked are the newest refused requests whose records do not tell all that policy looked at:
// what a token claimed, which headers were there. They live in memory alone.
type asked struct {
	mu   sync.Mutex // guards the rest; held for a look-up
	by   map[string]policy.Request
	ring [askedKept]string
	next int
}

func (a *asked) keep(id string, r *policy.Request) {
	if id == "" || r.Token == nil && r.Header == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = make(map[string]policy.Request, askedKept)
	}
	delete(a.by, a.ring[a.next])
	a.ring[a.next] = id
	a.next = (a.next + 1) % askedKept
	a.by[id] = *r
}

// Asked is the request that a decision refused, as policy saw it; false if it is not kept: then
// its record tells all, or it was long ago.
func (p *Proxy) Asked(id string) (policy.Request, bool) {
	p.asked.mu.Lock()
	defer p.asked.mu.Unlock()
	r, ok := p.asked.by[id]
	return r, ok
}
