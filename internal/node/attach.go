package node

import (
	"context"
	"crypto/tls"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/proxy"
)

const (
	tokenTime  = 5 * time.Second  // longest wait for one
	tokenSpare = 5 * time.Second  // not used that close to its end
	failedRest = time.Second      // how long a failure is the answer to all calls
	doubtEvery = 30 * time.Second // a token younger than that is not given up because a destination refuses it
	maxTries   = 3                // tokens that are forgotten while one call waits for them
)

// attachedTokens gets and keeps the tokens that calls carry (tokens.md 15.4).
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

func keyOfToken(r *proxy.Run, a proxy.Attach, svid *proxy.SVID) attachKey {
	return attachKey{r.ID.String(), a.Audience, strings.Join(a.Scopes, " "), svid.Generation}
}

type attachedToken struct {
	text    string
	asked   time.Time
	renew   time.Time // at half its life
	end     time.Time
	again   time.Time     // not asked for before that: it has just failed
	pending chan struct{} // closed when what is asked for is there; nil: nothing is asked for
	err     error
	dropped bool // forgotten meanwhile: what comes was asked for too early
}

// get gives a token for a call of r, asking for one if none is at hand. From half its life on
// one call renews it behind the back of all.
func (s *attachedTokens) get(ctx context.Context, r *proxy.Run, a proxy.Attach) (string, error) {
	svid := r.Certificate()
	if svid == nil {
		return "", &proxy.NoToken{Detail: "the workload has no certificate now"}
	}
	key := keyOfToken(r, a, svid)
	for tries := 1; ; tries++ {
		at, text, pending, err := s.look(key, svid.TLS, a)
		if pending == nil {
			return text, err
		}
		select {
		case <-pending:
		case <-ctx.Done():
			return "", &proxy.NoToken{Detail: "the token service does not answer in time", Err: context.Cause(ctx)}
		}
		s.mu.Lock()
		text, err = at.text, at.err
		dropped := at.dropped
		s.mu.Unlock()
		if !dropped || tries == maxTries {
			return text, err
		}
	}
}

// look gives what is at hand, or what to wait for.
func (s *attachedTokens) look(key attachKey, svid *tls.Certificate, a proxy.Attach) (at *attachedToken, text string, pending chan struct{}, err error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	at = s.by[key]
	if at == nil {
		s.dropEndedLocked(now)
		at = &attachedToken{}
		s.by[key] = at
	}
	usable := at.text != "" && now.Before(at.end.Add(-tokenSpare))
	if at.pending == nil && !now.Before(at.again) && !(usable && now.Before(at.renew)) {
		at.pending = make(chan struct{})
		s.working.Go(func() { s.ask(key, at, svid, a) })
	}
	switch {
	case usable:
		return at, at.text, nil, nil
	case at.pending == nil:
		return at, "", nil, at.err
	}
	return at, "", at.pending, nil
}

func (s *attachedTokens) dropEndedLocked(now time.Time) {
	for key, at := range s.by {
		if at.pending == nil && now.After(at.end) && now.After(at.again) {
			delete(s.by, key)
		}
	}
}

// forget drops all: what they were issued by has changed, or one may be revoked. What is being
// asked for now comes too early to be kept.
func (s *attachedTokens) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.by {
		at.dropped = true
	}
	clear(s.by)
}

// rejected drops a token that its destination refused, unless it has just been got: one that
// refuses every token makes for no more than two requests a minute.
func (s *attachedTokens) rejected(r *proxy.Run, a proxy.Attach, token string) {
	svid := r.Certificate()
	if svid == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.by[keyOfToken(r, a, svid)]; at != nil && at.text == token && time.Since(at.asked) >= doubtEvery {
		at.text = ""
	}
}

func (s *attachedTokens) ask(key attachKey, at *attachedToken, svid *tls.Certificate, a proxy.Attach) {
	ctx, cancel := context.WithTimeout(s.life, tokenTime)
	defer cancel()
	began := time.Now()
	text, life, err := s.n.clientCredentials(ctx, key.id, svid, a)
	s.mu.Lock()
	defer s.mu.Unlock()
	at.err = err
	if err == nil {
		at.text, at.asked, at.renew, at.end = text, began, began.Add(life/2), began.Add(life)
	} else {
		at.again = time.Now().Add(failedRest)
		if s.life.Err() == nil {
			s.n.o.Log.Warn("no token to attach", "workload", key.id, "audience", key.audience, "error", err)
		}
	}
	close(at.pending)
	at.pending = nil
}
