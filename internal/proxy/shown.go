package proxy

import (
	"crypto/tls"
	"net"
	"time"
)

// Shown is what a listener shows: the certificate that fits best first. Without one the handshake fails. Least is the
// oldest version of TLS that it speaks.
type Shown struct {
	Certificates []tls.Certificate
	Least        uint16
}

func (s Shown) onto(c *tls.Config) {
	c.Certificates = s.Certificates // crypto/tls takes the first that the client can verify
	c.MinVersion = max(c.MinVersion, s.Least)
}

// outdated reports a connection whose version of TLS its listener has given up: nothing new begins on it (gateway.md
// 22, R2).
func (l *link) outdated() bool {
	if l.door == nil || l.front == nil || l.front.Version >= tls.VersionTLS13 {
		return false
	}
	port := l.run.p.view.Load().port(l.door)
	if port == nil {
		return false
	}
	name := serverName(l.front.ServerName)
	at := port.Router(name)
	return at != nil && l.door.Certificate(at.Listener, name).Least > l.front.Version
}

// tailTime is what a connection has to write out what its last exchange left.
const tailTime = time.Second

// retire closes such a connection once it has had nothing to do for a moment.
func (l *link) retire() {
	time.AfterFunc(tailTime, func() {
		if l.active.Load() == 0 && l.outdated() {
			l.close()
		}
	})
}

// idle hears that a connection has nothing to do.
func (f *face) idle(c net.Conn) {
	if !f.edge {
		return
	}
	f.mu.Lock()
	l := f.links[c]
	f.mu.Unlock()
	if l != nil && l.outdated() {
		l.retire()
	}
}
