package attest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"countersign.dev/internal/store"
)

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

var keyA, keyB = []byte("spki of A"), []byte("spki of B")

func invite(t *testing.T, j *Joins, name string, ttl time.Duration) string {
	t.Helper()
	secret, err := j.Invite(t.Context(), name, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestRedeem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := store.Memory(store.MemoryOptions{})
		defer st.Close()
		j := NewJoins(st)
		used, unused := invite(t, j, "web-1", 0), invite(t, j, "", time.Minute)
		if used == unused || checkSecret(used) != nil {
			t.Fatalf("secrets %q, %q", used, unused)
		}
		start := time.Now()
		for _, s := range []struct {
			what   string
			at     time.Duration
			secret string
			key    []byte
			name   string
			err    error
		}{
			{"unknown", 0, strings.Repeat("A", 43), keyA, "", ErrUnknown},
			{"first use", 9 * time.Minute, used, keyA, "web-1", nil},
			{"lost answer", 9 * time.Minute, used, keyA, "web-1", nil},
			{"another key", 9 * time.Minute, used, keyB, "", ErrSpent},
			{"the same key late", 20 * time.Minute, used, keyA, "web-1", nil},
			{"another key late", 20 * time.Minute, used, keyB, "", ErrSpent},
			{"too late", 20*time.Minute + 1, used, keyA, "", ErrExpired},
			{"never used", time.Minute + 1, unused, keyA, "", ErrExpired},
			{"without name", time.Minute, unused, keyB, "", nil},
		} {
			name, err := j.Redeem(t.Context(), s.secret, s.key, start.Add(s.at))
			if name != s.name || !errors.Is(err, s.err) {
				t.Errorf("%s: got %q, %v, want %q, %v", s.what, name, err, s.name, s.err)
			}
		}
		kvs, _, err := st.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range kvs {
			if strings.Contains(kv.Key+string(kv.Value), used) {
				t.Errorf("the store holds the secret: %s = %s", kv.Key, kv.Value)
			}
		}
		// Ended codes go when the next one is made.
		time.Sleep(joinKept + 11*time.Minute)
		invite(t, j, "x", 0)
		if kvs, _, err = st.List(t.Context(), joinPrefix); err != nil || len(kvs) != 1 {
			t.Errorf("%d codes are kept, %v", len(kvs), err)
		}
	})
}

func TestInviteTTL(t *testing.T) {
	j := NewJoins(store.Memory(store.MemoryOptions{}))
	for _, ttl := range []time.Duration{-1, 1, time.Minute - 1, 24*time.Hour + 1} {
		if _, err := j.Invite(t.Context(), "n", ttl); err == nil {
			t.Errorf("ttl %v was taken", ttl)
		}
	}
}

// Of a hundred machines with one code, one joins.
func TestRedeemRace(t *testing.T) {
	j := NewJoins(store.Memory(store.MemoryOptions{}))
	secret := invite(t, j, "n", 0)
	var won, spent int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			_, err := j.Redeem(t.Context(), secret, fmt.Append(nil, i), time.Now())
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case errors.Is(err, ErrSpent):
				spent++
			default:
				t.Errorf("key %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if won != 1 || spent != 99 {
		t.Errorf("%d won, %d found it spent", won, spent)
	}
}

// A commit whose outcome is unknown burns nothing: the same key repeats.
func TestRedeemLostCommit(t *testing.T) {
	for _, outcome := range []store.Outcome{store.Lost, store.Applied} {
		faulty := false
		j := NewJoins(store.Memory(store.MemoryOptions{Fault: func(store.Txn) store.Outcome {
			if faulty {
				faulty = false
				return outcome
			}
			return store.Normal
		}}))
		secret := invite(t, j, "n", 0)
		faulty = true
		_, err := j.Redeem(t.Context(), secret, keyA, time.Now())
		wantErr(t, "first", err, store.ErrUnavailable)
		if name, err := j.Redeem(t.Context(), secret, keyA, time.Now()); err != nil || name != "n" {
			t.Errorf("outcome %d: repeat: %q, %v", outcome, name, err)
		}
	}
}

var goodCode = Code{
	TrustDomain: "example.org",
	Servers:     []string{"10.0.0.1:7442", "[::1]:7442", "cs.example.org:7442"},
	Pin:         strings.Repeat("0a", 32),
	Secret:      strings.Repeat("A", 43),
}

func TestCode(t *testing.T) {
	for _, c := range []Code{goodCode, {TrustDomain: "cluster.local", Pin: goodCode.Pin, Secret: goodCode.Secret}} {
		got, err := ParseCode(" " + c.String() + "\r\n")
		if err != nil || got.String() != c.String() {
			t.Errorf("%v: got %v, %v", c, got, err)
		}
	}
	with := func(change func(*Code)) string {
		c := goodCode
		change(&c)
		return c.String()
	}
	good := goodCode.String()
	for what, s := range map[string]string{
		"empty":             "",
		"other version":     "csj2." + good[5:],
		"cut":               good[:len(good)-3],
		"cut at a boundary": good[:len(good)-4],
		"padding":           good + "=",
		"line break":        good[:20] + "\n" + good[20:],
		"trust domain":      with(func(c *Code) { c.TrustDomain = "Example.org" }),
		"no trust domain":   with(func(c *Code) { c.TrustDomain = "" }),
		"server":            with(func(c *Code) { c.Servers = []string{"http://x/"} }),
		"no port":           with(func(c *Code) { c.Servers = []string{"x:"} }),
		"17 servers":        with(func(c *Code) { c.Servers = make([]string, 17) }),
		"pin":               with(func(c *Code) { c.Pin = strings.ToUpper(c.Pin) }),
		"secret":            with(func(c *Code) { c.Secret = c.Secret[1:] }),
		"secret's last bit": with(func(c *Code) { c.Secret = strings.Repeat("A", 42) + "B" }),
		"long":              with(func(c *Code) { c.Servers = []string{strings.Repeat("a", 4000) + ":1"} }),
	} {
		if c, err := ParseCode(s); err == nil {
			t.Errorf("%s: taken as %+v", what, c)
		} else if strings.Contains(err.Error(), goodCode.Secret) {
			t.Errorf("%s: the error holds the secret: %v", what, err)
		}
	}
}

// FuzzParseCode: one code has one spelling, and no text panics the parser.
func FuzzParseCode(f *testing.F) {
	f.Add(goodCode.String())
	f.Add("csj1.e30")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCode(s)
		if err == nil && c.String() != strings.TrimSpace(s) {
			t.Errorf("%q was read as %+v", s, c)
		}
	})
}
