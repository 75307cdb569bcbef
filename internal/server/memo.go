package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"countersign.dev/internal/catalog"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/store"
)

// A change of one object has only that one read anew: what the others mean is kept beside their records, and shared.
// Nobody changes it.

// addTo adds the value of a record to a list.
func addTo[T any](list *[]T, r catalog.Record, read func(resource.Object) (T, error)) error {
	if x, ok := r.Meaning.Value().(T); ok {
		*list = append(*list, x)
		return nil
	}
	x, err := read(r.Object)
	if err != nil {
		return fmt.Errorf("reading %s: %w", r.ID(), err)
	}
	r.Meaning.Keep(x)
	*list = append(*list, x)
	return nil
}

// record is an applied object as this server read it last. Its bytes are kept once: in the record.
func (s *Server) record(kv store.KV) (catalog.Record, error) {
	if r, ok := s.world.records[kv.Key]; ok {
		return r, nil
	}
	r, err := catalog.Decode(kv, s.o.Sealer)
	if err != nil {
		return r, err
	}
	r.Meaning = new(catalog.Meaning)
	s.world.records[kv.Key] = r
	kv.Value = nil
	s.world.values[kv.Key] = kv
	return r, nil
}

// listTime is how long applied waits for the world to know what the store holds.
const listTime = time.Second

// applied is every object at one revision that is not older than the call: those of the world in force once it has come
// so far, else those of the store. The map is shared, and nobody changes it.
func (s *Server) applied(ctx context.Context) (map[string]catalog.Record, int64, error) {
	moving, rev, err := s.o.Store.List(ctx, catalog.Moving)
	if err != nil {
		return nil, 0, fmt.Errorf("listing the objects: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	if len(moving) > 0 || s.world.waitFor(wait, rev) != nil {
		return s.catalog.All(ctx)
	}
	v := s.world.load()
	if s.world.unread() != nil || v.records == nil {
		return s.catalog.All(ctx)
	}
	return v.records, max(rev, v.Revision), nil
}

// ordered are the keys of objects, sorted: mostly those that were sorted before.
func ordered[V any](objects map[string]V, before []string) []string {
	keys := make([]string, 0, len(objects))
	for _, key := range before {
		if _, ok := objects[key]; ok {
			keys = append(keys, key)
		}
	}
	if len(keys) != len(objects) {
		keys = slices.AppendSeq(keys[:0], maps.Keys(objects))
		slices.Sort(keys)
	}
	return keys
}
