package attest

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The texts below /proc hold bytes that a stranger chose: the name of its process, of its
// cgroup. These parsers take no position from such bytes.

// stat is what we read of /proc/<pid>/stat.
type stat struct {
	comm  string
	state byte
	ppid  int
	start uint64
}

// parseStat reads /proc/<pid>/stat. The second field is a name in parentheses that may itself
// hold parentheses and line feeds, so the fields are counted from the last ')'.
func parseStat(b []byte) (stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return stat{}, errors.New("stat has no name in parentheses")
	}
	f := bytes.Fields(b[end+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("stat has %d fields after the name", len(f))
	}
	ppid, err := strconv.ParseUint(string(f[1]), 10, 31) // field 4
	if err != nil {
		return stat{}, fmt.Errorf("parent in stat: %w", err)
	}
	start, err := strconv.ParseUint(string(f[19]), 10, 64) // field 22
	if err != nil {
		return stat{}, fmt.Errorf("start time in stat: %w", err)
	}
	return stat{string(b[open+1 : end]), f[0][0], int(ppid), start}, nil
}

// status is what we read of /proc/<pid>/status.
type status struct {
	uid, gid uint32 // effective
	groups   []uint32
	tracer   int
}

const maxGroups = 256 // identity.md 11.2

// parseStatus reads /proc/<pid>/status. The kernel escapes line feeds in the name there, so a
// line that begins with a field's name is that field.
func parseStatus(b []byte) (status, error) {
	var s status
	var seen int
	for line := range bytes.Lines(b) {
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		var err error
		switch string(name) {
		case "Uid":
			s.uid, err = second(value)
			seen |= 1
		case "Gid":
			s.gid, err = second(value)
			seen |= 2
		case "TracerPid":
			s.tracer, err = strconv.Atoi(string(bytes.TrimSpace(value)))
			seen |= 4
		case "Groups":
			s.groups, err = numbers(value)
			seen |= 8
		}
		if err != nil {
			return status{}, fmt.Errorf("%s in status: %w", name, err)
		}
	}
	if seen != 15 {
		return status{}, errors.New("status lacks one of Uid, Gid, TracerPid, Groups")
	}
	return s, nil
}

// second takes the effective id out of "real effective saved filesystem".
func second(b []byte) (uint32, error) {
	f := bytes.Fields(b)
	if len(f) != 4 {
		return 0, fmt.Errorf("%d ids instead of 4", len(f))
	}
	n, err := strconv.ParseUint(string(f[1]), 10, 32)
	return uint32(n), err
}

func numbers(b []byte) ([]uint32, error) {
	f := bytes.Fields(b)
	if len(f) > maxGroups {
		return nil, fmt.Errorf("%d groups, at most %d", len(f), maxGroups)
	}
	ns := make([]uint32, len(f))
	for i, s := range f {
		n, err := strconv.ParseUint(string(s), 10, 32)
		if err != nil {
			return nil, err
		}
		ns[i] = uint32(n)
	}
	return ns, nil
}

// containerID finds a container's id in the text of /proc/<pid>/cgroup (identity.md 11.3): a
// component of 64 hex digits, bare or with a runtime's prefix. It is used only to withhold
// what belongs to the host, so a user who makes such a directory himself loses by it.
func containerID(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		_, path, _ := strings.Cut(line, "/")
		for part := range strings.SplitSeq(strings.TrimSpace(path), "/") {
			part = strings.TrimSuffix(part, ".scope")
			for _, prefix := range []string{"docker-", "cri-containerd-", "crio-", "libpod-"} {
				part = strings.TrimPrefix(part, prefix)
			}
			if len(part) == 64 && strings.Trim(part, "0123456789abcdef") == "" {
				return part
			}
		}
	}
	return ""
}
