//go:build !linux

package attest

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
)

// Process cannot be made on this system.
type Process struct{}

func unsupported() error { return fmt.Errorf("%s: %w", runtime.GOOS, ErrUnsupported) }

// FromConn answers ErrUnsupported.
func FromConn(*net.UnixConn) (*Process, error) { return nil, unsupported() }

// OpenPID answers ErrUnsupported.
func OpenPID(int) (*Process, error) { return nil, unsupported() }

// Below answers ErrUnsupported.
func Below(int, int) (bool, error) { return false, unsupported() }

// InRun answers ErrUnsupported.
func InRun(*Process, []int) (bool, error) { return false, unsupported() }

// PeerSocket answers ErrUnsupported.
func PeerSocket(*net.TCPConn) (Socket, error) { return Socket{}, unsupported() }

// ListenSocket answers ErrUnsupported.
func ListenSocket(netip.AddrPort) (Socket, error) { return Socket{}, unsupported() }

// HeldBelow answers ErrUnsupported.
func HeldBelow(uint64, int) (bool, error) { return false, unsupported() }

// HolderOf knows nobody.
func HolderOf(uint64) (int, string, bool) { return 0, "", false }

// ListeningBelow knows nothing.
func ListeningBelow(int) []uint16 { return nil }

// Established never holds: nothing can be proven here.
func Established(*net.TCPConn) bool { return false }

func (p *Process) PID() int                { return 0 }
func (p *Process) UID() uint32             { return 0 }
func (p *Process) GID() uint32             { return 0 }
func (p *Process) Facts() Facts            { return Facts{} }
func (p *Process) Attest() error           { return unsupported() }
func (p *Process) Recheck() error          { return unsupported() }
func (p *Process) Alive() bool             { return false }
func (p *Process) SHA256() (string, error) { return "", unsupported() }
func (p *Process) Close() error            { return nil }

// Done is closed from the start.
func (p *Process) Done() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}
