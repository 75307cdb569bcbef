// Package catalog holds the applied objects: all or nothing, in the order they came.
//
// Its words: a record is an applied object with its places and the day it came; its revision
// is the store's. Its promise: a batch is one transaction that compares every object it was
// judged against, so that two people who apply at once never mix, and a batch that cannot be
// written changes nothing.
package catalog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"countersign.dev/internal/resource"
	"countersign.dev/internal/store"
)

// Prefix is where the objects lie in the store.
const Prefix = "resource/"

// MaxChanges bounds what one batch may change: it is one transaction of the store.
const MaxChanges = store.MaxOps

// Record is one applied object.
type Record struct {
	resource.Object
	Created     time.Time // when it was first applied
	Generation  int64     // +1 with every change of the defaulted spec
	Source      string    // the watched directory that wrote it last; empty: somebody applied it
	First, Last int64     // revisions of its creation and its last change

	// Meaning is what its reader made of it all; nil: nothing is kept. It goes with any change of the rest.
	Meaning *Meaning

	// Before is the Secret as it was when its pair could last be used; nil: it can be now, or never could.
	Before *resource.Object
}

// Meaning holds a value that is kept once, before others see it, and never changed.
type Meaning struct{ value any }

// Value is what was kept; nil if nothing was.
func (m *Meaning) Value() any {
	if m == nil {
		return nil
	}
	return m.value
}

// Keep keeps a value, if there is anything to keep it in.
func (m *Meaning) Keep(value any) {
	if m != nil {
		m.value = value
	}
}

type stored struct {
	V       int             `json:"v"`
	Object  json.RawMessage `json:"object"`
	Places  resource.Places `json:"places"`
	Created time.Time       `json:"created"`

	Generation int64  `json:"generation,omitempty"` // absent in what earlier versions wrote: 1
	Source     string `json:"source,omitempty"`

	Sealed []byte  `json:"sealed,omitempty"` // private key of the object
	Before *before `json:"before,omitempty"`
}

type before struct {
	Object json.RawMessage `json:"object"`
	Sealed []byte          `json:"sealed"`
}

// Key is where an object lies.
func Key(kind, namespace, name string) string {
	return Prefix + kind + "/" + namespace + "/" + name
}

// Sealer seals private keys before they reach the store, each for the key it lies under. It is safe for concurrent use.
type Sealer interface {
	Seal(path string, plain []byte) ([]byte, error)
	Unseal(path string, sealed []byte) ([]byte, error)
}

// Decode reads what the store holds below Prefix.
func Decode(kv store.KV, sealer Sealer) (Record, error) {
	var s stored
	if err := json.Unmarshal(kv.Value, &s); err != nil {
		return Record{}, fmt.Errorf("reading %q: %w", kv.Key, err)
	}
	o, err := opened(kv.Key, s.Object, s.Sealed, sealer)
	if err != nil {
		return Record{}, err
	}
	o.Places = s.Places
	r := Record{Object: o, Created: s.Created, Generation: max(s.Generation, 1), Source: s.Source, First: kv.Create, Last: kv.Mod}
	if s.Before != nil {
		was, err := opened(kv.Key, s.Before.Object, s.Before.Sealed, sealer)
		if err != nil {
			return Record{}, err
		}
		r.Before = &was
	}
	return r, nil
}

// Catalog writes objects. It is safe for concurrent use.
type Catalog struct {
	st     store.Store
	sealer Sealer

	whole      sync.RWMutex // held for writing while a set moves, for reading while the objects are listed
	unfinished atomic.Bool  // a set was perhaps not moved whole
}

// New keeps objects in st.
func New(st store.Store, sealer Sealer) *Catalog { return &Catalog{st: st, sealer: sealer} }

// ErrConflict: an object changed between reading and writing; nothing was changed.
var ErrConflict = errors.New("the objects changed meanwhile")

// TooMany is a batch beyond MaxChanges, or Most where that is set; nothing was changed.
type TooMany struct {
	Changes int
	Most    int
	Beside  int // what goes with them: see Plan.Room
}

func (e TooMany) Error() string {
	if e.Beside > 0 {
		return fmt.Sprintf("%d objects and %d records that go with them would change, at most %d do at once", e.Changes, e.Beside, MaxChanges)
	}
	return fmt.Sprintf("%d objects would change, at most %d do at once", e.Changes, cmp.Or(e.Most, MaxChanges))
}

// All lists every object, in the order of kind, namespace, name, at one revision.
func (c *Catalog) All(ctx context.Context) (map[string]Record, int64, error) {
	if c.unfinished.Load() {
		if _, err := c.Finish(ctx); err != nil {
			return nil, 0, err
		}
	}
	c.whole.RLock()
	defer c.whole.RUnlock()
	kvs, rev, err := c.st.List(ctx, Prefix)
	if err != nil {
		return nil, 0, fmt.Errorf("listing the objects: %w", err)
	}
	all := make(map[string]Record, len(kvs))
	for _, kv := range kvs {
		r, err := Decode(kv, c.sealer)
		if err != nil {
			return nil, 0, err
		}
		all[kv.Key] = r
	}
	return all, rev, nil
}

// Change is what a batch wants of one object: put it, or remove it (Object.JSON nil).
type Change struct {
	Object resource.Object
	Remove bool
	Source string // of Record
}

// What became of a change.
const (
	Created   = "created"
	Changed   = "changed"
	Unchanged = "unchanged"
	Deleted   = "deleted"
)

// Plan is what a batch would do to the objects it was judged against. What has to happen with
// it or not at all is appended to Txn.Then; Room says whether it fits.
type Plan struct {
	Results []string // one a change
	Txn     store.Txn
}

// Changes reports whether the plan changes anything.
func (p Plan) Changes() bool { return len(p.Txn.Then) > 0 }

// Room is a TooMany unless n operations fit beside those of the objects.
func (p Plan) Room(n int) error {
	if changes := len(p.Txn.Then); changes+n > MaxChanges {
		return TooMany{Changes: changes, Beside: n}
	}
	return nil
}

// Prepare works out what changes do to the objects known. It writes nothing.
func (c *Catalog) Prepare(known map[string]Record, changes []Change, now time.Time) (Plan, error) {
	p, err := c.PrepareSet(known, changes, now)
	if n := len(p.Txn.Then); err == nil && n > MaxChanges {
		return Plan{}, TooMany{Changes: n}
	}
	return p, err
}

// PrepareSet is Prepare for CommitSet.
func (c *Catalog) PrepareSet(known map[string]Record, changes []Change, now time.Time) (Plan, error) {
	var p Plan
	for _, ch := range changes {
		o := ch.Object
		key := Key(o.Kind, o.Namespace, o.Name)
		was, exists := known[key]
		switch {
		case ch.Remove:
			p.Results = append(p.Results, Deleted)
			p.Txn.If = append(p.Txn.If, store.ModIs(key, was.Last))
			p.Txn.Then = append(p.Txn.Then, store.Delete(key))
			continue
		case exists && string(was.JSON) == string(o.JSON) && was.Private.Equal(o.Private) && was.Source == ch.Source:
			// The same object from another place is the same object: its places stay too,
			// else re-applying a moved file would be a change of policy.
			p.Results = append(p.Results, Unchanged)
			continue
		case exists:
			p.Results = append(p.Results, Changed)
			if !resource.SameSpec(was.Object, o) {
				was.Generation++
			}
		default:
			p.Results = append(p.Results, Created)
			was.Created, was.Generation = now, 1
		}
		b, err := c.encode(key, o, was, ch.Source)
		if err != nil {
			return Plan{}, fmt.Errorf("encoding %s: %w", o.ID(), err)
		}
		p.Txn.If = append(p.Txn.If, store.ModIs(key, was.Last))
		p.Txn.Then = append(p.Txn.Then, store.Put(key, b))
	}
	if n := len(p.Txn.Then); n > MaxSet {
		return Plan{}, TooMany{Changes: n, Most: MaxSet}
	}
	return p, nil
}

// Commit writes a plan, all or nothing, and returns the revision that holds it.
func (c *Catalog) Commit(ctx context.Context, p Plan) (int64, error) {
	res, err := c.st.Commit(ctx, p.Txn)
	if errors.Is(err, store.ErrConflict) {
		return 0, ErrConflict
	}
	if err != nil {
		return 0, fmt.Errorf("writing the objects: %w", err)
	}
	return res.Rev, nil
}

// Kind is the kind in a key below Prefix.
func Kind(key string) string {
	kind, _, _ := strings.Cut(strings.TrimPrefix(key, Prefix), "/")
	return kind
}
