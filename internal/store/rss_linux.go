package store

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// releasePages gives back the pages of a mapped file that nobody looks at. etcd maps its
// database with MAP_POPULATE, so after a restart all of it, at least 16 MB, counts as ours; the
// mapping is shared and read-only, and a page that is needed again comes from the page cache.
// It saves memory only: errors are of no interest.
func releasePages(path string) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text() // 7f0000000000-7f0234000000 r--s 00000000 08:01 1234  /…/member/snap/db
		addresses, rest, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(rest, "r--s ") || !strings.HasSuffix(rest, " "+path) {
			continue
		}
		from, to, _ := strings.Cut(addresses, "-")
		start, err := strconv.ParseUint(from, 16, 64)
		if err != nil {
			return
		}
		end, err := strconv.ParseUint(to, 16, 64)
		if err != nil || end <= start {
			return
		}
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED)
	}
}
