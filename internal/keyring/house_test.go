package keyring_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"countersign.dev/internal/keyring"
	"countersign.dev/internal/store"
)

const prefix = "token/keys/"

// house is a store and a seal key: all that outlives a Ring.
type house struct {
	t    testing.TB
	st   store.Store
	seal keyring.Sealer
	edit func(*keyring.Options)

	mu    sync.Mutex // guards what was recorded, for an append
	steps []string
}

func newHouse(t testing.TB) *house {
	t.Helper()
	return newHouseOn(t, store.MemoryOptions{})
}

func newHouseOn(t testing.TB, o store.MemoryOptions) *house {
	t.Helper()
	st := store.Memory(o)
	t.Cleanup(func() { st.Close() })
	return &house{t: t, st: st, seal: newSealer(t, st, 7)}
}

func newSealer(t testing.TB, st store.Store, fill byte) keyring.Sealer {
	t.Helper()
	seal, err := store.NewSealer(t.Context(), st, "default", bytes.Repeat([]byte{fill}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return seal
}

func name(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])[:22], err
}

func (h *house) try() (*keyring.Ring, error) {
	o := keyring.Options{
		Store: h.st, Sealer: h.seal, Prefix: prefix, Name: name,
		Record: func(_ context.Context, k keyring.Key, to keyring.State) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.steps = append(h.steps, fmt.Sprintf("%s→%s", k.State, to))
			return nil
		},
	}
	if h.edit != nil {
		h.edit(&o)
	}
	return keyring.Open(h.t.Context(), o)
}

func (h *house) open() *keyring.Ring {
	h.t.Helper()
	r, err := h.try()
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// recorded are the steps recorded since it was last asked.
func (h *house) recorded() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	steps := h.steps
	h.steps = nil
	return steps
}

// run runs a ring; stop ends it and gives what Run returned.
func run(t testing.TB, r *keyring.Ring) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

func (h *house) put(key string, value []byte) {
	h.t.Helper()
	h.commit(store.Put(key, value))
}

func (h *house) commit(ops ...store.Op) {
	h.t.Helper()
	if _, err := h.st.Commit(h.t.Context(), store.Txn{Then: ops}); err != nil {
		h.t.Fatal(err)
	}
}

// values are the records of the ring by id.
func (h *house) values() map[string]map[string]any {
	h.t.Helper()
	kvs, _, err := h.st.List(h.t.Context(), prefix)
	if err != nil {
		h.t.Fatal(err)
	}
	all := map[string]map[string]any{}
	for _, kv := range kvs {
		var value map[string]any
		if err := json.Unmarshal(kv.Value, &value); err != nil {
			h.t.Fatal(err)
		}
		all[strings.TrimPrefix(kv.Key, prefix)] = value
	}
	return all
}

// setValue writes a record.
func (h *house) setValue(id string, value map[string]any) {
	h.t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		h.t.Fatal(err)
	}
	h.put(prefix+id, text)
}

// states are the states of the keys in the store, in the order of their making.
func (h *house) states() []string {
	h.t.Helper()
	all := slices.SortedFunc(maps.Values(h.values()), func(a, b map[string]any) int {
		return strings.Compare(a["created"].(string), b["created"].(string))
	})
	var states []string
	for _, value := range all {
		states = append(states, value["state"].(string))
	}
	return states
}

// follows are the states that each state may come from; the first one only of a ring's first key.
var follows = map[string][]string{
	"prepare": {""}, "publish": {"prepare"}, "activate": {"publish", "activate"}, "retire": {"activate"}, "gone": {"retire"},
}

// checkHistory reads every revision of a memory store: one key is active in each, at most one
// waits, and each state follows the one before it. drops allows keys to go from any state. It
// returns how many keys began to sign.
func (h *house) checkHistory(drops bool) (activations int) {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	defer cancel()
	batches, err := h.st.Watch(ctx, prefix, 1)
	if err != nil {
		h.t.Fatal(err)
	}
	states := map[string]string{}
	for first := true; ; first = false {
		var b store.Batch
		select {
		case b = <-batches: // a memory store has them ready
		default:
			return activations
		}
		if b.Err != nil {
			h.t.Fatal(b.Err)
		}
		for _, e := range b.Events {
			var value struct{ State string }
			if e.Deleted {
				value.State = "gone"
			} else if err := json.Unmarshal(e.KV.Value, &value); err != nil {
				h.t.Fatal(err)
			}
			from, to := states[e.KV.Key], value.State
			if !first && !slices.Contains(follows[to], from) && !(drops && to == "gone") {
				h.t.Errorf("revision %d: %s goes from %q to %q", b.Rev, e.KV.Key, from, to)
			}
			if to == "activate" && from != to {
				activations++
			}
			states[e.KV.Key] = to
		}
		count := map[string]int{}
		for _, s := range states {
			count[s]++
		}
		if count["activate"] != 1 || count["prepare"]+count["publish"] > 1 {
			h.t.Errorf("revision %d: states %v, want one active and at most one that waits", b.Rev, count)
		}
	}
}

// checkSigns proves that a ring signs with the key it names.
func checkSigns(t testing.TB, r *keyring.Ring) {
	t.Helper()
	k, s := r.Active()
	digest := sha256.Sum256([]byte("hello"))
	signature, err := s.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(k.Public.(*ecdsa.PublicKey), digest[:], signature) || !k.Public.(*ecdsa.PublicKey).Equal(s.Public()) {
		t.Error("the active key does not verify what its signer signs")
	}
	if id, err := name(s.Public()); err != nil || id != k.ID || k.State != keyring.Active {
		t.Errorf("signer of key %q, active is %q in state %q", id, k.ID, k.State)
	}
}

func ids(keys []keyring.Key) []string {
	var out []string
	for _, k := range keys {
		out = append(out, k.ID)
	}
	return out
}

// sleep lets virtual time pass and everything that is due happen.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
