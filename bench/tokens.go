//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Whoever asks the token service here. A client may have 200 tokens a second and 400 at once
// (tokens.md 17), so there are many, and cells are short.
const (
	askersCount  = 24
	keptEach     = 120 // tokens of each in a cell on kept connections
	turnsEach    = 25  // in one that asks one at a time
	freshEach    = 16  // with a connection for each
	exchangeEach = 80
	heapWarm     = 100 // of each, before memory is read
	heapEach     = 700
	heapEvery    = 6 * time.Millisecond // refusals by the limit would be kept, as many as there is room for
	revocations  = 200
)

// Who is called with a token and exchanges it, and for whom it gets another.
const (
	apiID  = "spiffe://cluster.local/ns/default/sa/api"
	ledger = "https://ledger.bench"
)

const exchangeObjects = `apiVersion: countersign.dev/v1
kind: OAuthResource
metadata: {name: ledger}
spec: {audience: "` + ledger + `"}
---
apiVersion: countersign.dev/v1
kind: OAuthClient
metadata: {name: api}
spec:
  spiffeId: ` + apiID + `
  grants: [client_credentials, "urn:ietf:params:oauth:grant-type:token-exchange"]
  targets: [{audience: "` + ledger + `", exchange: true}]
---
apiVersion: countersign.dev/v1
kind: DelegationPolicy
metadata: {name: ledger}
spec: {actors: [api], audiences: ["` + ledger + `"]}
`

// bank is the token service of one up, its clients, and a mesh pair that calls with tokens.
type bank struct {
	*up
	issuer  string
	addr    string // of the mTLS port
	web     *web
	clients []*svid // of the token service alone
	caller  *svid   // web
	callee  *svid   // api
	raw     *ecdsa.PrivateKey
}

// tokenService measures what tokens.md 20 has aims for.
func (s *stand) tokenService(ctx context.Context) (*Tokens, error) {
	b, err := s.bank(ctx)
	if err != nil {
		return nil, err
	}
	t := &Tokens{Rounds: s.tokenRounds()}
	for _, part := range []func(context.Context, *Tokens) error{b.issuing, b.exchanging, b.verifying, b.calling, b.holding, b.revoking} {
		if err := part(ctx, t); err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	s.crew.end()
	return t, nil
}

// tokenRounds are more than those of other parts and shorter: the aims are nearer to what is
// measured. They are odd.
func (s *stand) tokenRounds() int { return 2*s.rounds + 1 }

func (s *stand) bank(ctx context.Context) (*bank, error) {
	dir, err := s.fresh("up")
	if err != nil {
		return nil, err
	}
	b := &bank{}
	public, err := freePort()
	if err != nil {
		return nil, err
	}
	if b.addr, err = freePort(); err != nil {
		return nil, err
	}
	b.issuer = "https://localhost" + public[strings.LastIndexByte(public, ':'):]
	config, objects := filepath.Join(s.dir, "tokens.yaml"), filepath.Join(s.dir, "exchange.yaml")
	err = errors.Join(
		os.WriteFile(config, fmt.Appendf(nil, "token: {issuer: %q, listen: %q, mtlsListen: %q}\n", b.issuer, public, b.addr), 0o600),
		os.WriteFile(objects, []byte(exchangeObjects), 0o600),
	)
	if err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	if b.up, err = s.up(ctx, dir, "--config", config); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, s.binary, "apply", "-f", objects, "--dir", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("applying who may exchange: %w: %s", err, out)
	}
	if b.web, _, err = b.shop(ctx); err != nil {
		return nil, err
	}
	s.say("getting %d identities", askersCount+2)
	for i := range askersCount {
		c, err := b.svid(ctx, fmt.Sprintf("client-%d", i))
		if err != nil {
			return nil, err
		}
		b.clients = append(b.clients, c)
	}
	if b.caller, err = b.svid(ctx, "web"); err != nil {
		return nil, err
	}
	if b.callee, err = b.svid(ctx, "api"); err != nil {
		return nil, err
	}
	b.raw, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return b, err
}

// forAPI asks for a token that api takes.
func forAPI() url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "audience": {apiID}}
}

// askers are all clients, each wanting a token for api.
func (b *bank) askers() (out []*asker, err error) {
	for _, c := range b.clients {
		a, err := newAsker(b.addr, c, forAPI())
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// token gives one for api that only web can use.
func (b *bank) token(ctx context.Context) (string, error) {
	a, err := newAsker(b.addr, b.caller, forAPI())
	if err != nil {
		return "", err
	}
	defer a.close()
	return a.ask(ctx)
}

func closeAll(askers []*asker) {
	for _, a := range askers {
		a.close()
	}
}

// issuing measures tokens by client_credentials.
func (b *bank) issuing(ctx context.Context, t *Tokens) error {
	askers, err := b.askers()
	if err != nil {
		return err
	}
	defer closeAll(askers)
	signatures := func(c cost) float64 { return c.each / c.sign }
	rate := func(c cost) float64 { return 1e9 / c.each }
	for _, cell := range []struct {
		name string
		each int
		way  way
		in   func(cost) float64
		aim  Aim
	}{
		{"token, kept mTLS", keptEach, way{}, signatures, atMost(3, "signatures")},
		{"token, kept mTLS, one at a time", turnsEach, way{turns: true}, signatures, noAim("signatures")},
		{"token, fresh mTLS, X25519MLKEM768", freshEach, way{fresh: true}, rate, atLeast(1000, "/s and core")},
	} {
		if err := b.cell(ctx, t, cell.name, cell.each, askers, cell.way, cell.in, cell.aim); err != nil {
			return err
		}
	}
	return nil
}

// exchanging measures the exchange of a token that api received, by many connections of api.
func (b *bank) exchanging(ctx context.Context, t *Tokens) error {
	subject, err := b.token(ctx)
	if err != nil {
		return err
	}
	var askers []*asker
	defer func() { closeAll(askers) }()
	for range askersCount {
		a, err := newAsker(b.addr, b.callee, url.Values{
			"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
			"subject_token":      {subject},
			"subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
			"audience":           {ledger},
		})
		if err != nil {
			return err
		}
		askers = append(askers, a)
	}
	goal := func(c cost) float64 { return c.each / (2.5*c.verify + 2*c.sign) }
	return b.cell(ctx, t, "exchange, kept mTLS", exchangeEach, askers, way{}, goal, atMost(1, "× (2.5 verifications + 2 signatures)"))
}

// cost is what one thing cost in CPU time, in nanoseconds, beside the raw operations of the
// same moment.
type cost struct{ each, sign, verify float64 }

// cell measures rounds of askers.
func (b *bank) cell(ctx context.Context, t *Tokens, name string, tokens int, askers []*asker, w way, in func(cost) float64, aim Aim) error {
	if err := askAll(ctx, askers, 2, w); err != nil { // connects, and warms
		return err
	}
	pids := []int{b.pid()}
	var costs []cost
	for round := range t.Rounds {
		b.s.say("%s, round %d of %d", name, round+1, t.Rounds)
		var c cost
		if err := b.rawCosts(&c); err != nil {
			return err
		}
		before, err := cpuOf(pids)
		if err != nil {
			return err
		}
		if err := askAll(ctx, askers, tokens, w); err != nil {
			return err
		}
		after, err := cpuOf(pids)
		if err != nil {
			return err
		}
		if err := b.rawCosts(&c); err != nil {
			return err
		}
		c.each, c.sign, c.verify = float64(after-before)/float64(tokens*len(askers)), c.sign/2, c.verify/2
		costs = append(costs, c)
	}
	t.add(name, costs, inUnit(costs, in), aim)
	return nil
}

// rawCosts adds the costs of one signature and one verification by P-256 to those of c, taken on
// all CPUs at once, since the service and its clients keep them all busy too.
func (b *bank) rawCosts(c *cost) error {
	sum := sha256.Sum256([]byte("raw"))
	sig, err := ecdsa.SignASN1(rand.Reader, b.raw, sum[:])
	if err != nil {
		return err
	}
	sign, err := costOf(runtime.NumCPU(), 1000, func() bool {
		_, err := ecdsa.SignASN1(rand.Reader, b.raw, sum[:])
		return err == nil
	})
	if err != nil {
		return err
	}
	verify, err := costOf(runtime.NumCPU(), 500, func() bool { return ecdsa.VerifyASN1(&b.raw.PublicKey, sum[:], sig) })
	c.sign, c.verify = c.sign+sign, c.verify+verify
	return err
}

var errWrong = errors.New("what was measured gave a wrong answer")

// costOf is the CPU time of this process, in nanoseconds, for one call of f, of n by each worker.
func costOf(workers, n int, f func() bool) (float64, error) {
	self := []int{os.Getpid()}
	before, err := cpuOf(self)
	if err != nil {
		return 0, err
	}
	wrong := make([]bool, workers)
	var wait sync.WaitGroup
	for i := range workers {
		wait.Go(func() {
			for range n {
				if !f() {
					wrong[i] = true
				}
			}
		})
	}
	wait.Wait()
	after, err := cpuOf(self)
	for _, w := range wrong {
		if w && err == nil {
			err = errWrong
		}
	}
	return float64(after-before) / float64(workers*n), err
}

// turns are in which order calls with a token (true) and with unread bytes are measured within
// a round: short and often, so that both have the same of what else the machine does.
var turns = []bool{true, false, false, true, false, true, true, false}

// calling measures calls through the mesh with a token that is verified and cached, beside calls
// with as many bytes that no rule reads.
func (b *bank) calling(ctx context.Context, t *Tokens) error {
	name := "call with a cached token, two hops"
	var costs []cost
	var ratios []float64
	for round := range t.Rounds {
		b.s.say("%s, round %d of %d", name, round+1, t.Rounds)
		token, err := b.token(ctx)
		if err != nil {
			return err
		}
		var sum [2]float64
		for _, read := range turns {
			o := order{Want: webID, Conns: 16, Warm: b.s.warm / 7, Time: b.s.time / 8, PIDs: []int{b.pid()}, Token: token}
			at := &sum[0]
			if !read {
				o.Token, at = strings.ReplaceAll(token, ".", "_"), &sum[1]
			}
			got, err := b.web.drive(o)
			if err == nil && (got.Failed > 0 || got.Requests == 0) {
				err = fmt.Errorf("%d of %d calls with a token failed: %s", got.Failed, got.All, got.First)
			}
			if err != nil {
				return err
			}
			*at += float64(got.CPU) / float64(got.Requests) / float64(len(turns)/2)
		}
		costs, ratios = append(costs, cost{each: sum[0]}), append(ratios, sum[0]/sum[1])
	}
	t.add(name, costs, ratios, atMost(1.05, "× the same bytes unread"))
	return nil
}

// heapMetric is what live and not yet swept objects take.
const heapMetric = "go_memory_classes_heap_objects_bytes"

// holding looks for memory that is kept for tokens.
func (b *bank) holding(ctx context.Context, t *Tokens) error {
	askers, err := b.askers()
	if err != nil {
		return err
	}
	defer closeAll(askers)
	b.s.say("issuing %d tokens and looking at memory", askersCount*(heapWarm+3*heapEach))
	if err := askAll(ctx, askers, heapWarm, way{every: heapEvery}); err != nil {
		return err
	}
	// least is the smallest heap seen while tokens are issued: what is left after a collection.
	least := func() (float64, error) {
		issued := make(chan error, 1)
		go func() { issued <- askAll(ctx, askers, heapEach, way{every: heapEvery}) }()
		var low float64
		for {
			if n, ok := b.metric(ctx, heapMetric); ok && (low == 0 || n < low) {
				low = n
			}
			select {
			case err := <-issued:
				return low, err
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	first, err := least()
	if err != nil {
		return err
	}
	if err := askAll(ctx, askers, heapEach, way{every: heapEvery}); err != nil {
		return err
	}
	last, err := least()
	if err != nil {
		return err
	}
	if first == 0 || last == 0 {
		return errors.New("the heap is not shown")
	}
	kept := (last - first) / (2 * heapEach * askersCount)
	t.Rows = append(t.Rows, TokenRow{Name: fmt.Sprintf("heap, %.1f MiB, per token issued", last/(1<<20)), Result: kept, Aim: atMost(heapNoise, "bytes")})
	return nil
}

// heapNoise is what two readings differ by for each token though none is kept.
const heapNoise = 64

// revoking measures how long a proxy takes a token that is revoked.
func (b *bank) revoking(_ context.Context, t *Tokens) error {
	b.s.say("revoking %d tokens", revocations)
	got, err := b.web.drive(order{Want: webID, Revoke: revocations, Audience: apiID})
	if err == nil && got.Failed > 0 {
		err = errors.New(got.First)
	}
	if err != nil {
		return err
	}
	t.Rows = append(t.Rows, TokenRow{
		Name:   fmt.Sprintf("revoked and still taken, p99 (p50 %.1f)", got.P50.Seconds()*1000),
		Result: got.P99.Seconds() * 1000, Aim: atMost(100, "ms"),
	})
	return nil
}
