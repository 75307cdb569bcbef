package server

import (
	"fmt"
	"maps"
	"sync"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/store"
)

// apiKeys are the API keys as this server has read them, each once: there may be 100,000, and a world is made of all
// that is stored at every revision.
type apiKeys struct {
	mu    sync.Mutex // guards the rest; held while what changed is read
	read  map[string]*readKey
	built map[string]*readKey // what set and blocks are made of
	set   *apikey.Set
	sets  apikey.Blocks
}

// readKey is one APIKey of one revision.
type readKey struct {
	catalog.Record
	key apikey.Record
}

const keyPrefix = catalog.Prefix + "APIKey/"

// decode reads an APIKey of the store, if it is not the one that was read before.
func (k *apiKeys) decode(kv store.KV, sealer catalog.Sealer) (catalog.Record, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if at := k.read[kv.Key]; at != nil && at.Last == kv.Mod {
		return at.Record, nil
	}
	r, err := catalog.Decode(kv, sealer)
	if err != nil {
		return r, err
	}
	key, err := apikey.Read(r.Object, r.First)
	if err != nil {
		return r, fmt.Errorf("reading %s: %w", r.ID(), err)
	}
	if k.read == nil {
		k.read = map[string]*readKey{}
	}
	k.read[kv.Key] = &readKey{r, key}
	return r, nil
}

// of is the key that an object is, which may not be stored yet.
func (k *apiKeys) of(r catalog.Record) (apikey.Record, error) {
	k.mu.Lock()
	at := k.read[catalog.Key(r.Kind, r.Namespace, r.Name)]
	k.mu.Unlock()
	if at != nil && string(at.JSON) == string(r.JSON) {
		key := at.key
		key.Since = r.First
		return key, nil
	}
	return apikey.Read(r.Object, r.First)
}

// settle gives a view its keys. What it shares with the view before is not made anew.
func (k *apiKeys) settle(v *view, trustDomain string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, moved := map[string]*readKey{}, map[string]bool{}
	for name, r := range v.records {
		if r.Kind != "APIKey" {
			continue
		}
		now[name] = k.read[name]
		if k.built[name] != now[name] {
			moved[now[name].key.Block()] = true
		}
	}
	for name, was := range k.built {
		if now[name] == nil {
			moved[was.key.Block()] = true
			delete(k.read, name)
		}
	}
	if len(moved) > 0 || k.set == nil {
		var all []apikey.Record
		pieces := map[string][]apikey.Record{}
		for _, r := range now {
			all = append(all, r.key)
			if block := r.key.Block(); moved[block] {
				pieces[block] = append(pieces[block], r.key)
			}
		}
		sets := maps.Clone(k.sets)
		if sets == nil {
			sets = apikey.Blocks{}
		}
		for block := range moved {
			delete(sets, block)
		}
		for block, records := range pieces {
			b, err := apikey.EncodeBlock(records)
			if err != nil {
				return err
			}
			sets[block] = b
		}
		k.set, _ = apikey.Build(all, trustDomain, nil)
		k.sets, k.built = sets, now
	}
	v.APIKeys, v.apiKeys = k.sets, k.set
	return nil
}
