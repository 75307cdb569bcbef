package keyring_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"countersign.dev/internal/keyring"
	"countersign.dev/internal/store"
)

// token is what a ring signed at a time; it lives one hour.
type token struct {
	kid string
	end time.Time
}

// Five days of rotations, a token a minute, and a verifier that reads the keys anew every hour:
// no good token meets a verifier that does not know its key, and no key signs too early, too
// long, or after it retired.
func TestR15bRotations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		r := h.open()
		stop := run(t, r)
		var live []token
		var copied []string
		signed := map[string][2]time.Time{} // by kid: first and last signature
		begun := time.Now()
		for minute := range 5*24*60 - 10 {
			now := time.Now()
			k, _ := r.Active()
			if minute%60 == 0 {
				copied = ids(r.Keys())
			}
			first := k.ID
			if len(live) > 0 {
				first = live[len(live)-1].kid
			}
			if first != k.ID && now.Sub(k.Published) < 2*time.Hour {
				t.Fatalf("%v: key %s signs %v after it was published", now, k.ID, now.Sub(k.Published))
			}
			live = append(live, token{k.ID, now.Add(time.Hour)})
			live = slices.DeleteFunc(live, func(tok token) bool { return !now.Before(tok.end) })
			for _, tok := range live {
				if !slices.Contains(copied, tok.kid) || !slices.Contains(ids(r.Keys()), tok.kid) {
					t.Fatalf("%v: a token of key %s is refused", now, tok.kid)
				}
			}
			if n := len(r.Keys()); n > 3 {
				t.Fatalf("%v: %d keys are known, want at most 3", now, n)
			}
			if s, ok := signed[k.ID]; ok {
				signed[k.ID] = [2]time.Time{s[0], now}
			} else {
				signed[k.ID] = [2]time.Time{now, now}
			}
			sleep(time.Minute)
		}
		for kid, s := range signed {
			if used := s[1].Sub(s[0]); used > 24*time.Hour+2*time.Minute {
				t.Errorf("key %s signed for %v", kid, used)
			}
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
		if n := h.checkHistory(false); n != 5 || len(signed) != 5 {
			t.Errorf("%d keys became active and %d signed in %v, want 5", n, len(signed), time.Since(begun))
		}
		if got := h.recorded()[:8]; !slices.Equal(got, []string{
			"→activate",
			"→prepare", "prepare→publish", "publish→activate", "activate→retire", "retire→gone",
			"→prepare", "prepare→publish",
		}) {
			t.Errorf("recorded %q", got)
		}
	})
}

// A key is activated, and one goes, only when Known has returned since the step before.
func TestStepsWaitUntilKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		var calls []string // guarded by h.mu
		var fail atomic.Bool
		fail.Store(true)
		h.edit = func(o *keyring.Options) {
			o.Known = func(ctx context.Context) error {
				states := strings.Join(h.states(), " ")
				h.mu.Lock()
				calls = append(calls, states)
				h.mu.Unlock()
				if fail.Load() {
					return errors.New("nodes are away")
				}
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(10 * time.Minute):
					return nil
				}
			}
		}
		r := h.open()
		stop := run(t, r)
		sleep(30 * time.Hour)
		if got := strings.Join(h.states(), " "); got != "activate publish" {
			t.Fatalf("while Known fails: %s", got)
		}
		h.mu.Lock()
		calls = nil
		h.mu.Unlock()
		fail.Store(false)
		sleep(11 * time.Minute) // it is tried again within a minute
		if got := strings.Join(h.states(), " "); got != "retire activate" {
			t.Fatalf("once known: %s", got)
		}
		sleep(70 * time.Minute) // and as long again to be known
		if got := strings.Join(h.states(), " "); got != "retire activate" {
			t.Fatalf("before the retired key is known as such: %s", got)
		}
		sleep(10 * time.Minute)
		if got := strings.Join(h.states(), " "); got != "activate" {
			t.Fatalf("at the end: %s", got)
		}
		stop()
		if !slices.Equal(calls, []string{"activate publish", "retire activate"}) {
			t.Errorf("Known was called at %q", calls)
		}
		h.checkHistory(false)
	})
}

// A machine that slept past all dates makes every step, in order: the next key is published,
// known for its time, and then signs.
func TestWakeLate(t *testing.T) {
	for name, before := range map[string]struct {
		awake time.Duration // before it sleeps for three days
		want  []string      // within minutes of waking
	}{
		"nothing published": {time.Hour, []string{"activate", "publish"}},
		"next published":    {23 * time.Hour, []string{"retire", "activate"}},
		"previous retired":  {25 * time.Hour, []string{"activate", "publish"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				var slept atomic.Int64 // timers stand still, the wall clock does not
				h.edit = func(o *keyring.Options) {
					o.Now = func() time.Time { return time.Now().Add(time.Duration(slept.Load())) }
				}
				r := h.open()
				stop := run(t, r)
				sleep(before.awake)
				first, _ := r.Active()
				slept.Store(int64(72 * time.Hour))
				sleep(5 * time.Minute)
				if got := h.states(); !slices.Equal(got, before.want) {
					t.Fatalf("states %q, want %q", got, before.want)
				}
				if before.want[1] == "publish" {
					sleep(2*time.Hour - 10*time.Minute)
					if k, _ := r.Active(); k.ID != first.ID {
						t.Fatal("the next key signs before it was known for two hours")
					}
					sleep(12 * time.Minute)
				}
				k, _ := r.Active()
				if k.ID == first.ID {
					t.Fatal("the next key does not sign")
				}
				if since := k.Activated.Sub(k.Published); since < 2*time.Hour {
					t.Errorf("published %v before it signed", since)
				}
				stop()
				h.checkHistory(false)
			})
		})
	}
}

// Two servers keep one ring: one key is active at any revision, both sign with it, and what one
// does the other follows.
func TestTwoServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouseOn(t, store.MemoryOptions{Delay: time.Millisecond}) // so that they do race
		a, b := h.open(), h.open()
		stopA, stopB := run(t, a), run(t, b)
		for range 4 * 24 * 60 {
			sleep(time.Minute - time.Millisecond)
			ka, _ := a.Active()
			kb, _ := b.Active()
			if ka.ID != kb.ID || !slices.Equal(ids(a.Keys()), ids(b.Keys())) {
				sleep(10 * time.Millisecond)
				ka, _ = a.Active()
				if kb, _ = b.Active(); ka.ID != kb.ID {
					t.Fatalf("%v: %s and %s are active", time.Now(), ka.ID, kb.ID)
				}
			}
		}
		checkSigns(t, a)
		checkSigns(t, b)
		stopA()
		b4, _ := b.Active()
		sleep(26 * time.Hour) // one stops: the other goes on
		if k, _ := b.Active(); k.ID == b4.ID {
			t.Error("no rotation since the other server stopped")
		}
		stopB()
		if n := h.checkHistory(false); n != 6 {
			t.Errorf("%d keys signed in five days, want 6", n)
		}
	})
}

// Without the fence a server writes and records nothing, and follows the one that holds it.
func TestFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		const duty = "duty/token-rotation"
		fence := func(create int64) func(*keyring.Options) {
			return func(o *keyring.Options) {
				o.Fence = func() []store.Cmp { return []store.Cmp{store.CreateIs(duty, create)} }
			}
		}
		h.edit = fence(4711)
		if r, err := h.try(); r != nil || !errors.Is(err, keyring.ErrFence) {
			t.Fatalf("the first key without the fence: %v, want ErrFence", err)
		}
		h.put(duty, nil)
		kv, err := h.st.Get(t.Context(), duty)
		if err != nil {
			t.Fatal(err)
		}
		h.edit = fence(kv.Create)
		holder := h.open()
		h.recorded()
		h.edit = fence(kv.Create - 1) // a leader before it, that woke up
		follower := h.open()
		stopFollower := run(t, follower)
		before := h.revision()
		for _, now := range []bool{false, true} {
			if _, err := follower.Rotate(t.Context(), now, now); !errors.Is(err, keyring.ErrFence) {
				t.Errorf("rotating without the fence: %v, want ErrFence", err)
			}
		}
		sleep(48 * time.Hour)
		if h.revision() != before || h.recorded() != nil {
			t.Fatal("written or recorded without the fence")
		}
		stop := run(t, holder)
		sleep(3 * time.Hour)
		ka, _ := holder.Active()
		if kb, _ := follower.Active(); ka.ID != kb.ID || len(h.states()) < 2 {
			t.Errorf("the follower has key %s active, want %s", kb.ID, ka.ID)
		}
		stop()
		stopFollower()
		h.checkHistory(false)
	})
}

// A fence that falls between the record and the write stops the write.
func TestFenceFallsLate(t *testing.T) {
	h := newHouse(t)
	h.put("duty/a", nil)
	kv, err := h.st.Get(t.Context(), "duty/a")
	if err != nil {
		t.Fatal(err)
	}
	r := h.open()
	h.edit = func(o *keyring.Options) {
		o.Fence = func() []store.Cmp { return []store.Cmp{store.CreateIs("duty/a", kv.Create)} }
		o.Record = func(context.Context, keyring.Key, keyring.State) error {
			h.commit(store.Delete("duty/a"))
			return nil
		}
	}
	if _, err := h.open().Rotate(t.Context(), true, true); !errors.Is(err, keyring.ErrFence) {
		t.Errorf("got %v, want ErrFence", err)
	}
	if got := h.states(); !slices.Equal(got, []string{"activate"}) {
		t.Errorf("states %q", got)
	}
	checkSigns(t, r)
}

// No record, no step: neither of the first key, nor of the schedule, nor of a rotation.
func TestNoStepWithoutRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		full := func(o *keyring.Options) {
			o.Record = func(context.Context, keyring.Key, keyring.State) error { return errors.New("disk full") }
		}
		h.edit = full
		if _, err := h.try(); err == nil {
			t.Fatal("a first key without a record")
		}
		if kvs, _, err := h.st.List(t.Context(), "token/"); err != nil || len(kvs) != 0 {
			t.Fatalf("the store holds %d values, %v", len(kvs), err)
		}
		h.edit = nil
		h.open()
		h.edit = full
		r := h.open()
		before := h.revision()
		stop := run(t, r)
		sleep(48 * time.Hour)
		if _, err := r.Rotate(t.Context(), true, false); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("rotated without a record: %v", err)
		}
		if h.revision() != before {
			t.Error("something was written without a record")
		}
		checkSigns(t, r)
		stop()
	})
}

// A crash at any write of two rotations, done or not done: what is opened anew goes on from there.
func TestCrashAtAnyStep(t *testing.T) {
	for _, outcome := range []store.Outcome{store.Lost, store.Applied} {
		for at := 1; at <= 8; at++ { // 0 is the first key
			synctest.Test(t, func(t *testing.T) {
				var writes atomic.Int64
				var dead atomic.Bool
				h := newHouseOn(t, store.MemoryOptions{Fault: func(txn store.Txn) store.Outcome {
					switch {
					case len(txn.Then) == 0 || !strings.HasPrefix(txn.Then[len(txn.Then)-1].Key, prefix):
						return store.Normal
					case writes.Add(1) == int64(at)+1:
						dead.Store(true)
						return outcome
					case dead.Load():
						return store.Lost
					}
					return store.Normal
				}})
				r, err := h.try()
				if err != nil {
					t.Fatalf("the first key: %v", err)
				}
				stop := run(t, r)
				for range 60 * 60 {
					if sleep(time.Minute); dead.Load() {
						break
					}
				}
				if !dead.Load() {
					t.Fatalf("no crash after %d writes", writes.Load())
				}
				stop()
				sleep(time.Hour) // away
				dead.Store(false)
				again := h.open()
				stop = run(t, again)
				checkSigns(t, again)
				k, _ := again.Active()
				sleep(27 * time.Hour)
				if next, _ := again.Active(); next.ID == k.ID {
					t.Errorf("write %d, outcome %d: no rotation after the crash", at, outcome)
				}
				checkSigns(t, again)
				stop()
				h.checkHistory(false)
			})
		}
	}
}

// An outage of the store delays the schedule and nothing else.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		h := newHouseOn(t, store.MemoryOptions{Fault: func(store.Txn) store.Outcome {
			if away.Load() {
				return store.Lost
			}
			return store.Normal
		}})
		var out strings.Builder
		h.edit = func(o *keyring.Options) { o.Log = slog.New(slog.NewTextHandler(&out, nil)) }
		r := h.open()
		stop := run(t, r)
		sleep(23 * time.Hour)
		away.Store(true)
		first, _ := r.Active()
		sleep(5 * time.Hour)
		checkSigns(t, r)
		away.Store(false)
		sleep(2 * time.Minute)
		if k, _ := r.Active(); k.ID == first.ID {
			t.Error("no rotation within two minutes of the end of the outage")
		}
		stop()
		if n := strings.Count(out.String(), "level=ERROR"); n < 200 || n > 320 {
			t.Errorf("%d errors logged in four hours, want about one a minute", n)
		}
		h.checkHistory(false)
	})
}

// What the store holds and is not the ring ends Run.
func TestDamageEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, damage := range map[string]func(h *house){
			"a record of nothing": func(h *house) { h.put(prefix+"x", []byte("{}")) },
			"all keys gone":       func(h *house) { h.commit(store.DeletePrefix(prefix)) },
		} {
			h := newHouse(t)
			r := h.open()
			done := make(chan error, 1)
			go func() { done <- r.Run(t.Context()) }()
			sleep(time.Minute)
			damage(h)
			synctest.Wait()
			select {
			case err := <-done:
				if !errors.Is(err, keyring.ErrKey) {
					t.Errorf("%s: Run ended with %v, want ErrKey", name, err)
				}
			default:
				t.Errorf("%s: Run goes on", name)
			}
		}
	})
}
