package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferBytes is how much one direction holds that nobody has read; a longer write waits.
const bufferBytes = 64 << 10

// Conn is one end of a connection: a net.Conn with CloseWrite.
type Conn struct {
	in, out       *half
	local, remote Addr
	readBy        deadline
	writeBy       deadline
}

// Pipe returns the two ends of a connection between the addresses a and b.
func Pipe(a, b Addr) (*Conn, *Conn) {
	ab, ba := new(half), new(half)
	one := &Conn{in: ba, out: ab, local: a, remote: b}
	two := &Conn{in: ab, out: ba, local: b, remote: a}
	for _, c := range []*Conn{one, two} {
		c.readBy.cancel, c.writeBy.cancel = make(chan struct{}), make(chan struct{})
	}
	return one, two
}

// Read takes what is there, and waits only for the first byte.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p, &c.readBy)
	if err != nil && err != io.EOF {
		err = c.opError("read", err)
	}
	return n, err
}

// Write returns when all of p is taken, or with what was taken so far and the reason.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p, &c.writeBy)
	if err != nil {
		err = c.opError("write", err)
	}
	return n, err
}

// Close ends both directions. The other end still reads what was written, then EOF; what it
// writes from now on fails with EPIPE.
func (c *Conn) Close() error {
	c.in.end(func(h *half) { h.unread, h.buf = true, nil })
	c.out.end(func(h *half) { h.unwritten, h.finished = true, true })
	c.readBy.stop()
	c.writeBy.stop()
	return nil
}

// CloseWrite ends this end's sending: the other end reads EOF after what was written.
func (c *Conn) CloseWrite() error {
	c.out.end(func(h *half) { h.finished = true })
	return nil
}

// LocalAddr is the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines; the zero time is none. Waiting calls notice.
func (c *Conn) SetDeadline(t time.Time) error {
	c.readBy.set(t)
	c.writeBy.set(t)
	return nil
}

// SetReadDeadline sets the deadline of Read.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.readBy.set(t)
	return nil
}

// SetWriteDeadline sets the deadline of Write.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t)
	return nil
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "memnet", Source: c.local, Addr: c.remote, Err: err}
}

// half is one direction of a connection.
type half struct {
	mu        sync.Mutex // guards all below, for the length of one copy; nobody waits under it
	buf       []byte
	finished  bool          // the writer sends no more: EOF once buf is empty
	unwritten bool          // the writer's end is closed: its own writes fail
	unread    bool          // the reader's end is closed: nothing is ever read again
	changed   chan struct{} // made by whoever waits, closed by the next change
}

func (h *half) read(p []byte, by *deadline) (int, error) {
	for {
		expired := by.wait()
		h.mu.Lock()
		switch {
		case h.unread:
			h.mu.Unlock()
			return 0, net.ErrClosed
		case isClosed(expired):
			h.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > 0 || len(p) == 0:
			n := copy(p, h.buf)
			if h.buf = h.buf[n:]; len(h.buf) == 0 {
				h.buf = nil // an idle connection holds no memory
			}
			h.changeLocked()
			h.mu.Unlock()
			return n, nil
		case h.finished:
			h.mu.Unlock()
			return 0, io.EOF
		}
		changed := h.nextLocked()
		h.mu.Unlock()
		select {
		case <-changed:
		case <-expired:
		}
	}
}

func (h *half) write(p []byte, by *deadline) (taken int, err error) {
	for {
		expired := by.wait()
		h.mu.Lock()
		switch {
		case h.unwritten:
			h.mu.Unlock()
			return taken, net.ErrClosed
		case h.finished, h.unread:
			h.mu.Unlock()
			return taken, syscall.EPIPE
		case isClosed(expired):
			h.mu.Unlock()
			return taken, os.ErrDeadlineExceeded
		}
		n := min(bufferBytes-len(h.buf), len(p)-taken)
		if n > 0 {
			h.buf = append(h.buf, p[taken:taken+n]...)
			taken += n
			h.changeLocked()
		}
		if taken == len(p) {
			h.mu.Unlock()
			return taken, nil
		}
		changed := h.nextLocked()
		h.mu.Unlock()
		select {
		case <-changed:
		case <-expired:
		}
	}
}

func (h *half) end(mark func(*half)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	mark(h)
	h.changeLocked()
}

func (h *half) nextLocked() <-chan struct{} {
	if h.changed == nil {
		h.changed = make(chan struct{})
	}
	return h.changed
}

func (h *half) changeLocked() {
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// deadline is a channel that closes when the time set has come, as in net.Pipe.
type deadline struct {
	mu     sync.Mutex // guards all below, never while waiting
	timer  *time.Timer
	cancel chan struct{}
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.cancel // the timer fired: its function closes the channel
	}
	d.timer = nil
	past := isClosed(d.cancel)
	if t.IsZero() {
		if past {
			d.cancel = make(chan struct{})
		}
		return
	}
	if left := time.Until(t); left > 0 {
		if past {
			d.cancel = make(chan struct{})
		}
		cancel := d.cancel
		d.timer = time.AfterFunc(left, func() { close(cancel) })
		return
	}
	if !past {
		close(d.cancel)
	}
}

// stop frees the timer of a closed connection.
func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && d.timer.Stop() {
		d.timer = nil
	}
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cancel
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
