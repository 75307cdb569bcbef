package workloadapi

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// maxPath is what fits into sockaddr_un on Linux with its closing zero byte.
const maxPath = 107

// Listen opens the socket that everyone may connect to (identity.md 6.1). What is left of a
// node that was killed is removed; a socket that answers, or a file of another kind, is not.
func Listen(path string) (*net.UnixListener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("workload socket %q: path has %d bytes, at most %d fit", path, len(path), maxPath)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("workload socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("workload socket: %w", err)
	}
	// Until here it has what the umask left of 0777: less, so nobody comes too early.
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("workload socket: %w", err)
	}
	return l, nil
}

func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%q exists and is no socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		c.Close()
		return fmt.Errorf("another process answers on %q", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("another process may answer: %w", err)
	}
}
