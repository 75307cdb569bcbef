package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/store"
)

const (
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	assertionLife = time.Hour // exp ahead of now, and iat behind it, at most
	assertionLate = 10        // seconds that an id is remembered behind exp
	maxJTI        = 255
)

var defaultAssertionAlgs = []string{string(jose.ES256), string(jose.PS256), string(jose.EdDSA)}

// stranger is what unknown clients are compared with: a key and secrets that nobody has.
type stranger struct {
	keys    *jose.Set
	secrets []byte
}

func newStranger() (stranger, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return stranger{}, err
	}
	signer, err := jose.NewSigner(key)
	if err != nil {
		return stranger{}, err
	}
	keys, err := jose.NewSet(signer.Key())
	if err != nil {
		return stranger{}, err
	}
	rec := secrets{Secrets: []hashed{{SHA256: make([]byte, sha256.Size), Created: 1, Expires: 2}}}
	value, err := json.Marshal(rec)
	return stranger{keys: keys, secrets: value}, err
}

// assertion is private_key_jwt (RFC 7523, sections 2.2 and 3; tokens.md 5.5).
func (s *Service) assertion(ctx context.Context, q *request, kind, raw, id string) proof {
	p := proof{method: methodAssertion, id: id}
	if kind != assertionType {
		p.detail = detailMethod
		return p
	}
	issuer, ok := jose.Peek(raw)
	if !ok || id != "" && id != issuer {
		p.detail = detailUnknown
		return p
	}
	p.id = issuer
	c, keys := q.world.Directory.Client(issuer), q.world.ClientKeys[issuer]
	if c == nil || c.Auth != grant.AuthPrivateKeyJWT {
		c, keys, p.detail = nil, s.unknown.keys, detailUnknown
	}
	name := s.limits.assertionKey(q.source, c)
	if !s.limits.spare(q.key, name, q.now) {
		p.fault = busy()
		return p
	}
	t, err := s.assertionCheck(c, issuer, keys).Verify(q.now, raw)
	reason := why(err)
	if reason == jose.Sig {
		s.limits.spent(q.key, name, q.now)
	}
	if reason == jose.KeyID && c != nil && c.JWKSURI != "" {
		s.missed("", c.JWKSURI) // it may have rotated
	}
	if reason == "" {
		reason = judgeAssertion(t, q.now)
	}
	switch {
	case c == nil:
		return p
	case reason != "":
		p.detail = string(reason)
		return p
	}
	// Last: whoever spends an id first must have been entitled to it.
	switch err := s.leases.spend(ctx, s.o.Store, c.ClientID, t.ID(), t.Expires()+assertionLate, q.now); {
	case errors.Is(err, store.ErrConflict):
		p.detail = detailReplay
	case err != nil:
		p.fault = unstored()
	default:
		p.client = c
	}
	return p
}

// assertionCheck is what one client's assertions must hold; of an unknown one, what anybody's must.
func (s *Service) assertionCheck(c *grant.Client, issuer string, keys *jose.Set) *jose.Check {
	audience, algs := s.o.Issuer, defaultAssertionAlgs
	if c != nil && c.AssertionEndpoint {
		audience += pathToken
	}
	if c != nil && len(c.AssertionAlgs) > 0 {
		algs = c.AssertionAlgs
	}
	check := &jose.Check{
		Profile: jose.Assertion, Issuer: issuer, Keys: keys,
		Audiences: []string{audience}, SingleAudience: true, // CVE-2025-27370, CVE-2025-27371
	}
	for _, a := range algs {
		check.Algs = append(check.Algs, jose.Alg(a))
	}
	return check
}

// judgeAssertion is what a Check does not ask: steps 4 and 6 of tokens.md 5.5.
func judgeAssertion(t *jose.Token, now time.Time) jose.Reason {
	at, iat, exp := now.Unix(), t.Issued(), t.Expires()
	hour := int64(assertionLife / time.Second)
	_, dated := t.Value("iat")
	switch {
	case t.Subject() != t.Issuer():
		return jose.Claims
	case t.ID() == "" || len(t.ID()) > maxJTI:
		return jose.Claims
	case exp > at+hour:
		return jose.Exp
	case dated && (iat < at-hour || iat > exp):
		return jose.Iat
	}
	return ""
}

// leases let the ids of assertions end by themselves: those that end in one minute share one
// lease, which lasts until that minute is over.
type leases struct {
	mu  sync.Mutex // guards ids, for a map access
	ids map[int64]int64
}

// spend stores an id that must not have been there, until the second until: create-only, so of
// two at once one is the first, on whichever replica. ErrConflict: it was there.
func (l *leases) spend(ctx context.Context, st store.Store, clientID, jti string, until int64, now time.Time) error {
	sum := sha256.Sum256([]byte(clientID + "\x00" + jti))
	key := "token/jti/" + hex.EncodeToString(sum[:])
	minute := (until + 59) / 60
	for fresh := false; ; fresh = true {
		lease, err := l.of(ctx, st, minute, now, fresh)
		if err != nil {
			return fmt.Errorf("making a lease for assertions: %w", err)
		}
		_, err = st.Commit(ctx, store.Txn{If: []store.Cmp{store.Absent(key)}, Then: []store.Op{store.PutLeased(key, nil, lease)}})
		if errors.Is(err, store.ErrInvalid) && !fresh {
			continue // the lease is gone: the store was restored, or its clock is ahead
		}
		return err
	}
}

// of is the lease that lasts until a minute is over. It is not kept alive: it runs out.
func (l *leases) of(ctx context.Context, st store.Store, minute int64, now time.Time, fresh bool) (int64, error) {
	l.mu.Lock()
	id, ok := l.ids[minute]
	l.mu.Unlock()
	if ok && !fresh {
		return id, nil
	}
	alive, stop := context.WithCancel(ctx)
	defer stop()
	lease, err := st.Lease(alive, time.Unix(minute*60, 0).Sub(now.Truncate(time.Second)))
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for old := range l.ids { // at most those of the next hour are of use
		if old*60 <= now.Unix() {
			delete(l.ids, old)
		}
	}
	l.ids[minute] = lease.ID()
	return lease.ID(), nil
}
