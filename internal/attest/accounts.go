package attest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// names maps the ids of one file, /etc/passwd or /etc/group, to names. Read without cgo, so
// that what a name service library would answer from the network is absent, not guessed.
type names struct {
	path string

	mu    sync.Mutex // guards the rest; held while the file is read
	size  int64
	mod   time.Time
	file  os.FileInfo
	byID  map[uint32]string
	fault error
}

var (
	users  = names{path: "/etc/passwd"}
	groups = names{path: "/etc/group"}
)

const maxAccounts = 16 << 20 // bytes of either file

// of gives the first name that the file holds for id, as getpwuid does.
func (n *names) of(id uint32) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now, err := os.Stat(n.path)
	if err != nil {
		return "", err
	}
	if n.file == nil || !os.SameFile(n.file, now) || n.size != now.Size() || !n.mod.Equal(now.ModTime()) {
		n.byID, n.fault = readAccounts(n.path)
		n.file, n.size, n.mod = now, now.Size(), now.ModTime()
	}
	if n.fault != nil {
		return "", n.fault
	}
	name, ok := n.byID[id]
	if !ok {
		return "", fmt.Errorf("no line of %s has the id %d", n.path, id)
	}
	return name, nil
}

func readAccounts(path string) (map[uint32]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAccounts+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxAccounts {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxAccounts)
	}
	return parseAccounts(b), nil
}

// parseAccounts reads lines of name:password:id:…; the id stands third in both files. A line
// that is no such line is passed over, as the C library does.
func parseAccounts(b []byte) map[uint32]string {
	m := make(map[uint32]string)
	for line := range bytes.Lines(b) {
		f := bytes.SplitN(bytes.TrimRight(line, "\n"), []byte(":"), 4)
		if len(f) < 4 || !printable(f[0]) || f[0][0] == '#' || f[0][0] == '+' || f[0][0] == '-' {
			continue
		}
		id, err := strconv.ParseUint(string(f[2]), 10, 32)
		if err != nil {
			continue
		}
		if _, ok := m[uint32(id)]; !ok {
			m[uint32(id)] = string(f[0])
		}
	}
	return m
}

const maxSelector = 1 << 10 // bytes, identity.md 11.2

// printable reports whether b may be the value of a selector.
func printable(b []byte) bool {
	if len(b) == 0 || len(b) > maxSelector || !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
