package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/gate"
	"countersign.dev/internal/h1"
)

// blame finds whose fault a failed exchange is, in the order of http-strictness.md 10.5:
// cut by us, the client's broken body, the client gone, and only then the upstream.
func (x *exchange) blame(err error) *refused {
	if c := x.cut.Load(); c != nil {
		return x.refusedBy(c)
	}
	if x.overdue() {
		return refuseOverdueRule
	}
	x.awaitBody()
	if failed := x.body.failed.Load(); failed != nil {
		if g := gate.From(x.r.Context()); g != nil {
			if f := g.Verdict(); f != nil {
				return refuseFault(f)
			}
		}
		f, ours := errors.AsType[*h1.Fault](*failed)
		switch {
		case ours:
			return refuseFault(f)
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
	case x.late(err):
		return refuseOverdue
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

// late reports that an upstream reset a gRPC call whose time was over. It says CANCEL, as the
// caller does a moment sooner or later; net/http can only say INTERNAL_ERROR, which a caller would
// take for a fault of ours. So it gets the status that it is about to give itself.
func (x *exchange) late(err error) bool {
	_, gone := errors.AsType[downstreamError](err)
	return x.grpc && x.limit > 0 && !gone && x.cut.Load() == nil && x.r.Context().Err() == nil &&
		x.p.now().Sub(x.now) >= x.limit
}

// grpcTimeout reads a Grpc-Timeout: one to eight digits and a unit. 0: there is none.
func grpcTimeout(values []string) time.Duration {
	if len(values) != 1 || len(values[0]) < 2 || len(values[0]) > 9 {
		return 0
	}
	digits, unit := values[0][:len(values[0])-1], values[0][len(values[0])-1]
	n, ok := parseLength(digits)
	each := map[byte]time.Duration{
		'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
	}[unit]
	if !ok || each == 0 || n > int64(1<<63-1)/int64(each) {
		return 0
	}
	return time.Duration(n) * each
}

// awaitBody waits for what a client did wrong in its body. net/http ends the request's context
// before it returns the error of a read, so that the upstream's connection is closed, and we are
// here, before whoever read knows of it.
func (x *exchange) awaitBody() {
	if x.r.Context().Err() == nil || x.body.failed.Load() != nil {
		return
	}
	switch {
	case x.mux != nil:
		x.mux.settle()
	case x.sender != nil:
		moment := time.NewTimer(drainTime)
		defer moment.Stop()
		select {
		case <-x.sender:
		case <-moment.C:
		}
	}
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
	if c := x.cut.Load(); c != nil {
		return x.refusedBy(c), false
	}
	if x.overdue() {
		return refuseOverdueRule, false
	}
	if x.r.Context().Err() != nil {
		x.clientGone()
	}
	if wrong, ok := errors.AsType[*tlsFailure](err); ok {
		return wrong.refused(), true
	}
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, errNotItsPort):
		return refuseNotItsPort, true
	case errors.Is(err, errForbidden):
		return refuseNotDialled, true
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
	c := x.cut.Load()
	down, isDown := errors.AsType[downstreamError](err)
	switch {
	case c != nil && c.why == cutIdle:
		o.reason = cutIdle
	case c != nil:
		o.decision, o.reason = audit.Deny, c.why
		x.redecided(c)
	case x.overdue():
		o.decision, o.err = audit.Failed, refuseOverdueRule.err
	case x.body.failed.Load() != nil, isDown && down.error != nil, x.r.Context().Err() != nil:
		o.status, o.err = 499, "client_closed"
	default:
		o.decision, o.err = audit.Failed, "upstream_reset"
	}
	return o
}
