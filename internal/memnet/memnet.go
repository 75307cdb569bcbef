// Package memnet is a network inside one process: a listener, a dialler and connections
// over channels, so that the server and the node of `up`, and both ends of a test in a
// testing/synctest bubble, talk as over a network without opening anything that another
// process could reach.
//
// Its words are those of package net. Its promise: a goroutine waiting in Accept, Dial,
// Read or Write waits on a channel (synctest sees it as durably blocked), a write is taken
// without a reader up to 64 KiB, deadlines work as on a socket, and Close wakes everyone.
package memnet

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
)

// backlog is how many dialled connections wait for Accept before Dial itself waits.
const backlog = 128

// Addr names one end of a connection; its network is "memnet".
type Addr string

// Network is "memnet" for every address.
func (Addr) Network() string { return "memnet" }

// String is the name given to Listen, or that name with a number for the end that dialled.
func (a Addr) String() string { return string(a) }

// Listener is a net.Listener that only Dial of the same value reaches.
type Listener struct {
	addr   Addr
	queue  chan *Conn
	closed chan struct{}
	once   sync.Once
	dialed atomic.Uint64
}

// Listen returns an open listener. The name only shows in addresses and errors: two
// listeners of one name are two listeners.
func Listen(name string) *Listener {
	return &Listener{addr: Addr(name), queue: make(chan *Conn, backlog), closed: make(chan struct{})}
}

// Accept waits for the next dialled connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed: // a closed listener gives nothing out, whatever is queued
		return nil, l.opError("accept", net.ErrClosed)
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, l.opError("accept", net.ErrClosed)
	}
}

// Close ends Accept and Dial; connections that nobody accepted are closed, the others stay.
func (l *Listener) Close() error {
	err := l.opError("close", net.ErrClosed)
	l.once.Do(func() {
		close(l.closed)
		l.drain()
		err = nil
	})
	return err
}

// Addr is the listener's name.
func (l *Listener) Addr() net.Addr { return l.addr }

// Dial makes a connection. It waits only while the backlog is full, at most until ctx ends,
// and is refused as by a closed port when the listener is closed.
func (l *Listener) Dial(ctx context.Context) (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, l.opError("dial", syscall.ECONNREFUSED)
	default:
	}
	n := l.dialed.Add(1)
	here, there := Pipe(Addr(string(l.addr)+"#"+strconv.FormatUint(n, 10)), l.addr)
	select {
	case l.queue <- there:
	case <-l.closed:
		return nil, l.opError("dial", syscall.ECONNREFUSED)
	case <-ctx.Done():
		return nil, l.opError("dial", context.Cause(ctx))
	}
	select {
	case <-l.closed: // Close may have drained the queue before this one was in it
		l.drain()
	default:
	}
	return here, nil
}

// DialContext is Dial in the shape of http.Transport.DialContext; network and address are
// not looked at.
func (l *Listener) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return l.Dial(ctx)
}

func (l *Listener) drain() {
	for {
		select {
		case c := <-l.queue:
			_ = c.Close()
		default:
			return
		}
	}
}

func (l *Listener) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "memnet", Addr: l.addr, Err: err}
}
