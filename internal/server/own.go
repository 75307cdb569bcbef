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

// renewOwn issues this server's own SVID, in process and with a new key.
func (s *Server) renewOwn(ctx context.Context) error {
	id, err := identity.ForServer(s.td, s.o.Name)
	if err != nil {
		return fmt.Errorf("naming this server: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making this server's key: %w", err)
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		return fmt.Errorf("making this server's request: %w", err)
	}
	got, err := s.ca.Issue(ctx, ca.Request{Profile: ca.Server, ID: id, CSR: csr, TTL: ownTTL, Node: s.o.Name})
	if err != nil {
		return fmt.Errorf("issuing this server's SVID: %w", err)
	}
	leaf, err := x509.ParseCertificate(got.Chain[0])
	if err != nil {
		return fmt.Errorf("reading this server's SVID: %w", err)
	}
	s.own.Store(&tls.Certificate{Certificate: got.Chain, PrivateKey: key, Leaf: leaf})
	return nil
}

// keepOwn renews it at half its life; a failure is tried again each minute.
func (s *Server) keepOwn(ctx context.Context) error {
	for {
		leaf := s.own.Load().Leaf
		serial := leaf.SerialNumber.Bytes()
		issued, _ := identity.IssuedAt(serial)
		at := identity.RenewAt(serial, issued, leaf.NotAfter)
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
