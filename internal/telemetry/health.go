package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// checkTime bounds one check of /readyz.
const checkTime = 2 * time.Second

// Flag is what a check returns when the role is ready and something is worth a look, such as a
// snapshot that is not fresh.
type Flag string

func (f Flag) Error() string { return string(f) }

// Health answers /livez and /readyz. The zero Health has no checks, and is ready.
type Health struct {
	mu     sync.Mutex // guards checks; held for one append or copy
	checks []check
}

type check struct {
	name string
	run  func(context.Context) error
}

// Add adds a check: nil or a Flag is ready. It is called at once from several requests, and has
// two seconds.
func (h *Health) Add(name string, run func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, check{name, run})
}

// Ready runs the checks in their order and gives a line for each.
func (h *Health) Ready(ctx context.Context) (lines []string, ready bool) {
	h.mu.Lock()
	checks := h.checks
	h.mu.Unlock()
	ready = true
	for _, c := range checks {
		ctx, cancel := context.WithTimeout(ctx, checkTime)
		err := c.run(ctx)
		cancel()
		flag, flagged := errors.AsType[Flag](err)
		switch {
		case err == nil:
			lines = append(lines, "ok "+c.name)
		case flagged:
			lines = append(lines, fmt.Sprintf("ok %s: %s", c.name, clean(string(flag))))
		default:
			ready = false
			lines = append(lines, fmt.Sprintf("not ready %s: %s", c.name, clean(err.Error())))
		}
	}
	return lines, ready
}

// Pages is what a role serves on loopback: /livez, /readyz, /metrics (cli.md 4.5).
func Pages(m *Metrics, h *Health) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		text(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		lines, ready := h.Ready(r.Context())
		if len(lines) == 0 {
			lines = []string{"ok"}
		}
		status := http.StatusOK
		if !ready {
			status = http.StatusServiceUnavailable
		}
		text(w, status, strings.Join(lines, "\n"))
	})
	mux.Handle("GET /metrics", m.Handler())
	return LoopbackOnly(mux)
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintln(w, body)
}

// LoopbackOnly answers 421 unless Host names this host: else a web page whose name was made to
// point to 127.0.0.1 could read what only local users may (security.md S21).
func LoopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopback(r.Host) {
			text(w, http.StatusMisdirectedRequest, "ask for localhost or a loopback address")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// loopback says whether a Host is localhost or a loopback address, with any port or none.
func loopback(host string) bool {
	if name, port, err := net.SplitHostPort(host); err == nil {
		if strings.Trim(port, "0123456789") != "" {
			return false
		}
		host = name
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Zone() == "" && ip.Unmap().IsLoopback()
}
