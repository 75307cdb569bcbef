package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/gate"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/policy"
)

// errNoWorkload is a handshake for a server name that no run here answers to.
var errNoWorkload = errors.New("no workload of that name here")

// Serve is the node's shared inbound port: every connection is a mesh handshake, and its
// server name chooses the workload. Serve ends when ctx does, or with the listener, and waits
// for what it started.
func (p *Proxy) Serve(ctx context.Context, ln net.Listener) error {
	f := newFace(p, p.inbound, faceOptions{idle: meshIdle, h2: true})
	p.mu.Lock()
	if p.face != nil {
		p.mu.Unlock()
		f.close()
		return errors.New("serving inbound connections: served already")
	}
	p.face = f
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.face = nil
		p.mu.Unlock()
		f.close()
	}()
	unhook := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer unhook()

	var unproven greetings
	var hands sync.WaitGroup
	defer hands.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hands.Go(func() { p.sweep(ctx) })
	err := p.accept(ctx, ln, func(c net.Conn) {
		leave := unproven.enter(c) // a flood of handshakes starves nobody but itself (dataplane.md 8.1)
		hands.Go(func() {
			defer leave()
			p.greet(ctx, c, f, nil, nil, leave)
		})
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("accepting inbound connections: %w", err)
}

// accept hands every connection to use, and waits a little when the system has no more to give.
func (p *Proxy) accept(ctx context.Context, ln net.Listener, use func(net.Conn)) error {
	wait := 5 * time.Millisecond
	for {
		c, err := ln.Accept()
		if err == nil {
			wait = 5 * time.Millisecond
			use(c)
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return err
		}
		if temporary, ok := errors.AsType[net.Error](err); !ok || !temporary.Timeout() {
			p.log.Warn("accepting a connection", "error", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}

// greet does the handshake and hands the connection on. fixed is the run of a listener of
// its own; on the shared port it is nil and the server name chooses. first is what was
// already read. proven is called when the peer has shown who it is.
func (p *Proxy) greet(ctx context.Context, c net.Conn, f *face, fixed *run, first []byte, proven func()) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	under := &socket{Conn: c}
	h := &handshake{p: p, v: p.view.Load(), run: fixed}
	conn := tls.Server(prefixed(under, first), identity.ServerConfig(identity.Side{
		Own:        h.own,
		Trust:      func() *identity.Trust { return h.v.Trust },
		Now:        p.now,
		NextProtos: []string{"h2", "http/1.1"},
		Check:      h.check,
	}, tls.RequireAnyClientCert))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = under.Close()
		h.refused(c, fixed, err)
		return
	}
	proven()
	l := p.newLink(h.run, under)
	if !h.settle(l) {
		_ = under.Close()
		return
	}
	cs := conn.ConnectionState()
	l.prove(&cs, h.peer, h.svid)
	if !h.run.open.add(l) {
		_ = under.Close()
		return
	}
	l.bind(h.v, p.now()) // a later view with another trust judges the certificate anew
	l.expireAt(l.peer.NotAfter, p.now())
	if cs.NegotiatedProtocol == "h2" {
		f.give(conn, l) // net/http knows HTTP/2 by the bare *tls.Conn
		return
	}
	f.give(p.gated(conn, l, gate.Options{}), l)
}

// handshake is what one handshake finds out.
type handshake struct {
	p    *Proxy
	v    *view
	m    meaning
	run  *run
	svid *SVID
	peer identity.Peer
}

// own finds the workload and its certificate by the server name of the hello.
func (h *handshake) own(serverName string) (*tls.Certificate, error) {
	if h.run == nil {
		m, ok := h.v.parseServerName(serverName)
		if ok {
			h.m, h.run = m, h.p.choose(h.v, m)
		}
		if h.run == nil {
			return nil, errNoWorkload
		}
		if _, _, ok := h.run.port(h.v.Services[m.key], m.port); !ok {
			return nil, errNoWorkload
		}
	}
	if h.svid = h.run.Certificate(); h.svid == nil || h.svid.TLS == nil {
		return nil, errNoWorkload
	}
	return h.svid.TLS, nil
}

func (h *handshake) check(peer identity.Peer) error {
	h.peer = peer
	return nil
}

// settle fixes the service and the port that the connection is for.
func (h *handshake) settle(l *link) (ok bool) {
	l.key = h.m.key
	if l.key == (ServiceKey{}) { // a listener of its own
		l.key = h.run.key
	}
	l.service = l.key.String()
	l.port, l.proto, ok = h.run.port(h.v.Services[l.key], h.m.port)
	return ok
}

// refused writes down a handshake that ended badly, unless the other side just went away or
// refused us: then it is the caller's node that tells.
func (h *handshake) refused(c net.Conn, fixed *run, err error) {
	reason, layer := identity.Reason(err), audit.LayerTLS
	if errors.Is(err, errNoWorkload) {
		reason, layer = "no_route", audit.LayerRoute
	}
	if reason == "" {
		return
	}
	h.p.recordHandshake(c, fixed, layer, reason, func(rec *audit.Record) {
		if h.run != nil {
			rec.DstID, rec.DstInstance = h.run.text, h.run.Instance
			if h.m.key != (ServiceKey{}) {
				rec.Service = h.m.key.String()
			}
		}
	})
}

func (p *Proxy) recordHandshake(c net.Conn, r *run, layer, reason string, more func(*audit.Record)) {
	rec := audit.Record{
		Kind: audit.KindConnection, Side: audit.SideServer, Decision: audit.Deny, Layer: layer, Reason: reason,
		Rev: p.view.Load().PolicyRevision,
	}
	if addr, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		ap := addr.AddrPort()
		rec.SrcIP, rec.SrcPort = ap.Addr().Unmap(), ap.Port()
	}
	if r != nil {
		rec.DstID, rec.DstInstance, rec.Service = r.text, r.Instance, r.label
	}
	if more != nil {
		more(&rec)
	}
	p.rec.Add(&rec)
}

// acceptOwn serves a listener of a run's own. The mode of the port (istio-semantics.md 5)
// says what its first bytes may be.
func (r *run) acceptOwn(ctx context.Context, ln net.Listener) {
	var hands sync.WaitGroup
	defer hands.Wait()
	_ = r.p.accept(ctx, ln, func(c net.Conn) {
		leave := r.unproven.enter(c)
		hands.Go(func() {
			defer leave()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			r.sort(ctx, c, leave)
		})
	})
}

// tlsRecord is the first byte of a ClientHello (RFC 8446, section 5.1).
const tlsRecord = 0x16

// sort tells TLS and plaintext apart, and refuses what the port's mode does not take. proven is
// called for what is served.
func (r *run) sort(ctx context.Context, c net.Conn, proven func()) {
	v := r.p.view.Load()
	port, _, _ := r.port(v.Services[r.key], 0)
	mode := r.policy(v).Mode(port)
	var first []byte
	if mode != policy.Disable { // there a ClientHello is a malformed request like any other
		var b [1]byte
		_ = c.SetReadDeadline(time.Now().Add(handshakeTime))
		n, err := c.Read(b[:])
		if n == 0 || err != nil {
			_ = c.Close()
			return
		}
		_ = c.SetReadDeadline(time.Time{})
		first = b[:n]
		if first[0] == tlsRecord {
			r.p.greet(ctx, c, r.own, r, first, proven)
			return
		}
	}
	if mode == policy.Strict || mode == policy.Unset {
		_ = c.Close() // without a byte
		r.p.recordHandshake(c, r, audit.LayerTLS, identity.Plaintext, nil)
		return
	}
	proven() // plaintext has nothing to show
	r.plain(c, v, first)
}

// plain serves a connection without any identity.
func (r *run) plain(c net.Conn, v *view, first []byte) {
	under := &socket{Conn: c}
	l := r.p.newLink(r, under)
	l.key, l.service = r.key, r.label
	var ok bool
	if l.port, l.proto, ok = r.port(v.Services[r.key], 0); !ok || !r.open.add(l) {
		_ = under.Close()
		return
	}
	r.own.give(r.p.gated(prefixed(under, first), l, gate.Options{AllowH2C: true}), l)
	l.recheck(r.p.view.Load()) // the mode may have changed meanwhile
}

// prefixed gives a connection back the bytes that were read off it to see what it is.
func prefixed(c *socket, first []byte) net.Conn {
	if len(first) == 0 {
		return c
	}
	return &rewound{socket: c, first: first}
}

type rewound struct {
	*socket
	first []byte
}

func (r *rewound) Read(p []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(p, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	return r.socket.Read(p)
}
