//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/bearer"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/revocation"
)

// verifier is the token step of a proxy, for one token and in this process.
type verifier struct {
	now   time.Time
	raw   string
	check *jose.Check
	rules *bearer.Rules
	ask   bearer.Request
}

const trustDomain = "cluster.local"

// verifier makes it from a token and the keys that the service gives.
func (b *bank) verifier(ctx context.Context) (*verifier, error) {
	raw, err := b.token(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := b.keys(ctx)
	if err != nil {
		return nil, err
	}
	dir, _ := grant.New(grant.Objects{TrustDomain: trustDomain, RootNamespace: "istio-system", Issuer: b.issuer})
	book := bearer.NewBook(bearer.Facts{TrustDomain: trustDomain, Issuer: b.issuer, Own: keys, Directory: dir}, nil)
	v := &verifier{
		now: time.Now(), raw: raw,
		check: &jose.Check{Profile: jose.Own, Issuer: b.issuer, Keys: keys, Audiences: []string{apiID}, TrustDomain: trustDomain},
		rules: book.For(bearer.Workload{ID: apiID, Service: "default/api"}),
	}
	log := revocation.NewLog()
	var entries []revocation.Entry
	for i := range 1000 {
		entries = append(entries, revocation.Entry{
			Kind: revocation.ByJTI, Val: "revoked-" + strconv.Itoa(i), At: v.now.Unix(), Until: revocation.Until(v.now, 0), Seq: int64(i + 1),
		})
	}
	if err := log.Reset(entries, v.now); err != nil {
		return nil, fmt.Errorf("making a log of revoked tokens: %w", err)
	}
	v.ask = bearer.Request{
		Now: v.now, Method: "GET", Path: "/orders/17", Host: "api", Scheme: "https",
		Header:    http.Header{"Authorization": {"Bearer " + raw}, "Cookie": {"a=b; c=d"}, "User-Agent": {"bench/1.0"}},
		Presenter: jose.Presenter{ID: strings.TrimPrefix(webID, "URI=")}, Cache: jose.NewCache(1 << 20), Revoked: log,
	}
	return v, nil
}

// keys are those of the JWKS document.
func (b *bank) keys(ctx context.Context) (*jose.Set, error) {
	cfg, err := b.caller.config()
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{TLSClientConfig: cfg}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, "GET", "https://"+b.addr+"/oauth2/jwks", nil)
	if err != nil {
		return nil, err
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("getting the keys: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("getting the keys: %w", err)
	}
	return jose.ReadSet(body)
}

// verifying measures the token step as a function: one worker, the raw operation beside it.
func (b *bank) verifying(ctx context.Context, t *Tokens) error {
	v, err := b.verifier(ctx)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte("raw"))
	sig, err := ecdsa.SignASN1(rand.Reader, b.raw, sum[:])
	if err != nil {
		return err
	}
	raw := func() bool { return ecdsa.VerifyASN1(&b.raw.PublicKey, sum[:], sig) }
	cold := func() bool { _, err := v.check.Verify(v.now, v.raw); return err == nil }
	cached := func() bool {
		t, err := v.ask.Cache.Verify(v.now, v.raw, v.check)
		if err != nil || t.Bound(v.ask.Presenter) != nil {
			return false
		}
		_, revoked := v.ask.Revoked.Revoked(t)
		return !revoked
	}
	step := func() bool { out := v.rules.Authenticate(&v.ask); return out.Token != nil && out.Own }
	var colds, cacheds, steps []cost
	for round := range t.Rounds {
		b.s.say("verification, round %d of %d", round+1, t.Rounds)
		var c cost
		for range 8 { // in turns, so that both have the same of what else the machine does
			one, err := costOf(1, 250, raw)
			if err != nil {
				return err
			}
			c.verify += one / 8
			if one, err = costOf(1, 250, cold); err != nil {
				return err
			}
			c.each += one / 8
		}
		colds = append(colds, c)
		for f, of := range map[*func() bool]*[]cost{&cached: &cacheds, &step: &steps} {
			each, err := costOf(1, 500_000, *f)
			if err != nil {
				return err
			}
			*of = append(*of, cost{each: each})
		}
	}
	micro := func(c cost) float64 { return c.each / 1000 }
	t.add("verification, cold", colds, inUnit(colds, func(c cost) float64 { return c.each / c.verify }), atMost(1.2, "verifications"))
	t.add("verification, cached, bound, not revoked", cacheds, inUnit(cacheds, micro), atMost(0.2, "µs"))
	t.add("the whole token step of a proxy, cached", steps, inUnit(steps, micro), noAim("µs"))
	return nil
}
