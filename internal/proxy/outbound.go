package proxy

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/gate"
	"countersign.dev/internal/h1"
)

// acceptPrograms serves the proxy listener of a run.
func (r *run) acceptPrograms(ctx context.Context, ln net.Listener) {
	_ = r.p.accept(ctx, ln, func(c net.Conn) {
		tcp, ok := c.(*net.TCPConn)
		if !ok { // nothing could prove who calls
			_ = c.Close()
			return
		}
		under := &socket{Conn: tcp}
		l := r.p.newLink(r, under)
		l.tcp, l.label = tcp, r.label
		if !r.open.add(l) {
			_ = under.Close()
			return
		}
		r.open.suspect(l)
		r.out.give(r.p.gated(under, l, gate.Options{AllowConnect: true, ProxyListener: true}), l)
	})
}

// callerIdentity is step 1 outbound: the run that owns the listener, if the caller is proven
// to be of it (dataplane.md 25.2). Proven once, the connection is for its life.
func (x *exchange) callerIdentity() *refused {
	x.span = newSpan(x.r.Header)
	x.rec.Trace, x.rec.Span, x.rec.Parent = x.span.trace, x.span.id, x.span.parent
	l := x.link
	if x.p.drained.Load() {
		return refuseDraining
	}
	if !l.proven.Load() {
		if no := x.proveCaller(); no != nil {
			return no
		}
		x.run.open.trust(l)
	}
	l.identify(&x.rec)
	return nil
}

func (x *exchange) proveCaller() *refused {
	facts, tcp := x.run.Facts, x.link.tcp
	if x.secret != "" {
		if !x.knowsSecret() {
			return refuseUnproven
		}
		if with, ok := facts.(secretCaller); ok {
			if with.CallerWithSecret(tcp) != nil {
				return refuseUnproven
			}
			return nil
		}
	}
	if facts.Caller(tcp) != nil {
		return refuseUnproven
	}
	return nil
}

// knowsSecret compares the password of Basic credentials; the user part is for people.
func (x *exchange) knowsSecret() bool {
	scheme, encoded, _ := strings.Cut(x.secret, " ")
	if !strings.EqualFold(scheme, "Basic") || x.run.Secret == "" {
		return false
	}
	plain, err := base64.StdEncoding.DecodeString(strings.Trim(encoded, " "))
	if err != nil {
		return false
	}
	_, password, _ := strings.Cut(string(plain), ":")
	return subtle.ConstantTimeCompare([]byte(password), []byte(x.run.Secret)) == 1
}

// destination is step 5 outbound: the authority of the target, or where the tunnel leads,
// says what is called; Host and SNI never do (dataplane.md 25.3).
func (x *exchange) destination() *refused {
	if x.link.via != nil {
		return x.insideTunnel()
	}
	authority, fallback := x.r.RequestURI, uint16(0)
	if x.r.Method != http.MethodConnect {
		if authority[0] == '/' || authority[0] == '*' {
			return refuseForm
		}
		named, _, f := h1.Absolute(authority, false)
		if f != nil {
			return refuseFault(f)
		}
		if x.r.Host != "" && !h1.SameAuthority(named, x.r.Host, "http") {
			return refuseAuthority
		}
		authority, fallback, x.host = named, 80, named
	}
	host, port, ok := splitAuthority(authority, fallback)
	if !ok || port == 0 {
		return refuseForm
	}
	return x.find(host, port)
}

// insideTunnel: what the CONNECT named is where every request in it goes.
func (x *exchange) insideTunnel() *refused {
	via := x.link.via
	x.place = x.v.place(via.key, via.port.Number)
	if x.place == nil { // the service has gone meanwhile
		return refuseNoService
	}
	x.rec.Service = x.place.text
	return nil
}

// find looks a name up in the name table.
func (x *exchange) find(host string, port uint16) *refused {
	if forbiddenName(host) {
		return refuseEgress
	}
	key, kind := x.v.find(host, x.run.Namespace)
	switch kind {
	case inside:
		if x.place = x.v.place(key, port); x.place == nil {
			x.rec.Service = key.String()
			return &refused{
				status: 404, layer: audit.LayerRoute, reason: "no_route", keep: true, event: "no_service",
				text: "service has no such port", note: "service " + x.known(key) + " has no port " + strconv.Itoa(int(port)),
			}
		}
		x.rec.Service = x.place.text
		return nil
	case unknown:
		return refuseNoService
	}
	if !x.v.AllowAny {
		return refuseEgress
	}
	return nil
}

// known is how the program's people name a service.
func (x *exchange) known(key ServiceKey) string {
	if key.Namespace == x.run.Namespace {
		return key.Name
	}
	return key.Name + "." + key.Namespace
}

// toMesh is step 6 outbound.
func (x *exchange) toMesh() {
	switch {
	case x.r.Method == http.MethodConnect && x.place != nil:
		x.openTunnel()
	case x.r.Method == http.MethodConnect:
		x.relayOutside()
	case x.place == nil:
		x.callOutside()
	default:
		x.callMesh()
	}
}

// callMesh sends the request to a ready instance, the next one if it cannot be reached.
func (x *exchange) callMesh() {
	if no := x.register(); no != nil {
		x.refuse(no)
		return
	}
	x.span.write(x.r.Header)
	ready := x.place.ready
	if len(ready) == 0 {
		x.refuse(&refused{
			status: 503, layer: audit.LayerRoute, reason: "no_endpoint", text: "no instance is ready",
			decision: audit.Failed, keep: true, event: "no_instance", note: x.place.state,
		})
		return
	}
	start := int(x.place.next.Add(1))
	var no *refused
	for i := range min(len(ready), maxTries) {
		x.to = ready[(start+i)%len(ready)]
		if x.link.door == nil { // there the decision is the Gateway's
			x.rec.DstID, x.rec.DstInstance, x.rec.Port = x.to.owner, x.to.instance, x.to.port
		}
		x.rec.Retries = i
		var again bool
		if no, again = x.forward(x.run.pool.mesh(x.to)); no == nil || !again {
			break
		}
	}
	if no != nil {
		x.refuse(no)
	}
}

// maxTries is how many instances of a service one call may find unreachable.
const maxTries = 3

// openTunnel answers a CONNECT to a mesh service. What comes through the tunnel takes the
// same gate and the same steps as any call: one decision per request (dataplane.md 4.7).
func (x *exchange) openTunnel() {
	l, g := x.link, gate.From(x.r.Context())
	if g == nil {
		x.refuse(refuseForm)
		return
	}
	inner := &link{run: l.run, conn: l.conn, number: l.number, src: l.src, tcp: l.tcp, label: l.label, via: x.place}
	inner.proven.Store(true)
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil || !x.run.open.add(inner) {
		_ = l.conn.Close()
		x.run.open.remove(l)
		x.finish(outcome{decision: audit.Failed, err: "client_closed", status: 499})
		return
	}
	x.run.open.remove(l)
	g.Raw()
	x.begun.Store(true)
	_ = conn.SetDeadline(x.p.now().Add(headTime))
	if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")); err != nil {
		_ = l.conn.Close()
	}
	_ = conn.SetDeadline(time.Time{})
	x.finish(outcome{status: http.StatusOK})
	x.run.tunnel.give(x.p.gated(&under{conn, g.NetConn()}, inner, gate.Options{AllowH2C: true}), inner)
}

// under reads through a gate that has become transparent, and half-closes what it stands on.
type under struct {
	net.Conn
	base net.Conn
}

func (u *under) CloseWrite() error {
	if c, ok := u.base.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}
