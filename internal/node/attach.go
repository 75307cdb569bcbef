package node

import (
	"context"
	"strings"
	"time"

	"countersign.dev/internal/proxy"
)

const (
	tokenSpare = 5 * time.Second  // not used that close to its end
	doubtEvery = 30 * time.Second // a token younger than that is not given up because a destination refuses it
)

// attachedTokens gets and keeps the tokens that calls carry (tokens.md 15.4).
type attachedTokens struct {
	n *Node
	kept[attachKey]
}

func newAttachedTokens(n *Node) *attachedTokens {
	s := &attachedTokens{n: n, kept: kept[attachKey]{by: map[attachKey]*keptToken{}}}
	s.ages = func(life time.Duration) (renew, fresh, end time.Duration) {
		return life / 2, life - tokenSpare, life - tokenSpare
	}
	return s
}

// attachKey: with another certificate a bound token may be worth nothing, so each generation
// has its own.
type attachKey struct {
	id, audience, scopes string
	generation           uint64
}

func keyOfToken(r *proxy.Run, a proxy.Attach, svid *proxy.SVID) attachKey {
	return attachKey{r.ID.String(), a.Audience, strings.Join(a.Scopes, " "), svid.Generation}
}

// get gives a token for a call of r, asking for one if none is at hand. From half its life on
// one call renews it behind the back of all.
func (s *attachedTokens) get(ctx context.Context, r *proxy.Run, a proxy.Attach) (string, error) {
	svid := r.Certificate()
	if svid == nil {
		return "", &proxy.NoToken{Detail: "the workload has no certificate now"}
	}
	key := keyOfToken(r, a, svid)
	return s.kept.get(ctx, key, func(ctx context.Context) (string, time.Duration, error) {
		text, life, err := s.n.clientCredentials(ctx, key.id, svid.TLS, a)
		if err != nil && s.life.Err() == nil {
			s.n.o.Log.Warn("no token to attach", "workload", key.id, "audience", key.audience, "error", err)
		}
		return text, life, err
	})
}

// rejected drops a token that its destination refused, unless it has just been got: one that
// refuses every token makes for no more than two requests a minute.
func (s *attachedTokens) rejected(r *proxy.Run, a proxy.Attach, token string) {
	if svid := r.Certificate(); svid != nil {
		s.doubt(keyOfToken(r, a, svid), token, doubtEvery)
	}
}
