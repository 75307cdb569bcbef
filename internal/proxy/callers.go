package proxy

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"slices"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity"
)

// Callers is how a door asks for SVIDs (gateway.md 12.3). Whoever shows a good one is the peer of its requests; no
// other certificate says anything.
type Callers struct {
	Optional     bool     // who shows none, or none that is good, is let in as nobody
	TrustDomains []string // whose SVIDs are good
}

// asks is how the door asks now; nil: it does not.
func (d *door) asks() *Callers {
	if d.Callers == nil {
		return nil
	}
	return d.Callers()
}

// ask has a handshake demand what the door wants. All is judged in VerifyConnection.
func (d *door) ask(c *tls.Config) {
	want := d.asks()
	switch {
	case want == nil:
	case want.Optional:
		c.ClientAuth = tls.RequestClientCert // proves possession of the key and nothing else; settle judges
	default:
		c.ClientAuth = tls.RequireAnyClientCert
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			_, err := d.caller(cs, want)
			return err
		}
	}
}

// caller is whom a handshake proved, by the rules of identity.md 4.2 and the bundle of the caller's own trust domain.
func (d *door) caller(cs tls.ConnectionState, want *Callers) (identity.Peer, error) {
	peer, err := identity.PeerOf(cs, d.run.p.view.Load().Trust, d.run.p.now())
	if err == nil && !slices.Contains(want.TrustDomains, peer.ID.TrustDomain().Name()) {
		return identity.Peer{}, &identity.Error{Reason: identity.WrongTrustDomain, Text: fmt.Sprintf("SVIDs of trust domain %q are not taken here", peer.ID.TrustDomain().Name())}
	}
	return peer, err
}

// settle makes whoever the handshake proved the peer of the connection; false: it must not be served.
func (d *door) settle(l *link, cs *tls.ConnectionState) bool {
	want := d.asks()
	if want == nil {
		return true
	}
	v := d.run.p.view.Load()
	peer, err := d.caller(*cs, want)
	if err != nil {
		return want.Optional
	}
	l.prove(cs, peer, d.run.Certificate())
	l.bind(v, d.run.p.now()) // a later view with another trust judges the certificate anew
	return true
}

// turnedAway counts a handshake that failed, and writes it down if it was for want of a good certificate: the caller's,
// or one of ours for the server name.
func (d *door) turnedAway(l *link, named *greeting, err error) {
	reason := ""
	switch {
	case named.unknown:
		reason = unrecognizedName
	case d.asks() != nil:
		reason = identity.Reason(err)
	}
	d.run.p.metrics.GatewayHandshake(cmp.Or(reason, "failed"))
	if reason == "" {
		return
	}
	d.run.p.recordHandshake(l.conn, d.run, audit.LayerTLS, reason, func(rec *audit.Record) {
		rec.Conn, rec.Port, rec.Gateway, rec.SNI = l.number, d.Port, d.run.label, named.server
		d.run.p.metrics.GatewayRefused(rec.Gateway, rec.Layer, rec.Reason)
	})
}

// admits says whether what a connection proved, or did not prove, is still enough for the door.
func (l *link) admits(v *view) bool {
	want := l.door.asks()
	switch {
	case l.front == nil:
		return true
	case l.state == nil:
		return want == nil || want.Optional
	case want == nil || !slices.Contains(want.TrustDomains, l.peer.ID.TrustDomain().Name()):
		return false
	}
	return l.bound.Load().v.Trust == v.Trust || l.trusted(v, l.run.p.now())
}
