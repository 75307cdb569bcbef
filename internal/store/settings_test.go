package store

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/features"
	"go.etcd.io/etcd/server/v3/storage/wal"
)

func openHere(t *testing.T, log *slog.Logger) *Etcd {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "cs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e, err := Embedded(t.Context(), EmbeddedOptions{Dir: filepath.Join(dir, "store"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The table of registry.md 4.1, as etcd itself took it.
func TestSettings(t *testing.T) {
	e := openHere(t, nil)
	defer e.Close()
	c := e.etcd.Config()
	for what, ok := range map[string]bool{
		"no peer URL is listened on":      len(c.ListenPeerUrls) == 0 && len(e.etcd.Peers) == 0,
		"one client URL, a unix path":     len(c.ListenClientUrls) == 1 && c.ListenClientUrls[0].Scheme == "unix" && c.ListenClientUrls[0].Host == "",
		"no metrics or HTTP URL":          len(c.ListenMetricsUrls)+len(c.ListenClientHttpUrls) == 0,
		"no gateway":                      !c.EnableGRPCGateway,
		"tick 20, election 100":           c.TickMs == 20 && c.ElectionMs == 100,
		"segments of 8 MiB":               wal.SegmentSizeBytes == 8<<20,
		"no compaction but ours":          c.AutoCompactionRetention == "0",
		"quota 8 GiB":                     c.QuotaBackendBytes == 8<<30,
		"defragmentation at start":        c.BootstrapDefragThresholdMegabytes == 32,
		"128 operations, 1.5 MiB":         c.MaxTxnOps == 128 && c.MaxRequestBytes == 1536<<10,
		"pre-vote and strict members":     c.PreVote && c.StrictReconfigCheck,
		"every write is synced":           !c.UnsafeNoFsync,
		"corruption is looked for":        c.ServerFeatureGate.Enabled(features.InitialCorruptCheck) && c.ServerFeatureGate.Enabled(features.CompactHashCheck),
		"progress marks every 5 s":        c.WatchProgressNotifyInterval == 5*time.Second,
		"no tracing, no profiling":        !c.EnableDistributedTracing && !c.EnablePprof,
		"few entries wait for nobody":     c.SnapshotCount == 2000 && c.SnapshotCatchUpEntries == 64,
		"our limits are within etcd's":    MaxOps <= int(c.MaxTxnOps) && MaxCommit < int(c.MaxRequestBytes) && MaxValue < MaxCommit,
		"no data directory of its own":    c.WalDir == "",
		"the state of a member of itself": len(e.etcd.Server.Cluster().Members()) == 1,
	} {
		if !ok {
			t.Errorf("%s: not so", what)
		}
	}
}

// What etcd logs fatally ends the goroutine and fails the store, not the process.
func TestFatalLogFailsTheStoreAlone(t *testing.T) {
	var out bytes.Buffer
	e := openHere(t, slog.New(slog.NewTextHandler(&out, nil)))
	batches, err := e.Watch(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.etcd.GetLogger().Named("wal").Fatal("no space left on device")
		t.Error("the goroutine went on")
	}()
	<-ended
	<-e.Failed()
	if err := e.Fault(); err == nil || !strings.Contains(err.Error(), "store failed: no space left on device") {
		t.Errorf("fault is %v", err)
	}
	_, err = e.Commit(t.Context(), Txn{Then: []Op{Put("a", nil)}})
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("commit: %v, want ErrUnavailable and the reason", err)
	}
	if b := <-batches; !errors.Is(b.Err, ErrUnavailable) {
		t.Errorf("the watch ended with %+v", b)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "level=ERROR") || !strings.Contains(out.String(), "no space left on device") {
		t.Errorf("log %q lacks the fault", out.String())
	}
}

// A start and a stop without fault say nothing above debug.
func TestQuiet(t *testing.T) {
	var out bytes.Buffer
	e := openHere(t, slog.New(slog.NewTextHandler(&out, nil)))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 0 {
		t.Errorf("logged:\n%s", out.String())
	}
}

func TestStartIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir, err := os.MkdirTemp("/tmp", "cs")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if _, err := Embedded(ctx, EmbeddedOptions{Dir: dir}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
}

func TestDiskRoom(t *testing.T) {
	var d diskRoom
	if err := d.check(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	d.full.Store(true)
	if err := d.check("/data"); !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "/data") {
		t.Errorf("%v, want ErrNoSpace", err)
	}
}
