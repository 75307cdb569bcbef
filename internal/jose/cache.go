package jose

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	shards    = 64
	cacheLife = 60  // seconds that a verified token is believed again
	hashed    = 128 // bytes of a token that find its place: its last, so the signature

	// Bytes of an entry: itself with its token and its places in map and ring; a claim; the
	// header of a text.
	entryCost, claimCost, textCost = 700, 96, 16
)

// Cache keeps tokens that were verified (tokens.md 12.4). A hit is the same text under the very
// same Check, so a new key set, issuer or audience, which is a new Check, finds nothing of
// before. Failures are not kept; revocation, binding and policy are asked again every time by
// the caller. It is safe for concurrent use.
type Cache struct {
	seed  maphash.Seed
	limit int // bytes of a shard
	shard [shards]shard
}

// shard is a part of the cache: a CLOCK, whose hand evicts what was not used since it passed.
type shard struct {
	mu    sync.RWMutex // guards all below; held for a look-up or an exchange of entries, no work
	by    map[place]*kept
	ring  []*kept
	hand  int
	bytes int
}

type place struct {
	hash  uint64
	check *Check
}

// kept is an entry. All but at and used never changes.
type kept struct {
	place
	raw         string
	token       *Token
	size        int   // bytes
	from, until int64 // Unix seconds: from the verification to the end
	at          int   // in ring
	used        atomic.Bool
}

// weigh is about how many bytes an entry holds: the text, the JSON in it, the texts parsed out of
// that, and the claims.
func weigh(raw string, t *Token) int {
	return entryCost + len(raw) + 3*len(t.p.text) + cap(t.p.members)*2*textCost + weighClaims(t.claims)
}

func weighClaims(in []claim) int {
	sum := cap(in) * claimCost
	for i := range in {
		sum += cap(in[i].texts)*textCost + weighClaims(in[i].inner)
	}
	return sum
}

// NewCache makes a cache of about so many bytes.
func NewCache(bytes int) *Cache {
	c := &Cache{seed: maphash.MakeSeed(), limit: bytes / shards}
	for i := range c.shard {
		c.shard[i].by = map[place]*kept{}
	}
	return c
}

// Verify is k.Verify, or what it said of the same token less than a minute ago.
func (c *Cache) Verify(now time.Time, raw string, k *Check) (*Token, error) {
	if len(raw) > MaxToken {
		return nil, refuse(Size, "")
	}
	at := c.place(raw, k)
	if t := c.find(now, raw, at); t != nil {
		return t, nil
	}
	t, err := k.Verify(now, raw)
	if err != nil {
		return nil, err
	}
	sec, end := now.Unix(), t.Expires()+int64(k.ExpSkew/time.Second)
	// The text is copied: the caller's may be part of something large.
	c.shard[at.hash%shards].keep(&kept{place: at, raw: strings.Clone(raw), token: t, size: weigh(raw, t), from: sec, until: min(end, sec+cacheLife)}, c.limit)
	return t, nil
}

// Cached is what Verify would say without verifying anything; nil where it would have to.
func (c *Cache) Cached(now time.Time, raw string, k *Check) *Token {
	return c.find(now, raw, c.place(raw, k))
}

// place is where a token is. Its end is as good as all of it to find that, in an eighth of the
// time: only tokens that verify are put there, and the whole text is compared.
func (c *Cache) place(raw string, k *Check) place {
	return place{maphash.String(c.seed, raw[max(0, len(raw)-hashed):]), k}
}

func (c *Cache) find(now time.Time, raw string, at place) *Token {
	s := &c.shard[at.hash%shards]
	s.mu.RLock()
	e := s.by[at]
	s.mu.RUnlock()
	// from: a clock that was set back has seen nothing yet.
	if sec := now.Unix(); e == nil || e.raw != raw || e.from > sec || sec >= e.until {
		return nil
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	return e.token
}

// keep puts an entry in, in place of one that has the same place, and evicts down to limit.
func (s *shard) keep(e *kept, limit int) {
	if e.size > limit {
		return
	}
	e.used.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.by[e.place]; old != nil {
		s.bytes -= old.size
		e.at = old.at
		s.ring[e.at] = e
	} else {
		e.at = len(s.ring)
		s.ring = append(s.ring, e)
	}
	s.by[e.place] = e
	for s.bytes += e.size; s.bytes > limit; {
		s.evictLocked()
	}
}

func (s *shard) evictLocked() {
	if s.hand >= len(s.ring) {
		s.hand = 0
	}
	e := s.ring[s.hand]
	if e.used.Swap(false) {
		s.hand++
		return
	}
	last := len(s.ring) - 1
	s.ring[e.at], s.ring[last].at = s.ring[last], e.at
	s.ring[last] = nil
	s.ring = s.ring[:last]
	delete(s.by, e.place)
	s.bytes -= e.size
}
