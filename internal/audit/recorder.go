package audit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	ringSize    = 8192         // allowed records that may wait for the writer
	ringReserve = 2 * ringSize // all records: refusals are the last to be dropped
	// SyncEvery is how long what Write wrote may wait for the disk.
	SyncEvery = 200 * time.Millisecond

	flushEvery   = 100 * time.Millisecond // longest time that a record waits when the disk keeps up
	refusalsKept = 10_000                 // refusals in memory
	refusalBytes = 32 << 20               // and their memory
	loadBytes    = 2 << 20                // how far back Open reads for refusals, and how many it
	loadRefusals = 1_000                  // takes: a start must be quick, and Find reads the rest
)

// ErrClosed is what Record answers after Close.
var ErrClosed = errors.New("the audit log is closed")

// Options say where and for whom a Recorder writes. Dir and Node cannot be guessed.
type Options struct {
	Dir          *os.Root      // the directory of the segments, 0700; stays the caller's
	Node         string        // SPIFFE ID of the recorder, in every record
	DecisionKey  func() []byte // K_id of audit.md 4.4; nil, or returning nothing, until it is known
	Segments     int           // as many times SegmentBytes are kept [4]
	SegmentBytes int64         // a new file begins here [64 MiB]
	Log          *slog.Logger  // for the writer's own faults [none]
}

// Recorder writes records to segments, batch by batch. Its methods may be called at once from
// anywhere. Run writes in the background; without it Record still works, for it writes itself.
type Recorder struct {
	opt     Options
	boot    [16]byte
	started time.Time
	seq     atomic.Uint64
	sealer  atomic.Pointer[sealer]
	pool    sync.Pool // of *Record: copies that only the writer sees

	wake chan struct{} // something waits where nothing did
	full chan struct{} // so much waits that the writer should not
	pen  chan struct{} // one token: who holds it writes (out, buf, spare, failing)

	unsynced atomic.Bool // Write left something to the system since the last sync

	out     *segments
	buf     []byte
	spare   []*Record
	failing bool

	mu       sync.Mutex // guards what follows; held for an append, never over I/O
	pending  []*Record
	commit   *commit // awaited by Record: with a sync
	written  *commit // awaited by Write: without
	lost     loss
	folds    folds
	refusals refusals
	minute   minute
	closed   bool

	taps taps
}

// commit is one turn of the writer, awaited by everyone whose record went into the batch before it.
type commit struct {
	done chan struct{}
	err  error // readable once done is closed
}

// Open starts a boot: it reads the refusals that earlier boots left, opens a new segment and
// writes the boot record into it, so that a directory that cannot be written shows at once.
func Open(opt Options) (*Recorder, error) {
	if opt.Segments <= 0 {
		opt.Segments = 4
	}
	if opt.SegmentBytes <= 0 {
		opt.SegmentBytes = 64 << 20
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	r := &Recorder{
		opt: opt, started: time.Now(),
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1), pen: make(chan struct{}, 1),
	}
	rand.Read(r.boot[:])
	r.pool.New = func() any { return new(Record) }
	r.out = &segments{dir: opt.Dir, boot: r.boot, size: opt.SegmentBytes, keep: opt.Segments}

	last, found, err := r.load()
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	boot := []*Record{{Kind: KindBoot}}
	if found && (last == nil || last.Kind != KindStop) { // audit.md 5.4: the next boot says so
		gap := &Record{Kind: KindGap, Cause: CauseUncleanBoot, ToTime: r.started}
		if last != nil {
			gap.AfterSeq, gap.FromTime = last.Seq, last.Time
		}
		boot = append(boot, gap)
	}
	for _, rec := range boot {
		r.complete(rec)
	}
	r.pending = boot
	r.commit = &commit{done: make(chan struct{})}
	first := r.commit
	r.turn()
	if first.err != nil {
		r.out.close()
		return nil, first.err
	}
	return r, nil
}

// Boot is the random name of this start of the recorder.
func (r *Recorder) Boot() [16]byte { return r.boot }

// Started is when this boot began.
func (r *Recorder) Started() time.Time { return r.started }

// Next reserves a number: a refusal needs its id before its record is complete.
func (r *Recorder) Next() uint64 { return r.seq.Add(1) }

// ID is the decision id of a number of this boot, empty while the mesh's key is not known.
func (r *Recorder) ID(seq uint64) string {
	s := r.currentSealer()
	if s == nil {
		return ""
	}
	return s.id(seq)
}

func (r *Recorder) currentSealer() *sealer {
	if r.opt.DecisionKey == nil {
		return nil
	}
	key := r.opt.DecisionKey()
	if s := r.sealer.Load(); s != nil && string(key) == string(s.key[:]) {
		return s
	}
	s := newSealer(key, r.opt.Node, r.boot)
	if s != nil {
		r.sealer.Store(s)
	}
	return s
}

// complete fills in what is the recorder's to say.
func (r *Recorder) complete(rec *Record) {
	rec.Node, rec.Boot = r.opt.Node, r.boot
	if rec.Time.IsZero() {
		rec.Time = time.Now()
	}
	if rec.Seq == 0 && (rec.Refused() || !onRing(rec)) {
		rec.Seq = r.Next()
	}
	if rec.Refused() && rec.ID == "" {
		rec.ID = r.ID(rec.Seq)
	}
}

// onRing says whether the record may be dropped when the writer is behind. Its number is then
// taken only once there is room: dropped records never had one (audit.md 2.2, after_seq).
func onRing(rec *Record) bool { return rec.Kind == KindRequest || rec.Kind == KindConnection }

// Add takes a copy of rec, completed with number, time and, of a refusal, id; these it also
// sets in rec. It never waits for the disk: if the writer is too far behind the record is
// counted and lost, allowed ones first, and a gap record tells (audit.md 9).
func (r *Recorder) Add(rec *Record) {
	r.complete(rec)
	refused := rec.Refused()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if onRing(rec) {
		r.minute.add(rec)
	}
	if refused && r.folds.absorb(rec) {
		r.nudge(r.wake)
		return
	}
	bound := ringSize
	if refused || !onRing(rec) {
		bound = ringReserve
	}
	if len(r.pending) >= bound {
		r.lost.add(rec, CauseRingFull, r.seq.Load())
		return
	}
	if rec.Seq == 0 {
		rec.Seq = r.Next()
	}
	if !refused {
		own := r.pool.Get().(*Record)
		*own = *rec
		r.appendLocked(own)
		return
	}
	own := keepable(rec) // stays in memory, so it is not one to use again
	r.refusals.add(own)
	r.appendLocked(own)
	r.nudge(r.full) // its id is told to the caller: a kill must not lose it
}

func (r *Recorder) appendLocked(rec *Record) {
	r.pending = append(r.pending, rec)
	switch len(r.pending) {
	case 1:
		r.nudge(r.wake)
	case ringSize / 2:
		r.nudge(r.full)
	}
}

func (r *Recorder) nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Record returns once rec is synced to the disk. Callers at the same time share a sync: while
// one syncs, the others gather for the next. If ctx ends first, the record may yet be written.
func (r *Recorder) Record(ctx context.Context, rec *Record) error {
	return r.await(ctx, rec, &r.commit)
}

// Write returns once rec is in the file: a kill of this process does not lose it, a power cut
// may lose what is younger than SyncEvery (audit.md 9, durable).
func (r *Recorder) Write(ctx context.Context, rec *Record) error {
	return r.await(ctx, rec, &r.written)
}

// await adds rec to the next batch and returns when the turn that slot stands for is over. What
// slot points to is guarded by mu.
func (r *Recorder) await(ctx context.Context, rec *Record, slot **commit) error {
	r.complete(rec)
	own := keepable(rec)

	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	if rec.Seq == 0 {
		rec.Seq = r.Next()
		own.Seq = rec.Seq
	}
	if own.Refused() {
		r.refusals.add(own)
	}
	r.appendLocked(own) // beyond the bound of the ring: the callers wait, so they are the bound
	if *slot == nil {
		*slot = &commit{done: make(chan struct{})}
	}
	mine := *slot
	r.mu.Unlock()

	select {
	case <-mine.done: // somebody else's turn took it along
	case r.pen <- struct{}{}:
		select {
		case <-mine.done:
		default:
			r.write()
		}
		<-r.pen
	case <-ctx.Done():
		return fmt.Errorf("recording %s: %w", rec.Kind, context.Cause(ctx))
	}
	if mine.err != nil {
		return fmt.Errorf("recording %s: %w", rec.Kind, mine.err)
	}
	return nil
}

// Run writes what Add collects until ctx ends. It sleeps while there is nothing to write.
func (r *Recorder) Run(ctx context.Context) error {
	var folded <-chan time.Time // when the next folded record is due
	synced := time.NewTicker(SyncEvery)
	defer synced.Stop()
	for {
		select {
		case <-ctx.Done():
			r.turn()
			return context.Cause(ctx)
		case <-folded:
		case <-synced.C:
			r.syncWritten()
			continue
		case <-r.wake:
			gather := time.NewTimer(flushEvery)
			select {
			case <-ctx.Done():
			case <-gather.C:
			case <-r.full:
			}
			gather.Stop()
		}
		folded = nil
		if due := r.turn(); !due.IsZero() {
			folded = time.After(time.Until(due))
		}
	}
}

// syncWritten syncs what Write left to the system.
func (r *Recorder) syncWritten() {
	if !r.unsynced.Swap(false) {
		return
	}
	r.pen <- struct{}{}
	defer func() { <-r.pen }()
	if err := r.out.sync(); err != nil {
		r.report(err, 0)
	}
}

// turn writes all that waits, and says when the next folded record will be due.
func (r *Recorder) turn() (due time.Time) {
	r.pen <- struct{}{}
	defer func() { <-r.pen }()
	return r.write()
}

// Close writes what waits and the stop record, ends the taps, and closes the segment.
func (r *Recorder) Close() error {
	stop := &Record{Kind: KindStop}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	r.mu.Unlock()

	r.turn() // so that the stop record is the last one
	r.complete(stop)
	last := &commit{done: make(chan struct{})}
	r.mu.Lock()
	r.pending = append(r.pending, stop)
	r.commit = last
	r.mu.Unlock()
	r.turn()
	r.taps.close()

	r.pen <- struct{}{}
	defer func() { <-r.pen }()
	return errors.Join(last.err, r.out.close())
}
