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

// tokenOptions are the settings of the token service, with the files they name read: what is
// wrong with them is said before anything is taken or written.
func (e *env) tokenOptions(c resource.TokenConfig) (server.TokenOptions, error) {
	o := server.TokenOptions{Issuer: c.Issuer, KeyPeriod: c.KeyPeriod, NoImplicit: c.NoImplicit}
	// up listens on loopback, and an identity provider on the laptop may too (tokens.md 10.4).
	o.FetchAllow = append(slices.Clone(c.FetchAllow), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	if c.Cert != "" {
		cert, err := e.tokenCertificate(c.Cert, c.Key)
		if err != nil {
			return o, err
		}
		o.Cert = cert
	}
	if c.FetchRoots != "" {
		pem, err := os.ReadFile(c.FetchRoots)
		if err != nil {
			return o, tokenFileProblem("fetchRoots", c.FetchRoots, reason(err), "it holds PEM certificates")
		}
		if o.FetchRoots, err = x509.SystemCertPool(); err != nil { // beside the system's, if it has any
			o.FetchRoots = x509.NewCertPool()
		}
		if !o.FetchRoots.AppendCertsFromPEM(pem) {
			return o, tokenFileProblem("fetchRoots", c.FetchRoots, "there is no certificate in it", "it holds PEM certificates")
		}
	}
	return o, nil
}

func (e *env) tokenCertificate(certFile, keyFile string) (*tls.Certificate, error) {
	const hint = "token.tls names a PEM certificate and its key"
	certs, err := os.ReadFile(certFile)
	if err != nil {
		return nil, tokenFileProblem("tls.cert", certFile, reason(err), hint)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, tokenFileProblem("tls.key", keyFile, reason(err), hint)
	}
	if st, err := os.Stat(keyFile); err == nil {
		e.warnOthers("the key", keyFile, st)
	}
	cert, err := tls.X509KeyPair(certs, key)
	if err != nil {
		return nil, tokenFileProblem("tls", certFile+" and "+keyFile, reason(err), hint)
	}
	return &cert, nil
}

func tokenFileProblem(field, file, why, hint string) *admin.Problem {
	return &admin.Problem{Code: "config", Message: fmt.Sprintf("reading token.%s, %s: %s", field, file, why), Hints: []string{hint}}
}
