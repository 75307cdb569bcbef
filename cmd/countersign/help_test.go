package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// call runs a command line in this process.
func call(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(context.WithoutCancel(t.Context()), args, strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

func checkWidth(t *testing.T, text string, lines int) {
	t.Helper()
	list := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(list) > lines {
		t.Errorf("%d lines, %d are most", len(list), lines)
	}
	for _, l := range list {
		if n := utf8.RuneCountInString(l); n > 80 {
			t.Errorf("%d columns: %s", n, l)
		}
		if strings.TrimRight(l, " ") != l {
			t.Errorf("blanks at the end of %q", l)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, c := range commands() {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			words := append(strings.Fields(c.name), "--help")
			status, text, errs := call(t, words...)
			if status != 0 || errs != "" {
				t.Fatalf("status %d, stderr %q", status, errs)
			}
			checkWidth(t, text, 40)
			if _, same, _ := call(t, append([]string{"help"}, strings.Fields(c.name)...)...); same != text {
				t.Error("help X differs from X --help")
			}
			if c.summary == "" || len(c.examples) == 0 || c.see == "" {
				t.Error("a sentence, an example or see also is missing")
			}
			if strings.Count(strings.TrimSpace(c.about), "\n") >= 6 {
				t.Error("more than six lines of what it does")
			}
			f := newFlags(c.name)
			if c.flags != nil {
				c.flags(f)
			}
			for _, d := range f.order {
				if !strings.Contains(text, flagLabel(d)) {
					t.Errorf("flag %s is not mentioned", flagLabel(d))
				}
			}
			for _, x := range c.examples {
				parses(t, x)
			}
			for _, x := range strings.Split(c.see, ", ") {
				parses(t, x)
			}
		})
	}
}

func TestRootHelp(t *testing.T) {
	_, text, _ := call(t, "help")
	checkWidth(t, text, 50)
	if strings.Contains(text, "\n  shop") {
		t.Error("a hidden command is named")
	}
	for _, c := range commands() {
		word, _, _ := strings.Cut(c.name, " ")
		if named := regexp.MustCompile(`(?m)^[A-Z ].*\b` + word + `(,|\s)`).MatchString(text); !named && !c.hidden {
			t.Errorf("%s is not named", word)
		}
	}
	for _, x := range regexp.MustCompile(`(?m)^  (countersign .*?)(   .*)?$`).FindAllStringSubmatch(text, -1) {
		parses(t, x[1])
	}
	for _, noun := range []string{"ca", "token", "client", "jwt"} {
		checkWidth(t, nounHelp(noun), 40)
	}
}

// words splits as a shell does, as far as our examples and hints need it.
func words(line string) []string {
	line, _, _ = strings.Cut(line, " #")
	line, _, _ = strings.Cut(line, " | ")
	line, _, _ = strings.Cut(line, " > ")
	var out []string
	var word strings.Builder
	quoted, begun := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, begun = !quoted, true
		case r == ' ' && !quoted:
			if begun {
				out = append(out, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if begun {
		out = append(out, word.String())
	}
	return out
}

// parses holds that a command line of ours names a command and flags that exist.
func parses(t *testing.T, line string) {
	t.Helper()
	if _, after, ok := strings.Cut(line, "| countersign"); ok {
		line = "countersign" + after
	}
	w := words(line)
	for len(w) > 0 && (w[0] == "sudo" || strings.Contains(w[0], "=")) {
		w = w[1:]
	}
	if len(w) < 1 || w[0] != "countersign" {
		t.Errorf("%q is no command of ours", line)
		return
	}
	if w = w[1:]; len(w) > 0 && w[0] == "help" {
		w = w[1:]
	}
	if len(w) == 0 {
		return
	}
	if i := slices.Index(w, "--"); i >= 0 {
		w = w[:i]
	}
	e := &env{told: map[string]bool{}}
	cmd, rest, err := find(w)
	if err == nil && cmd != nil {
		_, err = e.parse(cmd, rest)
	}
	if err != nil {
		t.Errorf("%q: %v", line, err)
	}
}

// TestHints holds that every hint that scripts have seen can be pasted (cli.md 15).
func TestHints(t *testing.T) {
	hint := regexp.MustCompile(`(?m)^(?:countersign: )?hint: ((?:sudo )?countersign .*)$`)
	fill := strings.NewReplacer("<dir>", "/tmp/d", "<work>", "/tmp", "<port>", "1", "<id>", "q7d3k9x2", "<n>", "1", "-n NS", "-n shop")
	seen := 0
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range scripts {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range hint.FindAllStringSubmatch(string(b), -1) {
			seen++
			line := fill.Replace(m[1])
			if strings.HasPrefix(line, "countersign up --dir /tmp/d") {
				line = "countersign up --dir /tmp/d"
			}
			parses(t, line)
		}
	}
	if seen < 20 {
		t.Errorf("%d hints in the scripts: the expression finds too few", seen)
	}
}
