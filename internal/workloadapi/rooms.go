package workloadapi

import (
	"errors"
	"slices"
	"sync"
)

// Bounds of identity.md 6.1.
const (
	maxConns     = 4096
	maxPerPID    = 64
	maxPerUID    = 2048
	maxStrangers = 512
)

// rooms counts connections. Whoever has shown no identity yet is a stranger, and strangers
// share a small room of their own, in which the greediest user makes place: they can keep out
// neither workloads nor each other (sec-limits-no-lockout).
type rooms struct {
	mu        sync.Mutex // guards the rest; held for the counting alone
	total     int
	byPID     map[int]int
	byUID     map[uint32]int
	strangers map[uint32][]*caller // by uid, oldest first
	waiting   int                  // strangers in all
}

func newRooms() *rooms {
	return &rooms{byPID: map[int]int{}, byUID: map[uint32]int{}, strangers: map[uint32][]*caller{}}
}

// place is where a connection is counted.
type place uint8

const (
	outside place = iota
	amongStrangers
	amongKnown
)

// enter takes a connection in as a stranger's, or says why not.
func (r *rooms) enter(c *caller) error {
	out, err := r.admit(c)
	if out != nil {
		out.Close() // which calls leave
	}
	return err
}

func (r *rooms) admit(c *caller) (out *caller, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.total >= maxConns:
		return nil, errors.New("too many connections")
	case r.byPID[c.pid] >= maxPerPID:
		return nil, errors.New("too many connections of one process")
	case r.byUID[c.uid] >= maxPerUID:
		return nil, errors.New("too many connections of one user")
	}
	r.total++
	r.byPID[c.pid]++
	r.byUID[c.uid]++
	r.moveLocked(c, amongStrangers)
	if r.waiting > maxStrangers {
		out = r.surplusLocked()
	}
	return out, nil
}

// surplusLocked chooses who goes when the strangers' room is full: the oldest connection of the
// user who has most.
func (r *rooms) surplusLocked() *caller {
	var most []*caller
	for _, of := range r.strangers {
		if len(of) > len(most) || len(of) == len(most) && of[0].since.Before(most[0].since) {
			most = of
		}
	}
	return most[0]
}

// moveLocked counts c at its new place and no more at its old one.
func (r *rooms) moveLocked(c *caller, to place) {
	if c.place == to {
		return
	}
	if c.place == amongStrangers {
		of := r.strangers[c.uid]
		i := slices.Index(of, c)
		if of = slices.Delete(of, i, i+1); len(of) == 0 {
			delete(r.strangers, c.uid)
		} else {
			r.strangers[c.uid] = of
		}
		r.waiting--
	}
	if to == amongStrangers {
		r.strangers[c.uid] = append(r.strangers[c.uid], c)
		r.waiting++
	}
	c.place = to
}

// known moves a connection out of the strangers' room: its process has an identity.
func (r *rooms) known(c *caller) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.place == amongStrangers {
		r.moveLocked(c, amongKnown)
	}
}

// stranger moves it back: its process has no identity any more. When the room is full it
// stays among the known until it closes, rather than push out somebody else.
func (r *rooms) stranger(c *caller) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.place == amongKnown && r.waiting < maxStrangers {
		r.moveLocked(c, amongStrangers)
	}
}

// leave counts a connection out.
func (r *rooms) leave(c *caller) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.place == outside {
		return
	}
	r.moveLocked(c, outside)
	r.total--
	if r.byPID[c.pid]--; r.byPID[c.pid] == 0 {
		delete(r.byPID, c.pid)
	}
	if r.byUID[c.uid]--; r.byUID[c.uid] == 0 {
		delete(r.byUID, c.uid)
	}
}
