package proxy

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/gate"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/route"
)

// Door is one socket of a Gateway: callers from outside the mesh come in by it.
type Door struct {
	Listener net.Listener
	Port     uint16 // of the Gateway's listeners; the routes know it
	// Certificate is what the listener of that name shows to a server name; nil: plain HTTP.
	Certificate func(listener, server string) Shown
	Callers     func() *Callers // how TLS asks for SVIDs now; a nil func, or nil: not at all
}

// door is a Door being served. A Gateway is a run without a program.
type door struct {
	Door
	run       *run
	edge      edge
	greetings greetings
	crowd     crowd
	via       string // pseudonym of the Gateway in Via
}

func newDoor(r *run, d Door) *door {
	sum := sha256.Sum256([]byte(r.text))
	return &door{Door: d, run: r, via: "cs-" + hex.EncodeToString(sum[:4])}
}

// gateway is the name of the Gateway that a run is.
func (r *run) gateway() route.Name { return route.Name{Namespace: r.Namespace, Name: r.Name} }

// accept serves the door until its socket is closed.
func (d *door) accept(ctx context.Context) {
	var hands sync.WaitGroup
	defer hands.Wait()
	p := d.run.p
	_ = p.accept(ctx, d.Listener, func(c net.Conn) {
		under := &socket{Conn: c}
		l := p.newLink(d.run, under)
		l.door, l.edge = d, &d.edge
		l.key, l.service, l.port = d.run.key, d.run.label, d.Port
		if !d.seat(l) {
			_ = under.Close()
			return
		}
		if !d.run.open.add(l) {
			d.unseat(l)
			_ = under.Close()
			return
		}
		if d.Certificate == nil {
			d.run.front.give(p.gated(under, l, gate.Options{AllowH2C: true}), l)
			return
		}
		leave := d.greetings.enter(c)
		hands.Go(func() {
			defer leave()
			d.greet(ctx, l, under)
		})
	})
}

// greet does the handshake of a stranger: the server name chooses the listener, and with it the certificate.
func (d *door) greet(ctx context.Context, l *link, under *socket) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	var named greeting
	conn := tls.Server(under, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := d.config(hello)
			named = greeting{hello.ServerName, err == nil && len(c.Certificates) == 0}
			return c, err
		}, Time: d.run.p.now,
	})
	err := conn.HandshakeContext(ctx)
	cs := conn.ConnectionState()
	if err != nil || !d.settle(l, &cs) {
		d.turnedAway(l, &named, err)
		tellPlain(under, err)
		d.run.open.remove(l)
		_ = under.Close()
		return
	}
	d.run.p.metrics.GatewayHandshake("ok")
	l.front = &cs
	l.greeted.Store(true)
	if l.recheck(d.run.p.view.Load()); l.gone.Load() { // what a door asks may have changed meanwhile
		d.run.open.remove(l)
		return
	}
	if cs.NegotiatedProtocol == "h2" {
		d.run.front.give(conn, l) // net/http knows HTTP/2 by the bare *tls.Conn
		return
	}
	d.run.front.give(d.run.p.gated(conn, l, gate.Options{}), l)
}

// config is that of the listener for a server name. Without a certificate the handshake ends with
// unrecognized_name, and shows none (gateway.md 4.3).
func (d *door) config(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true, Time: d.run.p.now,
	}
	port := d.run.p.view.Load().port(d)
	if port == nil {
		return c, nil
	}
	name := serverName(hello.ServerName)
	if at := port.Router(name); at != nil {
		d.Certificate(at.Listener, name).onto(c)
	}
	d.ask(c)
	return c, nil
}

// serverName is a server name in look-up form.
func serverName(sni string) string { return strings.TrimSuffix(strings.ToLower(sni), ".") }

// port is what is attached to the listeners behind a door.
func (v *view) port(d *door) *route.Port {
	if v.Routes == nil {
		return nil
	}
	return v.Routes.Port(d.run.gateway(), d.Port)
}

// The refusals of a Gateway (gateway.md 6.3, 8.1).
var (
	refuseNoRoute     = &refused{status: 404, layer: audit.LayerRoute, reason: "no_route", text: "no route", keep: true}
	refuseOtherHost   = &refused{status: 421, layer: audit.LayerHTTP, reason: h1.AuthorityMismatch, text: "Host is another listener's", keep: true}
	refuseBackend     = &refused{status: 500, layer: audit.LayerRoute, reason: "bad_backend", text: "no backend", decision: audit.Failed, keep: true, grpc: 14}
	refuseLoop        = &refused{status: 508, layer: audit.LayerRoute, reason: "loop", text: "the request goes in circles", keep: true}
	refuseReplaced    = &refused{status: 400, layer: audit.LayerHTTP, reason: h1.BadPath, text: "path cannot be rewritten", keep: true}
	refuseOverdueRule = &refused{status: 504, text: "upstream timed out", err: "upstream_timeout", decision: audit.Failed, keep: true}
	refuseCleartext   = &refused{status: 400, layer: audit.LayerToken, reason: "plaintext", text: "a token of this mesh needs https", keep: true}
)

// frontSteps are those of gateway.md 15 for a caller from outside the mesh.
var frontSteps = []step{(*exchange).shape, (*exchange).stranger, (*exchange).pick, (*exchange).apiKey, (*exchange).strangerIdentity, (*exchange).needsTLS, (*exchange).decide}

// front serves what came in by a door.
func (p *Proxy) front(w http.ResponseWriter, r *http.Request) {
	p.serve(w, r, audit.SideServer, frontSteps, (*exchange).toBackend)
}

// stranger begins a trace of our own: what strangers say of theirs is not believed (http-strictness.md 7.4).
func (x *exchange) stranger() *refused {
	delete(x.r.Header, "Traceparent")
	x.span = newSpan(x.r.Header)
	x.rec.Trace, x.rec.Span, x.rec.Parent = x.span.trace, x.span.id, x.span.parent
	switch {
	case x.link.gone.Load():
		panic(http.ErrAbortHandler)
	case x.link.ended(x.now):
		return refuseExpired
	case x.p.drained.Load():
		return refuseDraining
	}
	return nil
}

// pick finds the rule that takes the request: steps 3 and 6 of gateway.md 15.
func (x *exchange) pick() *refused {
	d := x.link.door
	port := x.v.port(d)
	if port == nil {
		return refuseNoRoute
	}
	host, _ := h1.LookupHost(x.host)
	if x.link.front != nil {
		switch port.Serves(port.Router(serverName(x.link.front.ServerName)), host) {
		case http.StatusMisdirectedRequest:
			return refuseOtherHost
		case http.StatusNotFound:
			return refuseNoRoute
		}
	}
	router := port.Router(host)
	if router == nil {
		return refuseNoRoute
	}
	x.rec.Listener = router.Listener
	if no := x.enter(router); no != nil {
		return no
	}
	if x.answerOptions(); x.ended {
		return nil
	}
	if no := x.ownPaths(); no != nil {
		return no
	}
	if x.doorMetadata(router, host); x.ended {
		return nil
	}
	q := route.Request{Method: x.r.Method, Path: x.path, Query: x.ask.Query, Header: x.r.Header}
	if hit, ok := x.asked(router, host, &q); ok {
		if no := x.settle(router, host, hit.Action); no != nil {
			return no
		}
		return x.preflight(router, hit)
	}
	hit, ok := router.Lookup(host, &q)
	if no := x.settle(router, host, hit.Action); no != nil {
		return no
	}
	if !ok {
		return refuseNoRoute
	}
	x.hit = hit
	return x.limitEarly(router, hit.Action)
}

// asked finds the rule that a CORS preflight asks about.
func (x *exchange) asked(router *route.Router, host string, q *route.Request) (route.Hit, bool) {
	origin, method := x.r.Header["Origin"], x.r.Header["Access-Control-Request-Method"]
	if len(origin) != 1 || len(method) != 1 || !route.IsPreflight(x.r.Method, origin[0], method[0]) {
		return route.Hit{}, false
	}
	return router.Preflight(host, q, method[0])
}

// preflight answers it, before identity and policy, and tells the list alone (gateway.md 7.6).
func (x *exchange) preflight(router *route.Router, hit route.Hit) *refused {
	if no := x.limitEarly(router, hit.Action); no != nil {
		x.hit = hit // its CORS fields stand on the refusal
		return no
	}
	h := x.r.Header
	x.limitDrain()
	status, fields := hit.CORS.Preflight(h["Origin"][0], h["Access-Control-Request-Method"][0], strings.Join(h["Access-Control-Request-Headers"], ","))
	addFields(x.w.Header(), fields)
	x.secure(x.w.Header())
	x.begun.Store(true)
	x.w.WriteHeader(status)
	x.rec.Layer = audit.LayerRoute
	x.finish(outcome{status: status})
	return nil
}

// needsTLS: a token of ours over clear text is one that was shown to everybody on the way (gateway.md 27.4, T9a).
func (x *exchange) needsTLS() *refused {
	if x.token != nil && x.exposed() {
		return refuseCleartext
	}
	return nil
}

// toBackend is steps 15 to 17 of gateway.md 15: a redirect, or the request with the changes of its rule to one of its
// backends.
func (x *exchange) toBackend() {
	if no := x.aim(); no != nil {
		x.refuse(no)
		return
	}
	if x.ended {
		return
	}
	x.sending()
	if x.place.foreign {
		x.callForeign()
		return
	}
	x.callMesh()
}

func (x *exchange) aim() *refused {
	hit := &x.hit
	if hit.Bad != "" {
		x.note(hit.Bad)
		return refuseBackend
	}
	if hit.Redirect != nil {
		return x.redirect()
	}
	at := hit.Choose(rand.Uint64())
	if at < 0 {
		return refuseBackend
	}
	b := &hit.Rule.Backends[at]
	if no, bad := x.v.Refused[b]; bad {
		x.note(no.Text)
		return refuseBackend
	}
	key := ServiceKey(b.Ref.Name)
	if x.place = x.v.backend(key, b.Port); x.place == nil {
		return refuseBackend
	}
	x.backend = b
	x.rec.Service = x.place.text
	x.limitTime(&hit.Rule.Timeouts)
	if no := x.edgeToken(); no != nil {
		return no
	}
	return x.change(hit.Effects(at))
}

// errOverdue ends what takes longer than its rule allows.
var errOverdue = errors.New("the time of the rule is over")

// limitTime starts the shorter of a rule's timeouts: there is one try, so the backend's is as good as the request's.
// What was upgraded has none (gateway.md 9).
func (x *exchange) limitTime(t *route.Timeouts) {
	var most time.Duration
	for _, d := range []*time.Duration{t.Request, t.Backend} {
		if d != nil && *d > 0 && (most == 0 || *d < most) {
			most = *d
		}
	}
	if most == 0 || x.websocket {
		return
	}
	var ctx context.Context
	ctx, x.untime = context.WithTimeoutCause(x.r.Context(), most, errOverdue)
	x.r = x.r.WithContext(ctx)
}

func (x *exchange) overdue() bool { return context.Cause(x.r.Context()) == errOverdue }

// change makes of the request what the backend is to see.
func (x *exchange) change(e *route.Effects) *refused {
	path, err := e.Path(x.path, x.hit.Prefix)
	if err != nil {
		return refuseReplaced
	}
	x.effects = e
	h := x.r.Header
	if no := x.forwarded(h); no != nil {
		return no
	}
	for _, c := range e.Request {
		c.Apply(h)
	}
	if e.Host != "" {
		x.host = e.Host
	}
	if path != x.path {
		x.target = path + x.target[len(x.path):]
	}
	return nil
}

// forwarded tells the backend of the caller (http-strictness.md 7.4); what came by these names was stripped.
func (x *exchange) forwarded(h http.Header) *refused {
	own := 0
	for _, line := range h["Via"] {
		own += strings.Count(line, x.link.door.via)
	}
	if own >= maxCircles {
		return refuseLoop
	}
	scheme, version := "http", "1.1"
	if x.link.front != nil {
		scheme = "https"
	}
	if x.h2 {
		version = "2.0"
	}
	x.tellAddresses(h, scheme)
	if !x.entry.entrance.NoVia {
		h.Add("Via", version+" "+x.link.door.via)
	}
	return nil
}

// maxCircles is how often a request may come by the same Gateway.
const maxCircles = 3

func (x *exchange) redirect() *refused {
	scheme := "http"
	if x.link.front != nil {
		scheme = "https"
	}
	to, err := x.hit.Redirect.Location(route.URL{
		Scheme: scheme, Port: x.link.port, Authority: x.host, Path: x.path, Query: x.ask.Query, HasQuery: x.ask.HasQuery,
	}, x.hit.Prefix)
	if err != nil {
		return refuseReplaced
	}
	x.limitDrain()
	h := x.w.Header()
	x.effects = x.hit.Effects(-1)
	x.changeAnswer(h)
	h["Location"], h["Content-Length"] = []string{to}, []string{"0"}
	x.hideLimits(h, to)
	x.begun.Store(true)
	x.w.WriteHeader(x.hit.Redirect.Status)
	x.finish(outcome{status: x.hit.Redirect.Status})
	return nil
}

// changeAnswer applies to an answer what its rule changes of it, then the CORS fields, which no upstream sets.
func (x *exchange) changeAnswer(h http.Header) {
	if x.effects != nil {
		for _, c := range x.effects.Response {
			c.Apply(h)
		}
	}
	x.share(h)
}

// share lets scripts of the rule's origins read an answer, also one of our own (gateway.md 7.6).
func (x *exchange) share(h http.Header) {
	x.tellLimits(h)
	x.secure(h)
	if x.hit.Action == nil || x.hit.CORS == nil {
		return
	}
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			delete(h, name)
		}
	}
	origin := ""
	if values := x.r.Header["Origin"]; len(values) == 1 {
		origin = values[0]
	}
	addFields(h, x.hit.CORS.Answer(origin))
}

func addFields(h http.Header, fields []route.Field) {
	for _, f := range fields {
		h.Add(f.Name, f.Value)
	}
}
