package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite what scripts want, but for its holes")

// holes are what golden text leaves open (cli.md 14).
var holes = map[string]string{
	"id":   `[0-9a-z]{8}(?:[0-9a-z]{18})?`,
	"key":  `[0-9a-f]{8}`,
	"hex":  `[0-9a-f]+`,
	"time": `(?:\d{4}-\d\d-\d\dT)?\d\d:\d\d:\d\d(?:\.\d+)?Z`,
	"day":  `\d{4}-\d\d-\d\d`,
	"dur":  `(?:\d+(?:\.\d+)?(?:ns|µs|ms|s|m|h|d|y)){1,2}`,
	"n":    `[0-9][0-9,.]*`,
	"port": `\d+`,
	"pid":  `\d+`,
	"any":  `.*`,
}

var hole = regexp.MustCompile(` *<(id|key|hex|time|day|dur|n|port|pid|any|dir|work)> *`)

// lineMatches compares a line with golden text. A hole consumes the blanks around it, so that
// columns stay comparable.
func lineMatches(golden, got, work string) bool {
	var b strings.Builder
	at := 0
	for _, m := range hole.FindAllStringSubmatchIndex(golden, -1) {
		b.WriteString(regexp.QuoteMeta(golden[at:m[0]]))
		name := golden[m[2]:m[3]]
		pattern := holes[name]
		switch name {
		case "dir":
			pattern = regexp.QuoteMeta(work + "/d")
		case "work":
			pattern = regexp.QuoteMeta(work)
		}
		blanks := ""
		if m[0] < m[2]-1 || m[1] > m[3]+1 {
			blanks = " *"
		}
		b.WriteString(blanks + "(?:" + pattern + ")" + blanks)
		at = m[1]
	}
	b.WriteString(regexp.QuoteMeta(golden[at:]))
	return regexp.MustCompile("^" + b.String() + "$").MatchString(got)
}

// compare holds a stream of the last command against a file of the script.
func compare(ts *testscript.TestScript, stream string, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: want FILE")
	}
	got := strings.Split(strings.TrimSuffix(ts.ReadFile(stream), "\n"), "\n")
	want := strings.Split(strings.TrimSuffix(ts.ReadFile(args[0]), "\n"), "\n")
	work := ts.Getenv("WORK")
	wrong := len(got) != len(want)
	for i := range min(len(got), len(want)) {
		wrong = wrong || !lineMatches(want[i], got[i], work)
	}
	switch {
	case !wrong:
	case *update:
		rewrite(ts, args[0], merge(want, got, work))
	default:
		ts.Fatalf("%s is\n%s\nbut %s wants\n%s", stream, strings.Join(got, "\n"), args[0], strings.Join(want, "\n"))
	}
}

// merge is got, but for the lines that golden text matches already.
func merge(want, got []string, work string) []byte {
	var b bytes.Buffer
	for _, line := range got {
		for _, golden := range want {
			if lineMatches(golden, line, work) {
				line = golden
				break
			}
		}
		b.WriteString(strings.ReplaceAll(line, work, "<work>") + "\n")
	}
	return b.Bytes()
}

func rewrite(ts *testscript.TestScript, name string, data []byte) {
	for _, dir := range []string{"testdata", filepath.Join("testdata", "system")} {
		path := filepath.Join(dir, ts.Name()+".txtar")
		script, err := txtar.ParseFile(path)
		if err != nil {
			continue
		}
		for i, f := range script.Files {
			if f.Name == name {
				script.Files[i].Data = data
			}
		}
		ts.Check(os.WriteFile(path, txtar.Format(script), 0o644))
		return
	}
	ts.Fatalf("no script %s to rewrite", ts.Name())
}

func TestHoles(t *testing.T) {
	const work = "/tmp/w"
	for _, test := range []struct {
		golden, got string
		want        bool
	}{
		{"refused <dur> ago by policy   <id>", "refused 3s ago by policy   q7d3k9x2m4v8r1t6w5z0a3c7er", true},
		{"api  ready  1  <dur>  x", "api  ready  1    59m  x", true},
		{"api  ready  1  <dur>  x", "api  ready  2    59m  x", false},
		{"revision <n>, 1 node", "revision 1,204, 1 node", true},
		{"revision <n>, 1 node", "revision x, 1 node", false},
		{"in <dir>/run", "in /tmp/w/d/run", true},
		{"a.b", "axb", false},
		{"at <time>", "at 2026-11-21T20:14:07.312Z", true},
		{"at <time>", "at 20:14:07Z", true},
		{"whatever <any>", "whatever you say", true},
		{"127.0.0.1:<port>: x", "127.0.0.1:7443: x", true},
		{"127.0.0.1:<port>: x", "127.0.0.1: 7443: x", false},
	} {
		if got := lineMatches(test.golden, test.got, work); got != test.want {
			t.Errorf("%q against %q: %v", test.got, test.golden, got)
		}
	}
}
