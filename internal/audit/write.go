package audit

import (
	"errors"
	"syscall"
	"time"
)

const chunk = 256 << 10 // bytes encoded before they are handed to the system

// batch is what one turn of the writer takes from the recorder.
type batch struct {
	records []*Record
	commit  *commit
	written *commit
	due     time.Time // when the next folded record is
}

// take empties the ring into a batch; losses and folds that ended become records of it.
func (r *Recorder) take(now time.Time) batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := batch{records: r.pending, commit: r.commit, written: r.written}
	r.pending, r.commit, r.written = r.spare[:0], nil, nil
	r.spare = nil
	for rec := range r.folds.ended(now, r.closed) {
		rec.Seq = r.Next()
		r.refusals.add(rec)
		b.records = append(b.records, rec)
	}
	b.due = r.folds.due()
	if !r.lost.empty() {
		rec := r.lost.record(now)
		rec.Node, rec.Boot, rec.Seq = r.opt.Node, r.boot, r.Next()
		b.records = append(b.records, rec)
		r.lost = loss{}
	}
	return b
}

// write is a turn: take, encode, write, sync if somebody waits for it, show to the taps. The
// caller holds the pen.
func (r *Recorder) write() (due time.Time) {
	b := r.take(time.Now())
	buf, from := r.buf[:0], 0
	var failure error
	for i, rec := range b.records {
		// Refusals have theirs already, and others read them; a folded one never gets one.
		if !rec.Refused() && rec.ID == "" {
			rec.ID = r.ID(rec.Seq)
		}
		buf = append(rec.AppendJSON(buf), '\n')
		if len(buf) < chunk && i < len(b.records)-1 {
			continue
		}
		if err := r.out.write(buf, b.commit != nil || b.written != nil); err != nil {
			failure = err
			r.forget(b.records[from:i+1], err)
		}
		buf, from = buf[:0], i+1
	}
	if b.written != nil {
		r.unsynced.Store(true)
		b.written.err = failure
		close(b.written.done)
	}
	if b.commit != nil {
		if failure == nil {
			failure = r.out.sync()
		}
		b.commit.err = failure
		close(b.commit.done)
	}
	r.report(failure, len(b.records))
	r.buf = buf

	r.taps.offer(b.records, r.pool.Put)
	clear(b.records)
	r.spare = b.records
	return b.due
}

// forget counts records that could not be written, to be told by a gap record once they can.
func (r *Recorder) forget(records []*Record, err error) {
	cause := CauseIOError
	if errors.Is(err, syscall.ENOSPC) {
		cause = CauseDiskFull
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range records {
		r.lost.add(rec, cause, records[0].Seq-1)
	}
}

// report logs when writing begins to fail and when it works again, not each time.
func (r *Recorder) report(err error, written int) {
	switch {
	case err != nil && !r.failing:
		r.failing = true
		r.opt.Log.Error("audit log cannot be written, records are being lost", "error", err)
	case err == nil && r.failing && written > 0:
		r.failing = false
		r.opt.Log.Info("audit log is written again")
	}
}

// loss counts records that were not written.
type loss struct {
	after              uint64 // the last number before
	allow, deny, other uint64
	cause              string
	from, to           time.Time
}

func (l *loss) empty() bool { return l.cause == "" }

func (l *loss) add(rec *Record, cause string, after uint64) {
	if l.empty() {
		l.after, l.cause, l.from = after, cause, rec.Time
	}
	l.to = rec.Time
	switch {
	case rec.Kind == KindGap: // a gap that could not be told is part of the next one
		l.allow += rec.LostAllow
		l.deny += rec.LostDeny
		l.other += rec.LostOther
		l.after = min(l.after, rec.AfterSeq)
		if !rec.FromTime.IsZero() && rec.FromTime.Before(l.from) {
			l.from = rec.FromTime
		}
	case rec.Decision == Allow:
		l.allow += rec.Count()
	case rec.Decision == Deny:
		l.deny += rec.Count()
	default:
		l.other += rec.Count()
	}
}

func (l *loss) record(now time.Time) *Record {
	return &Record{
		Kind: KindGap, Time: now, AfterSeq: l.after, Cause: l.cause,
		LostAllow: l.allow, LostDeny: l.deny, LostOther: l.other,
		FromTime: l.from, ToTime: l.to,
	}
}
