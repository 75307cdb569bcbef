package audit

import (
	"iter"
	"net/netip"
	"time"
)

const (
	foldWindow = 10 * time.Second
	foldAfter  = 10    // refusals of one kind and source in a window that are written one by one
	maxFolds   = 1_000 // sources and reasons told apart; beyond, the reason alone
)

// folds keeps strangers from filling the log: refusals before anybody was authenticated, from
// one source prefix (/24, /56) for the same reason, are counted beyond the first few of ten
// seconds, and written as one record with their number (audit.md 2.1). No count is lost.
type folds struct {
	open map[foldKey]*fold
}

type foldKey struct {
	source          netip.Prefix
	kind, side, dst string
	layer, reason   string
}

type fold struct {
	first *Record // of those counted; its time is the newest one's
	seen  uint64
	until time.Time
}

// absorb says whether the record was counted instead of kept.
func (f *folds) absorb(rec *Record) bool {
	if rec.PeerID != "" || !rec.SrcIP.IsValid() {
		return false
	}
	switch rec.Layer {
	case LayerTLS, LayerHTTP, LayerToken, LayerIssue, LayerLimit:
	default:
		return false
	}
	key := foldKey{prefix(rec.SrcIP), rec.Kind, rec.Side, rec.DstID, rec.Layer, rec.Reason}
	o := f.open[key]
	if o == nil && len(f.open) >= maxFolds {
		key = foldKey{layer: rec.Layer, reason: rec.Reason}
		o = f.open[key]
	}
	if o == nil {
		if f.open == nil {
			f.open = map[foldKey]*fold{}
		}
		o = &fold{until: rec.Time.Add(foldWindow)}
		f.open[key] = o
	}
	o.seen++
	if o.seen <= foldAfter {
		return false
	}
	if o.first == nil {
		o.first = keepable(rec)
		o.first.ID, o.first.Seq = "", 0 // nobody is given an id
	}
	o.first.Time = rec.Time
	return true
}

// ended gives the records of the windows that are over; with all, of every window.
func (f *folds) ended(now time.Time, all bool) iter.Seq[*Record] {
	return func(yield func(*Record) bool) {
		for key, o := range f.open {
			if !all && now.Before(o.until) {
				continue
			}
			delete(f.open, key)
			if o.first == nil {
				continue
			}
			rec := o.first
			rec.Repeat = o.seen - foldAfter
			if !key.source.IsValid() {
				rec.SrcIP, rec.SrcPort = netip.Addr{}, 0
			}
			if !yield(rec) {
				return
			}
		}
	}
}

// due is when the next window ends; zero if none is open.
func (f *folds) due() (t time.Time) {
	for _, o := range f.open {
		if t.IsZero() || o.until.Before(t) {
			t = o.until
		}
	}
	return t
}

func prefix(ip netip.Addr) netip.Prefix {
	bits := 56
	if ip = ip.Unmap(); ip.Is4() {
		bits = 24
	}
	p, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
