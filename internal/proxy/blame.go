package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/h1"
	"countersign.dev/internal/identity"
)

// blame finds whose fault a failed exchange is, in the order of http-strictness.md 10.5:
// cut by us, the client's broken body, the client gone, and only then the upstream.
func (x *exchange) blame(err error) *refused {
	if why := x.cut.Load(); why != nil {
		return refuseChanged
	}
	if failed := x.body.failed.Load(); failed != nil {
		if g := gateFrom(x.r.Context()); g != nil {
			if f := g.Verdict(); f != nil {
				return refuseFault(f)
			}
		}
		switch {
		case errors.Is(*failed, os.ErrDeadlineExceeded):
			return refuseFault(h1.FaultSlow)
		case x.h2 && x.r.Context().Err() == nil:
			return refuseShortBody
		}
		x.clientGone()
	}
	if x.r.Context().Err() != nil {
		x.clientGone()
	}
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, errMalformed):
		return refuseMalformed
	case errors.Is(err, errNotItsPort):
		return refuseNotItsPort
	case isNet && timeout.Timeout():
		return refuseConnectTime
	case remoteAlert(err):
		return refuseByPeer
	}
	return refuseReset
}

// remoteAlert: with TLS 1.3 the other node's refusal of our certificate arrives only when the
// answer is read.
func remoteAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// clientGone ends an exchange whose client has left: nothing is answered, nobody is blamed.
func (x *exchange) clientGone() {
	x.finish(outcome{status: 499, err: "client_closed"})
	panic(http.ErrAbortHandler)
}

// unreached says why a connection could not be made.
func (x *exchange) unreached(err error, u *upstream) (no *refused, again bool) {
	if x.cut.Load() != nil {
		return refuseChanged, false
	}
	if x.r.Context().Err() != nil {
		x.clientGone()
	}
	if wrong, ok := errors.AsType[*tlsFailure](err); ok {
		no := *refuseUnverified
		no.detail = identity.Reason(wrong.err)
		return &no, true
	}
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, errNotItsPort):
		return refuseNotItsPort, true
	case errors.Is(err, errNoCertificate):
		return refuseNoCertificate, false
	case errors.Is(err, context.DeadlineExceeded) || isNet && timeout.Timeout():
		return refuseConnectTime, true
	}
	away := *refuseAway
	if x.to != nil {
		away.note = portText(x.to)
	}
	return &away, true
}

// broken is the outcome of an exchange that ended after its answer had begun.
func (x *exchange) broken(err error, status int, sent int64) outcome {
	o := outcome{status: status, resp: sent}
	why := x.cut.Load()
	down, isDown := errors.AsType[downstreamError](err)
	switch {
	case why != nil:
		o.decision, o.reason = audit.Deny, *why
		if *why == cutPolicy {
			x.rec.Layer, x.rec.Reason = audit.LayerAuthz, cutPolicy
		}
	case x.body.failed.Load() != nil, isDown && down.error != nil, x.r.Context().Err() != nil:
		o.status, o.err = 499, "client_closed"
	default:
		o.decision, o.err = audit.Failed, "upstream_reset"
	}
	return o
}
