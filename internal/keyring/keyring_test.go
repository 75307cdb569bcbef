package keyring_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"countersign.dev/internal/keyring"
	"countersign.dev/internal/store"
)

func TestOpen(t *testing.T) {
	h := newHouse(t)
	first := h.open()
	k, _ := first.Active()
	if k.Created.IsZero() || k.Published.IsZero() || k.Activated.IsZero() || !k.Retired.IsZero() {
		t.Errorf("times of the first key: %+v", k)
	}
	if got := h.recorded(); !slices.Equal(got, []string{"→activate"}) {
		t.Errorf("recorded %q", got)
	}
	checkSigns(t, first)
	again := h.open()
	checkSigns(t, again)
	if b, _ := again.Active(); !reflect.DeepEqual(b, k) {
		t.Errorf("opened again: %+v, want %+v", b, k)
	}
	if got := h.recorded(); got != nil {
		t.Errorf("opened again: recorded %q", got)
	}
	if got := first.Keys(); len(got) != 1 || got[0].ID != k.ID {
		t.Errorf("keys are %+v", got)
	}
	value := h.values()[k.ID]
	want := []string{"activated", "created", "published", "sealed", "state", "v"}
	if got := slices.Sorted(maps.Keys(value)); !slices.Equal(got, want) {
		t.Errorf("the record has %q, want %q", got, want)
	}
}

// Servers that start at one moment in an empty store have one key.
func TestServersRaceForTheFirstKey(t *testing.T) {
	for range 20 {
		h := newHouse(t)
		rings := make([]*keyring.Ring, 4)
		var wg sync.WaitGroup
		for i := range rings {
			wg.Go(func() {
				var err error
				if rings[i], err = h.try(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		k, _ := rings[0].Active()
		for _, r := range rings {
			if other, _ := r.Active(); other.ID != k.ID {
				t.Errorf("active are %q and %q", k.ID, other.ID)
			}
			checkSigns(t, r)
		}
		if n := h.checkHistory(false); n != 1 {
			t.Errorf("%d keys, want 1", n)
		}
	}
}

// A first key that was stored without the server learning so is taken, not made again.
func TestFirstKeyOfUnknownOutcome(t *testing.T) {
	for _, outcome := range []store.Outcome{store.Lost, store.Applied} {
		faulty := true
		h := newHouseOn(t, store.MemoryOptions{Fault: func(txn store.Txn) store.Outcome {
			if len(txn.Then) == 2 && faulty {
				return outcome
			}
			return store.Normal
		}})
		if _, err := h.try(); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("got %v, want ErrUnavailable", err)
		}
		faulty = false
		checkSigns(t, h.open())
		if n := h.checkHistory(false); n != 1 {
			t.Errorf("outcome %d: %d keys, want 1", outcome, n)
		}
	}
}

// What exists and is not the ring is an error that says nothing private; nothing is made in
// its place.
func TestOpenFaults(t *testing.T) {
	const canary = "canary-4711"
	sealed := func(h *house, id string, key any) string {
		plain, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			h.t.Fatal(err)
		}
		out, err := h.seal.Seal(prefix+id, plain)
		if err != nil {
			h.t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(out)
	}
	set := func(field string, value any) func(h *house, a, b string) {
		return func(h *house, a, _ string) {
			record := h.values()[a]
			record[field] = value
			h.setValue(a, record)
		}
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		damage func(h *house, active, next string)
		want   string // in the error
	}{
		{"another seal key", func(h *house, _, _ string) {
			other := store.Memory(store.MemoryOptions{})
			h.t.Cleanup(func() { other.Close() })
			h.seal = newSealer(h.t, other, 8)
		}, "does not open"},
		{"sealed value changed", func(h *house, a, _ string) {
			record := h.values()[a]
			text := []byte(record["sealed"].(string))
			text[40] ^= 1 // another letter of the alphabet, or none
			record["sealed"] = string(text)
			h.setValue(a, record)
		}, ""},
		{"sealed value cut", func(h *house, a, _ string) {
			record := h.values()[a]
			record["sealed"] = record["sealed"].(string)[:60]
			h.setValue(a, record)
		}, "does not open"},
		{"nothing sealed", set("sealed", ""), "not a sealed value"},
		{"key in the clear", set("sealed", base64.StdEncoding.EncodeToString([]byte(canary))), "not a sealed value"},
		{"no key in the seal", func(h *house, a, _ string) {
			out, err := h.seal.Seal(prefix+a, []byte(canary))
			if err != nil {
				h.t.Fatal(err)
			}
			set("sealed", base64.StdEncoding.EncodeToString(out))(h, a, "")
		}, "is no key"},
		{"records swapped", func(h *house, a, b string) {
			all := h.values()
			h.setValue(a, all[b])
			h.setValue(b, all[a])
		}, "does not open"},
		{"record of one key under the name of another", func(h *house, a, b string) { h.setValue(b, h.values()[a]) }, "does not open"},
		{"another key sealed for this path", func(h *house, a, _ string) { set("sealed", sealed(h, a, p256))(h, a, "") }, "another key"},
		{"a key of another kind", func(h *house, a, _ string) { set("sealed", sealed(h, a, ed))(h, a, "") }, "another key"},
		{"a key of another curve under its own name", func(h *house, a, b string) {
			id, err := name(&p384.PublicKey)
			if err != nil {
				h.t.Fatal(err)
			}
			record := h.values()[b]
			record["sealed"] = sealed(h, id, p384)
			h.setValue(id, record)
		}, "another key"},
		{"not JSON", func(h *house, a, _ string) { h.put(prefix+a, []byte(`{"`+canary)) }, "form that is not known"},
		{"a wrong type", set("created", canary), "form that is not known"},
		{"another form", set("v", 2), "form that is not known"},
		{"unknown state", set("state", canary), "form that is not known"},
		{"no state", set("state", ""), "form that is not known"},
		{"stored as gone", set("state", "gone"), "form that is not known"},
		{"active without its time", set("activated", "0001-01-01T00:00:00Z"), "form that is not known"},
		{"active, never published", set("published", "0001-01-01T00:00:00Z"), "form that is not known"},
		{"retired without its time", set("state", "retire"), "form that is not known"},
		{"two active", func(h *house, a, b string) {
			record := h.values()[b]
			record["state"], record["activated"] = "activate", record["published"]
			h.setValue(b, record)
		}, "both active"},
		{"none active", func(h *house, a, _ string) { h.commit(store.Delete(prefix + a)) }, "none of 1 is active"},
		{"all keys gone", func(h *house, _, _ string) { h.commit(store.DeletePrefix(prefix)) }, "holds none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			ring := h.open()
			a, _ := ring.Active()
			b, err := ring.Rotate(t.Context(), false, false)
			if err != nil {
				t.Fatal(err)
			}
			tt.damage(h, a.ID, b.ID)
			h.recorded()
			before := h.revision()
			r, err := h.try()
			if r != nil || !errors.Is(err, keyring.ErrKey) || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("got %v, want ErrKey with %q", err, tt.want)
			}
			if strings.Contains(fmt.Sprint(err), canary) {
				t.Errorf("the error quotes what was stored: %v", err)
			}
			if h.revision() != before || h.recorded() != nil {
				t.Error("something was written")
			}
			if _, err := ring.Rotate(t.Context(), true, true); err == nil && tt.name != "another seal key" {
				t.Error("a ring that was open rotates what is damaged")
			}
		})
	}
}

func (h *house) revision() int64 {
	h.t.Helper()
	status, err := h.st.Status(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return status.Revision
}

func TestOpenOptions(t *testing.T) {
	for name, edit := range map[string]func(*keyring.Options){
		"no store":          func(o *keyring.Options) { o.Store = nil },
		"no sealer":         func(o *keyring.Options) { o.Sealer = nil },
		"no name":           func(o *keyring.Options) { o.Name = nil },
		"no prefix":         func(o *keyring.Options) { o.Prefix = "" },
		"prefix of a slash": func(o *keyring.Options) { o.Prefix = "/" },
		"prefix, no slash":  func(o *keyring.Options) { o.Prefix = "token/keys" },
		"negative period":   func(o *keyring.Options) { o.Period = -1 },
		"negative publish":  func(o *keyring.Options) { o.Publish = -1 },
		"negative retire":   func(o *keyring.Options) { o.Retire = -1 },
		"names fail": func(o *keyring.Options) {
			o.Name = func(crypto.PublicKey) (string, error) { return "", errors.New("no") }
		},
	} {
		h := newHouse(t)
		h.edit = edit
		if r, err := h.try(); err == nil || r != nil {
			t.Errorf("%s: opened", name)
		}
		if kvs, _, err := h.st.List(t.Context(), "token/"); err != nil || len(kvs) != 0 {
			t.Errorf("%s: the store holds %d values, %v", name, len(kvs), err)
		}
	}
}

func TestSealedKeys(t *testing.T) {
	h := newHouse(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := keyring.SealKey(h.seal, "a/1", key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := keyring.OpenKey(h.seal, "a/1", sealed, &key.PublicKey)
	if err != nil || !got.Equal(key) {
		t.Fatalf("opened: %v", err)
	}
	if _, err := keyring.OpenKey(h.seal, "a/2", sealed, &key.PublicKey); !errors.Is(err, store.ErrSeal) {
		t.Errorf("another path: %v, want ErrSeal", err)
	}
	for what, public := range map[string]crypto.PublicKey{
		"another key": &other.PublicKey, "none": nil, "the private key": key, "a value, no pointer": key.PublicKey,
	} {
		if got, err := keyring.OpenKey(h.seal, "a/1", sealed, public); err == nil || got != nil {
			t.Errorf("%s: opened", what)
		}
	}
	if _, err := keyring.SealKey(h.seal, "", key); err == nil {
		t.Error("sealed for no path")
	}
	if _, err := keyring.SealKey(h.seal, "a/1", new(ecdsa.PrivateKey)); err == nil {
		t.Error("sealed a key on no curve")
	}
}

// The signer signs ES256 alone and shows its key to nobody.
func TestSigner(t *testing.T) {
	_, s := newHouse(t).open().Active()
	for _, hash := range []crypto.Hash{0, crypto.SHA1, crypto.SHA384, crypto.SHA512} {
		if _, err := s.Sign(rand.Reader, make([]byte, 32), hash); err == nil {
			t.Errorf("signed for %v", hash)
		}
	}
	if _, err := s.Sign(rand.Reader, make([]byte, 31), crypto.SHA256); err == nil {
		t.Error("signed a digest of 31 bytes")
	}
	if _, err := s.Sign(rand.Reader, make([]byte, 32), nil); err == nil {
		t.Error("signed for no hash")
	}
	if _, ok := s.(*ecdsa.PrivateKey); ok {
		t.Error("the signer is the private key")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		if text := fmt.Sprintf(verb, s); len(text) > 120 {
			t.Errorf("%s shows %s", verb, text)
		}
	}
}
