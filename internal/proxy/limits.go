package proxy

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"countersign.dev/internal/limit"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
	"countersign.dev/internal/telemetry"
)

// Limits are the RateLimits of a State, ready to count. They never change; what was counted belongs to the Proxy and
// outlives them, by the names of the rules.
type Limits struct {
	of      *route.Limits
	sets    map[*route.LimitSet]*limitSet
	classes map[route.Name][]*limitRule
	names   []string          // of all rules, by their numbers
	tests   []*policy.Matcher // conditions, by their numbers
}

// limitSet is what holds for the requests of one rule of a route on one listener.
type limitSet struct {
	early, late []*limitRule
	bad         string // why all of them get 500
}

// limitRule is one rule of a RateLimit.
type limitRule struct {
	*limit.Rule
	key    []route.KeyPart
	object string // ns/name
	index  int
	number int    // of its counter
	test   int    // number of its conditions; below 0: none
	text   string // for people
	byKey  bool   // as a class: the API key is the first part of the key
}

// CompileLimits makes ready what holds. A rule that should have been refused when it was applied leaves no request
// uncounted: all that it holds for get 500.
func CompileLimits(o route.Objects, of *route.Limits, trustDomain string) *Limits {
	l := &Limits{of: of, sets: map[*route.LimitSet]*limitSet{}, classes: map[route.Name][]*limitRule{}}
	uses, bad := map[route.LimitUse]*limitRule{}, map[*route.RateLimit]string{}
	for i := range o.Limits {
		r := &o.Limits[i]
		for j := range r.Rules {
			u := route.LimitUse{Limit: r, Rule: j}
			one, err := l.compile(u, trustDomain, false)
			class, classErr := l.compile(u, trustDomain, true)
			if err = cmp.Or(err, classErr); err != nil {
				bad[r] = err.Error()
				continue
			}
			l.names = append(l.names, u.Name())
			uses[u] = one
			l.classes[r.Name] = append(l.classes[r.Name], class)
		}
		if bad[r] != "" {
			delete(l.classes, r.Name)
		}
	}
	for set := range of.Sets() {
		out := &limitSet{bad: set.Bad}
		for _, u := range set.Uses {
			switch {
			case bad[u.Limit] != "":
				out.bad = bad[u.Limit]
			case u.Of().Early:
				out.early = append(out.early, uses[u])
			default:
				out.late = append(out.late, uses[u])
			}
		}
		l.sets[set] = out
	}
	return l
}

// compile makes one rule. As a class it has buckets of its own: its keys have other parts.
func (l *Limits) compile(u route.LimitUse, trustDomain string, class bool) (*limitRule, error) {
	r := u.Of()
	id := u.Limit.String()
	if class {
		id += "#key"
	}
	counted, err := limit.NewRule(limit.Spec{
		ID: id + "/" + r.Name, Rate: limit.Rate{Requests: r.Requests, Per: r.Per, Burst: r.Burst},
		Concurrent: r.Concurrent, Cost: r.Cost, Shadow: u.Limit.Shadow, Refuse: r.Refuse, Expose: !r.Hidden,
	})
	if err != nil {
		return nil, fmt.Errorf("RateLimit %s: %w", u.Limit.Name, err)
	}
	out := &limitRule{
		Rule: counted, key: r.Key, object: u.Limit.String(), index: u.Rule, number: len(l.names), test: -1,
		text: "RateLimit/" + u.Name() + ": " + r.String(), byKey: class,
	}
	if len(r.When.From)+len(r.When.To)+len(r.When.When) > 0 {
		m, err := policy.NewMatcher(trustDomain, u.Limit.Namespace, r.When)
		if err != nil {
			return nil, fmt.Errorf("RateLimit %s: rule %q: %w", u.Limit.Name, r.Name, err)
		}
		out.test = len(l.tests)
		l.tests = append(l.tests, m)
	}
	return out, nil
}

// find is what holds for the requests of a rule on a listener; nil: nothing.
func (l *Limits) find(at *route.Router, a *route.Action) *limitSet {
	if l == nil {
		return nil
	}
	return l.sets[l.of.Of(at, a)]
}

// limits decides once for the connection what it can of the conditions of all limits.
func (l *link) limits(b *binding) []policy.Bound {
	if bounds := b.limits.Load(); bounds != nil {
		return *bounds
	}
	bounds := make([]policy.Bound, len(b.v.Limits.tests))
	for i, m := range b.v.Limits.tests {
		bounds[i] = m.Bind(policy.Conn{Peer: l.caller, Port: l.port, HTTP: true})
	}
	b.limits.Store(&bounds)
	return bounds
}

// counters are those of the metrics, by the numbers of the rules.
func (v *view) counters(m *telemetry.Metrics) []*telemetry.LimitCounter {
	if v.Limits == nil {
		return m.Limits(nil)
	}
	return m.Limits(v.Limits.names)
}

// sweepEvery is how often buckets are dropped that say nothing any more, and streams are ended whose API key has ended.
const sweepEvery = 30 * time.Second

// sweep keeps the limiter small, and streams within the time of their keys, until ctx ends.
func (p *Proxy) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.endKeys()
		p.limiter.Sweep(p.now().Sub(p.began))
		if p.limiter.Crowded() {
			p.log.Warn("the limiter is over four fifths full: new addresses are counted by their networks", "keys", p.limiter.Keys(), "full", p.limiter.Full())
		}
	}
}
