package node

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"countersign.dev/internal/bearer"
	"countersign.dev/internal/identity/identitytest"
)

// A set without a key is told at once, and again after half a minute; others do not wait for it.
func TestMissedKeyRate(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Node, a *authority) {
		n.tokens.life = t.Context()
		told := func(want ...string) {
			t.Helper()
			n.tokens.working.Wait()
			a.mu.Lock()
			defer a.mu.Unlock()
			if got := strings.Join(a.misses, ", "); got != strings.Join(want, ", ") {
				t.Errorf("told %q, want %q", got, want)
			}
			a.misses = nil
		}
		one, two := bearer.Source{Issuer: "https://id", URI: "https://id/keys"}, bearer.Source{Issuer: "https://corp"}
		for range 100 {
			n.missedKey(one)
		}
		told("https://id https://id/keys")
		n.missedKey(two)
		told("https://corp ")
		time.Sleep(missEvery - time.Nanosecond)
		n.missedKey(one)
		told()
		time.Sleep(time.Nanosecond)
		n.missedKey(one)
		told("https://id https://id/keys")
		for i := range 3 * maxMissed {
			n.missedKey(bearer.Source{Issuer: fmt.Sprint("https://", i)})
			n.tokens.working.Wait()
			if len(n.misses.at) > maxMissed {
				t.Fatalf("%d sets are remembered", len(n.misses.at))
			}
		}
	})
}

// aloneInBubble runs f with a node that has no server.
func aloneInBubble(t *testing.T, f func(t *testing.T, c *caller)) {
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(t, dir, identitytest.New(t, "cluster.local", time.Now()))
		f(t, c)
		c.end()
	})
}

// lines counts what the log said of a thing since it was last asked.
func (c *caller) lines(of string) int { return strings.Count(c.log.take(), of) }

// A clock that is off is said once a minute, in either direction.
func TestWatchClock(t *testing.T) {
	aloneInBubble(t, func(t *testing.T, c *caller) {
		watch := func(offset time.Duration, want int) {
			t.Helper()
			c.n.watchClock(offset, time.Now())
			if got := c.lines("clock is not the server's"); got != want {
				t.Errorf("off by %v: said %d times, want %d", offset, got, want)
			}
		}
		watch(clockAlarm-time.Nanosecond, 0)
		watch(clockAlarm, 1)
		watch(time.Hour, 0)
		time.Sleep(clockAlarmEvery - time.Nanosecond)
		watch(-time.Hour, 0)
		time.Sleep(time.Nanosecond)
		watch(1-clockAlarm, 0)
		watch(-clockAlarm, 1)
		if err := c.n.revokedTokens(true, nil, time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(clockAlarmEvery)
		if err := c.n.revokedTokens(false, nil, time.Now().Add(-time.Hour)); err != nil || c.lines("ahead=1h0m0s") != 1 {
			t.Errorf("a beat does not tell the clock: %v", err)
		}
	})
}

// That the log of revoked tokens is old is said once each time, and not before the node had half
// a minute to hear of it.
func TestStaleWarning(t *testing.T) {
	aloneInBubble(t, func(t *testing.T, c *caller) {
		c.n.own.Store(&ownSVID{notAfter: time.Now().Add(time.Hour)})
		beat := func() {
			t.Helper()
			if err := c.n.revokedTokens(false, nil, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		after := func(d time.Duration, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := c.lines("nothing was heard of revoked tokens"); got != want {
				t.Errorf("at %v: said %d times, want %d", time.Since(bubbleStart), got, want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- c.n.gauges(ctx) }()
		after(30*time.Second, 0)
		after(5*time.Second, 1)
		after(time.Hour, 0)
		beat()
		after(30*time.Second, 0)
		after(10*time.Second, 1)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
