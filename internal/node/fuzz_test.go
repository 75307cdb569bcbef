package node

import (
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzDescriptors: no control message of a run may panic the node. Numbers of descriptors in
// it are made up here, so only what cannot be parsed is tried further than parsing.
func FuzzDescriptors(f *testing.F) {
	f.Add([]byte{})
	f.Add(unix.UnixRights(0)[:10])
	f.Add(make([]byte, unix.CmsgSpace(4)))
	f.Fuzz(func(t *testing.T, oob []byte) {
		messages, err := unix.ParseSocketControlMessage(oob)
		if err != nil {
			return
		}
		for _, m := range messages {
			if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) > 0 {
				return // they would be this process's own
			}
		}
		if files, err := descriptors(oob); err == nil && len(files) > 0 {
			t.Errorf("%d descriptors from a message that holds none", len(files))
		}
	})
}
