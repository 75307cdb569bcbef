package main

import (
	"os"
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
