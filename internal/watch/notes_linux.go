package watch

import (
	"context"
	"encoding/binary"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// notes are what the kernel tells of a directory. Without them, and where they lack something (a network, a full
// table), polling finds the rest.
type notes struct {
	log  *slog.Logger
	wake chan struct{}
	file *os.File
	done chan struct{}

	mu   sync.Mutex // guards the rest, for a look-up
	root string
	dirs map[int32]string
	last time.Time
	open map[string]time.Time // files that somebody writes, since when
}

const events = unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM |
	unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

func newNotes(log *slog.Logger) *notes {
	n := &notes{log: log, wake: make(chan struct{}, 1), done: make(chan struct{}), dirs: map[int32]string{}, open: map[string]time.Time{}}
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		log.Warn("the system does not tell of changes of files; they are looked for every two seconds", "error", err)
		close(n.done)
		return n
	}
	n.file = os.NewFile(uintptr(fd), "inotify")
	go n.listen()
	return n
}

func (n *notes) close() {
	if n.file != nil {
		_ = n.file.Close() // ends listen
	}
	<-n.done
}

// follow has the kernel tell of every directory below dir, and of dir itself becoming another one.
func (n *notes) follow(dir string) {
	if n.file == nil {
		return
	}
	list, _ := walk(dir)
	n.mu.Lock()
	n.root = dir
	n.mu.Unlock()
	n.add(filepath.Dir(dir))
	for _, d := range list {
		if d.dir {
			n.add(d.path)
		}
	}
}

func (n *notes) add(dir string) {
	raw, err := n.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if wd, err := unix.InotifyAddWatch(int(fd), dir, events); err == nil {
			n.mu.Lock()
			n.dirs[int32(wd)] = dir
			n.mu.Unlock()
		}
	})
}

func (n *notes) listen() {
	defer close(n.done)
	buf := make([]byte, 64<<10)
	for {
		size, err := n.file.Read(buf)
		if err != nil {
			return
		}
		if !n.take(buf[:size]) {
			continue
		}
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
}

// take reads events: watch, mask, cookie, length of the name, name (inotify(7)). It reports whether one concerns us.
func (n *notes) take(buf []byte) (ours bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(buf) >= unix.SizeofInotifyEvent {
		wd, mask := int32(binary.NativeEndian.Uint32(buf)), binary.NativeEndian.Uint32(buf[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		if end > len(buf) {
			return ours
		}
		path := filepath.Join(n.dirs[wd], strings.TrimRight(string(buf[unix.SizeofInotifyEvent:end]), "\x00"))
		buf = buf[end:]
		if filepath.Dir(path) == filepath.Dir(n.root) && path != n.root { // what lies beside it
			continue
		}
		ours, n.last = true, time.Now()
		switch {
		case mask&unix.IN_IGNORED != 0:
			delete(n.dirs, wd)
		case mask&unix.IN_Q_OVERFLOW != 0:
			clear(n.open)
		case mask&unix.IN_MODIFY != 0:
			if _, ok := n.open[path]; !ok {
				n.open[path] = n.last
			}
		case mask&(unix.IN_CLOSE_WRITE|unix.IN_DELETE|unix.IN_MOVED_FROM) != 0:
			delete(n.open, path)
		}
	}
	return ours
}

// rest waits until nothing was told for a while and nobody writes, but not for ever.
func (n *notes) rest(ctx context.Context) {
	for began := time.Now(); ; {
		now := time.Now()
		n.mu.Lock()
		wait := quiet - now.Sub(n.last)
		busy := false
		for path, since := range n.open {
			if now.Sub(since) > writing {
				delete(n.open, path)
			} else if isDocument(filepath.Base(path)) { // another file may be written for ever
				busy = true
			}
		}
		n.mu.Unlock()
		if !busy && (wait <= 0 || now.Sub(began) > longest) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(wait, quiet)):
		}
	}
}

// changed is when the inode changed: unlike the time of the last writing nobody can set it back.
func changed(st fs.FileInfo) int64 {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return sys.Ctim.Nano()
}
