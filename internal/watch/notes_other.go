//go:build !linux

package watch

import (
	"context"
	"io/fs"
	"log/slog"
	"time"
)

// notes tell nothing here: the directory is polled.
type notes struct{ wake chan struct{} }

func newNotes(*slog.Logger) *notes { return &notes{} }

func (*notes) close()        {}
func (*notes) follow(string) {}

func (*notes) rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(quiet):
	}
}

// changed tells nothing more here than the time of the last writing.
func changed(st fs.FileInfo) int64 { return 0 }
