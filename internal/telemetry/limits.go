package telemetry

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// maxLimits is how many rules of RateLimits are told apart; the rest is one.
const maxLimits = 100

// limitResults are the values of the label result, in the order of LimitCounter.
var limitResults = [...]string{"admitted", "refused", "shadow", "overflow"}

// LimitCounter counts what one rule said. A nil one counts nothing.
type LimitCounter [len(limitResults)]prometheus.Counter

// The indices of a LimitCounter.
const (
	LimitAdmitted = iota
	LimitRefused
	LimitShadow
	LimitOverflow
)

// Count counts one result. It does not allocate.
func (c *LimitCounter) Count(result int) {
	if c != nil {
		c[result].Inc()
	}
}

// Limits gives the counters of the rules in force, in their order. The series of rules that are no more are forgotten.
func (m *Metrics) Limits(rules []string) []*LimitCounter {
	out := make([]*LimitCounter, len(rules))
	if m == nil {
		return out
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.limited {
		if name != other && !slices.Contains(rules, name) {
			for _, result := range limitResults {
				m.limits.DeleteLabelValues(name, result)
			}
			delete(m.limited, name)
		}
	}
	for i, name := range rules {
		if m.limited[name] == nil && len(m.limited) >= maxLimits {
			name = other
		}
		c := m.limited[name]
		if c == nil {
			c = new(LimitCounter)
			for j, result := range limitResults {
				c[j] = m.limits.WithLabelValues(name, result)
			}
			m.limited[name] = c
		}
		out[i] = c
	}
	return out
}

// LimitKeys says who counts the buckets of the limiter.
func (m *Metrics) LimitKeys(count func() int) {
	if m != nil {
		m.limitKeys.Store(&count)
	}
}

func (m *Metrics) registerLimits() {
	m.limits = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "countersign_gateway_limit_total",
		Help: "What rules of RateLimits said of requests: admitted, refused, shadow (would have refused), overflow (admitted by a bucket that keys share).",
	}, []string{"rule", "result"})
	m.limited = map[string]*LimitCounter{}
	m.registry.MustRegister(m.limits, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "countersign_gateway_limit_keys", Help: "Buckets that the limiter holds.",
	}, func() float64 {
		if count := m.limitKeys.Load(); count != nil {
			return float64((*count)())
		}
		return 0
	}))
}
