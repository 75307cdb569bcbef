// Package store keeps the small, slow-changing facts of one cluster: keys, compare-and-swap,
// leases, watch; and what keeps them safe at rest: private directories and sealed values.
//
// Its words: a *key* is relative ("ca/root/1"), the engine sets /countersign/<cluster>/ before
// it; a *revision* counts the commits that changed something; a *batch* is what one revision
// did; the *horizon* is the oldest revision a watch may still start after; a *sealed* value is
// bound to its key and opened only by the root sealing key.
//
// Its promise: a commit that was acknowledged survives power loss, a read sees every commit
// acknowledged before it, and a watch is never silently thinned. Two engines keep it, Memory
// and Embedded, and storetest proves both.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Limits of all engines (registry.md 3).
const (
	MaxValue  = 512 << 10  // bytes of one value
	MaxOps    = 100        // operations in one branch of a transaction
	MaxCommit = 1400 << 10 // bytes of all keys and values of a transaction; etcd refuses at 1.5 MiB
	MaxKey    = 1024       // bytes of a key

	// WatchBuffer is how many batches wait for a watcher before it is cut with ErrSlow.
	WatchBuffer = 1024

	// DefaultDeadline bounds every call whose context has no deadline.
	DefaultDeadline = 5 * time.Second
)

// The errors of Store; everything else is a bug. After ErrConflict, ErrTooLarge and ErrInvalid
// nothing was changed. After any other error of Commit the outcome is unknown: read again
// before you retry, unless the write is create-only or compare-and-set.
var (
	ErrNotFound    = errors.New("no such key")
	ErrConflict    = errors.New("changed meanwhile") // the compare failed: Result.Else holds what was read
	ErrCompacted   = errors.New("history is compacted")
	ErrSlow        = errors.New("the watcher fell behind")
	ErrTooLarge    = errors.New("too large for the store")
	ErrNoSpace     = errors.New("no space left for the store")
	ErrUnavailable = errors.New("the store is unavailable") // no quorum, timeout, stopped, failed
	ErrInvalid     = errors.New("invalid request to the store")
)

// Store keeps small, slow-changing facts. Safe for concurrent use. Every call without a
// deadline gets DefaultDeadline, except Watch and Lease, which live as long as ctx.
type Store interface {
	// Get is linearizable; ErrNotFound.
	Get(ctx context.Context, key string) (KV, error)
	// List is linearizable, of one revision, in key order; the empty prefix is everything.
	List(ctx context.Context, prefix string) (kvs []KV, rev int64, err error)
	// Commit is all or nothing, and durable before it returns nil.
	Commit(ctx context.Context, t Txn) (Result, error)
	// Watch delivers every revision > after that touched prefix, in order, each exactly once
	// and whole. The channel is closed after a Batch with Err, or when ctx ends. If history
	// after `after` is gone, that Batch says ErrCompacted and its Rev is the horizon.
	Watch(ctx context.Context, prefix string, after int64) (<-chan Batch, error)
	// Lease is kept alive until ctx ends. A ttl below the engine's floor (1 s) is raised, and
	// the log says so.
	Lease(ctx context.Context, ttl time.Duration) (Lease, error)
	Status(ctx context.Context) (Status, error)
}

// Keeper is implemented by engines whose upkeep is ours.
type Keeper interface {
	// Compact forgets the history up to and including rev, never a current value. A rev
	// already behind the horizon is ErrCompacted, one in the future ErrInvalid.
	Compact(ctx context.Context, rev int64) error
	// Defragment gives free space inside the file back; writes wait meanwhile.
	Defragment(ctx context.Context) error
}

// Dumper is implemented by all engines: every key at one revision, with a checksum at the end
// (registry.md 7). Sealed values stay sealed.
type Dumper interface {
	Dump(ctx context.Context, w io.Writer) (rev int64, err error)
}

// Engine is what Memory and Embedded give.
type Engine interface {
	Store
	Keeper
	Dumper
	io.Closer
}

// KV is a key with its value. Create and Mod are the revisions of its creation and of its last
// change, Lease the lease that it dies with, or 0.
type KV struct {
	Key         string
	Value       []byte
	Create, Mod int64
	Lease       int64
}

// Txn runs Then when every comparison of If holds, else Else. Prefer one key compared and
// written; several keys only where registry.md 3 lists them.
type Txn struct {
	If         []Cmp
	Then, Else []Op
}

// Field is the revision that a Cmp looks at.
type Field uint8

// What may be compared.
const (
	Mod    Field = iota // revision of the last change, 0 when the key is absent
	Create              // revision of the creation, 0 when the key is absent
)

// Cmp holds when the revision of Key is N.
type Cmp struct {
	Key   string
	Field Field
	N     int64
}

// ModIs holds when key was last changed at revision n.
func ModIs(key string, n int64) Cmp { return Cmp{Key: key, Field: Mod, N: n} }

// CreateIs holds when key was created at revision n: the fence of a duty.
func CreateIs(key string, n int64) Cmp { return Cmp{Key: key, Field: Create, N: n} }

// Absent holds when key does not exist.
func Absent(key string) Cmp { return Cmp{Key: key, Field: Mod} }

// Verb is what an Op does.
type Verb uint8

// The verbs; the zero Verb is refused.
const (
	verbNone Verb = iota
	VerbPut
	VerbDelete
	VerbDeletePrefix
	VerbGet
)

// Op is one operation of a transaction; make it with Put, Delete, DeletePrefix or GetOp.
type Op struct {
	Verb  Verb
	Key   string // or the prefix
	Value []byte
	Lease int64 // of a put: the key dies with this lease
}

// Put sets key to value.
func Put(key string, value []byte) Op { return Op{Verb: VerbPut, Key: key, Value: value} }

// PutLeased sets key to value until the lease ends.
func PutLeased(key string, value []byte, lease int64) Op {
	return Op{Verb: VerbPut, Key: key, Value: value, Lease: lease}
}

// Delete removes key; an absent key is no error.
func Delete(key string) Op { return Op{Verb: VerbDelete, Key: key} }

// DeletePrefix removes every key that starts with prefix, which must not be empty.
func DeletePrefix(prefix string) Op { return Op{Verb: VerbDeletePrefix, Key: prefix} }

// GetOp reads key inside the transaction, after the operations before it.
func GetOp(key string) Op { return Op{Verb: VerbGet, Key: key} }

// Result is what a Commit did: Then has one entry per operation of Then when the comparisons
// held, Else one per operation of Else when they did not (and Commit returned ErrConflict).
// Rev is the store's revision afterwards.
type Result struct {
	Rev        int64
	Then, Else []OpResult
}

// OpResult is what one operation did.
type OpResult struct {
	KVs     []KV  // of a get: the key, or nothing when it is absent
	Deleted int64 // of a delete: how many keys went
}

// Event is one change of a key. Of a deleted key only Key and Mod (when it went) are set.
type Event struct {
	Deleted bool
	KV      KV
}

// Batch is what one revision did under the watched prefix, whole. A batch without events is a
// progress mark: all up to Rev was delivered. One with Err is the last.
type Batch struct {
	Rev    int64
	Events []Event
	Err    error
}

// Lease is a time limit that keys are bound to.
type Lease interface {
	// ID is what Op.Lease takes.
	ID() int64
	// Done closes at the latest when the lease may have ended, by the local monotonic clock
	// from the moment the last successful keep-alive was sent.
	Done() <-chan struct{}
	// End ends it now: keys bound to it go at once.
	End(ctx context.Context) error
}

// Status is the state of an engine.
type Status struct {
	Size     int64 // bytes on disk; of the memory engine, of keys and values
	Revision int64
	Members  int
}

// unavailable wraps the reason a call gave up.
func unavailable(doing string, err error) error {
	return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
}

// check refuses a transaction that an engine would refuse, so that all engines refuse alike.
func (t Txn) check() error {
	total := 0
	for _, c := range t.If {
		if err := checkKey(c.Key); err != nil {
			return err
		}
		if c.Field > Create || c.N < 0 {
			return fmt.Errorf("%w: comparison of %q", ErrInvalid, c.Key)
		}
		total += len(c.Key)
	}
	if len(t.If) > MaxOps {
		return fmt.Errorf("%w: %d comparisons, %d is most", ErrInvalid, len(t.If), MaxOps)
	}
	for _, ops := range [][]Op{t.Then, t.Else} {
		n, err := checkBranch(ops)
		if err != nil {
			return err
		}
		total += n
	}
	if total > MaxCommit {
		return fmt.Errorf("%w: the transaction has %d bytes, %d is most", ErrTooLarge, total, MaxCommit)
	}
	return nil
}

// checkBranch counts the bytes of one branch and refuses, as etcd does, a key that the branch
// puts twice, or puts and deletes.
func checkBranch(ops []Op) (total int, err error) {
	if len(ops) > MaxOps {
		return 0, fmt.Errorf("%w: %d operations, %d is most", ErrInvalid, len(ops), MaxOps)
	}
	puts := make(map[string]bool, len(ops))
	for _, op := range ops {
		if err := checkKey(op.Key); err != nil {
			return 0, err
		}
		switch op.Verb {
		case VerbPut:
			if len(op.Value) > MaxValue {
				return 0, fmt.Errorf("%w: the value of %q has %d bytes, %d is most", ErrTooLarge, op.Key, len(op.Value), MaxValue)
			}
			if puts[op.Key] {
				return 0, fmt.Errorf("%w: %q is put twice", ErrInvalid, op.Key)
			}
			puts[op.Key] = true
		case VerbDelete, VerbDeletePrefix, VerbGet:
			if op.Lease != 0 || op.Value != nil {
				return 0, fmt.Errorf("%w: only a put of %q takes a value and a lease", ErrInvalid, op.Key)
			}
		default:
			return 0, fmt.Errorf("%w: operation on %q has no verb", ErrInvalid, op.Key)
		}
		total += len(op.Key) + len(op.Value)
	}
	for _, op := range ops {
		for key := range puts {
			if op.Verb == VerbDelete && key == op.Key || op.Verb == VerbDeletePrefix && strings.HasPrefix(key, op.Key) {
				return 0, fmt.Errorf("%w: %q is put and deleted", ErrInvalid, key)
			}
		}
	}
	return total, nil
}

func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: empty key", ErrInvalid)
	case len(key) > MaxKey:
		return fmt.Errorf("%w: key of %d bytes, %d is most", ErrInvalid, len(key), MaxKey)
	case key[0] == '/':
		return fmt.Errorf("%w: key %q is not relative", ErrInvalid, key)
	}
	return nil
}

// withDeadline gives ctx the default deadline when it has none.
func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, DefaultDeadline)
}
