package store

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrSeal is a sealed value that does not open: another key, another path, changed bytes. The
// error names the data key and the path, never content.
var ErrSeal = errors.New("the sealed value does not open")

// sealPrefix is where the wrapped data keys are kept: seal/1, seal/2, …
const sealPrefix = "seal/"

// A sealed value is version ‖ data key id ‖ nonce (12) ‖ ciphertext ‖ tag.
const (
	sealVersion   = 1
	sealHeadBytes = 1 + 4
)

// wrappedKey is the value of seal/<id>: a data key, sealed with the root sealing key.
type wrappedKey struct {
	V       int    `json:"v"`
	Wrapped []byte `json:"wrapped"`
}

// Sealer seals secrets before they reach the store (registry.md 3): AES-256-GCM with a data
// key, which the root sealing key wraps. What is sealed for one path does not open under
// another. A Sealer is immutable and safe for concurrent use.
type Sealer struct {
	cluster string
	keys    map[uint32]cipher.AEAD
	current uint32
}

// NewSealer opens the data keys of st with the root sealing key, and makes the first one in an
// empty store. ErrSeal when root is not the key that wrapped them.
func NewSealer(ctx context.Context, st Store, cluster string, root []byte) (*Sealer, error) {
	wrapping, err := hkdf.Key(sha256.New, root, nil, "countersign seal wrap 1", sealKeyBytes)
	if err != nil {
		return nil, fmt.Errorf("deriving from the root sealing key: %w", err)
	}
	wrap, err := newGCM(wrapping)
	if err != nil {
		return nil, fmt.Errorf("opening the data keys: %w", err)
	}
	kvs, _, err := st.List(ctx, sealPrefix)
	if err == nil && len(kvs) == 0 {
		kvs, err = makeDataKey(ctx, st, cluster, wrap)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the data keys: %w", err)
	}
	s := &Sealer{cluster: cluster, keys: make(map[uint32]cipher.AEAD, len(kvs))}
	for _, kv := range kvs {
		if err := s.addKey(kv, wrap); err != nil {
			return nil, fmt.Errorf("opening the data keys: %w", err)
		}
	}
	return s, nil
}

// makeDataKey puts seal/1 unless somebody else just did; the returned list is what is there.
func makeDataKey(ctx context.Context, st Store, cluster string, wrap cipher.AEAD) ([]KV, error) {
	key := make([]byte, sealKeyBytes)
	_, _ = rand.Read(key)
	path := sealPrefix + "1"
	value, err := json.Marshal(wrappedKey{V: 1, Wrapped: wrap.Seal(nil, nil, key, sealedFor(cluster, path))})
	if err != nil {
		return nil, err
	}
	_, err = st.Commit(ctx, Txn{If: []Cmp{Absent(path)}, Then: []Op{Put(path, value)}})
	if err != nil && !errors.Is(err, ErrConflict) {
		return nil, err
	}
	kvs, _, err := st.List(ctx, sealPrefix)
	return kvs, err
}

// addKey unwraps one data key; the highest id seals from now on.
func (s *Sealer) addKey(kv KV, wrap cipher.AEAD) error {
	id, err := strconv.ParseUint(strings.TrimPrefix(kv.Key, sealPrefix), 10, 32)
	if err != nil || id == 0 {
		return fmt.Errorf("%w: %q is not the name of a data key", ErrSeal, kv.Key)
	}
	var w wrappedKey
	if err := json.Unmarshal(kv.Value, &w); err != nil || w.V != 1 {
		return fmt.Errorf("%w: data key %q has a form that is not known", ErrSeal, kv.Key)
	}
	key, err := wrap.Open(nil, nil, w.Wrapped, sealedFor(s.cluster, kv.Key))
	if err != nil {
		return fmt.Errorf("%w: the root sealing key is not the one that wrapped data key %q", ErrSeal, kv.Key)
	}
	if s.keys[uint32(id)], err = newGCM(key); err != nil {
		return fmt.Errorf("data key %q: %w", kv.Key, err)
	}
	s.current = max(s.current, uint32(id))
	return nil
}

// Seal encrypts plain for the key path, the relative key it will be stored under.
func (s *Sealer) Seal(path string, plain []byte) ([]byte, error) {
	if err := checkKey(path); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	head := binary.BigEndian.AppendUint32([]byte{sealVersion}, s.current)
	return s.keys[s.current].Seal(head, nil, plain, sealedFor(s.cluster, path)), nil
}

// Unseal opens what Seal made for the same path.
func (s *Sealer) Unseal(path string, sealed []byte) ([]byte, error) {
	if len(sealed) < sealHeadBytes || sealed[0] != sealVersion {
		return nil, fmt.Errorf("unsealing %q: %w: it is not a sealed value", path, ErrSeal)
	}
	id := binary.BigEndian.Uint32(sealed[1:])
	key, ok := s.keys[id]
	if !ok {
		return nil, fmt.Errorf("unsealing %q: %w: data key %d is not known", path, ErrSeal, id)
	}
	plain, err := key.Open(nil, nil, sealed[sealHeadBytes:], sealedFor(s.cluster, path))
	if err != nil {
		return nil, fmt.Errorf("unsealing %q: %w with data key %d", path, ErrSeal, id)
	}
	return plain, nil
}

// sealedFor is the associated data: it stops a value from being moved to another key, or to
// another cluster.
func sealedFor(cluster, path string) []byte {
	return []byte(cluster + "\x00" + keyPrefix(cluster) + path)
}

// keyPrefix is what the engines set before every key.
func keyPrefix(cluster string) string { return "/countersign/" + cluster + "/" }

// newGCM chooses its own nonces: the only form that FIPS 140 allows (registry.md 3).
func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
