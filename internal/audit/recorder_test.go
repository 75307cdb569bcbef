package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const testNode = "spiffe://td/ns/countersign/sa/node-a"

var testKey = []byte("0123456789abcdef")

// openDir opens a recorder on dir with a known key.
func openDir(t testing.TB, dir string, change func(*Options)) *Recorder {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	opt := Options{Dir: root, Node: testNode, DecisionKey: func() []byte { return testKey }}
	if change != nil {
		change(&opt)
	}
	r, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// read gives all records on disk, segments in the order of their age.
func read(t testing.TB, dir string) []Record {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	files, err := listSegments(root)
	if err != nil {
		t.Fatal(err)
	}
	var out []Record
	for _, f := range files {
		b, err := root.ReadFile(f.name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var rec Record
			if err := json.Unmarshal(line, &rec); err != nil {
				t.Fatalf("%s: %q: %v", f.name, line, err)
			}
			out = append(out, rec)
		}
	}
	return out
}

func kinds(recs []Record) string {
	var out []string
	for _, rec := range recs {
		out = append(out, rec.Kind)
	}
	return strings.Join(out, " ")
}

func allowed(path string) *Record {
	return &Record{Kind: KindRequest, PeerID: "spiffe://td/ns/a/sa/web", Path: path, Decision: Allow}
}

func denied(path string) *Record {
	return &Record{Kind: KindRequest, PeerID: "spiffe://td/ns/a/sa/web", Path: path, Decision: Deny, Layer: LayerAuthz, Reason: "no_allow_rule"}
}

func TestRecorderLife(t *testing.T) {
	dir := t.TempDir()
	r := openDir(t, dir, nil)
	want := r.Next()
	rec := denied("/a")
	rec.Seq = want
	r.Add(rec)
	if rec.ID != DecisionID(testKey, testNode, r.Boot(), want) || rec.ID != r.ID(want) || rec.Time.IsZero() {
		t.Errorf("Add left the refusal as %+v", rec)
	}
	r.Add(allowed("/b"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.Add(allowed("/late"))
	if err := r.Record(t.Context(), &Record{Kind: KindIssue}); !errors.Is(err, ErrClosed) {
		t.Errorf("Record after Close = %v", err)
	}
	recs := read(t, dir)
	if got := kinds(recs); got != "boot request request stop" {
		t.Fatalf("kinds = %s", got)
	}
	for i, rec := range recs {
		if rec.Seq != uint64(i+1) || rec.Node != testNode || rec.Boot != r.Boot() || rec.ID != r.ID(rec.Seq) || rec.Time.IsZero() {
			t.Errorf("record %d = %+v", i, rec)
		}
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 1 || filepath.Base(files[0]) != fmt.Sprintf("audit-%x-00000001.jsonl", r.Boot()) {
		t.Errorf("files = %v", files)
	}
	if st, err := os.Stat(files[0]); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode = %v, %v", st.Mode(), err)
	}
}

// Run writes within 100 ms, and sleeps when there is nothing to do.
func TestRecorderFlush(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := openDir(t, dir, nil)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		time.Sleep(time.Hour)
		r.Add(allowed("/a"))
		synctest.Wait()
		if got := kinds(read(t, dir)); got != "boot" {
			t.Errorf("at once: %s", got)
		}
		time.Sleep(flushEvery)
		synctest.Wait()
		if got := kinds(read(t, dir)); got != "boot request" {
			t.Errorf("after %v: %s", flushEvery, got)
		}
		for range ringSize / 2 { // half a ring is not waited for
			r.Add(allowed("/a"))
		}
		synctest.Wait()
		if got := len(read(t, dir)); got != 2+ringSize/2 {
			t.Errorf("%d records after half a ring", got)
		}
		r.Add(allowed("/z"))
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
		if got := len(read(t, dir)); got != 3+ringSize/2 {
			t.Errorf("%d records after Run", got)
		}
		r.Close()
	})
}

// Without Run nothing empties the ring: allowed records are dropped first, refusals last, and
// the gap record has exact counts.
func TestRecorderGap(t *testing.T) {
	dir := t.TempDir()
	r := openDir(t, dir, nil)
	for range ringSize + 7 {
		r.Add(allowed("/a"))
	}
	for range ringSize + 3 {
		r.Add(denied("/b"))
	}
	rec := allowed("/c")
	rec.Repeat = 5
	r.Add(rec)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	recs := read(t, dir)
	if len(recs) != 1+2*ringSize+2 {
		t.Fatalf("%d records", len(recs))
	}
	gap := recs[len(recs)-2]
	if gap.Kind != KindGap || gap.Cause != CauseRingFull || gap.LostAllow != 12 || gap.LostDeny != 3 || gap.LostOther != 0 ||
		gap.AfterSeq != ringSize+1 || gap.FromTime.IsZero() || gap.ToTime.Before(gap.FromTime) {
		t.Errorf("gap = %+v", gap)
	}
	var last uint64
	for _, rec := range recs[:ringSize+1] {
		if rec.Seq != last+1 {
			t.Fatalf("number %d follows %d", rec.Seq, last)
		}
		last = rec.Seq
	}
}

func TestRecorderRotation(t *testing.T) {
	dir := t.TempDir()
	r := openDir(t, dir, func(o *Options) { o.SegmentBytes, o.Segments = 4096, 4 })
	for i := range 400 {
		r.Add(allowed(fmt.Sprintf("/%d", i)))
		r.turn()
	}
	r.Close()
	files, _ := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if len(files) < 3 || len(files) > 4 {
		t.Errorf("%d files", len(files))
	}
	var total int64
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		total += st.Size()
	}
	if total > 5*4096 {
		t.Errorf("%d bytes are kept", total)
	}
	recs := read(t, dir)
	for i := range recs[1:] {
		if recs[i+1].Seq != recs[i].Seq+1 {
			t.Fatalf("number %d follows %d", recs[i+1].Seq, recs[i].Seq)
		}
	}
	if got := recs[len(recs)-1]; got.Kind != KindStop {
		t.Errorf("the last record is %s", got.Kind)
	}
}

// A role that starts and dies in a loop fills neither disk nor directory, and keeps its past.
func TestRecorderManyBoots(t *testing.T) {
	dir := t.TempDir()
	first := openDir(t, dir, nil)
	rec := denied("/first")
	first.Add(rec)
	first.Close()
	for range 20 {
		openDir(t, dir, nil).Close()
	}
	r := openDir(t, dir, nil)
	defer r.Close()
	if got, err := r.Find(rec.ID); err != nil || got.Path != "/first" {
		t.Errorf("Find after 21 boots = %v, %v", got, err)
	}
}

func TestRecordDurable(t *testing.T) {
	dir := t.TempDir()
	r := openDir(t, dir, nil)
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			rec := &Record{Kind: KindIssue, IssuedFor: fmt.Sprint(i)}
			if err := r.Record(t.Context(), rec); err != nil {
				t.Error(err)
			}
			if !bytes.Contains(slurp(t, dir), []byte(`"issued_for":"`+rec.IssuedFor+`"`)) {
				t.Errorf("record %d is not on the disk", i)
			}
		})
	}
	group.Wait()
	r.Close()
	if got := len(read(t, dir)); got != 52 {
		t.Errorf("%d records", got)
	}
}

func slurp(t *testing.T, dir string) (all []byte) {
	t.Helper()
	fsys := os.DirFS(dir)
	names, _ := fs.Glob(fsys, "*.jsonl")
	for _, name := range names {
		b, err := fs.ReadFile(fsys, name)
		if err != nil {
			t.Error(err)
		}
		all = append(all, b...)
	}
	return all
}

func TestRecordContext(t *testing.T) {
	r := openDir(t, t.TempDir(), nil)
	defer r.Close()
	r.pen <- struct{}{} // somebody writes for long
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := r.Record(ctx, &Record{Kind: KindIssue}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Record = %v", err)
	}
	<-r.pen
}

// When the disk refuses, Record says so, the loss is counted, and it is told once it is over.
func TestRecorderDiskFault(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	r := openDir(t, dir, func(o *Options) { o.Log = testLog(&log) })
	r.out.f.Close() // every write fails from here on, and so does cutting off
	r.Add(allowed("/a"))
	if err := r.Record(t.Context(), &Record{Kind: KindIssue}); err == nil {
		t.Error("Record on a closed file: no error")
	}
	r.Add(denied("/b"))
	if err := r.Record(t.Context(), &Record{Kind: KindIssue, IssuedFor: "x"}); err != nil {
		t.Errorf("Record on a new file: %v", err)
	}
	r.Close()
	recs := read(t, dir)
	if got := kinds(recs); got != "boot request issue gap stop" {
		t.Fatalf("kinds = %s", got)
	}
	if gap := recs[3]; gap.Cause != CauseIOError || gap.LostAllow != 1 || gap.LostOther != 1 || gap.AfterSeq != 1 {
		t.Errorf("gap = %+v", gap)
	}
	if got := log.String(); strings.Count(got, "cannot be written") != 1 || strings.Count(got, "written again") != 1 {
		t.Errorf("log:\n%s", got)
	}
}

func TestOpenUnwritable(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	root.Close()
	if _, err := Open(Options{Dir: root, Node: testNode}); err == nil {
		t.Error("Open in a closed directory: no error")
	}
}

// Before the node knows the mesh's key its records have no id; those after it do.
func TestRecorderKeyComesLater(t *testing.T) {
	dir := t.TempDir()
	var key []byte
	r := openDir(t, dir, func(o *Options) { o.DecisionKey = func() []byte { return key } })
	early, late := denied("/early"), denied("/late")
	r.Add(early)
	key = testKey
	r.Add(late)
	r.Add(allowed("/x"))
	r.Close()
	recs := read(t, dir)
	if early.ID != "" || recs[1].ID != "" {
		t.Errorf("before the key: %q, %q", early.ID, recs[1].ID)
	}
	if late.ID == "" || recs[2].ID != late.ID || recs[3].ID == "" {
		t.Errorf("after the key: %q, %q, %q", late.ID, recs[2].ID, recs[3].ID)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	old := openDir(t, dir, nil)
	past := denied("/past")
	old.Add(past)
	old.Add(allowed("/past-allowed"))
	allowedID := old.ID(past.Seq + 1)
	old.Close()

	r := openDir(t, dir, nil)
	a, b := denied("/a"), denied("/b")
	r.Add(a)
	r.Add(b)
	other := allowed("/other")
	r.Add(other)
	for _, tt := range []struct {
		in, path string
		err      error
	}{
		{a.ID, "/a", nil},
		{strings.ToUpper(b.ID), "/b", nil},
		{a.ID[:8], "/a", nil},
		{past.ID, "/past", nil},
		{past.ID[:8], "/past", nil},
		{allowedID, "/past-allowed", nil},
		{r.ID(other.Seq), "/other", nil},
		{a.ID[:5], "", ErrAmbiguous},
		{"", "", ErrAmbiguous},
		{strings.Repeat("z", 26), "", ErrNotFound},
		{strings.Repeat("z", 8), "", ErrNotFound},
		{a.ID + "0", "", ErrNotFound},
		{"../../etc/passwd", "", ErrNotFound},
	} {
		rec, err := r.Find(tt.in)
		if !errors.Is(err, tt.err) || err == nil && rec.Path != tt.path {
			t.Errorf("Find(%q) = %v, %v, want %q, %v", tt.in, rec, err, tt.path, tt.err)
		}
	}
	if rec, ok := r.Refused(func(*Record) bool { return true }); !ok || rec.Path != "/b" {
		t.Errorf("the newest refusal = %v", rec)
	}
	if rec, ok := r.Refused(func(rec *Record) bool { return rec.Boot == old.Boot() }); !ok || rec.Path != "/past" {
		t.Errorf("the newest refusal of the boot before = %v", rec)
	}
	if rec, ok := r.Refused(func(*Record) bool { return false }); ok {
		t.Errorf("no refusal should match: %v", rec)
	}
	r.refusals.add(&Record{ID: a.ID[:10] + strings.Repeat("0", 16)})
	if _, err := r.Find(a.ID[:8]); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("Find of a shared beginning = %v", err)
	}
	if rec, err := r.Find(a.ID); err != nil || rec.Path != "/a" {
		t.Errorf("Find of the whole = %v, %v", rec, err)
	}
	r.Close()
}

// A crash in the middle of a write leaves half a line: it is passed over, the rest is read, and
// the next boot says that the last one did not stop.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	r := openDir(t, dir, nil)
	rec := denied("/a")
	r.Add(rec)
	r.turn()
	f := r.out.f.Name()
	half := denied("/b").AppendJSON(nil)
	r.out.f.Write(half[:len(half)/2]) // and the process dies

	again := openDir(t, dir, nil)
	if got, err := again.Find(rec.ID); err != nil || got.Path != "/a" {
		t.Errorf("Find = %v, %v", got, err)
	}
	if got := len(again.newestRefusals()); got != 1 {
		t.Errorf("%d refusals were loaded", got)
	}
	again.Close()
	os.Remove(filepath.Join(dir, filepath.Base(f)))
	recs := read(t, dir)
	if got := kinds(recs); got != "boot gap stop" {
		t.Fatalf("kinds = %s", got)
	}
	if gap := recs[1]; gap.Cause != CauseUncleanBoot || gap.AfterSeq != rec.Seq || !gap.FromTime.Equal(rec.Time.Truncate(0)) {
		t.Errorf("gap = %+v", gap)
	}
}

func TestBackwards(t *testing.T) {
	long := strings.Repeat("x", readBlock+100)
	for _, tt := range []struct {
		in   string
		want []string
	}{
		{"", nil},
		{"torn", nil},
		{"a\n", []string{"a"}},
		{"a\nb\ntorn", []string{"b", "a"}},
		{"a\n\nb\n", []string{"b", "a"}},
		{"a\n" + long + "\nb\n" + long, []string{"b", long, "a"}},
		{strings.Repeat(long+"\n", 3), []string{long, long, long}},
		{"a\n" + strings.Repeat("y", maxLine+2*readBlock), nil},
	} {
		var got []string
		more, err := backwards(strings.NewReader(tt.in), int64(len(tt.in)), 1<<40, func(l []byte) bool {
			got = append(got, string(l))
			return true
		})
		if err != nil || !more || strings.Join(got, "|") != strings.Join(tt.want, "|") {
			t.Errorf("%.20q (%d bytes): %d lines, want %d; %t, %v", tt.in, len(tt.in), len(got), len(tt.want), more, err)
		}
	}
	n := 0
	if more, _ := backwards(strings.NewReader("a\nb\n"), 4, 1<<40, func([]byte) bool { n++; return false }); more || n != 1 {
		t.Errorf("not stopped: %d lines, %t", n, more)
	}
}

func TestTap(t *testing.T) {
	r := openDir(t, t.TempDir(), nil)
	ctx, stop := context.WithCancel(t.Context())
	all := r.Tap(ctx, nil)
	refusedOnly := r.Tap(t.Context(), (*Record).Refused)
	r.Add(allowed("/a"))
	r.Add(denied("/b"))
	r.turn()
	for _, want := range []string{"/a", "/b"} {
		if got := <-all; got.Record.Path != want || got.Record.ID == "" || got.Dropped != 0 {
			t.Errorf("tapped %+v, want %s", got, want)
		}
	}
	if got := <-refusedOnly; got.Record.Path != "/b" {
		t.Errorf("tapped %+v", got)
	}
	for range tapBuffer + 9 {
		r.Add(allowed("/c"))
	}
	r.turn()
	for range tapBuffer {
		if got := <-all; got.Dropped != 0 {
			t.Fatalf("dropped %d", got.Dropped)
		}
	}
	r.Add(allowed("/d"))
	r.turn()
	if got := <-all; got.Record.Path != "/d" || got.Dropped != 9 {
		t.Errorf("tapped %+v", got)
	}
	stop()
	if got, ok := <-all; ok {
		t.Errorf("after its end the tap gave %+v", got)
	}
	r.Close()
	if got := <-refusedOnly; got.Record != nil {
		t.Errorf("after the recorder's end the tap gave %+v", got)
	}
	if _, ok := <-r.Tap(t.Context(), nil); ok {
		t.Error("a tap on a closed recorder is open")
	}
}

// Refusals are bounded in number and in bytes, whatever strangers write in their paths.
func TestRefusalsBounded(t *testing.T) {
	var r refusals
	for i := range 2*refusalsKept + 5 {
		r.add(&Record{Seq: uint64(i)})
	}
	if got := r.newest(); len(got) != refusalsKept || got[0].Seq != 2*refusalsKept+4 || got[refusalsKept-1].Seq != refusalsKept+5 {
		t.Errorf("%d kept, %d to %d", len(got), got[0].Seq, got[len(got)-1].Seq)
	}
	for range 2 * refusalsKept {
		r.add(keepable(denied(strings.Repeat("x", 8192))))
	}
	total := 0
	for _, rec := range r.newest() {
		total += weight(rec)
	}
	if total != r.bytes || total > refusalBytes || len(r.newest()) < refusalBytes/16384 {
		t.Errorf("%d bytes in %d records, counted %d", total, len(r.newest()), r.bytes)
	}
	r.add(denied(strings.Repeat("x", 2*refusalBytes)))
	r.add(denied("/small"))
	if got := r.newest(); len(got) != 1 || got[0].Path != "/small" {
		t.Errorf("%d kept after one too large", len(got))
	}
}

// A stranger's flood of refused handshakes becomes a few records with exact counts.
func TestFold(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := openDir(t, dir, nil)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		flood := func(ip, reason string, n int) {
			for range n {
				r.Add(&Record{Kind: KindConnection, SrcIP: netip.MustParseAddr(ip), SrcPort: 9, Decision: Deny, Layer: LayerTLS, Reason: reason})
			}
		}
		flood("192.0.2.1", "plaintext", 500)
		flood("192.0.2.77", "plaintext", 500) // the same /24
		flood("192.0.2.1", "expired", 3)
		flood("2001:db8::1", "plaintext", 1)
		time.Sleep(foldWindow + time.Second)
		stop()
		<-ended
		if _, refused, _ := r.LastMinute(); refused != 1004 {
			t.Errorf("%d refused in the last minute", refused)
		}
		r.Close()
		var single, repeat uint64
		for _, rec := range read(t, dir) {
			switch {
			case rec.Kind != KindConnection:
			case rec.Repeat == 0:
				single++
			case rec.ID != "" || rec.Reason != "plaintext":
				t.Errorf("folded: %+v", rec)
			default:
				repeat += rec.Repeat
			}
		}
		if single != foldAfter+3+1 || repeat != 1000-foldAfter {
			t.Errorf("%d records alone, %d folded", single, repeat)
		}
	})
}

// However many sources, the folds are bounded and the sum is right.
func TestFoldBound(t *testing.T) {
	var f folds
	now := time.Now()
	kept, n := 0, uint64(5*maxFolds)
	for i := range n {
		ip := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
		if !f.absorb(&Record{Kind: KindConnection, Time: now, SrcIP: ip, Decision: Deny, Layer: LayerTLS, Reason: "plaintext"}) {
			kept++
		}
	}
	if len(f.open) != maxFolds+1 {
		t.Errorf("%d are open", len(f.open))
	}
	sum := uint64(kept)
	for rec := range f.ended(now.Add(foldWindow), false) {
		sum += rec.Repeat
	}
	if sum != n || len(f.open) != 0 {
		t.Errorf("%d of %d counted, %d open", sum, n, len(f.open))
	}
}

func TestLastMinute(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := openDir(t, dir, nil)
		defer r.Close()
		add := func(kind, phase, decision string, repeat uint64) {
			r.Add(&Record{Kind: kind, Phase: phase, Decision: decision, Repeat: repeat})
		}
		add(KindRequest, "", Allow, 0)
		add(KindRequest, PhaseOpening, Allow, 0)
		add(KindRequest, PhaseClosing, Allow, 0)
		add(KindRequest, "", Deny, 0)
		add(KindConnection, "", Deny, 40)
		add(KindRequest, "", Failed, 0)
		add(KindRequest, "", Limited, 0)
		add(KindIssue, "", Deny, 0)
		check := func(a, d, l uint64) {
			t.Helper()
			if ga, gd, gl := r.LastMinute(); ga != a || gd != d || gl != l {
				t.Errorf("LastMinute = %d, %d, %d, want %d, %d, %d", ga, gd, gl, a, d, l)
			}
		}
		check(2, 42, 1)
		time.Sleep(59 * time.Second)
		add(KindRequest, "", Allow, 0)
		check(3, 42, 1)
		time.Sleep(time.Second)
		check(1, 0, 0)
		time.Sleep(time.Minute)
		check(0, 0, 0)
	})
}

// The request path has no time for the recorder: 300 ns, no allocation. The writer's own work
// is measured by BenchmarkAppendJSON.
func BenchmarkAdd(b *testing.B) {
	r := openDir(b, b.TempDir(), nil)
	defer r.Close()
	now := time.Now()
	rec := exampleRecord()
	rec.ID, rec.Decision = "", Allow
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		rec.Seq, rec.Time = 0, now
		r.Add(&rec)
		if n++; n == ringSize {
			n = 0
			b.StopTimer()
			r.turn()
			b.StartTimer()
		}
	}
}

func BenchmarkAddRefusal(b *testing.B) {
	r := openDir(b, b.TempDir(), nil)
	b.ReportAllocs()
	for b.Loop() {
		rec := exampleRecord()
		rec.Seq, rec.ID, rec.Time = 0, "", time.Time{}
		r.Add(&rec)
	}
	r.Close()
}

// A start must be quick, with a full log of refusals too.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	r := openDir(b, dir, nil)
	for range refusalsKept {
		rec := exampleRecord()
		rec.Seq, rec.ID = 0, ""
		r.Add(&rec)
	}
	r.Close()
	for b.Loop() {
		openDir(b, dir, nil).Close()
	}
}

func BenchmarkRecord(b *testing.B) {
	r := openDir(b, b.TempDir(), nil)
	defer r.Close()
	for b.Loop() {
		if err := r.Record(b.Context(), &Record{Kind: KindIssue}); err != nil {
			b.Fatal(err)
		}
	}
}

// What Write returned for is in the file, though nothing was synced and Run does not run.
func TestWriteIsInTheFile(t *testing.T) {
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	r, err := Open(Options{Dir: dir, Node: "spiffe://td/ns/countersign/sa/server-a"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range 3 {
		rec := &Record{Kind: KindIssue, Decision: Allow, Layer: LayerIssue, Subject: &Subject{JTI: fmt.Sprintf("id-%d", i)}}
		if err := r.Write(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		var text []byte
		for _, name := range segmentNames(t, dir) {
			b, err := dir.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text = append(text, b...)
		}
		if want := fmt.Sprintf(`"jti":"id-%d"`, i); !strings.Contains(string(text), want) {
			t.Fatalf("record %d is not in the file when Write has returned", i)
		}
	}
	r.Close()
	if err := r.Write(t.Context(), &Record{Kind: KindIssue}); !errors.Is(err, ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}
}

func segmentNames(t *testing.T, dir *os.Root) []string {
	t.Helper()
	d, err := dir.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	return names
}
