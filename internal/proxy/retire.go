package proxy

import (
	"context"
	"time"
)

// Retire closes the sockets of a Gateway's instance at once. What it gives waits until everything under way there has
// ended, or ctx has: connections end after what they carry, and take nothing more. stop of Start cuts the rest.
func (p *Proxy) Retire(instance string) (wait func(ctx context.Context)) {
	p.mu.RLock()
	r := p.runs[instance]
	p.mu.RUnlock()
	if r == nil || r.front == nil {
		return func(context.Context) {}
	}
	for _, d := range r.doors {
		_ = d.Listener.Close()
	}
	return func(ctx context.Context) {
		_ = r.front.srv.Shutdown(ctx)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for r.live.count() > 0 { // what was upgraded the server knows no more
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}
