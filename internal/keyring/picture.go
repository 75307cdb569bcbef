package keyring

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"countersign.dev/internal/store"
)

const schema = 1 // "v" of all our values

// record is the value of <prefix><id>. The public part is in no field: the id names it.
type record struct {
	V         int       `json:"v"`
	State     State     `json:"state"`
	Sealed    []byte    `json:"sealed"` // PKCS #8, for this path
	Created   time.Time `json:"created"`
	Published time.Time `json:"published,omitzero"`
	Activated time.Time `json:"activated,omitzero"`
	Retired   time.Time `json:"retired,omitzero"`
}

// whole reports whether a record has the times of its state.
func (rec record) whole() bool {
	times := []time.Time{rec.Created, rec.Published, rec.Activated, rec.Retired}
	n := 1 + slices.Index([]State{Prepared, Published, Active, Retired}, rec.State)
	return rec.V == schema && n > 0 && !slices.ContainsFunc(times[:n], time.Time.IsZero)
}

// in is the record in its next state; in the one it has, it is as it was.
func (rec record) in(to State, now time.Time) record {
	if to == rec.State {
		return rec
	}
	rec.State = to
	switch to {
	case Published:
		rec.Published = now
	case Active:
		rec.Activated = now
		if rec.Published.IsZero() { // the first key of all
			rec.Published = now
		}
	case Retired:
		rec.Retired = now
	}
	return rec
}

// held is a key of the ring, opened. It never changes.
type held struct {
	record
	id, path string
	mod      int64 // revision of its record; 0: not stored
	private  *ecdsa.PrivateKey
}

func (h *held) public() Key {
	return Key{
		ID: h.id, State: h.State, Public: &h.private.PublicKey,
		Created: h.Created, Published: h.Published, Activated: h.Activated, Retired: h.Retired,
	}
}

// picture is the ring at one revision. It never changes.
type picture struct {
	rev     int64
	keys    []*held // the oldest first
	active  *held   // nil in an empty store alone
	waiting *held   // the next one to sign: prepared or published; nil: none
}

func (p *picture) find(id string) *held {
	i := slices.IndexFunc(p.keys, func(h *held) bool { return h.id == id })
	if i < 0 {
		return nil
	}
	return p.keys[i]
}

// same reports whether both are the same ring, be it at two revisions of the store.
func (p *picture) same(q *picture) bool {
	return slices.EqualFunc(p.keys, q.keys, func(a, b *held) bool { return a.path == b.path && a.mod == b.mod })
}

// load reads the ring and shows it, unless it is empty.
func (r *Ring) load(ctx context.Context) (*picture, error) {
	kvs, rev, err := r.o.Store.List(ctx, r.o.Prefix)
	if err != nil {
		return nil, fmt.Errorf("listing the keys: %w", err)
	}
	if len(kvs) == 0 && r.shown.Load() == nil {
		return new(picture), nil
	}
	p, err := r.parse(kvs, rev)
	if err == nil {
		r.show(p)
	}
	return p, err
}

// show makes p what is in use, unless a later revision is.
func (r *Ring) show(p *picture) {
	r.showing.Lock()
	defer r.showing.Unlock()
	was := r.shown.Load()
	if was != nil && was.rev >= p.rev {
		return
	}
	r.shown.Store(p)
	if was == nil || !was.same(p) {
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}
}

// parse opens every key of the ring.
func (r *Ring) parse(kvs []store.KV, rev int64) (*picture, error) {
	p := &picture{rev: rev}
	for _, kv := range kvs {
		h, err := r.parseKey(kv)
		if err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrKey, kv.Key, err)
		}
		p.keys = append(p.keys, h)
	}
	slices.SortFunc(p.keys, func(a, b *held) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.id, b.id))
	})
	for _, h := range p.keys {
		switch {
		case h.State == Active && p.active != nil:
			return nil, fmt.Errorf("%w: %q and %q are both active", ErrKey, p.active.path, h.path)
		case h.State == Active:
			p.active = h
		case h.State != Retired && p.waiting == nil:
			p.waiting = h
		}
	}
	if p.active == nil {
		return nil, fmt.Errorf("%w: none of %d is active", ErrKey, len(p.keys))
	}
	return p, nil
}

// parseKey opens one key and holds it against its name.
func (r *Ring) parseKey(kv store.KV) (*held, error) {
	h := &held{id: strings.TrimPrefix(kv.Key, r.o.Prefix), path: kv.Key, mod: kv.Mod}
	if err := json.Unmarshal(kv.Value, &h.record); err != nil || !h.whole() {
		return nil, errors.New("its record has a form that is not known") // the error could quote it
	}
	var err error
	h.private, err = openKey(r.o.Sealer, kv.Key, h.Sealed, func(public *ecdsa.PublicKey) bool {
		name, err := r.o.Name(public)
		return err == nil && name == h.id && public.Curve == elliptic.P256()
	})
	return h, err
}

// newKey makes a key that is stored nowhere yet.
func (r *Ring) newKey() (*held, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	id, err := r.o.Name(&private.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("naming a key: %w", err)
	}
	h := &held{record: record{V: schema, Created: r.o.Now().UTC()}, id: id, path: r.o.Prefix + id, private: private}
	h.Sealed, err = SealKey(r.o.Sealer, h.path, private)
	return h, err
}
