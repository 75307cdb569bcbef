package workloadapi

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"countersign.dev/internal/attest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	maxText      = 1 << 10 // bytes of a status text
	maxSelectors = 600     // bytes of it for selectors
)

// refusalStatus is what the caller is told: only its own facts (identity.md 13).
func refusalStatus(f attest.Facts, r Refusal) error {
	code := codes.PermissionDenied
	switch r.Reason {
	case "not_synced", "unissuable", "expired_outage":
		code = codes.Unavailable
	}
	return status.Error(code, refusalText(f, r))
}

func refusalText(f attest.Facts, r Refusal) string {
	found := selectorsOf(f, r)
	first := tellingFirst(found)
	shown, n := "", 0
	for _, s := range first {
		if len(shown)+1+len(s) > maxSelectors {
			break
		}
		shown += s + " "
		n++
	}
	shown = strings.TrimSuffix(shown, " ")
	if n < len(found) {
		shown = strings.TrimSpace(fmt.Sprintf("%s … %d selectors", shown, len(found)))
	}
	text := "no identity issued: " + r.Text
	if len(text)+len(shown)+3 > maxText {
		text = strings.ToValidUTF8(text[:maxText-len(shown)-len(" ()")-len("…")], "") + "…"
	}
	if shown == "" {
		return text
	}
	return text + " (" + shown + ")"
}

func selectorsOf(f attest.Facts, r Refusal) []string {
	if r.Selectors != nil {
		return r.Selectors
	}
	return f.Selectors
}

// tellingFirst orders selectors by how well a person knows a program by them.
func tellingFirst(found []string) []string {
	rank := func(s string) int {
		return slices.IndexFunc([]string{"unix:uid:", "unix:user:", "unix:path:", "run:", "systemd:id:", ""},
			func(prefix string) bool { return strings.HasPrefix(s, prefix) })
	}
	first := slices.Clone(found)
	slices.SortStableFunc(first, func(a, b string) int { return rank(a) - rank(b) })
	return first
}

// process names one process in the log's memory.
type process struct {
	pid   int
	start uint64
}

// mark is the snapshot, known by the channel that its end will close, and what was said in it.
type mark struct {
	snapshot <-chan struct{}
	text     string
}

const maxSaid = 4096

// said remembers what the log was told, so that a client that asks every second is logged once
// per process and snapshot.
type said struct {
	mu sync.Mutex // guards at; held for a look-up
	at map[process]mark
}

// first reports whether this was not said yet, and remembers it.
func (s *said) first(p process, m mark) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at[p] == m {
		return false
	}
	if len(s.at) >= maxSaid {
		clear(s.at) // a line is said twice then, nothing worse
	}
	s.at[p] = m
	return true
}

// logRefusal tells the operator everything (identity.md 13).
func (s *Server) logRefusal(f attest.Facts, r Refusal, snapshot <-chan struct{}) {
	if !s.said.first(process{f.PID, f.StartTime}, mark{snapshot, r.Reason}) {
		return
	}
	attrs := []any{"reason", r.Reason, "text", r.Text, "pid", f.PID, "exe", f.Exe, "uid", f.UID, "selectors", selectorsOf(f, r)}
	if len(f.Missing) > 0 {
		attrs = append(attrs, "missing", f.Missing)
	}
	if len(r.Detail) > 0 {
		attrs = append(attrs, "detail", r.Detail)
	}
	s.log.Warn("no identity", attrs...)
}

// logNotAttested says which process was not believed and why, once per process and reason.
func (s *Server) logNotAttested(c *caller, err error) {
	key := process{}
	if c.process != nil {
		key = process{c.process.PID(), c.process.Facts().StartTime}
	}
	if s.said.first(key, mark{nil, err.Error()}) {
		s.log.Warn("caller could not be attested", "reason", "attestation_failed", "pid", key.pid, "err", err)
	}
}
