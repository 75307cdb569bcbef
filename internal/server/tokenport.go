package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"countersign.dev/internal/attest"
	"countersign.dev/internal/audit"
	"countersign.dev/internal/gate"
	"countersign.dev/internal/h1"
)

// Bounds of a token port. Who showed a certificate has places of his own; in each kind one
// connection too many ends the one that has done nothing for longest, so that whoever holds
// places in store keeps nobody out (sec-limits-no-lockout).
const (
	portHandshakes = 256  // under way
	portStrangers  = 512  // that showed no certificate
	portClients    = 4096 // that showed one
	portGreeting   = 5 * time.Second
	portHead       = 10 * time.Second
	portWhole      = 30 * time.Second // of a request with its body
	portIdle       = 60 * time.Second
	portHeadSize   = 16 << 10
)

// serveTLS answers on ln until ctx ends.
func serveTLS(ctx context.Context, ln net.Listener, cfg *tls.Config, h http.Handler, records *audit.Recorder, log *slog.Logger) error {
	p := &port{ln: ln, cfg: cfg, records: records, ready: make(chan net.Conn), closed: make(chan struct{}), open: map[net.Conn]*guest{}}
	srv := &http.Server{
		Handler: gate.Strict(h), ReadHeaderTimeout: portHead, ReadTimeout: portWhole, WriteTimeout: portWhole, IdleTimeout: portIdle,
		MaxHeaderBytes: portHeadSize, DisableGeneralOptionsHandler: true, // Strict answers OPTIONS *
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext: withSource,
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnState: func(c net.Conn, to http.ConnState) {
			gate.ConnState(c, to)
			if to == http.StateClosed || to == http.StateHijacked {
				p.forget(c)
			} else {
				p.moved(c)
			}
		},
	}
	var greeting sync.WaitGroup
	greeting.Go(func() { p.accept(ctx, log) })
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), portGrace)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	defer stop()
	err := srv.Serve(p)
	p.Close()
	greeting.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

type sourceKey struct{}

// withSource asks the kernel once a connection which user of this machine is at its other end:
// on loopback that is who the limits count (tokens.md 17).
func withSource(ctx context.Context, c net.Conn) context.Context {
	g := gate.Of(c)
	if g == nil {
		return ctx
	}
	ctx = gate.With(ctx, c)
	conn, ok := g.NetConn().(*tls.Conn)
	if !ok {
		return ctx
	}
	tcp, ok := conn.NetConn().(*net.TCPConn)
	if !ok {
		return ctx
	}
	if from, ok := tcp.RemoteAddr().(*net.TCPAddr); !ok || !from.IP.IsLoopback() {
		return ctx
	}
	// Without an inode the other end is closing, and its uid says nothing.
	s, err := attest.PeerSocket(tcp)
	if err != nil || !s.Found || s.Inode == 0 {
		return ctx
	}
	return context.WithValue(ctx, sourceKey{}, fmt.Sprintf("uid %d", s.UID))
}

// sourceOf is what withSource found; empty: nothing.
func sourceOf(r *http.Request) string {
	source, _ := r.Context().Value(sourceKey{}).(string)
	return source
}

// portGrace is how long requests under way have to end.
const portGrace = 2 * time.Second

// port is a listener of connections whose handshake is done.
type port struct {
	ln      net.Listener
	cfg     *tls.Config
	records *audit.Recorder
	ready   chan net.Conn
	closed  chan struct{}
	once    sync.Once
	hands   sync.WaitGroup

	mu        sync.Mutex // guards the rest; held for a look-up
	greeting  []net.Conn // oldest first
	open      map[net.Conn]*guest
	strangers int
	clients   int
}

// guest is a connection that is served.
type guest struct {
	socket net.Conn
	client bool
	since  time.Time // when it last began or ended a request
}

func (p *port) accept(ctx context.Context, log *slog.Logger) {
	defer p.hands.Wait()
	wait := 5 * time.Millisecond
	for {
		c, err := p.ln.Accept()
		if err != nil {
			select {
			case <-p.closed:
				return
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			log.Warn("accepting a connection", "error", err)
			select {
			case <-p.closed:
				return
			case <-time.After(wait):
			}
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		p.enter(c)
		p.hands.Go(func() { p.greet(ctx, c) })
	}
}

// enter lists a connection among those in handshake; one too many ends the oldest, so that a
// flood starves nobody but itself.
func (p *port) enter(c net.Conn) {
	p.mu.Lock()
	p.greeting = append(p.greeting, c)
	var oldest net.Conn
	if len(p.greeting) > portHandshakes {
		oldest, p.greeting = p.greeting[0], p.greeting[1:]
	}
	p.mu.Unlock()
	if oldest != nil {
		oldest.Close()
	}
}

func (p *port) leave(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.greeting {
		if other == c {
			p.greeting = append(p.greeting[:i], p.greeting[i+1:]...)
			return
		}
	}
}

func (p *port) greet(ctx context.Context, c net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, portGreeting)
	defer cancel()
	conn := tls.Server(c, p.cfg)
	err := conn.HandshakeContext(ctx)
	p.leave(c)
	if err != nil {
		c.Close()
		return
	}
	gated := gate.New(conn, gate.Options{HeadTimeout: portHead, Profile: h1.Edge, TLS: true, Fault: p.fault}).Conn()
	p.admit(gated, conn)
	select {
	case p.ready <- gated:
	case <-p.closed:
		p.forget(gated)
		c.Close()
	}
}

// admit takes a connection in; the one that did nothing for longest goes if there are too many.
func (p *port) admit(c net.Conn, under *tls.Conn) {
	client := len(under.ConnectionState().PeerCertificates) > 0
	p.mu.Lock()
	n, most := &p.strangers, portStrangers
	if client {
		n, most = &p.clients, portClients
	}
	var oldest net.Conn
	if *n >= most {
		for other, g := range p.open {
			if g.client == client && (oldest == nil || g.since.Before(p.open[oldest].since)) {
				oldest = other
			}
		}
	}
	var gone *guest
	if oldest != nil {
		gone = p.open[oldest]
		delete(p.open, oldest)
		*n--
	}
	*n++
	p.open[c] = &guest{socket: under.NetConn(), client: client, since: time.Now()}
	p.mu.Unlock()
	if gone != nil {
		gone.socket.Close() // without a word: a close_notify could wait for it
		oldest.Close()      // and whoever waits in the gate is woken
	}
}

func (p *port) moved(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.open[c]; g != nil {
		g.since = time.Now()
	}
}

func (p *port) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch g := p.open[c]; {
	case g == nil:
		return
	case g.client:
		p.clients--
	default:
		p.strangers--
	}
	delete(p.open, c)
}

// Accept gives the next connection that is ready.
func (p *port) Accept() (net.Conn, error) {
	select {
	case c := <-p.ready:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close ends the listener.
func (p *port) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.ln.Close()
}

// Addr is where it listens.
func (p *port) Addr() net.Addr { return p.ln.Addr() }

// fault records a message that was refused before anybody could see a request in it.
func (p *port) fault(g *gate.Gate, f *h1.Fault) string {
	rec := &audit.Record{
		Kind: audit.KindIssue, Side: audit.SideServer, Proto: audit.ProtoHTTP1, Time: time.Now(), Status: f.Status,
		Decision: audit.Deny, Layer: audit.LayerHTTP, Reason: f.Reason,
	}
	if from, err := netip.ParseAddrPort(g.NetConn().RemoteAddr().String()); err == nil {
		rec.SrcIP, rec.SrcPort = from.Addr().Unmap(), from.Port()
	}
	rec.Seq = p.records.Next()
	rec.ID = p.records.ID(rec.Seq)
	p.records.Add(rec)
	return rec.ID
}
