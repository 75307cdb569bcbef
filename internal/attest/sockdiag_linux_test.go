package attest

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzParseDiag: an answer of any length and kind panics nothing.
func FuzzParseDiag(f *testing.F) {
	none := make([]byte, 36)
	binary.NativeEndian.PutUint16(none[4:], unix.NLMSG_ERROR)
	binary.NativeEndian.PutUint32(none[16:], 0xfffffffe)
	f.Add(none)
	found := make([]byte, unix.SizeofNlMsghdr+diagAnswerSize)
	binary.NativeEndian.PutUint16(found[4:], unix.SOCK_DIAG_BY_FAMILY)
	f.Add(found)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, ok, err := parseDiag(b); ok && err != nil {
			t.Errorf("found, and %v", err)
		}
	})
}
