package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/bearer"
	"countersign.dev/internal/control"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/proxy"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/snapshot"
)

const (
	tokensKey    = identity.ReservedNamespace + "/tokens" // the token service in the registry
	tokenTime    = 5 * time.Second                        // longest wait for one
	tokenSpare   = 5 * time.Second                        // not used that close to its end
	maxTokenBody = 64 << 10
	missEvery    = 30 * time.Second // a key that a set does not hold is told so often, a set
	maxMissed    = 256              // sets that are remembered for it
)

// book makes what this node knows of tokens out of a snapshot; nil: there is no token service
// and no rule that reads a token.
func (n *Node) book(s *snapshot.Node, before *bearer.Book) (*bearer.Book, error) {
	f := bearer.Facts{TrustDomain: n.td.Name()}
	if s.Tokens != nil {
		set, err := jose.ReadSet(s.Tokens.Keys)
		if err != nil {
			return nil, fmt.Errorf("reading the keys of our own issuer: %w", err)
		}
		f.Issuer, f.Own = s.Tokens.Issuer, set
	}
	o := grant.Objects{TrustDomain: n.td.Name(), RootNamespace: s.Mesh.RootNamespace, Issuer: f.Issuer, Audiences: s.Audiences, Issuers: s.Issuers}
	for _, svc := range s.Services {
		o.Services = append(o.Services, grant.Service{Namespace: svc.Namespace, Name: svc.Name, Owners: []string{svc.Audience}})
	}
	f.Directory, _ = grant.New(o)
	f.Foreign = func(want bearer.Source) *jose.Set {
		for _, k := range s.Keys {
			if k.URI != want.URI || want.URI == "" && k.Issuer != want.Issuer || k.Until <= time.Now().Unix() {
				continue
			}
			if set, err := jose.ReadSet(k.Keys); err == nil {
				return set
			}
		}
		return nil
	}
	return bearer.NewBook(f, before), nil
}

// revoked puts a part of the log in force: what is under way with a token that it names ends.
func (n *Node) revokedTokens(all bool, entries []revocation.Entry, at time.Time) error {
	now := time.Now()
	n.watchClock(now.Sub(at), now)
	var err error
	switch {
	case all:
		err = n.revoked.Reset(entries, now)
	case len(entries) > 0:
		err = n.revoked.Add(entries, now)
	}
	if err != nil { // what cannot be read may name any token: none of ours counts until it is sent anew
		n.proxy.Revoked()
		return fmt.Errorf("taking the log of revoked tokens: %w", err)
	}
	n.revoked.Beat(now)
	if len(entries) > 0 {
		n.proxy.Revoked()
	}
	return nil
}

// clockAlarm is how far the clocks of node and server may be apart before it is said (tokens.md
// 12.3): tokens begin and end by them.
const (
	clockAlarm      = 2 * time.Second
	clockAlarmEvery = time.Minute
)

// watchClock keeps the offset to the server's clock, and says if it is large. What the way of
// the message took is part of it.
func (n *Node) watchClock(offset time.Duration, now time.Time) {
	n.o.Metrics.ClockOffset(offset)
	last := n.clockSaid.Load()
	if offset.Abs() < clockAlarm || now.UnixNano()-last < int64(clockAlarmEvery) || !n.clockSaid.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	n.o.Log.Warn("this node's clock is not the server's: tokens begin and end at other times here", "ahead", offset)
}

// missedKey tells the server that a key set may have changed, not more often than it would act.
func (n *Node) missedKey(src bearer.Source) {
	n.misses.mu.Lock()
	now := time.Now()
	if len(n.misses.at) >= maxMissed {
		clear(n.misses.at)
	}
	if last, ok := n.misses.at[src]; ok && now.Sub(last) < missEvery {
		n.misses.mu.Unlock()
		return
	}
	n.misses.at[src] = now
	n.misses.mu.Unlock()
	n.tokens.working.Go(func() {
		ctx, cancel := context.WithTimeout(n.tokens.life, tokenTime)
		defer cancel()
		_, err := n.client.Report(ctx, &control.ReportRequest{What: &control.ReportRequest_KeyMiss{KeyMiss: &control.KeyMiss{Issuer: src.Issuer, Uri: src.URI}}})
		if err != nil && ctx.Err() == nil {
			n.o.Log.Debug("a missing key was not told", "issuer", src.Issuer, "error", err)
		}
	})
}

type misses struct {
	mu sync.Mutex // guards at; held for a look-up
	at map[bearer.Source]time.Time
}

// attached gets and keeps the tokens that calls carry (tokens.md 15.4).
type attachedTokens struct {
	n       *Node
	life    context.Context // of the node: a renewal outlives the call that began it
	working sync.WaitGroup

	mu sync.Mutex // guards by; held for a look-up, never while asking
	by map[attachKey]*attachedToken
}

// attachKey: with another certificate a bound token may be worth nothing, so each generation
// has its own.
type attachKey struct {
	id, audience, scopes string
	generation           uint64
}

type attachedToken struct {
	text    string
	renew   time.Time // at half its life
	end     time.Time
	pending chan struct{} // closed when what is asked for is there; nil: nothing is asked for
	err     error
}

// get gives a token for a call of r, asking for one if none is at hand. From half its life on
// one call renews it behind the back of all.
func (s *attachedTokens) get(ctx context.Context, r *proxy.Run, a proxy.Attach) (string, error) {
	svid := r.Certificate()
	if svid == nil {
		return "", errors.New("the workload has no certificate now")
	}
	key := attachKey{r.ID.String(), a.Audience, strings.Join(a.Scopes, " "), svid.Generation}
	now := time.Now()
	s.mu.Lock()
	at := s.by[key]
	if at == nil {
		s.dropEndedLocked(now)
		at = &attachedToken{}
		s.by[key] = at
	}
	usable := at.text != "" && now.Before(at.end.Add(-tokenSpare))
	if usable && now.Before(at.renew) {
		s.mu.Unlock()
		return at.text, nil
	}
	if at.pending == nil {
		at.pending = make(chan struct{})
		s.working.Go(func() { s.ask(key, at, svid, a) })
	}
	text, pending := at.text, at.pending
	s.mu.Unlock()
	if usable {
		return text, nil
	}
	select {
	case <-pending:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.err != nil {
		return "", at.err
	}
	return at.text, nil
}

func (s *attachedTokens) dropEndedLocked(now time.Time) {
	for key, at := range s.by {
		if at.pending == nil && now.After(at.end) {
			delete(s.by, key)
		}
	}
}

// forget drops all: what they were issued by has changed.
func (s *attachedTokens) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.by)
}

func (s *attachedTokens) ask(key attachKey, at *attachedToken, svid *proxy.SVID, a proxy.Attach) {
	ctx, cancel := context.WithTimeout(s.life, tokenTime)
	defer cancel()
	began := time.Now()
	text, life, err := s.n.clientCredentials(ctx, key.id, svid.TLS, a)
	s.mu.Lock()
	defer s.mu.Unlock()
	at.err = err
	if err == nil {
		at.text, at.renew, at.end = text, began.Add(life/2), began.Add(life)
	} else if s.life.Err() == nil {
		s.n.o.Log.Warn("no token to attach", "workload", key.id, "audience", key.audience, "error", err)
	}
	close(at.pending)
	at.pending = nil
}

// clientCredentials asks the token service, as the workload itself (tokens.md 7.1).
func (n *Node) clientCredentials(ctx context.Context, id string, svid *tls.Certificate, a proxy.Attach) (string, time.Duration, error) {
	h := n.snap.Load()
	var inst *snapshot.Instance
	for _, i := range h.Instances {
		if len(i.Services) == 1 && i.Services[0] == tokensKey {
			inst = &i
			break
		}
	}
	if inst == nil {
		return "", 0, errors.New("no token service in the mesh")
	}
	cfg := identity.ClientConfig(identity.Side{
		Own: func(string) (*tls.Certificate, error) { return svid, nil }, Trust: n.trust, Now: time.Now,
		NextProtos: []string{"http/1.1"}, Check: control.CheckServer(n.td.Name()),
	}, inst.ID+".tokens."+identity.ReservedNamespace+".svc."+n.td.Name())
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", inst.Address)
	if err != nil {
		return "", 0, fmt.Errorf("reaching the token service: %w", err)
	}
	conn := tls.Client(raw, cfg)
	tr := &http.Transport{
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableKeepAlives: true,
	}
	defer raw.Close()
	if err := conn.HandshakeContext(ctx); err != nil {
		return "", 0, fmt.Errorf("reaching the token service: %w", err)
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "audience": {a.Audience}}
	if len(a.Scopes) > 0 {
		form.Set("scope", strings.Join(a.Scopes, " "))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://tokens."+identity.ReservedNamespace+"/oauth2/token", bytes.NewReader([]byte(form.Encode())))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", 0, fmt.Errorf("asking for a token: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenBody))
	if err != nil {
		return "", 0, fmt.Errorf("reading a token: %w", err)
	}
	var got struct {
		Token   string `json:"access_token"`
		Expires int64  `json:"expires_in"`
		Error   string `json:"error"`
		Text    string `json:"error_description"`
	}
	if err := json.Unmarshal(body, &got); err != nil && resp.StatusCode == http.StatusOK {
		return "", 0, fmt.Errorf("reading a token: %w", err)
	}
	if resp.StatusCode != http.StatusOK || got.Token == "" {
		return "", 0, fmt.Errorf("the token service answered %d %s %s", resp.StatusCode, got.Error, got.Text)
	}
	return got.Token, time.Duration(got.Expires) * time.Second, nil
}
