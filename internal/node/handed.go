package node

import (
	"context"
	"net"
	"sync"
)

// idleSockets closes what comes in at sockets that were handed over and that no Gateway wants: they stay in LISTEN as
// long as somebody holds them, and callers would wait for nobody.
type idleSockets struct {
	stops map[*Inherited]func() // of run alone
}

// settle begins with the sockets of ports that nobody wants, and leaves those of the others.
func (s *idleSockets) settle(ctx context.Context, all []Inherited, wanted func(port uint16) bool) {
	for i := range all {
		h := &all[i]
		stop := s.stops[h]
		switch {
		case wanted(h.Port) && stop != nil:
			stop()
			delete(s.stops, h)
		case !wanted(h.Port) && stop == nil && ctx.Err() == nil:
			if s.stops == nil {
				s.stops = map[*Inherited]func(){}
			}
			if l, err := net.FileListener(h.File); err == nil {
				s.stops[h] = turnAway(l)
			}
		}
	}
}

func (s *idleSockets) close() {
	for _, stop := range s.stops {
		stop()
	}
}

// turnAway resets every connection until stop, which waits for its end.
func turnAway(l net.Listener) (stop func()) {
	var loop sync.WaitGroup
	loop.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // of a listener whose descriptor is shared: closed, or the host is out of descriptors
			}
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = c.Close()
		}
	})
	return func() {
		_ = l.Close()
		loop.Wait()
	}
}
