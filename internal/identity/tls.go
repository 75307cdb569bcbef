package identity

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"time"
)

// Side is one end of a connection in the mesh.
type Side struct {
	// Own is one's own certificate, asked for at every handshake: a server is given the name in
	// the client's hello, a client the empty name. A client without Own shows no certificate.
	Own func(serverName string) (*tls.Certificate, error)
	// Trust is the trust of the current snapshot, asked for at every handshake.
	Trust      func() *Trust
	Now        func() time.Time
	NextProtos []string
	// Check is the last word about a verified peer: nil, or why it is not who is expected here.
	// An error other than *Error becomes the reason unexpected_peer. A nil Check takes everybody.
	Check func(Peer) error
}

// ServerConfig is the configuration of the accepting end. clientCert is RequireAnyClientCert,
// or RequestClientCert: then a connection without certificate is let through and judged
// later by PeerOf; a certificate that is shown must be good in both.
func ServerConfig(s Side, clientCert tls.ClientAuthType) *tls.Config {
	c := s.config()
	c.ClientAuth = tls.RequireAnyClientCert // crypto/tls proves possession of the key and nothing else
	optional := clientCert == tls.RequestClientCert
	if optional {
		c.ClientAuth = tls.RequestClientCert
	}
	c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return s.Own(hello.ServerName)
	}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if optional && len(cs.PeerCertificates) == 0 {
			return nil
		}
		return s.judge(cs)
	}
	return c
}

// ClientConfig is the configuration of the dialling end. serverName tells the other side
// which workload is meant; it proves nothing: who answers is judged by Check.
func ClientConfig(s Side, serverName string) *tls.Config {
	c := s.config()
	c.ServerName = serverName
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if s.Own == nil {
			return new(tls.Certificate), nil
		}
		return s.Own("")
	}
	c.VerifyConnection = s.judge
	return c
}

// BlindConfig is the configuration of a client that does not know yet whom to trust. It is
// for one use: reading the bundle that a join code's pin then judges (Bundle.Pinned). It shows no
// certificate, and nothing that comes over it may be believed.
func BlindConfig(serverName string, now func() time.Time) *tls.Config {
	c := Side{Now: now}.config()
	c.ServerName = serverName
	return c
}

// config is what both ends share. Every check of the peer is in VerifyConnection, which,
// unlike VerifyPeerCertificate, runs on every kind of handshake; crypto/tls's own check would
// compare host names and ask the system's roots.
func (s Side) config() *tls.Config {
	return &tls.Config{
		Time:                        s.Now,
		NextProtos:                  s.NextProtos,
		MinVersion:                  tls.VersionTLS13,
		CurvePreferences:            []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // small first records would destroy batching
		InsecureSkipVerify:          true, // see above: VerifyConnection judges
	}
}

// judge verifies the peer of a handshake and asks Check.
func (s Side) judge(cs tls.ConnectionState) error {
	peer, err := PeerOf(cs, s.Trust(), s.Now())
	if err != nil {
		return err
	}
	if s.Check == nil {
		return nil
	}
	err = s.Check(peer)
	if err == nil {
		return nil
	}
	if refused, ok := errors.AsType[*Error](err); ok {
		return refused
	}
	return refuse(UnexpectedPeer, "%v", err)
}

// PeerOf reads the peer of a finished handshake, judging its certificate anew by what is
// trusted now: a bundle that changed since, or a certificate that ended, is a refusal.
func PeerOf(cs tls.ConnectionState, t *Trust, now time.Time) (Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, refuse(NoClientCert, "peer showed no certificate")
	}
	return Verify(cs.PeerCertificates, t, now)
}

// Reason is the audit reason of a failed handshake; empty if the error tells none of them
// (the other side hung up, or refused us).
func Reason(handshake error) string {
	if refused, ok := errors.AsType[*Error](handshake); ok {
		return refused.Reason
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](handshake); ok {
		return Plaintext
	}
	if timeout, ok := errors.AsType[net.Error](handshake); ok && timeout.Timeout() || errors.Is(handshake, os.ErrDeadlineExceeded) {
		return Timeout
	}
	if handshake == nil {
		return ""
	}
	// crypto/tls gives these no types; TestReason holds the texts to the version in use.
	for _, known := range []struct{ text, reason string }{
		{"client didn't provide a certificate", NoClientCert},
		{"unsupported versions", Version},
		{"no cipher suite supported", Suite},
		{"no key exchanges supported", Group},
		{"application protocol", ALPN},
		{"failed to parse client certificate", BadChain},
	} {
		if strings.Contains(handshake.Error(), known.text) {
			return known.reason
		}
	}
	return ""
}
