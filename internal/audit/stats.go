package audit

import (
	"math/bits"
	"sync"
	"time"
)

// minute counts the calls of the last sixty seconds, second by second.
type minute struct {
	second [60]struct {
		at                        int64 // Unix seconds that the counts are of
		allowed, refused, limited uint64
	}
}

func (m *minute) add(rec *Record) {
	if rec.Phase == PhaseClosing || rec.Decision == "" {
		return // counted when it opened
	}
	at := rec.Time.Unix()
	s := &m.second[uint64(at)%60]
	if s.at != at {
		*s = struct {
			at                        int64
			allowed, refused, limited uint64
		}{at: at}
	}
	switch rec.Decision {
	case Allow:
		s.allowed += rec.Count()
	case Limited:
		s.limited += rec.Count()
	default:
		s.refused += rec.Count()
	}
}

// LastMinute counts the calls of the last sixty seconds by what became of them; those that
// failed are among the refused.
func (r *Recorder) LastMinute() (allowed, refused, limited uint64) {
	now := time.Now().Unix()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.minute.second {
		if s.at > now-60 && s.at <= now {
			allowed += s.allowed
			refused += s.refused
			limited += s.limited
		}
	}
	return allowed, refused, limited
}

const maxRows = 1_000 // rows told apart; the rest is one row, whose names are Other

// Other names what a Table no longer tells apart.
const Other = "other"

// Table sums up calls by who called whom with what: the table of `demo` and `top`. The zero
// Table is empty and ready. Feed it from a Tap.
type Table struct {
	mu   sync.Mutex // guards all; held for one record, or one copy of the rows
	rows map[rowKey]*row
	list []*row // in the order they appeared
}

type rowKey struct{ from, to, method, route string }

type row struct {
	Row
	took latencies
}

// Row is one line of a Table.
type Row struct {
	From, To      string // SPIFFE IDs; From is a token's subject for a caller outside the mesh, empty if nothing was proven
	Method, Route string
	Allowed       uint64
	Refused       uint64 // those that failed included
	Limited       uint64
	P50, P99      time.Duration
	LastRefused   string // decision id
	RefusedBy     string // the layer of that decision
	TLSVersion    uint16 // of the newest call
	TLSGroup      uint16
	NotAfter      time.Time
}

// Feed counts a record if it is a call, or a connection that was refused.
func (t *Table) Feed(rec *Record) {
	if rec.Decision == "" || rec.Phase == PhaseClosing ||
		rec.Kind != KindRequest && !(rec.Kind == KindConnection && rec.Refused()) {
		return
	}
	key := rowKey{rec.PeerID, rec.DstID, rec.Method, rec.Route}
	if key.from == "" && rec.Subject != nil {
		key.from = rec.Sub
	}
	if key.to == "" {
		key.to = rec.Service
	}
	if key.route == "" {
		key.route = Route(rec.Path)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rowLocked(key).add(rec)
}

func (t *Table) rowLocked(key rowKey) *row {
	if r := t.rows[key]; r != nil {
		return r
	}
	if len(t.rows) >= maxRows {
		key = rowKey{Other, Other, Other, Other}
		if r := t.rows[key]; r != nil {
			return r
		}
	}
	if t.rows == nil {
		t.rows = map[rowKey]*row{}
	}
	r := &row{Row: Row{From: key.from, To: key.to, Method: key.method, Route: key.route}}
	t.rows[key] = r
	t.list = append(t.list, r)
	return r
}

func (r *row) add(rec *Record) {
	n := rec.Count()
	switch rec.Decision {
	case Allow:
		r.Allowed += n
	case Limited:
		r.Limited += n
	default:
		r.Refused += n
		r.LastRefused, r.RefusedBy = rec.ID, rec.Layer
	}
	if rec.Dur > 0 {
		r.took.add(rec.Dur)
	}
	if rec.TLSVersion != 0 {
		r.TLSVersion, r.TLSGroup = rec.TLSVersion, rec.TLSGroup
	}
	if !rec.NotAfter.IsZero() {
		r.NotAfter = rec.NotAfter
	}
}

// Rows gives a copy, in the order in which the rows first appeared.
func (t *Table) Rows() []Row {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Row, len(t.list))
	for i, r := range t.list {
		out[i] = r.Row
		out[i].P50, out[i].P99 = r.took.quantile(0.50), r.took.quantile(0.99)
	}
	return out
}

// latencies is a histogram of durations from 1 µs to an hour: eight steps to each doubling, so
// a quantile is right within 7 %, in 1 KiB however many are counted.
type latencies struct {
	total uint64
	n     [latencySteps]uint32
}

const (
	latencyFloor = 10 // 2^10 ns is about a microsecond
	latencySteps = 33 * 8
)

func (l *latencies) add(d time.Duration) {
	ns := uint64(max(d, 1<<latencyFloor))
	exp := bits.Len64(ns) - 1
	i := (exp-latencyFloor)*8 + int(ns>>(exp-3)&7)
	l.n[min(i, latencySteps-1)]++
	l.total++
}

func (l *latencies) quantile(q float64) time.Duration {
	rank := uint64(q * float64(l.total))
	for i, n := range l.n {
		if uint64(n) > rank {
			exp := i/8 + latencyFloor
			return time.Duration(1)<<exp + time.Duration(2*(i%8)+1)<<(exp-4) // middle of the step
		}
		rank -= uint64(n)
	}
	return 0
}
