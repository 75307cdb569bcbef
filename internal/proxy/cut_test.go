package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"countersign.dev/internal/audit"
	"countersign.dev/internal/identity/identitytest"
	"countersign.dev/internal/policy"
)

func nobody() []policy.Rule {
	return []policy.Rule{{From: []policy.Source{{Principals: []string{"cluster.local/ns/default/sa/nobody"}}}}}
}

// A connection kept alive is judged by the policy in force at each request.
func TestPolicyChangeNextRequest(t *testing.T) {
	m := newMesh(t, setup{})
	c, r := m.raw("GET http://api/a HTTP/1.1\nHost: api\n\n")
	if status, _, _ := answerOf(t, r); status != 200 {
		t.Fatalf("got %d", status)
	}
	m.policies("", nobody())
	_, _ = io.WriteString(c, "GET http://api/a HTTP/1.1\r\nHost: api\r\n\r\n")
	if status, body, _ := answerOf(t, r); status != 403 || body != "RBAC: access denied" {
		t.Fatalf("got %d %q", status, body)
	}
	m.policies("", allowAll())
	_, _ = io.WriteString(c, "GET http://api/a HTTP/1.1\r\nHost: api\r\n\r\n")
	if status, _, _ := answerOf(t, r); status != 200 {
		t.Fatalf("got %d", status)
	}
}

// A stream that the new policy denies ends within 100 ms, one that it allows goes on.
func TestPolicyChangeCutsStream(t *testing.T) {
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := 0; r.Context().Err() == nil; i++ {
			fmt.Fprintf(w, "tick %d\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	})})
	resp, err := m.client().Get("http://api/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	m.policies("", allowAll())
	for range 5 {
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatalf("an allowed stream broke: %v", err)
		}
	}
	start := time.Now()
	m.denied()
	_, err = io.Copy(io.Discard, lines)
	if took := time.Since(start); err == nil || took > time.Second {
		t.Errorf("the stream ended with %v after %v", err, took)
	}
	m.cutRecord()
	m.noClientRecord()
}

// denied puts a DENY for everything in force.
func (m *mesh) denied() {
	m.t.Helper()
	compiled, faults := policy.Compile(policy.Set{
		TrustDomain: domain, RootNamespace: "istio-system",
		Policies: []policy.Policy{
			{Namespace: "default", Name: "web-api", Action: policy.Allow, Rules: allowAll()},
			{Namespace: "default", Name: "stop", Action: policy.Deny, Rules: []policy.Rule{
				{To: []policy.Operation{{Paths: []string{"/nowhere"}}}}, {},
			}},
		},
	})
	if len(faults) > 0 {
		m.t.Fatal(faults)
	}
	m.change(func(s *State) { s.Compiled, s.PolicyRevision = compiled, [32]byte{7} })
}

// cutRecord is the callee's record of what denied cut.
func (m *mesh) cutRecord() {
	m.t.Helper()
	rec := m.b.reason("policy_changed")
	if rec.CloseReason != "policy_changed" || rec.Decision != audit.Deny || rec.Layer != audit.LayerAuthz ||
		rec.Policy != "default/stop" || rec.Rule != 2 || rec.Rev != [32]byte{7} {
		m.t.Errorf("record %+v", rec)
	}
}

// noClientRecord: what the callee's node answered, its record tells alone (audit.md 2). A call
// that goes nowhere stands behind everything the caller's node had to write.
func (m *mesh) noClientRecord() {
	m.t.Helper()
	eventually(m.t, "every exchange ended", func() bool { return m.a.runs["web1"].live.count() == 0 })
	_, _, h := m.get("http://nowhere/")
	m.a.record(func(r *audit.Record) bool { return r.ID == h.Get("X-Decision-Id") })
	m.a.mu.Lock()
	defer m.a.mu.Unlock()
	for _, rec := range m.a.records {
		if rec.Kind == audit.KindRequest && rec.Host != "nowhere" && rec.Method != "CONNECT" {
			m.t.Errorf("the caller's side recorded too: %+v", rec)
		}
	}
}

// A call that policy cuts before its answer is refused by the new decision, in one record.
func TestPolicyChangeRefuses(t *testing.T) {
	began := make(chan struct{}, 1)
	m := newMesh(t, setup{handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-r.Context().Done()
	})})
	_, r := m.raw("GET http://api/slow HTTP/1.1\nHost: api\n\n")
	<-began
	m.denied()
	status, _, h := answerOf(t, r)
	if status != 403 {
		t.Fatalf("got %d", status)
	}
	rec := m.b.record(func(r *audit.Record) bool { return r.ID == h.Get("X-Decision-Id") })
	if rec.Reason != "policy_changed" || rec.Policy != "default/stop" || rec.Rule != 2 || rec.Rev != [32]byte{7} {
		t.Errorf("record %+v", rec)
	}
	m.noClientRecord()
}

// An authority that nobody trusts any more ends what it had vouched for.
func TestTrustChangeCutsStream(t *testing.T) {
	m := newMesh(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})})
	resp, err := m.client().Get("http://api/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	other := identitytest.New(t, domain, time.Now())
	m.change(func(s *State) { s.Trust = other.Trust() })
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the stream outlived the trust")
	}
	rec := m.b.reason("revoked")
	if rec.Layer != audit.LayerTLS || rec.CloseReason != "revoked" || rec.Decision != audit.Deny || rec.Policy != "" {
		t.Errorf("record %+v", rec)
	}
}
