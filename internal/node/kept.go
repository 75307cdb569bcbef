package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"countersign.dev/internal/proxy"
)

const (
	tokenTime  = 5 * time.Second // longest wait for one
	failedRest = time.Second     // how long a failure is the answer to all calls
	maxTries   = 3               // tokens that are forgotten while one call waits for them
	keptCost   = 512             // bytes of a token that is kept, beside its text
)

// kept keeps tokens that the token service issued, one a key. Each is asked for once however many wait for it, and
// renewed behind the back of all before it is too old.
type kept[K comparable] struct {
	life    context.Context // of the node: a renewal outlives the call that began it
	working sync.WaitGroup
	most    int // bytes, about; 0: no bound
	// ages says of a token that lives so long when it is renewed, from when on calls wait for a newer one, and when
	// it is of no use even if there is none.
	ages func(life time.Duration) (renew, fresh, end time.Duration)

	mu    sync.Mutex // guards by and bytes; held for a look-up, never while asking
	by    map[K]*keptToken
	bytes int
}

// keptToken is guarded by the mutex of its kept.
type keptToken struct {
	text              string
	asked             time.Time
	renew, fresh, end time.Time
	again             time.Time     // not asked for before that: it has just failed
	pending           chan struct{} // closed when what is asked for is there; nil: nothing is asked for
	err               error
	dropped           bool // forgotten meanwhile: what comes was asked for too early
}

// ask gets one token and how long it lives. Its errors are *proxy.NoToken.
type ask func(context.Context) (text string, life time.Duration, err error)

// get gives the token of a key, asking for one if none is at hand.
func (s *kept[K]) get(ctx context.Context, key K, how ask) (string, error) {
	for tries := 1; ; tries++ {
		at, text, pending, err := s.look(key, how)
		if pending == nil {
			return text, err
		}
		select {
		case <-pending:
		case <-ctx.Done():
			return "", &proxy.NoToken{Detail: "the token service does not answer in time", Err: context.Cause(ctx)}
		}
		s.mu.Lock()
		text, err = at.result(time.Now())
		dropped := at.dropped
		s.mu.Unlock()
		if !dropped || tries == maxTries {
			return text, err
		}
	}
}

// result is the token as long as it is of use, else why there is none.
func (at *keptToken) result(now time.Time) (string, error) {
	if at.text != "" && now.Before(at.end) {
		return at.text, nil
	}
	return "", at.err
}

// look gives what is at hand, or what to wait for.
func (s *kept[K]) look(key K, how ask) (at *keptToken, text string, pending chan struct{}, err error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	at = s.by[key]
	if at == nil {
		s.makeRoomLocked(now)
		at = &keptToken{}
		s.by[key] = at
		s.bytes += keptCost
	}
	if at.pending == nil && !now.Before(at.again) && !(at.text != "" && now.Before(at.renew)) {
		at.pending = make(chan struct{})
		s.working.Go(func() { s.ask(key, at, how) })
	}
	if at.pending == nil || at.text != "" && now.Before(at.fresh) {
		text, err = at.result(now)
		return at, text, nil, err
	}
	return at, "", at.pending, nil
}

// makeRoomLocked drops what has ended and, where that is not enough, some that have not: they are asked for anew.
func (s *kept[K]) makeRoomLocked(now time.Time) {
	if s.most > 0 && s.bytes < s.most {
		return
	}
	for key, at := range s.by {
		if at.pending == nil && now.After(at.end) && now.After(at.again) {
			s.dropLocked(key, at)
		}
	}
	for key, at := range s.by {
		if s.most == 0 || s.bytes < s.most-s.most/8 {
			return
		}
		if at.pending == nil {
			s.dropLocked(key, at)
		}
	}
}

func (s *kept[K]) dropLocked(key K, at *keptToken) {
	delete(s.by, key)
	s.bytes -= keptCost + len(at.text)
}

// forget drops all: what they were issued by has changed, or one may be revoked. What is being
// asked for now comes too early to be kept.
func (s *kept[K]) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.by {
		at.dropped = true
	}
	clear(s.by)
	s.bytes = 0
}

// doubt drops the token of a key, if it is that one and no younger than age.
func (s *kept[K]) doubt(key K, token string, age time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.by[key]; at != nil && at.text == token && time.Since(at.asked) >= age {
		s.putLocked(at, "")
	}
}

func (s *kept[K]) putLocked(at *keptToken, text string) {
	if !at.dropped {
		s.bytes += len(text) - len(at.text)
	}
	at.text = text
}

func (s *kept[K]) ask(key K, at *keptToken, how ask) {
	ctx, cancel := context.WithTimeout(s.life, tokenTime)
	defer cancel()
	began := time.Now()
	text, life, err := how(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	at.err = err
	if err == nil {
		renew, fresh, end := s.ages(life)
		at.asked, at.renew, at.fresh, at.end = began, began.Add(renew), began.Add(fresh), began.Add(end)
		s.putLocked(at, text)
	} else {
		at.again = time.Now().Add(failedRest)
		if why, ok := errors.AsType[*proxy.NoToken](err); ok && why.Refused {
			s.putLocked(at, "")
		}
	}
	close(at.pending)
	at.pending = nil
}
