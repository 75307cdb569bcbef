package proxy

import (
	"container/list"
	"net"
	"sync"
)

// greetings are the connections of a listener that have proven nothing yet: at most
// maxHandshakes. One more closes the oldest, because to close the newest would let whoever opens
// connections and says nothing lock everybody else out (sec-limits-no-lockout).
type greetings struct {
	mu  sync.Mutex // guards all; held for one step in the list and a close
	all list.List  // of net.Conn, oldest first
}

// enter takes a connection in until leave, which may be called more than once.
func (g *greetings) enter(c net.Conn) (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := g.all.PushBack(c)
	if g.all.Len() > maxHandshakes {
		_ = g.all.Remove(g.all.Front()).(net.Conn).Close()
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.all.Remove(at) // nothing, if it is out already
	}
}
