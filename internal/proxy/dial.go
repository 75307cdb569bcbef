package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"countersign.dev/internal/attest"
	"countersign.dev/internal/identity"
)

var (
	errNotItsPort    = errors.New("the port is not the program's")
	errNoCertificate = errors.New("no certificate")
)

// tlsFailure is a handshake with another node that failed.
type tlsFailure struct{ err error }

func (e *tlsFailure) Error() string { return "handshake with the instance: " + e.err.Error() }
func (e *tlsFailure) Unwrap() error { return e.err }

// refused tells who ended the handshake. A node that is full, or goes away, has shown nothing
// false: only who shows something else than it has to is not who it should be
// (http-strictness.md 12).
func (e *tlsFailure) refused() *refused {
	op, isOp := errors.AsType[*net.OpError](e.err)
	switch {
	case errors.Is(e.err, io.EOF), errors.Is(e.err, io.ErrUnexpectedEOF), isOp && (op.Op == "read" || op.Op == "write"):
		return refuseReset
	case remoteAlert(e.err):
		return refuseByPeer
	}
	no := *refuseUnverified
	no.detail = identity.Reason(e.err)
	return &no
}

// dial makes a new HTTP/1.1 connection.
func (u *upstream) dial(ctx context.Context) (*wire, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	if !u.toNode() {
		under, err := u.dialPlain(ctx)
		if err != nil {
			return nil, err
		}
		return newWire(under, under), nil
	}
	conn, under, own, err := u.dialNode(ctx, "http/1.1")
	if err != nil {
		return nil, err
	}
	w := newWire(conn, under)
	margin := own.margin()
	w.generation, w.jitter = own.Generation, rand.N(margin+1)
	w.retire = conn.ConnectionState().PeerCertificates[0].NotAfter.Add(-margin - rand.N(margin+1))
	return w, nil
}

// dialNode connects to the instance's node as our workload. Who must answer is fixed by the
// registry: exactly the instance's owner (dataplane.md 9.1).
func (u *upstream) dialNode(ctx context.Context, alpn string) (*tls.Conn, *socket, *SVID, error) {
	own := u.run.Certificate()
	if own == nil || own.TLS == nil {
		return nil, nil, nil, errNoCertificate
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", u.key.addr)
	if err != nil {
		return nil, nil, nil, err
	}
	under := &socket{Conn: c}
	p := u.run.p
	conn := tls.Client(under, identity.ClientConfig(identity.Side{
		Own:        func(string) (*tls.Certificate, error) { return own.TLS, nil },
		Trust:      func() *identity.Trust { return p.view.Load().Trust },
		Now:        p.now,
		NextProtos: []string{alpn},
		Check:      u.expect,
	}, u.key.serverName))
	hand, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := conn.HandshakeContext(hand); err != nil {
		_ = under.Close()
		if ctx.Err() != nil || hand.Err() != nil {
			return nil, nil, nil, err
		}
		return nil, nil, nil, &tlsFailure{err}
	}
	return conn, under, own, nil
}

func (u *upstream) expect(peer identity.Peer) error {
	if want, err := spiffeid.FromString(u.key.owner); err != nil || peer.ID != want {
		return fmt.Errorf("instance is %q, not %q", peer.ID, u.key.owner)
	}
	return nil
}

// backlogTime is how long a connection to the program is tried anew that its kernel forgot: a
// listener whose queue is full answers the handshake and keeps nothing of it (SYN cookies).
const backlogTime = 5 * time.Second

// dialProgram connects to the program's port, and believes it only if it is the run's: a
// port of somebody else counts as refused (dataplane.md 25.1, 25.2).
func (u *upstream) dialProgram(ctx context.Context) (*socket, error) {
	began := time.Now()
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		c, err := u.dialPort(ctx)
		if err == nil {
			return &socket{Conn: c}, nil
		}
		if !errors.Is(err, attest.ErrGone) || time.Since(began) > backlogTime {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// dialPort tries both loopback addresses: what listens on localhost may have got either.
func (u *upstream) dialPort(ctx context.Context) (_ net.Conn, err error) {
	var d net.Dialer
	port := strconv.Itoa(int(u.key.port))
	for _, host := range [...]string{"127.0.0.1", "::1"} {
		c, dialErr := d.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
		if dialErr != nil {
			if err == nil {
				err = dialErr
			}
			continue
		}
		proofErr := u.run.Facts.Port(c.(*net.TCPConn))
		if proofErr == nil {
			return c, nil
		}
		_ = c.Close()
		err = fmt.Errorf("%w: %w", errNotItsPort, proofErr)
		if !errors.Is(proofErr, attest.ErrGone) {
			u.run.warnPort(proofErr)
			continue
		}
		return nil, err
	}
	return nil, err
}

// warnPort says that something else answers on the program's port, once in ten seconds at
// most: every call to it finds the same.
func (r *run) warnPort(err error) {
	now := r.p.now().UnixNano()
	last := r.warned.Load()
	if now-last >= int64(warnEvery) && r.warned.CompareAndSwap(last, now) {
		r.p.log.Warn("a program's port is not the run's", "workload", r.label, "error", err)
	}
}
