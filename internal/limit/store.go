package limit

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DefaultKeys is how many buckets a store holds.
	DefaultKeys = 262_144

	shards        = 256
	sweptOnInsert = 64 // buckets looked at for each that is added to a crowded store
)

// evicted stands in a bucket that is no longer in the store: whoever meets it looks again.
const evicted = math.MinInt64

// Store holds the buckets of all rules.
type Store struct {
	seed   maphash.Seed
	shards [shards]shard
	shared shard // a bucket for each rule that found the store full; as many as there are rules
	size   atomic.Int64
	most   int64
}

// shard is a part of the buckets.
type shard struct {
	mu      sync.RWMutex // guards what follows: read for a look-up, written to add and to sweep
	buckets map[string]*atomic.Int64
	floor   int64 // the latest now that a bucket was evicted by
	_       [24]byte
}

// New returns a store of at most so many buckets.
func New(keys int) *Store {
	s := &Store{seed: maphash.MakeSeed(), most: int64(keys)}
	for i := range s.shards {
		s.shards[i].buckets = map[string]*atomic.Int64{}
	}
	s.shared.buckets = map[string]*atomic.Int64{}
	return s
}

// Keys is how many buckets there are.
func (s *Store) Keys() int { return int(s.size.Load()) }

// Crowded says whether new buckets of addresses are wide, because four fifths are used.
func (s *Store) Crowded() bool { return s.size.Load() > s.most*4/5 }

// Full says whether keys that are new find no bucket of their own.
func (s *Store) Full() bool { return s.size.Load() >= s.most }

func (s *Store) shard(key []byte) *shard { return &s.shards[maphash.Bytes(s.seed, key)%shards] }

// find sets the bucket of an ask, if there is one: its own, or a wider one while that is what it
// would get.
func (s *Store) find(a *Ask) {
	a.overflow = false
	if a.bucket = s.lookUp(a.key); a.bucket == nil && a.widens && s.Crowded() {
		a.bucket = s.lookUp(wide(a.key))
	}
}

func (s *Store) lookUp(key []byte) *atomic.Int64 {
	var short hashed
	key = bounded(key, &short)
	sh := s.shard(key)
	sh.mu.RLock()
	b := sh.buckets[string(key)]
	sh.mu.RUnlock()
	return b
}

func (r *Rule) overflowKey() []byte { return append(r.prefix[:], tagOverflow) }

// obtain sets the bucket of an ask, making it if it must. False: there is no room, and the rule
// refuses then. It tries for a bucket of its own each time, so that a store full of what is no
// longer in use empties itself.
func (s *Store) obtain(a *Ask) bool {
	if s.find(a); a.bucket != nil {
		return true
	}
	key := a.key
	if a.widens && s.Crowded() {
		key = wide(key)
	}
	var short hashed
	if a.bucket = s.insert(bounded(key, &short), a.now); a.bucket != nil {
		return true
	}
	if a.rule.refuse {
		return false
	}
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	a.bucket, a.overflow = s.shared.addLocked(a.rule.overflowKey()), true
	return true
}

// insert gives the bucket of a key, new or not; nil if the store is full of buckets in use.
func (s *Store) insert(key []byte, now int64) *atomic.Int64 {
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if b := sh.buckets[string(key)]; b != nil {
		return b
	}
	if s.Crowded() {
		s.size.Add(int64(-sh.sweepLocked(now, sweptOnInsert)))
	}
	if s.size.Add(1) > s.most {
		s.size.Add(-1)
		return nil
	}
	return sh.addLocked(key)
}

// addLocked gives the bucket of a key. A new one is full as of the floor, not as of the beginning:
// it may have been there before, with a TAT up to the floor, and whoever read the clock before
// the sweep must not find time in it that was spent.
func (sh *shard) addLocked(key []byte) *atomic.Int64 {
	b := sh.buckets[string(key)]
	if b == nil {
		b = new(atomic.Int64)
		b.Store(sh.floor)
		sh.buckets[string(key)] = b
	}
	return b
}

// Sweep drops the buckets that are full: they say nothing that a new one does not. It is to be
// called now and then, so that the store shrinks without requests.
func (s *Store) Sweep(now time.Duration) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		s.size.Add(int64(-sh.sweepLocked(int64(now), math.MaxInt)))
		sh.mu.Unlock()
	}
	s.shared.mu.Lock()
	s.shared.sweepLocked(int64(now), math.MaxInt)
	s.shared.mu.Unlock()
}

// sweepLocked looks at so many buckets, from a random one on, and says how many it dropped.
func (sh *shard) sweepLocked(now int64, looks int) (dropped int) {
	for key, b := range sh.buckets {
		if looks--; looks < 0 {
			break
		}
		if v := b.Load(); v <= now && b.CompareAndSwap(v, evicted) {
			sh.floor = max(sh.floor, now)
			delete(sh.buckets, key)
			dropped++
		}
	}
	return dropped
}
