package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/server"
)

// tokenOptions are the settings of the token service, with the files they name read.
func tokenOptions(c resource.TokenConfig) (server.TokenOptions, error) {
	o := server.TokenOptions{Issuer: c.Issuer, KeyPeriod: c.KeyPeriod, NoImplicit: c.NoImplicit}
	// up listens on loopback, and an identity provider on the laptop may too (tokens.md 10.4).
	o.FetchAllow = append(slices.Clone(c.FetchAllow), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	if c.Cert != "" {
		cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return o, &admin.Problem{Code: "config", Message: fmt.Sprintf("reading token.tls, %s and %s: %s", c.Cert, c.Key, reason(err)), Hints: []string{"token.tls names a PEM certificate and its key"}}
		}
		o.Cert = &cert
	}
	if c.FetchRoots != "" {
		pem, err := os.ReadFile(c.FetchRoots)
		if err != nil {
			return o, &admin.Problem{Code: "config", Message: fmt.Sprintf("reading token.fetchRoots, %s: %s", c.FetchRoots, reason(err))}
		}
		if o.FetchRoots, err = x509.SystemCertPool(); err != nil { // beside the system's, if it has any
			o.FetchRoots = x509.NewCertPool()
		}
		if !o.FetchRoots.AppendCertsFromPEM(pem) {
			return o, &admin.Problem{Code: "config", Message: "reading token.fetchRoots, " + c.FetchRoots + ": there is no certificate in it", Hints: []string{"it holds PEM certificates"}}
		}
	}
	return o, nil
}
