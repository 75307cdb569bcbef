package control

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/revocation"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// heardLog is a node's copy of the log, and how it came.
type heardLog struct {
	mu     sync.Mutex // guards the rest
	vals   []string
	alls   int
	beats  int
	refuse error
	moved  chan struct{}
}

func (h *heardLog) take(all bool, entries []revocation.Entry, at time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if off := time.Since(at); off < 0 || off > 10*time.Second {
		return fmt.Errorf("the server's clock is off by %s", off)
	}
	if h.refuse != nil {
		return h.refuse
	}
	if all {
		h.vals = nil
		h.alls++
	} else if len(entries) == 0 {
		h.beats++
	}
	for _, e := range entries {
		h.vals = append(h.vals, e.Kind+" "+e.Val)
	}
	select {
	case h.moved <- struct{}{}:
	default:
	}
	return nil
}

func (h *heardLog) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		h.mu.Lock()
		good := ok()
		h.mu.Unlock()
		if good {
			return
		}
		select {
		case <-h.moved:
		case <-timeout:
			t.Fatalf("waiting for %s: %d lists, %d beats, %d entries", what, h.alls, h.beats, len(h.vals))
		}
	}
}

func entries(n int) []revocation.Entry {
	var out []revocation.Entry
	for i := range n {
		out = append(out, revocation.Entry{Seq: int64(i + 1), Kind: revocation.ByJTI, Val: fmt.Sprint(i), At: 1, Until: 2})
	}
	return out
}

func (m *mesh) setLog(r *Revoked) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = r
}

// The whole log comes first, in as many frames as it takes, and is in force at once; then what
// is added, in order, and beats. The server hears what is enforced.
func TestRevocations(t *testing.T) {
	m := newMesh(t, nil)
	more := make(chan []revocation.Entry, 4)
	all := entries(2*maxEntries + 1)
	m.setLog(&Revoked{All: all, Epoch: int64(len(all)), More: more})
	h := &heardLog{moved: make(chan struct{}, 1)}
	m.attach(m.ca.Leaf(t, nodeID), func(o *ClientOptions) { o.Revoked = h.take })

	h.until(t, "the whole log", func() bool { return h.alls == 1 && len(h.vals) == len(all) })
	more <- []revocation.Entry{{Seq: 90_001, Kind: revocation.BySub, Val: "corp:a", Before: 7}, {Seq: 90_001, Kind: revocation.ByKID, Val: "k"}}
	h.until(t, "what was added", func() bool { return len(h.vals) == len(all)+2 })
	if got := h.vals[len(all):]; !slices.Equal(got, []string{"sub corp:a", "kid k"}) {
		t.Errorf("added: %q", got)
	}
	h.until(t, "a beat", func() bool { return h.beats > 0 })
	timeout := time.After(10 * time.Second)
	for {
		m.mu.Lock()
		heard := slices.Clone(m.heard)
		m.mu.Unlock()
		if slices.Contains(heard, 90_001) {
			if !slices.IsSorted(heard) || heard[0] != int64(len(all)) {
				t.Errorf("heard epochs %v", heard)
			}
			return
		}
		select {
		case <-timeout:
			t.Fatalf("the server heard %v", heard)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Who fell behind, or could not take a part, begins anew with the whole log.
func TestRevocationsBeginAnew(t *testing.T) {
	m := newMesh(t, nil)
	cut := make(chan []revocation.Entry)
	close(cut)
	m.setLog(&Revoked{All: entries(1), Epoch: 1, More: cut})
	h := &heardLog{moved: make(chan struct{}, 1)}
	m.attach(m.ca.Leaf(t, nodeID), func(o *ClientOptions) { o.Revoked = h.take })
	h.until(t, "a second list", func() bool { return h.alls >= 2 })

	h.mu.Lock()
	h.refuse, h.alls = errors.New("not readable"), 0
	h.mu.Unlock()
	m.setLog(&Revoked{All: entries(3), Epoch: 3, More: make(chan []revocation.Entry)})
	h.mu.Lock()
	h.refuse = nil
	h.mu.Unlock()
	h.until(t, "the list that could be taken", func() bool { return h.alls >= 1 && len(h.vals) == 3 })
}

// The log says whose tokens ended: nobody but a node of this trust domain hears it.
func TestSecRevocationsNodesOnly(t *testing.T) {
	m := newMesh(t, nil)
	m.setLog(&Revoked{All: entries(1), Epoch: 1, More: make(chan []revocation.Entry)})
	for name, cert := range map[string]string{
		"a workload":        "spiffe://cluster.local/ns/default/sa/web",
		"a server":          serverID,
		"no node's account": "spiffe://cluster.local/ns/default/sa/node-a",
	} {
		a := m.attach(m.ca.Leaf(t, cert))
		stream, err := a.rpc.Revocations(t.Context())
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: got %v, want unauthenticated", name, err)
		}
	}
	stranger := m.attach(m.others.Leaf(t, "spiffe://other.example/ns/countersign/sa/node-a"))
	stream, err := stranger.rpc.Revocations(t.Context())
	if err == nil {
		_, err = stream.Recv()
	}
	if err == nil {
		t.Error("a node of a federated domain heard the log")
	}
}

// A server that has not read the log tells nobody that it is empty.
func TestRevocationsNotWhole(t *testing.T) {
	m := newMesh(t, nil)
	a := m.attach(m.ca.Leaf(t, nodeID))
	stream, err := a.rpc.Revocations(t.Context())
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want unavailable", err)
	}
}
