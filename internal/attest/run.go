package attest

import (
	"fmt"
	"net"
	"net/netip"
)

// Run is what the kernel must confirm of a run's sockets (dataplane.md 25.2). Every method ends
// with the proof that our own end is still established: a connection that was reset gives its
// port free, and the look-up may have named a program of the run that took it (sec-tuple-reuse).
type Run struct {
	UID uint32 // of the user who started it
	PID int    // the `run` process: its descendants, not itself, are of the run
}

// Caller proves a connection that a program made without the run's secret: the client's socket
// must be held by a process of the run. The uid alone is shared with every other program of
// that user.
func (r Run) Caller(c *net.TCPConn) error {
	s, err := client(c)
	if err != nil {
		return err
	}
	held, err := HeldBelow(s.Inode, r.PID)
	if err != nil {
		return fmt.Errorf("client %s: %w", c.RemoteAddr(), err)
	}
	if !held {
		return fmt.Errorf("client %s: held by a process of uid %d: %w", c.RemoteAddr(), s.UID, ErrNotRun)
	}
	return established(c)
}

// CallerWithSecret proves a connection that brought the secret: its socket must have the run's
// uid, or be held by a process of the run that has another one (sec-secret-other-uid).
func (r Run) CallerWithSecret(c *net.TCPConn) error {
	s, err := client(c)
	if err != nil {
		return err
	}
	owns, err := r.owns(s)
	if err != nil {
		return fmt.Errorf("client %s: %w", c.RemoteAddr(), err)
	}
	if !owns {
		return fmt.Errorf("client %s: held by a process of uid %d: %w", c.RemoteAddr(), s.UID, ErrNotRun)
	}
	return established(c)
}

// client finds the socket of who connected; one that nobody holds any more proves nothing.
func client(c *net.TCPConn) (Socket, error) {
	s, err := PeerSocket(c)
	if err != nil {
		return s, fmt.Errorf("client %s: %w", c.RemoteAddr(), err)
	}
	if !s.Found || s.Inode == 0 {
		return s, fmt.Errorf("client %s: socket is not on this machine, or closed: %w", c.RemoteAddr(), ErrGone)
	}
	return s, nil
}

// Port proves a connection that we dialled to the program's port: whoever answers on it is of
// the run. An accepted socket tells by its owner. One that nobody has accepted yet lies in a
// listener's queue, and only who holds that listener can take it out: the listener that the
// kernel would choose now must be the run's, and the connection must still be in the queue
// afterwards. Otherwise somebody could accept it and close a more specific listener between
// the two looks (sec-unaccepted-port); a listener that closes resets what is in its queue.
// So nothing needs to be asked once the answer comes, when a program that answers and
// closes at once has left no trace of itself.
func (r Run) Port(c *net.TCPConn) error {
	port, err := remote(c)
	if err != nil {
		return err
	}
	accepted, err := PeerSocket(c)
	if err != nil {
		return fmt.Errorf("port %s: accepted socket: %w", port, err)
	}
	taken := accepted.Found && !accepted.Queued
	if taken {
		if err := r.ownsPort(accepted); err != nil {
			return fmt.Errorf("port %s: accepted socket: %w", port, err)
		}
	}
	listener, err := ListenSocket(port)
	if err != nil {
		return fmt.Errorf("port %s: listener: %w", port, err)
	}
	switch {
	case listener.Found && listener.Inode != 0:
		if err := r.ownsPort(listener); err != nil {
			return fmt.Errorf("port %s: listener: %w", port, err)
		}
	case !taken:
		return fmt.Errorf("port %s: nothing listens there any more: %w", port, ErrGone)
	default:
		// A program that takes one connection and closes its listener: who accepted is proven.
	}
	if !taken {
		if err := r.stillQueued(c); err != nil {
			return fmt.Errorf("port %s: accepted socket: %w", port, err)
		}
	}
	return established(c)
}

// stillQueued is the second look: in the queue as before, or taken out of it by the run.
func (r Run) stillQueued(c *net.TCPConn) error {
	s, err := PeerSocket(c)
	if err != nil {
		return err
	}
	if s.Found && s.Queued {
		return nil
	}
	return r.ownsPort(s)
}

// owns reports whether a socket that somebody holds is the run's, by uid or by holder.
func (r Run) owns(s Socket) (bool, error) {
	if s.UID == r.UID {
		return true, nil
	}
	return HeldBelow(s.Inode, r.PID)
}

// ownsPort is owns for the program's port, whose foreign holder is named in the alarm.
func (r Run) ownsPort(s Socket) error {
	if !s.Found || s.Inode == 0 {
		return fmt.Errorf("closed by whoever held it: %w", ErrGone)
	}
	owns, err := r.owns(s)
	if err != nil {
		return err
	}
	if !owns {
		return fmt.Errorf("held by %s: %w", owner(s), ErrNotRun)
	}
	return nil
}

func established(c *net.TCPConn) error {
	if !Established(c) {
		return fmt.Errorf("connection with %s: %w", c.RemoteAddr(), ErrGone)
	}
	return nil
}

// owner names who has the socket, as far as the kernel tells.
func owner(s Socket) string {
	if pid, comm, ok := HolderOf(s.Inode); ok {
		return fmt.Sprintf("process %d (%q, uid %d)", pid, comm, s.UID)
	}
	return fmt.Sprintf("a process of uid %d", s.UID)
}

func remote(c *net.TCPConn) (netip.AddrPort, error) {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("dialled connection: %w", ErrGone)
	}
	return a.AddrPort(), nil
}
