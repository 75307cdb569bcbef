package attest

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const maxProcText = 64 << 10 // bytes of one file below /proc; longer is refused

// buffers are for reading files of /proc, which are made anew at each read.
var buffers = sync.Pool{New: func() any { b := make([]byte, maxProcText); return &b }}

// readText hands the text of one file below the directory descriptor dir to use; the bytes
// are valid only within it.
func readText(dir int, name string, use func([]byte) error) error {
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer unix.Close(fd)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n := 0
	for {
		m, err := unix.Read(fd, (*buf)[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if m == 0 {
			return use((*buf)[:n])
		}
		if n += m; n == len(*buf) {
			return fmt.Errorf("%s: longer than %d bytes", name, maxProcText)
		}
	}
}

func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func readlinkat(dir int, name string) (string, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n, err := unix.Readlinkat(dir, name, (*buf)[:unix.PathMax])
	if err != nil {
		return "", err
	}
	return string((*buf)[:n]), nil
}

// readStat reads /proc/<pid>/stat through the directory dir, or by name ("12/stat") below it.
func readStat(dir int, name string) (s stat, err error) {
	err = readText(dir, name, func(b []byte) (err error) {
		s, err = parseStat(b)
		return err
	})
	return s, err
}

// readChecked reads what is compared at each RPC: credentials, executable, cgroup. Not the
// start time: dir and the pidfd are bound to one process, whatever its number is given to.
func readChecked(dir, pid int) (f Facts, tracer int, err error) {
	f.PID = pid
	var st status
	err = readText(dir, "status", func(b []byte) (err error) {
		st, err = parseStatus(b)
		return err
	})
	if err != nil {
		return f, 0, err
	}
	f.UID, f.GID, f.Groups = st.uid, st.gid, st.groups
	err = readText(dir, "cgroup", func(b []byte) error {
		f.Cgroup = string(b)
		return nil
	})
	if err != nil {
		return f, 0, err
	}
	// The link is followed by the kernel to the running inode, whatever its text says. Without
	// the right to see it (another user's process, not dumpable) both numbers stay zero.
	var exe unix.Stat_t
	if err := unix.Fstatat(dir, "exe", &exe, 0); err == nil {
		f.ExeDev, f.ExeIno = uint64(exe.Dev), exe.Ino
	}
	return f, st.tracer, nil
}

// readFacts reads all of identity.md 11.2 that does not need a hash.
func readFacts(dir, pid int) (Facts, int, error) {
	f, tracer, err := readChecked(dir, pid)
	if err != nil {
		return f, 0, err
	}
	s, err := readStat(dir, "stat")
	if err != nil {
		return f, 0, err
	}
	f.StartTime = s.start
	f.Container = containerID(f.Cgroup)
	f.UserNS, f.NetNS = namespace(dir, "ns/user"), namespace(dir, "ns/net")
	if f.ExeIno != 0 {
		if f.Exe, err = readlinkat(dir, "exe"); err != nil {
			return f, 0, fmt.Errorf("exe: %w", err)
		}
	}
	f.describe()
	return f, tracer, nil
}

// namespace gives the inode of a namespace, 0 where we may not see it.
func namespace(dir int, name string) uint64 {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, 0); err != nil {
		return 0
	}
	return st.Ino
}

// describe turns the facts into selectors.
func (f *Facts) describe() {
	add := func(kind, value string) { f.Selectors = append(f.Selectors, "unix:"+kind+":"+value) }
	id := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	named := func(kind string, from *names, n uint32) {
		name, err := from.of(n)
		if err != nil {
			f.Missing = append(f.Missing, fmt.Sprintf("unix:%s: %v", kind, err))
			return
		}
		add(kind, name)
	}
	// Ids that have no number in our own user namespace all read as one and the same number:
	// it says nothing of who they are.
	if whole := idsAreWhole(); whole || f.UID != overflowID {
		add("uid", id(f.UID))
		named("user", &users, f.UID)
	}
	if whole := idsAreWhole(); whole || f.GID != overflowID {
		add("gid", id(f.GID))
		named("group", &groups, f.GID)
	}
	for _, g := range f.Groups {
		if !idsAreWhole() && g == overflowID {
			continue
		}
		add("supplementary_gid", id(g))
		named("supplementary_group", &groups, g)
	}
	f.describePath(add)
	slices.Sort(f.Selectors)
	f.Selectors = slices.Compact(f.Selectors)
}

// describePath adds unix:path where the path, looked up in our own mount namespace, is the
// running inode: a user namespace can make the link's text say anything (identity.md 11.2).
func (f *Facts) describePath(add func(kind, value string)) {
	const deleted = " (deleted)"
	var why string
	var st unix.Stat_t
	switch {
	case f.ExeIno == 0:
		why = "no right to see the executable"
	case f.Container != "":
		why = "the process is in a container"
	case strings.HasSuffix(f.Exe, deleted):
		f.ExeReplaced = true
		why = "executable was replaced on disk; restart the process"
	case !strings.HasPrefix(f.Exe, "/") || !printable([]byte(f.Exe)) || len(f.Exe)+len("unix:path:") > maxSelector:
		why = "the path is not printable, too long or outside of this file system"
	case unix.Stat(f.Exe, &st) != nil:
		why = "no such path in the node's mount namespace"
	case uint64(st.Dev) != f.ExeDev || st.Ino != f.ExeIno:
		why = "another file has that path in the node's mount namespace"
	default:
		add("path", f.Exe)
		return
	}
	f.Missing = append(f.Missing, "unix:path: "+why)
}

const overflowID = 65534

// idsAreWhole reports whether every uid has its own number here, as it has outside of user
// namespaces.
var idsAreWhole = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") == "0 0 4294967295"
})
