package attest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

const restOfStat = " 7 9 9 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 1"

func TestParseStat(t *testing.T) {
	for _, name := range []string{"sh", "x) R 1 (y", "a\nb", ")", "", "((("} { // identity.md 24.7 A8
		s, err := parseStat([]byte("12 (" + name + ") S" + restOfStat))
		if err != nil || s != (stat{name, 'S', 7, 4242}) {
			t.Errorf("%q: got %+v, %v", name, s, err)
		}
	}
	for _, text := range []string{"", "12", "12 (x)", "12 )x( S" + restOfStat, "12 (x) S 7", "12 (x) S -1" + restOfStat[2:], "12 (x) SS" + restOfStat} {
		if s, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q: taken as %+v", text, s)
		}
	}
}

const goodStatus = "Name:\ta\\nUid:\t0 0 0 0\nState:\tS (sleeping)\nTracerPid:\t0\nUid:\t1 2 3 4\nGid:\t5 6 7 8\nGroups:\t9 10 \n"

func TestParseStatus(t *testing.T) {
	s, err := parseStatus([]byte(goodStatus))
	if err != nil || s.uid != 2 || s.gid != 6 || s.tracer != 0 || !slices.Equal(s.groups, []uint32{9, 10}) {
		t.Errorf("got %+v, %v", s, err)
	}
	for _, r := range [][2]string{
		{"\nUid:", "\nUdi:"}, {"\nGid:", "\ngid:"}, {"TracerPid:\t0", "TracerPid:"}, {"Groups:\t9", "Groups:\tx"},
		{"1 2 3 4", "1 2 3"}, {"1 2 3 4", "1 -2 3 4"}, {"9 10", strings.Repeat("1 ", 257)},
	} {
		text := strings.Replace(goodStatus, r[0], r[1], 1)
		if s, err := parseStatus([]byte(text)); err == nil {
			t.Errorf("%q: taken as %+v", text, s)
		}
	}
}

func TestContainerID(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for cgroup, want := range map[string]string{
		"0::/":                           "",
		"0::/system.slice/nginx.service": "",
		"0::/system.slice/docker-" + id + ".scope\n":           id,
		"12:pids:/docker/" + id + "\n11:cpu:/\n":               id,
		"0::/kubepods.slice/x/cri-containerd-" + id + ".scope": id,
		"0::/user.slice/libpod-" + id + "/container":           id,
		"0::/docker/" + id[1:]:                                 "",
		"0::/docker/" + strings.ToUpper(id):                    "",
	} {
		if got := containerID(cgroup); got != want {
			t.Errorf("%q: got %q, want %q", cgroup, got, want)
		}
	}
}

func TestParseAccounts(t *testing.T) {
	got := parseAccounts([]byte("root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n# comment:x:5:\n+nis:x:6:\n\n:x:7:7:\nbad\x1b:x:8:8:\nbig:x:4294967296:1:\nneg:x:-1:1:\nshort:x:9\nlast:x:10:"))
	if want := map[uint32]string{0: "root", 10: "last"}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestNamesOfMissingFile(t *testing.T) {
	n := names{path: t.TempDir() + "/none"}
	if name, err := n.of(0); err == nil {
		t.Errorf("got %q", name)
	}
}

// FuzzProcText: what a stranger can write into these texts panics nothing and moves no field.
func FuzzProcText(f *testing.F) {
	f.Add([]byte("x) R 1 (y"))
	f.Add([]byte(goodStatus))
	f.Add([]byte("root:x:0:0:"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseStat(fmt.Appendf(nil, "12 (%s) S%s", b, restOfStat)); err != nil || s != (stat{string(b), 'S', 7, 4242}) {
			t.Errorf("name %q: %+v, %v", b, s, err)
		}
		_, _ = parseStat(b)
		_, _ = parseStatus(b)
		_ = containerID(string(b))
		for _, name := range parseAccounts(b) {
			if !printable([]byte(name)) {
				t.Errorf("name %q", name)
			}
		}
	})
}
