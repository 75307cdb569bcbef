// Package jwks retrieves the key sets of foreign issuers and of clients, and keeps them in the
// store. Servers do this; nodes get the sets with their snapshot and never ask for one.
//
// Its words: a Source is where one key set comes from; what is Kept of it is the last good set,
// when it was retrieved, and why the last try failed; a miss is a token with a key id that its
// set does not have.
//
// Its promise: no connection to an address that is blocked, whatever a name resolves to and
// wherever an answer redirects; an answer that is slow, large or wrong costs a bounded time and
// memory and leaves the last good set in place, for a day; the whole fleet retrieves a set at
// most once per 30 seconds; nothing that was answered reaches a log or an error.
package jwks

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"countersign.dev/internal/jose"
	"countersign.dev/internal/store"
)

// Prefix is where the records lie in the store.
const Prefix = "jwks/"

// The schedule (tokens.md 10.4; istio-semantics.md 6.5).
const (
	every     = 20 * time.Minute // between retrievals, unless the answer says otherwise
	everyMin  = time.Minute      // by max-age
	everyMax  = time.Hour
	afterFail = time.Minute
	missEvery = 30 * time.Second   // retrievals that misses may cause
	lastGood  = 24 * time.Hour     // a set counts after its last retrieval
	unused    = 7 * 24 * time.Hour // a record lives after its last try
)

// Source is where one key set comes from. Equal Issuer and URI are one source.
type Source struct {
	Issuer  string        // iss of the tokens; of a client's keys empty, if its URI is given
	URI     string        // of the JWK Set; empty: the one that the issuer's metadata name
	Timeout time.Duration // of a retrieval in all; 0 is 5 s, 30 s is most
}

// Key is where the record of the source lies in the store.
func (s Source) Key() string {
	sum := sha256.Sum256([]byte(s.Issuer + "\x00" + s.URI))
	return Prefix + hex.EncodeToString(sum[:])
}

// limit is how long a retrieval may take in all.
func (s Source) limit() time.Duration {
	if s.Timeout <= 0 {
		return timeout
	}
	return min(s.Timeout, timeoutMax)
}

// name is what a log calls the source.
func (s Source) name() string {
	if s.URI != "" {
		return s.URI
	}
	return s.Issuer
}

// Kept is what the store holds of one source.
type Kept struct {
	Source  Source
	JWKS    json.RawMessage // the last good set; nil if there never was one
	Fetched time.Time       // when it was retrieved
	Tried   time.Time       // when the last retrieval began
	Until   time.Time       // it counts until then
	Error   string          // why the last retrieval failed, empty if it did not
	again   time.Duration
}

// Keys are what tokens may be verified by at now: nil if the last good set is too old. rsa is
// that of jose.ReadSet: what a key without alg is for, the issuer's record says.
func (k Kept) Keys(now time.Time, rsa ...jose.Alg) *jose.Set {
	if !now.Before(k.Until) {
		return nil
	}
	set, err := jose.ReadSet(k.JWKS, rsa...)
	if err != nil { // Decode has read it
		return nil
	}
	return set
}

// due is when the source is to be retrieved again. A retrieval that was begun and left no trace
// counts as failed: whoever began it may be gone.
func (k Kept) due() time.Time {
	if k.Error == "" && k.Fetched.Equal(k.Tried) {
		return k.Fetched.Add(k.again)
	}
	return k.Tried.Add(afterFail)
}

// record is the form in the store.
type record struct {
	V       int             `json:"v"`
	Issuer  string          `json:"issuer,omitempty"`
	URI     string          `json:"uri,omitempty"`
	Keys    json.RawMessage `json:"keys,omitempty"`
	Fetched time.Time       `json:"fetched,omitzero"`
	Tried   time.Time       `json:"tried"`
	Again   int64           `json:"again,omitempty"` // seconds after fetched
	Error   string          `json:"error,omitempty"`
}

// Decode reads a record of the store.
func Decode(kv store.KV) (Kept, error) {
	var r record
	if err := json.Unmarshal(kv.Value, &r); err != nil {
		return Kept{}, fmt.Errorf("reading %q: %w", kv.Key, err)
	}
	k := Kept{
		Source: Source{Issuer: r.Issuer, URI: r.URI}, Fetched: r.Fetched, Tried: r.Tried,
		Error: r.Error, again: time.Duration(r.Again) * time.Second,
	}
	if r.V != 1 || k.Source.Key() != kv.Key {
		return Kept{}, fmt.Errorf("reading %q: not a record of this version and place", kv.Key)
	}
	if r.Keys != nil {
		if _, err := jose.ReadSet(r.Keys); err != nil {
			return Kept{}, fmt.Errorf("reading the keys of %q: %w", kv.Key, err)
		}
		k.JWKS, k.Until = r.Keys, r.Fetched.Add(lastGood)
	}
	return k, nil
}

// encode is the opposite of Decode.
func encode(k Kept) ([]byte, error) {
	return json.Marshal(record{
		V: 1, Issuer: k.Source.Issuer, URI: k.Source.URI, Keys: k.JWKS, Fetched: k.Fetched, Tried: k.Tried,
		Again: int64(k.again / time.Second), Error: k.Error,
	})
}
