package proxy

import (
	"net/http"
	"strconv"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/limit"
	"countersign.dev/internal/telemetry"
)

// refused is an answer the proxy itself gives (dataplane.md 3.3). Nothing from the request is
// in it.
type refused struct {
	status   int
	layer    string
	reason   string
	text     string
	err      string // the record's error field
	detail   string // the record's
	decision string // audit.Deny unless said
	keep     bool   // no fault of the client: the connection goes on
	event    string // code of the note for the caller's terminal
	note     string
	grpc     int // status towards gRPC, if another than status says

	challenge string // WWW-Authenticate
	retry     string // Retry-After, in seconds
	pushback  string // grpc-retry-pushback-ms
	body      []byte // problem+json in place of text; nil: none
}

// The refusals that need no facts.
var (
	refusePolicy        = &refused{status: 403, text: "RBAC: access denied", keep: true}
	refuseChanged       = &refused{status: 403, layer: audit.LayerAuthz, reason: "policy_changed", text: "RBAC: access denied"}
	refuseMisdirected   = &refused{status: 421, layer: audit.LayerHTTP, reason: h1.AuthorityMismatch, text: "Host is another service's", keep: true}
	refuseExpired       = &refused{status: 421, layer: audit.LayerTLS, reason: "expired", text: "certificate has ended"}
	refuseRevoked       = &refused{status: 421, layer: audit.LayerTLS, reason: "revoked", text: "certificate is not trusted"}
	refuseDraining      = &refused{status: 503, layer: audit.LayerRoute, reason: "no_endpoint", text: "shutting down", decision: audit.Failed}
	refusePanic         = &refused{status: 502, text: "internal error", err: "panic", decision: audit.Failed}
	refuseUnproven      = &refused{status: 407, layer: audit.LayerHTTP, reason: h1.BadHeader, text: "caller is not known", keep: true}
	refuseForm          = &refused{status: 400, layer: audit.LayerHTTP, reason: h1.BadRequestLine, text: "a proxy takes absolute targets"}
	refuseAuthority     = &refused{status: 400, layer: audit.LayerHTTP, reason: h1.AuthorityMismatch, text: "Host is not the target's"}
	refuseEgress        = &refused{status: 403, layer: audit.LayerRoute, reason: "no_egress", text: "host is outside the mesh", keep: true, event: "no_egress"}
	refuseNoService     = &refused{status: 404, layer: audit.LayerRoute, reason: "no_route", text: "no such service", keep: true, event: "no_service"}
	refuseAway          = &refused{status: 502, text: "upstream cannot be reached", err: "upstream_refused", decision: audit.Failed, keep: true, event: "upstream_away"}
	refuseShortBody     = &refused{status: 400, layer: audit.LayerHTTP, reason: h1.AmbiguousFraming, text: "body is not of its length"}
	refuseUnverified    = &refused{status: 502, layer: audit.LayerRoute, reason: "unverified_endpoint", text: "upstream is not who it should be", decision: audit.Failed, keep: true}
	refuseByPeer        = &refused{status: 502, text: "upstream refused the connection", err: "upstream_refused_tls", decision: audit.Failed, keep: true}
	refuseNoCertificate = &refused{status: 503, text: "no certificate", err: "no_certificate", decision: audit.Failed, keep: true}
	refuseNotItsPort    = &refused{status: 502, text: "upstream cannot be reached", err: "port_not_proven", decision: audit.Failed, keep: true}
	refuseConnectTime   = &refused{status: 504, text: "upstream timed out", err: "upstream_timeout", decision: audit.Failed, keep: true}
	refuseReset         = &refused{status: 502, text: "upstream broke off", err: "upstream_reset", decision: audit.Failed, keep: true, event: "upstream_bad", note: "it broke off before its answer"}
	refuseMalformed     = &refused{status: 502, text: "upstream answered malformed HTTP", err: "upstream_malformed", decision: audit.Failed, keep: true, event: "upstream_bad", note: "its answer was malformed"}
	refuseUpgrade       = &refused{status: 502, text: "upstream answered a bad upgrade", err: "upstream_bad_upgrade", decision: audit.Failed, keep: true, event: "upstream_bad", note: "its answer was malformed"}
	refuseOverdue       = &refused{status: 504, text: "deadline has passed", err: "upstream_timeout", decision: audit.Failed, keep: true, grpc: 4}
)

func refuseFault(f *h1.Fault) *refused {
	return &refused{status: f.Status, layer: audit.LayerHTTP, reason: f.Reason, text: f.Text, detail: f.Text}
}

// refuse answers and records. The record's number is reserved before the answer leaves.
func (x *exchange) refuse(no *refused) {
	x.rec.Seq = x.p.rec.Next()
	id := x.p.rec.ID(x.rec.Seq)
	x.rec.ID = id
	if no == refusePolicy {
		x.p.asked.keep(id, &x.ask)
	}
	if no.event != "" {
		x.tell(no.event, id, no.note)
	}
	if !x.begun.Load() {
		x.reply(no, id)
	}
	x.finish(outcome{no: no, status: no.status, decision: no.decision, err: no.err})
}

// reply writes the answer of section 3.3.
func (x *exchange) reply(no *refused, id string) {
	x.limitDrain()
	h := x.w.Header()
	clear(h)
	h["Cache-Control"] = []string{"no-store"}
	if no.challenge != "" {
		h["Www-Authenticate"] = []string{no.challenge}
	}
	if no.retry != "" {
		h["Retry-After"] = []string{no.retry}
	}
	x.share(h)
	if id != "" {
		h["X-Decision-Id"] = []string{id}
	}
	if !no.keep && !x.h2 || x.link.spent(x.now) { // on HTTP/2 net/http ends the whole connection by it
		h["Connection"] = []string{"close"}
	}
	x.begun.Store(true)
	if x.grpc {
		h["Content-Type"] = []string{"application/grpc"}
		code := no.grpc
		if code == 0 {
			code = grpcStatus(no.status)
		}
		h["Grpc-Status"] = []string{strconv.Itoa(code)}
		h["Grpc-Message"] = []string{no.text}
		if no.pushback != "" {
			h["Grpc-Retry-Pushback-Ms"] = []string{no.pushback}
		}
		x.w.WriteHeader(http.StatusOK)
		return
	}
	h["Content-Type"] = []string{"text/plain"}
	body := []byte(no.text)
	if no.body != nil {
		h["Content-Type"], body = []string{limit.ProblemType}, no.body
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	switch {
	case no.status == http.StatusProxyAuthRequired:
		h["Proxy-Authenticate"] = []string{`Basic realm="countersign"`}
	case no.reason == h1.UpgradeRefused:
		h["Sec-WebSocket-Version"] = []string{"13"}
	case no.status == http.StatusMethodNotAllowed:
		h["Allow"] = []string{h1.Allow}
	}
	x.w.WriteHeader(no.status)
	_, _ = x.w.Write(body)
}

// limitDrain gives a body that nobody will read a moment to come: net/http reads it before it
// answers, so that the connection can go on, and a client that dawdles would hold it.
func (x *exchange) limitDrain() {
	if d, ok := x.w.(deadlines); ok && !x.h2 && x.body.src == nil && x.r.Body != http.NoBody {
		_ = d.SetReadDeadline(x.p.now().Add(drainTime))
	}
}

// grpcStatus is istio-semantics.md 7.14.
func grpcStatus(status int) int {
	switch status {
	case 400:
		return 13
	case 401:
		return 16
	case 403:
		return 7
	case 404:
		return 12
	case 429, 502, 503, 504:
		return 14
	}
	return 2
}

// outcome is how an exchange ended.
type outcome struct {
	no       *refused // nil: it was forwarded
	status   int
	resp     int64
	decision string // "" is what no says, or allow
	err      string
	reason   string // close_reason
}

// finish completes the record and adds it where this side has to: the callee's side always,
// the caller's only for what never got there (audit.md 2). Once the callee's node has answered,
// how the call ended is its to tell.
func (x *exchange) finish(o outcome) {
	if x.ended {
		return
	}
	x.ended = true
	x.endLimits()
	rec := &x.rec
	rec.Status, rec.Error, rec.CloseReason = o.status, o.err, o.reason
	rec.ReqBytes, rec.RespBytes = uint64(x.reqBytes.Load()), uint64(o.resp)
	rec.Dur = x.p.now().Sub(x.now)
	rec.Decision = o.decision
	if no := o.no; no != nil {
		if rec.Decision == "" {
			rec.Decision = audit.Deny
		}
		if no.layer != "" || rec.Decision == audit.Failed {
			rec.Layer, rec.Reason = no.layer, no.reason
			if no.layer != audit.LayerAuthz && no.layer != audit.LayerLimit {
				rec.Policy, rec.Rule = "", 0
			}
		}
		x.note(no.detail)
	}
	if rec.Decision == "" {
		rec.Decision = audit.Allow
	}
	if rec.Side == audit.SideClient && x.place != nil && (x.answered || rec.Decision == audit.Allow) {
		return
	}
	x.count()
	x.countAtDoor()
	x.pathOrRoute()
	if x.opened {
		rec.Phase, rec.Seq, rec.ID = audit.PhaseClosing, 0, ""
	}
	x.p.rec.Add(rec)
}

// pathOrRoute: the path of refused requests, the template of all others (audit.md 3.3), never
// with a credential in it (3.4).
func (x *exchange) pathOrRoute() {
	if x.path == "" {
		return
	}
	path, held := audit.Mask(x.path)
	if held {
		x.note(keyInURL)
	}
	if x.rec.Refused() {
		x.rec.Path = path
		return
	}
	x.rec.Route = audit.Route(path)
}

// keyInURL says in a record that the path held a credential (audit.md 3.4).
const keyInURL = "key_in_url"

// open writes the first of two records of what may last (audit.md 2.1).
func (x *exchange) openRecord(status int) {
	if x.opened || x.rec.Side == audit.SideClient && x.place != nil {
		return
	}
	x.opened = true
	rec := x.rec
	rec.Phase, rec.Status, rec.Decision = audit.PhaseOpening, status, audit.Allow
	if x.link.door != nil {
		rec.StatusBy = audit.ByUpstream
	}
	if x.path != "" {
		path, _ := audit.Mask(x.path)
		rec.Route = audit.Route(path)
	}
	x.p.rec.Add(&rec)
}

// count feeds the metrics, once per decision of the callee's side.
func (x *exchange) count() {
	rec := &x.rec
	if x.p.metrics == nil || rec.Side == audit.SideClient && rec.Decision == audit.Allow {
		return
	}
	caller, callee := x.link.label, x.run.label
	if rec.Side == audit.SideClient {
		caller, callee = x.run.label, rec.Service
	}
	x.p.metrics.Request(caller, callee, rec.Decision, telemetry.Class(rec.Status), rec.Dur)
}

// tell sends a note to the terminal of the run that called.
func (x *exchange) tell(code, id, text string) {
	if x.rec.Side != audit.SideClient {
		return
	}
	path, _ := audit.Mask(x.path)
	to := x.host
	if x.place != nil {
		to = x.known(x.place.key)
	} else if host, _, ok := splitAuthority(x.host, 1); ok {
		to = host
	}
	x.run.Event(Event{Code: code, From: x.run.Name, To: to, Method: x.r.Method, Path: path, Decision: id, Text: text})
}
