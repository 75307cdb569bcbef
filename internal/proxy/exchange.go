package proxy

import (
	"context"
	"maps"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"countersign.dev/internal/apikey"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/bearer"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/policy"
	"countersign.dev/internal/route"
)

// exchange is one request with its response, or one tunnel: what the steps of the pipeline
// hand to each other, and the record they fill.
type exchange struct {
	p    *Proxy
	run  *run
	link *link
	v    *view // the one it was decided by
	w    http.ResponseWriter
	r    *http.Request
	now  time.Time

	// From shape.
	h2        bool
	grpc      bool
	websocket bool
	expect    bool
	limit     time.Duration // of a gRPC call, as its caller said; 0: none
	wantsKey  string        // Sec-WebSocket-Key
	secret    string        // Proxy-Authorization
	host      string        // the authority as sent
	path      string        // normal form; "" for CONNECT
	target    string        // path and query as they go on
	ask       policy.Request
	span      span

	// From route.
	place *place
	to    *target

	// From requestIdentity.
	rules *bearer.Rules
	token *jose.Token    // of our own issuer, which can be revoked; nil: none
	key   *apikey.Record // the API key it came in by; nil: none
	epoch uint64         // of the log of revoked tokens before it was asked
	rest  *bearer.Rest

	attached string // the token that attachToken put in

	// At a Gateway.
	entry   entry
	shown   Credential // what was taken for the identity, to be exchanged; never recorded
	hit     route.Hit
	backend *route.Backend     // nil: none was chosen
	effects *route.Effects     // nil: none were chosen
	limits  *limitSet          // nil: none hold
	counted *route.Action      // the rule that they hold for
	tally   *tally             // nil: nothing was counted
	untime  context.CancelFunc // of the rule's timeout
	seen    seen

	rec      audit.Record
	status   int
	begun    atomic.Bool // a byte of the response may have left
	answered bool        // the upstream has: a mesh call then has its record at the callee's side
	ended    bool        // the record is written
	opened   bool        // its opening record is
	reqBytes atomic.Int64
	body     incoming
	sender   chan struct{}        // closed when the goroutine that sends the body is done; nil: there is none
	mux      *muxBody             // the body where HTTP/2 carries it up
	cut      atomic.Pointer[cut]  // its end from outside
	snap     func()               // of a tunnel: breaks both its sides; set before it is listed
	wire     atomic.Pointer[wire] // what it is under way on; who takes it out may end it or give it back
	cancel   atomic.Pointer[context.CancelFunc]
	ctx      context.Context // see context
	out      outgoing
	back     answer
	down     body

	next, prev *exchange // in live, under its lock
	listed     bool
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// step is one named step of the pipeline: nil goes on to the next.
type step func(*exchange) *refused

// The steps of dataplane.md 3.1. Outbound the route is looked up before policy is asked,
// because the destination must be known; the callee's side decides.
var (
	inboundSteps  = []step{(*exchange).shape, (*exchange).peerIdentity, (*exchange).stripKey, (*exchange).resourceMetadata, (*exchange).requestIdentity, (*exchange).decide}
	outboundSteps = []step{(*exchange).shape, (*exchange).callerIdentity, (*exchange).destination, (*exchange).attachToken}
)

// inbound serves what came over mutual TLS, or in plaintext to a listener that allows it.
func (p *Proxy) inbound(w http.ResponseWriter, r *http.Request) {
	p.serve(w, r, audit.SideServer, inboundSteps, (*exchange).toProgram)
}

// outbound serves what a program sent to its proxy listener.
func (p *Proxy) outbound(w http.ResponseWriter, r *http.Request) {
	p.serve(w, r, audit.SideClient, outboundSteps, (*exchange).toMesh)
}

// serve takes one exchange through its steps. Whatever happens, End is reached once.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, side string, steps []step, forward func(*exchange)) {
	l := linkOf(r.Context())
	if l == nil || !l.run.open.enter() {
		panic(http.ErrAbortHandler)
	}
	l.active.Add(1)
	if l.edge != nil {
		l.served.Add(1)
	}
	if l.timed.Swap(false) {
		if d, ok := w.(deadlines); ok {
			_ = d.SetWriteDeadline(time.Time{})
		}
	}
	x := exchanges.Get().(*exchange)
	*x = exchange{p: p, run: l.run, link: l, v: p.view.Load(), w: w, r: r, now: p.now()}
	x.rec.Side = side
	defer x.end()

	for _, do := range steps {
		if no := do(x); no != nil {
			x.refuse(no)
			return
		}
		if x.ended { // the step answered
			return
		}
	}
	forward(x)
}

// end finishes what the steps left open, also after a panic, and gives the exchange back.
func (x *exchange) end() {
	cause := recover()
	if cause != nil && cause != http.ErrAbortHandler {
		x.p.stack(cause)
		if !x.ended && !x.begun.Load() {
			x.refuse(refusePanic)
			cause = nil
		} else {
			x.finish(outcome{decision: audit.Failed, err: "panic"})
			cause = http.ErrAbortHandler
		}
	}
	x.run.live.remove(x)
	if cancel := x.cancel.Load(); cancel != nil {
		(*cancel)()
	}
	x.stopSending()
	if x.untime != nil {
		x.untime()
	}
	x.seen.stream.End()
	if cause == nil {
		x.boundWrite(new(pace))
		x.finishBody()
	}
	if !x.ended {
		x.finish(outcome{decision: audit.Failed, err: "aborted"})
	}
	l := x.link
	if l.edge != nil && x.h2 && !x.begun.Load() && x.r.Context().Err() != nil {
		l.cancelled(x.p.now())
	}
	if l.active.Add(-1) == 0 && l.ended(x.now) {
		l.close()
	}
	run := x.run
	*x = exchange{}
	exchanges.Put(x)
	run.open.leave()
	if cause != nil {
		panic(cause)
	}
}

// stack logs a panic, once a minute at most.
func (p *Proxy) stack(cause any) {
	now := p.now().UnixNano()
	last := p.panics.Load()
	if now-last < int64(stackEvery) || !p.panics.CompareAndSwap(last, now) {
		return
	}
	p.log.Error("panic while serving an exchange", "cause", cause, "stack", string(debug.Stack()))
}

// shape is step 0: strict parse, path normalization, header hygiene (dataplane.md 4). HTTP/1
// passed the gate before it came here; what HTTP/2 adds is checked now.
func (x *exchange) shape() *refused {
	r := x.r
	x.h2 = r.ProtoMajor == 2
	x.host = r.Host
	x.grpc = isGRPC(r.Header)
	x.describe()
	if x.grpc {
		x.limit = grpcTimeout(r.Header["Grpc-Timeout"])
	}
	if x.h2 {
		if no := x.shapeHTTP2(); no != nil {
			return no
		}
	}
	if r.Method != http.MethodConnect {
		if no := x.shapePath(); no != nil {
			return no
		}
	}
	wanted, f := h1.WebSocket(r.Method, r.ProtoMajor, r.ProtoMinor, r.Header)
	if f != nil {
		return refuseFault(f)
	}
	x.websocket = wanted
	if wanted {
		x.rec.Proto = audit.ProtoWebSocket
		x.wantsKey = r.Header.Get("Sec-Websocket-Key")
	}
	if values := r.Header["Proxy-Authorization"]; len(values) == 1 {
		x.secret = values[0]
	} else if len(values) > 1 {
		x.secret = "?" // two secrets are no secret
	}
	x.expect = len(r.Header["Expect"]) > 0 && r.ProtoAtLeast(1, 1)
	x.putAside()
	names, f := x.link.profile().Strip(r.Header)
	if f != nil {
		return refuseFault(f)
	}
	if len(names) > 0 {
		x.note("stripped:" + strings.Join(names[:min(len(names), 8)], ","))
	}
	delete(r.Header, "Expect")
	delete(r.Header, "Content-Length")
	x.describeRequest()
	if x.link.door == nil {
		x.answerOptions()
	}
	return nil
}

// describeRequest fills what policy looks at.
func (x *exchange) describeRequest() {
	r, q := x.r, &x.ask
	*q = policy.Request{Method: r.Method, Host: x.host, Path: x.path, HTTP2: x.h2, WebSocket: x.websocket, Scheme: "http"}
	if x.link.state != nil || x.link.front != nil {
		q.Scheme = "https"
	}
	switch {
	case x.h2 && r.TLS == nil: // net/http leaves it out where :scheme says http
		q.ClaimedScheme = "http"
	case x.h2:
		q.ClaimedScheme = "https"
	case r.URL != nil && r.URL.IsAbs():
		q.ClaimedScheme = r.URL.Scheme
	}
	if x.path == "" {
		return
	}
	q.Wide = h1.Wide(x.path)
	if query, ok := strings.CutPrefix(x.target[len(x.path):], "?"); ok {
		q.Query, q.HasQuery = query, true
	}
}

// describe fills what a record tells of every request.
func (x *exchange) describe() {
	rec, r := &x.rec, x.r
	rec.Kind, rec.Method, rec.Host = audit.KindRequest, r.Method, x.host
	rec.Rev = x.v.PolicyRevision
	x.link.identify(rec)
	switch {
	case x.grpc:
		rec.Proto = audit.ProtoGRPC
	case x.h2:
		rec.Proto = audit.ProtoHTTP2
	default:
		rec.Proto = audit.ProtoHTTP1
	}
}

// shapeHTTP2 is http-strictness.md 8.1 as far as net/http leaves it to the handler.
func (x *exchange) shapeHTTP2() *refused {
	r := x.r
	if f := x.link.profile().CheckMessage(r.Method, r.RequestURI, r.Host, r.Header, true); f != nil {
		return refuseFault(f)
	}
	if r.ContentLength == 0 {
		if f := h1.CheckNoBody(r.Header); f != nil {
			return refuseFault(f)
		}
	}
	if cookies := r.Header["Cookie"]; len(cookies) > 1 { // RFC 9113, section 8.2.3
		r.Header["Cookie"] = []string{strings.Join(cookies, "; ")}
	}
	return nil
}

func (x *exchange) shapePath() *refused {
	target, f := x.origin()
	if f != nil {
		return refuseFault(f)
	}
	path, query, hasQuery, f := x.link.profile().Normalize(target)
	if f != nil {
		return refuseFault(f)
	}
	x.path, x.target = path, path
	if hasQuery {
		x.target = path + "?" + query
	}
	return x.shapeEdge()
}

// origin is the target as it was sent, in origin-form.
func (x *exchange) origin() (string, *h1.Fault) {
	target := x.r.RequestURI
	if target[0] == '/' || target == "*" {
		return target, nil
	}
	_, origin, f := h1.Absolute(target, x.r.TLS != nil)
	return origin, f
}

func isGRPC(h http.Header) bool {
	values := h["Content-Type"]
	return len(values) == 1 && strings.HasPrefix(values[0], "application/grpc")
}

// peerIdentity is step 1 inbound: what the handshake verified, if it still counts.
func (x *exchange) peerIdentity() *refused {
	l, rec := x.link, &x.rec
	x.span = newSpan(x.r.Header)
	rec.Trace, rec.Span, rec.Parent = x.span.trace, x.span.id, x.span.parent
	switch {
	case l.gone.Load():
		panic(http.ErrAbortHandler)
	case l.ended(x.now):
		return refuseExpired
	case x.p.drained.Load():
		return refuseDraining
	}
	return x.misdirected()
}

// misdirected refuses a host that is the name of another mesh service than the server name
// chose, so that a caller's pooling fault is seen. Any other host is the application's own
// affair (dataplane.md 12.1).
func (x *exchange) misdirected() *refused {
	l := x.link
	host, _, ok := splitAuthority(x.host, 0)
	if !ok {
		return nil
	}
	ns := x.run.Namespace
	if l.caller != nil && l.caller.Canonical && !l.caller.Foreign {
		ns = l.caller.Namespace
	}
	key, kind := x.v.find(host, ns)
	if kind != inside || key == l.key {
		return nil
	}
	return refuseMisdirected
}

// decide is step 3: the destination's policy, bound to this connection.
func (x *exchange) decide() *refused {
	b, ok := x.link.bind(x.v, x.now)
	if !ok {
		x.link.close()
		return refuseRevoked
	}
	x.ask.Header = x.r.Header
	verdict := b.bound.Decide(&x.ask)
	x.ask.Header = nil
	if b.bound.ReadsHeader() {
		x.ask.Header = maps.Clone(x.r.Header) // as they were, should policy change under way
	}
	rec := &x.rec
	rec.Layer, rec.Reason, rec.Policy, rec.Rule = verdict.Layer, verdict.Reason, verdict.Policy, verdict.Rule+1
	if !verdict.Allow {
		return refusePolicy
	}
	if no := x.limitLate(); no != nil {
		return no
	}
	x.leave()
	return nil
}

// live: an exchange is listed while it is forwarded; whoever lists itself after a sweep has
// gone by asks once more.
func (x *exchange) register() *refused {
	if !x.run.live.add(x) {
		panic(http.ErrAbortHandler)
	}
	now := x.p.view.Load()
	if now != x.v {
		if c := x.judge(now); c != nil {
			return x.refusedBy(c)
		}
	}
	if x.token != nil && x.p.revoked.Epoch() != x.epoch {
		if c := x.judgeToken(); c != nil {
			return x.refusedBy(c)
		}
	}
	return nil
}

// context is what dials and multiplexed streams of the exchange end with. Most exchanges find
// a connection waiting and never ask for it.
func (x *exchange) context() context.Context {
	if x.ctx == nil {
		ctx, cancel := context.WithCancel(x.r.Context())
		x.ctx = ctx
		x.cancel.Store(&cancel)
		if x.cut.Load() != nil {
			cancel()
		}
	}
	return x.ctx
}
