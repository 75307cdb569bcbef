package audit

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"
)

// maxSegments bounds the files: a role that starts and dies in a loop makes a small one each time.
const maxSegments = 256

// segments are the files of one recorder: `audit-<boot>-<n>.jsonl`, 0600, one record a line.
// Only the holder of the pen uses it.
type segments struct {
	dir  *os.Root
	boot [16]byte
	size int64 // a file that reached it is followed by the next
	keep int   // as many times size are kept, files of earlier boots counted

	n       int
	f       *os.File // nil: the next write opens one
	written int64    // bytes of whole records in f
}

// write appends whole lines. What a failed write left of them is cut off again: a reader never
// sees half a record that is followed by another. With durable, a file is synced before the next.
func (s *segments) write(lines []byte, durable bool) error {
	if s.f != nil && s.written >= s.size {
		if durable {
			if err := s.sync(); err != nil {
				return err
			}
		}
		if err := s.close(); err != nil {
			return err
		}
	}
	if s.f == nil {
		if err := s.open(); err != nil {
			return err
		}
	}
	if _, err := s.f.Write(lines); err != nil {
		if s.f.Truncate(s.written) != nil {
			s.close()
		}
		return fmt.Errorf("writing the audit log: %w", err)
	}
	s.written += int64(len(lines))
	return nil
}

// sync makes all that was written durable. After a failed fsync the kernel may have dropped the
// pages while the file looks well, so it is not used again.
func (s *segments) sync() error {
	if s.f == nil {
		return nil
	}
	if err := s.f.Sync(); err != nil {
		s.close()
		return fmt.Errorf("syncing the audit log: %w", err)
	}
	return nil
}

func (s *segments) close() error {
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	s.f = nil
	return err
}

// open removes what is beyond the bound and begins the next file. The directory is synced, so
// that a record synced into the file cannot lose its name.
func (s *segments) open() error {
	if err := s.retire(); err != nil {
		return fmt.Errorf("removing old audit segments: %w", err)
	}
	name := fmt.Sprintf("audit-%s-%08d.jsonl", hex.EncodeToString(s.boot[:]), s.n+1)
	f, err := s.dir.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening an audit segment: %w", err)
	}
	s.n, s.f, s.written = s.n+1, f, 0
	d, err := s.dir.Open(".")
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("syncing the audit directory: %w", err)
	}
	return nil
}

// retire deletes the oldest files until the next one has its room.
func (s *segments) retire() error {
	files, err := listSegments(s.dir)
	if err != nil {
		return err
	}
	var total int64
	for _, f := range files {
		total += f.size
	}
	for len(files) > 0 && (total > int64(s.keep-1)*s.size || len(files) >= maxSegments) {
		if err := s.dir.Remove(files[0].name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		total -= files[0].size
		files = files[1:]
	}
	return nil
}

type segment struct {
	name    string
	size    int64
	changed time.Time
}

// listSegments gives the segments of all boots, oldest first.
func listSegments(dir *os.Root) ([]segment, error) {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return nil, err
	}
	var files []segment
	for _, e := range entries {
		if ok, _ := path.Match("audit-*-*.jsonl", e.Name()); !ok || !e.Type().IsRegular() {
			continue
		}
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, segment{e.Name(), st.Size(), st.ModTime()})
	}
	slices.SortFunc(files, func(a, b segment) int {
		return cmp.Or(a.changed.Compare(b.changed), cmp.Compare(a.name, b.name))
	})
	return files, nil
}
