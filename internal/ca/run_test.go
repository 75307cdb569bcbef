package ca_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"countersign.dev/internal/ca"
	"countersign.dev/internal/identity"
)

// held is a certificate in use by somebody who renews it when it is due.
type held struct {
	chain    []*x509.Certificate
	notAfter time.Time
	renewAt  time.Time
}

func take(t *testing.T, a *ca.Authority, r ca.Request) held {
	t.Helper()
	issued, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return held{parse(t, issued.Chain), issued.NotAfter, identity.RenewAt(issued.Serial, issued.IssuedAt, issued.NotAfter)}
}

// Thirty days: a leaf of one hour, renewed when it is due, never ends; nor does one of a day,
// whose authority is replaced while it is in use.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		a := h.open()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()

		trust := identity.NewTrust(td, a.Bundle())
		hour, long := workload(t), workload(t)
		long.TTL = 24 * time.Hour
		short, slow := take(t, a, hour), take(t, a, long)
		issuers, leaves := map[string]bool{}, 2
		begun := a.Status()[1]
		for range 30 * 24 * 60 {
			time.Sleep(time.Minute)
			synctest.Wait()
			now := time.Now()
			if !now.Before(short.renewAt) {
				short, leaves = take(t, a, hour), leaves+1
			}
			if !now.Before(slow.notAfter.Add(-time.Hour)) { // as late as can be
				slow, leaves = take(t, a, long), leaves+1
			}
			for _, leaf := range []held{short, slow} {
				if _, err := identity.Verify(leaf.chain, trust, now); err != nil {
					t.Fatalf("%v: %v", now, err)
				}
				issuers[string(leaf.chain[1].SubjectKeyId)] = true
			}
		}
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		// 30 days at 3.5 days each
		if len(issuers) != 9 || a.Status()[1].KeyID == begun.KeyID {
			t.Errorf("%d issuing authorities, want 9", len(issuers))
		}
		if leaves < 30*24 {
			t.Errorf("%d leaves, want one an hour or more", leaves)
		}
		if a.Status()[0].KeyID == "" || a.Bundle().Sequence != 1 {
			t.Error("the bundle changed with an issuing authority")
		}
		// keys of those before are destroyed, their certificates forgotten once they ended
		h.issuerFile()
		if n := len(h.keys("ca/issuer/s1/")); n > 3 {
			t.Errorf("%d issuing authorities stored, want the active one and at most two that have not ended", n)
		}
	})
}

// A token prepared before a renewal is not signed after it.
func TestTokenAcrossRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newHouse(t).open()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		time.Sleep(time.Until(a.Status()[1].RenewAt) - 10*time.Second)
		synctest.Wait()
		token, err := a.Prepare(workload(t), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		recorded, err := a.Record(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		before := a.Status()[1].KeyID
		for a.Status()[1].KeyID == before { // Run looks at the clock every 30 s
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if _, err := a.Sign(recorded); !errors.Is(err, ca.ErrStale) {
			t.Errorf("got %v, want ErrStale", err)
		}
		stop()
		<-done
	})
}

// While renewals fail the present authority signs on; they succeed as soon as they can.
func TestRotationOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		a := h.open()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		defer func() { stop(); <-done }()

		first := a.Status()[1]
		time.Sleep(3 * 24 * time.Hour)
		h.log.broken(errors.New("disk full")) // no record, so no new authority
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if got := a.Status()[1].KeyID; got != first.KeyID {
			t.Fatal("renewed without a record")
		}
		h.issuerFile()
		h.log.broken(nil)
		if _, err := a.Issue(t.Context(), workload(t)); err != nil {
			t.Errorf("the present authority does not sign: %v", err)
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if got := a.Status()[1].KeyID; got == first.KeyID {
			t.Error("not renewed within a minute of the end of the outage")
		}
	})
}

// A server that was away beyond the end of its authority makes the next at once.
func TestOpenAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		first := h.open()
		issued, err := first.Issue(t.Context(), workload(t))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(8 * 24 * time.Hour)
		if _, err := first.Issue(t.Context(), workload(t)); !errors.Is(err, ca.ErrTooShort) {
			t.Errorf("ended authority: got %v, want ErrTooShort", err)
		}
		second := h.open()
		if a, b := first.Status(), second.Status(); a[0].KeyID != b[0].KeyID || a[1].KeyID == b[1].KeyID {
			t.Errorf("got %+v, want the same root and another issuing authority", b)
		}
		h.issuerFile()
		again, err := second.Issue(t.Context(), workload(t))
		if err != nil || bytes.Equal(again.Chain[1], issued.Chain[1]) {
			t.Fatalf("after the end: %v", err)
		}
		checkGood(t, second, again, workload(t).ID, time.Now())

		time.Sleep(366 * 24 * time.Hour)
		if _, err := h.try(); err == nil || !errors.Is(err, ca.ErrTooShort) {
			t.Errorf("ended root: got %v, want ErrTooShort", err)
		}
	})
}
