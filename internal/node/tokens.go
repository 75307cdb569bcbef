package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"countersign.dev/internal/bearer"
	"countersign.dev/internal/control"
	"countersign.dev/internal/grant"
	"countersign.dev/internal/jose"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/snapshot"
)

const (
	missEvery = 30 * time.Second // a key that a set does not hold is told so often, a set
	maxMissed = 256              // sets that are remembered for it
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
	f.Foreign = func(want bearer.Source) (*jose.Set, time.Time) {
		for _, k := range s.Keys {
			if k.URI != want.URI || want.URI == "" && k.Issuer != want.Issuer {
				continue
			}
			if set, err := jose.ReadSet(k.Keys); err == nil {
				return set, time.Unix(k.Until, 0)
			}
		}
		return nil, time.Time{}
	}
	return bearer.NewBook(f, before), nil
}

// withdrawn reports whether a key of our own issuer counts no longer: what it signed is refused.
func withdrawn(before, now *bearer.Book) bool {
	keys := now.OwnKeys()
	return slices.ContainsFunc(before.OwnKeys(), func(kid string) bool { return !slices.Contains(keys, kid) })
}

// revokedTokens puts a part of the log in force: what is under way with a token that it names
// ends. It may name tokens that calls carry as well.
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
	if err != nil || len(entries) > 0 {
		n.tokens.forget()
		n.edge.forget()
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
