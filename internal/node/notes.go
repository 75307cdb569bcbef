package node

import (
	"sync"

	"countersign.dev/internal/admin"
)

const maxNotes = 64 // waiting for a run that does not read

// notes carries events of the request path to a run's session without ever making a request
// wait: what does not fit is dropped, the record has it all.
type notes struct {
	once sync.Once
	c    chan *admin.RunNote
}

func (n *notes) init() { n.c = make(chan *admin.RunNote, maxNotes) }

func (n *notes) add(note *admin.RunNote) {
	n.once.Do(n.init)
	select {
	case n.c <- note:
	default:
	}
}

func (n *notes) wait() <-chan *admin.RunNote {
	n.once.Do(n.init)
	return n.c
}
