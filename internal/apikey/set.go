package apikey

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// The refusals of Check. A caller is told no more than which of the two it is.
var (
	ErrKey       = errors.New("the API key is not valid")              // 401
	ErrForbidden = errors.New("the API key may not be used like that") // 403
)

// Reason is why a key was refused, for records and metrics alone.
type Reason string

// The reasons, in the order of tokens.md 14.3.
const (
	Malformed   Reason = "malformed"
	BadChecksum Reason = "checksum"
	UnknownID   Reason = "unknown"
	WrongSecret Reason = "secret"
	Disabled    Reason = "disabled"
	Expired     Reason = "expired"
	RotatedOut  Reason = "rotated_out"
	WrongEnv    Reason = "env"
	WrongSource Reason = "cidr"
	OutOfReach  Reason = "reach" // step 9, which is the caller's
)

// Code is the reason as the audit record spells it, layer token.
func (r Reason) Code() string {
	switch r {
	case "":
		return ""
	case Disabled, Expired, RotatedOut:
		return "key_expired"
	case WrongEnv, WrongSource, OutOfReach:
		return "key_scope"
	}
	return "key_unknown"
}

// Words are the reason as an operator reads it.
func (r Reason) Words() string {
	switch r {
	case Malformed:
		return "it does not have the form of an API key"
	case BadChecksum:
		return "its checksum is wrong: it was mistyped or cut"
	case UnknownID:
		return "no API key has its id"
	case WrongSecret:
		return "its secret is wrong"
	case Disabled:
		return "the API key is disabled"
	case Expired:
		return "the API key has ended"
	case RotatedOut:
		return "this secret of the API key was rotated out"
	case WrongEnv:
		return "the Gateway takes API keys of the other environment"
	case WrongSource:
		return "the API key may not be used from this address"
	case OutOfReach:
		return "the API key is not for what the route leads to"
	}
	return ""
}

// Verdict is what a Set says of a key. ID is of the record, never a stranger's text; it is there
// whenever a record has it, which alone proves nothing.
type Verdict struct {
	Record *Record // nil: refused
	ID     string
	Reason Reason // "": taken
}

// entry is one secret, ready to be compared.
type entry struct {
	sum    [sha256.Size]byte
	env    [envEnd - envAt]byte
	id     string
	until  time.Time
	record *Record
}

// Set is every API key of the trust domain. It does not change: who has a newer one puts it in
// its place. The nil Set knows no key.
type Set struct {
	pepper  *Pepper
	secrets map[[idLen]byte]*entry
	dummy   entry // what a secret of an unknown id is compared with
}

// Build makes a Set, which keeps the records. What is not valid, or claims an id that another
// record has, is left out and reported: the id stays with the record of the lower Since, then
// the first by namespace and name.
func Build(records []Record, trustDomain string, pepper *Pepper) (*Set, []Fault) {
	records = slices.Clone(records)
	slices.SortStableFunc(records, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Since, b.Since), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	s := &Set{pepper: pepper, secrets: make(map[[idLen]byte]*entry, len(records))}
	var faults []Fault
	for i := range records {
		r := &records[i]
		c := check{Record: r}
		if c.all(trustDomain); len(c.faults) > 0 {
			faults = append(faults, c.faults...)
			continue
		}
		for j, secret := range r.Secrets {
			id := [idLen]byte([]byte(secret.ID))
			if first := s.secrets[id]; first != nil {
				faults = append(faults, Taken(r, j, first.record))
				continue
			}
			sum, _ := decodeSum(secret.SHA256)
			s.secrets[id] = &entry{sum, [len(Live)]byte([]byte(r.Env)), secret.ID, secret.Until, r}
		}
	}
	return s, faults
}

// Taken is the fault of a secret whose id another record has. It names the namespace of who has the id and not the
// object, which the writer may not be allowed to see (security.md 4).
func Taken(r *Record, secret int, by *Record) Fault {
	code := foreign
	if by.Namespace == r.Namespace {
		code = twice
	}
	return Fault{r.Namespace, r.Name, code, fmt.Sprintf("spec.secrets[%d].id", secret),
		fmt.Sprintf("id %s is taken in namespace %s", r.Secrets[secret].ID, by.Namespace), "an id names one secret: rotate the key for a new one"}
}

// Len is how many secrets the Set knows.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.secrets)
}

// Check does steps 2 to 8 of tokens.md 14.3, in their order: step 9, what the record reaches, is
// the caller's. taken is the environment that the listener takes, source the true address of the
// caller. The error is ErrKey or ErrForbidden.
func (s *Set) Check(presented []byte, taken Env, source netip.Addr, now time.Time) (Verdict, error) {
	e, reason := s.prove(presented)
	if reason == "" {
		reason = e.ended(now)
	}
	switch {
	case e == nil:
		return Verdict{Reason: reason}, ErrKey
	case reason != "":
		return Verdict{ID: e.id, Reason: reason}, ErrKey
	case e.record.Env != taken:
		return Verdict{ID: e.id, Reason: WrongEnv}, ErrForbidden
	case !e.record.Admits(source):
		return Verdict{ID: e.id, Reason: WrongSource}, ErrForbidden
	}
	return Verdict{Record: e.record, ID: e.id}, nil
}

// Proves does steps 2 to 5: whether this is a key of a record, be it ended or not, for one that
// was found in a URL or reported as leaked. An id without its secret proves nothing.
func (s *Set) Proves(presented []byte) (record *Record, id string, ok bool) {
	e, reason := s.prove(presented)
	if reason != "" {
		return nil, "", false
	}
	return e.record, e.id, true
}

// prove compares the secret with that of its id. The entry is there whenever the id is known.
func (s *Set) prove(presented []byte) (*entry, Reason) {
	if s == nil {
		s = new(Set)
	}
	if !shaped(presented) {
		return nil, Malformed
	}
	text := [Len]byte(presented) // a copy of ours: the caller may convert a header line without one
	p := text[:]
	if !intact(p) {
		return nil, BadChecksum
	}
	e, known := s.secrets[[idLen]byte(p[idAt:])]
	if !known {
		e = &s.dummy
	}
	sum := s.pepper.hash(p[secretAt:secretEnd])
	same := subtle.ConstantTimeCompare(sum[:], e.sum[:]) & subtle.ConstantTimeCompare(p[envAt:envEnd], e.env[:])
	switch {
	case !known:
		return nil, UnknownID
	case same != 1:
		return e, WrongSecret
	}
	return e, ""
}

// ended is step 6.
func (e *entry) ended(now time.Time) Reason {
	switch {
	case e.record.Disabled:
		return Disabled
	case !now.Before(e.record.Expires):
		return Expired
	case !e.until.IsZero() && !now.Before(e.until):
		return RotatedOut
	}
	return ""
}

// Still is the record of an ID whose secret was shown and right before; nil: it counts no more.
func (s *Set) Still(id string, now time.Time) *Record {
	if s == nil || len(id) != idLen {
		return nil
	}
	e := s.secrets[[idLen]byte([]byte(id))]
	if e == nil || e.ended(now) != "" {
		return nil
	}
	return e.record
}

// Holder is the record that an ID is of, be it ended or not; nil: none.
func (s *Set) Holder(id string) *Record {
	if s == nil || len(id) != idLen {
		return nil
	}
	if e := s.secrets[[idLen]byte([]byte(id))]; e != nil {
		return e.record
	}
	return nil
}
