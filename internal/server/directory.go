package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/catalog"
	"countersign.dev/internal/resource"
	"countersign.dev/internal/watch"
)

// A watched directory is an admin's hand (cli.md 10.7, security.md 4): what it holds is applied as one set whenever it
// changes, all or nothing, and what it wrote is changed by it alone.

const (
	retryFaulty = 30 * time.Second // other objects may have made the directory good
	retryStore  = 2 * time.Second
)

// directory is how the watched one fares.
type directory struct {
	mu     sync.Mutex // guards the rest, for a look-up
	state  admin.WatchStatus
	said   string          // the faults that were logged last
	warned map[string]bool // the warnings that hold, each logged when it came
}

// followDirectory applies the watched directory until ctx ends. first is called once it was tried.
func (s *Server) followDirectory(ctx context.Context, first func()) error {
	return watch.Follow(ctx, s.o.Watch, s.o.Log, func(ctx context.Context, files []watch.File, err error) time.Duration {
		defer first()
		reply, err := s.takeDirectory(ctx, files, err)
		if ctx.Err() != nil {
			return 0
		}
		return s.directorySaid(reply, err)
	})
}

// takeDirectory makes the objects of the directory what its files say.
func (s *Server) takeDirectory(ctx context.Context, files []watch.File, err error) (admin.ApplyReply, error) {
	if err != nil {
		return admin.ApplyReply{}, unreadDirectory(s.o.Watch, err)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	known, rev, err := s.applied(ctx)
	if err != nil {
		return admin.ApplyReply{}, err
	}
	var in []resource.File
	for _, f := range files {
		in = append(in, resource.File(f))
	}
	doing := "applying " + s.o.Watch
	objects, faults := resource.Decode(in, s.decoding(admin.ApplyRequest{}, known))
	if resource.Stops(faults) {
		return admin.ApplyReply{}, &admin.Problem{Code: "faults", Message: doing, Faults: faults}
	}
	changes := s.ofDirectory(known, objects)
	if len(files) == 0 && len(changes) > 0 {
		return admin.ApplyReply{}, &admin.Problem{
			Code: "no_documents", Message: fmt.Sprintf("reading %s: no .yaml, .yml or .json file in it, and it wrote %s", s.o.Watch, count(len(changes), "object")),
			Hints: []string{"to take them all back leave one file that is empty: touch " + s.o.Watch + "/none.yaml"},
		}
	}
	if !s.o.WatchConfirmed {
		if err := s.opensTheMesh(known, changes); err != nil {
			return admin.ApplyReply{}, fmt.Errorf("%w; nobody can be asked here: countersign up --watch %s --yes", err, s.o.Watch)
		}
	}
	reply, err := s.commit(ctx, batch{verb: "apply", doing: doing, known: known, rev: rev, changes: changes, directory: s.o.Watch})
	reply.Warnings = append(reply.Warnings, faults...)
	return reply, err
}

// ofDirectory are the changes that lead to what the directory says: its objects, and those away that it wrote before
// and no longer holds.
func (s *Server) ofDirectory(known map[string]catalog.Record, objects []resource.Object) (changes []catalog.Change) {
	held := map[string]bool{}
	for _, o := range objects {
		held[catalog.Key(o.Kind, o.Namespace, o.Name)] = true
		changes = append(changes, catalog.Change{Object: o, Source: s.o.Watch})
	}
	for _, key := range slices.Sorted(maps.Keys(known)) {
		if r := known[key]; r.Source == s.o.Watch && !held[key] {
			changes = append(changes, catalog.Change{Object: r.Object, Remove: true})
		}
	}
	return changes
}

// inDirectory refuses to change what the watched directory wrote, by whomever else. What stays as it is stays its own.
func (s *Server) inDirectory(b batch) error {
	if s.o.Watch == "" || b.directory != "" {
		return nil
	}
	for i, ch := range b.changes {
		r, ok := b.known[catalog.Key(ch.Object.Kind, ch.Object.Namespace, ch.Object.Name)]
		switch {
		case !ok || r.Source != s.o.Watch:
		case !ch.Remove && string(r.JSON) == string(ch.Object.JSON):
			b.changes[i].Source = r.Source
		default:
			return &admin.Problem{
				Code: "in_directory", Message: fmt.Sprintf("%s is kept in %s", r.ID(), r.Places.File),
				Hints: []string{"change that file; its directory is applied when it changes"},
			}
		}
	}
	return nil
}

func unreadDirectory(dir string, err error) error {
	if u, ok := errors.AsType[*watch.Unsafe](err); ok {
		return &admin.Problem{Code: "dir_open", Message: "reading " + dir + ": " + u.Error(), Hints: []string{u.Hint}}
	}
	text := err.Error()
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		text = fmt.Sprintf("%s: %v", p.Path, p.Err)
	}
	return &admin.Problem{Code: "failed", Message: "reading " + dir + ": " + text}
}

// directorySaid notes what became of the directory, logs what is new, and gives how long to wait before it is tried
// again.
func (s *Server) directorySaid(reply admin.ApplyReply, err error) time.Duration {
	d := &s.directory
	d.mu.Lock()
	defer d.mu.Unlock()
	log := s.o.Log.With("directory", s.o.Watch)
	if err == nil {
		left := 0
		for _, r := range reply.Objects {
			if r.Result != catalog.Deleted {
				left++
			}
		}
		d.state = admin.WatchStatus{Directory: s.o.Watch, Objects: left, Revision: reply.Revision}
		warned := map[string]bool{}
		for _, f := range reply.Warnings {
			if line := oneLine(f); !warned[line] {
				warned[line] = true
				if !d.warned[line] {
					log.Warn("the watched directory holds what cannot work", "fault", line)
				}
			}
		}
		d.warned, d.said = warned, ""
		log.Info("the watched directory is applied", "objects", left, "revision", reply.Revision)
		return 0
	}
	d.state.Directory, d.state.Error, d.state.Faults = s.o.Watch, err.Error(), nil
	p, wrong := errors.AsType[*admin.Problem](err)
	if wrong && len(p.Faults) > 0 {
		d.state.Error, d.state.Faults = count(len(p.Faults), "fault"), p.Faults
		for i := range d.state.Faults {
			if f := &d.state.Faults[i]; strings.HasSuffix(f.Hint, " --ignore-unknown-kinds") { // of apply: here nothing is left out
				f.Hint = "keep it outside of " + s.o.Watch
			}
		}
	}
	if said := fmt.Sprint(err, d.state.Faults); said != d.said {
		d.said = said
		for _, f := range d.state.Faults {
			if f.Severity == resource.Error {
				log.Error("fault in the watched directory", "fault", oneLine(f))
			}
		}
		log.Error("the watched directory is not applied; the last good state stays in force", "error", d.state.Error)
	}
	if wrong && p.Code != "conflict" {
		return retryFaulty
	}
	return retryStore
}

func oneLine(f resource.Fault) string {
	return strings.ReplaceAll(strings.ReplaceAll(f.String(), "\n\t", "; "), "\n", " ")
}

// watchStatus is nil where no directory is watched.
func (s *Server) watchStatus() *admin.WatchStatus {
	if s.o.Watch == "" {
		return nil
	}
	s.directory.mu.Lock()
	defer s.directory.mu.Unlock()
	state := s.directory.state
	return &state
}
