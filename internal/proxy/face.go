package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/gate"
	"countersign.dev/internal/h1"
)

// face is one http.Server with the settings of a listener (dataplane.md 5.2), fed with
// connections that were accepted, and shaken hands with, elsewhere.
type face struct {
	p    *Proxy
	srv  *http.Server
	lis  *gate.Feed
	done chan struct{}

	mu    sync.Mutex // guards links; held for one look-up
	links map[net.Conn]*link
	fewer *sync.Cond // a link went
	edge  bool       // for strangers
}

type faceOptions struct {
	idle time.Duration
	h2   bool // by ALPN
	h2c  bool // by prior knowledge
	edge bool // the smaller windows of http-strictness.md 8.2
}

func newFace(p *Proxy, serve http.HandlerFunc, o faceOptions) *face {
	f := &face{p: p, lis: gate.NewFeed(&net.TCPAddr{}), done: make(chan struct{}), links: map[net.Conn]*link{}, edge: o.edge}
	f.fewer = sync.NewCond(&f.mu)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(o.h2)
	protocols.SetUnencryptedHTTP2(o.h2c)
	f.srv = &http.Server{
		Handler:                      serve,
		DisableGeneralOptionsHandler: true, // OPTIONS * is the application's
		MaxHeaderBytes:               netHTTPHeadSize,
		ReadHeaderTimeout:            headTime,
		IdleTimeout:                  o.idle,
		ErrorLog:                     log.New(io.Discard, "", 0), // every refusal has its record; the rest is strangers' noise
		Protocols:                    &protocols,
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize:              16 << 10,
			MaxConcurrentStreams:          maxStreams,
			MaxDecoderHeaderTableSize:     4096,
			MaxEncoderHeaderTableSize:     4096,
			MaxReceiveBufferPerConnection: 1 << 20,
			MaxReceiveBufferPerStream:     256 << 10,
			SendPingTimeout:               30 * time.Second,
			PingTimeout:                   15 * time.Second,
			WriteByteTimeout:              30 * time.Second,
		},
		ConnContext: f.connContext,
		ConnState:   f.connState,
	}
	if o.edge {
		h2 := f.srv.HTTP2
		h2.MaxConcurrentStreams, h2.MaxReceiveBufferPerConnection, h2.MaxReceiveBufferPerStream = edgeStreams, 256<<10, 64<<10
	}
	if o.h2 {
		f.srv.TLSConfig = &tls.Config{NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS13}
	}
	go func() {
		defer close(f.done)
		_ = f.srv.Serve(f.lis)
	}()
	return f
}

// give hands a connection to the server. It is the link's until the server has closed it.
func (f *face) give(c net.Conn, l *link) {
	f.mu.Lock()
	f.links[c] = l
	f.mu.Unlock()
	if !f.lis.Deliver(c) {
		f.take(c)
		l.run.open.remove(l)
	}
}

func (f *face) take(c net.Conn) *link {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[c]
	delete(f.links, c)
	f.fewer.Broadcast()
	return l
}

func (f *face) connContext(ctx context.Context, c net.Conn) context.Context {
	f.mu.Lock()
	l := f.links[c]
	f.mu.Unlock()
	return context.WithValue(gate.With(ctx, c), linkKey{}, l)
}

func (f *face) connState(c net.Conn, s http.ConnState) {
	gate.ConnState(c, s)
	switch s {
	case http.StateClosed:
		if l := f.take(c); l != nil {
			l.run.open.remove(l)
		}
	case http.StateIdle:
		f.idle(c)
	case http.StateHijacked: // the tunnel's handler lets the link go
		f.take(c)
	}
}

// close ends the server with its connections and waits for both. Nothing may be given to it
// any more.
func (f *face) close() {
	_ = f.lis.Close()
	_ = f.srv.Close()
	<-f.done
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.links { // one that was accepted while the server closed
		l.close()
	}
	for len(f.links) > 0 {
		f.fewer.Wait()
	}
}

// gated puts the gate before a connection that speaks HTTP/1.
func (p *Proxy) gated(c net.Conn, l *link, o gate.Options) net.Conn {
	_, o.TLS = c.(*tls.Conn)
	o.Profile = l.profile()
	o.Fault = func(g *gate.Gate, f *h1.Fault) string {
		if g.Busy() {
			return "" // the handler answers, and records it
		}
		return p.recordFault(l, f, audit.ProtoHTTP1)
	}
	return gate.New(c, o).Conn()
}

// recordFault writes down a head that was refused before anybody could see a request in it.
func (p *Proxy) recordFault(l *link, f *h1.Fault, proto string) string {
	rec := audit.Record{
		Kind: audit.KindRequest, Side: l.side(), Proto: proto, Status: f.Status,
		Decision: audit.Deny, Layer: audit.LayerHTTP, Reason: f.Reason, Detail: f.Text, Rev: p.view.Load().PolicyRevision,
	}
	l.identify(&rec)
	p.countFault(l, &rec)
	rec.Seq = p.rec.Next()
	p.rec.Add(&rec)
	return rec.ID
}
