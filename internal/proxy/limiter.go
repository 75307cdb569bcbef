package proxy

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/limit"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
	"countersign.dev/internal/telemetry"
)

// tally is what limits counted of one exchange. Its keys are built in memory that other exchanges used before.
type tally struct {
	asks     []limit.Ask  // those of the early stage first
	rules    []*limitRule // theirs
	decision limit.Decision
}

var tallies = sync.Pool{New: func() any { return new(tally) }}

func (t *tally) add(r *limitRule) *limit.Ask {
	n := len(t.asks)
	t.asks = slices.Grow(t.asks, 1)[:n+1] // what was there keeps its buffer
	t.rules = append(t.rules, r)
	t.asks[n].Begin(r.Rule)
	return &t.asks[n]
}

// limitEarly is step 7 of gateway.md 15. What it counts stays counted, whatever later steps say: it protects them.
func (x *exchange) limitEarly(at *route.Router, a *route.Action) *refused {
	x.counted = a
	if x.limits = x.v.Limits.find(at, a); x.limits == nil {
		return nil
	}
	return x.take(x.limits.early, nil)
}

// limitLate is step 13. It comes before credentials are taken out, so that a condition on a header means what it means
// to policy.
func (x *exchange) limitLate() *refused {
	var rules, class []*limitRule
	all := 0
	if x.limits != nil {
		if x.limits.bad != "" {
			x.note(x.limits.bad)
			return refuseBackend
		}
		rules = x.limits.late
		all = len(rules) + len(x.limits.early)
	}
	if x.link.door != nil && x.key != nil && x.key.LimitClass != "" {
		name := route.Name{Namespace: x.key.Namespace, Name: x.key.LimitClass}
		if class = x.v.Limits.class(name); len(class) == 0 {
			x.note("limitClass of its API key: RateLimit " + name.String() + " does not exist")
			return refuseBackend
		}
		if all+len(class) > route.MaxLimitRules {
			x.note("more rules of RateLimits hold for it than are counted")
			return refuseBackend
		}
	}
	header := x.ask.Header
	x.ask.Header = x.r.Header
	no := x.take(rules, class)
	x.ask.Header = header
	return no
}

func (l *Limits) class(name route.Name) []*limitRule {
	if l == nil {
		return nil
	}
	return l.classes[name]
}

// take counts the request against the rules that are about it: all of them, or none. It does not allocate where it
// admits.
func (x *exchange) take(rules, class []*limitRule) *refused {
	if len(rules)+len(class) == 0 {
		return nil
	}
	t := x.tally
	if t == nil {
		t = tallies.Get().(*tally)
		x.tally = t
	}
	start := len(t.asks)
	var bounds []policy.Bound
	for _, list := range [...][]*limitRule{rules, class} {
		for _, r := range list {
			if r.test >= 0 {
				if bounds == nil {
					bounds = x.limitBounds()
				}
				if bounds != nil && !bounds[r.test].Matches(&x.ask) {
					continue
				}
			}
			x.fillKey(t.add(r), r)
		}
	}
	asks := t.asks[start:]
	if len(asks) == 0 {
		return nil
	}
	t.decision = x.p.limiter.Take(x.now.Sub(x.p.began), asks)
	x.countLimits(asks, t.rules[start:])
	if t.decision.Admitted() {
		return nil
	}
	return x.limited(asks, t.rules[start:], t.decision)
}

// limitBounds are the conditions of limits at this connection; nil if its peer is trusted no more: all limits hold, and
// policy refuses it.
func (x *exchange) limitBounds() []policy.Bound {
	b, ok := x.link.bind(x.v, x.now)
	if !ok {
		return nil
	}
	return x.link.limits(b)
}

// fillKey gives an ask the parts of its key. Each kind of part begins as no other does and ends as it alone can, so
// that two requests have one key only if all of their parts are the same.
func (x *exchange) fillKey(a *limit.Ask, r *limitRule) {
	if r.byKey {
		x.keyAPIKey(a)
	}
	for i := range r.key {
		part := &r.key[i]
		switch part.Kind {
		case route.KeyPrincipal:
			x.keyPrincipal(a)
		case route.KeyPeer:
			value(a, x.link.peerID)
		case route.KeyAPIKey:
			x.keyAPIKey(a)
		case route.KeyClient:
			if t := x.ask.Token; t != nil {
				value(a, t.Presenter())
			} else {
				a.Absent()
			}
		case route.KeyClaim:
			var texts []string
			if t := x.ask.Token; t != nil {
				texts = t.Claim(part.Claim)
			}
			values(a, texts)
		case route.KeyIP:
			a.IP(x.clientAddr(), part.V4, part.V6)
		case route.KeyHeader:
			values(a, x.r.Header[part.Header])
		case route.KeyHost:
			host, _ := h1.LookupHost(x.host)
			value(a, host)
		case route.KeyMethod:
			value(a, knownMethod(x.r.Method))
		case route.KeyRoute:
			a.Value(x.counted.Route.Namespace)
			a.Value(x.counted.Route.Name.Name)
		case route.KeyPath:
			value(a, x.path)
		case route.KeyService:
			backends := x.counted.Rule.Backends
			for j := range backends {
				if backends[j].Weight > 0 {
					a.Value(backends[j].Namespace)
					a.Value(backends[j].Ref.Name.Name)
				}
			}
			a.Absent()
		default:
			a.Absent() // one bucket for all: a part that is not known narrows nothing
		}
	}
}

func value(a *limit.Ask, s string) {
	if s == "" {
		a.Absent()
		return
	}
	a.Value(s)
}

func values(a *limit.Ask, texts []string) {
	for _, s := range texts {
		a.Value(s)
	}
	a.Absent()
}

// keyPrincipal: who is known by nothing else is counted by his address.
func (x *exchange) keyPrincipal(a *limit.Ask) {
	if t := x.ask.Token; t != nil && t.Issuer() != "" && t.Subject() != "" {
		a.Value(t.Issuer())
		a.Value(t.Subject())
		return
	}
	a.Absent()
	if x.link.peerID != "" {
		a.Value(x.link.peerID)
		return
	}
	a.IP(x.clientAddr(), 32, 64)
}

func (x *exchange) keyAPIKey(a *limit.Ask) {
	if x.key == nil {
		a.Absent()
		return
	}
	a.Value(x.key.Namespace)
	a.Value(x.key.Name)
}

// knownMethod keeps methods that a caller makes up in one bucket.
func knownMethod(m string) string {
	switch m {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		return m
	}
	return ""
}

// countLimits feeds the metrics, and notes in the record what a shadow would have refused.
func (x *exchange) countLimits(asks []limit.Ask, rules []*limitRule) {
	for i := range asks {
		counter := x.v.limitCounters[rules[i].number]
		switch asks[i].Result() {
		case limit.Admitted:
			counter.Count(telemetry.LimitAdmitted)
		case limit.Refused:
			counter.Count(telemetry.LimitRefused)
		case limit.Overflow:
			counter.Count(telemetry.LimitOverflow)
		case limit.Shadow:
			counter.Count(telemetry.LimitShadow)
			x.note("shadow " + rules[i].text)
		}
	}
}

// limited is the answer to a request over a limit (gateway.md 17).
func (x *exchange) limited(asks []limit.Ask, rules []*limitRule, d limit.Decision) *refused {
	r := rules[slices.IndexFunc(asks, func(a limit.Ask) bool { return a.Rule() == d.Violated })]
	no := &refused{
		status: limit.Status, layer: audit.LayerLimit, reason: "rate", text: "request limit reached", decision: audit.Limited, keep: true,
		detail: r.text, body: d.Problem(), pushback: "-1",
	}
	switch after := d.RetryAfter(); {
	case r.Concurrent():
		no.reason = "concurrency"
		fallthrough
	case after > 0:
		no.retry = strconv.FormatInt(after, 10)
		no.pushback = strconv.FormatInt(min(int64((d.Wait+time.Millisecond-1)/time.Millisecond), after*1000), 10)
	}
	switch {
	case r.Concurrent():
	case d.Wait == limit.Never:
		no.detail += ", less than one request counts"
	default:
		no.detail += ", " + waitText(d.Wait) + " to wait"
	}
	x.rec.Policy, x.rec.Rule = r.object, r.index+1
	return no
}

// waitText is a wait for people, rounded up: 12s, 1m5s.
func waitText(d time.Duration) string {
	return route.DurationText((d + time.Second - 1) / time.Second * time.Second)
}

// tellLimits says in an answer what its client has left.
func (x *exchange) tellLimits(h http.Header) {
	if x.tally == nil {
		return
	}
	t := x.tally
	delete(h, limitField)
	delete(h, policyField)
	if b := t.decision.AppendPolicy(nil, t.asks); len(b) > 0 {
		h[policyField] = []string{string(b)}
		h[limitField] = []string{string(t.decision.AppendLimit(nil, t.asks))}
	}
	if to := h["Location"]; len(to) == 1 {
		x.hideLimits(h, to[0])
	}
}

// The fields as net/http spells them.
var limitField, policyField = http.CanonicalHeaderKey(limit.LimitField), http.CanonicalHeaderKey(limit.PolicyField)

// hideLimits takes the fields out of a redirect to another host, whose limits they are not.
func (x *exchange) hideLimits(h http.Header, to string) {
	u, err := url.Parse(to)
	own, _ := h1.LookupHost(x.r.Host)
	if err == nil && (u.Host == "" || strings.EqualFold(u.Hostname(), own)) {
		return
	}
	delete(h, limitField)
	delete(h, policyField)
}

// endLimits gives back what the exchange held: its record is written.
func (x *exchange) endLimits() {
	t := x.tally
	if t == nil {
		return
	}
	x.tally = nil
	limit.Release(t.asks)
	clear(t.rules) // they hold a view
	t.asks, t.rules, t.decision = t.asks[:0], t.rules[:0], limit.Decision{}
	tallies.Put(t)
}
