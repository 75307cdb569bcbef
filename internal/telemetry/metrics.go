// Package telemetry is how a role tells how it is: the log, the metrics, and the pages /livez,
// /readyz and /metrics. It is the only home of the Prometheus library.
//
// Its words: a caller and a callee are workloads by their SPIFFE ID or short name, whichever the
// one who counts uses throughout; a class is the first digit of a status ("2xx"); a check is one
// thing that must hold for a role to be ready.
//
// Its promise: no label grows without bound, counting a request allocates nothing, no value that
// a stranger chose can forge a log line, and the pages answer loopback names only.
package telemetry

import (
	"maps"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	maxSeries  = 1_000   // label sets of requests told apart; then caller and callee are "other"
	maxOverrun = 64      // label sets with those two "other"; then all four are
	maxCerts   = 1_000   // certificates told apart; later ones are not shown
	other      = "other" // a label value that stands for the many
)

// Metrics counts what a role does, in a registry of its own. Its methods may be called at once
// from anywhere; a nil Metrics counts nothing.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	expiry   *prometheus.GaugeVec
	store    prometheus.Gauge
	stream   prometheus.Gauge
	stale    prometheus.Gauge
	offset   prometheus.Gauge
	tokens   *prometheus.CounterVec
	keys     *prometheus.CounterVec

	limits    *prometheus.CounterVec
	limited   map[string]*LimitCounter // by rule; under mu
	limitKeys atomic.Pointer[func() int]

	gateways gatewayMetrics

	series atomic.Pointer[map[labels]series] // copied when a label set is new, read without a lock
	mu     sync.Mutex                        // guards writing series, and certs; held for one copy
	certs  map[[2]string]bool
}

// labels are those of countersign_requests_total.
type labels struct{ caller, callee, decision, class string }

// series is what one label set counts into.
type series struct {
	count   prometheus.Counter
	seconds prometheus.Observer
}

// NewMetrics makes the metrics of one role; version goes into countersign_build_info.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_requests_total",
			Help: "Calls by caller, callee, decision (allow, deny, limited, failed) and class of the status.",
		}, []string{"caller", "callee", "decision", "class"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "countersign_request_seconds",
			Help:    "Time from the head of a request to the end of its answer.",
			Buckets: []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"callee"}),
		expiry: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "countersign_certificate_expiry_seconds",
			Help: "When the certificate in use ends, in seconds since 1970.",
		}, []string{"kind", "name"}),
		store: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "countersign_store_up", Help: "1 while the store answers.",
		}),
		stream: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "countersign_stream_up", Help: "1 while the stream between node and server stands.",
		}),
		stale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "countersign_revocations_stale", Help: "1 while this node has not heard of revoked tokens for 30 seconds.",
		}),
		offset: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "countersign_clock_offset_seconds", Help: "How far this node's clock is ahead of the server's.",
		}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_token_requests_total",
			Help: "Requests to the token service by grant (client_credentials, token-exchange, other) and decision.",
		}, []string{"grant", "decision"}),
		keys: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_apikey_checked_total",
			Help: "API keys that callers of Gateways showed, by result: ok, or what was wrong.",
		}, []string{"result"}),
		certs: map[[2]string]bool{},
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "countersign_build_info", Help: "Always 1; what is running.",
		ConstLabels: prometheus.Labels{"version": strings.ToValidUTF8(version, "?"), "go": runtime.Version()},
	})
	build.Set(1)
	m.registerLimits()
	m.registerGateways()
	m.series.Store(&map[labels]series{})
	m.registry.MustRegister(m.requests, m.seconds, m.expiry, m.store, m.stream, m.stale, m.offset, m.tokens, m.keys, build,
		collectors.NewGoCollector(
			collectors.WithGoCollectorMemStatsMetricsDisabled(),
			collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{
				Matcher: regexp.MustCompile(`^/(memory/classes/(total|heap/objects):bytes|gc/heap/allocs:(bytes|objects))$`),
			}),
		))
	return m
}

// Request counts one call. Beyond the bound of label sets, caller and callee become "other".
func (m *Metrics) Request(caller, callee, decision, class string, d time.Duration) {
	if m == nil {
		return
	}
	want := labels{caller, callee, decision, class}
	s, ok := (*m.series.Load())[want]
	if !ok {
		s = m.find(want)
	}
	s.count.Inc()
	s.seconds.Observe(d.Seconds())
}

// find gives the series of a label set that has none yet: a new one while there is room, else
// the one that stands for the many.
func (m *Metrics) find(want labels) series {
	for _, room := range []int{maxSeries, maxSeries + maxOverrun} {
		known := *m.series.Load()
		if s, ok := known[want]; ok {
			return s
		}
		if len(known) < room {
			return m.addSeries(want)
		}
		want.caller, want.callee = other, other
	}
	want = labels{other, other, other, other}
	if s, ok := (*m.series.Load())[want]; ok {
		return s
	}
	return m.addSeries(want)
}

func (m *Metrics) addSeries(want labels) series {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := *m.series.Load()
	if s, ok := known[want]; ok {
		return s
	}
	utf8 := func(s string) string { return strings.ToValidUTF8(s, "?") } // else the library panics
	s := series{
		count:   m.requests.WithLabelValues(utf8(want.caller), utf8(want.callee), utf8(want.decision), utf8(want.class)),
		seconds: m.seconds.WithLabelValues(utf8(want.callee)),
	}
	next := maps.Clone(known)
	// The strings may be parts of a large buffer of the caller's; the map keeps them for good.
	next[labels{strings.Clone(want.caller), strings.Clone(want.callee), strings.Clone(want.decision), strings.Clone(want.class)}] = s
	m.series.Store(&next)
	return s
}

// Class is the label of a status: "2xx"; "none" if there was no answer.
func Class(status int) string {
	switch status / 100 {
	case 1:
		return "1xx"
	case 2:
		return "2xx"
	case 3:
		return "3xx"
	case 4:
		return "4xx"
	case 5:
		return "5xx"
	}
	return "none"
}

// CertificateExpiry says when a certificate in use ends; kind is root, issuer, node, server or
// workload.
func (m *Metrics) CertificateExpiry(kind, name string, notAfter time.Time) {
	if m == nil {
		return
	}
	kind, name = strings.ToValidUTF8(kind, "?"), strings.ToValidUTF8(name, "?")
	m.mu.Lock()
	defer m.mu.Unlock()
	key := [2]string{kind, name}
	if !m.certs[key] && len(m.certs) >= maxCerts {
		return
	}
	m.certs[key] = true
	m.expiry.WithLabelValues(kind, name).Set(float64(notAfter.Unix()))
}

// CertificateGone forgets a certificate that is no longer in use.
func (m *Metrics) CertificateGone(kind, name string) {
	if m == nil {
		return
	}
	kind, name = strings.ToValidUTF8(kind, "?"), strings.ToValidUTF8(name, "?")
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.certs, [2]string{kind, name})
	m.expiry.DeleteLabelValues(kind, name)
}

// StoreUp says whether the store answers.
func (m *Metrics) StoreUp(up bool) {
	if m != nil {
		m.store.Set(value(up))
	}
}

// StreamUp says whether the stream between node and server stands.
func (m *Metrics) StreamUp(up bool) {
	if m != nil {
		m.stream.Set(value(up))
	}
}

func value(up bool) float64 {
	if up {
		return 1
	}
	return 0
}

// Handler serves /metrics in the formats of Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// RevocationsStale says whether the log of revoked tokens is out of date.
func (m *Metrics) RevocationsStale(stale bool) {
	if m != nil {
		m.stale.Set(value(stale))
	}
}

// ClockOffset says how far this clock is ahead of the server's.
func (m *Metrics) ClockOffset(d time.Duration) {
	if m != nil {
		m.offset.Set(d.Seconds())
	}
}

// TokenRequest counts one request to the token service.
func (m *Metrics) TokenRequest(grant, decision string) {
	if m == nil {
		return
	}
	switch grant {
	case "client_credentials", "token-exchange":
	default:
		grant = other
	}
	m.tokens.WithLabelValues(grant, decision).Inc()
}

// APIKey counts a key that a Gateway checked; result is empty for one that was taken, else one of apikey's reasons.
func (m *Metrics) APIKey(result string) {
	if m == nil {
		return
	}
	if result == "" {
		result = "ok"
	}
	m.keys.WithLabelValues(result).Inc()
}
