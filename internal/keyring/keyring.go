// Package keyring keeps signing keys: sealed at rest, in named states, and opened only as the
// keys that their records say they are.
//
// Its words: a key is prepared, published (known, signs nothing), active (signs), retired
// (known, signs nothing) and gone; a Ring is the keys of one use; the fence is the condition
// under which alone a change of the ring is written.
//
// Its promise: a key that does not open is an error, never a new key; a state follows the one
// before it and no other, but that a key can be dropped from any; one key signs at any revision
// of the store; no private key of a ring leaves the package but as a signer.
package keyring

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"countersign.dev/internal/store"
)

// State is where a key is in its life (tokens.md 10.2).
type State string

// The states, in order. Gone is told to Options.Record and never stored.
const (
	Prepared  State = "prepare"
	Published State = "publish"
	Active    State = "activate"
	Retired   State = "retire"
	Gone      State = "gone"
)

// The schedule that Options leaves out (tokens.md 10.2).
const (
	usualPeriod  = 24 * time.Hour
	usualPublish = 2 * time.Hour
	usualRetire  = 70 * time.Minute
)

var (
	// ErrKey: the store holds what is not the ring it should be. Nothing is made in its place.
	ErrKey = errors.New("signing key is unusable")
	// ErrFence: nothing was written, for the fence does not hold: another server keeps this ring.
	ErrFence = errors.New("the fence of the ring does not hold")
)

// Key is one key of a ring, without its private part.
type Key struct {
	ID                                     string
	State                                  State
	Public                                 crypto.PublicKey // *ecdsa.PublicKey on P-256
	Created, Published, Activated, Retired time.Time        // zero: not yet
}

// Options are what a Ring is made of. Store, Sealer, Prefix and Name must be set.
type Options struct {
	Store   store.Store
	Sealer  Sealer
	Prefix  string                                           // of its keys: token/keys/; the name without the slash says that a ring was made
	Name    func(crypto.PublicKey) (string, error)           // the id of a key
	Period  time.Duration                                    // active; 0 is 24 h
	Publish time.Duration                                    // published before it signs; 0 is 2 h
	Retire  time.Duration                                    // known after it signed; 0 is 70 min
	Fence   func() []store.Cmp                               // conditions of every write; nil: none (one server)
	Known   func(ctx context.Context) error                  // returns once all verifiers know what is stored, or it is time to go on; nil: at once
	Record  func(ctx context.Context, k Key, to State) error // before a state is written; k.State is "" of a key that is new; nil: none
	Now     func() time.Time                                 // nil: time.Now
	Log     *slog.Logger                                     // nil: none
}

// Ring is the keys of one use. Its methods are safe for concurrent use; Run is started once.
type Ring struct {
	o        Options
	shown    atomic.Pointer[picture] // what is in use; read without a lock
	showing  sync.Mutex              // guards the order in which pictures are shown, for one of them
	changed  chan struct{}           // one place: another ring is shown
	rotating chan struct{}           // one place, taken for the length of a Rotate
}

// Open loads a ring, and in an empty store makes its first key, active at once. A race for the
// first key is won by one server; the others take its key.
func Open(ctx context.Context, o Options) (*Ring, error) {
	r, err := newRing(o)
	if err == nil {
		err = r.open(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the keys of %q: %w", o.Prefix, err)
	}
	return r, nil
}

func newRing(o Options) (*Ring, error) {
	switch {
	case o.Store == nil || o.Sealer == nil || o.Name == nil:
		return nil, errors.New("store, sealer and name must be set")
	case len(o.Prefix) < 2 || !strings.HasSuffix(o.Prefix, "/"):
		return nil, errors.New("a prefix ends in a slash")
	case min(o.Period, o.Publish, o.Retire) < 0:
		return nil, errors.New("the schedule has a negative time")
	}
	o.Period, o.Publish, o.Retire = cmp.Or(o.Period, usualPeriod), cmp.Or(o.Publish, usualPublish), cmp.Or(o.Retire, usualRetire)
	if o.Fence == nil {
		o.Fence = func() []store.Cmp { return nil }
	}
	if o.Known == nil {
		o.Known = func(context.Context) error { return nil }
	}
	if o.Record == nil {
		o.Record = func(context.Context, Key, State) error { return nil }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return &Ring{o: o, changed: make(chan struct{}, 1), rotating: make(chan struct{}, 1)}, nil
}

func (r *Ring) open(ctx context.Context) error {
	p, err := r.load(ctx)
	if err != nil || p.active != nil {
		return err
	}
	first, err := r.newKey()
	if err != nil {
		return err
	}
	err = r.write(ctx, p, move{first, Active})
	if errors.Is(err, errChanged) { // another server was first: its key is ours, and shown
		return nil
	}
	return err
}

// Active is the key in use and what signs with it.
func (r *Ring) Active() (Key, crypto.Signer) {
	k := r.shown.Load().active
	return k.public(), signer{k.private}
}

// Keys are the keys that verifiers must know: published, active, retired, the oldest first.
func (r *Ring) Keys() []Key {
	var keys []Key
	for _, k := range r.shown.Load().keys {
		if k.State != Prepared {
			keys = append(keys, k.public())
		}
	}
	return keys
}
