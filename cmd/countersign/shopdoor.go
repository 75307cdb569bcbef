package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	partnerEvery  = 200 * time.Millisecond
	scraperEvery  = 20 * time.Millisecond // five times as often as the limit lets it
	strangerEvery = 200 * time.Millisecond
)

// outside is what calls the shop from the internet: it knows the door's name and whose
// certificate to trust, nothing of the mesh. Names below localhost are this machine to curl and
// to browsers; not all resolvers know that.
func outside(shop, roots string) (*http.Client, error) {
	u, err := url.Parse(shop)
	if err != nil {
		return nil, fmt.Errorf("reading the shop's URL: %w", err)
	}
	pem, err := os.ReadFile(roots)
	if err != nil {
		return nil, fmt.Errorf("reading the roots: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	var d net.Dialer
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", u.Port()))
	}
	return &http.Client{Timeout: shopCall, Transport: &http.Transport{
		DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true,
	}}, nil
}

// supply is a partner's program: it looks at the stock with its API key, and in turn at orders,
// which its key is not for.
func (s *shopRole) supply(ctx context.Context, n int) string {
	path, want := fmt.Sprintf("/stock/%d", n%1000), http.StatusOK
	if n%2 == 0 {
		path, want = fmt.Sprintf("/orders/%d", n%1000), http.StatusForbidden
	}
	return s.visit(ctx, path, want, "the stock is shown, orders are not")
}

// scrape is a program with an API key and no patience.
func (s *shopRole) scrape(ctx context.Context, n int) string {
	return s.visit(ctx, fmt.Sprintf("/stock/%d", n%1000), 0, "the stock is shown, as often as the limit lets it")
}

// stray shows nothing.
func (s *shopRole) stray(ctx context.Context, n int) string {
	return s.visit(ctx, fmt.Sprintf("/orders/%d", n%1000), http.StatusForbidden, "refused, as it should be")
}

// visit calls the shop's door and says what was not as wanted; 0 is the one or the other side of
// a limit.
func (s *shopRole) visit(ctx context.Context, path string, want int, fine string) string {
	req, err := http.NewRequestWithContext(ctx, "GET", s.shop+path, nil)
	if err != nil {
		return err.Error()
	}
	if name, value, ok := strings.Cut(readToken(s.header), ": "); ok {
		req.Header.Set(name, value)
	}
	status, err := s.send(req)
	switch {
	case err != nil:
		return err.Error()
	case status == want, want == 0 && (status == http.StatusOK || status == http.StatusTooManyRequests):
		return fine
	}
	return fmt.Sprintf("GET %s: %d", s.shop+path, status)
}
