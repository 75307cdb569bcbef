package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

const maxExchanged = 1_000 // customers whose tokens web keeps

// web is the front of the shop. Its callers are customers, and what it asks of orders it asks
// on their behalf: with their own token exchanged for one that says for whom, by whom and for
// which service, and that is worth nothing to anybody but web.
type web struct {
	*shopRole
	mu     sync.Mutex           // guards tokens
	tokens map[string]exchanged // by the token that came with the request
}

type exchanged struct {
	token string
	until time.Time
}

// askOrders asks orders what web was asked. The proxy has verified the customer's token before
// the request came here, and the policy of web lets none pass without one.
func (s *web) askOrders(w http.ResponseWriter, r *http.Request) {
	received, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	token, err := s.onBehalf(r.Context(), received)
	if err != nil {
		fmt.Fprintf(s.err, "web: %v\n", err)
		unavailable(w)
		return
	}
	status := http.StatusOK
	if r.Method == "POST" {
		status = http.StatusCreated
	}
	if s.relay(w, r, r.Method, "http://orders"+r.URL.Path, token, status) == http.StatusUnauthorized {
		s.mu.Lock()
		delete(s.tokens, received) // revoked: the customer's next request is exchanged anew
		s.mu.Unlock()
	}
}

// onBehalf is the token to orders for the customer whose token was received. One exchange
// serves the customer's calls until half of the new token's life is over.
func (s *web) onBehalf(ctx context.Context, received string) (string, error) {
	now := time.Now().Round(0) // by the clock on the wall: the token ends by it, also where the machine slept
	s.mu.Lock()
	kept := s.tokens[received]
	s.mu.Unlock()
	if now.Before(kept.until) {
		return kept.token, nil
	}
	got, err := s.exchange(ctx, received)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tokens) >= maxExchanged {
		clear(s.tokens)
	}
	s.tokens[received] = exchanged{got.AccessToken, now.Add(time.Duration(got.ExpiresIn) * time.Second / 2)}
	return got.AccessToken, nil
}

// exchange is RFC 8693 with no secret at all: the identity of the connection, which the proxy
// proves, is what says that it is web who asks.
func (s *web) exchange(ctx context.Context, received string) (tokenAnswer, error) {
	got, err := postForm(ctx, s.client, "http://tokens.countersign/oauth2/token", url.Values{
		"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"client_id":          {s.clientID},
		"subject_token":      {received},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"audience":           {"orders"},
	}, nil)
	switch {
	case err != nil:
		return got, err
	case got.Error != "":
		return got, fmt.Errorf("exchanging a customer's token: %s: %s", got.Error, got.Description)
	case s.leak != "":
		// The mistake of many logs, made here on purpose: the intruder reads this file.
		err = os.WriteFile(s.leak, []byte(got.AccessToken), 0o600)
	}
	return got, err
}

// report is a job that web runs for nobody: it asks for all orders, without a customer.
func (s *shopRole) report(ctx context.Context, _ int) string {
	status, err := s.call(ctx, "GET", "http://orders/orders", "")
	switch {
	case err != nil:
		return err.Error()
	case status/100 == 2:
		return "all orders were shown to nobody's program"
	}
	return "the report is refused, as it should be"
}
