// Package watch follows a directory of documents: it reads all of it whenever something below it may have changed, and
// gives only what nobody was writing meanwhile.
//
// Its words: a tree is what was read of the directory, file by file; it is unsafe when somebody else than root and the
// reader's user can change it. Its promise: a tree is of one moment, and nothing of an unsafe directory is given.
package watch

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	quiet   = 20 * time.Millisecond // since the last event, before the directory is read
	longest = time.Second           // it is read then though events go on
	writing = 30 * time.Second      // longest that a file somebody writes is waited for
	poll    = 2 * time.Second       // it is looked at, whatever the system tells
	reread  = 5                     // times that it is read anew because it changed meanwhile
)

// File is one file of a tree; its name is its path.
type File struct {
	Name string
	Data []byte
}

// Take is handed every new tree, or why there is none. What it gives is how long to wait before it wants the same
// again; 0: only what is new.
type Take func(ctx context.Context, files []File, err error) (again time.Duration)

// ErrBusy: the directory went on changing while it was read.
var ErrBusy = errors.New("it changes while it is read")

// Follow hands take what is below dir, and again whenever that changes, until ctx ends.
func Follow(ctx context.Context, dir string, log *slog.Logger, take Take) error {
	n := newNotes(log)
	defer n.close()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var last print
	var due time.Time // when take wants the same again
	for {
		n.follow(dir)
		if now := look(dir); now != last || !due.IsZero() && !time.Now().Before(due) {
			files, seen, err := settled(ctx, dir, n)
			if ctx.Err() != nil {
				return nil
			}
			due = time.Time{}
			if again := take(ctx, files, err); again > 0 {
				due = time.Now().Add(again)
			}
			if last = seen; errors.Is(err, ErrBusy) {
				last = print{} // look again
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-n.wake:
			n.rest(ctx)
		}
	}
}

// settled reads a tree of one moment: what it is made of is the same before and after.
func settled(ctx context.Context, dir string, n *notes) ([]File, print, error) {
	for range reread {
		before := look(dir)
		files, err := read(dir)
		if after := look(dir); after == before {
			return files, after, err
		}
		n.follow(dir)
		n.rest(ctx)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, print{}, ErrBusy
}
