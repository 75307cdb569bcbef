package proxy

import (
	"cmp"
	"strings"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/route"
	"countersign.dev/internal/telemetry"
)

// seen is what the metrics of a Gateway ask of an exchange and its record does not have.
type seen struct {
	route  string            // ns/name of the one that took it
	sent   time.Time         // when it went on to its backend
	stream *telemetry.Stream // nil: it never did
}

// greeting is what a client said before a handshake failed.
type greeting struct {
	server  string // name it asked for
	unknown bool   // for which no listener shows a certificate
}

// unrecognizedName is the reason in records of the TLS alert of that name (RFC 6066 section 3).
const unrecognizedName = "unrecognized_name"

// sending begins the part of an exchange that its backend has to answer for.
func (x *exchange) sending() {
	x.seen.sent = x.p.now()
	x.seen.stream = x.p.metrics.GatewayStream(x.seen.route)
}

func (x *exchange) upstreamAnswered() {
	if x.link.door != nil {
		x.rec.UpstreamDur = x.p.now().Sub(x.seen.sent)
	}
}

// countAtDoor completes the record of an exchange at a door, and feeds the metrics of its Gateway.
func (x *exchange) countAtDoor() {
	if x.link.door == nil {
		return
	}
	rec := &x.rec
	rec.StatusBy = statusBy(rec, x.answered)
	x.p.metrics.GatewayRequest(&telemetry.GatewayRequest{
		Gateway: rec.Gateway, Listener: rec.Listener, Route: x.seen.route, Class: telemetry.Class(rec.Status), By: rec.StatusBy,
		Allowed: !rec.Refused(), Took: rec.Dur, Upstream: rec.UpstreamDur,
	})
	if rec.Refused() {
		x.p.metrics.GatewayRefused(rec.Gateway, cmp.Or(rec.Layer, "upstream"), cmp.Or(rec.Reason, rec.Error))
	}
}

// countFault is countAtDoor for a head in which nobody saw a request.
func (p *Proxy) countFault(l *link, rec *audit.Record) {
	if l.door == nil {
		return
	}
	rec.StatusBy = audit.ByClient
	p.metrics.GatewayRequest(&telemetry.GatewayRequest{Gateway: rec.Gateway, Class: telemetry.Class(rec.Status), By: rec.StatusBy})
	p.metrics.GatewayRefused(rec.Gateway, rec.Layer, rec.Reason)
}

// statusBy is who answers for a status (http-strictness.md 10.5): the client for what it did wrong or may not do, the
// upstream for its own answers and for what it failed to answer, the Gateway for all else.
func statusBy(rec *audit.Record, answered bool) string {
	switch {
	case rec.Status == statusClientGone:
		return audit.ByClient
	case answered:
		return audit.ByUpstream
	case rec.Decision == audit.Deny || rec.Decision == audit.Limited:
		return audit.ByClient
	case strings.HasPrefix(rec.Error, "upstream_"), rec.Error == "port_not_proven", rec.Reason == "unverified_endpoint":
		return audit.ByUpstream
	}
	return audit.ByGateway
}

// statusClientGone is in records of clients that left before their answer had.
const statusClientGone = 499

// gatewayFacts is what the metrics ask of the doors when they are read.
func (p *Proxy) gatewayFacts() telemetry.GatewayFacts {
	f := telemetry.GatewayFacts{}
	if t := p.view.Load().Routes; t != nil {
		f.Routes, f.Bytes = t.Size()
	}
	for _, r := range p.all() {
		for _, d := range r.doors {
			f.Connections = append(f.Connections, telemetry.GatewayPort{Gateway: r.label, Port: d.Port, Count: d.crowd.count()})
		}
	}
	return f
}

// keepRoutes forgets what is counted of routes that are no more.
func (p *Proxy) keepRoutes(t *route.Table) {
	p.metrics.KeepRoutes(func(name string) bool { return t != nil && t.Has(name) })
}
