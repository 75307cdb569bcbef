package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"countersign.dev/internal/admin"
	"golang.org/x/sys/unix"
)

const (
	noteEvery = 10 * time.Second       // of one kind, while the program runs
	notesKept = 10                     // of a program without a port, said after it
	lastWord  = 500 * time.Millisecond // that the node has once it is told that the program ended
)

// keepSession reads what the node says, and opens a new session when the node was started
// anew: the listeners are still here, calls wait in their backlog meanwhile.
func (p *program) keepSession(ctx context.Context, s *session) {
	for first := true; ; first = false {
		p.tell(s, admin.RunMessage{Started: p.cmd.Process.Pid})
		now, told := s, make(chan struct{})
		over := context.AfterFunc(ctx, func() {
			defer close(told)
			now.conn.SetReadDeadline(time.Now().Add(lastWord))
			p.tell(now, admin.RunMessage{Ended: p.notes.ended})
		})
		final := false // the node will not take this run back
		for {
			m, err := s.read()
			if err != nil {
				break
			}
			if m.Called != nil {
				p.uncalled = first && !*m.Called // a node that was started anew cannot know
				break
			}
			if m.Note != nil {
				p.notes.add(m.Note, p.quiet)
			}
			if m.Refused != nil {
				p.notes.add(refusedNote(m.Refused), p.quiet)
				final = true
			}
		}
		if !over() {
			<-told
		}
		s.conn.Close()
		if !final {
			s = p.reopen(ctx)
		}
		if final || s == nil {
			p.turnAway(ctx)
			return
		}
	}
}

// turnAway takes calls and ends them at once, until the run ends: no node serves this run any
// more, and in the backlog of a listener that is kept a call would wait for ever.
func (p *program) turnAway(ctx context.Context) {
	var doors sync.WaitGroup
	for _, l := range p.listeners {
		// Whoever took the descriptor of a duplicate may have made all of them block (os.File.Fd):
		// then no deadline would end Accept.
		raw, err := l.SyscallConn()
		if err != nil || raw.Control(func(fd uintptr) { err = unix.SetNonblock(int(fd), true) }) != nil || err != nil {
			l.Close() // what comes is refused
			continue
		}
		doors.Go(func() {
			for ctx.Err() == nil {
				conn, err := l.Accept()
				if err == nil {
					conn.Close()
					continue
				}
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond): // no descriptors left, perhaps
				}
			}
		})
	}
	<-ctx.Done()
	for _, l := range p.listeners {
		l.SetDeadline(time.Now())
	}
	doors.Wait()
}

// noCallSeen says of a program that failed that it never used the proxy (cli.md 9.4).
func (p *program) noCallSeen() *admin.RunNote {
	return &admin.RunNote{
		Code: "no_call_seen", Key: "no_call_seen", Always: true,
		Text:  fmt.Sprintf("note: no call came through the proxy; does %s read HTTP_PROXY?", p.called()),
		Hints: []string{"name $HTTP_PROXY as the proxy in its own settings"},
	}
}

func refusedNote(r *admin.Problem) *admin.RunNote {
	return &admin.RunNote{Code: r.Code, Key: r.Code, Text: r.Message, Hints: r.Hints, Warn: true, Always: true}
}

func (p *program) reopen(ctx context.Context) *session {
	p.req.PID = p.cmd.Process.Pid
	for wait := 50 * time.Millisecond; ; wait = min(wait*2, time.Second) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		s, err := p.open(ctx)
		var refused *admin.Problem
		switch {
		case err == nil:
			return s
		case errors.As(err, &refused):
			p.notes.add(refusedNote(refused), p.quiet)
			return nil
		}
	}
}

// noteBook says what happened to calls: the first of a kind at once, then at most one in 10 s
// with a count; for a program without a port only after it has ended, so that nothing cuts
// into its output (cli.md 9.4).
type noteBook struct {
	e     *env
	ended *int

	mu   sync.Mutex // guards the rest
	last map[string]time.Time
	more map[string]int
	kept []*admin.RunNote
}

func newNoteBook(e *env) *noteBook {
	return &noteBook{e: e, last: map[string]time.Time{}, more: map[string]int{}}
}

func (b *noteBook) add(n *admin.RunNote, quiet bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if quiet && !n.Always {
		if b.more[n.Key]++; b.more[n.Key] == 1 && len(b.kept) < notesKept {
			b.kept = append(b.kept, n)
		}
		return
	}
	now := time.Now()
	if last, ok := b.last[n.Key]; ok && now.Sub(last) < noteEvery {
		b.more[n.Key]++
		return
	}
	b.last[n.Key] = now
	b.print(n, b.more[n.Key])
	b.more[n.Key] = 0
}

// flush prints what was kept until the program ended.
func (b *noteBook) flush(quiet bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !quiet {
		return
	}
	for _, n := range b.kept {
		b.print(n, b.more[n.Key]-1)
	}
}

func (b *noteBook) print(n *admin.RunNote, more int) {
	if b.e.quiet {
		return
	}
	text := escape(n.Text)
	if n.Warn {
		text = "warning: " + text
	}
	if more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	fmt.Fprintln(os.Stderr, "countersign: "+text)
	for _, h := range n.Hints {
		fmt.Fprintln(os.Stderr, "countersign: hint: "+h)
	}
}
