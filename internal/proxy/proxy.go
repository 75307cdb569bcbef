// Package proxy is the data plane of one node: it carries the calls of the node's programs
// out, and calls to them in, and decides nothing itself that a policy or the registry decides.
//
// Its words: a run is one program the node looks after; inbound is what comes to it over
// mutual TLS, on the node's shared port or on a listener of its own; outbound is what it sends
// through its proxy listener; a link is one connection from downstream; an exchange is one
// request with its response, or one tunnel; a wire is one connection to an upstream; the gate
// stands between a socket and net/http and lets only strict HTTP/1 pass.
//
// Its promise: every exchange takes the same named steps (dataplane.md 3.1), every refusal has
// its record and its id before the answer leaves, and nobody's connection, identity or response
// is ever used for somebody else.
package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/bearer"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/limit"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/telemetry"
)

// Times and bounds of dataplane.md 15.2, 8.1 and 25.2.
const (
	handshakeTime   = 5 * time.Second
	headTime        = 10 * time.Second
	bodyIdle        = 60 * time.Second
	connectTime     = 10 * time.Second
	continueTime    = time.Second
	programIdle     = 10 * time.Minute // keep-alive on the proxy listener
	meshIdle        = 5 * time.Minute  // keep-alive on inbound connections
	tunnelIdle      = time.Hour
	unprovenTime    = 10 * time.Second
	drainTime       = 2 * time.Second // for the rest of a body nobody wants
	longStream      = 60 * time.Second
	maxHandshakes   = 1024
	maxUnproven     = 64
	maxLinks        = 10_000 // per workload and direction
	maxHeld         = 64 << 10
	maxDrained      = 256 << 10
	maxStreams      = 1024 // per HTTP/2 connection from another node
	stackEvery      = time.Minute
	warnEvery       = 10 * time.Second
	tokenCache      = 16 << 20 // bytes of verified tokens that are remembered (tokens.md 12.4)
	netHTTPHeadSize = 36_544   // net/http advertises 320 more (http-strictness.md 8.2)
)

// Options are what a Proxy is made of.
type Options struct {
	Recorder *audit.Recorder
	Metrics  *telemetry.Metrics // nil: nothing is counted
	Log      *slog.Logger       // nil: nothing is said
	Now      func() time.Time   // nil: time.Now

	// Revoked is this node's copy of the log of revoked tokens; nil: own tokens are refused.
	Revoked *revocation.Log
	// Missed hears that a token names a key its issuer's set does not hold; never blocks. May be nil.
	Missed func(bearer.Source)
	// PseudonymKey is the key of pseudonyms in records; nil, or returning nothing, until it is known.
	PseudonymKey func() []byte
	// Attach gets the token that a call of a run carries; nil: there is none, and such calls fail.
	// The record of a failed call has the Detail of a *NoToken.
	Attach func(context.Context, *Run, Attach) (string, error)
	// Rejected hears that the destination answered 401 to a token of Attach; never blocks. May be nil.
	Rejected func(r *Run, a Attach, token string)
	// Exchange gets the edge token for what a caller of a Gateway showed; nil: there is none, and such requests fail.
	// Its errors are as those of Attach.
	Exchange func(context.Context, *Run, EdgeCall) (string, error)
	// KeyUsed hears which secret of an API key was taken, and KeyExposed of one that stood in a URL at a Gateway; they
	// never block. May be nil.
	KeyUsed    func(id string)
	KeyExposed func(id, gateway string)
	// Strangers is the most connections at the doors of Gateways; 0: 10,000.
	Strangers int
	// Egress lists what Gateways may dial of what is otherwise never dialled; OwnPorts are those of this process.
	Egress   []Egress
	OwnPorts []uint16
}

// Proxy is the data plane of one node. Make one with New.
type Proxy struct {
	rec     *audit.Recorder
	metrics *telemetry.Metrics
	log     *slog.Logger
	now     func() time.Time

	asked        asked
	tokens       *jose.Cache
	revoked      *revocation.Log
	missed       func(bearer.Source)
	pseudonymKey func() []byte
	attach       func(context.Context, *Run, Attach) (string, error)
	exchange     func(context.Context, *Run, EdgeCall) (string, error)
	rejected     func(*Run, Attach, string)

	keyUsed    func(id string)
	keyExposed func(id, gateway string)
	wrongKeys  keyFailures

	view    atomic.Pointer[view]
	links   atomic.Uint64 // connections so far
	panics  atomic.Int64  // when a stack was last logged, Unix ns
	drained atomic.Bool
	crowd   crowd // at the doors of all Gateways
	limiter *limit.Store
	began   time.Time // of the limiter's clock

	egress   []Egress
	ownPorts []uint16

	mu   sync.RWMutex // guards runs and face; held for a look-up or a change of the map
	runs map[string]*run
	face *face // of the shared inbound port, while Serve runs
}

// New gives a data plane that knows no mesh yet: it refuses everything until Update.
func New(o Options) *Proxy {
	p := &Proxy{
		rec: o.Recorder, metrics: o.Metrics, log: o.Log, now: o.Now, runs: map[string]*run{},
		tokens: jose.NewCache(tokenCache), revoked: o.Revoked, missed: o.Missed, pseudonymKey: o.PseudonymKey,
		attach: o.Attach, exchange: o.Exchange, rejected: o.Rejected, crowd: crowd{most: o.Strangers},
		egress: o.Egress, ownPorts: o.OwnPorts,
		keyUsed: o.KeyUsed, keyExposed: o.KeyExposed,
	}
	if p.revoked == nil {
		p.revoked = revocation.NewLog() // never whole: it refuses every own token
	}
	if p.pseudonymKey == nil {
		p.pseudonymKey = func() []byte { return nil }
	}
	if p.attach == nil {
		p.attach = func(context.Context, *Run, Attach) (string, error) { return "", &NoToken{Detail: "no token service"} }
	}
	if p.exchange == nil {
		p.exchange = func(context.Context, *Run, EdgeCall) (string, error) { return "", &NoToken{Detail: "no token service"} }
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.now == nil {
		p.now = time.Now
	}
	p.began, p.limiter = p.now(), limit.New(limit.DefaultKeys)
	p.metrics.LimitKeys(p.limiter.Keys)
	p.metrics.Gateways(p.gatewayFacts)
	p.wrongKeys = newKeyFailures(p.now())
	p.view.Store(newView(&State{}))
	return p
}

// Update puts a new State in force. When it returns, every exchange and tunnel under way has
// been decided anew by it, and those it denies are being cut.
func (p *Proxy) Update(s *State) {
	now := newView(s)
	p.foreign(now)
	now.limitCounters = now.counters(p.metrics)
	before := p.view.Swap(now)
	for _, r := range p.all() {
		r.recheck(now)
	}
	if before.Routes != now.Routes {
		p.keepRoutes(now.Routes)
	}
}

// Renewed says that the SVID of an instance was swapped: connections made with the old one
// take nothing new from a jittered moment on (dataplane.md 12.3).
func (p *Proxy) Renewed(_, _, instance string) {
	p.mu.RLock()
	r := p.runs[instance]
	p.mu.RUnlock()
	if r != nil {
		r.renew()
	}
}

func (p *Proxy) all() []*run {
	p.mu.RLock()
	defer p.mu.RUnlock()
	list := make([]*run, 0, len(p.runs))
	for _, r := range p.runs {
		list = append(list, r)
	}
	return list
}

// Start serves a run's listeners and lets the shared port find it. stop closes them, cuts
// what is under way and waits until nothing of it is left.
func (p *Proxy) Start(ctx context.Context, cfg Run) (stop func(), err error) {
	r, err := newRun(p, cfg)
	if err != nil {
		return nil, fmt.Errorf("serving %q: %w", cfg.Name, err)
	}
	p.mu.Lock()
	if _, taken := p.runs[cfg.Instance]; taken {
		p.mu.Unlock()
		return nil, fmt.Errorf("serving %q: instance %q is served already", cfg.Name, cfg.Instance)
	}
	p.runs[cfg.Instance] = r
	p.mu.Unlock()

	r.start(context.WithoutCancel(ctx))
	unhook := func() bool { return true }
	stop = sync.OnceFunc(func() {
		unhook()
		p.mu.Lock()
		delete(p.runs, cfg.Instance)
		p.mu.Unlock()
		r.stop()
	})
	unhook = context.AfterFunc(ctx, stop)
	return stop, nil
}

// Drain lets what is under way end, takes nothing new, and gives up when ctx ends.
func (p *Proxy) Drain(ctx context.Context) error {
	p.drained.Store(true)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		busy := 0
		for _, r := range p.all() {
			busy += r.live.count()
		}
		if busy == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("draining: %d exchanges left: %w", busy, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// choose finds the run that a server name means: the instance it names, or any that
// serves the service (dataplane.md 9.1).
func (p *Proxy) choose(v *view, m meaning) *run {
	svc := v.Services[m.key]
	p.mu.RLock()
	defer p.mu.RUnlock()
	if m.instance != "" {
		if r := p.runs[m.instance]; r != nil && r.serves(svc, m.key) {
			return r
		}
		return nil
	}
	var found *run
	for _, r := range p.runs {
		if !r.serves(svc, m.key) {
			continue
		}
		if svc != nil {
			if inst := svc.instance(r.Instance); inst != nil && inst.State == instanceReady {
				return r
			}
		}
		if found == nil || r.Instance < found.Instance {
			found = r
		}
	}
	return found
}
