package server

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/store"
)

// What is kept beside an APIKey and stands in no file (tokens.md 14.2). The world is not made of it.
const (
	besideKeys = "apikey/"
	noteKeys   = besideKeys + "note/" // <namespace>/<name>
	usedKeys   = besideKeys + "used/" // <block of ids>

	usedBlocks = 64
	forgetKeys = 400 * 24 * time.Hour // what is gone longer is told as unknown
)

// keyNote is what is known of a key and of each of its secrets, those that are gone too: a leaked one may be asked for.
type keyNote struct {
	CreatedBy string                `json:"createdBy,omitempty"`
	Secrets   map[string]secretNote `json:"secrets"` // by id
}

type secretNote struct {
	Created time.Time `json:"created"`
	Revoked time.Time `json:"revoked,omitzero"`
	Exposed time.Time `json:"exposed,omitzero"`
	Where   string    `json:"where,omitempty"` // it was seen
}

// keyNotes are all of them, as the store has them, and when keys were last used, which it has a little later.
type keyNotes struct {
	mu    sync.Mutex // guards the rest; held for look-ups
	notes map[string]keyNote
	used  map[string]int64 // id → Unix minute
	dirty map[string]bool  // blocks that the store does not have
}

// reset and follow keep up with the store. What cannot be read is as if nobody had noted it.
func (k *keyNotes) reset(kvs []store.KV) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.notes, k.dirty = map[string]keyNote{}, map[string]bool{}
	if k.used == nil {
		k.used = map[string]int64{}
	}
	for _, kv := range kvs {
		k.takeLocked(kv)
	}
}

func (k *keyNotes) follow(events []store.Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range events {
		switch name, ok := strings.CutPrefix(e.KV.Key, noteKeys); {
		case e.Deleted && ok:
			delete(k.notes, name)
		case !e.Deleted:
			k.takeLocked(e.KV)
		}
	}
}

func (k *keyNotes) takeLocked(kv store.KV) {
	if name, ok := strings.CutPrefix(kv.Key, noteKeys); ok {
		var n keyNote
		if json.Unmarshal(kv.Value, &n) == nil {
			k.notes[name] = n
		}
		return
	}
	if strings.HasPrefix(kv.Key, usedKeys) {
		var minutes map[string]int64
		if json.Unmarshal(kv.Value, &minutes) == nil {
			for id, minute := range minutes {
				k.used[id] = max(k.used[id], minute)
			}
		}
	}
}

// note is what is kept beside a key; the zero one if there is nothing.
func (k *keyNotes) note(namespace, name string) keyNote {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.notes[namespace+"/"+name]
}

// lastUsed is the minute in which a secret was last taken; zero: never.
func (k *keyNotes) lastUsed(id string) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	if minute := k.used[id]; minute > 0 {
		return time.Unix(minute*60, 0).UTC()
	}
	return time.Time{}
}

// revoked reports an id that was a secret's and is no more.
func (k *keyNotes) revoked(ids []string) map[string]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string]bool{}
	for _, n := range k.notes {
		for _, id := range ids {
			if s, ok := n.Secrets[id]; ok && !s.Revoked.IsZero() {
				out[id] = true
			}
		}
	}
	return out
}

// use notes that secrets were taken.
func (k *keyNotes) use(ids []string, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	minute := now.Unix() / 60
	for _, id := range ids {
		if k.used[id] < minute {
			k.used[id] = minute
			k.dirty[usedBlock(id)] = true
		}
	}
}

func usedBlock(id string) string {
	return fmt.Sprintf("%02x", crc32.ChecksumIEEE([]byte(id))%usedBlocks)
}

// nextDirty is a block that the store does not have yet. Ids that no key has are left out.
func (k *keyNotes) nextDirty(known func(id string) bool) (op store.Op, block string, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for block = range k.dirty {
		ok = true
		break
	}
	if !ok {
		return op, "", false
	}
	minutes := map[string]int64{}
	for id, minute := range k.used {
		switch {
		case usedBlock(id) != block:
		case known(id):
			minutes[id] = minute
		default:
			delete(k.used, id)
		}
	}
	text, err := json.Marshal(minutes)
	if err != nil {
		return op, "", false
	}
	delete(k.dirty, block)
	return store.Put(usedKeys+block, text), block, true
}

func (k *keyNotes) again(block string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dirty[block] = true
}

// useEvery is the pace at which last uses are written: one block a second.
const useEvery = time.Second

// writeUses writes down when keys were last used, until ctx ends; what is left then is written at once.
func (s *Server) writeUses(ctx context.Context) error {
	tick := time.NewTicker(useEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		known := s.world.load().apiKeys
		op, block, ok := s.keyNotes.nextDirty(func(id string) bool { return known.Holder(id) != nil })
		if !ok {
			continue
		}
		if _, err := s.o.Store.Commit(ctx, store.Txn{Then: []store.Op{op}}); err != nil {
			s.keyNotes.again(block)
			if ctx.Err() == nil {
				s.o.Log.Warn("when API keys were last used is not written down", "error", err)
			}
		}
	}
}

// noteOp writes beside a key what changes of its secrets; before or after may be nil.
func (k *keyNotes) noteOp(before, after *apikey.Record, by string, now time.Time) (store.Op, error) {
	at := after
	if at == nil {
		at = before
	}
	was := k.note(at.Namespace, at.Name)
	n := keyNote{CreatedBy: was.CreatedBy, Secrets: maps.Clone(was.Secrets)}
	if n.Secrets == nil {
		n.Secrets = map[string]secretNote{}
	}
	if before == nil {
		n.CreatedBy = by
	}
	now = now.UTC().Truncate(time.Second)
	for id, s := range n.Secrets {
		if s.Revoked.IsZero() && (after == nil || !slices.ContainsFunc(after.Secrets, func(o apikey.Secret) bool { return o.ID == id })) {
			s.Revoked = now
			n.Secrets[id] = s
		} else if !s.Revoked.IsZero() && now.Sub(s.Revoked) > forgetKeys {
			delete(n.Secrets, id)
		}
	}
	if after != nil {
		for _, s := range after.Secrets {
			if was, ok := n.Secrets[s.ID]; !ok || !was.Revoked.IsZero() {
				n.Secrets[s.ID] = secretNote{Created: now}
			}
		}
	}
	return n.op(at.Namespace, at.Name)
}

func (n keyNote) op(namespace, name string) (store.Op, error) {
	text, err := json.Marshal(n)
	if err != nil {
		return store.Op{}, fmt.Errorf("writing what is kept beside APIKey/%s/%s: %w", namespace, name, err)
	}
	return store.Put(noteKeys+namespace+"/"+name, text), nil
}

// forgotten are the keys that are gone for so long that nobody asks for them.
func (k *keyNotes) forgotten(now time.Time) (out []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, n := range k.notes {
		old := func(s secretNote) bool { return !s.Revoked.IsZero() && now.Sub(s.Revoked) > forgetKeys }
		if !slices.ContainsFunc(slices.Collect(maps.Values(n.Secrets)), func(s secretNote) bool { return !old(s) }) {
			out = append(out, noteKeys+name)
		}
	}
	return out
}
