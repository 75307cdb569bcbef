package ca

import (
	"context"
	"time"
)

const (
	// tick is how often the wall clock is looked at: Go's timers stand still while a machine
	// sleeps, the ends of certificates do not.
	tick     = 30 * time.Second
	maxRetry = time.Minute
)

// Run renews the issuing authority at half its life until ctx ends. While a renewal fails the
// present one goes on signing up to its end, and Run tries again.
func (a *Authority) Run(ctx context.Context) error {
	failures := 0
	for {
		wait := tick
		if iss := a.issuer.Load(); !time.Now().Before(iss.renewAt()) {
			if err := a.renew(ctx); err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				wait = min(time.Second<<min(failures, 6), maxRetry)
				failures++
				a.opt.Log.Error("renewing the issuing authority", "error", err, "ends", iss.cert.NotAfter, "next_try", wait)
			} else {
				failures = 0
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}
