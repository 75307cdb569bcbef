package jwks

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"countersign.dev/internal/store"
)

// keeper wants one source of a provider.
func keeper(st store.Store, p *provider, c *clock) (*Keeper, Source) {
	k := NewKeeper(Options{Store: st, Allow: loopback, Roots: p.roots(), Now: c.now})
	s := Source{URI: p.URL + "/keys", Timeout: timeoutMax}
	k.Want([]Source{s})
	return k, s
}

// M3: a failure keeps the last good set, for a day after it was retrieved and no longer; what
// the failure was stands in the record, without a word of the answer.
func TestM3LastGoodSet(t *testing.T) {
	good, ids := keySet(t, 2)
	for name, answer := range map[string]http.HandlerFunc{
		"slow":    func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"HTML":    serve([]byte("<html>" + canary)),
		"no keys": serve([]byte(`{"keys":[]}`)),
		"error":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, canary, http.StatusServiceUnavailable) },
		"redirecting": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/"+canary, http.StatusFound)
		},
		"gone": nil,
	} {
		t.Run(name, func(t *testing.T) {
			st, c := newStore(t), newClock()
			p := newProvider(t, serve(good))
			k, s := keeper(st, p, c)
			turn(t, k)
			since := c.now()
			if got := idsOf(stored(t, st, s), since); !reflect.DeepEqual(got, ids) {
				t.Fatalf("keys %v, want %v", got, ids)
			}
			if answer == nil {
				p.Close()
			} else {
				p.says(answer)
			}
			if name == "slow" {
				s.Timeout = 50 * time.Millisecond
				k.Want([]Source{s})
			}
			for c.now().Before(since.Add(lastGood - time.Minute)) {
				c.pass(3 * time.Hour)
				if c.now().After(since.Add(lastGood - time.Minute)) {
					break
				}
				turn(t, k)
				kept := stored(t, st, s)
				if got := idsOf(kept, c.now()); !reflect.DeepEqual(got, ids) || kept.Error == "" {
					t.Fatalf("after %v: keys %v, error %q", c.now().Sub(since), got, kept.Error)
				}
				if strings.Contains(kept.Error, canary) || len(kept.Error) > 80 {
					t.Errorf("the record says %q", kept.Error)
				}
			}
			kept := stored(t, st, s)
			if !kept.Until.Equal(since.Add(lastGood)) || kept.Keys(kept.Until) != nil || kept.Keys(kept.Until.Add(-1)) == nil {
				t.Errorf("usable until %v, want %v", kept.Until, since.Add(lastGood))
			}
			if answer != nil { // it mends
				p.says(serve(good))
				s.Timeout = timeoutMax
				k.Want([]Source{s})
				c.pass(2 * lastGood)
				turn(t, k)
				if kept := stored(t, st, s); kept.Error != "" || len(idsOf(kept, c.now())) != 2 {
					t.Errorf("mended: %+v", kept)
				}
			}
		})
	}
}

// A key that its issuer takes back is gone with the next retrieval.
func TestDroppedKeyGoes(t *testing.T) {
	st, c := newStore(t), newClock()
	two, _ := keySet(t, 2)
	one, ids := keySet(t, 1)
	p := newProvider(t, serve(two))
	k, s := keeper(st, p, c)
	turn(t, k)
	p.says(serve(one))
	c.pass(every)
	turn(t, k)
	if got := idsOf(stored(t, st, s), c.now()); !reflect.DeepEqual(got, ids) {
		t.Errorf("keys %v, want %v", got, ids)
	}
}

// When a set is asked for again (tokens.md 10.4).
func TestSchedule(t *testing.T) {
	good, _ := keySet(t, 1)
	for name, test := range map[string]struct {
		head string
		fail bool
		want time.Duration
	}{
		"unsaid":  {"", false, 20 * time.Minute},
		"max-age": {"max-age=300", false, 5 * time.Minute},
		"often":   {"max-age=1", false, time.Minute},
		"rarely":  {"max-age=86400", false, time.Hour},
		"failed":  {"max-age=300", true, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			st, c := newStore(t), newClock()
			p := newProvider(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Cache-Control", test.head)
				if test.fail {
					w.WriteHeader(500)
				}
				_, _ = w.Write(good)
			})
			k, _ := keeper(st, p, c)
			turn(t, k)
			turn(t, k)
			c.pass(test.want - time.Second)
			turn(t, k)
			// Another server, or this one after a restart, finds nothing to do either.
			other, _ := keeper(st, p, c)
			turn(t, other)
			if n := p.hits.Load(); n != 1 {
				t.Fatalf("%d retrievals before their time, want 1", n)
			}
			c.pass(time.Second)
			turn(t, other)
			turn(t, k)
			if n := p.hits.Load(); n != 2 {
				t.Errorf("%d retrievals, want 2", n)
			}
		})
	}
}

// R5b: 10 000 tokens with unknown key ids, at two servers, cause one retrieval in 30 seconds.
func TestR5bMisses(t *testing.T) {
	st, c := newStore(t), newClock()
	good, _ := keySet(t, 1)
	p := newProvider(t, serve(good))
	a, s := keeper(st, p, c)
	b, _ := keeper(st, p, c)
	turn(t, a)
	turn(t, b)
	flood := func() {
		for range 5000 {
			a.Miss(s)
			b.Miss(s)
		}
		a.begin(t.Context())
		b.begin(t.Context())
		a.flights.Wait()
		b.flights.Wait()
	}
	flood()
	c.pass(29 * time.Second)
	flood()
	if n := p.hits.Load(); n != 1 {
		t.Fatalf("%d retrievals within 30 s, want the first alone", n)
	}
	for round := range 5 {
		c.pass(time.Second)
		flood()
		if n := p.hits.Load(); n != int64(2+round) {
			t.Fatalf("round %d: %d retrievals, want %d", round, n, 2+round)
		}
		c.pass(29 * time.Second)
		flood()
	}
	if n := p.hits.Load(); n != 6 {
		t.Errorf("%d retrievals, want 6", n)
	}
	a.Miss(Source{URI: "https://nobody.wants.test"})
	if a.wanted[Source{URI: "https://nobody.wants.test"}.Key()] != nil {
		t.Error("a miss made a source wanted")
	}
}

// A miss that finds the new key makes it known; one while a retrieval failed asks again too.
func TestMissFindsTheKey(t *testing.T) {
	st, c := newStore(t), newClock()
	old, _ := keySet(t, 1)
	fresh, ids := keySet(t, 1)
	p := newProvider(t, serve(old))
	k, s := keeper(st, p, c)
	turn(t, k)
	p.says(serve(fresh))
	c.pass(missEvery)
	k.Miss(s)
	turn(t, k)
	if got := idsOf(stored(t, st, s), c.now()); !reflect.DeepEqual(got, ids) {
		t.Errorf("keys %v, want %v", got, ids)
	}
}

// A server that begins a retrieval and dies leaves it to the others a minute later.
func TestBegunAndLeft(t *testing.T) {
	st, c := newStore(t), newClock()
	good, _ := keySet(t, 1)
	begun := make(chan struct{})
	p := newProvider(t, func(_ http.ResponseWriter, r *http.Request) { close(begun); <-r.Context().Done() })
	dying, s := keeper(st, p, c)
	ctx, kill := context.WithCancel(t.Context())
	dying.begin(ctx)
	<-begun
	kill()
	dying.flights.Wait()
	p.says(serve(good))
	k, _ := keeper(st, p, c)
	turn(t, k)
	c.pass(afterFail - time.Second)
	turn(t, k)
	if n := p.hits.Load(); n != 1 {
		t.Fatalf("%d retrievals while one may be under way", n)
	}
	c.pass(time.Second)
	turn(t, k)
	if kept := stored(t, st, s); kept.Error != "" || len(idsOf(kept, c.now())) != 1 {
		t.Errorf("kept %+v", kept)
	}
}

// Without a store that can be written nothing is retrieved, for nobody could know of it.
func TestNoStore(t *testing.T) {
	good, _ := keySet(t, 1)
	p := newProvider(t, serve(good))
	fail := true
	st := store.Memory(store.MemoryOptions{Fault: func(store.Txn) store.Outcome {
		if fail {
			return store.Lost
		}
		return store.Normal
	}})
	defer st.Close()
	c := newClock()
	k, s := keeper(st, p, c)
	turn(t, k)
	if n := p.hits.Load(); n != 0 {
		t.Errorf("%d retrievals", n)
	}
	fail = false
	c.pass(afterFail)
	turn(t, k)
	if kept := stored(t, st, s); kept.Error != "" {
		t.Errorf("kept %+v", kept)
	}
}

// A record that is damaged, misplaced or from a clock gone wrong is replaced.
func TestBadRecords(t *testing.T) {
	good, ids := keySet(t, 1)
	p := newProvider(t, serve(good))
	c := newClock()
	s := Source{URI: p.URL + "/keys"}
	future, err := encode(Kept{Source: s, Tried: c.now().Add(90 * 24 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	other, err := encode(Kept{Source: Source{URI: "https://other.test"}, Tried: c.now()})
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"no JSON": "{", "a later version": `{"v":2,"uri":"` + s.URI + `"}`, "another source": string(other),
		"bad keys": `{"v":1,"uri":"` + s.URI + `","keys":{"keys":[{"kty":"oct","k":"AA"}]},"tried":"2026-01-01T00:00:00Z"}`,
		"future":   string(future),
	} {
		st := newStore(t)
		if _, err := st.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put(s.Key(), []byte(value))}}); err != nil {
			t.Fatal(err)
		}
		k := NewKeeper(Options{Store: st, Allow: loopback, Roots: p.roots(), Now: c.now})
		k.Want([]Source{s})
		turn(t, k)
		if got := idsOf(stored(t, st, s), c.now()); !reflect.DeepEqual(got, ids) {
			t.Errorf("%s: keys %v, want %v", name, got, ids)
		}
	}
}

// Sets that nobody wants go after seven days; the others stay, wanted or young.
func TestUnusedSetsGo(t *testing.T) {
	st, c := newStore(t), newClock()
	good, _ := keySet(t, 1)
	p := newProvider(t, serve(good))
	k := NewKeeper(Options{Store: st, Allow: loopback, Roots: p.roots(), Now: c.now})
	old, young := Source{URI: p.URL + "/old"}, Source{URI: p.URL + "/young"}
	used := Source{URI: p.URL + "/used"}
	k.Want([]Source{old, young, used})
	turn(t, k)
	k.Want([]Source{young, used})
	c.pass(unused - time.Hour)
	turn(t, k)
	k.Want([]Source{used})
	for _, step := range []struct {
		pass time.Duration
		want []bool // old, young, used
	}{{time.Hour - 1, []bool{true, true, true}}, {1, []bool{false, true, true}}, {unused, []bool{false, false, true}}} {
		c.pass(step.pass)
		if err := k.drop(t.Context(), c.now()); err != nil {
			t.Fatal(err)
		}
		for i, s := range []Source{old, young, used} {
			_, err := st.Get(t.Context(), s.Key())
			if there := !errors.Is(err, store.ErrNotFound); there != step.want[i] {
				t.Errorf("after %v more %s is there: %v", step.pass, s.URI, there)
			}
		}
	}
}

// Of several rules with one source the longest timeout counts.
func TestLongestTimeout(t *testing.T) {
	k := NewKeeper(Options{Now: newClock().now})
	s := Source{Issuer: "https://a.test"}
	short, long := s, s
	short.Timeout, long.Timeout = time.Second, 9*time.Second
	for _, sources := range [][]Source{{short, long}, {long, short}, {long}, {s, long}} {
		k.Want(sources)
		if got := k.wanted[s.Key()].source.Timeout; len(k.wanted) != 1 || got != long.Timeout {
			t.Errorf("%v: %d sources, timeout %v", sources, len(k.wanted), got)
		}
	}
	k.Want([]Source{short, s})
	if got := k.wanted[s.Key()].source.Timeout; got != timeout {
		t.Errorf("beside the default: %v", got)
	}
}

// Run does it by itself, and ends.
func TestRun(t *testing.T) {
	st, c := newStore(t), newClock()
	good, ids := keySet(t, 1)
	p := newProvider(t, serve(good))
	k := NewKeeper(Options{Store: st, Allow: loopback, Roots: p.roots(), Now: c.now})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- k.Run(ctx) }()
	batches, err := st.Watch(t.Context(), Prefix, 1)
	if err != nil {
		t.Fatal(err)
	}
	s := Source{URI: p.URL + "/keys"}
	k.Want([]Source{s})
	for b := range batches {
		if len(b.Events) == 0 {
			continue
		}
		if kept, err := Decode(b.Events[0].KV); err != nil {
			t.Fatal(err)
		} else if kept.JWKS != nil {
			if got := idsOf(kept, c.now()); !reflect.DeepEqual(got, ids) {
				t.Errorf("keys %v", got)
			}
			break
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}
