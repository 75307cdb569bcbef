package store

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// memoryHistory is how many revisions Mem keeps for watches before it compacts by itself.
const memoryHistory = 10_000

// progressEvery is how often an idle watch gets a progress mark, in both engines.
const progressEvery = 5 * time.Second

// leaseFloor is the shortest lease; shorter ones are raised to it.
const leaseFloor = time.Second

// Outcome is what MemoryOptions.Fault makes of a commit.
type Outcome uint8

// The outcomes.
const (
	Normal  Outcome = iota
	Lost            // ErrUnavailable, and nothing was done
	Applied         // ErrUnavailable, and everything was done
)

// MemoryOptions are the faults of a memory engine; the zero value has none.
type MemoryOptions struct {
	// Fault, when set, chooses the outcome of each commit: what a caller must withstand.
	Fault func(Txn) Outcome
	// Delay, when positive, is waited before each commit.
	Delay time.Duration
	// Cluster shows in dumps; "default" when empty.
	Cluster string
}

// Mem is the engine for tests: the same revisions, leases, compaction and errors as Embedded,
// nothing on disk, ordinary timers (it works in testing/synctest; Close it before the bubble
// ends). The order of all that happens is the order in which mu is taken.
type Mem struct {
	opts    MemoryOptions
	closed  chan struct{}
	waiting sync.WaitGroup // the goroutines of watches

	mu       sync.Mutex // guards all below, for the length of one call; nobody waits under it
	stopped  bool
	rev      int64
	horizon  int64 // history up to and including it is gone
	keys     map[string]KV
	history  []Batch // revisions horizon+1 … rev
	watchers map[*memWatch]bool
	leases   map[int64]*memLease
	lastID   int64
}

// Memory returns an empty engine. Like etcd's, its first revision is 1.
func Memory(o MemoryOptions) *Mem {
	if o.Cluster == "" {
		o.Cluster = "default"
	}
	return &Mem{
		opts: o, closed: make(chan struct{}), rev: 1, horizon: 1,
		keys: map[string]KV{}, watchers: map[*memWatch]bool{}, leases: map[int64]*memLease{},
	}
}

// Get implements Store.
func (m *Mem) Get(ctx context.Context, key string) (KV, error) {
	if err := checkKey(key); err != nil {
		return KV{}, err
	}
	unlock, err := m.lock(ctx, "reading "+key)
	if err != nil {
		return KV{}, err
	}
	defer unlock()
	kv, ok := m.keys[key]
	if !ok {
		return KV{}, fmt.Errorf("reading %q: %w", key, ErrNotFound)
	}
	return kv.clone(), nil
}

// List implements Store.
func (m *Mem) List(ctx context.Context, prefix string) ([]KV, int64, error) {
	unlock, err := m.lock(ctx, "listing "+prefix)
	if err != nil {
		return nil, 0, err
	}
	defer unlock()
	var kvs []KV
	for _, key := range m.sortedLocked(prefix) {
		kvs = append(kvs, m.keys[key].clone())
	}
	return kvs, m.rev, nil
}

// Commit implements Store.
func (m *Mem) Commit(ctx context.Context, t Txn) (Result, error) {
	if err := t.check(); err != nil {
		return Result{}, err
	}
	if m.opts.Delay > 0 {
		select {
		case <-time.After(m.opts.Delay):
		case <-ctx.Done():
		}
	}
	outcome := Normal
	if m.opts.Fault != nil {
		outcome = m.opts.Fault(t)
	}
	if outcome == Lost {
		return Result{}, fmt.Errorf("committing: %w: injected", ErrUnavailable)
	}
	unlock, err := m.lock(ctx, "committing")
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	r, err := m.commitLocked(t)
	if outcome == Applied {
		return Result{}, fmt.Errorf("committing: %w: injected", ErrUnavailable)
	}
	return r, err
}

func (m *Mem) commitLocked(t Txn) (Result, error) {
	holds := true
	for _, c := range t.If {
		n := m.keys[c.Key].Mod
		if c.Field == Create {
			n = m.keys[c.Key].Create
		}
		holds = holds && n == c.N
	}
	ops := t.Then
	if !holds {
		ops = t.Else
	}
	for _, op := range ops {
		if op.Lease != 0 && m.leases[op.Lease] == nil {
			return Result{}, fmt.Errorf("%w: lease %d of %q does not exist", ErrInvalid, op.Lease, op.Key)
		}
	}
	results, events := make([]OpResult, len(ops)), []Event(nil)
	for i, op := range ops {
		var changed []Event
		results[i], changed = m.applyLocked(op)
		events = append(events, changed...)
	}
	m.publishLocked(events)
	if !holds {
		return Result{Rev: m.rev, Else: results}, fmt.Errorf("committing: %w", ErrConflict)
	}
	return Result{Rev: m.rev, Then: results}, nil
}

// applyLocked does one operation as part of revision m.rev+1.
func (m *Mem) applyLocked(op Op) (r OpResult, events []Event) {
	switch op.Verb {
	case VerbPut:
		kv := KV{Key: op.Key, Value: slices.Clone(op.Value), Create: m.keys[op.Key].Create, Mod: m.rev + 1, Lease: op.Lease}
		if kv.Create == 0 {
			kv.Create = kv.Mod
		}
		m.bindLocked(op.Key, m.keys[op.Key].Lease, op.Lease)
		m.keys[op.Key] = kv
		events = append(events, Event{KV: kv})
	case VerbDelete:
		if _, ok := m.keys[op.Key]; ok {
			events = append(events, m.deleteLocked(op.Key))
		}
	case VerbDeletePrefix:
		for _, key := range m.sortedLocked(op.Key) {
			events = append(events, m.deleteLocked(key))
		}
	case VerbGet:
		if kv, ok := m.keys[op.Key]; ok {
			r.KVs = []KV{kv.clone()}
		}
	}
	if op.Verb != VerbPut {
		r.Deleted = int64(len(events))
	}
	return r, events
}

func (m *Mem) deleteLocked(key string) Event {
	m.bindLocked(key, m.keys[key].Lease, 0)
	delete(m.keys, key)
	return Event{Deleted: true, KV: KV{Key: key, Mod: m.rev + 1}}
}

// bindLocked moves key from the lease it had to the one it has now.
func (m *Mem) bindLocked(key string, from, to int64) {
	if l := m.leases[from]; l != nil {
		delete(l.keys, key)
	}
	if l := m.leases[to]; l != nil {
		l.keys[key] = true
	}
}

// publishLocked makes events the next revision, if there are any.
func (m *Mem) publishLocked(events []Event) {
	if len(events) == 0 {
		return
	}
	m.rev++
	b := Batch{Rev: m.rev, Events: events}
	m.history = append(m.history, b)
	if len(m.history) > 2*memoryHistory {
		m.compactLocked(m.rev - memoryHistory)
	}
	for w := range m.watchers {
		w.sendLocked(b)
	}
}

// Compact implements Keeper.
func (m *Mem) Compact(ctx context.Context, rev int64) error {
	unlock, err := m.lock(ctx, "compacting")
	if err != nil {
		return err
	}
	defer unlock()
	switch {
	case rev > m.rev:
		return fmt.Errorf("%w: compacting to revision %d of %d", ErrInvalid, rev, m.rev)
	case rev <= m.horizon:
		return fmt.Errorf("compacting to revision %d: %w", rev, ErrCompacted)
	}
	m.compactLocked(rev)
	return nil
}

func (m *Mem) compactLocked(rev int64) {
	m.history = slices.Clone(m.history[rev-m.horizon:])
	m.horizon = rev
}

// Defragment implements Keeper; memory has nothing to give back.
func (m *Mem) Defragment(ctx context.Context) error {
	unlock, err := m.lock(ctx, "defragmenting")
	if err == nil {
		unlock()
	}
	return err
}

// Status implements Store.
func (m *Mem) Status(ctx context.Context) (Status, error) {
	unlock, err := m.lock(ctx, "asking for the status")
	if err != nil {
		return Status{}, err
	}
	defer unlock()
	s := Status{Revision: m.rev, Members: 1}
	for key, kv := range m.keys {
		s.Size += int64(len(key) + len(kv.Value))
	}
	return s, nil
}

// Dump implements Dumper.
func (m *Mem) Dump(ctx context.Context, w io.Writer) (int64, error) {
	kvs, rev, err := m.List(ctx, "")
	if err != nil {
		return 0, err
	}
	return rev, writeDump(w, m.opts.Cluster, rev, func(yield func(KV, error) bool) {
		for _, kv := range kvs {
			if !yield(kv, nil) {
				return
			}
		}
	})
}

// Close ends every watch and lease; later calls get ErrUnavailable.
func (m *Mem) Close() error {
	m.mu.Lock()
	if m.stopped {
		m.mu.Unlock()
		return nil
	}
	m.stopped = true
	close(m.closed)
	for _, l := range m.leases {
		l.endLocked()
	}
	m.mu.Unlock()
	m.waiting.Wait()
	return nil
}

// lock takes mu for a call that may still be made.
func (m *Mem) lock(ctx context.Context, doing string) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, unavailable(doing, context.Cause(ctx))
	}
	m.mu.Lock()
	if m.stopped {
		m.mu.Unlock()
		return nil, fmt.Errorf("%s: %w: closed", doing, ErrUnavailable)
	}
	return m.mu.Unlock, nil
}

func (m *Mem) sortedLocked(prefix string) []string {
	return slices.Sorted(func(yield func(string) bool) {
		for key := range maps.Keys(m.keys) {
			if strings.HasPrefix(key, prefix) && !yield(key) {
				return
			}
		}
	})
}

// clone keeps callers from changing what the engine holds.
func (kv KV) clone() KV {
	kv.Value = slices.Clone(kv.Value)
	return kv
}
