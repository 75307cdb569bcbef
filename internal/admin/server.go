// Package admin is the HTTP API under the command line, both halves of it: JSON over the two
// unix sockets that only root and the owner may use.
//
// Its words: admin.sock belongs to the server, node.sock to the node; a Guard says who may
// ask; a Problem is an answer of no, the same in the log, on the wire and on a terminal.
//
// Its promise: the kernel says who asks, at accept and again before each request, and a
// process of a run is answered by neither socket (security.md S2).
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"countersign.dev/internal/attest"
)

const maxBody = 64 << 20 // an apply of many files; each document has its own limit of 1 MiB

// Guard says who may ask on a socket.
type Guard struct {
	Socket string // its path, for the words of a refusal
	Owner  uint32 // uid of the role; root may always ask
	// InRun reports whether a process belongs to a run. Nil: rule 1 of identity.md 11.5 alone.
	InRun func(*attest.Process) (bool, error)
	// Node is set on node.sock: the role's own process may ask, and a caller whose namespaces
	// cannot be read is judged by its parents alone (identity.md 11.5).
	Node bool
	Log  *slog.Logger
}

type processKey struct{}

// ProcessOf is the proven process behind a request.
func ProcessOf(ctx context.Context) *attest.Process {
	p, _ := ctx.Value(processKey{}).(*attest.Process)
	return p
}

// Listen opens a socket of ours with the mode given. A socket that nothing answers on is
// taken over; one that answers is somebody's.
func Listen(path string, mode os.FileMode) (*net.UnixListener, error) {
	if len(path) > 107 {
		return nil, &Problem{
			Code: "socket_path", Message: fmt.Sprintf("listening on %s: the path has %d bytes, 107 is most", path, len(path)),
			Hints: []string{"countersign up --dir /tmp/cs"},
		}
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("listening on %s: somebody answers there", path)
	}
	switch at, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	case at.Mode().Type() != os.ModeSocket:
		return nil, fmt.Errorf("listening on %s: something that is no socket is there", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listening on %s: %w", path, err)
		}
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if err := os.Chmod(path, mode); err != nil {
		ln.Close()
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return ln, nil
}

// Serve answers on ln until ctx ends. It waits for the handlers but for hijacked ones.
func Serve(ctx context.Context, ln *net.UnixListener, h http.Handler, g Guard) error {
	var procs sync.Map // net.Conn → *attest.Process
	srv := &http.Server{
		Handler:           g.check(h),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(g.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			p, err := attest.FromConn(c.(*net.UnixConn))
			if err != nil {
				g.Log.Warn("a caller could not be attested", "socket", g.Socket, "error", err)
				return ctx
			}
			procs.Store(c, p)
			return context.WithValue(ctx, processKey{}, p)
		},
		ConnState: func(c net.Conn, s http.ConnState) {
			if s != http.StateClosed && s != http.StateHijacked {
				return
			}
			if p, ok := procs.LoadAndDelete(c); ok && s == http.StateClosed {
				p.(*attest.Process).Close()
			}
		},
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	select {
	case err := <-done:
		srv.Close()
		return fmt.Errorf("serving %s: %w", g.Socket, err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if srv.Shutdown(stop) != nil {
		srv.Close()
	}
	<-done
	return nil
}

// check admits root and the owner, judged anew before each request.
func (g Guard) check(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := g.refuse(ProcessOf(r.Context())); p != nil {
			p.Status = http.StatusForbidden
			g.Log.Warn("refused a caller", "socket", g.Socket, "code", p.Code)
			writeProblem(w, p)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

func (g Guard) refuse(p *attest.Process) *Problem {
	notYours := &Problem{Code: "not_yours", Message: fmt.Sprintf("asking %s: only its owner and root may", g.Socket)}
	if p == nil {
		return notYours
	}
	if err := p.Recheck(); err != nil {
		return notYours
	}
	if p.UID() != 0 && p.UID() != g.Owner {
		return notYours
	}
	if p.PID() == os.Getpid() && !g.Node {
		return notYours
	}
	inRun, err := g.inRun(p)
	if err != nil {
		return notYours
	}
	if inRun {
		return &Problem{
			Code: "in_run", Message: fmt.Sprintf("asking %s: this shell runs inside a workload", g.Socket),
			Hints: []string{"type it in a terminal outside countersign run"},
		}
	}
	return nil
}

// inRun asks the rules of identity.md 11.5. What the kernel does not tell refuses, with its
// exceptions: root needs no socket of ours, node.sock goes by the parents, and where no process
// is told from another (no pidfd) the uid is all there is.
func (g Guard) inRun(p *attest.Process) (bool, error) {
	ask := g.InRun
	if ask == nil {
		ask = func(p *attest.Process) (bool, error) { return attest.InRun(p, nil) }
	}
	inRun, err := ask(p)
	switch {
	case errors.Is(err, attest.ErrUnsupported), errors.Is(err, attest.ErrNamespaces) && (g.Node || p.UID() == 0):
		return inRun, nil
	}
	return inRun, err
}

// Handle answers pattern with fn: its request is the JSON body, its reply JSON, its error a
// Problem or "internal error".
func Handle[Req, Reply any](mux *http.ServeMux, log *slog.Logger, pattern string, fn func(context.Context, Req) (Reply, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		var req Req
		dec := json.NewDecoder(r.Body)
		dec.DisallowUnknownFields()
		if err := dec.Decode(&req); err != nil && !errors.Is(err, io.EOF) {
			writeProblem(w, &Problem{Code: "bad_request", Message: "reading the request: " + err.Error(), Status: http.StatusBadRequest})
			return
		}
		reply, err := fn(r.Context(), req)
		if err != nil {
			WriteError(w, log, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(reply)
	})
}

// WriteError answers with err: a Problem with its words, anything else as "internal error",
// with the whole chain in the log.
func WriteError(w http.ResponseWriter, log *slog.Logger, err error) {
	var p *Problem
	if !errors.As(err, &p) {
		log.Error("answering an administrative call", "error", err)
		p = &Problem{Code: "internal", Message: "internal error; the log has the details", Status: http.StatusInternalServerError}
	}
	writeProblem(w, p)
}

func writeProblem(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.status())
	json.NewEncoder(w).Encode(p)
}
