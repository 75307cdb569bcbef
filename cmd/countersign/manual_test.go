package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The manual's page of commands is what help prints, word for word; -update rewrites it.
func TestManualIsHelp(t *testing.T) {
	const page = "../../docs/cli.md"
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(b), "\n## help\n")
	if !ok {
		t.Fatalf("%s has no section help", page)
	}
	var want strings.Builder
	block := func(name, text string) { want.WriteString("\n## " + name + "\n\n```text\n" + text + "```\n") }
	want.WriteString(head)
	block("help", rootHelp(false))
	for _, c := range commands() {
		if !c.hidden {
			block(c.name, helpText(c))
		}
	}
	if want.String() == string(b) {
		return
	}
	if *update {
		if err := os.WriteFile(page, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s is not what help prints: go test ./cmd/countersign -run Manual -update", page)
}

// The glossary of ARCHITECTURE.md names every package.
func TestGlossaryNamesPackages(t *testing.T) {
	b, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := os.ReadDir("../../internal")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if !regexp.MustCompile(`\*\*.?` + d.Name() + `.?\*\*`).Match(b) {
			t.Errorf("ARCHITECTURE.md does not say what **%s** is", d.Name())
		}
	}
}

// Every test that a document names exists.
func TestDocumentsNameRealTests(t *testing.T) {
	defined := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)`).FindAllSubmatch(b, -1) {
			defined[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"SECURITY.md", "ARCHITECTURE.md", "CONTRIBUTING.md"} {
		b, err := os.ReadFile("../../" + page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`").FindAllSubmatch(b, -1) {
			if !defined[string(m[1])] {
				t.Errorf("%s names %s, which does not exist", page, m[1])
			}
		}
	}
}
