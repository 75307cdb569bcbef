package keyring

import (
	"fmt"

	"countersign.dev/internal/store"
)

// Decode reads one key of a ring from the store, for whoever tells others of it. Of o it takes
// Sealer, Prefix and Name.
func Decode(o Options, kv store.KV) (Key, error) {
	r := &Ring{o: o}
	h, err := r.parseKey(kv)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %q: %w", ErrKey, kv.Key, err)
	}
	return h.public(), nil
}
