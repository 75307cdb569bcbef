package attest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"countersign.dev/internal/store"
)

// Why a join code was refused; ErrSpent is an alarm, because somebody else has the code.
var (
	ErrUnknown = errors.New("join code is unknown")
	ErrExpired = errors.New("join code has expired")
	ErrSpent   = errors.New("join code was used by another key")
)

const (
	joinPrefix  = "attest/join/"
	defaultTTL  = 10 * time.Minute
	minTTL      = time.Minute
	maxTTL      = 24 * time.Hour
	joinGrace   = 10 * time.Minute // after the ttl: the same key may repeat a lost answer
	joinKept    = 24 * time.Hour   // after the ttl: so that "expired" can say when
	maxJoins    = 1000             // codes kept at a time
	redeemTries = 4
)

// Joins are the join codes of one mesh: one-time, but bound to the key that used them first,
// so that a lost answer burns nothing (identity.md 10.2). Safe for concurrent use, also by
// several servers over one store.
type Joins struct{ store store.Store }

// NewJoins keeps join codes in st.
func NewJoins(st store.Store) *Joins { return &Joins{st} }

// join is one code as stored, under the SHA-256 of its secret: who reads the store cannot join.
type join struct {
	Name    string    `json:"name"` // of the node; empty: it chooses
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	SPKI    []byte    `json:"spki,omitempty"` // SHA-256 of the key that spent it; absent: new
}

// Invite makes a code for the node name, or for any if it is empty, and returns its secret,
// which is not kept. A ttl of zero is 10 minutes.
func (j *Joins) Invite(ctx context.Context, name string, ttl time.Duration) (string, error) {
	if ttl == 0 {
		ttl = defaultTTL
	}
	if ttl < minTTL || ttl > maxTTL {
		return "", fmt.Errorf("inviting node %q: ttl %v is outside %v to %v", name, ttl, minTTL, maxTTL)
	}
	now := time.Now()
	if err := j.sweep(ctx, now); err != nil {
		return "", fmt.Errorf("inviting node %q: %w", name, err)
	}
	b := make([]byte, secretBytes)
	rand.Read(b) // never fails
	secret := base64.RawURLEncoding.EncodeToString(b)
	value, err := json.Marshal(join{Name: name, Created: now.UTC(), Expires: now.Add(ttl).UTC()})
	if err != nil {
		return "", fmt.Errorf("inviting node %q: %w", name, err)
	}
	key := joinKey(secret)
	_, err = j.store.Commit(ctx, store.Txn{If: []store.Cmp{store.Absent(key)}, Then: []store.Op{store.Put(key, value)}})
	if err != nil {
		return "", fmt.Errorf("inviting node %q: %w", name, err)
	}
	return secret, nil
}

func joinKey(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return joinPrefix + hex.EncodeToString(sum[:])
}

// sweep removes codes that ended long ago, and refuses when too many are left.
func (j *Joins) sweep(ctx context.Context, now time.Time) error {
	kvs, _, err := j.store.List(ctx, joinPrefix)
	if err != nil {
		return err
	}
	left := len(kvs)
	for _, kv := range kvs {
		var t join
		if json.Unmarshal(kv.Value, &t) == nil && now.Before(t.Expires.Add(joinKept)) {
			continue
		}
		_, err := j.store.Commit(ctx, store.Txn{If: []store.Cmp{store.ModIs(kv.Key, kv.Mod)}, Then: []store.Op{store.Delete(kv.Key)}})
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
		left--
	}
	if left >= maxJoins {
		return fmt.Errorf("%d join codes are kept already, at most %d", left, maxJoins)
	}
	return nil
}

// Redeem spends a code for the public key spki (DER) and returns the name it was made for. The
// first use is one compare-and-swap; the same key may repeat it until ttl + 10 minutes. An
// error that is none of ErrUnknown, ErrExpired, ErrSpent says nothing of the code: repeat.
// The caller limits guesses by source.
func (j *Joins) Redeem(ctx context.Context, secret string, spki []byte, now time.Time) (string, error) {
	sum := sha256.Sum256(spki)
	key := joinKey(secret)
	for range redeemTries {
		kv, err := j.store.Get(ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			return "", ErrUnknown
		}
		if err != nil {
			return "", fmt.Errorf("reading join code: %w", err)
		}
		var t join
		if err := json.Unmarshal(kv.Value, &t); err != nil {
			return "", fmt.Errorf("reading join code: %v", err) // damaged: nothing a caller can branch on
		}
		spent, err := t.judge(sum[:], now)
		if err != nil {
			return "", err
		}
		if spent {
			return t.Name, nil
		}
		t.SPKI = sum[:]
		value, err := json.Marshal(t)
		if err != nil {
			return "", fmt.Errorf("spending join code: %w", err)
		}
		_, err = j.store.Commit(ctx, store.Txn{If: []store.Cmp{store.ModIs(key, kv.Mod)}, Then: []store.Op{store.Put(key, value)}})
		if err == nil {
			return t.Name, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return "", fmt.Errorf("spending join code: %w", err) // unknown whether spent: the same key may repeat
		}
	}
	return "", fmt.Errorf("spending join code: %w", store.ErrConflict)
}

// judge reports whether t was spent by this key and may be repeated; false without an error
// means new.
func (t join) judge(spki []byte, now time.Time) (spent bool, err error) {
	switch {
	case len(t.SPKI) == 0 && now.After(t.Expires), len(t.SPKI) != 0 && now.After(t.Expires.Add(joinGrace)):
		return false, fmt.Errorf("%w %v ago", ErrExpired, now.Sub(t.Expires).Round(time.Second))
	case len(t.SPKI) == 0:
		return false, nil
	case string(t.SPKI) != string(spki):
		return false, ErrSpent
	}
	return true, nil
}
