package proxy

import (
	"crypto/tls"
	"net"
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

// retire closes such a connection when it has nothing to do any more.
func (f *face) retire(c net.Conn) {
	if !f.edge {
		return
	}
	f.mu.Lock()
	l := f.links[c]
	f.mu.Unlock()
	if l != nil && l.outdated() {
		l.close()
	}
}
