// Package attest proves what a process is, from what the kernel says about it alone, and what
// a machine is, from a join code.
//
// Its words: a process is one running program, held by a pidfd so that its number cannot pass
// to another one; facts are what was read about it; a selector is one fact as "type:value"; a
// socket is judged by its owner's uid and by who holds it; a run is a program started by
// `countersign run`, with its descendants; a join code lets a new machine prove itself once.
// Its promise: no fact is kept that was not proven to be about the process that is still
// alive after the reading (identity.md 11.1), and what the kernel does not tell is absent or
// refused, never guessed. Linux is the only system on which processes are told apart; on
// others every question is answered by ErrUnsupported.
package attest

import (
	"errors"
	"slices"
)

// What callers branch on; everything else is text for the log.
var (
	ErrGone        = errors.New("gone")                                               // the process or the connection ended
	ErrChanged     = errors.New("process is no longer what it was")                   // executable, credentials or cgroup
	ErrNotRun      = errors.New("not of the run")                                     // the socket belongs to somebody else
	ErrNamespaces  = errors.New("namespaces of the process cannot be read")           // identity.md 11.5, last part
	ErrUnsupported = errors.New("this system does not tell one process from another") // not Linux, or no pidfd
)

// Facts is what the kernel told about one process at one moment. Its slices are shared: read only.
type Facts struct {
	PID         int
	UID, GID    uint32   // effective, in the node's own user namespace
	Groups      []uint32 // supplementary
	Exe         string   // as the kernel spells it; trust the inode, or unix:path, not this text
	ExeDev      uint64
	ExeIno      uint64 // 0: the executable of this process cannot be read (identity.md 11.2, Rights)
	ExeReplaced bool   // the file was deleted or replaced while it runs: no unix:path
	StartTime   uint64 // clock ticks since boot
	Cgroup      string // the text of /proc/<pid>/cgroup
	Container   string // its container id, where the cgroup names one
	UserNS      uint64 // inode; 0: cannot be read
	NetNS       uint64
	Selectors   []string // unix:*, sorted, without unix:sha256 (see Process.SHA256)
	Missing     []string // what could not be told and why, for the log: "no user has uid 1234"
}

// Same reports whether f and g are one process that did not change: what identity.md 11.1
// compares at each RPC. Recheck compares with the last Attest; who keeps older facts, a stream,
// compares those with this.
func (f Facts) Same(g Facts) bool {
	return f.PID == g.PID && f.UID == g.UID && f.GID == g.GID && f.ExeDev == g.ExeDev && f.ExeIno == g.ExeIno &&
		f.Cgroup == g.Cgroup && slices.Equal(f.Groups, g.Groups)
}

// Socket is what the kernel says of one TCP socket of this machine.
type Socket struct {
	UID    uint32 // of the process that made or accepted it; says nothing while Inode is 0
	Inode  uint64 // 0: no process holds it (not accepted yet, or closed)
	Found  bool
	Queued bool // no process has it yet: it waits in a listener's queue, or its handshake does
}
