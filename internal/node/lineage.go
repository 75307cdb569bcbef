package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/attest"
	"countersign.dev/internal/files"
)

const (
	lineageFile = "runs.json"
	maxLineage  = 1 << 20 // bytes of that file
)

// Lineage knows every `run` process that lives, whether it has a session or not, so that what
// descends from one is never taken for a person's shell (sec-run-is-not-admin): a program
// whose Workload was deleted, or whose node was killed and has just come back, is of its run
// still. It is written down before a program starts, because this process may be killed at any time.
type Lineage struct {
	dir *os.Root

	mu   sync.Mutex // guards kept; held while a small file is written
	kept []*attest.Process
}

// ancestor is a process in the file: a number alone may be another's by now.
type ancestor struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
}

// OpenLineage recalls what an earlier life of this node wrote into dir.
func OpenLineage(dir *os.Root) (*Lineage, error) {
	l := &Lineage{dir: dir}
	b, err := files.ReadFile(dir, lineageFile, maxLineage)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the runs of an earlier start: %w", err)
	}
	var list []ancestor
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("reading the runs of an earlier start: %s: %w; end their programs and remove it", lineageFile, err)
	}
	for _, a := range list {
		p, err := attest.OpenPID(a.PID)
		if err != nil {
			continue // it has ended
		}
		if p.Facts().StartTime != a.Start || !p.Alive() {
			p.Close()
			continue
		}
		l.kept = append(l.kept, p)
	}
	return l, nil
}

// InRun reports whether a process belongs to a run that lives (identity.md 11.5).
func (l *Lineage) InRun(p *attest.Process) (bool, error) {
	l.mu.Lock()
	l.pruneLocked()
	var pids []int
	for _, k := range l.kept {
		pids = append(pids, k.PID())
	}
	l.mu.Unlock()
	return attest.InRun(p, pids)
}

// add keeps the process of a run until it ends. It returns once that is on the disk.
func (l *Lineage) add(p *attest.Process) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pruneLocked()
	start := p.Facts().StartTime
	if slices.ContainsFunc(l.kept, func(k *attest.Process) bool { return k.PID() == p.PID() && k.Facts().StartTime == start }) {
		return nil // it attaches again
	}
	if len(l.kept) >= maxRuns {
		return &admin.Problem{Code: "too_many", Message: fmt.Sprintf("%d programs run here already", maxRuns)}
	}
	own, err := attest.OpenPID(p.PID()) // p ends with its connection
	if err != nil {
		return fmt.Errorf("keeping process %d: %w", p.PID(), err)
	}
	if own.Facts().StartTime != start || !p.Alive() {
		own.Close()
		return fmt.Errorf("keeping process %d: %w", p.PID(), attest.ErrGone)
	}
	l.kept = append(l.kept, own)
	list := make([]ancestor, 0, len(l.kept))
	for _, k := range l.kept {
		list = append(list, ancestor{k.PID(), k.Facts().StartTime})
	}
	b, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("keeping process %d: %w", p.PID(), err)
	}
	if err := files.WriteFile(l.dir, lineageFile, b); err != nil {
		return fmt.Errorf("keeping process %d: %w", p.PID(), err)
	}
	return nil
}

// pruneLocked forgets the processes that ended.
func (l *Lineage) pruneLocked() {
	l.kept = slices.DeleteFunc(l.kept, func(k *attest.Process) bool {
		if k.Alive() {
			return false
		}
		k.Close()
		return true
	})
}

// Close lets go of the processes; the file stays.
func (l *Lineage) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.kept {
		k.Close()
	}
	l.kept = nil
}
