package token

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/store"
)

// RevocationPrefix is where the revocation log lies in the store: one key for each entry, made
// once and never changed. The seq of an entry is the revision that made it.
const RevocationPrefix = "token/revocations/"

const (
	// sweepEvery is how often entries that have ended are removed from the store.
	sweepEvery = time.Minute
	// followerBuffer is how many changes wait for a follower before it is cut.
	followerBuffer = 64
	// foreignLife is the longest life of a foreign token whose issuer's record names none.
	foreignLife = 24 * time.Hour
)

// ErrEntry is what Revoke answers to an entry that is none.
var ErrEntry = errors.New("not a revocation")

// Revoke appends an entry of any kind, for an administrator, and returns its seq once it is
// durable. Kind and Val must be set, but for the kind before; Before is now unless it is set;
// At, Until and Seq are filled in.
func (s *Service) Revoke(ctx context.Context, e revocation.Entry) (seq int64, err error) {
	if e, err = s.entry(e); err != nil {
		return 0, err
	}
	return appendEntry(ctx, s.o.Store, e)
}

// RevokeOp is what Revoke does, as a part of the transaction that ends the tokens. Until that
// one is known they are still issued, so it reaches a second further.
func (s *Service) RevokeOp(e revocation.Entry) (store.Op, error) {
	e, err := s.entry(e)
	if err != nil {
		return store.Op{}, err
	}
	if e.Before != 0 {
		e.Before = min(e.Before+1, e.At+revocation.Ahead)
	}
	return entryOp(e)
}

// entry fills an entry in, and checks it.
func (s *Service) entry(e revocation.Entry) (revocation.Entry, error) {
	now := s.o.Now()
	e.Seq, e.At = 0, now.Unix()
	var foreign time.Duration
	switch e.Kind {
	case revocation.ByRTI, revocation.BySID, revocation.BySub: // a foreign token can bring these again
		for _, i := range s.o.World().Directory.Issuers() {
			foreign = max(foreign, lifeOf(&i))
		}
	}
	switch e.Kind {
	case revocation.BySub, revocation.ByClient, revocation.ByBefore:
		if e.Before == 0 {
			e.Before = s.reach(e.At)
		}
	}
	e.Until = revocation.Until(now, foreign)
	if err := e.Check(); err != nil {
		return e, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	return e, nil
}

// reach is the highest iat that a token of now may have: behind an entry of this very second it
// is one more (see clearIat), and so on. It may reach too far for most: whoever asks anew gets a
// token from behind it.
func (s *Service) reach(now int64) int64 {
	iat := now
	for _, e := range s.o.Revoked.Entries() {
		if e.Before >= iat {
			iat = min(e.Before+1, now+revocation.Ahead)
		}
	}
	return iat
}

// lifeOf is the longest life of a token of the issuer.
func lifeOf(i *grant.Issuer) time.Duration { return cmp.Or(i.MaxLifetime, foreignLife) }

// appendEntry writes an entry.
func appendEntry(ctx context.Context, st store.Store, e revocation.Entry) (seq int64, err error) {
	op, err := entryOp(e)
	if err != nil {
		return 0, err
	}
	res, err := st.Commit(ctx, store.Txn{If: []store.Cmp{store.Absent(op.Key)}, Then: []store.Op{op}})
	if err != nil {
		return 0, fmt.Errorf("appending a revocation: %w", err)
	}
	return res.Rev, nil
}

// entryOp puts an entry under a name of its own. Names follow the server's clock, for the eye;
// the order that counts is that of the revisions.
func entryOp(e revocation.Entry) (store.Op, error) {
	value, err := json.Marshal(e)
	if err != nil {
		return store.Op{}, fmt.Errorf("encoding a revocation: %w", err)
	}
	var unique [8]byte
	rand.Read(unique[:])
	return store.Put(fmt.Sprintf("%s%012d-%s", RevocationPrefix, e.At, hex.EncodeToString(unique[:])), value), nil
}

// Ledger is a server's copy of the revocation log in the store: for its own tokens, and for
// the verifiers that follow it.
type Ledger struct {
	st  store.Store
	log *slog.Logger
	own *revocation.Log

	mu        sync.Mutex // guards what follows; held while lists are copied, never over I/O
	entries   []kept     // by seq
	faulty    map[string]bool
	rev       int64 // of the store, up to which entries are complete; 0: not read yet
	followers map[chan []revocation.Entry]bool
}

// kept is an entry and its key in the store.
type kept struct {
	key string
	revocation.Entry
}

// NewLedger prepares a ledger; Run fills it.
func NewLedger(st store.Store, log *slog.Logger) *Ledger {
	return &Ledger{
		st: st, log: log, own: revocation.NewLog(), faulty: map[string]bool{},
		followers: map[chan []revocation.Entry]bool{},
	}
}

// Log is the copy that tokens are held against.
func (l *Ledger) Log() *revocation.Log { return l.own }

// Run keeps the ledger equal to the store, and removes what has ended, until ctx ends.
func (l *Ledger) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var sweeper sync.WaitGroup
	sweeper.Go(func() { l.sweep(ctx) })
	defer sweeper.Wait()
	defer cancel()
	return store.Follow(ctx, l.st, RevocationPrefix, l.reset, l.apply)
}

// Following is the log as one verifier follows it.
type Following struct {
	All   []revocation.Entry        // at Epoch, oldest first
	Epoch int64                     // store revision
	More  <-chan []revocation.Entry // each later change; closed: it fell behind and must begin anew
}

// Follow begins with the whole log and goes on with each change until ctx ends. Nil: the log
// is not whole here, so there is nothing to begin with.
func (l *Ledger) Follow(ctx context.Context) *Following {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rev == 0 || len(l.faulty) > 0 {
		return nil
	}
	more := make(chan []revocation.Entry, followerBuffer)
	l.followers[more] = true
	context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.cutLocked(more)
	})
	return &Following{All: plainEntries(l.entries), Epoch: l.rev, More: more}
}

func (l *Ledger) cutLocked(more chan []revocation.Entry) {
	if l.followers[more] {
		delete(l.followers, more)
		close(more)
	}
}

func plainEntries(list []kept) []revocation.Entry {
	out := make([]revocation.Entry, len(list))
	for i, k := range list {
		out[i] = k.Entry
	}
	return out
}

// reset takes the whole log. What was known before is not told again.
func (l *Ledger) reset(kvs []store.KV, rev int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := make(map[string]bool, len(l.entries))
	for _, k := range l.entries {
		known[k.key] = true
	}
	l.entries = nil
	clear(l.faulty)
	for _, kv := range kvs {
		l.takeLocked(kv)
	}
	slices.SortFunc(l.entries, func(a, b kept) int { return cmp.Compare(a.Seq, b.Seq) })
	fresh := slices.DeleteFunc(slices.Clone(l.entries), func(k kept) bool { return known[k.key] })
	l.publishLocked(rev, plainEntries(fresh), true)
	return nil
}

// apply takes one revision; one without events says that the store is heard.
func (l *Ledger) apply(b store.Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, gone := len(l.entries), map[string]bool{}
	for _, e := range b.Events {
		if e.Deleted {
			gone[e.KV.Key] = true
			delete(l.faulty, e.KV.Key)
		} else {
			l.takeLocked(e.KV)
		}
	}
	fresh := plainEntries(l.entries[before:])
	if len(gone) > 0 {
		l.entries = slices.DeleteFunc(l.entries, func(k kept) bool { return gone[k.key] })
	}
	l.publishLocked(b.Rev, fresh, !l.own.Ready())
	return nil
}

func (l *Ledger) takeLocked(kv store.KV) {
	e, err := revocation.Decode(kv.Value)
	if err != nil {
		l.log.Error("reading a revocation: no own token counts until it is gone", "key", kv.Key, "error", err)
		l.faulty[kv.Key] = true
		return
	}
	e.Seq = kv.Mod
	l.entries = append(l.entries, kept{kv.Key, e})
}

// publishLocked gives a change to the own copy, then to the followers. An entry that cannot be
// read could revoke anything: then the copy is not whole, and nobody follows it.
func (l *Ledger) publishLocked(rev int64, fresh []revocation.Entry, whole bool) {
	now := time.Now()
	var err error
	switch {
	case len(l.faulty) > 0:
		err = l.own.Add([]revocation.Entry{{}}, now)
	case whole:
		err = l.own.Reset(plainEntries(l.entries), now)
	case len(fresh) > 0:
		err = l.own.Add(fresh, now)
	}
	if err != nil {
		l.log.Error("the revocation log is not whole", "error", err)
	}
	l.own.Beat(now)
	l.rev = rev
	for more := range l.followers {
		if len(l.faulty) > 0 {
			l.cutLocked(more)
			continue
		}
		if len(fresh) == 0 {
			continue
		}
		select {
		case more <- fresh:
		default:
			l.cutLocked(more)
		}
	}
}

// sweep removes what has ended: from the store, which every server follows, and from the copy
// that tokens are held against.
func (l *Ledger) sweep(ctx context.Context) {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := time.Now()
		l.own.Sweep(now)
		for ops := range slices.Chunk(l.ended(now), store.MaxOps) {
			if _, err := l.st.Commit(ctx, store.Txn{Then: ops}); err != nil {
				if ctx.Err() == nil {
					l.log.Warn("removing revocations that have ended", "error", err)
				}
				break
			}
		}
	}
}

// ended are the deletions of what has ended.
func (l *Ledger) ended(now time.Time) (ops []store.Op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.entries {
		if k.Until < now.Unix() {
			ops = append(ops, store.Delete(k.key))
		}
	}
	return ops
}
