package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"countersign.dev/internal/admin"
	"golang.org/x/sys/unix"
)

// takeListeners receives the descriptors that run opened with its own rights: the proxy
// listener first, then one for each --listen. Each must be a listening TCP socket, the first
// on loopback; nothing else that a descriptor can be is of use here, and none is kept.
func (x *run) takeListeners() ([]net.Listener, error) {
	x.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	defer x.conn.SetReadDeadline(time.Time{})
	line := make([]byte, 4096)
	oob := make([]byte, unix.CmsgSpace(4*maxListeners))
	n, oobn, _, _, err := x.conn.ReadMsgUnix(line, oob)
	if err != nil {
		return nil, fmt.Errorf("waiting for its listeners: %w", err)
	}
	files, err := descriptors(oob[:oobn])
	defer func() {
		for _, f := range files {
			f.Close() // net.FileListener made its own
		}
	}()
	if err != nil {
		return nil, err
	}
	var m admin.RunMessage
	if err := json.Unmarshal(line[:n], &m); err != nil || m.Listeners != len(files) || len(files) != 1+len(x.req.Listen) {
		return nil, fmt.Errorf("%d listeners came, %d were promised", len(files), 1+len(x.req.Listen))
	}
	var out []net.Listener
	fail := func(err error) ([]net.Listener, error) {
		for _, l := range out {
			l.Close()
		}
		return nil, err
	}
	for i, f := range files {
		l, err := listener(f, i == 0)
		if err != nil {
			return fail(err)
		}
		out = append(out, l)
	}
	return out, nil
}

func descriptors(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("reading descriptors: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, fmt.Errorf("reading descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "listener"))
		}
	}
	return files, nil
}

func listener(f *os.File, loopback bool) (net.Listener, error) {
	fd := int(f.Fd())
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on != 1 {
		return nil, errors.New("a descriptor is no listening socket")
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("taking a listener: %w", err)
	}
	t, ok := l.(*net.TCPListener)
	if !ok || loopback && !t.Addr().(*net.TCPAddr).IP.IsLoopback() {
		l.Close()
		return nil, errors.New("a listener is not TCP, or the proxy's is not on loopback")
	}
	return t, nil
}
