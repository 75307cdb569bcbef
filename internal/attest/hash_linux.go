package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	maxHashed  = 512 << 20 // bytes of an executable
	maxHashing = 2         // at the same time, so that strangers' programs cannot take the machine
	maxHashes  = 1024      // remembered
)

// hashKey is one content of one file: any write changes one of these.
type hashKey struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

var hashes = struct {
	slots chan struct{}
	mu    sync.Mutex // guards known; held for a look-up, never while hashing
	known map[hashKey]string
}{slots: make(chan struct{}, maxHashing), known: make(map[hashKey]string)}

// SHA256 is the value of unix:sha256, in hex: the hash of the running inode, read through
// /proc/<pid>/exe, so that a file replaced on disk does not matter (identity.md 11.2). It is
// dear: ask only for an entry that wants it and whose other selectors were all found. The
// second asking is free.
func (p *Process) SHA256() (string, error) {
	p.mu.Lock()
	known, want, closed := p.hash, p.facts, p.closed
	var exe *os.File
	var err error
	if known == "" && !closed && p.pidfd != nil {
		var fd int
		if fd, err = openat(int(p.dir.Fd()), "exe", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK); err == nil {
			exe = os.NewFile(uintptr(fd), "exe")
		}
	}
	p.mu.Unlock()
	if known != "" {
		return known, nil
	}
	if err != nil {
		return "", fmt.Errorf("process %d: hashing its executable: %w", p.pid, err)
	}
	if exe == nil {
		return "", fmt.Errorf("process %d: hashing its executable: %w", p.pid, ErrGone)
	}
	defer exe.Close()
	sum, err := hashOf(exe, want)
	if err != nil {
		return "", fmt.Errorf("process %d: hashing its executable: %w", p.pid, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.facts.ExeDev == want.ExeDev && p.facts.ExeIno == want.ExeIno {
		p.hash = sum
	}
	return sum, nil
}

// hashOf hashes an open executable, which must be the one of the facts and must not change.
func hashOf(exe *os.File, want Facts) (string, error) {
	key, err := keyOf(exe)
	if err != nil {
		return "", err
	}
	if key.dev != want.ExeDev || key.ino != want.ExeIno {
		return "", ErrChanged
	}
	if key.size > maxHashed {
		return "", fmt.Errorf("it has %d bytes, at most %d are hashed", key.size, maxHashed)
	}
	hashes.mu.Lock()
	sum, ok := hashes.known[key]
	hashes.mu.Unlock()
	if ok {
		return sum, nil
	}
	hashes.slots <- struct{}{}
	defer func() { <-hashes.slots }()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(exe, maxHashed)); err != nil {
		return "", err
	}
	after, err := keyOf(exe)
	if err != nil {
		return "", err
	}
	if after != key {
		return "", ErrChanged
	}
	sum = hex.EncodeToString(h.Sum(nil))
	hashes.mu.Lock()
	defer hashes.mu.Unlock()
	if len(hashes.known) >= maxHashes {
		clear(hashes.known) // rare, and it costs only time
	}
	hashes.known[key] = sum
	return sum, nil
}

func keyOf(f *os.File) (hashKey, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return hashKey{}, err
	}
	return hashKey{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}, nil
}
