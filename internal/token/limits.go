package token

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"countersign.dev/internal/grant"
)

// The limits of tokens.md 17, a second and at once.
const (
	strangerRate, strangerBurst   = 50, 100  // of a source, not or not yet authenticated
	failureRate, failureBurst     = 1, 10    // failed authentications of a source, and of a client
	signatureRate, signatureBurst = 100, 200 // failed signatures under one name of a source that are checked
	sourceSignatures              = 4        // times as many under all names of a source
	clientRate, clientBurst       = 200, 400 // tokens and revocations of a client
	exchangeRate, exchangeBurst   = 5000, 10000
	introspectRate, introspBurst  = 2000, 4000

	strangersKept = 8 << 10  // sources and names that strangers make us remember, of each limit
	clientsKept   = 64 << 10 // proven clients, of each limit

	signaturesPerCore = 4
	signatureWait     = 100 * time.Millisecond
)

// limits are all limits of the service. What strangers fill and what the proven need are apart.
type limits struct {
	seed maphash.Seed

	stranger, failedSource, failedClient limit
	signature, signatures, firstChecks   limit // see spare
	client, exchange, introspect         limit
}

func newLimits(seed maphash.Seed) limits {
	of := func(rate, burst, kept int) limit {
		return limit{every: time.Second / time.Duration(rate), burst: burst, kept: kept, due: map[uint64]int64{}}
	}
	return limits{
		seed:         seed,
		stranger:     of(strangerRate, strangerBurst, strangersKept),
		failedSource: of(failureRate, failureBurst, strangersKept),
		failedClient: of(failureRate, failureBurst, strangersKept),
		signature:    of(signatureRate, signatureBurst, strangersKept),
		signatures:   of(sourceSignatures*signatureRate, sourceSignatures*signatureBurst, strangersKept),
		firstChecks:  of(failureRate, failureBurst, strangersKept),
		client:       of(clientRate, clientBurst, clientsKept),
		exchange:     of(exchangeRate, exchangeBurst, clientsKept),
		introspect:   of(introspectRate, introspBurst, clientsKept),
	}
}

// limit is one bucket for each key, as the instant at which it is full again: a full bucket is
// one that is not there. Keys are hashes under a random seed, so nobody aims at another's.
type limit struct {
	every       time.Duration
	burst, kept int

	mu    sync.Mutex       // guards due and swept, for a map access or a sweep a second
	due   map[uint64]int64 // at most kept, and one shared by all that find no place
	swept int64
}

// take takes one from the bucket of key; false if it is empty.
func (l *limit) take(key uint64, now time.Time) bool { return l.ask(key, now, true) }

// left says whether take would succeed.
func (l *limit) left(key uint64, now time.Time) bool { return l.ask(key, now, false) }

func (l *limit) ask(key uint64, now time.Time, take bool) bool {
	at := now.UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	due, known := l.due[key]
	if !known && len(l.due) >= l.kept {
		l.sweepLocked(at)
		if len(l.due) >= l.kept {
			key = 0
			due = l.due[key]
		}
	}
	due = max(due, at)
	if due-at > int64(l.every)*int64(l.burst-1) {
		return false
	}
	if take {
		l.due[key] = due + int64(l.every)
	}
	return true
}

// sweepLocked forgets the full buckets, once a second at most: strangers choose when it runs.
func (l *limit) sweepLocked(at int64) {
	if at-l.swept < int64(time.Second) && at >= l.swept {
		return
	}
	l.swept = at
	for key, due := range l.due {
		if due <= at {
			delete(l.due, key)
		}
	}
}

// key is a name as the limits know it.
func (l *limits) key(name string) uint64 { return maphash.String(l.seed, name) }

// assertionKey is a name as one source claims it. Clients that do not exist share a name, so
// inventing them gains nothing.
func (l *limits) assertionKey(source string, known *grant.Client) uint64 {
	if known == nil {
		return l.key(source + "\x00")
	}
	return l.key(source + "\x00" + known.ClientID)
}

// spare says whether one more signature of a source may be checked that could fail: what failed
// under this name has left some, and what failed under all names of the source, too. A name that
// others' failures alone would shut out has its first checks to itself.
func (l *limits) spare(source, name uint64, now time.Time) bool {
	return l.signature.left(name, now) && (l.signatures.left(source, now) || l.firstChecks.left(name, now))
}

// spent is a signature that failed.
func (l *limits) spent(source, name uint64, now time.Time) {
	l.signature.take(name, now)
	if !l.signatures.take(source, now) {
		l.firstChecks.take(name, now)
	}
}

// place waits for a place among the tokens that are written down and signed (tokens.md 17); the
// caller gives it back with leave. Where the file of records holds most places, it is at fault.
func (s *Service) place(ctx context.Context) *fault {
	select {
	case s.signing <- struct{}{}:
		return nil
	default:
	}
	wait := time.NewTimer(signatureWait)
	defer wait.Stop()
	select {
	case s.signing <- struct{}{}:
		return nil
	case <-ctx.Done():
	case <-wait.C:
	}
	if int(s.recording.Load()) > cap(s.signing)/2 {
		return unstored().because("", detailRecord)
	}
	return &fault{code: codeUnavailable, text: textRate, reason: reasonConcurrency, retry: 1}
}

func (s *Service) leave() { <-s.signing }
