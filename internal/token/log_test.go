package token

import (
	"context"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"countersign.dev/internal/grant"
	"countersign.dev/internal/revocation"
	"countersign.dev/internal/store"
)

// revokeEntry appends an entry and waits until the copy has it.
func (c *chainBed) revokeEntry(e revocation.Entry) {
	c.t.Helper()
	if _, err := c.Revoke(c.t.Context(), e); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

// highS is the same token in its other spelling: s → n − s (tokens.md 1, decision 12).
func highS(t *testing.T, raw string) string {
	t.Helper()
	at := strings.LastIndexByte(raw, '.') + 1
	sig, err := base64.RawURLEncoding.DecodeString(raw[at:])
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[32:]))
	s.FillBytes(sig[32:])
	return raw[:at] + base64.RawURLEncoding.EncodeToString(sig)
}

// R16: a token revoked by each of the seven kinds, in either spelling, is inactive and is not
// exchanged; one that the entry does not name lives on.
func TestR16EveryKind(t *testing.T) {
	for _, kind := range []string{
		revocation.ByJTI, revocation.ByRTI, revocation.BySID, revocation.BySub, revocation.ByClient, revocation.ByKID, revocation.ByBefore,
	} {
		t.Run(kind, func(t *testing.T) {
			c := newChainBed(t)
			first := c.exchange("a", c.signCorp(nil), "subject_token_type", typeJWT, "audience", "b")
			tok, raw := c.next("b", first.text("access_token"), "c")
			other := c.signOwn(map[string]any{"aud": idOf("c"), "client_id": idOf("d"), "sub": idOf("d"), "iat": c.now().Unix() + 5})
			if !c.active("c", raw) || !c.active("c", highS(t, raw)) || !c.active("c", other) {
				t.Fatal("a good token is not active")
			}
			val := map[string]string{
				revocation.ByJTI: tok.ID(), revocation.ByRTI: tok.Root(), revocation.BySID: "corp:s1", revocation.BySub: "corp:7f3b",
				revocation.ByClient: idOf("b"), revocation.ByKID: tok.KeyID(),
			}[kind]
			c.revokeEntry(revocation.Entry{Kind: kind, Val: val, Why: "test"})
			for _, spelt := range []string{raw, highS(t, raw)} {
				if c.active("c", spelt) {
					t.Error("active")
				}
				c.wantRefusal(c.exchange("c", spelt, "audience", "d"), codeRequest, textSubject, codeRequest, "revoked")
			}
			if live := c.active("c", other); live != (kind != revocation.ByKID) {
				t.Errorf("another token is active: %v", live)
			}
		})
	}
}

// X3g, X3f, X3e: T0 → T1 → T2 → T3. Revoking one ends it and what came of it, by its id or its
// root; disabling a client ends what it asked for, acted in or began.
func TestX3gChains(t *testing.T) {
	for name, test := range map[string]struct {
		entry func(ids []string) revocation.Entry
		live  []bool
	}{
		"root by jti":   {func(ids []string) revocation.Entry { return revocation.Entry{Kind: "jti", Val: ids[0]} }, []bool{false, false, false, false}},
		"root by rti":   {func(ids []string) revocation.Entry { return revocation.Entry{Kind: "rti", Val: ids[0]} }, []bool{false, false, false, false}},
		"middle by jti": {func(ids []string) revocation.Entry { return revocation.Entry{Kind: "jti", Val: ids[1]} }, []bool{true, false, false, false}},
		"third by jti":  {func(ids []string) revocation.Entry { return revocation.Entry{Kind: "jti", Val: ids[2]} }, []bool{true, true, false, false}},
		"leaf by jti":   {func(ids []string) revocation.Entry { return revocation.Entry{Kind: "jti", Val: ids[3]} }, []bool{true, true, true, false}},
		"leaf by rti":   {func(ids []string) revocation.Entry { return revocation.Entry{Kind: "rti", Val: ids[3]} }, []bool{true, true, true, false}},
		"first client":  {func([]string) revocation.Entry { return revocation.Entry{Kind: "client", Val: idOf("a")} }, []bool{false, false, false, false}},
		"second actor":  {func([]string) revocation.Entry { return revocation.Entry{Kind: "client", Val: idOf("b")} }, []bool{true, false, false, false}},
		"last actor":    {func([]string) revocation.Entry { return revocation.Entry{Kind: "client", Val: idOf("d")} }, []bool{true, true, true, false}},
		"an audience":   {func([]string) revocation.Entry { return revocation.Entry{Kind: "client", Val: idOf("e")} }, []bool{true, true, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newChainBed(t)
			raws, ids := []string{c.first("a", "b")}, []string{}
			for i, by := range []string{"b", "c", "d"} {
				tok, raw := c.next(by, raws[i], string('c'+rune(i)))
				raws = append(raws, raw)
				ids = slices.Clone(tok.Ancestors())
				slices.Reverse(ids)
				ids = append(ids, tok.ID())
			}
			c.revokeEntry(test.entry(ids))
			for i, raw := range raws {
				if live := c.active(string('b'+rune(i)), raw); live != test.live[i] {
					t.Errorf("T%d is active: %v", i, live)
				}
			}
		})
	}
}

// A foreign subject token that was revoked under its mapped names brings nothing new to life.
func TestRevokedForeignSubject(t *testing.T) {
	for _, kind := range []string{revocation.ByRTI, revocation.BySID, revocation.BySub, revocation.ByBefore} {
		c := newChainBed(t)
		raw := c.signCorp(nil)
		tok := c.wantToken(c.exchange("a", raw, "subject_token_type", typeJWT, "audience", "b"), idOf("b"))
		val := map[string]string{revocation.ByRTI: tok.Root(), revocation.BySID: "corp:s1", revocation.BySub: "corp:7f3b"}[kind]
		c.revokeEntry(revocation.Entry{Kind: kind, Val: val})
		c.later(2 * time.Second)
		c.wantRefusal(c.exchange("a", raw, "subject_token_type", typeJWT, "audience", "b"), codeRequest, textSubject, codeRequest, "revoked")
		// Signing in anew helps where the entry speaks of a time.
		fresh := c.exchange("a", c.signCorp(map[string]any{"jti": "new", "sid": "s2"}), "subject_token_type", typeJWT, "audience", "b")
		if fresh.status != 200 {
			t.Errorf("%s: signed in anew: %d %s", kind, fresh.status, fresh.raw)
		}
		if kind != revocation.ByBefore { // a day is the longest life of this issuer's tokens
			if e := c.logged()[0]; e.Until != e.At+60+86400 {
				t.Errorf("%s: the entry ends after %d s", kind, e.Until-e.At)
			}
		}
	}
}

// The property: of any tree of exchanges, a token is refused exactly if it, or one that it
// descends from, is revoked.
func TestRandomChains(t *testing.T) {
	c := newChainBed(t, func(o *grant.Objects) { o.Delegations[0].AllowCycles = true })
	type node struct {
		raw, id, audience string
		parent            *node
		revoked           bool
	}
	names := strings.Split("abcdefghij", "")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	var nodes []*node
	for range 60 {
		from := names[rng.IntN(len(names))]
		to := names[rng.IntN(len(names))]
		var parent *node
		var raw string
		switch {
		case len(nodes) == 0 || rng.IntN(6) == 0:
			raw = c.first(from, to)
		case rng.IntN(8) == 0:
			r := c.exchange("a", c.signCorp(nil), "subject_token_type", typeJWT, "audience", to)
			raw = r.text("access_token")
		default:
			parent = nodes[rng.IntN(len(nodes))]
			r := c.exchange(parent.audience, parent.raw, "audience", to)
			if r.text("error_description") == textDepth {
				continue
			}
			raw = r.text("access_token")
		}
		tok := c.wantToken(reply{status: 200, body: map[string]any{"access_token": raw}}, idOf(to))
		nodes = append(nodes, &node{raw: raw, id: tok.ID(), audience: to, parent: parent})
	}
	check := func() {
		t.Helper()
		for i, n := range nodes {
			dead := false
			for p := n; p != nil; p = p.parent {
				dead = dead || p.revoked
			}
			if live := c.active(n.audience, n.raw); live == dead {
				t.Fatalf("token %d is active: %v, want %v", i, live, !dead)
			}
		}
	}
	check()
	for range 12 {
		n := nodes[rng.IntN(len(nodes))]
		n.revoked = true
		kind := revocation.ByJTI
		if n.parent == nil && rng.IntN(2) == 0 {
			kind = revocation.ByRTI // of a root both say the same
			if tok, _ := c.own(&caller{world: c.world.Load(), now: c.now()}, n.raw); tok.Root() != "" {
				kind = revocation.ByJTI // but not of a token that has a foreign root
			}
		}
		c.revokeEntry(revocation.Entry{Kind: kind, Val: n.id})
		check()
	}
}

// What Revoke fills in, and what it refuses.
func TestRevoke(t *testing.T) {
	c := newChainBed(t)
	now := c.now().Unix()
	for name, e := range map[string]revocation.Entry{
		"no kind": {Val: "x"}, "unknown kind": {Kind: "all", Val: "x"}, "no value": {Kind: "jti"}, "a value of before": {Kind: "before", Val: "x"},
		"long": {Kind: "sub", Val: strings.Repeat("x", revocation.MaxVal+1)}, "future": {Kind: "sub", Val: "x", Before: now + 1000},
		"before of jti": {Kind: "jti", Val: "x", Before: now}, "long why": {Kind: "jti", Val: "x", Why: strings.Repeat("x", revocation.MaxWhy+1)},
	} {
		if _, err := c.Revoke(t.Context(), e); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(c.logged()); n > 0 {
		t.Fatalf("%d entries", n)
	}
	seq, err := c.Revoke(t.Context(), revocation.Entry{Kind: "client", Val: "ci", Seq: 99, At: 1, Until: 2})
	if err != nil {
		t.Fatal(err)
	}
	c.settle()
	e := c.ledger.Log().Entries()
	if len(e) != 1 || e[0].Seq != seq || e[0].Before < now || e[0].Before != e[0].At || e[0].Until != e[0].At+3660 {
		t.Errorf("entries %+v, seq %d, now %d", e, seq, now)
	}
}

// ledgerBed is a ledger in a bubble.
func ledgerBed(t *testing.T, test func(t *testing.T, st *store.Mem, l *Ledger)) {
	synctest.Test(t, func(t *testing.T) {
		st := store.Memory(store.MemoryOptions{})
		defer st.Close()
		l := NewLedger(st, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		synctest.Wait()
		test(t, st, l)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

func putEntry(t *testing.T, st store.Store, val string, life time.Duration) int64 {
	t.Helper()
	now := time.Now()
	seq, err := appendEntry(t.Context(), st, revocation.Entry{Kind: "jti", Val: val, At: now.Unix(), Until: now.Add(life).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return seq
}

func vals(list []revocation.Entry) (out []string) {
	for _, e := range list {
		out = append(out, e.Val)
	}
	return out
}

// A follower gets the whole log, then each change; one that falls behind is cut, and finds all
// when it begins anew.
func TestFollow(t *testing.T) {
	ledgerBed(t, func(t *testing.T, st *store.Mem, l *Ledger) {
		putEntry(t, st, "b", time.Hour)
		last := putEntry(t, st, "a", time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		f := l.Follow(ctx)
		if !slices.Equal(vals(f.All), []string{"b", "a"}) || f.Epoch != last || f.All[1].Seq != last {
			t.Fatalf("%+v", f)
		}
		seq := putEntry(t, st, "c", time.Hour)
		if got := <-f.More; !slices.Equal(vals(got), []string{"c"}) || got[0].Seq != seq {
			t.Errorf("%+v", got)
		}
		cancel()
		synctest.Wait()
		if _, open := <-f.More; open || len(l.followers) > 0 {
			t.Error("open after its end")
		}
		slow := l.Follow(t.Context())
		for i := range followerBuffer + 1 {
			putEntry(t, st, fmt.Sprint(i), time.Hour)
		}
		n := 0
		for range slow.More {
			n++
		}
		if n != followerBuffer || len(l.followers) > 0 {
			t.Errorf("%d changes, %d followers", n, len(l.followers))
		}
		again := l.Follow(t.Context())
		if len(again.All) != 3+followerBuffer+1 {
			t.Errorf("%d entries", len(again.All))
		}
		time.Sleep(30 * time.Second) // the store is heard all the time
		if l.Log().Stale(time.Now()) {
			t.Error("stale")
		}
	})
}

// A watch that breaks costs the followers nothing: they are told what they missed, once.
func TestFollowAfterBreak(t *testing.T) {
	ledgerBed(t, func(t *testing.T, st *store.Mem, l *Ledger) {
		putEntry(t, st, "a", time.Hour)
		f := l.Follow(t.Context())
		kvs, _, err := st.List(t.Context(), RevocationPrefix)
		if err != nil {
			t.Fatal(err)
		}
		fresh := revocation.Entry{Kind: "sid", Val: "s", At: time.Now().Unix(), Until: time.Now().Unix() + 60}
		kvs = append(kvs, store.KV{Key: RevocationPrefix + "x", Value: []byte(fmt.Sprintf(`{"seq":0,"kind":"sid","val":"s","until":%d,"at":%d}`, fresh.Until, fresh.At)), Mod: 9})
		if err := l.reset(kvs, 9); err != nil {
			t.Fatal(err)
		}
		if got := <-f.More; !slices.Equal(vals(got), []string{"s"}) {
			t.Errorf("%+v", got)
		}
		if err := l.reset(kvs, 9); err != nil {
			t.Fatal(err)
		}
		if len(f.More) > 0 {
			t.Error("told again")
		}
	})
}

// What has ended is removed, from the store and from the copy.
func TestSweep(t *testing.T) {
	ledgerBed(t, func(t *testing.T, st *store.Mem, l *Ledger) {
		for i := range store.MaxOps + 5 {
			putEntry(t, st, fmt.Sprint(i), 30*time.Second)
		}
		putEntry(t, st, "long", time.Hour)
		time.Sleep(sweepEvery + time.Second)
		synctest.Wait()
		kvs, _, err := st.List(t.Context(), RevocationPrefix)
		if err != nil {
			t.Fatal(err)
		}
		if len(kvs) != 1 || !slices.Equal(vals(l.Log().Entries()), []string{"long"}) || !slices.Equal(vals(l.Follow(t.Context()).All), []string{"long"}) {
			t.Errorf("%d keys, copy %v", len(kvs), vals(l.Log().Entries()))
		}
	})
}

// An entry that cannot be read could revoke anything: until it is gone no token counts, and
// nobody follows.
func TestUnreadableEntry(t *testing.T) {
	ledgerBed(t, func(t *testing.T, st *store.Mem, l *Ledger) {
		putEntry(t, st, "a", time.Hour)
		f := l.Follow(t.Context())
		key := RevocationPrefix + "zzz"
		commit := func(op store.Op) {
			t.Helper()
			if _, err := st.Commit(t.Context(), store.Txn{Then: []store.Op{op}}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		commit(store.Put(key, []byte(`{"kind":"all"}`)))
		if l.Log().Ready() || l.Follow(t.Context()) != nil {
			t.Error("the log counts as whole")
		}
		if _, open := <-f.More; open {
			t.Error("a follower goes on")
		}
		putEntry(t, st, "b", time.Hour)
		if l.Log().Ready() {
			t.Error("the next entry made it whole")
		}
		commit(store.Delete(key))
		if !l.Log().Ready() || !slices.Equal(vals(l.Follow(t.Context()).All), []string{"a", "b"}) {
			t.Errorf("not whole again: %v", vals(l.Log().Entries()))
		}
	})
}

// Before the first full list every own token is refused.
func TestNoListYet(t *testing.T) {
	c := newChainBed(t)
	raw := c.first("a", "b")
	c.Service.o.Revoked = revocation.NewLog()
	if c.active("b", raw) {
		t.Error("active")
	}
	c.wantRefusal(c.exchange("b", raw, "audience", "c"), codeRequest, textSubject, codeRequest, "stale")
	if NewLedger(c.store, nil).Follow(t.Context()) != nil {
		t.Error("a log that was never read is followed")
	}
}
