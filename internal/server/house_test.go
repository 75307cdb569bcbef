package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"countersign.dev/internal/admin"
	"countersign.dev/internal/control"
	"countersign.dev/internal/memnet"
	"countersign.dev/internal/store"
	"countersign.dev/internal/telemetry"
)

// place is what outlives a server: its store and its directory.
type place struct {
	t   *testing.T
	st  *store.Mem
	dir string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	dir, err := os.MkdirTemp("", "cs") // short, for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &place{t: t, dir: dir, st: store.Memory(store.MemoryOptions{})}
	t.Cleanup(func() { p.st.Close() })
	return p
}

func (p *place) open(edits ...func(*Options)) (*Server, error) {
	p.t.Helper()
	if err := os.MkdirAll(filepath.Join(p.dir, "server"), 0o700); err != nil {
		p.t.Fatal(err)
	}
	dir, err := os.OpenRoot(filepath.Join(p.dir, "server"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { dir.Close() })
	sealer, err := store.NewSealer(context.Background(), p.st, "default", bytes.Repeat([]byte{7}, 32))
	if err != nil {
		p.t.Fatal(err)
	}
	o := Options{
		Dir: dir, Store: p.st, Sealer: sealer, Cluster: "default", Name: "s", Version: "test", SVIDTTL: time.Hour,
		Metrics: telemetry.NewMetrics("test"), Log: slog.New(slog.DiscardHandler),
	}
	for _, edit := range edits {
		edit(&o)
	}
	return Open(context.Background(), o)
}

// running is a server that serves.
type running struct {
	*Server
	t     *testing.T
	nodes *memnet.Listener
	admin *admin.Client
	ports [2]net.Listener // of tokens: public, mTLS
	stop  func() error
}

func (p *place) run(edits ...func(*Options)) *running {
	p.t.Helper()
	s, err := p.open(edits...)
	if err != nil {
		p.t.Fatal(err)
	}
	r, err := p.serve(s)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

func (p *place) serve(s *Server) (*running, error) {
	p.t.Helper()
	path := filepath.Join(p.dir, "admin.sock")
	ln, err := admin.Listen(path, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	r := &running{Server: s, t: p.t, nodes: memnet.Listen("server"), admin: admin.NewClient(path, func(uint32) error { return nil })}
	for i := range r.ports {
		if r.ports[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			p.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.Run(ctx, Listeners{Nodes: r.nodes, Admin: ln, Tokens: r.ports[0], TokensMTLS: r.ports[1]}, func() { close(ready) })
	}()
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		err := <-done
		ln.Close()
		r.nodes.Close()
		return err
	}
	select {
	case <-ready:
		p.t.Cleanup(func() {
			if err := r.stop(); err != nil {
				p.t.Error(err)
			}
		})
		return r, nil
	case err := <-done:
		cancel()
		ln.Close()
		r.nodes.Close()
		return nil, err
	case <-time.After(20 * time.Second):
		p.t.Fatal("the server neither served nor ended")
		return nil, nil
	}
}

func policyDoc(name, ns, spec string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: " + name + ", namespace: " + ns + "}\nspec: " + spec + "\n---\n"
}

func workloadDoc(name, ns, spec string) string {
	return "apiVersion: countersign.dev/v1\nkind: Workload\nmetadata: {name: " + name + ", namespace: " + ns + "}\nspec: " + spec + "\n---\n"
}

func peerAuthDoc(name, ns, spec string) string {
	return "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: " + name + ", namespace: " + ns + "}\nspec: " + spec + "\n---\n"
}

// applied applies documents, confirmed, and fails the test if they are not taken.
func (r *running) applied(docs ...string) admin.ApplyReply {
	r.t.Helper()
	reply, err := r.apply(r.t.Context(), applyOf(true, docs...))
	if err != nil {
		r.t.Fatal(err)
	}
	return reply
}

func applyOf(confirmed bool, docs ...string) admin.ApplyRequest {
	q := admin.ApplyRequest{Confirmed: confirmed}
	for i, d := range docs {
		q.Files = append(q.Files, admin.File{Name: string(rune('a'+i)) + ".yaml", Data: d})
	}
	return q
}

func code(err error) string {
	var p *admin.Problem
	var r *control.Refused
	switch {
	case err == nil:
		return ""
	case errors.As(err, &p):
		return p.Code
	case errors.As(err, &r):
		return r.Code
	}
	return "error: " + err.Error()
}

func (r *running) revision() int64 {
	r.t.Helper()
	_, rev, err := r.catalog.All(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return rev
}
