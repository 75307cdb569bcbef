package apikey

import "time"

// Alive does steps 2 to 6 of tokens.md 14.3: it is what the token service asks once more of a key that a Gateway took.
// Where the key may come from, and by which door, the Gateway alone knows. The error is ErrKey.
func (s *Set) Alive(presented []byte, now time.Time) (v Verdict, until time.Time, err error) {
	e, reason := s.prove(presented)
	if reason == "" {
		reason = e.ended(now)
	}
	switch {
	case e == nil:
		return Verdict{Reason: reason}, time.Time{}, ErrKey
	case reason != "":
		return Verdict{ID: e.id, Reason: reason}, time.Time{}, ErrKey
	}
	until = e.record.Expires
	if !e.until.IsZero() && e.until.Before(until) {
		until = e.until
	}
	return Verdict{Record: e.record, ID: e.id}, until, nil
}
