package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"countersign.dev/internal/ca"
	"countersign.dev/internal/identity"
)

const ownTTL = 24 * time.Hour

// renewOwn issues this server's own SVID.
func (s *Server) renewOwn(ctx context.Context) error {
	c, err := s.issueOwn(ctx, nil)
	if err != nil {
		return err
	}
	s.own.Store(c)
	return nil
}

// issueOwn issues a certificate of this server, in process and with a new key; names are for
// clients that know it by DNS.
func (s *Server) issueOwn(ctx context.Context, names []string) (*tls.Certificate, error) {
	id, err := identity.ForServer(s.td, s.o.Name)
	if err != nil {
		return nil, fmt.Errorf("naming this server: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making this server's key: %w", err)
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		return nil, fmt.Errorf("making this server's request: %w", err)
	}
	got, err := s.ca.Issue(ctx, ca.Request{Profile: ca.Server, ID: id, CSR: csr, TTL: ownTTL, Node: s.o.Name, DNSNames: names})
	if err != nil {
		return nil, fmt.Errorf("issuing this server's SVID: %w", err)
	}
	leaf, err := x509.ParseCertificate(got.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("reading this server's SVID: %w", err)
	}
	return &tls.Certificate{Certificate: got.Chain, PrivateKey: key, Leaf: leaf}, nil
}

// renewal is the moment at which a certificate of this server is replaced.
func renewal(leaf *x509.Certificate) time.Time {
	serial := leaf.SerialNumber.Bytes()
	issued, _ := identity.IssuedAt(serial)
	return identity.RenewAt(serial, issued, leaf.NotAfter)
}

// keepOwn renews it at half its life; a failure is tried again each minute.
func (s *Server) keepOwn(ctx context.Context) error {
	for {
		leaf := s.own.Load().Leaf
		at := renewal(leaf)
		wait := max(time.Until(at), time.Minute)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(wait, 5*time.Minute)): // timers stop while a laptop sleeps: look at the clock
		}
		if time.Now().Before(at) {
			continue
		}
		if err := s.renewOwn(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Error("this server's SVID was not renewed", "ends", leaf.NotAfter, "error", err)
		}
	}
}
