package apikey

import (
	"errors"
	"slices"
	"time"
)

// DefaultOverlap is how long the secret before counts beside a new one.
const DefaultOverlap = 24 * time.Hour

// What cannot be done to a record's secrets.
var (
	ErrHasSecret = errors.New("the API key has a secret already: rotate it")
	ErrNoSecret  = errors.New("the API key has no secret to rotate")
	ErrSameID    = errors.New("the API key has a secret of that id already")
	ErrUnknownID = errors.New("the API key has no secret of that id")
	ErrOverlap   = errors.New("an overlap is not negative")
)

// First gives a new record its secret.
func (r Record) First(fresh Secret) (Record, error) {
	if len(r.Secrets) > 0 {
		return r, ErrHasSecret
	}
	r.Secrets = []Secret{fresh}
	return r, nil
}

// Rotate gives the record a new secret. The one before counts for the overlap more, and no
// longer than it would have; where there are two, the older goes at once.
func (r Record) Rotate(fresh Secret, now time.Time, overlap time.Duration) (Record, error) {
	switch {
	case overlap < 0:
		return r, ErrOverlap
	case len(r.Secrets) == 0:
		return r, ErrNoSecret
	case r.has(fresh.ID):
		return r, ErrSameID
	}
	before := r.Secrets[0]
	for _, s := range r.Secrets[1:] {
		if s.Until.IsZero() || !before.Until.IsZero() && !s.Until.Before(before.Until) {
			before = s
		}
	}
	if end := now.Add(overlap); before.Until.IsZero() || end.Before(before.Until) {
		before.Until = end
	}
	if r.Secrets = []Secret{fresh}; before.counts(now) {
		r.Secrets = []Secret{before, fresh}
	}
	return r, nil
}

// Revoke takes a secret out; the other stays as it is. A record that is left without secrets is
// to be deleted: it would not be valid.
func (r Record) Revoke(id string) (Record, error) {
	if !r.has(id) {
		return r, ErrUnknownID
	}
	r.Secrets = slices.DeleteFunc(slices.Clone(r.Secrets), func(s Secret) bool { return s.ID == id })
	return r, nil
}

func (r *Record) has(id string) bool {
	return slices.ContainsFunc(r.Secrets, func(s Secret) bool { return s.ID == id })
}

// counts reports whether the secret is not rotated out.
func (s *Secret) counts(now time.Time) bool { return s.Until.IsZero() || now.Before(s.Until) }

// Revoked is what a change ends (tokens.md 13, 14.4).
type Revoked struct {
	RTI []string // key:<id>, for each secret that is gone
	Sub []string // key:<ns>:<name>, where the key itself is
}

// Difference is what must be revoked when a record is replaced, whoever did it; nil is no record.
func Difference(before, after *Record) Revoked {
	var out Revoked
	if before == nil {
		return out
	}
	for _, s := range before.Secrets {
		if after == nil || !slices.ContainsFunc(after.Secrets, func(o Secret) bool { return o.ID == s.ID && o.SHA256 == s.SHA256 }) {
			out.RTI = append(out.RTI, "key:"+s.ID)
		}
	}
	gone := after == nil || len(after.Secrets) == 0 || after.Principal() != before.Principal()
	if gone || after.Disabled && !before.Disabled {
		out.Sub = []string{before.Principal()}
	}
	return out
}
