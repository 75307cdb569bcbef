package workloadapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"countersign.dev/internal/attest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// caller is one connection with the process that opened it: the net.Conn that gRPC serves, and
// the AuthInfo of its calls.
type caller struct {
	credentials.CommonAuthInfo
	*net.UnixConn
	process *attest.Process // nil: could not be attested, then fault says why
	fault   error
	pid     int    // for counting: 0 of user 0xffffffff where it could not be attested
	uid     uint32 // which no process is
	since   time.Time

	rooms *rooms
	place place     // guarded by rooms.mu
	once  sync.Once // Close
}

// AuthType names how calls were authenticated.
func (c *caller) AuthType() string { return "kernel" }

// Close gives the room and the process's descriptors back with the connection.
func (c *caller) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		c.rooms.leave(c)
		err = c.UnixConn.Close()
		if c.process != nil {
			err = errors.Join(err, c.process.Close())
		}
	})
	return err
}

// attestation is the transport security: at accept the kernel is asked who connected
// (identity.md 11.1). Nothing is read from the connection and nothing written.
type attestation struct{ rooms *rooms }

// ServerHandshake attests. A process that cannot be attested is told so by its first call,
// after the check of the header (6.2); one that finds no room is closed.
func (a attestation) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("%T is no unix connection", c)
	}
	from := &caller{UnixConn: u, uid: ^uint32(0), since: time.Now(), rooms: a.rooms}
	if from.process, from.fault = attest.FromConn(u); from.fault == nil {
		from.pid, from.uid = from.process.PID(), from.process.UID()
	}
	if err := a.rooms.enter(from); err != nil {
		if from.process != nil {
			from.process.Close()
		}
		return nil, nil, err
	}
	return from, from, nil
}

// ClientHandshake is refused: this is the server's half.
func (attestation) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("the Workload API asks its callers for no security")
}

// Info names the protocol.
func (attestation) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "kernel"}
}

// Clone gives a copy.
func (a attestation) Clone() credentials.TransportCredentials { return a }

// OverrideServerName has no meaning here.
func (attestation) OverrideServerName(string) error { return nil }

// errNotAttested is all that a caller learns; the reason is in the log.
var errNotAttested = status.Error(codes.PermissionDenied, "caller could not be attested")

// callerOf finds the connection of a call and attests it for that call: the facts stand, or
// are read anew (identity.md 11.1, last part).
func callerOf(ctx context.Context) (*caller, attest.Facts, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, attest.Facts{}, errors.New("call has no connection")
	}
	c, ok := p.AuthInfo.(*caller)
	if !ok {
		return nil, attest.Facts{}, fmt.Errorf("connection was authenticated as %T", p.AuthInfo)
	}
	if c.process == nil {
		return c, attest.Facts{}, c.fault
	}
	err := c.process.Recheck()
	if errors.Is(err, attest.ErrChanged) {
		err = c.process.Attest()
	}
	if err != nil {
		return c, attest.Facts{}, err
	}
	return c, c.process.Facts(), nil
}

// unchanged proves before a message that the process is still the one the call came from. It
// compares with the call's own facts: another call may have attested the connection anew.
func (c *caller) unchanged(f attest.Facts) error {
	if err := c.process.Recheck(); err != nil {
		return err
	}
	if !f.Same(c.process.Facts()) {
		return attest.ErrChanged
	}
	return nil
}
