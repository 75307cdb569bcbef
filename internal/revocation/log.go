package revocation

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Log is a verifier's copy of the revocation log. NewLog makes it.
type Log struct {
	write sync.Mutex // orders writers; held while maps are copied, never waited for by readers
	list  atomic.Pointer[list]
	epoch atomic.Uint64
	heard atomic.Pointer[time.Time] // last heartbeat; nil: none yet
}

// list is the log between two changes: one map per kind, by val. What it points to never changes.
type list struct {
	whole bool
	by    [kinds]map[string]*Entry
}

// The places of the kinds in a list.
const (
	jti = iota
	rti
	sid
	sub
	client
	kid
	before
	kinds

	noKind = -1
)

func kindOf(name string) int {
	switch name {
	case ByJTI:
		return jti
	case ByRTI:
		return rti
	case BySID:
		return sid
	case BySub:
		return sub
	case ByClient:
		return client
	case ByKID:
		return kid
	case ByBefore:
		return before
	}
	return noKind
}

// NewLog is a log that had no full list yet: every token counts as revoked.
func NewLog() *Log {
	l := &Log{}
	l.list.Store(&list{})
	return l
}

// Reset takes a full list: from here on the log is whole. What it held stays until it ends,
// for nothing is ever taken back: a server that lags must not bring a revoked token to life.
// An entry that cannot be taken leaves the log not whole, and is the error.
func (l *Log) Reset(entries []Entry, now time.Time) error { return l.add(entries, now, true) }

// Add takes new entries; one call for many copies once. The same entry again changes nothing.
// An entry that cannot be taken leaves the log not whole until the next Reset, and is the error.
func (l *Log) Add(entries []Entry, now time.Time) error { return l.add(entries, now, false) }

func (l *Log) add(entries []Entry, now time.Time, full bool) error {
	l.write.Lock()
	defer l.write.Unlock()
	old := l.list.Load()
	next, changed := *old, full
	next.whole = old.whole || full
	var copied [kinds]bool
	var bad error
	for i := range entries {
		e := entries[i]
		if err := e.Check(); err != nil {
			next.whole, changed, bad = false, true, cmp.Or(bad, err)
			continue
		}
		if e.ended(now) {
			continue
		}
		k := kindOf(e.Kind)
		was := next.by[k][e.Val]
		stronger := merge(was, &e)
		if stronger == was {
			continue
		}
		if !copied[k] {
			if next.by[k] = maps.Clone(next.by[k]); next.by[k] == nil {
				next.by[k] = make(map[string]*Entry)
			}
			copied[k], changed = true, true
		}
		next.by[k][e.Val] = stronger
	}
	if changed {
		l.list.Store(&next) // published before its epoch: who read the new epoch finds the new list
		l.epoch.Add(1)
	}
	return bad
}

// merge is the entry that revokes what a or b does. It is a itself where b adds nothing.
func merge(a, b *Entry) *Entry {
	if a == nil {
		return b
	}
	if b.Before <= a.Before && b.Until <= a.Until {
		return a
	}
	both := *b
	if a.Before > b.Before {
		both = *a
	}
	both.Until = max(a.Until, b.Until)
	return &both
}

// Sweep drops the entries that have ended.
func (l *Log) Sweep(now time.Time) {
	l.write.Lock()
	defer l.write.Unlock()
	next, changed := *l.list.Load(), false
	for k, m := range next.by {
		ended := func(_ string, e *Entry) bool { return e.ended(now) }
		for v, e := range m {
			if ended(v, e) {
				next.by[k] = maps.Clone(m)
				maps.DeleteFunc(next.by[k], ended)
				changed = true
				break
			}
		}
	}
	if changed {
		l.list.Store(&next) // no new epoch: what was good stays good
	}
}

// Beat says that the source of the log was heard now.
func (l *Log) Beat(now time.Time) { l.heard.Store(&now) }

// Stale reports whether nothing was heard for StaleAfter, by the clock that runs or the one on
// the wall: the first stands still while a machine sleeps, the second can be set back.
func (l *Log) Stale(now time.Time) bool {
	heard := l.heard.Load()
	return heard == nil || now.Sub(*heard) > StaleAfter || now.Round(0).Sub(heard.Round(0)) > StaleAfter
}

// Ready reports whether the log is whole.
func (l *Log) Ready() bool { return l.list.Load().whole }

// Epoch grows with every change that can revoke a token. Read it before Revoked: a token that
// was not revoked then is good for as long as the epoch stays the same.
func (l *Log) Epoch() uint64 { return l.epoch.Load() }

// Entries are all that the log holds, by sequence.
func (l *Log) Entries() []Entry {
	var out []Entry
	for _, m := range l.list.Load().by {
		for _, e := range m {
			out = append(out, *e)
		}
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Val, b.Val))
	})
	return out
}

// Revoked finds an entry that revokes the token (tokens.md 13). While the log is not whole
// every token is revoked, by the zero Entry.
//
// A token not yet signed can be asked about too: one that an entry with Before revokes may be
// issued with iat Before + 1.
func (l *Log) Revoked(s Subject) (Entry, bool) {
	now := l.list.Load()
	if !now.whole {
		return Entry{}, true
	}
	if e := now.find(s); e != nil {
		return *e, true
	}
	return Entry{}, false
}

func (l *list) find(s Subject) *Entry {
	if m := l.by[jti]; len(m) > 0 {
		if e := m[s.ID()]; e != nil {
			return e
		}
		for _, id := range s.Ancestors() {
			if e := m[id]; e != nil {
				return e
			}
		}
	}
	if m := l.by[rti]; len(m) > 0 {
		if e := cmp.Or(m[s.Root()], m[s.ID()]); e != nil {
			return e
		}
	}
	if m := l.by[sid]; len(m) > 0 {
		if e := m[s.SessionID()]; e != nil {
			return e
		}
	}
	if m := l.by[kid]; len(m) > 0 {
		if e := m[s.KeyID()]; e != nil {
			return e
		}
	}
	if len(l.by[sub])+len(l.by[client])+len(l.by[before]) == 0 {
		return nil
	}
	issued := s.Issued()
	if e := l.by[before][""]; e.reaches(issued) {
		return e
	}
	if e := l.by[sub][s.Subject()]; e.reaches(issued) {
		return e
	}
	if m := l.by[client]; len(m) > 0 {
		if e := m[s.ClientID()]; e.reaches(issued) {
			return e
		}
		if e := m[s.Origin()]; e.reaches(issued) {
			return e
		}
		for _, actor := range s.Actors() {
			if e := m[actor]; e.reaches(issued) {
				return e
			}
		}
	}
	return nil
}

// reaches reports whether an entry with Before holds for a token issued at iat.
func (e *Entry) reaches(iat int64) bool { return e != nil && iat <= e.Before }
