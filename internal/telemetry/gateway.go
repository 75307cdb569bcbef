package telemetry

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of the series of Gateways (gateway.md section 23): with all others of this file, but those of the rules of
// RateLimits, they are fewer than 600 however many routes there are and whatever strangers send. What has no room
// counts as route "other", then as gateway "other" too.
const (
	maxGatewayRoutes  = 200 // label sets of requests told apart
	maxGatewayTimed   = 8   // routes whose times are told apart; each takes ten series twice
	maxGatewayRefused = 40  // reasons told apart
	maxGatewayStreams = 12  // routes whose streams are told apart
	maxGatewayPorts   = 16  // ports, and certificates: those that end first
	gatewayOverrun    = 24  // label sets with one "other"
	noRoute           = "none"
)

// gatewayBuckets are, with infinity, the 8 of request_seconds and upstream_seconds.
var gatewayBuckets = []float64{.005, .025, .1, .25, 1, 2.5, 10}

// GatewayRequest is one exchange at a door.
type GatewayRequest struct {
	Gateway, Listener, Route string // ns/name, name, ns/name; Listener and Route may be empty
	Class, By                string
	Allowed                  bool // only then does a route that was not seen yet get a label of its own
	Took, Upstream           time.Duration
}

// GatewayFacts is what a role knows of its Gateways when metrics are read.
type GatewayFacts struct {
	Routes, Bytes int // of the table
	Connections   []GatewayPort
}

// GatewayPort is how many connections a port of a Gateway has.
type GatewayPort struct {
	Gateway string
	Port    uint16
	Count   int
}

// GatewayCertificate is when what a listener shows ends.
type GatewayCertificate struct {
	Gateway, Listener string
	NotAfter          time.Time
}

// Stream is one exchange under way; a nil one is none.
type Stream struct{ gauge prometheus.Gauge }

// End takes it out of the count.
func (s *Stream) End() {
	if s != nil {
		s.gauge.Dec()
	}
}

type (
	requestLabels struct{ gateway, listener, route, class, by string }
	timeLabels    struct{ gateway, route string }
	refusedLabels struct{ gateway, layer, reason string }
)

// gatewayMetrics are those of Gateways.
type gatewayMetrics struct {
	requests   *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	upstream   *prometheus.HistogramVec
	refused    *prometheus.CounterVec
	streams    *prometheus.GaugeVec
	handshakes *prometheus.CounterVec
	reload     prometheus.Histogram

	names      family[string, bool] // of routes: true if they may have series of their own
	byRequest  family[requestLabels, prometheus.Counter]
	byTime     family[timeLabels, prometheus.Observer]
	byUpstream family[timeLabels, prometheus.Observer]
	byRefusal  family[refusedLabels, prometheus.Counter]
	byStream   family[string, *Stream]

	facts        atomic.Pointer[func() GatewayFacts]
	certificates atomic.Pointer[func() []GatewayCertificate]
}

// family finds the series of label sets. A look-up takes no lock and allocates nothing.
type family[K comparable, V any] struct {
	series atomic.Pointer[map[K]V] // copied when a label set is new
	mu     sync.Mutex              // guards writing it; held for one copy
	room   [2]int                  // how many there may be before a label set becomes wider, and wider still
	wider  func(k K, step int) K
	open   func(K) V
	shut   func(K)
}

// get gives the series of a label set; new: it may become one of its own.
func (f *family[K, V]) get(k K, fresh bool) V {
	for step, room := range f.room {
		known := *f.series.Load()
		if v, ok := known[k]; ok {
			return v
		}
		if len(known) < room && (fresh || step > 0) {
			return f.add(k)
		}
		k = f.wider(k, step)
	}
	if v, ok := (*f.series.Load())[k]; ok {
		return v
	}
	return f.add(k)
}

func (f *family[K, V]) add(k K) V {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := *f.series.Load()
	if v, ok := known[k]; ok {
		return v
	}
	next := maps.Clone(known)
	next[k] = f.open(k)
	f.series.Store(&next)
	return next[k]
}

// keep forgets the series whose label sets are of something that is no more.
func (f *family[K, V]) keep(still func(K) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := maps.Clone(*f.series.Load())
	for k := range next {
		if !still(k) {
			delete(next, k)
			f.shut(k)
		}
	}
	f.series.Store(&next)
}

func newFamily[K comparable, V any](f *family[K, V], most, more int, wider func(K, int) K, open func(K) V, shut func(K)) {
	f.room, f.wider, f.open, f.shut = [2]int{most, more}, wider, open, shut
	f.series.Store(&map[K]V{})
}

func (m *Metrics) registerGateways() {
	g := &m.gateways
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "countersign_gateway_" + name, Help: help}, labels)
	}
	histogram := func(name, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: "countersign_gateway_" + name, Help: help, Buckets: gatewayBuckets}
	}
	g.requests = counter("requests_total", "Exchanges at Gateways, by route, class of the status, and whose the status is (client, gateway, upstream).",
		"gateway", "listener", "route", "code", "status_by")
	g.seconds = prometheus.NewHistogramVec(histogram("request_seconds", "Time from the head of a request to the end of its answer."), []string{"gateway", "route"})
	g.upstream = prometheus.NewHistogramVec(histogram("upstream_seconds", "Time until the head of a service's answer."), []string{"gateway", "route"})
	g.refused = counter("refused_total", "Exchanges and handshakes refused or failed, by layer and reason, as records name them.", "gateway", "layer", "reason")
	g.streams = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "countersign_gateway_active_streams", Help: "Exchanges under way to services."}, []string{"route"})
	g.handshakes = counter("handshakes_total", "TLS handshakes, by result: ok, failed, or why the caller was turned away.", "result")
	g.reload = prometheus.NewHistogram(histogram("reload_seconds", "Time to put a new table of routes in force."))
	m.registry.MustRegister(g.requests, g.seconds, g.upstream, g.refused, g.streams, g.handshakes, g.reload, g)

	newFamily(&g.names, maxGatewayRoutes, maxGatewayRoutes, func(string, int) string { return other },
		func(route string) bool { return route != other }, func(string) {})
	newFamily(&g.byRequest, maxGatewayRoutes, maxGatewayRoutes+gatewayOverrun, func(k requestLabels, step int) requestLabels {
		if k.route = other; step > 0 {
			k.gateway, k.listener = other, other
		}
		return k
	}, func(k requestLabels) prometheus.Counter {
		return g.requests.WithLabelValues(k.gateway, k.listener, k.route, k.class, k.by)
	}, func(k requestLabels) { g.requests.DeleteLabelValues(k.gateway, k.listener, k.route, k.class, k.by) })
	for f, vec := range map[*family[timeLabels, prometheus.Observer]]*prometheus.HistogramVec{&g.byTime: g.seconds, &g.byUpstream: g.upstream} {
		newFamily(f, maxGatewayTimed, maxGatewayTimed+1, func(k timeLabels, step int) timeLabels {
			if k.route = other; step > 0 {
				k.gateway = other
			}
			return k
		}, func(k timeLabels) prometheus.Observer { return vec.WithLabelValues(k.gateway, k.route) },
			func(k timeLabels) { vec.DeleteLabelValues(k.gateway, k.route) })
	}
	newFamily(&g.byRefusal, maxGatewayRefused, maxGatewayRefused+4, func(k refusedLabels, step int) refusedLabels {
		if k.reason = other; step > 0 {
			k.gateway = other
		}
		return k
	}, func(k refusedLabels) prometheus.Counter {
		return g.refused.WithLabelValues(k.gateway, k.layer, k.reason)
	}, func(k refusedLabels) { g.refused.DeleteLabelValues(k.gateway, k.layer, k.reason) })
	newFamily(&g.byStream, maxGatewayStreams, maxGatewayStreams, func(string, int) string { return other }, func(route string) *Stream {
		return &Stream{g.streams.WithLabelValues(route)}
	}, func(route string) { g.streams.DeleteLabelValues(route) })
}

// GatewayRequest counts one exchange at a door.
func (m *Metrics) GatewayRequest(r *GatewayRequest) {
	if m == nil {
		return
	}
	g, route := &m.gateways, cmp.Or(r.Route, noRoute)
	fresh := r.Route == "" || g.names.get(route, r.Allowed)
	g.byRequest.get(requestLabels{r.Gateway, r.Listener, route, r.Class, r.By}, fresh).Inc()
	g.byTime.get(timeLabels{r.Gateway, route}, fresh).Observe(r.Took.Seconds())
	if r.Upstream > 0 {
		g.byUpstream.get(timeLabels{r.Gateway, route}, fresh).Observe(r.Upstream.Seconds())
	}
}

// GatewayRefused counts a refusal of a Gateway.
func (m *Metrics) GatewayRefused(gateway, layer, reason string) {
	if m != nil {
		m.gateways.byRefusal.get(refusedLabels{gateway, layer, reason}, true).Inc()
	}
}

// GatewayStream counts an exchange that is under way to a service, until its end.
func (m *Metrics) GatewayStream(route string) *Stream {
	if m == nil {
		return nil
	}
	s := m.gateways.byStream.get(route, true)
	s.gauge.Inc()
	return s
}

// GatewayHandshake counts a handshake.
func (m *Metrics) GatewayHandshake(result string) {
	if m != nil {
		m.gateways.handshakes.WithLabelValues(result).Inc()
	}
}

// GatewayReload counts a table of routes that was put in force.
func (m *Metrics) GatewayReload(took time.Duration) {
	if m != nil {
		m.gateways.reload.Observe(took.Seconds())
	}
}

// Gateways says who knows of doors and their table.
func (m *Metrics) Gateways(facts func() GatewayFacts) {
	if m != nil {
		m.gateways.facts.Store(&facts)
	}
}

// GatewayCertificates says who knows when the certificates of listeners end.
func (m *Metrics) GatewayCertificates(list func() []GatewayCertificate) {
	if m != nil {
		m.gateways.certificates.Store(&list)
	}
}

// KeepRoutes forgets the series of routes that are no more. An exchange that is still under way counts for nobody.
func (m *Metrics) KeepRoutes(has func(route string) bool) {
	if m == nil {
		return
	}
	still := func(route string) bool { return route == noRoute || route == other || has(route) }
	g := &m.gateways
	g.names.keep(still)
	g.byRequest.keep(func(k requestLabels) bool { return still(k.route) })
	g.byTime.keep(func(k timeLabels) bool { return still(k.route) })
	g.byUpstream.keep(func(k timeLabels) bool { return still(k.route) })
	g.byStream.keep(still)
}

var (
	gatewayConnections = prometheus.NewDesc("countersign_gateway_connections", "Connections at ports of Gateways.", []string{"gateway", "port"}, nil)
	gatewayEnds        = prometheus.NewDesc("countersign_gateway_certificate_not_after_seconds", "When what a listener shows ends, in seconds since 1970.", []string{"gateway", "listener"}, nil)
	gatewayRoutes      = prometheus.NewDesc("countersign_gateway_table_routes", "Routes attached to Gateways.", nil, nil)
	gatewayBytes       = prometheus.NewDesc("countersign_gateway_table_bytes", "Memory of the table of routes, about.", nil, nil)
)

// Describe is of prometheus.Collector.
func (g *gatewayMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{gatewayConnections, gatewayEnds, gatewayRoutes, gatewayBytes} {
		out <- d
	}
}

// Collect is of prometheus.Collector: it asks for what is not counted.
func (g *gatewayMetrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if facts := g.facts.Load(); facts != nil {
		f := (*facts)()
		gauge(gatewayRoutes, float64(f.Routes))
		gauge(gatewayBytes, float64(f.Bytes))
		for at, n := range connections(f.Connections) {
			gauge(gatewayConnections, float64(n), at[0], at[1])
		}
	}
	if list := g.certificates.Load(); list != nil {
		ends := (*list)()
		slices.SortFunc(ends, func(a, b GatewayCertificate) int { return a.NotAfter.Compare(b.NotAfter) })
		for _, c := range ends[:min(len(ends), maxGatewayPorts)] {
			gauge(gatewayEnds, float64(c.NotAfter.Unix()), c.Gateway, c.Listener)
		}
	}
}

// connections adds up what several sockets of a port have; ports beyond the bound are one.
func connections(list []GatewayPort) map[[2]string]int {
	slices.SortFunc(list, func(a, b GatewayPort) int {
		return cmp.Or(strings.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Port, b.Port))
	})
	out := map[[2]string]int{}
	for _, p := range list {
		at := [2]string{p.Gateway, strconv.Itoa(int(p.Port))}
		if _, known := out[at]; !known && len(out) >= maxGatewayPorts {
			at = [2]string{other, other}
		}
		out[at] += p.Count
	}
	return out
}
