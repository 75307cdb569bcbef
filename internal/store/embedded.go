package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"countersign.dev/internal/files"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"golang.org/x/sys/unix"
)

const (
	socketName    = "c.sock"
	socketPathMax = 107 // bytes, the kernel's limit without the final NUL

	readyWithin = 30 * time.Second
	closeWithin = 5 * time.Second // Close of a failed etcd hangs (registry.md 5)

	// Free space on the store's file system (registry.md 5): etcd ends its process on a full
	// disk, so we refuse to start, and to write, before that.
	startNeeds = 64 << 20
	writeNeeds = 128 << 20
)

// EmbeddedOptions place an embedded engine.
type EmbeddedOptions struct {
	Dir     string       // <data>/store, made 0700; the caller holds the lock of cli.md 4.3
	Cluster string       // a DNS label; "default" when empty
	Log     *slog.Logger // nothing is logged when nil
}

// Etcd is a single etcd member in this process, on unix sockets only. It is called in process;
// the socket <dir>/c.sock is there for root's etcdctl.
type Etcd struct {
	dir, cluster, prefix string
	log                  *slog.Logger
	etcd                 *embed.Etcd
	client               *clientv3.Client
	fault                *fault
	life                 context.Context // of the engine, not of a call: ends with Close or a fault
	end                  context.CancelFunc
	room                 diskRoom

	mu      sync.Mutex // guards closed, and the first Add of waiting against its Wait
	closed  bool
	waiting sync.WaitGroup // calls under way, watches and leases
}

// setSegmentBytes sets a package variable of etcd once, before the first start: its default
// preallocates 128 MB for an empty store.
var setSegmentBytes = sync.OnceFunc(func() { wal.SegmentSizeBytes = 8 << 20 })

// Embedded opens the store in o.Dir, or makes it, and returns when it takes writes. ctx bounds
// the start only; the engine lives until Close. A *files.DirError says what is wrong with the
// directory or, with code data_damaged, with the files in it.
func Embedded(ctx context.Context, o EmbeddedOptions) (*Etcd, error) {
	dir, err := prepareDir(o.Dir)
	if err != nil {
		return nil, err
	}
	if o.Cluster == "" {
		o.Cluster = "default"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	setSegmentBytes()
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	e := &Etcd{
		dir: dir, cluster: o.Cluster, prefix: keyPrefix(o.Cluster), log: o.Log,
		fault: &fault{happened: end}, life: life, end: end,
	}
	cfg, err := config(dir, o.Cluster, e.fault, o.Log)
	if err != nil {
		end()
		return nil, err
	}
	err = checkDatabase(dir)
	if err == nil {
		err = e.start(ctx, cfg)
	}
	if err != nil {
		end()
		return nil, err
	}
	return e, nil
}

// prepareDir makes and checks the directory, and returns its absolute path.
func prepareDir(name string) (string, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("opening the store in %q: %w", name, err)
	}
	if n := len(filepath.Join(abs, socketName)); n > socketPathMax {
		return "", &files.DirError{
			Code: "socket_path", Path: abs,
			Detail: fmt.Sprintf("the path of %s has %d bytes, %d is most", socketName, n, socketPathMax),
			Hint:   "countersign up --dir /tmp/cs",
		}
	}
	root, err := files.PrivateDir(abs, 0o700)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if free, err := freeBytes(abs); err == nil && free < startNeeds {
		return "", &files.DirError{
			Code: "disk_full", Path: abs,
			Detail: fmt.Sprintf("no space left\n  free     %d MiB; needed %d MiB", free>>20, startNeeds>>20),
		}
	}
	return abs, nil
}

// config is the table of registry.md 4.1.
func config(dir, cluster string, f *fault, log *slog.Logger) (*embed.Config, error) {
	c := embed.NewConfig()
	c.Name = "countersign"
	c.Dir = dir

	// One member has no peers. etcd takes only the host of a peer URL: unix:///… there would
	// bind an abstract socket that every local user can open. The advertised one is a name only.
	c.ListenPeerUrls = nil
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	c.InitialCluster = c.Name + "=http://127.0.0.1:2380"
	c.InitialClusterToken = "countersign-" + cluster
	socket := []url.URL{{Scheme: "unix", Path: filepath.Join(dir, socketName)}}
	c.ListenClientUrls, c.AdvertiseClientUrls = socket, socket
	c.EnableGRPCGateway = false

	// A start waits for one election even alone: the election timeout is the start time.
	c.TickMs, c.ElectionMs = 20, 100
	c.PreVote, c.StrictReconfigCheck = true, true
	c.UnsafeNoFsync = false

	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "0" // ours: Upkeep
	c.QuotaBackendBytes = 8 << 30
	c.BootstrapDefragThresholdMegabytes = 32
	c.WatchProgressNotifyInterval = progressEvery
	gates, ok := c.ServerFeatureGate.(interface{ Set(string) error })
	if !ok {
		return nil, errors.New("opening the store: etcd's feature gates cannot be set")
	}
	if err := gates.Set("InitialCorruptCheck=true,CompactHashCheck=true"); err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}

	// Entries that wait in memory for followers: there are none.
	c.SnapshotCount, c.SnapshotCatchUpEntries = 2000, 64
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(log, f))
	return c, nil
}

// start runs etcd until it takes writes. etcd reports damaged files by panics and by fatal
// logs, which end the goroutine (see fault): so it starts in one of its own.
func (e *Etcd) start(ctx context.Context, cfg *embed.Config) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("member %q waited %v for its own election", cfg.Name, readyWithin))
	defer cancel()
	type started struct {
		etcd *embed.Etcd
		err  error
	}
	done := make(chan started, 1)
	go func() {
		s := started{err: errors.New("it ended while starting")}
		defer func() {
			if p := recover(); p != nil {
				e.fault.set(fmt.Sprint(p))
			}
			if text := e.fault.text(); text != "" {
				s = started{err: e.damaged(text)}
			}
			if ctx.Err() != nil && s.etcd != nil { // nobody waits any more
				s.etcd.Close()
			}
			done <- s
		}()
		debug.SetPanicOnFault(true) // a truncated file under mmap
		s.etcd, s.err = embed.StartEtcd(cfg)
	}()
	select {
	case s := <-done:
		if s.err != nil {
			return e.startError(s.err)
		}
		e.etcd = s.etcd
	case <-ctx.Done():
		return fmt.Errorf("opening the store: %w: %w", ErrUnavailable, context.Cause(ctx))
	}
	select {
	case <-e.etcd.Server.ReadyNotify():
	case <-e.life.Done():
		return e.damaged(e.fault.text())
	case <-ctx.Done():
		_ = e.within(closeWithin, e.etcd.Close)
		return fmt.Errorf("opening the store: %w: %w", ErrUnavailable, context.Cause(ctx))
	}
	if err := os.Chmod(filepath.Join(e.dir, socketName), 0o600); err != nil {
		_ = e.within(closeWithin, e.etcd.Close)
		return fmt.Errorf("opening the store: %w", err)
	}
	e.client = v3client.New(e.etcd.Server)
	e.fault.running.Store(true)
	releasePages(databasePath(e.dir))
	return nil
}

// startError tells what the files hold from what the system refused.
func (e *Etcd) startError(err error) error {
	if dir, ok := errors.AsType[*files.DirError](err); ok {
		return dir
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok && !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("opening the store: %w", err)
	}
	return e.damaged(err.Error())
}

func (e *Etcd) damaged(detail string) error {
	code := "data_damaged"
	if strings.Contains(detail, syscall.ENOSPC.Error()) {
		code = "disk_full"
	}
	return &files.DirError{Code: code, Path: e.dir, Detail: "member/: " + detail}
}

// Close ends every call, watch and lease and stops etcd cleanly. It waits at most 5 s: a failed
// etcd does not stop.
func (e *Etcd) Close() error {
	e.mu.Lock()
	again := e.closed
	e.closed = true
	e.mu.Unlock()
	if again {
		return nil
	}
	e.fault.running.Store(false)
	e.end()
	return e.within(closeWithin, func() {
		e.waiting.Wait()
		if err := e.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			e.log.Debug("closing the store's client", "error", err)
		}
		e.etcd.Close()
	})
}

// within runs stop, and leaves it behind when it takes longer than limit.
func (e *Etcd) within(limit time.Duration, stop func()) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	select {
	case <-stopped:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("closing the store: %w: it did not stop within %v", ErrUnavailable, limit)
	}
}

// enter counts a call, a watch or a lease, which leave; after Close nothing enters.
func (e *Etcd) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.life.Err() != nil {
		return false
	}
	e.waiting.Add(1)
	return true
}

func (e *Etcd) leave() { e.waiting.Done() }

// Failed closes when the engine can no longer serve: after a fault of etcd (a full disk, damage
// found) or Close. Fault then says which; after Close it is nil.
func (e *Etcd) Failed() <-chan struct{} { return e.life.Done() }

// Fault is what made the engine fail, or nil.
func (e *Etcd) Fault() error { return e.fault.err() }

// fault is the first fatal thing etcd logged. etcd would end the whole process then, and in
// `up` the data plane with it; instead the goroutine ends, and the engine is failed
// (registry.md 5).
type fault struct {
	happened func()
	running  atomic.Bool // between start and Close: what etcd warns of counts

	mu    sync.Mutex // guards first
	first string
}

func (f *fault) set(text string) {
	f.mu.Lock()
	if f.first == "" {
		f.first = text
	}
	f.mu.Unlock()
	f.happened()
}

func (f *fault) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.first
}

func (f *fault) err() error {
	if text := f.text(); text != "" {
		return fmt.Errorf("store failed: %s", text)
	}
	return nil
}

// stop ends the goroutine that met the fault.
func (f *fault) stop(text string) {
	f.set(text)
	runtime.Goexit()
}

// diskRoom asks the file system for its free space at most once a second.
type diskRoom struct {
	next atomic.Int64 // unix seconds
	full atomic.Bool
}

// check refuses a write that could meet a full disk.
func (d *diskRoom) check(dir string) error {
	now := time.Now().Unix()
	if next := d.next.Load(); now >= next && d.next.CompareAndSwap(next, now+1) {
		free, err := freeBytes(dir)
		d.full.Store(err == nil && free < writeNeeds)
	}
	if d.full.Load() {
		return fmt.Errorf("%w: less than %d MiB free in %s", ErrNoSpace, writeNeeds>>20, dir)
	}
	return nil
}

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}
