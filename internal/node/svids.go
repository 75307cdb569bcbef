package node

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"countersign.dev/internal/control"
	"countersign.dev/internal/entry"
	"countersign.dev/internal/identity"
	"countersign.dev/internal/proxy"
)

// svid is the credential of one registration entry on this node. It is immutable; renewal
// replaces it whole.
type svid struct {
	proxy.SVID
	ID    string
	Chain [][]byte
	PKCS8 []byte
	entry entry.Entry
	renew time.Time
}

// svids holds one per entry, made on first demand (identity.md 1, decision 5).
type svids struct {
	n *Node

	mu      sync.Mutex // guards the rest; held for a look-up, never while issuing
	by      map[string]*svid
	making  map[string]*making
	failed  map[string]*backoff
	held    map[string]int       // runs that use it
	asked   map[string]time.Time // last demand, of each in by
	idle    map[string]time.Time // since when nobody has asked for one that is due
	renewed chan struct{}        // wakes run
	gen     uint64
	working sync.WaitGroup
}

type making struct {
	done chan struct{}
	svid *svid
	err  error
}

type backoff struct {
	tries int
	next  time.Time
}

func newSVIDs(n *Node) *svids {
	return &svids{n: n, by: map[string]*svid{}, making: map[string]*making{}, failed: map[string]*backoff{},
		held: map[string]int{}, asked: map[string]time.Time{}, idle: map[string]time.Time{}, renewed: make(chan struct{}, 1)}
}

// current is the credential of an entry if there is one that has not ended.
func (s *svids) current(name string) *svid {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.by[name]; v != nil && time.Now().Before(v.NotAfter) {
		return v
	}
	return nil
}

func (s *svids) all() map[string]*svid {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.by)
}

// demand gives the credential of an entry, making it if there is none. Callers at the same
// time share one.
func (s *svids) demand(ctx context.Context, e entry.Entry) (*svid, error) {
	name := e.Namespace + "/" + e.Name
	s.mu.Lock()
	s.asked[name] = time.Now()
	if v := s.by[name]; v != nil && time.Now().Before(v.NotAfter) {
		s.mu.Unlock()
		return v, nil
	}
	m := s.making[name]
	if m == nil {
		m = s.startLocked(ctx, e)
	}
	s.mu.Unlock()
	select {
	case <-m.done:
		return m.svid, m.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *svids) startLocked(ctx context.Context, e entry.Entry) *making {
	m := &making{done: make(chan struct{})}
	s.making[e.Namespace+"/"+e.Name] = m
	s.working.Go(func() { s.make(context.WithoutCancel(ctx), e, m) })
	return m
}

// make issues one credential: a new key each time, the certificate request over control.
func (s *svids) make(ctx context.Context, e entry.Entry, m *making) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	name := e.Namespace + "/" + e.Name
	m.svid, m.err = s.issue(ctx, e, name)
	s.mu.Lock()
	delete(s.making, name)
	old := s.by[name]
	if m.err == nil {
		// Under mu, as keepOnly: an entry that went meanwhile leaves nothing behind.
		if now, ok := s.n.entry(name); ok && now.ServiceAccount == e.ServiceAccount && now.OfGateway() == e.OfGateway() {
			m.svid.entry = now
		} else {
			m.svid, m.err = nil, fmt.Errorf("making the SVID of %q: its Workload is gone or another's", name)
		}
	}
	if m.err == nil {
		s.gen++
		m.svid.Generation = s.gen
		s.by[name] = m.svid
		delete(s.failed, name)
	} else if old != nil { // without one nothing is renewed, so nothing waits
		tries := 1
		if b := s.failed[name]; b != nil {
			tries = b.tries + 1
		}
		s.failed[name] = &backoff{tries: tries, next: time.Now().Add(retryAfter(tries, time.Until(old.NotAfter)))}
	}
	s.mu.Unlock()
	close(m.done)
	if m.err != nil {
		s.n.o.Log.Warn("an SVID was not made", "workload", name, "error", m.err)
		return
	}
	s.wake()
	if old != nil {
		s.n.swapped(name)
	}
	s.n.notify()
}

func (s *svids) issue(ctx context.Context, e entry.Entry, name string) (*svid, error) {
	key, csr, err := newKey()
	if err != nil {
		return nil, err
	}
	w := &control.Want{Entry: name, Revision: e.Revision, Csr: csr}
	if old := s.current(name); old != nil {
		w.Replaces = old.Serial
	}
	for _, set := range e.Sets {
		w.Selectors = append(w.Selectors, set...)
	}
	chain, err := s.n.client.Issue(ctx, w)
	if err != nil {
		return nil, err
	}
	cert, leaf, err := credential(key, chain)
	if err != nil {
		return nil, fmt.Errorf("reading the SVID of %q: %w", name, err)
	}
	id, err := identity.IDFromLeaf(leaf)
	if err != nil {
		return nil, fmt.Errorf("reading the SVID of %q: %w", name, err)
	}
	want, err := identity.ForWorkload(s.n.td, e.Namespace, e.ServiceAccount)
	if err != nil || id != want {
		return nil, fmt.Errorf("the server gave the SVID of %q for %q", id, want)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key of %q: %w", name, err)
	}
	serial := leaf.SerialNumber.Bytes()
	issued, ok := identity.IssuedAt(serial)
	if !ok {
		issued = leaf.NotBefore
	}
	return &svid{
		SVID: proxy.SVID{TLS: cert, Serial: serial, NotAfter: leaf.NotAfter, IssuedAt: issued},
		ID:   id.String(), Chain: chain, PKCS8: pkcs8, entry: e,
		renew: identity.RenewAt(serial, issued, leaf.NotAfter),
	}, nil
}

// keepOnly drops the credentials of entries that are gone or give another identity now: nobody
// may go on with what they earned.
func (s *svids) keepOnly(entries []entry.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := map[string]entry.Entry{}
	for _, e := range entries {
		left[e.Namespace+"/"+e.Name] = e
	}
	for name, v := range s.by {
		e, ok := left[name]
		switch {
		case !ok || e.ServiceAccount != v.entry.ServiceAccount, e.OfGateway() != v.entry.OfGateway():
			s.dropLocked(name) // whoever earns it now gets a key of his own
		case e.Revision != v.entry.Revision:
			same := *v // the ID stands
			same.entry = e
			if e.TTL != v.entry.TTL || !slices.EqualFunc(e.Sets, v.entry.Sets, slices.Equal) || !slices.Equal(e.DNSNames, v.entry.DNSNames) || !e.Expires.Equal(v.entry.Expires) {
				same.renew = time.Now() // the certificate says what no longer counts
				s.wake()
			}
			s.by[name] = &same
		}
	}
}

// run renews until ctx ends: at half-life with a jitter fixed by the serial, by the wall
// clock, and after a failure with a growing wait (identity.md 16.1).
func (s *svids) run(ctx context.Context) error {
	for {
		wait := s.renewDue(ctx)
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-s.renewed:
		case <-t.C:
		}
		t.Stop()
	}
}

// renewDue starts what is due and gives the time until the next one is. What no run uses is
// renewed only while the Workload API still asks for it: an open stream asks at each change.
func (s *svids) renewDue(ctx context.Context) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	wait := 30 * time.Second // timers stop while a laptop sleeps
	for name, v := range s.by {
		at := v.renew
		if b := s.failed[name]; b != nil {
			at = later(at, b.next)
		}
		switch {
		case now.Before(at):
			wait = min(wait, at.Sub(now))
			continue
		case s.held[name] > 0 || s.asked[name].After(v.renew):
			delete(s.idle, name)
			if s.making[name] == nil {
				s.startLocked(ctx, v.entry)
			}
		case s.idle[name].IsZero():
			s.idle[name] = now
			s.n.notify()
		case now.Sub(s.idle[name]) > idleTime:
			s.dropLocked(name)
		}
		wait = min(wait, time.Second)
	}
	return max(wait, 10*time.Millisecond)
}

// idleTime is how long streams of the Workload API have to ask once more for an SVID that no
// run uses; a key that nobody wants is not kept.
const idleTime = 2 * time.Second

// hold keeps the credential of an entry renewed until release: a run uses it.
func (s *svids) hold(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[name]++
}

func (s *svids) release(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[name]--; s.held[name] == 0 {
		delete(s.held, name)
	}
}

// due has a credential renewed at once: its certificate says what no longer counts.
func (s *svids) due(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.by[name]; v != nil {
		same := *v
		same.renew = time.Now()
		s.by[name] = &same
		s.wake()
	}
}

func (s *svids) dropLocked(name string) {
	delete(s.by, name)
	delete(s.failed, name)
	delete(s.asked, name)
	delete(s.idle, name)
	s.n.o.Metrics.CertificateGone("workload", name)
}

// again lets what failed be tried at once: the server is back.
func (s *svids) again() {
	s.mu.Lock()
	clear(s.failed)
	s.mu.Unlock()
	s.wake()
}

func (s *svids) wake() {
	select {
	case s.renewed <- struct{}{}:
	default:
	}
}

// retryAfter is 1 s × 2ⁿ with jitter, at most a minute and, of what has not ended, at most a
// tenth of what is left.
func retryAfter(tries int, left time.Duration) time.Duration {
	d := min(time.Second<<min(tries, 6), time.Minute)
	if left > 0 {
		d = min(d, max(left/10, 100*time.Millisecond))
	}
	return d/2 + rand.N(d/2+1)
}

// entry finds a Workload of the snapshot in force by "namespace/name".
func (n *Node) entry(name string) (entry.Entry, bool) {
	for _, e := range n.snap.Load().Entries {
		if e.Namespace+"/"+e.Name == name {
			return e, true
		}
	}
	return entry.Entry{}, false
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
