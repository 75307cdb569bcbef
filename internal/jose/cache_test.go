package jose

import (
	"crypto/elliptic"
	"errors"
	"fmt"
	"math/big"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// A hit is the very token; a copy of the text hits too; another check does not.
func TestCacheHit(t *testing.T) {
	_, raw, check := minted(t)
	c := NewCache(1 << 20)
	first, err := c.Verify(now, raw, check)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Verify(now, strings.Clone(raw), check); err != nil || again != first {
		t.Errorf("verified anew: %v", err)
	}
	same := *check
	if other, err := c.Verify(now, raw, &same); err != nil || other == first {
		t.Errorf("another check found the token of the first: %v", err)
	}
	narrower := *check
	narrower.Audiences = []string{"other"}
	if _, err := c.Verify(now, raw, &narrower); err == nil {
		t.Error("a check for another audience took the token of the first")
	}
	if again, err := c.Verify(now, raw, check); err != nil || again != first {
		t.Errorf("the others took its place: %v", err)
	}
}

// Life is min(exp, a minute): neither a token's end nor a clock that is set back is missed.
func TestCacheLife(t *testing.T) {
	s, _, check := minted(t)
	c := NewCache(1 << 20)
	claims := typical()
	claims.Exp = epoch + 30
	short, err := s.Sign(TypAccess, claims)
	if err != nil {
		t.Fatal(err)
	}
	claims = typical()
	claims.Exp = epoch + 3600
	long, err := s.Sign(TypAccess, claims)
	if err != nil {
		t.Fatal(err)
	}
	at := func(sec int64, raw string) (*Token, error) { return c.Verify(time.Unix(epoch+sec, 0), raw, check) }
	if _, err := at(0, short); err != nil {
		t.Fatal(err)
	}
	if _, err := at(29, short); err != nil {
		t.Error(err)
	}
	if _, err := at(30, short); err == nil || err.(*Error).Reason != Exp {
		t.Errorf("a token that ended: %v", err)
	}
	first, err := at(0, long)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := at(59, long); again != first {
		t.Error("verified anew within a minute")
	}
	second, err := at(60, long)
	if err != nil || second == first {
		t.Errorf("not verified anew after a minute: %v", err)
	}
	if again, _ := at(100, long); again != second {
		t.Error("the second verification was not kept")
	}
	if _, err := at(-20, long); err == nil || err.(*Error).Reason != Iat {
		t.Errorf("a clock that was set back: %v", err)
	}
	loose := *check
	loose.ExpSkew = time.Minute
	if _, err := c.Verify(time.Unix(epoch+80, 0), short, &loose); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Verify(time.Unix(epoch+90, 0), short, &loose); err == nil {
		t.Error("a token lives past its tolerance")
	}
}

// R15a: a key that leaves the set takes its tokens along at once. R15b: at a rotation no good
// token is refused.
func TestR15CacheRotation(t *testing.T) {
	c := NewCache(1 << 20)
	var signers []*Signer
	for range 8 {
		s, err := NewSigner(newKey(t, elliptic.P256()))
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, s)
	}
	base := Check{Profile: Own, Issuer: issuer, Audiences: []string{orders}}
	var old []string
	for i, s := range signers {
		check := base
		check.Keys = setOf(t, s.Key(), signers[(i+1)%len(signers)].Key()) // active and next
		if i > 0 {
			check.Keys = setOf(t, s.Key(), signers[(i+1)%len(signers)].Key(), signers[i-1].Key())
		}
		raw, err := s.Sign(TypAccess, typical())
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := c.Verify(now, raw, &check); err != nil {
				t.Errorf("rotation %d: %v", i, err)
			}
			if i > 0 {
				if _, err := c.Verify(now, old[i-1], &check); err != nil {
					t.Errorf("rotation %d, previous key: %v", i, err)
				}
			}
		}
		if i > 1 && i < len(signers)-1 {
			if _, err := c.Verify(now, old[i-2], &check); err == nil || err.(*Error).Reason != KeyID {
				t.Errorf("rotation %d, key that is gone: %v", i, err)
			}
		}
		old = append(old, raw)
	}
}

// A token in two spellings is two entries that name the same token.
func TestCacheTwoSpellings(t *testing.T) {
	_, raw, check := minted(t)
	dot := strings.LastIndexByte(raw, '.')
	sig, err := alphabet.DecodeString(raw[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(sig[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(sig[32:])
	c := NewCache(1 << 20)
	a, err1 := c.Verify(now, raw, check)
	b, err2 := c.Verify(now, raw[:dot+1]+alphabet.EncodeToString(sig), check)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if a == b || a.ID() != b.ID() || a.ID() == "" {
		t.Errorf("%p %q, %p %q", a, a.ID(), b, b.ID())
	}
}

// Failures are not kept: they fill nothing.
func TestCacheKeepsNoFailures(t *testing.T) {
	_, raw, check := minted(t)
	c := NewCache(1 << 20)
	for i := range 100 {
		if _, err := c.Verify(now, raw[:len(raw)-4]+fmt.Sprintf("%04d", i), check); err == nil {
			t.Fatal("accepted")
		}
	}
	if _, err := c.Verify(now, strings.Repeat("A", 10*MaxToken), check); err.(*Error).Reason != Size {
		t.Error(err)
	}
	for i := range c.shard {
		if n := len(c.shard[i].ring); n != 0 {
			t.Errorf("shard %d holds %d", i, n)
		}
	}
}

// The bytes are bounded, the CLOCK keeps what is used, and map, ring and sum stay in step.
func TestCacheEviction(t *testing.T) {
	const per = 8
	s := &shard{by: map[place]*kept{}}
	raw := strings.Repeat("x", 100)
	const size = 1000
	entry := func(n int) *kept { return &kept{place: place{hash: uint64(n)}, raw: raw, size: size} }
	const limit = per * size
	for n := range per {
		s.keep(entry(n), limit)
	}
	s.keep(entry(per), limit) // the hand goes round once, then takes 0
	for n := range 1000 {
		hot := s.by[place{hash: 5}]
		if hot == nil {
			t.Fatalf("what was used was evicted at %d", n)
		}
		hot.used.Store(true)
		s.keep(entry(100+n), limit)
		if s.bytes > limit || len(s.ring) != len(s.by) || s.bytes != len(s.ring)*size {
			t.Fatalf("%d bytes of %d, %d in the ring, %d in the map", s.bytes, limit, len(s.ring), len(s.by))
		}
		for i, e := range s.ring {
			if e.at != i || s.by[e.place] != e {
				t.Fatal("ring and map are out of step")
			}
		}
	}
	again := entry(5)
	s.keep(again, limit)
	if s.by[again.place] != again || s.ring[again.at] != again || s.bytes > limit {
		t.Error("a second verification did not take the place of the first")
	}
	s.keep(&kept{size: limit + 1}, limit)
	if s.by[place{}] != nil {
		t.Error("an entry larger than its shard is kept")
	}
}

// What an entry weighs is what it holds, also where little JSON becomes many claims.
func TestCacheWeighsWhatItHolds(t *testing.T) {
	st := newStand(t)
	small := func(n int, with string) string { return "{" + strings.TrimSuffix(strings.Repeat(with, n), ",") + "}" }
	var names strings.Builder
	for i := range 400 {
		fmt.Fprintf(&names, `"%x":{},`, i)
	}
	for what, o := range map[string]object{
		"typical": claimsNow(), "objects": claimsNow().set("x", small(1, names.String())), "texts": claimsNow().set("x", "["+strings.TrimSuffix(strings.Repeat(`"",`, 1500), ",")+"]"),
		"blanks": claimsNow().set("scope", quote(strings.Repeat("a ", 1500))), "long": claimsNow().set("x", quote(strings.Repeat("x", 4000))),
	} {
		raw := st.sign(st.header("").String(), o.String())
		tok, err := st.ext.Verify(now, raw)
		if err != nil {
			t.Fatal(err)
		}
		const many = 200
		held := make([]*kept, 0, many)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.GC() // what finalizers held goes with the second
		runtime.ReadMemStats(&before)
		for range many {
			k := &kept{raw: strings.Clone(raw)}
			if k.token, err = st.ext.Verify(now, raw); err != nil {
				t.Fatal(err)
			}
			held = append(held, k)
		}
		runtime.GC()
		runtime.GC() // what finalizers held goes with the second
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(held)
		real, said := int(after.HeapAlloc-before.HeapAlloc)/many, weigh(raw, tok)
		if said < real*2/3 || said > real*5/2 {
			t.Errorf("%s: an entry holds %d bytes, is said to hold %d", what, real, said)
		}
	}
}

func TestCacheConcurrently(t *testing.T) {
	s, _, check := minted(t)
	c := NewCache(shards * 3 * 6000) // a few of each shard
	var raws []string
	for i := range 50 {
		claims := typical()
		claims.Jti = fmt.Sprint("j", i)
		raw, err := s.Sign(TypAccess, claims)
		if err != nil {
			t.Fatal(err)
		}
		raws = append(raws, raw)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 400 {
				n := (i*7 + g) % len(raws)
				tok, err := c.Verify(now, raws[n], check)
				if err != nil || tok.ID() != fmt.Sprint("j", n) {
					t.Errorf("token %d: %v", n, err)
				}
			}
		})
	}
	wg.Wait()
}
