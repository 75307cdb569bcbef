package token

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/store"
)

const (
	secretPrefix  = "css_"
	secretDigits  = 43 // of base 62: 256 bits
	secretsKept   = 2
	maxSecretLife = 365 * 24 * time.Hour

	// DefaultOverlap is how long the secret before counts beside a new one.
	DefaultOverlap = 24 * time.Hour
)

// ErrSecretLife is what CreateSecret answers to an end that is past or more than a year away.
var ErrSecretLife = errors.New("a secret ends within a year from now")

// secrets is the record of a client's secrets: hashes alone (tokens.md 5.1).
type secrets struct {
	Secrets []hashed `json:"secrets"`
}

type hashed struct {
	SHA256  []byte `json:"sha256"`
	Created int64  `json:"created"`
	Expires int64  `json:"expires"`
}

// Secret is one secret of a client, without the secret.
type Secret struct {
	Created, Expires time.Time
}

func secretsKey(clientID string) string {
	sum := sha256.Sum256([]byte(clientID))
	return "token/clients/" + hex.EncodeToString(sum[:])
}

// secret checks a presented secret. Known and unknown clients cost one read, one hash, and as
// many comparisons.
func (s *Service) secret(ctx context.Context, q *request, id, presented, method string) proof {
	p := proof{method: method, detail: detailSecret, id: id}
	c := q.world.Directory.Client(id)
	kv, err := s.o.Store.Get(ctx, secretsKey(id))
	switch {
	case errors.Is(err, store.ErrNotFound):
		kv.Value = s.unknown.secrets
	case err != nil:
		p.fault = unstored()
		return p
	}
	right := matches(kv.Value, presented, q.now)
	switch {
	case c == nil:
		p.detail = detailUnknown
	case c.Auth != grant.AuthSecret:
		p.detail = detailMethod
	case right:
		p.client = c
	}
	return p
}

// matches compares in constant time, with every secret of the record.
func matches(record []byte, presented string, now time.Time) bool {
	var rec secrets
	if json.Unmarshal(record, &rec) != nil {
		return false
	}
	sum := sha256.Sum256([]byte(presented))
	found := 0
	for _, h := range rec.Secrets {
		same := subtle.ConstantTimeCompare(h.SHA256, sum[:])
		if now.Unix() >= h.Expires {
			same = 0
		}
		found |= same
	}
	return found == 1
}

// CreateSecret makes a new secret for a client and returns it, this once. It counts until
// expires (zero: for a year); the newest secret before counts for overlap more, any other no
// longer.
func (s *Service) CreateSecret(ctx context.Context, clientID string, expires time.Time, overlap time.Duration) (string, error) {
	now := s.o.Now()
	if expires.IsZero() {
		expires = now.Add(maxSecretLife)
	}
	if !expires.After(now) || expires.After(now.Add(maxSecretLife)) {
		return "", ErrSecretLife
	}
	var random [32]byte
	rand.Read(random[:])
	secret := secretPrefix + base62(random[:], secretDigits)
	sum := sha256.Sum256([]byte(secret))
	made := hashed{SHA256: sum[:], Created: now.Unix(), Expires: expires.Unix()}
	for {
		old, mod, err := s.readSecrets(ctx, clientID)
		if err != nil {
			return "", fmt.Errorf("reading the secrets of client %q: %w", clientID, err)
		}
		value, err := json.Marshal(secrets{Secrets: rotate(old.Secrets, made, now, overlap)})
		if err != nil {
			return "", fmt.Errorf("encoding the secrets of client %q: %w", clientID, err)
		}
		key := secretsKey(clientID)
		_, err = s.o.Store.Commit(ctx, store.Txn{If: []store.Cmp{store.ModIs(key, mod)}, Then: []store.Op{store.Put(key, value)}})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("storing a secret of client %q: %w", clientID, err)
		}
		return secret, nil
	}
}

// rotate puts made beside the newest of old that still counts.
func rotate(old []hashed, made hashed, now time.Time, overlap time.Duration) []hashed {
	end := now.Add(overlap).Unix()
	var kept []hashed
	for _, h := range old {
		if h.Expires = min(h.Expires, end); h.Expires > now.Unix() {
			kept = append(kept, h)
		}
	}
	slices.SortStableFunc(kept, func(a, b hashed) int { return int(a.Created - b.Created) })
	return append(kept[max(0, len(kept)-secretsKept+1):], made)
}

// readSecrets is the record of a client and its revision; none is an empty one of revision 0.
func (s *Service) readSecrets(ctx context.Context, clientID string) (rec secrets, mod int64, err error) {
	kv, err := s.o.Store.Get(ctx, secretsKey(clientID))
	if errors.Is(err, store.ErrNotFound) {
		return secrets{}, 0, nil
	}
	if err != nil {
		return secrets{}, 0, err
	}
	return rec, kv.Mod, json.Unmarshal(kv.Value, &rec)
}

// Secrets are the secrets of a client that count now, oldest first.
func (s *Service) Secrets(ctx context.Context, clientID string) ([]Secret, error) {
	rec, _, err := s.readSecrets(ctx, clientID)
	if err != nil {
		return nil, fmt.Errorf("reading the secrets of client %q: %w", clientID, err)
	}
	var out []Secret
	for _, h := range rec.Secrets {
		if h.Expires > s.o.Now().Unix() {
			out = append(out, Secret{Created: time.Unix(h.Created, 0), Expires: time.Unix(h.Expires, 0)})
		}
	}
	return out, nil
}

// DropClient forgets the secrets of a client: whoever makes one of that name later must not
// inherit them.
func (s *Service) DropClient(ctx context.Context, clientID string) error {
	if _, err := s.o.Store.Commit(ctx, store.Txn{Then: []store.Op{DropOp(clientID)}}); err != nil {
		return fmt.Errorf("forgetting the secrets of client %q: %w", clientID, err)
	}
	return nil
}

// DropOp is what DropClient does, as a part of the transaction that ends or makes the client.
func DropOp(clientID string) store.Op { return store.Delete(secretsKey(clientID)) }
