package node

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"countersign.dev/internal/proxy"
	"countersign.dev/internal/revocation"
)

// alice is what a caller of a Gateway showed, towards api.
func alice(edit ...func(*proxy.EdgeCall)) proxy.EdgeCall {
	c := proxy.EdgeCall{Credential: proxy.Credential{Kind: proxy.ForeignToken, Text: "eyJ.alice.sig"}, Audience: toAPI.Audience, Policy: [32]byte{1}}
	for _, e := range edit {
		e(&c)
	}
	return c
}

// edge gets an edge token and compares it.
func (c *caller) edge(call proxy.EdgeCall, text string) {
	c.t.Helper()
	if got, err := c.n.edge.get(c.t.Context(), c.run, call); err != nil || got != text {
		c.t.Fatalf("got %q, %v; want %q", got, err, text)
	}
}

// noEdge gets none; refused says whether the token service had looked at the credential.
func (c *caller) noEdge(call proxy.EdgeCall, detail string, refused bool) {
	c.t.Helper()
	got, err := c.n.edge.get(c.t.Context(), c.run, call)
	why, ok := errors.AsType[*proxy.NoToken](err)
	if !ok || got != "" || why.Detail != detail || why.Refused != refused {
		c.t.Fatalf("got %q, %#v; want %q, refused %t", got, err, detail, refused)
	}
}

// pass lets time go by. A connection that waits for the next exchange would hold it.
func (c *caller) pass(d time.Duration) {
	c.n.edge.working.Wait()
	c.n.edge.hangUp()
	time.Sleep(d)
}

// Each credential is exchanged once for each service and policy, however many requests show it at the same time.
func TestEdgeTokenOnce(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if got, err := c.n.edge.get(t.Context(), c.run, alice()); err != nil || got != "token-1" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		all.Wait()
		if want := shopWeb + " as " + shopWeb + " for " + toAPI.Audience + " [] of urn:ietf:params:oauth:token-type:jwt eyJ.alice.sig"; s.count() != 1 || s.asked[0] != want {
			t.Errorf("asked %q, want once %q", s.asked, want)
		}
		key := func(id, text string, scopes ...string) func(*proxy.EdgeCall) {
			return func(e *proxy.EdgeCall) {
				e.Credential = proxy.Credential{Kind: proxy.APIKey, Text: text, KeyID: id, Scopes: scopes}
			}
		}
		for i, edit := range []func(*proxy.EdgeCall){
			func(e *proxy.EdgeCall) { e.Text = "eyJ.alice.sih" },
			func(e *proxy.EdgeCall) { e.Kind = proxy.OwnToken },
			func(e *proxy.EdgeCall) { e.Audience += "2" },
			func(e *proxy.EdgeCall) { e.Policy = [32]byte{2} },
			key("id1", "csk_1", "a"), key("id2", "csk_2", "a"), key("id1", "csk_1", "a", "b"),
		} {
			want := fmt.Sprintf("token-%d", i+2)
			c.edge(alice(edit), want)
			c.edge(alice(edit), want)
		}
		c.edge(alice(), "token-1")
		if n := s.count(); n != 8 {
			t.Errorf("asked %d times, want 8", n)
		}
	})
}

// From 30 s on one request renews it behind the back of all; from 45 s on requests wait for a newer one.
func TestEdgeTokenAges(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		c.edge(alice(), "token-1")
		c.pass(30*time.Second - time.Nanosecond)
		c.edge(alice(), "token-1")
		if n := s.count(); n != 1 {
			t.Fatalf("asked %d times in 30 s", n)
		}
		c.pass(time.Nanosecond)
		c.edge(alice(), "token-1")
		c.n.edge.working.Wait()
		c.edge(alice(), "token-2")
		c.pass(45 * time.Second)
		c.edge(alice(), "token-3")
		if n := s.count(); n != 3 {
			t.Errorf("asked %d times", n)
		}
	})
}

// A token service out of reach: what is kept serves to its end, 5 s before it stops to count; nothing is opened then (G5).
func TestSecEdgeTokenServiceAway(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		c.edge(alice(), "token-1")
		s.set(503, `{"error":"temporarily_unavailable"}`)
		for _, wait := range []time.Duration{30 * time.Second, 15 * time.Second, 10*time.Second - time.Nanosecond} {
			c.pass(wait)
			c.edge(alice(), "token-1")
		}
		c.pass(time.Nanosecond)
		c.noEdge(alice(), "the token service answered 503: temporarily_unavailable", false)
		c.noEdge(alice(func(e *proxy.EdgeCall) { e.Text = "eyJ.bob.sig" }), "the token service answered 503: temporarily_unavailable", false)
		s.set(0, "")
		c.pass(failedRest)
		n := s.count()
		c.edge(alice(), fmt.Sprintf("token-%d", n+1))
	})
}

// What the token service refuses is dropped at once, kept or not, and not asked for again for a second; nothing else that it
// says is a refusal of the credential.
func TestSecEdgeTokenRefused(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		c.edge(alice(), "token-1")
		s.set(400, `{"error":"invalid_request","error_description":"subject_token is not valid"}`)
		c.pass(30 * time.Second)
		c.edge(alice(), "token-1") // at hand; it is asked for behind its back
		c.n.edge.working.Wait()
		const detail = "the token service answered 400: invalid_request: subject_token is not valid"
		for range 20 {
			c.noEdge(alice(), detail, true)
		}
		if n := s.count(); n != 2 {
			t.Errorf("asked %d times", n)
		}
		for _, status := range []int{401, 403, 429, 500} {
			s.set(status, `{"error":"x"}`)
			c.pass(failedRest)
			c.noEdge(alice(), fmt.Sprintf("the token service answered %d: x", status), false)
		}
	})
}

// What is kept goes when the log of revoked tokens grows.
func TestSecEdgeTokenForgotten(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		now := time.Now()
		if err := c.n.revokedTokens(true, nil, now); err != nil {
			t.Fatal(err)
		}
		c.edge(alice(), "token-1")
		if err := c.n.revokedTokens(false, nil, now); err != nil {
			t.Fatal(err)
		}
		c.edge(alice(), "token-1")
		e := revocation.Entry{Seq: 1, Kind: revocation.ByRTI, Val: "key:x", At: now.Unix(), Until: revocation.Until(now, 0)}
		if err := c.n.revokedTokens(false, []revocation.Entry{e}, now); err != nil {
			t.Fatal(err)
		}
		c.edge(alice(), "token-2")
	})
}

// However many credentials are shown, what is kept of them stays within its bound.
func TestEdgeTokensBounded(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		c.n.edge.most = 10 * (keptCost + 100)
		s.set(200, `{"access_token":"`+strings.Repeat("x", 100)+`","expires_in":60}`)
		for i := range 100 {
			c.edge(alice(func(e *proxy.EdgeCall) { e.Text = fmt.Sprint("eyJ.", i) }), strings.Repeat("x", 100))
			if n := len(c.n.edge.by); n > 11 || c.n.edge.bytes != n*(keptCost+100) {
				t.Fatalf("%d are kept, %d bytes counted", n, c.n.edge.bytes)
			}
		}
		c.pass(time.Minute)
		c.n.edge.most = 1
		c.edge(alice(), strings.Repeat("x", 100))
		if n := len(c.n.edge.by); n != 1 {
			t.Errorf("%d are kept after their end", n)
		}
		c.n.edge.forget()
		if c.n.edge.bytes != 0 {
			t.Errorf("%d bytes counted of nothing", c.n.edge.bytes)
		}
	})
}

// More exchanges than may be under way wait, and give up in time.
func TestEdgeTokensAtATime(t *testing.T) {
	withTokens(t, func(t *testing.T, c *caller, s *tokenService) {
		c.n.edge.places = make(chan struct{}, 1)
		c.n.edge.places <- struct{}{}
		c.noEdge(alice(), "the token service does not answer in time", false)
		<-c.n.edge.places
		c.pass(failedRest)
		c.edge(alice(), "token-1")
	})
}

// A Gateway that is gone leaves nothing behind: whoever makes and deletes them fills no memory.
func TestEdgeLinesEnd(t *testing.T) {
	s := newEdgeTokens(nil)
	s.lineOf("spiffe://cluster.local/ns/default/sa/edge", &proxy.SVID{Generation: 1})
	s.leave("spiffe://cluster.local/ns/default/sa/other")
	if len(s.lines) != 1 {
		t.Fatalf("%d lines", len(s.lines))
	}
	s.leave("spiffe://cluster.local/ns/default/sa/edge")
	if len(s.lines) != 0 {
		t.Errorf("%d lines are left", len(s.lines))
	}
}
