package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unsafe"
)

var (
	// ErrNotFound: no record that is kept has this id.
	ErrNotFound = errors.New("no such decision")
	// ErrAmbiguous: the beginning of an id stands for several, or is too short to stand for one.
	ErrAmbiguous = errors.New("more than one decision begins so")
)

// refusals are the newest refusals, bounded in number and in bytes: paths are chosen by strangers.
// The records in it are never changed.
type refusals struct {
	ring  [refusalsKept]*Record
	start int // the oldest
	n     int
	bytes int
}

func (r *refusals) add(rec *Record) {
	r.bytes += weight(rec)
	for r.n == refusalsKept || r.n > 0 && r.bytes > refusalBytes {
		r.bytes -= weight(r.ring[r.start])
		r.ring[r.start] = nil
		r.start = (r.start + 1) % refusalsKept
		r.n--
	}
	r.ring[(r.start+r.n)%refusalsKept] = rec
	r.n++
}

// newest gives a copy, newest first.
func (r *refusals) newest() []*Record {
	out := make([]*Record, r.n)
	for i := range out {
		out[i] = r.ring[(r.start+r.n-1-i)%refusalsKept]
	}
	return out
}

// keepable copies a refusal for keeping: its strings may be parts of a whole request head, which
// must not stay in memory for their sake.
func keepable(rec *Record) *Record {
	own := new(Record)
	*own = *rec
	for _, s := range own.strangers() {
		*s = strings.Clone(*s)
	}
	return own
}

// strangers are the fields whose bytes a caller chose.
func (rec *Record) strangers() [7]*string {
	return [...]*string{&rec.RequestID, &rec.ClaimedID, &rec.SNI, &rec.Method, &rec.Host, &rec.Path, &rec.QueryKeys}
}

// weight is about what a kept refusal costs in memory.
func weight(rec *Record) int {
	n := int(unsafe.Sizeof(*rec))
	for _, s := range rec.strangers() {
		n += len(*s)
	}
	return n
}

func (r *Recorder) newestRefusals() []*Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refusals.newest()
}

// Refused gives the newest refusal that match takes, of the last 10,000, the newest of earlier boots
// included (Record.Boot tells). The record must not be changed.
func (r *Recorder) Refused(match func(*Record) bool) (*Record, bool) {
	for _, rec := range r.newestRefusals() {
		if match(rec) {
			return rec, true
		}
	}
	return nil, false
}

// Find gives the record of a decision id, or of its first six characters or more if it is among
// the refusals in memory; a whole id is looked for in the segments too. The record must not be
// changed.
func (r *Recorder) Find(idOrPrefix string) (*Record, error) {
	id, ok := normalID(idOrPrefix)
	if !ok {
		return nil, ErrNotFound
	}
	if len(id) < prefixLen {
		return nil, fmt.Errorf("%q has fewer than %d characters: %w", idOrPrefix, prefixLen, ErrAmbiguous)
	}
	var found *Record
	for _, rec := range r.newestRefusals() {
		if !strings.HasPrefix(rec.ID, id) || found != nil && rec.ID == found.ID {
			continue
		}
		if found != nil {
			return nil, ErrAmbiguous
		}
		found = rec
	}
	if found != nil {
		return found, nil
	}
	if len(id) < idLen {
		return nil, ErrNotFound
	}
	return r.search(id)
}

// search reads the segments backwards. They are bounded, so the search is.
func (r *Recorder) search(id string) (found *Record, err error) {
	r.turn() // what waits could be it
	start := []byte(`{"id":"` + id + `"`)
	_, err = eachLineBackwards(r.opt.Dir, 1<<62, func(line []byte) bool {
		var rec Record
		if bytes.HasPrefix(line, start) && rec.UnmarshalJSON(line) == nil {
			found = &rec
		}
		return found == nil
	})
	if err != nil {
		return nil, fmt.Errorf("searching the audit log: %w", err)
	}
	if found == nil {
		return nil, ErrNotFound
	}
	return found, nil
}

// load fills the refusals from the segments of earlier boots. It gives the last record of them,
// nil if none is whole, and whether there was any segment.
func (r *Recorder) load() (last *Record, found bool, err error) {
	var kept []*Record
	decision, allowed := []byte(`"decision":"`), []byte(`"decision":"allow"`)
	found, err = eachLineBackwards(r.opt.Dir, loadBytes, func(line []byte) bool {
		// Quotes in values are escaped, so this is the field and nothing a stranger wrote.
		refusal := bytes.Contains(line, decision) && !bytes.Contains(line, allowed)
		if !refusal && last != nil {
			return true
		}
		rec := new(Record)
		if rec.UnmarshalJSON(line) != nil {
			return true
		}
		if last == nil {
			last = rec
		}
		if refusal {
			kept = append(kept, rec)
		}
		return len(kept) < loadRefusals
	})
	for _, rec := range slices.Backward(kept) {
		r.refusals.add(rec)
	}
	return last, found, err
}

// eachLineBackwards calls line for every whole line of every segment, newest first, until it
// says no or limit bytes are read. It says whether there was a segment.
func eachLineBackwards(dir *os.Root, limit int64, line func([]byte) bool) (found bool, err error) {
	files, err := listSegments(dir)
	if err != nil {
		return false, err
	}
	for _, s := range slices.Backward(files) {
		if limit <= 0 {
			break
		}
		f, err := dir.Open(s.name)
		if errors.Is(err, os.ErrNotExist) {
			continue // retired meanwhile
		}
		if err != nil {
			return true, err
		}
		more, err := backwards(f, s.size, limit, line)
		f.Close()
		if err != nil {
			return true, err
		}
		if !more {
			break
		}
		limit -= s.size
	}
	return len(files) > 0, nil
}

const (
	readBlock = 256 << 10
	maxLine   = 1 << 20 // nothing we write is longer: the rest of such a file is passed over
)

// backwards calls line for the whole lines of a file of this size, last first, until it says no
// or limit bytes are read. What follows the last line feed was never finished (a crash in the
// middle of a write) and is passed over.
func backwards(f io.ReaderAt, size, limit int64, line func([]byte) bool) (more bool, err error) {
	var tail []byte // the end of a line whose beginning is further left
	torn := true    // until the last line feed is found
	end := size
	for end > 0 && size-end < limit && len(tail) <= maxLine {
		n := min(readBlock, end)
		buf := make([]byte, int(n)+len(tail))
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return false, err
		}
		copy(buf[n:], tail)
		end -= n
		for {
			i := bytes.LastIndexByte(buf, '\n')
			if i < 0 {
				break
			}
			l := buf[i+1:]
			buf = buf[:i]
			if torn {
				torn = false
				continue
			}
			if len(l) > 0 && !line(l) {
				return false, nil
			}
		}
		tail = buf
	}
	if end == 0 && !torn && len(tail) > 0 {
		return line(tail), nil
	}
	return true, nil
}
