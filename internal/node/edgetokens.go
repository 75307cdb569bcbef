package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/proxy"
)

const (
	maxEdgeBytes = 16 << 20 // of edge tokens that are kept, about
	maxAsking    = 64       // exchanges at a time; more wait for their turn
	askingIdle   = 30 * time.Second
)

// edgeTokens gets and keeps what callers of Gateways go on with: one edge token for each credential and service
// (tokens.md 15.1).
type edgeTokens struct {
	n *Node
	kept[edgeKey]
	places chan struct{}

	line  sync.Mutex // guards lines; held for a look-up
	lines map[string]*line
}

// edgeKey names what is asked for. Of the credential it holds a hash alone: who reads memory later finds none there.
type edgeKey struct {
	gateway, audience  string
	credential, policy [sha256.Size]byte
}

// line is the way of one Gateway to the token service, as long as its certificate is the same.
type line struct {
	generation uint64
	*http.Transport
}

func newEdgeTokens(n *Node) *edgeTokens {
	s := &edgeTokens{
		n: n, kept: kept[edgeKey]{by: map[edgeKey]*keptToken{}, most: maxEdgeBytes},
		places: make(chan struct{}, maxAsking), lines: map[string]*line{},
	}
	s.ages = edgeAges
	return s
}

// edgeAges: of the 60 s that an edge token lives it is renewed after 30, waited for after 45, and used for 55 where
// the token service cannot be reached.
func edgeAges(life time.Duration) (renew, fresh, end time.Duration) {
	return life / 2, life * 3 / 4, life - min(tokenSpare, life/4)
}

func edgeKeyOf(r *proxy.Run, c *proxy.EdgeCall) edgeKey {
	var room [2 << 10]byte // most credentials fit
	what := append(append(room[:0], c.Kind...), 0)
	if c.KeyID == "" {
		what = append(what, c.Text...)
	} else {
		what = append(append(what, c.KeyID...), 0)
		what = append(what, strings.Join(c.Scopes, " ")...)
	}
	return edgeKey{gateway: r.ID.String(), audience: c.Audience, credential: sha256.Sum256(what), policy: c.Policy}
}

func (s *edgeTokens) get(ctx context.Context, r *proxy.Run, c proxy.EdgeCall) (string, error) {
	key := edgeKeyOf(r, &c)
	return s.kept.get(ctx, key, func(ctx context.Context) (string, time.Duration, error) { return s.exchange(ctx, r, &c, key.gateway) })
}

// exchange asks the token service, as the Gateway (tokens.md 7.2).
func (s *edgeTokens) exchange(ctx context.Context, r *proxy.Run, c *proxy.EdgeCall, gateway string) (string, time.Duration, error) {
	svid := r.Certificate()
	if svid == nil {
		return "", 0, &proxy.NoToken{Detail: "the Gateway has no certificate now"}
	}
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return "", 0, unreached(context.Cause(ctx))
	}
	form := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "client_id": {gateway}, "audience": {c.Audience},
		"subject_token": {c.Text}, "subject_token_type": {c.Kind},
	}
	status, body, err := postForm(ctx, s.lineOf(gateway, svid), form)
	if err != nil {
		return "", 0, err
	}
	text, life, err := tokenOf(status, body)
	if why, ok := errors.AsType[*proxy.NoToken](err); ok && status == http.StatusBadRequest {
		why.Refused = true
	}
	return text, life, err
}

// lineOf keeps connections open between exchanges, but never beyond the certificate that they were made with.
func (s *edgeTokens) lineOf(gateway string, svid *proxy.SVID) *http.Transport {
	s.line.Lock()
	defer s.line.Unlock()
	at := s.lines[gateway]
	if at != nil && at.generation == svid.Generation {
		return at.Transport
	}
	if at != nil {
		at.CloseIdleConnections()
	}
	at = &line{svid.Generation, &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return s.n.dialTokenService(ctx, svid.TLS)
		},
		IdleConnTimeout: askingIdle, MaxIdleConnsPerHost: maxAsking,
	}}
	s.lines[gateway] = at
	return at.Transport
}

// leave forgets the line of a Gateway that is served here no more.
func (s *edgeTokens) leave(gateway string) {
	s.line.Lock()
	defer s.line.Unlock()
	if at := s.lines[gateway]; at != nil {
		at.CloseIdleConnections()
		delete(s.lines, gateway)
	}
}

// hangUp ends the connections to a token service that may be another now.
func (s *edgeTokens) hangUp() {
	s.line.Lock()
	defer s.line.Unlock()
	for gateway, at := range s.lines {
		at.CloseIdleConnections()
		delete(s.lines, gateway)
	}
}
