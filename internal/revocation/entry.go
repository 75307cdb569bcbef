package revocation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Limits of an entry.
const (
	MaxEntry = 16 << 10 // bytes of its JSON: every byte of Val may be escaped
	MaxVal   = 2048     // bytes, as long as a sub or a client_id may be
	MaxWhy   = 256      // bytes
)

const (
	ownLife = 3600 // seconds, the longest life of an own token
	margin  = 60   // seconds, for clocks that differ
)

// Until is when an entry made at that time ends: longest is the longest life of a foreign
// token that it can match; 0 where it matches own tokens alone.
func Until(at time.Time, longest time.Duration) int64 {
	seconds := int64((longest + time.Second - 1) / time.Second)
	return at.Unix() + margin + max(ownLife, seconds)
}

// ended reports whether the entry is to be dropped.
func (e *Entry) ended(now time.Time) bool { return e.Until < now.Unix() }

// Check refuses an entry that could not be honoured. What it says names no value.
func (e *Entry) Check() error {
	timed := false
	switch kindOf(e.Kind) {
	case noKind:
		return errors.New("revocation entry of an unknown kind")
	case sub, client, before:
		timed = true
	}
	switch {
	case e.Kind == ByBefore && e.Val != "":
		return errors.New("revocation entry of kind before: it has a value")
	case e.Kind != ByBefore && e.Val == "":
		return fmt.Errorf("revocation entry of kind %s: its value is empty", e.Kind)
	case len(e.Val) > MaxVal:
		return fmt.Errorf("revocation entry of kind %s: a value of %d bytes, at most %d are allowed", e.Kind, len(e.Val), MaxVal)
	case len(e.Why) > MaxWhy:
		return fmt.Errorf("revocation entry of kind %s: a reason of %d bytes, at most %d are allowed", e.Kind, len(e.Why), MaxWhy)
	case e.Seq < 0 || e.At <= 0 || e.Until <= e.At:
		return fmt.Errorf("revocation entry of kind %s: its times do not follow each other", e.Kind)
	case timed && (e.Before <= 0 || e.Before > e.At+Ahead):
		return fmt.Errorf("revocation entry of kind %s: before is not a time up to its making", e.Kind)
	case !timed && e.Before != 0:
		return fmt.Errorf("revocation entry of kind %s: it has before", e.Kind)
	}
	return nil
}

// Decode reads one entry, as it stands in the store and in streams, and checks it. A member
// that is not known could narrow what the entry means, so it is refused.
func Decode(data []byte) (Entry, error) {
	if len(data) > MaxEntry {
		return Entry{}, fmt.Errorf("revocation entry of %d bytes: at most %d are allowed", len(data), MaxEntry)
	}
	var e Entry
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return Entry{}, errors.New("revocation entry: it is not the JSON of one")
	}
	if _, err := d.Token(); err != io.EOF {
		return Entry{}, errors.New("revocation entry: something follows it")
	}
	return e, e.Check()
}
