package telemetry

import (
	"container/list"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"countersign.dev/internal/gate"
	"countersign.dev/internal/h1"
)

// maxPages is how many connections read pages at a time: one more closes the oldest, so that
// no local user takes the process's descriptors (sec-limits-no-lockout).
const maxPages = 64

// How long a head may take, and a request with its answer.
const (
	pageHead = 5 * time.Second
	pageTime = 30 * time.Second
)

// Serve answers h, the pages of this process, on ln until ctx ends.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	var readers crowd
	srv := &http.Server{
		Handler: gate.Strict(h), ConnContext: gate.With, DisableGeneralOptionsHandler: true,
		ConnState: func(c net.Conn, s http.ConnState) {
			gate.ConnState(c, s)
			readers.state(c, s)
		},
		ReadHeaderTimeout: pageHead, ReadTimeout: pageTime, WriteTimeout: pageTime, IdleTimeout: pageTime, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(gate.Listen(ln, gate.Options{HeadTimeout: pageHead, Profile: h1.Edge})); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving health and metrics: %w", err)
	}
	return nil
}

// crowd closes the oldest of too many connections.
type crowd struct {
	mu  sync.Mutex // guards the rest; held for a look-up
	all list.List  // of net.Conn, oldest first
	at  map[net.Conn]*list.Element
}

func (c *crowd) state(conn net.Conn, s http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s {
	case http.StateNew:
		if c.at == nil {
			c.at = map[net.Conn]*list.Element{}
		}
		c.at[conn] = c.all.PushBack(conn)
		if c.all.Len() > maxPages {
			oldest := c.all.Front().Value.(net.Conn)
			c.all.Remove(c.all.Front())
			delete(c.at, oldest)
			oldest.Close()
		}
	case http.StateClosed, http.StateHijacked:
		if e := c.at[conn]; e != nil {
			c.all.Remove(e)
			delete(c.at, conn)
		}
	}
}
